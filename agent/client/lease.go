package client

import (
	"time"

	metrics "github.com/hashicorp/go-metrics/compat"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/mutant"
)

// hostLease is the lease of this host: until when it may run HA VMs. It is earned
// by beats, counted from just before each was sent, and never by anything else:
// an agent that was restarted has none before its first beat.
type hostLease struct {
	deadline time.Duration // boot time; 0: there never was one
	told     bool          // that it is over
	// known is the boot time until which the servers certainly count this host as
	// there, with a guard or without: what acknowledged beats have promised.
	known time.Duration
	// term rises when a lease has run out before the next one came, and with a
	// registration that is begun while nothing is promised. Orders count for HA VMs
	// only if they came in a stream that was opened after a registration which was
	// begun in the present term: by then the servers may have given the VMs to others.
	term uint64
	// fresh is the term in which the newest registration was begun, generation and
	// index are where it stands: a server that is behind that knows less.
	fresh      uint64
	generation uint64
	index      api.Index
	// disarm: the servers want nothing armed. quitting: the agent ends.
	disarm, quitting bool
}

// newHostLease is that of an agent that begins.
func newHostLease() hostLease { return hostLease{term: 1} }

// earn takes in that the lease lasts until a boot time. began: there was none just
// now. lapsed: because an earlier one had run out.
func (l *hostLease) earn(until, now time.Duration) (began, lapsed bool) {
	if until <= l.deadline {
		return false, false
	}
	if began = now >= l.deadline; began {
		if lapsed = l.deadline != 0; lapsed {
			l.term++
		}
	}
	l.deadline, l.told = until, false
	return began, lapsed
}

// promised takes in that the servers count this host as there until a boot time.
// began: they may not have just now. lapsed: though they had before.
func (l *hostLease) promised(until, now time.Duration) (began, lapsed bool) {
	if until <= l.known {
		return false, false
	}
	if began = now >= l.known; began {
		if lapsed = l.known != 0; lapsed {
			l.term++
		}
	}
	l.known = until
	return began, lapsed
}

// registers begins a registration and returns the term that it is begun in.
func (l *hostLease) registers(now time.Duration) uint64 {
	if now >= l.known {
		l.term++
	}
	return l.term
}

// due is what the guard is to be told after an acknowledged beat: the lease that
// it earned, counted from before it was sent, for no longer than the guard knows
// leases to last. False: it earned none.
func (l *hostLease) due(sent, now time.Duration, ack *api.NodeBeaten, life time.Duration) (from, until time.Duration, ok bool) {
	if ack.Lease <= 0 || ack.Register {
		return 0, 0, false
	}
	if mutant.On(mutant.LeaseFromReceipt) {
		sent = now
	}
	return sent, sent + min(ack.Lease.D(), life), true
}

// registered takes in a registration that was begun in a term. True: streams that
// were opened before it count no more.
func (l *hostLease) registered(term, generation uint64, index api.Index) bool {
	was := l.fresh
	l.fresh, l.generation, l.index = term, generation, index
	return was != 0 && was != term
}

// beaten takes in an acknowledged beat that was sent at a boot time. doubted: those
// before it were missed.
func (c *Client) beaten(sent time.Duration, ack *api.NodeBeaten, doubted bool) {
	now := c.cfg.Boottime()
	s := &c.guard
	s.mu.Lock()
	l := &s.lease
	wake := doubted || l.disarm != ack.Disarm
	l.disarm = ack.Disarm
	lapsed := false
	var err error
	if from, until, ok := l.due(sent, now, ack, s.life); ok {
		began, over := l.promised(until, now)
		wake, lapsed = wake || began, over
		if s.conn != nil {
			err = s.conn.Extend(from, until)
		}
		if s.conn != nil && err == nil {
			began, over := l.earn(until, now)
			wake, lapsed = wake || began, lapsed || over
		}
	}
	s.mu.Unlock()
	if err != nil {
		c.log.Error("the lease was not written", "error", err)
	}
	if lapsed {
		c.log.Warn("this node has a lease again: what was HA here is confirmed anew first")
		poke(c.reregister)
	}
	if wake {
		c.broadcast(event{kind: evTick})
	}
	c.leaseTick()
}

// leaseTick tells how long the lease lasts, and when it is over.
func (c *Client) leaseTick() {
	left := c.leaseLeft()
	metrics.SetGauge([]string{"client", "lease", "remaining"}, float32(left.Seconds()))
	s := &c.guard
	s.mu.Lock()
	over := left <= 0 && s.lease.deadline != 0 && !s.lease.told
	s.lease.told = s.lease.told || over
	s.mu.Unlock()
	if over {
		c.log.Error("the lease of this node is over: the guard kills its HA VMs")
		c.broadcast(event{kind: evTick})
	}
}

// leaseLeft is how long HA VMs may run here, if nothing else comes.
func (c *Client) leaseLeft() time.Duration {
	now := c.cfg.Boottime()
	c.guard.mu.Lock()
	defer c.guard.mu.Unlock()
	return max(0, c.guard.lease.deadline-now)
}

// leaseTerm returns the term of a registration that begins.
func (c *Client) leaseTerm() uint64 {
	now := c.cfg.Boottime()
	c.guard.mu.Lock()
	defer c.guard.mu.Unlock()
	return c.guard.lease.registers(now)
}

// registeredIn takes in a registration that was begun in a term.
func (c *Client) registeredIn(term uint64, r *api.NodeRegistered) {
	c.guard.mu.Lock()
	reopen := c.guard.lease.registered(term, r.Generation, r.Index)
	c.guard.mu.Unlock()
	if reopen {
		poke(c.reopen)
	}
}

// streamLease is what counts for a stream of orders that is opened now: the term,
// and where the newest registration stands.
func (c *Client) streamLease() hostLease {
	c.guard.mu.Lock()
	defer c.guard.mu.Unlock()
	return c.guard.lease
}
