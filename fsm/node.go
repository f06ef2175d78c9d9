package fsm

import (
	"slices"
	"strings"

	"github.com/novacron/novacron/api"
)

// NodeRegister records a machine that registers, with everything that it found
// in its hypervisors. It answers *api.NodeRegistered with the generation.
type NodeRegister struct {
	Node          api.Node       `msg:"node,omitempty"`
	SessionID     api.ID         `msg:"session_id,omitempty"`
	MaxGeneration uint64         `msg:"max_generation,omitempty"`
	MaxIndex      uint64         `msg:"max_index,omitempty"`
	Found         []api.VMReport `msg:"found,omitempty"`
	// Force: the cluster knows that the lease of an earlier session of this node
	// id is over, so that another machine may take the id.
	Force bool `msg:"force,omitempty"`
}

// CommandID is 4.
func (c *NodeRegister) CommandID() uint16 { return cmdNodeRegister }

// Validate checks the fields.
func (c *NodeRegister) Validate() error {
	var k checker
	n := &c.Node
	k.id("id", n.ID)
	k.id("session_id", c.SessionID)
	k.name("name", n.Name)
	k.line("datacenter", n.Datacenter)
	k.line("region", n.Region)
	k.line("address", n.Address)
	k.line("http_address", n.HTTPAddress)
	k.line("gossip_address", n.GossipAddress)
	k.line("version", n.Version)
	k.line("boot_id", n.BootID)
	k.line("machine_id", n.MachineID)
	k.line("product_uuid", n.ProductUUID)
	k.pairs("labels", n.Labels)
	k.pairsUpTo("attributes", n.Attributes, 1024)
	if n.Capacity.CPU < 0 || n.Capacity.Memory < 0 || n.Capacity.Memory > maxSize || n.Capacity.CPU > 1<<40 {
		k.fail("capacity", "is out of range")
	}
	k.ratio("cpu_ratio", n.CPURatio)
	k.ratio("memory_ratio", n.MemoryRatio)
	k.count("pools", len(n.Pools), maxList)
	for i := range n.Pools {
		p := &n.Pools[i]
		k.name("pools.name", p.Name)
		k.optName("pools.type", p.Type)
		k.size("pools.capacity", p.Capacity, 0)
		for j := range i {
			if n.Pools[j].Name == p.Name {
				k.fail("pools", "%q stands twice", p.Name)
			}
		}
	}
	k.count("networks", len(n.Networks), 1024)
	k.oneOf("guard", string(n.Guard), string(api.GuardNone), string(api.GuardWatchdog), string(api.GuardLeaseOnly))
	k.number("max_generation", c.MaxGeneration)
	k.number("max_index", c.MaxIndex)
	k.vmReports("found", c.Found)
	return k.done()
}

func (c *NodeRegister) apply(tx *Txn) (any, error) {
	if d := tx.s.Denied(c.Node.ID); d != nil {
		return nil, api.Errorf(api.CodeNodeDenied, "node %s is denied: %s", c.Node.ID, d.Reason)
	}
	if g := tx.s.meta.Generation; c.MaxGeneration > g && c.MaxGeneration-g > maxJump {
		return nil, api.Errorf(api.CodeInvalid, "the node says that it has seen generation %d; this is generation %d", c.MaxGeneration, g)
	}
	n := c.Node
	old := tx.s.Node(n.ID)
	if err := c.identity(tx, old); err != nil {
		return nil, err
	}
	n.Status, n.StatusTime = api.NodeInit, tx.now
	n.Eligibility = api.Eligible
	n.CreateTime, n.CreateIndex, n.ModifyIndex = tx.now, tx.index, tx.index
	n.StatusNote, n.Unreachable, n.Drain, n.Lost = "", "", nil, nil
	n.CPURatioSet, n.MemoryRatioSet = 0, 0
	if old != nil {
		n.CreateTime, n.CreateIndex = old.CreateTime, old.CreateIndex
		n.Eligibility, n.Drain = old.Eligibility, old.Drain
		// An operator's word stands above the node's own configuration.
		override(&n, old.CPURatioSet, old.MemoryRatioSet)
		if old.Status == api.NodeReady && old.BootID == n.BootID {
			n.Status, n.StatusTime, n.Unreachable = old.Status, old.StatusTime, old.Unreachable
		}
	}
	n.Pools = tx.bringPools(n.Pools)
	keepModels(old, &n)
	nodeDef.put(tx, &n)
	sessionDef.put(tx, &SessionRecord{NodeID: n.ID, SessionID: c.SessionID, Index: tx.index})
	if c.MaxGeneration > tx.s.meta.Generation {
		tx.setMeta(func(m *MetaRecord) { m.Generation = c.MaxGeneration + 1 })
	}
	if old != nil {
		tx.unfence(n.ID, old.BootID != n.BootID)
	}
	c.found(tx, &n)
	return &api.NodeRegistered{WriteMeta: api.WriteMeta{Index: tx.index}, Generation: tx.s.meta.Generation}, nil
}

