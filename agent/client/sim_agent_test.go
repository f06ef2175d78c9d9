package client

import (
	"time"

	"github.com/novacron/novacron/agent/guard"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/mutant"
	hostleases "github.com/novacron/novacron/cluster/lease"
	"github.com/novacron/novacron/fsm"
)

// simAgent is what an agent knows. What is not journaled is lost with it.
type simAgent struct {
	frozen     time.Duration
	life       int // rises with each start of the agent: what an earlier one was told is lost
	agentUp    bool
	m          machine
	record     record // of the journal
	written    bool
	kept       api.Index // newest batch that was journaled
	noted      api.Index // the newest that goes with the next write
	hold       bool
	seesGuard  bool
	lease      hostLease
	lastAck    time.Duration
	session    api.ID
	registered bool
	asking     bool
	asked      int // registrations
	wakeAt     api.Time
	canceled   bool // the copy that was asked for is not wanted any more
	guarded    bool // what is under way was decided for a VM that runs only under the guard

	seen    api.Index // newest batch
	stream  int       // rises with each stream: batches of an earlier one are not delivered
	opened  hostLease // what counts for this stream
	later   func()    // delivers the orders of the last batch
	batches []*api.OrderBatch
	sent    simSent

	seq      uint64
	armedSeq uint64 // of the newest report that said so
	lastVM   api.VMReport
	lastMove api.MoveReport
	mail     simMail
}

// agent makes f wait while the agent is frozen, and do nothing once it is gone.
func (h *simHost) agent(f func()) func() { return h.agentOf(h.life, f) }

func (h *simHost) agentOf(life int, f func()) func() {
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

// agentDies ends an agent; its copies and tunnels go with it.
func (h *simHost) agentDies(back time.Duration) {
	if !h.agentUp {
		return
	}
	h.agentUp, h.gate = false, api.ID{}
	h.life++
	life := h.life
	if j := h.job; j != nil {
		h.stop(j, "the agent is gone")
	}
	if j := h.incoming(); j != nil {
		j.from.stop(j, "the other agent is gone")
	}
	h.guardHears(guard.AgentGone)
	h.w.at(back, func() {
		if h.up && h.life == life {
			h.agentStarts()
		}
	})
}

func (h *simHost) agentStarts() {
	h.life++
	h.simAgent = simAgent{life: h.life, agentUp: true, frozen: h.frozen, record: h.record, written: h.written, kept: h.kept, noted: h.kept, seen: h.kept, stream: h.stream + 1, hold: true, lease: newHostLease()}
	h.session = api.ID{0x55, h.id[0], byte(h.life >> 8), byte(h.life)}
	h.m = newMachine(h.record, h.written)
	h.m.ID = vm1
	h.step(event{kind: evSeen, dom: h.look()})
	h.lookAtGuard()
	h.register()
	h.beats()
	h.w.at(5*time.Second, h.agent(h.relist))
}

// relist is the agent's look at everything from time to time.
func (h *simHost) relist() {
	if d := h.look(); h.m.busy == opNone && (d.kind != h.m.dom.kind || h.w.rng.IntN(4) == 0) {
		h.step(event{kind: evSeen, dom: d})
	}
	h.w.at(5*time.Second, h.agent(h.relist))
}

func (h *simHost) env() env {
	return env{
		now: api.Time(h.w.now), boot: h.bootID().String(), hold: h.hold, up: h.now(), deadline: h.lease.deadline, known: h.lease.known, disarm: h.lease.disarm,
		guard: h.seesGuard, term: h.lease.term, doubt: h.registered && h.now()-h.lastAck > doubtBeats*hostleases.Default.Heartbeat,
	}
}

// lookAtGuard is what the client's watcher of the guard does.
func (h *simHost) lookAtGuard() {
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

func (h *simHost) extend(sent, until time.Duration) (lapsed bool) {
	h.file = guard.Lease{BootID: h.bootID(), Sequence: h.file.Sequence + 1, Sent: sent, Deadline: until}
	_, lapsed = h.lease.earn(until, h.now())
	return lapsed
}

// message carries one to or from the servers, unless the host is cut off.
func (h *simHost) message(late time.Duration, f func()) {
	if h.cut > h.w.now || h.w.chance(30) {
		return
	}
	d := h.w.dur(50 * time.Millisecond)
	if h.slow > h.w.now {
		d = h.w.dur(late)
	}
	h.w.at(d, f)
}

func (h *simHost) beats() {
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
			disarm := h.w.state().HAConfig().Disarmed
			h.message(12*time.Second, h.agentOf(life, func() {
				h.beaten(sent, &api.NodeBeaten{Register: a.Register, Lease: api.Duration(a.Lease), Disarm: disarm})
			}))
		}
		h.message(4*time.Second, func() { s.beat(h, session, take) })
		if h.w.chance(20) {
			h.message(10*time.Second, func() { s.beat(h, session, take) }) // twice
		}
	}
	h.w.at(h.clock.takes(hostleases.Default.Heartbeat), h.agent(h.beats))
}

// beaten is what Client.beaten does.
func (h *simHost) beaten(sent time.Duration, ack *api.NodeBeaten) {
	h.lastAck = max(h.lastAck, sent)
	h.lease.disarm = ack.Disarm
	lapsed := false
	if from, until, ok := h.lease.due(sent, h.now(), ack, hostleases.Default.Lease); ok {
		_, lapsed = h.lease.promised(until, h.now())
		if h.seesGuard {
			lapsed = h.extend(from, until) || lapsed
		}
	}
	if lapsed || ack.Register {
		h.registered = false
		h.register()
	}
	h.step(event{kind: evTick})
}

