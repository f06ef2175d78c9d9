package http

import (
	"net/http"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/netconfig"
)

// msg is a pointer to T that travels by RPC.
type msg[T any] interface {
	*T
	api.Message
}

// prepare fills in defaults and checks a request.
func prepare(req any) error {
	if c, ok := req.(api.Canonicalizer); ok {
		c.Canonicalize()
	}
	if v, ok := req.(api.Validator); ok {
		if err := v.Validate(); err != nil {
			return err
		}
	}
	switch r := req.(type) {
	case *api.VMApply:
		return netconfig.CheckSpec(&r.Spec)
	case *api.VMPlan:
		return netconfig.CheckSpec(&r.Spec)
	case *api.VMSpec:
		return netconfig.CheckSpec(r)
	}
	return nil
}

type handler = func(*Server, http.ResponseWriter, *http.Request) error

// readOf handles a read: its request holds QueryOptions, and a key when the
// path has one.
func readOf[Q, R any, PQ interface {
	msg[Q]
	Query() *api.QueryOptions
}, PR msg[R]](fill ...func(*http.Request, PQ) error) handler {
	return func(s *Server, w http.ResponseWriter, r *http.Request) error {
		req, resp := PQ(new(Q)), PR(new(R))
		route := s.routeOf(r)
		if err := queryOf(r, route, req.Query()); err != nil {
			return err
		}
		if g, ok := any(req).(*api.GetRequest); ok {
			g.Key = keyOf(r)
			if g.Namespace == "*" {
				return badParam("namespace", "\"*\" is for lists: name one namespace")
			}
		}
		for _, f := range fill {
			if err := f(r, req); err != nil {
				return err
			}
		}
		if err := prepare(req); err != nil {
			return err
		}
		if err := s.cfg.Backend.Call(r.Context(), route.RPC, req, resp); err != nil {
			return err
		}
		return s.answer(w, r, http.StatusOK, resp)
	}
}

// writeOf handles a write with a JSON body.
func writeOf[Q, R any, PQ msg[Q], PR msg[R]](fill ...func(*http.Request, PQ) error) handler {
	return func(s *Server, w http.ResponseWriter, r *http.Request) error {
		req, resp := PQ(new(Q)), PR(new(R))
		if err := api.DecodeJSON(r.Body, s.limitOf(r), req); err != nil {
			return err
		}
		for _, f := range fill {
			if err := f(r, req); err != nil {
				return err
			}
		}
		return s.write(w, r, req, resp)
	}
}

// write checks a request, sends it and answers.
func (s *Server) write(w http.ResponseWriter, r *http.Request, req, resp api.Message) error {
	if err := prepare(req); err != nil {
		return err
	}
	if err := s.cfg.Backend.Call(r.Context(), s.routeOf(r).RPC, req, resp); err != nil {
		return err
	}
	return s.answer(w, r, http.StatusOK, resp)
}

// deleteOf handles a delete.
func deleteOf(s *Server, w http.ResponseWriter, r *http.Request) error {
	req := &api.DeleteRequest{Key: keyOf(r), Namespace: r.URL.Query().Get("namespace")}
	var err error
	if req.CheckIndex, err = uintParam(r, "check_index"); err != nil {
		return err
	}
	if req.Force, err = boolParam(r, "force"); err != nil {
		return err
	}
	return s.write(w, r, req, &api.WriteMeta{})
}

// namespaceFrom fills in the namespace of the query where the body names none.
func namespaceFrom(r *http.Request, ns *string) error {
	if *ns == "" {
		*ns = r.URL.Query().Get("namespace")
	}
	return nil
}

// keyFrom fills in the key of the path; a body that names another is refused.
func keyFrom(r *http.Request, field string, key *string) error {
	orDefault(key, keyOf(r))
	if *key != keyOf(r) {
		e := api.Errorf(api.CodeInvalid, "%s: the body names %q, the path %q", field, clip(*key), clip(keyOf(r)))
		return e.WithDetail(field, "is not that of the path")
	}
	return nil
}

// routeOf returns the row of the table that a request matched.
func (s *Server) routeOf(r *http.Request) *Route {
	if row := seenOf(r.Context()).row; row != nil {
		return row
	}
	return &Route{}
}

func (s *Server) limitOf(r *http.Request) int64 { return s.routeOf(r).Limit }
