package fsm

import (
	"bytes"
	"slices"

	"github.com/novacron/novacron/api"
)

// keepVersions is how many old versions of a spec are kept for revert.
const keepVersions = 20

// VMApply creates a VM or changes its spec. It answers *api.VMApplied.
type VMApply struct {
	// ID of a new VM; for one that exists by name it is not looked at.
	ID   api.ID     `msg:"id,omitempty"`
	Spec api.VMSpec `msg:"spec,omitempty"`
	// VolumeIDs are for new volumes: one for each disk of the spec, in order.
	// Those of disks that need no new volume are not used.
	VolumeIDs []api.ID  `msg:"volume_ids,omitempty"`
	Power     api.Power `msg:"power,omitempty"` // empty keeps what is
	// CheckIndex: nil means no check; 0 must not exist; else the modify index.
	CheckIndex *uint64 `msg:"check_index,omitempty"`
}

// CommandID is 8.
func (c *VMApply) CommandID() uint16 { return cmdVMApply }

// Validate checks what can be checked of a spec without a state.
func (c *VMApply) Validate() error {
	var k checker
	k.id("id", c.ID)
	k.spec(&c.Spec)
	k.volumeIDs(c.VolumeIDs, len(c.Spec.Disks))
	k.oneOf("power", string(c.Power), "", string(api.PowerRunning), string(api.PowerStopped), string(api.PowerPaused))
	return k.done()
}

func (k *checker) volumeIDs(ids []api.ID, disks int) {
	if len(ids) != disks {
		k.fail("volume_ids", "there are %d for %d disks", len(ids), disks)
	}
	for i, id := range ids {
		k.id("volume_ids", id)
		if slices.Contains(ids[:i], id) {
			k.fail("volume_ids", "%s stands twice", id)
		}
	}
}

func (c *VMApply) apply(tx *Txn) (any, error) {
	old := tx.s.VMByName(c.Spec.Namespace, c.Spec.Name)
	if old == nil {
		return c.create(tx)
	}
	if err := checkIndex(c.CheckIndex, old.ModifyIndex, "VM "+old.Name); err != nil {
		return nil, err
	}
	if old.Deleting {
		return nil, deleting(old)
	}
	if c.Power != "" && c.Power != old.Power {
		if err := tx.settled(); err != nil {
			return nil, err
		}
	}
	vm, changed, err := tx.respec(old, &c.Spec, c.VolumeIDs)
	if err != nil {
		return nil, err
	}
	if c.Power == api.PowerStopped {
		tx.stayStopped(vm)
	}
	if c.Power != "" && c.Power != vm.Power {
		if c.Power != api.PowerStopped {
			if err := tx.still(vm); err != nil {
				return nil, err
			}
		}
		vm, changed = tx.setPower(vm, c.Power, false), true
	}
	tx.made(vm.ID, "")
	return tx.applied(vm, changed), nil
}

func deleting(vm *api.VM) error {
	return api.Errorf(api.CodeState, "VM %q is being deleted", vm.Name).WithHint("wait until its node has confirmed that it is gone")
}

func (tx *Txn) applied(vm *api.VM, changed bool) *api.VMApplied {
	return &api.VMApplied{WriteMeta: api.WriteMeta{Index: tx.index}, VM: vm, Changed: changed}
}

func (c *VMApply) create(tx *Txn) (any, error) {
	if err := checkIndex(c.CheckIndex, 0, "VM "+c.Spec.Name); err != nil {
		return nil, err
	}
	if err := tx.needNamespace(c.Spec.Namespace); err != nil {
		return nil, err
	}
	if tx.s.VM(c.ID) != nil {
		return nil, api.Errorf(api.CodeExists, "VM %s exists already", c.ID)
	}
	if err := tx.references(c.ID, &c.Spec); err != nil {
		return nil, err
	}
	vm := &api.VM{
		ID: c.ID, Namespace: c.Spec.Namespace, Name: c.Spec.Name, Spec: c.Spec, SpecVersion: 1, Power: c.Power,
		SpecTime: tx.now, SpecIndex: tx.index,
		CreateTime: tx.now, ModifyTime: tx.now, CreateIndex: tx.index, ModifyIndex: tx.index,
	}
	if vm.Power == "" {
		vm.Power = api.PowerRunning
	}
	for i := range vm.Spec.Disks {
		if err := tx.attach(vm, &vm.Spec.Disks[i], c.VolumeIDs[i], nil); err != nil {
			return nil, err
		}
	}
	if err := tx.onePlace(vm); err != nil {
		return nil, err
	}
	if err := tx.reachable(vm); err != nil {
		return nil, err
	}
	vmDef.put(tx, vm)
	tx.made(vm.ID, "")
	a := tx.applied(vm, true)
	a.Created = true
	return a, nil
}

