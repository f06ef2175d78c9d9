package fsm

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

func TestNodeRegistersWithItsPools(t *testing.T) {
	w := region(t, 1)
	n := w.s().NodeByName("node-1")
	must.Eq(t, api.NodeReady, n.Status)
	must.Eq(t, api.Eligible, n.Eligibility)
	must.Eq(t, id('s', 1), w.s().Session(n.ID))
	must.True(t, w.s().Pool("san").Shared)
	must.Eq(t, "dir", w.s().Pool("default").Type)

	other := nodeOf(2)
	other.Pools = []api.NodePool{{Name: "san", Type: "dir"}}
	w.ok(&NodeRegister{Node: other, SessionID: id('s', 2)})
	must.NotEq(t, "", w.s().Node(other.ID).Pools[0].Error, must.Sprint("the same name with another type is not usable"))
}

func TestNodeKeepsWhatTheOperatorSet(t *testing.T) {
	w := region(t, 1)
	n := w.ok(&NodeUpdate{ID: id('n', 1), Eligibility: api.Ineligible, CPURatio: 8, MemoryRatio: 1.5}).(*api.Node)
	w.refused(api.CodeConflict, &NodeUpdate{ID: id('n', 1), CheckIndex: ptr(n.ModifyIndex - 1)})
	w.refused(api.CodeNotFound, &NodeUpdate{ID: id('n', 9)})
	w.refused(api.CodeInvalid, &NodeUpdate{ID: id('n', 1), CPURatio: -1})

	again := nodeOf(1)
	again.CPURatio = 2
	w.ok(&NodeRegister{Node: again, SessionID: id('s', 2)})
	m := w.s().Node(id('n', 1))
	must.Eq(t, api.Ineligible, m.Eligibility)
	must.Eq(t, 8, m.CPURatio, must.Sprint("an operator's word stands above the configuration"))
	must.Eq(t, api.NodeReady, m.Status, must.Sprint("an agent that restarts stays ready"))
	must.Eq(t, n.CreateIndex, m.CreateIndex)

	again.BootID = "another boot"
	w.ok(&NodeRegister{Node: again, SessionID: id('s', 3)})
	must.Eq(t, api.NodeInit, w.s().Node(id('n', 1)).Status, must.Sprint("a machine that booted anew does not"))
}

func TestARatioOfTheConfigurationTakesEffectAtTheNextRegistration(t *testing.T) {
	w := newWorld(t, nil)
	n := nodeOf(1)
	n.CPURatio, n.MemoryRatio, n.CPURatioSet = 2, 1.1, 99
	w.ok(&NodeRegister{Node: n, SessionID: id('s', 1)})
	got := w.s().Node(n.ID)
	must.Eq(t, 2, got.CPURatio)
	must.Eq(t, 0, got.CPURatioSet, must.Sprint("a node says nothing for operators"))
	n.CPURatio, n.MemoryRatio = 3, 1.2
	w.ok(&NodeRegister{Node: n, SessionID: id('s', 2)})
	must.Eq(t, 3, w.s().Node(n.ID).CPURatio)
	must.Eq(t, 1.2, w.s().Node(n.ID).MemoryRatio)

	w.ok(&NodeUpdate{ID: n.ID, CPURatio: 8})
	n.CPURatio, n.MemoryRatio = 4, 1.3
	w.ok(&NodeRegister{Node: n, SessionID: id('s', 3)})
	must.Eq(t, 8, w.s().Node(n.ID).CPURatio)
	must.Eq(t, 1.3, w.s().Node(n.ID).MemoryRatio)
}

