package client

import (
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/boottime"
	hostleases "github.com/novacron/novacron/cluster/lease"
	"github.com/novacron/novacron/cluster/moves"
	"github.com/novacron/novacron/fsm"
	"github.com/novacron/novacron/scheduler"
)

// simServer is one server: the leader's duties, as long as it leads. What they
// decide is the product's (cluster/lease, cluster/moves, scheduler); here is only when.
type simServer struct {
	w      *simWorld
	i      int
	clock  simClock
	wall   time.Duration // how far the wall clock was set
	frozen time.Duration
	term   int
	begun  time.Duration // when its term began
	table  hostleases.Table
	watch  hostleases.Watch
	check  hostleases.Check // the last one that the quorum has answered
}

// now is the time by the clock that leases count on.
func (s *simServer) now() time.Duration { return s.clock.read(boottime.Clock(), s.wall) }

// awake runs f once the server is not frozen.
func (s *simServer) awake(f func()) {
	if s.frozen > s.w.now {
		s.w.at(s.frozen-s.w.now+1, func() { s.awake(f) })
		return
	}
	f()
}

// beat takes in a beat: received, verified, counted, acknowledged, with pauses
// between any two. Whatever check there is is tried.
func (s *simServer) beat(h *simHost, session api.ID, ack func(hostleases.Answer)) {
	w := s.w
	s.awake(func() {
		b, got := hostleases.Beat{Node: h.id, Session: session, At: s.now()}, w.now
		answer := func(check hostleases.Check) bool {
			known := s.table.Knows(h.id, session)
			a := s.table.Answer(w.state(), b, check, s.now())
			if !known && s.table.Knows(h.id, session) {
				h.ackedAt = w.now
			}
			if a == (hostleases.Answer{}) {
				return false // it has to wait for another check
			}
			if a.Lease > 0 {
				h.ackedAt = max(h.ackedAt, got)
			}
			ack(a)
			return true
		}
		w.at(w.dur(60*time.Millisecond), func() {
			s.awake(func() {
				if s.check.Holds() && answer(s.check) {
					return
				}
				check, leads := hostleases.BeginCheck(s.now()), w.leader == s
				w.at(w.dur(300*time.Millisecond), func() {
					s.awake(func() {
						check.End(leads)
						s.check = check
						if check.Holds() {
							answer(check)
						}
					})
				})
			})
		})
	})
}

// leads begins a term.
func (s *simServer) leads() {
	s.term++
	s.begun = s.w.now
	s.watch = hostleases.Watch{}
	s.table.Begin(s.now())
	s.acts()
}

// acts are the duties of a leader, until it is none any more.
func (s *simServer) acts() {
	term, w := s.term, s.w
	w.at(s.clock.takes(time.Second), func() {
		s.awake(func() {
			if s.term != term || w.leader != s {
				return
			}
			s.liveness()
			s.checkHosts()
			s.schedule()
			s.migrate()
			s.acts()
		})
	})
}

// liveness is what the duty of that name does with beats.
func (s *simServer) liveness() {
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

// checkHosts carries out what follows from the leases, as Server.checkHosts does.
func (s *simServer) checkHosts() {
	w := s.w
	for _, id := range s.table.Doubtful() { // after a barrier
		s.table.Spare(id)
	}
	plan := s.watch.Look(w.state(), &s.table, s.now())
	if plan.Brake != nil {
		w.apply(plan.Brake)
		if plan.Storm {
			w.storms++
		}
	}
	if plan.Storm || hostleases.Blocked(w.state(), len(w.servers)) != "" {
		return
	}
	for _, n := range plan.Over {
		cmd := s.watch.Lose(w.state(), &s.table, n, s.now())
		if cmd == nil {
			continue
		}
		s.checkStorm(n)
		term, h := s.term, w.host(n.ID)
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
			if w.chance(2) {
				h.agentDies(1)
			}
		}
	}
}

// checkStorm demands that no host is lost when all have fallen silent together.
func (s *simServer) checkStorm(n *api.Node) {
	w := s.w
	if w.now-s.begun < 40*time.Second {
		return
	}
	for _, h := range w.hosts {
		if w.now-h.ackedAt < 10*time.Second || w.state().Node(h.id).Status == api.NodeLost {
			return
		}
	}
	w.violation("%s is to be lost, and no host is heard", n.Name)
}

// schedule places the VM, and restarts it elsewhere.
func (s *simServer) schedule() {
	w, st := s.w, s.w.state()
	vm := st.VM(vm1)
	if vm == nil || scheduler.Needs(st, vm, st.Placement(vm1)) == scheduler.NeedNothing {
		return
	}
	if d := scheduler.NewEngine(st).Decide(vm1); d.Verdict == scheduler.Commit {
		r := w.apply(&fsm.PlaceBatch{Items: []fsm.PlaceItem{d.Item}})
		if r.Err == nil && d.Item.Action == fsm.PlaceRecover {
			w.recovered = d.Item.Epoch
		}
	}
}

// migrate is the leader's part in migrations, as moveLoop.pass does it.
func (s *simServer) migrate() {
	w, st := s.w, s.w.state()
	var ids []api.ID
	for m := range st.MigrationsOf(vm1) {
		ids = append(ids, m.ID)
	}
	plan := moves.Look(st, ids, api.Time(w.now).Time())
	for _, step := range plan.Steps {
		w.suggest(step)
	}
	for _, m := range plan.Queue {
		if x := scheduler.ExplainMove(st, moves.Question(st, st.VM(vm1), m, plan.Busy)); !x.Chosen.IsZero() {
			w.suggest(moves.Admission(m, x.Chosen, api.Time(w.now).Time()))
		}
	}
}

// suggest commits a step of a migration; sometimes late, because it came from a
// server that knew less, and then maybe twice.
func (w *simWorld) suggest(cmd *fsm.MigrationStep) {
	if w.chance(15) {
		w.at(w.dur(10*time.Second), func() { w.apply(cmd) })
		if w.rng.IntN(2) == 0 {
			return
		}
	}
	w.propose(w.leader, cmd, func(*fsm.Result) {})
}