// references checks that the nouns which the spec of a VM names exist, and that
// nobody else has its addresses.
func (tx *Txn) references(vm api.ID, s *api.VMSpec) error {
	for i := range s.NICs {
		if tx.s.Network(s.NICs[i].Network) == nil {
			return api.Errorf(api.CodeNotFound, "network %q not found", s.NICs[i].Network).WithHint("see: novacron network list")
		}
	}
	if b := s.Boot; b != nil {
		for _, name := range []string{b.Kernel, b.Initrd} {
			if name == "" {
				continue
			}
			if im := tx.s.ImageFor(s.Namespace, name); im == nil || im.State == api.ImageDeleting {
				return api.Errorf(api.CodeNotFound, "image %q not found", name).WithHint("see: novacron image list")
			}
		}
	}
	return tx.ownMACs(vm, s)
}

// ownMACs refuses a MAC address that another VM's spec has in the same network.
// Only specs that name one cost a walk over the VMs.
func (tx *Txn) ownMACs(id api.ID, s *api.VMSpec) error {
	named := func(n api.NIC) bool { return n.MAC != "" }
	if !slices.ContainsFunc(s.NICs, named) {
		return nil
	}
	for vm := range tx.s.VMs() {
		if vm.ID == id {
			continue
		}
		for i := range vm.Spec.NICs {
			n := &vm.Spec.NICs[i]
			if n.MAC == "" || !slices.ContainsFunc(s.NICs, func(o api.NIC) bool { return o.MAC == n.MAC && o.Network == n.Network }) {
				continue
			}
			by := "a VM of another namespace"
			if vm.Namespace == s.Namespace {
				by = "VM " + vm.Name
			}
			return inUse("MAC address", n.MAC, by)
		}
	}
	return nil
}

// VolumeName is the name of the volume that is made for a disk of a VM.
func VolumeName(vm, disk string) string { return vm + "-" + disk }

// DiskVolumes returns the volumes of a VM in the order of its disks; nil where
// there is none.
func (s *State) DiskVolumes(vm *api.VM) []*api.Volume {
	out := make([]*api.Volume, len(vm.Spec.Disks))
	for i := range vm.Spec.Disks {
		d := &vm.Spec.Disks[i]
		n := d.Volume
		if n == "" {
			n = VolumeName(vm.Name, d.Name)
		}
		if v := s.VolumeByName(vm.Namespace, n); v != nil && v.VMID == vm.ID {
			out[i] = v
		}
	}
	return out
}

// attach gives a disk its volume: an existing one, or a new one. A VM that is
// placed makes new local volumes on its node.
func (tx *Txn) attach(vm *api.VM, d *api.Disk, id api.ID, p *api.Placement) error {
	if d.Volume != "" {
		v := tx.s.VolumeByName(vm.Namespace, d.Volume)
		switch {
		case v == nil:
			return api.Errorf(api.CodeNotFound, "volume %q not found", d.Volume)
		case !v.VMID.IsZero():
			return inUse("volume", v.Name, "VM "+v.VMID.String())
		case v.State == api.VolumeDeleting:
			return api.Errorf(api.CodeState, "volume %q is being deleted", v.Name)
		case p != nil && !v.NodeID.IsZero() && v.NodeID != p.NodeID:
			return api.Errorf(api.CodeState, "volume %q is on another node than the VM", v.Name)
		}
		w := *v
		w.VMID, w.ModifyIndex = vm.ID, tx.index
		volumeDef.put(tx, &w)
		return nil
	}
	name := VolumeName(vm.Name, d.Name)
	if tx.s.VolumeByName(vm.Namespace, name) != nil || tx.s.Volume(id) != nil {
		return api.Errorf(api.CodeExists, "volume %q exists already", name).WithHint("delete it, or use it with volume = %q", name)
	}
	v := &api.Volume{ID: id, Namespace: vm.Namespace, Name: name, Pool: d.Pool, Size: d.Size, Format: d.Format, VMID: vm.ID, Owned: !d.Keep}
	var im *api.Image
	if d.Image != "" {
		if im = tx.s.ImageFor(vm.Namespace, d.Image); im == nil {
			return api.Errorf(api.CodeNotFound, "image %q not found", d.Image).WithHint("see: novacron image list")
		}
	}
	if err := tx.fillVolume(v, im); err != nil {
		return err
	}
	if p != nil {
		if err := tx.volumeFits(v, p.NodeID); err != nil {
			return err
		}
		if np := NodePoolOf(tx.s.Node(p.NodeID), v.Pool); !np.Shared {
			v.NodeID = p.NodeID
		}
	}
	volumeDef.put(tx, v)
	return nil
}

