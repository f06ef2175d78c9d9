package sim_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/hypervisor/conformance"
	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/api"
)

// trip is a guest that runs on one of two nodes, and a way to the other.
type trip struct {
	*testing.T
	a, b *node
	m    *hypervisor.Machine
	l    *conformance.Link
}

// travel runs a test in a bubble.
func travel(t *testing.T, o sim.Options, f func(*trip)) {
	synctest.Test(t, func(t *testing.T) {
		tr := &trip{T: t, a: newNode(t, o), b: newNode(t, o), m: shared()}
		must.NoError(t, tr.a.d.Start(t.Context(), tr.m, false))
		tr.way()
		f(tr)
	})
}

func (t *trip) way() {
	t.l = newWay(t.T, t.a, t.b)
	twin := *t.m
	twin.Epoch++
	t.l.Machine = &twin
}

func (t *trip) move(ctx context.Context) <-chan error {
	done := make(chan error, 1)
	go func() { done <- t.a.d.Move(ctx, t.m.ID, &t.l.Move) }()
	synctest.Wait()
	return done
}

// at checks state and reason of the guest at a node; an empty state is absent.
func (t *trip) at(n *node, state api.VMState, reason string) {
	t.Helper()
	if state == "" {
		must.NoError(t, n.d.Attest(t.Context(), t.m.ID))
		return
	}
	got, err := n.d.Get(t.Context(), t.m.ID)
	must.NoError(t, err)
	must.Eq(t, state, got.State)
	must.Eq(t, reason, got.Reason)
}

func (t *trip) counter(n *node) time.Duration {
	t.Helper()
	c, ok := n.Counter(t.m.ID)
	must.True(t, ok)
	return c
}

func TestMoveTakesItsTimeAndKeepsCount(t *testing.T) {
	travel(t, sim.Options{Resident: 8 * api.MiB, Rate: api.MiB}, func(t *trip) {
		must.True(t, t.a.SetDirtyRate(t.m.ID, 512*api.KiB))
		time.Sleep(time.Minute)
		began := time.Now()
		done := t.move(t.Context())
		time.Sleep(2 * time.Second)
		st, err := t.a.d.MoveStats(t.Context(), t.m.ID)
		must.NoError(t, err)
		must.Eq(t, 8*api.MiB, st.Total)
		must.Eq(t, 512*api.KiB, st.DirtyRate)
		must.Between(t, api.MiB, st.Done, 3*api.MiB)
		must.NoError(t, <-done)
		// 8 s, then half as much each time, until the rest takes 0.3 s at most.
		took := time.Since(began)
		must.Between(t, 15*time.Second, took, 17*time.Second)
		st, err = t.b.d.MoveStats(t.Context(), t.m.ID)
		must.NoError(t, err)
		must.Between(t, 100*time.Millisecond, time.Duration(st.Downtime), 300*time.Millisecond)
		must.Eq(t, took, time.Duration(st.Elapsed))
		must.Eq(t, time.Minute+took-time.Duration(st.Downtime), t.counter(t.b))

		time.Sleep(time.Hour) // it stands still
		must.NoError(t, t.b.d.Resume(t.Context(), t.m.ID))
		time.Sleep(time.Second)
		must.Eq(t, time.Minute+took-time.Duration(st.Downtime)+time.Second, t.counter(t.b))
		rate, err := t.b.d.DirtyRate(t.Context(), t.m.ID, api.Duration(time.Second))
		must.NoError(t, err)
		must.Eq(t, 512*api.KiB, rate)
	})
}

