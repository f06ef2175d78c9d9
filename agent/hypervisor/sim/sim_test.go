package sim_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/hypervisor/conformance"
	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func machine() *hypervisor.Machine {
	return &hypervisor.Machine{
		ID: api.NewID(), Namespace: "default", Name: "vm", Epoch: 1, SpecVersion: 1,
		CPU: api.CPUSpec{Cores: 1}, Memory: 32 * api.MiB, Serial: true,
		Disks: []hypervisor.MachineDisk{{Name: "root", Path: "/sim/root.raw", Format: "raw"}},
		NICs:  []hypervisor.MachineNIC{{MAC: "52:54:00:00:00:01", Bridge: "br0"}},
	}
}

func conformanceHost(o sim.Options) conformance.Host {
	h := sim.NewHost(o)
	return conformance.Host{
		Connect: func(*testing.T) hypervisor.Driver { return sim.New(h) },
		Machine: func(*testing.T) *hypervisor.Machine { return machine() },
		Banner:  "NovaCron simulated machine",
		Obeys:   !o.IgnoreACPI,
		Kill:    func(_ *testing.T, d hypervisor.Domain) { h.Crash(d.ID) },
		Down:    func(*testing.T) { h.SetDown(true) },
		Up:      func(*testing.T) { h.SetDown(false) },
	}
}

func TestConformance(t *testing.T) { conformance.Run(t, conformanceHost(sim.Options{})) }

func TestConformanceDeafGuests(t *testing.T) {
	conformance.Run(t, conformanceHost(sim.Options{IgnoreACPI: true}))
}

func TestGuestsTakeTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := sim.NewHost(sim.Options{StartDelay: 2 * time.Second, BootDelay: 20 * time.Second, ShutdownDelay: 5 * time.Second})
		d := sim.New(h)
		defer d.Close()
		ctx, m := t.Context(), machine()
		began := time.Now()
		must.NoError(t, d.Start(ctx, m, false))
		must.Eq(t, 2*time.Second, time.Since(began))

		must.NoError(t, d.Shutdown(ctx, m.ID)) // still boots: not heard
		must.NoError(t, d.Reboot(ctx, m.ID))
		time.Sleep(time.Minute)
		must.Eq(t, 1, h.Len())

		events, err := d.Events(ctx)
		must.NoError(t, err)
		must.NoError(t, d.Shutdown(ctx, m.ID))
		must.NoError(t, d.Shutdown(ctx, m.ID)) // asking again changes nothing
		got, err := d.Get(ctx, m.ID)
		must.NoError(t, err)
		must.Eq(t, api.StateStopping, got.State)
		began = time.Now()
		must.Eq(t, hypervisor.Event{Kind: hypervisor.EventStopped, ID: m.ID, Reason: "shutdown"}, <-events)
		must.Eq(t, 5*time.Second, time.Since(began))

		must.NoError(t, d.Start(ctx, m, true))
		must.Eq(t, api.CodeState, api.CodeOf(d.Shutdown(ctx, m.ID)))
		st, err := d.Stats(ctx, m.ID)
		must.NoError(t, err)
		must.Eq(t, 0, st.CPUTime)
	})
}

func TestStopThatIsUnderWayDoesNotHitTheNextGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := sim.NewHost(sim.Options{ShutdownDelay: 5 * time.Second})
		d := sim.New(h)
		defer d.Close()
		ctx, m := t.Context(), machine()
		must.NoError(t, d.Start(ctx, m, false))
		must.NoError(t, d.Shutdown(ctx, m.ID))
		must.NoError(t, d.Pause(ctx, m.ID)) // holds it up
		time.Sleep(time.Minute)
		must.Eq(t, 1, h.Len())
		must.NoError(t, d.Resume(ctx, m.ID))
		must.NoError(t, d.Shutdown(ctx, m.ID))
		must.NoError(t, d.Destroy(ctx, m.ID))
		must.NoError(t, d.Start(ctx, m, false))
		time.Sleep(time.Minute)
		must.Eq(t, 1, h.Len())
	})
}

