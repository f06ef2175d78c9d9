package cluster

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-metrics/compat"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
	"github.com/novacron/novacron/scheduler"
)

// The limits of the loop.
const (
	scheduleBatch   = 1024                 // decisions in one entry
	scheduleWindow  = 2 * time.Millisecond // for how long one entry is filled
	scheduleFlight  = 4                    // entries on their way
	scheduleInbox   = 1 << 18              // changes kept for the loop; beyond, it reads the state anew
	scheduleHold    = time.Second          // how often a hold is looked at again
	scheduleStrikes = 3                    // refusals of one node before a VM backs off
	backoffFirst    = 100 * time.Millisecond
	backoffMost     = 30 * time.Second
)

// applyFunc commits a command and waits until it is applied here. An error
// without a result means that the outcome is not known.
type applyFunc func(context.Context, fsm.Command) (*fsm.Result, error)

// scheduleLoop is the duty of the leader that gives VMs their nodes. It is
// level-triggered: whatever differs between what is wanted and what is placed
// is decided against the newest state less the decisions on their way.
type scheduleLoop struct {
	fsm    *fsm.FSM
	apply  applyFunc
	voters func() int // how many voters the region has
	log    *slog.Logger
	wake   chan struct{} // buffered by one

	mu     sync.Mutex // of the inbox; held for an append only
	leads  bool
	inbox  []fsm.Change
	reload bool // the inbox is not all: read the state anew

	engMu  sync.Mutex // of the engine
	engine scheduler.Engine
}

// newScheduleLoop returns the duty; voters tells how many voters there are.
func newScheduleLoop(f *fsm.FSM, apply applyFunc, voters func() int, log *slog.Logger) *scheduleLoop {
	return &scheduleLoop{fsm: f, apply: apply, voters: voters, log: log, wake: make(chan struct{}, 1)}
}

// onCommit takes the changes of an entry; it is called on the goroutine that
// applies and never waits for the loop.
func (l *scheduleLoop) onCommit(_ api.Index, changes []fsm.Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.leads || len(changes) == 0 {
		return
	}
	if l.reload || len(l.inbox)+len(changes) > scheduleInbox {
		l.reload, l.inbox = true, nil
	} else {
		l.inbox = append(l.inbox, changes...)
	}
	l.poke()
}

// onRestore tells that the state was replaced.
func (l *scheduleLoop) onRestore(*fsm.State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reload, l.inbox = true, nil
	l.poke()
}

// poke makes the loop look again, for instance because the voters changed.
func (l *scheduleLoop) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// explain says where a VM would go and why not elsewhere: with the decisions on
// their way when this server leads, from the state alone when it does not.
func (l *scheduleLoop) explain(vm *api.VM) *api.Explanation {
	l.engMu.Lock()
	if l.engine != nil {
		defer l.engMu.Unlock()
		return l.engine.Explain(vm)
	}
	l.engMu.Unlock()
	return scheduler.Explain(l.fsm.State(), vm)
}

// run decides until ctx ends. It begins with everything that is not as wanted,
// and leaves nothing behind: not a goroutine, not a promise.
func (l *scheduleLoop) run(ctx context.Context) error {
	t := &scheduleTerm{
		scheduleLoop: l,
		results:      make(chan scheduleOutcome, scheduleFlight),
		timer:        time.NewTimer(time.Hour),
	}
	l.mu.Lock()
	l.leads, l.reload = true, true
	l.mu.Unlock()
	defer func() {
		t.timer.Stop()
		t.flying.Wait()
		l.mu.Lock()
		l.leads, l.inbox = false, nil
		l.mu.Unlock()
		l.engMu.Lock()
		l.engine = nil
		l.engMu.Unlock()
	}()
	for ctx.Err() == nil {
		t.step(ctx)
		if t.busy() {
			select {
			case r := <-t.results:
				t.settle(r)
			default:
			}
			continue
		}
		t.arm()
		select {
		case <-ctx.Done():
		case <-l.wake:
		case r := <-t.results:
			t.settle(r)
		case <-t.timer.C:
		}
	}
	return nil
}

