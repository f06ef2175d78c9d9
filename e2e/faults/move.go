package faults

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/detector"
	"github.com/novacron/novacron/e2e/lab"
	"github.com/novacron/novacron/e2e/truth"
)

// settleLimit is how long after the healing a guest may take to run where the
// servers say, with no migration under way.
const settleLimit = 150 * time.Second

// leastWrites is the traffic without which a run proves nothing: how often the
// guest has to have written before its host is lost, and at the end.
const leastWrites = 20

// move is one run: a guest is migrated, and something is broken meanwhile.
type move struct {
	b        *Bed
	g        *guest
	from, to *lab.Host
	began    int64     // before the migration was asked for
	off      *lab.Host // lost its power
	r        *Result
}

func (m *move) note(format string, args ...any) {
	m.r.Notes = append(m.r.Notes, fmt.Sprintf(format, args...))
}

func (m *move) violate(invariant, format string, args ...any) {
	m.r.Violations = append(m.r.Violations, truth.Violation{Invariant: invariant, Text: fmt.Sprintf(format, args...)})
}

// Cell is one combination of a cut point and what is broken there.
type Cell struct {
	Point int
	Party string
	Pool  string
	Mode  api.MigrationMode
	From  string // name of the client that the guest is on at first
	HA    string // policy; empty: keep
}

// AllCells are the cut points times the parties, without those processes that are
// not there at the point.
func AllCells() (out []Cell) {
	for _, p := range points {
		for _, q := range parties {
			if q.at.has(p.Number) {
				out = append(out, Cell{Point: p.Number, Party: q.Name})
			}
		}
	}
	return out
}

// migrate runs one cell.
func (b *Bed) migrate(ctx context.Context, c Cell, random *rand.Rand, r *Result) {
	p := points[c.Point-1]
	var q party
	for _, q = range parties {
		if q.Name == c.Party {
			break
		}
	}
	b.run(ctx, c, r, func(ctx context.Context, m *move) error {
		m.r.Party, m.r.Point, m.r.PointName = q.Name, p.Number, p.Name
		if err := m.arm(p); err != nil {
			return err
		}
		defer m.disarm(p)
		if err := m.begin(ctx, c.Mode); err != nil {
			return err
		}
		release, err := m.reach(ctx, p)
		if err != nil {
			return fmt.Errorf("the point was not reached: %w", err)
		}
		heal, err := q.hit(ctx, m)
		m.r.Hit = truth.Now()
		if err != nil {
			release()
			if heal != nil {
				err = errors.Join(err, heal(ctx))
			}
			return err
		}
		if err := m.stillThere(p); err != nil {
			m.r.Void = err.Error()
		}
		m.r.MayRestart = q.kills.has(p.Number)
		rest(ctx, time.Duration(300+random.IntN(700))*time.Millisecond)
		release()
		rest(ctx, time.Duration(1000+random.IntN(9000))*time.Millisecond)
		return heal(ctx)
	})
}

// reach waits for the point, and for no longer than the migration goes on.
func (m *move) reach(ctx context.Context, p point) (func(), error) {
	wait, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for ; wait.Err() == nil; rest(wait, time.Second) {
			if r, err := m.b.migration(wait, m.g.name); err == nil && !r.Migration.Phase.Active() {
				cancel(fmt.Errorf("the migration is %s: %s", r.Migration.Phase, r.Migration.Message))
			}
		}
	}()
	release, err := p.reach(wait, m)
	if why := context.Cause(wait); err != nil && why != nil && ctx.Err() == nil {
		err = why
	}
	cancel(nil)
	<-watched
	return release, err
}

// stillThere finds out whether what was broken was broken at the point, and not
// after it. Only a point at which nothing was held can be missed.
func (m *move) stillThere(p point) error {
	if p.Number < 5 || p.Number > 8 {
		return nil
	}
	for _, r := range m.g.records() {
		if r.Host == m.to.Name && r.State == truth.Run && r.Time < m.r.Hit && r.Time > m.began {
			return errors.New("it came too late: the guest ran on the destination already")
		}
		late := r.State == truth.Stop || p.Number < 8 && r.State == truth.Pause
		if r.Host == m.from.Name && r.Time > m.began && r.Time < m.r.Hit-int64(100*time.Millisecond) && late {
			return errors.New("it came too late: the source had handed over already")
		}
	}
	return nil
}

// begin asks for the migration. It is slow enough to be cut in the middle.
func (m *move) begin(ctx context.Context, mode api.MigrationMode) error {
	if mode == "" {
		mode = api.MigrateLive
	}
	m.began = truth.Now()
	_, err := m.b.CLI(ctx, "vm", "migrate", "-detach", "-mode", string(mode), "-to", m.to.Name, "-bandwidth", "4MiB", "-compress", "none", m.g.name)
	return err
}

