package lease

import (
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/mutant"
	"github.com/novacron/novacron/fsm"
)

// Table is what the leader knows of the nodes by their beats. It lives for one
// term: a new leader begins with an empty one and counts every node from its own
// barrier, because it cannot know what the leader before it has acknowledged.
// Not for several goroutines at once.
type Table struct {
	base  time.Duration
	nodes map[api.ID]*node
}

type node struct {
	session api.ID
	last    time.Duration // receipt of the newest beat that was acknowledged
	heard   bool          // one was, in this term
	losing  bool          // HostLost is proposed, and is not known to be refused
	doubt   bool          // its outcome is not known, and has to be found out
}

// Begin empties the table; every node counts as heard at this moment, that of
// the term's barrier.
func (t *Table) Begin(now time.Duration) {
	t.base, t.nodes = now, map[api.ID]*node{}
	if mutant.On(mutant.NoBarrierWait) {
		t.base = now - time.Hour
	}
}

// Register makes a session the node's own, after it was committed. What was
// proposed about the node before does not hold any more.
func (t *Table) Register(id, session api.ID, now time.Duration) {
	if t.nodes == nil {
		t.nodes = map[api.ID]*node{}
	}
	t.nodes[id] = &node{session: session, last: now}
}

// Knows reports whether beats of this session are counted.
func (t *Table) Knows(id, session api.ID) bool {
	n := t.nodes[id]
	return n != nil && n.session == session
}

// Beat is a beat of a session, with the time of its receipt.
type Beat struct {
	Node, Session api.ID
	At            time.Duration
}

// Check is one check with a quorum that this server leads.
type Check struct {
	begun time.Duration
	over  bool
	leads bool
}

// BeginCheck is to be called before the quorum is asked.
func BeginCheck(now time.Duration) Check { return Check{begun: now} }

// End takes in what the quorum said.
func (c *Check) End(leads bool) { c.over, c.leads = true, leads }

// Holds reports whether the server led at some time after the check began.
func (c Check) Holds() bool { return c.over && (c.leads || mutant.On(mutant.AckUnverified)) }

// covers reports whether the check speaks for a beat: only if it began after the
// receipt. Then no newer leader had been elected by that time, and each later one
// counts its wait from a barrier that comes after it.
func (c Check) covers(at time.Duration) bool {
	return c.Holds() && (at <= c.begun || mutant.On(mutant.VerifiedBefore))
}

// Answer is what a beat is told.
type Answer struct {
	// Register: its session, or what is known of the node, is over.
	Register bool
	// Lease is how long the node has a lease, from just before the beat was sent; 0:
	// this answer gives none.
	Lease time.Duration
}

// Answer counts a beat after a quorum check, at the time of the acknowledgement,
// so that none goes out while the loss of the node is being committed.
func (t *Table) Answer(st *fsm.State, b Beat, c Check, now time.Duration) Answer {
	n := st.Node(b.Node)
	if n == nil || st.Session(n.ID) != b.Session || n.Status == api.NodeLost {
		// The answer extends no lease.
		// One that was confirmed off and is not comes back by registering.
		return Answer{Register: true}
	}
	if !t.Knows(b.Node, b.Session) {
		t.adopt(b.Node, b.Session, now) // registered in an earlier term: Raft knows the session
	}
	if !c.covers(b.At) || !t.beat(b) {
		return Answer{}
	}
	return Answer{Lease: Default.Lease}
}

// adopt makes a session the node's own that registered in an earlier term. It
// spares no node whose loss is being committed.
func (t *Table) adopt(id, session api.ID, now time.Duration) {
	if n := t.nodes[id]; n == nil || !n.losing {
		t.Register(id, session, now)
	}
}

// beat counts a beat; false: it must not be acknowledged with a lease.
func (t *Table) beat(b Beat) bool {
	n := t.nodes[b.Node]
	if n == nil || n.session != b.Session || n.losing && !mutant.On(mutant.AckWhileLosing) {
		return false
	}
	n.heard, n.last = true, max(n.last, b.At)
	return true
}

// Silent is how long no beat of a node was acknowledged, and whether one was in
// this term.
func (t *Table) Silent(id api.ID, now time.Duration) (d time.Duration, heard bool) {
	n := t.nodes[id]
	if n == nil {
		return now - t.base, false
	}
	return now - max(n.last, t.base), n.heard
}

// Lose begins the loss of a node that was silent for at least wait: from now on
// no beat of it is acknowledged, until Spare or Register. False: it was heard.
func (t *Table) Lose(id api.ID, now, wait time.Duration) bool {
	if silent, _ := t.Silent(id, now); silent < wait {
		return false
	}
	n := t.nodes[id]
	if n == nil {
		n = &node{last: t.base}
		if t.nodes == nil {
			t.nodes = map[api.ID]*node{}
		}
		t.nodes[id] = n
	}
	n.losing = true
	return true
}

// Spare ends what Lose began, because it is known not to be committed, and never
// to be.
func (t *Table) Spare(id api.ID) {
	if n := t.nodes[id]; n != nil {
		n.losing, n.doubt = false, false
	}
}

// Doubt notes that nobody knows what becomes of what Lose began: the answer to the
// proposal was lost.
func (t *Table) Doubt(id api.ID) {
	if n := t.nodes[id]; n != nil && n.losing {
		n.doubt = true
	}
}

// Doubtful lists the nodes of which the outcome of a loss is not known. After a
// barrier all that this leader proposed is applied or never will be: then they are
// spared, and what was committed is in the state.
func (t *Table) Doubtful() (ids []api.ID) {
	for id, n := range t.nodes {
		if n.doubt {
			ids = append(ids, id)
		}
	}
	return ids
}

// Forget drops a node that was deleted.
func (t *Table) Forget(id api.ID) { delete(t.nodes, id) }