func TestNumbersOfNodesNeverWrapAround(t *testing.T) {
	w := region(t, 2)
	before := w.s().Generation()
	for _, c := range []*NodeRegister{{MaxGeneration: math.MaxUint64}, {MaxIndex: math.MaxUint64}, {MaxGeneration: 1<<62 + 1}, {MaxGeneration: before + 1<<32 + 1}} {
		c.Node, c.SessionID = nodeOf(1), id('s', 1)
		w.refused(api.CodeInvalid, c)
	}
	w.ok(&NodeRegister{Node: nodeOf(1), SessionID: id('s', 1), MaxGeneration: before + 7})
	must.Eq(t, before+8, w.s().Generation())

	w.vm(1)
	m := id('m', 1)
	p := w.placed(1, 1)
	say := func(node int, epoch api.Epoch) Command {
		return &NodeReports{Reports: []api.NodeReport{{NodeID: id('n', node), SessionID: id('s', node),
			VMs: []api.VMReport{{VMID: m, Epoch: epoch, State: api.StateRunning, Seq: w.index}}}}}
	}
	w.refused(api.CodeInvalid, say(1, math.MaxUint64))
	w.ok(say(2, p.Epoch+5))
	must.Eq(t, p.Epoch, w.s().VM(m).Epoch, must.Sprint("the VM is another node's"))
	w.ok(say(1, p.Epoch+1<<32+1))
	must.Eq(t, p.Epoch, w.s().VM(m).Epoch, must.Sprint("too far above what was granted"))
	w.ok(say(1, p.Epoch+5))
	must.Eq(t, p.Epoch+5, w.s().VM(m).Epoch)
}

func TestWhatANodeFoundIsBounded(t *testing.T) {
	w := region(t, 1)
	found := func(change func(*api.VMReport)) *NodeRegister {
		r := api.VMReport{VMID: id('m', 1), Epoch: 1, State: api.StateRunning}
		change(&r)
		return &NodeRegister{Node: nodeOf(1), SessionID: id('s', 1), Found: []api.VMReport{r}}
	}
	for _, change := range []func(*api.VMReport){
		func(r *api.VMReport) { r.State = "asleep" },
		func(r *api.VMReport) { r.State = "" },
		func(r *api.VMReport) { r.Message = strings.Repeat("x", maxText+1) },
		func(r *api.VMReport) { r.Reason = strings.Repeat("x", maxText+1) },
		func(r *api.VMReport) { r.Addresses = make([]string, maxList+1) },
		func(r *api.VMReport) { r.Addresses = []string{strings.Repeat("x", maxText+1)} },
	} {
		c := found(change)
		w.refused(api.CodeInvalid, c)
		w.refused(api.CodeInvalid, &NodeReports{Reports: []api.NodeReport{{NodeID: id('n', 1), SessionID: id('s', 1), VMs: c.Found}}})
	}
	w.ok(found(func(*api.VMReport) {}))

	many := found(func(*api.VMReport) {})
	many.Found = nil
	for i := range maxOrphans + 10 {
		many.Found = append(many.Found, api.VMReport{VMID: id('o', i), Epoch: 1, State: api.StateRunning})
	}
	w.ok(many)
	n := 0
	for range w.s().OrphansOn(id('n', 1)) {
		n++
	}
	must.Eq(t, maxOrphans, n)
	for len(many.Found) <= maxReports {
		many.Found = append(many.Found, many.Found...)
	}
	w.refused(api.CodeInvalid, many)
}

func TestNodeIdentityCannotBeTaken(t *testing.T) {
	w := region(t, 1)
	thief := nodeOf(1)
	thief.MachineID, thief.Address = "machine-x", "10.9.9.9:7647"
	e := w.refused(api.CodeNodeDuplicate, &NodeRegister{Node: thief, SessionID: id('s', 9)})
	must.Len(t, 2, e.Details)
	must.StrContains(t, e.Details[0].Message, "machine-1")
	must.StrContains(t, e.Details[1].Message, "machine-x")
	must.Eq(t, id('s', 1), w.s().Session(id('n', 1)))

	w.ok(&NodeRegister{Node: thief, SessionID: id('s', 9), Force: true})
	must.Eq(t, "machine-x", w.s().Node(id('n', 1)).MachineID)

	same := nodeOf(2)
	same.Name = "node-1"
	w.refused(api.CodeExists, &NodeRegister{Node: same, SessionID: id('s', 2)})
	w.ok(&NodeStatus{Items: []NodeStatusItem{{NodeID: id('n', 1), Status: api.NodeLeft}}})
	w.ok(&NodeRegister{Node: same, SessionID: id('s', 2)})
	must.Eq(t, same.ID, w.s().NodeByName("node-1").ID, must.Sprint("the one that has not left"))

	w.ok(&NodeDeny{NodeID: id('n', 3), Reason: "stolen"})
	must.NotNil(t, w.s().Denied(id('n', 3)))
	must.Len(t, 1, slices.Collect(w.s().DeniedNodes()))
	w.refused(api.CodeNodeDenied, &NodeRegister{Node: nodeOf(3), SessionID: id('s', 3)})
	w.ok(&NodeDeny{NodeID: id('n', 3), Allow: true})
	w.node(3)
}

