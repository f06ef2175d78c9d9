package client

import (
	"context"
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// progressEvery is how often a move that goes out is sampled.
const progressEvery = time.Second

// watcher looks after a copy that goes out: it samples it, climbs the ladder, and
// follows what the servers allow.
type watcher struct {
	v      *vm
	d      hypervisor.Migrator
	g      *api.Migration // as it was when the copy began
	tunnel Tunnel
	limits <-chan struct{} // poked when the servers may have set other limits
	cancel func()          // ends the copy
	gaveUp chan<- error    // takes one

	ladder *ladder
	// allowed is the downtime that the servers have set last; due is what is still
	// to be told to the hypervisor, 0: nothing.
	allowed, due api.Duration
}

// run watches until the context ends.
func (w *watcher) run(ctx context.Context) {
	w.ladder = newLadder(w.g.Options)
	w.allowed = w.g.Options.MaxDowntime
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		w.follow(ctx)
		select {
		case <-ctx.Done():
			return
		case <-w.limits:
			continue
		case <-tick.C:
		}
		if !w.sample(ctx) {
			return
		}
	}
}

// follow tells the hypervisor what the servers allow by now. What it does not
// take, for the copy may not have begun there, is told again at the next tick. The
// bandwidth is the tunnel's matter.
func (w *watcher) follow(ctx context.Context) {
	if o := w.v.part.get(); o != nil && o.Migration.ID == w.g.ID && o.Migration.Options.MaxDowntime != w.allowed {
		w.allowed = o.Migration.Options.MaxDowntime
		w.due = w.ladder.allow(o.Migration.Options)
	}
	if w.due == 0 {
		return
	}
	if err := w.d.SetMaxDowntime(ctx, w.v.id, w.due); err != nil {
		w.v.c.log.Debug("the downtime of a move is not set yet", "vm", w.v.id, "error", err)
		return
	}
	w.v.c.log.Info("a move has another downtime", "vm", w.v.id, "downtime", w.due)
	w.due = 0
}

// sample takes one sample and climbs the ladder; false: the move is given up.
func (w *watcher) sample(ctx context.Context) bool {
	v := w.v
	s, err := w.d.MoveStats(ctx, v.id)
	if err != nil {
		return true // not begun yet, or no answer: the next tick
	}
	v.part.note(w.g.ID, s, w.tunnel.Sent(), w.ladder.rung)
	if w.g.Mode == api.MigrateWarm {
		return true
	}
	c := w.ladder.step(s)
	switch {
	case c.downtime > 0:
		v.c.log.Info("a move does not converge: the guest may stand still for longer", "vm", v.id, "downtime", c.downtime)
		err = w.d.SetMaxDowntime(ctx, v.id, c.downtime)
	case c.pause:
		v.c.log.Info("a move does not converge: the guest is paused for it", "vm", v.id)
		err = w.d.Pause(ctx, v.id)
	case c.giveUp:
		w.gaveUp <- failedMove("the guest writes memory faster (%s/s) than it can be sent (%s/s)", s.DirtyRate, s.Rate).
			WithHint("allow a longer downtime, auto-converge, or move it warm")
		w.cancel()
		return false
	}
	if err != nil {
		v.c.log.Warn("the ladder of a move", "vm", v.id, "error", err)
	}
	return true
}

// note keeps the newest sample.
func (p *part) note(id api.ID, s hypervisor.MoveStats, wire api.Bytes, rung string) {
	g := &api.MigrationProgress{
		ID: id, Time: api.TimeOf(time.Now()), Total: s.Total, Done: s.Done, Remaining: s.Remaining, Rate: s.Rate, DirtyRate: s.DirtyRate,
		Downtime: s.Downtime, Throttle: s.Throttle, Passes: s.Passes, Elapsed: s.Elapsed, Wire: wire, Rung: rung,
	}
	if all := s.Done + s.Remaining; all > 0 {
		g.Percent = 100 * float64(s.Done) / float64(all)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.progress = g
}
