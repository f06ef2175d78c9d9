package client

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// listSpacing is the least time between two lists.
const listSpacing = 250 * time.Millisecond

// watch keeps what is known of the domains in step with the hypervisor: it
// follows its events, lists it from time to time, and for as long as it does
// not answer holds every VM unknown. listed is closed after the first try.
func (c *Client) watch(listed chan struct{}) {
	var events <-chan hypervisor.Event
	var delay time.Duration // while it does not answer
	var last time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	soon := func() {
		if delay == 0 {
			timer.Reset(time.Until(last.Add(listSpacing)))
		}
	}
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.lists:
			soon()
			continue
		case e, ok := <-events:
			switch {
			case !ok:
				events = nil
				soon()
			case e.Kind == hypervisor.EventReconnect:
				delay = 0
				soon()
			default:
				c.hypervisorEvent(e)
			}
			continue
		case <-timer.C:
		}
		last = time.Now()
		if events == nil { // subscribe first: what changes after the list is an event
			if ch, err := c.cfg.Driver.Events(c.ctx); err == nil {
				events = ch
			}
		}
		if c.list() && events != nil {
			delay = 0
			timer.Reset(c.cfg.ListInterval)
		} else {
			delay = min(max(2*delay, 500*time.Millisecond), 15*time.Second)
			timer.Reset(jitter(delay))
		}
		if listed != nil {
			close(listed)
			listed = nil
		}
	}
}

// jitter spreads a delay by a tenth either way.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*0.2*float64(d))
}

// list compares the hypervisor's list with what is known, VM by VM.
func (c *Client) list() bool {
	vms := c.all()
	seqs := make(map[*vm]uint64, len(vms))
	for _, v := range vms {
		v.mu.Lock()
		seqs[v] = v.seq
		v.mu.Unlock()
	}
	var domains []hypervisor.Domain
	err := c.op(func(ctx context.Context) (err error) {
		domains, err = c.cfg.Driver.List(ctx)
		return err
	})
	if c.ctx.Err() != nil {
		return false
	}
	turned := false
	c.health.set(func(h *healthState) {
		turned = (h.driver == nil) != (err == nil)
		h.driver = err
	})
	if turned { // the servers place by it: they are not left to the next look at the machine
		poke(c.refresh)
	}
	if err != nil {
		c.log.Warn("the hypervisor does not answer", "error", err)
		for _, v := range vms {
			v.post(event{kind: evSeen, seq: seqs[v], dom: dom{kind: domUnknown}})
		}
		return false
	}
	found := make(map[api.ID]hypervisor.Domain, len(domains))
	for _, d := range domains {
		found[d.ID] = d
	}
	for _, v := range vms {
		d, ok := found[v.id]
		v.mu.Lock()
		alive, known := v.m.Alive, v.m.dom.kind
		v.mu.Unlock()
		switch {
		case ok && domOf(d).kind == known && alive: // as expected
		case ok:
			v.post(event{kind: evSeen, seq: seqs[v], dom: domOf(d)})
		case alive: // ask why it ended
			v.post(event{kind: evLook})
		case known != domAbsent:
			v.post(event{kind: evSeen, seq: seqs[v], dom: dom{kind: domAbsent}})
		}
	}
	c.findOrphans(domains)
	return true
}

// findOrphans keeps account of domains that carry our metadata and that neither
// the journal nor an order knows. They are reported and left alone.
func (c *Client) findOrphans(domains []hypervisor.Domain) {
	c.mu.Lock()
	orphans := map[api.ID]hypervisor.Domain{}
	var fresh []hypervisor.Domain
	for _, d := range domains {
		if c.vms[d.ID] != nil {
			continue
		}
		orphans[d.ID] = d
		if old, ok := c.orphans[d.ID]; !ok || old.State != d.State {
			fresh = append(fresh, d)
		}
	}
	c.orphans = orphans
	c.mu.Unlock()
	for _, d := range fresh {
		c.log.Warn("a domain that nobody knows runs here: left alone", "vm", d.ID, "name", d.Name, "epoch", d.Epoch, "state", d.State)
		c.reports.vm(orphanReport(d))
	}
}

func orphanReport(d hypervisor.Domain) api.VMReport {
	return api.VMReport{
		VMID: d.ID, Epoch: d.Epoch, State: d.State, Reason: d.Reason, Version: d.SpecVersion, StartTime: d.StartTime, Orphan: true,
		Message: "a domain named " + d.Name + " that no order and no journal knows",
	}
}

// hypervisorEvent makes the VM look, unless the event only says what is known.
func (c *Client) hypervisorEvent(e hypervisor.Event) {
	v := c.find(e.ID)
	if v == nil {
		if e.Kind == hypervisor.EventStarted {
			c.relist()
		}
		return
	}
	v.mu.Lock()
	kind, busy, arriving := v.m.dom.kind, v.m.busy, v.m.arriving()
	v.mu.Unlock()
	if busy == opMoveOut {
		v.part.sending(e.Kind)
	}
	ev := event{kind: evLook}
	if arriving {
		v.post(ev) // every event may say that it is complete
		return
	}
	switch e.Kind {
	case hypervisor.EventRebooted:
		return // a guest's reboot is its own affair
	case hypervisor.EventStarted, hypervisor.EventResumed:
		if kind == domRunning || busy == opStart || busy == opResume {
			return
		}
	case hypervisor.EventPaused:
		if kind == domPaused || busy == opStart || busy == opPause {
			return
		}
	case hypervisor.EventStopped:
		if kind == domAbsent || busy == opDestroy {
			return
		}
		ev.hint = e.Reason
	}
	v.post(ev)
}
