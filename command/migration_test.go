package command

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	nova "github.com/novacron/novacron/agent/http"
	"github.com/novacron/novacron/api"
)

// script is a cluster behind the real HTTP handlers that answers from a script:
// for each method the answers in order, the last one again and again.
type script struct {
	mu      sync.Mutex
	answers map[string][]any // api.Message or error
	asked   map[string][]api.Message
	then    map[string]func() // called once before a method's last answer
	streams []*scriptStream   // in the order in which they are opened
}

func (s *script) Call(_ context.Context, method string, req, resp api.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[method] = append(s.asked[method], req)
	list := s.answers[method]
	if len(list) == 0 {
		return api.Errorf(api.CodeNotFoundRoute, "%s is not in the script", method)
	}
	if len(list) > 1 {
		s.answers[method] = list[1:]
	} else if f := s.then[method]; f != nil {
		delete(s.then, method)
		f()
	}
	if err, ok := list[0].(error); ok {
		return err
	}
	reflect.ValueOf(resp).Elem().Set(reflect.ValueOf(list[0]).Elem())
	return nil
}

func (s *script) Open(ctx context.Context, _ string, _ api.Message) (api.Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.streams) == 0 {
		return nil, api.Errorf(api.CodeNotFoundRoute, "no streams")
	}
	st := s.streams[0]
	s.streams, st.ctx = s.streams[1:], ctx
	return st, nil
}

// atScript is a person who talks to a scripted cluster.
func atScript(t *testing.T, answers map[string][]any) (*person, *script) {
	s := &script{answers: answers, asked: map[string][]api.Message{}, then: map[string]func(){}}
	srv := httptest.NewServer(nova.New(nova.Config{Backend: s}))
	t.Cleanup(srv.Close)
	return &person{t: t, home: t.TempDir(), env: map[string]string{"NOVACRON_ADDR": srv.URL, "NOVACRON_TOKEN": "nova.x"}}, s
}

func aMove(phase api.MigrationPhase) *api.Migration {
	now := api.TimeOf(time.Now())
	m := &api.Migration{
		ID: api.ID{0xab, 0xcd, 0xef, 0x01}, Namespace: "default", VMName: "web", Mode: api.MigrateLive, Phase: phase, FromNode: "n1", ToNode: "n2",
		CreateTime: now - api.Time(12*time.Second), PhaseTime: now, ModifyIndex: 5, Cause: api.CauseOperator, Priority: 50,
	}
	m.Options.Fill(&api.MigrationPolicy{})
	if !phase.Active() {
		m.EndTime = now
	}
	return m
}

func got(phase api.MigrationPhase, g *api.MigrationProgress, why ...string) *api.MigrationResponse {
	return &api.MigrationResponse{QueryMeta: api.QueryMeta{Index: 5}, Migration: aMove(phase), Progress: g, Why: why}
}

func half(percent float64) *api.MigrationProgress {
	return &api.MigrationProgress{Percent: percent, Done: api.GiB, Total: 2 * api.GiB, Remaining: api.GiB, Rate: 100 * api.MiB, DirtyRate: 12 * api.MiB, Downtime: api.Duration(80 * time.Millisecond), Throttle: 20, Rung: "throttle"}
}

