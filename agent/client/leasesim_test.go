package client

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	hostleases "github.com/novacron/novacron/cluster/lease"
	"github.com/novacron/novacron/fsm"
)

// leaseWorld is an HA VM on three hosts under three servers in a simulation: the
// real lease table, state machine, guard and step machine on one heap of events
// from one seed, with an ideal log. True time is now; every machine has a clock of
// its own, which is up to 1 % wrong.
type leaseWorld struct {
	seed   uint64
	rng    *rand.Rand
	now    time.Duration
	events simHeap
	count  uint64
	show   bool
	calm   bool
	bad    []string

	f       *fsm.FSM
	index   api.Index
	hosts   [3]*leaseHost
	servers [3]*leaseServer
	leader  *leaseServer
	deposed *leaseServer
	classA  bool
	pending []*proposal // of the leader, not committed yet

	runs   *leaseHost // where the guest runs
	ran    *leaseHost // where it ran last
	ranAt  api.Epoch
	ended  time.Duration // when it ended there
	margin time.Duration // the least time from an end to a start elsewhere by evidence of a lease
	moved  int           // restarts elsewhere
}

// proposal is an entry that a leader wants to commit.
type proposal struct {
	by   *leaseServer
	cmd  fsm.Command
	done func(*fsm.Result) // nil: never to be committed
}

func (w *leaseWorld) at(d time.Duration, f func()) {
	w.count++
	heap.Push(&w.events, simEvent{api.Time(w.now + d), w.count, f})
}

func (w *leaseWorld) dur(most time.Duration) time.Duration {
	return time.Duration(w.rng.Int64N(int64(most)))
}

func (w *leaseWorld) chance(n int) bool { return !w.calm && w.rng.IntN(n) == 0 }

func (w *leaseWorld) trace(format string, args ...any) {
	if w.show {
		fmt.Printf("%8.3f %s\n", w.now.Seconds(), fmt.Sprintf(format, args...))
	}
}

func (w *leaseWorld) violation(format string, args ...any) {
	w.bad = append(w.bad, fmt.Sprintf("%.3f s: ", w.now.Seconds())+fmt.Sprintf(format, args...))
	w.trace("VIOLATION "+format, args...)
}

// clock is a machine's boot time: its rate is wrong by up to 1 %.
type clock struct {
	w    *leaseWorld
	rate float64
	from time.Duration
}

func newClock(w *leaseWorld) clock {
	return clock{w, 1 + (2*w.rng.Float64()-1)*hostleases.Default.Drift, w.now}
}

func (c *clock) now() time.Duration {
	return time.Second + time.Duration(float64(c.w.now-c.from)*c.rate)
}

// true is how long a time by this clock takes.
func (c *clock) takes(d time.Duration) time.Duration {
	return max(0, time.Duration(float64(d)/c.rate)) + 1
}

// apply is one entry of the ideal log.
func (w *leaseWorld) apply(cmd fsm.Command) *fsm.Result {
	data, err := fsm.Encode(cmd, fsm.Meta{Time: api.Time(w.now), Schema: 1})
	if err != nil {
		panic(err)
	}
	w.index++
	r := w.f.Apply(&raft.Log{Index: w.index, Type: raft.LogCommand, Data: data}).(*fsm.Result)
	w.trace("apply %T %+v: %v", cmd, cmd, r.Err)
	for _, h := range w.hosts {
		w.push(h)
	}
	return r
}

func (w *leaseWorld) state() *fsm.State { return w.f.State() }

// propose commits a command of a server after a while, if it leads until then. An
// entry that is under way when the leader changes may be committed by the next.
func (w *leaseWorld) propose(s *leaseServer, cmd fsm.Command, done func(*fsm.Result)) {
	p := &proposal{s, cmd, done}
	if w.leader != s {
		w.at(time.Second, func() { done(nil) })
		return
	}
	w.pending = append(w.pending, p)
	d := w.dur(200 * time.Millisecond)
	if w.chance(4) {
		d = w.dur(5 * time.Second)
	}
	w.at(d, func() {
		for i, q := range w.pending {
			if q == p {
				w.pending = append(w.pending[:i:i], w.pending[i+1:]...)
				done(w.apply(cmd))
				return
			}
		}
	})
}

