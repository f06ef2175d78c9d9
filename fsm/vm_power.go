package fsm

import (
	"slices"

	"github.com/novacron/novacron/api"
)

// VMPower changes the desired power state, or counts a start, reboot or reset.
// It answers *api.VMApplied.
type VMPower struct {
	ID         api.ID  `msg:"id,omitempty"`
	Action     string  `msg:"action,omitempty"` // start, stop, reboot, reset, pause, resume
	Force      bool    `msg:"force,omitempty"`
	CheckIndex *uint64 `msg:"check_index,omitempty"`
}

// CommandID is 9.
func (c *VMPower) CommandID() uint16 { return cmdVMPower }

// Validate checks the action.
func (c *VMPower) Validate() error {
	var k checker
	k.id("id", c.ID)
	k.oneOf("action", c.Action, "start", "stop", "reboot", "reset", "pause", "resume")
	return k.done()
}

func (c *VMPower) apply(tx *Txn) (any, error) {
	if err := tx.settled(); err != nil {
		return nil, err
	}
	vm, err := tx.needVM(c.ID, c.CheckIndex)
	if err != nil {
		return nil, err
	}
	if c.Action != "stop" {
		if err := tx.still(vm); err != nil {
			return nil, err
		}
	}
	tx.made(vm.ID, "")
	next := *vm
	next.ModifyTime, next.ModifyIndex = tx.now, tx.index
	switch c.Action {
	case "start":
		next.Starts++
		return tx.applied(tx.setPower(&next, api.PowerRunning, false), true), nil
	case "stop":
		tx.stayStopped(vm)
		if vm.Power == api.PowerStopped && (vm.ForceStop || !c.Force) {
			return tx.applied(vm, false), nil
		}
		return tx.applied(tx.setPower(vm, api.PowerStopped, c.Force), true), nil
	case "pause", "resume":
		want := api.PowerPaused
		if c.Action == "resume" {
			want = api.PowerRunning
		}
		if vm.Power == api.PowerStopped {
			return nil, api.Errorf(api.CodeState, "VM %q is stopped", vm.Name).WithHint("start it first: novacron vm start %s", vm.Name)
		}
		if vm.Power == want {
			if p := tx.s.Placement(vm.ID); c.Action == "resume" && p != nil && p.State == api.StatePaused {
				next.Resumes++ // the hypervisor paused it: an I/O error, a full disk
				vmDef.put(tx, &next)
				return tx.applied(&next, true), nil
			}
			return tx.applied(vm, false), nil
		}
		return tx.applied(tx.setPower(vm, want, false), true), nil
	}
	if vm.Power != api.PowerRunning {
		return nil, api.Errorf(api.CodeState, "VM %q is %s", vm.Name, vm.Power).WithHint("only a VM that is wanted running can be rebooted or reset")
	}
	if c.Action == "reboot" {
		next.Reboots++
	} else {
		if vm.Spec.Protection {
			return nil, protected(vm)
		}
		next.Resets++
	}
	vmDef.put(tx, &next)
	return tx.applied(&next, true), nil
}

func protected(vm *api.VM) error {
	return api.Errorf(api.CodeProtected, "VM %q is protected", vm.Name).WithHint("take protection off in its spec first")
}

// setPower changes what is wanted of a VM and orders it from its node. A VM
// that has released its CPU and memory waits until the scheduler admits it.
func (tx *Txn) setPower(vm *api.VM, power api.Power, force bool) *api.VM {
	if power == api.PowerStopped {
		tx.stopMove(vm)
	}
	v := *vm
	v.Power, v.ForceStop = power, force && power == api.PowerStopped
	v.ModifyTime, v.ModifyIndex = tx.now, tx.index
	vmDef.put(tx, &v)
	p := tx.s.Placement(v.ID)
	if p == nil || p.Reserved == (api.Resources{}) && power != api.PowerStopped {
		return &v
	}
	q := *p
	if q.Desired = power; power != p.Desired {
		q.Halted = false
		if power == api.PowerStopped {
			q.StopIndex = tx.index
		}
	}
	if Halted(&q) {
		q.Reserved = api.Resources{}
	}
	if q.Desired == p.Desired && q.Reserved == p.Reserved {
		return &v
	}
	q.ModifyIndex = tx.index
	placementDef.put(tx, &q)
	return &v
}

