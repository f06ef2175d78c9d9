package cluster

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
)

// The times of reliability.md 4.1 that the servers need.
const (
	heartbeat    = 3 * time.Second  // h
	hostLease    = 15 * time.Second // T
	suspectAfter = 2 * heartbeat
	beatWindow   = 50 * time.Millisecond
)

// boottime is the time since boot, suspend included: leases count on it, never
// on the wall clock.
func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Duration(time.Now().UnixNano()) // every Linux since 2.6.39 has it
	}
	return time.Duration(ts.Nano())
}

// lease is what the leader knows of a node by its beats.
type lease struct {
	session   api.ID
	bootID    string
	machineID string
	address   string
	last      time.Duration // receipt of the newest acknowledged beat
	heard     bool          // at least one beat was acknowledged in this term
	stats     *api.NodeStats
	leaving   bool
}

// leases is the leader's table of node leases. It lives for one term: a new
// leader begins with an empty one and counts every node from its own barrier.
type leases struct {
	clock func() time.Duration
	mu    sync.Mutex
	base  time.Duration
	nodes map[api.ID]*lease
}

func newLeases(clock func() time.Duration) *leases {
	return &leases{clock: clock, nodes: map[api.ID]*lease{}}
}

// begin empties the table; every node counts as heard at this moment.
func (t *leases) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.base, t.nodes = t.clock(), map[api.ID]*lease{}
}

// admit checks a session that wants to register. A second machine that claims
// the node while the first is within its lease is refused, and both are shown.
func (t *leases) admit(n *api.Node, session api.ID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.nodes[n.ID]
	if l == nil || l.session == session || l.machineID == n.MachineID || t.clock()-l.last >= hostLease {
		return nil
	}
	return api.Errorf(api.CodeNodeDuplicate, "node %s (%s) is in use by another machine", n.Name, n.ID).
		WithHint("two machines share a data folder: give one of them its own identity").
		WithDetail("present", "machine %s, boot %s, address %s, session %s", l.machineID, l.bootID, l.address, l.session).
		WithDetail("refused", "machine %s, boot %s, address %s, session %s", n.MachineID, n.BootID, n.Address, session)
}

// register makes the session the node's own.
func (t *leases) register(n *api.Node, session api.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.nodes[n.ID]
	if l == nil {
		l = &lease{}
		t.nodes[n.ID] = l
	}
	l.session, l.bootID, l.machineID, l.address = session, n.BootID, n.MachineID, n.Address
	l.leaving, l.last = false, t.clock()
}

// knows reports whether beats of this session are counted.
func (t *leases) knows(node, session api.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.nodes[node]
	return l != nil && l.session == session
}

// beat counts a beat that arrived at a time, after its quorum check.
func (t *leases) beat(b *api.NodeBeat, at time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.nodes[b.NodeID]
	if l == nil || l.session != b.SessionID {
		return false
	}
	l.heard, l.last = true, max(l.last, at)
	l.leaving = l.leaving || b.Leaving
	if b.Stats != nil {
		l.stats = b.Stats
	}
	return true
}

// silent reports how long a node has not been heard, and whether it was at all
// in this term.
func (t *leases) silent(node api.ID) (d time.Duration, heard bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.nodes[node]
	if l == nil {
		return t.clock() - t.base, false
	}
	return t.clock() - max(l.last, t.base), l.heard
}

// stats returns the newest sample of a node, nil if there is none.
func (t *leases) stats(node api.ID) *api.NodeStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.nodes[node]; l != nil {
		return l.stats
	}
	return nil
}

// forget drops a node that was deleted.
func (t *leases) forget(node api.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.nodes, node)
}

// leaving reports whether the node said goodbye.
func (t *leases) leaving(node api.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.nodes[node]
	return l != nil && l.leaving
}
