package command

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

// drained is an answer about node n1.
func drained(d *api.NodeDrain, items ...api.DrainItem) *api.NodeResponse {
	for i := range items {
		items[i].VMID = api.ID{byte(items[i].VM[0])}
		items[i].Namespace = "default"
	}
	return &api.NodeResponse{Node: &api.Node{ID: api.ID{1}, Name: "n1", Status: api.NodeReady, Eligibility: api.Ineligible, Drain: d}, Drain: items}
}

func vmIs(vm, state, to, why string) api.DrainItem {
	return api.DrainItem{VM: vm, State: state, To: to, Why: why}
}

func TestADrainIsWatchedToItsEnd(t *testing.T) {
	active, done := &api.NodeDrain{Mode: api.DrainMode, StartTime: 1}, &api.NodeDrain{Mode: api.DrainMode, StartTime: 1, DoneTime: 2}
	answers := func() map[string][]any {
		return map[string][]any{
			"Node.Drain": {drained(active, vmIs("web", api.DrainQueued, "", "about to be queued"))},
			"Node.Get": {
				drained(active, vmIs("web", api.DrainMoving, "n2", "copying"), vmIs("db", api.DrainStopping, "", "its policy")),
				drained(done, vmIs("web", api.DrainMoved, "n2", ""), vmIs("db", api.DrainStays, "", "")),
			},
		}
	}
	c, s := atScript(t, answers())
	out, errs, code := c.exec("node", "drain", "n1", "-deadline", "1h", "-force")
	must.Eq(t, exitOK, code, must.Sprint(errs))
	must.StrContains(t, out, "n1 is drained: 1 VM moved, 1 stopped and left there")
	must.StrContains(t, errs, "default/web: moving to n2 (copying)")
	must.StrContains(t, errs, "default/db: stopping (its policy)")
	must.StrContains(t, errs, "default/web: moved to n2")
	must.Eq(t, &api.NodeDrainRequest{Key: "n1", Mode: api.DrainMode, Deadline: api.Duration(time.Hour), Force: true}, s.asked["Node.Drain"][0].(*api.NodeDrainRequest))

	c, s = atScript(t, answers())
	must.StrContains(t, c.ok("node", "maintenance", "n1", "-detach"), "n1 is being emptied: 1 VM of 1 left")
	must.Eq(t, api.MaintenanceMode, s.asked["Node.Drain"][0].(*api.NodeDrainRequest).Mode)
	out = c.ok("node", "status", "n1")
	must.StrContains(t, out, "no: drain")
	must.StrContains(t, out, "default/web")
	must.StrContains(t, c.ok("node", "drain", "n1", "-cancel"), "n1 is used again")
	must.True(t, s.asked["Node.Drain"][1].(*api.NodeDrainRequest).Cancel)
	c, _ = atScript(t, answers())
	var end api.NodeResponse
	must.NoError(t, json.Unmarshal([]byte(c.ok("node", "drain", "n1", "-o", "json")), &end))
	must.False(t, end.Node.Drain.Active())
}

func TestADrainThatCannotEndSaysWhatIsLeft(t *testing.T) {
	active := &api.NodeDrain{Mode: api.DrainMode, StartTime: 1}
	late := &api.NodeDrain{Mode: api.DrainMode, StartTime: 1, Deadline: 2}
	for name, get := range map[string][]any{
		"failed":   {drained(active, vmIs("web", api.DrainMoved, "n2", ""), vmIs("db", api.DrainFailed, "", "attempt 3 of 3 failed: the link was cut"))},
		"late":     {drained(late, vmIs("db", api.DrainQueued, "", "no node fits"))},
		"canceled": {drained(nil)},
	} {
		c, _ := atScript(t, map[string][]any{"Node.Drain": {drained(active)}, "Node.Get": get})
		errs := c.fails(exitError, "node", "drain", "n1")
		want := map[string]string{"failed": "attempt 3 of 3 failed: the link was cut", "late": "n1 is not empty: 1 VM of 1 left", "canceled": "the drain of n1 was canceled"}[name]
		must.StrContains(t, errs, want)
	}
	must.True(t, hopeful(drained(&api.NodeDrain{Force: true}, vmIs("db", api.DrainFailed, "", "")), time.Now()), must.Sprint("it is stopped at the deadline"))
	must.True(t, hopeful(drained(late, vmIs("db", api.DrainMoving, "", "")), time.Now()), must.Sprint("what is under way goes on"))

	c, s := atScript(t, map[string][]any{"Node.Drain": {drained(active)}, "Node.Get": {drained(active, vmIs("web", api.DrainMoving, "", ""))}})
	ctx, cancel := context.WithCancel(t.Context())
	s.then["Node.Get"] = cancel
	p := c.start(ctx, "node", "drain", "n1")
	code := <-p.code
	errs := p.errs.String()
	must.Eq(t, exitError, code)
	must.StrContains(t, errs, "the drain goes on")
}