func TestNodeStatusPassesOverWhatIsLate(t *testing.T) {
	w := region(t, 1)
	before := w.s().Node(id('n', 1))
	w.ok(&NodeStatus{Items: []NodeStatusItem{
		{NodeID: id('n', 9), Status: api.NodeLeft},
		{NodeID: id('n', 1), Status: api.NodeLeft, SessionID: id('s', 7)},
		{NodeID: id('n', 1), Status: api.NodeReady},
	}})
	must.Eq(t, before, w.s().Node(id('n', 1)))
	w.refused(api.CodeInvalid, &NodeStatus{Items: []NodeStatusItem{{Status: "odd"}}})
}

func TestNodeIsDeletedOnlyWhenItHoldsNothing(t *testing.T) {
	w := region(t, 2)
	left := func(n int) {
		w.ok(&NodeStatus{Items: []NodeStatusItem{{NodeID: id('n', n), Status: api.NodeLeft, Note: "bye"}}})
	}
	del := &NodeDelete{ID: id('n', 1)}
	w.refused(api.CodeNotFound, &NodeDelete{ID: id('n', 9)})
	w.refused(api.CodeState, del)
	w.vm(1, local("root"))
	p := w.placed(1, 1)
	w.ok(&ImageReplicas{ID: id('i', 1), Add: []api.ID{id('n', 1)}})
	w.report(1, 8, 1, api.StateRunning)
	left(1)
	w.refused(api.CodeInUse, del)
	w.ok(&VMDelete{ID: id('m', 1)})
	w.refused(api.CodeConflict, &NodeDelete{ID: id('n', 1), CheckIndex: 1})
	e := w.refused(api.CodeInUse, del)
	must.StrContains(t, e.Hint, "--force")
	must.Eq(t, p.Epoch, w.s().Tombstone(id('n', 1), id('m', 1)).Epoch)

	w.ok(&NodeDelete{ID: id('n', 1), Force: true})
	must.Nil(t, w.s().Node(id('n', 1)))
	must.Nil(t, w.s().VM(id('m', 1)), must.Sprint("its delete is done"))
	must.Eq(t, 0, w.s().tombstones.len())
	must.Eq(t, 0, w.s().orphans.len())
	must.Eq(t, 0, w.s().volumes.len())
	must.Nil(t, w.s().Image(id('i', 1)).Replicas)
	must.True(t, w.s().Session(id('n', 1)).IsZero())

	w.ok(&VolumeCreate{Volume: api.Volume{ID: id('V', 1), Namespace: "default", Name: "mine", Size: api.GiB, NodeID: id('n', 2)}})
	w.vm(2, api.Disk{Name: "a", Volume: "mine"})
	left(2)
	w.refused(api.CodeInUse, &NodeDelete{ID: id('n', 2), Force: true})
}

func TestRegistrationForcesTheGenerationUp(t *testing.T) {
	w := region(t, 1)
	must.Eq(t, 1, w.s().Generation())
	r := w.ok(&NodeRegister{Node: nodeOf(1), SessionID: id('s', 2), MaxGeneration: 7}).(*api.NodeRegistered)
	must.Eq(t, 8, r.Generation)
	w.ok(&NodeRegister{Node: nodeOf(1), SessionID: id('s', 3), MaxGeneration: 8})
	must.Eq(t, 8, w.s().Generation())
}

