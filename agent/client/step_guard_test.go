package client

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// guardedScript is a host with a guard and a lease.
func guardedScript(t *testing.T) *script {
	s := newScript(t)
	s.e.guard, s.e.up, s.e.deadline, s.e.term = true, time.Hour, time.Hour+15*time.Second, 1
	s.e.known = 1000 * time.Hour
	return s
}

func haOrder(change ...func(*api.Order)) api.Order {
	o := runOrder()
	o.Spec = &api.VMSpec{HA: api.HAPolicy{Policy: api.HARestart}}
	for _, f := range change {
		f(&o)
	}
	return o
}

// orderIn is order, in a stream of a term of the lease.
func (s *script) orderIn(term uint64, o api.Order) op {
	return s.do(event{kind: evOrder, order: &o, generation: 1, term: term})
}

// pass is after, on both clocks.
func (s *script) pass(d time.Duration) op {
	s.e.up += d
	return s.after(d)
}

func (s *script) startedPaused() op {
	return s.do(event{kind: evDone, op: opStart, epoch: s.m.Epoch, dom: dom{kind: domPaused, reason: "starting-up", epoch: s.m.Epoch}})
}

func (s *script) gone() op {
	if s.m.busy == opNone {
		s.do(event{kind: evLook})
	}
	return s.see(dom{kind: domAbsent, exit: "crashed"})
}

// armedScript is an HA VM that runs and is armed at epoch 1.
func armedScript(t *testing.T) *script {
	t.Helper()
	s := guardedScript(t)
	must.Eq(t, opInspect, s.orderIn(1, haOrder()))
	must.Eq(t, opPrepare, s.see(dom{kind: domAbsent}))
	must.Eq(t, opStart, s.done(resOK))
	must.Eq(t, opArm, s.startedPaused())
	must.Eq(t, api.StateStarting, s.m.State)
	must.False(t, s.m.report().Armed)
	must.Eq(t, opResume, s.done(resOK))
	must.True(t, s.m.report().Armed)
	must.True(t, s.m.Told, must.Sprint("in the journal before it is said"))
	must.Eq(t, opNone, s.done(resOK))
	must.Eq(t, api.StateRunning, s.m.State)
	return s
}

func TestArmComesBeforeResume(t *testing.T) { armedScript(t) }

func TestARefusedArmLeavesTheGuestPausedAndIsTriedAgain(t *testing.T) {
	s := guardedScript(t)
	s.orderIn(1, haOrder())
	s.see(dom{kind: domAbsent})
	s.done(resOK)
	must.Eq(t, opArm, s.startedPaused())
	for _, d := range []time.Duration{1, 2, 4} {
		must.Eq(t, opNone, s.done(resFailed))
		must.Eq(t, api.StateStarting, s.m.State)
		must.Eq(t, "not armed: no", s.m.report().Message)
		must.Eq(t, opArm, s.wakes(d*time.Second))
	}
	must.Eq(t, opResume, s.done(resOK))
	must.Eq(t, "", s.m.report().Message)
}

func TestAnArmWithoutAnAnswerIsNoArm(t *testing.T) {
	s := guardedScript(t)
	s.orderIn(1, haOrder())
	s.see(dom{kind: domAbsent})
	s.done(resOK)
	s.startedPaused()
	must.Eq(t, opNone, s.done(resUnknown))
	must.False(t, s.m.report().Armed)
	must.Eq(t, domPaused, s.m.dom.kind, must.Sprint("the domain is as it was"))
	must.Eq(t, opResume, s.do(event{kind: evGuard, epoch: 1, mine: true}), must.Sprint("the guard has it after all"))
}

func TestWhatTheGuardHoldsOfAnotherProcessDoesNotCount(t *testing.T) {
	s := guardedScript(t)
	s.orderIn(1, haOrder())
	s.see(dom{kind: domAbsent})
	s.done(resOK)
	s.startedPaused()
	s.done(resFailed)
	must.Eq(t, opNone, s.do(event{kind: evGuard, epoch: 1}))
	must.False(t, s.m.report().Armed)
}

