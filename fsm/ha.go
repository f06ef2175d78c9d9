package fsm

import (
	"slices"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/mutant"
)

// HostLost declares a node lost, with evidence. The evidence is kept for each
// placement that it covers, at its epoch: a VM whose placement it does not cover
// may run on, and stays where it is. It answers *api.Node, changed or not.
type HostLost struct {
	NodeID   api.ID       `msg:"node_id,omitempty"`
	Evidence api.Evidence `msg:"evidence,omitempty"`
	// Session and Registered must be the node's last registration: evidence of an
	// earlier one proves nothing.
	Session    api.ID `msg:"session,omitempty"`
	Registered uint64 `msg:"registered,omitempty"`
}

// CommandID is 39.
func (c *HostLost) CommandID() uint16 { return cmdHostLost }

// Validate checks the evidence.
func (c *HostLost) Validate() error {
	var k checker
	k.id("node_id", c.NodeID)
	k.oneOf("evidence.kind", string(c.Evidence.Kind), string(api.EvidenceLease), string(api.EvidenceOperator))
	k.line("evidence.by", c.Evidence.By)
	k.line("evidence.boot_id", c.Evidence.BootID)
	return k.done()
}

func (c *HostLost) apply(tx *Txn) (any, error) {
	if err := tx.settled(); err != nil {
		return nil, err
	}
	n := tx.s.Node(c.NodeID)
	if n == nil {
		return nil, api.Errorf(api.CodeNotFound, "node %s not found", c.NodeID)
	}
	if r := tx.s.Registration(n.ID); (r.SessionID != c.Session || r.Index != c.Registered) && !mutant.On(mutant.LossOvertaken) {
		return nil, raced("node %s has registered in the meantime", n.Name)
	}
	lease := c.Evidence.Kind == api.EvidenceLease
	switch {
	case lease && n.Status == api.NodeLost:
		return n, nil // nothing is added to what is known
	case lease && (n.Guard == api.GuardNone || n.BootID != c.Evidence.BootID):
		return nil, raced("node %s has no guard that this evidence speaks of", n.Name)
	case lease && (tx.s.meta.HA.Hold != nil || tx.s.meta.HA.Disarmed):
		return nil, raced("leases do not count now")
	}
	e := c.Evidence
	e.Time, e.Index = tx.now, tx.index
	m := *n
	if m.Status != api.NodeLost {
		m.StatusTime = tx.now
	}
	m.Status, m.StatusNote, m.Lost, m.ModifyIndex = api.NodeLost, lostNote(&e), &e, tx.index
	nodeDef.put(tx, &m)
	tx.fence(n.ID, e.Kind)
	tx.nodeMoves(n.ID)
	return &m, nil
}

func lostNote(e *api.Evidence) string {
	if e.Kind == api.EvidenceLease {
		return "its lease has expired: silent for " + e.Silent.D().String()
	}
	return "confirmed off by " + e.By
}

// fence records evidence for the placements of a node that it covers: of a
// lease, those that the node itself has said to be armed; else all.
func (tx *Txn) fence(node api.ID, kind api.EvidenceKind) {
	for _, p := range slices.Collect(tx.s.PlacementsOn(node)) {
		if p.Fenced == api.EvidenceOperator || kind == api.EvidenceLease && !p.Armed && !mutant.On(mutant.FenceUnarmed) {
			continue
		}
		q := *p
		q.Fenced, q.ModifyIndex = kind, tx.index
		placementDef.put(tx, &q)
	}
}

// unfence forgets the evidence about a node that is back: it says itself what
// it runs. What was armed in another boot is armed no more.
func (tx *Txn) unfence(node api.ID, rebooted bool) {
	for _, p := range slices.Collect(tx.s.PlacementsOn(node)) {
		q := *p
		if q.Armed = p.Armed && !rebooted; !mutant.On(mutant.EvidenceOutlives) {
			q.Fenced = ""
		}
		if q.Fenced == p.Fenced && q.Armed == p.Armed {
			continue
		}
		q.ModifyIndex = tx.index
		placementDef.put(tx, &q)
	}
}

