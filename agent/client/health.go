package client

import (
	"fmt"
	"sync"
	"time"

	"github.com/novacron/novacron/api"
)

// healthState is what the parts say of themselves.
type healthState struct {
	mu         sync.Mutex
	registered bool
	known      bool          // as far as this node was told, the servers know its session
	lastAck    time.Duration // boot time just before the last acknowledged beat was sent
	heartbeat  time.Duration
	journal    error
	driver     error
	stream     bool
	streamLost time.Time // when it ended
}

// streamGrace is how long a stream may be on its way to another server.
const streamGrace = 10 * time.Second

func (h *healthState) set(f func(h *healthState)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h)
}

func (c *Client) journalError(err error) {
	c.health.set(func(h *healthState) { h.journal = err })
}

// known reports whether the servers know this session.
func (c *Client) known() bool {
	c.health.mu.Lock()
	defer c.health.mu.Unlock()
	return c.health.known
}

// doubts reports whether the last beats were not acknowledged.
func (c *Client) doubts() bool {
	c.health.mu.Lock()
	defer c.health.mu.Unlock()
	h := &c.health
	return h.registered && c.cfg.Boottime()-h.lastAck > doubtBeats*h.heartbeat
}

// Health says whether the client does its work, and what keeps it from it.
func (c *Client) Health() api.HealthDetail {
	now := c.cfg.Boottime()
	left, ha := c.leaseLeft(), c.wantsGuard()
	c.guard.mu.Lock()
	guarded, armed, unguarded := c.guard.conn != nil, c.guard.armed, c.guard.err
	c.guard.mu.Unlock()
	h := &c.health
	h.mu.Lock()
	defer h.mu.Unlock()
	bad := func(format string, args ...any) api.HealthDetail {
		return api.HealthDetail{Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case h.journal != nil:
		return bad("the journal cannot be written: %v", h.journal)
	case !h.registered:
		return bad("not registered yet")
	case h.driver != nil:
		return bad("the hypervisor does not answer: %v", h.driver)
	case now-h.lastAck > doubtBeats*h.heartbeat:
		return bad("no server has acknowledged a beat for %s", (now - h.lastAck).Round(time.Second))
	case !h.stream && time.Since(h.streamLost) > streamGrace:
		return bad("no stream of orders")
	case unguarded != nil && ha:
		return bad("no guard answers, VMs with ha = restart do not run here: %v", unguarded)
	case c.recovery.Load():
		return api.HealthDetail{OK: true, Message: "the region is in recovery: nothing is started or stopped"}
	}
	switch {
	case unguarded != nil:
		return api.HealthDetail{OK: true, Message: fmt.Sprintf("registered, orders flow; no guard answers, so no VM with ha = restart can run here: %v", unguarded)}
	case guarded:
		return api.HealthDetail{OK: true, Message: fmt.Sprintf("registered, orders flow; %d VMs are armed at the guard, the lease lasts %s", armed, left.Round(time.Second))}
	}
	return api.HealthDetail{OK: true, Message: "registered, orders flow"}
}
