package client

import (
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/mutant"
)

// killBudget is K: so long may pass without a guard before the agent itself ends
// what is armed.
const killBudget = 5 * time.Second

// exitFenced is the end of a guest that the guard has killed.
const exitFenced = "fenced"

// hold is what is known of a VM at the guard.
type hold struct {
	// epoch at which the guard will kill it, by the guard's own word; 0: it will not.
	epoch api.Epoch
	// mine: what it will kill is the process that runs now.
	mine bool
	// maybe: a call had no answer, or the guard was not asked yet.
	maybe bool
	// was: it held this run of the VM at some time, so that its end may be the guard's doing.
	was bool
	// giving: it is to be taken back, once the servers know.
	giving bool
	// bare is the boot time since when the servers count on the guard and it does
	// not hold the VM; 0: it does.
	bare time.Duration
	// asked: the servers are being told that it does not hold the VM.
	asked bool
	// why the VM is not armed, or not started; refused is what the guard said last.
	why, refused string
}

// guarded: the VM may run only while the guard holds it.
func (m *machine) guarded(e env) bool { return m.HA == api.HARestart && !e.disarm }

// leased: the host may run HA VMs now.
func (e env) leased() bool { return e.guard && e.up < e.deadline }

// held: the guard holds the process that runs, at the epoch that runs.
func (m *machine) held() bool {
	return m.Alive && m.hold.epoch != 0 && m.hold.epoch == m.RunEpoch && m.hold.mine && !m.hold.maybe
}

// saysArmed is the word on which the servers may rely when this host falls silent.
func (m *machine) saysArmed() bool {
	return m.held() && m.busy != opDisarm && m.RunEpoch >= m.Epoch && !m.hold.giving && !m.foreign()
}

// heeded: the servers heed what they acknowledge about the VM. They have confirmed
// it here, and cannot have given it to another host since: of a VM that is not here
// any more they would pass over what is said, and acknowledge it.
func (m *machine) heeded(e env) bool {
	return e.up < e.known && m.term == e.term || mutant.On(mutant.HeedAnyAck)
}

// settleHold follows what is known of the guard after an event. Told is journaled
// before the servers are told.
func (m *machine) settleHold(e env, out *output) {
	m.hold.giving = !m.guarded(e)
	if m.saysArmed() {
		m.Told = true
	}
	ask := m.Told && !m.saysArmed() && m.heeded(e)
	out.retell, m.hold.asked = ask && !m.hold.asked, ask
	bare := m.Told && m.Alive && !m.foreign() && (!e.guard || m.hold.epoch == 0 || m.hold.maybe) &&
		(m.dom.kind == domRunning || m.dom.kind == domUnknown || m.dom.kind == domUnseen)
	switch {
	case !bare:
		m.hold.bare = 0
		if m.Phase == phaseFence {
			m.Phase = ""
		}
	case m.hold.bare == 0 || m.hold.bare > e.up:
		m.hold.bare = max(e.up, 1)
	}
}

// bareDue reports whether the agent itself must end the VM now.
func (m *machine) bareDue(e env, out *output) bool {
	if m.hold.bare == 0 || mutant.On(mutant.GuardlessRuns) {
		return false
	}
	if left := m.hold.bare + killBudget - e.up; left > 0 {
		out.wakeAt(e.now + api.Time(left))
		return false
	}
	return true
}

// decideHold is what has to be done at the guard, or in its place, whatever else is
// wanted.
func (m *machine) decideHold(e env, out *output) (op, bool) {
	if m.bareDue(e, out) {
		if m.look && m.handedOver() && m.ready(opInspect, e, out) {
			return opInspect, true // it may have left
		}
		if m.ready(opDestroy, e, out) {
			if m.Phase != phaseStop {
				m.Phase = phaseFence
			}
			return opDestroy, true
		}
		return opNone, true
	}
	h := &m.hold
	if m.Alive && h.giving && (!m.Told || mutant.On(mutant.DisarmUntold)) && e.guard && h.epoch != 0 {
		if m.ready(opDisarm, e, out) {
			return opDisarm, true
		}
		h.why = "still armed: " + h.refused
	}
	return opNone, false
}

