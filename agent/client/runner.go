package client

import (
	"sync"
	"time"

	"github.com/novacron/novacron/agent/guard"
	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// journalRetry is how long a runner waits when the journal could not be written.
const journalRetry = 2 * time.Second

// vm runs the machine of one VM. It has a goroutine only while it has work; at
// rest it is a struct, and a timer where something is due.
type vm struct {
	c  *Client
	id api.ID

	mu      sync.Mutex
	m       machine
	queue   []event
	active  bool
	timer   *time.Timer
	seq     uint64 // rises with every op
	dropped bool   // forgotten after its attestation

	leases       []lease // what DHCP is asked for, read from the order of leaseVersion
	leaseVersion uint64
	addrs        []string

	proc     guard.Process // that was armed last
	armedSeq uint64        // of the newest report that said so

	ready *hypervisor.Machine // from prepare to start; only the goroutine touches it
	part  part                // in a migration
	last  api.VMReport        // last reported; only the goroutine touches it
}

// post gives the machine an event and wakes its goroutine. It reports false for
// a VM that was forgotten.
func (v *vm) post(evs ...event) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.dropped {
		return false
	}
	v.queue = append(v.queue, evs...)
	v.wake()
	return true
}

// wake starts the goroutine if there is none; the lock is held.
func (v *vm) wake() {
	if !v.active && len(v.queue) > 0 {
		v.active = v.c.spawn(v.run)
	}
}

func (v *vm) run() {
	for {
		v.mu.Lock()
		ending := v.c.ctx.Err() != nil // the outcome of a call is still journaled, nothing new is begun
		if len(v.queue) == 0 || ending && v.queue[0].kind != evDone {
			v.active, v.queue = false, nil
			v.mu.Unlock()
			return
		}
		ev := v.queue[0]
		v.queue = v.queue[1:]
		if ev.mark != nil {
			ev.mark <- struct{}{}
			v.mu.Unlock()
			continue
		}
		if ev.kind == evGuard && ev.seq != v.seq || ev.kind == evUnarmed && ev.seq <= v.armedSeq { // overtaken
			v.mu.Unlock()
			continue
		}
		if ev.kind == evSeen && ev.seq != v.seq && ev.dom.kind != domUnknown { // the list is older than what was done since
			ev = event{kind: evLook}
		}
		taken := []event{ev}
		next, out := step(v.m, ev, v.c.env())
		if ev.kind == evMove && out == (output{wake: out.wake}) && len(v.queue) > 0 && v.queue[0].kind == evOrder {
			// Nothing is done for the one, and the other is here: a guest may wait for both.
			ev = v.queue[0]
			v.queue = v.queue[1:]
			taken = append(taken, ev)
			next, out = step(next, ev, v.c.env())
		}
		if !v.commit(next, ev, out) {
			v.queue = append(taken, v.queue...)
			v.active = false
			v.arm(api.TimeOf(time.Now().Add(journalRetry)))
			v.mu.Unlock()
			return
		}
		v.arm(out.wake)
		v.mu.Unlock()
		v.tell(next, ev, out)
		if out.cancel {
			v.part.end()
		}
		if out.op == opNone || ending {
			continue
		}
		if out.op == opMoveOut || out.op == opMovePull { // takes long: orders are listened to meanwhile
			if !v.c.spawn(func() { v.aside(out.op, next) }) {
				v.mu.Lock()
				v.queue = append([]event{{kind: evDone, op: out.op, res: resUnknown, message: "the agent ends"}}, v.queue...)
				v.mu.Unlock()
			}
			continue
		}
		if out.op == opResume {
			v.part.resuming()
		}
		done := v.perform(out.op, next)
		v.mu.Lock()
		v.queue = append([]event{done}, v.queue...)
		v.mu.Unlock()
	}
}

// aside performs an op that takes long beside the goroutine of the VM, and goes
// on with what came of it.
func (v *vm) aside(o op, m machine) {
	done := v.perform(o, m)
	v.mu.Lock()
	v.queue = append([]event{done}, v.queue...)
	idle := !v.active
	v.active = true
	v.mu.Unlock()
	if idle {
		v.run()
	}
}

