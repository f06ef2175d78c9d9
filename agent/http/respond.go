package http

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
)

// minGzip is the size from which an answer is compressed.
const minGzip = 1400

// answer writes a noun as JSON with the headers that belong to it.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, status int, v any) error {
	if m, ok := v.(interface{ Meta() *api.QueryMeta }); ok {
		writeMeta(w.Header(), m.Meta())
	} else if m := writeMetaOf(v); m != nil && m.Index != 0 {
		w.Header().Set(api.HeaderIndex, strconv.FormatUint(m.Index, 10))
	}
	fullLists(v)
	return writeJSON(w, r, status, v)
}

func writeMeta(h http.Header, m *api.QueryMeta) {
	h.Set(api.HeaderIndex, strconv.FormatUint(m.Index, 10))
	h.Set(api.HeaderKnownLeader, strconv.FormatBool(m.KnownLeader))
	h.Set(api.HeaderLastContact, strconv.FormatInt(time.Duration(m.LastContact).Milliseconds(), 10))
	if m.Stale {
		h.Set(api.HeaderStale, "true")
	}
	if m.NextToken != "" {
		h.Set(api.HeaderNextToken, m.NextToken)
	}
}

// writeMetaOf finds the WriteMeta in an answer.
func writeMetaOf(v any) *api.WriteMeta {
	switch m := v.(type) {
	case *api.WriteMeta:
		return m
	case *api.VMApplied:
		return &m.WriteMeta
	case *api.MigrationCreated:
		return &m.WriteMeta
	case *api.MigrationCanceled:
		return &m.WriteMeta
	case *api.MigrationUpdated:
		return &m.WriteMeta
	case *api.TokenCreated:
		return &m.WriteMeta
	}
	return nil
}

// fullLists makes an absent list of items an empty one: [] instead of null.
func fullLists(v any) {
	e := reflect.ValueOf(v)
	if e.Kind() != reflect.Pointer || e.Elem().Kind() != reflect.Struct {
		return
	}
	if f := e.Elem().FieldByName("Items"); f.IsValid() && f.Kind() == reflect.Slice && f.IsNil() {
		f.Set(reflect.MakeSlice(f.Type(), 0, 0))
	}
}

func writeJSON(w http.ResponseWriter, r *http.Request, status int, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	if r.URL.Query().Has("pretty") {
		enc.SetIndent("", "  ")
	}
	if err := enc.Encode(v); err != nil {
		return err
	}
	w.Header().Set("Content-Type", mimeJSON)
	send(w, r, status, b.Bytes())
	return nil
}

// send writes a whole body, compressed where the caller can read that.
func send(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	h := w.Header()
	h.Add("Vary", "Accept-Encoding")
	if len(body) >= minGzip && takesGzip(r.Header.Get("Accept-Encoding")) {
		var z bytes.Buffer
		gz := gzip.NewWriter(&z)
		if _, err := gz.Write(body); err == nil && gz.Close() == nil {
			h.Set("Content-Encoding", "gzip")
			body = z.Bytes()
		}
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func takesGzip(accept string) bool {
	for part := range strings.SplitSeq(accept, ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			q = strings.ReplaceAll(q, " ", "")
			return q != "q=0" && q != "q=0.0" && q != "q=0.00" && q != "q=0.000"
		}
	}
	return false
}

// errorOf turns any error into one that a caller may see. What has no code is
// for the log only.
func errorOf(err error) *api.Error {
	var e *api.Error
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &e):
		c := *e
		return &c
	case errors.As(err, &tooLong):
		return api.Errorf(api.CodeTooLarge, "the body is longer than %d bytes", tooLong.Limit-1)
	case errors.Is(err, context.Canceled):
		return api.Errorf(api.CodeCanceled, "the caller went away")
	case errors.Is(err, context.DeadlineExceeded):
		return api.Errorf(api.CodeDeadline, "the deadline passed")
	}
	return api.Errorf(api.CodeInternal, "internal error").WithHint("the agent's log has more under this request id")
}

// fail answers with an error, when nothing has been answered yet.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	e, seen := errorOf(err), seenOf(r.Context())
	e.RequestID = seen.id
	seen.code = e.Code
	if e.Code == api.CodeInternal {
		s.cfg.Logger.Error("http: a request failed", "request_id", seen.id, "route", seen.route, "error", err)
	}
	if seen.wrote {
		// Half an answer is out: break the connection, so that nobody takes it
		// for a whole one.
		panic(http.ErrAbortHandler)
	}
	status := e.Status()
	h := w.Header()
	for _, k := range []string{"Content-Encoding", "Content-Disposition", "Content-Length", api.HeaderSnapshot} {
		h.Del(k)
	}
	switch status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if h.Get("Retry-After") == "" {
			h.Set("Retry-After", "1")
		}
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="novacron"`)
	}
	if err := writeJSON(w, r, status, e); err != nil {
		s.cfg.Logger.Error("http: an error could not be written", "request_id", seen.id, "error", err)
	}
}
