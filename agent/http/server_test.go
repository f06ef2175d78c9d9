package http

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

func TestBodiesOfApply(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.answer("VM.Apply", &api.VMApplied{})
	f.answer("VM.Plan", &api.VMPlanned{})
	var texts []string
	parse := func(_ context.Context, r *api.ParseRequest) ([]api.VMSpec, error) {
		texts = append(texts, r.Format+":"+r.Text)
		one := api.VMSpec{Name: "fromhcl", CPU: api.CPUSpec{Cores: 1}, Memory: api.GiB}
		if r.Text == "two" {
			return []api.VMSpec{one, one}, nil
		}
		return []api.VMSpec{one}, nil
	}
	h := New(Config{Backend: f, Parse: parse})
	apply := func(target, body, ct string) (*api.VMApply, *api.Error) {
		_, e := do(h, "POST", target, body, "Content-Type", ct)
		if e != nil {
			return nil, e
		}
		return f.last(t).req.(*api.VMApply), nil
	}
	const bare = `{"name":"bare","cpu":{"cores":1},"memory":"64MiB"}`
	got, e := apply("/v1/vms", goodBody, mimeJSON)
	must.Nil(t, e)
	must.Eq(t, "web", got.Spec.Name)
	must.Eq(t, "default", got.Spec.Namespace)
	must.Nil(t, got.CheckIndex)
	got, e = apply("/v1/vms?namespace=team-a&check_index=0&power=stopped", bare, mimeJSON+"; charset=utf-8")
	must.Nil(t, e)
	must.Eq(t, "bare", got.Spec.Name)
	must.Eq(t, "team-a", got.Spec.Namespace)
	must.Eq(t, 0, *got.CheckIndex)
	must.Eq(t, api.PowerStopped, got.Power)
	for _, ct := range hclTypes {
		got, e = apply("/v1/vms?check_index=4", `vm "x" {}`, ct)
		must.Nil(t, e)
		must.Eq(t, "fromhcl", got.Spec.Name)
		must.Eq(t, 4, *got.CheckIndex)
	}
	must.Eq(t, `hcl:vm "x" {}`, texts[0])
	_, e = apply("/v1/vms", "two", "application/hcl")
	must.Eq(t, api.CodeInvalid, e.Code)
	_, e = apply("/v1/vms?power=off", bare, mimeJSON)
	must.Eq(t, api.CodeInvalid, e.Code)

	_, e = do(h, "POST", "/v1/vms/plan", bare)
	must.Nil(t, e)
	must.Eq(t, "bare", f.last(t).req.(*api.VMPlan).Spec.Name)
	_, e = do(h, "POST", "/v1/vms/plan", "x", "Content-Type", "text/x-hcl")
	must.Nil(t, e)
	must.Eq(t, "fromhcl", f.last(t).req.(*api.VMPlan).Spec.Name)

	w, e := do(h, "POST", "/v1/vms/parse?file=a.hcl", "two", "Content-Type", "text/x-hcl")
	must.Nil(t, e)
	var p api.ParseResponse
	must.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
	must.Len(t, 2, p.Specs)
	must.Nil(t, p.Spec)

	_, e = do(New(Config{Backend: f}), "POST", "/v1/vms", "x", "Content-Type", "text/x-hcl")
	must.Eq(t, api.CodeUnsupported, e.Code)
	// Strangers do not make the agent parse.
	f.refuse("VM.List", api.Errorf(api.CodeUnauthenticated, "no token"))
	_, e = do(h, "POST", "/v1/vms/parse", `{"text":"x"}`)
	must.Eq(t, api.CodeUnauthenticated, e.Code)
}

func TestVMEvents(t *testing.T) {
	t.Parallel()
	f := newFake()
	id := api.NewID()
	f.answer("VM.Get", &api.VMResponse{VM: &api.VM{ID: id}})
	f.answer("Event.List", &api.EventListResponse{Items: []*api.Event{{Index: 1}}})
	_, c := serve(t, Config{Backend: f})
	ev, err := c.VMs().Events(t.Context(), "web", &api.EventListRequest{QueryOptions: api.QueryOptions{Namespace: "team-a", Filter: "type == x"}, Limit: 7})
	must.NoError(t, err)
	must.Len(t, 1, ev.Items)
	req := f.last(t).req.(*api.EventListRequest)
	must.Eq(t, id.String(), req.Related)
	must.Eq(t, "team-a", req.Namespace)
	must.Eq(t, "type == x", req.Filter)
	must.Eq(t, 7, req.Limit)
	// By id the VM need not exist any more.
	f.refuse("VM.Get", api.Errorf(api.CodeNotFound, "gone"))
	_, err = c.VMs().Events(t.Context(), id.String(), nil)
	must.NoError(t, err)
	_, err = c.VMs().Events(t.Context(), "web", nil)
	must.Eq(t, api.CodeNotFound, api.CodeOf(err))
	f.refuse("VM.Get", nil)
	f.answer("VM.Get", &api.VMResponse{})
	_, err = c.VMs().Events(t.Context(), "web", nil)
	must.Eq(t, api.CodeNotFound, api.CodeOf(err))
}

