package client

import (
	"os"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/api"
)

func TestEveryVerb(t *testing.T) {
	inBed(t, sim.Options{ShutdownDelay: 2 * time.Second}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1)
		b.expect(vm1, api.StateRunning)
		must.Eq(t, 1, b.report(vm1).Version)
		pid := b.pid(vm1)

		b.srv.order(vm1, func(o *api.Order) { o.Desired = api.PowerPaused })
		b.expect(vm1, api.StatePaused)
		b.srv.order(vm1, func(o *api.Order) { o.Desired = api.PowerRunning })
		b.expect(vm1, api.StateRunning)
		b.srv.order(vm1, func(o *api.Order) { o.Reboots++ })
		must.Eq(t, 1, b.report(vm1).Reboots)
		b.srv.order(vm1, func(o *api.Order) { o.Resets++ })
		must.Eq(t, 1, b.report(vm1).Resets)
		must.Eq(t, pid, b.pid(vm1))

		b.srv.order(vm1, func(o *api.Order) { o.Desired = api.PowerStopped })
		b.expect(vm1, api.StateStopping)
		b.sleep(2 * time.Second)
		b.expect(vm1, api.StateStopped)
		must.Eq(t, reasonOrdered, b.report(vm1).Reason)
		must.Eq(t, 0, b.pid(vm1))

		b.srv.order(vm1, func(o *api.Order) { o.Desired, o.SpecVersion = api.PowerPaused, 2 })
		b.expect(vm1, api.StatePaused) // started paused, with the newest spec
		must.Eq(t, 2, b.report(vm1).Version)

		b.srv.bury(vm1, false)
		b.expect(vm1, api.StateAbsent)
		must.Eq(t, 1, b.srv.attested[vm1])
		must.Eq(t, 0, b.host.Len())
		must.Nil(t, b.c.find(vm1)) // and forgotten
		_, err := os.Stat(b.c.vmDir(vm1))
		must.ErrorIs(t, err, os.ErrNotExist)
	})
}

func TestDeafGuestIsForcedOffAfterItsTime(t *testing.T) {
	inBed(t, sim.Options{IgnoreACPI: true}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1)
		b.srv.order(vm1, func(o *api.Order) { o.Desired = api.PowerStopped })
		b.sleep(28 * time.Second)
		b.expect(vm1, api.StateStopping)
		b.sleep(2 * time.Second)
		b.expect(vm1, api.StateStopped)
		b.srv.order(vm2)
		b.srv.order(vm2, func(o *api.Order) { o.Desired, o.Force = api.PowerStopped, true })
		b.expect(vm2, api.StateStopped)
	})
}

func TestNothingBeforeTheServersSpeak(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1)
		b.srv.order(vm2)
		b.stop()
		b.srv.do(func() { b.srv.noStreams = true })
		b.host.Crash(vm1) // while nobody looks
		pid := b.pid(vm2)
		b.start()
		b.sleep(time.Hour)
		must.Eq(t, 0, b.pid(vm1))
		must.Eq(t, pid, b.pid(vm2))
		must.False(t, b.c.Health().OK)
		found := b.srv.registers[1].Found
		must.SliceLen(t, 2, found)
		must.Eq(t, api.StateStarting, found[0].State) // due to be restarted, once it may
		must.Eq(t, api.StateRunning, found[1].State)
		must.Eq(t, 1, b.srv.registers[1].MaxGeneration)
		must.Eq(t, b.srv.index, b.srv.registers[1].MaxIndex)

		b.srv.do(func() { b.srv.noStreams = false })
		b.sleep(30 * time.Second)
		b.expect(vm1, api.StateRunning)
		must.Eq(t, pid, b.pid(vm2))
		must.True(t, b.c.Health().OK, must.Sprint(b.c.Health().Message))
	})
}

func TestAbsenceNeverMeansStop(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1)
		pid := b.pid(vm1)
		b.srv.do(func() { clear(b.srv.orders); b.srv.index += 50 })
		b.srv.cut()
		b.sleep(time.Minute)
		must.Eq(t, pid, b.pid(vm1))
		b.restart()
		b.sleep(time.Minute)
		must.Eq(t, pid, b.pid(vm1))
		b.expect(vm1, api.StateRunning)
		b.host.Crash(vm1) // nor is it started, with nobody who says so
		b.sleep(time.Hour)
		must.Eq(t, 0, b.pid(vm1))
	})
}

