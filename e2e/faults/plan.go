package faults

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/lab"
)

// Plan is what to run.
type Plan struct {
	Seed uint64
	Runs int
	// Cells of the migration's cut points to choose from; empty: all of them.
	Cells []Cell
	// Pool of scenarios; empty: by the seed. A cell has its own.
	Pool string
	// Others are scenarios by name, which take turns with the cells.
	Others []string
	// Only the others.
	Only bool
	// Each is called with each result.
	Each func(*Report)
}

// Run runs the plan; it ends early when the context does. Two migrations under
// which nothing is broken come first, so that images are where they will be.
func (b *Bed) Run(ctx context.Context, p Plan) (*Report, error) {
	report := &Report{Seed: p.Seed}
	for _, h := range b.Clients {
		if err := b.warm(ctx, h); err != nil {
			return report, err
		}
	}
	cells := p.Cells
	if len(cells) == 0 {
		cells = AllCells()
	}
	order := rand.New(rand.NewPCG(p.Seed, 0))
	order.Shuffle(len(cells), func(i, j int) { cells[i], cells[j] = cells[j], cells[i] })
	for n := range p.Runs {
		if ctx.Err() != nil {
			break
		}
		r := &Result{N: n + 1, Seed: p.Seed + uint64(n)<<32}
		random := rand.New(rand.NewPCG(r.Seed, 1))
		if every := len(p.Others); every > 0 && (p.Only || n%5 == 4) {
			turn := n
			if !p.Only {
				turn = n / 5
			}
			name := p.Others[turn%every]
			r.Scenario = name
			b.logf("%d: %s", r.N, name)
			scenarios[name](b, ctx, b.fill(Cell{Pool: p.Pool}, random), random, r)
		} else {
			c := b.fill(cells[n%len(cells)], random)
			r.Scenario = "migration"
			b.logf("%d: migration, cut point %d, %s, pool %s, from %s", r.N, c.Point, c.Party, c.Pool, c.From)
			b.migrate(ctx, c, random, r)
		}
		b.logf("%d: %s %s %s%v", r.N, r.verdict(), r.Outcome, r.Void, r.Violations)
		report.add(r)
		if p.Each != nil {
			p.Each(report)
		}
	}
	return report, nil
}

// warm runs a guest on a host once.
func (b *Bed) warm(ctx context.Context, h *lab.Host) error {
	for _, pool := range []string{local, shared} {
		g, err := b.start(ctx, h, pool, api.HAKeep)
		if err != nil {
			return fmt.Errorf("on %s, pool %s: %w", h.Name, pool, err)
		}
		if _, err := g.end(ctx); err != nil {
			return err
		}
	}
	return nil
}

// fill chooses what a cell leaves open.
func (b *Bed) fill(c Cell, random *rand.Rand) Cell {
	pool, from := []string{local, shared}[random.IntN(2)], b.Clients[random.IntN(len(b.Clients))].Name
	if c.Pool == "" {
		c.Pool = pool
	}
	if c.From == "" {
		c.From = from
	}
	if c.Mode == "" {
		c.Mode = api.MigrateLive
	}
	return c
}
