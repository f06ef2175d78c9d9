package scheduler

import (
	"strings"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
	"github.com/shoenig/test/must"
)

// verdictOf explains a VM and returns the verdict on one node.
func (w *world) verdictOf(vm, node api.ID) api.NodeVerdict {
	s := w.follow()
	for _, v := range w.e.Explain(s.VM(vm)).Nodes {
		if v.NodeID == node {
			return v
		}
	}
	w.t.Fatalf("no verdict on the node")
	return api.NodeVerdict{}
}

// Each check removes the node, by its name and with a reason for people, and
// the VM waits; the node that passes is chosen as soon as it is there.
func TestEachCheckRemovesANode(t *testing.T) {
	for name, tc := range map[string]struct {
		vm     func(*api.VMSpec)
		node   func(*api.Node)
		after  func(w *world, node api.ID)
		failed string
		reason string
	}{
		"datacenter": {
			vm:     func(s *api.VMSpec) { s.Datacenters = []string{"dc1", "dc2"} },
			node:   func(n *api.Node) { n.Datacenter = "dc3" },
			failed: FailDatacenter, reason: `is in datacenter "dc3", wanted is dc1 or dc2`,
		},
		"no driver":      {node: func(n *api.Node) { n.Drivers = nil }, failed: FailDriver, reason: "has no hypervisor driver"},
		"unhealthy":      {node: func(n *api.Node) { n.Drivers[0].Healthy, n.Drivers[0].Error = false, "gone" }, failed: FailDriver, reason: "driver sim is not healthy: gone"},
		"firmware":       {vm: func(s *api.VMSpec) { s.Firmware = api.FirmwareUEFI }, node: func(n *api.Node) { n.Drivers[0].Firmware = []string{"bios"} }, failed: FailDriver, reason: "driver sim has no uefi firmware"},
		"cpu model":      {vm: func(s *api.VMSpec) { s.CPU.Model = "EPYC" }, node: func(n *api.Node) { n.Drivers[0].CPUModels = []string{"qemu64"} }, failed: FailCPUModel, reason: `cannot give the CPU model "EPYC"`},
		"network":        {node: func(n *api.Node) { n.Networks = nil }, failed: FailNetwork, reason: `has no bridge "br0" for network "lan"`},
		"pool":           {node: func(n *api.Node) { n.Pools = nil }, failed: FailPool, reason: `has no pool "default"`},
		"pool error":     {node: func(n *api.Node) { n.Pools[0].Error = "not mounted" }, failed: FailPool, reason: `pool "default": not mounted`},
		"constraint":     {vm: func(s *api.VMSpec) { s.Constraints = []api.Constraint{{Attribute: "label.rack", Value: "r9"}} }, failed: FailConstraint, reason: `has label.rack = "r1", wanted is label.rack = r9`},
		"no attribute":   {vm: func(s *api.VMSpec) { s.Constraints = []api.Constraint{{Attribute: "gpu", Operator: "exists"}} }, failed: FailConstraint, reason: "has no gpu, wanted is gpu exists"},
		"cpu":            {vm: func(s *api.VMSpec) { s.CPU.Cores = 40 }, failed: FailCPU, reason: "needs 40 cores, 32 free of 32"},
		"memory":         {vm: func(s *api.VMSpec) { s.Memory = 17 * api.GiB }, failed: FailMemory, reason: "needs 17 GiB, 16 GiB free of 16 GiB"},
		"disk":           {vm: func(s *api.VMSpec) { s.Disks[0].Size = 101 * api.GiB }, failed: FailDisk, reason: `needs 101 GiB in pool "default", 100 GiB free of 100 GiB`},
		"not eligible":   {after: func(w *world, n api.ID) { w.must(&fsm.NodeUpdate{ID: n, Eligibility: api.Ineligible}) }, failed: FailEligibility, reason: "is not eligible: it was cordoned"},
		"suspect":        {after: func(w *world, n api.ID) { w.status(n, api.NodeSuspect) }, failed: FailEligibility, reason: "is suspect: because"},
		"out of reach":   {after: func(w *world, n api.ID) { w.unreachable(n, "no route") }, failed: FailEligibility, reason: "cannot be reached by the servers: no route"},
		"network of vms": {vm: func(s *api.VMSpec) { s.NICs = append(s.NICs, api.NIC{Network: "nat"}); s.Memory = 99 * api.GiB }, failed: FailMemory, reason: "needs 99 GiB, 16 GiB free of 16 GiB"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			bad := w.node(1, tc.node)
			if tc.after != nil {
				tc.after(w, bad)
			}
			vm := w.vm(1, tc.vm)
			v := w.verdictOf(vm, bad)
			must.False(t, v.Fits)
			must.EqOp(t, tc.failed, v.Failed)
			must.EqOp(t, tc.reason, v.Reason)
			d := w.e.Decide(vm)
			must.EqOp(t, Wait, d.Verdict)
			must.NotEqOp(t, "none", d.Waiter.Failed())
			must.Zero(t, w.e.Pending())

			// A node that has everything helps.
			w.e.Rest()
			good := w.node(2, func(n *api.Node) {
				n.Capacity = api.Resources{CPU: api.Cores(80), Memory: 400 * api.GiB}
				n.Pools[0].Capacity = api.TiB
				n.Labels = api.PairsOf(map[string]string{"rack": "r9"})
				n.Attributes = api.PairsOf(map[string]string{"gpu": "1"})
			})
			w.follow()
			must.True(t, w.e.Helps(d.Waiter))
			must.Eq(t, good, w.place(vm))
		})
	}
}

