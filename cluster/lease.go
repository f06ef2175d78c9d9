package cluster

import (
	"sync"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/lease"
	"github.com/novacron/novacron/fsm"
)

const (
	heartbeat  = 3 * time.Second // h, as in lease.Default
	beatWindow = 50 * time.Millisecond
)

var (
	hostLease    = lease.Default.Lease
	suspectAfter = lease.Default.Suspect()
)

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
	watch    lease.Watch
	contacts map[api.ID]*contact
}

func newLeases(clock func() time.Duration) *leases {
	return &leases{clock: clock, contacts: map[api.ID]*contact{}}
}

// begin empties the table; every node counts as heard at this moment.
func (t *leases) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.table.Begin(t.clock())
	t.watch, t.contacts = lease.Watch{}, map[api.ID]*contact{}
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
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock()
	t.table.Register(n.ID, session, now)
	t.meet(n, session, now)
}

// meet notes who speaks for a node; the lock is held.
func (t *leases) meet(n *api.Node, session api.ID, now time.Duration) *contact {
	c := t.contacts[n.ID]
	if c == nil {
		c = &contact{}
		t.contacts[n.ID] = c
	}
	c.session, c.bootID, c.machineID, c.address = session, n.BootID, n.MachineID, n.Address
	c.leaving, c.seen = false, now
	return c
}

// answer says what a beat that arrived at a time is told after a quorum check.
func (t *leases) answer(st *fsm.State, b *api.NodeBeat, at time.Duration, check lease.Check) lease.Answer {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock()
	known := t.table.Knows(b.NodeID, b.SessionID)
	a := t.table.Answer(st, lease.Beat{Node: b.NodeID, Session: b.SessionID, At: at}, check, now)
	if a.Register {
		return a
	}
	c := t.contacts[b.NodeID]
	if !known || c == nil {
		c = t.meet(st.Node(b.NodeID), b.SessionID, now)
	}
	if a.Lease != 0 {
		c.heard(b, at)
	}
	return a
}

// heard takes in what a beat that counts says.
func (c *contact) heard(b *api.NodeBeat, at time.Duration) {
	c.seen = max(c.seen, at)
	c.leaving = c.leaving || b.Leaving
	if b.Stats != nil {
		c.stats = b.Stats
	}
	if b.Peers != nil {
		c.peers = b.Peers
	}
}

// silent reports how long a node has not been heard, and whether it was at all
// in this term.
func (t *leases) silent(node api.ID) (d time.Duration, heard bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.table.Silent(node, t.clock())
}

// look looks at the leases of all nodes.
func (t *leases) look(st *fsm.State) lease.Plan {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.watch.Look(st, &t.table, t.clock())
}

// expire begins the loss of a node whose wait is over: what is to be proposed.
// Nil: it was heard in this moment.
func (t *leases) expire(st *fsm.State, n *api.Node) *fsm.HostLost {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.watch.Lose(st, &t.table, n, t.clock())
}

// lose begins the loss of a node that was silent for at least wait.
func (t *leases) lose(node api.ID, wait time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.table.Lose(node, t.clock(), wait)
}

// took notes that a loss by the lease was committed.
func (t *leases) took(node api.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.watch.Took(node, t.clock())
}

// spare ends what was begun: it is known not to be committed.
func (t *leases) spare(node api.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.table.Spare(node)
}

// doubt notes that the outcome of what was begun is not known.
func (t *leases) doubt(node api.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.table.Doubt(node)
}

// doubtful lists the nodes of which the outcome of a loss is not known.
func (t *leases) doubtful() []api.ID {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.table.Doubtful()
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
