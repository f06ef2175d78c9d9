//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/lab"
)

// node is what the cluster says of a node.
func node(t *testing.T, ctx context.Context, name string) *api.NodeResponse {
	t.Helper()
	r := &api.NodeResponse{}
	must.NoError(t, cluster.JSON(ctx, r, "node", "status", name))
	return r
}

// items are what a drain does about each VM, by name.
func items(r *api.NodeResponse) map[string]api.DrainItem {
	out := map[string]api.DrainItem{}
	for _, it := range r.Drain {
		out[it.VM] = it
	}
	return out
}

// settled waits until nothing is moved any more.
func settled(t *testing.T, ctx context.Context) {
	t.Helper()
	must.NoError(t, lab.Until(ctx, func() error {
		var list []*api.Migration
		if err := cluster.JSON(ctx, &list, "migration", "list", "-active"); err != nil {
			return err
		}
		if len(list) > 0 {
			return fmt.Errorf("%d moves are under way, the first is %s", len(list), list[0].Phase)
		}
		return nil
	}))
}

func TestANodeIsDrainedAndUsedAgain(t *testing.T) {
	ctx := limit(t, 12*time.Minute)
	t.Cleanup(func() {
		for _, n := range []string{"c1", "c2"} {
			cli(t, context.Background(), "node", "uncordon", n)
		}
	})
	t.Log("two that run and one that is stopped, all on c1")
	cli(t, ctx, "node", "cordon", "c2")
	names := []string{"drain-a", "drain-b", "drain-c"}
	born := map[string]string{}
	for _, name := range names {
		must.Eq(t, "c1", run(t, ctx, name, "").Node)
		born[name] = nonce(t, ctx, name)
	}
	cli(t, ctx, "vm", "stop", "drain-c")
	await(t, ctx, "drain-c", api.StateStopped)
	cli(t, ctx, "node", "uncordon", "c2")

	t.Log("all of them leave: live, live and cold")
	out := cli(t, ctx, "node", "drain", "c1")
	must.StrContains(t, out, "c1 is drained")
	n := node(t, ctx, "c1")
	must.NotNil(t, n.Node.Drain)
	must.NotEq(t, 0, n.Node.Drain.DoneTime)
	must.Eq(t, api.Ineligible, n.Node.Eligibility)
	must.SliceEmpty(t, n.Placements)
	for _, name := range names {
		it := items(n)[name]
		must.Eq(t, api.DrainMoved, it.State, must.Sprint(name))
		must.Eq(t, "c2", it.To, must.Sprint(name))
		m := moved(t, ctx, name)
		must.Eq(t, api.CauseDrain, m.Cause)
		want := api.MigrateLive
		if name == "drain-c" {
			want = api.MigrateCold
		}
		must.Eq(t, want, m.Mode, must.Sprint(name))
	}
	for _, name := range names[:2] {
		s := await(t, ctx, name, api.StateRunning)
		must.Eq(t, "c2", s.Node)
		must.Eq(t, born[name], nonce(t, ctx, name), must.Sprint("the guest went on"))
		on := pids(t, ctx, s.VM.ID)
		must.Len(t, 1, on)
		must.StrHasPrefix(t, "c2:", on[0])
	}
	must.Eq(t, "c2", await(t, ctx, "drain-c", api.StateStopped).Node)
	left, err := host(t, "c1").PIDs(ctx, "qemu-system.*guest=nova-")
	must.NoError(t, err)
	must.SliceEmpty(t, left, must.Sprint("nothing is left on the node itself"))

	t.Log("used again")
	cli(t, ctx, "node", "uncordon", "c1")
	n = node(t, ctx, "c1")
	must.Nil(t, n.Node.Drain)
	must.Eq(t, api.Eligible, n.Node.Eligibility)

	t.Log("a drain that is canceled: moves under way go on, the others are not begun")
	cli(t, ctx, "node", "drain", "c2", "-detach")
	must.StrContains(t, cli(t, ctx, "node", "drain", "c2", "-cancel"), "c2 is used again")
	n = node(t, ctx, "c2")
	must.Nil(t, n.Node.Drain)
	must.Eq(t, api.Eligible, n.Node.Eligibility)
	settled(t, ctx)
	for _, name := range names[:2] {
		s := await(t, ctx, name, api.StateRunning)
		must.Eq(t, born[name], nonce(t, ctx, name), must.Sprintf("%s on %s", name, s.Node))
	}

	t.Log("maintenance, asked of the node itself: what is stopped stays")
	at := status(t, ctx, "drain-c").Node
	text, err := cluster.CLIVia(ctx, host(t, at), "node", "maintenance", "-self")
	must.NoError(t, err)
	must.StrContains(t, text, at+" is in maintenance")
	n = node(t, ctx, at)
	must.Eq(t, api.MaintenanceMode, n.Node.Drain.Mode)
	must.Eq(t, api.DrainStays, items(n)["drain-c"].State)
	must.Eq(t, at, await(t, ctx, "drain-c", api.StateStopped).Node)
	for _, name := range names[:2] {
		must.Eq(t, elsewhere(at), await(t, ctx, name, api.StateRunning).Node)
		must.Eq(t, born[name], nonce(t, ctx, name))
	}
	_, err = cluster.CLIVia(ctx, host(t, at), "node", "uncordon", "-self")
	must.NoError(t, err)
	must.Eq(t, api.Eligible, node(t, ctx, at).Node.Eligibility)
	cli(t, ctx, "vm", "start", "drain-c")
	must.Eq(t, at, await(t, ctx, "drain-c", api.StateRunning).Node)

	t.Log("what cannot be is refused")
	refused(t, ctx, api.CodeNotFound, "node", "drain", "nobody")
	_, err = cluster.CLIVia(ctx, cluster.Servers[0], "node", "drain", "-self")
	must.ErrorContains(t, err, "not in client mode")
}
