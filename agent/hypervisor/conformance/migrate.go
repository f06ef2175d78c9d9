package conformance

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// Pair is two hosts between which guests move.
type Pair struct {
	From, To Host
	// Machine makes a machine of From whose disks both hosts see.
	Machine func(t *testing.T) *hypervisor.Machine
	// Local makes machines of From with a first disk that only From sees and that
	// is not empty, by what is particular about them.
	Local map[string]func(t *testing.T) *hypervisor.Machine
	// Twin makes of a machine of From the one that To shall have. Disks that are
	// not shared have other paths; there are empty ones of the same size there.
	Twin func(t *testing.T, m *hypervisor.Machine) *hypervisor.Machine
	// Content is what a guest would read from a disk, at From or at To.
	Content func(t *testing.T, to bool, disk hypervisor.MachineDisk) []byte
	// Link makes the way from From to To, or back.
	Link func(t *testing.T, back bool) *Link
}

// Link is a way from one host to another, for one move.
type Link struct {
	// Move has the paths of its sockets.
	hypervisor.Move
	// Hold lets no more of the memory through, until Release. Cut ends every
	// connection for good.
	Hold, Release, Cut func()
}

// duo is one test's view of a pair; the suite is the source's.
type duo struct {
	*suite
	p    Pair
	from hypervisor.Migrator
	to   *suite
	dst  hypervisor.Migrator
	left *atomic.Int32 // how often the driver has said that the guest of the last move has left
}

// RunMigrator runs the suite of drivers that move guests.
func RunMigrator(t *testing.T, p Pair) {
	for _, c := range []struct {
		name string
		run  func(*duo)
	}{
		{"says that it migrates", canMigrate},
		{"moves a running guest", moveRunning},
		{"moves a paused guest, which stays paused", movePaused},
		{"moves a guest there and back", moveBack},
		{"copies disks", moveCopy},
		{"shows a move that is under way", moveShown},
		{"aborts a move", moveAborted},
		{"aborts a move when the caller leaves", moveCanceled},
		{"goes on when the agent is gone", moveOrphaned},
		{"fails when the way breaks", moveCut},
		{"fails when there is no way", moveNoWay},
		{"fails when the destination's hypervisor restarts", moveDestinationDown},
		{"does not take silence for an outcome", moveSilence},
		{"keeps a complete guest across a restart of the hypervisor", moveCompleteKept},
		{"knows no move of what does not move", moveNone},
		{"refuses what is not the same guest", moveMismatch},
		{"refuses to leave a disk behind", moveLocal},
		{"measures the dirty rate", dirtyRate},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
			defer cancel()
			side := func(h Host) *suite {
				s := &suite{T: t, h: h, ctx: ctx, d: h.Connect(t)}
				var err error
				s.events, err = s.d.Events(ctx)
				must.NoError(t, err)
				return s
			}
			d := &duo{suite: side(p.From), to: side(p.To), p: p}
			defer func() {
				d.sweep()
				d.to.sweep()
				must.NoError(t, d.d.Close())
				must.NoError(t, d.to.d.Close())
			}()
			d.from, d.dst = d.migrator(d.d), d.migrator(d.to.d)
			c.run(d)
		})
	}
}

func (d *duo) migrator(drv hypervisor.Driver) hypervisor.Migrator {
	m, ok := drv.(hypervisor.Migrator)
	must.True(d, ok, must.Sprintf("%T does not migrate", drv))
	return m
}

// named gives a machine its identity.
func named(m *hypervisor.Machine) *hypervisor.Machine {
	m.ID = api.NewID()
	m.Namespace, m.Name = "default", "guest-"+m.ID.Short()
	m.Epoch, m.SpecVersion, m.Generation = 7, 3, 1
	return m
}

// boot starts a machine and waits until its guest has written to the console.
func (d *duo) boot(m *hypervisor.Machine) *hypervisor.Machine {
	d.Helper()
	named(m)
	must.NoError(d, d.from.Start(d.ctx, m, false))
	d.await(m.ID, hypervisor.EventStarted)
	c, err := d.from.Console(d.ctx, m.ID)
	must.NoError(d, err)
	d.expect(c, d.h.Banner)
	must.NoError(d, c.Close())
	return m
}

// talks checks that the guest answers, and has not booted again if fresh.
func (d *duo) talks(s *suite, id api.ID, word string, fresh bool) {
	d.Helper()
	c, err := s.d.Console(d.ctx, id)
	must.NoError(d, err)
	defer c.Close()
	_, err = c.Write([]byte(word))
	must.NoError(d, err)
	said := d.expect(c, word)
	if fresh {
		must.StrNotContains(d, said, s.h.Banner, must.Sprint("it has booted again"))
	}
}