func TestRecoveryAdoptsWhatNodesRun(t *testing.T) {
	w := region(t, 3)
	for n := 1; n <= 5; n++ {
		w.vm(n)
	}
	w.placed(1, 1) // still there
	w.placed(2, 1) // will have moved to node 2 after the snapshot
	w.placed(3, 1) // its node will not mention it
	w.placed(5, 3) // its node is off
	w.ok(&VMDelete{ID: id('m', 5)})

	r := w.ok(&RecoveryBegin{Floor: 4}).(*Recovery)
	must.Len(t, 3, r.Waiting)
	must.Eq(t, 5, w.s().Generation())
	must.True(t, w.s().Session(id('n', 1)).IsZero(), must.Sprint("old sessions may not report"))

	for _, c := range []Command{
		&VMPower{ID: id('m', 1), Action: "stop"}, &VMDelete{ID: id('m', 1)}, &VMRevert{ID: id('m', 1), Version: 1},
		&PlaceBatch{}, &NodeDelete{ID: id('n', 1)}, &VolumeDelete{ID: id('v', 1)}, &VolumeAssign{ID: id('v', 1), NodeID: id('n', 1)},
		&ImageDelete{ID: id('i', 1)}, &PoolDelete{Name: "san"}, &NetworkDelete{Name: "lan"}, &NamespaceDelete{Name: "x"},
		&VMApply{ID: id('m', 1), Spec: w.s().VM(id('m', 1)).Spec, Power: api.PowerStopped},
	} {
		w.refused(api.CodeRecovery, c)
	}
	w.refused(api.CodeRecovery, &RecoveryEnd{})

	run := func(n int, epoch api.Epoch) api.VMReport {
		return api.VMReport{VMID: id('m', n), Epoch: epoch, State: api.StateRunning, Version: 1}
	}
	// Node 2 reports first: VM 2 at a later epoch, VM 4 placed after the snapshot,
	// and a VM that was made after it.
	w.node(2, run(2, 5), run(4, 3), run(9, 1))
	must.Eq(t, id('n', 2), w.s().Placement(id('m', 2)).NodeID)
	must.Eq(t, id('n', 2), w.s().Placement(id('m', 4)).NodeID)
	must.Len(t, 1, slices.Collect(w.s().OrphansOn(id('n', 2))))
	// Node 1 still holds its old copy of VM 2.
	w.node(1, run(1, 1), run(2, 1))
	must.Eq(t, id('n', 2), w.s().Placement(id('m', 2)).NodeID)
	must.Eq(t, 1, w.s().Tombstone(id('n', 1), id('m', 2)).Epoch)

	e := w.refused(api.CodeRecovery, &RecoveryEnd{})
	must.StrContains(t, e.Message, "node-3")
	w.ok(&RecoveryEnd{Fenced: []api.ID{id('n', 3)}})
	must.Nil(t, w.s().Recovery())
	must.Eq(t, api.NodeLost, w.s().Node(id('n', 3)).Status)
	for n, want := range map[int]api.Epoch{1: 2, 2: 6, 3: 2, 4: 4} {
		p := w.s().Placement(id('m', n))
		must.Eq(t, want, p.Epoch, must.Sprintf("vm-%d goes on above everything seen", n))
		must.Eq(t, want, w.s().VM(id('m', n)).Epoch)
	}
	must.Nil(t, w.ok(&RecoveryEnd{}))
}

func TestRecoveryTheHighestEpochWins(t *testing.T) {
	w := region(t, 3)
	w.vm(1, local("root"))
	p := w.placed(1, 1)
	w.ok(&RecoveryBegin{})
	found := func(e api.Epoch) api.VMReport {
		return api.VMReport{VMID: id('m', 1), Epoch: e, State: api.StateRunning}
	}
	w.node(1, found(p.Epoch))
	w.node(2, found(p.Epoch+2))
	must.Eq(t, id('n', 2), w.s().Placement(id('m', 1)).NodeID)
	must.Eq(t, id('n', 2), w.s().Volume(volumeIDs(1, 1)[0]).NodeID, must.Sprint("a local disk is where the VM is"))
	must.Eq(t, p.Epoch, w.s().Tombstone(id('n', 1), id('m', 1)).Epoch)
	w.node(3, found(p.Epoch+1))
	must.Eq(t, id('n', 2), w.s().Placement(id('m', 1)).NodeID)
	must.NotNil(t, w.s().Tombstone(id('n', 3), id('m', 1)))
	w.ok(&RecoveryEnd{})
	must.Eq(t, p.Epoch+3, w.s().Placement(id('m', 1)).Epoch)
}