func TestFaults(t *testing.T) {
	boom := errors.New("boom")
	h := sim.NewHost(sim.Options{})
	d := sim.New(h)
	defer d.Close()
	m := machine()

	t.Run("an error has no effect", func(t *testing.T) {
		h.Inject(sim.Fault{Verb: "start", Times: 1, Err: boom})
		must.ErrorIs(t, d.Start(t.Context(), m, false), boom)
		must.Eq(t, 0, h.Len())
	})
	t.Run("a lost answer has", func(t *testing.T) {
		h.Inject(sim.Fault{Verb: "start", ID: m.ID, Times: 1, Lost: true})
		must.ErrorIs(t, d.Start(t.Context(), m, false), hypervisor.ErrUnknown)
		must.Eq(t, []api.ID{m.ID}, h.IDs())
		must.ErrorIs(t, d.Start(t.Context(), m, false), hypervisor.ErrExists)
	})
	t.Run("faults wait for their verb and machine", func(t *testing.T) {
		remove := h.Inject(sim.Fault{Verb: "get", ID: api.NewID(), Err: boom})
		_, err := d.Get(t.Context(), m.ID)
		must.NoError(t, err)
		remove()
	})
	t.Run("the agent dies before or after the effect", func(t *testing.T) {
		for _, after := range []bool{false, true} {
			e := sim.New(h)
			f := sim.Fault{Verb: "destroy", Times: 1}
			if after {
				f.After = func() { e.Close() }
			} else {
				f.Before = func() { e.Close() }
			}
			h.Inject(f)
			err := e.Destroy(t.Context(), m.ID)
			must.Eq(t, after, err == nil)
			must.Eq(t, after, h.Len() == 0)
			_, err = e.List(t.Context())
			must.ErrorIs(t, err, hypervisor.ErrUnknown)
		}
	})
	t.Run("a hang ends with the context or the driver", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := sim.New(h)
			remove := h.Inject(sim.Fault{Hang: true})
			defer remove()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			must.ErrorIs(t, e.Attest(ctx, m.ID), hypervisor.ErrUnknown)
			time.AfterFunc(time.Hour, func() { e.Close() })
			must.ErrorIs(t, e.Attest(t.Context(), m.ID), hypervisor.ErrUnknown)
		})
	})
	t.Run("a slow call is slow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			remove := h.Inject(sim.Fault{Delay: time.Minute})
			defer remove()
			began := time.Now()
			must.NoError(t, d.Attest(t.Context(), m.ID))
			must.Eq(t, time.Minute, time.Since(began))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			must.ErrorIs(t, d.Attest(ctx, m.ID), hypervisor.ErrUnknown)
		})
	})
	t.Run("a failing fingerprint says so", func(t *testing.T) {
		h.Inject(sim.Fault{Verb: "fingerprint", Times: 1, Err: boom})
		info, err := d.Fingerprint(t.Context())
		must.ErrorIs(t, err, boom)
		must.False(t, info.Healthy)
		must.Eq(t, "boom", info.Error)
	})
}

func TestAbandonedStartStillHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := sim.NewHost(sim.Options{StartDelay: time.Minute})
		d := sim.New(h)
		defer d.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		must.ErrorIs(t, d.Start(ctx, machine(), false), hypervisor.ErrUnknown)
		must.Eq(t, 1, h.Len())
	})
}

func TestHostReboot(t *testing.T) {
	h := sim.NewHost(sim.Options{})
	d := sim.New(h)
	defer d.Close()
	ctx := t.Context()
	ended, running, odd := machine(), machine(), machine()
	for _, m := range []*hypervisor.Machine{ended, running, odd} {
		must.NoError(t, d.Start(ctx, m, false))
	}
	must.True(t, h.PowerOff(ended.ID))
	must.False(t, h.PowerOff(ended.ID))
	reason, ok := d.LastExit(ctx, ended.ID)
	must.True(t, ok)
	must.Eq(t, "shutdown", reason)
	must.True(t, h.Vanish(odd.ID))
	_, ok = d.LastExit(ctx, odd.ID)
	must.False(t, ok)

	h.Reboot()
	must.Eq(t, 1, h.Boots())
	must.Eq(t, 0, h.Len())
	for _, m := range []*hypervisor.Machine{ended, running} {
		must.NoError(t, d.Attest(ctx, m.ID))
		_, ok = d.LastExit(ctx, m.ID)
		must.False(t, ok)
	}
}

func TestThousandsAtRestCostNoGoroutine(t *testing.T) {
	h := sim.NewHost(sim.Options{})
	d := sim.New(h)
	defer d.Close()
	before := runtime.NumGoroutine()
	for range 5000 {
		must.NoError(t, d.Start(t.Context(), machine(), false))
	}
	must.Eq(t, 5000, h.Len())
	must.LessEq(t, before, runtime.NumGoroutine()) // those of earlier tests may end meanwhile
}
