package client

import (
	"slices"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/mutant"
	hostleases "github.com/novacron/novacron/cluster/lease"
	"github.com/novacron/novacron/fsm"
)

// leaseServer is one server: what it believes of the hosts while it leads.
type leaseServer struct {
	w      *leaseWorld
	i      int
	clock  clock
	frozen time.Duration
	stale  time.Duration // until then it may believe a check from before it was frozen
	term   int
	table  hostleases.Table
	fenced bool // it has a loss under way
}

// awake runs f once the server is not frozen.
func (s *leaseServer) awake(f func()) {
	if s.frozen > s.w.now {
		s.w.at(s.frozen-s.w.now+1, func() { s.awake(f) })
		return
	}
	f()
}

// beat takes in a beat: received, verified, counted, acknowledged, with pauses
// between any two.
func (s *leaseServer) beat(h *leaseHost, session api.ID, ack func(lease time.Duration, register bool)) {
	w := s.w
	s.awake(func() {
		at := s.clock.now()
		w.at(w.dur(60*time.Millisecond), func() {
			s.awake(func() {
				verified := w.leader == s // of a check that begins now
				switch {
				case mutant.On(mutant.VerifiedBefore):
					verified = verified || w.now < s.stale
				case mutant.On(mutant.AckUnverified):
					verified = true
				}
				w.at(w.dur(300*time.Millisecond), func() { s.awake(func() { s.answer(h, session, at, verified, ack) }) })
			})
		})
	})
}

func (s *leaseServer) answer(h *leaseHost, session api.ID, at time.Duration, verified bool, ack func(time.Duration, bool)) {
	st := s.w.state()
	n := st.Node(h.id)
	switch {
	case !verified:
	case n == nil || st.Session(h.id) != session || n.Status == api.NodeLost:
		ack(0, true)
	default:
		if !s.table.Knows(h.id, session) {
			s.table.Adopt(h.id, session, s.clock.now())
		}
		if s.table.Beat(h.id, session, at) {
			ack(hostleases.Default.Lease, false)
		} else {
			ack(0, false)
		}
	}
}

// acts are the duties of a leader, until it is none any more.
func (s *leaseServer) acts() {
	term, w := s.term, s.w
	w.at(s.clock.takes(time.Second), func() {
		s.awake(func() {
			if s.term != term || w.leader != s {
				return
			}
			s.watch()
			s.recover()
			s.acts()
		})
	})
}

// watch declares hosts lost, as the server's own duty does.
func (s *leaseServer) watch() {
	w, st := s.w, s.w.state()
	for n := range st.Nodes() {
		d, heard := s.table.Silent(n.ID, s.clock.now())
		if n.Status == api.NodeLost || !fsm.GuardUsable(st, n) {
			continue
		}
		if heard && d < hostleases.Default.Suspect() && n.Status != api.NodeReady {
			w.apply(&fsm.NodeStatus{Items: []fsm.NodeStatusItem{{NodeID: n.ID, Status: api.NodeReady, SessionID: st.Session(n.ID)}}})
		}
		wait := hostleases.Default.Wait(n.Guard == api.GuardWatchdog)
		if d < wait || s.fenced || !s.table.Lose(n.ID, s.clock.now(), wait) {
			continue
		}
		reg := st.Registration(n.ID)
		s.fenced = true
		h := w.hosts[slices.IndexFunc(w.hosts[:], func(h *leaseHost) bool { return h.id == n.ID })]
		w.propose(s, &fsm.HostLost{NodeID: n.ID, Session: reg.SessionID, Registered: reg.Index, Evidence: api.Evidence{
			Kind: api.EvidenceLease, BootID: n.BootID, Silent: api.Duration(d), Wait: api.Duration(wait),
		}}, func(r *fsm.Result) {
			if s.fenced = false; r == nil || r.Err != nil {
				s.table.Spare(n.ID)
			} else if h.up && h.g.Lease.Deadline > h.now() {
				w.violation("%s is lost by its lease, and has one for %s", h.name, h.g.Lease.Deadline-h.now())
			}
		})
		if w.chance(2) {
			h.cut = 0 // it is back in this moment
		}
		s.fenced = w.leader == s && s.fenced
	}
}

// recover places the VM, and restarts it elsewhere, as the scheduler does.
func (s *leaseServer) recover() {
	w, st := s.w, s.w.state()
	vm, p := st.VM(vm1), st.Placement(vm1)
	if vm == nil {
		return
	}
	it := fsm.PlaceItem{Action: fsm.PlacePlace, VMID: vm1, SpecVersion: vm.SpecVersion, Power: vm.Power}
	var on api.ID
	if p != nil {
		if fsm.Restartable(st, vm, p) != nil {
			return
		}
		it.Action, it.OldEpoch, on = fsm.PlaceRecover, p.Epoch, p.NodeID
	}
	for n := range st.Nodes() {
		if n.ID != on && n.Status == api.NodeReady {
			it.NodeID = n.ID
			w.apply(&fsm.PlaceBatch{Items: []fsm.PlaceItem{it}})
			return
		}
	}
}
