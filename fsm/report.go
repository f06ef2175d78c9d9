package fsm

import (
	"slices"

	"github.com/novacron/novacron/api"
)

// NodeReports is what nodes say of their VMs, volumes and images. What does not
// concern the present epoch or session is passed over: it is late, not wrong.
// It answers nothing.
type NodeReports struct {
	Reports []api.NodeReport `msg:"reports,omitempty"`
}

// CommandID is 13.
func (c *NodeReports) CommandID() uint16 { return cmdNodeReports }

// Validate checks the states.
func (c *NodeReports) Validate() error {
	var k checker
	k.count("reports", len(c.Reports), maxReports)
	for i := range c.Reports {
		r := &c.Reports[i]
		k.id("node_id", r.NodeID)
		k.vmReports("vms", r.VMs)
		k.count("volumes", len(r.Volumes), maxReports)
		k.count("images", len(r.Images), maxReports)
		for j := range r.Volumes {
			k.oneOf("volumes.state", string(r.Volumes[j].State), string(api.VolumeReady), string(api.VolumeFailed), string(api.VolumeAbsent))
			k.size("volumes.used", r.Volumes[j].Used, 0)
			k.length("volumes.error", r.Volumes[j].Error)
		}
	}
	return k.done()
}

// vmReports checks what a node says of VMs.
func (k *checker) vmReports(field string, list []api.VMReport) {
	k.count(field, len(list), maxReports)
	for i := range list {
		r := &list[i]
		k.id(field+".vm_id", r.VMID)
		k.oneOf(field+".state", string(r.State), string(api.StatePending), string(api.StatePreparing), string(api.StateStarting),
			string(api.StateRunning), string(api.StatePaused), string(api.StateStopping), string(api.StateStopped),
			string(api.StateFailed), string(api.StateUnknown), string(api.StateAbsent))
		k.number(field+".epoch", uint64(r.Epoch))
		k.length(field+".reason", r.Reason)
		k.length(field+".message", r.Message)
		k.count(field+".addresses", len(r.Addresses), maxList)
		for _, a := range r.Addresses {
			k.length(field+".addresses", a)
		}
	}
}

func (c *NodeReports) apply(tx *Txn) (any, error) {
	for i := range c.Reports {
		r := &c.Reports[i]
		if s := tx.s.Session(r.NodeID); s.IsZero() || s != r.SessionID {
			continue
		}
		for j := range r.VMs {
			tx.vmReport(r.NodeID, r.SessionID, &r.VMs[j])
		}
		for j := range r.Volumes {
			tx.volumeReport(r.NodeID, &r.Volumes[j])
		}
		for j := range r.Images {
			tx.imageReport(r.NodeID, &r.Images[j])
		}
		for j := range r.Moves {
			tx.moveReport(r.NodeID, r.SessionID, &r.Moves[j])
		}
	}
	return nil, nil
}

// vmReport follows what a node says of one VM.
func (tx *Txn) vmReport(node, session api.ID, r *api.VMReport) {
	tx.clearOrphan(node, r)
	if t := tx.s.Tombstone(node, r.VMID); t != nil && r.State == api.StateAbsent && r.Epoch >= t.Epoch {
		tx.buried(t)
	}
	vm := tx.s.VM(r.VMID)
	p := tx.s.Placement(r.VMID)
	if vm == nil {
		if r.State != api.StateAbsent && tx.s.Tombstone(node, r.VMID) == nil {
			tx.orphan(node, r, "no VM of this id is known")
		}
		return
	}
	// Of a VM that another node has, only that node may say so.
	mine := p == nil || p.NodeID == node || tx.s.Tombstone(node, r.VMID) != nil
	if mine && r.Epoch > vm.Epoch && r.Epoch-vm.Epoch <= maxJump && tx.s.meta.Recovery == nil && r.State != api.StateAbsent {
		// The node knows more than Raft: epochs go on above what it has seen.
		v := *vm
		v.Epoch = r.Epoch
		vmDef.put(tx, &v)
	}
	if p != nil && p.NodeID == node {
		if r.Epoch == p.Epoch {
			tx.observe(vm, p, session, r)
		}
		return
	}
	if r.State == api.StateAbsent || tx.s.Tombstone(node, r.VMID) != nil {
		return
	}
	if r.Orphan || p == nil {
		tx.orphan(node, r, "the VM is placed nowhere")
		return
	}
	if tx.s.meta.Recovery == nil && r.Epoch < p.Epoch {
		// The node holds what was superseded, and no order to stop stands.
		tx.bury(node, vm, r.Epoch, "moved", false)
		return
	}
	tx.orphan(node, r, "the VM is placed on another node")
}

