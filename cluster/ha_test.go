package cluster

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/lease"
)

// guarded gives a machine a guard with a watchdog and a shared pool.
func guarded(n *api.Node) {
	n.Guard = api.GuardWatchdog
	n.Pools = append(n.Pools, api.NodePool{Name: "san", Type: "dir", Shared: true, UUID: api.ID{7}, Capacity: 100 * api.GiB, Free: 100 * api.GiB})
}

func haSpec(name string) api.VMSpec {
	s := testSpec(name)
	s.Disks[0].Pool, s.HA.Policy = "san", api.HARestart
	return s
}

// pass lets time pass in small steps in which the nodes that live beat.
func pass(t *testing.T, ahead *atomic.Int64, d time.Duration, living ...*fakeNode) {
	t.Helper()
	for d > 0 {
		step := min(d, 4*time.Second)
		ahead.Add(int64(step))
		d -= step
		for _, n := range living {
			_, err := n.beat()
			must.NoError(t, err)
		}
	}
}

func (r *region) placement(vm string) *api.Placement {
	st := r.leader().fsm.State()
	return st.Placement(st.VMByName(api.DefaultNamespace, vm).ID)
}

func TestAnArmedVMIsRestartedElsewhereAfterTheWait(t *testing.T) {
	var ahead atomic.Int64
	r := newWorld(t).region("eu", 1, clocked(&ahead))
	nodes := []*fakeNode{r.working("n1", guarded), r.working("n2", guarded)}
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: haSpec("web")})
	kept := testSpec("kept")
	kept.Disks[0].Pool = "san"
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: kept})
	r.vm("web", "running")
	r.vm("kept", "running")
	eventually(t, "it is armed", func() bool { return r.placement("web").Armed })
	old := r.placement("web")
	down, up := nodes[0], nodes[1]
	if old.NodeID == nodes[1].node.ID {
		down, up = up, down
	}

	down.die()
	wait := lease.Default.Wait(true)
	pass(t, &ahead, wait-2*time.Second, up)
	down.status(api.NodeSuspect)
	st := r.vm("web", "running")
	must.StrContains(t, strings.Join(st.Why, "\n"), "then the VM is restarted elsewhere")
	must.Eq(t, old.Epoch, r.placement("web").Epoch)
	ha := mustCall[api.HAStatus](r, "Operator.HAStatus", &api.ListRequest{})
	must.True(t, ha.Active)
	must.Len(t, 1, vmsOf(ha, "web"))
	must.Between(t, 0, vmsOf(ha, "web")[0].In.D(), 2*time.Second)

	pass(t, &ahead, 3*time.Second, up)
	down.status(api.NodeLost)
	eventually(t, "it runs on the other node", func() bool {
		p := r.placement("web")
		return p.NodeID == up.node.ID && p.State == api.StateRunning
	})
	must.Eq(t, old.Epoch+1, r.placement("web").Epoch)
	now := r.leader().fsm.State()
	must.Eq(t, old.Epoch, now.Tombstone(down.node.ID, old.VMID).Epoch)
	must.Eq(t, api.EvidenceLease, now.Node(down.node.ID).Lost.Kind)
	if p := r.placement("kept"); p.NodeID == down.node.ID {
		must.Eq(t, "", p.Fenced, must.Sprint("it may run on"))
	}

	ack, err := down.beat()
	must.NoError(t, err)
	must.True(t, ack.Register)
	must.Zero(t, ack.Lease, must.Sprint("a lost host gets no lease before it has registered"))
	down.ready()
	ack, err = down.beat()
	must.NoError(t, err)
	must.Eq(t, lease.Default.Lease, ack.Lease.D())
	must.Nil(t, r.leader().fsm.State().Node(down.node.ID).Lost)
}

func vmsOf(ha *api.HAStatus, name string) (out []api.HAVM) {
	for _, v := range ha.VMs {
		if v.Name == name {
			out = append(out, v)
		}
	}
	return out
}

