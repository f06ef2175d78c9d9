package client

import (
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/api"
)

func TestConfigIsChecked(t *testing.T) {
	for what, spoil := range map[string]func(*Config){
		"node id": func(c *Config) { c.Node.ID = api.ID{} },
		"folder":  func(c *Config) { c.Dir = "" },
		"server":  func(c *Config) { c.Servers = nil },
		"driver":  func(c *Config) { c.Driver = nil },
	} {
		b := &bed{t: t, dir: t.TempDir(), change: spoil}
		_, err := New(b.config())
		must.Eq(t, api.CodeConfig, api.CodeOf(err))
		must.True(t, strings.Contains(err.Error(), what), must.Sprint(err))
	}
}

func TestNothingStartsBesideAProcessThatIsLeft(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		left := b.host.Inject(sim.Fault{Verb: "attest", Err: hypervisor.ErrUnknown}) // no domain, but a process
		b.srv.order(vm1)
		b.sleep(time.Minute)
		must.Eq(t, 0, b.host.Len())
		left()
		b.sleep(time.Minute)
		b.expect(vm1, api.StateRunning)
	})
}

func TestListThatIsOlderThanWhatWasDone(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1)
		b.host.Inject(sim.Fault{Verb: "list", Times: 1, After: func() { time.Sleep(3 * time.Second) }})
		b.c.relist()
		b.sleep(100 * time.Millisecond)
		b.srv.order(vm1, func(o *api.Order) { o.Desired, o.Force = api.PowerStopped, true })
		b.expect(vm1, api.StateStopped)
		n := len(b.srv.reports)
		b.sleep(10 * time.Second) // the list says that it runs
		b.expect(vm1, api.StateStopped)
		must.Eq(t, n, len(b.srv.reports))
	})
}

// A hypervisor that takes a call and never answers does not keep the node from
// registering.
func TestAHypervisorThatHangsAtTheStart(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1)
		pid := b.pid(vm1)
		b.stop()
		answer := b.host.Inject(sim.Fault{Hang: true})
		b.start()
		b.sleep(2*firstAnswer + time.Second)
		must.SliceLen(t, 2, b.srv.registers)
		last := b.srv.registers[1]
		must.False(t, last.Node.Drivers[0].Healthy)
		must.StrContains(t, last.Node.Drivers[0].Error, "unknown")
		must.Eq(t, "sim", last.Node.Drivers[0].Name)
		must.Eq(t, api.StateUnknown, last.Found[0].State)
		must.SliceNotEmpty(t, b.srv.beats)
		answer()
		b.sleep(2 * time.Minute) // the calls that hang have their time
		b.expect(vm1, api.StateRunning)
		must.Eq(t, pid, b.pid(vm1))
		must.True(t, b.srv.registers[len(b.srv.registers)-1].Node.Drivers[0].Healthy)
	})
}

// One that is only slow is told as soon as it has answered.
func TestAHypervisorThatLearnsSlowly(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.change = func(c *Config) { c.FactsInterval = time.Hour }
		b.host.Inject(sim.Fault{Verb: "fingerprint", Delay: 20 * time.Second, Times: 1})
		b.start()
		b.sleep(firstAnswer)
		must.SliceLen(t, 1, b.srv.registers)
		must.False(t, b.srv.registers[0].Node.Drivers[0].Healthy)
		b.sleep(20 * time.Second)
		must.SliceLen(t, 2, b.srv.registers)
		must.True(t, b.srv.registers[1].Node.Drivers[0].Healthy)
		// Later, what it said stands meanwhile.
		b.host.Inject(sim.Fault{Verb: "fingerprint", Delay: 20 * time.Second, Times: 1})
		b.c.Refresh()
		b.sleep(time.Minute)
		must.SliceLen(t, 2, b.srv.registers)
	})
}

// Nothing is placed on a node for longer than its hypervisor is away.
func TestAHypervisorThatGoesAndComesIsToldAtOnce(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.change = func(c *Config) { c.FactsInterval = time.Hour }
		b.start()
		healthy := func() bool { return b.srv.registers[len(b.srv.registers)-1].Node.Drivers[0].Healthy }
		must.True(t, healthy())
		b.host.SetDown(true)
		b.sleep(2 * b.c.cfg.ListInterval)
		must.False(t, healthy())
		b.host.SetDown(false)
		b.sleep(20 * time.Second)
		must.True(t, healthy())
		must.SliceLen(t, 3, b.srv.registers)

		// Also one that lists its domains before it says what it can do.
		b.host.SetDown(true)
		b.sleep(2 * b.c.cfg.ListInterval)
		b.host.Inject(sim.Fault{Verb: "fingerprint", Err: hypervisor.ErrUnknown, Times: 1})
		b.host.SetDown(false)
		b.sleep(40 * time.Second)
		must.True(t, healthy())
	})
}

// The hypervisor's own log of a VM stays until its absence is known, and goes then.
func TestLogsGoWithTheVM(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		b.srv.order(vm1)
		b.srv.do(func() { b.srv.refuse = api.Errorf(api.CodeNoLeader, "no leader") })
		b.srv.bury(vm1, true)
		why, ok := b.driver.LastExit(t.Context(), vm1)
		must.True(t, ok)
		must.Eq(t, "destroyed", why)
		b.srv.do(func() { b.srv.refuse = nil })
		b.sleep(10 * time.Second)
		b.expect(vm1, api.StateAbsent)
		_, ok = b.driver.LastExit(t.Context(), vm1)
		must.False(t, ok)
	})
}