func TestNoStartWithoutLeaseGuardOrConfirmation(t *testing.T) {
	for name, c := range map[string]struct {
		bad, good func(*env)
		why       string
	}{
		"guard": {func(e *env) { e.guard = false }, func(e *env) { e.guard = true }, "none answers"},
		"lease": {func(e *env) { e.deadline = e.up }, func(e *env) { e.deadline = e.up + 1 }, "no lease"},
		"doubt": {func(e *env) { e.doubt = true }, func(e *env) { e.doubt = false }, "last beats"},
		"term":  {func(e *env) { e.term = 2 }, func(e *env) { e.term = 1 }, "not confirmed"},
	} {
		t.Run(name, func(t *testing.T) {
			s := guardedScript(t)
			c.bad(&s.e)
			s.orderIn(1, haOrder())
			must.Eq(t, opNone, s.see(dom{kind: domAbsent}))
			must.StrContains(t, s.m.report().Message, c.why)
			c.good(&s.e)
			must.Eq(t, opPrepare, s.pass(0))
			must.Eq(t, "", s.m.report().Message)
		})
	}
}

func TestAnOrderOfALaterTermConfirms(t *testing.T) {
	s := guardedScript(t)
	s.e.term = 2
	s.orderIn(1, haOrder())
	must.Eq(t, opNone, s.see(dom{kind: domAbsent}))
	must.Eq(t, opPrepare, s.orderIn(2, haOrder()), must.Sprint("the same order, in a stream that is new enough"))
}

func TestEveryResumeNeedsTheGuard(t *testing.T) {
	s := armedScript(t)
	must.Eq(t, opPause, s.orderIn(1, haOrder(func(o *api.Order) { o.Index, o.Desired = 20, api.PowerPaused })))
	s.done(resOK)
	s.do(event{kind: evGuard}) // it holds it no more
	must.Eq(t, opArm, s.m.busy, must.Sprint("armed also while it is paused"))
	s.done(resFailed)
	must.Eq(t, opNone, s.orderIn(1, haOrder(func(o *api.Order) { o.Index = 30 })))
	must.Eq(t, opArm, s.pass(time.Second))
	must.Eq(t, opResume, s.done(resOK))
	s.done(resOK)

	s.orderIn(1, haOrder(func(o *api.Order) { o.Index, o.Desired = 40, api.PowerPaused }))
	s.done(resOK)
	s.e.deadline = s.e.up
	must.Eq(t, opNone, s.orderIn(1, haOrder(func(o *api.Order) { o.Index = 50 })))
	must.StrContains(t, s.m.report().Message, "no lease")
}

func TestADestinationArmsAtTheNewEpoch(t *testing.T) {
	s := guardedScript(t)
	s.m.Move = moveRecord{ID: api.ID{9}, In: true, Mode: api.MigrateLive, Phase: api.MigrationCommitted, Epoch: 1, Seen: true}
	s.m.moving, s.m.received = true, true
	must.Eq(t, opInspect, s.orderIn(1, haOrder(func(o *api.Order) { o.Epoch = 2 })))
	must.Eq(t, opSetEpoch, s.see(dom{kind: domPaused, reason: hypervisor.ReasonComplete, epoch: 1}))
	must.Eq(t, opArm, s.done(resOK))
	must.Eq(t, 2, s.m.RunEpoch)
	must.Eq(t, opResume, s.done(resOK))
	must.Eq(t, opMoveClean, s.done(resOK))
}

func TestNoCopyBeginsInDoubt(t *testing.T) {
	s := armedScript(t)
	s.e.doubt = true
	move := &moveOrder{id: api.ID{9}, mode: api.MigrateLive, phase: api.MigrationCopying, epoch: 1, attempt: 1}
	must.Eq(t, opNone, s.do(event{kind: evMove, move: move}))
	must.Eq(t, 0, s.m.Move.Begun)
	s.e.doubt = false
	must.Eq(t, opMoveOut, s.pass(0))
}

