package fsm

import (
	"slices"
	"strings"

	"github.com/novacron/novacron/api"
)

// RecoveryBegin follows the restore of a snapshot by an operator: the
// generation rises above Floor and above what the state knows, and the region
// waits for its nodes. It answers *Recovery.
type RecoveryBegin struct {
	// Floor is the highest generation known to the leader from before.
	Floor uint64 `msg:"floor,omitempty"`
}

// CommandID is 29.
func (c *RecoveryBegin) CommandID() uint16 { return cmdRecoveryBegin }

// Validate checks the generation.
func (c *RecoveryBegin) Validate() error {
	var k checker
	k.number("floor", c.Floor)
	return k.done()
}

func (c *RecoveryBegin) apply(tx *Txn) (any, error) {
	r := &Recovery{Begin: tx.index, Since: tx.now}
	for n := range tx.s.Nodes() {
		// Also a node that had left may run VMs of a later time.
		r.Waiting = append(r.Waiting, n.ID)
	}
	tx.setMeta(func(m *MetaRecord) {
		m.Generation = max(m.Generation, c.Floor) + 1
		m.Recovery = r
	})
	tx.forgetMoves()
	// What sessions reported before is not what they will be asked for now.
	for _, s := range slices.Collect(tx.s.sessions.all()) {
		sessionDef.del(tx, s.NodeID)
	}
	return r, nil
}

// adopt takes what a node holds as the truth about who owns a VM: the highest
// epoch that was seen wins, and what was granted earlier is to be stopped.
func (tx *Txn) adopt(n *api.Node, r *api.VMReport) {
	vm := tx.s.VM(r.VMID)
	if vm == nil || r.State == api.StateAbsent || vm.Deleting {
		return // vmReport records the orphan
	}
	if r.Epoch > vm.Epoch && r.Epoch-vm.Epoch > maxJump {
		return // nobody has granted that
	}
	if t := tx.s.Tombstone(n.ID, r.VMID); t != nil {
		if r.Epoch <= t.Epoch {
			return // superseded before the snapshot
		}
		// Placed there again after the snapshot: the order to stop is history.
		tombstoneDef.del(tx, pairKey{n.ID, r.VMID})
	}
	rec := tx.s.meta.Recovery
	i, seen := slices.BinarySearchFunc(rec.Adopted, r.VMID, func(a Adoption, id api.ID) int { return cmpID(a.VMID, id) })
	p := tx.s.Placement(r.VMID)
	if r.Epoch > vm.Epoch {
		v := *vm
		v.Epoch = r.Epoch
		vmDef.put(tx, &v)
		vm = &v
	}
	switch {
	case seen && rec.Adopted[i].NodeID != n.ID && rec.Adopted[i].Epoch >= r.Epoch:
		tx.bury(n.ID, vm, r.Epoch, "moved", false) // an older copy
		return
	case seen && rec.Adopted[i].NodeID != n.ID:
		tx.bury(rec.Adopted[i].NodeID, vm, rec.Adopted[i].Epoch, "moved", false)
	case !seen && p != nil && p.NodeID != n.ID && r.Epoch < p.Epoch:
		// The state names a newer owner, who may still report.
		tx.bury(n.ID, vm, r.Epoch, "moved", false)
		return
	}
	tx.setMeta(func(m *MetaRecord) {
		q := *m.Recovery
		q.Adopted = slices.Clone(q.Adopted)
		a := Adoption{VMID: r.VMID, NodeID: n.ID, Epoch: r.Epoch, State: r.State}
		if seen {
			q.Adopted[i] = a
		} else {
			q.Adopted = slices.Insert(q.Adopted, i, a)
		}
		m.Recovery = &q
	})
	tx.own(vm, p, n, r)
}

// own makes a node the owner of a VM at the epoch that it reported.
func (tx *Txn) own(vm *api.VM, p *api.Placement, n *api.Node, r *api.VMReport) {
	var q api.Placement
	if p != nil {
		q = *p
	} else {
		q = api.Placement{VMID: vm.ID, Namespace: vm.Namespace, VMName: vm.Name, CreateTime: tx.now, CreateIndex: tx.index}
	}
	// A node that had not heard of its newest epoch does not take it back.
	q.NodeID, q.Epoch = n.ID, max(q.Epoch, r.Epoch)
	q.Desired, q.Halted = vm.Power, false
	if vm.Power == api.PowerStopped {
		q.StopIndex = tx.index
	}
	q.Session, q.Seq = api.ID{}, 0
	q.Armed, q.Fenced = false, ""
	q.Reserved = api.Resources{}
	if r.State.Holds() || vm.Power != api.PowerStopped {
		a := AskOf(&vm.Spec, []*api.Volume{})
		q.Reserved = api.Resources{CPU: a.CPU, Memory: a.Memory}
	}
	q.ModifyIndex = tx.index
	placementDef.put(tx, &q)
	for _, v := range tx.s.DiskVolumes(vm) {
		if v == nil || v.NodeID == n.ID || v.State == api.VolumeDeleting {
			continue
		}
		if pool := NodePoolOf(n, v.Pool); pool != nil && !pool.Shared {
			w := *v
			w.NodeID, w.ModifyIndex = n.ID, tx.index
			volumeDef.put(tx, &w)
		}
	}
}

// RecoveryEnd ends recovery. Nodes in Fenced need not report: an operator says
// that they are off. It is refused while others have not reported. All epochs
// rise, above everything that was seen. It answers nothing.
type RecoveryEnd struct {
	Fenced []api.ID `msg:"fenced,omitempty"`
}

// CommandID is 30.
func (c *RecoveryEnd) CommandID() uint16 { return cmdRecoveryEnd }

// Validate checks nothing: the nodes are looked up.
func (c *RecoveryEnd) Validate() error { return nil }

func (c *RecoveryEnd) apply(tx *Txn) (any, error) {
	r := tx.s.meta.Recovery
	if r == nil {
		return nil, nil
	}
	var names []string
	for _, id := range r.Waiting {
		if !slices.Contains(c.Fenced, id) {
			name := id.String()
			if n := tx.s.Node(id); n != nil {
				name = n.Name
			}
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		return nil, api.Errorf(api.CodeRecovery, "these nodes have not reported: %s", strings.Join(names[:min(len(names), 20)], ", ")).
			WithHint("start their agents, or name those that are switched off for certain as fenced")
	}
	var fenced []api.ID
	for _, id := range sortedIDs(c.Fenced) {
		if n := tx.s.Node(id); n != nil && slices.Contains(r.Waiting, id) {
			m := *n
			m.Status, m.StatusNote, m.StatusTime, m.ModifyIndex = api.NodeLost, "fenced by an operator during recovery", tx.now, tx.index
			m.Lost = &api.Evidence{Kind: api.EvidenceOperator, BootID: m.BootID, Time: tx.now, Index: tx.index}
			nodeDef.put(tx, &m)
			fenced = append(fenced, id)
		}
	}
	for _, p := range slices.Collect(tx.s.Placements()) {
		vm := tx.s.VM(p.VMID)
		if vm == nil {
			continue
		}
		v, q := *vm, *p
		v.Epoch = max(vm.Epoch, p.Epoch) + 1
		q.Epoch, q.ModifyIndex = v.Epoch, tx.index
		q.Armed, q.Fenced, q.Halted = false, "", false // what was known was of the epoch before
		vmDef.put(tx, &v)
		placementDef.put(tx, &q)
	}
	for _, id := range fenced {
		tx.fence(id, api.EvidenceOperator)
	}
	tx.setMeta(func(m *MetaRecord) { m.Recovery = nil })
	return nil, nil
}
