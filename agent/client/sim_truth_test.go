package client

import (
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// truth is what is really so of the guest, and what the checkers remember.
type truth struct {
	run    int  // the newest run of the guest
	newest int  // how far it is: rises whenever a copy of it runs
	san    int  // how far the disk in the shared pool is
	fresh  bool // the disk was not made yet
	over   bool // the newest run was ended by an order, or lost a copy to trouble
	ran    bool // it did anything
	ranOn  *simHost
	ranAt  api.Epoch
	ended  time.Duration // when it stopped running last
	lostBy api.ID        // the newest move after which the servers counted the guest as lost
	// recovered is the epoch of the newest restart elsewhere.
	recovered api.Epoch
}

// disk is how far the disk is that the VM has on a host.
func (h *simHost) disk() *int {
	if h.w.ha {
		return &h.w.san
	}
	return &h.local
}

// whole reports whether the newest run of the guest can go on from what is here.
func (h *simHost) whole() bool {
	return h.d.kind != domAbsent && h.d.reason != hypervisor.ReasonIncoming && h.guest == h.w.run
}

// elsewhere reports whether it can from what another host has.
func (h *simHost) elsewhere() bool {
	for _, o := range h.w.hosts {
		if o != h && o.whole() {
			return true
		}
	}
	return false
}

// begun: a new run of the guest begins from the disk that a host has.
func (w *simWorld) begun(h *simHost) {
	if !w.over && w.ran {
		w.violation("%s starts the guest anew, and nothing had ended it", h.name)
	}
	w.run++
	w.over, w.ran = false, false
	h.guest, h.mem = w.run, *h.disk()
}

// ends: a host's agent ends the guest that is there, as its machine had decided.
func (w *simWorld) ends(h *simHost, m machine) {
	if m.foreign() && m.Move.GiveUp && !m.Move.Kill && h.incoming() != nil {
		w.violation("%s gives up what its source still sends", h.name)
	}
	switch {
	case !h.whole() || w.over:
	case m.Phase == phaseFence || m.Phase == phaseStop && m.hold.bare > 0: // in the guard's place
		w.lost(h)
	case m.Desired == api.PowerStopped || m.Tomb > 0 && w.state().VM(vm1).Power == api.PowerStopped:
		w.over = true
	case h.elsewhere():
	case m.Move.Kill && w.doubted(m.Move.ID):
		w.over = true
	default:
		w.violation("%s destroys the only copy of the guest", h.name)
	}
}

// doubted: the source of a move cannot say that the guest did not go on there. It
// starts anew from the disk that it had there.
func (w *simWorld) doubted(move api.ID) bool {
	g, p := w.state().Migration(move), w.state().Placement(vm1)
	if g == nil {
		return false
	}
	stood := g.Source.State == api.EndSwitched || g.Source.State == api.EndAbsent
	from := w.host(g.From).record.Move // what it says may have changed since
	return g.Source.State == api.EndDied || from.ID == move && from.Died || p != nil && p.NodeID == g.From && p.Fenced != "" && !stood
}

// runs checks that the guest runs once, where it may, from what it was last.
func (w *simWorld) runs(h *simHost) {
	for _, o := range w.hosts {
		if o != h && o.d.kind == domRunning {
			w.violation("the guest runs on %s, and now on %s", o.name, h.name)
		}
	}
	owner, epoch := w.owner()
	if owner != h.id {
		w.violation("the guest runs on %s, which does not own it (epoch %d)", h.name, epoch)
	}
	disk := h.disk()
	if h.mem < w.newest || *disk < w.newest {
		w.violation("the guest runs on %s from memory %d and disk %d, and was at %d", h.name, h.mem, *disk, w.newest)
	}
	if w.ranOn != nil && (epoch < w.ranAt || w.ranOn != h && epoch == w.ranAt) {
		w.violation("the guest runs on %s at epoch %d, after %s at %d", h.name, epoch, w.ranOn.name, w.ranAt)
	}
	if w.ranOn != nil && w.ranOn != h && epoch == w.recovered {
		w.restarts++
		w.margin = min(w.margin, w.now-w.ended)
	}
	w.ran = true
	w.trace("the guest runs on %s at %d", h.name, epoch)
	w.newest = max(h.mem, *disk) + 1
	h.mem, *disk = w.newest, w.newest
	w.ranOn, w.ranAt = h, epoch
}

func (w *simWorld) owner() (api.ID, api.Epoch) {
	if p := w.state().Placement(vm1); p != nil {
		return p.NodeID, p.Epoch
	}
	return api.ID{}, 0
}

// counted reports whether the servers have counted the guest as lost, with
// evidence, though a copy of it is somewhere.
func (w *simWorld) counted(m *api.Migration) bool {
	lost := func(id api.ID) bool { n := w.state().Node(id); return n != nil && n.Status == api.NodeLost }
	switch {
	case m.Lost && !m.KillDest: // the host that has the last copy is lost itself
		return true
	case m.Phase == api.MigrationAborted && lost(m.To) && w.doubted(m.ID): // it starts anew at the source
		return true
	case m.KillDest: // it may have gone on at the source, on the same disk
		return w.ha && lost(m.From)
	}
	return m.Phase == api.MigrationAborted && lost(m.From) && lost(m.To)
}

// checkState checks what must hold of the replicated state after every entry.
func (w *simWorld) checkState() {
	s := w.state()
	active := 0
	for m := range s.MigrationsOf(vm1) {
		if m.Phase.Active() {
			active++
		}
		if m.ID != w.lostBy && w.counted(m) {
			w.lostBy, w.over = m.ID, true
		}
		if !m.Phase.Open() && m.Phase != api.MigrationAborting && m.Reserved != (api.Resources{}) {
			w.violation("migration %s is %s and reserves %v", m.ID.Short(), m.Phase, m.Reserved)
		}
	}
	if active > 1 {
		w.violation("%d migrations of one VM are active", active)
	}
	for _, h := range w.hosts {
		var sum api.Resources
		for p := range s.PlacementsOn(h.id) {
			sum.CPU, sum.Memory = sum.CPU+p.Reserved.CPU, sum.Memory+p.Reserved.Memory
		}
		for m := range s.MigrationsTo(h.id) {
			sum.CPU, sum.Memory = sum.CPU+m.Reserved.CPU, sum.Memory+m.Reserved.Memory
		}
		if used := s.Used(h.id); used != sum {
			w.violation("%s counts %v as used, and it is %v", h.name, used, sum)
		}
	}
}

// unsettled says what has not come about though all trouble is over; "" if all has.
func (w *simWorld) unsettled() string {
	for m := range w.state().MigrationsOf(vm1) {
		if m.Phase.Active() {
			return format("migration %s is still %s: source %+v, destination %+v", m.ID.Short(), m.Phase, m.Source, m.Dest)
		} else if !m.To.IsZero() && (!m.Source.Clean || !m.Dest.Clean) {
			return format("migration %s is %s, and not cleaned up: source %+v, destination %+v", m.ID.Short(), m.Phase, m.Source, m.Dest)
		}
	}
	owner, epoch := w.owner()
	if owner.IsZero() {
		return "the VM is on no host"
	}
	for _, h := range w.hosts {
		switch {
		case h.id == owner && h.d.kind != domRunning:
			return format("the guest does not run on its owner: %s", h)
		case h.id == owner && h.d.epoch != epoch:
			return format("it runs at epoch %d, owned at %d", h.d.epoch, epoch)
		case h.id == owner && w.policy == api.HARestart && !w.state().Placement(vm1).Armed:
			return format("it is not armed: %s", h)
		case h.id != owner && (h.d.kind != domAbsent || h.local != 0 || !h.gate.IsZero()):
			return format("something is left on %s", h)
		case !h.m.Move.IsZero():
			return format("%s remembers a move: %s", h.name, h)
		}
	}
	return ""
}