func TestLaggingServerIsRefused(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1)
		b.srv.do(func() { b.srv.behind["s1:1"] = true; b.srv.behind["s2:1"] = true; b.srv.calls = nil })
		b.srv.cut()
		b.sleep(10 * time.Second)
		b.srv.order(vm2)
		b.expect(vm2, api.StateRunning)
		must.SliceContains(t, b.srv.calls, "s3:1 Node.Orders")
		// Also over a restart: what was seen is on disk.
		b.srv.do(func() { b.srv.behind["s3:1"] = true })
		b.restart()
		b.sleep(30 * time.Second)
		must.False(t, b.c.Health().OK)
		must.StrContains(t, b.c.Health().Message, "no stream")
	})
}

func TestStaleOrdersAreRefusedAndReported(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1, func(o *api.Order) { o.Epoch = 5 })
		n := len(b.srv.reports)
		b.srv.order(vm1, func(o *api.Order) { o.Epoch, o.Desired, o.Force = 4, api.PowerStopped, true })
		must.Greater(t, n, len(b.srv.reports))
		must.Eq(t, 5, b.report(vm1).Epoch)
		must.NotEq(t, 0, b.pid(vm1))
	})
}

func TestEpochRisesInPlace(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1)
		pid := b.pid(vm1)
		b.srv.order(vm1, func(o *api.Order) { o.Epoch = 3 })
		_, e := b.domain(vm1)
		must.Eq(t, 3, e)
		must.Eq(t, pid, b.pid(vm1))
		must.Eq(t, 3, b.report(vm1).Epoch)
	})
}

func TestMovedAwayAndBack(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1)
		pid := b.pid(vm1)
		// One batch brings the new grant and, after it, the old tombstone.
		b.srv.do(func() {
			s := b.srv
			s.index++
			o := *s.orders[vm1]
			o.Epoch, o.Index = 3, s.index
			s.orders[vm1] = &o
			tomb := &api.Order{VMID: vm1, Stop: true, Epoch: 1, Index: s.index}
			s.tombs = append(s.tombs, tomb)
			s.send(&api.OrderBatch{Generation: 1, Index: s.index, Orders: []*api.Order{&o, tomb}})
		})
		b.rest()
		must.NotEq(t, pid, b.pid(vm1))
		must.Eq(t, 1, b.srv.attested[vm1])
		b.expect(vm1, api.StateRunning)
		must.Eq(t, 3, b.report(vm1).Epoch)
		must.SliceEmpty(t, b.srv.tombs)
	})
}

func TestAgentRestartLeavesGuestsAlone(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1)
		b.srv.order(vm2, func(o *api.Order) { o.Desired = api.PowerPaused })
		pid1, pid2 := b.pid(vm1), b.pid(vm2)
		for range 3 {
			b.kill()
			b.start()
			b.sleep(5 * time.Second)
			must.Eq(t, pid1, b.pid(vm1))
			must.Eq(t, pid2, b.pid(vm2))
			b.expect(vm1, api.StateRunning)
			b.expect(vm2, api.StatePaused)
		}
	})
}

func TestHypervisorThatDoesNotAnswer(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1)
		b.srv.order(vm2, func(o *api.Order) { o.Desired = api.PowerStopped })
		pid := b.pid(vm1)
		b.host.SetDown(true)
		b.sleep(time.Minute)
		b.expect(vm1, api.StateUnknown)
		b.expect(vm2, api.StateUnknown)
		must.StrContains(t, b.c.Health().Message, "hypervisor")
		b.srv.order(vm1, func(o *api.Order) { o.Reboots++ })
		b.host.SetDown(false)
		b.sleep(20 * time.Second)
		b.expect(vm1, api.StateRunning)
		b.expect(vm2, api.StateStopped)
		must.Eq(t, 1, b.report(vm1).Reboots)
		must.Eq(t, pid, b.pid(vm1))

		// An agent that starts meanwhile registers all the same.
		b.host.SetDown(true)
		b.restart()
		last := b.srv.registers[len(b.srv.registers)-1]
		must.SliceLen(t, 2, last.Found)
		must.Eq(t, api.StateUnknown, last.Found[0].State)
		must.False(t, last.Node.Drivers[0].Healthy)
		b.host.SetDown(false)
		b.sleep(20 * time.Second)
		b.expect(vm1, api.StateRunning)
		must.Eq(t, pid, b.pid(vm1))
	})
}

func TestLostAnswers(t *testing.T) {
	for _, verb := range []string{"start", "get", "attest", "shutdown", "destroy", "pause", "resume", "reboot", "reset", "setepoch"} {
		t.Run(verb, func(t *testing.T) {
			inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
				b.start()
				b.host.Inject(sim.Fault{Verb: verb, Lost: true, Times: 2})
				b.srv.order(vm1)
				b.sleep(20 * time.Second)
				b.srv.order(vm1, func(o *api.Order) { o.Epoch, o.Reboots, o.Desired = 2, 1, api.PowerPaused })
				b.sleep(20 * time.Second)
				b.srv.order(vm1, func(o *api.Order) { o.Reboots, o.Resets, o.Desired = 2, 1, api.PowerRunning })
				b.sleep(20 * time.Second)
				b.expect(vm1, api.StateRunning)
				must.Eq(t, 0, b.report(vm1).Restarts)
				b.srv.bury(vm1, verb == "destroy")
				b.sleep(30 * time.Second)
				b.expect(vm1, api.StateAbsent)
				must.Eq(t, 0, b.host.Len())
			})
		})
	}
}

