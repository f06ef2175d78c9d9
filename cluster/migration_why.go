package cluster

import (
	"fmt"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/moves"
	"github.com/novacron/novacron/fsm"
)

// moveReasons says in words what a migration waits for, or how it ended.
func (s *Server) moveReasons(st *fsm.State, m *api.Migration) []string {
	var plan *moves.Plan
	return s.moveReasonsIn(st, m, &plan)
}

// moveReasonsIn is moveReasons for several migrations of one state: the plan is
// made when it is first needed.
func (s *Server) moveReasonsIn(st *fsm.State, m *api.Migration, plan **moves.Plan) []string {
	w := whyMove{st: st, m: m, now: s.cfg.Now()}
	switch m.Phase {
	case api.MigrationQueued:
		if *plan == nil {
			*plan = s.moves.planNow(st)
		}
		w.queued(s, *plan)
		return w.out
	case api.MigrationDone:
		return nil
	case api.MigrationAborted:
		w.say("it was ended: %s", orElse(m.Message, "no reason is known"))
		if m.Lost {
			w.say("the guest was lost on both nodes; node %s starts it anew", m.FromNode)
		}
		return w.out
	}
	if m.Restart {
		w.say("the VM is stopped for its move and started again after it")
	}
	if moves.Late(m, w.now) {
		w.say("nobody knows how it ends: look at nodes %s and %s", m.FromNode, m.ToNode)
	}
	w.under()
	w.node(m.From)
	w.node(m.To)
	return w.out
}

// whyMove collects reasons.
type whyMove struct {
	st  *fsm.State
	m   *api.Migration
	now time.Time
	out []string
}

func (w *whyMove) say(format string, args ...any) {
	w.out = append(w.out, fmt.Sprintf(format, args...))
}

// under is for what was admitted and is not over.
func (w *whyMove) under() {
	m := w.m
	switch m.Phase {
	case api.MigrationProposed:
		if m.Source.State != api.EndPresent {
			w.say("waits for node %s to prepare the guest for its move", m.FromNode)
		}
		if m.Dest.State != api.EndReady {
			w.say("waits for node %s to prepare disks and networks", m.ToNode)
		}
	case api.MigrationPrepared:
		w.say("both nodes are ready; the copy is about to begin")
	case api.MigrationCopying:
		switch {
		case m.Source.Attempt != m.Attempts:
			w.say("waits for node %s to begin the copy", m.FromNode)
		case m.Source.State == api.EndUnknown:
			w.say("node %s cannot tell what became of the copy", m.FromNode)
		}
	case api.MigrationSwitched:
		w.switched()
	case api.MigrationCommitted:
		if !m.Dest.Clean {
			w.say("node %s owns the VM: waits for its word that the guest goes on there", m.ToNode)
			if m.Dest.Message != "" {
				w.say("node %s cannot let it go on, and tries again: %s", m.ToNode, m.Dest.Message)
			}
		}
		if !m.Source.Clean {
			w.say("waits for node %s to clear away what is left of it", m.FromNode)
		}
	case api.MigrationAborting:
		w.say("it is being ended: %s", orElse(m.Message, "no reason is known"))
		switch {
		case m.GiveUp && !m.KillDest:
			w.say("the guest is on no node as a whole: waits for node %s to end the part that came in", m.ToNode)
		case m.KillDest && !m.Dest.Clean:
			w.say("waits for node %s to remove its copy", m.ToNode)
		case !m.KillDest && m.Source.State == api.EndCopying:
			w.say("waits for node %s to stop the copy", m.FromNode)
		case !m.KillDest:
			w.say("waits for node %s to confirm that the guest is there", m.FromNode)
		}
	}
}

func (w *whyMove) switched() {
	m := w.m
	switch {
	case m.KillSource && m.Source.State != api.EndAbsent:
		w.say("all of the guest is on node %s: waits for node %s to remove what stands still there", m.ToNode, m.FromNode)
	case m.Source.State != api.EndAbsent:
		w.say("waits for node %s to confirm that the guest is gone there", m.FromNode)
	}
	if m.Dest.State != api.EndComplete && m.Dest.State != api.EndRunning {
		w.say("waits for node %s to confirm that all of the guest is there", m.ToNode)
	}
}

// node tells what is wrong with a node that a migration needs.
func (w *whyMove) node(id api.ID) {
	if id.IsZero() {
		return
	}
	switch n := w.st.Node(id); {
	case n == nil:
		w.say("node %s is not known any more", id.Short())
	case n.Status != api.NodeReady:
		w.say("node %s is %s (%s)", n.Name, n.Status, orElse(n.StatusNote, "no reason known"))
	case n.Unreachable != "":
		w.say("node %s cannot be dialed by the servers: %s", n.Name, n.Unreachable)
	}
}

// queued says why a migration was not admitted yet.
func (w *whyMove) queued(s *Server, plan *moves.Plan) {
	m := w.m
	if w.st.Recovery() != nil {
		w.say("the region was restored from a snapshot; nothing is moved until its nodes have reported")
		return
	}
	if s.holding() {
		w.say("placing is held back until enough servers vote")
	}
	vm, p := w.st.VM(m.VMID), w.st.Placement(m.VMID)
	if vm == nil || p == nil {
		return // it is ended in a moment
	}
	if err := fsm.Movable(vm, p, m.Mode); err != nil {
		w.say("waits until the VM can be moved: it is %s", p.State)
	}
	most, _ := moves.Caps(w.st)
	switch {
	case plan.Free <= 0:
		w.say("waits for its turn: %s under way in the region, %d are allowed at once", areText(plan.Active), most)
	case plan.Busy[m.From] != "":
		w.say("waits for its turn: node %s %s", m.FromNode, plan.Busy[m.From])
	default:
		w.destination(s.sched.move(moves.Question(w.st, vm, m, plan.Busy)))
	}
	ahead := 0
	for _, o := range plan.Queue {
		if o.ID == m.ID {
			break
		}
		ahead++
	}
	if ahead > 0 && ahead < len(plan.Queue) {
		w.say("%d of the queue come before it", ahead)
	}
	if m.Cause == api.CauseDrain {
		return
	}
	w.say("it is given up at %s", m.CreateTime.Time().Add(moves.Timeout(m)).UTC().Format("15:04:05 MST"))
}

func (w *whyMove) destination(x *api.Explanation) {
	if !x.Chosen.IsZero() {
		w.say("it is about to go to node %s", x.Node)
		return
	}
	w.say("no node fits: %s", countsOf(x.Counts))
	named := 0
	for _, v := range x.Nodes {
		if v.NodeID == w.m.From || w.m.Pinned && v.NodeID != w.m.To {
			continue
		}
		if named++; named > 5 {
			break
		}
		w.say("node %s: %s", v.Node, v.Reason)
	}
}

func areText(n int) string {
	if n == 1 {
		return "1 move is"
	}
	return fmt.Sprintf("%d moves are", n)
}
