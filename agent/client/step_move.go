package client

import (
	"cmp"
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/mutant"
)

// movePoll is how often a destination looks at a guest that comes in: its
// completion may come without an event.
const movePoll = 200 * time.Millisecond

// moveOrder is what a step needs of an api.MoveOrder.
type moveOrder struct {
	id      api.ID
	in      bool
	mode    api.MigrationMode
	phase   api.MigrationPhase
	epoch   api.Epoch
	attempt int32
	kill    bool
	giveUp  bool // destination: end what is not whole
	guarded bool // destination: it runs only under the guard
}

// moveOrderOf reads a migration as the node self is told of it.
func moveOrderOf(g *api.Migration, self api.ID) *moveOrder {
	o := &moveOrder{id: g.ID, in: g.To == self, mode: g.Mode, phase: g.Phase, epoch: g.Epoch, attempt: g.Attempts, kill: g.KillSource}
	if o.in {
		o.kill, o.giveUp = g.KillDest, g.GiveUp
	}
	return o
}

// absorbMove takes in how far a migration is. It decides nothing.
func (m *machine) absorbMove(o *moveOrder, out *output) {
	v := &m.Move
	switch {
	case o.id == m.LastMove:
		return
	case v.ID == o.id:
	case v.IsZero() || v.Clean: // what was here of an earlier one is gone
		*v = moveRecord{ID: o.id, In: o.in, Mode: o.mode, Epoch: o.epoch}
		// Over before anything of it was here, or this is late.
		v.Clean = !o.phase.Open() && !m.Alive && (o.in || o.phase != api.MigrationAborting)
		m.received, m.comesGuarded = false, false
	default:
		return // the servers begin none before both ends of the last one are clean
	}
	if v.In && o.phase == api.MigrationSwitched && v.Phase != o.phase {
		m.checked = false // what came in is here by now, or will never be
	}
	if v.In && o.phase == api.MigrationAborting && (o.attempt > v.Attempt || o.giveUp && !v.GiveUp) {
		m.checked, m.look = false, true // the source has ended: what is here now is what there is
	}
	m.moving, m.comesGuarded = true, o.guarded
	v.Phase, v.Attempt, v.Kill, v.GiveUp = o.phase, o.attempt, o.kill, o.giveUp
	if m.busy == opMoveOut || m.busy == opMovePull {
		out.cancel = v.Phase != api.MigrationCopying && v.Phase != api.MigrationSwitched && !v.Left
	}
}

// handedOver: the guest was sent, and only the servers can say where it goes on.
func (m *machine) handedOver() bool {
	v := &m.Move
	if v.IsZero() {
		return false
	}
	if v.In {
		return !m.granted()
	}
	return v.Begun > 0 && v.Phase != api.MigrationAborted && v.Mode != api.MigrateCold
}

// granted: this node, the destination, was made the owner. It may have lost the
// VM again since.
func (m *machine) granted() bool { return m.Epoch > m.Move.Epoch }

// foreign: what is here of the VM belongs to another node.
func (m *machine) foreign() bool { return m.Move.In && !m.granted() }

// arriving: a guest comes in, and may be complete at any time.
func (m *machine) arriving() bool {
	switch m.Move.Phase {
	case api.MigrationCopying, api.MigrationSwitched:
		return m.foreign()
	case api.MigrationAborting: // it may become the only copy
		return m.foreign() && !m.Move.Kill
	}
	return false
}

// decideMove chooses the next op of a VM that is being moved; done is false when
// the ordinary rules go on.
func (m *machine) decideMove(e env, out *output) (o op, done bool) {
	switch {
	case m.Move.IsZero():
		return opNone, false
	case !m.moving: // a part that no server has confirmed in this session is nobody's to go on with
		return opNone, m.handedOver()
	case m.Move.In:
		return m.decideIn(e, out)
	}
	return m.decideOut(e, out)
}

