package fsm

import (
	"slices"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

func TestPlacementRaisesTheEpochAndBindsVolumes(t *testing.T) {
	w := region(t, 1)
	w.vm(1, local("root"), shared("data"))
	p := w.placed(1, 1)
	must.Eq(t, 1, p.Epoch)
	must.Eq(t, 1, w.s().VM(id('m', 1)).Epoch)
	must.Eq(t, api.StatePending, p.State)
	v := volumeIDs(1, 2)
	must.Eq(t, id('n', 1), w.s().Volume(v[0]).NodeID)
	must.True(t, w.s().Volume(v[1]).NodeID.IsZero(), must.Sprint("shared volumes belong to no node"))
	must.Eq(t, api.Resources{CPU: 2000, Memory: 2 * api.GiB}, w.s().Used(id('n', 1)))
	must.Eq(t, 10*api.GiB, w.s().Promised(id('n', 1), "default"))
	must.Eq(t, 10*api.GiB, w.s().Promised(api.ID{}, "san"))
	must.Eq(t, 1, w.s().VMsOn(id('n', 1)))
	must.Eq(t, 1, w.s().VolumeCount(id('n', 1), "default"))
}

func TestPlacementIsCompareAndSet(t *testing.T) {
	w := region(t, 2)
	w.ok(&NodeUpdate{ID: id('n', 2), Eligibility: api.Ineligible})
	w.vm(1)
	ready := w.item(PlacePlace, 1, 1)
	for name, tc := range map[string]struct {
		code   api.Code
		change func(*PlaceItem)
	}{
		"the VM is gone":            {api.CodeNotFound, func(it *PlaceItem) { it.VMID = id('m', 9) }},
		"the spec has changed":      {api.CodePlacement, func(it *PlaceItem) { it.SpecVersion++ }},
		"the power has changed":     {api.CodePlacement, func(it *PlaceItem) { it.Power = api.PowerStopped }},
		"a placement was expected":  {api.CodePlacement, func(it *PlaceItem) { it.OldEpoch = 3 }},
		"the epoch has gone on":     {api.CodePlacement, func(it *PlaceItem) { it.Epoch = 7 }},
		"the node is gone":          {api.CodePlacement, func(it *PlaceItem) { it.NodeID = id('n', 9) }},
		"the node is cordoned":      {api.CodePlacement, func(it *PlaceItem) { it.NodeID = id('n', 2) }},
		"nothing to admit":          {api.CodePlacement, func(it *PlaceItem) { it.Action = PlaceAdmit }},
		"nothing to release":        {api.CodePlacement, func(it *PlaceItem) { it.Action = PlaceRelease }},
		"nothing to take elsewhere": {api.CodePlacement, func(it *PlaceItem) { it.Action = PlaceRecover }},
	} {
		t.Run(name, func(t *testing.T) {
			it := ready
			tc.change(&it)
			r := w.place(it)
			must.NotNil(t, r.Err)
			must.Eq(t, tc.code, r.Err.Code)
			must.Nil(t, w.s().Placement(id('m', 1)))
		})
	}
	w.ok(&NodeStatus{Items: []NodeStatusItem{{NodeID: id('n', 1), Unreachable: ptr("connection refused")}}})
	must.StrContains(t, w.place(ready).Err.Message, "connection refused")
	w.ok(&NodeStatus{Items: []NodeStatusItem{{NodeID: id('n', 1), Status: api.NodeSuspect, Unreachable: ptr("")}}})
	must.StrContains(t, w.place(ready).Err.Message, "suspect")
	w.ok(&NodeStatus{Items: []NodeStatusItem{{NodeID: id('n', 1), Status: api.NodeReady}}})
	w.vm(2)
	w.ok(&VMDelete{ID: id('m', 2)})
	must.Nil(t, w.place(ready).Err)
	must.StrContains(t, w.place(ready).Err.Message, "epoch")
}

func TestPlacementItemsFailAlone(t *testing.T) {
	w := region(t, 1)
	// 16 GiB: seven VMs of 2 GiB fit beside one of 2 GiB, the ninth does not.
	var items []PlaceItem
	for n := 1; n <= 9; n++ {
		w.vm(n, local("root"))
		items = append(items, w.item(PlacePlace, n, 1))
	}
	res := w.ok(&PlaceBatch{Items: items}).([]PlaceResult)
	for i, r := range res[:8] {
		must.Nil(t, r.Err, must.Sprintf("item %d", i))
	}
	must.Eq(t, api.CodePlacement, res[8].Err.Code)
	must.Eq(t, DimMemory, res[8].Err.Details[0].Field)
	must.Nil(t, w.s().Placement(id('m', 9)))
	must.Eq(t, 0, w.s().VM(id('m', 9)).Epoch)
	must.Eq(t, 80*api.GiB, w.s().Promised(id('n', 1), "default"))

	// Thin overcommit and ratios make room.
	w.ok(&NodeUpdate{ID: id('n', 1), MemoryRatio: 2})
	must.Nil(t, w.place(w.item(PlacePlace, 9, 1)).Err)
	w.vm(10, api.Disk{Name: "big", Size: 50 * api.GiB})
	must.Eq(t, DimDisk, w.place(w.item(PlacePlace, 10, 1)).Err.Details[0].Field)
	w.ok(&PoolApply{Pool: api.Pool{Name: "default", Ratio: 2}})
	must.Nil(t, w.place(w.item(PlacePlace, 10, 1)).Err)
}

func TestFitNamesTheDimension(t *testing.T) {
	w := region(t, 1)
	n := w.s().Node(id('n', 1))
	for dim, ask := range map[string]Ask{
		DimCPU:    {CPU: 32001},
		DimMemory: {Memory: 16*api.GiB + 1},
		DimDisk:   {Disk: []PoolAsk{{"default", 100*api.GiB + 1}}},
		DimPool:   {Disk: []PoolAsk{{"nope", 1}}},
	} {
		got, ok := Fits(w.s(), n, ask)
		must.False(t, ok)
		must.Eq(t, dim, got)
	}
	_, ok := Fits(w.s(), n, Ask{CPU: 32000, Memory: 16 * api.GiB, Disk: []PoolAsk{{"default", 100 * api.GiB}}})
	must.True(t, ok, must.Sprint("exactly full fits"))

	spec := specOf("x", local("a"), local("b"), shared("c"), api.Disk{Name: "d", Volume: "v"})
	spec.CPU.Reserve = 500
	must.Eq(t, Ask{CPU: 500, Memory: 2 * api.GiB, Disk: []PoolAsk{{"default", 20 * api.GiB}, {"san", 10 * api.GiB}}}, AskOf(&spec, nil))
	must.Eq(t, []PoolAsk{{"default", 1}}, AskOf(&spec, []*api.Volume{{Pool: "default", Size: 1}, {Pool: "default", Size: 5, NodeID: id('n', 1)}}).Disk)

	// A shared pool counts its volumes since they were made.
	w.vm(1, api.Disk{Name: "a", Size: 999 * api.GiB, Pool: "san"})
	must.Nil(t, w.place(w.item(PlacePlace, 1, 1)).Err)
	w.vm(2, api.Disk{Name: "a", Size: 2 * api.GiB, Pool: "san"})
	must.Eq(t, DimDisk, w.place(w.item(PlacePlace, 2, 1)).Err.Details[0].Field)
}

func TestStoppedVMWithoutLocalDiskIsReleased(t *testing.T) {
	w := region(t, 2)
	w.vm(1, shared("root"))
	p := w.placed(1, 1)
	w.report(1, 1, p.Epoch, api.StateRunning)
	w.ok(&VMPower{ID: id('m', 1), Action: "stop"})
	must.NotNil(t, w.place(w.item(PlaceRelease, 1, 0)).Err, must.Sprint("not before it has stopped"))
	w.report(1, 1, p.Epoch, api.StateStopped)
	must.Nil(t, w.place(w.item(PlaceRelease, 1, 0)).Err)
	must.Nil(t, w.s().Placement(id('m', 1)))
	must.Eq(t, p.Epoch, w.s().Tombstone(id('n', 1), id('m', 1)).Epoch)

	w.ok(&VMPower{ID: id('m', 1), Action: "start"})
	q := w.placed(1, 2)
	must.Greater(t, p.Epoch, q.Epoch)
	w.report(1, 1, p.Epoch, api.StateAbsent)
	must.Nil(t, w.s().Tombstone(id('n', 1), id('m', 1)))
	must.NotNil(t, w.s().Placement(id('m', 1)), must.Sprint("the old node's word does not touch the new owner"))
}

// A word from before the order to stop may be overtaken: in between the node was
// ordered to run the VM, and may be doing so.
func TestAStaleWordThatAVMHasStoppedReleasesNothing(t *testing.T) {
	w := region(t, 2)
	w.vm(1, shared("root"))
	p := w.placed(1, 1)
	stop := func() { w.ok(&VMPower{ID: id('m', 1), Action: "stop"}) }
	stop()
	w.report(1, 1, p.Epoch, api.StateStopped)
	stale := w.index // what the node knew when it said so
	w.ok(&VMPower{ID: id('m', 1), Action: "start"})
	must.Nil(t, w.place(w.item(PlaceAdmit, 1, 1)).Err)
	stop()
	release := func() *api.Error { return w.place(w.item(PlaceRelease, 1, 0)).Err }
	must.NotNil(t, release(), must.Sprint("the node has not been heard of since it was to run it"))
	w.report(1, 1, p.Epoch, api.StateStopped, func(r *api.VMReport) { r.Order = stale })
	must.NotNil(t, release(), must.Sprint("it said so before it was to run it"))
	w.report(1, 1, p.Epoch, api.StateStopped, func(r *api.VMReport) { r.Generation++ })
	must.NotNil(t, release(), must.Sprint("indexes of another generation are not comparable"))
	w.report(1, 1, p.Epoch, api.StateRunning)
	must.NotNil(t, release())
	w.report(1, 1, p.Epoch, api.StateStopped)
	must.Nil(t, release())
}

// Until the node says so knowing of the order to stop, the VM may be running with its
// disks.
func TestAStaleWordThatAVMHasStoppedFreesNoDisk(t *testing.T) {
	w := region(t, 1)
	w.vm(1, shared("root"), shared("data"))
	p := w.placed(1, 1)
	w.ok(&VMPower{ID: id('m', 1), Action: "stop"})
	w.report(1, 1, p.Epoch, api.StateStopped)
	w.ok(&VMPower{ID: id('m', 1), Action: "start"})
	must.Nil(t, w.place(w.item(PlaceAdmit, 1, 1)).Err)
	w.ok(&VMPower{ID: id('m', 1), Action: "stop"})
	must.NotEq(t, api.Resources{}, w.s().Placement(id('m', 1)).Reserved, must.Sprint("its room is kept"))
	vm := w.s().VM(id('m', 1))
	less := &VMApply{ID: vm.ID, Spec: vm.Spec, VolumeIDs: volumeIDs(1, 1)}
	less.Spec.Disks = vm.Spec.Disks[:1]
	w.refused(api.CodeState, less)
	w.report(1, 1, p.Epoch, api.StateStopped)
	must.Eq(t, api.Resources{}, w.s().Placement(id('m', 1)).Reserved)
	w.ok(less)
}

func TestStoppedVMWithLocalDiskKeepsItsPlacement(t *testing.T) {
	w := region(t, 1)
	w.vm(1, local("root"))
	p := w.placed(1, 1)
	w.volumes(1, api.VolumeReady, volumeIDs(1, 1)...)
	w.ok(&VMPower{ID: id('m', 1), Action: "stop"})
	w.report(1, 1, p.Epoch, api.StateStopped)
	must.Eq(t, api.CodeState, w.place(w.item(PlaceRelease, 1, 0)).Err.Code)
}

func TestReportsOfAnotherEpochOrSessionAreIgnored(t *testing.T) {
	w := region(t, 2)
	w.vm(1)
	m := id('m', 1)
	p := w.placed(1, 1)
	w.report(1, 1, p.Epoch+1, api.StateFailed, func(r *api.VMReport) { r.Epoch = 0 })
	must.Eq(t, api.StatePending, w.s().Placement(m).State)
	w.report(1, 1, p.Epoch, api.StateRunning, func(r *api.VMReport) { r.Seq = 10; r.Addresses = []string{"10.0.0.9"} })
	must.Eq(t, api.StateRunning, w.s().Placement(m).State)
	w.report(1, 1, p.Epoch, api.StateStopped, func(r *api.VMReport) { r.Seq = 9 })
	must.Eq(t, api.StateRunning, w.s().Placement(m).State, must.Sprint("overtaken"))
	w.ok(&NodeReports{Reports: []api.NodeReport{{NodeID: id('n', 1), SessionID: id('s', 9), VMs: []api.VMReport{{VMID: m, Epoch: p.Epoch, State: api.StateStopped, Seq: 99}}}}})
	must.Eq(t, api.StateRunning, w.s().Placement(m).State, must.Sprint("another session"))
	must.Eq(t, []string{"10.0.0.9"}, w.s().Placement(m).Addresses)

	// A new session counts anew; what it does not mention has not changed.
	w.node(1)
	must.Eq(t, api.StateRunning, w.s().Placement(m).State)
	w.ok(&NodeRegister{Node: nodeOf(1), SessionID: id('s', 5)})
	w.ok(&NodeReports{Reports: []api.NodeReport{{NodeID: id('n', 1), SessionID: id('s', 5), VMs: []api.VMReport{{VMID: m, Epoch: p.Epoch, State: api.StatePaused, Seq: 1}}}}})
	must.Eq(t, api.StatePaused, w.s().Placement(m).State)
	must.Nil(t, w.s().Placement(m).Addresses)
}

// A report that says nothing new still ends what was said before it, and moves
// nothing that others look at.
func TestADelayedReportDoesNotOverwriteANewerOne(t *testing.T) {
	w := region(t, 1)
	w.vm(1)
	m := id('m', 1)
	p := w.placed(1, 1)
	at := func(seq uint64) func(*api.VMReport) { return func(r *api.VMReport) { r.Seq, r.Time = seq, 77 } }
	w.report(1, 1, p.Epoch, api.StateRunning, at(5))
	was, seen := w.s().Placement(m), len(w.seen)
	table := w.s().TableIndex(TablePlacement)
	w.report(1, 1, p.Epoch, api.StateRunning, at(7))
	must.Eq(t, seen, len(w.seen), must.Sprint("nothing has changed"))
	must.Eq(t, table, w.s().TableIndex(TablePlacement))
	must.Eq(t, was.ModifyIndex, w.s().Placement(m).ModifyIndex)
	w.report(1, 1, p.Epoch, api.StateStopped, at(6))
	must.Eq(t, api.StateRunning, w.s().Placement(m).State, must.Sprint("late"))
	w.report(1, 1, p.Epoch, api.StateStopped, at(8))
	must.Eq(t, api.StateStopped, w.s().Placement(m).State)
	must.Greater(t, seen, len(w.seen))
}

func TestOrphansAreShownAndNeverKilled(t *testing.T) {
	w := region(t, 2)
	w.report(1, 7, 3, api.StateRunning)
	orphans := slices.Collect(w.s().OrphansOn(id('n', 1)))
	must.Len(t, 1, orphans)
	must.Eq(t, id('m', 7), orphans[0].VMID)
	must.Eq(t, 0, w.s().tombstones.len())
	w.report(1, 7, 3, api.StateAbsent)
	must.Len(t, 0, slices.Collect(w.s().Orphans()))

	// A VM that is placed nowhere but runs somewhere is an orphan too.
	w.vm(1)
	w.report(1, 1, 1, api.StateRunning)
	must.Len(t, 1, slices.Collect(w.s().Orphans()))
	must.Eq(t, 1, w.s().VM(id('m', 1)).Epoch, must.Sprint("epochs go on above everything seen"))
	p := w.placed(1, 2)
	must.Eq(t, 2, p.Epoch)

	// Held where it was superseded: the node is ordered to stop it.
	w.report(1, 1, 1, api.StateRunning)
	must.Eq(t, 1, w.s().Tombstone(id('n', 1), id('m', 1)).Epoch)
	must.Len(t, 1, slices.Collect(w.s().TombstonesOf(id('m', 1))))
	must.Len(t, 0, slices.Collect(w.s().TombstonesOn(id('n', 2))))
}

func TestLargerSpecIsReservedAtOnce(t *testing.T) {
	w := region(t, 1)
	vm := w.vm(1)
	p := w.placed(1, 1)
	w.report(1, 1, p.Epoch, api.StateRunning)
	spec := vm.Spec
	spec.Memory = 8 * api.GiB
	w.ok(&VMApply{ID: vm.ID, Spec: spec})
	must.Eq(t, 8*api.GiB, w.s().Used(id('n', 1)).Memory)
	spec.Memory = 32 * api.GiB
	w.refused(api.CodeNoNode, &VMApply{ID: vm.ID, Spec: spec})
	spec.Memory = api.GiB
	w.ok(&VMApply{ID: vm.ID, Spec: spec})
	must.Eq(t, 8*api.GiB, w.s().Used(id('n', 1)).Memory, must.Sprint("until the smaller one runs"))
	w.report(1, 1, p.Epoch, api.StateRunning)
	must.Eq(t, api.GiB, w.s().Used(id('n', 1)).Memory)
}