func TestCrashBetweenIntentAndResult(t *testing.T) {
	for verb, drive := range map[string]func(b *bed){
		"start":    func(b *bed) { b.srv.order(vm1) },
		"shutdown": func(b *bed) { b.srv.order(vm1); b.srv.order(vm1, func(o *api.Order) { o.Desired = api.PowerStopped }) },
		"destroy":  func(b *bed) { b.srv.order(vm1); b.srv.bury(vm1, true) },
		"reboot":   func(b *bed) { b.srv.order(vm1); b.srv.order(vm1, func(o *api.Order) { o.Reboots++ }) },
		"reset":    func(b *bed) { b.srv.order(vm1); b.srv.order(vm1, func(o *api.Order) { o.Resets++ }) },
		"setepoch": func(b *bed) { b.srv.order(vm1); b.srv.order(vm1, func(o *api.Order) { o.Epoch = 2 }) },
	} {
		for _, took := range []bool{true, false} {
			t.Run(verb, func(t *testing.T) {
				inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
					b.start()
					calls := 0
					f := sim.Fault{Verb: verb, Times: 1, Err: hypervisor.ErrUnknown}
					if took {
						f.Err, f.Lost = nil, true
					}
					cut := func() { calls++; _ = b.driver.Close() }
					f.After = cut
					if !took {
						f.Before = cut
					}
					b.host.Inject(f)
					drive(b)
					must.Eq(t, 1, calls)
					b.kill()
					b.host.Inject(sim.Fault{Verb: verb, Before: func() { calls++ }})
					b.start()
					b.sleep(2 * time.Minute)
					switch verb {
					case "start", "setepoch":
						b.expect(vm1, api.StateRunning)
						must.Eq(t, 0, b.report(vm1).Restarts)
						_, e := b.domain(vm1)
						must.Eq(t, b.srv.orders[vm1].Epoch, e)
					case "shutdown":
						b.expect(vm1, api.StateStopped)
						must.Eq(t, reasonOrdered, b.report(vm1).Reason)
					case "destroy":
						b.expect(vm1, api.StateAbsent)
					case "reboot", "reset": // at most once, whether it took effect or not
						must.Eq(t, 1, calls)
						b.expect(vm1, api.StateRunning)
						must.Eq(t, 1, b.report(vm1).Reboots+b.report(vm1).Resets)
					}
				})
			})
		}
	}
}

func TestHostReboot(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1)
		b.srv.order(vm2, func(o *api.Order) { s := spec(); s.HA.Policy = api.HANone; o.Spec = s })
		b.stop()
		b.host.Reboot()
		b.boot = "boot-2"
		b.start()
		b.sleep(5 * time.Second)
		b.expect(vm1, api.StateRunning)
		must.Eq(t, 0, b.report(vm1).Restarts)
		b.expect(vm2, api.StateStopped)
		must.Eq(t, reasonHostReboot, b.report(vm2).Reason)
		must.Eq(t, "boot-2", b.srv.registers[1].Node.BootID)
		b.srv.order(vm2, func(o *api.Order) { o.Starts++ })
		b.expect(vm2, api.StateRunning)
	})
}

func TestGuestsThatEndByThemselves(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1)
		b.srv.order(vm2)
		b.host.Crash(vm1)
		b.host.PowerOff(vm2)
		b.rest()
		b.expect(vm1, api.StateStarting)
		must.StrContains(t, b.report(vm1).Message, "crashed; restart 1 of 3 in 5s")
		b.expect(vm2, api.StateStopped)
		must.Eq(t, reasonGuest, b.report(vm2).Reason)
		b.sleep(5 * time.Second)
		b.expect(vm1, api.StateRunning)
		must.Eq(t, 1, b.report(vm1).Restarts)
		must.Eq(t, 0, b.pid(vm2))
		// A timer that was due while the agent was away is not lost.
		b.host.Crash(vm1)
		b.rest()
		b.restart()
		b.sleep(15 * time.Second)
		b.expect(vm1, api.StateRunning)
		must.Eq(t, 2, b.report(vm1).Restarts)
		// One that vanished without an event is found by the list.
		b.host.Vanish(vm1)
		b.sleep(time.Minute)
		b.expect(vm1, api.StateRunning)
		must.Eq(t, 3, b.report(vm1).Restarts)
	})
}

