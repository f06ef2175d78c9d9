package client

import (
	"time"

	"github.com/novacron/novacron/agent/guard"
	hostleases "github.com/novacron/novacron/cluster/lease"
)

// The guard and the watchdog of a simulated host: the real guard.Step.

func (h *leaseHost) guardStarts() {
	h.guardUp = true
	h.guardRun++
	h.guardLife++
	h.g = guard.NewState(h.bootID(), guard.Limits{}, h.saved)
	h.guardDo(guard.Event{Kind: guard.Tick})
}

func (h *leaseHost) guardDies(back time.Duration) {
	if !h.guardUp {
		return
	}
	h.guardUp = false
	h.guardLife++
	life := h.guardLife
	h.w.at(back, func() {
		if h.up && h.guardLife == life {
			h.guardStarts()
		}
	})
}

func (h *leaseHost) proc() guard.Process { return guard.Process{PID: h.pid, Start: uint64(h.pid)} }

// guardDo is one turn of the guard: what it reads, then an event, then what follows.
func (h *leaseHost) guardDo(ev guard.Event) guard.Output {
	if h.file.Sequence != h.g.Lease.Sequence {
		h.guardStep(guard.Event{Kind: guard.LeaseRead, Lease: h.file})
	}
	for _, a := range h.g.Armed {
		if h.d.kind == domAbsent || a.Process.PID != h.pid {
			h.guardStep(guard.Event{Kind: guard.Gone, Target: a.Target})
		}
	}
	out := h.guardStep(ev)
	life := h.guardLife
	h.w.at(h.clock.takes(max(out.Wake-h.now(), 0))+h.w.dur(20*time.Millisecond), func() { h.guardTick(life) })
	return out
}

func (h *leaseHost) guardTick(life int) {
	switch {
	case h.guardLife != life:
	case h.guardFrozen > h.w.now:
		h.w.at(h.guardFrozen-h.w.now+1, func() { h.guardTick(life) })
	default:
		h.guardLife++ // one timer only
		h.guardDo(guard.Event{Kind: guard.Tick})
	}
}

// guardHears gives the guard an event that waits while it is frozen.
func (h *leaseHost) guardHears(kind guard.Kind) {
	of := h.guardRun
	var run func()
	run = func() {
		switch {
		case !h.guardUp || h.guardRun != of:
		case h.guardFrozen > h.w.now:
			h.w.at(h.guardFrozen-h.w.now+1, run)
		default:
			h.guardDo(guard.Event{Kind: kind})
		}
	}
	run()
}

func (h *leaseHost) guardStep(ev guard.Event) guard.Output {
	ev.Now = h.now()
	var out guard.Output
	h.g, out = guard.Step(h.g, ev)
	if out.Save {
		h.saved = h.g
	}
	for _, t := range out.Kill {
		if t.Process.PID != h.dying {
			h.dying = t.Process.PID
			pid := h.dying
			if h.w.classA && h.w.chance(4) {
				continue // no signal kills it
			}
			h.w.at(h.w.dur(2*time.Second), func() { h.ends(pid, "killed") })
		}
	}
	if out.Pet {
		h.pet()
	}
	if armed := len(h.g.Armed) > 0; h.w.classA && h.g.Deserves() && armed != h.wdOpen {
		h.wdOpen = armed
		h.pet()
	}
	return out
}

// pet pets the watchdog, which resets the machine when it is not petted again.
func (h *leaseHost) pet() {
	h.petted = h.w.now
	boot := h.boot
	h.w.at(h.clock.takes(hostleases.Default.Watchdog), func() {
		if h.boot == boot && h.up && h.wdOpen && h.w.now-h.petted >= h.clock.takes(hostleases.Default.Watchdog) {
			h.w.trace("the watchdog resets %s", h.name)
			h.reset()
		}
	})
}

func (h *leaseHost) guardAnswers() bool { return h.guardUp && h.guardFrozen <= h.w.now }

// ends ends a process.
func (h *leaseHost) ends(pid int, exit string) {
	if h.pid == pid && h.d.kind != domAbsent {
		h.w.stops(h)
		h.d = dom{kind: domAbsent, exit: exit}
		h.w.at(h.w.dur(time.Second), h.agent(func() { h.step(event{kind: evLook}) }))
	}
}
