package http

import (
	"context"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/novacron/novacron/api"
)

const (
	mimeJSON   = "application/json"
	mimeBinary = "application/octet-stream"
	mimeNDJSON = "application/x-ndjson"
	mimeSSE    = "text/event-stream"
)

// hclTypes are the media types of specifications in HCL.
var hclTypes = []string{"application/hcl", "application/x-hcl", "text/x-hcl", "text/hcl"}

// checkParams refuses unknown parameters, repeated ones and missing ones.
func checkParams(r *http.Request, known map[string]Param) error {
	if r.URL.RawQuery == "" && !slices.ContainsFunc(mapValues(known), func(p Param) bool { return p.Required }) {
		return nil
	}
	if strings.Contains(r.URL.RawQuery, ";") {
		return api.Errorf(api.CodeInvalid, "the query has a ';': parameters are separated by '&'")
	}
	values, err := parseQuery(r)
	if err != nil {
		return err
	}
	e := api.Errorf(api.CodeInvalid, "the parameters are not valid")
	for name, v := range values {
		p, ok := known[name]
		switch {
		case !ok:
			d := e.WithDetail(clip(name), "unknown parameter")
			if s := api.Suggest(name, mapKeys(known)); s != "" {
				d = d.WithHint("did you mean %q?", s)
			}
			e = d
		case len(v) > 1 && !p.Many:
			e = e.WithDetail(name, "is there %d times", len(v))
		}
	}
	for name, p := range known {
		if p.Required && values.Get(name) == "" {
			e = e.WithDetail(name, "is missing")
		}
	}
	if len(e.Details) == 0 {
		return nil
	}
	slices.SortFunc(e.Details, func(a, b api.Detail) int { return strings.Compare(a.Field, b.Field) })
	e.Message = "the parameter " + e.Details[0].Field + ": " + e.Details[0].Message
	return e
}