// register asks the leader to know this agent, again and again.
func (h *simHost) register() {
	if h.asking || h.registered {
		return
	}
	h.asking = true
	h.asked++
	ask := h.asked
	term := h.lease.registers(h.now())
	reg := &fsm.NodeRegister{Node: h.node(), SessionID: h.session}
	if (h.m.Epoch != 0 || h.m.Alive) && h.m.dom.kind != domUnseen && !h.m.foreign() {
		reg.Found = []api.VMReport{h.stamp()}
	}
	var index api.Index
	done := h.agent(func() {
		if ask != h.asked {
			return // it was given up on
		}
		h.registered, h.asking, h.lastAck = true, false, h.now()
		h.lease.registered(term, 1, index)
		h.open()
		if h.lease.term != term { // lapsed meanwhile: once more
			h.registered = false
			h.register()
			return
		}
		h.lastVM, h.lastMove = api.VMReport{}, api.MoveReport{} // everything is told anew
		h.tell(event{kind: evTick}, output{})
	})
	s := h.w.leader
	h.message(2*time.Second, func() {
		s.awake(func() {
			if h.w.leader != s || h.w.apply(reg).Err != nil {
				return
			}
			index, h.ackedAt = h.w.index, h.w.now
			s.table.Register(h.id, reg.SessionID, s.now())
			h.message(2*time.Second, done)
		})
	})
	h.w.at(3*time.Second, h.agent(func() {
		if h.asking && ask == h.asked {
			h.asking = false
			h.register()
		}
	}))
}

// open opens a stream of orders, of the term of the last registration.
func (h *simHost) open() {
	h.stream++
	h.opened, h.sent = h.lease, simSent{}
	h.w.push(h)
}

// deliver is what Client.apply does with a batch. Between a batch's moves and its
// orders a VM may get as far as one likes, since each is an event of its own.
func (h *simHost) deliver(b *api.OrderBatch) {
	if older(b.Generation, b.Index, 1, max(h.seen, h.opened.index)) {
		return // of a server that lags behind
	}
	h.rest()
	h.seen = b.Index
	if len(b.Orders)+len(b.Moves) > 0 {
		h.noted = b.Index
	}
	held, term := h.hold, h.opened.fresh
	h.hold = false
	for _, o := range b.Moves {
		g := o.Migration
		if h.m.Move.IsZero() && h.m.Epoch == 0 && !h.written && !g.Phase.Open() {
			h.reportMove(api.MoveReport{Migration: g.ID, State: api.EndAbsent, Attempt: g.Attempts, Clean: true, BootID: h.bootID().String()})
			continue
		}
		move := moveOrderOf(g, h.id)
		move.guarded = o.VM != nil && o.VM.Spec.HA.Policy == api.HARestart
		h.step(event{kind: evMove, move: move})
	}
	h.later = func() {
		for _, o := range b.Orders {
			h.step(event{kind: evOrder, order: o, generation: 1, term: term})
		}
		if held {
			h.step(event{kind: evTick})
		}
	}
	if len(b.Moves) > 0 && h.w.chance(20) {
		h.w.at(h.w.dur(10*time.Second), h.agent(h.rest))
		return
	}
	h.rest()
}

// rest delivers what is left of the last batch.
func (h *simHost) rest() {
	if f := h.later; f != nil {
		h.later = nil
		f()
	}
}

// step gives the agent an event and carries out what follows.
func (h *simHost) step(ev event) {
	if !h.agentUp {
		return
	}
	was := h.m
	next, out := step(h.m, ev, h.env())
	if out.verdict == orderAccepted || (next.Epoch != 0 || next.Move != was.Move) && next.durable() != was.durable() {
		if !mutant.On(mutant.JournalLate) || out.op == opNone {
			h.record, h.written = next.record, true
		}
	}
	h.m, h.kept = next, h.noted
	if h.w.show {
		h.w.trace("%s %v op=%s dom=%v/%s hold=%+v told=%v epoch=%d/%d state=%s %s move=%+v", h.name, ev.kind, out.op, next.dom.kind, next.dom.reason,
			next.hold, next.Told, next.Epoch, next.RunEpoch, next.State, next.Reason, next.Move)
	}
	h.canceled = out.op == opNone && (h.canceled || out.cancel) // also what was not begun yet
	if j := h.copying(); out.cancel && j != nil && !j.switched {
		j.from.stop(j, "aborted")
	}
	if out.wake != 0 && out.wake != h.wakeAt {
		h.wakeAt = out.wake
		h.w.at(max(0, time.Duration(out.wake)-h.w.now), h.agent(func() { h.step(event{kind: evTick}) }))
	}
	h.tell(ev, out)
	if out.op != opNone {
		h.guarded = next.guarded(h.env())
		d := h.w.dur(300 * time.Millisecond)
		if out.op != opDestroy && h.w.chance(40) {
			d = h.w.dur(20 * time.Second)
		}
		h.w.at(d, h.agent(func() {
			h.perform(out.op, next)
			if mutant.On(mutant.JournalLate) {
				h.w.at(h.w.dur(300*time.Millisecond), h.agent(func() { h.record, h.written = h.m.record, true }))
			}
		}))
	}
}

// copying is the copy that this host's agent has under way.
func (h *simHost) copying() *simJob {
	if j := h.job; j != nil && !j.pull {
		return j
	}
	if j := h.incoming(); j != nil && j.pull {
		return j
	}
	return nil
}
