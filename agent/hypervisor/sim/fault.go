package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// Fault makes calls go wrong. Several may be injected; the first that matches
// a call is used.
type Fault struct {
	// Verb is the method in lower case ("start", "setepoch"), "" for all.
	Verb string
	// ID limits the fault to one VM; zero: all.
	ID api.ID
	// Times is how many calls it hits; 0: until it is taken off.
	Times int
	// Delay comes before everything else; the call's context cuts it short.
	Delay time.Duration
	// Err is returned without any effect.
	Err error
	// Lost: the call takes effect, but the answer never comes.
	Lost bool
	// Hang: no effect, and no answer until the context ends.
	Hang bool
	// Before and After are called around the effect: crash points of the agent.
	Before, After func()
}

// Inject adds a fault and returns how to take it off.
func (h *Host) Inject(f Fault) (remove func()) {
	p := &f
	if p.Times == 0 {
		p.Times = -1
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = append(h.faults, p)
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		p.Times = 0
	}
}

// match finds the fault for a call and counts it.
func (h *Host) match(verb string, id api.ID) (f Fault, down bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	live := h.faults[:0]
	hit := false
	for _, p := range h.faults {
		if !hit && p.Times != 0 && (p.Verb == "" || p.Verb == verb) && (p.ID.IsZero() || p.ID == id) {
			f, hit = *p, true
			if p.Times > 0 {
				p.Times--
			}
		}
		if p.Times != 0 {
			live = append(live, p)
		}
	}
	clear(h.faults[len(live):])
	h.faults = live
	return f, h.down
}

// call runs one verb with whatever is injected around it.
func (d *Driver) call(ctx context.Context, verb string, id api.ID, effect func() error) error {
	if err := d.alive(ctx); err != nil {
		return err
	}
	f, down := d.host.match(verb, id)
	if down {
		return fmt.Errorf("%w: the hypervisor does not answer", hypervisor.ErrUnknown)
	}
	if f.Delay > 0 {
		t := time.NewTimer(f.Delay)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("%w: %w", hypervisor.ErrUnknown, ctx.Err())
		}
	}
	if f.Hang {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", hypervisor.ErrUnknown, ctx.Err())
		case <-d.ctx.Done():
			return errClosed
		}
	}
	if f.Before != nil {
		f.Before()
	}
	if f.Err != nil {
		return f.Err
	}
	if err := d.alive(ctx); err != nil {
		return err
	}
	err := effect()
	if f.After != nil {
		f.After()
	}
	if f.Lost {
		return fmt.Errorf("%w: the answer was lost", hypervisor.ErrUnknown)
	}
	return err
}
