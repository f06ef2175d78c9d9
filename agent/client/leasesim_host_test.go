package client

import (
	"fmt"
	"time"

	"github.com/novacron/novacron/agent/guard"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/boottime"
	hostleases "github.com/novacron/novacron/cluster/lease"
	"github.com/novacron/novacron/fsm"
)

// leaseHost is one host: its hypervisor, its guard with the watchdog, and its agent
// with the real machines.
type leaseHost struct {
	w    *leaseWorld
	name string
	id   api.ID

	// The machine.
	clock   clock
	wall    time.Duration // how far the wall clock was set back
	boot    int
	up      bool
	cut     time.Duration // no packet passes until then
	slow    time.Duration // answers are late until then
	bound   time.Duration // until then its beats reach only boundTo
	boundTo *leaseServer
	d       dom
	pid     int
	wdOpen  bool
	petted  time.Duration

	// The guard.
	guardUp     bool
	guardRun    int // rises with each start of the guard
	guardLife   int // and with each of its timers
	guardFrozen time.Duration
	g           guard.State
	saved       guard.State
	file        guard.Lease
	dying       int // pid

	// The agent.
	frozen     time.Duration
	life       int
	agentUp    bool
	m          machine
	record     record
	written    bool
	hold       bool
	seesGuard  bool
	lease      hostLease
	lastAck    time.Duration
	session    api.ID
	registered bool
	asking     bool
	seq        uint64
	stream     int
	streamTerm uint64
	said       api.VMReport
	wakeAt     api.Time
}

func newLeaseHost(w *leaseWorld, i int) *leaseHost {
	return &leaseHost{w: w, name: string(rune('a' + i)), id: api.ID{0xa0 + byte(i)}, record: record{ID: vm1}, pid: 1000 * (i + 1)}
}

func (h *leaseHost) bootID() api.ID { return api.ID{0xb0, h.id[0], byte(h.boot)} }

// now is the time by the clock that leases count on.
func (h *leaseHost) now() time.Duration { return h.clock.read(boottime.Clock(), h.wall) }

// boots starts the machine: nothing runs.
func (h *leaseHost) boots() {
	h.boot++
	h.up, h.clock, h.wall, h.frozen, h.guardFrozen = true, newClock(h.w), 0, 0, 0
	h.d, h.file, h.wdOpen = dom{kind: domAbsent}, guard.Lease{}, false
	h.guardStarts()
	h.agentStarts()
}

// reset ends everything on the machine at once.
func (h *leaseHost) reset() {
	if !h.up {
		return
	}
	h.w.stops(h)
	h.up, h.agentUp, h.guardUp, h.wdOpen = false, false, false, false
	h.d = dom{kind: domAbsent}
	h.life++
	h.guardLife++
	h.w.at(time.Second+h.w.dur(20*time.Second), h.boots)
}

// agent makes f wait while the agent is frozen, and do nothing once it is gone.
func (h *leaseHost) agent(f func()) func() {
	life := h.life
	var run func()
	run = func() {
		switch {
		case !h.agentUp || h.life != life:
		case h.frozen > h.w.now:
			h.w.at(h.frozen-h.w.now+1, run)
		default:
			f()
		}
	}
	return run
}

func (h *leaseHost) agentDies(back time.Duration) {
	if !h.agentUp {
		return
	}
	h.agentUp = false
	h.life++
	life := h.life
	h.guardHears(guard.AgentGone)
	h.w.at(back, func() {
		if h.up && h.life == life {
			h.agentStarts()
		}
	})
}

func (h *leaseHost) agentStarts() {
	h.life++
	h.agentUp, h.hold, h.registered, h.asking, h.seesGuard, h.wakeAt = true, true, false, false, false, 0
	h.lease, h.lastAck, h.said = newHostLease(), 0, api.VMReport{}
	h.session = api.ID{0x55, h.id[0], byte(h.life >> 8), byte(h.life)}
	h.m = newMachine(h.record, h.written)
	h.m.ID = vm1
	h.step(event{kind: evSeen, dom: h.d})
	h.lookAtGuard()
	h.register()
	h.beats()
	h.relist()
}

