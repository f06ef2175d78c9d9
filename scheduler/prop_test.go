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

// draw makes random things out of a small world, so that they collide.
type draw struct {
	*rapid.T
	w *world
}

func (d draw) n(what string, lo, hi int) int { return rapid.IntRange(lo, hi).Draw(d.T, what) }
func (d draw) yes(what string) bool          { return d.n(what, 0, 2) == 0 }

func (d draw) node() {
	n := d.n("node", 1, 5)
	nd := api.Node{
		ID: id('n', n), Name: fmt.Sprintf("n%d", n), Datacenter: fmt.Sprintf("dc%d", d.n("dc", 1, 2)), Region: "r1",
		MachineID: fmt.Sprint(n), Labels: labels("rack", fmt.Sprintf("r%d", d.n("rack", 0, 2))),
		Capacity: api.Resources{CPU: api.Cores(d.n("cores", 1, 4)), Memory: api.Bytes(d.n("memory", 1, 16)) * api.GiB},
		Drivers:  []api.DriverInfo{{Name: "sim", Healthy: !d.yes("sick")}},
	}
	if !d.yes("no bridge") {
		nd.Networks = []string{"br0"}
	}
	for _, p := range []string{"default", "fast", "san"} {
		if !d.yes("no pool " + p) {
			np := api.NodePool{Name: p, Type: "sim", Shared: p == "san", Capacity: api.Bytes(d.n("capacity", 1, 60)) * api.GiB}
			if d.n("broken", 0, 5) == 0 {
				np.Error = "broken"
			}
			nd.Pools = append(nd.Pools, np)
		}
	}
	d.w.do(&fsm.NodeRegister{Node: nd, SessionID: id('s', n), Force: true})
	d.w.do(&fsm.NodeStatus{Items: []fsm.NodeStatusItem{{NodeID: nd.ID, Status: api.NodeReady}}})
}

func (d draw) spec(n int) api.VMSpec {
	s := api.VMSpec{
		Name: fmt.Sprintf("vm%d", n), Namespace: "default", CPU: api.CPUSpec{Cores: int32(d.n("cores", 1, 6))},
		Memory: api.Bytes(d.n("memory", 1, 5)) * api.GiB, Labels: labels("app", fmt.Sprint(d.n("app", 0, 2))),
		Priority: int32(d.n("priority", 1, 3)),
	}
	for i := range d.n("disks", 0, 2) {
		s.Disks = append(s.Disks, api.Disk{Name: fmt.Sprint("d", i), Pool: rapid.SampledFrom([]string{"", "fast", "san"}).Draw(d.T, "pool"),
			Size: api.Bytes(d.n("size", 1, 20)) * api.GiB})
	}
	if d.yes("nic") {
		s.NICs = []api.NIC{{Network: "lan"}}
	}
	if d.yes("datacenters") {
		s.Datacenters = []string{"dc1"}
	}
	if d.yes("constraint") {
		s.Constraints = []api.Constraint{{Attribute: "label.rack", Operator: rapid.SampledFrom([]string{"=", "!="}).Draw(d.T, "op"), Value: "r1"}}
	}
	if d.yes("affinity") {
		s.Affinities = []api.Affinity{{Selector: labels("app", fmt.Sprint(d.n("other", 0, 2))), Anti: !d.yes("together"),
			Domain: rapid.SampledFrom([]string{"", "label.rack"}).Draw(d.T, "domain")}}
	}
	return s
}

