package client

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

// script drives one machine by hand.
type script struct {
	t   *testing.T
	m   machine
	e   env
	out output
}

func newScript(t *testing.T) *script {
	return &script{t: t, m: newMachine(record{ID: api.ID{1}}, false), e: env{now: api.Time(time.Hour), boot: "b1"}}
}

func (s *script) do(ev event) op {
	s.m, s.out = step(s.m, ev, s.e)
	return s.out.op
}

func (s *script) order(o api.Order) op { return s.do(event{kind: evOrder, order: &o, generation: 1}) }

func (s *script) done(res result) op {
	e := s.m.Epoch
	if s.m.busy == opAttest {
		e = s.m.Tomb
	}
	return s.do(event{kind: evDone, op: s.m.busy, epoch: e, res: res, message: "no", dom: dom{kind: domRunning}})
}

func (s *script) see(d dom) op {
	if s.m.busy == opInspect {
		return s.do(event{kind: evDone, op: opInspect, dom: d})
	}
	return s.do(event{kind: evSeen, dom: d})
}

func (s *script) after(d time.Duration) op {
	s.e.now += api.Time(d)
	return s.do(event{kind: evTick})
}

// wakes checks that the machine asked to be woken in d, and wakes it.
func (s *script) wakes(d time.Duration) op {
	s.t.Helper()
	must.Eq(s.t, s.e.now+api.Time(d), s.out.wake)
	return s.after(d)
}

// running brings the machine to a running guest at epoch 1.
func running(t *testing.T, change ...func(*api.Order)) *script {
	t.Helper()
	s := newScript(t)
	o := runOrder()
	for _, f := range change {
		f(&o)
	}
	must.Eq(t, opInspect, s.order(o))
	must.Eq(t, opPrepare, s.see(dom{kind: domAbsent}))
	must.Eq(t, opStart, s.done(resOK))
	must.Eq(t, opNone, s.done(resOK))
	must.Eq(t, api.StateRunning, s.m.State)
	return s
}

func runOrder() api.Order {
	return api.Order{VMID: api.ID{1}, Name: "a", Epoch: 1, Index: 10, Desired: api.PowerRunning, SpecVersion: 1, Spec: &api.VMSpec{}}
}

func with(f func(*api.Order)) api.Order {
	o := runOrder()
	o.Index = 20
	f(&o)
	return o
}

func TestStartIsPreceededByItsIntent(t *testing.T) {
	s := newScript(t)
	s.order(runOrder())
	s.see(dom{kind: domAbsent})
	must.Eq(t, opStart, s.done(resOK))
	must.Eq(t, phaseStart, s.m.Phase)
	must.True(t, s.m.Alive)
	must.Eq(t, 1, s.m.RunEpoch)
	must.Eq(t, "b1", s.m.BootID)
}

func TestNothingHappensWhileHeld(t *testing.T) {
	s := newScript(t)
	s.e.hold = true
	must.Eq(t, opInspect, s.order(runOrder()))
	must.Eq(t, opNone, s.see(dom{kind: domAbsent}))
	s.e.hold = false
	must.Eq(t, opPrepare, s.after(0))
}

func TestStopPressesAgainThenForces(t *testing.T) {
	s := running(t, func(o *api.Order) { o.Spec.StopTimeout = api.Duration(15 * time.Second) })
	must.Eq(t, opShutdown, s.order(with(func(o *api.Order) { o.Desired = api.PowerStopped; o.Spec.StopTimeout = api.Duration(15 * time.Second) })))
	must.Eq(t, phaseStop, s.m.Phase)
	must.Eq(t, api.StateStopping, s.m.State)
	must.Eq(t, opNone, s.done(resOK))
	must.Eq(t, opShutdown, s.wakes(10*time.Second))
	must.Eq(t, opNone, s.done(resOK))
	must.Eq(t, opDestroy, s.wakes(5*time.Second))
	must.Eq(t, opNone, s.done(resOK))
	must.Eq(t, api.StateStopped, s.m.State)
	must.Eq(t, reasonOrdered, s.m.Reason)
	must.False(t, s.m.Alive)
}

