package cluster

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-metrics/compat"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/moves"
	"github.com/novacron/novacron/fsm"
	"github.com/novacron/novacron/scheduler"
)

const (
	moveTick        = time.Second
	moveQueueBreath = 20 * time.Millisecond // between two looks at a queue in which nobody fits
)

// moveLoop is the duty of the leader that brings migrations forward: it admits
// them from the queue, lets copies begin and ends what takes too long. It is
// level-triggered: it looks at the newest state, and a new leader begins
// with all that is there.
type moveLoop struct {
	fsm    *fsm.FSM
	apply  applyFunc
	held   func() bool // placing is held back: nothing is admitted
	choose func(scheduler.Move) *api.Explanation
	now    func() time.Time
	log    *slog.Logger
	wake   chan struct{} // buffered by one
	// awaited, buffered by one: a guest that stands still waits until its node hears
	// of what was committed.
	awaited chan struct{}

	mu     sync.Mutex // held for a look or an append only
	leads  bool
	active map[api.ID]struct{} // nil: to be read from the state
	queue  bool                // somebody waits: what changes elsewhere may help

	alarmed map[api.ID]bool // of this term
}

func newMoveLoop(f *fsm.FSM, apply applyFunc, held func() bool, choose func(scheduler.Move) *api.Explanation, now func() time.Time, log *slog.Logger) *moveLoop {
	return &moveLoop{fsm: f, apply: apply, held: held, choose: choose, now: now, log: log, wake: make(chan struct{}, 1), awaited: make(chan struct{}, 1)}
}

// onCommit follows which migrations are active; it is called on the goroutine
// that applies and only marks.
func (l *moveLoop) onCommit(changes []fsm.Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.leads {
		return
	}
	for i := range changes {
		c := &changes[i]
		switch c.Table {
		case fsm.TableMigration:
			l.follow(c)
			l.poke()
			if awaited(c) {
				select {
				case l.awaited <- struct{}{}:
				default:
				}
			}
		case fsm.TableNode, fsm.TablePlacement, fsm.TableVM, fsm.TableVolume, fsm.TableMeta:
			if l.queue {
				l.poke()
			}
		}
	}
}

// follow keeps the set of active migrations; locked.
func (l *moveLoop) follow(c *fsm.Change) {
	if l.active == nil {
		return
	}
	if m, ok := c.New.(*api.Migration); ok && m.Phase.Active() {
		l.active[m.ID] = struct{}{}
	} else if m, ok := c.Old.(*api.Migration); ok {
		delete(l.active, m.ID)
	}
}

// onRestore tells that the state was replaced.
func (l *moveLoop) onRestore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.active = nil
	l.poke()
}

func (l *moveLoop) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run leads until ctx ends.
func (l *moveLoop) run(ctx context.Context) error {
	l.alarmed = map[api.ID]bool{}
	l.mu.Lock()
	l.leads, l.active = true, nil
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.leads, l.active = false, nil
	}()
	return every(ctx, moveTick, l.wake, func(ctx context.Context) error {
		stuck, err := l.pass(ctx)
		if stuck {
			pause(ctx, moveQueueBreath)
		}
		return err
	})
}

// ids lists the active migrations, reading them from the state when the set is
// not known.
func (l *moveLoop) ids() (*fsm.State, []api.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.fsm.State()
	if l.active == nil {
		l.active = map[api.ID]struct{}{}
		for m := range st.Migrations() {
			if m.Phase.Active() {
				l.active[m.ID] = struct{}{}
			}
		}
	}
	out := make([]api.ID, 0, len(l.active))
	for id := range l.active {
		out = append(out, id)
	}
	slices.SortFunc(out, func(a, b api.ID) int { return slices.Compare(a[:], b[:]) })
	return st, out
}

// planNow is the plan of a server that leads or does not, for explanations.
func (l *moveLoop) planNow(st *fsm.State) *moves.Plan {
	l.mu.Lock()
	leads := l.leads
	l.mu.Unlock()
	var ids []api.ID
	if leads {
		_, ids = l.ids()
	} else {
		for m := range st.Migrations() {
			if m.Phase.Active() {
				ids = append(ids, m.ID)
			}
		}
	}
	plan := moves.Look(st, ids, l.now())
	return &plan
}

