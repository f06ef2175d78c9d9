package client

import (
	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// decide chooses the next op from what is wanted and what is seen. It is level
// triggered: called as often as one likes, it asks for nothing twice that is
// already so.
func (m *machine) decide(e env, out *output) op {
	m.hold.why = ""
	if o, done := m.decideHold(e, out); done {
		return o
	}
	if m.look || m.dom.kind == domUnseen {
		return opInspect
	}
	if m.doubt && m.since != 0 && m.dom.kind == domUnknown {
		if at := m.since + api.Time(doubtTime); e.now < at {
			out.wakeAt(min(at, e.now+api.Time(doubtTime)))
		} else if m.ready(opInspect, e, out) {
			return opInspect
		}
	}
	if e.hold || m.dom.kind == domUnknown {
		return opNone
	}
	if o, done := m.decideMove(e, out); done {
		return o
	}
	if m.Tomb > 0 {
		if o, done := m.decideTomb(e, out); !done {
			return o
		}
	}
	if m.Revoked || !m.confirmed {
		return opNone
	}
	if m.Alive {
		return m.decideAlive(e, out)
	}
	return m.decideAbsent(e, out)
}

// decideTomb brings the VM to absence at the tombstone's epoch. A paused guest
// is not resumed for it: it may be an old copy of one that runs elsewhere.
func (m *machine) decideTomb(e env, out *output) (o op, done bool) {
	if m.Alive && m.RunEpoch > m.Tomb { // what runs here is newer: nothing to stop
		out.attested = m.Tomb
		m.fulfil()
		return opNone, true
	}
	if m.Alive {
		return m.stop(m.TombForce || m.dom.kind != domRunning, e, out), false
	}
	if m.ready(opAttest, e, out) {
		return opAttest, false
	}
	return opNone, false
}

// stop asks the guest to power off, and forces it when its time has passed.
func (m *machine) stop(force bool, e env, out *output) op {
	timeout := m.StopTimeout.D()
	if timeout <= 0 {
		timeout = defaultStopTimeout
	}
	latest := e.now + api.Time(timeout)
	if m.Phase != phaseStop {
		m.Phase, m.StopBy = phaseStop, latest
		m.State, m.Reason, m.Message = api.StateStopping, reasonOrdered, ""
	}
	m.StopBy = min(m.StopBy, latest) // a clock that was set back must not make it longer
	if force || e.now >= m.StopBy || m.dom.kind == domDead {
		if m.ready(opDestroy, e, out) {
			return opDestroy
		}
		return opNone
	}
	out.wakeAt(m.StopBy)
	if m.dom.kind == domPaused { // a paused guest hears no ACPI
		return m.resume(e, out)
	}
	if m.ready(opShutdown, e, out) {
		return opShutdown
	}
	return opNone
}

// decideAlive brings a domain that is there to what is wanted.
func (m *machine) decideAlive(e env, out *output) op {
	if m.RunEpoch > m.Epoch {
		m.Message = "the domain was given a newer epoch than the order: left alone"
		return opNone
	}
	if m.remnant() {
		return m.stop(true, e, out)
	}
	if m.Desired == api.PowerStopped {
		return m.stop(m.Force, e, out)
	}
	if m.Phase == phaseStop { // wanted again while it stops: let the guest have its time
		if e.now < m.StopBy && m.dom.kind != domDead {
			out.wakeAt(m.StopBy)
			return opNone
		}
		m.Phase, m.StopBy = "", 0
		m.adopt(m.dom, e)
	}
	if m.dom.kind == domDead {
		if m.ready(opDestroy, e, out) {
			return opDestroy
		}
		return opNone
	}
	if m.RunEpoch < m.Epoch && m.ready(opSetEpoch, e, out) {
		return opSetEpoch
	}
	if m.guarded(e) && !m.held() {
		if o := m.arm(e, out); o != opNone {
			return o
		}
	}
	if m.Desired == api.PowerPaused && m.dom.kind == domRunning && m.ready(opPause, e, out) {
		return opPause
	}
	if m.Desired == api.PowerRunning && m.dom.kind == domPaused && (m.Unpause || resumable(m.dom.reason) || m.stranded()) {
		if o := m.resume(e, out); o != opNone {
			return o
		}
	}
	return m.decideCounters()
}

// remnant: what is here is half a guest that began to come in when its move was
// over here already, as when the hypervisor comes late to a call. It will never be
// whole, and the VM is of this node now.
func (m *machine) remnant() bool {
	return m.Move.IsZero() && m.dom.kind == domPaused && m.dom.reason == hypervisor.ReasonIncoming
}

// stranded: it stands still for a move that is off. It was not resumed then, because
// it was to be stopped, and is wanted again.
func (m *machine) stranded() bool {
	off := m.Move.IsZero() || !m.Move.In && m.Move.Phase == api.MigrationAborted
	return off && m.dom.reason == hypervisor.ReasonMigrating
}

// decideCounters executes a reboot or a reset. It is counted as done in the
// same write that precedes the call, so it can be lost but never doubled.
func (m *machine) decideCounters() op {
	if m.DoneResets < m.Resets {
		m.DoneResets, m.DoneReboots = m.Resets, max(m.DoneReboots, m.Reboots)
		return opReset
	}
	if m.DoneReboots < m.Reboots {
		m.DoneReboots = m.Reboots
		if m.dom.kind == domRunning {
			return opReboot
		}
		m.Message = "reboot: the guest is paused"
	}
	return opNone
}

// decideAbsent starts what is wanted and is not there.
func (m *machine) decideAbsent(e env, out *output) op {
	m.DoneReboots, m.DoneResets = max(m.DoneReboots, m.Reboots), max(m.DoneResets, m.Resets)
	if m.Desired == api.PowerStopped {
		if m.State != api.StateStopped {
			m.State, m.Reason, m.Message = api.StateStopped, reasonOrdered, ""
		}
		m.NextStart = 0
		return opNone
	}
	if m.Ended {
		return opNone
	}
	if m.State == api.StateStopped { // it is to run
		m.State, m.Reason, m.Message = api.StatePending, "", ""
	}
	_, interval, delay := limits(m.Restart)
	m.NextStart = min(m.NextStart, e.now+api.Time(max(interval, delay))) // also after the clock was set back
	if m.NextStart > e.now {
		out.wakeAt(m.NextStart)
		return opNone
	}
	if m.hold.why = m.barred(e); m.hold.why != "" {
		return opNone
	}
	if !m.prepared {
		if !m.ready(opStart, e, out) || !m.ready(opPrepare, e, out) {
			return opNone
		}
		if m.State != api.StatePreparing {
			m.State, m.Reason = api.StatePreparing, ""
		}
		return opPrepare
	}
	m.hold.epoch, m.hold.mine = 0, false // what is there still is of an earlier process
	m.Phase, m.Alive, m.RunEpoch, m.RunVersion, m.BootID = phaseStart, true, m.Epoch, m.SpecVersion, e.boot
	m.State, m.Reason, m.StartTime = api.StateStarting, "", 0
	return opStart
}

// resumable reports whether a guest that is wanted running may be resumed when
// it was found paused: not when something still holds it for a reason.
func resumable(reason string) bool {
	switch reason {
	case "", "user", "starting-up", "unknown", hypervisor.ReasonComplete:
		return true
	}
	return false
}
