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

// Health says whether the client does its work, and what keeps it from it.
func (c *Client) Health() api.HealthDetail {
	now := c.cfg.Boottime()
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
	case c.recovery.Load():
		return api.HealthDetail{OK: true, Message: "the region is in recovery: nothing is started or stopped"}
	}
	return api.HealthDetail{OK: true, Message: "registered, orders flow"}
}
