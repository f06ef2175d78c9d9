package scheduler

import (
	"fmt"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
	"github.com/shoenig/test/must"
)

func labels(kv ...string) api.Pairs {
	m := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return api.PairsOf(m)
}

// racks is a world of nodes 1..n in racks r0, r1, r2 by n%3.
func racks(t *testing.T, n int) *world {
	w := newWorld(t)
	for i := range n {
		w.node(i+1, nil)
	}
	return w
}

func (w *world) rack(node api.ID) string {
	r, _ := w.f.State().Node(node).Labels.Get("rack")
	return r
}

func TestHardAntiAffinityKeepsApartByDomain(t *testing.T) {
	w := racks(t, 6)
	apart := func(s *api.VMSpec) {
		s.Labels = labels("app", "db")
		s.Affinities = []api.Affinity{{Selector: labels("app", "db"), Anti: true, Domain: "label.rack"}}
	}
	seen := map[string]bool{}
	for i := range 3 {
		seen[w.rack(w.place(w.vm(i, apart)))] = true
	}
	must.MapLen(t, 3, seen)
	fourth := w.vm(4, apart)
	w.follow()
	d := w.e.Decide(fourth)
	must.EqOp(t, Wait, d.Verdict)
	must.EqOp(t, FailAffinity, d.Waiter.Failed())
	must.EqOp(t, "has 1 VM in the same label.rack that this one has to keep away from", w.verdictOf(fourth, w.firstOf("db")).Reason)
	w.e.Rest()
	w.must(&fsm.VMDelete{ID: id('v', 1)})
	w.follow()
	must.True(t, w.e.Helps(d.Waiter), must.Sprint("VMs of its namespace moved"))
	w.place(fourth)
}

// The rule also holds against a newcomer that has no rule itself.
func TestHardAntiAffinityWorksBackwards(t *testing.T) {
	w := racks(t, 2)
	lonely := w.place(w.vm(1, func(s *api.VMSpec) {
		s.Labels = labels("app", "lonely")
		s.Affinities = []api.Affinity{{Selector: labels("noisy", "yes"), Anti: true}}
	}))
	for round := range 2 { // incrementally, and after a rebuild
		vm := w.vm(2+round, func(s *api.VMSpec) { s.Labels = labels("noisy", "yes"); s.Disks = nil })
		must.NotEq(t, lonely, w.place(vm))
		must.EqOp(t, "1 VM in the same node asked to be kept away from VMs like this one", w.verdictOf(vm, lonely).Reason)
		w.e.Reset(w.f.State())
	}
	must.Eq(t, lonely, w.place(w.vm(9, func(s *api.VMSpec) {
		s.Labels = labels("noisy", "no")
		s.Constraints = []api.Constraint{{Attribute: "node.id", Value: lonely.String()}}
	})))
}

func TestHardAffinityStaysTogether(t *testing.T) {
	w := racks(t, 6)
	with := func(own, sel string) func(*api.VMSpec) {
		return func(s *api.VMSpec) {
			s.Labels = labels("app", own)
			s.Affinities = []api.Affinity{{Selector: labels("app", sel), Domain: "label.rack"}}
		}
	}
	follower := w.vm(1, with("web", "db"))
	w.follow()
	d := w.e.Decide(follower)
	must.EqOp(t, Wait, d.Verdict, must.Sprint("there is nobody to be with"))
	w.e.Rest()
	first := w.place(w.vm(2, with("db", "db")))
	must.True(t, w.e.Helps(d.Waiter))
	must.EqOp(t, w.rack(first), w.rack(w.place(follower)))
	must.EqOp(t, w.rack(first), w.rack(w.place(w.vm(3, with("db", "db")))))
	other := id('n', 1)
	if w.rack(other) == w.rack(first) {
		other = id('n', 2)
	}
	must.EqOp(t, "has no VM in the same label.rack that this one has to be together with", w.verdictOf(w.vm(4, with("web", "db")), other).Reason)
	none := w.node(7, func(n *api.Node) { n.Labels = nil })
	must.EqOp(t, "has no label.rack, which an affinity needs", w.verdictOf(id('v', 4), none).Reason)
}

