package scheduler

import (
	"math"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// diskColumn is what is free of one pool on each node.
type diskColumn struct {
	total  []int64
	free   []int64
	over   []int64 // promised by the overlay
	shared bitset  // nodes on which the pool is shared
}

// lacking is the free space of a pool that a node does not have.
const lacking = math.MinInt64

func (d *diskColumn) at(i int32) int64 {
	if int(i) < len(d.free) {
		return d.free[i]
	}
	return lacking
}

// takes reports whether new volumes fit. Those of a shared pool are counted
// since they were made, so that they take nothing more.
func (d *diskColumn) takes(i int32, need int64) bool {
	if d.shared.has(i) {
		need = 0
	}
	return d.at(i) >= need
}

func (d *diskColumn) grow(n int) {
	for len(d.free) < n {
		d.total, d.free, d.over = append(d.total, 0), append(d.free, lacking), append(d.over, 0)
	}
	d.shared = d.shared.grow(n)
}

// columns is the capacity of all nodes by dense node id. What is free is what
// the state says less what the overlay has promised.
type columns struct {
	ids     []api.ID
	nodes   []*api.Node // nil: the id is free to be used again
	index   map[api.ID]int32
	vacant  []int32
	cpuCap  []int64
	memCap  []int64
	cpuFree []int64
	memFree []int64
	cpuOver []int64
	memOver []int64
	disks   map[string]*diskColumn
	pledges []int32 // of the overlay
	usable  bitset  // for new VMs
	reach   bitset  // for VMs that are there
	log     changeLog
}

func newColumns() columns {
	return columns{index: map[api.ID]int32{}, disks: map[string]*diskColumn{}}
}

func (c *columns) capacity(i int32) Shape { return Shape{c.cpuCap[i], c.memCap[i]} }
func (c *columns) free(i int32) Shape     { return Shape{c.cpuFree[i], c.memFree[i]} }

// dense returns the dense id of a node, giving it one when it has none.
func (c *columns) dense(id api.ID) int32 {
	if i, ok := c.index[id]; ok {
		return i
	}
	var i int32
	if n := len(c.vacant); n > 0 {
		i = c.vacant[n-1]
		c.vacant = c.vacant[:n-1]
		c.ids[i] = id
	} else {
		i = int32(len(c.ids))
		c.ids = append(c.ids, id)
		c.nodes = append(c.nodes, nil)
		for _, col := range []*[]int64{&c.cpuCap, &c.memCap, &c.cpuFree, &c.memFree, &c.cpuOver, &c.memOver} {
			*col = append(*col, 0)
		}
		c.pledges = append(c.pledges, 0)
		c.usable, c.reach = c.usable.grow(len(c.ids)), c.reach.grow(len(c.ids))
	}
	c.index[id] = i
	return i
}

// drop empties the row of a node that is gone. Its dense id is used again only
// when nothing of the overlay is on it.
func (c *columns) drop(i int32) {
	delete(c.index, c.ids[i])
	c.nodes[i], c.ids[i] = nil, api.ID{}
	c.cpuCap[i], c.memCap[i], c.cpuFree[i], c.memFree[i] = 0, 0, 0, 0
	for _, d := range c.disks {
		if int(i) < len(d.free) {
			d.total[i], d.free[i] = 0, lacking
		}
	}
	c.usable.put(i, false)
	c.reach.put(i, false)
	if c.pledges[i] == 0 {
		c.vacant = append(c.vacant, i)
	}
}

// local returns the needs that a node is charged for.
func (c *columns) local(i int32, disks []diskNeed) []diskNeed {
	var out []diskNeed
	for _, d := range disks {
		if d.need > 0 && !d.col.shared.has(i) {
			out = append(out, d)
		}
	}
	return out
}

// pledge takes what is needed out of the columns, or with sign -1 gives it back
// to the next refresh.
func (c *columns) pledge(i int32, need Shape, disks []diskNeed, sign int64) {
	c.cpuOver[i] += sign * need.CPU
	c.memOver[i] += sign * need.Memory
	c.pledges[i] += int32(sign)
	for k := range disks {
		if d := disks[k].col; int(i) < len(d.over) {
			d.over[i] += sign * disks[k].need
			if sign > 0 {
				d.free[i] -= disks[k].need
			}
		}
	}
	if sign > 0 {
		c.cpuFree[i] -= need.CPU
		c.memFree[i] -= need.Memory
		c.log.add(i, len(c.ids))
	} else if c.nodes[i] == nil && c.pledges[i] == 0 && c.ids[i].IsZero() {
		c.vacant = append(c.vacant, i)
	}
}

// disk returns the column of a pool.
func (c *columns) disk(pool string) *diskColumn {
	d := c.disks[pool]
	if d == nil {
		d = &diskColumn{}
		c.disks[pool] = d
	}
	return d
}

// refresh reads one node from the state. It reports whether anything changed
// and whether the node can take more than before in any dimension.
func (c *columns) refresh(s *fsm.State, i int32, n *api.Node) (changed, more bool) {
	set := func(col []int64, v int64) {
		if old := col[i]; old != v {
			col[i] = v
			changed, more = true, more || v > old
		}
	}
	limit, used := fsm.Limits(s, n), s.Used(n.ID)
	if limit.CPU != api.MilliCPU(c.cpuCap[i]) || limit.Memory != api.Bytes(c.memCap[i]) {
		c.cpuCap[i], c.memCap[i], changed = int64(limit.CPU), int64(limit.Memory), true
	}
	set(c.cpuFree, int64(limit.CPU-used.CPU)-c.cpuOver[i])
	set(c.memFree, int64(limit.Memory-used.Memory)-c.memOver[i])
	for name, d := range c.disks {
		if np := fsm.NodePoolOf(n, name); (np == nil || np.Error != "") && int(i) < len(d.free) {
			set(d.free, lacking)
		}
	}
	for k := range n.Pools {
		np := &n.Pools[k]
		if np.Error != "" {
			continue
		}
		d := c.disk(np.Name)
		d.grow(len(c.ids))
		if np.Shared != d.shared.has(i) {
			d.shared.put(i, np.Shared)
			changed = true
		}
		holder := n.ID
		if np.Shared {
			holder = api.ID{}
		}
		total := fsm.PoolLimit(s, np)
		d.total[i] = int64(total)
		set(d.free, int64(total-s.Promised(holder, np.Name))-d.over[i])
	}
	c.nodes[i] = n
	flag := func(b bitset, on bool) {
		if on != b.has(i) {
			b.put(i, on)
			changed, more = true, more || on
		}
	}
	flag(c.usable, usable(n) == "")
	flag(c.reach, inReach(n) == "")
	return changed, more
}
