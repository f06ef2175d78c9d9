package client

import (
	"fmt"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/mutant"
)

// simNode is one end of a simulated migration: a machine with its hypervisor, of
// which everything is known, and the agent's step machine with its journal.
type simNode struct {
	w    *moveWorld
	name string
	id   api.ID
	peer *simNode

	// What is true.
	boot  string
	d     dom     // of the guest; kind is absent, running or paused
	guest int     // which run of the guest it is: a move keeps it, a start makes another
	state int     // how far this copy of the guest is
	disk  int     // how far the VM's disk here is, 0 none, -1 half copied
	aside bool    // an old disk was set aside
	mute  bool    // the hypervisor does not answer
	job   *simJob // that goes out from here
	gate  bool    // the tunnel is let in

	// The agent.
	up       bool
	life     int // rises with each start of the agent: what an earlier one was told is lost
	m        machine
	record   record
	written  bool
	hold     bool
	session  api.ID
	seq      uint64
	seen     api.Index // newest batch
	noted    api.Index // the newest that goes with the next write
	kept     api.Index // and the newest that was journaled
	batches  []*api.OrderBatch
	orders   int // rises with each stream: batches of an earlier one are not delivered
	order    *api.MoveOrder
	later    func() // delivers the orders of the last batch
	lastVM   api.VMReport
	lastMove api.MoveReport
	wakeAt   api.Time
}

// simJob is a copy under way.
type simJob struct {
	cut      bool
	switched bool
	finished bool // the destination has been told that all is there
	life     int  // of the agent that waits for it
}

func (n *simNode) env() env { return env{now: n.w.now, boot: n.boot, hold: n.hold} }

func (n *simNode) look() dom {
	if n.mute {
		return dom{kind: domUnknown}
	}
	return n.d
}

// step gives the agent an event and carries out what follows.
func (n *simNode) step(ev event) {
	if !n.up {
		return
	}
	was := n.m
	next, out := step(n.m, ev, n.env())
	accepted := out.verdict == orderAccepted
	if accepted || (next.Epoch != 0 || next.Move != was.Move) && next.durable() != was.durable() {
		if !mutant.On(mutant.JournalLate) || out.op == opNone {
			n.record, n.written = next.record, true
		}
	}
	n.kept = n.noted
	n.m = next
	n.w.trace("%s %v op=%s move=%+v dom=%v/%s epoch=%d alive=%v", n.name, ev.kind, out.op, next.Move, next.dom.kind, next.dom.reason, next.Epoch, next.Alive)
	if out.cancel && n.job != nil && !n.job.switched {
		n.cut(n.job, "aborted")
	}
	if out.wake != 0 && out.wake != n.wakeAt {
		n.wakeAt = out.wake
		n.w.at(max(0, out.wake-n.w.now), n.living(func() { n.step(event{kind: evTick}) }))
	}
	n.tell(ev, out)
	if out.op != opNone {
		n.w.after(n.living(func() {
			n.perform(out.op, next)
			if mutant.On(mutant.JournalLate) {
				n.w.after(n.living(func() { n.record, n.written = n.m.record, true }))
			}
		}))
	}
}

// living makes f do nothing once the agent that asked for it is gone.
func (n *simNode) living(f func()) func() {
	life := n.life
	return func() {
		if n.up && n.life == life {
			f()
		}
	}
}

// tell is what vm.tell does.
func (n *simNode) tell(ev event, out output) {
	if r, ok := n.m.moveReport(n.boot); ok && r != n.lastMove {
		n.lastMove = r
		n.reportMove(r)
	} else if !ok && ev.kind == evMoveKnown {
		n.forget()
	}
	if n.m.foreign() || n.m.Epoch == 0 {
		return
	}
	r := n.m.report()
	if !sameReport(r, n.lastVM) || out.verdict == orderRefused || out.attested != 0 || ev.kind == evOrder && ev.order.Stop {
		n.lastVM = r
		n.reportVM(r)
	}
}

func (n *simNode) reportVM(r api.VMReport) {
	n.seq++
	r.Seq, r.Time = n.seq, n.w.now
	n.w.report(n, api.NodeReport{NodeID: n.id, SessionID: n.session, VMs: []api.VMReport{r}}, nil)
}

func (n *simNode) reportMove(r api.MoveReport) {
	n.seq++
	r.Seq, r.Time = n.seq, n.w.now
	n.w.report(n, api.NodeReport{NodeID: n.id, SessionID: n.session, Moves: []api.MoveReport{r}}, func() {
		if r.Clean {
			n.step(event{kind: evMoveKnown, move: &moveOrder{id: r.Migration}})
		}
	})
}

