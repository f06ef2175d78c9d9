package client

import (
	"container/heap"
	"flag"
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
	"github.com/novacron/novacron/fsm"
)

var (
	simSchedules = flag.Int("sim.n", 200, "how many schedules of a migration to simulate")
	simSeed      = flag.Uint64("sim.seed", 0, "simulate this one and show it")
)

// simViolations counts those of all simulations of this process.
var simViolations atomic.Int64

const second = api.Time(time.Second)

// moveWorld is one migration in a simulation: two nodes, the replicated state as
// it is in an ideal log, and every kind of trouble, on one heap of events from
// one seed. The machines are the real ones.
type moveWorld struct {
	seed   uint64
	rng    *rand.Rand
	tidy   *rand.Rand // for how a hypervisor ends a move; of its own, so that the other draws stay
	now    api.Time
	events simHeap
	count  uint64
	show   bool
	calm   bool // no more trouble
	bad    []string

	f       *fsm.FSM
	index   api.Index
	nodes   [2]*simNode
	move    api.ID
	moves   int
	linkCut bool
	truth
}

type simEvent struct {
	at  api.Time
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

func (w *moveWorld) at(d api.Time, f func()) {
	w.count++
	heap.Push(&w.events, simEvent{w.now + d, w.count, f})
}

// after runs f after a short, random time.
func (w *moveWorld) after(f func()) { w.at(api.Time(w.rng.Int64N(int64(300*time.Millisecond))), f) }

// chance is true once in n, and never when all trouble is over.
func (w *moveWorld) chance(n int) bool { return !w.calm && w.rng.IntN(n) == 0 }

func (w *moveWorld) trace(format string, args ...any) {
	if w.show {
		fmt.Printf("%8.3f %s\n", float64(w.now)/float64(second), fmt.Sprintf(format, args...))
	}
}

func (w *moveWorld) violation(format string, args ...any) {
	w.bad = append(w.bad, fmt.Sprintf("%.3f s: ", float64(w.now)/float64(second))+fmt.Sprintf(format, args...))
	w.trace("VIOLATION "+format, args...)
}

// stage goes on with a copy after a while, unless it was cut.
func (w *moveWorld) stage(j *simJob, f func()) {
	w.at(api.Time(w.rng.Int64N(int64(2*time.Second))), func() {
		if !j.cut {
			f()
		}
	})
}

// apply commits a command and tells the nodes.
func (w *moveWorld) apply(cmd fsm.Command) *fsm.Result {
	data, err := fsm.Encode(cmd, fsm.Meta{Time: w.now, Schema: 1})
	if err != nil {
		panic(err)
	}
	w.index++
	r := w.f.Apply(&raft.Log{Index: w.index, Type: raft.LogCommand, Data: data}).(*fsm.Result)
	if _, quiet := cmd.(*fsm.NodeReports); !quiet || w.show {
		w.trace("apply %T %+v: %v", cmd, cmd, r.Err)
	}
	w.checkState()
	for _, n := range w.nodes {
		w.push(n)
	}
	return r
}

func (w *moveWorld) state() *fsm.State { return w.f.State() }

func (w *moveWorld) owner() (api.ID, api.Epoch) {
	if p := w.state().Placement(vm1); p != nil {
		return p.NodeID, p.Epoch
	}
	return api.ID{}, 0
}

// deliver is what Client.apply does with a batch. Between a batch's moves and its
// orders a VM may get as far as one likes, since each is an event of its own.
func (n *simNode) deliver(b *api.OrderBatch) {
	if older(b.Generation, b.Index, 1, n.seen) {
		return // of a server that lags behind
	}
	n.rest()
	n.seen = b.Index
	if len(b.Orders)+len(b.Moves) > 0 {
		n.noted = b.Index
	}
	held := n.hold
	n.hold = false
	for _, o := range b.Moves {
		g := o.Migration
		if n.m.Move.IsZero() && n.m.Epoch == 0 && !n.written && !g.Phase.Open() {
			n.reportMove(api.MoveReport{Migration: g.ID, State: api.EndAbsent, Attempt: g.Attempts, Clean: true, BootID: n.boot})
			continue
		}
		n.order = o
		n.step(event{kind: evMove, move: moveOrderOf(g, n.id)})
	}
	life := n.life
	n.later = func() {
		if n.life != life {
			return // the agent has died in between
		}
		for _, o := range b.Orders {
			n.step(event{kind: evOrder, order: o, generation: 1})
		}
		if held {
			n.step(event{kind: evTick})
		}
	}
	if len(b.Moves) > 0 && n.w.chance(20) {
		n.w.at(api.Time(n.w.rng.Int64N(int64(10*time.Second))), n.rest)
		return
	}
	n.rest()
}

// rest delivers what is left of the last batch.
func (n *simNode) rest() {
	if f := n.later; f != nil {
		n.later = nil
		f()
	}
}

// report brings a report to the servers: late, and as often as it takes.
func (w *moveWorld) report(n *simNode, r api.NodeReport, acked func()) {
	d := api.Time(w.rng.Int64N(int64(400 * time.Millisecond)))
	if w.chance(20) {
		d = api.Time(w.rng.Int64N(int64(20 * time.Second)))
	}
	life := n.life
	w.at(d, func() {
		if w.chance(10) && n.life == life {
			w.report(n, r, acked) // lost, or its acknowledgment is: sent again
			if w.chance(2) {
				return
			}
		}
		ours := w.state().Session(n.id) == r.SessionID // else it is refused, and comes again after the registration
		w.apply(&fsm.NodeReports{Reports: []api.NodeReport{r}})
		if ours && acked != nil && n.life == life && n.up {
			acked()
		}
	})
}

// start starts an agent, which registers anew.
func (w *moveWorld) start(n *simNode) {
	n.up, n.hold, n.wakeAt, n.seen, n.noted = true, true, 0, n.kept, n.kept
	n.life++
	n.orders++
	n.session = api.ID{0x55, n.id[0], byte(n.life >> 8), byte(n.life)}
	n.lastVM, n.lastMove = api.VMReport{}, api.MoveReport{}
	n.m = newMachine(n.record, n.written)
	n.m.ID = vm1
	n.step(event{kind: evSeen, dom: n.look()})
	w.after(n.living(func() {
		reg := &fsm.NodeRegister{Node: simNodeOf(n), SessionID: n.session}
		if (n.m.Epoch != 0 || n.m.Alive) && !n.m.foreign() {
			r := n.m.report()
			n.seq++
			r.Seq, r.Time = n.seq, w.now
			reg.Found = []api.VMReport{r}
		}
		w.apply(reg)
		w.apply(&fsm.NodeStatus{Items: []fsm.NodeStatusItem{{NodeID: n.id, Status: api.NodeReady}}})
		n.lastVM, n.lastMove = api.VMReport{}, api.MoveReport{} // everything is told anew
		n.tell(event{kind: evTick}, output{})
	}))
	w.at(5*second, n.living(func() { n.relist() }))
}

// relist is the agent's look at everything from time to time.
func (n *simNode) relist() {
	if n.m.busy == opNone && (n.look().kind != n.m.dom.kind || n.w.rng.IntN(4) == 0) {
		n.step(event{kind: evSeen, dom: n.look()})
	}
	n.w.at(5*second, n.living(n.relist))
}

func simNodeOf(n *simNode) api.Node {
	return api.Node{
		ID: n.id, Name: n.name, Datacenter: "d", Region: "r", Address: n.name + ":1", BootID: n.boot, MachineID: n.name, ProductUUID: n.name,
		Capacity: api.Resources{CPU: 8000, Memory: 16 * api.GiB}, Pools: []api.NodePool{{Name: "default", Type: "dir", Capacity: 100 * api.GiB}},
		Networks: []string{"br0"},
	}
}

// kill ends an agent; its copies and tunnels go with it.
func (w *moveWorld) kill(n *simNode) {
	n.up = false
	n.life++
	n.gate = false
	if n.job != nil {
		n.cut(n.job, "the agent is gone")
	}
	if n.peer.job != nil {
		n.peer.cut(n.peer.job, "the other agent is gone")
	}
}

// reboot is a power cut of the machine.
func (w *moveWorld) reboot(n *simNode) {
	n.up = false
	n.life++
	n.gate, n.mute = false, false
	if n.peer.job != nil {
		n.peer.cut(n.peer.job, "the other machine is gone")
	}
	if j := n.job; j != nil {
		j.cut, n.job = true, nil
		if !j.finished {
			n.peer.d = dom{kind: domAbsent, exit: "failed"}
			n.peer.event()
		}
	}
	if w.lost(n); n.peer.whole() && n.peer.d.kind != domRunning {
		w.newest = min(w.newest, n.peer.state) // what it did since it was copied is lost, as with any power cut
	}
	n.d = dom{kind: domAbsent}
	n.boot += "x"
}

// trouble is one bad thing that happens to a node or to the cluster.
func (w *moveWorld) trouble() {
	if w.calm {
		return
	}
	w.at(api.Time(w.rng.Int64N(int64(3*time.Second))), w.trouble)
	n := w.nodes[w.rng.IntN(2)]
	switch w.rng.IntN(16) {
	case 0:
		if n.up {
			w.trace("agent of %s dies", n.name)
			w.kill(n)
			w.at(api.Time(w.rng.Int64N(int64(8*time.Second))), func() { w.back(n) })
		}
	case 1:
		w.trace("%s reboots", n.name)
		w.reboot(n)
		w.at(api.Time(w.rng.Int64N(int64(20*time.Second))), func() { w.back(n) })
	case 2:
		w.trace("hypervisor of %s is silent", n.name)
		n.mute = true
		w.at(api.Time(w.rng.Int64N(int64(10*time.Second))), func() { n.mute = false; n.event() })
	case 3, 4:
		for _, x := range w.nodes {
			if x.job != nil {
				w.trace("the link is cut")
				x.cut(x.job, "the link was cut")
			}
		}
		w.linkCut = true
		w.at(api.Time(w.rng.Int64N(int64(5*time.Second))), func() { w.linkCut = false })
	case 5:
		w.trace("guest on %s dies", n.name)
		if n.d.kind != domAbsent {
			if n.job != nil {
				n.cut(n.job, "the guest died")
			}
			if n.peer.job != nil && !n.peer.job.finished {
				n.peer.cut(n.peer.job, "the incoming guest died")
			}
			if n.d.kind != domAbsent {
				w.lost(n)
				n.d = dom{kind: domAbsent, exit: "crashed"}
				n.event()
			}
		}
	case 6:
		w.cancel()
	case 8: // somebody asks for a move, whatever goes on
		w.request()
	case 7:
		w.apply(&fsm.VMPower{ID: vm1, Action: "stop", Force: w.rng.IntN(2) == 0})
		w.at(api.Time(w.rng.Int64N(int64(10*time.Second))), func() { w.apply(&fsm.VMPower{ID: vm1, Action: "start"}) })
	}
}

func (w *moveWorld) back(n *simNode) {
	if !n.up {
		w.trace("%s is back", n.name)
		w.start(n)
	}
}

func (w *moveWorld) cancel() {
	if m := w.state().Migration(w.move); m != nil && m.Phase.Open() {
		w.propose(&fsm.MigrationStep{ID: m.ID, Phase: m.Phase, Next: api.MigrationAborting, Code: api.CodeCanceled, Message: "canceled"})
	}
}

func newMoveWorld(seed uint64, show bool) *moveWorld {
	w := &moveWorld{seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), tidy: rand.New(rand.NewPCG(seed, 2)), show: show, f: fsm.New(fsm.Config{}), now: 1000 * second, truth: truth{fresh: true, over: true}}
	for i := range w.nodes {
		w.nodes[i] = &simNode{w: w, name: string(rune('a' + i)), id: api.ID{0xa0 + byte(i)}, boot: "boot", d: dom{kind: domAbsent}, record: record{ID: vm1}}
	}
	w.nodes[0].peer, w.nodes[1].peer = w.nodes[1], w.nodes[0]
	w.apply(&fsm.ClusterInit{ClusterID: api.ID{1}, Region: "r", RegionID: api.ID{2}, Keys: []fsm.KeyRecord{{Name: fsm.KeyCA, Kind: "x", Public: []byte("x"), Sealed: []byte("x")}}, Expect: 1})
	w.apply(&fsm.NetworkApply{Network: api.Network{Name: "lan", Type: "bridge", Bridge: "br0"}})
	for _, n := range w.nodes {
		w.start(n)
	}
	w.runFor(3 * second)
	w.apply(&fsm.VMApply{ID: vm1, VolumeIDs: []api.ID{{5}}, Spec: api.VMSpec{
		Name: "x", Namespace: "default", CPU: api.CPUSpec{Cores: 1}, Memory: api.GiB, NICs: []api.NIC{{Network: "lan"}},
		Disks: []api.Disk{{Name: "root", Size: api.GiB}}, Restart: api.RestartPolicy{Policy: "always", Attempts: 1000, Delay: api.Duration(time.Second)}, StopTimeout: api.Duration(3 * time.Second),
	}})
	w.apply(&fsm.PlaceBatch{Items: []fsm.PlaceItem{{Action: fsm.PlacePlace, VMID: vm1, NodeID: w.nodes[0].id, Epoch: 1, SpecVersion: 1, Power: api.PowerRunning}}})
	w.apply(&fsm.NodeReports{Reports: []api.NodeReport{{NodeID: w.nodes[0].id, SessionID: w.nodes[0].session, Volumes: []api.VolumeReport{{ID: api.ID{5}, State: api.VolumeReady}}}}})
	return w
}