func TestTheStormBrakeHoldsAndLetsGo(t *testing.T) {
	var ahead atomic.Int64
	r := newWorld(t).region("eu", 1, clocked(&ahead))
	var nodes []*fakeNode
	for _, name := range []string{"n1", "n2", "n3", "n4"} {
		nodes = append(nodes, r.newNode(name, guarded).ready())
	}
	for _, n := range nodes[1:] {
		n.quiet()
	}
	pass(t, &ahead, lease.Default.Wait(true)+time.Second, nodes[0])
	hold := func() *api.HAHold { return r.leader().fsm.State().HAConfig().Hold }
	eventually(t, "the brake holds", func() bool { return hold() != nil })
	must.True(t, hold().Storm)
	for _, n := range nodes[1:] {
		n.status(api.NodeSuspect)
	}
	for _, n := range nodes[1:] {
		ack, err := n.beat()
		must.NoError(t, err)
		must.Eq(t, lease.Default.Lease, ack.Lease.D())
	}
	eventually(t, "the brake lets go", func() bool { return hold() == nil })
}

func TestOperatorsHoldDisarmAndResume(t *testing.T) {
	var ahead atomic.Int64
	r := newWorld(t).region("eu", 1, clocked(&ahead))
	n := r.newNode("n1", guarded).ready()
	control := func(c *api.HAControl) *api.HAStatus {
		return mustCall[api.HAStatus](r, "Operator.HAControl", c)
	}
	got := control(&api.HAControl{Action: api.HAHoldAction, Reason: "works"})
	must.False(t, got.Active)
	must.StrContains(t, got.Why, "works")
	must.False(t, got.Config.Hold.Storm)
	got = control(&api.HAControl{Action: api.HADisarmAction, Fencing: api.FencingLeaseOnly})
	must.Eq(t, api.FencingLeaseOnly, got.Config.Fencing)
	ack, err := n.beat()
	must.NoError(t, err)
	must.True(t, ack.Disarm)
	must.True(t, control(&api.HAControl{Action: api.HAResumeAction}).Active)
	ack, err = n.beat()
	must.NoError(t, err)
	must.False(t, ack.Disarm)
	must.Eq(t, 60*time.Second, control(&api.HAControl{Wait: api.Duration(time.Minute)}).Nodes[0].Wait.D())

	for _, bad := range []*api.HAControl{{Action: "panic"}, {Wait: api.Duration(31 * time.Second)}, {Fencing: "luck"}} {
		_, err := call[api.HAStatus](r, r.leader(), "Operator.HAControl", bad)
		must.ErrorIs(t, err, code(api.CodeInvalid))
	}
}

func TestStatusNamesWhoWouldFitNowhere(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	small := func(n *api.Node) {
		guarded(n)
		n.Capacity = api.Resources{CPU: api.Cores(8), Memory: 400 * api.MiB}
	}
	for _, n := range []string{"n1", "n2"} {
		r.working(n, small)
	}
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: haSpec("a")})
	r.vm("a", "running")
	ha := mustCall[api.HAStatus](r, "Operator.HAStatus", &api.ListRequest{})
	for _, n := range ha.Nodes {
		must.Len(t, 0, n.Stranded)
	}
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: haSpec("b")})
	r.vm("b", "running")
	ha = mustCall[api.HAStatus](r, "Operator.HAStatus", &api.ListRequest{})
	for _, n := range ha.Nodes {
		must.Len(t, 1, n.Stranded)
		must.Eq(t, "memory", n.Stranded[0].Short)
	}
}

func TestOnlyTheLeaderSpeaksOfLeases(t *testing.T) {
	var ahead atomic.Int64
	r := newWorld(t).region("eu", 3, clocked(&ahead))
	n := r.working("n1", guarded)
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: haSpec("web")})
	r.vm("web", "running")
	eventually(t, "it is armed", func() bool { return r.placement("web").Armed })
	n.die()
	ahead.Add(int64(suspectAfter + time.Second))
	n.status(api.NodeSuspect)
	r.converge()
	stale := api.QueryOptions{Consistency: api.ConsistencyStale}
	_, err := call[api.HAStatus](r, r.follower(), "Operator.HAStatus", &api.ListRequest{QueryOptions: stale})
	must.ErrorIs(t, err, code(api.CodeUnsupported))
	st, err := call[api.VMStatusResponse](r, r.follower(), "VM.Status", &api.GetRequest{Key: "web", QueryOptions: stale})
	must.NoError(t, err)
	must.StrContains(t, strings.Join(st.Why, "\n"), "only the leader knows")
	must.StrNotContains(t, strings.Join(st.Why, "\n"), "silent for")
}