// step makes one random change of the world.
func (d draw) step() {
	s := d.w.f.State()
	vm := id('v', d.n("vm", 1, 9))
	switch d.n("what", 0, 13) {
	case 0, 1, 2:
		d.node()
	case 3, 4, 5:
		n := int(vm[3])
		sp := d.spec(n)
		c := &fsm.VMApply{ID: vm, Spec: sp}
		for i := range sp.Disks {
			c.VolumeIDs = append(c.VolumeIDs, id('d', int(d.w.index)*8+i))
		}
		d.w.do(c)
	case 6:
		d.w.do(&fsm.VMPower{ID: vm, Action: rapid.SampledFrom([]string{"start", "stop"}).Draw(d.T, "power")})
	case 7, 8:
		if s.Placement(vm) != nil {
			d.w.report(vm, rapid.SampledFrom([]api.VMState{api.StateRunning, api.StateStopped}).Draw(d.T, "state"))
		}
	case 9:
		d.w.do(&fsm.VMDelete{ID: vm})
		for t := range s.TombstonesOf(vm) {
			d.w.do(&fsm.NodeReports{Reports: []api.NodeReport{{NodeID: t.NodeID, SessionID: s.Session(t.NodeID),
				VMs: []api.VMReport{{VMID: vm, Epoch: t.Epoch, State: api.StateAbsent, Seq: d.w.index + 1}}}}})
		}
	case 10:
		n := id('n', d.n("node", 1, 5))
		d.w.do(&fsm.NodeStatus{Items: []fsm.NodeStatusItem{{NodeID: n,
			Status: rapid.SampledFrom([]api.NodeStatus{api.NodeReady, api.NodeSuspect, api.NodeLeft}).Draw(d.T, "status")}}})
		if d.yes("delete") {
			d.w.do(&fsm.NodeDelete{ID: n})
		}
	case 11:
		d.w.do(&fsm.NodeUpdate{ID: id('n', d.n("node", 1, 5)), CPURatio: float64(d.n("ratio", 1, 6)),
			Eligibility: rapid.SampledFrom([]api.Eligibility{api.Eligible, api.Ineligible}).Draw(d.T, "eligibility")})
	case 12:
		d.w.do(&fsm.SchedulerSet{Config: api.SchedulerConfig{MemoryRatio: float64(d.n("ratio", 1, 2)),
			Algorithm: rapid.SampledFrom([]string{AlgorithmBinpack, AlgorithmSpread}).Draw(d.T, "algorithm")}})
		d.w.do(&fsm.PoolApply{Pool: api.Pool{Name: "fast", Type: "sim", Ratio: float64(d.n("ratio", 1, 3))}})
	case 13:
		d.w.do(&fsm.VolumeCreate{Volume: api.Volume{ID: id('x', int(d.w.index)), Namespace: "default", Name: fmt.Sprint("x", d.w.index),
			Pool: rapid.SampledFrom([]string{"default", "fast", "san"}).Draw(d.T, "pool"), Size: api.Bytes(d.n("size", 1, 9)) * api.GiB}})
	}
}

// TestColumnsAgreeWithFits: after any history the columns answer every request
// on every node as fsm.Fits does, whether the engine followed it or read it.
func TestColumnsAgreeWithFits(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := draw{rt, newWorld(rt)}
		for range d.n("steps", 1, 30) {
			d.step()
			s := d.w.follow()
			for vm := range s.VMs() {
				if dec := d.w.e.Decide(vm.ID); dec.Verdict == Commit {
					if d.yes("commit") {
						d.w.commit(dec)
						s = d.w.follow()
					} else {
						d.w.e.Settle(vm.ID)
					}
				}
			}
			d.w.e.flush()
			fresh := NewEngine(s).(*engine)
			a := fsm.Ask{CPU: api.MilliCPU(d.n("ask cpu", 0, 9000)), Memory: api.Bytes(d.n("ask memory", 0, 9)) * api.GiB}
			for _, p := range []string{"default", "fast", "san"} {
				if d.yes("ask " + p) {
					a.Disk = append(a.Disk, fsm.PoolAsk{Pool: p, Bytes: api.Bytes(d.n("ask disk", 0, 40)) * api.GiB})
				}
			}
			for _, e := range []*engine{d.w.e, fresh} {
				c := &class{need: Shape{int64(a.CPU), int64(a.Memory)}}
				for _, x := range a.Disk {
					c.disks = append(c.disks, e.diskNeedOf(x.Pool, int64(x.Bytes)))
				}
				for n := range s.Nodes() {
					i := e.cols.index[n.ID]
					_, want := fsm.Fits(s, n, a)
					must.EqOp(rt, want, c.fits(&e.cols, i), must.Sprintf("%s %+v", n.Name, a))
				}
				must.EqOp(rt, len(slices.Collect(s.Nodes())), len(e.cols.index))
			}
		}
	})
}

