package lease

import (
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/mutant"
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
	losing  bool          // HostLost is proposed, and its outcome is not known
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

// Adopt makes a session the node's own that registered in an earlier term. It
// spares no node whose loss is being committed.
func (t *Table) Adopt(id, session api.ID, now time.Duration) {
	if n := t.nodes[id]; n == nil || !n.losing {
		t.Register(id, session, now)
	}
}

// Knows reports whether beats of this session are counted.
func (t *Table) Knows(id, session api.ID) bool {
	n := t.nodes[id]
	return n != nil && n.session == session
}

// Beat counts a beat that arrived at a time, after a quorum check that began
// later than that. Only if it returns true may the beat be acknowledged with a
// lease: it asks at the time of the acknowledgement, so that none goes out while
// the loss of the node is being committed.
func (t *Table) Beat(id, session api.ID, at time.Duration) bool {
	n := t.nodes[id]
	if n == nil || n.session != session || n.losing && !mutant.On(mutant.AckWhileLosing) {
		return false
	}
	n.heard, n.last = true, max(n.last, at)
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
		n.losing = false
	}
}

// Forget drops a node that was deleted.
func (t *Table) Forget(id api.ID) { delete(t.nodes, id) }