func TestARunningVMBecomesHA(t *testing.T) {
	s := guardedScript(t)
	s.orderIn(1, runOrder())
	s.see(dom{kind: domAbsent})
	s.done(resOK)
	must.Eq(t, opNone, s.done(resOK))
	must.Eq(t, opArm, s.orderIn(1, haOrder(func(o *api.Order) { o.Index, o.SpecVersion = 20, 2 })))
	must.Eq(t, opNone, s.done(resOK))
	must.True(t, s.m.report().Armed)
	must.Eq(t, opSetEpoch, s.orderIn(1, haOrder(func(o *api.Order) { o.Index, o.SpecVersion, o.Epoch = 30, 2, 2 })))
	must.Eq(t, opArm, s.done(resOK), must.Sprint("granted anew: armed anew"))
	must.False(t, s.m.report().Armed)
	s.done(resOK)
	must.True(t, s.m.report().Armed)
}

func TestTheServersAreToldBeforeADisarm(t *testing.T) {
	for name, want := range map[string]func(*script){
		"policy":  func(s *script) { s.orderIn(1, with(func(o *api.Order) { o.SpecVersion = 2 })) },
		"servers": func(s *script) { s.e.disarm = true; s.pass(0) },
	} {
		t.Run(name, func(t *testing.T) {
			s := armedScript(t)
			want(s)
			must.Eq(t, opNone, s.m.busy)
			must.False(t, s.m.report().Armed)
			must.True(t, s.m.Told)
			must.Eq(t, opNone, s.pass(time.Hour), must.Sprint("not by time"))
			must.Eq(t, opNone, s.do(event{kind: evUnarmed, epoch: 0}), must.Sprint("that was about an earlier epoch"))
			must.Eq(t, opDisarm, s.do(event{kind: evUnarmed, epoch: 1}))
			s.done(resFailed)
			must.StrContains(t, s.m.report().Message, "still armed: no")
			must.Eq(t, opDisarm, s.wakes(time.Second))
			must.Eq(t, opNone, s.done(resOK))
			must.Eq(t, 0, s.m.hold.epoch)
			must.Eq(t, "", s.m.report().Message)
		})
	}
}

func TestADisarmThatIsNoLongerWanted(t *testing.T) {
	s := armedScript(t)
	s.e.disarm = true
	s.pass(0)
	s.e.disarm = false
	s.pass(0)
	must.True(t, s.m.report().Armed)
	must.Eq(t, opNone, s.m.busy, must.Sprint("it never was disarmed"))
}

func TestNothingIsSaidToBeArmedWhileItIsTakenBack(t *testing.T) {
	s := armedScript(t)
	s.e.disarm = true
	s.pass(0)
	must.Eq(t, opDisarm, s.do(event{kind: evUnarmed, epoch: 1}))
	s.e.disarm = false // too late
	s.pass(0)
	must.False(t, s.m.report().Armed)
	must.False(t, s.m.Told)
	must.Eq(t, opArm, s.done(resOK))
	s.done(resOK)
	must.True(t, s.m.report().Armed)
}

// The servers believe it armed at its epoch: it must not run otherwise.
func TestAVMThatTheServersThinkArmedDoesNotRunUnarmed(t *testing.T) {
	s := armedScript(t)
	s.orderIn(1, with(func(o *api.Order) { o.SpecVersion = 2; o.Spec.Restart.Policy = "always" }))
	must.Eq(t, opNone, s.gone())
	must.Eq(t, opNone, s.pass(time.Minute))
	must.StrContains(t, s.m.report().Message, "restart 1 of 3")
	must.StrContains(t, s.m.hold.why, "still count on the guard")
	must.Eq(t, opPrepare, s.do(event{kind: evUnarmed, epoch: 1}))
}

