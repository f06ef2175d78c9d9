package cluster

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/lease"
)

// room is a guarded machine with so much memory and a kind of disk.
func room(memory api.Bytes, disk string) func(*api.Node) {
	return func(n *api.Node) {
		guarded(n)
		n.Capacity.Memory, n.Labels = memory, n.Labels.Set("disk", disk)
	}
}

// A host is lost with more on it than the others can hold: the VMs come back in
// order of priority, where their rules allow it; the rest waits and says why, and
// who that would be was said before.
func TestAHostThatWasTooFullIsRecoveredByPriority(t *testing.T) {
	var ahead atomic.Int64
	r := newWorld(t).region("eu", 1, clocked(&ahead))
	down := r.working("n1", room(8*api.GiB, "ssd"))
	one := func(name string, priority int32, change ...func(*api.VMSpec)) {
		s := haSpec(name)
		s.Memory, s.Priority, s.Labels = api.GiB, priority, api.Pairs{}.Set("name", name)
		for _, f := range change {
			f(&s)
		}
		mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: s})
		r.vm(name, "running")
	}
	// They are made in the reverse of the order in which they are to come back.
	one("keep", 100, func(s *api.VMSpec) { s.HA.Policy = api.HAKeep })
	one("v50", 0)
	one("v60", 60)
	one("v90", 90, func(s *api.VMSpec) { s.Constraints = []api.Constraint{{Attribute: "label.disk", Value: "ssd"}} })
	one("v70", 70)
	one("v80", 80)
	living := []*fakeNode{r.working("n2", room(2*api.GiB, "ssd")), r.working("n3", room(api.GiB, "hdd"))}
	for name, priority := range map[string]int32{"v70": 70, "v80": 80} { // on one host with v90 until now
		s := haSpec(name)
		s.Memory, s.Priority, s.Labels = api.GiB, priority, api.Pairs{}.Set("name", name)
		s.Affinities = []api.Affinity{{Selector: api.Pairs{}.Set("name", "v90"), Domain: "label.disk", Anti: true}}
		mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: s})
	}
	eventually(t, "all are armed", func() bool {
		return !slices.ContainsFunc([]string{"v50", "v60", "v70", "v80", "v90"}, func(v string) bool { return !r.placement(v).Armed })
	})
	status := func() *api.HAStatus { return mustCall[api.HAStatus](r, "Operator.HAStatus", &api.ListRequest{}) }
	ha := status()
	must.Eq(t, "n1", ha.Nodes[0].Name)
	said := ha.Nodes[0].Stranded
	must.Eq(t, []api.HAStranded{
		{Namespace: api.DefaultNamespace, Name: "v70", Short: "memory"}, {Namespace: api.DefaultNamespace, Name: "v50", Short: "memory"},
	}, said)

	down.die()
	pass(t, &ahead, lease.Default.Wait(true)+1, living...)
	down.status(api.NodeLost)
	back := func(vm, node string) {
		t.Helper()
		eventually(t, vm+" runs on "+node, func() bool {
			p := r.placement(vm)
			return p.State == api.StateRunning && r.leader().fsm.State().Node(p.NodeID).Name == node
		})
	}
	back("v90", "n2")
	back("v80", "n3")
	back("v60", "n2")

	ha = status()
	var waiting, names []string
	for _, v := range ha.VMs {
		names = append(names, v.Name)
		if v.Policy == api.HARestart {
			waiting = append(waiting, v.Name)
			must.StrContains(t, v.Why, "node n3: needs 1 GiB, 0 B free of 1 GiB")
			must.Negative(t, v.In)
		}
	}
	must.Eq(t, []string{"keep", "v70", "v50"}, names, must.Sprint("in the order of their priorities"))
	must.Eq(t, []string{said[0].Name, said[1].Name}, waiting, must.Sprint("those of whom it was said before"))
	for vm, want := range map[string]string{"v70": "node n2: ", "v50": "node n2: needs 1 GiB, 0 B free of 2 GiB", "keep": "ha = keep"} {
		why := strings.Join(r.vm(vm, "running").Why, "\n")
		must.StrContains(t, why, want)
		must.Eq(t, down.node.ID, r.placement(vm).NodeID)
	}

	// What comes goes to the first of them that it can take.
	r.working("n4", room(api.GiB, "hdd"))
	back("v70", "n4")
	must.Eq(t, down.node.ID, r.placement("v50").NodeID)
	r.working("n5", room(api.GiB, "ssd"))
	back("v50", "n5")
	must.Eq(t, down.node.ID, r.placement("keep").NodeID)
}
