package scheduler

import (
	"fmt"
	"slices"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func guarded(n *api.Node) { n.Guard = api.GuardWatchdog }

// ha makes a VM that is restarted elsewhere: of 2 GiB, without disks.
func ha(s *api.VMSpec) { s.Disks, s.HA.Policy = nil, api.HARestart }

func ruleOn(app string, anti bool, domain string) api.Affinity {
	return api.Affinity{Selector: api.Pairs{}.Set("app", app), Anti: anti, Domain: domain}
}

// lose declares a node lost with evidence that covers all of its VMs.
func (w *world) lose(node api.ID) {
	r := w.f.State().Registration(node)
	w.must(&fsm.HostLost{NodeID: node, Session: r.SessionID, Registered: r.Index, Evidence: api.Evidence{Kind: api.EvidenceOperator, By: "op"}})
}

// recovered restarts what it can of a lost node, in the order of the queue, and
// returns where each VM went; those that wait are nowhere.
func (w *world) recovered() map[string]string {
	q, where := NewQueue(), map[string]string{}
	s := w.follow()
	for vm := range s.VMs() {
		if Needs(s, vm, s.Placement(vm.ID)) == NeedRecover {
			q.Push(ItemOf(vm))
		}
	}
	for it, ok := q.Pop(); ok; it, ok = q.Pop() {
		vm := w.f.State().VM(it.ID)
		d := w.e.Decide(it.ID)
		if d.Verdict != Commit {
			where[vm.Name] = ""
			q.Done(it.ID)
			continue
		}
		must.SliceContains(w.t, newChecker(w.f.State()).legal(vm), d.Node, must.Sprint(vm.Name))
		for _, r := range w.commit(d) {
			must.Nil(w.t, r.Err)
		}
		where[vm.Name] = w.f.State().Node(d.Node).Name
		q.Done(it.ID)
	}
	return where
}

func strandedNames(list []api.HAStranded) (out []string) {
	for i := range list {
		out = append(out, list[i].Name)
	}
	slices.Sort(out)
	return out
}

func TestVMsThatHaveToBeTogetherComeBackTogether(t *testing.T) {
	w := newWorld(t)
	home := w.node(1, guarded)
	together := func(s *api.VMSpec) {
		ha(s)
		s.Labels, s.Affinities = api.Pairs{}.Set("app", "pair"), []api.Affinity{ruleOn("pair", false, "")}
	}
	for n := 1; n <= 2; n++ {
		must.Eq(t, home, w.place(w.vm(n, together)))
	}
	w.node(2, func(n *api.Node) { guarded(n); n.Capacity.Memory = 4 * api.GiB })
	must.MapEmpty(t, Failover(w.follow()))
	w.lose(home)
	must.Eq(t, map[string]string{"vm1": "n2", "vm2": "n2"}, w.recovered())
}

func TestVMsOfALostNodeKeepNobodyAway(t *testing.T) {
	w := newWorld(t)
	home := w.node(3, guarded) // in rack r0
	for n := 1; n <= 2; n++ {
		must.Eq(t, home, w.place(w.vm(n, func(s *api.VMSpec) { ha(s); s.Labels = api.Pairs{}.Set("app", fmt.Sprint(n)) })))
	}
	// The rule is younger than the placements.
	w.must(&fsm.VMApply{ID: id('v', 2), Spec: spec("vm2", func(s *api.VMSpec) {
		ha(s)
		s.Labels, s.Affinities = api.Pairs{}.Set("app", "2"), []api.Affinity{ruleOn("1", true, "label.rack")}
	})})
	w.node(6, func(n *api.Node) { guarded(n); n.Capacity.Memory = 2 * api.GiB }) // in r0 too
	must.Eq(t, []string{"vm2"}, strandedNames(Failover(w.follow())[home]))
	w.lose(home)
	must.Eq(t, map[string]string{"vm1": "n6", "vm2": ""}, w.recovered())
}

// TestWhoWouldFitNowhereIsWhoDoesNot: what is said of a node before it is lost
// comes true, VM by VM.
func TestWhoWouldFitNowhereIsWhoDoesNot(t *testing.T) {
	lost, waited := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		d := draw{rt, newWorld(rt)}
		w := d.w
		home := w.node(1, guarded)
		size := func(s *api.VMSpec) {
			ha(s)
			s.Memory, s.Priority = api.GiB*api.Bytes(d.n("memory", 1, 3)), int32(d.n("priority", 1, 3))
			s.Labels = api.Pairs{}.Set("app", fmt.Sprint(d.n("app", 1, 3)))
		}
		var specs []api.VMSpec
		for n := 1; n <= d.n("vms", 1, 5); n++ {
			w.must(&fsm.VMApply{ID: id('v', n), Spec: spec(fmt.Sprintf("vm%d", n), func(s *api.VMSpec) { size(s); specs = append(specs, *s) })})
			w.place(id('v', n))
		}
		for n := 2; n <= d.n("nodes", 2, 4); n++ {
			w.node(n, func(nd *api.Node) { guarded(nd); nd.Capacity.Memory = api.GiB * api.Bytes(d.n("room", 1, 6)) })
		}
		for k, s := range specs { // rules that the VMs are not placed by
			if d.yes("a rule") {
				domain := ""
				if d.yes("racks") {
					domain = "label.rack"
				}
				s.Affinities = []api.Affinity{ruleOn(fmt.Sprint(d.n("of", 1, 3)), d.yes("anti"), domain)}
			}
			if d.yes("a rack") {
				s.Constraints = []api.Constraint{{Attribute: "label.rack", Operator: "=", Value: fmt.Sprintf("r%d", d.n("rack", 0, 2))}}
			}
			w.must(&fsm.VMApply{ID: id('v', k+1), Spec: s})
		}
		for n := 6; n <= 6+d.n("others", 0, 3); n++ { // elsewhere already
			v := w.vm(n, size)
			w.follow()
			if dec := w.e.Decide(v); dec.Verdict == Commit && dec.Node != home {
				w.commit(dec)
			} else {
				w.e.Settle(v)
			}
		}
		said := strandedNames(Failover(w.follow())[home])
		w.lose(home)
		var waits []string
		where := w.recovered()
		for name, node := range where {
			if node == "" {
				waits = append(waits, name)
			}
		}
		slices.Sort(waits)
		must.Eq(rt, said, waits)
		lost, waited = lost+len(where), waited+len(waits)
	})
	must.Positive(t, waited)
	must.Less(t, lost, waited, must.Sprint("some wait, some do not"))
}
