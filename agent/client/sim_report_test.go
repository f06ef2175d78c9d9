package client

import (
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// simMail is what an agent has to report, the newest of each, until the servers
// have acknowledged it.
type simMail struct {
	vm       *api.VMReport
	attested *api.VMReport // beside what the VM's own report says
	move     *api.MoveReport
	volume   bool // the VM's local disk was made
	sending  bool
}

// stamp makes the VM's report as it is now.
func (h *simHost) stamp() api.VMReport {
	r := h.m.report()
	h.seq++
	r.Seq, r.Time = h.seq, api.Time(h.w.now)
	if r.Armed {
		h.armedSeq = r.Seq
	}
	return r
}

// tell is what vm.tell does.
func (h *simHost) tell(ev event, out output) {
	if out.attested != 0 && (!h.m.Revoked || h.m.Alive) {
		h.seq++
		h.mail.attested = &api.VMReport{VMID: vm1, Epoch: out.attested, State: api.StateAbsent, Seq: h.seq, Time: api.Time(h.w.now)}
		h.post()
	}
	if r, ok := h.m.moveReport(h.bootID().String()); ok && r != h.lastMove {
		h.lastMove = r
		h.reportMove(r)
	} else if !ok && ev.kind == evMoveKnown {
		h.lastMove = api.MoveReport{}
		h.forget(h.m.Epoch)
	}
	if h.m.foreign() || h.m.Epoch == 0 {
		return
	}
	r := h.m.report()
	if !sameReport(r, h.lastVM) || out.verdict == orderRefused || out.attested != 0 || out.retell || ev.kind == evOrder && ev.order.Stop {
		h.lastVM = r
		s := h.stamp()
		h.mail.vm = &s
		h.post()
	}
}

func (h *simHost) reportMove(r api.MoveReport) {
	h.seq++
	r.Seq, r.Time = h.seq, api.Time(h.w.now)
	h.mail.move = &r
	h.post()
}

// post sends what is due, until nothing is.
func (h *simHost) post() {
	m := &h.mail
	if m.sending || !h.registered || m.vm == nil && m.attested == nil && m.move == nil && !m.volume {
		return
	}
	m.sending = true
	was := *m
	rep := api.NodeReport{NodeID: h.id, SessionID: h.session}
	if m.attested != nil {
		rep.VMs = append(rep.VMs, *m.attested)
	}
	if m.vm != nil {
		rep.VMs = append(rep.VMs, *m.vm)
	}
	if m.move != nil {
		rep.Moves = append(rep.Moves, *m.move)
	}
	if m.volume {
		rep.Volumes = append(rep.Volumes, api.VolumeReport{ID: api.ID{5}, State: api.VolumeReady})
	}
	acked := h.agent(func() { h.acked(was, rep.VMs) })
	s := h.w.leader
	arrive := func() {
		s.awake(func() {
			if h.w.leader == s {
				known := h.w.state().Session(h.id) == rep.SessionID
				h.w.apply(&fsm.NodeReports{Reports: []api.NodeReport{rep}})
				if known {
					h.message(5*time.Second, acked)
				}
			}
		})
	}
	h.message(5*time.Second, arrive)
	if h.w.chance(20) {
		h.w.at(h.w.dur(20*time.Second), arrive) // it comes much later, too
	}
	h.w.at(2*time.Second, h.agent(func() {
		if h.mail.sending {
			h.mail.sending = false
			h.post()
		}
	}))
}

// acked takes off what the servers have, unless it changed in the meantime.
func (h *simHost) acked(was simMail, reports []api.VMReport) {
	m := &h.mail
	m.sending = false
	for _, r := range reports {
		if !r.Armed && h.m.Told && r.Seq > h.armedSeq {
			h.step(event{kind: evUnarmed, epoch: r.Epoch})
		}
	}
	if m.vm == was.vm {
		m.vm = nil
	}
	if m.attested == was.attested {
		m.attested = nil
	}
	m.volume = m.volume && !was.volume
	if m.move != nil && m.move == was.move {
		m.move = nil
		if was.move.Clean {
			h.step(event{kind: evMoveKnown, move: &moveOrder{id: was.move.Migration}})
		}
	}
	for _, r := range reports {
		if r.State == api.StateAbsent {
			h.forget(r.Epoch)
		}
	}
	h.post()
}

// forget drops a VM that is not this host's any more.
func (h *simHost) forget(epoch api.Epoch) {
	m := &h.m
	if (m.Revoked || m.Epoch == 0) && m.Tomb == 0 && !m.Alive && m.Epoch <= epoch && m.State == api.StateAbsent && m.Move.IsZero() && m.busy == opNone {
		h.m, h.record, h.written = newMachine(record{ID: vm1}, false), record{ID: vm1}, false
		h.lastVM, h.lastMove = api.VMReport{}, api.MoveReport{}
	}
}
