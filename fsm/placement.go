package fsm

import (
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/mutant"
)

// The actions of a PlaceItem.
const (
	// PlacePlace gives a VM a node: the epoch rises.
	PlacePlace = "place"
	// PlaceAdmit lets a stopped VM start again where it is: the epoch stays.
	PlaceAdmit = "admit"
	// PlaceRelease gives up the placement of a VM that is stopped and has no
	// disk that is local.
	PlaceRelease = "release"
	// PlaceRecover restarts a VM on another node than the lost one that it was
	// on: evidence, the new owner and the raised epoch meet in one entry.
	PlaceRecover = "recover"
)

// PlaceItem is one decision of the scheduler, made against some earlier state:
// it fails alone when the state has moved on.
type PlaceItem struct {
	Action string `msg:"action,omitempty"`
	VMID   api.ID `msg:"vm_id,omitempty"`
	NodeID api.ID `msg:"node_id,omitempty"`
	// OldEpoch of the placement that the decision knew; 0 if there was none.
	OldEpoch api.Epoch `msg:"old_epoch,omitempty"`
	// Epoch to grant (PlacePlace): one above the VM's; 0 lets the state choose.
	Epoch       api.Epoch `msg:"epoch,omitempty"`
	SpecVersion uint64    `msg:"spec_version,omitempty"`
	Power       api.Power `msg:"power,omitempty"` // desired power that the decision knew
}

// PlaceResult is what became of one item.
type PlaceResult struct {
	VMID  api.ID
	Epoch api.Epoch  // granted or kept
	Err   *api.Error // nil when it was done
}

// PlaceBatch is decisions of the scheduler. It answers []PlaceResult, one for
// each item in order; the batch itself fails only during recovery.
type PlaceBatch struct {
	Items []PlaceItem `msg:"items,omitempty"`
}

// CommandID is 12.
func (c *PlaceBatch) CommandID() uint16 { return cmdPlaceBatch }

// Validate checks the items.
func (c *PlaceBatch) Validate() error {
	var k checker
	k.count("items", len(c.Items), 4096)
	for i := range c.Items {
		it := &c.Items[i]
		k.id("items.vm_id", it.VMID)
		k.oneOf("items.action", it.Action, PlacePlace, PlaceAdmit, PlaceRelease, PlaceRecover)
		if it.Action == PlacePlace || it.Action == PlaceAdmit || it.Action == PlaceRecover {
			k.id("items.node_id", it.NodeID)
		}
	}
	return k.done()
}

func (c *PlaceBatch) apply(tx *Txn) (any, error) {
	if err := tx.settled(); err != nil {
		return nil, err
	}
	out := make([]PlaceResult, len(c.Items))
	for i := range c.Items {
		it := &c.Items[i]
		kept := len(tx.log)
		epoch, err := tx.place(it)
		out[i] = PlaceResult{VMID: it.VMID, Epoch: epoch}
		if err != nil {
			tx.undo(kept)
			out[i].Epoch, out[i].Err = 0, apiError(err)
		}
	}
	return out, nil
}

// raced says that a decision was made against a state that is no more.
func raced(format string, args ...any) *api.Error {
	return api.Errorf(api.CodePlacement, format, args...)
}

