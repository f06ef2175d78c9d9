package client

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// move tells the machine, the source, of a phase of its migration.
func (s *script) move(phase api.MigrationPhase, attempt int32) op {
	return s.do(event{kind: evMove, move: &moveOrder{id: api.ID{9}, mode: api.MigrateLive, phase: phase, epoch: 1, attempt: attempt}})
}

// sent brings a running guest to the point at which its source has attested that
// it is gone.
func sent(t *testing.T) *script {
	t.Helper()
	s := running(t)
	must.Eq(t, opNone, s.move(api.MigrationPrepared, 0))
	must.Eq(t, opMoveOut, s.move(api.MigrationCopying, 1))
	must.Eq(t, opInspect, s.done(resOK))
	must.Eq(t, opMoveAttest, s.see(dom{kind: domAbsent}))
	must.Eq(t, opNone, s.done(resOK))
	return s
}

// A guest that ended before anything was sent: its absence is proved without any
// other event, or the servers would wait for it.
func TestASourceWhoseGuestDiedBeforeTheCopyProvesItsAbsenceAtOnce(t *testing.T) {
	s := running(t)
	must.Eq(t, opNone, s.move(api.MigrationPrepared, 0))
	must.Eq(t, opNone, s.see(dom{kind: domAbsent, exit: "crashed"}))
	must.Eq(t, opMoveAttest, s.move(api.MigrationCopying, 1))
	must.Eq(t, opNone, s.done(resOK))
	r, ok := s.m.moveReport("")
	must.True(t, ok)
	must.Eq(t, api.EndAbsent, r.State)
	must.True(t, r.Failed)
	must.Eq(t, opNone, s.move(api.MigrationAborting, 1))
	must.Eq(t, opMoveClean, s.move(api.MigrationAborted, 1))
	must.Eq(t, opNone, s.done(resOK))
	must.Eq(t, opPrepare, s.after(time.Minute), must.Sprint("it starts again where it was"))
}

// The phase is told in one event and the order to stop in the next; between them
// a source that has sent its guest still holds its old grant.
func TestASourceStartsNothingBetweenTheCommitAndItsOrderToStop(t *testing.T) {
	for _, phase := range []api.MigrationPhase{api.MigrationCommitted, api.MigrationDone} {
		s := sent(t)
		must.Eq(t, opNone, s.move(api.MigrationSwitched, 1))
		must.Eq(t, opNone, s.move(phase, 1), must.Sprint("the guest runs at its new owner"))
		must.Eq(t, opNone, s.do(event{kind: evTick}))
		stop := runOrder()
		stop.Stop, stop.Index = true, 11
		must.Eq(t, opAttest, s.order(stop))
		must.Eq(t, opMoveClean, s.done(resOK))
		must.Eq(t, opNone, s.done(resOK))
	}
}

func TestASourceThatIsGrantedTheVMAgainStartsIt(t *testing.T) {
	s := sent(t)
	must.Eq(t, opNone, s.move(api.MigrationDone, 1))
	again := runOrder()
	again.Epoch, again.Index = 3, 12
	must.Eq(t, opPrepare, s.order(again))
}

// left brings a running guest to the point at which it has left, and the call that
// sent it has not come back.
func left(t *testing.T) *script {
	t.Helper()
	s := running(t)
	must.Eq(t, opNone, s.move(api.MigrationPrepared, 0))
	must.Eq(t, opMoveOut, s.move(api.MigrationCopying, 1))
	must.Eq(t, opNone, s.do(event{kind: evGone}))
	return s
}

// told is the state that the source reports.
func (s *script) told() api.EndState {
	r, _ := s.m.moveReport("boot")
	return r.State
}

// That a guest has left is told at once, and stands whatever the call that sent it
// says later: the commit may be made of it.
func TestASourceWhoseGuestHasLeftTellsItAtOnce(t *testing.T) {
	for _, res := range []result{resOK, resFailed, resUnknown} {
		s := left(t)
		must.Eq(t, api.EndAbsent, s.told())
		must.False(t, s.m.Alive)
		must.True(t, s.m.durable().Move.Left, must.Sprint("it is in the journal"))
		out := s.out
		must.Eq(t, opNone, s.move(api.MigrationCommitted, 1))
		must.False(t, out.cancel || s.out.cancel, must.Sprint("there is nothing to end any more"))
		stop := runOrder()
		stop.Stop, stop.Index = true, 11
		must.Eq(t, opNone, s.order(stop), must.Sprint("the hypervisor still tidies up"))
		must.Eq(t, api.EndAbsent, s.told())
		o := s.done(res)
		must.Eq(t, api.EndAbsent, s.told())
		if res != resUnknown {
			must.Eq(t, opInspect, o)
		}
		must.Eq(t, opAttest, s.see(dom{kind: domAbsent}), must.Sprint("the order to stop is attested in its own right"))
		must.Eq(t, api.EndAbsent, s.told())
	}
}

