package client

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

func policy(p string, attempts int32) func(*api.Order) {
	return func(o *api.Order) { o.Spec.Restart = api.RestartPolicy{Policy: p, Attempts: attempts} }
}

// end lets the guest end by itself.
func (s *script) end(exit string) op {
	if s.m.busy == opNone {
		s.do(event{kind: evLook, hint: exit})
	}
	return s.see(dom{kind: domAbsent})
}

// back brings a restarted guest up.
func (s *script) back() {
	s.t.Helper()
	must.Eq(s.t, opPrepare, s.out.op)
	must.Eq(s.t, opStart, s.done(resOK))
	must.Eq(s.t, opNone, s.done(resOK))
	must.Eq(s.t, api.StateRunning, s.m.State)
}

func TestRestartPolicyDoublesItsDelayAndGivesUp(t *testing.T) {
	s := running(t)
	for i, d := range []time.Duration{5, 10, 20} {
		s.end("crashed")
		must.Eq(t, api.StateStarting, s.m.State)
		must.Eq(t, reasonRestarting, s.m.Reason)
		must.StrContains(t, s.m.Message, "crashed; restart")
		s.wakes(d * time.Second)
		s.back()
		must.Eq(t, uint32(i+1), s.m.Restarts)
	}
	s.end("crashed")
	must.Eq(t, api.StateFailed, s.m.State)
	must.Eq(t, reasonLimit, s.m.Reason)
	must.Eq(t, opNone, s.after(24*time.Hour))
}

func TestRestartWindowOpensAnew(t *testing.T) {
	s := running(t, policy("on-failure", 1))
	s.end("crashed")
	s.wakes(5 * time.Second)
	s.back()
	s.after(11 * time.Minute)
	s.end("crashed")
	s.wakes(5 * time.Second)
	s.back()
	must.Eq(t, 2, s.m.Restarts)
}

func TestRestartDelayIsBounded(t *testing.T) {
	s := running(t, func(o *api.Order) {
		o.Spec.Restart = api.RestartPolicy{Attempts: 1000, Delay: api.Duration(time.Hour), Interval: api.Duration(time.Minute)}
	})
	s.end("crashed")
	s.wakes(time.Hour)
	s.back()
}

func TestGuestThatPowersOff(t *testing.T) {
	for p, want := range map[string]api.VMState{"": api.StateStopped, "on-failure": api.StateStopped, "never": api.StateStopped, "always": api.StateStarting} {
		s := running(t, policy(p, 0))
		s.end("shutdown")
		must.Eq(t, want, s.m.State, must.Sprint(p))
		if want == api.StateStopped {
			must.Eq(t, reasonGuest, s.m.Reason)
			must.Eq(t, opNone, s.after(24*time.Hour))
		}
	}
}

func TestNeverRestarts(t *testing.T) {
	s := running(t, policy("never", 0))
	s.end("crashed")
	must.Eq(t, api.StateFailed, s.m.State)
	must.Eq(t, "crashed", s.m.Reason)
	must.Eq(t, opNone, s.after(24*time.Hour))
}

func TestWhatStartsAnEndedGuestAgain(t *testing.T) {
	for name, change := range map[string]func(*api.Order){
		"a start order":                  func(o *api.Order) { o.Starts = 1 },
		"a new epoch":                    func(o *api.Order) { o.Epoch = 2 },
		"a new spec after it had failed": func(o *api.Order) { o.SpecVersion = 2 },
	} {
		s := running(t, policy("never", 0))
		s.end("crashed")
		o := with(func(o *api.Order) {})
		s.order(o)
		must.Eq(t, opNone, s.out.op, must.Sprint(name)) // any other change does not
		change(&o)
		o.Index = 30
		must.Eq(t, opPrepare, s.order(o), must.Sprint(name))
	}
	s := running(t)
	s.end("shutdown")
	s.order(with(func(o *api.Order) { o.Desired = api.PowerStopped }))
	must.Eq(t, opPrepare, s.order(with(func(o *api.Order) { o.Index = 30 })))
}

func TestStopOfAFailedGuestIsReported(t *testing.T) {
	s := running(t, policy("never", 0))
	s.end("crashed")
	must.Eq(t, opNone, s.order(with(func(o *api.Order) { o.Desired = api.PowerStopped })))
	must.Eq(t, api.StateStopped, s.m.State)
	// Also while a restart is due.
	s = running(t)
	s.end("crashed")
	must.Eq(t, opNone, s.order(with(func(o *api.Order) { o.Desired = api.PowerStopped })))
	must.Eq(t, api.StateStopped, s.m.State)
	must.Eq(t, opNone, s.after(24*time.Hour))
}

func TestFailedStartsCountAsFailures(t *testing.T) {
	s := newScript(t)
	s.order(with(policy("on-failure", 1)))
	s.see(dom{kind: domAbsent})
	s.done(resOK)
	must.Eq(t, opNone, s.done(resFailed))
	must.StrContains(t, s.m.Message, "start-failed: no")
	must.False(t, s.m.Alive)
	must.Eq(t, opPrepare, s.wakes(5*time.Second))
	s.done(resOK)
	must.Eq(t, opNone, s.done(resFailed))
	must.Eq(t, api.StateFailed, s.m.State)
}