func (w *moveWorld) runFor(d api.Time) {
	for end := w.now + d; len(w.events) > 0 && w.events[0].at <= end && len(w.bad) == 0; {
		e := heap.Pop(&w.events).(simEvent)
		w.now = e.at
		e.f()
	}
}

// schedule runs one seed and returns what went wrong.
func schedule(seed uint64, show bool) (bad []string, moved int) {
	w := newMoveWorld(seed, show)
	w.runFor(10 * second)
	w.at(0, w.lead)
	w.at(0, w.admit)
	if seed%8 != 0 { // each eighth is without trouble
		w.at(0, w.trouble)
	}
	w.runFor(60 * second)
	w.calm, w.linkCut = true, false
	w.trace("calm")
	for _, n := range w.nodes {
		n.mute = false
		w.back(n)
	}
	w.apply(&fsm.VMPower{ID: vm1, Action: "start"})
	w.runFor(240 * second)
	w.apply(&fsm.VMPower{ID: vm1, Action: "start"})
	w.runFor(120 * second)
	w.settled()
	for m := range w.state().MigrationsOf(vm1) {
		if m.Phase == api.MigrationDone {
			moved++
		}
	}
	return w.bad, moved
}

// settled demands what must have come about once all trouble was over.
func (w *moveWorld) settled() {
	if len(w.bad) > 0 {
		return
	}
	for m := range w.state().MigrationsOf(vm1) {
		if m.Phase.Active() {
			w.violation("migration %s is still %s: source %+v, destination %+v", m.ID.Short(), m.Phase, m.Source, m.Dest)
		} else if !m.To.IsZero() && (!m.Source.Clean || !m.Dest.Clean) {
			w.violation("migration %s is %s, and not cleaned up: source %+v, destination %+v", m.ID.Short(), m.Phase, m.Source, m.Dest)
		}
	}
	owner, epoch := w.owner()
	for _, n := range w.nodes {
		switch {
		case n.id == owner && n.d.kind != domRunning:
			w.violation("the guest does not run on its owner: %s", n)
		case n.id == owner && n.d.epoch != epoch:
			w.violation("it runs at epoch %d, owned at %d", n.d.epoch, epoch)
		case n.id != owner && (n.d.kind != domAbsent || n.disk != 0 || n.gate):
			w.violation("something is left on %s", n)
		case !n.m.Move.IsZero():
			w.violation("%s remembers a move: %s", n.name, n)
		}
	}
	if w.seed%8 == 0 && w.run != 1 {
		w.violation("without any trouble the guest was started %d times", w.run)
	}
}

// TestMigrationSchedules runs the real machines of both ends and the real state
// machine through schedules of trouble, and demands that the guest never runs
// twice, never loses its disk, and ends where its owner is.
func TestMigrationSchedules(t *testing.T) {
	if *simSeed != 0 {
		bad, moved := schedule(*simSeed, true)
		must.SliceEmpty(t, bad)
		fmt.Println("moved", moved)
		return
	}
	begin := time.Now()
	var next, moved, violations atomic.Int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				seed := next.Add(1)
				if seed > int64(*simSchedules) {
					return
				}
				bad, n := schedule(uint64(seed), false)
				moved.Add(int64(n))
				if len(bad) > 0 && violations.Add(1) <= 5 {
					mu.Lock()
					t.Errorf("seed %d: %v", seed, bad)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	t.Logf("%d schedules of migrations, %d completed moves, %.0f schedules/s", *simSchedules, moved.Load(), float64(*simSchedules)/took.Seconds())
	t.Logf("violations: %d", simViolations.Add(violations.Load()))
	must.Positive(t, moved.Load())
	must.Zero(t, violations.Load())
}
