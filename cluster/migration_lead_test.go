package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/moves"
	"github.com/novacron/novacron/fsm"
)

// playMove is what an end says when all goes well: at once what it is asked for.
// ok is false where it has nothing to say.
func playMove(m *api.Migration, node api.ID) (r api.MoveReport, ok bool) {
	say := func(s api.EndState, clean bool) (api.MoveReport, bool) {
		return api.MoveReport{Migration: m.ID, State: s, Attempt: m.Attempts, Clean: clean}, true
	}
	source := node == m.From
	switch m.Phase {
	case api.MigrationProposed:
		if source {
			return say(api.EndPresent, false)
		}
		return say(api.EndReady, false)
	case api.MigrationCopying, api.MigrationSwitched: // the one may come and go unseen
		if source {
			return say(api.EndAbsent, false)
		}
		return say(api.EndComplete, false)
	case api.MigrationCommitted:
		if source {
			return say(api.EndAbsent, true)
		}
		return say(api.EndRunning, true)
	case api.MigrationAborting:
		if source {
			return say(api.EndPresent, false)
		}
		if m.KillDest {
			return say(api.EndAbsent, true)
		}
	case api.MigrationAborted:
		if source {
			return say(api.EndPresent, true)
		}
		return say(api.EndAbsent, true)
	case api.MigrationDone:
		return say(map[bool]api.EndState{true: api.EndAbsent, false: api.EndRunning}[source], true)
	}
	return r, false
}

// moveWorld is a schedWorld whose leader also brings migrations forward.
type moveWorld struct {
	*schedWorld
	moved int
}

func newMoveWorld(t *testing.T) *moveWorld {
	w := &moveWorld{schedWorld: newSchedWorld(t)}
	log := slog.New(slog.DiscardHandler)
	w.drains = newDrainLoop(w.fsm, w.apply, time.Now, log)
	w.moves = newMoveLoop(w.fsm, w.apply, func() bool { return false }, w.loop.move, time.Now, log)
	return w
}

// lead runs the loops for the time of fn.
func (w *moveWorld) lead(fn func()) {
	w.schedWorld.lead(func() {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 2)
		go func() { done <- w.moves.run(ctx) }()
		go func() { done <- w.drains.run(ctx) }()
		fn()
		cancel()
		must.NoError(w.t, <-done)
		must.NoError(w.t, <-done)
	})
}

// mover is a node that moves guests.
func (w *moveWorld) mover(n int, memory api.Bytes) api.ID {
	id := w.node(n, memory)
	node := *w.fsm.State().Node(id)
	node.BootID = fmt.Sprint("boot", n)
	node.Drivers = []api.DriverInfo{{Name: "sim", Healthy: true, Can: []string{"migrate"}}}
	w.do(&fsm.NodeRegister{SessionID: sid('s', n), Node: node})
	w.do(&fsm.NodeStatus{Items: []fsm.NodeStatusItem{{NodeID: id, Status: api.NodeReady}}})
	return id
}

// on makes a VM that runs on a node.
func (w *moveWorld) on(node api.ID, n int, change func(*api.VMSpec)) api.ID {
	vm := w.vm(n, change)
	v := w.fsm.State().VM(vm)
	w.do(&fsm.PlaceBatch{Items: []fsm.PlaceItem{{Action: fsm.PlacePlace, VMID: vm, NodeID: node, Epoch: 1, SpecVersion: v.SpecVersion, Power: v.Power}}})
	w.report(vm, api.StateRunning)
	s := w.fsm.State()
	var vols []api.VolumeReport
	for v := range s.VolumesOf(vm) {
		vols = append(vols, api.VolumeReport{ID: v.ID, State: api.VolumeReady})
	}
	w.do(&fsm.NodeReports{Reports: []api.NodeReport{{NodeID: node, SessionID: s.Session(node), Volumes: vols}}})
	return vm
}

// move queues a move.
func (w *moveWorld) move(vm api.ID, change func(*api.Migration)) api.ID {
	w.moved++
	m := api.Migration{ID: sid('x', w.moved), VMID: vm, Mode: api.MigrateLive, Cause: api.CauseOperator, Secret: sid('k', w.moved), Priority: 50}
	if change != nil {
		change(&m)
	}
	w.do(&fsm.MigrationCreate{Migration: m})
	return m.ID
}

func (w *moveWorld) is(id api.ID, want api.MigrationPhase) *api.Migration {
	w.t.Helper()
	m := w.fsm.State().Migration(id)
	must.Eq(w.t, want, m.Phase)
	return m
}

// say reports an end of a migration.
func (w *moveWorld) say(id, node api.ID, state api.EndState) {
	s := w.fsm.State()
	m := s.Migration(id)
	w.tell(node, api.MoveReport{Migration: id, State: state, Attempt: m.Attempts})
}