func TestMoveOfABusyGuest(t *testing.T) {
	busy := sim.Options{Resident: 256 * api.KiB, Rate: 64 * api.KiB, DirtyRate: 256 * api.KiB}
	travel(t, busy, func(t *trip) {
		ctx, cancel := context.WithCancel(t.Context())
		done := t.move(ctx)
		time.Sleep(10 * time.Minute)
		st, err := t.a.d.MoveStats(t.Context(), t.m.ID)
		must.NoError(t, err)
		must.Greater(t, 100, st.Passes, must.Sprint("it does not end by itself"))
		must.Eq(t, 0, st.Throttle)
		cancel()
		must.ErrorIs(t, <-done, hypervisor.ErrAborted)
		synctest.Wait()
		t.at(t.a, api.StateRunning, "booted")
		t.at(t.b, "", "")

		t.way() // more downtime lets it end
		done = t.move(t.Context())
		time.Sleep(10 * time.Minute)
		must.NoError(t, t.a.d.SetMaxDowntime(t.Context(), t.m.ID, api.Duration(5*time.Second)))
		must.NoError(t, <-done)
		t.at(t.b, api.StatePaused, hypervisor.ReasonComplete)
	})
	travel(t, busy, func(t *trip) {
		t.l.AutoConverge = true
		must.NoError(t, <-t.move(t.Context()))
		st, err := t.b.d.MoveStats(t.Context(), t.m.ID)
		must.NoError(t, err)
		must.Between(t, 20, st.Throttle, 99)
	})
}

func TestMoveCutPoints(t *testing.T) {
	boom := errors.New("boom")
	point := func(name string, f sim.Fault, check func(*trip, error)) {
		t.Run(name, func(t *testing.T) {
			travel(t, sim.Options{}, func(t *trip) {
				f.Times = 1
				t.a.Inject(f)
				err := <-t.move(t.Context())
				synctest.Wait()
				check(t, err)
			})
		})
	}
	stays := func(t *trip, err error) {
		must.Eq(t, api.CodeMigration, api.CodeOf(err))
		t.at(t.b, "", "")
		got, err := t.a.d.Get(t.Context(), t.m.ID)
		must.NoError(t, err)
		must.Eq(t, api.StateRunning, got.State)
		t.way()
		must.NoError(t, <-t.move(t.Context()), must.Sprint("the next one goes through"))
	}
	point("before prepare", sim.Fault{Verb: "move-prepare", Err: boom}, stays)
	point("mid-copy", sim.Fault{Verb: "move-copy", Err: boom}, stays)
	point("no effect at all", sim.Fault{Verb: "move", Err: boom}, func(t *trip, err error) {
		must.ErrorIs(t, err, boom)
		t.at(t.a, api.StateRunning, "booted")
	})
	point("the answer of all of it is lost", sim.Fault{Verb: "move", Lost: true}, func(t *trip, err error) {
		must.ErrorIs(t, err, hypervisor.ErrUnknown)
		t.at(t.a, "", "")
		t.at(t.b, api.StatePaused, hypervisor.ReasonComplete)
	})
	point("the source does not know", sim.Fault{Verb: "move-finish", Lost: true}, func(t *trip, err error) {
		must.ErrorIs(t, err, hypervisor.ErrUnknown)
		t.at(t.a, api.StatePaused, hypervisor.ReasonMigrating)
		t.at(t.b, api.StatePaused, hypervisor.ReasonComplete)
		must.NoError(t, t.b.d.Destroy(t.Context(), t.m.ID)) // somebody decided
		must.NoError(t, t.a.d.Resume(t.Context(), t.m.ID))
		t.at(t.a, api.StateRunning, "unpaused")
	})
	point("the link dies with the last answer", sim.Fault{Verb: "move-finish", Err: boom}, func(t *trip, err error) {
		must.Eq(t, api.CodeMigration, api.CodeOf(err))
		t.at(t.a, api.StateRunning, "migration-canceled")
		t.at(t.b, api.StatePaused, hypervisor.ReasonComplete)
	})
}