func TestPreparationIsTriedUntilItWorks(t *testing.T) {
	s := newScript(t)
	s.order(runOrder())
	s.see(dom{kind: domAbsent})
	for _, d := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		must.Eq(t, opNone, s.done(resFailed))
		must.Eq(t, api.StatePreparing, s.m.State)
		must.Eq(t, reasonPrepare, s.m.Reason)
		must.Eq(t, opPrepare, s.wakes(d*time.Second))
	}
	s.done(resFailed)
	must.Eq(t, opPrepare, s.order(with(func(o *api.Order) { o.SpecVersion = 2 }))) // what changed may help
	must.Eq(t, opStart, s.done(resOK))
	must.Eq(t, uint64(2), s.m.RunVersion)
}

func TestSpecChangeWaitsForTheNextStart(t *testing.T) {
	s := running(t)
	must.Eq(t, opNone, s.order(with(func(o *api.Order) { o.SpecVersion = 2 })))
	must.Eq(t, uint64(1), s.m.report().Version)
	s.order(with(func(o *api.Order) { o.SpecVersion, o.Index, o.Desired, o.Force = 2, 30, api.PowerStopped, true }))
	s.done(resOK)
	s.order(with(func(o *api.Order) { o.SpecVersion, o.Index = 2, 40 }))
	s.done(resOK)
	s.done(resOK)
	must.Eq(t, uint64(2), s.m.report().Version)
}

// A clock that is set back stalls nothing for longer than its longest delay.
func TestAClockThatIsSetBack(t *testing.T) {
	s := running(t)
	s.end("crashed")
	s.e.now -= api.Time(50 * time.Minute)
	must.Eq(t, opNone, s.do(event{kind: evTick}))
	s.wakes(defaultInterval)
	s.back()

	s = newScript(t)
	s.order(runOrder())
	s.see(dom{kind: domAbsent})
	must.Eq(t, opNone, s.done(resFailed)) // of the preparation
	s.e.now -= api.Time(50 * time.Minute)
	must.Eq(t, opNone, s.do(event{kind: evTick}))
	must.Eq(t, opPrepare, s.wakes(maxDelay))
}

// A start that the agent before had begun may still come for a while.
func TestAStartOfTheAgentBeforeIsDoubted(t *testing.T) {
	begun := func() *script {
		r := running(t).m.record
		r.Phase, r.State = phaseStart, api.StateStarting
		s := &script{t: t, m: newMachine(r, true), e: env{now: api.Time(time.Hour), boot: "b1"}}
		must.Eq(t, opNone, s.see(dom{kind: domAbsent, exit: "shutdown"}))
		must.Eq(t, api.StateUnknown, s.m.report().State)
		return s
	}
	s := begun()
	must.Eq(t, opNone, s.order(runOrder()))
	must.Eq(t, opNone, s.after(4*time.Second))
	must.Eq(t, opNone, s.see(dom{kind: domAbsent})) // too soon after the first
	must.Eq(t, opInspect, s.wakes(6*time.Second))
	must.Eq(t, opNone, s.see(dom{kind: domAbsent, exit: "shutdown"}))
	must.Eq(t, reasonStartLost, s.m.Reason)
	must.Eq(t, opPrepare, s.wakes(time.Second))
	must.Eq(t, 0, s.m.Restarts)

	s = begun() // nor is its absence attested
	must.Eq(t, opNone, s.order(api.Order{VMID: api.ID{1}, Stop: true, Epoch: 1, Index: 20}))
	must.Eq(t, opInspect, s.wakes(10*time.Second))
	must.Eq(t, opNone, s.done(resUnknown)) // the second look must be one
	must.Eq(t, opInspect, s.wakes(time.Second))
	must.Eq(t, opAttest, s.see(dom{kind: domAbsent}))

	s = begun() // it comes
	s.order(runOrder())
	must.Eq(t, opNone, s.see(dom{kind: domRunning, epoch: 1}))
	must.Eq(t, api.StateRunning, s.m.State)
	must.Eq(t, opInspect, s.do(event{kind: evLook, hint: "crashed"}))
	must.Eq(t, opNone, s.see(dom{kind: domAbsent}))
	must.Eq(t, api.StateStarting, s.m.State)

	s = begun()
	s.e.now -= api.Time(time.Minute) // a clock that is set back makes it no longer
	must.Eq(t, opNone, s.do(event{kind: evTick}))
	must.Eq(t, s.e.now+api.Time(doubtTime), s.out.wake)

	r := running(t).m.record // after a reboot of the host nothing of it is left
	r.Phase = phaseStart
	s = &script{t: t, m: newMachine(r, true), e: env{now: api.Time(time.Hour), boot: "b2"}}
	s.see(dom{kind: domAbsent})
	must.Eq(t, reasonHostReboot, s.m.Reason)
}