// TestDecisionsAreLegal: several decisions in a row against the overlay are all
// legal by the slow checker, are the best there are, are all accepted by the
// state machine, and a VM waits only if the checker finds no node either.
func TestDecisionsAreLegal(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := draw{rt, newWorld(rt)}
		for range d.n("rounds", 1, 6) {
			for range d.n("steps", 1, 8) {
				d.step()
			}
			s := d.w.follow()
			ck := newChecker(s)
			var ds []Decision
			for vm := range s.VMs() {
				if Needs(s, vm, s.Placement(vm.ID)) != NeedPlace {
					continue
				}
				legal := ck.legal(vm)
				if d.yes("late changes") { // all is read again under the overlay
					for n := range s.Nodes() {
						d.w.e.touch(n.ID)
					}
				}
				dec := d.w.e.Decide(vm.ID)
				if dec.Verdict == Wait {
					must.SliceEmpty(rt, legal, must.Sprintf("%s waits for %s", vm.Name, dec.Waiter.Failed()))
					continue
				}
				must.SliceContains(rt, legal, dec.Node, must.Sprint(vm.Name))
				if len(vm.Spec.Affinities) == 0 {
					for _, n := range legal {
						must.LessEq(rt, dec.Score+1e-9, ck.score(d.w.e.score, vm, n))
					}
				}
				ck.take(vm, dec.Node)
				ds = append(ds, dec)
			}
			if len(ds) > 0 {
				for i, r := range d.w.commit(ds...) {
					must.Nil(rt, r.Err, must.Sprintf("%v", ds[i].Item))
				}
			}
		}
	})
}

// TestNobodyIsForgotten: with the queue as the loop uses it, a VM that could be
// placed is never left waiting.
func TestNobodyIsForgotten(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := draw{rt, newWorld(rt)}
		q := NewQueue()
		for range d.n("steps", 1, 40) {
			d.step()
			for d.settleAll(q) {
			}
			s := d.w.f.State()
			for vm := range s.VMs() {
				need := Needs(s, vm, s.Placement(vm.ID))
				if need == NeedNothing {
					continue
				}
				fresh := NewEngine(s).Decide(vm.ID)
				must.EqOp(rt, Wait, fresh.Verdict, must.Sprintf("%s needs %v and is forgotten", vm.Name, need))
			}
		}
	})
}

// settleAll follows, wakes and decides until nothing is ready; it reports
// whether anything was committed.
func (d draw) settleAll(q *Queue) (progress bool) {
	changes := d.w.seen
	s := d.w.follow()
	for _, c := range changes {
		for _, v := range []any{c.Old, c.New} {
			var vm api.ID
			switch v := v.(type) {
			case *api.VM:
				vm = v.ID
			case *api.Placement:
				vm = v.VMID
			case *api.Volume:
				vm = v.VMID
			}
			if rec := s.VM(vm); rec == nil {
				q.Done(vm)
			} else if Needs(s, rec, s.Placement(vm)) != NeedNothing {
				q.Push(ItemOf(rec))
			} else {
				q.Done(vm)
			}
		}
	}
	q.Wake(d.w.e.Helps)
	d.w.e.Rest()
	for {
		it, ok := q.Pop()
		if !ok {
			return progress
		}
		switch dec := d.w.e.Decide(it.ID); dec.Verdict {
		case Commit:
			q.Done(it.ID)
			// Committed without a look at what it changed: that comes with the
			// next round, as in the loop.
			res := d.w.must(&fsm.PlaceBatch{Items: []fsm.PlaceItem{dec.Item}}).Value.([]fsm.PlaceResult)
			must.Nil(d.T, res[0].Err)
			d.w.e.Settle(it.ID)
			d.w.e.Apply(d.w.f.State(), d.w.seen)
			progress = true
		case Wait:
			q.Wait(it, dec.Waiter)
		default:
			q.Done(it.ID)
		}
	}
}
