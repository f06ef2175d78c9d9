package http

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

// do sends one request to a handler and returns the answer with its error, if
// it is one.
func do(h http.Handler, method, target, body string, headers ...string) (*httptest.ResponseRecorder, *api.Error) {
	var rd io.Reader
	if body != "" {
		rd = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, target, rd)
	if body != "" {
		r.Header.Set("Content-Type", mimeJSON)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code < 400 {
		return w, nil
	}
	e := &api.Error{}
	if err := json.Unmarshal(w.Body.Bytes(), e); err != nil {
		e.Message = "not JSON: " + w.Body.String()
	}
	return w, e
}

const goodBody = `{"spec":{"name":"web","cpu":{"cores":1},"memory":"64MiB"}}`

// TestHostileRequests is the reference's set H, as far as it concerns this
// package: each is refused with a code, and nothing behind is asked.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	gz := func(s string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write([]byte(s))
		_ = w.Close()
		return b.String()
	}
	rows := []struct {
		name, method, target, body string
		headers                    []string
		status                     int
		code                       api.Code
	}{
		{"wrong content type", "POST", "/v1/vms", goodBody, []string{"Content-Type", "application/xml"}, 415, api.CodeMediaType},
		{"text/plain CSRF", "POST", "/v1/vms", goodBody, []string{"Content-Type", "text/plain"}, 415, api.CodeMediaType},
		{"form CSRF", "POST", "/v1/vm/web/power", "action=stop", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, api.CodeMediaType},
		{"no content type", "POST", "/v1/vms", goodBody, []string{"Content-Type", ""}, 415, api.CodeMediaType},
		{"body one byte over", "POST", "/v1/vms", `{"spec":{}}` + strings.Repeat(" ", api.MaxBody-10), nil, 413, api.CodeTooLarge},
		{"body one byte over, strict route", "POST", "/v1/volumes", `{}` + strings.Repeat(" ", api.MaxBody-1), nil, 413, api.CodeTooLarge},
		{"body on a GET", "GET", "/v1/vms", "{}", nil, 400, api.CodeInvalid},
		{"no body", "POST", "/v1/volumes", "", nil, 400, api.CodeSyntax},
		{"JSON depth 1e6", "POST", "/v1/vms", strings.Repeat("[", 1_000_000), nil, 400, api.CodeSyntax},
		{"JSON depth 1e6, closed", "POST", "/v1/volumes", `{"labels":` + strings.Repeat("[", 1_000_000) + strings.Repeat("]", 1_000_000) + `}`, nil, 400, api.CodeSyntax},
		{"duplicate keys", "POST", "/v1/vms", `{"spec":{"name":"a","name":"b"}}`, nil, 400, api.CodeDuplicateKey},
		{"unknown field", "POST", "/v1/vms", `{"spec":{"name":"a"},"sepc":{}}`, nil, 400, api.CodeUnknownField},
		{"unknown field in a bare spec", "POST", "/v1/vms", `{"name":"a","colour":"red"}`, nil, 400, api.CodeUnknownField},
		{"method override", "GET", "/v1/vm/web", "", []string{"X-HTTP-Method-Override", "DELETE", "Content-Encoding", "x"}, 415, api.CodeMediaType},
		{"HEAD", "HEAD", "/v1/vms", "", nil, 405, api.CodeMethod},
		{"OPTIONS", "OPTIONS", "/v1/vms", "", []string{"Origin", "https://evil", "Access-Control-Request-Method", "DELETE"}, 405, api.CodeMethod},
		{"TRACE", "TRACE", "/v1/vms", "", nil, 405, api.CodeMethod},
		{"PATCH", "PATCH", "/v1/vm/web", goodBody, nil, 405, api.CodeMethod},
		{"trailing slash", "GET", "/v1/vms/", "", nil, 404, api.CodeNotFoundRoute},
		{"double slash", "GET", "//v1/vms", "", nil, 404, api.CodeNotFoundRoute},
		{"double slash inside", "GET", "/v1//vms", "", nil, 404, api.CodeNotFoundRoute},
		{"semicolon in the path", "GET", "/v1/vms;x=1", "", nil, 404, api.CodeNotFoundRoute},
		{"semicolon in the query", "GET", "/v1/vms?prefix=a;namespace=b", "", nil, 400, api.CodeInvalid},
		{"other case", "GET", "/V1/vms", "", nil, 404, api.CodeNotFoundRoute},
		{"P1 dots", "GET", "/v1/vm/../../etc/passwd", "", nil, 404, api.CodeNotFoundRoute},
		{"P1 only dots", "GET", "/v1/vm/..", "", nil, 400, api.CodeInvalid},
		{"P3 encoded slash", "GET", "/v1/vm/..%2f..%2fetc", "", nil, 404, api.CodeNotFoundRoute},
		{"P4 double encoded", "GET", "/v1/vm/%252e%252e%252f", "", nil, 400, api.CodeInvalid},
		{"P5 backslash", "GET", `/v1/vm/..%5Cx`, "", nil, 400, api.CodeInvalid},
		{"P6 NUL", "GET", "/v1/vm/a%00b", "", nil, 400, api.CodeInvalid},
		{"P15 4 KiB", "GET", "/v1/vm/" + strings.Repeat("a", 4096), "", nil, 400, api.CodeInvalid},
		{"namespace star on apply", "POST", "/v1/vms?namespace=*", goodBody, nil, 400, api.CodeInvalid},
		{"namespace star on delete", "DELETE", "/v1/vm/web?namespace=*", "", nil, 400, api.CodeInvalid},
		{"namespace star on power", "POST", "/v1/vm/web/power?namespace=*", `{"action":"stop"}`, nil, 400, api.CodeInvalid},
		{"namespace star on volumes", "POST", "/v1/volumes?namespace=*", `{"name":"a","size":"1GiB"}`, nil, 400, api.CodeInvalid},
		{"namespace star on images", "POST", "/v1/images?namespace=*&name=a&sha256=" + strings.Repeat("a", 64), "x", []string{"Content-Type", mimeBinary}, 400, api.CodeInvalid},
		{"namespace star on get", "GET", "/v1/vm/web?namespace=*", "", nil, 400, api.CodeInvalid},
		{"namespace star on console", "GET", "/v1/vm/web/console?namespace=*", "", []string{"Upgrade", "websocket", "Sec-WebSocket-Protocol", "nova-console"}, 400, api.CodeInvalid},
		{"two namespaces", "GET", "/v1/vms?namespace=a&namespace=b", "", nil, 400, api.CodeInvalid},
		{"two namespaces, one escaped", "GET", "/v1/vms?namespace=a&n%61mespace=b", "", nil, 400, api.CodeInvalid},
		{"namespace where there is none", "GET", "/v1/nodes?namespace=a", "", nil, 400, api.CodeInvalid},
		{"unknown parameter", "GET", "/v1/vms?namspace=a", "", nil, 400, api.CodeInvalid},
		{"broken escape", "GET", "/v1/vms?prefix=%zz", "", nil, 400, api.CodeInvalid},
		{"index overflow", "GET", "/v1/vms?index=18446744073709551616", "", nil, 400, api.CodeInvalid},
		{"index negative", "GET", "/v1/vms?index=-1", "", nil, 400, api.CodeInvalid},
		{"wait 1e9", "GET", "/v1/vms?index=1&wait=1e9", "", nil, 400, api.CodeInvalid},
		{"wait 1000000h", "GET", "/v1/vms?index=1&wait=1000000h", "", nil, 400, api.CodeInvalid},
		{"wait without index", "GET", "/v1/vms?wait=11m", "", nil, 400, api.CodeInvalid},
		{"wait no duration", "GET", "/v1/vms?wait=soon", "", nil, 400, api.CodeInvalid},
		{"wait negative", "GET", "/v1/vms?index=1&wait=-1s", "", nil, 400, api.CodeInvalid},
		{"per_page", "GET", "/v1/vms?per_page=1001", "", nil, 400, api.CodeInvalid},
		{"per_page no number", "GET", "/v1/vms?per_page=x", "", nil, 400, api.CodeInvalid},
		{"consistency", "GET", "/v1/vms?consistency=maybe", "", nil, 400, api.CodeInvalid},
		{"consistency twice", "GET", "/v1/vms?stale&consistent", "", nil, 400, api.CodeInvalid},
		{"stale no switch", "GET", "/v1/vms?stale=maybe", "", nil, 400, api.CodeInvalid},
		{"gzip body bomb", "POST", "/v1/vms", gz(goodBody), []string{"Content-Encoding", "gzip"}, 415, api.CodeMediaType},
		{"filter bomb", "GET", "/v1/vms?filter=" + strings.Repeat("(", 500), "", nil, 400, api.CodeInvalid},
		{"filter of 2 kB", "GET", "/v1/vms?filter=" + strings.Repeat("a", 2000), "", nil, 400, api.CodeInvalid},
		{"pprof where it is off", "GET", "/debug/pprof/", "", nil, 404, api.CodeNotFoundRoute},
		{"token in the URL", "GET", "/v1/vms?token=nova.secret", "", nil, 400, api.CodeInvalid},
		{"token too long", "GET", "/v1/vms", "", []string{"X-Nova-Token", strings.Repeat("a", 600)}, 401, api.CodeUnauthenticated},
		{"token with a space", "GET", "/v1/vms", "", []string{"X-Nova-Token", "a b"}, 401, api.CodeUnauthenticated},
		{"two tokens", "GET", "/v1/vms", "", []string{"X-Nova-Token", "a", "Authorization", "Bearer b"}, 401, api.CodeUnauthenticated},
		{"basic authorization", "GET", "/v1/vms", "", []string{"Authorization", "Basic YTpi"}, 401, api.CodeUnauthenticated},
		{"region", "GET", "/v1/vms?region=EU/1", "", nil, 400, api.CodeInvalid},
		{"idempotency key too long", "POST", "/v1/vms", goodBody, []string{"Idempotency-Key", strings.Repeat("k", 129)}, 400, api.CodeInvalid},
		{"idempotency key with a tab", "POST", "/v1/vms", goodBody, []string{"Idempotency-Key", "a\tb"}, 400, api.CodeInvalid},
		{"body and path differ", "PUT", "/v1/pool/a", `{"pool":{"name":"b"}}`, nil, 400, api.CodeInvalid},
		{"power key differs", "POST", "/v1/vm/web/power", `{"key":"db","action":"stop"}`, nil, 400, api.CodeInvalid},
		{"check index in a query beside a body", "POST", "/v1/vms?check_index=3", goodBody, nil, 400, api.CodeInvalid},
		{"check index no number", "POST", "/v1/vms?check_index=x", goodBody, nil, 400, api.CodeInvalid},
		{"delete check index", "DELETE", "/v1/vm/web?check_index=x", "", nil, 400, api.CodeInvalid},
		{"delete force", "DELETE", "/v1/vm/web?force=maybe", "", nil, 400, api.CodeInvalid},
		{"raft remove nobody", "DELETE", "/v1/operator/raft", "", nil, 400, api.CodeInvalid},
		{"raft remove no id", "DELETE", "/v1/operator/raft?id=x", "", nil, 400, api.CodeInvalid},
		{"placements of no id", "GET", "/v1/placements?node_id=x", "", nil, 400, api.CodeInvalid},
		{"image without a sum", "POST", "/v1/images?name=a", "x", []string{"Content-Type", mimeBinary}, 400, api.CodeInvalid},
		{"image of another size", "POST", "/v1/images?name=a&size=5&sha256=" + strings.Repeat("a", 64), "x", []string{"Content-Type", mimeBinary}, 400, api.CodeInvalid},
		{"image too big", "POST", "/v1/images?name=a&size=99999999999999999&sha256=" + strings.Repeat("a", 64), "x", []string{"Content-Type", mimeBinary}, 400, api.CodeInvalid},
		{"image label", "POST", "/v1/images?name=a&label=x&sha256=" + strings.Repeat("a", 64), "x", []string{"Content-Type", mimeBinary}, 400, api.CodeInvalid},
		{"image as JSON", "POST", "/v1/images?name=a&sha256=" + strings.Repeat("a", 64), "{}", nil, 415, api.CodeMediaType},
		{"events of no topic", "GET", "/v1/events?topic=cat", "", nil, 400, api.CodeInvalid},
		{"events after nothing", "GET", "/v1/events", "", []string{"Last-Event-ID", "x"}, 400, api.CodeInvalid},
		{"events limit", "GET", "/v1/events/list?limit=x", "", nil, 400, api.CodeInvalid},
		{"metrics format", "GET", "/v1/metrics?format=xml", "", nil, 400, api.CodeInvalid},
		{"console that is no WebSocket", "GET", "/v1/vm/web/console", "", nil, 400, api.CodeInvalid},
		{"bootstrap elsewhere than on the socket", "POST", "/v1/tokens/bootstrap", "{}", nil, 403, api.CodeForbidden},
	}
	f := newFake()
	h := New(Config{Backend: f, Rate: -1})
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			w, e := do(h, r.method, r.target, r.body, r.headers...)
			must.NotNil(t, e, must.Sprint(w.Code))
			must.Eq(t, r.status, w.Code, must.Sprint(e))
			must.Eq(t, r.code, e.Code, must.Sprint(e))
			must.Eq(t, mimeJSON, w.Header().Get("Content-Type"))
			must.Eq(t, w.Header().Get(api.HeaderRequestID), e.RequestID)
			must.Less(t, 1000, len(e.Message))
			must.Eq(t, "", w.Header().Get("Access-Control-Allow-Origin"))
		})
	}
	must.Zero(t, f.count(), must.Sprint("a hostile request got through"))
}