// decideOut is the source's part.
func (m *machine) decideOut(e env, out *output) (op, bool) {
	v := &m.Move
	switch v.Phase {
	case api.MigrationProposed, api.MigrationPrepared:
		return opNone, false
	case api.MigrationCopying, api.MigrationSwitched, api.MigrationAborting:
	case api.MigrationAborted:
		return m.settleOut(e, out)
	default: // committed, done: the order to stop follows its own way
		if m.Alive || m.Tomb > 0 || m.Epoch > v.Epoch || v.Clean {
			return opNone, false
		}
		if !m.Revoked && m.Epoch != 0 {
			return opNone, true // the order is still to come; the guest has another owner by now
		}
		return m.cleanMove(e, out)
	}
	if v.Phase == api.MigrationCopying && v.Begun < v.Attempt {
		if m.wavers(e) {
			return opNone, true
		}
		return m.beginOut(e, out)
	}
	if v.Begun > 0 && !v.Over {
		if m.ready(opMoveEnd, e, out) {
			return opMoveEnd, true
		}
		return opNone, true
	}
	switch {
	case v.Begun == 0:
		return opNone, false // aborting before anything was sent
	case !m.Alive && !v.Attested:
		if m.ready(opMoveAttest, e, out) {
			return opMoveAttest, true
		}
	case m.Alive && v.Kill && m.dom.kind == domPaused && v.Phase == api.MigrationSwitched:
		// It stands still, superseded by a whole one.
		if m.ready(opDestroy, e, out) {
			return opDestroy, true
		}
	case m.Alive && v.Paused && m.dom.kind == domPaused && m.dom.reason != hypervisor.ReasonMigrating:
		// It was stopped for the move only, and is not going.
		if m.Desired == api.PowerRunning {
			return m.resumeMoved(e, out), true
		}
	}
	return opNone, true
}

// beginOut begins an attempt, at most once.
func (m *machine) beginOut(e env, out *output) (op, bool) {
	v := &m.Move
	v.Begun, v.Over, v.Failed, v.Message, v.Attested, v.Left = v.Attempt, false, false, "", false, false
	if v.Mode == api.MigrateCold {
		v.Over = true
		if m.Alive {
			v.Failed, v.Message = true, "the VM is not stopped"
			return opNone, true
		}
		if m.ready(opMoveAttest, e, out) {
			return opMoveAttest, true
		}
		return opNone, true
	}
	if !m.Alive || m.RunEpoch != v.Epoch || m.dom.kind != domRunning && m.dom.kind != domPaused {
		v.Over, v.Failed, v.Message = true, true, "the guest does not run here"
		return m.decideOut(e, out) // what is here instead is still to be proved
	}
	v.Paused = v.Mode == api.MigrateWarm && m.dom.kind == domRunning
	return opMoveOut, true
}

// resumeMoved runs a guest that was stopped for a move which is off.
func (m *machine) resumeMoved(e env, out *output) op {
	o := m.resume(e, out)
	if o == opResume {
		m.Move.Paused = false
	}
	return o
}

// settleOut goes on at the source after an abort.
func (m *machine) settleOut(e env, out *output) (op, bool) {
	v := &m.Move
	if v.Begun > 0 && !v.Over {
		if m.ready(opMoveEnd, e, out) {
			return opMoveEnd, true
		}
		return opNone, true
	}
	if m.Alive && m.dom.kind == domPaused && m.Desired == api.PowerRunning && (v.Paused || m.dom.reason == hypervisor.ReasonMigrating) {
		return m.resumeMoved(e, out), true
	}
	if !v.Clean {
		return m.cleanMove(e, out)
	}
	return opNone, false
}

