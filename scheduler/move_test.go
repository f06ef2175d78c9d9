package scheduler

import (
	"fmt"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func mover2(n *api.Node) { n.Drivers[0].Can, n.Drivers[0].Acceleration = []string{"migrate"}, "kvm" }

// movers is a world of nodes 1..n that move guests.
func movers(t must.T, n int) *world {
	w := newWorld(t)
	for i := range n {
		w.node(i+1, mover2)
	}
	return w
}

// runs places a VM on a node, which runs it.
func (w *world) runs(vm, node api.ID) api.ID {
	s := w.f.State()
	var others []api.ID
	for n := range s.Nodes() {
		if n.ID != node && n.Eligibility == api.Eligible {
			others = append(others, n.ID)
			w.must(&fsm.NodeUpdate{ID: n.ID, Eligibility: api.Ineligible})
		}
	}
	must.Eq(w.t, node, w.place(vm))
	for _, n := range others {
		w.must(&fsm.NodeUpdate{ID: n, Eligibility: api.Eligible})
	}
	w.made(vm)
	w.report(vm, api.StateRunning)
	w.follow()
	return vm
}

// made says that a VM's volumes are there.
func (w *world) made(vm api.ID) {
	s := w.f.State()
	p := s.Placement(vm)
	var vols []api.VolumeReport
	for v := range s.VolumesOf(vm) {
		vols = append(vols, api.VolumeReport{ID: v.ID, State: api.VolumeReady})
	}
	w.must(&fsm.NodeReports{Reports: []api.NodeReport{{NodeID: p.NodeID, SessionID: s.Session(p.NodeID), Volumes: vols}}})
}

func create(vm api.ID, n int) *fsm.MigrationCreate {
	return &fsm.MigrationCreate{Migration: api.Migration{ID: id('x', n), VMID: vm, Mode: api.MigrateLive, Cause: api.CauseOperator, Secret: id('k', n)}}
}

func (w *world) admit(n int, to api.ID) *fsm.Result {
	return w.do(&fsm.MigrationStep{ID: id('x', n), Phase: api.MigrationQueued, Next: api.MigrationProposed, To: to})
}

func (w *world) move(q Move, vm api.ID) (*api.Explanation, func(n int) api.NodeVerdict) {
	s := w.follow()
	q.VM = s.VM(vm)
	x := w.e.Move(q)
	must.Eq(w.t, x, ExplainMove(s, q), must.Sprint("an engine that followed answers as one that was made anew"))
	return x, func(n int) api.NodeVerdict {
		for _, v := range x.Nodes {
			if v.NodeID == id('n', n) {
				return v
			}
		}
		w.t.Fatalf("no verdict on node %d", n)
		return api.NodeVerdict{}
	}
}

func TestAMoveTakesItsDisksAlong(t *testing.T) {
	w := movers(t, 3)
	vm := w.runs(w.vm(1, nil), id('n', 1))
	x, on := w.move(Move{}, vm)
	must.Eq(t, id('n', 2), x.Chosen, must.Sprint("equal nodes: the lowest"))
	must.Eq(t, "the VM is there", on(1).Reason)
	must.Eq(t, []api.DimensionNeed{{Dimension: "cpu", Need: 2000}, {Dimension: "memory", Need: int64(2 * api.GiB)}, {Dimension: "disk default", Need: int64(10 * api.GiB)}}, x.Needs)

	// What is full, cordoned or busy is passed over, unless it was asked for.
	w.must(&fsm.NodeUpdate{ID: id('n', 2), Eligibility: api.Ineligible})
	x, on = w.move(Move{Busy: map[api.ID]string{id('n', 3): "2 moves are under way there"}}, vm)
	must.True(t, x.Chosen.IsZero())
	must.Eq(t, FailEligibility, on(2).Failed)
	must.Eq(t, FailBusy, on(3).Failed)
	x, on = w.move(Move{To: id('n', 2)}, vm)
	must.Eq(t, id('n', 2), x.Chosen, must.Sprint("who names a node means it"))
	must.Eq(t, "another node was asked for", on(3).Reason)
	big := w.vm(2, func(s *api.VMSpec) { s.Memory, s.Disks[0].Size = 3*api.GiB, 95*api.GiB })
	w.runs(big, id('n', 3))
	x, on = w.move(Move{}, vm)
	must.True(t, x.Chosen.IsZero())
	must.Eq(t, FailDisk, on(3).Failed)
}

func TestAMoveNeedsHypervisorsThatAgree(t *testing.T) {
	cpu := func(model string) func(*api.Node) {
		return func(n *api.Node) { mover2(n); n.Attributes = api.PairsOf(map[string]string{"cpu.model": model}) }
	}
	w := newWorld(t)
	w.node(1, cpu("xeon"))
	w.node(2, func(n *api.Node) { cpu("xeon")(n); n.Drivers[0].Can = nil })
	w.node(3, func(n *api.Node) { cpu("xeon")(n); n.Drivers[0].Acceleration = "tcg" })
	w.node(4, cpu("epyc"))
	plain := w.runs(w.vm(1, nil), id('n', 1))
	host := w.runs(w.vm(2, func(s *api.VMSpec) { s.CPU.Model = api.ModelHost }), id('n', 1))
	x, on := w.move(Move{}, plain)
	must.Eq(t, id('n', 4), x.Chosen)
	must.Eq(t, "has no healthy driver sim that moves guests", on(2).Reason)
	must.Eq(t, "runs guests with tcg, node n1 with kvm", on(3).Reason)
	x, on = w.move(Move{}, host)
	must.True(t, x.Chosen.IsZero())
	must.Eq(t, FailCPUModel, on(4).Failed)
	must.StrContains(t, on(4).Reason, `has cpu.model = "epyc"`)
	x, _ = w.move(Move{Cold: true}, host)
	must.Eq(t, id('n', 3), x.Chosen, must.Sprint("it boots anew there"))
	still := w.runs(w.vm(3, nil), id('n', 2))
	_, on = w.move(Move{}, still)
	must.StrContains(t, on(4).Reason, "node n2, where the VM is, has no healthy driver")
}

func TestAGuestKeepsTheCPUThatItWasStartedWith(t *testing.T) {
	gives := func(flags string, models ...string) func(*api.Node) {
		return func(n *api.Node) {
			mover2(n)
			n.Drivers[0].CPUModels = models
			n.Attributes = api.PairsOf(map[string]string{"cpu.model": "xeon", "cpu.flags": flags})
		}
	}
	w := newWorld(t)
	w.node(1, gives("sse avx avx2", "EPYC", "Nehalem", "Haswell"))
	w.node(2, gives("avx2 avx sse", "Nehalem", "Haswell"))
	w.place(w.vm(9, nil)) // somewhere, with Haswell
	old := w.runs(w.vm(1, nil), id('n', 1))
	must.Eq(t, "Haswell", w.f.State().Placement(old).CPUModel)
	host := w.runs(w.vm(2, func(s *api.VMSpec) { s.CPU.Model = api.ModelHost }), id('n', 1))

	w.node(3, gives("sse avx", "Nehalem")) // an older machine joins
	_, on := w.move(Move{}, old)
	must.True(t, on(2).Fits)
	must.Eq(t, FailCPUModel, on(3).Failed)
	must.Eq(t, `cannot give the CPU model "Haswell", with which the guest runs`, on(3).Reason)
	_, on = w.move(Move{Cold: true}, old)
	must.True(t, on(3).Fits, must.Sprint("it boots anew there"))
	_, on = w.move(Move{}, host)
	must.True(t, on(2).Fits, must.Sprint("the order of the features means nothing"))
	must.Eq(t, FailCPUModel, on(3).Failed)
	must.Eq(t, "lacks CPU features that the guest sees of its host: avx2", on(3).Reason)

	fresh := w.runs(w.vm(3, nil), id('n', 1))
	must.Eq(t, "Nehalem", w.f.State().Placement(fresh).CPUModel)
	_, on = w.move(Move{}, fresh)
	must.True(t, on(3).Fits)
}

func TestWhoIsOnTheWayCountsAtItsDestination(t *testing.T) {
	w := movers(t, 4)
	apart := func(s *api.VMSpec) {
		s.Labels = labels("app", "db")
		s.Affinities = []api.Affinity{{Selector: labels("app", "db"), Anti: true}}
	}
	a, b := w.runs(w.vm(1, apart), id('n', 1)), w.runs(w.vm(2, apart), id('n', 2))
	x, _ := w.move(Move{}, a)
	must.Eq(t, id('n', 3), x.Chosen)
	w.must(create(a, 1))
	must.Nil(t, w.admit(1, id('n', 3)).Err)
	x, on := w.move(Move{}, b)
	must.Eq(t, id('n', 4), x.Chosen)
	must.Eq(t, FailAffinity, on(1).Failed, must.Sprint("it is still there"))
	must.Eq(t, FailAffinity, on(3).Failed, must.Sprint("it will be there"))
	// Newcomers keep away too.
	w.must(&fsm.NodeUpdate{ID: id('n', 4), Eligibility: api.Ineligible})
	c := w.vm(3, apart)
	w.follow()
	must.EqOp(t, Wait, w.e.Decide(c).Verdict)
	w.must(&fsm.MigrationStep{ID: id('x', 1), Phase: api.MigrationProposed, Next: api.MigrationAborting})
	_, on = w.move(Move{}, b)
	must.Eq(t, FailAffinity, on(3).Failed, must.Sprint("an abort may still become a commit"))
}

func TestVMsThatStayTogetherLeaveANodeOneAfterTheOther(t *testing.T) {
	w := movers(t, 3)
	together := func(s *api.VMSpec) {
		s.Labels = labels("app", "pair")
		s.Affinities = []api.Affinity{{Selector: labels("app", "pair")}}
	}
	a, b := w.runs(w.vm(1, together), id('n', 1)), w.runs(w.vm(2, together), id('n', 1))
	x, on := w.move(Move{}, a)
	must.True(t, x.Chosen.IsZero())
	must.Eq(t, FailAffinity, on(2).Failed)
	x, _ = w.move(Move{Leaving: true}, a)
	must.False(t, x.Chosen.IsZero(), must.Sprint("the first one goes anywhere"))
	w.must(create(a, 1))
	must.Nil(t, w.admit(1, id('n', 3)).Err)
	x, _ = w.move(Move{Leaving: true}, b)
	must.Eq(t, id('n', 3), x.Chosen, must.Sprint("the next follows"))
}

func TestAVMThatIsBeingMovedNeedsNoDecision(t *testing.T) {
	w := movers(t, 2)
	vm := w.runs(w.vm(1, func(s *api.VMSpec) { s.Disks = nil }), id('n', 1))
	w.must(&fsm.VMPower{ID: vm, Action: "stop"})
	w.report(vm, api.StateStopped)
	c := create(vm, 1)
	c.Migration.Mode = api.MigrateCold
	s := w.follow()
	must.Eq(t, NeedRelease, Needs(s, s.VM(vm), s.Placement(vm)))
	w.must(c)
	s = w.follow()
	must.Eq(t, NeedNothing, Needs(s, s.VM(vm), s.Placement(vm)), must.Sprint("the move starts from its node"))
	w.must(&fsm.VMPower{ID: vm, Action: "start"})
	s = w.follow()
	must.Eq(t, NeedAdmit, Needs(s, s.VM(vm), s.Placement(vm)), must.Sprint("a move in the queue gives way"))
	w.must(&fsm.VMPower{ID: vm, Action: "stop"})
	must.Nil(t, w.admit(1, id('n', 2)).Err)
	s = w.follow()
	must.Eq(t, NeedNothing, Needs(s, s.VM(vm), s.Placement(vm)))
}

// TestMovesAreLegal: after any history with moves in it, the columns know what
// is reserved, and the state machine admits every destination that is chosen.
func TestMovesAreLegal(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := draw{rt, newWorld(rt)}
		moves := 0
		for range d.n("steps", 1, 25) {
			d.step()
			s := d.w.follow()
			for n := range s.Nodes() {
				if len(n.Drivers[0].Can) == 0 && n.Drivers[0].Healthy {
					nd := *n
					nd.Drivers = []api.DriverInfo{{Name: "sim", Healthy: true, Can: []string{"migrate"}}}
					d.w.do(&fsm.NodeRegister{Node: nd, SessionID: s.Session(n.ID)})
				}
			}
			s = d.w.follow()
			for vm := range s.VMs() {
				if dec := d.w.e.Decide(vm.ID); dec.Verdict == Commit {
					d.w.commit(dec)
				}
			}
			s = d.w.follow()
			for vm := range s.VMs() {
				if s.Placement(vm.ID) == nil || s.MigrationOf(vm.ID) != nil || unclean(s, vm.ID) || !d.yes("move") {
					continue
				}
				d.w.made(vm.ID)
				d.w.report(vm.ID, api.StateRunning)
				moves++
				if d.w.do(create(vm.ID, moves)).Err != nil {
					continue
				}
				s = d.w.follow()
				x := d.w.e.Move(Move{VM: s.VM(vm.ID)})
				for _, v := range x.Nodes {
					if v.Failed == FailDisk || v.Failed == FailMemory || v.Failed == FailCPU {
						must.NotNil(rt, d.w.admit(moves, v.NodeID).Err, must.Sprintf("%s: %s", v.Node, v.Reason))
					}
				}
				if !x.Chosen.IsZero() {
					must.Nil(rt, d.w.admit(moves, x.Chosen).Err, must.Sprint(x.Node))
				}
				s = d.w.follow()
			}
			if moves > 0 && d.yes("abort") {
				m := s.Migration(id('x', d.n("which", 1, moves)))
				if m != nil && m.Phase.Open() {
					d.w.do(&fsm.MigrationStep{ID: m.ID, Phase: m.Phase, Next: api.MigrationAborting})
					for i, n := range []api.ID{m.From, m.To} {
						node := s.Node(n)
						if node == nil {
							continue
						}
						r := api.MoveReport{Migration: m.ID, State: []api.EndState{api.EndPresent, api.EndAbsent}[i], Clean: i == 1, BootID: node.BootID, Seq: d.w.index + 1}
						d.w.do(&fsm.NodeReports{Reports: []api.NodeReport{{NodeID: n, SessionID: s.Session(n), Moves: []api.MoveReport{r}}}})
					}
				}
			}
			s = d.w.follow()
			d.w.e.flush()
			for n := range s.Nodes() {
				i := d.w.e.cols.index[n.ID]
				limit, used := fsm.Limits(s, n), s.Used(n.ID)
				must.EqOp(rt, int64(limit.Memory-used.Memory), d.w.e.cols.memFree[i], must.Sprint(n.Name))
				for _, p := range n.Pools {
					if holder := n.ID; p.Error == "" && !p.Shared {
						must.EqOp(rt, int64(fsm.PoolLimit(s, &p)-s.Promised(holder, p.Name)), d.w.e.cols.disk(p.Name).free[i], must.Sprint(n.Name, p.Name))
					}
				}
			}
			must.Eq(rt, len(NewEngine(s).(*engine).arrivals), len(d.w.e.arrivals), must.Sprint(fmt.Sprint(moves, " moves")))
		}
	})
}

// unclean: what an earlier move of the VM left is still to be taken away.
func unclean(s *fsm.State, vm api.ID) bool {
	for m := range s.MigrationsOf(vm) {
		if !m.Phase.Active() && (!m.Source.Clean || !m.Dest.Clean) {
			return true
		}
	}
	return false
}
