package scheduler

import (
	"math"
	"slices"

	"github.com/novacron/novacron/api"
)

// no is the score of a node that does not fit.
var no = math.Inf(-1)

// blockBits: a class keeps the best node of each block of 64.
const blockBits = 6

// imageBonus is added to the score of a node that holds all images of a VM. It
// decides between nodes that are nearly alike, and never makes one impossible.
const imageBonus = 0.1

// diskNeed is what a request needs of one pool.
type diskNeed struct {
	pool string
	col  *diskColumn
	need int64
}

// imageNeed is an image that a node would have to fetch if it lacks it.
type imageNeed struct {
	id    api.ID
	size  int64
	holds bitset
}

// class is a kind of request: all VMs with equal needs share one. It keeps the
// score of each node and catches up with the nodes that changed since it was
// last asked, by its cursor in the log of the columns.
type class struct {
	key    string
	filter *filter
	need   Shape
	disks  []diskNeed
	images []imageNeed
	score  []float64
	best   []int32 // of each block, -1 when no node of it fits
	cursor int
	built  bool
	stay   bool // for VMs that start again where they are: cordoned nodes will do
	volume bool // a standalone volume: rated by its pool
	used   uint64
}

// rate returns the score of a node, or no.
func (c *class) rate(e *engine, i int32) float64 {
	if !c.open(&e.cols, i) || !c.filter.pass.has(i) || !c.fits(&e.cols, i) {
		return no
	}
	var s float64
	if c.volume {
		for _, d := range c.disks {
			s = part01(d.col.free[i]-d.need, d.col.total[i])
		}
	} else {
		s = e.score.Rate(e.cols.capacity(i), e.cols.free(i), c.need)
	}
	if len(c.images) > 0 {
		s += imageBonus * c.local(i)
	}
	return s
}

// open says whether the node takes VMs of the class at all.
func (c *class) open(cols *columns, i int32) bool {
	if c.stay {
		return cols.reach.has(i)
	}
	return cols.usable.has(i)
}

// fits is the comparison of the columns with the needs; fsm.Fits is the truth.
func (c *class) fits(cols *columns, i int32) bool {
	if cols.cpuFree[i] < c.need.CPU || cols.memFree[i] < c.need.Memory {
		return false
	}
	for k := range c.disks {
		if !c.disks[k].col.takes(i, c.disks[k].need) {
			return false
		}
	}
	return true
}

// local is the part of the images' bytes that the node holds, 0 to 1.
func (c *class) local(i int32) float64 {
	var have, all int64
	for k := range c.images {
		all += c.images[k].size
		if c.images[k].holds.has(i) {
			have += c.images[k].size
		}
	}
	return part01(have, all)
}

// catchUp makes the scores current.
func (c *class) catchUp(e *engine) {
	log := &e.cols.log
	n := len(e.cols.ids)
	behind := log.end() - c.cursor
	if !c.built || c.cursor < log.base || behind > n/2 || len(c.score) > n {
		c.rebuild(e)
	} else {
		for len(c.score) < n {
			c.append()
		}
		for _, i := range log.from(c.cursor) {
			c.update(e, i)
		}
	}
	c.cursor = log.end()
}

func (c *class) append() {
	if len(c.score)&(1<<blockBits-1) == 0 {
		c.best = append(c.best, -1)
	}
	c.score = append(c.score, no)
}

func (c *class) rebuild(e *engine) {
	c.score, c.best, c.built = c.score[:0], c.best[:0], true
	for range e.cols.ids {
		c.append()
	}
	for i := range c.score {
		c.score[i] = c.rate(e, int32(i))
	}
	for b := range c.best {
		c.rescan(b)
	}
}

func (c *class) update(e *engine, i int32) {
	s := c.rate(e, i)
	if s == c.score[i] {
		return
	}
	c.score[i] = s
	b := int(i >> blockBits)
	switch j := c.best[b]; {
	case j == i:
		c.rescan(b)
	case s == no:
	case j < 0 || s > c.score[j] || s == c.score[j] && i < j:
		c.best[b] = i
	}
}

func (c *class) rescan(b int) {
	best, top := int32(-1), no
	lo := b << blockBits
	for k, s := range c.score[lo:min(lo+1<<blockBits, len(c.score))] {
		if s > top {
			best, top = int32(lo+k), s
		}
	}
	c.best[b] = best
}

// top returns the best node of all, or -1. Equal scores: the lowest id.
func (c *class) top() int32 {
	best, top := int32(-1), no
	for _, i := range c.best {
		if i >= 0 && c.score[i] > top {
			best, top = i, c.score[i]
		}
	}
	return best
}

// blocked returns the dimensions that keep the class off the nodes that pass
// everything else, as a mask, for the waiting room.
func (c *class) blocked(e *engine) dims {
	var d dims
	for i := range e.cols.ids {
		d |= c.lacks(e, int32(i))
	}
	return d
}

// lacks is the mask of what one node lacks for the class.
func (c *class) lacks(e *engine, i int32) dims {
	switch {
	case e.cols.nodes[i] == nil:
		return 0
	case !c.filter.pass.has(i):
		return dimFilter
	case !c.open(&e.cols, i):
		return dimUsable
	}
	var d dims
	if e.cols.cpuFree[i] < c.need.CPU {
		d |= dimCPU
	}
	if e.cols.memFree[i] < c.need.Memory {
		d |= dimMemory
	}
	for k := range c.disks {
		if !c.disks[k].col.takes(i, c.disks[k].need) {
			d |= dimDisk
		}
	}
	return d
}

// changeLog lists the nodes whose columns changed, oldest first. Classes read it
// from their own cursors; a class that fell behind the base starts afresh.
type changeLog struct {
	base int
	ids  []int32
}

func (l *changeLog) end() int { return l.base + len(l.ids) }

func (l *changeLog) from(cursor int) []int32 { return l.ids[cursor-l.base:] }

// add records a change and keeps at most about 4 entries for each node.
func (l *changeLog) add(i int32, nodes int) {
	if limit := 4*nodes + 1024; len(l.ids) >= limit {
		cut := len(l.ids) / 2
		l.ids = slices.Delete(l.ids, 0, cut)
		l.base += cut
	}
	l.ids = append(l.ids, i)
}

// restart makes every class start afresh.
func (l *changeLog) restart() {
	l.base += len(l.ids) + 1
	l.ids = l.ids[:0]
}
