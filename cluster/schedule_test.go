package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// schedWorld is a state machine with a log of its own in place of Raft, and a
// loop that leads over it. It lives in a synctest bubble.
type schedWorld struct {
	t      *testing.T
	loop   *scheduleLoop
	moves  *moveLoop // nil in most tests
	drains *drainLoop
	fsm    *fsm.FSM
	voters atomic.Int32

	mu      sync.Mutex
	index   uint64
	entries []fsm.Command
	// before and after see each command of the loop: before may apply others or
	// refuse the command; after may hide the outcome or change it.
	before func(cmd fsm.Command) error
	after  func(cmd fsm.Command, res *fsm.Result) error
}

func newSchedWorld(t *testing.T) *schedWorld {
	w := &schedWorld{t: t}
	w.voters.Store(1)
	w.fsm = fsm.New(fsm.Config{
		OnCommit: func(i uint64, c []fsm.Change) {
			w.loop.onCommit(i, c)
			if w.moves != nil {
				w.moves.onCommit(c)
				w.drains.onCommit(c)
			}
		},
		OnRestore: func(s *fsm.State) { w.loop.onRestore(s) },
	})
	w.loop = newScheduleLoop(w.fsm, w.apply, func() int { return int(w.voters.Load()) }, slog.New(slog.DiscardHandler))
	w.do(&fsm.ClusterInit{ClusterID: api.ID{1}, RegionID: api.ID{2}, Region: "r1"})
	return w
}

// apply is what Raft does: an entry takes a millisecond.
func (w *schedWorld) apply(ctx context.Context, cmd fsm.Command) (*fsm.Result, error) {
	select {
	case <-time.After(time.Millisecond):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	w.mu.Lock()
	before, after := w.before, w.after
	w.mu.Unlock()
	if before != nil {
		if err := before(cmd); err != nil {
			return nil, err
		}
	}
	res := w.log(cmd)
	if after != nil {
		if err := after(cmd, res); err != nil {
			return nil, err
		}
	}
	if res.Err != nil {
		return res, res.Err
	}
	return res, nil
}

func (w *schedWorld) log(cmd fsm.Command) *fsm.Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	data, err := fsm.Encode(cmd, fsm.Meta{Time: api.TimeOf(time.Now()), Schema: 1})
	must.NoError(w.t, err)
	w.index++
	w.entries = append(w.entries, cmd)
	return w.fsm.Apply(&raft.Log{Index: w.index, Term: 1, Type: raft.LogCommand, Data: data}).(*fsm.Result)
}

func (w *schedWorld) do(cmd fsm.Command) *fsm.Result {
	res := w.log(cmd)
	must.Nil(w.t, res.Err)
	return res
}

func (w *schedWorld) inject(before func(fsm.Command) error, after func(fsm.Command, *fsm.Result) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.before, w.after = before, after
}

func sid(kind byte, n int) api.ID { return api.ID{kind, byte(n >> 8), byte(n)} }

func (w *schedWorld) node(n int, memory api.Bytes) api.ID {
	id := sid('n', n)
	w.do(&fsm.NodeRegister{SessionID: sid('s', n), Node: api.Node{
		ID: id, Name: fmt.Sprintf("n%d", n), MachineID: fmt.Sprint(n), Capacity: api.Resources{CPU: api.Cores(1000), Memory: memory},
		Pools: []api.NodePool{{Name: "default", Type: "sim", Capacity: api.TiB}}, Drivers: []api.DriverInfo{{Name: "sim", Healthy: true}},
	}})
	w.do(&fsm.NodeStatus{Items: []fsm.NodeStatusItem{{NodeID: id, Status: api.NodeReady}}})
	return id
}

func (w *schedWorld) vm(n int, change func(*api.VMSpec)) api.ID {
	s := api.VMSpec{Name: fmt.Sprintf("vm%d", n), Namespace: "default", CPU: api.CPUSpec{Cores: 1}, Memory: api.GiB}
	if change != nil {
		change(&s)
	}
	c := &fsm.VMApply{ID: sid('v', n), Spec: s}
	for i := range s.Disks {
		c.VolumeIDs = append(c.VolumeIDs, sid('d', n*8+i))
	}
	w.do(c)
	return c.ID
}