// place checks one item against the state and carries it out. All checks come
// before the first write.
func (tx *Txn) place(it *PlaceItem) (api.Epoch, error) {
	vm := tx.s.VM(it.VMID)
	if vm == nil {
		return 0, api.Errorf(api.CodeNotFound, "VM %s does not exist any more", it.VMID)
	}
	p := tx.s.Placement(it.VMID)
	var epoch api.Epoch
	if p != nil {
		epoch = p.Epoch
	}
	switch {
	case vm.Deleting:
		return 0, api.Errorf(api.CodeState, "VM %q is being deleted", vm.Name)
	case vm.SpecVersion != it.SpecVersion:
		return 0, raced("the spec has version %d, the decision was for %d", vm.SpecVersion, it.SpecVersion)
	case vm.Power != it.Power:
		return 0, raced("the VM is wanted %s, the decision was for %s", vm.Power, it.Power)
	case epoch != it.OldEpoch:
		return 0, raced("the placement has epoch %d, the decision knew %d", epoch, it.OldEpoch)
	}
	if m := tx.s.MigrationOf(vm.ID); m != nil && m.Phase != api.MigrationQueued {
		return 0, raced("the VM is being moved")
	}
	switch it.Action {
	case PlacePlace:
		return tx.placeNew(it, vm, p)
	case PlaceAdmit:
		return tx.placeAdmit(it, vm, p)
	case PlaceRelease:
		return tx.placeRelease(vm, p)
	case PlaceRecover:
		return tx.placeRecover(it, vm, p)
	default:
		return 0, raced("there is no action %q", it.Action)
	}
}

// placeNew gives a VM a node at a new epoch, and binds its new volumes to it.
func (tx *Txn) placeNew(it *PlaceItem, vm *api.VM, p *api.Placement) (api.Epoch, error) {
	if vm.Power == api.PowerStopped {
		return 0, raced("the VM is wanted stopped")
	}
	if p != nil {
		return 0, raced("the VM is on node %s already", p.NodeID)
	}
	return tx.grant(it, vm)
}

// placeRecover gives a VM that was on a lost node another one. The lost node
// keeps an order to stop what it may still hold.
func (tx *Txn) placeRecover(it *PlaceItem, vm *api.VM, p *api.Placement) (api.Epoch, error) {
	if p == nil {
		return 0, raced("the VM has no placement")
	}
	if err := Restartable(tx.s, vm, p); err != nil {
		return 0, err
	}
	if !tx.lostFor(vm.ID, p.NodeID) {
		return 0, raced("the node of the VM is not lost")
	}
	epoch, err := tx.grant(it, vm)
	if err == nil {
		tx.bury(p.NodeID, tx.s.VM(vm.ID), p.Epoch, "recovered", true)
	}
	return epoch, err
}

// grant makes a node the owner of a VM at the next epoch.
func (tx *Txn) grant(it *PlaceItem, vm *api.VM) (api.Epoch, error) {
	if it.Epoch != 0 && it.Epoch != vm.Epoch+1 {
		return 0, raced("the next epoch is %d, the decision said %d", vm.Epoch+1, it.Epoch)
	}
	n, err := tx.usable(it.NodeID, true)
	if err != nil {
		return 0, err
	}
	if vm.Spec.HA.Policy == api.HARestart && !GuardUsable(tx.s, n) {
		return 0, raced("node %s has no guard that ha = restart could rely on", n.Name).WithDetail(DimGuard, "%s", n.Guard)
	}
	vols := tx.s.DiskVolumes(vm)
	for i, v := range vols {
		if err := volumeAllows(v, vm, i, n); err != nil {
			return 0, err
		}
		if np := NodePoolOf(n, v.Pool); np == nil || np.Error != "" {
			return 0, api.Errorf(api.CodeNoNode, "node %s has no usable pool %q", n.Name, v.Pool).WithDetail(DimPool, "%s", v.Pool)
		}
	}
	ask := AskOf(&vm.Spec, vols)
	if dim, ok := Fits(tx.s, n, ask); !ok {
		return 0, noRoom(n, dim)
	}
	v := *vm
	v.Epoch++
	vmDef.put(tx, &v)
	for _, vol := range vols {
		if np := NodePoolOf(n, vol.Pool); !vol.NodeID.IsZero() || np.Shared {
			continue
		}
		w := *vol
		w.NodeID, w.ModifyIndex = n.ID, tx.index
		volumeDef.put(tx, &w)
	}
	placementDef.put(tx, &api.Placement{
		VMID: vm.ID, Namespace: vm.Namespace, VMName: vm.Name, NodeID: n.ID, Epoch: v.Epoch, Desired: vm.Power,
		Reserved: api.Resources{CPU: ask.CPU, Memory: ask.Memory}, State: api.StatePending, StateTime: tx.now,
		CPUModel: tx.startModel(&vm.Spec, n), CreateTime: tx.now, CreateIndex: tx.index, ModifyIndex: tx.index,
	})
	return v.Epoch, nil
}