// decideIn is the destination's part.
func (m *machine) decideIn(e env, out *output) (op, bool) {
	v := &m.Move
	if m.granted() {
		settled := !m.Alive || m.dom.kind == domRunning || m.Desired != api.PowerRunning || m.Revoked
		if settled && !v.Clean {
			return m.cleanMove(e, out)
		}
		return opNone, false
	}
	if m.dom.kind == domRunning { // without a grant: it must not
		if m.ready(opPause, e, out) {
			return opPause, true
		}
		return opNone, true
	}
	if mutant.On(mutant.ResumeBeforeCommit) && v.Phase == api.MigrationSwitched && m.dom.kind == domPaused && m.dom.reason == hypervisor.ReasonComplete {
		return opResume, true
	}
	switch v.Phase {
	case api.MigrationProposed, api.MigrationPrepared, api.MigrationCopying, api.MigrationSwitched:
		return m.receive(e, out)
	case api.MigrationAborting:
		if !v.Kill && !mutant.On(mutant.DestroyUnordered) {
			switch {
			case !m.checked:
				if m.ready(opInspect, e, out) {
					return opInspect, true
				}
			case m.Alive && v.GiveUp && m.dom.kind == domPaused && (m.dom.reason == hypervisor.ReasonIncoming || mutant.On(mutant.GiveUpWhole)):
				// Only a part is here, by a look since the order; it never ran.
				if m.ready(opDestroy, e, out) {
					return opDestroy, true
				}
			case m.Alive:
				if m.dom.reason != hypervisor.ReasonComplete {
					out.wakeAt(e.now + api.Time(movePoll))
				}
			case !v.Attested:
				if m.ready(opMoveAttest, e, out) {
					return opMoveAttest, true
				}
			case !v.Made && !v.Seen && !v.Clean: // there never was anything
				return m.cleanMove(e, out)
			}
			return opNone, true
		}
	case api.MigrationCommitted, api.MigrationDone:
		return opNone, true // the grant follows
	}
	switch {
	case m.Alive:
		if m.ready(opDestroy, e, out) {
			return opDestroy, true
		}
	case !v.Attested:
		if m.ready(opMoveAttest, e, out) {
			return opMoveAttest, true
		}
	case !v.Clean:
		return m.cleanMove(e, out)
	}
	return opNone, true
}

// receive prepares, and then watches what comes in.
func (m *machine) receive(e env, out *output) (op, bool) {
	v := &m.Move
	switch {
	case m.Alive && !m.arriving() && (!m.received && m.dom.reason != hypervisor.ReasonComplete || mutant.On(mutant.DestroyEarlyGuest)):
		// An earlier move's: the hypervisor was still at it when its absence was
		// attested. It has never run and never will. Nothing of this move can come in
		// before it was received; later this may be the guest itself, of whose copy
		// this node has not heard yet.
		if m.ready(opDestroy, e, out) {
			return opDestroy, true
		}
		return opNone, true
	case v.Failed:
		if !m.Alive && !v.Attested && m.ready(opMoveAttest, e, out) {
			return opMoveAttest, true
		}
		return opNone, true
	case !m.received && !m.Alive:
		if v.Phase == api.MigrationProposed || v.Phase == api.MigrationPrepared || v.Mode == api.MigrateCold {
			if m.unfit(e) {
				return opNone, true
			}
			v.Made, v.Attested = true, false
			return opMoveIn, true
		}
		// The gate went with an earlier agent, and the copy with it.
		v.Failed, v.Message = true, "the agent was restarted during the move"
		return m.receive(e, out)
	case v.Seen && !m.Alive:
		v.Failed, v.Message = true, "the guest that came in has ended"
		return m.receive(e, out)
	case v.Phase == api.MigrationSwitched && v.Mode != api.MigrateCold && !m.Alive:
		if !m.checked {
			if m.ready(opInspect, e, out) {
				return opInspect, true
			}
			return opNone, true
		}
		v.Failed, v.Message = true, "the source has stopped, and nothing came in"
		return m.receive(e, out)
	case v.Mode == api.MigrateCold && v.Phase == api.MigrationCopying && v.Begun < v.Attempt:
		v.Begun, v.Over = v.Attempt, false
		return opMovePull, true
	case v.Mode == api.MigrateCold && v.Begun > 0 && !v.Over: // begun by an earlier agent: fetched again
		return opMovePull, true
	}
	if m.arriving() {
		out.wakeAt(e.now + api.Time(movePoll))
	}
	return opNone, true
}

func (m *machine) cleanMove(e env, out *output) (op, bool) {
	if m.ready(opMoveClean, e, out) {
		return opMoveClean, true
	}
	return opNone, true
}

// finishMove takes in the outcome of an op of a move.
func (m *machine) finishMove(ev event, e env) {
	v := &m.Move
	if v.IsZero() {
		return // the servers know already that it is over
	}
	ok := ev.res == resOK
	if ok {
		m.wait[ev.op] = backoff{}
	} else {
		m.delay(ev.op, e.now)
	}
	switch ev.op {
	case opMoveIn:
		m.received = ok
		v.Failed, v.Message = !ok, ev.message
	case opMovePull:
		v.Over, v.Whole = ok || ev.res == resFailed, ok || mutant.On(mutant.PullIncomplete)
		v.Failed, v.Message = ev.res == resFailed, ev.message
	case opMoveOut, opMoveEnd:
		// Whatever it was: what is here now says more.
		m.look = true
		v.Over = ev.res != resUnknown
		if ev.res == resUnknown {
			m.dom, m.look = dom{kind: domUnknown}, false
		}
		if !ok || ev.op == opMoveEnd {
			v.Failed, v.Message = true, ev.message
		}
	case opMoveAttest:
		v.Attested = ok
		m.look = !ok && ev.res != resUnknown
	case opMoveClean:
		v.Clean = ok
		if ok && m.foreign() {
			m.State, m.Reason, m.Message = api.StateAbsent, "", ""
		}
	}
}