func mapKeys(m map[string]Param) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func mapValues(m map[string]Param) []Param {
	out := make([]Param, 0, len(m))
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

func clip(s string) string {
	if len(s) > 64 {
		s = s[:64] + "..."
	}
	return strings.Trim(strconv.QuoteToASCII(s), `"`)
}

// callOf reads what accompanies a request: token, region, ids.
func callOf(r *http.Request) (api.Call, error) {
	c := api.Call{RequestID: seenOf(r.Context()).id, Region: r.URL.Query().Get("region")}
	if c.Region != "" && !api.ValidRegion(c.Region) {
		return c, api.Errorf(api.CodeInvalid, "the parameter region: %q is not a region", clip(c.Region)).WithDetail("region", "is not a region")
	}
	var err error
	if c.Token, err = tokenOf(r.Header); err != nil {
		return c, err
	}
	keys := r.Header.Values(api.HeaderIdempotency)
	if len(keys) == 1 {
		c.IdempotencyKey = keys[0]
	}
	if len(keys) > 1 || len(c.IdempotencyKey) > 128 || !printable(c.IdempotencyKey) {
		return c, api.Errorf(api.CodeInvalid, "the idempotency key is not valid").WithDetail(api.HeaderIdempotency, "want once, at most 128 printable ASCII characters")
	}
	return c, nil
}

// tokenOf reads the caller's secret from the headers; "" is an anonymous caller.
func tokenOf(h http.Header) (string, error) {
	var found []string
	found = append(found, h.Values(api.HeaderToken)...)
	for _, a := range h.Values("Authorization") {
		scheme, rest, _ := strings.Cut(a, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return "", api.Errorf(api.CodeUnauthenticated, "only Bearer authorization is known")
		}
		found = append(found, strings.TrimSpace(rest))
	}
	found = slices.Compact(found)
	switch {
	case len(found) == 0 || len(found) == 1 && found[0] == "":
		return "", nil
	case len(found) > 1:
		return "", api.Errorf(api.CodeUnauthenticated, "there is more than one token")
	case len(found[0]) > 512 || !printable(found[0]):
		return "", api.Errorf(api.CodeUnauthenticated, "the token is not well formed")
	}
	return found[0], nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// checkBody refuses bodies that the route does not take, by their type: a form
// or a text posted by a foreign page never gets to a handler.
func checkBody(route *Route, r *http.Request) error {
	if ce := r.Header.Get("Content-Encoding"); ce != "" && !strings.EqualFold(ce, "identity") {
		return api.Errorf(api.CodeMediaType, "bodies are taken as they are, not as %q", clip(ce))
	}
	empty := r.ContentLength == 0 && len(r.TransferEncoding) == 0
	accepts := route.Accepts
	if route.Request != nil && len(accepts) == 0 {
		accepts = []string{mimeJSON}
	}
	if len(accepts) == 0 {
		if !empty {
			return api.Errorf(api.CodeInvalid, "this path takes no body")
		}
		return nil
	}
	if empty {
		return nil // the decoder says what is missing
	}
	ct := r.Header.Get("Content-Type")
	mt, _, err := mime.ParseMediaType(ct)
	if err != nil || !slices.Contains(accepts, mt) {
		return api.Errorf(api.CodeMediaType, "the content type %q is not taken", clip(ct)).WithHint("want %s", accepts[0])
	}
	return nil
}

func isHCL(r *http.Request) bool {
	mt, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && slices.Contains(hclTypes, mt)
}

// deadline gives a request its time: that of a query that blocks is longer.
func (s *Server) deadline(w http.ResponseWriter, r *http.Request, ctx *context.Context) error {
	d := s.cfg.Timeout
	if r.Body != nil && r.Body != http.NoBody {
		rc := http.NewResponseController(w)
		_ = rc.SetReadDeadline(time.Now().Add(d))
		r.Body = &timedBody{r.Body, rc}
	}
	q := r.URL.Query()
	if q.Has("index") {
		wait := time.Duration(api.DefaultWait)
		if q.Has("wait") {
			v, err := time.ParseDuration(q.Get("wait"))
			if err != nil || v < 0 || v > time.Duration(api.MaxWait) {
				return badParam("wait", "%q is out of range: want a duration of at most 10m", clip(q.Get("wait")))
			}
			wait = v
		}
		d += wait
	}
	c, cancel := context.WithTimeout(*ctx, d)
	*ctx, seenOf(r.Context()).cancel = c, cancel
	return nil
}

// timedBody lifts the deadline for reading once the body has been read: with
// HTTP/1.1 the server then listens whether the caller is still there, and would
// take the deadline for its leaving.
type timedBody struct {
	io.ReadCloser
	rc *http.ResponseController
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

func badParam(name, format string, args ...any) error {
	e := api.Errorf(api.CodeInvalid, "the parameter "+name+": "+format, args...)
	return e.WithDetail(name, format, args...)
}

// queryOf reads the parameters of a read.
func queryOf(r *http.Request, route *Route, q *api.QueryOptions) error {
	v := r.URL.Query()
	if route.Namespaced {
		q.Namespace = v.Get("namespace")
	}
	if !route.Query {
		return nil
	}
	q.Consistency = api.Consistency(v.Get("consistency"))
	for _, short := range []api.Consistency{api.ConsistencyStale, api.ConsistencyConsistent} {
		on, err := boolParam(r, string(short))
		if err != nil {
			return err
		}
		if on {
			if q.Consistency != "" && q.Consistency != short {
				return badParam(string(short), "contradicts consistency=%s", clip(string(q.Consistency)))
			}
			q.Consistency = short
		}
	}
	var err error
	if q.MinIndex, err = uintParam(r, "index"); err != nil {
		return err
	}
	if v.Has("wait") {
		d, err := time.ParseDuration(v.Get("wait"))
		if err != nil {
			return badParam("wait", "%q is not a duration such as 30s or 5m", clip(v.Get("wait")))
		}
		q.Wait = api.Duration(d)
	}
	if v.Has("per_page") {
		n, err := strconv.ParseInt(v.Get("per_page"), 10, 32)
		if err != nil {
			return badParam("per_page", "%q is not a number", clip(v.Get("per_page")))
		}
		q.PerPage = int32(n)
	}
	q.NextToken, q.Prefix, q.Filter = v.Get("next_token"), v.Get("prefix"), v.Get("filter")
	return nil
}

func uintParam(r *http.Request, name string) (uint64, error) {
	v := r.URL.Query()
	if !v.Has(name) {
		return 0, nil
	}
	n, err := strconv.ParseUint(v.Get(name), 10, 64)
	if err != nil {
		return 0, badParam(name, "%q is not a whole number without sign", clip(v.Get(name)))
	}
	return n, nil
}

// boolParam reads a switch; its presence alone means true.
func boolParam(r *http.Request, name string) (bool, error) {
	v := r.URL.Query()
	if !v.Has(name) || v.Get(name) == "" {
		return v.Has(name), nil
	}
	b, err := strconv.ParseBool(v.Get(name))
	if err != nil {
		return false, badParam(name, "%q is neither true nor false", clip(v.Get(name)))
	}
	return b, nil
}

func idParam(r *http.Request, name string) (api.ID, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return api.ID{}, nil
	}
	id, err := api.ParseID(v)
	if err != nil {
		return id, badParam(name, "%q is not an id", clip(v))
	}
	return id, nil
}

// keyOf returns the {key} of the path.
func keyOf(r *http.Request) string { return mux.Vars(r)["key"] }

// parseQuery reads the query strictly: what cannot be decoded is refused, not
// dropped.
func parseQuery(r *http.Request) (url.Values, error) {
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "the query cannot be read")
	}
	return v, nil
}
