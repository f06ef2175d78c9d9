package client

import (
	"context"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	guardsim "github.com/novacron/novacron/agent/guard/sim"
	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/api"
)

// The times of the leases in these tests, those of the defaults.
const (
	testLease = 15 * time.Second
	testKill  = 5 * time.Second
)

// inGuarded is inBed with a guard, and servers that grant leases.
func inGuarded(t *testing.T, o sim.Options, f func(t *testing.T, b *bed)) {
	inBed(t, o, func(t *testing.T, b *bed) {
		b.guard = guardsim.New(guardsim.Options{
			Boottime: func() time.Duration { return time.Duration(time.Now().UnixNano()) },
			Kill:     func(pid int) { b.host.Kill(pid) }, Lives: b.host.Lives,
		})
		defer b.guard.Close()
		b.srv.lease = api.Duration(testLease)
		f(t, b)
	})
}

// haPolicy gives an order an HA policy.
func haPolicy(p string) func(*api.Order) {
	return func(o *api.Order) {
		s := *o.Spec
		s.HA.Policy = p
		o.Spec = &s
		o.SpecVersion++
	}
}

// armedAt is the epoch at which the guard holds a VM, 0 if it does not.
func (b *bed) armedAt(id api.ID) api.Epoch {
	b.t.Helper()
	c, err := b.guard.Connect(b.t.Context())
	must.NoError(b.t, err)
	defer c.Close()
	st, err := c.Status(b.t.Context())
	must.NoError(b.t, err)
	for _, a := range st.Armed {
		if a.VM == id {
			return a.Epoch
		}
	}
	return 0
}

// silence makes the servers answer nobody, or answer again.
func (s *cluster) silence(down bool) {
	s.do(func() {
		for _, a := range s.addrs {
			s.down[a] = down
		}
	})
	if down {
		s.cut()
	}
}

// lastBeat is when the newest beat was sent that a server has acknowledged.
func (b *bed) lastBeat() time.Time {
	b.c.health.mu.Lock()
	defer b.c.health.mu.Unlock()
	return time.Unix(0, int64(b.c.health.lastAck))
}

func TestAnHAVMIsArmedBeforeItRuns(t *testing.T) {
	inGuarded(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.host.Inject(sim.Fault{Verb: "resume", Times: 1, Delay: 20 * time.Second})
		b.srv.order(vm1, haPolicy(api.HARestart))
		s, e := b.domain(vm1)
		must.Eq(t, api.StatePaused, s, must.Sprint("it does not run before it may"))
		must.Eq(t, e, b.armedAt(vm1))
		b.expect(vm1, api.StateStarting)
		must.Eq(t, reasonArming, b.report(vm1).Reason)
		must.True(t, b.report(vm1).Armed)
		b.sleep(20 * time.Second)
		b.expect(vm1, api.StateRunning)
		must.True(t, b.report(vm1).Armed)
		must.Eq(t, api.GuardLeaseOnly, b.srv.registers[0].Node.Guard)
		must.True(t, b.c.Health().OK, must.Sprint(b.c.Health().Message))
		must.StrContains(t, b.c.Health().Message, "1 VMs are armed")
		b.srv.order(vm2)
		must.Eq(t, 0, b.armedAt(vm2), must.Sprint("others are not"))
		must.False(t, b.report(vm2).Armed)
	})
}

func TestWithoutALeaseNoHAVMIsStarted(t *testing.T) {
	inGuarded(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.srv.lease = 0
		b.start()
		b.srv.order(vm1, haPolicy(api.HARestart))
		b.srv.order(vm2)
		b.sleep(time.Minute)
		must.Eq(t, 0, b.pid(vm1))
		must.StrContains(t, b.report(vm1).Message, "no lease")
		b.expect(vm2, api.StateRunning)
		b.srv.do(func() { b.srv.lease = api.Duration(testLease) })
		b.sleep(4 * time.Second)
		b.expect(vm1, api.StateRunning)
		must.Eq(t, "", b.report(vm1).Message)
	})
}

func TestWithoutAGuardNoHAVMIsStarted(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.srv.lease = api.Duration(testLease)
		b.start()
		b.srv.order(vm1, haPolicy(api.HARestart))
		b.sleep(time.Minute)
		must.Eq(t, 0, b.pid(vm1))
		must.StrContains(t, b.report(vm1).Message, "needs a guard")
		must.Eq(t, api.GuardNone, b.srv.registers[0].Node.Guard)
		b.srv.do(func() { b.srv.disarm = true }) // then it is kept as others are
		b.sleep(4 * time.Second)
		b.expect(vm1, api.StateRunning)
		must.False(t, b.report(vm1).Armed)
	})
}