func (w *moveWorld) tell(node api.ID, r api.MoveReport) {
	s := w.fsm.State()
	r.BootID, r.Seq = s.Node(node).BootID, w.index+1
	w.do(&fsm.NodeReports{Reports: []api.NodeReport{{NodeID: node, SessionID: s.Session(node), Moves: []api.MoveReport{r}}}})
}

// play lets both ends of a migration do at once what they are asked for.
func (w *moveWorld) play(id api.ID) {
	m := w.fsm.State().Migration(id)
	for _, n := range []api.ID{m.From, m.To} {
		if n.IsZero() || m.Phase == api.MigrationQueued {
			continue
		}
		if r, ok := playMove(m, n); ok {
			w.tell(n, r)
		}
	}
	synctest.Wait()
	time.Sleep(5 * time.Millisecond) // in the bubble: until the leader's entries are applied
}

func TestTheLeaderBringsAMoveToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMoveWorld(t)
		a, b := w.mover(1, api.TiB), w.mover(2, api.TiB)
		vm := w.on(a, 1, nil)
		x := w.move(vm, nil)
		w.lead(func() {
			time.Sleep(10 * time.Millisecond)
			m := w.is(x, api.MigrationProposed)
			must.Eq(t, b, m.To)
			must.Eq(t, 30*time.Minute, m.Deadline.Time().Sub(time.Now()).Round(time.Minute))
			w.say(x, a, api.EndPresent)
			w.say(x, b, api.EndReady)
			time.Sleep(10 * time.Millisecond)
			must.Eq(t, 1, w.is(x, api.MigrationCopying).Attempts, must.Sprint("prepared: the copy begins at once"))
			w.play(x)
			w.is(x, api.MigrationCommitted)
			w.play(x)
			w.is(x, api.MigrationDone)
		})
		must.Eq(t, b, w.fsm.State().Placement(vm).NodeID)
	})
}

// Priority first, then age; caps for the region and for each node, both ends
// counted.
func TestMovesAreAdmittedInOrderWithinTheCaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMoveWorld(t)
		w.do(&fsm.SchedulerSet{Config: api.SchedulerConfig{Algorithm: "spread", Migrations: 3, NodeMigrations: 2}})
		a, b := w.mover(1, api.TiB), w.mover(2, api.TiB)
		w.mover(3, api.TiB)
		w.mover(4, api.TiB)
		var ids []api.ID
		for i := range 3 {
			ids = append(ids, w.move(w.on(a, i, nil), func(m *api.Migration) { m.Priority = int32(10 * i) }))
		}
		for i := range 2 {
			ids = append(ids, w.move(w.on(b, 10+i, nil), nil))
		}
		active := func() (out []api.ID) {
			for m := range w.fsm.State().Migrations() {
				if moves.Loads(m) {
					out = append(out, m.ID)
				}
			}
			return out
		}
		w.lead(func() {
			time.Sleep(100 * time.Millisecond)
			must.Eq(t, []api.ID{ids[2], ids[3], ids[4]}, active(), must.Sprint("the highest priority, then the oldest"))
			w.is(ids[1], api.MigrationQueued)
			w.play(ids[3])
			w.play(ids[3])
			w.play(ids[3])
			w.is(ids[3], api.MigrationDone)
			time.Sleep(100 * time.Millisecond)
			must.Eq(t, []api.ID{ids[1], ids[2], ids[4]}, active())
			w.play(ids[4])
			w.play(ids[4])
			w.play(ids[4])
			time.Sleep(100 * time.Millisecond)
			must.Eq(t, []api.ID{ids[1], ids[2]}, active(), must.Sprint("two of its node are under way, the region has room"))
			// Both ends count: what comes in as much as what goes out.
			st := w.fsm.State()
			for n := range st.Nodes() {
				load := 0
				for _, id := range active() {
					if m := st.Migration(id); m.From == n.ID || m.To == n.ID {
						load++
					}
				}
				must.LessEq(t, 2, load)
			}
		})
	})
}

func TestAMoveWaitsForANodeAndIsEndedInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMoveWorld(t)
		a := w.mover(1, api.TiB)
		waits := w.move(w.on(a, 1, nil), nil)
		late := w.move(w.on(a, 2, func(s *api.VMSpec) { s.Memory = 100 * api.GiB }), func(m *api.Migration) { m.Options.Timeout = api.Duration(time.Minute) })
		stopped := w.on(a, 3, nil)
		ends := w.move(stopped, nil)
		w.lead(func() {
			time.Sleep(time.Second)
			w.is(waits, api.MigrationQueued)
			w.do(&fsm.VMPower{ID: stopped, Action: "stop"})
			w.is(ends, api.MigrationAborted)
			w.mover(2, 10*api.GiB)
			time.Sleep(100 * time.Millisecond)
			w.is(waits, api.MigrationProposed)
			w.is(late, api.MigrationQueued)
			time.Sleep(time.Minute)
			m := w.is(late, api.MigrationAborted)
			must.Eq(t, api.CodeDeadline, m.Code)
			must.StrContains(t, m.Message, "no node could take it within 1m0s")
		})
	})
}

func TestAMoveToANodeThatWasNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMoveWorld(t)
		a, b := w.mover(1, api.TiB), w.mover(2, api.TiB)
		w.mover(3, api.TiB)
		w.do(&fsm.NodeUpdate{ID: b, Eligibility: api.Ineligible})
		x := w.move(w.on(a, 1, nil), func(m *api.Migration) { m.To, m.Pinned = b, true })
		w.lead(func() {
			time.Sleep(50 * time.Millisecond)
			must.Eq(t, b, w.is(x, api.MigrationProposed).To, must.Sprint("cordoned, but named"))
		})
	})
}

func TestADeadlineEndsAMoveUntilTheGuestHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMoveWorld(t)
		a, b := w.mover(1, api.TiB), w.mover(2, api.TiB)
		short := func(m *api.Migration) { m.Options.Timeout = api.Duration(time.Minute) }
		x, y := w.move(w.on(a, 1, nil), short), w.move(w.on(a, 2, nil), short)
		w.lead(func() {
			time.Sleep(50 * time.Millisecond)
			for _, id := range []api.ID{x, y} {
				w.play(id)
				w.is(id, api.MigrationCopying)
			}
			w.say(x, a, api.EndCopying)
			w.say(y, a, api.EndAbsent)
			w.is(y, api.MigrationSwitched)
			time.Sleep(2 * time.Minute)
			m := w.is(x, api.MigrationAborting)
			must.Eq(t, api.CodeDeadline, m.Code)
			w.is(y, api.MigrationSwitched) // the destination may hold the only copy
			must.True(t, w.moves.alarmed[y], must.Sprint("somebody has to look"))
			must.False(t, w.moves.alarmed[x])
			time.Sleep(2 * time.Minute)
			must.True(t, w.moves.alarmed[x])
			w.say(y, b, api.EndComplete)
			w.is(y, api.MigrationCommitted)
			w.say(x, a, api.EndPresent)
			w.tell(b, api.MoveReport{Migration: x, State: api.EndAbsent, Attempt: 1, Clean: true})
			w.is(x, api.MigrationAborted)
		})
	})
}

// A leader that is replaced in the middle loses nothing: the next one begins
// with what the state says, whatever became of the last entry.
func TestANewLeaderGoesOnWithTheMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMoveWorld(t)
		a := w.mover(1, api.TiB)
		w.mover(2, api.TiB)
		w.mover(3, api.TiB)
		var ids []api.ID
		for i := range 4 {
			ids = append(ids, w.move(w.on(a, i, nil), nil))
		}
		lost := errors.New("leadership lost while committing")
		for round := 0; ; round++ {
			must.Less(t, 100, round)
			n := 0
			w.inject(nil, func(cmd fsm.Command, _ *fsm.Result) error {
				if _, ok := cmd.(*fsm.MigrationStep); ok {
					if n++; n == round%3+1 {
						return lost // applied, but nobody knows
					}
				}
				return nil
			})
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error)
			go func() { done <- w.moves.run(ctx) }()
			time.Sleep(20 * time.Millisecond)
			for _, id := range ids {
				w.play(id)
			}
			cancel()
			if err := <-done; err != nil {
				must.ErrorIs(t, err, lost)
			}
			ended := 0
			for _, id := range ids {
				if w.fsm.State().Migration(id).Phase == api.MigrationDone {
					ended++
				}
			}
			if ended == len(ids) {
				break
			}
		}
		for m := range w.fsm.State().Migrations() {
			must.Eq(t, 1, m.Attempts)
			must.NotEq(t, a, w.fsm.State().Placement(m.VMID).NodeID)
		}
	})
}

func TestNothingIsAdmittedWhilePlacingIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMoveWorld(t)
		held := true
		w.moves.held = func() bool { return held }
		a := w.mover(1, api.TiB)
		w.mover(2, api.TiB)
		x := w.move(w.on(a, 1, nil), nil)
		w.lead(func() {
			time.Sleep(5 * time.Second)
			w.is(x, api.MigrationQueued)
			held = false
			time.Sleep(2 * time.Second)
			w.is(x, api.MigrationProposed)
		})
	})
}
