package fsm

import (
	"slices"

	"github.com/novacron/novacron/api"
	"github.com/tidwall/btree"
)

// usage is what is counted from other tables, kept incrementally and rebuilt
// from them on a restore: it is in no snapshot and in no hash.
type usage struct {
	nodes   *btree.BTreeG[nodeUse] // by node
	disks   *btree.BTreeG[diskUse] // by node and pool; node zero for volumes on none
	callers *btree.BTreeG[callerUse]
}

type nodeUse struct {
	node api.ID
	res  api.Resources
	vms  int
}

type diskUse struct {
	node    api.ID
	pool    string
	bytes   api.Bytes
	volumes int
}

type callerUse struct {
	accessor api.ID
	records  int
}

func newUsage() *usage {
	return &usage{
		nodes: newTree(func(a, b nodeUse) bool { return cmpID(a.node, b.node) < 0 }),
		disks: newTree(func(a, b diskUse) bool {
			if c := cmpID(a.node, b.node); c != 0 {
				return c < 0
			}
			return a.pool < b.pool
		}),
		callers: newTree(func(a, b callerUse) bool { return cmpID(a.accessor, b.accessor) < 0 }),
	}
}

func (u *usage) clone() *usage {
	return &usage{nodes: u.nodes.Copy(), disks: u.disks.Copy(), callers: u.callers.Copy()}
}

func (u *usage) node(id api.ID, res api.Resources, vms int) {
	n, _ := u.nodes.Get(nodeUse{node: id})
	n.node = id
	n.res.CPU += res.CPU
	n.res.Memory += res.Memory
	n.vms += vms
	if n == (nodeUse{node: id}) {
		u.nodes.Delete(n)
		return
	}
	u.nodes.Set(n)
}

func (u *usage) disk(id api.ID, pool string, size api.Bytes, volumes int) {
	d, _ := u.disks.Get(diskUse{node: id, pool: pool})
	d.node, d.pool = id, pool
	d.bytes += size
	d.volumes += volumes
	if d.volumes == 0 {
		u.disks.Delete(d)
		return
	}
	u.disks.Set(d)
}

func countPlacement(use func() *usage, old, new *api.Placement) {
	if old != nil && new != nil && old.NodeID == new.NodeID && old.Reserved == new.Reserved {
		return
	}
	u := use()
	if old != nil {
		u.node(old.NodeID, api.Resources{CPU: -old.Reserved.CPU, Memory: -old.Reserved.Memory}, -1)
	}
	if new != nil {
		u.node(new.NodeID, new.Reserved, 1)
	}
}

func countVolume(use func() *usage, old, new *api.Volume) {
	if old != nil && new != nil && old.NodeID == new.NodeID && old.Pool == new.Pool && old.Size == new.Size {
		return
	}
	u := use()
	if old != nil {
		u.disk(old.NodeID, old.Pool, -old.Size, -1)
	}
	if new != nil {
		u.disk(new.NodeID, new.Pool, new.Size, 1)
	}
}

// countMigration counts what a move has reserved at its destination.
func countMigration(use func() *usage, old, new *api.Migration) {
	if old != nil && new != nil && old.To == new.To && old.Reserved == new.Reserved && slices.Equal(old.Disk, new.Disk) {
		return
	}
	u := use()
	if old != nil && !old.To.IsZero() {
		u.node(old.To, api.Resources{CPU: -old.Reserved.CPU, Memory: -old.Reserved.Memory}, 0)
		for _, d := range old.Disk {
			u.disk(old.To, d.Pool, -d.Bytes, -1)
		}
	}
	if new != nil && !new.To.IsZero() {
		u.node(new.To, new.Reserved, 0)
		for _, d := range new.Disk {
			u.disk(new.To, d.Pool, d.Bytes, 1)
		}
	}
}

func countIdem(use func() *usage, old, new *IdemRecord) {
	u := use()
	if old != nil {
		u.caller(old.Accessor, -1)
	}
	if new != nil {
		u.caller(new.Accessor, 1)
	}
}

func (u *usage) caller(accessor api.ID, n int) {
	c, _ := u.callers.Get(callerUse{accessor: accessor})
	c.accessor = accessor
	c.records += n
	if c.records == 0 {
		u.callers.Delete(c)
		return
	}
	u.callers.Set(c)
}

// Used returns the CPU and memory that the placements on a node reserve.
func (s *State) Used(node api.ID) api.Resources {
	n, _ := s.use.nodes.Get(nodeUse{node: node})
	return n.res
}

// VMsOn counts the placements on a node.
func (s *State) VMsOn(node api.ID) int {
	n, _ := s.use.nodes.Get(nodeUse{node: node})
	return n.vms
}

// Promised returns the bytes promised to the volumes of a pool on a node; for a
// shared pool the node is the zero id.
func (s *State) Promised(node api.ID, pool string) api.Bytes {
	d, _ := s.use.disks.Get(diskUse{node: node, pool: pool})
	return d.bytes
}

// VolumeCount counts the volumes of a pool on a node, as Promised does.
func (s *State) VolumeCount(node api.ID, pool string) int {
	d, _ := s.use.disks.Get(diskUse{node: node, pool: pool})
	return d.volumes
}