// pass does what is due. It reports whether somebody waits though there is room.
func (l *moveLoop) pass(ctx context.Context) (stuck bool, err error) {
	plan := l.plan()
	l.alarm(plan.Late, "a migration is stuck: it is neither done nor aborted")
	l.alarm(plan.Unresumed, "a migration is stuck: its guest has not gone on at its new owner")
	for _, s := range plan.Steps {
		if _, err := l.commit(ctx, s); err != nil {
			return false, err
		}
	}
	if len(plan.Steps) > 0 {
		plan = l.plan()
	}
	refused := map[api.ID]bool{}
	for len(plan.Queue) > 0 && plan.Free > 0 && !l.held() && ctx.Err() == nil {
		admitted := false
		for _, m := range plan.Queue {
			if refused[m.ID] {
				continue
			}
			refused[m.ID] = true // or admitted
			if admitted, err = l.admit(ctx, m, plan.Busy); err != nil {
				return false, err
			}
			if admitted {
				break
			}
		}
		if !admitted {
			return true, nil
		}
		plan = l.plan() // caps and reservations are others now
	}
	return false, nil
}

func (l *moveLoop) plan() moves.Plan {
	st, ids := l.ids()
	if st.Recovery() != nil {
		return moves.Plan{}
	}
	plan := moves.Look(st, ids, l.now())
	l.mu.Lock()
	l.queue = plan.Waiting > 0
	l.mu.Unlock()
	metrics.SetGauge([]string{"migration", "queued"}, float32(plan.Waiting))
	metrics.SetGauge([]string{"migration", "active"}, float32(plan.Active))
	metrics.SetGauge([]string{"migration", "indeterminate"}, float32(len(plan.Late)))
	metrics.SetGauge([]string{"migration", "unresumed"}, float32(len(plan.Unresumed)))
	return plan
}

// admit chooses a destination and reserves it. False: none fits now.
func (l *moveLoop) admit(ctx context.Context, m *api.Migration, busy map[api.ID]string) (bool, error) {
	st := l.fsm.State()
	vm := st.VM(m.VMID)
	if vm == nil {
		return false, nil
	}
	x := l.choose(moves.Question(st, vm, m, busy))
	if x == nil || x.Chosen.IsZero() {
		return false, nil
	}
	return l.commit(ctx, moves.Admission(m, x.Chosen, l.now()))
}

// commit proposes a step. A refusal means that something was overtaken: the next
// look at the state finds out by what. An error says that the outcome is not
// known, or that this server leads no more.
func (l *moveLoop) commit(ctx context.Context, s *fsm.MigrationStep) (done bool, err error) {
	res, err := l.apply(ctx, s)
	if err != nil && (res == nil || res.Err == nil) {
		return false, err
	}
	if res.Err != nil {
		l.log.Info("a step of a migration was refused", "migration", s.ID, "next", s.Next, "error", res.Err)
		return false, nil
	}
	l.log.Info("a migration goes on", "migration", s.ID, "phase", s.Next, "to", s.To, "why", s.Message)
	return true, nil
}

// alarm tells once about each migration that somebody has to look at.
func (l *moveLoop) alarm(stuck []*api.Migration, what string) {
	for _, m := range stuck {
		if l.alarmed[m.ID] {
			continue
		}
		l.alarmed[m.ID] = true
		l.log.Error(what, "migration", m.ID, "vm", m.Namespace+"/"+m.VMName, "phase", m.Phase,
			"from", m.FromNode, "source", m.Source.State, "to", m.ToNode, "destination", m.Dest.State, "message", m.Dest.Message)
	}
}

// move says where a VM may be moved. On the leader the engine of the loop
// answers, brought up to the newest state, so that what was admitted a moment
// ago counts.
func (l *scheduleLoop) move(q scheduler.Move) *api.Explanation {
	l.engMu.Lock()
	defer l.engMu.Unlock()
	if l.engine != nil {
		l.mu.Lock()
		changes, whole := l.inbox, !l.reload
		l.mu.Unlock()
		if whole {
			l.engine.Apply(l.fsm.State(), changes) // the loop applies them again, which does no harm
			return l.engine.Move(q)
		}
	}
	return scheduler.ExplainMove(l.fsm.State(), q)
}

// holding reports whether nothing is to be placed now.
func (s *Server) holding() bool {
	st := s.fsm.State()
	return st.Recovery() != nil || s.voterCount() < int(st.SchedulerConfig().Expect)
}