func TestAMoveIsWatchedToItsEnd(t *testing.T) {
	c, s := atScript(t, map[string][]any{
		"Migration.Create": {&api.MigrationCreated{Migration: aMove(api.MigrationQueued)}},
		"Migration.Get": {
			got(api.MigrationQueued, nil, "waits for its turn: 2 moves are under way"), got(api.MigrationProposed, nil), got(api.MigrationCopying, half(12)),
			got(api.MigrationCopying, half(52)), api.Errorf(api.CodeNoLeader, "no leader"), got(api.MigrationDone, nil),
		},
	})
	out, errs, code := c.exec("vm", "migrate", "web", "-to", "n2", "-mode", "live", "-bandwidth", "200MiB", "-max-downtime", "500ms", "-timeout", "10m",
		"-auto-converge", "-compress", "zstd", "-warm-fallback", "-priority", "7")
	must.Eq(t, exitOK, code, must.Sprint(errs))
	must.StrContains(t, out, "web is on n2 now, moved live in 12s")
	for _, want := range []string{
		"web: queued from n1 to n2 (waits for its turn: 2 moves are under way)", "web: copying from n1 to n2",
		"52% 1 GiB of 2 GiB, 100 MiB/s, the guest writes 12 MiB/s, 12s left, will stand still for 80ms, slowed by 20%, throttle",
	} {
		must.StrContains(t, errs, want)
	}
	must.StrNotContains(t, errs, "\x1b", must.Sprint("plain lines where there is no terminal"))
	must.Eq(t, &api.MigrationCreate{Namespace: "default", VM: "web", To: "n2", Mode: api.MigrateLive, Priority: 7, Options: api.MigrationOptions{
		Bandwidth: 200 * api.MiB, MaxDowntime: api.Duration(500 * time.Millisecond), Timeout: api.Duration(10 * time.Minute),
		AutoConverge: true, Compress: "zstd", WarmFallback: true,
	}}, s.asked["Migration.Create"][0].(*api.MigrationCreate))
	must.Eq(t, aMove("").ID.String(), s.asked["Migration.Get"][1].(*api.GetRequest).Key)

	c, _ = atScript(t, map[string][]any{"Migration.Create": {&api.MigrationCreated{Migration: aMove(api.MigrationQueued)}}, "Migration.Get": {got(api.MigrationCopying, half(52)), got(api.MigrationDone, nil)}})
	c.terminal = true
	_, errs, code = c.exec("vm", "migrate", "web")
	must.Eq(t, exitOK, code)
	must.StrContains(t, errs, "\r\x1b[Kweb [############............]  52%")
	c, _ = atScript(t, map[string][]any{"Migration.Create": {&api.MigrationCreated{Migration: aMove(api.MigrationQueued)}}, "Migration.Get": {got(api.MigrationCopying, half(52)), got(api.MigrationDone, nil)}})
	var end api.MigrationResponse
	must.NoError(t, json.Unmarshal([]byte(c.ok("vm", "migrate", "web", "-o", "json")), &end))
	must.Eq(t, api.MigrationDone, end.Migration.Phase)
}

func TestOnlyAMoveThatIsDoneIsASuccess(t *testing.T) {
	failed := got(api.MigrationAborted, nil)
	failed.Migration.Code, failed.Migration.Message = api.CodeMigration, "the link was cut"
	c, _ := atScript(t, map[string][]any{"Migration.Create": {&api.MigrationCreated{Migration: aMove(api.MigrationQueued)}}, "Migration.Get": {got(api.MigrationCopying, nil), failed}})
	errs := c.fails(exitError, "vm", "migrate", "web")
	must.StrContains(t, errs, "web was not moved: the link was cut (NOVA-4006)")
	must.StrContains(t, errs, "It goes on where it was, on n1")
	must.StrContains(t, c.fails(exitError, "migration", "watch", "web"), "the link was cut")

	c, _ = atScript(t, map[string][]any{"Migration.Create": {api.Errorf(api.CodeNoNode, "no node can take VM").WithDetail("n2", "has no bridge")}})
	must.StrContains(t, c.fails(exitError, "vm", "migrate", "web"), "n2: has no bridge")
	must.StrContains(t, c.fails(exitError, "vm", "migrate", "web", "-mode", "post-copy"), "mode")
	c.fails(exitUsage, "vm", "migrate")
	must.StrContains(t, c.fails(exitUsage, "vm", "migrate", "web", "-bandwidth", "fast"), "bandwidth")
}

func TestAnInterruptEndsTheWatchingOnly(t *testing.T) {
	c, s := atScript(t, map[string][]any{"Migration.Create": {&api.MigrationCreated{Migration: aMove(api.MigrationQueued)}}, "Migration.Get": {got(api.MigrationProposed, nil), got(api.MigrationCopying, nil)}})
	ctx, cancel := context.WithCancel(t.Context())
	s.then["Migration.Get"] = cancel
	p := c.start(ctx, "vm", "migrate", "web")
	must.Eq(t, exitError, <-p.code)
	errs := p.errs.String()
	must.StrContains(t, errs, "the move goes on")
	must.StrContains(t, errs, "novacron migration cancel "+aMove("").ID.Short())
	must.SliceEmpty(t, s.asked["Migration.Cancel"])
	out := c.ok("vm", "migrate", "web", "-detach")
	must.StrContains(t, out, "novacron migration watch "+aMove("").ID.Short())
}

func TestADryRunIsShown(t *testing.T) {
	c, _ := atScript(t, map[string][]any{"Migration.Create": {&api.MigrationCreated{
		Migration: aMove(""), Explanation: &api.Explanation{Chosen: api.ID{1}, Node: "n2", Algo: "binpack", Nodes: []api.NodeVerdict{{Node: "n2", Fits: true}, {Node: "n3", Reason: "has no bridge"}}},
		Forecast: &api.MigrationForecast{Memory: api.GiB, Disk: 10 * api.GiB, DirtyRate: api.MiB, Link: 100 * api.MiB, Duration: api.Duration(112 * time.Second), Downtime: api.Duration(110 * time.Millisecond), Converges: true, Notes: []string{"a note"}},
	}}})
	out := c.ok("vm", "migrate", "web", "-dry-run")
	for _, want := range []string{"VM default/web would be moved live from n1", "Node: n2", "n3: has no bridge", "10 GiB", "100 MiB/s", "1m52s", "110ms", "Note: a note"} {
		must.StrContains(t, out, want)
	}
}

