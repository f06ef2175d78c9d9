package client

import (
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// push sends a node what it has to know now; late, and in the order of its stream.
func (w *moveWorld) push(n *simNode) {
	st := w.state()
	b := w.batch(st, n)
	stream := n.orders
	w.after(n.living(func() {
		if stream == n.orders {
			n.deliver(b)
		}
	}))
	n.batches = append(n.batches, b)
	if w.chance(60) { // the stream breaks, and another begins
		n.orders++
		w.at(second, n.living(func() { w.push(n) }))
		w.lag(n)
	}
}

// lag brings a node what a server sends that has not caught up.
func (w *moveWorld) lag(n *simNode) {
	b := n.batches[max(0, len(n.batches)-1-w.rng.IntN(40))]
	w.after(n.living(func() { n.deliver(b) }))
}

// propose commits a command of the leader; sometimes late, because it was
// proposed by a leader that was deposed meanwhile, and then maybe twice.
func (w *moveWorld) propose(cmd fsm.Command) {
	if w.chance(15) {
		w.at(api.Time(w.rng.Int64N(int64(10*time.Second))), func() { w.apply(cmd) })
		if w.rng.IntN(2) == 0 {
			return
		}
	}
	w.apply(cmd)
}

func (w *moveWorld) batch(st *fsm.State, n *simNode) *api.OrderBatch {
	b := &api.OrderBatch{Generation: 1, Index: st.Index(), Full: true}
	vm := st.VM(vm1)
	if t := st.Tombstone(n.id, vm1); t != nil {
		b.Orders = append(b.Orders, &api.Order{VMID: vm1, Epoch: t.Epoch, Index: t.CreateIndex, Stop: true, Force: t.Force})
	}
	order := func(epoch api.Epoch, index api.Index) *api.Order {
		return &api.Order{VMID: vm1, Name: vm.Name, Epoch: epoch, Index: max(index, vm.ModifyIndex), Desired: vm.Power, Force: vm.ForceStop, SpecVersion: vm.SpecVersion, Spec: &vm.Spec, Starts: vm.Starts}
	}
	if p := st.Placement(vm1); p != nil && p.NodeID == n.id {
		o := order(p.Epoch, p.ModifyIndex)
		o.Desired = p.Desired
		b.Orders = append(b.Orders, o)
	}
	for m := range st.MigrationsOf(vm1) {
		end := m.Source
		if m.To == n.id {
			end = m.Dest
		}
		if m.Phase == api.MigrationQueued || m.From != n.id && m.To != n.id || end.Clean {
			continue
		}
		o := &api.MoveOrder{Migration: m}
		if m.To == n.id {
			o.VM = order(m.Epoch+1, m.ModifyIndex)
		}
		b.Moves = append(b.Moves, o)
	}
	return b
}

// lead is the leader's part: it admits, begins the copy, and keeps the deadline.
func (w *moveWorld) lead() {
	w.at(second, w.lead)
	m := w.state().Migration(w.move)
	if m == nil || !m.Phase.Active() {
		if !w.calm {
			w.request()
		}
		return
	}
	switch {
	case m.Phase == api.MigrationQueued:
		to := w.nodes[0].id
		if m.From == to {
			to = w.nodes[1].id
		}
		w.propose(&fsm.MigrationStep{ID: m.ID, Phase: m.Phase, Next: api.MigrationProposed, To: to, Deadline: w.now + 60*second})
	case m.Phase == api.MigrationPrepared:
		w.propose(&fsm.MigrationStep{ID: m.ID, Phase: m.Phase, Next: api.MigrationCopying})
	case m.Phase.Open() && w.now > m.Deadline:
		w.cancel()
	}
}

// request asks for a move of the VM to wherever it is not.
func (w *moveWorld) request() {
	if w.moves >= 6 {
		return
	}
	id := api.ID{0x77, byte(w.moves + 1)}
	mode := []api.MigrationMode{api.MigrateLive, api.MigrateLive, api.MigrateWarm}[w.rng.IntN(3)]
	r := w.apply(&fsm.MigrationCreate{Migration: api.Migration{ID: id, VMID: vm1, Mode: mode, Cause: api.CauseOperator, Secret: api.ID{9}}})
	if r.Err == nil {
		w.move = id
		w.moves++
	}
}

// admit does the scheduler's part for a VM that has released its room.
func (w *moveWorld) admit() {
	w.at(second, w.admit)
	vm, p := w.state().VM(vm1), w.state().Placement(vm1)
	if p != nil && vm.Power == api.PowerRunning && p.Reserved == (api.Resources{}) {
		w.apply(&fsm.PlaceBatch{Items: []fsm.PlaceItem{{Action: fsm.PlaceAdmit, VMID: vm1, NodeID: p.NodeID, OldEpoch: p.Epoch, SpecVersion: vm.SpecVersion, Power: vm.Power}}})
	}
}