func TestOverridesAndSpoofedHeadersAreIgnored(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.answer("VM.Get", &api.VMResponse{})
	h := New(Config{Backend: f, Rate: 1e-9, Burst: 2})
	for i := range 2 {
		w, _ := do(h, "GET", "/v1/vm/web", "", "X-HTTP-Method-Override", "DELETE", "X-Forwarded-For", fmt.Sprintf("10.0.0.%d", i), "Host", "evil")
		must.Eq(t, 200, w.Code)
	}
	must.Eq(t, "VM.Get", f.last(t).method)
	// The same caller, whatever it says of itself.
	w, e := do(h, "GET", "/v1/vm/web", "", "X-Forwarded-For", "10.0.0.9", "X-Real-IP", "10.0.0.8", "Forwarded", "for=10.0.0.7")
	must.Eq(t, 429, w.Code)
	must.Eq(t, api.CodeRateLimited, e.Code)
	must.NotEq(t, "", w.Header().Get("Retry-After"))
	// Another token from there has its own budget, until the address is used up.
	refused := 0
	for i := range 20 {
		if w, _ := do(h, "GET", "/v1/vm/web", "", "X-Nova-Token", fmt.Sprintf("t%d", i)); w.Code == 429 {
			refused++
		}
	}
	must.Greater(t, 10, refused)
}