// run is the frame of every run with a migration: census, guest, what is done to
// it, settling, checks, census.
func (b *Bed) run(ctx context.Context, c Cell, r *Result, act func(ctx context.Context, m *move) error) {
	began := time.Now()
	defer func() { r.Duration = time.Since(began).Round(time.Millisecond).Seconds() }()
	m := &move{b: b, from: b.Host(c.From), r: r}
	m.to = b.other(m.from)
	r.Pool, r.From = c.Pool, c.From
	before, err := b.take(ctx)
	if err != nil {
		r.Void = fmt.Sprintf("census: %v", err)
		return
	}
	m.g, err = b.start(ctx, m.from, c.Pool, cmp.Or(c.HA, api.HAKeep))
	if err != nil {
		r.Void = fmt.Sprintf("the guest did not start: %v", err)
		if m.g != nil {
			_ = m.g.remove(ctx)
		}
		return
	}
	was, _, _ := m.g.shown(m.from)
	bites := map[*lab.Host]int{}
	for _, h := range b.Clients {
		bites[h] = h.Bites()
	}
	if err := act(ctx, m); err != nil {
		r.Void = err.Error()
	}
	if r.Reset > 0 {
		bites[m.from]++
	}
	if r.Reset > 0 || r.Scenario == "host-power-loss" {
		m.off = m.from
	}
	m.unbitten(ctx, bites)
	m.settle(ctx, was)
	if len(r.Violations) > 0 {
		if err := m.g.keep(r.N); err != nil {
			m.note("QEMU's logs are not kept: %v", err)
		}
	}
	m.end(ctx)
	if err := b.whole(ctx); err != nil {
		m.violate("L1", "the cluster is not whole again: %v", err)
	}
	diff, kept, err := b.compare(ctx, before)
	if err != nil {
		m.violate("M4", "census: %v", err)
	}
	for _, d := range diff {
		if m.off != nil && outlives(d, m.off.Name) {
			kept = append(kept, strings.TrimPrefix(d, "+ "))
			continue
		}
		m.violate("M4", "%s", d)
	}
	if len(diff) > 0 {
		for _, h := range b.Clients {
			if err := b.profile(ctx, h, r.N); err != nil {
				m.note("the goroutines of %s are not known: %v", h.Name, err)
			}
		}
	}
	r.Expected = kept
}

// settle waits for the end of the migration, and checks who runs.
func (m *move) settle(ctx context.Context, was detector.State) {
	on, g, err := m.g.settled(ctx, settleLimit)
	if g != nil {
		m.r.Outcome = string(g.Phase)
		if g.Message != "" {
			m.note("%s", g.Message)
		}
	}
	if err != nil {
		m.violate("M1", "%v", err)
		return
	}
	m.r.RunsOn = on.Name
	now, err := m.g.counted(ctx, on, 30*time.Second, leastWrites)
	switch {
	case err != nil:
		m.violate("M5", "%v", err)
	case now.Nonce != was.Nonce && !m.r.MayRestart:
		m.violate("M5", "the guest was started anew: it was %s and is %s", was, now)
	case now.Nonce == was.Nonce && now.Counter <= was.Counter:
		m.violate("M5", "the guest's counter fell: it was %s and is %s", was, now)
	}
	m.r.Restarted = now.Nonce != was.Nonce
	if g != nil {
		want := m.from
		if g.Phase == api.MigrationDone {
			want = m.to
		}
		if on != want && !m.r.MayRestart {
			m.violate("M2", "the migration is %s and the guest runs on %s", g.Phase, on.Name)
		}
		m.check(g)
	} else {
		m.check(&api.Migration{})
	}
}

// check asks the truth.
func (m *move) check(g *api.Migration) {
	runs := truth.Intervals(m.g.records())
	m.r.Violations = append(m.r.Violations, truth.Overlaps(runs)...)
	epochs, unknown := truth.Epochs(runs)
	m.r.Violations = append(m.r.Violations, epochs...)
	if unknown > 0 {
		m.note("%d epochs were not seen", unknown)
	}
	over := truth.Handovers(runs)
	bad, least, any := truth.Margins(over, time.Duration(m.r.Least*float64(time.Second)))
	m.r.Violations = append(m.r.Violations, bad...)
	if any {
		m.r.Margin = least.Seconds()
	}
	for _, h := range over {
		m.r.Downtime = max(m.r.Downtime, h.Downtime.Seconds())
	}
	if m.r.Least > 0 {
		return // the VM changes hosts without a migration
	}
	var commits []truth.Commit
	if g.CommitTime != 0 {
		commits = append(commits, truth.Commit{VM: m.g.id, To: g.ToNode, Time: truth.At(g.CommitTime.Time())})
	}
	m.r.Violations = append(m.r.Violations, truth.Committed(over, commits)...)
}

// end stops the guest, asks its disk, and deletes it.
func (m *move) end(ctx context.Context) {
	v, err := m.g.end(ctx)
	if err != nil {
		m.violate("L1", "%v", err)
		if err := m.g.remove(ctx); err != nil {
			m.violate("L1", "%v", err)
		}
		return
	}
	m.r.Disk = v.String()
	if v.Double {
		m.violate("S1", "the guest's disk tells of two: it was at %s and saw %s", v.Own, v.Seen)
	}
	if v.Counter < leastWrites {
		m.r.Void = fmt.Sprintf("the guest wrote %d times, and %d are the least", v.Counter, leastWrites)
	}
}