// arm puts a VM that is here under the guard, or says why not.
func (m *machine) arm(e env, out *output) op {
	switch {
	case !e.guard:
		m.hold.why = "not armed: no guard answers on this node"
	case !e.leased():
		m.hold.why = "not armed: this node has no lease"
	case m.term != e.term:
		m.hold.why = "not armed: the servers have not confirmed the VM since this node lost its lease"
	case m.RunEpoch != m.Epoch: // first the epoch, then the guard
	case m.ready(opArm, e, out):
		return opArm
	default:
		m.hold.why = "not armed: " + m.hold.refused
	}
	return opNone
}

// resume runs a paused guest: a guarded one only while the guard holds it, and
// one of which the servers think so only once they know better.
func (m *machine) resume(e env, out *output) op {
	switch {
	case m.guarded(e) && mutant.On(mutant.RunUnarmed):
		return opResume
	case m.guarded(e) && !m.held():
		return m.arm(e, out)
	case m.guarded(e) && (!e.leased() || m.term != e.term):
		m.hold.why = "not resumed: this node has no lease"
		return opNone
	case !m.guarded(e) && m.Told:
		m.hold.why = "not resumed: the servers still count on the guard"
		return opNone
	case m.ready(opResume, e, out):
		return opResume
	}
	return opNone
}

// barred says why a VM must not be started now; empty if it may.
func (m *machine) barred(e env) string {
	switch {
	case !m.guarded(e) && m.Told:
		return "not started: the servers still count on the guard"
	case !m.guarded(e) && m.HA == api.HARestart && m.term != e.term: // disarming confirms nothing
		return unconfirmed
	case !m.guarded(e):
		return ""
	case !e.guard:
		return "not started: ha = restart needs a guard, and none answers on this node"
	case !e.leased():
		return "not started: this node has no lease"
	case e.doubt:
		return "not started: no server has acknowledged this node's last beats"
	case m.term != e.term:
		return unconfirmed
	}
	return ""
}

const unconfirmed = "not started: the servers have not confirmed the VM since this node lost its lease"

// wavers: a copy of the VM to another node must not begin now.
func (m *machine) wavers(e env) bool {
	return m.guarded(e) && m.Alive && (e.doubt || !e.leased())
}

// unfit: a guest that may run only under the guard must not come in now, since it
// could not be armed here, nor go on.
func (m *machine) unfit(e env) bool {
	return m.comesGuarded && !e.disarm && m.Move.Mode != api.MigrateCold && (e.doubt || !e.leased())
}

// finishHold takes in the outcome of an op at the guard.
func (m *machine) finishHold(ev event, e env) {
	h := &m.hold
	if ev.res == resNotFound { // the domain, not the guard
		m.look = true
	}
	if ev.res != resOK {
		m.delay(ev.op, e.now)
		h.maybe = h.maybe || ev.res == resUnknown
		h.refused = ev.message
		return
	}
	m.wait[ev.op] = backoff{}
	h.refused, h.maybe = "", false
	if ev.op == opDisarm {
		h.epoch, h.mine = 0, false
		return
	}
	h.epoch, h.mine, h.was = ev.epoch, true, true
}

// guardSays takes in what the guard holds.
func (m *machine) guardSays(ev event) {
	if m.busy == opArm || m.busy == opDisarm { // overtaken
		return
	}
	h := &m.hold
	h.was = h.was || ev.epoch != 0
	h.epoch, h.mine, h.maybe = ev.epoch, ev.mine && m.Alive, false
}

// arming: the guest stands still only until the guard holds it.
func (m *machine) arming(d dom) bool {
	return m.HA == api.HARestart && m.Desired == api.PowerRunning && d.kind == domPaused && starting(d.reason) && !m.foreign()
}

// starting: the guest has never run in this domain.
func starting(reason string) bool {
	return reason == "starting-up" || reason == hypervisor.ReasonComplete
}