func TestRecoveryNoEpochFallsForAnOwnerThatLagsBehind(t *testing.T) {
	w := region(t, 2)
	w.vm(1, local("root"))
	p := w.placed(1, 1)
	w.ok(&RecoveryBegin{})
	// The node was killed before it heard of the epoch that the state names.
	w.node(1, api.VMReport{VMID: id('m', 1), Epoch: p.Epoch - 1, State: api.StateRunning})
	must.Eq(t, id('n', 1), w.s().Placement(id('m', 1)).NodeID)
	must.Eq(t, p.Epoch, w.s().Placement(id('m', 1)).Epoch)
	w.node(2)
	w.ok(&RecoveryEnd{})
	must.Eq(t, p.Epoch+1, w.s().Placement(id('m', 1)).Epoch)
}

func TestRecoveryTombstones(t *testing.T) {
	w := region(t, 2)
	w.vm(1, shared("root"))
	w.vm(2, shared("root"))
	for n := 1; n <= 2; n++ {
		w.placed(n, 1)
		w.released(n, 1)
	}
	w.ok(&RecoveryBegin{})
	w.node(1, api.VMReport{VMID: id('m', 1), Epoch: 1, State: api.StateRunning}, api.VMReport{VMID: id('m', 2), Epoch: 4, State: api.StateRunning})
	must.NotNil(t, w.s().Tombstone(id('n', 1), id('m', 1)), must.Sprint("superseded before the snapshot"))
	must.Nil(t, w.s().Placement(id('m', 1)))
	must.Nil(t, w.s().Tombstone(id('n', 1), id('m', 2)), must.Sprint("placed there again after it"))
	must.Eq(t, 4, w.s().Placement(id('m', 2)).Epoch)
}

func TestADrainLastsUntilTheNodeIsUsedAgain(t *testing.T) {
	w := region(t, 2)
	drain := &NodeDrain{ID: id('n', 1), Drain: &api.NodeDrain{Mode: api.DrainMode, Deadline: 99, By: "op", DoneTime: 5}}
	n := w.ok(drain).(*api.Node)
	must.Eq(t, api.Ineligible, n.Eligibility)
	must.True(t, n.Drain.Active())
	must.Eq(t, w.now, n.Drain.StartTime)
	began := n.Drain.StartTime

	// The node's own registration neither ends nor makes a drain.
	r := nodeOf(1)
	r.Drain = &api.NodeDrain{Mode: api.MaintenanceMode}
	w.ok(&NodeRegister{Node: r, SessionID: id('s', 1)})
	must.Eq(t, n.Drain, w.s().Node(id('n', 1)).Drain)
	r = nodeOf(2)
	r.Drain = n.Drain
	w.ok(&NodeRegister{Node: r, SessionID: id('s', 2)})
	must.Nil(t, w.s().Node(id('n', 2)).Drain)

	w.refused(api.CodePlacement, &NodeDrain{ID: id('n', 1), Done: true, Start: began - 1})
	must.False(t, w.ok(&NodeDrain{ID: id('n', 1), Done: true, Start: began}).(*api.Node).Drain.Active())
	must.Eq(t, api.Ineligible, w.s().Node(id('n', 1)).Eligibility)
	must.True(t, w.ok(drain).(*api.Node).Drain.Active(), must.Sprint("asked for again"))
	n = w.ok(&NodeDrain{ID: id('n', 1)}).(*api.Node)
	must.Nil(t, n.Drain)
	must.Eq(t, api.Eligible, n.Eligibility)
	w.refused(api.CodeState, &NodeDrain{ID: id('n', 1)})
	w.refused(api.CodePlacement, &NodeDrain{ID: id('n', 1), Done: true})
	w.refused(api.CodeNotFound, &NodeDrain{ID: id('n', 9)})
	w.refused(api.CodeInvalid, &NodeDrain{ID: id('n', 1), Drain: &api.NodeDrain{Mode: "gently"}})
	w.ok(drain)
	must.Nil(t, w.ok(&NodeUpdate{ID: id('n', 1), Eligibility: api.Eligible}).(*api.Node).Drain, must.Sprint("who uses a node again drains it no more"))
}