// VMDelete orders a VM to be stopped and removed with the volumes that are its
// own. One that was never placed goes at once. It answers nothing.
type VMDelete struct {
	ID         api.ID `msg:"id,omitempty"`
	CheckIndex uint64 `msg:"check_index,omitempty"`
	Force      bool   `msg:"force,omitempty"` // skip ACPI
}

// CommandID is 11.
func (c *VMDelete) CommandID() uint16 { return cmdVMDelete }

// Validate checks nothing: the VM is looked up.
func (c *VMDelete) Validate() error { return nil }

func (c *VMDelete) apply(tx *Txn) (any, error) {
	if err := tx.settled(); err != nil {
		return nil, err
	}
	vm := tx.s.VM(c.ID)
	if vm == nil {
		return nil, api.Errorf(api.CodeNotFound, "VM %s not found", c.ID)
	}
	if err := sameIndex(c.CheckIndex, vm.ModifyIndex, "VM "+vm.Name); err != nil {
		return nil, err
	}
	if vm.Deleting {
		return nil, c.hasten(tx, vm)
	}
	if vm.Spec.Protection {
		return nil, protected(vm)
	}
	if err := tx.unmoved(vm); err != nil {
		return nil, err
	}
	v := *vm
	v.Deleting, v.Power, v.ForceStop = true, api.PowerStopped, c.Force
	v.ModifyTime, v.ModifyIndex = tx.now, tx.index
	vmDef.put(tx, &v)
	if p := tx.s.Placement(v.ID); p != nil {
		tx.bury(p.NodeID, &v, p.Epoch, "deleted", c.Force)
		placementDef.del(tx, v.ID)
	}
	for range tx.s.TombstonesOf(v.ID) {
		return nil, nil // its volumes may be in use until the nodes attest
	}
	tx.releaseVolumes(&v, api.ID{})
	tx.finishDelete(v.ID)
	return nil, nil
}

// hasten makes a delete that is under way a forced one.
func (c *VMDelete) hasten(tx *Txn, vm *api.VM) error {
	if !c.Force {
		return nil
	}
	for _, t := range slices.Collect(tx.s.TombstonesOf(vm.ID)) {
		if !t.Force {
			tx.bury(t.NodeID, vm, t.Epoch, t.Reason, true)
		}
	}
	return nil
}

// releaseVolumes takes its volumes from a VM that is being deleted and that no
// node holds any more.
func (tx *Txn) releaseVolumes(vm *api.VM, node api.ID) {
	for range tx.s.TombstonesOf(vm.ID) {
		return // another node may hold it still
	}
	for _, v := range slices.Collect(tx.s.VolumesOf(vm.ID)) {
		tx.release(v, node)
	}
}

// finishDelete removes a VM that is being deleted when nothing of it is left.
func (tx *Txn) finishDelete(id api.ID) {
	vm := tx.s.VM(id)
	if vm == nil || !vm.Deleting || tx.s.Placement(id) != nil {
		return
	}
	for range tx.s.TombstonesOf(id) {
		return
	}
	for v := range tx.s.VolumesOf(id) {
		if v.State != api.VolumeDeleting {
			tx.releaseVolumes(vm, api.ID{})
			break
		}
	}
	for range tx.s.VolumesOf(id) {
		return
	}
	var old []versionKey
	for v := range tx.s.versions.from(versionKey{vm: id}) {
		if v.VMID != id {
			break
		}
		old = append(old, versionKey{id, v.Version})
	}
	for _, k := range old {
		versionDef.del(tx, k)
	}
	vmDef.del(tx, id)
}
