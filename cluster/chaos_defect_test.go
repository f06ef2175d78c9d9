package cluster

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

// defect is something wrong with the product or its disk, put in to see that a
// checker finds it.
type defect struct {
	onDisk   func(*host)
	onConfig func(*Config)
}

func (d defect) disk(h *host) {
	if d.onDisk != nil {
		d.onDisk(h)
	}
}

func (d defect) config(c *Config) {
	if d.onConfig != nil {
		d.onConfig(c)
	}
}

// credulous is a server that thinks it leads for a while after it was replaced,
// and answers consistent reads without asking the others.
type credulous struct {
	rpc.Router
	mu  sync.Mutex
	led time.Time
}

func (r *credulous) IsLeader() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Router.IsLeader() {
		r.led = time.Now()
		return true
	}
	return !r.led.IsZero() && time.Since(r.led) < 5*time.Second
}

func (r *credulous) ReadIndex(context.Context) error { return nil }

// usurper is a server that answers whatever the leader is asked for.
type usurper struct{ rpc.Router }

func (usurper) IsLeader() bool { return true }

// deafGossip starts the fourth server where the others' gossip never arrives.
var deafGossip = fault{"deaf-gossip", func(c *chaos, rng *rand.Rand) bool {
	h := c.hosts[chaosServers]
	if !h.isSpare() {
		return false
	}
	for _, w := range c.ways(h, true, true) {
		c.block(w[0], w[1], wayGossip)
	}
	h.on()
	return true
}}

// TestChaosFindsDefects: what the checkers are for, they find. A run may miss a
// defect; several in a row do not.
func TestChaosFindsDefects(t *testing.T) {
	of := func(names ...string) (out []fault) {
		for _, f := range append(slices.Clone(chaosFaults), memberFaults...) {
			for _, n := range names {
				if f.name == n {
					out = append(out, f)
				}
			}
		}
		return out
	}
	for _, c := range []struct {
		name  string
		find  string // what the checkers must say
		kinds []fault
		defect
	}{
		{"a replaced leader answers consistent reads", "S3 ", of("leader-partition", "leader-pause"), defect{onConfig: func(c *Config) {
			c.router = func(r rpc.Router) rpc.Router { return &credulous{Router: r} }
		}}},
		{"a disk says done before it is", "S2 ", of("power-loss"), defect{onDisk: func(h *host) { h.disk.lies = true }}},
		{"an unknown outcome is called a success", "S2 ", of("leader-partition", "leader-mute"), defect{onConfig: func(c *Config) {
			honest := c.outcome
			c.outcome = func(f raft.ApplyFuture) (any, error) {
				v, err := honest(f)
				if errors.Is(err, raft.ErrLeadershipLost) {
					return &fsm.Result{Index: f.Index(), Value: &api.Namespace{}}, nil
				}
				return v, err
			}
		}}},
		{"the vote is written in two steps", "F19 ", of("torn-vote"), defect{onDisk: func(h *host) { h.disk.raw = true }}},
		{"a bit turns over in one server's memory", "F1 ", of("follower-kill"), defect{onDisk: func(h *host) {
			h.disk.flip = func() bool { return h.name == "s2" && !h.leads() && rand.N(200) == 0 }
		}}},
		{"a server answers in the leader's place", "S4 ", of("port-cut", "bridge"), defect{onConfig: func(c *Config) {
			c.router = func(r rpc.Router) rpc.Router { return usurper{r} }
		}}},
		{"a vote is forgotten", "S6 ", of("power-loss"), defect{onDisk: func(h *host) { h.disk.lost = true }}},
		{"nobody can vote any more", "L1 no leader", of("leader-kill"), defect{onDisk: func(h *host) {
			h.disk.full = func() bool { return time.Since(h.c.start) > 10*time.Second }
		}}},
		{"no server starts twice", "does not start", of("follower-kill"), defect{onConfig: func(c *Config) {
			if c.Clock() > 5*time.Second {
				c.Multiplier = -1
			}
		}}},
		{"a server's gossip is never heard", "does not vote", []fault{deafGossip}, defect{}},
		{"an error says nothing", "that nobody expects", of("leader-partition", "leader-mute"), defect{onConfig: func(c *Config) {
			honest := c.outcome
			c.outcome = func(f raft.ApplyFuture) (any, error) {
				v, err := honest(f)
				if err != nil {
					return nil, nil
				}
				return v, nil
			}
		}}},
		{"a vote that was not written is no reason to end", "F14 ", of("vote-error"), defect{onConfig: func(c *Config) { c.Halt = func(error) {} }}},
		{"the watchdog does nothing", "F13 ", of("disk-stall"), defect{onConfig: func(c *Config) { c.Halt = func(error) {} }}},
		{"a failed write is no reason to end", "F14 ", of("disk-error"), defect{onConfig: func(c *Config) { c.Halt = func(error) {} }}},
	} {
		found := ""
		runs := 0
		for ; found == "" && runs < 16; runs++ {
			r := runChaos(t, chaosPlan{seed: rand.Uint64(), kinds: c.kinds, last: 40 * time.Second, defect: c.defect, find: c.find, spares: 1})
			for _, w := range r.wrong {
				if found == "" && strings.Contains(w, c.find) {
					found = w
				}
			}
		}
		if found == "" {
			t.Errorf("%s: not found in %d runs", c.name, runs)
			continue
		}
		t.Logf("%s: found in run %d: %s", c.name, runs, found)
	}
}

// leads reports whether the host's Raft leads.
func (h *host) leads() bool {
	s := h.server()
	return s == nil || s.raft.State() == raft.Leader
}

// longest returns the longest synced log of the servers.
func longest(hosts []*host) []*raft.Log {
	var best []*raft.Log
	for _, h := range hosts {
		if e := h.disk.entries(); len(e) > len(best) {
			best = e
		}
	}
	return best
}