// lostFor reports whether a VM certainly does not run on a node, and never will
// by itself: the node is gone for good, or lost with evidence that covers the VM.
// Where the VM is not owned, it cannot run without having read a commit.
func (tx *Txn) lostFor(vm, node api.ID) bool { return lostFor(tx.s, vm, node) }

func lostFor(s *State, vm, node api.ID) bool {
	n := s.Node(node)
	if n == nil {
		return true
	}
	if n.Status != api.NodeLost {
		return false
	}
	p := s.Placement(vm)
	return p == nil || p.NodeID != node || p.Fenced != ""
}

// Restartable says why a VM may not be restarted elsewhere; nil means it may.
// There is evidence that it does not run, its policy allows it and wants it, and
// nobody holds restarts back.
func Restartable(s *State, vm *api.VM, p *api.Placement) *api.Error {
	switch hold := s.meta.HA.Hold; {
	case vm.Deleting || vm.Power == api.PowerStopped:
		return raced("VM %q is not wanted running", vm.Name)
	case p.Fenced == "":
		return raced("there is no evidence that VM %q does not run on its node", vm.Name)
	case vm.Spec.HA.Policy == api.HANone:
		return raced("VM %q is not to be restarted (ha = none)", vm.Name)
	case vm.Spec.HA.Policy != api.HARestart && p.Fenced != api.EvidenceOperator:
		return raced("VM %q is to be kept on its node (ha = keep)", vm.Name)
	case hold != nil:
		return raced("restarts are held back: %s", hold.Reason)
	}
	return nil
}

// GuardUsable reports whether VMs with ha = restart may be on a node: its guard
// kills them when the lease is over, in time.
func GuardUsable(s *State, n *api.Node) bool {
	return n.Guard == api.GuardWatchdog || n.Guard == api.GuardLeaseOnly && s.meta.HA.Fencing == api.FencingLeaseOnly
}

// reachable refuses ha = restart for a VM with a disk that no other node reaches.
func (tx *Txn) reachable(vm *api.VM) error {
	if vm.Spec.HA.Policy != api.HARestart {
		return nil
	}
	for _, v := range tx.s.DiskVolumes(vm) {
		if v == nil {
			continue
		}
		if pool := tx.s.Pool(v.Pool); pool == nil || !pool.Shared {
			return api.Errorf(api.CodeUnsupported, "ha = restart needs disks that other nodes can reach: volume %q is in the local pool %q", v.Name, poolName(v.Pool)).
				WithHint("put the disks into a shared pool, or use ha = keep")
		}
	}
	return nil
}

// HASet changes how the region restarts VMs elsewhere. It answers *api.HAConfig.
type HASet struct {
	Config     api.HAConfig `msg:"config,omitempty"`
	CheckIndex *uint64      `msg:"check_index,omitempty"`
}

// CommandID is 40.
func (c *HASet) CommandID() uint16 { return cmdHASet }

// Validate checks the configuration. How long W must be the leader knows.
func (c *HASet) Validate() error {
	var k checker
	k.oneOf("fencing", c.Config.Fencing, "", api.FencingWatchdog, api.FencingLeaseOnly)
	if c.Config.Wait < 0 {
		k.fail("wait", "is negative")
	}
	if h := c.Config.Hold; h != nil {
		k.line("hold.reason", h.Reason)
		k.line("hold.by", h.By)
	}
	return k.done()
}

func (c *HASet) apply(tx *Txn) (any, error) {
	if err := checkIndex(c.CheckIndex, tx.s.meta.HA.ModifyIndex, "the configuration of HA"); err != nil {
		return nil, err
	}
	cfg := c.Config
	cfg.ModifyIndex = tx.index
	if cfg.Hold != nil {
		h := *cfg.Hold
		if h.Since == 0 {
			h.Since = tx.now
		}
		cfg.Hold = &h
	}
	tx.setMeta(func(m *MetaRecord) { m.HA = cfg })
	return &cfg, nil
}
