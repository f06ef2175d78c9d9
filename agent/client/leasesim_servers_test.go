package client

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/boottime"
	hostleases "github.com/novacron/novacron/cluster/lease"
	"github.com/novacron/novacron/fsm"
	"github.com/novacron/novacron/scheduler"
)

// leaseServer is one server: the leader's duties, as long as it leads. What they
// decide is the product's (cluster/lease, scheduler); here is only when.
type leaseServer struct {
	w      *leaseWorld
	i      int
	clock  clock
	wall   time.Duration // how far the wall clock was set
	frozen time.Duration
	term   int
	table  hostleases.Table
	watch  hostleases.Watch
	check  hostleases.Check // the last one that the quorum has answered
}

// now is the time by the clock that leases count on.
func (s *leaseServer) now() time.Duration { return s.clock.read(boottime.Clock(), s.wall) }

// awake runs f once the server is not frozen.
func (s *leaseServer) awake(f func()) {
	if s.frozen > s.w.now {
		s.w.at(s.frozen-s.w.now+1, func() { s.awake(f) })
		return
	}
	f()
}

// beat takes in a beat: received, verified, counted, acknowledged, with pauses
// between any two. Whatever check there is is tried.
func (s *leaseServer) beat(h *leaseHost, session api.ID, ack func(hostleases.Answer)) {
	w := s.w
	s.awake(func() {
		b := hostleases.Beat{Node: h.id, Session: session, At: s.now()}
		w.at(w.dur(60*time.Millisecond), func() {
			s.awake(func() {
				if s.check.Holds() && s.answer(b, s.check, ack) {
					return
				}
				check, leads := hostleases.BeginCheck(s.now()), w.leader == s
				w.at(w.dur(300*time.Millisecond), func() {
					s.awake(func() {
						check.End(leads)
						s.check = check
						if check.Holds() {
							s.answer(b, check, ack)
						}
					})
				})
			})
		})
	})
}

// answer answers a beat with a check; false: it has to wait for another.
func (s *leaseServer) answer(b hostleases.Beat, check hostleases.Check, ack func(hostleases.Answer)) bool {
	a := s.table.Answer(s.w.state(), b, check, s.now())
	if a == (hostleases.Answer{}) {
		return false
	}
	ack(a)
	return true
}

// leads begins a term.
func (s *leaseServer) leads() {
	s.term++
	s.watch = hostleases.Watch{}
	s.table.Begin(s.now())
	s.acts()
}

// acts are the duties of a leader, until it is none any more.
func (s *leaseServer) acts() {
	term, w := s.term, s.w
	w.at(s.clock.takes(time.Second), func() {
		s.awake(func() {
			if s.term != term || w.leader != s {
				return
			}
			s.liveness()
			s.hosts()
			s.schedule()
			s.acts()
		})
	})
}

// liveness is what the duty of that name does with beats.
func (s *leaseServer) liveness() {
	w, st := s.w, s.w.state()
	for n := range st.Nodes() {
		d, heard := s.table.Silent(n.ID, s.now())
		it := fsm.NodeStatusItem{NodeID: n.ID, SessionID: st.Session(n.ID)}
		switch {
		case n.Status == api.NodeLost:
			continue
		case d > hostleases.Default.Suspect():
			it.Status = api.NodeSuspect
		case heard && !it.SessionID.IsZero():
			it.Status = api.NodeReady
		}
		if it.Status != "" && it.Status != n.Status {
			w.apply(&fsm.NodeStatus{Items: []fsm.NodeStatusItem{it}})
		}
	}
}

// hosts carries out what follows from the leases, as Server.checkHosts does.
func (s *leaseServer) hosts() {
	w := s.w
	for _, id := range s.table.Doubtful() { // after a barrier
		s.table.Spare(id)
	}
	plan := s.watch.Look(w.state(), &s.table, s.now())
	if plan.Brake != nil {
		w.apply(plan.Brake)
	}
	if plan.Storm || hostleases.Blocked(w.state(), len(w.servers)) != "" {
		return
	}
	for _, n := range plan.Over {
		cmd := s.watch.Lose(w.state(), &s.table, n, s.now())
		if cmd == nil {
			continue
		}
		term := s.term
		h := w.hosts[slices.IndexFunc(w.hosts[:], func(h *leaseHost) bool { return h.id == n.ID })]
		w.propose(s, cmd, func(r *fsm.Result) {
			switch {
			case s.term != term:
			case r == nil:
				s.table.Doubt(n.ID)
			case r.Err != nil:
				s.table.Spare(n.ID)
			default:
				s.watch.Took(n.ID, s.now())
				if h.up && h.g.Lease.Deadline > h.now() {
					w.violation("%s is lost by its lease, and has one for %s", h.name, h.g.Lease.Deadline-h.now())
				}
			}
		})
		if w.chance(2) {
			h.cut = 0 // it is back in this moment
		}
	}
}

// schedule places the VM, and restarts it elsewhere.
func (s *leaseServer) schedule() {
	w, st := s.w, s.w.state()
	vm := st.VM(vm1)
	if vm == nil || scheduler.Needs(st, vm, st.Placement(vm1)) == scheduler.NeedNothing {
		return
	}
	if d := scheduler.NewEngine(st).Decide(vm1); d.Verdict == scheduler.Commit {
		w.apply(&fsm.PlaceBatch{Items: []fsm.PlaceItem{d.Item}})
	}
}

// read is clock_gettime on a machine whose wall clock was set by so much.
func (c *clock) read(id int32, wall time.Duration) time.Duration {
	if id == unix.CLOCK_REALTIME {
		return max(0, c.now()+wall)
	}
	return c.now()
}