func (w *schedWorld) report(vm api.ID, state api.VMState) {
	p := w.fsm.State().Placement(vm)
	must.NotNil(w.t, p)
	w.do(&fsm.NodeReports{Reports: []api.NodeReport{{NodeID: p.NodeID, SessionID: w.fsm.State().Session(p.NodeID),
		VMs: []api.VMReport{{VMID: vm, Epoch: p.Epoch, State: state, Version: 1, Seq: w.index + 1, Order: w.index, Generation: w.fsm.State().Generation()}}}}})
}

// lead runs the loop for the time of fn, and waits for its end.
func (w *schedWorld) lead(fn func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.loop.run(ctx) }()
	fn()
	cancel()
	must.NoError(w.t, <-done)
}

// rest lets time pass until everything that is due has been done.
func (w *schedWorld) rest(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *schedWorld) placed() (n int) {
	for range w.fsm.State().Placements() {
		n++
	}
	return n
}

func (w *schedWorld) batches() (out []*fsm.PlaceBatch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.entries {
		if b, ok := c.(*fsm.PlaceBatch); ok {
			out = append(out, b)
		}
	}
	return out
}

// check: no node gives out more than it has, no VM was granted twice.
func (w *schedWorld) check() {
	s := w.fsm.State()
	for n := range s.Nodes() {
		used, limit := s.Used(n.ID), fsm.Limits(s, n)
		must.LessEq(w.t, limit.Memory, used.Memory)
	}
	for p := range s.Placements() {
		must.EqOp(w.t, s.VM(p.VMID).Epoch, p.Epoch)
	}
}

func bubble(t *testing.T, fn func(t *testing.T, w *schedWorld)) {
	synctest.Test(t, func(t *testing.T) { fn(t, newSchedWorld(t)) })
}

func TestLoopPlacesEverythingInBatches(t *testing.T) {
	bubble(t, func(t *testing.T, w *schedWorld) {
		for i := range 20 {
			w.node(i, 200*api.GiB)
		}
		for i := range 3000 {
			w.vm(i, nil)
		}
		w.lead(func() {
			w.rest(time.Second)
			must.EqOp(t, 3000, w.placed())
			w.check()
			n := len(w.batches())
			must.GreaterEq(t, 3, n)
			for _, b := range w.batches() {
				must.LessEq(t, scheduleBatch, len(b.Items))
			}
			w.vm(3001, nil)
			w.rest(100 * time.Millisecond)
			must.EqOp(t, 3001, w.placed())
			must.Len(t, n+1, w.batches(), must.Sprint("one entry, and silence after it"))
			w.rest(time.Hour)
			must.Len(t, n+1, w.batches())
		})
		must.Nil(t, w.loop.engine)
	})
}

func TestLoopKeepsThoseThatFitNowhereAndWakesThemInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, w *schedWorld) {
		w.node(1, 4*api.GiB)
		w.lead(func() {
			big := func(priority int32) func(*api.VMSpec) {
				return func(s *api.VMSpec) { s.Memory, s.Priority = 8*api.GiB, priority }
			}
			w.vm(1, big(50))
			w.vm(2, big(90))
			w.vm(3, nil)
			w.rest(time.Second)
			must.EqOp(t, 1, w.placed())
			x := w.loop.explain(w.fsm.State().VM(sid('v', 1)))
			must.True(t, x.Chosen.IsZero())
			must.EqOp(t, "memory", x.Counts[0].Failed)
			n := w.node(2, 9*api.GiB)
			w.rest(time.Second)
			must.Nil(t, w.fsm.State().Placement(sid('v', 1)))
			must.EqOp(t, n, w.fsm.State().Placement(sid('v', 2)).NodeID)
			w.do(&fsm.VMDelete{ID: sid('v', 2)})
			w.rest(time.Second)
			must.EqOp(t, n, w.fsm.State().Placement(sid('v', 1)).NodeID)
			w.check()
		})
	})
}