// prepare makes a move of a machine over a new link.
func (d *duo) prepare(m *hypervisor.Machine) *Link {
	l := d.p.Link(d.T, false)
	twin := d.p.Twin(d.T, m)
	twin.Epoch = m.Epoch + 1
	left := new(atomic.Int32)
	l.Machine, l.Gone, d.left = twin, func() { left.Add(1) }, left
	return l
}

// start begins a move that stands still when the destination is incoming.
func (d *duo) start(m *hypervisor.Machine, l *Link) (context.CancelFunc, <-chan error) {
	d.Helper()
	l.Hold()
	ctx, cancel := context.WithCancel(d.ctx)
	done := make(chan error, 1)
	go func() { done <- d.from.Move(ctx, m.ID, &l.Move) }()
	d.until("incoming", func() error {
		select {
		case err := <-done:
			done <- err
			d.Fatalf("the move has ended: %v", err)
		default:
		}
		return d.is(d.dst, m.ID, api.StatePaused, hypervisor.ReasonIncoming)
	})
	return cancel, done
}

// is checks state and reason; an empty reason is any.
func (d *duo) is(drv hypervisor.Driver, id api.ID, state api.VMState, reason string) error {
	got, err := drv.Get(d.ctx, id)
	if err != nil {
		return err
	}
	if got.State != state || reason != "" && got.Reason != reason {
		return fmt.Errorf("it is %s (%s)", got.State, got.Reason)
	}
	return nil
}

// until looks again and again until f is content.
func (d *duo) until(what string, f func() error) {
	d.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-d.ctx.Done():
			d.Fatalf("not %s: %v", what, err)
		}
	}
}

// stayed checks that the guest goes on where it was, and nothing is left of it
// at the destination.
func (d *duo) stayed(m *hypervisor.Machine) {
	d.Helper()
	must.Zero(d, d.left.Load(), must.Sprint("it has not left"))
	d.until("running", func() error { return d.is(d.from, m.ID, api.StateRunning, "") })
	d.until("gone", func() error { return d.dst.Attest(d.ctx, m.ID) })
	d.talks(d.suite, m.ID, "stayed", false)
	_, err := d.from.MoveStats(d.ctx, m.ID)
	must.ErrorIs(d, err, hypervisor.ErrNotFound)
}

// complete checks that the guest is paused at the destination and nowhere else.
func (d *duo) complete(m *hypervisor.Machine) {
	d.Helper()
	d.gone(m.ID)
	must.NoError(d, d.is(d.dst, m.ID, api.StatePaused, hypervisor.ReasonComplete))
}

func canMigrate(d *duo) {
	for _, m := range []hypervisor.Migrator{d.from, d.dst} {
		info, err := m.Fingerprint(d.ctx)
		must.NoError(d, err)
		must.SliceContains(d, info.Can, "migrate")
		must.NotEq(d, "", m.ControlSocket())
	}
}

func moveRunning(d *duo) {
	m := d.boot(d.p.Machine(d.T))
	d.talks(d.suite, m.ID, "before", false)
	l := d.prepare(m)
	must.NoError(d, d.from.Move(d.ctx, m.ID, &l.Move))
	must.Eq(d, 1, d.left.Load(), must.Sprint("told once that it has left, before the call has come back"))

	must.Eq(d, "migrated", d.await(m.ID, hypervisor.EventStopped).Reason)
	reason, ok := d.from.LastExit(d.ctx, m.ID)
	must.True(d, ok)
	must.Eq(d, "migrated", reason)
	d.complete(m)
	got, err := d.dst.Get(d.ctx, m.ID)
	must.NoError(d, err)
	must.Eq(d, l.Machine.Epoch, got.Epoch)
	must.Eq(d, m.Name, got.Name)
	must.Eq(d, m.SpecVersion, got.SpecVersion)
	must.Positive(d, got.PID)
	list, err := d.dst.List(d.ctx)
	must.NoError(d, err)
	must.SliceContains(d, list, got)
	must.ErrorIs(d, d.dst.Attest(d.ctx, m.ID), hypervisor.ErrExists)
	st, err := d.dst.MoveStats(d.ctx, m.ID)
	must.NoError(d, err)
	must.Eq(d, 0, st.Remaining)
	must.Positive(d, st.Elapsed)
	must.LessEq(d, st.Elapsed, st.Downtime)

	again := d.migrator(d.p.To.Connect(d.T))
	defer again.Close()
	must.NoError(d, d.is(again, m.ID, api.StatePaused, hypervisor.ReasonComplete), must.Sprint("to another agent too"))
	must.NoError(d, d.dst.SetEpoch(d.ctx, m.ID, 9))
	must.NoError(d, d.is(d.dst, m.ID, api.StatePaused, hypervisor.ReasonComplete), must.Sprint("until it is resumed"))

	must.NoError(d, d.dst.Resume(d.ctx, m.ID))
	d.to.await(m.ID, hypervisor.EventResumed)
	must.NoError(d, d.is(d.dst, m.ID, api.StateRunning, ""))
	d.talks(d.to, m.ID, "after", true)
	must.NoError(d, d.dst.Pause(d.ctx, m.ID))
	must.NoError(d, d.is(d.dst, m.ID, api.StatePaused, "user"), must.Sprint("a pause like any other"))
	must.NoError(d, d.dst.Destroy(d.ctx, m.ID))
	d.to.gone(m.ID)
}

