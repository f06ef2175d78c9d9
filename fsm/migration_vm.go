package fsm

import "github.com/novacron/novacron/api"

// What a move means for the other commands on its VM.

// unmoved refuses what must not happen beside an active migration of the VM.
func (tx *Txn) unmoved(vm *api.VM) error {
	if m := tx.s.MigrationOf(vm.ID); m != nil {
		return api.Errorf(api.CodeMigrating, "VM %q is being moved from %s (migration %s is %s)", vm.Name, m.FromNode, m.ID.Short(), m.Phase).
			WithHint("wait for it, or cancel it: novacron migration cancel %s", m.ID.Short())
	}
	return nil
}

// still refuses what must not happen while it is open where a VM runs.
func (tx *Txn) still(vm *api.VM) error {
	if m := tx.s.MigrationOf(vm.ID); m != nil && m.Phase.Open() && m.Phase != api.MigrationQueued {
		return tx.unmoved(vm)
	}
	return nil
}

// stopMove ends the move of a VM that is to be stopped, where that is possible;
// else the order goes to the new owner.
func (tx *Txn) stopMove(vm *api.VM) {
	m := tx.s.MigrationOf(vm.ID)
	if m == nil || !m.Phase.Open() || m.Mode == api.MigrateCold {
		return
	}
	next := *m
	if tx.abort(&next, api.CodeState, "the VM is to be stopped") == nil {
		tx.putMigration(m, &next)
	}
}

// startAgain starts a VM that was stopped for a move that is over now.
func (tx *Txn) startAgain(m *api.Migration) {
	if vm := tx.s.VM(m.VMID); m.Restart && vm != nil && !vm.Deleting && vm.Power == api.PowerStopped {
		tx.setPower(vm, api.PowerRunning, false)
	}
	m.Restart = false
}

// stayStopped: somebody wants a VM stopped that was to be started again after
// its move.
func (tx *Txn) stayStopped(vm *api.VM) {
	if m := tx.s.MigrationOf(vm.ID); m != nil && m.Restart {
		next := *m
		next.Restart, next.ModifyIndex = false, tx.index
		migrationDef.put(tx, &next)
	}
}