// left takes in that the guest which is being sent has left: it is proved that
// nothing of it runs here. The hypervisor still tidies up, so nothing else is begun
// before the call for it has come back; but the guest stands still, and what it waits
// for is that the servers know.
func (m *machine) left(e env) {
	if m.busy != opMoveOut || !m.Alive {
		return
	}
	m.look, m.hint = false, ""
	m.ended("migrated", "", e)
	m.Move.Left, m.Move.Attested = true, true
}

// seenMove follows what a look at the domain says of a move.
func (m *machine) seenMove() {
	v := &m.Move
	if v.IsZero() || !m.Alive {
		return
	}
	v.Attested, v.Left = false, false
	if m.arriving() {
		v.Seen = true
	}
}

// moveReport is what the node says of its part, and whether there is anything
// to say.
func (m *machine) moveReport(boot string) (api.MoveReport, bool) {
	v := &m.Move
	r := api.MoveReport{Migration: v.ID, Attempt: v.Begun, Failed: v.Failed, Message: v.Message, Clean: v.Clean, BootID: boot}
	if v.IsZero() || !m.moving && !v.Clean { // that nothing is left can be said again at any time
		return r, false
	}
	if v.In {
		r.State, r.Attempt = m.stateIn(), v.Attempt
		if m.granted() && m.Alive && m.dom.kind == domPaused && m.Desired == api.PowerRunning {
			r.Message = cmp.Or(m.Message, m.hold.why) // why it does not go on yet
		}
		return r, r.State != api.EndUnheard
	}
	if v.Begun == 0 && v.Phase == api.MigrationAborting {
		r.Attempt = v.Attempt // and none will be begun
	}
	r.State = m.stateOut()
	return r, true
}

func (m *machine) stateOut() api.EndState {
	v := &m.Move
	switch {
	case v.Left && !m.Alive: // what the call for it says, and a look at what is being tidied up, take nothing back
		return api.EndAbsent
	case m.busy == opMoveOut || v.Begun > 0 && !v.Over:
		return api.EndCopying
	case m.dom.kind == domUnknown || m.dom.kind == domUnseen || m.look:
		return api.EndUnknown
	case !m.Alive && v.Mode == api.MigrateCold && v.Begun == 0:
		return api.EndPresent // its disks are
	case !m.Alive && (v.Attested || m.Revoked && m.Tomb == 0 || mutant.On(mutant.AbsentUnproved)):
		if v.Died && !mutant.On(mutant.DiedIsMoved) {
			return api.EndDied
		}
		return api.EndAbsent
	case !m.Alive && v.Begun > 0:
		return api.EndUnknown // not proved yet
	case m.dom.kind == domPaused && m.dom.reason == hypervisor.ReasonMigrating:
		return api.EndSwitched
	}
	return api.EndPresent
}

func (m *machine) stateIn() api.EndState {
	v := &m.Move
	switch {
	case m.dom.kind == domUnknown || m.dom.kind == domUnseen || v.Phase == api.MigrationAborting && !m.checked:
		return api.EndUnknown
	case m.Alive && m.dom.kind == domRunning:
		return api.EndRunning
	case m.Alive && (m.granted() || m.dom.reason == hypervisor.ReasonComplete):
		return api.EndComplete
	case m.Alive:
		return api.EndCopying
	case v.Whole && !v.Attested:
		return api.EndComplete
	case v.Attested || mutant.On(mutant.AbsentUnproved) && v.Begun > 0:
		return api.EndAbsent
	case m.received:
		return api.EndReady
	case v.Failed || v.Seen || v.Made:
		return api.EndUnknown // not proved yet
	}
	return api.EndUnheard
}