// elect makes another server lead.
func (w *leaseWorld) elect() {
	var able []*leaseServer
	for _, s := range w.servers {
		if s != w.leader && w.now >= s.frozen {
			able = append(able, s)
		}
	}
	if len(able) == 0 {
		w.at(time.Second, w.elect)
		return
	}
	old := w.pending
	w.pending = nil
	for _, p := range old {
		if w.rng.IntN(2) == 0 {
			w.apply(p.cmd) // it was replicated; the deposed leader does not hear of it
		}
	}
	s := able[w.rng.IntN(len(able))]
	w.leader, w.deposed = s, cmp.Or(w.leader, s)
	s.leads()
	w.trace("server %d leads", s.i)
}

func newLeaseWorld(seed uint64, show bool) *leaseWorld {
	w := &leaseWorld{seed: seed, rng: rand.New(rand.NewPCG(seed, 2)), show: show, f: fsm.New(fsm.Config{}), now: 100 * time.Second, margin: time.Hour}
	w.classA = w.rng.IntN(2) == 0
	for i := range w.hosts {
		w.hosts[i] = newLeaseHost(w, i)
	}
	for i := range w.servers {
		w.servers[i] = &leaseServer{w: w, i: i, clock: newClock(w)}
	}
	w.apply(&fsm.ClusterInit{ClusterID: api.ID{1}, Region: "r", RegionID: api.ID{2}, Keys: []fsm.KeyRecord{{Name: fsm.KeyCA, Kind: "x", Public: []byte("x"), Sealed: []byte("x")}}, Expect: 1})
	w.apply(&fsm.NetworkApply{Network: api.Network{Name: "lan", Type: "bridge", Bridge: "br0"}})
	if !w.classA {
		w.apply(&fsm.HASet{Config: api.HAConfig{Fencing: api.FencingLeaseOnly}})
	}
	w.elect()
	for _, h := range w.hosts {
		h.boots()
	}
	w.runFor(10 * time.Second)
	r := w.apply(&fsm.VMApply{ID: vm1, VolumeIDs: []api.ID{{5}}, Spec: api.VMSpec{
		Name: "x", Namespace: "default", CPU: api.CPUSpec{Cores: 1}, Memory: api.GiB, NICs: []api.NIC{{Network: "lan"}},
		Disks: []api.Disk{{Name: "root", Size: api.GiB, Pool: "san"}}, HA: api.HAPolicy{Policy: api.HARestart},
		Restart: api.RestartPolicy{Policy: "always", Attempts: 1000, Delay: api.Duration(time.Second)},
	}})
	if r.Err != nil {
		panic(r.Err)
	}
	return w
}

func (w *leaseWorld) runFor(d time.Duration) {
	for end := w.now + d; len(w.events) > 0 && time.Duration(w.events[0].at) <= end && len(w.bad) == 0; {
		e := heap.Pop(&w.events).(simEvent)
		w.now = time.Duration(e.at)
		e.f()
	}
}

// starts notes that the guest begins to run on a host.
func (w *leaseWorld) starts(h *leaseHost, epoch api.Epoch) {
	if w.runs != nil && w.runs != h {
		w.violation("the guest runs on %s, and now on %s", w.runs.name, h.name)
	}
	if w.ran != nil && (epoch < w.ranAt || w.ran != h && epoch == w.ranAt) {
		w.violation("it runs on %s at epoch %d, after %s at %d", h.name, epoch, w.ran.name, w.ranAt)
	}
	if w.ran != nil && w.ran != h {
		w.moved++
		if m := w.now - w.ended; m < w.margin {
			w.margin = m
		}
	}
	w.trace("the guest runs on %s at %d", h.name, epoch)
	w.runs, w.ran, w.ranAt = h, h, epoch
}

// stops notes that it does not any more.
func (w *leaseWorld) stops(h *leaseHost) {
	if w.runs == h {
		w.trace("the guest has stopped on %s", h.name)
		w.runs, w.ended = nil, w.now
	}
}