func TestForceSkipsACPI(t *testing.T) {
	s := running(t)
	must.Eq(t, opDestroy, s.order(with(func(o *api.Order) { o.Desired, o.Force = api.PowerStopped, true })))
}

func TestForceDuringAStopAndRetryOfADestroy(t *testing.T) {
	s := running(t)
	s.order(with(func(o *api.Order) { o.Desired = api.PowerStopped }))
	s.done(resFailed) // the guest has no ACPI
	must.StrContains(t, s.m.Message, "shutdown: no")
	must.Eq(t, opDestroy, s.order(with(func(o *api.Order) { o.Desired, o.Force, o.Index = api.PowerStopped, true, 30 })))
	must.Eq(t, opNone, s.done(resFailed))
	must.Eq(t, opDestroy, s.wakes(time.Second))
	s.done(resNotFound)
	must.Eq(t, api.StateStopped, s.m.State)
}

func TestWantedAgainWhileItStops(t *testing.T) {
	s := running(t)
	s.order(with(func(o *api.Order) { o.Desired = api.PowerStopped }))
	s.done(resOK)
	// The guest may still power off: it has its time, then it is simply running.
	must.Eq(t, opNone, s.order(with(func(o *api.Order) { o.Index = 30 })))
	must.Eq(t, api.StateStopping, s.m.State)
	must.Eq(t, opNone, s.after(time.Minute))
	must.Eq(t, api.StateRunning, s.m.State)

	s = running(t)
	s.order(with(func(o *api.Order) { o.Desired = api.PowerStopped }))
	s.done(resOK)
	s.order(with(func(o *api.Order) { o.Index = 30 }))
	must.Eq(t, opPrepare, s.see(dom{kind: domAbsent, exit: "shutdown"}))
}

func TestPauseAndResume(t *testing.T) {
	s := running(t)
	must.Eq(t, opPause, s.order(with(func(o *api.Order) { o.Desired = api.PowerPaused })))
	s.done(resOK)
	must.Eq(t, api.StatePaused, s.m.State)
	must.Eq(t, opResume, s.order(with(func(o *api.Order) { o.Index = 30 })))
	s.done(resOK)
	must.Eq(t, api.StateRunning, s.m.State)
}

func TestGuestPausedByAnErrorIsResumedOnlyByAnOrder(t *testing.T) {
	s := running(t)
	must.Eq(t, opNone, s.see(dom{kind: domPaused, reason: "io-error"}))
	must.Eq(t, api.StatePaused, s.m.State)
	must.Eq(t, "io-error", s.m.Reason)
	must.Eq(t, opNone, s.order(with(func(o *api.Order) { o.Desired = api.PowerPaused })))
	must.Eq(t, opResume, s.order(with(func(o *api.Order) { o.Index = 30 })))
}

func TestOrderedResumeIsDoneOnceWhateverPausedTheGuest(t *testing.T) {
	s := running(t)
	must.Eq(t, opNone, s.see(dom{kind: domPaused, reason: "io-error"}))
	resume := func(n uint64, idx api.Index) op {
		return s.order(with(func(o *api.Order) { o.Resumes, o.Index = n, idx }))
	}
	must.Eq(t, opResume, resume(1, 30))
	s.done(resOK)
	must.Eq(t, api.StateRunning, s.m.State)
	must.Eq(t, opNone, s.see(dom{kind: domPaused, reason: "io-error"})) // the disk is still full
	must.Eq(t, opNone, resume(1, 31))
	// An order that finds the guest running is spent: what comes later is not resumed for it.
	must.Eq(t, opResume, resume(2, 32))
	s.done(resUnknown)
	must.Eq(t, opNone, s.see(dom{kind: domRunning, epoch: 1}))
	must.Eq(t, opNone, s.see(dom{kind: domPaused, reason: "io-error"}))
	// It is kept in the journal until it is done.
	must.Eq(t, opNone, resume(3, 33)) // not again so soon
	must.Eq(t, opResume, s.after(time.Minute))
	s = &script{t: t, m: newMachine(s.m.record, true), e: s.e}
	s.see(dom{kind: domPaused, reason: "io-error", epoch: 1})
	must.Eq(t, opResume, resume(3, 33))
	// What was ordered before this node held the VM is not for this node.
	s = newScript(t)
	resume(7, 20)
	must.Eq(t, opNone, s.see(dom{kind: domPaused, reason: "io-error", epoch: 1}))
}

