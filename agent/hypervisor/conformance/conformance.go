// Package conformance is the one suite that every hypervisor driver passes, so
// that the simulated one is kept honest by the real one.
//
// Promises: it waits for events and for console output, never for time to pass;
// everything that it starts it ends.
//
// What does not belong: what only one driver can do.
package conformance

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// limit is how long anything may take before the suite gives up.
const limit = 3 * time.Minute

// Host is a machine with a hypervisor, as the suite needs it.
type Host struct {
	// Connect makes a driver; the suite closes it.
	Connect func(t *testing.T) hypervisor.Driver
	// Machine makes a machine with a serial console that boots, shows Banner, and
	// echoes what is typed. Its ID and names are set by the suite.
	Machine func(t *testing.T) *hypervisor.Machine
	Banner  string
	// Obeys: guests shut down when asked by ACPI.
	Obeys bool
	// Kill ends a guest as a crash of its process does.
	Kill func(t *testing.T, d hypervisor.Domain)
	// Down makes the hypervisor unreachable while guests run on; Up brings it back.
	Down, Up func(t *testing.T)
}

// suite is one test's view.
type suite struct {
	*testing.T
	h      Host
	d      hypervisor.Driver
	ctx    context.Context
	events <-chan hypervisor.Event
}

// Run runs the suite.
func Run(t *testing.T, h Host) {
	for _, c := range []struct {
		name string
		run  func(*suite)
	}{
		{"says what it can do", fingerprint},
		{"knows that nothing is there", absent},
		{"starts a machine and describes it", start},
		{"starts a machine paused, resumes and pauses it", paused},
		{"keeps the epoch across a restart of the agent", epoch},
		{"connects viewers to the console", console},
		{"opens a console again that was just left", consoleAgain},
		{"refuses a console that the machine does not have", noConsole},
		{"resets a guest", reset},
		{"asks a guest to shut down", shutdown},
		{"destroys a guest and remembers it", destroy},
		{"tells of a crash", crash},
		{"samples figures", stats},
		{"starts several at once", several},
		{"refuses a machine that is not valid", invalid},
		{"gives no answer when the caller has left", canceled},
		{"does not take silence for absence", silence},
		{"leaves guests alone when it is closed", closing},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			s := &suite{T: t, h: h, ctx: ctx, d: h.Connect(t)}
			defer func() { must.NoError(t, s.d.Close()) }()
			var err error
			s.events, err = s.d.Events(ctx)
			must.NoError(t, err)
			defer s.sweep()
			c.run(s)
		})
	}
}

// sweep ends what a failed test has left.
func (s *suite) sweep() {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	d := s.h.Connect(s.T)
	defer d.Close()
	list, err := d.List(ctx)
	must.NoError(s, err)
	for _, dom := range list {
		if err := d.Destroy(ctx, dom.ID); !errors.Is(err, hypervisor.ErrNotFound) {
			must.NoError(s, err)
		}
	}
}

func (s *suite) machine() *hypervisor.Machine {
	m := s.h.Machine(s.T)
	m.ID = api.NewID()
	m.Namespace, m.Name = "default", "guest-"+m.ID.Short()
	m.Epoch, m.SpecVersion, m.Generation = 7, 3, 1
	return m
}

// run starts a machine and waits for its event.
func (s *suite) run() *hypervisor.Machine {
	s.Helper()
	m := s.machine()
	must.NoError(s, s.d.Start(s.ctx, m, false))
	s.await(m.ID, hypervisor.EventStarted)
	return m
}

// await waits for an event of a domain.
func (s *suite) await(id api.ID, kind hypervisor.EventKind) hypervisor.Event {
	s.Helper()
	for {
		select {
		case e, ok := <-s.events:
			must.True(s, ok, must.Sprint("events ended"))
			if e.ID == id && e.Kind == kind {
				return e
			}
		case <-s.ctx.Done():
			s.Fatalf("no event %q", kind)
		}
	}
}

