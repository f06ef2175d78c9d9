package client

import (
	"fmt"
	"time"

	"github.com/novacron/novacron/agent/guard"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/boottime"
	hostleases "github.com/novacron/novacron/cluster/lease"
)

// simHost is one host: its hypervisor, its guard with the watchdog, and its agent
// with the real machines. Of the hypervisor everything is known.
type simHost struct {
	w    *simWorld
	name string
	id   api.ID

	// The machine.
	clock   simClock
	wall    time.Duration // how far the wall clock was set back
	boot    int
	up      bool
	cut     time.Duration // no packet to or from a server passes until then
	slow    time.Duration // answers are late until then
	bound   time.Duration // until then its beats reach only boundTo
	boundTo *simServer
	mute    time.Duration // until then its hypervisor does not answer
	d       dom           // of the guest; kind is absent, running or paused
	guest   int           // which run of the guest it is: a move keeps it, a start makes another
	mem     int           // how far this copy of the guest is
	local   int           // how far the local disk is, 0 none, -1 half copied
	aside   bool          // an old disk was set aside
	job     *simJob       // a guest or its disks that go out from here
	gate    api.ID        // the migration whose tunnel is let in
	pid     int
	wdOpen  bool
	petted  time.Duration
	ackedAt time.Duration // when it was heard last: a beat that earned a lease, a registration

	// The guard.
	guardUp     bool
	guardRun    int // rises with each start of the guard
	guardLife   int // and with each of its timers
	guardFrozen time.Duration
	g           guard.State
	saved       guard.State
	file        guard.Lease
	dying       int // pid

	simAgent
}

func newSimHost(w *simWorld, i int) *simHost {
	h := &simHost{w: w, name: string(rune('a' + i)), id: api.ID{0xa0 + byte(i)}, pid: 1000 * (i + 1)}
	h.record, h.d = record{ID: vm1}, dom{kind: domAbsent}
	return h
}

func (h *simHost) bootID() api.ID { return api.ID{0xb0, h.id[0], byte(h.boot)} }

// now is the time by the clock that leases count on.
func (h *simHost) now() time.Duration { return h.clock.read(boottime.Clock(), h.wall) }

// boots starts the machine: nothing runs.
func (h *simHost) boots() {
	h.boot++
	h.up, h.clock, h.wall, h.frozen, h.guardFrozen, h.mute = true, newSimClock(h.w), 0, 0, 0, 0
	h.file, h.wdOpen = guard.Lease{}, false
	h.guardStarts()
	h.agentStarts()
}

// reset ends everything on the machine at once.
func (h *simHost) reset() {
	if !h.up {
		return
	}
	h.up, h.agentUp, h.guardUp, h.wdOpen = false, false, false, false
	h.gate = api.ID{}
	h.life++
	h.guardLife++
	h.dies("")
	if j := h.incoming(); j != nil { // the disks of a cold move
		j.from.stop(j, "the other machine is gone")
	}
	if j := h.job; j != nil && j.pull {
		h.stop(j, "the machine is gone")
	}
	off := 20 * time.Second
	if h.w.chance(3) {
		off = 3 * time.Minute
	}
	h.w.at(time.Second+h.w.dur(off), h.boots)
}

// lost: trouble takes what is on a host.
func (w *simWorld) lost(h *simHost) {
	if !h.whole() {
		return
	}
	w.over = true
}

// dies ends the guest's process by no order.
func (h *simHost) dies(exit string) {
	h.w.lost(h)
	h.gone(exit)
}

// gone: the guest's process on this host has ended.
func (h *simHost) gone(exit string) {
	if h.d.kind == domAbsent {
		h.d.exit = exit
		return
	}
	if h.d.kind == domRunning {
		h.w.trace("the guest has stopped on %s", h.name)
		h.w.ended = h.w.now
	}
	h.d = dom{kind: domAbsent, exit: exit}
	if j := h.job; j != nil && !j.pull {
		h.bereft(j)
	}
	if j := h.incoming(); j != nil && !j.pull && !j.finished {
		j.from.stop(j, "the incoming guest has ended")
	}
	h.event()
}

