package http

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	metrics "github.com/hashicorp/go-metrics/compat"

	"github.com/novacron/novacron/api"
)

// seen is what becomes known of a request on its way.
type seen struct {
	id     string
	route  string
	row    *Route
	status int
	bytes  int64
	wrote  bool
	code   api.Code
	cancel context.CancelFunc
}

type seenKey struct{}

func seenOf(ctx context.Context) *seen {
	if s, ok := ctx.Value(seenKey{}).(*seen); ok {
		return s
	}
	return &seen{cancel: func() {}}
}

// recorder notes the status and size of an answer.
type recorder struct {
	http.ResponseWriter
	seen *seen
}

// Unwrap lets http.ResponseController find what is underneath.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.seen.wrote, w.seen.status = true, status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	if !w.seen.wrote {
		w.seen.wrote, w.seen.status = true, http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.seen.bytes += int64(n)
	return n, err
}

// Flush sends what was written so far.
func (w *recorder) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// outer is around everything, also around what no route matches: request id,
// headers, panics, log and metrics.
func (s *Server) outer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sn := &seen{id: requestID(r), route: "none", cancel: func() {}}
		r = r.WithContext(context.WithValue(r.Context(), seenKey{}, sn))
		rec := &recorder{ResponseWriter: w, seen: sn}
		secure(w.Header(), r, sn.id)
		start := time.Now()
		defer func() {
			p := recover()
			if p != nil && p != http.ErrAbortHandler {
				s.cfg.Logger.Error("http: panic", "request_id", sn.id, "route", sn.route, "panic", p, "stack", string(debug.Stack()))
				if !sn.wrote {
					s.fail(rec, r, errors.New("panic"))
				} else {
					p = http.ErrAbortHandler
				}
			}
			s.note(r, sn, time.Since(start))
			if p == http.ErrAbortHandler {
				panic(p)
			}
		}()
		next.ServeHTTP(rec, r)
	})
}

// requestID takes the caller's id when it is harmless, or makes one.
func requestID(r *http.Request) string {
	id := r.Header.Get(api.HeaderRequestID)
	ok := id != "" && len(id) <= 64
	for i := 0; ok && i < len(id); i++ {
		b := id[i]
		ok = b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("._-", b) >= 0
	}
	if ok {
		return id
	}
	return api.NewID().String()
}

func secure(h http.Header, r *http.Request, id string) {
	h.Set(api.HeaderRequestID, id)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if r.TLS != nil {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// note writes the access log and the metrics of one request. Neither the query
// nor any header is logged.
func (s *Server) note(r *http.Request, sn *seen, took time.Duration) {
	status := sn.status
	if status == 0 {
		status = http.StatusOK
		if r.Context().Err() != nil {
			status = 499
		}
	}
	labels := []metrics.Label{{Name: "route", Value: sn.route}, {Name: "code", Value: statusText(status)}}
	metrics.IncrCounterWithLabels([]string{"http", "request"}, 1, labels)
	metrics.AddSampleWithLabels([]string{"http", "request", "time"}, float32(took.Seconds()*1000), labels[:1])
	level := slog.LevelDebug
	switch {
	case status >= 500:
		level = slog.LevelWarn
	case r.Method != http.MethodGet:
		level = slog.LevelInfo
	}
	attrs := []slog.Attr{
		slog.String("request_id", sn.id), slog.String("method", clip(r.Method)), slog.String("route", sn.route), slog.String("path", (&url.URL{Path: cut(r.URL.Path, 256)}).EscapedPath()),
		slog.Int("status", status), slog.Int64("bytes", sn.bytes), slog.Duration("took", took), slog.String("remote", r.RemoteAddr),
	}
	if sn.code != 0 {
		attrs = append(attrs, slog.String("code", sn.code.String()))
	}
	s.cfg.Logger.LogAttrs(r.Context(), level, "http: request", attrs...)
}

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

func statusText(status int) string {
	const digits = "0123456789"
	if status < 100 || status > 999 {
		return "0"
	}
	return string([]byte{digits[status/100], digits[status/10%10], digits[status%10]})
}