func TestStopOfAPausedGuestResumesItFirst(t *testing.T) {
	s := running(t)
	s.order(with(func(o *api.Order) { o.Desired = api.PowerPaused }))
	s.done(resOK)
	must.Eq(t, opResume, s.order(with(func(o *api.Order) { o.Desired, o.Index = api.PowerStopped, 30 })))
	must.Eq(t, opShutdown, s.done(resOK))
	must.Eq(t, api.StateStopping, s.m.State)
}

func TestCountersAreDoneBeforeTheCall(t *testing.T) {
	s := running(t)
	must.Eq(t, opReboot, s.order(with(func(o *api.Order) { o.Reboots = 2 })))
	must.Eq(t, 2, s.m.DoneReboots)
	must.Eq(t, opNone, s.done(resFailed))
	must.StrContains(t, s.m.Message, "reboot: no")
	must.Eq(t, opNone, s.after(time.Hour)) // never twice
	must.Eq(t, opReset, s.order(with(func(o *api.Order) { o.Reboots, o.Resets, o.Index = 3, 1, 30 })))
	must.Eq(t, opNone, s.done(resOK)) // a reset is a reboot as well
	must.Eq(t, 3, s.m.DoneReboots)
}

func TestCountersOfThePastAreNotExecuted(t *testing.T) {
	s := newScript(t)
	s.order(with(func(o *api.Order) { o.Reboots, o.Resets = 7, 3 }))
	must.Eq(t, opNone, s.see(dom{kind: domRunning, epoch: 1}))
	must.Eq(t, 7, s.m.DoneReboots)
	// And a start serves for a reboot that was ordered while it was down.
	s = running(t)
	s.order(with(func(o *api.Order) { o.Desired, o.Force = api.PowerStopped, true }))
	s.done(resOK)
	s.order(with(func(o *api.Order) { o.Index, o.Reboots = 30, 1 }))
	s.done(resOK)
	must.Eq(t, opNone, s.done(resOK))
	must.Eq(t, 1, s.m.DoneReboots)
}

func TestRebootOfAPausedGuestIsRefused(t *testing.T) {
	s := running(t)
	s.order(with(func(o *api.Order) { o.Desired = api.PowerPaused }))
	s.done(resOK)
	must.Eq(t, opNone, s.order(with(func(o *api.Order) { o.Desired, o.Index, o.Reboots = api.PowerPaused, 30, 1 })))
	must.StrContains(t, s.m.Message, "paused")
}

func TestOrdersThatAreTooOld(t *testing.T) {
	s := running(t)
	s.order(with(func(o *api.Order) { o.Epoch = 5 }))
	must.Eq(t, opSetEpoch, s.out.op)
	s.done(resOK)
	must.Eq(t, 5, s.m.RunEpoch)
	for name, c := range map[string]struct {
		o    api.Order
		want verdict
	}{
		"older epoch":           {with(func(o *api.Order) { o.Epoch, o.Desired = 4, api.PowerStopped }), orderRefused},
		"older index":           {with(func(o *api.Order) { o.Epoch, o.Index, o.Desired = 5, 19, api.PowerStopped }), orderStale},
		"the same":              {with(func(o *api.Order) { o.Epoch = 5 }), orderKnown},
		"older tombstone":       {api.Order{Stop: true, Epoch: 5, Index: 19}, orderStale},
		"tombstone of the past": {api.Order{Stop: true, Epoch: 4, Index: 3}, orderAccepted},
	} {
		m, out := step(s.m, event{kind: evOrder, order: &c.o, generation: 1}, s.e)
		must.Eq(t, c.want, out.verdict, must.Sprint(name))
		must.Eq(t, opNone, out.op, must.Sprint(name))
		must.Eq(t, api.StateRunning, m.State, must.Sprint(name))
		if c.want == orderAccepted { // what runs is newer: the old one is not here
			must.Eq(t, 4, out.attested)
		}
	}
}