// A host that has lost its lease may have lost the VM too: what the servers
// acknowledge then they may have passed over.
func TestAnAcknowledgementCountsOnlyWhileTheVMIsConfirmed(t *testing.T) {
	s := armedScript(t)
	s.orderIn(1, with(func(o *api.Order) { o.SpecVersion = 2; o.Spec.Restart.Policy = "always" }))
	s.gone()
	s.pass(time.Minute)
	s.e.up = s.e.known
	must.Eq(t, opNone, s.do(event{kind: evUnarmed, epoch: 1}), must.Sprint("nothing is promised"))
	must.True(t, s.m.Told)
	s.e.known, s.e.term = s.e.up+time.Second, 2
	must.Eq(t, opNone, s.do(event{kind: evUnarmed, epoch: 1}), must.Sprint("not confirmed since"))
	must.True(t, s.m.Told)
	var out output
	s.m, out = step(s.m, event{kind: evOrder, order: &api.Order{VMID: vm1, Epoch: 1, Index: s.m.Index, Desired: api.PowerRunning}, generation: s.m.Generation, term: 2}, s.e)
	must.True(t, out.retell, must.Sprint("the servers are told once more"))
	must.Eq(t, opPrepare, s.do(event{kind: evUnarmed, epoch: 1}))
}

func TestTheGuardsKillIsNoFailureOfTheVM(t *testing.T) {
	s := armedScript(t)
	s.e.up = s.e.deadline
	s.do(event{kind: evLook, hint: "crashed"})
	must.Eq(t, opNone, s.see(dom{kind: domAbsent, exit: exitFenced, note: "killed at noon"}))
	r := s.m.report()
	must.Eq(t, api.StateFailed, r.State)
	must.Eq(t, reasonFenced, r.Reason)
	must.Eq(t, "killed at noon", r.Message)
	must.False(t, r.Armed)
	must.Eq(t, opNone, s.pass(time.Hour), must.Sprint("not by itself"))
	s.e.deadline, s.e.term = s.e.up+time.Second, 2
	must.Eq(t, opNone, s.pass(0), must.Sprint("nor with a lease alone"))
	must.Eq(t, opPrepare, s.orderIn(2, haOrder()))
	must.Eq(t, 0, s.m.report().Restarts)
}

func TestWithoutAGuardItEndsAfterItsTime(t *testing.T) {
	s := armedScript(t)
	s.e.guard = false
	must.Eq(t, opNone, s.pass(0))
	must.True(t, s.m.report().Armed, must.Sprint("the agent stands in for the guard"))
	s.e.up += killBudget - 1
	must.Eq(t, opNone, s.after(killBudget-1))
	s.e.up++
	must.Eq(t, opDestroy, s.wakes(1))
	must.Eq(t, phaseFence, s.m.Phase)
	must.Eq(t, opNone, s.done(resUnknown))
	must.Eq(t, opDestroy, s.wakes(time.Second), must.Sprint("again and again"))
	must.Eq(t, opNone, s.done(resOK))
	must.Eq(t, reasonFenced, s.m.report().Reason)
	must.False(t, s.m.report().Armed)
}

func TestAGuardThatIsBackInTimeEndsNothing(t *testing.T) {
	s := armedScript(t)
	s.e.guard = false
	s.pass(4 * time.Second)
	s.e.guard = true
	must.Eq(t, opNone, s.pass(0))
	must.Eq(t, opNone, s.pass(time.Hour))

	s = armedScript(t)
	must.Eq(t, opArm, s.do(event{kind: evGuard}), must.Sprint("it has forgotten: armed again"))
	must.Eq(t, opNone, s.done(resOK))
	must.Eq(t, 0, s.m.hold.bare)

	s = armedScript(t)
	s.do(event{kind: evGuard})
	s.done(resFailed)
	s.e.deadline = s.e.up // and it cannot
	must.Eq(t, opDestroy, s.pass(killBudget))
}

func TestACopyUnderWayIsEndedForWantOfAGuard(t *testing.T) {
	s := armedScript(t)
	move := &moveOrder{id: api.ID{9}, mode: api.MigrateLive, phase: api.MigrationCopying, epoch: 1, attempt: 1}
	must.Eq(t, opMoveOut, s.do(event{kind: evMove, move: move}))
	s.e.guard = false
	s.pass(0)
	must.False(t, s.out.cancel)
	s.e.up += killBudget
	s.wakes(killBudget)
	must.True(t, s.out.cancel)
	must.Eq(t, opInspect, s.do(event{kind: evDone, op: opMoveOut, res: resFailed}), must.Sprint("it may have left"))
	must.Eq(t, opDestroy, s.see(dom{kind: domRunning, epoch: 1}))
}