func TestTheServersKnowBeforeAVMIsDisarmed(t *testing.T) {
	inGuarded(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1, haPolicy(api.HARestart))
		pid := b.pid(vm1)
		b.srv.do(func() { b.srv.refuse = api.Errorf(api.CodeNoLeader, "no leader") })
		b.srv.order(vm1, haPolicy(api.HAKeep))
		b.sleep(time.Minute)
		must.Eq(t, 1, b.armedAt(vm1), must.Sprint("not yet"))
		must.True(t, b.report(vm1).Armed)
		b.srv.do(func() { b.srv.refuse = nil })
		b.sleep(10 * time.Second)
		must.Eq(t, 0, b.armedAt(vm1))
		must.False(t, b.report(vm1).Armed)
		b.srv.order(vm1, haPolicy(api.HARestart))
		must.Eq(t, 1, b.armedAt(vm1), must.Sprint("and back, while it runs"))
		must.True(t, b.report(vm1).Armed)
		must.Eq(t, pid, b.pid(vm1))
	})
}

func TestTheServersMayHaveEverythingDisarmed(t *testing.T) {
	inGuarded(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1, haPolicy(api.HARestart))
		pid := b.pid(vm1)
		b.srv.do(func() { b.srv.disarm = true })
		b.sleep(5 * time.Second)
		must.Eq(t, 0, b.armedAt(vm1))
		must.False(t, b.report(vm1).Armed)
		b.srv.silence(true)
		b.sleep(time.Minute)
		must.Eq(t, pid, b.pid(vm1))
		b.srv.do(func() { b.srv.disarm = false })
		b.srv.silence(false)
		b.sleep(20 * time.Second)
		must.Eq(t, 1, b.armedAt(vm1))
		must.Eq(t, pid, b.pid(vm1))
	})
}

func TestAHostCutOffEndsItsHAVMsAndWaitsForTheServers(t *testing.T) {
	inGuarded(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1, haPolicy(api.HARestart))
		b.srv.order(vm2)
		pid := b.pid(vm2)
		b.srv.silence(true)
		end := b.lastBeat().Add(testLease)
		b.sleep(time.Until(end) - time.Millisecond)
		must.NotEq(t, 0, b.pid(vm1))
		b.sleep(time.Millisecond + time.Second/10)
		must.Eq(t, 0, b.pid(vm1), must.Sprint("the lease is counted from when the beat was sent"))
		b.sleep(time.Minute)
		must.Eq(t, 0, b.pid(vm1))
		must.Eq(t, pid, b.pid(vm2), must.Sprint("others run on"))
		r, _ := b.c.find(vm1).report()
		must.Eq(t, api.StateFailed, r.State)
		must.Eq(t, reasonFenced, r.Reason)
		must.StrContains(t, r.Message, "killed by the guard at "+end.UTC().Format("2006-01-02T15:04"))
		must.False(t, r.Armed)

		b.srv.silence(false)
		b.sleep(30 * time.Second)
		b.expect(vm1, api.StateRunning)
		must.Eq(t, 1, b.armedAt(vm1))
		must.Eq(t, 0, b.report(vm1).Restarts)
		must.Eq(t, pid, b.pid(vm2))
	})
}

func TestAFencedVMThatTheServersNoLongerOrderStaysDown(t *testing.T) {
	inGuarded(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1, haPolicy(api.HARestart))
		b.srv.silence(true)
		b.sleep(time.Minute)
		// Somebody else has it now; the server that answers first does not know yet.
		var stale *api.Order
		b.srv.do(func() {
			stale = b.srv.orders[vm1]
			delete(b.srv.orders, vm1)
			b.srv.index += 100
			b.srv.behind["s1:1"] = true
		})
		b.srv.silence(false)
		b.sleep(time.Minute)
		must.Eq(t, 0, b.pid(vm1), must.Sprint("that it is in no order is no order"))
		must.StrContains(t, b.report(vm1).Message, "killed by the guard")
		b.srv.do(func() { b.srv.orders[vm1] = stale })
		b.srv.cut()
		b.sleep(time.Minute)
		b.expect(vm1, api.StateRunning) // ordered anew
	})
}

func TestARestartOfTheAgentExtendsNoLease(t *testing.T) {
	inGuarded(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1, haPolicy(api.HARestart))
		end := b.lastBeat().Add(testLease)
		b.srv.silence(true)
		for range 4 {
			b.kill()
			b.start()
			b.sleep(time.Second)
		}
		b.sleep(time.Until(end) - time.Millisecond)
		must.NotEq(t, 0, b.pid(vm1))
		b.sleep(time.Second / 10)
		must.Eq(t, 0, b.pid(vm1))
	})
}

func TestARestartedAgentFindsWhatIsArmed(t *testing.T) {
	inGuarded(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1, haPolicy(api.HARestart))
		pid := b.pid(vm1)
		b.kill()
		b.start()
		found := b.srv.registers[1].Found
		must.SliceLen(t, 1, found)
		must.True(t, found[0].Armed, must.Sprint("by the guard's word"))
		b.sleep(time.Minute)
		must.Eq(t, pid, b.pid(vm1))
		must.True(t, b.report(vm1).Armed)
		b.kill() // and without an agent it dies
		b.sleep(testLease + time.Second)
		must.Eq(t, 0, b.pid(vm1))
		b.start()
		b.sleep(5 * time.Second)
		must.Eq(t, reasonFenced, b.srv.registers[2].Found[0].Reason)
		b.expect(vm1, api.StateRunning)
	})
}

