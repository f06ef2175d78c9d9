package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// The limits of migrations.
const (
	moveCap         = 8                 // under way in the region, unless it is configured
	moveCapNode     = 2                 // and for each node
	moveLate        = 120 * time.Second // after its deadline: somebody has to look
	moveLateSwitch  = 30 * time.Second  // switched for so long
	moveDangling    = 30 * time.Second  // for what came in to become whole after its source has ended
	moveUnresumed   = 30 * time.Second  // committed, and the new owner has not said that the guest goes on
	moveTick        = time.Second
	moveQueueBreath = 20 * time.Millisecond // between two looks at a queue in which nobody fits
)

// movePlan is what follows for the migrations of a region at one moment. It is
// made of the state and the time alone.
type movePlan struct {
	steps []*fsm.MigrationStep // to be committed
	queue []*api.Migration     // what may be admitted, in order, as long as there is room
	free  int                  // how many more may be under way
	// busy are the nodes that take part in no more moves now, and why.
	busy map[api.ID]string
	late []*api.Migration // nobody knows how they end
	// unresumed have a new owner that has not said for long that the guest goes on.
	unresumed []*api.Migration
	waiting   int // in the queue
	active    int // under way
}

// planMoves decides about the active migrations with these ids.
func planMoves(st *fsm.State, ids []api.ID, now time.Time) movePlan {
	var p movePlan
	var active []*api.Migration
	for _, id := range ids {
		if m := st.Migration(id); m != nil && m.Phase.Active() {
			active = append(active, m)
		}
	}
	slices.SortFunc(active, func(a, b *api.Migration) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.CreateIndex, b.CreateIndex))
	})
	load := map[api.ID]int{}
	for _, m := range active {
		if loads(m) {
			p.active++
			load[m.From]++
			load[m.To]++
		}
	}
	most, mostNode := moveCaps(st)
	p.free = most - p.active
	p.busy = map[api.ID]string{}
	for id, n := range load {
		if n >= mostNode {
			p.busy[id] = fmt.Sprintf("takes part in %s already, as many as are allowed at once", movesText(n))
		}
	}
	for _, m := range active {
		if s := dueStep(st, m, now); s != nil {
			p.steps = append(p.steps, s)
		} else if m.Phase == api.MigrationQueued {
			p.waiting++
			if p.busy[m.From] == "" && movable(st, m) {
				p.queue = append(p.queue, m)
			}
		}
		if isLate(m, now) {
			p.late = append(p.late, m)
		}
		if isUnresumed(m, now) {
			p.unresumed = append(p.unresumed, m)
		}
	}
	return p
}

// moveCaps returns how many moves may be under way in the region and on a node.
func moveCaps(st *fsm.State) (all, node int) {
	c := st.SchedulerConfig()
	all, node = int(c.Migrations), int(c.NodeMigrations)
	if all == 0 {
		all = moveCap
	}
	if node == 0 {
		node = moveCapNode
	}
	return all, node
}

// loads reports whether a move keeps its ends and their link busy.
func loads(m *api.Migration) bool {
	switch m.Phase {
	case api.MigrationProposed, api.MigrationPrepared, api.MigrationCopying, api.MigrationSwitched:
		return true
	case api.MigrationAborting:
		return m.Source.State == api.EndCopying
	}
	return false
}

// dueStep is what is due for one migration whatever the others do.
func dueStep(st *fsm.State, m *api.Migration, now time.Time) *fsm.MigrationStep {
	step := func(next api.MigrationPhase) *fsm.MigrationStep {
		return &fsm.MigrationStep{ID: m.ID, Phase: m.Phase, Next: next}
	}
	abort := func(c api.Code, format string, args ...any) *fsm.MigrationStep {
		s := step(api.MigrationAborting)
		s.Code, s.Message = c, fmt.Sprintf(format, args...)
		return s
	}
	if m.Phase == api.MigrationQueued {
		if why := pointless(st, m); why != "" {
			return abort(api.CodeState, "%s", why)
		}
		// A drain has a deadline of its own, and may have to wait for its turn for long.
		if wait := timeoutOf(m); m.Cause != api.CauseDrain && now.Sub(m.CreateTime.Time()) >= wait {
			return abort(api.CodeDeadline, "no node could take it within %s", wait)
		}
		return nil
	}
	if fsm.Dangling(st, m) {
		if now.Sub(max(m.PhaseTime, m.AskTime).Time()) < moveDangling {
			return nil
		}
		s := abort(api.CodeMigration, "node %s has ended, and what came in on node %s did not become whole within %s", m.FromNode, m.ToNode, moveDangling)
		s.GiveUp = true
		return s
	}
	over := m.Deadline != 0 && !now.Before(m.Deadline.Time())
	switch {
	case over && m.Phase.Open() && (m.Source.State != api.EndAbsent || m.Mode == api.MigrateCold):
		return abort(api.CodeDeadline, "it was not over within %s", timeoutOf(m))
	case m.Phase == api.MigrationPrepared:
		return step(api.MigrationCopying)
	}
	return nil
}

// pointless says why a migration in the queue will never begin.
func pointless(st *fsm.State, m *api.Migration) string {
	vm, p := st.VM(m.VMID), st.Placement(m.VMID)
	switch {
	case vm == nil || vm.Deleting:
		return "the VM was deleted"
	case p == nil:
		return "the VM has given up its node"
	case p.NodeID != m.From || p.Epoch != m.Epoch:
		return "the VM has another owner by now"
	case m.Cause == api.CauseDrain && !drained(st, m.From):
		return "the drain of the node was canceled"
	case m.Pinned && drained(st, m.To):
		return "node " + m.ToNode + " is being drained"
	case m.Mode == api.MigrateCold && vm.Power != api.PowerStopped:
		return "the VM was started: only a stopped VM is moved cold"
	case m.Mode != api.MigrateCold && vm.Power == api.PowerStopped:
		return "the VM was stopped"
	}
	return ""
}

// drained reports whether a node is to be empty.
func drained(st *fsm.State, node api.ID) bool {
	n := st.Node(node)
	return n != nil && n.Drain != nil
}

// movable reports whether a VM can be moved right now; in the queue it may
// become so again.
func movable(st *fsm.State, m *api.Migration) bool {
	vm, p := st.VM(m.VMID), st.Placement(m.VMID)
	return vm != nil && p != nil && fsm.Movable(vm, p, m.Mode) == nil
}

// isLate reports whether a migration is neither done nor aborted long after it
// should be.
func isLate(m *api.Migration, now time.Time) bool {
	if m.Phase == api.MigrationSwitched && now.Sub(m.PhaseTime.Time()) > moveLateSwitch {
		return true
	}
	return m.Phase != api.MigrationQueued && m.Deadline != 0 && now.Sub(m.Deadline.Time()) > moveLate
}

// isUnresumed reports whether a guest has not gone on for long since its cutover,
// or its new owner has not said so.
func isUnresumed(m *api.Migration, now time.Time) bool {
	return m.Phase == api.MigrationCommitted && !m.Dest.Clean && now.Sub(m.CommitTime.Time()) > moveUnresumed
}

func timeoutOf(m *api.Migration) time.Duration {
	if m.Options.Timeout > 0 {
		return m.Options.Timeout.D()
	}
	return api.DefaultMigrationTimeout.D()
}

func movesText(n int) string {
	if n == 1 {
		return "1 move"
	}
	return fmt.Sprintf("%d moves", n)
}