func TestTombstone(t *testing.T) {
	s := running(t)
	must.Eq(t, opShutdown, s.order(api.Order{VMID: api.ID{1}, Stop: true, Epoch: 1, Index: 20}))
	must.Eq(t, opNone, s.done(resOK))
	must.Eq(t, opInspect, s.do(event{kind: evLook, hint: "shutdown"}))
	must.Eq(t, opAttest, s.see(dom{kind: domAbsent}))
	must.Eq(t, opNone, s.done(resOK))
	must.Eq(t, 1, s.out.attested)
	must.Eq(t, api.StateAbsent, s.m.State)
	// The grant is gone: the same epoch does not bring it back, the next one does.
	must.Eq(t, opNone, s.order(with(func(o *api.Order) { o.Index = 30 })))
	must.Eq(t, orderStale, s.out.verdict)
	must.Eq(t, opPrepare, s.order(with(func(o *api.Order) { o.Epoch = 2 })))
}

func TestTombstoneNeverResumesAPausedGuest(t *testing.T) {
	s := running(t, func(o *api.Order) { o.Desired = api.PowerRunning })
	s.see(dom{kind: domPaused, reason: "user"})
	s.done(resFailed) // of the resume that the order wants
	must.Eq(t, opDestroy, s.order(api.Order{Stop: true, Epoch: 1, Index: 20}))
}

func TestTombstoneThenNewerGrant(t *testing.T) {
	s := running(t)
	s.order(api.Order{Stop: true, Epoch: 1, Index: 20, Force: true})
	must.Eq(t, opDestroy, s.m.busy)
	s.order(with(func(o *api.Order) { o.Epoch, o.Index = 3, 30 }))
	must.Eq(t, opAttest, s.done(resOK))  // the old one goes first
	must.Eq(t, opPrepare, s.done(resOK)) // then the new one begins
	must.Eq(t, 1, s.out.attested)        // and the old one's absence is told
	must.Eq(t, opStart, s.done(resOK))
	must.Eq(t, 3, s.m.RunEpoch)
	must.Eq(t, opNone, s.done(resOK))
	must.Eq(t, api.StateRunning, s.m.State)
	must.Eq(t, 3, s.m.report().Epoch)
	must.Eq(t, uint64(1), s.m.report().Version)
}

func TestAttestationWaitsForTheHypervisor(t *testing.T) {
	s := newScript(t)
	s.order(api.Order{VMID: api.ID{1}, Stop: true, Epoch: 4, Index: 20})
	must.Eq(t, opAttest, s.see(dom{kind: domAbsent}))
	must.Eq(t, opNone, s.done(resUnknown))
	must.Eq(t, api.StateUnknown, s.m.report().State)
	must.Eq(t, opNone, s.see(dom{kind: domAbsent}))
	must.Eq(t, opAttest, s.wakes(time.Second))
	must.Eq(t, opInspect, s.done(resExists))
	must.Eq(t, opShutdown, s.see(dom{kind: domRunning, epoch: 4}))
}

