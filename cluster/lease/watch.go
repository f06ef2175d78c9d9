package lease

import (
	"fmt"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// Watch decides which nodes are lost because their lease is over. It lives for
// one term, beside a Table: what the leader before it saw does not count. Not for
// several goroutines at once.
type Watch struct {
	// took is when this leader declared nodes lost by their lease, for the brake.
	took map[api.ID]time.Duration
}

// Plan is what follows from one look at the leases.
type Plan struct {
	// Brake is to be committed first, if it is not nil: the storm brake holds
	// restarts back, or lets go. It holds for the state that was looked at.
	Brake *fsm.HASet
	// Over are the nodes whose wait is over. In a storm nothing follows from it.
	Over  []*api.Node
	Storm bool
	// Silent counts the nodes that are silent, or were until they were declared lost
	// a moment ago, among all Nodes.
	Silent, Nodes int
}

// WaitOf is the W of a node: after so much silence nothing that is armed runs
// there any more.
func WaitOf(cfg api.HAConfig, n *api.Node) time.Duration {
	return max(Default.Wait(n.Guard == api.GuardWatchdog), cfg.Wait.D())
}

// Blocked says why leases do not count now, or "".
func Blocked(st *fsm.State, voters int) string {
	cfg := st.HAConfig()
	switch expect := st.SchedulerConfig().Expect; {
	case st.Recovery() != nil:
		return "the region is in recovery after a restore"
	case cfg.Disarmed:
		return "HA is disarmed by an operator"
	case cfg.Hold != nil:
		return "restarts are held back: " + cfg.Hold.Reason
	case int32(voters) < expect:
		return fmt.Sprintf("fewer than %d servers vote", expect)
	}
	return ""
}

// Look looks at all nodes.
func (w *Watch) Look(st *fsm.State, t *Table, now time.Duration) Plan {
	cfg := st.HAConfig()
	var p Plan
	for n := range st.Nodes() {
		if n.Status == api.NodeLost {
			if at, ok := w.took[n.ID]; ok && now-at < WaitOf(cfg, n) {
				p.Silent, p.Nodes = p.Silent+1, p.Nodes+1
			} else {
				delete(w.took, n.ID)
			}
			continue
		}
		delete(w.took, n.ID)
		if n.Status == api.NodeLeft && !holdsArmed(st, n.ID) {
			continue
		}
		p.Nodes++
		d, _ := t.Silent(n.ID, now)
		if d <= Default.Suspect() {
			continue
		}
		p.Silent++
		if fsm.GuardUsable(st, n) && d >= WaitOf(cfg, n) {
			p.Over = append(p.Over, n)
		}
	}
	p.Storm = Storm(p.Silent, p.Nodes)
	p.brake(cfg)
	return p
}

// holdsArmed reports whether a node has a VM of which it said that it is armed.
func holdsArmed(st *fsm.State, node api.ID) bool {
	for p := range st.PlacementsOn(node) {
		if p.Armed {
			return true
		}
	}
	return false
}

// brake holds restarts back when too many nodes fell silent together: that is
// more often the servers' own network. It lets go when they are back.
func (p *Plan) brake(cfg api.HAConfig) {
	next := cfg
	switch {
	case p.Storm && len(p.Over) > 0 && cfg.Hold == nil && !cfg.Disarmed:
		next.Hold = &api.HAHold{Storm: true, Reason: fmt.Sprintf("%d of %d nodes are silent: the fault may lie with the servers' network", p.Silent, p.Nodes), By: "the leader"}
	case !p.Storm && cfg.Hold != nil && cfg.Hold.Storm:
		next.Hold = nil
	default:
		return
	}
	p.Brake = &fsm.HASet{Config: next, CheckIndex: &cfg.ModifyIndex}
}

// Lose begins the loss of a node whose wait is over: what is to be proposed, but
// for the term. Nil: it was heard in this moment. Until the outcome is known no
// beat of the node is acknowledged: Took, Table.Spare or Table.Doubt takes it in.
func (w *Watch) Lose(st *fsm.State, t *Table, n *api.Node, now time.Duration) *fsm.HostLost {
	wait := WaitOf(st.HAConfig(), n)
	if !t.Lose(n.ID, now, wait) {
		return nil
	}
	silent, _ := t.Silent(n.ID, now)
	reg := st.Registration(n.ID)
	return &fsm.HostLost{NodeID: n.ID, Session: reg.SessionID, Registered: reg.Index, Evidence: api.Evidence{
		Kind: api.EvidenceLease, BootID: n.BootID, Silent: api.Duration(silent.Round(time.Millisecond)), Wait: api.Duration(wait),
	}}
}

// Took notes that the loss of a node by its lease was committed.
func (w *Watch) Took(id api.ID, now time.Duration) {
	if w.took == nil {
		w.took = map[api.ID]time.Duration{}
	}
	w.took[id] = now
}