func (h *leaseHost) relist() {
	if h.m.busy == opNone {
		h.step(event{kind: evSeen, dom: h.d})
	}
	h.w.at(5*time.Second, h.agent(h.relist))
}

func (h *leaseHost) env() env {
	return env{
		now: api.Time(h.w.now), boot: h.bootID().String(), hold: h.hold, up: h.now(), deadline: h.lease.deadline,
		guard: h.seesGuard, term: h.lease.term, doubt: h.registered && h.now()-h.lastAck > doubtBeats*hostleases.Default.Heartbeat,
	}
}

// lookAtGuard is what the client's watcher of the guard does.
func (h *leaseHost) lookAtGuard() {
	was := h.seesGuard
	if h.seesGuard = h.guardAnswers(); h.seesGuard {
		ev := event{kind: evGuard}
		for _, a := range h.g.Armed {
			ev.epoch, ev.mine = a.Epoch, a.Process == h.proc() && h.d.kind != domAbsent
		}
		h.step(ev)
	}
	if was != h.seesGuard {
		h.step(event{kind: evTick})
	}
	h.w.at(guardPeriod, h.agent(h.lookAtGuard))
}

func (h *leaseHost) extend(sent, until time.Duration) (lapsed bool) {
	h.file = guard.Lease{BootID: h.bootID(), Sequence: h.file.Sequence + 1, Sent: sent, Deadline: until}
	_, lapsed = h.lease.earn(until, h.now())
	return lapsed
}

// send carries a message to or from the servers, unless the host is cut off.
func (h *leaseHost) send(late time.Duration, f func()) {
	if h.cut > h.w.now || h.w.chance(30) {
		return
	}
	d := h.w.dur(50 * time.Millisecond)
	if h.slow > h.w.now {
		d = h.w.dur(late)
	}
	h.w.at(d, f)
}

func (h *leaseHost) beats() {
	if h.registered {
		sent, session, life := h.now(), h.session, h.life
		s := h.w.leader
		if h.w.chance(4) {
			s = h.w.deposed
		}
		if h.bound > h.w.now {
			s = h.boundTo
		}
		take := func(a hostleases.Answer) {
			h.send(12*time.Second, h.agent(func() {
				if h.life == life { // else an agent before this one asked
					h.beaten(sent, &api.NodeBeaten{Register: a.Register, Lease: api.Duration(a.Lease)})
				}
			}))
		}
		h.send(4*time.Second, func() { s.beat(h, session, take) })
		if h.w.chance(20) {
			h.send(10*time.Second, func() { s.beat(h, session, take) }) // twice
		}
	}
	h.w.at(h.clock.takes(hostleases.Default.Heartbeat), h.agent(h.beats))
}

// beaten is what Client.beaten does.
func (h *leaseHost) beaten(sent time.Duration, ack *api.NodeBeaten) {
	h.lastAck = max(h.lastAck, sent)
	lapsed := false
	if from, until, ok := h.lease.due(sent, h.now(), ack, hostleases.Default.Lease); ok && h.seesGuard {
		lapsed = h.extend(from, until)
	}
	if lapsed || ack.Register {
		h.registered = false
		h.register()
	}
	h.step(event{kind: evTick})
}