func (w *world) status(n api.ID, s api.NodeStatus) {
	w.must(&fsm.NodeStatus{Items: []fsm.NodeStatusItem{{NodeID: n, Status: s, Note: "because"}}})
}

func (w *world) unreachable(n api.ID, why string) {
	w.must(&fsm.NodeStatus{Items: []fsm.NodeStatusItem{{NodeID: n, Unreachable: &why}}})
}

// report says what a node sees of its VMs.
func (w *world) report(vm api.ID, state api.VMState) {
	p := w.f.State().Placement(vm)
	w.must(&fsm.NodeReports{Reports: []api.NodeReport{{
		NodeID: p.NodeID, SessionID: w.f.State().Session(p.NodeID),
		VMs: []api.VMReport{{VMID: vm, Epoch: p.Epoch, State: state, Seq: w.index + 1, Version: 1, Order: w.index, Generation: w.f.State().Generation()}},
	}}})
}

func TestBinpackFillsAndSpreadSpreads(t *testing.T) {
	for _, tc := range []struct {
		algorithm string
		nodes     int
	}{{AlgorithmBinpack, 1}, {AlgorithmSpread, 3}} {
		w := newWorld(t)
		for i := range 3 {
			w.node(i, nil)
		}
		w.must(&fsm.SchedulerSet{Config: api.SchedulerConfig{Algorithm: tc.algorithm}})
		on := map[api.ID]bool{}
		for i := range 3 {
			on[w.place(w.vm(i, nil))] = true
		}
		must.MapLen(t, tc.nodes, on, must.Sprint(tc.algorithm))
		x := w.e.Explain(w.f.State().VM(id('v', 0)))
		must.EqOp(t, tc.algorithm, x.Algo)
	}
	_, ok := ScoreOf("slots")
	must.False(t, ok)
	must.EqOp(t, AlgorithmBinpack, scoreOf(api.SchedulerConfig{Algorithm: "of a newer binary"}).Name())
}

func TestOvercommitRatiosMakeRoom(t *testing.T) {
	w := newWorld(t)
	n := w.node(1, nil)
	vm := w.vm(1, func(s *api.VMSpec) { s.Memory = 20 * api.GiB; s.Disks[0].Size = 150 * api.GiB })
	w.follow()
	d := w.e.Decide(vm)
	must.EqOp(t, Wait, d.Verdict)
	w.e.Rest()
	w.must(&fsm.SchedulerSet{Config: api.SchedulerConfig{MemoryRatio: 1.5}})
	w.follow()
	must.True(t, w.e.Helps(d.Waiter), must.Sprint("ratios invalidate everything"))
	d = w.e.Decide(vm)
	must.EqOp(t, FailDisk, d.Waiter.Failed())
	w.must(&fsm.PoolApply{Pool: api.Pool{Name: "default", Type: "dir", Ratio: 2}})
	must.Eq(t, n, w.place(vm))
}

