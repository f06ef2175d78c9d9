package client

import (
	"fmt"
	"time"

	"github.com/novacron/novacron/agent/guard"
	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// perform makes an op's effect on what is true, and tells the outcome.
func (h *simHost) perform(o op, m machine) {
	done := event{kind: evDone, op: o, epoch: m.Epoch}
	switch o {
	case opMoveOut:
		h.send(m)
		return
	case opMovePull:
		h.fetch(m)
		return
	case opAttest:
		done.epoch = m.Tomb
	case opArm, opDisarm:
		done.epoch = m.RunEpoch
	}
	calls := o != opMoveIn && o != opMoveClean && o != opPrepare && o != opDisarm // the hypervisor
	if calls && h.mute > h.w.now {
		done.res, done.message = resUnknown, "silence"
	} else {
		done.res, done.message = h.effect(o, m, &done)
	}
	if done.res == resOK && (calls || o == opDisarm) && h.w.chance(40) {
		done.res = resUnknown // the answer is lost
	}
	h.step(done)
	if done.res == resUnknown {
		h.w.at(time.Second, h.agent(func() { h.step(event{kind: evSeen, dom: h.look()}) }))
	}
}

func (h *simHost) effect(o op, m machine, done *event) (result, string) {
	here := h.d.kind != domAbsent
	switch o {
	case opInspect:
		done.dom = h.look()
		return resOK, ""
	case opPrepare:
		if *h.disk() == 0 {
			if !h.w.fresh {
				return resFailed, "the disk is gone"
			}
			h.w.fresh, *h.disk() = false, max(h.w.newest, 1)
			h.w.newest = *h.disk()
		}
		if !h.mail.volume {
			h.mail.volume = true
			h.post()
		}
		return resOK, ""
	case opAttest, opMoveAttest:
		if here {
			return resExists, "it is here"
		}
		return resOK, ""
	case opStart:
		return h.startGuest(m, done)
	case opMoveIn:
		if h.w.chance(40) {
			return resFailed, "no room"
		}
		if m.Move.Mode != api.MigrateCold {
			h.gate = m.Move.ID
		}
		if !h.w.ha && h.local == 0 {
			h.local = -1
		}
		return resOK, ""
	case opMoveClean:
		h.gate = api.ID{}
		return h.clean(m)
	case opMoveEnd:
		if h.job != nil && !h.job.pull {
			h.stop(h.job, "the agent was restarted")
		}
		return resOK, "the agent was restarted during the move"
	case opArm:
		return h.arm(m, here)
	case opDisarm:
		if !h.guardAnswers() {
			return resUnknown, "the guard does not answer"
		}
		if out := h.guardDo(guard.Event{Kind: guard.Disarm, Target: guard.Target{VM: vm1, Epoch: m.RunEpoch}}); out.Verdict != guard.Accepted {
			return resFailed, fmt.Sprint("verdict ", out.Verdict)
		}
		h.checkDisarm()
		return resOK, ""
	}
	if !here {
		return resNotFound, "no such domain"
	}
	switch o {
	case opShutdown, opDestroy:
		h.w.ends(h, m)
		h.gone("destroyed")
	case opPause:
		h.set(dom{kind: domPaused, reason: "user", epoch: h.d.epoch, version: h.d.version})
	case opResume:
		if h.d.kind == domPaused {
			h.checkHeld()
			h.set(dom{kind: domRunning, epoch: h.d.epoch, version: h.d.version})
		}
	case opSetEpoch:
		h.d.epoch = m.Epoch
	case opReboot, opReset:
	default:
		h.w.violation("%s: op %s", h.name, o)
	}
	return resOK, ""
}

func (h *simHost) startGuest(m machine, done *event) (result, string) {
	if h.d.kind != domAbsent {
		return resExists, "it is here"
	}
	if *h.disk() <= 0 {
		h.w.violation("%s starts from a disk that is not whole", h.name)
	}
	h.w.begun(h)
	d := dom{kind: domRunning, epoch: m.Epoch, version: m.SpecVersion}
	switch {
	case m.Desired == api.PowerPaused:
		d.kind, d.reason = domPaused, "user"
	case m.HA == api.HARestart:
		d.kind, d.reason = domPaused, "starting-up"
	}
	h.begins(d)
	done.dom = h.d
	return resOK, ""
}

func (h *simHost) arm(m machine, here bool) (result, string) {
	switch {
	case !here:
		return resNotFound, "no such domain"
	case !h.guardAnswers():
		return resUnknown, "the guard does not answer"
	}
	out := h.guardDo(guard.Event{Kind: guard.Arm, Target: guard.Target{VM: vm1, Epoch: m.RunEpoch, Process: h.proc()}})
	if out.Verdict != guard.Accepted {
		return resFailed, fmt.Sprint("verdict ", out.Verdict)
	}
	if h.now() >= h.g.Lease.Deadline {
		h.w.violation("the guard of %s arms after the deadline", h.name)
	}
	return resOK, ""
}

// checkHeld demands that the guard holds a guest that is to run only under it.
func (h *simHost) checkHeld() {
	if !h.guarded {
		return
	}
	for _, a := range h.saved.Armed {
		if a.Process == h.proc() {
			return
		}
	}
	h.w.violation("the guest runs on %s, and no guard holds it", h.name)
}

// checkDisarm demands that the servers count no more on a guard that has let go.
func (h *simHost) checkDisarm() {
	if h.d.kind != domRunning {
		return
	}
	h.w.disarms++
	if p := h.w.state().Placement(vm1); p != nil && p.NodeID == h.id && p.Armed {
		h.w.violation("the guard of %s lets go, and the servers count on it", h.name)
	}
}

// clean removes or sets aside the disk, and checks that it may.
func (h *simHost) clean(m machine) (result, string) {
	owner, _ := h.w.owner()
	switch {
	case h.w.ha:
	case m.foreign():
		if owner == h.id {
			h.w.violation("%s removes the disk of a VM that it owns", h.name)
		}
		if h.d.kind != domAbsent && h.d.reason != hypervisor.ReasonIncoming {
			h.w.violation("%s removes the disk under a guest", h.name)
		}
		h.local = 0
	case !m.Move.In && (m.Move.Phase == api.MigrationCommitted || m.Move.Phase == api.MigrationDone):
		if owner == h.id {
			h.w.violation("%s sets aside the disk of a VM that it owns", h.name)
		}
		if h.local != 0 {
			h.local, h.aside = 0, true
		}
	}
	return resOK, ""
}
