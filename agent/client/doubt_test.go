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
