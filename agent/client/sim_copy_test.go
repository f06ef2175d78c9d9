package client

import (
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// simJob is a copy under way: of a guest, by its source, or of the disks of one
// that is stopped, by the destination.
type simJob struct {
	from, to *simHost
	pull     bool
	cut      bool
	switched bool
	finished bool                         // the destination has been told that all is there
	pid      int                          // of what comes in
	done     func(res result, why string) // tells the agent that waits for it
}

// incoming is the job whose destination a host is.
func (h *simHost) incoming() *simJob {
	for _, o := range h.w.hosts {
		if o.job != nil && o.job.to == h {
			return o.job
		}
	}
	return nil
}

// apart reports whether the tunnel between two hosts is dead.
func (w *simWorld) apart(a, b *simHost) bool {
	return w.link > w.now || !a.agentUp || !b.agentUp || a.frozen > w.now || b.frozen > w.now
}

// stage goes on with a copy after a while, unless it was cut.
func (w *simWorld) stage(j *simJob, f func()) {
	d := w.dur(2 * time.Second)
	if w.chance(12) {
		d = w.dur(40 * time.Second)
	}
	w.at(d, func() {
		switch {
		case j.cut:
		case w.apart(j.from, j.to):
			j.from.stop(j, "the tunnel is dead")
		default:
			f()
		}
	})
}

// waiter tells the agent that has asked for a copy what became of it.
func (h *simHost) waiter(o op) func(result, string) {
	tell := h.life
	return func(res result, why string) {
		h.w.at(1, h.agentOf(tell, func() { h.step(event{kind: evDone, op: o, res: res, message: why}) }))
	}
}

// send is a copy from here, in the stages of a real one. Trouble may come between
// any two.
func (h *simHost) send(m machine) {
	j := &simJob{from: h, done: h.waiter(opMoveOut)}
	if g := h.w.state().Migration(m.Move.ID); g != nil {
		j.to = h.w.host(g.To)
	}
	switch {
	case h.canceled:
		j.done(resFailed, "aborted")
		return
	case h.mute > h.w.now || h.d.kind == domAbsent || h.d.reason == hypervisor.ReasonIncoming || h.job != nil:
		j.done(resFailed, "the guest is not here")
		return
	case j.to == nil || j.to.gate != m.Move.ID || j.to.mute > h.w.now || h.w.apart(h, j.to) || j.to.d.kind != domAbsent:
		j.done(resFailed, "the destination does not answer")
		return
	}
	h.job = j
	if m.Move.Paused {
		h.set(dom{kind: domPaused, reason: "user", epoch: h.d.epoch, version: h.d.version})
	}
	paused := h.d.kind == domPaused
	to := j.to
	to.begins(dom{kind: domPaused, reason: hypervisor.ReasonIncoming, epoch: h.d.epoch, version: h.d.version})
	to.guest, to.mem, j.pid = h.guest, 0, to.pid
	h.w.stage(j, func() {
		to.event()
		h.w.stage(j, func() {
			j.switched = true
			d := h.d
			if !paused {
				d.kind = domPaused
			}
			d.reason = hypervisor.ReasonMigrating
			h.set(d)
			h.event()
			h.w.stage(j, func() {
				j.arrives()
				h.w.stage(j, func() { h.handedOver(j) })
			})
		})
	})
}

// handedOver: the source's process has ended, as it was to. The agent is told at
// once, if its watch has not missed it; the call comes back when the hypervisor has
// tidied up, and by then it may have lost its answer.
func (h *simHost) handedOver(j *simJob) {
	h.job = nil
	h.d = dom{kind: domAbsent, exit: "migrated"}
	if h.w.rng.IntN(3) == 0 {
		j.done(resOK, "")
		h.event()
		return
	}
	h.w.at(h.w.dur(300*time.Millisecond), h.agent(func() { h.step(event{kind: evGone}) }))
	h.w.at(h.w.dur(2*time.Second), func() {
		switch {
		case h.w.chance(5):
			j.done(resUnknown, "libvirtd was restarted")
			h.w.at(time.Second, h.agent(func() { h.step(event{kind: evSeen, dom: h.look()}) }))
		case h.w.chance(5):
			j.done(resFailed, "the link was cut")
		default:
			j.done(resOK, "")
		}
		h.event()
	})
}

// arrives: all is at the destination.
func (j *simJob) arrives() {
	j.finished = true
	j.to.d.reason = hypervisor.ReasonComplete
	j.to.mem = j.from.mem
	if !j.from.w.ha {
		j.to.local = j.from.local
	}
	j.to.event()
}

// ends ends what is half here; trouble may bring it back for a while.
func (j *simJob) ends() {
	if j.finished || j.to.pid != j.pid || j.to.d.kind == domAbsent {
		return
	}
	epoch := j.to.d.epoch
	j.to.gone("failed")
	if j.to.w.chance(4) {
		j.to.late(epoch)
	}
}

// stop ends a copy before its end, as stock libvirt does: the source goes on, also
// when the destination is complete already.
func (h *simHost) stop(j *simJob, why string) {
	if j.cut || h.job != j {
		return
	}
	h.w.trace("the copy from %s is cut: %s", h.name, why)
	j.cut, h.job = true, nil
	if j.pull {
		j.done(resFailed, why)
		return
	}
	j.ends()
	switch {
	case h.d.kind == domAbsent:
	case j.switched && h.w.chance(3): // libvirtd was restarted: left as it was
	case j.switched && h.m.Move.Paused:
		h.d.kind, h.d.reason = domPaused, "user"
	case j.switched || h.d.kind == domRunning:
		if j.finished {
			h.w.wentOn++
		}
		h.set(dom{kind: domRunning, epoch: h.d.epoch, version: h.d.version})
	}
	res := resFailed
	if h.w.chance(3) {
		res = resUnknown
		h.w.at(time.Second, h.agent(func() { h.step(event{kind: evSeen, dom: h.look()}) }))
	}
	j.done(res, why)
	h.event()
}

// bereft: the source of a copy has ended. What has come in fails, or stays as it is,
// or becomes whole of what was on its way.
func (h *simHost) bereft(j *simJob) {
	j.cut, h.job = true, nil
	j.done(resUnknown, "the guest has ended")
	switch {
	case j.finished:
	case j.switched && h.w.chance(2):
		late := *j
		mem, disk := h.mem, h.local
		h.w.at(h.w.dur(2*time.Minute), func() {
			if to := late.to; to.pid == late.pid && to.d.kind == domPaused && to.d.reason == hypervisor.ReasonIncoming {
				h.w.trace("what came in on %s is whole", to.name)
				to.d.reason, to.mem = hypervisor.ReasonComplete, mem
				if !h.w.ha {
					to.local = disk
				}
				to.event()
			}
		})
	case h.w.chance(2): // nothing more comes
	default:
		j.ends()
	}
}

// late: the destination's hypervisor was told to begin before the cut, and comes
// to it after its agent has proved that nothing is there.
func (h *simHost) late(epoch api.Epoch) {
	h.w.at(h.w.dur(4*time.Second), func() {
		if !h.up || h.d.kind != domAbsent || h.incoming() != nil {
			return
		}
		h.begins(dom{kind: domPaused, reason: hypervisor.ReasonIncoming, epoch: epoch})
		h.guest, h.mem = 0, 0
		pid := h.pid
		h.event()
		h.w.at(10*time.Second, func() {
			if h.pid == pid && h.d.kind == domPaused && h.d.reason == hypervisor.ReasonIncoming {
				h.gone("failed")
			}
		})
	})
}

// fetch copies the disks of a stopped guest to here.
func (h *simHost) fetch(m machine) {
	j := &simJob{to: h, pull: true, done: h.waiter(opMovePull)}
	if g := h.w.state().Migration(m.Move.ID); g != nil {
		j.from = h.w.host(g.From)
	}
	switch {
	case h.canceled:
		j.done(resFailed, "aborted")
		return
	case j.from == nil || h.w.apart(j.from, h) || j.from.job != nil:
		j.done(resUnknown, "the source does not answer") // it is tried again
		return
	case !h.w.ha && j.from.local <= 0:
		j.done(resFailed, "the source has no disk")
		return
	}
	j.from.job = j
	disk := j.from.local
	if !h.w.ha {
		h.local = -1
	}
	h.w.stage(j, func() {
		h.w.stage(j, func() {
			j.from.job = nil
			if !h.w.ha {
				if h.local = disk; j.from.local != disk {
					h.w.violation("the disk that %s fetches from %s changes", h.name, j.from.name)
				}
			}
			j.done(resOK, "")
		})
	})
}