// A batch that fails, and one of which the outcome is hidden: the overlay is
// rebuilt, everything is placed once.
func TestLoopSurvivesUnknownOutcomes(t *testing.T) {
	for name, hide := range map[string]bool{"not applied": false, "applied unseen": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *schedWorld) {
				for i := range 10 {
					w.node(i, 200*api.GiB)
				}
				for i := range 1500 {
					w.vm(i, nil)
				}
				left := 3
				lose := func() error {
					w.mu.Lock()
					defer w.mu.Unlock()
					if left > 0 {
						left--
						return errors.New("the leader lost its quorum")
					}
					return nil
				}
				if hide {
					w.inject(nil, func(fsm.Command, *fsm.Result) error { return lose() })
				} else {
					w.inject(func(fsm.Command) error { return lose() }, nil)
				}
				w.lead(func() {
					w.rest(time.Minute)
					must.EqOp(t, 1500, w.placed())
					w.check()
				})
			})
		})
	}
}

// An item that lost a race fails alone, and its VM goes elsewhere at once.
func TestLoopRepairsLostRaces(t *testing.T) {
	bubble(t, func(t *testing.T, w *schedWorld) {
		first := w.node(1, 20*api.GiB)
		w.vm(0, nil)
		w.lead(func() {
			w.rest(time.Second)
			w.node(2, 200*api.GiB)
			w.rest(time.Second)
			var once sync.Once
			w.inject(func(fsm.Command) error {
				once.Do(func() { w.do(&fsm.NodeUpdate{ID: first, Eligibility: api.Ineligible}) })
				return nil
			}, nil)
			for i := range 10 {
				w.vm(i+1, nil)
			}
			w.rest(time.Second)
			must.EqOp(t, 11, w.placed())
			for p := range w.fsm.State().Placements() {
				must.EqOp(t, p.VMID == sid('v', 0), p.NodeID == first)
			}
			w.check()
		})
	})
}

// What the state machine keeps refusing must not become a loop: the VM backs
// off, the others go on, and it is placed when the refusals end.
func TestLoopBacksOffFromEndlessRefusals(t *testing.T) {
	bubble(t, func(t *testing.T, w *schedWorld) {
		w.node(1, 20*api.GiB)
		cursed := w.vm(1, nil)
		var tries atomic.Int32 // below zero: the curse is lifted
		w.loop.apply = func(ctx context.Context, cmd fsm.Command) (*fsm.Result, error) {
			b, ok := cmd.(*fsm.PlaceBatch)
			if !ok || tries.Load() < 0 {
				return w.apply(ctx, cmd)
			}
			kept := &fsm.PlaceBatch{}
			out := make([]fsm.PlaceResult, len(b.Items))
			at := []int{}
			for i, it := range b.Items {
				if out[i].VMID = it.VMID; it.VMID == cursed {
					tries.Add(1)
					out[i].Err = api.Errorf(api.CodePlacement, "no")
				} else {
					kept.Items, at = append(kept.Items, it), append(at, i)
				}
			}
			res, err := w.apply(ctx, kept)
			if err != nil {
				return res, err
			}
			for k, r := range res.Value.([]fsm.PlaceResult) {
				out[at[k]] = r
			}
			return &fsm.Result{Value: out, Index: res.Index}, nil
		}
		w.lead(func() {
			w.rest(time.Minute)
			must.Between(t, scheduleStrikes, tries.Load(), 20)
			w.vm(2, nil)
			w.rest(time.Second)
			must.EqOp(t, 1, w.placed())
			tries.Store(-100)
			w.rest(backoffMost + time.Second)
			must.EqOp(t, 2, w.placed())
		})
	})
}

func TestLoopHoldsBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *schedWorld) {
		n := w.node(1, 20*api.GiB)
		w.do(&fsm.SchedulerSet{Config: api.SchedulerConfig{Expect: 3}})
		w.vm(1, nil)
		w.lead(func() {
			w.rest(time.Minute)
			must.Zero(t, w.placed(), must.Sprint("one voter of three"))
			w.voters.Store(3)
			w.loop.poke()
			w.rest(time.Millisecond * 10)
			must.EqOp(t, 1, w.placed())

			w.do(&fsm.RecoveryBegin{})
			w.vm(2, nil)
			w.rest(time.Minute)
			must.EqOp(t, 1, w.placed(), must.Sprint("in recovery"))
			w.do(&fsm.RecoveryEnd{Fenced: []api.ID{n}})
			w.do(&fsm.NodeStatus{Items: []fsm.NodeStatusItem{{NodeID: n, Status: api.NodeReady}}})
			w.rest(time.Minute)
			must.NotNil(t, w.fsm.State().Placement(sid('v', 2)))
		})
	})
}

