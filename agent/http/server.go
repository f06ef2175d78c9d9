package http

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"

	"github.com/gorilla/mux"

	"github.com/novacron/novacron/api"
)

// Server answers the HTTP API. It holds no state but limits, tickets and counts
// of consoles.
type Server struct {
	cfg     Config
	routes  []Route
	methods map[string][]string // of each path, for Allow
	router  *mux.Router
	limits  *limiter
	tickets *tickets
	open    *sessions
}

// New returns the handler of the HTTP API. The caller runs the http.Server
// around it and sets ReadHeaderTimeout and MaxHeaderBytes there; it must not
// set WriteTimeout, which would end streams.
func New(cfg Config) http.Handler {
	s := newServer(cfg)
	return s.outer(s.router)
}

func newServer(cfg Config) *Server {
	s := &Server{cfg: cfg.withDefaults(), routes: Routes(), methods: map[string][]string{}}
	s.limits = newLimiter(s.cfg.Rate, s.cfg.Burst, s.cfg.MaxBlocking)
	s.tickets, s.open = newTickets(), newSessions(s.cfg.ConsoleMax)
	s.router = mux.NewRouter().SkipClean(true).StrictSlash(false)
	for i := range s.routes {
		r := &s.routes[i]
		s.methods[r.Path] = append(s.methods[r.Path], r.Method)
		s.router.Path(r.Path).Methods(r.Method).Name(r.Name).Handler(s.routed(r))
	}
	if s.cfg.Debug {
		s.debug()
	}
	s.router.NotFoundHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, api.Errorf(api.CodeNotFoundRoute, "there is no path %.200q", r.URL.Path).WithHint("the paths are described at /v1/openapi.json"))
	})
	s.router.MethodNotAllowedHandler = http.HandlerFunc(s.wrongMethod)
	return s
}

// wrongMethod answers 405 and says what is allowed.
func (s *Server) wrongMethod(w http.ResponseWriter, r *http.Request) {
	var m mux.RouteMatch
	for path, methods := range s.methods {
		probe := r.Clone(r.Context())
		probe.Method = methods[0]
		if s.router.Match(probe, &m) && m.MatchErr == nil && m.Route != nil {
			if tpl, err := m.Route.GetPathTemplate(); err == nil && tpl == path {
				allow := slices.Sorted(slices.Values(methods))
				w.Header().Set("Allow", strings.Join(allow, ", "))
				break
			}
		}
		m = mux.RouteMatch{}
	}
	s.fail(w, r, api.Errorf(api.CodeMethod, "%.20s is not possible for %.200q", r.Method, r.URL.Path))
}

// routed wraps the handler of one route: what depends on the route happens here.
func (s *Server) routed(route *Route) http.Handler {
	params := map[string]Param{}
	for _, p := range route.AllParams() {
		params[p.Name] = p
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sn := seenOf(r.Context())
		sn.route, sn.row = route.Name, route
		if err := s.serve(route, params, w, r); err != nil {
			s.fail(w, r, err)
		}
	})
}

func (s *Server) serve(route *Route, params map[string]Param, w http.ResponseWriter, r *http.Request) error {
	if err := checkParams(r, params); err != nil {
		return err
	}
	call, err := callOf(r)
	if err != nil {
		return err
	}
	ctx := api.WithCall(r.Context(), call)
	who := callerOf(r, call.Token)
	if err := s.limits.allow(who); err != nil {
		return err
	}
	if route.Stream || r.URL.Query().Has("index") {
		done, err := s.limits.hold(who)
		if err != nil {
			return err
		}
		defer done()
	}
	if err := checkBody(route, r); err != nil {
		return err
	}
	if !route.Stream {
		if err := s.deadline(w, r, &ctx); err != nil {
			return err
		}
		defer seenOf(r.Context()).cancel()
		limit := route.Limit
		if limit == 0 {
			limit = api.MaxBody
		}
		// One byte more, so that the decoder sees what is too long and says so.
		r.Body = http.MaxBytesReader(w, r.Body, limit+1)
	}
	return route.handle(s, w, r.WithContext(ctx))
}

// debug serves profiles to operators.
func (s *Server) debug() {
	guard := func(h http.HandlerFunc) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seenOf(r.Context()).route = "debug.pprof"
			call, err := callOf(r)
			if err == nil {
				err = s.limits.allow(callerOf(r, call.Token))
			}
			if err == nil {
				err = s.cfg.Authorize(api.WithCall(r.Context(), call), "operator:write")
			}
			if err != nil {
				s.fail(w, r, err)
				return
			}
			h(w, r)
		})
	}
	for name, h := range map[string]http.HandlerFunc{
		"cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace,
	} {
		s.router.Path(fmt.Sprintf("/debug/pprof/%s", name)).Methods(http.MethodGet).Handler(guard(h))
	}
	s.router.PathPrefix("/debug/pprof/").Methods(http.MethodGet).Handler(guard(pprof.Index))
}