// observe takes a report of the present epoch into the placement.
func (tx *Txn) observe(vm *api.VM, old *api.Placement, session api.ID, r *api.VMReport) {
	if old.Session == session && r.Seq != 0 && r.Seq <= old.Seq {
		return // overtaken by a later report
	}
	p := *old
	p.Session, p.Seq = session, r.Seq
	if p.State != r.State {
		p.StateTime = r.Time
	}
	p.State, p.Reason, p.Message = r.State, r.Reason, r.Message
	p.RunningVersion, p.DoneReboots, p.DoneResets = r.Version, r.Reboots, r.Resets
	p.Restarts, p.StartTime = r.Restarts, r.StartTime
	p.Armed = r.Armed
	known := r.Generation == tx.s.Generation() && r.Order >= p.StopIndex
	p.Halted = p.Desired == api.PowerStopped && !p.State.Holds() && (known || p.Halted)
	p.Addresses = nil
	if len(r.Addresses) > 0 {
		p.Addresses = r.Addresses
	}
	switch {
	case Halted(&p):
		p.Reserved = api.Resources{}
	case p.Reserved != (api.Resources{}) && p.RunningVersion == vm.SpecVersion:
		a := AskOf(&vm.Spec, []*api.Volume{})
		p.Reserved = api.Resources{CPU: a.CPU, Memory: a.Memory}
	}
	p.ModifyIndex = tx.index
	if !samePlacement(&p, old) {
		placementDef.put(tx, &p)
		return
	}
	if r.Seq != 0 {
		// Nothing is new, but that nothing older counts from now on.
		q := *old
		q.Session, q.Seq = session, r.Seq
		placementDef.quiet(tx, &q)
	}
}

// samePlacement reports whether a report said nothing new, besides its number.
func samePlacement(a, b *api.Placement) bool {
	return a.State == b.State && a.Reason == b.Reason && a.Message == b.Message && a.RunningVersion == b.RunningVersion &&
		a.DoneReboots == b.DoneReboots && a.DoneResets == b.DoneResets && a.Restarts == b.Restarts && a.StartTime == b.StartTime &&
		a.Reserved == b.Reserved && a.Armed == b.Armed && a.Halted == b.Halted && slices.Equal(a.Addresses, b.Addresses)
}

// orphan records a domain that Raft does not know, once.
func (tx *Txn) orphan(node api.ID, r *api.VMReport, reason string) {
	o := OrphanRecord{NodeID: node, VMID: r.VMID, Epoch: r.Epoch, State: r.State, Reason: reason, Time: r.Time, CreateIndex: tx.index}
	if old := tx.s.orphans.get(pairKey{node, r.VMID}); old != nil {
		if old.State == o.State && old.Epoch == o.Epoch && old.Reason == o.Reason {
			return
		}
		o.CreateIndex = old.CreateIndex
	} else if tx.orphaned(node) >= maxOrphans {
		return // the rest stays unknown until some of these are gone
	}
	orphanDef.put(tx, &o)
}

// orphaned counts the orphans of a node.
func (tx *Txn) orphaned(node api.ID) (n int) {
	for range tx.s.OrphansOn(node) {
		n++
	}
	return n
}

// clearOrphan forgets an orphan that is gone, or that has an owner by now.
func (tx *Txn) clearOrphan(node api.ID, r *api.VMReport) {
	if tx.s.orphans.get(pairKey{node, r.VMID}) == nil {
		return
	}
	p := tx.s.Placement(r.VMID)
	if r.State == api.StateAbsent || p != nil && p.NodeID == node && p.Epoch == r.Epoch {
		orphanDef.del(tx, pairKey{node, r.VMID})
	}
}

// bury orders a node to stop a VM that it holds at an epoch or lower. The order
// stands until the node attests that the VM is absent.
func (tx *Txn) bury(node api.ID, vm *api.VM, epoch api.Epoch, reason string, force bool) {
	t := &api.Tombstone{
		NodeID: node, VMID: vm.ID, Epoch: epoch, Reason: reason, Force: force,
		CreateTime: tx.now, CreateIndex: tx.index, Namespace: vm.Namespace, VMName: vm.Name,
	}
	if old := tx.s.Tombstone(node, vm.ID); old != nil {
		t.Epoch, t.Force = max(t.Epoch, old.Epoch), force || old.Force
	}
	tombstoneDef.put(tx, t)
}

// buried follows the attestation that a VM is absent where it was to be stopped.
func (tx *Txn) buried(t *api.Tombstone) {
	tombstoneDef.del(tx, pairKey{t.NodeID, t.VMID})
	if vm := tx.s.VM(t.VMID); vm != nil && vm.Deleting {
		tx.releaseVolumes(vm, t.NodeID)
		tx.finishDelete(t.VMID)
	}
}

// imageReport follows what a node says of an image.
func (tx *Txn) imageReport(node api.ID, r *api.ImageReport) {
	im := tx.s.Image(r.ID)
	if im == nil {
		return
	}
	if r.Absent {
		tx.replicas(im, nil, []api.ID{node}, 0, 0)
		return
	}
	if im.State != api.ImageDeleting {
		tx.replicas(im, []api.ID{node}, nil, r.Size, 0)
	}
}