// onePlace refuses a VM whose existing volumes are on different nodes.
func (tx *Txn) onePlace(vm *api.VM) error {
	var at *api.Volume
	for _, v := range tx.s.DiskVolumes(vm) {
		if v == nil || v.NodeID.IsZero() {
			continue
		}
		if at != nil && at.NodeID != v.NodeID {
			return api.Errorf(api.CodeState, "volumes %q and %q are on different nodes", at.Name, v.Name)
		}
		at = v
	}
	return nil
}

func versionOf(vm *api.VM) *api.VMVersion {
	return &api.VMVersion{VMID: vm.ID, Version: vm.SpecVersion, Spec: vm.Spec, CreateTime: vm.SpecTime, CreateIndex: vm.SpecIndex}
}

// sameSpec compares two specs as they are written in the log.
func sameSpec(a, b *api.VMSpec) bool {
	x, err := a.MarshalMsg(nil)
	if err != nil {
		return false
	}
	y, err := b.MarshalMsg(nil)
	return err == nil && bytes.Equal(x, y)
}

// respec gives a VM another spec; the old one becomes history.
func (tx *Txn) respec(old *api.VM, spec *api.VMSpec, ids []api.ID) (*api.VM, bool, error) {
	if sameSpec(&old.Spec, spec) {
		return old, false, nil
	}
	if err := tx.still(old); err != nil {
		return nil, false, err
	}
	if err := tx.references(old.ID, spec); err != nil {
		return nil, false, err
	}
	vm := *old
	vm.Spec = *spec
	vm.SpecVersion++
	vm.SpecTime, vm.SpecIndex = tx.now, tx.index
	vm.ModifyTime, vm.ModifyIndex = tx.now, tx.index
	p := tx.s.Placement(vm.ID)
	if err := tx.redisk(old, &vm, ids, p); err != nil {
		return nil, false, err
	}
	if err := tx.onePlace(&vm); err != nil {
		return nil, false, err
	}
	if err := tx.reachable(&vm); err != nil {
		return nil, false, err
	}
	if p != nil && p.Reserved != (api.Resources{}) {
		if err := tx.rereserve(&vm, p); err != nil {
			return nil, false, err
		}
	}
	tx.remodel(old, &vm)
	v := versionOf(old)
	versionDef.put(tx, v)
	if old.SpecVersion > keepVersions {
		versionDef.del(tx, versionKey{vm.ID, old.SpecVersion - keepVersions})
	}
	vmDef.put(tx, &vm)
	return &vm, true, nil
}

// rereserve reserves the larger of what runs and what the new spec asks, until
// the node reports that the new spec runs.
func (tx *Txn) rereserve(vm *api.VM, p *api.Placement) error {
	a := AskOf(&vm.Spec, []*api.Volume{})
	want := api.Resources{CPU: max(a.CPU, p.Reserved.CPU), Memory: max(a.Memory, p.Reserved.Memory)}
	if want == p.Reserved {
		return nil
	}
	n := tx.s.Node(p.NodeID)
	if n == nil {
		return api.Errorf(api.CodeState, "the VM's node is not known")
	}
	more := Ask{CPU: want.CPU - p.Reserved.CPU, Memory: want.Memory - p.Reserved.Memory}
	if dim, ok := Fits(tx.s, n, more); !ok {
		return api.Errorf(api.CodeNoNode, "node %s has not enough %s for the larger VM", n.Name, dim).
			WithHint("stop the VM first, then change it")
	}
	q := *p
	q.Reserved, q.ModifyIndex = want, tx.index
	placementDef.put(tx, &q)
	return nil
}

