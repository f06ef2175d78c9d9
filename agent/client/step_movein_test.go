package client

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// moveIn tells the machine, the destination, how far its migration is.
func (s *script) moveIn(phase api.MigrationPhase, attempt int32, change ...func(*moveOrder)) op {
	o := &moveOrder{id: api.ID{9}, in: true, mode: api.MigrateLive, phase: phase, epoch: 1, attempt: attempt}
	for _, f := range change {
		f(o)
	}
	return s.do(event{kind: evMove, move: o})
}

func (s *script) moveSays() api.MoveReport {
	s.t.Helper()
	r, ok := s.m.moveReport("b1")
	must.True(s.t, ok)
	return r
}

var (
	incoming = dom{kind: domPaused, reason: hypervisor.ReasonIncoming, epoch: 1}
	complete = dom{kind: domPaused, reason: hypervisor.ReasonComplete, epoch: 1}
	absent   = dom{kind: domAbsent}
)

// receiving is a destination to which a guest comes.
func receiving(t *testing.T) *script {
	t.Helper()
	s := newScript(t)
	s.see(absent)
	must.Eq(t, opMoveIn, s.moveIn(api.MigrationProposed, 0))
	must.Eq(t, opNone, s.do(event{kind: evDone, op: opMoveIn}))
	must.Eq(t, api.EndReady, s.moveSays().State)
	must.Eq(t, opNone, s.moveIn(api.MigrationCopying, 1))
	must.Eq(t, opNone, s.see(incoming))
	must.Eq(t, api.EndCopying, s.moveSays().State)
	return s
}

func giveUp(o *moveOrder) { o.giveUp = true }

// Without an order nothing that came in is ended, however long it is not whole.
// With it, it is: after another look, and only if it is not whole then.
func TestAPartIsEndedByOrderOnly(t *testing.T) {
	s := receiving(t)
	must.Eq(t, opInspect, s.moveIn(api.MigrationAborting, 2))
	must.Eq(t, opNone, s.see(incoming))
	for range 1000 {
		must.Eq(t, opInspect, s.wakes(movePoll))
		must.Eq(t, opNone, s.see(incoming))
	}
	must.Eq(t, opInspect, s.moveIn(api.MigrationAborting, 2, giveUp))
	must.Eq(t, opDestroy, s.see(incoming))
	must.Eq(t, opMoveAttest, s.done(resOK))
	must.Eq(t, opNone, s.done(resOK))
	r := s.moveSays()
	must.Eq(t, api.EndAbsent, r.State)
	must.Eq(t, 2, r.Attempt)
	must.False(t, r.Clean)
	must.Eq(t, opMoveClean, s.moveIn(api.MigrationAborting, 2, giveUp, func(o *moveOrder) { o.kill = true }))
}

func TestAWholeGuestIsNotGivenUp(t *testing.T) {
	for name, d := range map[string]dom{
		"it became whole since": complete, "it is somebody's": {kind: domPaused, reason: "user", epoch: 1},
	} {
		s := receiving(t)
		must.Eq(t, opInspect, s.moveIn(api.MigrationAborting, 2, giveUp), must.Sprint(name))
		must.Eq(t, opNone, s.see(d))
		for range 100 {
			s.after(time.Minute)
			if s.m.busy == opInspect {
				must.Eq(t, opNone, s.see(d))
			}
			must.Eq(t, opNone, s.out.op)
		}
		must.True(t, s.m.Alive)
	}
	s := receiving(t)
	s.moveIn(api.MigrationAborting, 2, giveUp)
	for range 100 { // silence proves nothing
		s.do(event{kind: evDone, op: opInspect, res: resUnknown})
		must.Eq(t, api.EndUnknown, s.moveSays().State)
		must.Eq(t, opInspect, s.after(time.Hour))
	}
}

// A guest that is owned here and cannot go on is tried again, without end and not
// too often, and both reports say why.
func TestAGrantWhoseResumeFails(t *testing.T) {
	s := receiving(t)
	must.Eq(t, opNone, s.moveIn(api.MigrationSwitched, 1))
	must.Eq(t, opNone, s.see(complete))
	must.Eq(t, opNone, s.moveIn(api.MigrationCommitted, 1))
	grant := runOrder()
	grant.Epoch, grant.Index = 2, 20
	must.Eq(t, opSetEpoch, s.order(grant))
	must.Eq(t, opResume, s.done(resOK))
	must.Eq(t, "", s.moveSays().Message)
	want := []time.Duration{1, 2, 4, 8, 16, 30, 30, 30}
	for _, d := range want {
		must.Eq(t, opNone, s.done(resFailed))
		r := s.moveSays()
		must.Eq(t, api.EndComplete, r.State)
		must.Eq(t, "resume: no", r.Message)
		must.False(t, r.Clean)
		vm := s.m.report()
		must.Eq(t, api.StatePaused, vm.State)
		must.Eq(t, "resume: no", vm.Message)
		must.Eq(t, opResume, s.wakes(d*time.Second))
	}
	must.Eq(t, opMoveClean, s.done(resOK))
	must.Eq(t, "", s.moveSays().Message)
	must.Eq(t, api.StateRunning, s.m.report().State)
}

// A destination that could not arm a guest prepares nothing for it.
func TestADestinationInDoubtPreparesNoGuardedGuest(t *testing.T) {
	guarded := func(o *moveOrder) { o.guarded = true }
	s := newScript(t)
	s.e.guard, s.e.up, s.e.deadline, s.e.doubt = true, time.Hour, time.Hour+15*time.Second, true
	s.see(absent)
	must.Eq(t, opNone, s.moveIn(api.MigrationProposed, 0, guarded))
	s.e.doubt = false
	s.e.up = s.e.deadline
	must.Eq(t, opNone, s.do(event{kind: evTick}), must.Sprint("its lease is over"))
	s.e.deadline += 15 * time.Second
	must.Eq(t, opMoveIn, s.do(event{kind: evTick}))

	s = newScript(t)
	s.e.doubt = true
	s.see(absent)
	must.Eq(t, opMoveIn, s.moveIn(api.MigrationProposed, 0), must.Sprint("another guest goes on without a lease"))
	s = newScript(t)
	s.e.doubt, s.e.disarm = true, true
	s.see(absent)
	must.Eq(t, opMoveIn, s.moveIn(api.MigrationProposed, 0, guarded))
}