// register asks the leader to know this agent, again and again.
func (h *leaseHost) register() {
	if h.asking || h.registered {
		return
	}
	h.asking = true
	term := h.lease.term
	reg := &fsm.NodeRegister{Node: h.node(), SessionID: h.session}
	if (h.m.Epoch != 0 || h.m.Alive) && h.m.dom.kind != domUnseen {
		r := h.m.report()
		h.seq++
		r.Seq, r.Time = h.seq, api.Time(h.w.now)
		reg.Found = []api.VMReport{r}
	}
	done := h.agent(func() {
		h.registered, h.asking, h.lastAck = true, false, h.now()
		h.lease.registered(term, 1, 0)
		h.open()
		h.said = api.VMReport{}
		h.tell(true)
		if h.lease.term != term { // lapsed meanwhile: once more
			h.registered = false
			h.register()
		}
	})
	s := h.w.leader
	h.send(2*time.Second, func() {
		s.awake(func() {
			if h.w.leader != s || h.w.apply(reg).Err != nil {
				return
			}
			s.table.Register(h.id, reg.SessionID, s.now())
			h.send(2*time.Second, done)
		})
	})
	h.w.at(3*time.Second, h.agent(func() {
		if h.asking {
			h.asking = false
			h.register()
		}
	}))
}

func (h *leaseHost) node() api.Node {
	class := api.GuardLeaseOnly
	if h.w.classA {
		class = api.GuardWatchdog
	}
	return api.Node{
		ID: h.id, Name: h.name, Datacenter: "d", Region: "r", Address: h.name + ":1", BootID: h.bootID().String(), MachineID: h.name, ProductUUID: h.name, Guard: class,
		Drivers: []api.DriverInfo{{Name: "sim", Healthy: true}}, Capacity: api.Resources{CPU: 8000, Memory: 16 * api.GiB}, Networks: []string{"br0"},
		Pools: []api.NodePool{{Name: "default", Type: "dir", Capacity: 100 * api.GiB}, {Name: "san", Type: "sim", Shared: true, Capacity: 100 * api.GiB}},
	}
}

// open opens a stream of orders, of the term of the last registration.
func (h *leaseHost) open() {
	h.stream++
	h.streamTerm = h.lease.fresh
	h.w.push(h)
}

// push brings a host what it is to do, late.
func (w *leaseWorld) push(h *leaseHost) {
	if h == nil || !h.agentUp || !h.registered {
		return
	}
	st := w.state()
	vm, p := st.VM(vm1), st.Placement(vm1)
	var orders []*api.Order
	if t := st.Tombstone(h.id, vm1); t != nil {
		orders = append(orders, &api.Order{VMID: vm1, Epoch: t.Epoch, Index: t.CreateIndex, Stop: true, Force: t.Force})
	}
	if p != nil && p.NodeID == h.id {
		orders = append(orders, &api.Order{VMID: vm1, Name: vm.Name, Epoch: p.Epoch, Index: max(p.ModifyIndex, vm.ModifyIndex), Desired: p.Desired, SpecVersion: vm.SpecVersion, Spec: &vm.Spec, Starts: vm.Starts})
	}
	stream, term := h.stream, h.streamTerm
	w.at(w.dur(300*time.Millisecond), h.agent(func() {
		switch {
		case stream != h.stream:
		case h.cut > w.now || w.chance(60): // the stream breaks, and another is opened
			h.stream++
			w.at(max(h.cut-w.now, 0)+time.Second, h.agent(h.open))
		default:
			held := h.hold
			h.hold = false
			for _, o := range orders {
				h.step(event{kind: evOrder, order: o, generation: 1, term: term})
			}
			if held {
				h.step(event{kind: evTick})
			}
		}
	}))
}

func (h *leaseHost) step(ev event) {
	was := h.m
	next, out := step(h.m, ev, h.env())
	if out.verdict == orderAccepted || next.Epoch != 0 && next.durable() != was.durable() {
		h.record, h.written = next.record, true
	}
	h.m = next
	h.w.trace("%s %v op=%s dom=%v hold=%+v told=%v epoch=%d/%d state=%s %s", h.name, ev.kind, out.op, next.dom.kind, next.hold, next.Told, next.Epoch, next.RunEpoch, next.State, next.Reason)
	if out.wake != 0 && out.wake != h.wakeAt {
		h.wakeAt = out.wake
		h.w.at(max(0, time.Duration(out.wake)-h.w.now), h.agent(func() { h.step(event{kind: evTick}) }))
	}
	h.tell(out.attested != 0 || out.verdict == orderRefused || ev.kind == evOrder && ev.order.Stop)
	if out.op != opNone {
		h.w.at(h.w.dur(300*time.Millisecond), h.agent(func() { h.perform(out.op, next) }))
	}
}

