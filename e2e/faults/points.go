package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/lab"
	"github.com/novacron/novacron/e2e/truth"
)

// reachLimit is how long a cut point may take to come.
const reachLimit = 60 * time.Second

// A point is a place in a migration at which something is broken.
type point struct {
	Number int
	Name   string
	// reach waits until the migration is there. It returns what lets the migration
	// go on, where it had to be held. An error makes the run void.
	reach func(ctx context.Context, m *move) (release func(), err error)
}

// points are the cut points of a migration, in order.
var points = []point{
	{1, "before prepared", held("receive", destination)},
	{2, "prepared, nothing sent", held("send", source)},
	{3, "sockets open", held("opened", source)},
	{4, "libvirt begins", held("control", source)},
	{5, "destination's QEMU is up", seen(destination, truth.Pause)},
	{6, "10% copied", copied(10)},
	{7, "90% copied", almost},
	{8, "source paused", seen(source, truth.Pause)},
	{9, "finish sent, no reply", finishSent},
	{10, "finished, not confirmed", finished},
	{11, "source attested, destination not", held("complete", destination)},
	{12, "destination attested, source not", held("gone", source)},
	{13, "committed, destination not told", held("committed", destination)},
	{14, "destination runs, not done", held("running", destination)},
}

func source(m *move) *lab.Host      { return m.from }
func destination(m *move) *lab.Host { return m.to }

func (b *Bed) pointsOf(h *lab.Host) string {
	return filepath.Join(h.Dir(), "var/lib/novacron/faultpoints")
}

// held is a point at which an agent holds itself; it was armed before the
// migration began.
func held(name string, at func(*move) *lab.Host) func(context.Context, *move) (func(), error) {
	return func(ctx context.Context, m *move) (func(), error) {
		armed := filepath.Join(m.b.pointsOf(at(m)), name)
		release := func() { os.Remove(armed) }
		err := until(ctx, reachLimit, func(context.Context) error {
			_, err := os.Lstat(armed + ".reached")
			return err
		})
		if err != nil {
			release()
		}
		return release, err
	}
}

// arms says which file arms a point.
var arms = map[int]struct {
	name string
	at   func(*move) *lab.Host
}{
	1: {"receive", destination}, 2: {"send", source}, 3: {"opened", source}, 4: {"control", source},
	11: {"complete", destination}, 12: {"gone", source}, 13: {"committed", destination}, 14: {"running", destination},
}

// arm lets the agent hold itself at the point when it comes there.
func (m *move) arm(p point) error {
	a, ok := arms[p.Number]
	if !ok {
		return nil
	}
	if !m.b.Points {
		return errors.New("the binary has no fault points")
	}
	path := filepath.Join(m.b.pointsOf(a.at(m)), a.name)
	os.Remove(path + ".reached") // of an agent that was killed there
	return os.WriteFile(path, nil, 0o600)
}

// disarm takes back what arm did.
func (m *move) disarm(p point) {
	if a, ok := arms[p.Number]; ok {
		path := filepath.Join(m.b.pointsOf(a.at(m)), a.name)
		os.Remove(path)
		os.Remove(path + ".reached")
	}
}

// seen waits for a state of the guest on one end.
func seen(at func(*move) *lab.Host, state truth.State) func(context.Context, *move) (func(), error) {
	return func(ctx context.Context, m *move) (func(), error) {
		ctx, cancel := context.WithTimeout(ctx, reachLimit)
		defer cancel()
		_, err := m.b.Truth.Await(ctx, m.began, func(r truth.Record) bool {
			return r.VM == m.g.id && r.Host == at(m).Name && r.State == state
		})
		return func() {}, err
	}
}

// copied waits until so much of all there is has been copied.
func copied(percent float64) func(context.Context, *move) (func(), error) {
	return func(ctx context.Context, m *move) (func(), error) {
		return func() {}, until(ctx, reachLimit, func(ctx context.Context) error {
			r, err := m.b.migration(ctx, m.g.name)
			switch {
			case err != nil:
				return err
			case r.Migration.Phase != api.MigrationCopying || r.Progress == nil:
				return fmt.Errorf("the migration is %s", r.Migration.Phase)
			case r.Progress.Percent < percent:
				return fmt.Errorf("%.0f%% are copied", r.Progress.Percent)
			}
			return nil
		})
	}
}

// almost waits for the last tenth, which is made to last until it is released: the
// progress is sampled once a second, and a cut takes its time.
func almost(ctx context.Context, m *move) (func(), error) {
	limit := func(ctx context.Context, rate string) error {
		_, err := m.b.CLI(ctx, "migration", "update", m.g.name, "-bandwidth", rate)
		return err
	}
	release := func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = limit(ctx, "0") // there may be no leader to hear it, or no move any more
	}
	for _, step := range []struct {
		percent float64
		rate    string
	}{{40, "1MiB"}, {80, "256KiB"}, {90, "64KiB"}} {
		_, err := copied(step.percent)(ctx, m)
		if err == nil {
			err = limit(ctx, step.rate)
		}
		if err != nil {
			release()
			return func() {}, err
		}
	}
	return release, nil
}

// finishSent stops the destination's libvirtd while the copy is under way: QEMU
// goes on to the switch-over, and libvirt's last word to the destination gets no
// answer.
func finishSent(ctx context.Context, m *move) (func(), error) {
	if _, err := copied(40)(ctx, m); err != nil {
		return func() {}, err
	}
	if err := m.to.Kill(ctx, "STOP", "libvirtd"); err != nil {
		return func() {}, err
	}
	release := func() { m.to.Kill(context.WithoutCancel(ctx), "CONT", "libvirtd") }
	if _, err := seen(source, truth.Pause)(ctx, m); err != nil {
		release()
		return func() {}, err
	}
	rest(ctx, 500*time.Millisecond)
	return release, nil
}

// finished goes on from there: the source's libvirtd is stopped before it hears
// that the destination has all.
func finished(ctx context.Context, m *move) (func(), error) {
	to, err := finishSent(ctx, m)
	if err != nil {
		return func() {}, err
	}
	if err := m.from.Kill(ctx, "STOP", "libvirtd"); err != nil {
		to()
		return func() {}, err
	}
	to()
	rest(ctx, time.Second)
	return func() { m.from.Kill(context.WithoutCancel(ctx), "CONT", "libvirtd") }, nil
}