// forget drops a VM that is not this node's any more.
func (n *simNode) forget() {
	m := &n.m
	if (m.Revoked || m.Epoch == 0) && m.Tomb == 0 && !m.Alive && m.State == api.StateAbsent && m.Move.IsZero() && m.busy == opNone {
		n.m, n.record, n.written = newMachine(record{ID: vm1}, false), record{ID: vm1}, false
		n.lastVM, n.lastMove = api.VMReport{}, api.MoveReport{}
	}
}

// perform makes an op's effect on what is true, and tells the outcome.
func (n *simNode) perform(o op, m machine) {
	done := event{kind: evDone, op: o, epoch: m.Epoch}
	if o == opAttest {
		done.epoch = m.Tomb
	}
	switch {
	case o == opMoveOut:
		n.send(m)
		return
	case n.mute && o != opMoveIn && o != opMoveClean && o != opPrepare:
		done.res, done.message = resUnknown, "silence"
	default:
		done.res, done.message = n.effect(o, m, &done)
	}
	if n.w.chance(30) && done.res == resOK && o != opMoveIn && o != opMoveClean && o != opPrepare {
		done.res = resUnknown // the answer is lost
		n.w.at(second, n.living(func() { n.step(event{kind: evSeen, dom: n.look()}) }))
	}
	n.step(done)
	if done.res == resUnknown {
		n.w.at(second, n.living(func() { n.step(event{kind: evSeen, dom: n.look()}) }))
	}
}

func (n *simNode) effect(o op, m machine, done *event) (result, string) {
	here := n.d.kind != domAbsent
	switch o {
	case opInspect:
		done.dom = n.look()
		return resOK, ""
	case opPrepare:
		if n.disk == 0 {
			if !n.w.fresh {
				return resFailed, "the disk is gone"
			}
			n.w.fresh, n.disk = false, n.w.newest
		}
		return resOK, ""
	case opAttest, opMoveAttest:
		if here {
			return resExists, "it is here"
		}
		return resOK, ""
	case opStart:
		if here {
			return resExists, "it is here"
		}
		if n.disk < 0 {
			n.w.violation("%s starts from a half copied disk", n.name)
		}
		n.w.begun(n)
		n.set(dom{kind: domRunning, epoch: m.Epoch, version: m.SpecVersion})
		if m.Desired == api.PowerPaused {
			n.set(dom{kind: domPaused, reason: "user", epoch: m.Epoch, version: m.SpecVersion})
		}
		done.dom = n.d
		return resOK, ""
	case opMoveIn:
		if n.w.chance(40) {
			return resFailed, "no room"
		}
		n.gate = true
		if n.disk == 0 {
			n.disk = -1
		}
		return resOK, ""
	case opMoveClean:
		n.gate = false
		return n.clean(m)
	case opMoveEnd:
		if n.job != nil {
			n.cut(n.job, "the agent was restarted")
		}
		if n.job != nil {
			return resUnknown, "it has not ended"
		}
		return resOK, "the agent was restarted during the move"
	}
	if !here {
		return resNotFound, "no such domain"
	}
	switch o {
	case opShutdown, opDestroy:
		n.w.ended(n, m)
		if n.job != nil {
			n.cut(n.job, "destroyed")
		}
		if j := n.peer.job; j != nil && !j.finished {
			n.peer.cut(j, "the incoming guest was destroyed")
		}
		n.set(dom{kind: domAbsent, exit: "destroyed"})
	case opPause:
		n.d.kind, n.d.reason = domPaused, "user"
	case opResume:
		if n.d.kind == domPaused {
			d := n.d
			d.kind, d.reason = domRunning, ""
			n.set(d)
		}
	case opSetEpoch:
		n.d.epoch = m.Epoch
	}
	return resOK, ""
}

// clean removes or sets aside the disk, and checks that it may.
func (n *simNode) clean(m machine) (result, string) {
	owner, _ := n.w.owner()
	switch {
	case m.foreign():
		if owner == n.id {
			n.w.violation("%s removes the disk of a VM that it owns", n.name)
		}
		if n.d.kind != domAbsent && n.d.reason != hypervisor.ReasonIncoming {
			n.w.violation("%s removes the disk under a guest", n.name)
		}
		n.disk = 0
	case !m.Move.In && (m.Move.Phase == api.MigrationCommitted || m.Move.Phase == api.MigrationDone):
		if owner == n.id {
			n.w.violation("%s sets aside the disk of a VM that it owns", n.name)
		}
		if n.disk != 0 {
			n.disk, n.aside = 0, true
		}
	}
	return resOK, ""
}

// set changes the domain and checks that the guest runs once, where it may.
func (n *simNode) set(d dom) {
	n.d = d
	if d.kind == domRunning {
		n.w.runs(n)
	}
}