func TestHeadersOfAnswers(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.answer("VM.List", &api.VMListResponse{QueryMeta: api.QueryMeta{Index: 9, KnownLeader: true, Stale: true, NextToken: "n", LastContact: api.Duration(1500 * time.Millisecond)}})
	f.answer("VM.Delete", &api.WriteMeta{Index: 10})
	f.answer("VM.Apply", &api.VMApplied{WriteMeta: api.WriteMeta{Index: 11}})
	f.answer("Token.Create", &api.TokenCreated{WriteMeta: api.WriteMeta{Index: 12}})
	h := New(Config{Backend: f})
	w, _ := do(h, "GET", "/v1/vms?stale&pretty", "")
	must.Eq(t, "9", w.Header().Get("X-Nova-Index"))
	must.Eq(t, "true", w.Header().Get("X-Nova-Known-Leader"))
	must.Eq(t, "true", w.Header().Get("X-Nova-Stale"))
	must.Eq(t, "n", w.Header().Get("X-Nova-Next-Token"))
	must.Eq(t, "1500", w.Header().Get("X-Nova-Last-Contact"))
	must.Eq(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
	must.Eq(t, "no-store", w.Header().Get("Cache-Control"))
	must.StrContains(t, w.Body.String(), "\n  \"items\": []")
	must.Eq(t, api.ConsistencyStale, f.last(t).req.(*api.ListRequest).Consistency)
	w, _ = do(h, "DELETE", "/v1/vm/web", "")
	must.Eq(t, "10", w.Header().Get("X-Nova-Index"))
	w, _ = do(h, "POST", "/v1/vms", goodBody)
	must.Eq(t, "11", w.Header().Get("X-Nova-Index"))
	w, _ = do(h, "POST", "/v1/tokens", `{"type":"management"}`)
	must.Eq(t, "12", w.Header().Get("X-Nova-Index"))
	w, _ = do(h, "PUT", "/v1/vms", goodBody)
	must.Eq(t, "GET, POST", w.Header().Get("Allow"))
	f.refuse("VM.List", api.Errorf(api.CodeNoLeader, "no leader"))
	w, _ = do(h, "GET", "/v1/vms", "")
	must.Eq(t, 503, w.Code)
	must.Eq(t, "1", w.Header().Get("Retry-After"))
	f.refuse("VM.List", api.Errorf(api.CodeTokenExpired, "expired"))
	w, _ = do(h, "GET", "/v1/vms", "")
	must.StrContains(t, w.Header().Get("WWW-Authenticate"), "Bearer")
}

func TestLongAnswersAreCompressed(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.answer("VM.Get", &api.VMResponse{VM: &api.VM{Name: strings.Repeat("a", 5000)}})
	h := New(Config{Backend: f})
	w, _ := do(h, "GET", "/v1/vm/web", "", "Accept-Encoding", "br, gzip;q=0.5")
	must.Eq(t, "gzip", w.Header().Get("Content-Encoding"))
	z, err := gzip.NewReader(w.Body)
	must.NoError(t, err)
	b, err := io.ReadAll(z)
	must.NoError(t, err)
	must.StrContains(t, string(b), "aaaa")
	for _, accept := range []string{"", "br", "gzip;q=0", "gzip; q=0.0"} {
		w, _ = do(h, "GET", "/v1/vm/web", "", "Accept-Encoding", accept)
		must.Eq(t, "", w.Header().Get("Content-Encoding"))
	}
}

func TestDeadlineReachesTheBackend(t *testing.T) {
	t.Parallel()
	f := newFake()
	var left time.Duration
	f.hook = func(ctx context.Context, _ string) {
		d, _ := ctx.Deadline()
		left = time.Until(d)
	}
	f.answer("VM.List", &api.VMListResponse{})
	h := New(Config{Backend: f})
	do(h, "GET", "/v1/vms", "")
	must.Between(t, 20*time.Second, left, 30*time.Second)
	do(h, "GET", "/v1/vms?index=1", "")
	must.Between(t, 5*time.Minute, left, 5*time.Minute+30*time.Second)
	do(h, "GET", "/v1/vms?index=1&wait=1m", "")
	must.Between(t, time.Minute, left, 90*time.Second)

	f.hook = func(ctx context.Context, _ string) { <-ctx.Done() }
	f.answer("VM.List", nil)
	w, e := do(New(Config{Backend: f, Timeout: time.Millisecond}), "GET", "/v1/vms", "")
	must.Eq(t, 504, w.Code)
	must.Eq(t, api.CodeDeadline, e.Code)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequestWithContext(ctx, "GET", "/v1/vms", nil))
	must.Eq(t, 499, rec.Code)
}

