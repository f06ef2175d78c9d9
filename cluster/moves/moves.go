// Package moves is the leader's side of migrations: what follows for those that
// are active from the state and the time.
//
// Promises: everything here is a pure function of what it is given; it knows no
// clock, no Raft and no goroutine, so that a simulation runs the same code.
//
// What does not belong: who proposes it and when (cluster), what follows from what
// the two ends have said (fsm), and which node is chosen (scheduler).
package moves

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
	"github.com/novacron/novacron/scheduler"
)

// The limits of migrations.
const (
	Cap     = 8 // under way in the region, unless it is configured
	CapNode = 2 // and for each node

	DanglingWait  = 30 * time.Second // for what came in to become whole after its source has ended
	UnresumedWait = 30 * time.Second // after the commit, for the new owner to say that the guest goes on

	lateAfter    = 120 * time.Second // after its deadline: somebody has to look
	lateSwitched = 30 * time.Second  // switched for so long
)

// Plan is what follows for the migrations of a region at one moment. It is made of
// the state and the time alone.
type Plan struct {
	Steps []*fsm.MigrationStep // to be committed
	Queue []*api.Migration     // what may be admitted, in order, as long as there is room
	Free  int                  // how many more may be under way
	// Busy are the nodes that take part in no more moves now, and why.
	Busy map[api.ID]string
	Late []*api.Migration // nobody knows how they end
	// Unresumed have a new owner that has not said for long that the guest goes on.
	Unresumed []*api.Migration
	Waiting   int // in the queue
	Active    int // under way
}

// Look decides about the active migrations with these ids.
func Look(st *fsm.State, ids []api.ID, now time.Time) Plan {
	var p Plan
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
		if Loads(m) {
			p.Active++
			load[m.From]++
			load[m.To]++
		}
	}
	most, mostNode := Caps(st)
	p.Free = most - p.Active
	p.Busy = map[api.ID]string{}
	for id, n := range load {
		if n >= mostNode {
			p.Busy[id] = fmt.Sprintf("takes part in %s already, as many as are allowed at once", movesText(n))
		}
	}
	for _, m := range active {
		if s := dueStep(st, m, now); s != nil {
			p.Steps = append(p.Steps, s)
		} else if m.Phase == api.MigrationQueued {
			p.Waiting++
			if p.Busy[m.From] == "" && movable(st, m) {
				p.Queue = append(p.Queue, m)
			}
		}
		if Late(m, now) {
			p.Late = append(p.Late, m)
		}
		if isUnresumed(m, now) {
			p.Unresumed = append(p.Unresumed, m)
		}
	}
	return p
}

// Caps returns how many moves may be under way in the region and on a node.
func Caps(st *fsm.State) (all, node int) {
	c := st.SchedulerConfig()
	all, node = int(c.Migrations), int(c.NodeMigrations)
	if all == 0 {
		all = Cap
	}
	if node == 0 {
		node = CapNode
	}
	return all, node
}

// Loads reports whether a move keeps its ends and their link busy.
func Loads(m *api.Migration) bool {
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
		if wait := Timeout(m); m.Cause != api.CauseDrain && now.Sub(m.CreateTime.Time()) >= wait {
			return abort(api.CodeDeadline, "no node could take it within %s", wait)
		}
		return nil
	}
	if fsm.Dangling(st, m) {
		if now.Sub(max(m.PhaseTime, m.AskTime).Time()) < DanglingWait {
			return nil
		}
		s := abort(api.CodeMigration, "node %s has ended, and what came in on node %s did not become whole within %s", m.FromNode, m.ToNode, DanglingWait)
		s.GiveUp = true
		return s
	}
	over := m.Deadline != 0 && !now.Before(m.Deadline.Time())
	switch {
	case over && m.Phase.Open() && (m.Source.State != api.EndAbsent || m.Mode == api.MigrateCold):
		return abort(api.CodeDeadline, "it was not over within %s", Timeout(m))
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

// Late reports whether a migration is neither done nor aborted long after it
// should be.
func Late(m *api.Migration, now time.Time) bool {
	if m.Phase == api.MigrationSwitched && now.Sub(m.PhaseTime.Time()) > lateSwitched {
		return true
	}
	return m.Phase != api.MigrationQueued && m.Deadline != 0 && now.Sub(m.Deadline.Time()) > lateAfter
}

// isUnresumed reports whether a guest has not gone on for long since its cutover,
// or its new owner has not said so.
func isUnresumed(m *api.Migration, now time.Time) bool {
	return m.Phase == api.MigrationCommitted && !m.Dest.Clean && now.Sub(m.CommitTime.Time()) > UnresumedWait
}

// Timeout is how long a migration may take from its admission on.
func Timeout(m *api.Migration) time.Duration {
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

// Question is the question to the scheduler for a migration.
func Question(st *fsm.State, vm *api.VM, m *api.Migration, busy map[api.ID]string) scheduler.Move {
	q := scheduler.Move{VM: vm, Cold: m.Mode == api.MigrateCold, Busy: busy}
	if p := st.Placement(vm.ID); p != nil {
		q.Leaving = drained(st, p.NodeID)
	}
	if m.Pinned {
		q.To = m.To
	}
	return q
}

// Admission lets a migration begin at the node that was chosen.
func Admission(m *api.Migration, to api.ID, now time.Time) *fsm.MigrationStep {
	return &fsm.MigrationStep{ID: m.ID, Phase: m.Phase, Next: api.MigrationProposed, To: to, Deadline: api.TimeOf(now.Add(Timeout(m)))}
}