// redisk follows the disks of a changed spec: new ones get volumes, those that
// are gone give theirs up.
func (tx *Txn) redisk(old, vm *api.VM, ids []api.ID, p *api.Placement) error {
	vols := tx.s.DiskVolumes(old)
	for i := range old.Spec.Disks {
		was := &old.Spec.Disks[i]
		j := slices.IndexFunc(vm.Spec.Disks, func(d api.Disk) bool { return d.Name == was.Name })
		if j >= 0 {
			is := &vm.Spec.Disks[j]
			if is.Volume != was.Volume || is.Image != was.Image || is.Size != was.Size || poolName(is.Pool) != poolName(was.Pool) || is.Format != was.Format {
				return api.Errorf(api.CodeUnsupported, "disk %q cannot change its volume, image, size, pool or format", was.Name).
					WithHint("add a disk with another name instead")
			}
			if v := vols[i]; v != nil && is.Keep != was.Keep && was.Volume == "" {
				w := *v
				w.Owned, w.ModifyIndex = !is.Keep, tx.index
				volumeDef.put(tx, &w)
			}
			continue
		}
		if p != nil && !Halted(p) {
			return api.Errorf(api.CodeState, "disk %q cannot be taken away while the VM is %s", was.Name, p.State).WithHint("stop the VM first")
		}
		if v := vols[i]; v != nil {
			tx.release(v, api.ID{})
		}
	}
	for j := range vm.Spec.Disks {
		d := &vm.Spec.Disks[j]
		if !slices.ContainsFunc(old.Spec.Disks, func(o api.Disk) bool { return o.Name == d.Name }) {
			if err := tx.attach(vm, d, ids[j], p); err != nil {
				return err
			}
		}
	}
	return nil
}

// release takes a volume from its VM: one that is the VM's own is removed, by
// node if it is in a shared pool, another is free again.
func (tx *Txn) release(v *api.Volume, node api.ID) {
	if !v.Owned {
		w := *v
		w.VMID, w.ModifyIndex = api.ID{}, tx.index
		volumeDef.put(tx, &w)
		return
	}
	if v.NodeID.IsZero() && !node.IsZero() && v.State != api.VolumeDeleting {
		if pool := tx.s.Pool(v.Pool); pool != nil && pool.Shared {
			w := *v
			w.NodeID, w.State, w.ModifyIndex = node, api.VolumeDeleting, tx.index
			volumeDef.put(tx, &w)
			return
		}
	}
	tx.dropVolume(v)
}

// VMRevert makes an old version of the spec the newest. It answers
// *api.VMApplied.
type VMRevert struct {
	ID      api.ID `msg:"id,omitempty"`
	Version uint64 `msg:"version,omitempty"`
	// VolumeIDs for disks that the old version has and the present one has not:
	// at least as many as the old version has disks.
	VolumeIDs  []api.ID `msg:"volume_ids,omitempty"`
	CheckIndex *uint64  `msg:"check_index,omitempty"`
}

// CommandID is 10.
func (c *VMRevert) CommandID() uint16 { return cmdVMRevert }

// Validate checks the ids.
func (c *VMRevert) Validate() error {
	var k checker
	k.id("id", c.ID)
	k.volumeIDs(c.VolumeIDs, len(c.VolumeIDs))
	k.count("volume_ids", len(c.VolumeIDs), maxDisks)
	return k.done()
}

func (c *VMRevert) apply(tx *Txn) (any, error) {
	if err := tx.settled(); err != nil {
		return nil, err
	}
	vm, err := tx.needVM(c.ID, c.CheckIndex)
	if err != nil {
		return nil, err
	}
	v := tx.s.VMVersion(c.ID, c.Version)
	if v == nil {
		return nil, api.Errorf(api.CodeNotFound, "VM %q has no version %d, or it is not kept any more", vm.Name, c.Version).
			WithHint("see: novacron vm history %s", vm.Name)
	}
	if len(c.VolumeIDs) < len(v.Spec.Disks) {
		return nil, api.Errorf(api.CodeInternal, "%d volume ids for %d disks", len(c.VolumeIDs), len(v.Spec.Disks))
	}
	next, changed, err := tx.respec(vm, &v.Spec, c.VolumeIDs)
	if err != nil {
		return nil, err
	}
	tx.made(next.ID, "")
	return tx.applied(next, changed), nil
}

// needVM finds a VM that is not being deleted.
func (tx *Txn) needVM(id api.ID, check *uint64) (*api.VM, error) {
	vm := tx.s.VM(id)
	if vm == nil {
		return nil, api.Errorf(api.CodeNotFound, "VM %s not found", id)
	}
	if err := checkIndex(check, vm.ModifyIndex, "VM "+vm.Name); err != nil {
		return nil, err
	}
	if vm.Deleting {
		return nil, deleting(vm)
	}
	return vm, nil
}