// gone checks that a domain is absent in every way.
func (s *suite) gone(id api.ID) {
	s.Helper()
	_, err := s.d.Get(s.ctx, id)
	must.ErrorIs(s, err, hypervisor.ErrNotFound)
	must.NoError(s, s.d.Attest(s.ctx, id))
	if l, ok := s.d.(hypervisor.Locator); ok {
		_, err := l.Locate(s.ctx, id)
		must.ErrorIs(s, err, hypervisor.ErrNotFound)
	}
	list, err := s.d.List(s.ctx)
	must.NoError(s, err)
	for _, d := range list {
		must.NotEq(s, id, d.ID)
	}
}

func fingerprint(s *suite) {
	info, err := s.d.Fingerprint(s.ctx)
	must.NoError(s, err)
	must.True(s, info.Healthy)
	must.Eq(s, s.d.Name(), info.Name)
	must.NotEq(s, "", info.Version)
	must.SliceContains(s, []string{"kvm", "tcg"}, info.Acceleration)
	must.SliceNotEmpty(s, info.Machines)
	must.SliceContains(s, info.Firmware, "bios")
	for _, can := range []string{"console", "pause", "start-paused"} {
		must.SliceContains(s, info.Can, can)
	}
}

func absent(s *suite) {
	id := api.NewID()
	s.gone(id)
	for name, verb := range map[string]func() error{
		"shutdown": func() error { return s.d.Shutdown(s.ctx, id) },
		"destroy":  func() error { return s.d.Destroy(s.ctx, id) },
		"pause":    func() error { return s.d.Pause(s.ctx, id) },
		"resume":   func() error { return s.d.Resume(s.ctx, id) },
		"reboot":   func() error { return s.d.Reboot(s.ctx, id) },
		"reset":    func() error { return s.d.Reset(s.ctx, id) },
		"setepoch": func() error { return s.d.SetEpoch(s.ctx, id, 1) },
		"console":  func() error { _, err := s.d.Console(s.ctx, id); return err },
		"stats":    func() error { _, err := s.d.Stats(s.ctx, id); return err },
	} {
		must.ErrorIs(s, verb(), hypervisor.ErrNotFound, must.Sprint(name))
	}
	_, ok := s.d.LastExit(s.ctx, id)
	must.False(s, ok)
}

func start(s *suite) {
	before := time.Now()
	m := s.run()
	d, err := s.d.Get(s.ctx, m.ID)
	must.NoError(s, err)
	must.Eq(s, api.StateRunning, d.State)
	must.Eq(s, "booted", d.Reason)
	must.Eq(s, m.ID, d.ID)
	must.Eq(s, m.Namespace, d.Namespace)
	must.Eq(s, m.Name, d.Name)
	must.Eq(s, m.Epoch, d.Epoch)
	must.Eq(s, m.SpecVersion, d.SpecVersion)
	must.Positive(s, d.PID)
	must.Between(s, api.TimeOf(before.Add(-2*time.Second)), d.StartTime, api.TimeOf(time.Now().Add(2*time.Second)))
	list, err := s.d.List(s.ctx)
	must.NoError(s, err)
	must.SliceContains(s, list, d)
	if l, ok := s.d.(hypervisor.Locator); ok {
		p, err := l.Locate(s.ctx, m.ID)
		must.NoError(s, err)
		must.Eq(s, d.PID, p.PID)
		must.Positive(s, p.Start)
	}
	must.ErrorIs(s, s.d.Attest(s.ctx, m.ID), hypervisor.ErrExists)
	must.ErrorIs(s, s.d.Start(s.ctx, m, false), hypervisor.ErrExists)
	_, ok := s.d.LastExit(s.ctx, m.ID)
	must.False(s, ok, must.Sprint("it has not ended"))
}

func paused(s *suite) {
	m := s.machine()
	must.NoError(s, s.d.Start(s.ctx, m, true))
	s.await(m.ID, hypervisor.EventStarted)
	state := func(want api.VMState) hypervisor.Domain {
		s.Helper()
		d, err := s.d.Get(s.ctx, m.ID)
		must.NoError(s, err)
		must.Eq(s, want, d.State)
		return d
	}
	state(api.StatePaused)
	must.NoError(s, s.d.Resume(s.ctx, m.ID))
	s.await(m.ID, hypervisor.EventResumed)
	state(api.StateRunning)
	must.NoError(s, s.d.Resume(s.ctx, m.ID), must.Sprint("twice is no error"))
	must.NoError(s, s.d.Pause(s.ctx, m.ID))
	must.Eq(s, "user", s.await(m.ID, hypervisor.EventPaused).Reason)
	must.Eq(s, "user", state(api.StatePaused).Reason)
	must.NoError(s, s.d.Pause(s.ctx, m.ID), must.Sprint("twice is no error"))
	must.NoError(s, s.d.Destroy(s.ctx, m.ID))
	s.await(m.ID, hypervisor.EventStopped)
	s.gone(m.ID)
}