// commit journals a step and makes it the present state; the lock is held.
func (v *vm) commit(next machine, ev event, out output) bool {
	var order *api.Order
	accepted := out.verdict == orderAccepted
	switch {
	case accepted && !ev.order.Stop:
		order = ev.order
	case out.verdict == orderKnown && !ev.order.Stop && !v.c.journal.holds(ev.order):
		order, accepted = ev.order, true // what goes with it changed: a network, where an image is
	}
	var err error
	if accepted || (next.Epoch != 0 || next.Move != v.m.Move) && next.durable() != v.m.durable() {
		err = v.c.journal.putVM(next.record, order)
		v.c.journalError(err)
	} else {
		err = v.c.journal.settle()
	}
	if err != nil {
		v.c.log.Error("the journal was not written: nothing is done for this VM", "vm", v.id, "error", err)
		return false
	}
	if v.m.hold.epoch != next.hold.epoch || v.m.Alive != next.Alive {
		poke(v.c.guard.changed)
	}
	v.m = next
	if out.op != opNone {
		v.seq++
	}
	return true
}

// arm sets the timer for the next tick, 0 for none; the lock is held.
func (v *vm) arm(at api.Time) {
	if v.timer != nil {
		v.timer.Stop()
		v.timer = nil
	}
	if at != 0 {
		v.timer = time.AfterFunc(max(0, time.Until(at.Time())), func() { v.post(event{kind: evTick}) })
	}
}

// tell reports what a step changed.
func (v *vm) tell(m machine, ev event, out output) {
	switch out.verdict {
	case orderRefused:
		v.c.log.Warn("refused an order with an older epoch", "vm", v.id, "order", ev.order.Epoch, "held", m.Epoch)
	case orderAccepted:
		v.c.log.Debug("order", "vm", v.id, "name", m.Name, "epoch", ev.order.Epoch, "stop", ev.order.Stop,
			"desired", m.Desired, "version", m.SpecVersion)
	}
	if out.attested != 0 {
		v.c.log.Info("attested absent", "vm", v.id, "name", m.Name, "epoch", out.attested)
		if !m.Revoked || m.Alive { // beside what the VM's own report says
			v.c.reports.attest(v.id, out.attested)
		}
	}
	v.tellMove(m, ev)
	if m.foreign() {
		return // its owner speaks of it
	}
	r := m.report()
	if !sameReport(r, v.last) || out.verdict == orderRefused || out.attested != 0 || out.retell || ev.kind == evOrder && ev.order.Stop {
		if r.State != v.last.State {
			v.c.log.Info("vm", "id", v.id, "name", m.Name, "state", r.State, "reason", r.Reason, "message", r.Message, "epoch", r.Epoch)
		}
		v.last = r
		v.resend()
	}
}

func sameReport(a, b api.VMReport) bool {
	a.Time, a.Seq, a.Addresses, b.Time, b.Seq, b.Addresses = 0, 0, nil, 0, 0, nil
	return a.VMID == b.VMID && a.Epoch == b.Epoch && a.State == b.State && a.Reason == b.Reason && a.Message == b.Message &&
		a.Orphan == b.Orphan && a.Armed == b.Armed && a.Version == b.Version && a.Reboots == b.Reboots && a.Resets == b.Resets && a.Restarts == b.Restarts && a.StartTime == b.StartTime
}

// report returns the VM's report as it is now; false: another node speaks of it.
func (v *vm) report() (api.VMReport, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.m.foreign() {
		return api.VMReport{}, false
	}
	return v.said(v.c.reports.stamp(v.m.report())), true
}

// resend hands over the VM's report. It is as the machine is when it gets its
// number: of two reports the one with the higher number is the newer word on what
// is armed.
func (v *vm) resend() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.m.foreign() {
		return
	}
	r := v.m.report()
	r.Addresses = addressesFor(r, v.addrs)
	v.said(v.c.reports.vm(r))
}

// said notes the number of a report that counts on the guard; the lock is held.
func (v *vm) said(r api.VMReport) api.VMReport {
	if r.Armed {
		v.armedSeq = r.Seq
	}
	return r
}