func TestMoveAtTheLastMoment(t *testing.T) {
	// hold runs a move that stands still when the destination is complete.
	hold := func(name string, f func(*trip, <-chan error)) {
		t.Run(name, func(t *testing.T) {
			travel(t, sim.Options{}, func(t *trip) {
				t.a.Inject(sim.Fault{Verb: "move-finish", Times: 1, Delay: time.Minute})
				done := t.move(t.Context())
				t.at(t.a, api.StatePaused, hypervisor.ReasonMigrating)
				t.at(t.b, api.StatePaused, hypervisor.ReasonComplete)
				f(t, done)
			})
		})
	}
	hold("it is too late to abort", func(t *trip, done <-chan error) {
		must.ErrorIs(t, t.a.d.AbortMove(t.Context(), t.m.ID), hypervisor.ErrNotFound)
		must.Eq(t, api.CodeMigrating, api.CodeOf(t.a.d.Resume(t.Context(), t.m.ID)))
		must.NoError(t, <-done)
		t.at(t.a, "", "")
	})
	hold("the source's hypervisor restarts", func(t *trip, done <-chan error) {
		t.a.SetDown(true)
		must.ErrorIs(t, <-done, hypervisor.ErrUnknown)
		t.a.SetDown(false)
		t.at(t.a, api.StatePaused, hypervisor.ReasonMigrating)
		t.at(t.b, api.StatePaused, hypervisor.ReasonComplete)
		must.NoError(t, t.a.d.Resume(t.Context(), t.m.ID))
	})
	hold("the source loses its power", func(t *trip, done <-chan error) {
		t.a.Reboot()
		must.ErrorIs(t, <-done, hypervisor.ErrUnknown)
		t.at(t.a, "", "")
		t.at(t.b, api.StatePaused, hypervisor.ReasonComplete)
	})
}

func TestMoveWhenTheDestinationsGuestEnds(t *testing.T) {
	for name, end := range map[string]func(*trip){
		"crash":   func(t *trip) { must.True(t, t.b.Crash(t.m.ID)) },
		"destroy": func(t *trip) { must.NoError(t, t.b.d.Destroy(t.Context(), t.m.ID)) },
		"power":   func(t *trip) { t.b.Reboot() },
	} {
		t.Run(name, func(t *testing.T) {
			travel(t, sim.Options{}, func(t *trip) {
				t.l.Hold()
				done := t.move(t.Context())
				t.at(t.b, api.StatePaused, hypervisor.ReasonIncoming)
				end(t)
				must.Eq(t, api.CodeMigration, api.CodeOf(<-done))
				t.at(t.a, api.StateRunning, "booted")
				t.at(t.b, "", "")
			})
		})
	}
	travel(t, sim.Options{}, func(t *trip) {
		t.l.Hold()
		done := t.move(t.Context())
		must.True(t, t.a.Crash(t.m.ID))
		must.ErrorIs(t, <-done, hypervisor.ErrUnknown)
		synctest.Wait()
		t.at(t.b, "", "")
	})
}

func TestMoveRefusedByTheDestination(t *testing.T) {
	travel(t, sim.Options{}, func(t *trip) {
		remove := t.b.Inject(sim.Fault{Verb: "incoming", Err: errors.New("no room")})
		err := <-t.move(t.Context())
		must.Eq(t, api.CodeMigration, api.CodeOf(err))
		must.StrContains(t, err.Error(), "no room")
		remove()
		must.NoError(t, t.b.d.Start(t.Context(), t.m, true))
		must.Eq(t, api.CodeMigration, api.CodeOf(<-t.move(t.Context())), must.Sprint("it is there already"))
		t.at(t.b, api.StatePaused, "starting-up")
		t.at(t.a, api.StateRunning, "booted")
	})
}

// Without a dialer of the test's own the sockets are real.
func TestMoveOverUNIXSockets(t *testing.T) {
	dir := t.TempDir()
	a, b := sim.NewHost(sim.Options{Control: filepath.Join(dir, "a")}), sim.NewHost(sim.Options{Control: filepath.Join(dir, "b")})
	t.Cleanup(a.Close)
	t.Cleanup(b.Close)
	must.NoError(t, b.Serve())
	must.Error(t, b.Serve(), must.Sprint("it listens already"))
	from, to := sim.New(a), sim.New(b)
	m := shared()
	must.NoError(t, from.Start(t.Context(), m, false))
	mv := hypervisor.Move{Control: to.ControlSocket(), Memory: filepath.Join(dir, "mem"), Machine: m}
	must.NoError(t, from.Move(t.Context(), m.ID, &mv))
	must.NoError(t, from.Attest(t.Context(), m.ID))
	must.NoError(t, to.Resume(t.Context(), m.ID))
}