// send is a copy from here to the peer, in the stages of a real one. Trouble may
// come between any two.
func (n *simNode) send(m machine) {
	j := &simJob{life: n.life}
	fail := func(res result, why string) {
		n.step(event{kind: evDone, op: opMoveOut, res: res, message: why})
	}
	if n.mute || n.d.kind == domAbsent {
		fail(resFailed, "the guest is not here")
		return
	}
	if !n.peer.gate || !n.peer.up || n.peer.mute || n.w.linkCut || n.peer.d.kind != domAbsent {
		fail(resFailed, "the destination does not answer")
		return
	}
	n.job = j
	if m.Move.Paused {
		n.d.kind, n.d.reason = domPaused, "user"
	}
	paused := n.d.kind == domPaused
	n.peer.d = dom{kind: domPaused, reason: hypervisor.ReasonIncoming, epoch: n.d.epoch, version: n.d.version}
	n.peer.guest, n.peer.state = n.guest, 0
	n.w.stage(j, func() {
		n.peer.event()
		n.w.stage(j, func() {
			j.switched = true
			if !paused {
				n.d.kind = domPaused
			}
			n.d.reason = hypervisor.ReasonMigrating
			n.event()
			n.w.stage(j, func() {
				j.finished = true
				n.peer.d.reason = hypervisor.ReasonComplete
				n.peer.state, n.peer.disk = n.state, n.disk
				n.peer.event()
				n.w.stage(j, func() { n.handedOver(j) })
			})
		})
	})
}

// handedOver: the source's process has ended, as it was to. The agent is told at
// once, if its watch has not missed it; the call comes back when the hypervisor has
// tidied up, and by then it may have lost its answer.
func (n *simNode) handedOver(j *simJob) {
	n.job = nil
	n.d = dom{kind: domAbsent, exit: "migrated"}
	if n.w.tidy.IntN(3) == 0 {
		n.ended(j, resOK, "")
		return
	}
	soon := func(within api.Time, f func()) {
		n.w.at(api.Time(n.w.tidy.Int64N(int64(within))), func() {
			if n.up && n.life == j.life {
				f()
			}
		})
	}
	chance := func() bool { return !n.w.calm && n.w.tidy.IntN(5) == 0 }
	soon(second/3, func() { n.step(event{kind: evGone}) })
	soon(2*second, func() {
		switch {
		case chance():
			n.ended(j, resUnknown, "libvirtd was restarted")
		case chance():
			n.ended(j, resFailed, "the link was cut")
		default:
			n.ended(j, resOK, "")
		}
	})
}

// cut ends a copy before its end, as stock libvirt does: the source goes on, also
// when the destination is complete already.
func (n *simNode) cut(j *simJob, why string) {
	if j.cut || n.job != j {
		return
	}
	j.cut, n.job = true, nil
	if !j.finished {
		n.peer.d = dom{kind: domAbsent, exit: "failed"}
		n.peer.event()
		if n.w.chance(4) {
			n.late()
		}
	}
	switch {
	case n.d.kind == domAbsent:
	case j.switched && n.w.chance(3): // libvirtd was restarted: left as it was
	case j.switched && n.m.Move.Paused:
		n.d.kind, n.d.reason = domPaused, "user"
	case j.switched || n.d.kind == domRunning:
		n.set(dom{kind: domRunning, epoch: n.d.epoch, version: n.d.version})
	}
	if n.w.chance(3) {
		n.ended(j, resUnknown, why)
		return
	}
	n.ended(j, resFailed, why)
}

// late: the destination's hypervisor was told to begin before the cut, and comes
// to it after its agent has proved that nothing is there.
func (n *simNode) late() {
	d := dom{kind: domPaused, reason: hypervisor.ReasonIncoming, epoch: n.d.epoch}
	n.w.at(api.Time(n.w.rng.Int64N(int64(4*second))), func() {
		if n.peer.d.kind != domAbsent || n.job != nil {
			return
		}
		n.peer.d = d
		n.peer.event()
		n.w.at(10*second, func() {
			if n.peer.d == d && n.job == nil {
				n.peer.d = dom{kind: domAbsent, exit: "failed"}
				n.peer.event()
			}
		})
	})
}

// ended tells the agent that waits for a copy.
func (n *simNode) ended(j *simJob, res result, why string) {
	if n.up && n.life == j.life {
		n.step(event{kind: evDone, op: opMoveOut, res: res, message: why})
	}
	n.event()
}

// event is the hypervisor's word that something happened; it may be lost.
func (n *simNode) event() {
	if !n.w.chance(10) {
		n.w.after(n.living(func() { n.step(event{kind: evLook}) }))
	}
	n.w.at(5*second, n.living(func() { n.step(event{kind: evSeen, dom: n.look()}) }))
}

func (n *simNode) String() string {
	return fmt.Sprintf("%s up=%v dom=%v/%q guest=%d disk=%d gate=%v move=%+v state=%s epoch=%d busy=%s", n.name, n.up, n.d.kind, n.d.reason, n.guest, n.disk, n.gate, n.m.Move, n.m.State, n.m.Epoch, n.m.busy)
}
