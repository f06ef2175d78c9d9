package client

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
	hostleases "github.com/novacron/novacron/cluster/lease"
	"github.com/novacron/novacron/fsm"
)

// simWorld is one VM on three hosts under three servers in a simulation: the real
// machines of leases, guards, hosts and migrations, and the real state machine as
// an ideal log, on one heap of events from one seed. True time is now; every
// machine has a clock of its own, which is up to 1 % wrong.
//
// In two seeds of three the VM is to be restarted elsewhere (ha = restart) and its
// disk is in a shared pool; in the third it is kept (ha = keep), and its disk is
// local and moves with it.
type simWorld struct {
	seed   uint64
	rng    *rand.Rand
	now    time.Duration
	events simHeap
	count  uint64
	show   bool
	calm   bool // no more trouble
	bad    []string

	f       *fsm.FSM
	index   api.Index
	hosts   [3]*simHost
	servers [3]*simServer
	leader  *simServer
	deposed *simServer
	pending []*proposal // of the leader, not committed yet

	classA bool // guards have a watchdog
	ha     bool // ha = restart
	policy string
	faults []fault       // kinds of trouble of this seed
	link   time.Duration // until then no host reaches another
	move   api.ID        // the newest migration
	moves  int
	truth
	tally
}

// tally counts what a schedule has seen, so that one can tell that it saw anything.
type tally struct {
	restarts int           // elsewhere, by evidence of a lease
	margin   time.Duration // the least time from an end to such a start
	moved    int           // migrations that are done
	wentOn   int           // guests that went on at the source beside a whole copy
	gaveUp   int           // moves whose destination had to give up a part
	storms   int           // times that the brake held
	disarms  int           // times that a guest ran on after its policy was taken back
}

// proposal is an entry that a leader wants to commit.
type proposal struct {
	by   *simServer
	cmd  fsm.Command
	done func(*fsm.Result)
}

type simEvent struct {
	at  time.Duration
	seq uint64
	f   func()
}

type simHeap []simEvent

func (h simHeap) Len() int { return len(h) }
func (h simHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h simHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *simHeap) Push(x any)   { *h = append(*h, x.(simEvent)) }
func (h *simHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

func (w *simWorld) at(d time.Duration, f func()) {
	w.count++
	heap.Push(&w.events, simEvent{w.now + d, w.count, f})
}

// dur is a random time.
func (w *simWorld) dur(most time.Duration) time.Duration {
	return time.Duration(w.rng.Int64N(int64(most)))
}

// chance is true once in n, and never when all trouble is over.
func (w *simWorld) chance(n int) bool { return !w.calm && w.rng.IntN(n) == 0 }

func (w *simWorld) trace(format string, args ...any) {
	if w.show {
		fmt.Printf("%8.3f %s\n", w.now.Seconds(), fmt.Sprintf(format, args...))
	}
}

func (w *simWorld) violation(format string, args ...any) {
	w.bad = append(w.bad, fmt.Sprintf("%.3f s: ", w.now.Seconds())+fmt.Sprintf(format, args...))
	w.trace("VIOLATION "+format, args...)
}

func (w *simWorld) runFor(d time.Duration) {
	for end := w.now + d; len(w.events) > 0 && w.events[0].at <= end && len(w.bad) == 0; {
		e := heap.Pop(&w.events).(simEvent)
		w.now = e.at
		e.f()
	}
}

// simClock is a machine's boot time: its rate is wrong by up to 1 %.
type simClock struct {
	w    *simWorld
	rate float64
	from time.Duration
}

func newSimClock(w *simWorld) simClock {
	return simClock{w, 1 + (2*w.rng.Float64()-1)*hostleases.Default.Drift, w.now}
}

func (c *simClock) now() time.Duration {
	return time.Second + time.Duration(float64(c.w.now-c.from)*c.rate)
}

// takes is how long a time by this clock takes in truth.
func (c *simClock) takes(d time.Duration) time.Duration {
	return max(0, time.Duration(float64(d)/c.rate)) + 1
}

// read is clock_gettime on a machine whose wall clock was set by so much.
func (c *simClock) read(id int32, wall time.Duration) time.Duration {
	if id == unix.CLOCK_REALTIME {
		return max(0, c.now()+wall)
	}
	return c.now()
}

// apply is one entry of the ideal log.
func (w *simWorld) apply(cmd fsm.Command) *fsm.Result {
	data, err := fsm.Encode(cmd, fsm.Meta{Time: api.Time(w.now), Schema: 1})
	if err != nil {
		panic(err)
	}
	w.index++
	r := w.f.Apply(&raft.Log{Index: w.index, Type: raft.LogCommand, Data: data}).(*fsm.Result)
	if w.show {
		w.trace("apply %T %+v: %v", cmd, cmd, r.Err)
	}
	w.checkState()
	for _, h := range w.hosts {
		w.push(h)
	}
	return r
}

func (w *simWorld) state() *fsm.State { return w.f.State() }

// propose commits a command of a server after a while, if it leads until then. An
// entry that is under way when the leader changes may be committed by the next.
func (w *simWorld) propose(s *simServer, cmd fsm.Command, done func(*fsm.Result)) {
	if w.leader != s {
		w.at(time.Second, func() { done(nil) })
		return
	}
	p := &proposal{s, cmd, done}
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
func (w *simWorld) elect() {
	var able []*simServer
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

// host returns the one with an id.
func (w *simWorld) host(id api.ID) *simHost {
	for _, h := range w.hosts {
		if h.id == id {
			return h
		}
	}
	return nil
}

func newSimWorld(seed uint64, show bool) *simWorld {
	w := &simWorld{seed: seed, rng: rand.New(rand.NewPCG(seed, 3)), show: show, f: fsm.New(fsm.Config{}), now: 100 * time.Second}
	w.truth, w.margin = truth{fresh: true, over: true}, time.Hour
	w.ha, w.policy = seed%3 != 0, api.HAKeep
	if w.ha {
		w.policy = api.HARestart
	}
	w.classA = w.rng.IntN(2) == 0
	w.faults = w.choose()
	for i := range w.hosts {
		w.hosts[i] = newSimHost(w, i)
	}
	for i := range w.servers {
		w.servers[i] = &simServer{w: w, i: i, clock: newSimClock(w)}
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
	if r := w.applyVM(); r.Err != nil {
		panic(r.Err)
	}
	return w
}

// applyVM applies the VM's specification with its present policy.
func (w *simWorld) applyVM() *fsm.Result {
	pool := ""
	if w.ha {
		pool = "san"
	}
	return w.apply(&fsm.VMApply{ID: vm1, VolumeIDs: []api.ID{{5}}, Spec: api.VMSpec{
		Name: "x", Namespace: "default", CPU: api.CPUSpec{Cores: 1}, Memory: api.GiB, NICs: []api.NIC{{Network: "lan"}},
		Disks: []api.Disk{{Name: "root", Size: api.GiB, Pool: pool}}, HA: api.HAPolicy{Policy: w.policy},
		Restart:     api.RestartPolicy{Policy: "always", Attempts: 1000, Delay: api.Duration(time.Second)},
		StopTimeout: api.Duration(3 * time.Second),
	}})
}