func TestSoftRulesAndSpreadLeanButDoNotForbid(t *testing.T) {
	w := racks(t, 3)
	count := map[string]int{}
	for i := range 9 {
		n := w.place(w.vm(i, func(s *api.VMSpec) {
			s.Memory, s.Disks = api.GiB, nil
			s.Labels = labels("app", "web")
			s.Spread = []api.Spread{{Attribute: "label.rack"}}
		}))
		count[w.rack(n)]++
	}
	must.MapEq(t, map[string]int{"r0": 3, "r1": 3, "r2": 3}, count)

	// A node without the attribute is the last resort of a spread.
	bare := w.node(4, func(n *api.Node) { n.Labels = nil })
	must.NotEq(t, bare, w.place(w.vm(20, func(s *api.VMSpec) {
		s.Labels = labels("app", "web")
		s.Spread = []api.Spread{{Attribute: "label.rack", Weight: 100}}
	})))

	// Soft affinity joins, soft anti-affinity leaves, and both give way.
	home := w.place(w.vm(30, func(s *api.VMSpec) { s.Labels = labels("app", "cache") }))
	must.Eq(t, home, w.place(w.vm(31, func(s *api.VMSpec) {
		s.Affinities = []api.Affinity{{Selector: labels("app", "cache"), Weight: 100}}
	})))
	for i, a := range []api.Affinity{
		{Selector: labels("app", "cache"), Weight: 100, Anti: true}, {Selector: labels("app", "cache"), Weight: -100},
	} {
		must.NotEq(t, home, w.place(w.vm(32+i, func(s *api.VMSpec) { s.Affinities = []api.Affinity{a} })))
		must.Eq(t, home, w.place(w.vm(40+i, func(s *api.VMSpec) {
			s.Memory = api.MiB
			s.Affinities = []api.Affinity{a}
			s.Constraints = []api.Constraint{{Attribute: "node.id", Value: home.String()}}
		})))
	}
}

func TestGroupsFollowLabelsAndNodes(t *testing.T) {
	w := racks(t, 3)
	vm := w.vm(1, func(s *api.VMSpec) { s.Labels = labels("app", "x"); s.Disks = nil })
	n := w.place(vm)
	g := w.e.peers.group("default", labels("app", "x"), "label.rack")
	all := w.e.peers.group("default", nil, "")
	in := func() int32 { _, c := g.domain(w.e.cols.index[n]); return c }
	must.EqOp(t, int32(1), in())
	must.EqOp(t, int32(1), all.total)

	w.must(&fsm.VMApply{ID: vm, Spec: spec("vm1", func(s *api.VMSpec) { s.Labels = labels("app", "y"); s.Disks = nil })})
	w.follow()
	w.e.flush()
	must.Zero(t, in())
	w.must(&fsm.VMApply{ID: vm, Spec: spec("vm1", func(s *api.VMSpec) { s.Labels = labels("app", "x"); s.Disks = nil })})
	w.follow()
	w.e.flush()
	must.EqOp(t, int32(1), in())

	// The node changes racks and takes its VMs along.
	old := w.e.peers.projections["label.rack"].of[w.e.cols.index[n]]
	nd := *w.f.State().Node(n)
	nd.Labels = labels("rack", "new")
	w.must(&fsm.NodeRegister{Node: nd, SessionID: id('s', 50)})
	w.follow()
	w.e.flush()
	must.EqOp(t, int32(1), in())
	must.Zero(t, g.inDomain[old])

	w.must(&fsm.VMDelete{ID: vm})
	w.follow()
	w.e.flush()
	must.Zero(t, in())
	must.Zero(t, all.total)
	must.MapEmpty(t, w.e.peers.of)
}

func TestUnusedGroupsFiltersAndClassesAreShed(t *testing.T) {
	w := racks(t, 1)
	vm := w.vm(1, func(s *api.VMSpec) { s.Labels = labels("app", "x") })
	w.place(vm)
	w.e.peers.group("default", labels("app", "x"), "")
	for i := range maxGroups + 1 {
		w.e.peers.group("default", labels("app", fmt.Sprint(i)), "")
	}
	must.LessEq(t, maxGroups, len(w.e.peers.match.byKey))
	must.MapEmpty(t, w.e.peers.of)
	for i := range maxFilters + 1 {
		plan := &api.VM{Namespace: "default", Spec: spec("p", func(s *api.VMSpec) { s.Datacenters = []string{fmt.Sprint(i)} })}
		vols := w.e.volumesOf(plan)
		_, broken := w.e.classOf(plan, vols, fsm.AskOf(&plan.Spec, vols))
		must.EqOp(t, "", broken)
	}
	must.LessEq(t, maxFilters, len(w.e.filters))
	for _, c := range w.e.classes {
		must.True(t, c.filter.live)
	}
}

// firstOf returns a node that holds a VM of an app.
func (w *world) firstOf(app string) api.ID {
	s := w.f.State()
	for p := range s.Placements() {
		if a, _ := s.VM(p.VMID).Spec.Labels.Get("app"); a == app {
			return p.NodeID
		}
	}
	return api.ID{}
}