func TestOrphanMeetsOrders(t *testing.T) {
	s := newScript(t) // a running domain, no journal
	s.order(runOrder())
	must.Eq(t, opNone, s.see(dom{kind: domRunning, epoch: 1, version: 4}))
	must.Eq(t, api.StateRunning, s.m.State)
	must.Eq(t, uint64(4), s.m.report().Version)

	s = newScript(t) // its metadata has a newer epoch: hands off
	s.order(with(func(o *api.Order) { o.Desired = api.PowerStopped }))
	must.Eq(t, opNone, s.see(dom{kind: domRunning, epoch: 2}))
	must.Eq(t, 2, s.m.report().Epoch)
	must.Eq(t, api.StateRunning, s.m.State)
}

func TestUnknownIsNotAbsent(t *testing.T) {
	s := running(t)
	must.Eq(t, opNone, s.see(dom{kind: domUnknown}))
	must.Eq(t, api.StateUnknown, s.m.report().State)
	must.True(t, s.m.Alive)
	must.Eq(t, opNone, s.order(with(func(o *api.Order) { o.Desired = api.PowerStopped })))
	must.Eq(t, opShutdown, s.see(dom{kind: domRunning}))
}

func TestLostAnswerOfAStart(t *testing.T) {
	s := newScript(t)
	s.order(runOrder())
	s.see(dom{kind: domAbsent})
	s.done(resOK)
	must.Eq(t, opNone, s.done(resUnknown))
	must.Eq(t, opNone, s.see(dom{kind: domRunning, epoch: 1}))
	must.Eq(t, api.StateRunning, s.m.State)
	must.Eq(t, 0, s.m.Restarts)

	s = newScript(t) // it did not take effect: begun anew, not a failure
	s.order(runOrder())
	s.see(dom{kind: domAbsent})
	s.done(resOK)
	s.done(resUnknown)
	must.Eq(t, opNone, s.see(dom{kind: domAbsent, exit: "shutdown"}))
	must.Eq(t, opPrepare, s.after(2*time.Second))
	must.Eq(t, 0, s.m.Restarts)
}

func TestStartFindsItThere(t *testing.T) {
	s := newScript(t)
	s.order(runOrder())
	s.see(dom{kind: domAbsent})
	s.done(resOK)
	must.Eq(t, opInspect, s.done(resExists))
	must.Eq(t, opNone, s.see(dom{kind: domRunning, epoch: 1}))
	must.Eq(t, api.StateRunning, s.m.State)
}

func TestAProcessWithoutADomainIsNamed(t *testing.T) {
	const lost = "domain already exists: libvirt has lost process 77"
	refuse := func(s *script) op {
		return s.do(event{kind: evDone, op: s.m.busy, epoch: s.m.Epoch, res: resExists, message: lost})
	}
	s := newScript(t)
	s.order(runOrder())
	s.see(dom{kind: domAbsent})
	must.Eq(t, opStart, s.done(resOK))
	must.Eq(t, opInspect, refuse(s))
	must.Eq(t, opNone, s.see(dom{kind: domAbsent}))
	must.Eq(t, api.StatePending, s.m.State)
	must.Eq(t, reasonProcess, s.m.report().Reason)
	must.Eq(t, lost, s.m.report().Message)
	must.Eq(t, opPrepare, s.wakes(time.Second)) // it may be gone
	must.Eq(t, opStart, s.done(resOK))
	must.Eq(t, opInspect, refuse(s))
	must.Eq(t, opNone, s.see(dom{kind: domRunning, epoch: 1})) // it was a domain
	must.Eq(t, "", s.m.report().Reason+s.m.report().Message)

	s = newScript(t)
	s.order(api.Order{VMID: api.ID{1}, Stop: true, Epoch: 4, Index: 20})
	must.Eq(t, opAttest, s.see(dom{kind: domAbsent}))
	refuse(s)
	must.Eq(t, opNone, s.see(dom{kind: domAbsent}))
	must.Eq(t, reasonProcess, s.m.report().Reason)
	must.Eq(t, lost, s.m.report().Message)
	must.Eq(t, opAttest, s.wakes(time.Second))
	must.Eq(t, opNone, s.done(resOK))
	must.Eq(t, "", s.m.report().Reason+s.m.report().Message)
}