// look is what the hypervisor answers.
func (h *simHost) look() dom {
	if h.mute > h.w.now {
		return dom{kind: domUnknown}
	}
	return h.d
}

// set changes the domain and checks that the guest runs once, where it may.
func (h *simHost) set(d dom) {
	was := h.d.kind
	h.d = d
	switch {
	case d.kind == domRunning && was != domRunning:
		h.w.runs(h)
	case d.kind != domRunning && was == domRunning:
		h.w.ended = h.w.now
	}
}

// begins puts a process on the host.
func (h *simHost) begins(d dom) {
	h.pid++
	h.set(d)
}

// event is the hypervisor's word that something happened; it may be lost.
func (h *simHost) event() {
	if !h.w.chance(10) {
		h.w.at(h.w.dur(300*time.Millisecond), h.agent(func() { h.step(event{kind: evLook}) }))
	}
}

func (h *simHost) node() api.Node {
	class := api.GuardLeaseOnly
	if h.w.classA {
		class = api.GuardWatchdog
	}
	return api.Node{
		ID: h.id, Name: h.name, Datacenter: "d", Region: "r", Address: h.name + ":1", BootID: h.bootID().String(), MachineID: h.name, ProductUUID: h.name, Guard: class,
		Drivers: []api.DriverInfo{{Name: "sim", Healthy: true, Can: []string{"migrate"}}}, Capacity: api.Resources{CPU: 8000, Memory: 16 * api.GiB}, Networks: []string{"br0"},
		Pools: []api.NodePool{{Name: "default", Type: "dir", Capacity: 100 * api.GiB}, {Name: "san", Type: "sim", Shared: true, Capacity: 100 * api.GiB}},
	}
}

func (h *simHost) String() string {
	return fmt.Sprintf("%s up=%v/%v dom=%v/%q guest=%d disk=%d gate=%v hold=%+v move=%+v state=%s/%s/%s epoch=%d busy=%s",
		h.name, h.up, h.agentUp, h.d.kind, h.d.reason, h.guest, h.local, !h.gate.IsZero(), h.m.hold, h.m.Move, h.m.State, h.m.Reason, h.m.Message, h.m.Epoch, h.m.busy)
}

// The guard and the watchdog: the real guard.Step.

func (h *simHost) guardStarts() {
	h.guardUp = true
	h.guardRun++
	h.guardLife++
	h.g = guard.NewState(h.bootID(), guard.Limits{}, h.saved)
	h.guardDo(guard.Event{Kind: guard.Tick})
}

func (h *simHost) guardDies(back time.Duration) {
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

func (h *simHost) proc() guard.Process { return guard.Process{PID: h.pid, Start: uint64(h.pid)} }

// guardDo is one turn of the guard: what it reads, then an event, then what follows.
func (h *simHost) guardDo(ev guard.Event) guard.Output {
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

func (h *simHost) guardTick(life int) {
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
func (h *simHost) guardHears(kind guard.Kind) {
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

func (h *simHost) guardStep(ev guard.Event) guard.Output {
	ev.Now = h.now()
	var out guard.Output
	h.g, out = guard.Step(h.g, ev)
	if out.Save {
		h.saved = h.g
	}
	for _, t := range out.Kill {
		if t.Process.PID == h.dying {
			continue
		}
		h.dying = t.Process.PID
		pid := h.dying
		if h.w.classA && h.w.chance(4) {
			continue // no signal kills it
		}
		h.w.at(h.w.dur(2*time.Second), func() {
			if h.pid == pid && h.d.kind != domAbsent {
				h.w.trace("the guard of %s has killed", h.name)
				h.dies(exitFenced)
			}
		})
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
func (h *simHost) pet() {
	h.petted = h.w.now
	if !h.wdOpen {
		return
	}
	boot := h.boot
	h.w.at(h.clock.takes(hostleases.Default.Watchdog), func() {
		if h.boot == boot && h.up && h.wdOpen && h.w.now-h.petted >= h.clock.takes(hostleases.Default.Watchdog) {
			h.w.trace("the watchdog resets %s", h.name)
			h.reset()
		}
	})
}

func (h *simHost) guardAnswers() bool { return h.guardUp && h.guardFrozen <= h.w.now }