func TestAnAgentThatEndsTakesItsVMsBackFirst(t *testing.T) {
	inGuarded(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1, haPolicy(api.HARestart))
		pid := b.pid(vm1)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		must.NoError(t, b.c.Disarm(ctx))
		must.Eq(t, 0, b.armedAt(vm1))
		must.False(t, b.report(vm1).Armed)
		b.stop()
		b.sleep(time.Hour)
		must.Eq(t, pid, b.pid(vm1))
		b.start()
		b.sleep(5 * time.Second)
		must.Eq(t, 1, b.armedAt(vm1), must.Sprint("the next agent arms it again"))
		must.Eq(t, pid, b.pid(vm1))

		b.srv.silence(true)
		short, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		must.Error(t, b.c.Disarm(short))
		must.Eq(t, 1, b.armedAt(vm1))
		b.stop()
		b.sleep(testLease)
		must.Eq(t, 0, b.pid(vm1))
	})
}

func TestAGuardThatDiesIsFoundAgain(t *testing.T) {
	inGuarded(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1, haPolicy(api.HARestart))
		pid := b.pid(vm1)
		for _, forget := range []bool{false, true} {
			b.guard.Die()
			b.sleep(2 * time.Second)
			must.False(t, b.c.Health().OK)
			if forget {
				b.guard.Forget()
			}
			b.guard.Start()
			b.sleep(2 * time.Second)
			must.Eq(t, 1, b.armedAt(vm1))
			b.sleep(time.Minute)
			must.Eq(t, pid, b.pid(vm1))
			must.True(t, b.c.Health().OK)
		}
	})
}

func TestWithoutAGuardTheAgentEndsWhatWasArmed(t *testing.T) {
	for name, trouble := range map[string]struct {
		begin, end func(*guardsim.Guard)
		within     time.Duration
	}{
		"dead":   {(*guardsim.Guard).Die, (*guardsim.Guard).Start, testKill + time.Second},
		"frozen": {(*guardsim.Guard).Freeze, (*guardsim.Guard).Thaw, testKill + guardPeriod + guardAnswer + time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inGuarded(t, sim.Options{}, func(t *testing.T, b *bed) {
				b.start()
				b.srv.order(vm1, haPolicy(api.HARestart))
				b.srv.order(vm2)
				pid := b.pid(vm2)
				trouble.begin(b.guard)
				b.sleep(testKill - time.Second)
				must.NotEq(t, 0, b.pid(vm1))
				b.sleep(trouble.within - testKill + time.Second)
				must.Eq(t, 0, b.pid(vm1))
				b.sleep(3 * time.Second)
				b.expect(vm1, api.StateFailed)
				must.Eq(t, reasonFenced, b.report(vm1).Reason)
				must.False(t, b.report(vm1).Armed)
				must.Eq(t, pid, b.pid(vm2))
				b.sleep(time.Minute)
				must.Eq(t, 0, b.pid(vm1))
				must.Eq(t, api.GuardNone, b.srv.registers[len(b.srv.registers)-1].Node.Guard)
				trouble.end(b.guard)
				b.sleep(30 * time.Second)
				b.expect(vm1, api.StateRunning)
				must.Eq(t, 1, b.armedAt(vm1))
			})
		})
	}
}

func TestVerbsOfAnHAVM(t *testing.T) {
	inGuarded(t, sim.Options{ShutdownDelay: 2 * time.Second}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1, haPolicy(api.HARestart))
		b.srv.order(vm1, func(o *api.Order) { o.Desired = api.PowerPaused })
		b.expect(vm1, api.StatePaused)
		b.srv.order(vm1, func(o *api.Order) { o.Desired = api.PowerRunning })
		b.expect(vm1, api.StateRunning)
		b.srv.order(vm1, func(o *api.Order) { o.Epoch = 2 }) // granted anew, in place
		must.Eq(t, 2, b.armedAt(vm1))
		must.True(t, b.report(vm1).Armed)
		b.host.Crash(vm1) // restarted in place: another process, armed anew
		b.sleep(10 * time.Second)
		b.expect(vm1, api.StateRunning)
		must.Eq(t, 1, b.report(vm1).Restarts)
		must.Eq(t, 2, b.armedAt(vm1))
		b.srv.order(vm1, func(o *api.Order) { o.Desired = api.PowerStopped })
		b.sleep(3 * time.Second)
		b.expect(vm1, api.StateStopped)
		must.False(t, b.report(vm1).Armed)
		must.Eq(t, 0, b.armedAt(vm1))
		b.srv.bury(vm1, false)
		b.expect(vm1, api.StateAbsent)
	})
}
