package client

import (
	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// truth is what is really so of the guest, and what the checkers remember.
type truth struct {
	run    int  // the newest run of the guest
	newest int  // how far it is: rises whenever a copy of it runs
	fresh  bool // the disk was not made yet
	over   bool // the newest run was ended by an order, or lost a copy to trouble
	ranOn  *simNode
	ranAt  api.Epoch
}

// whole reports whether the newest run of the guest can go on from what is here.
func (n *simNode) whole() bool {
	return n.d.kind != domAbsent && n.d.reason != hypervisor.ReasonIncoming && n.guest == n.w.run
}

// lost: trouble takes what is on a node.
func (w *moveWorld) lost(n *simNode) { w.over = w.over || n.whole() }

// begun: a new run of the guest begins from the disk of a node.
func (w *moveWorld) begun(n *simNode) {
	if !w.over {
		w.violation("%s starts the guest anew, and nothing had ended it", n.name)
	}
	w.run++
	w.over = false
	n.guest, n.state = w.run, n.disk
}

// ended: a node ends the guest that is there, as its machine had decided.
func (w *moveWorld) ended(n *simNode, m machine) {
	switch {
	case !n.whole() || n.peer.whole() || w.over:
	case m.Desired == api.PowerStopped || m.Tomb > 0 && w.state().VM(vm1).Power == api.PowerStopped:
		w.over = true
	default:
		w.violation("%s destroys the only copy of the guest", n.name)
	}
}

// runs checks that the guest runs once, where it may, from what it was last.
func (w *moveWorld) runs(n *simNode) {
	if n.peer.d.kind == domRunning {
		w.violation("the guest runs on both nodes")
	}
	owner, epoch := w.owner()
	if owner != n.id {
		w.violation("the guest runs on %s, which does not own it (epoch %d)", n.name, epoch)
	}
	if n.state < w.newest || n.disk < w.newest {
		w.violation("the guest runs on %s from memory %d and disk %d, and was at %d", n.name, n.state, n.disk, w.newest)
	}
	if w.ranOn != nil && (epoch < w.ranAt || w.ranOn != n && epoch == w.ranAt) {
		w.violation("the guest runs on %s at epoch %d, after %s at %d", n.name, epoch, w.ranOn.name, w.ranAt)
	}
	w.newest = max(n.state, n.disk) + 1
	n.state, n.disk = w.newest, w.newest
	w.ranOn, w.ranAt = n, epoch
}

// checkState checks what must hold of the replicated state after every entry.
func (w *moveWorld) checkState() {
	s := w.state()
	active := 0
	for m := range s.MigrationsOf(vm1) {
		if m.Phase.Active() {
			active++
		}
		if !m.Phase.Open() && m.Phase != api.MigrationAborting && m.Reserved != (api.Resources{}) {
			w.violation("migration %s is %s and reserves %v", m.ID.Short(), m.Phase, m.Reserved)
		}
	}
	if active > 1 {
		w.violation("%d migrations of one VM are active", active)
	}
	for _, n := range w.nodes {
		var sum api.Resources
		for p := range s.PlacementsOn(n.id) {
			sum.CPU, sum.Memory = sum.CPU+p.Reserved.CPU, sum.Memory+p.Reserved.Memory
		}
		for m := range s.MigrationsTo(n.id) {
			sum.CPU, sum.Memory = sum.CPU+m.Reserved.CPU, sum.Memory+m.Reserved.Memory
		}
		if used := s.Used(n.id); used != sum {
			w.violation("%s counts %v as used, and it is %v", n.name, used, sum)
		}
	}
}