func epoch(s *suite) {
	m := s.run()
	must.NoError(s, s.d.SetEpoch(s.ctx, m.ID, 42))
	must.NoError(s, s.d.Close())
	s.d = s.h.Connect(s.T)
	d, err := s.d.Get(s.ctx, m.ID)
	must.NoError(s, err)
	must.Eq(s, 42, d.Epoch)
	must.Eq(s, m.SpecVersion, d.SpecVersion)
	must.Eq(s, m.Name, d.Name)
	must.Eq(s, api.StateRunning, d.State)
}

func reset(s *suite) {
	m := s.run()
	c, err := s.d.Console(s.ctx, m.ID)
	must.NoError(s, err)
	defer c.Close()
	s.expect(c, s.h.Banner)
	before, err := s.d.Get(s.ctx, m.ID)
	must.NoError(s, err)
	must.NoError(s, s.d.Reset(s.ctx, m.ID))
	s.expect(c, s.h.Banner)
	s.await(m.ID, hypervisor.EventRebooted)
	after, err := s.d.Get(s.ctx, m.ID)
	must.NoError(s, err)
	must.Eq(s, before.PID, after.PID)
	must.Eq(s, before.StartTime, after.StartTime)
	must.NoError(s, s.d.Reboot(s.ctx, m.ID)) // whether the guest listens is its affair
}

func shutdown(s *suite) {
	m := s.run()
	must.NoError(s, s.d.Shutdown(s.ctx, m.ID))
	if !s.h.Obeys {
		d, err := s.d.Get(s.ctx, m.ID)
		must.NoError(s, err)
		must.Eq(s, api.StateRunning, d.State)
		return
	}
	must.Eq(s, "shutdown", s.await(m.ID, hypervisor.EventStopped).Reason)
	s.gone(m.ID)
	reason, ok := s.d.LastExit(s.ctx, m.ID)
	must.True(s, ok)
	must.Eq(s, "shutdown", reason)
}

func destroy(s *suite) {
	m := s.run()
	must.NoError(s, s.d.Destroy(s.ctx, m.ID))
	must.Eq(s, "destroyed", s.await(m.ID, hypervisor.EventStopped).Reason)
	s.gone(m.ID)
	reason, ok := s.d.LastExit(s.ctx, m.ID)
	must.True(s, ok)
	must.Eq(s, "destroyed", reason)
	must.ErrorIs(s, s.d.Destroy(s.ctx, m.ID), hypervisor.ErrNotFound)
	if f, ok := s.d.(hypervisor.Forgetter); ok {
		must.NoError(s, f.Forget(s.ctx, m.ID))
		must.NoError(s, f.Forget(s.ctx, m.ID), must.Sprint("twice is no error"))
		_, ok := s.d.LastExit(s.ctx, m.ID)
		must.False(s, ok)
	}

	must.NoError(s, s.d.Start(s.ctx, m, false)) // and it can be started again
	s.await(m.ID, hypervisor.EventStarted)
	_, ok = s.d.LastExit(s.ctx, m.ID)
	must.False(s, ok, must.Sprint("it runs again"))
}

func crash(s *suite) {
	m := s.run()
	d, err := s.d.Get(s.ctx, m.ID)
	must.NoError(s, err)
	s.h.Kill(s.T, d)
	reason := s.await(m.ID, hypervisor.EventStopped).Reason
	must.SliceContains(s, []string{"crashed", "failed"}, reason)
	s.gone(m.ID)
	reason, ok := s.d.LastExit(s.ctx, m.ID)
	must.True(s, ok)
	must.SliceContains(s, []string{"crashed", "failed"}, reason)
}