func movePaused(d *duo) {
	m := d.boot(d.p.Machine(d.T))
	must.NoError(d, d.from.Pause(d.ctx, m.ID))
	aborted := d.prepare(m)
	cancel, done := d.start(m, aborted)
	cancel()
	must.ErrorIs(d, <-done, hypervisor.ErrAborted)
	must.NoError(d, d.is(d.from, m.ID, api.StatePaused, "user"), must.Sprint("as it was"))
	d.until("gone", func() error { return d.dst.Attest(d.ctx, m.ID) })

	l := d.prepare(m)
	must.NoError(d, d.from.Move(d.ctx, m.ID, &l.Move))
	d.complete(m)
	must.NoError(d, d.dst.Pause(d.ctx, m.ID))
	must.NoError(d, d.is(d.dst, m.ID, api.StatePaused, "user"), must.Sprint("it was taken over"))
	back := d.p.Link(d.T, true)
	back.Machine = m
	must.Eq(d, api.CodeState, api.CodeOf(d.dst.Move(d.ctx, m.ID, &back.Move)), must.Sprint("it has not run there"))
	must.NoError(d, d.dst.Resume(d.ctx, m.ID))
	d.talks(d.to, m.ID, "awake", true)
	must.NoError(d, d.dst.Pause(d.ctx, m.ID))
	must.NoError(d, d.dst.Move(d.ctx, m.ID, &back.Move))
	must.NoError(d, d.is(d.from, m.ID, api.StatePaused, hypervisor.ReasonComplete))
}

func moveBack(d *duo) {
	m := d.boot(d.p.Machine(d.T))
	l := d.prepare(m)
	must.NoError(d, d.from.Move(d.ctx, m.ID, &l.Move))
	d.complete(m)
	must.NoError(d, d.dst.Resume(d.ctx, m.ID))
	back := d.p.Link(d.T, true)
	home := *m
	home.Epoch = m.Epoch + 2
	back.Machine = &home
	must.NoError(d, d.dst.Move(d.ctx, m.ID, &back.Move))
	d.to.gone(m.ID)
	must.NoError(d, d.is(d.from, m.ID, api.StatePaused, hypervisor.ReasonComplete))

	// It cannot be sent on before it has run here: QEMU may crash.
	again := d.prepare(&home)
	must.Eq(d, api.CodeState, api.CodeOf(d.from.Move(d.ctx, m.ID, &again.Move)))
	must.NoError(d, d.is(d.from, m.ID, api.StatePaused, hypervisor.ReasonComplete))
	must.NoError(d, d.from.Resume(d.ctx, m.ID))
	d.talks(d.suite, m.ID, "home", false) // the log of its first boot is still there
}

func moveCopy(d *duo) {
	for _, name := range slices.Sorted(maps.Keys(d.p.Local)) {
		m := d.boot(d.p.Local[name](d.T))
		want := d.p.Content(d.T, false, m.Disks[0])
		l := d.prepare(m)
		l.Copy = []string{m.Disks[0].Name}
		must.NoError(d, d.from.Move(d.ctx, m.ID, &l.Move), must.Sprint(name))
		d.complete(m)
		got := d.p.Content(d.T, true, l.Machine.Disks[0])
		must.Eq(d, len(want), len(got), must.Sprint(name))
		must.True(d, slices.Equal(want, got), must.Sprintf("%s: the content is another", name))
		must.NoError(d, d.dst.Resume(d.ctx, m.ID))
		d.talks(d.to, m.ID, "copied", true)
	}
}

