package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/novacron/novacron/e2e/truth"
)

// scenarios are the runs that are not a cell of cut points and parties.
var scenarios = map[string]func(b *Bed, ctx context.Context, c Cell, random *rand.Rand, r *Result){
	"none":            undisturbed,
	"host-partition":  hostPartition,
	"host-power-loss": hostPowerLoss,
	"host-freeze":     hostFreeze,
	"link-cut":        linkCut,
	"cancel":          cancelUnderLoad,
	"agent-loop":      agentLoop,
	"libvirtd-kill":   libvirtdKill,
}

// undisturbed is a migration under which nothing is broken: it has to be done.
func undisturbed(b *Bed, ctx context.Context, c Cell, _ *rand.Rand, r *Result) {
	b.run(ctx, c, r, func(ctx context.Context, m *move) error { return m.begin(ctx, c.Mode) })
	if r.Void == "" && r.Outcome != "done" {
		r.Violations = append(r.Violations, truth.Violation{Invariant: "M1", Text: "nothing was broken, and the migration is " + r.Outcome})
	}
}

// linkCut cuts the link between the two ends in the middle of the copy.
func linkCut(b *Bed, ctx context.Context, c Cell, random *rand.Rand, r *Result) {
	b.run(ctx, c, r, func(ctx context.Context, m *move) error {
		if err := m.begin(ctx, c.Mode); err != nil {
			return err
		}
		if _, err := copied(20+50*random.Float64())(ctx, m); err != nil {
			return err
		}
		heal, err := cut(ctx, m.from, m.to)
		if err != nil {
			return err
		}
		m.r.Hit = truth.Now()
		rest(ctx, 10*time.Second)
		return heal(ctx)
	})
}

// cancelUnderLoad cancels the migration of a guest that writes; it goes on where
// it was.
func cancelUnderLoad(b *Bed, ctx context.Context, c Cell, random *rand.Rand, r *Result) {
	b.run(ctx, c, r, func(ctx context.Context, m *move) error {
		if err := m.begin(ctx, c.Mode); err != nil {
			return err
		}
		if _, err := copied(10+60*random.Float64())(ctx, m); err != nil {
			return err
		}
		m.r.Hit = truth.Now()
		_, err := m.b.CLI(ctx, "migration", "cancel", m.g.name)
		return err
	})
}

// agentLoop kills both agents again and again while the guest runs; nothing
// happens to it.
func agentLoop(b *Bed, ctx context.Context, c Cell, _ *rand.Rand, r *Result) {
	b.run(ctx, c, r, func(ctx context.Context, m *move) error {
		before := m.g.processes()
		m.r.Hit = truth.Now()
		for range 8 {
			for _, h := range b.Clients {
				if err := h.KillAgent(ctx); err != nil {
					return err
				}
				if err := h.StartAgent(); err != nil {
					return err
				}
			}
			rest(ctx, 2*time.Second)
		}
		m.untouched(before)
		return nil
	})
}

// libvirtdKill kills libvirtd under a running guest.
func libvirtdKill(b *Bed, ctx context.Context, c Cell, _ *rand.Rand, r *Result) {
	b.run(ctx, c, r, func(ctx context.Context, m *move) error {
		before := m.g.processes()
		m.r.Hit = truth.Now()
		for range 3 {
			if err := m.from.Kill(ctx, "KILL", "libvirtd"); err != nil {
				return err
			}
			rest(ctx, 2*time.Second)
			if err := m.from.RestartLibvirt(ctx); err != nil {
				return err
			}
		}
		m.untouched(before)
		return nil
	})
}

// untouched is L3 for the time since the run's hit.
func (m *move) untouched(before []truth.Process) {
	m.r.Violations = append(m.r.Violations, truth.Untouched(m.g.records(), []string{m.g.id}, m.r.Hit, truth.Now())...)
	if now := m.g.processes(); fmt.Sprint(now) != fmt.Sprint(before) {
		m.violate("L3", "the processes were %v and are %v", before, now)
	}
}