// A word of an end that nobody waits for means nothing.
func TestAGuestLeavesOnlyWhileItIsSent(t *testing.T) {
	s := running(t)
	must.Eq(t, opNone, s.do(event{kind: evGone}))
	must.True(t, s.m.Alive)
	s = sent(t)
	must.Eq(t, opNone, s.do(event{kind: evGone}))
	must.False(t, s.m.Move.Left)
}

func TestANewAttemptHasNotLeft(t *testing.T) {
	s := left(t)
	must.Eq(t, opInspect, s.done(resFailed))
	s.see(dom{kind: domPaused, reason: hypervisor.ReasonMigrating, epoch: 1}) // it cannot be, and counts all the same
	must.Eq(t, api.EndSwitched, s.told())
}

// Nobody knows whether a guest that ended with its machine had gone on since it was
// copied: it starts anew from the disk that it had here.
func TestAGuestThatEndedWithItsMachineMayBeAheadOfItsCopy(t *testing.T) {
	for boot, want := range map[string]api.EndState{"b2": api.EndDied, "b1": api.EndAbsent} {
		s := running(t)
		must.Eq(t, opNone, s.move(api.MigrationPrepared, 0))
		must.Eq(t, opMoveOut, s.move(api.MigrationCopying, 1))
		s.m, s.e.boot = newMachine(s.m.record, true), boot
		must.Eq(t, opNone, s.see(dom{kind: domAbsent}))
		must.Eq(t, opMoveEnd, s.move(api.MigrationCopying, 1), must.Sprint("what the agent before had begun ends"))
		must.Eq(t, opInspect, s.done(resOK))
		must.Eq(t, opMoveAttest, s.see(dom{kind: domAbsent}))
		must.Eq(t, opNone, s.done(resOK))
		must.Eq(t, want, s.told())
	}
	s := running(t)
	must.Eq(t, opNone, s.move(api.MigrationPrepared, 0))
	must.Eq(t, opMoveOut, s.move(api.MigrationCopying, 1))
	must.Eq(t, opInspect, s.done(resOK))
	s.m, s.e.boot = newMachine(s.m.record, true), "b2"
	must.Eq(t, opNone, s.see(dom{kind: domAbsent}))
	must.Eq(t, opMoveAttest, s.move(api.MigrationSwitched, 1))
	must.Eq(t, opNone, s.done(resOK))
	must.Eq(t, api.EndAbsent, s.told(), must.Sprint("the call that sent it had said that it has left"))
}

// A hypervisor may come to a call that it was given after the move was over, and
// after it was proved that nothing is there.
func TestWhatComesInLateIsNoGuestOfAVMThatIsOwnedHere(t *testing.T) {
	half := dom{kind: domPaused, reason: hypervisor.ReasonIncoming, epoch: 1}
	for _, power := range []api.Power{api.PowerRunning, api.PowerStopped, api.PowerPaused} {
		s := newScript(t)
		o := runOrder()
		o.Epoch, o.Desired = 2, power
		must.Eq(t, opInspect, s.order(o))
		must.Eq(t, opDestroy, s.see(half), must.Sprint("it is neither resumed nor left"))
		after := s.done(resOK)
		if power == api.PowerStopped {
			must.Eq(t, opNone, after)
			must.Eq(t, api.StateStopped, s.m.State)
			continue
		}
		must.Eq(t, opPrepare, after, must.Sprint("it starts from its disk"))
		must.Zero(t, s.m.Restarts, must.Sprint("that is no failure of its own"))
	}
	s := newScript(t)
	s.moveIn(api.MigrationCopying, 1)
	must.NotEq(t, opDestroy, s.see(half), must.Sprint("what comes in for a move is left to it"))
}

// An agent that was cut off may hear in one batch that the move is off, and then
// that the VM, which it still believes is to be stopped, is to run.
func TestAGuestThatStandsStillForAMoveThatIsOffRunsAgain(t *testing.T) {
	s := running(t)
	must.Eq(t, opNone, s.move(api.MigrationPrepared, 0))
	must.Eq(t, opMoveOut, s.move(api.MigrationCopying, 1))
	must.Eq(t, opNone, s.order(with(func(o *api.Order) { o.Desired = api.PowerStopped })))
	must.Eq(t, opInspect, s.done(resFailed))
	must.Eq(t, opNone, s.see(dom{kind: domPaused, reason: hypervisor.ReasonMigrating, epoch: 1}))
	must.Eq(t, opMoveClean, s.move(api.MigrationAborted, 1))
	must.Eq(t, opNone, s.order(with(func(o *api.Order) { o.Index = 30 })))
	must.Eq(t, opResume, s.done(resOK))
}
