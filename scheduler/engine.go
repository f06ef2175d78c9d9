package scheduler

import (
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// Engine decides against the newest state that it was shown, less the overlay:
// what was decided and is not known to be committed. It is not safe for use by
// several goroutines at once. Nothing that it returns is shared with it.
type Engine interface {
	// Reset takes a state as it is and forgets the overlay.
	Reset(s *fsm.State)
	// Apply follows the state; changes are all that happened since the state
	// before, or more. What they hold is read from s, so they may come late.
	Apply(s *fsm.State, changes []fsm.Change)
	// Decide works out what a VM needs now, and promises it to the overlay when
	// it is to be committed. A VM that is in the overlay needs nothing.
	Decide(vm api.ID) Decision
	// Assign is Decide for a volume that needs a node by itself.
	Assign(volume api.ID) Decision
	// Settle takes VMs and volumes out of the overlay, because their decisions
	// are committed and in the state, or because they are not to be.
	Settle(ids ...api.ID)
	// Pending is how many VMs and volumes are in the overlay.
	Pending() int
	// Explain says where a VM would go and why, and why not elsewhere. The VM
	// need not be in the state.
	Explain(vm *api.VM) *api.Explanation
	// Move says where a VM may be moved and why, and why not elsewhere.
	Move(q Move) *api.Explanation
	// Helps reports whether what changed since the last Rest can help a VM that
	// waits; Rest forgets what changed.
	Helps(w *Waiter) bool
	Rest()
}

// Verdict is what a decision amounts to.
type Verdict uint8

// The verdicts.
const (
	Nothing Verdict = iota // all is as it should be
	Commit                 // Decision.Item is to be committed
	Wait                   // no node fits; Decision.Waiter says what for
)

// Decision is what a VM or a volume needs.
type Decision struct {
	Verdict Verdict
	Item    fsm.PlaceItem // for VMs
	Node    api.ID
	Score   float64
	Waiter  *Waiter
}

// pledge is one entry of the overlay.
type pledge struct {
	node  int32
	need  Shape
	disks []diskNeed
	vm    bool // counts as placed there for the rules between VMs
	gone  bool // a release: counts as placed nowhere
}

// engine is the Engine of columns and classes.
type engine struct {
	state   *fsm.State
	score   Score
	cols    columns
	peers   *peers
	filters map[string]*filter
	classes map[string]*class
	overlay map[api.ID]*pledge
	tick    uint64
	scratch []byte

	stale   []int32 // nodes to read again
	isStale bitset
	changed map[api.ID]struct{} // VMs whose place is to be read again
	arrived map[api.ID]struct{} // moves that are to be read again

	arrivals map[api.ID]int32 // moves under way → their destination

	// Since the last Rest:
	freed   []int32
	isFreed bitset
	moved   map[string]bool // namespaces in which VMs came or went
	shifted bool            // nodes with VMs that count came into other domains
	anew    bool            // networks, pools or the configuration changed
}

var _ Engine = (*engine)(nil)

// NewEngine returns an engine that has taken a state.
func NewEngine(s *fsm.State) Engine {
	e := &engine{}
	e.Reset(s)
	return e
}

// Reset is part of Engine.
func (e *engine) Reset(s *fsm.State) {
	*e = engine{
		state: s, score: scoreOf(s.SchedulerConfig()), cols: newColumns(),
		filters: map[string]*filter{}, classes: map[string]*class{}, overlay: map[api.ID]*pledge{},
		changed: map[api.ID]struct{}{}, arrived: map[api.ID]struct{}{}, arrivals: map[api.ID]int32{},
		moved: map[string]bool{}, scratch: e.scratch[:0],
	}
	e.peers = newPeers(e.roster, e.eachNode)
	for n := range s.Nodes() {
		e.touch(n.ID)
	}
	e.flush()
	for p := range s.Placements() {
		vm := s.VM(p.VMID)
		if vm == nil {
			continue
		}
		for i := range vm.Spec.Affinities {
			if a := &vm.Spec.Affinities[i]; a.Anti && a.Weight == 0 {
				e.peers.put(vm.ID, vm, e.countsOn(vm.ID))
				break
			}
		}
	}
	for m := range s.Migrations() {
		if arrives(m) {
			e.arrive(m.ID)
		}
	}
	e.anew = true
}

// Apply is part of Engine.
func (e *engine) Apply(s *fsm.State, changes []fsm.Change) {
	e.state = s
	for i := range changes {
		e.follow(&changes[i])
	}
}

// follow marks what a change touches; flush reads it.
func (e *engine) follow(c *fsm.Change) {
	switch c.Table {
	case fsm.TableNode:
		if n, ok := either[*api.Node](c); ok {
			e.touch(n.ID)
		}
	case fsm.TablePlacement:
		old, now := both[*api.Placement](c)
		if old != nil && now != nil && old.NodeID == now.NodeID && old.Reserved == now.Reserved && old.Fenced == now.Fenced {
			return
		}
		for _, p := range []*api.Placement{old, now} {
			if p != nil {
				e.touch(p.NodeID)
				e.changed[p.VMID] = struct{}{}
				e.moved[p.Namespace] = true
			}
		}
	case fsm.TableVM:
		if vm, ok := either[*api.VM](c); ok {
			e.changed[vm.ID] = struct{}{}
		}
		if old, now := both[*api.VM](c); old != nil && now != nil && old.SpecVersion != now.SpecVersion {
			e.moved[now.Namespace] = true // its labels or rules may be others
		}
	case fsm.TableVolume:
		old, now := both[*api.Volume](c)
		if old != nil && now != nil && old.NodeID == now.NodeID && old.Size == now.Size && old.Pool == now.Pool {
			return
		}
		for _, v := range []*api.Volume{old, now} {
			if v != nil {
				e.touchPool(v.NodeID, v.Pool)
			}
		}
	case fsm.TableMigration:
		e.followMove(both[*api.Migration](c))
	case fsm.TablePool:
		old, now := both[*api.Pool](c)
		if old == nil || now == nil || old.Ratio != now.Ratio || old.Shared != now.Shared {
			e.renew()
		}
	case fsm.TableNetwork:
		e.renew()
	case fsm.TableImage:
		old, now := both[*api.Image](c)
		for _, im := range []*api.Image{old, now} {
			if im != nil {
				e.forgetImage(im.ID)
			}
		}
		e.anew = e.anew || available(old) != available(now)
	case fsm.TableMeta:
		old, now := both[*fsm.MetaRecord](c)
		if old == nil || now == nil || old.Scheduler != now.Scheduler || old.HA.Fencing != now.HA.Fencing {
			e.score = scoreOf(e.state.SchedulerConfig())
			e.renew()
		}
	}
}

func both[T any](c *fsm.Change) (old, now T) {
	old, _ = c.Old.(T)
	now, _ = c.New.(T)
	return old, now
}

func either[T any](c *fsm.Change) (T, bool) {
	if v, ok := c.New.(T); ok {
		return v, true
	}
	v, ok := c.Old.(T)
	return v, ok
}

// touch marks a node to be read again.
func (e *engine) touch(id api.ID) {
	if id.IsZero() {
		return
	}
	if _, known := e.cols.index[id]; !known && e.state.Node(id) == nil {
		return
	}
	e.touchDense(e.cols.dense(id))
}

func (e *engine) touchDense(i int32) {
	e.isStale = e.isStale.grow(len(e.cols.ids))
	if !e.isStale.has(i) {
		e.isStale.put(i, true)
		e.stale = append(e.stale, i)
	}
}

// touchPool marks the nodes that a promise to a volume concerns: its node, or
// all nodes that have the pool when it is on none (a shared pool).
func (e *engine) touchPool(node api.ID, pool string) {
	if !node.IsZero() {
		e.touch(node)
		return
	}
	if p := e.state.Pool(pool); p == nil || !p.Shared {
		return
	}
	for i := range e.cols.ids {
		if e.cols.disk(pool).at(int32(i)) != lacking {
			e.touchDense(int32(i))
		}
	}
}

// renew drops everything compiled and reads all nodes again.
func (e *engine) renew() {
	for _, f := range e.filters {
		f.live = false
	}
	clear(e.filters)
	clear(e.classes)
	e.anew = true
	for i, n := range e.cols.nodes {
		if n != nil {
			e.touchDense(int32(i))
		}
	}
}

// available reports whether the content of an image can be had from some node.
func available(im *api.Image) bool {
	return im != nil && im.State == api.ImageReady && len(im.Replicas) > 0
}

// forgetImage drops the classes that count on where an image is.
func (e *engine) forgetImage(id api.ID) {
	for k, c := range e.classes {
		for i := range c.images {
			if c.images[i].id == id {
				delete(e.classes, k)
				break
			}
		}
	}
}

// flush reads again what was marked.
func (e *engine) flush() {
	if len(e.stale) == 0 && len(e.changed) == 0 && len(e.arrived) == 0 {
		return
	}
	e.isFreed = e.isFreed.grow(len(e.cols.ids))
	for _, i := range e.stale {
		e.isStale.put(i, false)
		e.read(i)
	}
	e.stale = e.stale[:0]
	for id := range e.changed {
		e.peers.put(id, e.state.VM(id), e.countsOn(id))
	}
	clear(e.changed)
	for id := range e.arrived {
		e.arrive(id)
	}
	clear(e.arrived)
}

// read takes one node from the state into the columns, the filters and the
// domains.
func (e *engine) read(i int32) {
	n := e.state.Node(e.cols.ids[i])
	if n == nil {
		if !e.cols.ids[i].IsZero() {
			e.cols.drop(i)
			e.shifted = e.peers.node(i, nil) || e.shifted
			for _, f := range e.filters {
				f.pass.put(i, false)
			}
			e.cols.log.add(i, len(e.cols.ids))
		}
		return
	}
	old := e.cols.nodes[i]
	changed, more := e.cols.refresh(e.state, i, n)
	if n != old {
		e.shifted = e.peers.node(i, n) || e.shifted
		for _, f := range e.filters {
			f.pass = f.pass.grow(len(e.cols.ids))
			if ok := passes(f, n); ok != f.pass.has(i) {
				f.pass.put(i, ok)
				changed, more = true, more || ok
			}
		}
		// A filter that is not in the cache may have waiters too.
		changed, more = true, true
	}
	if changed {
		e.cols.log.add(i, len(e.cols.ids))
	}
	if more && !e.isFreed.has(i) {
		e.isFreed.put(i, true)
		e.freed = append(e.freed, i)
	}
}

// countsOn is nodeOf for the rules between VMs: one of which there is evidence
// that it runs no more on its lost node keeps nobody from there, and nobody with it.
func (e *engine) countsOn(id api.ID) int32 {
	if p := e.state.Placement(id); e.overlay[id] == nil && p != nil && p.Fenced != "" {
		return -1
	}
	return e.nodeOf(id)
}

// nodeOf returns the dense id of the node that a VM takes room on, or -1: what the
// overlay says, else the state.
func (e *engine) nodeOf(id api.ID) int32 {
	if p := e.overlay[id]; p != nil && (p.vm || p.gone) {
		if p.gone {
			return -1
		}
		return p.node
	}
	if p := e.state.Placement(id); p != nil {
		if i, ok := e.cols.index[p.NodeID]; ok {
			return i
		}
	}
	return -1
}

// roster lists the VMs of a namespace that are placed or on their way, for a new
// group, each under the id by which it is counted.
func (e *engine) roster(ns string, f func(api.ID, *api.VM, int32)) {
	for vm := range e.state.VMsIn(ns) {
		if i := e.countsOn(vm.ID); i >= 0 {
			f(vm.ID, vm, i)
		}
	}
	for id, i := range e.arrivals { // in any order: each is counted by itself
		if m := e.state.Migration(id); m != nil && m.Namespace == ns {
			if vm := e.state.VM(m.VMID); vm != nil {
				f(id, vm, i)
			}
		}
	}
}

func (e *engine) eachNode(f func(int32, *api.Node)) {
	for i, n := range e.cols.nodes {
		if n != nil {
			f(int32(i), n)
		}
	}
}

// Pending is part of Engine.
func (e *engine) Pending() int { return len(e.overlay) }