// scheduleOutcome is what became of one entry.
type scheduleOutcome struct {
	items   []fsm.PlaceItem
	volume  api.ID // when it was a VolumeAssign
	node    api.ID
	results []fsm.PlaceResult
	refused *api.Error // the entry as a whole
	err     error      // the outcome is not known
	took    time.Duration
}

// strike counts the refusals of one node for one VM.
type strike struct {
	node  api.ID
	count int
}

// scheduleTerm is one run of the loop. All of it is used by one goroutine.
type scheduleTerm struct {
	*scheduleLoop
	queue   *scheduler.Queue
	volumes map[api.ID]*scheduler.Waiter // standalone volumes on no node; nil: to be decided
	strikes map[api.ID]strike
	pauses  map[api.ID]time.Time // VMs and volumes that back off, and until when

	batch  []fsm.PlaceItem
	opened time.Time // when the first item came

	flight  int
	flying  sync.WaitGroup
	results chan scheduleOutcome
	timer   *time.Timer

	held    string    // why nothing is decided, or empty
	broken  bool      // an outcome is not known: begin anew when nothing flies
	retryAt time.Time // not before
	failed  int       // entries in a row whose outcome is not known
}

// step follows the state, decides what can be decided now and sends what is due.
func (t *scheduleTerm) step(ctx context.Context) {
	t.engMu.Lock()
	defer t.engMu.Unlock()
	if !t.follow() {
		return
	}
	t.hold()
	if t.held == "" {
		t.resume(time.Now())
		t.decide()
		t.decideVolumes(ctx)
		t.send(ctx)
	}
	metrics.SetGauge([]string{"scheduler", "ready"}, float32(t.queue.Ready()))
	metrics.SetGauge([]string{"scheduler", "in_flight"}, float32(t.engine.Pending()))
}

// follow brings the engine and the queue up to the newest state. It reports
// false while the outcome of an entry that still flies has to be awaited.
func (t *scheduleTerm) follow() bool {
	t.mu.Lock()
	changes, reload := t.inbox, t.reload
	t.inbox, t.reload = nil, false
	t.mu.Unlock()
	if t.broken || reload {
		t.broken = true
		if t.flight > 0 || time.Now().Before(t.retryAt) {
			return false
		}
		t.rebuild()
		return true
	}
	s := t.fsm.State()
	t.engine.Apply(s, changes)
	for i := range changes {
		t.mark(s, &changes[i])
	}
	if len(changes) > 0 || t.queue.Ready() == 0 {
		t.wakeWaiting()
	}
	return true
}

// rebuild throws everything away and reads the state: at the start of a term,
// and when the overlay is not to be trusted.
func (t *scheduleTerm) rebuild() {
	defer metrics.MeasureSince([]string{"scheduler", "rebuild"}, time.Now())
	t.broken = false
	t.queue, t.batch = scheduler.NewQueue(), nil
	t.volumes, t.strikes, t.pauses = map[api.ID]*scheduler.Waiter{}, map[api.ID]strike{}, map[api.ID]time.Time{}
	s := t.fsm.State()
	if t.engine == nil {
		t.engine = scheduler.NewEngine(s)
	} else {
		t.engine.Reset(s)
	}
	for vm := range s.VMs() {
		if scheduler.Needs(s, vm, s.Placement(vm.ID)) != scheduler.NeedNothing {
			t.queue.Push(scheduler.ItemOf(vm))
		}
	}
	for v := range s.Volumes() {
		if scheduler.NeedsNode(s, v) {
			t.volumes[v.ID] = nil
		}
	}
}