func TestBlockingQueriesOfOneCallerAreBounded(t *testing.T) {
	t.Parallel()
	f := newFake()
	in, out := make(chan struct{}), make(chan struct{})
	f.hook = func(context.Context, string) { in <- struct{}{}; <-out }
	f.answer("VM.List", &api.VMListResponse{})
	h := New(Config{Backend: f, MaxBlocking: 2})
	codes := make(chan int)
	for range 2 {
		go func() {
			w, _ := do(h, "GET", "/v1/vms?index=1&wait=1s", "")
			codes <- w.Code
		}()
		<-in
	}
	w, e := do(h, "GET", "/v1/vms?index=1", "")
	must.Eq(t, 429, w.Code)
	must.Eq(t, api.CodeRateLimited, e.Code)
	close(out)
	must.Eq(t, 200, <-codes)
	must.Eq(t, 200, <-codes)
	go func() { <-in }()
	w, _ = do(h, "GET", "/v1/vms?index=1", "")
	must.Eq(t, 200, w.Code)
}

func TestLimiterForgetsOldCallersOnly(t *testing.T) {
	t.Parallel()
	l := newLimiter(1, 1, 1)
	_, err := l.hold(caller{addr: "kept"})
	must.NoError(t, err)
	for i := range 2 * maxCallers {
		_ = l.allow(caller{addr: fmt.Sprint(i)})
	}
	must.LessEq(t, maxCallers+1, len(l.by))
	_, err = l.hold(caller{addr: "kept"})
	must.Eq(t, api.CodeRateLimited, api.CodeOf(err))
}