// usable returns a node that may be given work.
func (tx *Txn) usable(id api.ID, fresh bool) (*api.Node, error) {
	n := tx.s.Node(id)
	switch {
	case n == nil:
		return nil, raced("node %s does not exist any more", id)
	case n.Status != api.NodeReady:
		return nil, raced("node %s is %s", n.Name, n.Status)
	case n.Unreachable != "":
		return nil, raced("node %s cannot be reached: %s", n.Name, n.Unreachable)
	case fresh && n.Eligibility != api.Eligible:
		return nil, raced("node %s is not eligible", n.Name)
	}
	return n, nil
}

// volumeAllows checks that one volume of a VM may be used on a node.
func volumeAllows(v *api.Volume, vm *api.VM, disk int, n *api.Node) error {
	switch {
	case v == nil:
		return api.Errorf(api.CodeState, "disk %q has no volume", vm.Spec.Disks[disk].Name)
	case v.State == api.VolumeDeleting:
		return api.Errorf(api.CodeState, "volume %q is being deleted", v.Name)
	case !v.NodeID.IsZero() && v.NodeID != n.ID:
		return raced("volume %q is on another node", v.Name)
	}
	return nil
}

func noRoom(n *api.Node, dim string) error {
	return raced("node %s has not enough %s", n.Name, dim).WithDetail(dim, "exhausted")
}

// placeAdmit reserves again what a stopped VM had released on its node.
func (tx *Txn) placeAdmit(it *PlaceItem, vm *api.VM, p *api.Placement) (api.Epoch, error) {
	switch {
	case p == nil:
		return 0, raced("the VM has no placement")
	case p.NodeID != it.NodeID:
		return 0, raced("the VM is on node %s", p.NodeID)
	case vm.Power == api.PowerStopped:
		return 0, raced("the VM is wanted stopped")
	case p.Reserved != (api.Resources{}):
		return 0, raced("the VM is admitted already")
	}
	n, err := tx.usable(it.NodeID, false)
	if err != nil {
		return 0, err
	}
	ask := AskOf(&vm.Spec, []*api.Volume{})
	if dim, ok := Fits(tx.s, n, ask); !ok {
		return 0, noRoom(n, dim)
	}
	q := *p
	q.Desired, q.Reserved = vm.Power, api.Resources{CPU: ask.CPU, Memory: ask.Memory}
	q.CPUModel, q.ModifyIndex = tx.startModel(&vm.Spec, n), tx.index
	q.Halted = false
	placementDef.put(tx, &q)
	return q.Epoch, nil
}

// Halted reports whether the VM is known to have stopped where it is placed, and
// was not to run since: another node may start it.
func Halted(p *api.Placement) bool {
	return p.Halted || mutant.On(mutant.HeedAnyStop) && !p.State.Holds()
}

// placeRelease gives up the placement of a VM that needs no node. The node
// keeps an order to forget it. A VM that waits to be moved has a use for it: it is
// what the move starts from.
func (tx *Txn) placeRelease(vm *api.VM, p *api.Placement) (api.Epoch, error) {
	if err := tx.unmoved(vm); err != nil {
		return 0, err
	}
	switch {
	case p == nil:
		return 0, raced("the VM has no placement")
	case vm.Power != api.PowerStopped || p.Reserved != (api.Resources{}) || !Halted(p):
		return 0, raced("the VM has not stopped")
	}
	for _, v := range tx.s.DiskVolumes(vm) {
		if v != nil && !v.NodeID.IsZero() {
			return 0, api.Errorf(api.CodeState, "volume %q is local to the node", v.Name)
		}
	}
	tx.bury(p.NodeID, vm, p.Epoch, "unplaced", false)
	placementDef.del(tx, vm.ID)
	return p.Epoch, nil
}