func TestAgentRestart(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*record)
		boot   string
		d      dom
		state  api.VMState
		reason string
		next   op // after the order was confirmed
	}{
		"still running":          {nil, "b1", dom{kind: domRunning, epoch: 1}, api.StateRunning, "", opNone},
		"gone, shut down":        {nil, "b1", dom{kind: domAbsent, exit: "shutdown"}, api.StateStopped, reasonGuest, opNone},
		"gone, crashed":          {nil, "b1", dom{kind: domAbsent, exit: "crashed"}, api.StateStarting, reasonRestarting, opNone},
		"gone, nobody knows":     {nil, "b1", dom{kind: domAbsent}, api.StateStarting, reasonRestarting, opNone},
		"gone, migrated":         {nil, "b1", dom{kind: domAbsent, exit: "migrated"}, api.StateStopped, "migrated", opNone},
		"host reboot":            {nil, "b2", dom{kind: domAbsent}, api.StatePending, reasonHostReboot, opPrepare},
		"host reboot, ha none":   {func(r *record) { r.HA = api.HANone }, "b2", dom{kind: domAbsent}, api.StateStopped, reasonHostReboot, opNone},
		"host reboot, stopping":  {func(r *record) { r.Phase, r.Desired = phaseStop, api.PowerStopped }, "b2", dom{kind: domAbsent}, api.StateStopped, reasonOrdered, opNone},
		"start had come":         {func(r *record) { r.Phase, r.State = phaseStart, api.StateStarting }, "b1", dom{kind: domRunning}, api.StateRunning, "", opNone},
		"stop goes on":           {func(r *record) { r.Phase, r.Desired, r.StopBy = phaseStop, api.PowerStopped, api.Time(2*time.Hour) }, "b1", dom{kind: domRunning}, api.StateStopping, "", opShutdown},
		"stop had come":          {func(r *record) { r.Phase, r.Desired = phaseStop, api.PowerStopped }, "b1", dom{kind: domAbsent}, api.StateStopped, reasonOrdered, opNone},
		"ended, stays ended":     {func(r *record) { r.Alive, r.Ended, r.State, r.Reason = false, true, api.StateStopped, reasonGuest }, "b1", dom{kind: domAbsent}, api.StateStopped, reasonGuest, opNone},
		"crashed shell is there": {nil, "b1", dom{kind: domDead, reason: "crashed", exit: "crashed"}, api.StateFailed, "crashed", opDestroy},
	} {
		t.Run(name, func(t *testing.T) {
			r := running(t).m.record
			if c.change != nil {
				c.change(&r)
			}
			s := &script{t: t, m: newMachine(r, true), e: env{now: api.Time(time.Hour), boot: c.boot, hold: true}}
			must.Eq(t, api.StateUnknown, s.m.report().State)
			must.Eq(t, opNone, s.see(c.d)) // nothing is done before the servers speak
			must.Eq(t, c.state, s.m.State)
			if c.reason != "" {
				must.Eq(t, c.reason, s.m.Reason)
			}
			s.e.hold = false
			must.Eq(t, opNone, s.after(0)) // nor without an order for this VM
			o := runOrder()
			o.Desired = r.Desired
			must.Eq(t, c.next, s.order(o))
			must.Eq(t, orderKnown, s.out.verdict)
		})
	}
}

func TestRecoveryForgetsGrants(t *testing.T) {
	s := running(t)
	s.order(api.Order{VMID: api.ID{1}, Stop: true, Epoch: 1, Index: 20})
	s.done(resFailed)
	must.Eq(t, opNone, s.do(event{kind: evForget}))
	must.Eq(t, opNone, s.after(time.Hour)) // the tombstone was of a future that is lost
	must.True(t, s.m.Alive)
}