func moveShown(d *duo) {
	m := d.boot(d.p.Machine(d.T))
	l := d.prepare(m)
	l.MaxDowntime = api.Duration(100 * time.Millisecond)
	cancel, done := d.start(m, l)
	defer cancel()
	must.NoError(d, d.is(d.from, m.ID, api.StateRunning, ""), must.Sprint("the guest runs meanwhile"))
	list, err := d.dst.List(d.ctx)
	must.NoError(d, err)
	must.Eq(d, 1, len(list))
	must.Eq(d, m.ID, list[0].ID)
	must.Eq(d, hypervisor.ReasonIncoming, list[0].Reason)
	must.Eq(d, l.Machine.Epoch, list[0].Epoch)
	must.ErrorIs(d, d.dst.Attest(d.ctx, m.ID), hypervisor.ErrExists)
	_, err = d.dst.MoveStats(d.ctx, m.ID)
	must.ErrorIs(d, err, hypervisor.ErrNotFound, must.Sprint("the source counts"))
	must.Eq(d, api.CodeMigrating, api.CodeOf(d.dst.Resume(d.ctx, m.ID)))
	must.Eq(d, api.CodeMigrating, api.CodeOf(d.dst.Pause(d.ctx, m.ID)))

	d.until("counted", func() error {
		st, err := d.from.MoveStats(d.ctx, m.ID)
		if err == nil && (st.Total <= 0 || st.Remaining <= 0 || st.Elapsed <= 0) {
			err = fmt.Errorf("%+v", st)
		}
		return err
	})
	other := d.migrator(d.p.From.Connect(d.T))
	defer other.Close()
	for _, drv := range []hypervisor.Migrator{d.from, other} {
		twice := d.prepare(m)
		must.Eq(d, api.CodeMigrating, api.CodeOf(drv.Move(d.ctx, m.ID, &twice.Move)))
		must.NoError(d, drv.SetMaxDowntime(d.ctx, m.ID, api.Duration(300*time.Millisecond)))
	}
	l.Release()
	must.NoError(d, <-done)
	d.complete(m)
}

func moveNone(d *duo) {
	m := d.machine()
	l := d.prepare(m)
	must.ErrorIs(d, d.from.Move(d.ctx, m.ID, &l.Move), hypervisor.ErrNotFound)
	none := func() {
		d.Helper()
		must.ErrorIs(d, d.from.AbortMove(d.ctx, m.ID), hypervisor.ErrNotFound)
		must.ErrorIs(d, d.from.SetMaxDowntime(d.ctx, m.ID, api.Duration(time.Second)), hypervisor.ErrNotFound)
		must.ErrorIs(d, second(d.from.MoveStats(d.ctx, m.ID)), hypervisor.ErrNotFound)
	}
	none()
	must.ErrorIs(d, second(d.from.DirtyRate(d.ctx, m.ID, api.Duration(time.Second))), hypervisor.ErrNotFound)
	must.NoError(d, d.from.Start(d.ctx, m, true))
	none()
}

func moveMismatch(d *duo) {
	m := d.boot(d.p.Machine(d.T))
	for name, change := range map[string]func(*hypervisor.Machine){
		"another VM":  func(o *hypervisor.Machine) { o.ID = api.NewID() },
		"not valid":   func(o *hypervisor.Machine) { o.Name = "a</name>" },
		"memory":      func(o *hypervisor.Machine) { o.Memory *= 2 },
		"CPUs":        func(o *hypervisor.Machine) { o.CPU.Cores++ },
		"no disk":     func(o *hypervisor.Machine) { o.Disks = nil },
		"no network":  func(o *hypervisor.Machine) { o.NICs = nil },
		"another MAC": func(o *hypervisor.Machine) { o.NICs[0].MAC = "52:54:00:00:00:99" },
	} {
		l := d.prepare(m)
		l.Machine.NICs = slices.Clone(l.Machine.NICs)
		change(l.Machine)
		err := d.from.Move(d.ctx, m.ID, &l.Move)
		must.Eq(d, api.CodeInvalid, api.CodeOf(err), must.Sprint(name, ": ", err))
	}
	l := d.prepare(m)
	l.Copy = []string{"none"}
	must.Eq(d, api.CodeInvalid, api.CodeOf(d.from.Move(d.ctx, m.ID, &l.Move)), must.Sprint("an unknown disk"))
	l = d.prepare(m)
	l.Machine = nil
	must.Eq(d, api.CodeInvalid, api.CodeOf(d.from.Move(d.ctx, m.ID, &l.Move)), must.Sprint("no machine"))
	d.stayed(m)
}

func moveLocal(d *duo) {
	for _, name := range slices.Sorted(maps.Keys(d.p.Local)) {
		m := d.boot(d.p.Local[name](d.T))
		l := d.prepare(m)
		must.Eq(d, api.CodeMigration, api.CodeOf(d.from.Move(d.ctx, m.ID, &l.Move)))
		d.stayed(m)
	}
}

func dirtyRate(d *duo) {
	m := d.boot(d.p.Machine(d.T))
	began := time.Now()
	rate, err := d.from.DirtyRate(d.ctx, m.ID, api.Duration(time.Second))
	must.NoError(d, err)
	must.NonNegative(d, rate) // samples may miss the little that changes
	must.LessEq(d, m.Memory*20, rate)
	must.GreaterEq(d, 900*time.Millisecond, time.Since(began))
}