// mark makes the VM or volume of a change dirty. Whether it needs anything is
// found out when it is decided.
func (t *scheduleTerm) mark(s *fsm.State, c *fsm.Change) {
	for _, v := range []any{c.Old, c.New} {
		switch v := v.(type) {
		case *api.VM:
			t.push(s, v.ID)
		case *api.Placement:
			t.push(s, v.VMID)
		case *api.Tombstone:
			t.push(s, v.VMID)
		case *api.Pool:
			// Standalone volumes that named it before it was there.
			for vol := range s.Volumes() {
				if vol.Pool == v.Name && scheduler.NeedsNode(s, vol) {
					t.volumes[vol.ID] = nil
				}
			}
		case *api.Migration:
			t.push(s, v.VMID)
		case *fsm.MetaRecord:
			t.pushFenced(s)
		case *api.Volume:
			if !v.VMID.IsZero() {
				t.push(s, v.VMID)
			}
			if scheduler.NeedsNode(s, s.Volume(v.ID)) {
				t.volumes[v.ID] = nil
			} else {
				delete(t.volumes, v.ID)
			}
		}
	}
}

// pushFenced looks again at the VMs of lost nodes: restarts may have been held
// back, or are no more.
func (t *scheduleTerm) pushFenced(s *fsm.State) {
	for p := range s.Placements() {
		if p.Fenced != "" {
			t.push(s, p.VMID)
		}
	}
}

// push makes a VM dirty if it needs something, unless it backs off.
func (t *scheduleTerm) push(s *fsm.State, id api.ID) {
	vm := s.VM(id)
	if vm == nil || scheduler.Needs(s, vm, s.Placement(id)) == scheduler.NeedNothing {
		t.queue.Done(id)
		delete(t.strikes, id)
		delete(t.pauses, id)
		return
	}
	if _, pausing := t.pauses[id]; !pausing {
		t.queue.Push(scheduler.ItemOf(vm))
	}
}

// wakeWaiting makes those ready again that a change can help.
func (t *scheduleTerm) wakeWaiting() {
	t.queue.Wake(t.engine.Helps)
	for id, w := range t.volumes {
		if w != nil && t.engine.Helps(w) {
			t.volumes[id] = nil
		}
	}
	t.engine.Rest()
	vms, rooms := t.queue.Waiting()
	metrics.SetGauge([]string{"scheduler", "waiting"}, float32(vms))
	metrics.SetGauge([]string{"scheduler", "waiting_rooms"}, float32(rooms))
}

// hold finds out whether anything may be decided at all.
func (t *scheduleTerm) hold() {
	s := t.fsm.State()
	why := ""
	if s.Recovery() != nil {
		why = "the region is in recovery after a restore"
	} else if n, want := t.voters(), int(s.SchedulerConfig().Expect); n < want {
		why = "fewer voters than expected"
	}
	if why == t.held {
		return
	}
	if t.held = why; why != "" {
		t.log.Warn("scheduling is held back", "reason", why)
	} else {
		t.log.Info("scheduling goes on")
	}
	held := float32(0)
	if why != "" {
		held = 1
	}
	metrics.SetGauge([]string{"scheduler", "held"}, held)
}

// decide fills the batch until it is full, the queue is empty or the window is
// over.
func (t *scheduleTerm) decide() {
	if t.queue.Ready() == 0 {
		return
	}
	start := time.Now()
	defer metrics.MeasureSince([]string{"scheduler", "decide"}, start)
	for n := 1; len(t.batch) < scheduleBatch; n++ {
		it, ok := t.queue.Pop()
		if !ok {
			break
		}
		d := t.engine.Decide(it.ID)
		switch d.Verdict {
		case scheduler.Commit:
			if len(t.batch) == 0 {
				t.opened = start
			}
			t.batch = append(t.batch, d.Item)
			t.queue.Done(it.ID)
		case scheduler.Wait:
			t.queue.Wait(it, d.Waiter)
			metrics.IncrCounterWithLabels([]string{"scheduler", "no_node"}, 1,
				[]metrics.Label{{Name: "dimension", Value: d.Waiter.Failed()}})
		default:
			t.queue.Done(it.ID)
		}
		if n%32 == 0 && time.Since(start) >= scheduleWindow {
			break
		}
	}
}