// identity refuses the same id from another machine, and a name that a living
// node has.
func (c *NodeRegister) identity(tx *Txn, old *api.Node) error {
	n := &c.Node
	if old != nil && !c.Force && (old.Status == api.NodeReady || old.Status == api.NodeSuspect) &&
		(old.MachineID != n.MachineID || old.ProductUUID != n.ProductUUID) {
		return api.Errorf(api.CodeNodeDuplicate, "node id %s is held by another machine", n.ID).
			WithHint("a copied data folder makes two machines one node: give one of them a fresh data folder").
			WithDetail("holder", "%s at %s, machine-id %s, product uuid %s", old.Name, old.Address, old.MachineID, old.ProductUUID).
			WithDetail("caller", "%s at %s, machine-id %s, product uuid %s", n.Name, n.Address, n.MachineID, n.ProductUUID)
	}
	if other := tx.s.NodeByName(n.Name); other != nil && other.ID != n.ID && !gone(other) {
		return api.Errorf(api.CodeExists, "the node name %q is taken by %s", n.Name, other.ID)
	}
	return nil
}

// bringPools records pools that the region does not know yet, and marks those
// that contradict what it knows.
func (tx *Txn) bringPools(in []api.NodePool) []api.NodePool {
	pools := slices.Clone(in)
	slices.SortFunc(pools, func(a, b api.NodePool) int { return strings.Compare(a.Name, b.Name) })
	for i := range pools {
		p := &pools[i]
		known := tx.s.Pool(p.Name)
		if known == nil {
			poolDef.put(tx, &api.Pool{Name: p.Name, Type: p.Type, Shared: p.Shared, CreateIndex: tx.index, ModifyIndex: tx.index})
		} else if known.Type != p.Type || known.Shared != p.Shared {
			p.Error = "the region knows this pool with another type"
		}
	}
	return pools
}

// found follows what the node holds: during recovery it decides who owns a VM,
// otherwise it is a report.
func (c *NodeRegister) found(tx *Txn, n *api.Node) {
	if tx.s.meta.Recovery != nil {
		for i := range c.Found {
			tx.adopt(n, &c.Found[i])
		}
		tx.setMeta(func(m *MetaRecord) {
			r := *m.Recovery
			r.Waiting = slices.DeleteFunc(slices.Clone(r.Waiting), func(id api.ID) bool { return id == n.ID })
			if len(r.Waiting) == 0 {
				r.Waiting = nil
			}
			m.Recovery = &r
		})
	}
	for i := range c.Found {
		tx.vmReport(n.ID, c.SessionID, &c.Found[i])
	}
}

// NodeStatus changes what the servers know of nodes; that one is lost is said by
// HostLost. Items of nodes that do not
// exist are passed over. It answers nothing.
type NodeStatus struct {
	Items []NodeStatusItem `msg:"items,omitempty"`
}