func TestPanicsAndUnknownErrorsSayNothing(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	f := newFake()
	f.hook = func(_ context.Context, method string) {
		if method == "VM.Get" {
			panic("/var/lib/novacron/secret")
		}
	}
	f.refuse("VM.List", errors.New("open /var/lib/novacron/raft.db: permission denied"))
	h := New(Config{Backend: f, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for _, path := range []string{"/v1/vm/web", "/v1/vms"} {
		w, e := do(h, "GET", path, "", "X-Nova-Token", "nova.topsecret", "X-Request-Id", "id-1")
		must.Eq(t, 500, w.Code)
		must.Eq(t, api.CodeInternal, e.Code)
		must.Eq(t, "id-1", e.RequestID)
		must.StrNotContains(t, w.Body.String(), "/var/lib")
	}
	must.StrContains(t, log.String(), "/var/lib/novacron/raft.db")
	must.StrContains(t, log.String(), "id-1")
	must.StrNotContains(t, log.String(), "topsecret")
}

func TestAccessLogHoldsNoSecretsAndNoForgedLines(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	f := newFake()
	f.answer("VM.List", &api.VMListResponse{})
	h := New(Config{Backend: f, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	do(h, "GET", "/v1/vms?prefix=queryword", "", "Authorization", "Bearer nova.topsecret", "X-Request-Id", "bad id\r\nforged=1")
	do(h, "GET", "/v1/x%0d%0aforged=1%1b[2J", "")
	must.StrContains(t, log.String(), "route=vm.list")
	must.StrNotContains(t, log.String(), "topsecret")
	must.StrNotContains(t, log.String(), "queryword")
	must.StrNotContains(t, log.String(), "\x1b")
	must.Eq(t, 2, strings.Count(log.String(), "\n"))
}

func TestSmugglingAndManyHeaders(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.answer("VM.List", &api.VMListResponse{})
	srv, _ := serve(t, Config{Backend: f})
	raw := func(text string) string {
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		must.NoError(t, err)
		defer conn.Close()
		must.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		_, err = io.WriteString(conn, text)
		must.NoError(t, err)
		b, _ := io.ReadAll(conn)
		return string(b)
	}
	// By Content-Length a second request would begin inside the body.
	inner := "GET /v1/vms HTTP/1.1\r\nHost: a\r\n\r\n"
	got := raw(fmt.Sprintf("POST /v1/volumes HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(inner), inner))
	must.StrContains(t, got, " 400 ")
	must.Zero(t, f.count())
	got = raw("GET /v1/vms HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nxx")
	must.StrContains(t, got, " 400 ")
	var many strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&many, "X-H%d: aaaaaaaaaa\r\n", i)
	}
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	must.NoError(t, err)
	defer conn.Close()
	go func() { _, _ = io.WriteString(conn, "GET /v1/vms HTTP/1.1\r\nHost: a\r\n"+many.String()+"\r\n") }()
	b := make([]byte, 20)
	_, _ = io.ReadFull(conn, b)
	must.StrContains(t, string(b), "431")
	must.Zero(t, f.count())
}