// The overlay counts at once, each entry is settled by itself, and a rollback
// gives everything back.
func TestOverlayIsPromisedAndGivenBack(t *testing.T) {
	w := newWorld(t)
	n := w.node(1, nil)
	var ids []api.ID
	for i := range 9 {
		ids = append(ids, w.vm(i, nil))
	}
	w.follow()
	w.e.flush()
	w.e.Rest()
	for _, vm := range ids[:8] {
		must.EqOp(t, Commit, w.e.Decide(vm).Verdict)
	}
	must.EqOp(t, 8, w.e.Pending())
	must.EqOp(t, Nothing, w.e.Decide(ids[0]).Verdict, must.Sprint("it is on its way"))
	last := w.e.Decide(ids[8])
	must.EqOp(t, Wait, last.Verdict, must.Sprint("8 x 2 GiB fill the node"))
	must.EqOp(t, FailMemory, last.Waiter.Failed())
	must.False(t, w.e.Helps(last.Waiter))
	w.e.Rest()

	w.e.Settle(ids[3], ids[3], id('v', 99))
	must.EqOp(t, 7, w.e.Pending())
	must.True(t, w.e.Helps(last.Waiter), must.Sprint("what was rolled back is free again"))
	must.EqOp(t, Commit, w.e.Decide(ids[8]).Verdict)
	w.e.Settle(ids...)
	must.Zero(t, w.e.Pending())
	w.e.flush()
	i := w.e.cols.index[n]
	must.EqOp(t, int64(16*api.GiB), w.e.cols.memFree[i])
	must.EqOp(t, int64(100*api.GiB), w.e.cols.disks["default"].free[i])

	// Settled after the commit, nothing is counted twice and nobody is woken.
	w.e.Decide(ids[0])
	full := w.e.Decide(w.vm(20, func(s *api.VMSpec) { s.Memory = 15 * api.GiB }))
	w.follow()
	full = w.e.Decide(id('v', 20))
	must.EqOp(t, Wait, full.Verdict)
	w.e.Settle(ids[0])
	w.e.Rest()
	d := w.e.Decide(ids[0])
	w.e.Rest()
	w.commit(d)
	must.False(t, w.e.Helps(full.Waiter))
	must.EqOp(t, int64(14*api.GiB), w.e.cols.memFree[i])
}

func TestVolumesPinTheirVM(t *testing.T) {
	w := newWorld(t)
	a, b := w.node(1, nil), w.node(2, nil)
	volume := func(n int, node api.ID) string {
		name := "vol" + string(rune('0'+n))
		w.must(&fsm.VolumeCreate{Volume: api.Volume{ID: id('x', n), Namespace: "default", Name: name, Size: api.GiB, NodeID: node}})
		return name
	}
	va, vb := volume(1, a), volume(2, b)
	w.place(w.vm(1, nil)) // makes a or b the fuller one
	with := func(names ...string) func(*api.VMSpec) {
		return func(s *api.VMSpec) {
			s.Disks = nil
			for _, n := range names {
				s.Disks = append(s.Disks, api.Disk{Name: n, Volume: n})
			}
		}
	}
	must.Eq(t, b, w.place(w.vm(2, with(vb))))
	vm := w.vm(3, with(va))
	must.EqOp(t, "its volumes are on n1", w.verdictOf(vm, b).Reason)
	w.must(&fsm.NodeUpdate{ID: a, Eligibility: api.Ineligible})
	w.follow()
	d := w.e.Decide(vm)
	must.EqOp(t, Wait, d.Verdict)
	w.e.Rest()
	w.node(3, nil)
	w.follow()
	must.False(t, w.e.Helps(d.Waiter), must.Sprint("another node does not help"))
	w.must(&fsm.NodeUpdate{ID: a, Eligibility: api.Eligible})
	w.follow()
	must.True(t, w.e.Helps(d.Waiter))
	must.Eq(t, a, w.place(vm))

	// A plan with volumes on different nodes is refused with the reason.
	s := spec("torn", with(volume(4, a), volume(5, b)))
	w.follow()
	x := w.e.Explain(&api.VM{ID: id('v', 77), Namespace: "default", Name: "torn", Spec: s})
	must.True(t, x.Chosen.IsZero())
	must.EqOp(t, FailVolume, x.Counts[0].Failed)
	must.StrContains(t, x.Nodes[0].Reason, "its volumes are on different nodes")
	x = w.e.Explain(&api.VM{ID: id('v', 77), Namespace: "default", Spec: spec("lost", with("nowhere"))})
	must.StrContains(t, x.Nodes[0].Reason, `disk "nowhere" has no volume`)
}