// NodeStatusItem is the status of one node.
type NodeStatusItem struct {
	NodeID api.ID         `msg:"node_id,omitempty"`
	Status api.NodeStatus `msg:"status,omitempty"` // empty keeps what is
	Note   string         `msg:"note,omitempty"`
	// Unreachable is why the servers cannot dial the node; nil keeps what is.
	Unreachable *string `msg:"unreachable,omitempty"`
	// SessionID, if not zero, must be the node's session: what is said of an
	// earlier one is passed over.
	SessionID api.ID `msg:"session_id,omitempty"`
}

// CommandID is 5.
func (c *NodeStatus) CommandID() uint16 { return cmdNodeStatus }

// Validate checks the statuses.
func (c *NodeStatus) Validate() error {
	var k checker
	for i := range c.Items {
		it := &c.Items[i]
		k.oneOf("status", string(it.Status), "", string(api.NodeInit), string(api.NodeReady), string(api.NodeSuspect), string(api.NodeLeft))
		k.line("note", it.Note)
		if it.Unreachable != nil {
			k.line("unreachable", *it.Unreachable)
		}
	}
	return k.done()
}

func (c *NodeStatus) apply(tx *Txn) (any, error) {
	for i := range c.Items {
		it := &c.Items[i]
		old := tx.s.Node(it.NodeID)
		if old == nil || !it.SessionID.IsZero() && tx.s.Session(it.NodeID) != it.SessionID {
			continue
		}
		n := *old
		if it.Status != "" && it.Status != n.Status {
			n.Status, n.StatusTime = it.Status, tx.now
		}
		if it.Status != "" {
			n.StatusNote = it.Note
		}
		if it.Unreachable != nil {
			n.Unreachable = *it.Unreachable
		}
		if n.Status == old.Status && n.StatusNote == old.StatusNote && n.Unreachable == old.Unreachable {
			continue
		}
		n.ModifyIndex = tx.index
		nodeDef.put(tx, &n)
	}
	return nil, nil
}

// NodeUpdate changes what an operator may change of a node. It answers
// *api.Node.
type NodeUpdate struct {
	ID          api.ID          `msg:"id,omitempty"`
	Eligibility api.Eligibility `msg:"eligibility,omitempty"`
	CPURatio    float64         `msg:"cpu_ratio,omitempty"`
	MemoryRatio float64         `msg:"memory_ratio,omitempty"`
	CheckIndex  *uint64         `msg:"check_index,omitempty"`
}

// CommandID is 6.
func (c *NodeUpdate) CommandID() uint16 { return cmdNodeUpdate }

// Validate checks the fields.
func (c *NodeUpdate) Validate() error {
	var k checker
	k.oneOf("eligibility", string(c.Eligibility), "", string(api.Eligible), string(api.Ineligible))
	k.ratio("cpu_ratio", c.CPURatio)
	k.ratio("memory_ratio", c.MemoryRatio)
	return k.done()
}

func (c *NodeUpdate) apply(tx *Txn) (any, error) {
	old := tx.s.Node(c.ID)
	if old == nil {
		return nil, api.Errorf(api.CodeNotFound, "node %s not found", c.ID)
	}
	if err := checkIndex(c.CheckIndex, old.ModifyIndex, "node "+old.Name); err != nil {
		return nil, err
	}
	n := *old
	if c.Eligibility != "" {
		n.Eligibility = c.Eligibility
	}
	if n.Eligibility == api.Eligible {
		n.Drain = nil
	}
	override(&n, c.CPURatio, c.MemoryRatio)
	n.ModifyIndex = tx.index
	nodeDef.put(tx, &n)
	tx.made(n.ID, "")
	return &n, nil
}

// override sets the ratios that an operator has chosen; zero leaves what is.
func override(n *api.Node, cpu, memory float64) {
	if cpu > 0 {
		n.CPURatio, n.CPURatioSet = cpu, cpu
	}
	if memory > 0 {
		n.MemoryRatio, n.MemoryRatioSet = memory, memory
	}
}

