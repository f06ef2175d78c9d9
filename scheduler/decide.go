package scheduler

import (
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// ItemOf returns a VM's place in the queue.
func ItemOf(vm *api.VM) Item {
	p := vm.Spec.Priority
	if p == 0 {
		p = defaultPriority
	}
	return Item{ID: vm.ID, Priority: p, Since: vm.CreateIndex}
}

const defaultPriority = 50

// Need is what has to be done about a VM's placement.
type Need uint8

// The needs.
const (
	NeedNothing Need = iota
	NeedPlace        // a node
	NeedAdmit        // to start again where its disks are
	NeedRelease      // to give up a placement that it has no use for
	NeedRecover      // another node: the one that it was on is lost, with evidence
)

// Needs compares what is wanted of a VM with where it is. It is cheap: the loop
// asks it at every change. A VM that is being deleted needs no decision.
func Needs(s *fsm.State, vm *api.VM, p *api.Placement) Need {
	switch {
	case vm == nil || vm.Deleting:
	case p == nil:
		if vm.Power != api.PowerStopped {
			return NeedPlace
		}
	case p.Fenced != "" && !underWay(s, vm) && fsm.Restartable(s, vm, p) == nil:
		return NeedRecover
	case p.Reserved != (api.Resources{}):
	case underWay(s, vm): // it is looked at again when the move has ended
	case vm.Power != api.PowerStopped:
		return NeedAdmit
	case fsm.Halted(p) && s.MigrationOf(vm.ID) == nil: // else a move starts from there
		for _, v := range s.DiskVolumes(vm) {
			if v != nil && !v.NodeID.IsZero() {
				return NeedNothing
			}
		}
		return NeedRelease
	}
	return NeedNothing
}

// underWay reports whether a VM is being moved, so that its placement stays as it
// is; a move that waits in the queue gives way.
func underWay(s *fsm.State, vm *api.VM) bool {
	m := s.MigrationOf(vm.ID)
	return m != nil && m.Phase != api.MigrationQueued
}

// Decide is part of Engine.
func (e *engine) Decide(id api.ID) Decision {
	if e.overlay[id] != nil {
		return Decision{}
	}
	e.flush()
	vm, p := e.state.VM(id), e.state.Placement(id)
	switch Needs(e.state, vm, p) {
	case NeedPlace:
		r := e.requestOf(vm, e.state.DiskVolumes(vm))
		return e.grant(&r, fsm.PlaceItem{Action: fsm.PlacePlace, Epoch: vm.Epoch + 1})
	case NeedAdmit:
		r := e.admission(vm, p)
		return e.grant(&r, fsm.PlaceItem{Action: fsm.PlaceAdmit, OldEpoch: p.Epoch, Epoch: p.Epoch})
	case NeedRelease:
		return e.release(vm, p)
	case NeedRecover:
		return e.recover(vm, p)
	}
	return Decision{}
}

// recover picks another node for a VM whose node is lost, as if it were on none.
func (e *engine) recover(vm *api.VM, p *api.Placement) Decision {
	back := func() {}
	if home := e.nodeOf(vm.ID); home >= 0 {
		back = e.lift(vm, home)
	}
	r := e.requestOf(vm, e.state.DiskVolumes(vm))
	i, score := e.choose(&r)
	back()
	return e.take(&r, i, score, fsm.PlaceItem{Action: fsm.PlaceRecover, OldEpoch: p.Epoch, Epoch: vm.Epoch + 1})
}

// grant picks a node and promises it.
func (e *engine) grant(r *request, it fsm.PlaceItem) Decision {
	i, score := e.choose(r)
	return e.take(r, i, score, it)
}

// choose picks a node; -1: none will do.
func (e *engine) choose(r *request) (int32, float64) {
	if r.broken != "" {
		return -1, 0
	}
	return e.pick(r)
}

// take promises a node that was chosen.
func (e *engine) take(r *request, i int32, score float64, it fsm.PlaceItem) Decision {
	if i < 0 {
		return Decision{Verdict: Wait, Waiter: e.waiter(r)}
	}
	e.promise(r.vm.ID, i, r.class, true)
	it.VMID, it.NodeID, it.SpecVersion, it.Power = r.vm.ID, e.cols.ids[i], r.vm.SpecVersion, r.vm.Power
	return Decision{Verdict: Commit, Node: it.NodeID, Score: score, Item: it}
}

// admission is the request to start again where the placement is. It asks only
// for CPU and memory of a node that is ready and in reach: the rest was settled
// when the VM was placed, and its disks leave it no choice.
func (e *engine) admission(vm *api.VM, p *api.Placement) request {
	r := request{vm: vm, pin: unpinned, why: FailNode}
	i, ok := e.cols.index[p.NodeID]
	if !ok {
		r.broken = "its node is gone"
		return r
	}
	ask := fsm.AskOf(&vm.Spec, []*api.Volume{})
	r.pin, r.class = i, e.stayClass(Shape{int64(ask.CPU), int64(ask.Memory)})
	return r
}

// release gives up the placement of a VM that is stopped and has no local disk.
func (e *engine) release(vm *api.VM, p *api.Placement) Decision {
	e.overlay[vm.ID] = &pledge{node: unpinned, gone: true}
	e.changed[vm.ID] = struct{}{}
	return Decision{Verdict: Commit, Node: p.NodeID, Item: fsm.PlaceItem{
		Action: fsm.PlaceRelease, VMID: vm.ID, NodeID: p.NodeID, OldEpoch: p.Epoch, SpecVersion: vm.SpecVersion, Power: vm.Power,
	}}
}

// Assign is part of Engine.
func (e *engine) Assign(id api.ID) Decision {
	if e.overlay[id] != nil {
		return Decision{}
	}
	e.flush()
	v := e.state.Volume(id)
	if !NeedsNode(e.state, v) {
		return Decision{}
	}
	r := request{class: e.volumeClass(v), pin: unpinned}
	i, score := e.pick(&r)
	if i < 0 {
		return Decision{Verdict: Wait, Waiter: e.waiter(&r)}
	}
	e.promise(id, i, r.class, false)
	return Decision{Verdict: Commit, Node: e.cols.ids[i], Score: score}
}

// NeedsNode reports whether a volume that is on no node is to be given one by
// itself: to be made there, when it is in a local pool and no VM will take it
// along; or to be removed there, when it is in a shared pool.
func NeedsNode(s *fsm.State, v *api.Volume) bool {
	switch {
	case v == nil || !v.NodeID.IsZero():
		return false
	case v.State == api.VolumeDeleting:
		return true
	}
	p := s.Pool(v.Pool)
	return v.VMID.IsZero() && p != nil && !p.Shared
}

// promise puts a decision into the overlay.
func (e *engine) promise(id api.ID, i int32, c *class, vm bool) {
	p := &pledge{node: i, need: c.need, disks: e.cols.local(i, c.disks), vm: vm}
	e.overlay[id] = p
	e.cols.pledge(i, p.need, p.disks, 1)
	if vm {
		e.peers.put(id, e.state.VM(id), i)
	}
}

// Settle is part of Engine.
func (e *engine) Settle(ids ...api.ID) {
	for _, id := range ids {
		p := e.overlay[id]
		if p == nil {
			continue
		}
		delete(e.overlay, id)
		if p.node >= 0 {
			e.cols.pledge(p.node, p.need, p.disks, -1)
			if e.cols.nodes[p.node] != nil {
				e.touchDense(p.node)
			}
		}
		if p.vm || p.gone {
			e.changed[id] = struct{}{}
		}
	}
}

// volumesOf returns the volumes of a VM and, where it has none yet because it is
// only a plan, what its spec would make.
func (e *engine) volumesOf(vm *api.VM) []*api.Volume {
	vols := e.state.DiskVolumes(vm)
	for i := range vols {
		d := &vm.Spec.Disks[i]
		switch {
		case vols[i] != nil:
		case d.Volume != "":
			vols[i] = e.state.VolumeByName(vm.Namespace, d.Volume)
		default:
			v := &api.Volume{Namespace: vm.Namespace, Name: d.Name, Pool: d.Pool, Size: d.Size, State: api.VolumePending}
			if v.Pool == "" {
				v.Pool = fsm.DefaultPool
			}
			if im := e.state.ImageFor(vm.Namespace, d.Image); d.Image != "" && im != nil {
				v.Image = im.ID
				v.Size = max(v.Size, im.VirtualSize, im.Size)
			}
			vols[i] = v
		}
	}
	return vols
}

// lift takes a VM that is placed out of the columns for an explanation, and
// returns what puts it back.
func (e *engine) lift(vm *api.VM, home int32) func() {
	var back Shape
	if p := e.overlay[vm.ID]; p != nil {
		back = p.need
	} else if p := e.state.Placement(vm.ID); p != nil {
		back = Shape{int64(p.Reserved.CPU), int64(p.Reserved.Memory)}
	}
	shift := func(sign int64) {
		e.cols.cpuFree[home] += sign * back.CPU
		e.cols.memFree[home] += sign * back.Memory
		e.cols.log.add(home, len(e.cols.ids))
	}
	shift(1)
	e.peers.put(vm.ID, nil, -1)
	return func() {
		shift(-1)
		e.peers.put(vm.ID, e.state.VM(vm.ID), e.countsOn(vm.ID))
	}
}
