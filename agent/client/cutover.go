package client

import (
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// What a guest waits for at the cutover is noted as it comes about, and told with
// the next report. It is for people: nothing is decided by it, and an agent that is
// restarted has forgotten it.

// ordered notes when this node reads that it owns the VM; locked.
func (p *part) ordered(g *api.Migration) {
	if p.order == nil || p.order.Migration.ID != g.ID {
		p.cutover = api.MigrationCutover{}
	}
	if c := &p.cutover; g.Phase == api.MigrationCommitted && c.Complete != 0 && c.Told == 0 {
		c.Told = api.TimeOf(time.Now())
	}
}

// resuming notes when the hypervisor is told to let the guest go on.
func (p *part) resuming() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := &p.cutover; c.Told != 0 && c.Resuming == 0 {
		c.Resuming = api.TimeOf(time.Now())
	}
}

// reported notes when this end came to what it is about to report, and returns
// what was noted; locked.
func (p *part) reported(in bool, state api.EndState) *api.MigrationCutover {
	c := &p.cutover
	note := func(t *api.Time) {
		if *t == 0 {
			*t = api.TimeOf(time.Now())
		}
	}
	switch {
	case in && state == api.EndComplete:
		note(&c.Complete)
	case in && state == api.EndRunning && c.Told != 0:
		note(&c.Resumed)
	case !in && state == api.EndAbsent && c.Stopped != 0:
		note(&c.Gone)
	}
	return p.times()
}

// times is a copy of what was noted; nil: nothing was. Locked.
func (p *part) times() *api.MigrationCutover {
	if p.cutover == (api.MigrationCutover{}) {
		return nil
	}
	c := p.cutover
	return &c
}

// sending notes when a guest that is being sent stands still; that it goes on here
// after all makes that void.
func (p *part) sending(kind hypervisor.EventKind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case kind == hypervisor.EventPaused && p.cutover.Stopped == 0:
		p.cutover.Stopped = api.TimeOf(time.Now())
	case kind == hypervisor.EventResumed:
		p.cutover.Stopped = 0
	}
}