// NodeDelete purges a node that has left or is lost and holds nothing. With
// Force also what only that node could have confirmed is given up: tombstones,
// orphans and volumes that no VM uses. It answers nothing.
type NodeDelete struct {
	ID         api.ID `msg:"id,omitempty"`
	CheckIndex uint64 `msg:"check_index,omitempty"`
	Force      bool   `msg:"force,omitempty"`
}

// CommandID is 7.
func (c *NodeDelete) CommandID() uint16 { return cmdNodeDelete }

// Validate checks nothing: the node is looked up.
func (c *NodeDelete) Validate() error { return nil }

func (c *NodeDelete) apply(tx *Txn) (any, error) {
	if err := tx.settled(); err != nil {
		return nil, err
	}
	n := tx.s.Node(c.ID)
	if n == nil {
		return nil, api.Errorf(api.CodeNotFound, "node %s not found", c.ID)
	}
	if err := sameIndex(c.CheckIndex, n.ModifyIndex, "node "+n.Name); err != nil {
		return nil, err
	}
	if !gone(n) {
		return nil, api.Errorf(api.CodeState, "node %q is %s: only a node that has left or is lost can be deleted", n.Name, n.Status)
	}
	for p := range tx.s.PlacementsOn(n.ID) {
		return nil, inUse("node", n.Name, "VM "+p.Namespace+"/"+p.VMName)
	}
	var vols []*api.Volume
	for v := range tx.s.VolumesOn(n.ID) {
		vm := tx.s.VM(v.VMID)
		if vm != nil && !vm.Deleting {
			return nil, inUse("node", n.Name, "volume "+v.Namespace+"/"+v.Name)
		}
		vols = append(vols, v)
	}
	stones := slices.Collect(tx.s.TombstonesOn(n.ID))
	if !c.Force && (len(vols) > 0 || len(stones) > 0) {
		return nil, api.Errorf(api.CodeInUse, "node %q still has %d volumes and %d VMs to be stopped", n.Name, len(vols), len(stones)).
			WithHint("with --force they are given up: be sure that the machine never comes back")
	}
	for _, t := range stones {
		tombstoneDef.del(tx, pairKey{t.NodeID, t.VMID})
	}
	for _, v := range vols {
		volumeDef.del(tx, v.ID)
	}
	for _, t := range stones {
		tx.finishDelete(t.VMID)
	}
	for _, v := range vols {
		tx.finishDelete(v.VMID)
	}
	for _, o := range slices.Collect(tx.s.OrphansOn(n.ID)) {
		orphanDef.del(tx, pairKey{o.NodeID, o.VMID})
	}
	for _, im := range slices.Collect(tx.s.Images()) {
		if slices.Contains(im.Replicas, n.ID) {
			tx.replicas(im, nil, []api.ID{n.ID}, 0, 0)
		}
	}
	sessionDef.del(tx, n.ID)
	nodeDef.del(tx, n.ID)
	tx.nodeMoves(n.ID)
	return nil, nil
}

// NodeDeny forbids a node to connect, or allows it again. It answers nothing.
type NodeDeny struct {
	NodeID api.ID `msg:"node_id,omitempty"`
	Allow  bool   `msg:"allow,omitempty"`
	Reason string `msg:"reason,omitempty"`
}

// CommandID is 34.
func (c *NodeDeny) CommandID() uint16 { return cmdNodeDeny }

// Validate checks the fields.
func (c *NodeDeny) Validate() error {
	var k checker
	k.id("node_id", c.NodeID)
	k.line("reason", c.Reason)
	return k.done()
}

func (c *NodeDeny) apply(tx *Txn) (any, error) {
	if c.Allow {
		deniedDef.del(tx, c.NodeID)
		return nil, nil
	}
	deniedDef.put(tx, &DeniedRecord{NodeID: c.NodeID, Reason: c.Reason, Time: tx.now, Index: tx.index})
	return nil, nil
}