func stats(s *suite) {
	m := s.run()
	st, err := s.d.Stats(s.ctx, m.ID)
	must.NoError(s, err)
	must.Eq(s, m.ID, st.VMID)
	must.Eq(s, m.CPU.Cores, st.VCPUs)
	must.Eq(s, m.Memory, st.Memory)
	must.Eq(s, len(m.Disks), len(st.Disks))
	for i, d := range m.Disks {
		must.Eq(s, d.Name, st.Disks[i].Name)
	}
	must.Eq(s, len(m.NICs), len(st.NICs))
	must.NonNegative(s, st.CPUTime)
	must.NonNegative(s, st.GuestUptime)
}

func several(s *suite) {
	const n = 4
	ms := make([]*hypervisor.Machine, n)
	errs := make(chan error, n)
	for i := range ms {
		ms[i] = s.machine()
		go func() { errs <- s.d.Start(s.ctx, ms[i], true) }()
	}
	for range ms {
		must.NoError(s, <-errs)
	}
	list, err := s.d.List(s.ctx)
	must.NoError(s, err)
	must.Eq(s, n, len(list))
	for i := range ms {
		go func() { errs <- s.d.Destroy(s.ctx, ms[i].ID) }()
	}
	for range ms {
		must.NoError(s, <-errs)
	}
	list, err = s.d.List(s.ctx)
	must.NoError(s, err)
	must.SliceEmpty(s, list)
}

func invalid(s *suite) {
	m := s.machine()
	m.Name = "a</name><devices>"
	err := s.d.Start(s.ctx, m, false)
	must.Eq(s, api.CodeInvalid, api.CodeOf(err))
	s.gone(m.ID)
}

func canceled(s *suite) {
	m := s.run()
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err := s.d.List(ctx)
	must.ErrorIs(s, err, hypervisor.ErrUnknown)
	must.ErrorIs(s, s.d.Destroy(ctx, m.ID), hypervisor.ErrUnknown)
	must.ErrorIs(s, s.d.Attest(ctx, m.ID), hypervisor.ErrUnknown)
	_, err = s.d.Get(s.ctx, m.ID)
	must.NoError(s, err, must.Sprint("the driver works on"))
}

func silence(s *suite) {
	m := s.run()
	never := api.NewID()
	s.h.Down(s.T)
	for name, err := range map[string]error{
		"list":    second(s.d.List(s.ctx)),
		"get":     second(s.d.Get(s.ctx, m.ID)),
		"attest":  s.d.Attest(s.ctx, m.ID),
		"never":   s.d.Attest(s.ctx, never),
		"destroy": s.d.Destroy(s.ctx, m.ID),
	} {
		must.ErrorIs(s, err, hypervisor.ErrUnknown, must.Sprint(name))
	}
	s.h.Up(s.T)
	s.await(api.ID{}, hypervisor.EventReconnect)
	d, err := s.d.Get(s.ctx, m.ID)
	must.NoError(s, err)
	must.Eq(s, api.StateRunning, d.State, must.Sprint("the guest ran on"))
	must.Eq(s, m.Epoch, d.Epoch)
	must.NoError(s, s.d.Destroy(s.ctx, m.ID))
	s.await(m.ID, hypervisor.EventStopped) // events flow again
	must.NoError(s, s.d.Attest(s.ctx, never))
}

func second[T any](_ T, err error) error { return err }

func closing(s *suite) {
	m := s.run()
	must.NoError(s, s.d.Close())
	must.NoError(s, s.d.Close(), must.Sprint("twice is no error"))
	must.ErrorIs(s, s.d.Attest(s.ctx, m.ID), hypervisor.ErrUnknown)
	_, err := s.d.Console(s.ctx, m.ID)
	must.ErrorIs(s, err, hypervisor.ErrUnknown)
	for range s.events { // ends
	}
	_, err = s.d.Events(s.ctx)
	must.ErrorIs(s, err, hypervisor.ErrUnknown)
	s.d = s.h.Connect(s.T)
	d, err := s.d.Get(s.ctx, m.ID)
	must.NoError(s, err)
	must.Eq(s, api.StateRunning, d.State)
	must.Eq(s, fmt.Sprint(m.ID), fmt.Sprint(d.ID))
}