// A stopped VM with a local disk starts again on its node, and waits there when
// the node is full; one without any disk gives its placement up.
func TestAdmitAndRelease(t *testing.T) {
	w := newWorld(t)
	n := w.node(1, nil)
	w.node(2, nil)
	vm := w.vm(1, nil)
	must.Eq(t, n, w.place(vm))
	w.report(vm, api.StateRunning)
	w.must(&fsm.VMPower{ID: vm, Action: "stop"})
	w.follow()
	must.EqOp(t, Nothing, w.e.Decide(vm).Verdict)
	w.report(vm, api.StateStopped)
	w.follow()
	must.EqOp(t, Nothing, w.e.Decide(vm).Verdict, must.Sprint("its disk keeps it"))

	big := w.vm(2, func(s *api.VMSpec) {
		s.Memory = 15 * api.GiB
		s.Constraints = []api.Constraint{{Attribute: "node.name", Value: "n1"}}
	})
	must.Eq(t, n, w.place(big))
	w.must(&fsm.VMPower{ID: vm, Action: "start"})
	w.follow()
	d := w.e.Decide(vm)
	must.EqOp(t, Wait, d.Verdict)
	must.EqOp(t, FailMemory, d.Waiter.Failed())
	must.EqOp(t, "needs 2 GiB, 1 GiB free of 16 GiB", w.verdictOf(vm, n).Reason)
	must.EqOp(t, "the VM is kept on n1 by its disks", w.verdictOf(vm, id('n', 2)).Reason)
	w.e.Rest()
	w.must(&fsm.NodeUpdate{ID: n, Eligibility: api.Ineligible})
	w.must(&fsm.VMPower{ID: big, Action: "stop"})
	w.report(big, api.StateStopped)
	w.follow()
	must.True(t, w.e.Helps(d.Waiter))
	d = w.e.Decide(vm)
	must.EqOp(t, fsm.PlaceAdmit, d.Item.Action, must.Sprint("a cordon does not keep a VM from its own node"))
	must.Nil(t, w.commit(d)[0].Err)

	bare := w.vm(3, diskless)
	w.place(bare)
	w.report(bare, api.StateRunning)
	w.must(&fsm.VMPower{ID: bare, Action: "stop"})
	w.report(bare, api.StateStopped)
	w.follow()
	d = w.e.Decide(bare)
	must.EqOp(t, fsm.PlaceRelease, d.Item.Action)
	must.Nil(t, w.commit(d)[0].Err)
	must.Nil(t, w.f.State().Placement(bare))
	must.EqOp(t, Nothing, w.e.Decide(bare).Verdict)
}

func TestImagesDecideBetweenEqualNodesAndWaitForTheirContent(t *testing.T) {
	w := newWorld(t)
	w.node(1, nil)
	b := w.node(2, nil)
	im := id('i', 1)
	w.must(&fsm.ImageCreate{Image: api.Image{ID: im, Namespace: "default", Name: "img", Kind: "disk", Format: "qcow2", Size: api.GiB,
		SHA256: strings.Repeat("a", 64), State: api.ImagePending}})
	vm := w.vm(1, func(s *api.VMSpec) { s.Disks[0].Image = "img" })
	w.follow()
	d := w.e.Decide(vm)
	must.EqOp(t, Wait, d.Verdict)
	must.EqOp(t, FailSpec, d.Waiter.Failed())
	must.EqOp(t, `no node holds the content of image "img" yet`, w.verdictOf(vm, b).Reason)
	w.e.Rest()
	w.must(&fsm.ImageReplicas{ID: im, Add: []api.ID{b}})
	w.follow()
	must.True(t, w.e.Helps(d.Waiter))
	must.Eq(t, b, w.place(vm))
	w.e.Rest()
	w.must(&fsm.ImageReplicas{ID: im, Add: []api.ID{id('n', 1)}})
	w.follow()
	must.False(t, w.e.Helps(d.Waiter), must.Sprint("one more replica wakes nobody"))
	kernel := w.vm(2, func(s *api.VMSpec) { s.Boot = &api.BootSpec{Kernel: "img"} })
	must.Eq(t, b, w.place(kernel), must.Sprint("the fullest node that has it"))
}