// tell reports what is news, until the servers have it.
func (h *leaseHost) tell(force bool) {
	r := h.m.report()
	if h.m.Epoch == 0 || !h.registered || !force && sameReport(r, h.said) && r.Armed == h.said.Armed {
		return
	}
	h.said = r
	h.seq++
	r.Seq, r.Time = h.seq, api.Time(h.w.now)
	session, seq, acked := h.session, h.seq, false
	h.send(5*time.Second, func() {
		s := h.w.leader
		s.awake(func() {
			if h.w.leader != s || h.w.state().Session(h.id) != session {
				return
			}
			h.w.apply(&fsm.NodeReports{Reports: []api.NodeReport{{NodeID: h.id, SessionID: session, VMs: []api.VMReport{r}}}})
			h.send(5*time.Second, h.agent(func() {
				if acked = true; !r.Armed && seq == h.seq && h.m.Told {
					h.step(event{kind: evUnarmed, epoch: r.Epoch})
				}
			}))
		})
	})
	h.w.at(2*time.Second, h.agent(func() {
		if !acked && seq == h.seq {
			h.tell(true)
		}
	}))
}

// perform makes an op's effect on what is true, and tells the outcome.
func (h *leaseHost) perform(o op, m machine) {
	done := event{kind: evDone, op: o, epoch: m.Epoch}
	here := h.d.kind != domAbsent
	switch o {
	case opInspect:
		done.dom = h.d
	case opPrepare, opReboot, opReset:
	case opAttest:
		if done.epoch = m.Tomb; here {
			done.res = resExists
		}
	case opStart:
		if here {
			done.res = resExists
			break
		}
		h.pid++
		h.d = dom{kind: domPaused, reason: "starting-up", epoch: m.Epoch, version: m.SpecVersion}
		done.dom = h.d
	case opArm:
		done.epoch = m.RunEpoch
		switch {
		case !here:
			done.res = resNotFound
		case !h.guardAnswers():
			done.res = resUnknown
		default:
			out := h.guardDo(guard.Event{Kind: guard.Arm, Target: guard.Target{VM: vm1, Epoch: m.RunEpoch, Process: h.proc()}})
			if out.Verdict != guard.Accepted {
				done.res, done.message = resFailed, fmt.Sprint("verdict ", out.Verdict)
			} else if h.now() >= h.g.Lease.Deadline {
				h.w.violation("the guard of %s arms after the deadline", h.name)
			}
		}
	case opResume:
		if h.d.kind != domPaused {
			break
		}
		h.d.kind, h.d.reason = domRunning, ""
		h.w.starts(h, h.d.epoch)
		armed := false
		for _, a := range h.saved.Armed {
			armed = armed || a.Process == h.proc()
		}
		if !armed {
			h.w.violation("the guest runs on %s, and no guard holds it", h.name)
		}
	case opSetEpoch:
		if h.d.epoch = m.Epoch; !here {
			done.res = resNotFound
		}
	case opShutdown, opDestroy:
		if m.Tomb == 0 && m.Phase != phaseFence {
			h.w.violation("%s destroys the guest without an order", h.name)
		}
		h.ends(h.pid, "destroyed")
	default:
		h.w.violation("%s: op %s", h.name, o)
	}
	h.step(done)
	if done.res == resUnknown {
		h.w.at(time.Second, h.agent(func() { h.step(event{kind: evSeen, dom: h.d}) }))
	}
}