// With HTTP/1.1 a server reads ahead while a handler works: a deadline that is
// left on the connection would end the query.
func TestBlockingQueriesOutliveTheTimeoutOfBodies(t *testing.T) {
	t.Parallel()
	f := newFake()
	ended := make(chan error, 1)
	f.hook = func(ctx context.Context, method string) {
		switch method {
		case "VM.List":
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
			ended <- ctx.Err()
		case "VM.Apply":
			<-ctx.Done()
		}
	}
	f.answer("VM.List", &api.VMListResponse{})
	f.refuse("VM.Apply", context.DeadlineExceeded)
	srv, _ := serve(t, Config{Backend: f, Timeout: 50 * time.Millisecond})
	resp, err := http.Get(srv.URL + "/v1/vms?index=1&wait=60s")
	must.NoError(t, err)
	_ = resp.Body.Close()
	must.Eq(t, "HTTP/1.1", resp.Proto)
	must.NoError(t, <-ended)
	must.Eq(t, 200, resp.StatusCode)
	resp, err = http.Post(srv.URL+"/v1/vms", mimeJSON, strings.NewReader(goodBody))
	must.NoError(t, err)
	_ = resp.Body.Close()
	must.Eq(t, 504, resp.StatusCode)
	// A body that does not come is still not waited for.
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	must.NoError(t, err)
	defer conn.Close()
	must.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = io.WriteString(conn, "POST /v1/vms HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
	must.NoError(t, err)
	line := make([]byte, 12)
	_, err = io.ReadFull(conn, line)
	must.NoError(t, err)
	must.Eq(t, "HTTP/1.1 400", string(line))
}

func TestAgentEndpointsAreGuarded(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.refuse("Operator.SchedulerGet", api.Errorf(api.CodeForbidden, "no"))
	h := New(Config{Backend: f, Debug: true})
	for _, path := range []string{"/v1/agent/self", "/v1/metrics", "/debug/pprof/", "/debug/pprof/goroutine", "/debug/pprof/cmdline"} {
		w, e := do(h, "GET", path, "")
		must.Eq(t, 403, w.Code, must.Sprint(path))
		must.Eq(t, api.CodeForbidden, e.Code)
	}
	f.refuse("Operator.SchedulerGet", nil)
	w, _ := do(h, "GET", "/debug/pprof/cmdline", "")
	must.Eq(t, 200, w.Code)
	_, e := do(h, "GET", "/debug/pprof/cmdline", "", "Authorization", "Basic x")
	must.Eq(t, api.CodeUnauthenticated, e.Code)
	_, e = do(h, "GET", "/v1/metrics", "")
	must.Eq(t, api.CodeUnsupported, e.Code)
	w, _ = do(h, "GET", "/v1/agent/self", "")
	must.Eq(t, 200, w.Code)
	w, _ = do(h, "GET", "/v1/agent/health", "")
	must.Eq(t, 200, w.Code)
	sick := New(Config{Backend: f, Health: func() api.AgentHealth { return api.AgentHealth{} }, Authorize: func(context.Context, string) error { return api.Errorf(api.CodeForbidden, "no") }})
	w, _ = do(sick, "GET", "/v1/agent/health", "")
	must.Eq(t, 503, w.Code)
	w, _ = do(sick, "GET", "/v1/agent/health?always", "")
	must.Eq(t, 200, w.Code)
	w, _ = do(sick, "GET", "/v1/agent/self", "")
	must.Eq(t, 403, w.Code)
	w, _ = do(sick, "GET", "/v1/openapi.json", "")
	must.Eq(t, http.StatusOK, w.Code)
	f.answer("Status.Leader", &api.StatusResponse{Region: "eu"})
	w, _ = do(sick, "GET", "/v1/regions", "")
	must.StrContains(t, w.Body.String(), `["eu"]`)
}