func TestStandaloneVolumesGetNodes(t *testing.T) {
	w := newWorld(t)
	w.node(1, nil)
	roomy := w.node(2, func(n *api.Node) { n.Pools[0].Capacity = api.TiB })
	v := id('x', 1)
	w.must(&fsm.VolumeCreate{Volume: api.Volume{ID: v, Namespace: "default", Name: "data", Size: 50 * api.GiB}})
	w.follow()
	must.True(t, NeedsNode(w.f.State(), w.f.State().Volume(v)))
	d := w.e.Assign(v)
	must.EqOp(t, Commit, d.Verdict)
	must.Eq(t, roomy, d.Node)
	must.EqOp(t, Nothing, w.e.Assign(v).Verdict, must.Sprint("it is on its way"))
	must.EqOp(t, int64(974*api.GiB), w.e.cols.disks["default"].at(w.e.cols.index[roomy]))
	w.must(&fsm.VolumeAssign{ID: v, NodeID: d.Node})
	w.e.Settle(v)
	w.follow()
	must.EqOp(t, Nothing, w.e.Assign(v).Verdict)
	must.EqOp(t, int64(974*api.GiB), w.e.cols.disks["default"].at(w.e.cols.index[roomy]))

	big := id('x', 2)
	w.must(&fsm.VolumeCreate{Volume: api.Volume{ID: big, Namespace: "default", Name: "big", Size: 5 * api.TiB}})
	w.follow()
	d = w.e.Assign(big)
	must.EqOp(t, Wait, d.Verdict)
	must.EqOp(t, FailDisk, d.Waiter.Failed())
}

func TestNodesComeAndGo(t *testing.T) {
	w := newWorld(t)
	n := w.node(1, nil)
	vm := w.vm(1, nil)
	w.follow()
	must.EqOp(t, Commit, w.e.Decide(vm).Verdict)
	w.status(n, api.NodeLeft)
	w.must(&fsm.NodeDelete{ID: n})
	w.follow()
	other := w.node(2, nil)
	w.follow()
	w.e.flush()
	must.NotEqOp(t, 0, w.e.cols.index[other], must.Sprint("the dense id is held by the overlay"))
	w.e.Settle(vm)
	third := w.node(3, nil)
	w.follow()
	w.e.flush()
	must.EqOp(t, 0, w.e.cols.index[third], must.Sprint("and free again afterwards"))
	must.EqOp(t, int64(16*api.GiB), w.e.cols.memFree[0])
	w.place(vm)

	w.e.Reset(w.f.State())
	must.EqOp(t, 2, len(w.e.cols.index))
	must.EqOp(t, Nothing, w.e.Decide(vm).Verdict)
}

func TestExplanationNamesFiftyAndCountsAll(t *testing.T) {
	w := newWorld(t)
	for i := range 60 {
		w.node(i, func(n *api.Node) {
			if i >= 10 {
				n.Capacity.Memory = api.Bytes(i) * api.MiB
			}
			if i >= 55 {
				n.Datacenter = "far"
			}
		})
	}
	s := w.follow()
	x := Explain(s, &api.VM{Namespace: "default", Name: "plan", Spec: spec("plan", func(s *api.VMSpec) { s.Datacenters = []string{"dc1"} })})
	must.Len(t, maxVerdicts, x.Nodes)
	must.True(t, x.Nodes[0].Fits)
	must.Eq(t, x.Chosen, x.Nodes[0].NodeID)
	must.EqOp(t, x.Node, x.Nodes[0].Node)
	must.EqOp(t, x.Score, x.Nodes[0].Score)
	must.Eq(t, []api.VerdictCount{{Failed: FailMemory, Nodes: 45}, {Failed: FailDatacenter, Nodes: 5}}, x.Counts)
	must.Eq(t, []api.DimensionNeed{{Dimension: FailCPU, Need: 2000}, {Dimension: FailMemory, Need: int64(2 * api.GiB)},
		{Dimension: "disk default", Need: int64(10 * api.GiB)}}, x.Needs)
	for i := 1; i < 10; i++ {
		must.True(t, x.Nodes[i].Fits)
	}
	must.EqOp(t, FailMemory, x.Nodes[10].Failed)
}