func TestOrphansAreReportedAndLeftAlone(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		d := sim.New(b.host)
		defer d.Close()
		for _, id := range []api.ID{vm1, vm2} {
			must.NoError(t, d.Start(t.Context(), &hypervisor.Machine{
				ID: id, Name: "lost", Epoch: 4, SpecVersion: 2, CPU: api.CPUSpec{Cores: 1}, Memory: api.MiB,
			}, false))
		}
		b.start()
		must.True(t, b.report(vm1).Orphan)
		must.Eq(t, 4, b.report(vm1).Epoch)
		must.True(t, b.srv.registers[0].Found[0].Orphan)
		b.sleep(time.Hour)
		must.Eq(t, 2, b.host.Len())
		// A matching tombstone ends one, a grant adopts the other.
		pid := b.pid(vm2)
		b.srv.order(vm2, func(o *api.Order) { o.Epoch, o.SpecVersion = 5, 3 })
		must.Eq(t, pid, b.pid(vm2))
		must.False(t, b.report(vm2).Orphan)
		must.Eq(t, 2, b.report(vm2).Version)
		b.srv.do(func() { b.srv.orders[vm1] = &api.Order{VMID: vm1, Epoch: 3} })
		b.srv.bury(vm1, true) // of an older epoch: attested, and left alone
		must.Eq(t, 2, b.host.Len())
		must.Eq(t, 3, b.srv.attested[vm1])
		b.srv.do(func() { b.srv.orders[vm1] = &api.Order{VMID: vm1, Epoch: 4} })
		b.srv.bury(vm1, true)
		must.Eq(t, 1, b.host.Len())
		must.Eq(t, 4, b.srv.attested[vm1])
	})
}

func TestRecovery(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1)
		pid := b.pid(vm1)
		// The region is restored from a snapshot that knows another truth.
		b.srv.do(func() {
			s := b.srv
			s.gen, s.index, s.recovery = 2, 40, true
			s.orders[vm1] = &api.Order{VMID: vm1, Epoch: 1, Index: 30, Desired: api.PowerStopped, Force: true, Spec: spec()}
			s.orders[vm2] = &api.Order{VMID: vm2, Epoch: 1, Index: 31, Desired: api.PowerRunning, Spec: spec()}
		})
		b.srv.cut()
		b.sleep(time.Minute)
		must.Eq(t, pid, b.pid(vm1))
		must.Eq(t, 0, b.pid(vm2))
		must.StrContains(t, b.c.Health().Message, "recovery")
		b.host.Crash(vm1)
		b.sleep(time.Minute)
		must.Eq(t, 0, b.pid(vm1)) // not even restarted in place
		// It ends: epochs go on above everything seen.
		b.srv.do(func() {
			s := b.srv
			s.recovery = false
			s.index = 50
			s.orders[vm1] = &api.Order{VMID: vm1, Name: "a", Epoch: 2, Index: 50, Desired: api.PowerRunning, Spec: spec(), SpecVersion: 1}
			s.orders[vm2].Name = "b"
			s.send(&api.OrderBatch{Generation: 2, Index: 50})
		})
		b.sleep(10 * time.Second)
		b.expect(vm1, api.StateRunning)
		b.expect(vm2, api.StateRunning)
		must.Eq(t, 2, b.report(vm1).Epoch)
	})
}

func TestManyGuestsCostNothingAtRest(t *testing.T) {
	inBed(t, sim.Options{StartDelay: 100 * time.Millisecond}, func(t *testing.T, b *bed) {
		b.start()
		now, most := 0, 0
		b.host.Inject(sim.Fault{
			Verb:   "start",
			Before: func() { b.srv.do(func() { now++; most = max(most, now) }) },
			After:  func() { b.srv.do(func() { now-- }) },
		})
		b.srv.do(func() {
			s := b.srv
			s.index++
			batch := &api.OrderBatch{Generation: 1, Index: s.index}
			for i := range 200 {
				id := api.ID{9, byte(i)}
				batch.Orders = append(batch.Orders, &api.Order{VMID: id, Name: "x", Epoch: 1, Index: s.index, Desired: api.PowerRunning, SpecVersion: 1, Spec: spec()})
			}
			s.send(batch)
		})
		b.sleep(10 * time.Second)
		must.Eq(t, 200, b.host.Len())
		must.Eq(t, 4, most) // at once
		for _, v := range b.c.all() {
			must.False(t, v.active)
			must.Nil(t, v.timer)
			must.Nil(t, v.ready)
		}
		must.Less(t, 60, len(b.srv.reports)) // batched
	})
}
