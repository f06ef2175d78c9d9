package fsm

import (
	"fmt"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

// moveOf asks for a live move of VM number n.
func moveOf(n int) *MigrationCreate {
	return &MigrationCreate{Migration: api.Migration{ID: id('x', n), VMID: id('m', n), Mode: api.MigrateLive, Cause: api.CauseOperator, Secret: id('k', n)}}
}

// ends says what an end of migration 1 reports.
func (w *world) end(node int, state api.EndState, more ...func(*api.MoveReport)) {
	w.t.Helper()
	m := w.s().Migration(id('x', 1))
	r := api.MoveReport{Migration: m.ID, State: state, Attempt: m.Attempts, BootID: "boot", Time: w.now, Seq: w.index}
	for _, f := range more {
		f(&r)
	}
	w.ok(&NodeReports{Reports: []api.NodeReport{{NodeID: id('n', node), SessionID: id('s', node), Moves: []api.MoveReport{r}}}})
}

func failed(why string) func(*api.MoveReport) {
	return func(r *api.MoveReport) { r.Failed, r.Message = true, why }
}

func clean(r *api.MoveReport) { r.Clean = true }

func (w *world) phase(want api.MigrationPhase) *api.Migration {
	w.t.Helper()
	m := w.s().Migration(id('x', 1))
	must.Eq(w.t, want, m.Phase)
	return m
}

func (w *world) step(next api.MigrationPhase) *api.Migration {
	w.t.Helper()
	m := w.s().Migration(id('x', 1))
	return w.ok(&MigrationStep{ID: m.ID, Phase: m.Phase, Next: next, To: id('n', 2), Deadline: w.now + 1000, Code: api.CodeCanceled, Message: "canceled"}).(*api.Migration)
}

// running is a region where VM 1 runs on node 1 with a local and a shared disk.
func running(t testing.TB) *world {
	w := region(t, 3)
	w.vm(1, local("root"), shared("data"))
	p := w.placed(1, 1)
	w.volumes(1, api.VolumeReady, volumeIDs(1, 2)...)
	w.report(1, 1, p.Epoch, api.StateRunning)
	return w
}

// proposed is running with a move of VM 1 to node 2 that was admitted.
func proposed(t testing.TB) *world {
	w := running(t)
	w.ok(moveOf(1))
	w.step(api.MigrationProposed)
	return w
}

// copying is proposed with both ends ready and the copy begun.
func copying(t testing.TB) *world {
	w := proposed(t)
	w.end(1, api.EndPresent)
	w.end(2, api.EndReady)
	w.phase(api.MigrationPrepared)
	w.step(api.MigrationCopying)
	return w
}

// fetching is running with the VM stopped, and its disks on their way to node 2.
func fetching(t testing.TB) *world {
	w := running(t)
	w.ok(&VMPower{ID: id('m', 1), Action: "stop"})
	w.report(1, 1, 1, api.StateStopped)
	c := moveOf(1)
	c.Migration.Mode = api.MigrateCold
	w.ok(c)
	w.step(api.MigrationProposed)
	w.end(1, api.EndPresent)
	w.end(2, api.EndReady)
	w.step(api.MigrationCopying)
	w.end(1, api.EndAbsent)
	w.end(2, api.EndCopying)
	return w
}

func TestAMoveFromTheQueueToTheEnd(t *testing.T) {
	w := proposed(t)
	before := w.s().Placement(id('m', 1))
	m := w.phase(api.MigrationProposed)
	must.Eq(t, before.Reserved, m.Reserved)
	must.Eq(t, volumeIDs(1, 1), m.Volumes, must.Sprint("the shared disk stays where it is"))
	must.Eq(t, m.Reserved, w.s().Used(id('n', 2)), must.Sprint("the destination's room is reserved"))
	must.Eq(t, 10*api.GiB, w.s().Promised(id('n', 2), "default"))

	w.end(2, api.EndReady)
	w.phase(api.MigrationProposed)
	w.end(1, api.EndPresent)
	w.phase(api.MigrationPrepared)
	must.Eq(t, 1, w.step(api.MigrationCopying).Attempts)
	w.end(1, api.EndCopying)
	w.end(2, api.EndCopying)
	w.phase(api.MigrationCopying)
	w.end(2, api.EndComplete)
	w.phase(api.MigrationSwitched)
	must.Eq(t, before, w.s().Placement(id('m', 1)), must.Sprint("nothing changes owner on one end's word"))
	w.end(1, api.EndAbsent)
	w.phase(api.MigrationCommitted)

	p := w.s().Placement(id('m', 1))
	must.Eq(t, id('n', 2), p.NodeID)
	must.Eq(t, before.Epoch+1, p.Epoch)
	must.Eq(t, p.Epoch, w.s().VM(id('m', 1)).Epoch)
	must.Eq(t, id('n', 2), w.s().Volume(volumeIDs(1, 1)[0]).NodeID)
	stone := w.s().Tombstone(id('n', 1), id('m', 1))
	must.NotNil(t, stone)
	must.Eq(t, before.Epoch, stone.Epoch)
	must.Eq(t, api.Resources{}, w.s().Used(id('n', 1)))
	must.Eq(t, p.Reserved, w.s().Used(id('n', 2)), must.Sprint("counted once"))
	must.Eq(t, 10*api.GiB, w.s().Promised(id('n', 2), "default"))

	w.report(1, 1, before.Epoch, api.StateAbsent)
	w.report(2, 1, p.Epoch, api.StateRunning)
	w.end(2, api.EndRunning, clean)
	w.phase(api.MigrationCommitted)
	w.end(1, api.EndAbsent, clean)
	done := w.phase(api.MigrationDone)
	must.Positive(t, int64(done.EndTime))
	must.Nil(t, w.s().MigrationOf(id('m', 1)))
	must.Nil(t, w.s().Tombstone(id('n', 1), id('m', 1)))
}

func TestOneMoveForAVMAndNothingBesideIt(t *testing.T) {
	w := copying(t)
	again := moveOf(1)
	again.Migration.ID = id('x', 2)
	w.refused(api.CodeMigrating, again)
	for _, verb := range []string{"reboot", "reset", "pause", "start"} {
		w.refused(api.CodeMigrating, &VMPower{ID: id('m', 1), Action: verb})
	}
	w.refused(api.CodeMigrating, &VMDelete{ID: id('m', 1)})
	spec := w.s().VM(id('m', 1)).Spec
	spec.Description = "other"
	w.refused(api.CodeMigrating, &VMApply{ID: id('m', 1), Spec: spec, VolumeIDs: volumeIDs(1, 2)})
	must.StrContains(t, w.place(w.item(PlaceRelease, 1, 0)).Err.Message, "being moved")
}

// A VM that was stopped for its move, or is moved while it is stopped, stays on its
// node while the move waits in the queue: the move starts from there.
func TestAVMThatWaitsToBeMovedKeepsItsNode(t *testing.T) {
	w := region(t, 2)
	w.vm(1, shared("root"))
	p := w.placed(1, 1)
	w.report(1, 1, p.Epoch, api.StateRunning)
	c := moveOf(1)
	c.Migration.Mode, c.Migration.Restart = api.MigrateCold, true
	w.ok(c)
	w.phase(api.MigrationQueued)
	w.report(1, 1, p.Epoch, api.StateStopped)
	must.Eq(t, api.CodeMigrating, w.place(w.item(PlaceRelease, 1, 0)).Err.Code)
	must.Eq(t, p.NodeID, w.s().Placement(id('m', 1)).NodeID)
	invariants(t, w.s())
}

func TestWhatCannotBeMovedIsRefused(t *testing.T) {
	w := running(t)
	move := func(change func(*api.Migration)) *MigrationCreate {
		c := moveOf(1)
		change(&c.Migration)
		return c
	}
	w.refused(api.CodeNotFound, move(func(m *api.Migration) { m.VMID = id('m', 9) }))
	w.refused(api.CodeState, move(func(m *api.Migration) { m.Mode = api.MigrateCold }))
	w.refused(api.CodeState, move(func(m *api.Migration) { m.To, m.Pinned = id('n', 1), true }))
	w.refused(api.CodeNotFound, move(func(m *api.Migration) { m.To, m.Pinned = id('n', 9), true }))
	w.refused(api.CodeInvalid, move(func(m *api.Migration) { m.Mode = "post-copy" }))
	w.refused(api.CodeInvalid, move(func(m *api.Migration) { m.Options.MaxDowntime = -1 }))
	w.vm(2)
	w.refused(api.CodeUnplaced, moveOf(2))
	w.ok(&VMPower{ID: id('m', 1), Action: "stop"})
	w.refused(api.CodeState, moveOf(1))
	w.report(1, 1, 1, api.StateStopped)
	w.ok(move(func(m *api.Migration) { m.Mode = api.MigrateCold }))
}

func TestTheDestinationIsCheckedAgainWhenAMoveIsAdmitted(t *testing.T) {
	admit := &MigrationStep{ID: id('x', 1), Phase: api.MigrationQueued, Next: api.MigrationProposed, To: id('n', 2)}
	for name, change := range map[string]func(*world){
		"cordoned": func(w *world) { w.ok(&NodeUpdate{ID: id('n', 2), Eligibility: api.Ineligible}) },
		"suspect": func(w *world) {
			w.ok(&NodeStatus{Items: []NodeStatusItem{{NodeID: id('n', 2), Status: api.NodeSuspect}}})
		},
		"unreachable": func(w *world) {
			w.ok(&NodeStatus{Items: []NodeStatusItem{{NodeID: id('n', 2), Unreachable: ptr("x")}}})
		},
		"full": func(w *world) {
			s := specOf("big")
			s.Memory = 15 * api.GiB
			w.ok(&VMApply{ID: id('m', 8), Spec: s, VolumeIDs: nil})
			w.placed(8, 2)
		},
	} {
		w := running(t)
		w.ok(moveOf(1))
		change(w)
		must.Eq(t, api.CodePlacement, w.refused(api.CodePlacement, admit).Code, must.Sprint(name))
		w.phase(api.MigrationQueued)
	}
	w := proposed(t)
	w.refused(api.CodePlacement, admit) // no longer in the queue
}

// The decision table: the source's state, the destination's, and what follows.
func TestTheDecisionTable(t *testing.T) {
	source := []string{"present", "failed", "copying", "switched", "absent", "unknown", "lost"}
	dest := []string{"absent", "copying", "complete", "running", "unknown", "lost"}
	table := map[string][]move{
		// the order was not taken up yet, or the job has not begun
		"present": {moveAbort, moveWait, moveSwitch, moveAbort, moveWait, moveAbort},
		// the copy has ended without success
		"failed":  {moveAbort, moveAbort, moveAbort, moveAbort, moveAbort, moveAbort},
		"copying": {moveAbort, moveWait, moveSwitch, moveAbort, moveWait, moveAbort},
		// stopped for the switch-over and does not know: resumes only after an abort
		"switched": {moveAbort, moveAbort, moveKillSource, moveKillSource, moveAbort, moveAbort},
		"absent":   {moveAbort, moveSwitch, moveCommit, moveCommit, moveSwitch, moveAbort},
		"unknown":  {moveWait, moveWait, moveSwitch, moveWait, moveWait, moveWait},
		"lost":     {moveAbort, moveAbort, moveCommit, moveCommit, moveWait, moveAbort},
	}
	for _, s := range source {
		for j, d := range dest {
			src := side{MigrationEnd: api.MigrationEnd{State: api.EndState(s), Attempt: 1}, lost: s == "lost"}
			if s == "failed" {
				src.State, src.Failed = api.EndPresent, true
			}
			dst := side{MigrationEnd: api.MigrationEnd{State: api.EndState(d), Attempt: 1}, lost: d == "lost"}
			m := &api.Migration{Phase: api.MigrationCopying, Mode: api.MigrateLive, Attempts: 1, Source: src.MigrationEnd, Dest: dst.MigrationEnd}
			must.Eq(t, table[s][j], decideMove(m, src, dst), must.Sprintf("source %s, destination %s", s, d))
		}
	}
}

func TestTheDestinationIsClearedOnlyWhenTheSourceIsThere(t *testing.T) {
	source := []string{"present", "switched", "copying", "absent", "died", "unknown", "lost"}
	dest := []string{"clean", "copying", "complete", "unknown", "lost"}
	table := map[string][]move{
		"present":  {moveAborted, moveKillDest, moveKillDest, moveKillDest, moveAborted},
		"switched": {moveAborted, moveKillDest, moveKillDest, moveKillDest, moveAborted},
		"copying":  {moveWait, moveWait, moveWait, moveWait, moveWait},
		"absent":   {moveLost, moveAsk, moveCommit, moveAsk, moveLost},
		"died":     {moveLost, moveKillDest, moveKillDest, moveKillDest, moveLost},
		"unknown":  {moveWait, moveWait, moveWait, moveWait, moveWait},
		"lost":     {moveAborted, moveAsk, moveCommit, moveAsk, moveAborted},
	}
	for _, s := range source {
		for j, d := range dest {
			src := side{MigrationEnd: api.MigrationEnd{State: api.EndState(s), Attempt: 1}, lost: s == "lost"}
			dst := side{MigrationEnd: api.MigrationEnd{State: api.EndState(d), Attempt: 1}, lost: d == "lost"}
			if d == "clean" {
				dst.State, dst.Clean = api.EndAbsent, true
			}
			m := &api.Migration{Phase: api.MigrationAborting, Mode: api.MigrateLive, Attempts: 1}
			must.Eq(t, table[s][j], decideMove(m, src, dst), must.Sprintf("source %s, destination %s", s, d))
			m.KillDest = true
			if table[s][j] == moveCommit { // it may be half gone by now
				must.Eq(t, moveWait, decideMove(m, src, dst))
			}
		}
	}
}

// Once the source was told to end what stands still there, its copy may be gone,
// and the destination's is not to be ended for silence or for a wish.
func TestNothingIsAbortedAfterTheSourceWasToldToEndItsGuest(t *testing.T) {
	w := copying(t)
	w.end(2, api.EndComplete)
	w.end(1, api.EndSwitched)
	must.True(t, w.phase(api.MigrationSwitched).KillSource)
	w.end(2, api.EndUnknown)
	w.phase(api.MigrationSwitched)
	w.refused(api.CodeState, &MigrationStep{ID: id('x', 1), Phase: api.MigrationSwitched, Next: api.MigrationAborting})
	w.end(1, api.EndAbsent)
	w.end(2, api.EndComplete)
	w.phase(api.MigrationCommitted)
}

func TestAMoveThatFailsLeavesTheSourceAsItWas(t *testing.T) {
	w := copying(t)
	before := w.s().Placement(id('m', 1))
	w.end(1, api.EndCopying)
	w.end(1, api.EndPresent, failed("the link was cut"))
	m := w.phase(api.MigrationAborting)
	must.Eq(t, "the link was cut", m.Message)
	must.True(t, m.KillDest)
	must.Positive(t, w.s().Used(id('n', 2)).Memory, must.Sprint("what is there still takes room"))
	w.end(2, api.EndAbsent, clean)
	w.phase(api.MigrationAborted)
	must.Eq(t, before, w.s().Placement(id('m', 1)))
	must.Eq(t, api.Resources{}, w.s().Used(id('n', 2)))
	must.Eq(t, 0, w.s().Promised(id('n', 2), "default"))
	w.ok(&VMPower{ID: id('m', 1), Action: "reboot"})
}

func TestAnAbortIsRefusedOnceTheGuestHasLeft(t *testing.T) {
	w := copying(t)
	w.end(1, api.EndAbsent)
	w.phase(api.MigrationSwitched)
	w.refused(api.CodeState, &MigrationStep{ID: id('x', 1), Phase: api.MigrationSwitched, Next: api.MigrationAborting})
	w.end(2, api.EndComplete)
	w.phase(api.MigrationCommitted)
	w.refused(api.CodeState, &MigrationStep{ID: id('x', 1), Phase: api.MigrationCommitted, Next: api.MigrationAborting})
}

func TestAnAbortThatComesTooLateBecomesACommit(t *testing.T) {
	w := copying(t)
	w.end(1, api.EndCopying)
	w.step(api.MigrationAborting)
	w.phase(api.MigrationAborting)
	w.end(2, api.EndComplete)
	w.phase(api.MigrationAborting)
	w.end(1, api.EndAbsent) // it had left before the order to abort reached it
	w.phase(api.MigrationCommitted)
	must.Eq(t, id('n', 2), w.s().Placement(id('m', 1)).NodeID)
}

func TestAGuestThatIsNowhereIsStartedAnewAtAHigherEpoch(t *testing.T) {
	w := copying(t)
	before := w.s().Placement(id('m', 1))
	w.end(1, api.EndAbsent)
	w.end(2, api.EndAbsent, failed("incoming guest died"))
	w.phase(api.MigrationAborting)
	w.end(2, api.EndAbsent, clean)
	m := w.phase(api.MigrationAborted)
	must.True(t, m.Lost)
	p := w.s().Placement(id('m', 1))
	must.Eq(t, id('n', 1), p.NodeID)
	must.Eq(t, before.Epoch+1, p.Epoch)
}

func TestTheWordOfAnEarlierBootCountsNoMore(t *testing.T) {
	w := copying(t)
	w.end(2, api.EndComplete)
	n := nodeOf(2)
	n.BootID = "another boot"
	w.ok(&NodeRegister{Node: n, SessionID: id('s', 2)})
	w.end(1, api.EndAbsent)
	w.phase(api.MigrationSwitched) // not committed to a machine that has forgotten
	w.end(2, api.EndComplete)
	w.phase(api.MigrationSwitched) // a late report of the earlier boot
	w.end(2, api.EndAbsent, func(r *api.MoveReport) { r.BootID = "another boot" })
	w.phase(api.MigrationAborting)
}

func TestLateReportsAreIgnored(t *testing.T) {
	w := copying(t)
	w.end(1, api.EndAbsent)
	w.end(1, api.EndPresent, func(r *api.MoveReport) { r.Seq = 1 })
	must.Eq(t, api.EndAbsent, w.s().Migration(id('x', 1)).Source.State)
	w.ok(&NodeReports{Reports: []api.NodeReport{{NodeID: id('n', 2), SessionID: id('s', 9), Moves: []api.MoveReport{{Migration: id('x', 1), State: api.EndComplete, Attempt: 1, BootID: "boot", Seq: w.index}}}}})
	w.phase(api.MigrationSwitched)
	w.end(3, api.EndComplete) // a node that has no part in it
	w.phase(api.MigrationSwitched)
}

func TestALostSourceWithACompleteDestinationIsACommit(t *testing.T) {
	w := copying(t)
	w.end(1, api.EndCopying)
	w.end(2, api.EndComplete)
	w.phase(api.MigrationSwitched)
	w.ok(&NodeStatus{Items: []NodeStatusItem{{NodeID: id('n', 1), Status: api.NodeSuspect}}})
	w.phase(api.MigrationSwitched)
	w.ok(w.lost(1, api.EvidenceOperator))
	w.phase(api.MigrationCommitted)
	must.Eq(t, id('n', 2), w.s().Placement(id('m', 1)).NodeID)
}

func TestAStopEndsAMoveWhileItCan(t *testing.T) {
	w := copying(t)
	w.end(1, api.EndCopying)
	w.ok(&VMPower{ID: id('m', 1), Action: "stop"})
	must.Eq(t, "the VM is to be stopped", w.phase(api.MigrationAborting).Message)
	w = copying(t)
	w.end(1, api.EndAbsent)
	w.ok(&VMPower{ID: id('m', 1), Action: "stop"})
	w.phase(api.MigrationSwitched)
	w.end(2, api.EndComplete)
	w.phase(api.MigrationCommitted)
	must.Eq(t, api.PowerStopped, w.s().Placement(id('m', 1)).Desired)
}

func TestAColdMoveCanBeEndedWhileTheDisksAreOnTheWay(t *testing.T) {
	w := fetching(t)
	w.step(api.MigrationAborting)
	must.True(t, w.phase(api.MigrationAborting).KillDest)
	w.end(2, api.EndAbsent, clean)
	m := w.phase(api.MigrationAborted)
	must.False(t, m.Lost)
	must.Eq(t, 1, w.s().Placement(id('m', 1)).Epoch)
}

func TestAMoveThatLeavesTheQueueLeavesNothingBehind(t *testing.T) {
	w := running(t)
	c := moveOf(1)
	c.Migration.To, c.Migration.Pinned = id('n', 2), true
	w.ok(c)
	w.step(api.MigrationAborting)
	m := w.phase(api.MigrationAborted)
	must.True(t, m.Source.Clean && m.Dest.Clean, must.Sprint("no end was told"))
	must.Positive(t, int64(m.EndTime))
	w.ok(&VMPower{ID: id('m', 1), Action: "reboot"})
}

// A drain may stop a VM for its move: it is started again when the move is over,
// whatever became of it, unless somebody wants it stopped.
func TestAVMThatWasStoppedForItsMoveIsStartedAgain(t *testing.T) {
	cold := moveOf(1)
	cold.Migration.Mode, cold.Migration.Restart, cold.Migration.Cause = api.MigrateCold, true, api.CauseDrain
	begin := func(t *testing.T) *world {
		w := running(t)
		w.ok(cold)
		must.Eq(t, api.PowerStopped, w.s().VM(id('m', 1)).Power)
		admit := &MigrationStep{ID: id('x', 1), Phase: api.MigrationQueued, Next: api.MigrationProposed, To: id('n', 2)}
		w.refused(api.CodeState, admit) // the guest has not ended yet
		w.report(1, 1, 1, api.StateStopped)
		w.ok(admit)
		return w
	}
	w := begin(t)
	w.end(1, api.EndPresent)
	w.end(2, api.EndReady)
	w.step(api.MigrationCopying)
	w.end(1, api.EndAbsent)
	w.end(2, api.EndComplete)
	must.Eq(t, api.PowerStopped, w.s().VM(id('m', 1)).Power)
	w.end(2, api.EndComplete, clean)
	w.end(1, api.EndAbsent, clean)
	must.False(t, w.phase(api.MigrationDone).Restart)
	must.Eq(t, api.PowerRunning, w.s().VM(id('m', 1)).Power)
	must.Eq(t, id('n', 2), w.s().Placement(id('m', 1)).NodeID)

	w = begin(t)
	w.end(1, api.EndPresent, failed("no room"))
	w.end(2, api.EndAbsent, clean)
	w.phase(api.MigrationAborted)
	must.Eq(t, api.PowerRunning, w.s().VM(id('m', 1)).Power)

	w = begin(t)
	w.ok(&VMPower{ID: id('m', 1), Action: "stop"})
	w.end(1, api.EndPresent, failed("no room"))
	w.end(2, api.EndAbsent, clean)
	w.phase(api.MigrationAborted)
	must.Eq(t, api.PowerStopped, w.s().VM(id('m', 1)).Power, must.Sprint("somebody stopped it"))
	must.Eq(t, api.CodeInvalid, w.refused(api.CodeInvalid, &MigrationCreate{Migration: api.Migration{ID: id('x', 9), VMID: id('m', 1), Secret: id('k', 9), Mode: api.MigrateLive, Cause: api.CauseDrain, Restart: true}}).Code)
}

func TestRestoreForgetsMoves(t *testing.T) {
	w := copying(t)
	w.ok(&RecoveryBegin{})
	must.Eq(t, api.CodeRecovery, w.phase(api.MigrationAborted).Code)
	must.Eq(t, api.Resources{}, w.s().Used(id('n', 2)))
}

func TestOldMovesAreForgotten(t *testing.T) {
	w := running(t)
	for i := range 2 * keepMigrations {
		c := moveOf(1)
		c.Migration.ID = id('x', i+1)
		w.ok(c)
		w.ok(&MigrationStep{ID: c.Migration.ID, Phase: api.MigrationQueued, Next: api.MigrationAborting, Code: api.CodeCanceled, Message: fmt.Sprint(i)})
	}
	n := 0
	for range w.s().MigrationsOf(id('m', 1)) {
		n++
	}
	must.Eq(t, keepMigrations, n)
}