// Leadership ends in the middle: nothing is left, and the next term decides the rest.
func TestLoopEndsAtOnceAndTheNextTermGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T, w *schedWorld) {
		for i := range 10 {
			w.node(i, 400*api.GiB)
		}
		for i := range 3000 {
			w.vm(i, nil)
		}
		w.lead(func() { w.rest(1500 * time.Microsecond) })
		some := w.placed()
		must.Between(t, 0, some, 2999)
		w.vm(3000, nil)
		w.lead(func() { w.rest(time.Second) })
		must.EqOp(t, 3001, w.placed())
		w.check()
		x := w.loop.explain(w.fsm.State().VM(sid('v', 1)))
		must.False(t, x.Chosen.IsZero(), must.Sprint("explained from the state when nobody leads"))
	})
}

func TestLoopFollowsPowerAndVolumes(t *testing.T) {
	bubble(t, func(t *testing.T, w *schedWorld) {
		n := w.node(1, 4*api.GiB)
		vol := sid('x', 1)
		w.lead(func() {
			w.do(&fsm.VolumeCreate{Volume: api.Volume{ID: vol, Namespace: "default", Name: "data", Size: 2 * api.TiB}})
			kept := w.vm(1, func(s *api.VMSpec) { s.Memory = 3 * api.GiB; s.Disks = []api.Disk{{Name: "root", Size: api.GiB}} })
			bare := w.vm(2, nil)
			w.rest(time.Second)
			must.EqOp(t, 2, w.placed())
			must.True(t, w.fsm.State().Volume(vol).NodeID.IsZero(), must.Sprint("no pool has room for it"))
			w.do(&fsm.PoolApply{Pool: api.Pool{Name: "default", Type: "sim", Ratio: 3}})
			w.rest(time.Second)
			must.EqOp(t, n, w.fsm.State().Volume(vol).NodeID)

			for _, vm := range []api.ID{kept, bare} {
				w.report(vm, api.StateRunning)
				w.do(&fsm.VMPower{ID: vm, Action: "stop"})
				w.report(vm, api.StateStopped)
			}
			w.rest(time.Second)
			must.NotNil(t, w.fsm.State().Placement(kept), must.Sprint("its disk keeps it"))
			must.Nil(t, w.fsm.State().Placement(bare), must.Sprint("released"))

			w.vm(3, func(s *api.VMSpec) { s.Memory = 2 * api.GiB })
			w.rest(time.Second)
			w.do(&fsm.VMPower{ID: kept, Action: "start"})
			w.rest(time.Second)
			must.EqOp(t, api.Resources{}, w.fsm.State().Placement(kept).Reserved, must.Sprint("no room to start again"))
			w.do(&fsm.VMDelete{ID: sid('v', 3)})
			w.rest(time.Second)
			must.EqOp(t, 3*api.GiB, w.fsm.State().Placement(kept).Reserved.Memory)
			must.EqOp(t, api.Epoch(1), w.fsm.State().Placement(kept).Epoch)
		})
	})
}

// Too many changes at once, or a restore: the loop reads the state instead.
func TestLoopReadsTheStateAnew(t *testing.T) {
	bubble(t, func(t *testing.T, w *schedWorld) {
		w.node(1, 20*api.GiB)
		w.lead(func() {
			w.rest(time.Second)
			w.loop.engMu.Lock() // the loop is late
			w.loop.onCommit(1, make([]fsm.Change, scheduleInbox+1))
			w.vm(1, nil)
			must.True(t, w.loop.reload)
			must.SliceEmpty(t, w.loop.inbox)
			w.loop.engMu.Unlock()
			w.rest(time.Second)
			must.EqOp(t, 1, w.placed())
			w.loop.onRestore(w.fsm.State())
			w.vm(2, nil)
			w.rest(time.Second)
			must.EqOp(t, 2, w.placed())
		})
		w.loop.onCommit(1, make([]fsm.Change, 1))
		must.SliceEmpty(t, w.loop.inbox, must.Sprint("who does not lead keeps nothing"))
	})
}
