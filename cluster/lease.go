package cluster

import (
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/lease"
)

const (
	heartbeat  = 3 * time.Second // h, as in lease.Default
	beatWindow = 50 * time.Millisecond
)

var (
	hostLease    = lease.Default.Lease
	suspectAfter = lease.Default.Suspect()
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

// contact is what the leader knows of a node besides its lease.
type contact struct {
	session   api.ID
	bootID    string
	machineID string
	address   string
	seen      time.Duration // newest registration or beat
	stats     *api.NodeStats
	peers     *api.PeerView // newest that it told
	leaving   bool
}

// leases is the leader's table of node leases with its lock and its clock. It
// lives for one term.
type leases struct {
	clock    func() time.Duration
	mu       sync.Mutex
	table    lease.Table
	contacts map[api.ID]*contact
	doubts   map[api.ID]bool // losses whose outcome is not known
}

func newLeases(clock func() time.Duration) *leases {
	return &leases{clock: clock, contacts: map[api.ID]*contact{}, doubts: map[api.ID]bool{}}
}

// begin empties the table; every node counts as heard at this moment.
func (t *leases) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.table.Begin(t.clock())
	t.contacts, t.doubts = map[api.ID]*contact{}, map[api.ID]bool{}
}

// admit checks a session that wants to register. A second machine that claims
// the node while the first is within its lease is refused, and both are shown.
func (t *leases) admit(n *api.Node, session api.ID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.contacts[n.ID]
	if c == nil || c.session == session || c.machineID == n.MachineID || t.clock()-c.seen >= hostLease {
		return nil
	}
	return api.Errorf(api.CodeNodeDuplicate, "node %s (%s) is in use by another machine", n.Name, n.ID).
		WithHint("two machines share a data folder: give one of them its own identity").
		WithDetail("present", "machine %s, boot %s, address %s, session %s", c.machineID, c.bootID, c.address, c.session).
		WithDetail("refused", "machine %s, boot %s, address %s, session %s", n.MachineID, n.BootID, n.Address, session)
}

// register makes the session the node's own.
func (t *leases) register(n *api.Node, session api.ID) {
	t.meet(n, session, t.table.Register)
}

// adopt is register for a session that registered in an earlier term.
func (t *leases) adopt(n *api.Node, session api.ID) {
	t.meet(n, session, t.table.Adopt)
}

func (t *leases) meet(n *api.Node, session api.ID, note func(node, session api.ID, now time.Duration)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock()
	note(n.ID, session, now)
	c := t.contacts[n.ID]
	if c == nil {
		c = &contact{}
		t.contacts[n.ID] = c
	}
	c.session, c.bootID, c.machineID, c.address = session, n.BootID, n.MachineID, n.Address
	c.leaving, c.seen = false, now
}

// knows reports whether beats of this session are counted.
func (t *leases) knows(node, session api.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.table.Knows(node, session)
}

// beat counts a beat that arrived at a time, after its quorum check. Only if it
// returns true may it be acknowledged with a lease.
func (t *leases) beat(b *api.NodeBeat, at time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.contacts[b.NodeID]
	if c == nil || !t.table.Beat(b.NodeID, b.SessionID, at) {
		return false
	}
	c.seen = max(c.seen, at)
	c.leaving = c.leaving || b.Leaving
	if b.Stats != nil {
		c.stats = b.Stats
	}
	if b.Peers != nil {
		c.peers = b.Peers
	}
	return true
}

// silent reports how long a node has not been heard, and whether it was at all
// in this term.
func (t *leases) silent(node api.ID) (d time.Duration, heard bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.table.Silent(node, t.clock())
}

// lose begins the loss of a node that was silent for at least wait.
func (t *leases) lose(node api.ID, wait time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.table.Lose(node, t.clock(), wait)
}

// spare ends what lose began: it is known not to be committed.
func (t *leases) spare(node api.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.doubts, node)
	t.table.Spare(node)
}

// doubt notes that the outcome of what lose began is not known.
func (t *leases) doubt(node api.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.doubts[node] = true
}

// doubtful lists the nodes of which the outcome of a loss is not known.
func (t *leases) doubtful() []api.ID {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.doubts))
}

// stats returns the newest sample of a node, nil if there is none.
func (t *leases) stats(node api.ID) *api.NodeStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.contacts[node]; c != nil {
		return c.stats
	}
	return nil
}

// forget drops a node that was deleted.
func (t *leases) forget(node api.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.table.Forget(node)
	delete(t.contacts, node)
}

// leaving reports whether the node said goodbye.
func (t *leases) leaving(node api.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.contacts[node]
	return c != nil && c.leaving
}
