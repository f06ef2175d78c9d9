package client

import (
	"slices"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// simSent is what a stream has sent last.
type simSent struct {
	any   bool
	busy  bool // a look at the state is due
	vm    *api.VM
	place *api.Placement
	tomb  *api.Tombstone
	moves []*api.Migration
}

// push sends a host what it has to know now; late, and in the order of its stream.
func (w *simWorld) push(h *simHost) {
	if h == nil || !h.agentUp || !h.registered || h.sent.busy {
		return
	}
	h.sent.busy = true
	stream := h.stream
	w.at(w.dur(100*time.Millisecond), h.agent(func() {
		if stream != h.stream {
			return
		}
		h.sent.busy = false
		b := w.batch(h)
		if b == nil {
			return
		}
		h.batches = append(h.batches, b)
		d := w.dur(200 * time.Millisecond)
		if w.chance(20) {
			d = w.dur(8 * time.Second)
		}
		w.at(d, h.agent(func() {
			switch {
			case stream != h.stream:
			case h.cut > w.now || w.chance(60): // the stream breaks, and another is opened
				h.stream++
				w.at(max(h.cut-w.now, 0)+time.Second, h.agent(h.open))
				w.lag(h)
			default:
				h.deliver(b)
			}
		}))
	}))
}

// lag brings a host what a server sends that has not caught up.
func (w *simWorld) lag(h *simHost) {
	b := h.batches[max(0, len(h.batches)-1-w.rng.IntN(20))]
	w.at(max(h.cut-w.now, 0)+w.dur(2*time.Second), h.agent(func() { h.deliver(b) }))
}

// batch is all that a host is ordered; nil: nothing of it is news for the stream.
func (w *simWorld) batch(h *simHost) *api.OrderBatch {
	st := w.state()
	b := &api.OrderBatch{Generation: 1, Index: st.Index(), Full: true}
	vm, p := st.VM(vm1), st.Placement(vm1)
	next := simSent{any: true, vm: vm, tomb: st.Tombstone(h.id, vm1)}
	if t := next.tomb; t != nil {
		b.Orders = append(b.Orders, &api.Order{VMID: vm1, Epoch: t.Epoch, Index: t.CreateIndex, Stop: true, Force: t.Force})
	}
	order := func(p *api.Placement, epoch api.Epoch) *api.Order {
		return &api.Order{
			VMID: vm1, Name: vm.Name, Epoch: epoch, Index: max(p.ModifyIndex, vm.ModifyIndex), Desired: p.Desired, Force: vm.ForceStop,
			SpecVersion: vm.SpecVersion, Spec: &vm.Spec, Starts: vm.Starts, Resumes: vm.Resumes,
		}
	}
	if p != nil && p.NodeID == h.id {
		next.place = p
		b.Orders = append(b.Orders, order(p, p.Epoch))
	}
	for m := range st.MigrationsOf(vm1) {
		end := m.Source
		if m.To == h.id {
			end = m.Dest
		}
		if m.Phase == api.MigrationQueued || m.From != h.id && m.To != h.id || end.Clean {
			continue
		}
		o := &api.MoveOrder{Migration: m}
		if m.To == h.id && m.Phase != api.MigrationDone && p != nil {
			o.VM = order(p, m.Epoch+1)
		}
		b.Moves = append(b.Moves, o)
		next.moves = append(next.moves, m)
	}
	was := &h.sent
	if was.any && was.vm == next.vm && was.place == next.place && was.tomb == next.tomb && slices.Equal(was.moves, next.moves) {
		return nil
	}
	h.sent = next
	return b
}

// request asks for a move of the VM to wherever it is not.
func (w *simWorld) request() {
	if w.moves >= 12 {
		return
	}
	id := api.ID{0x77, byte(w.moves + 1)}
	m := api.Migration{ID: id, VMID: vm1, Mode: api.MigrateLive, Cause: api.CauseOperator, Secret: api.ID{9}, Options: api.MigrationOptions{Timeout: api.Duration(time.Minute)}}
	switch w.rng.IntN(8) {
	case 0, 1:
		m.Mode = api.MigrateWarm
	case 2:
		m.Mode, m.Restart = api.MigrateCold, true // stopped for it, and started again
	case 3:
		m.Mode = api.MigrateCold
	}
	if vm := w.state().VM(vm1); vm != nil && vm.Power == api.PowerStopped {
		m.Mode = api.MigrateCold
	}
	if r := w.apply(&fsm.MigrationCreate{Migration: m}); r.Err == nil {
		w.move = id
		w.moves++
	}
}

func (w *simWorld) cancel() {
	if m := w.state().Migration(w.move); m != nil && m.Phase.Open() {
		w.suggest(&fsm.MigrationStep{ID: m.ID, Phase: m.Phase, Next: api.MigrationAborting, Code: api.CodeCanceled, Message: "canceled"})
	}
}