func TestMigrationsAreListedShownAndCanceled(t *testing.T) {
	ended := aMove(api.MigrationAborted)
	ended.Message, ended.Code = "canceled", api.CodeCanceled
	c, s := atScript(t, map[string][]any{
		"Migration.List":   {&api.MigrationListResponse{Items: []*api.Migration{aMove(api.MigrationCopying), ended}}},
		"Migration.Get":    {got(api.MigrationCopying, half(52), "waits for node n1 to begin the copy")},
		"Migration.Cancel": {&api.MigrationCanceled{Migration: aMove(api.MigrationAborting)}},
	})
	out := c.ok("migration", "list", "-vm", "web", "-node", "n1", "-active")
	must.StrContains(t, out, "default/web")
	must.StrContains(t, out, "canceled")
	q := s.asked["Migration.List"][0].(*api.MigrationListRequest)
	must.Eq(t, "web n1 true", strings.Join([]string{q.VM, q.Node, map[bool]string{true: "true"}[q.Active]}, " "))
	out = c.ok("migration", "status", "web")
	for _, want := range []string{"copying since", "Waits", "waits for node n1 to begin the copy", "Progress", "52%", "downtime 300ms to 3s"} {
		must.StrContains(t, out, want)
	}
	must.StrContains(t, c.ok("migration", "cancel", "web"), "web: the move is aborting; the guest goes on on n1")
	var v any
	for _, args := range [][]string{{"migration", "list"}, {"migration", "status", "web"}, {"migration", "cancel", "web"}} {
		must.NoError(t, json.Unmarshal([]byte(c.ok(append(args, "-o", "json")...)), &v))
	}
	d := atDev(t)
	must.StrContains(t, d.ok("migration", "list"), "No migrations.")
	must.StrContains(t, d.fails(exitError, "migration", "status", "nobody"), "NOVA-3000")
	must.StrContains(t, d.ok("operator", "scheduler", "set", "-migrations", "4", "-node-migrations", "1"), "4 at once, 1 for each node")
	d.ok("operator", "scheduler", "set", "-migrations", "0", "-node-migrations", "0")
}

func TestTheLimitsOfAMoveAreChanged(t *testing.T) {
	slow := aMove(api.MigrationCopying)
	slow.Options.Bandwidth = 5 * api.MiB
	c, s := atScript(t, map[string][]any{"Migration.Update": {
		&api.MigrationUpdated{Migration: slow}, &api.MigrationUpdated{Migration: aMove(api.MigrationCopying)},
		api.Errorf(api.CodeState, "migration abcdef01 is done: node n2 owns the VM").WithHint("a hint"),
	}})
	must.StrContains(t, c.ok("migration", "update", "web", "-bandwidth", "5MiB"), "web: the move is copying: downtime 300ms to 3s, timeout 30m, compress auto, at most 5 MiB/s")
	c.ok("migration", "update", "web", "-bandwidth", "0", "-max-downtime", "2s")
	for i, want := range []string{`{"namespace":"default","key":"web","bandwidth":5242880}`, `{"namespace":"default","key":"web","bandwidth":0,"max_downtime":"2s"}`} {
		got, err := json.Marshal(s.asked["Migration.Update"][i])
		must.NoError(t, err)
		must.Eq(t, want, string(got))
	}
	errs := c.fails(exitError, "migration", "update", "web", "-max-downtime", "1s")
	must.StrContains(t, errs, "node n2 owns the VM")
	must.StrContains(t, errs, "a hint")
	asked := len(s.asked["Migration.Update"])
	must.StrContains(t, c.fails(exitUsage, "migration", "update", "web"), "-bandwidth or -max-downtime")
	c.fails(exitUsage, "migration", "update", "-bandwidth", "1MiB")
	must.StrContains(t, c.fails(exitUsage, "migration", "update", "web", "-bandwidth", "fast"), "bandwidth")
	must.StrContains(t, c.fails(exitError, "migration", "update", "web", "-bandwidth", "1KiB"), "NOVA-1000")
	must.StrContains(t, c.fails(exitError, "migration", "update", "web", "-max-downtime", "0s"), "max_downtime")
	must.Len(t, asked, s.asked["Migration.Update"], must.Sprint("what is not valid is not sent on"))
}