// trouble is one bad thing after the other.
func (w *leaseWorld) trouble() {
	if w.calm {
		return
	}
	w.at(w.dur(12*time.Second), w.trouble)
	h := w.hosts[w.rng.IntN(len(w.hosts))]
	if w.ran != nil && w.rng.IntN(2) == 0 {
		h = w.ran
	}
	switch w.rng.IntN(10) {
	case 0, 1:
		h.cut = w.now + w.dur(80*time.Second)
		w.trace("%s is cut off until %.1f", h.name, h.cut.Seconds())
	case 2, 3:
		h.frozen = max(h.frozen, w.now+w.dur(70*time.Second))
		w.trace("the agent of %s is frozen until %.1f", h.name, h.frozen.Seconds())
	case 4:
		w.trace("the agent of %s dies", h.name)
		h.agentDies(w.dur(20 * time.Second))
	case 5:
		if w.classA {
			h.guardFrozen = w.now + w.dur(60*time.Second)
			w.trace("the guard of %s is frozen until %.1f", h.name, h.guardFrozen.Seconds())
		}
	case 6:
		w.trace("the guard of %s is killed", h.name)
		h.guardDies(w.dur(4 * time.Second))
	case 7:
		w.trace("%s reboots", h.name)
		h.reset()
	case 8:
		h.slow = w.now + w.dur(60*time.Second) // answers take long, until none come
		w.at(w.dur(20*time.Second), func() { h.cut = w.now + w.dur(80*time.Second) })
	case 9:
		s := w.leader
		if s.frozen = w.now + w.dur(60*time.Second); w.rng.IntN(3) > 0 {
			w.trace("server %d is frozen until %.1f", s.i, s.frozen.Seconds())
		} else {
			s.frozen = 0 // only deposed
		}
		s.wall += w.dur(100 * time.Second)
		if w.rng.IntN(2) == 0 { // this host reaches no other server
			h.bound, h.boundTo = s.frozen+time.Second, s
		}
		w.at(w.dur(3*time.Second), w.elect)
	}
	h.wall -= w.dur(100 * time.Second) // somebody sets the wall clock back
}

// leaseSchedule runs one seed.
func leaseSchedule(seed uint64, show bool) (bad []string, moved int, margin time.Duration) {
	w := newLeaseWorld(seed, show)
	w.runFor(20 * time.Second)
	w.at(0, w.trouble)
	w.runFor(120 * time.Second)
	w.calm = true
	w.trace("calm")
	for _, h := range w.hosts {
		h.cut, h.frozen, h.guardFrozen, h.slow = 0, min(h.frozen, w.now), 0, 0
	}
	w.runFor(180 * time.Second)
	if p := w.state().Placement(vm1); len(w.bad) == 0 && (w.runs == nil || p == nil || w.runs.id != p.NodeID) {
		w.violation("long after all trouble the guest does not run on its owner: %+v", p)
	}
	return w.bad, w.moved, w.margin
}

// TestLeaseSchedules runs leases, guards and restarts elsewhere through schedules
// of trouble, and demands that the guest never runs twice, that epochs rise, and
// that it runs somewhere in the end.
func TestLeaseSchedules(t *testing.T) {
	if *simSeed != 0 {
		bad, _, _ := leaseSchedule(*simSeed, true)
		must.SliceEmpty(t, bad)
		return
	}
	begin := time.Now()
	var next, moved, violations, least atomic.Int64
	least.Store(int64(time.Hour))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				seed := next.Add(1)
				if seed > int64(*simSchedules) {
					return
				}
				bad, n, margin := leaseSchedule(uint64(seed), false)
				moved.Add(int64(n))
				mu.Lock()
				least.Store(min(least.Load(), int64(margin)))
				if len(bad) > 0 && violations.Add(1) <= 5 {
					t.Errorf("seed %d: %v", seed, bad)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d schedules of leases, %d restarts elsewhere, least margin %.2f s, %.0f schedules/s", *simSchedules, moved.Load(), time.Duration(least.Load()).Seconds(), float64(*simSchedules)/time.Since(begin).Seconds())
	simViolations.Add(violations.Load())
	must.Positive(t, moved.Load())
	must.Zero(t, violations.Load())
}
