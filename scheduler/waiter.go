package scheduler

import "github.com/novacron/novacron/api"

// dims is a set of reasons why nodes were passed over.
type dims uint16

const (
	dimSpec dims = 1 << iota
	dimVolume
	dimFilter
	dimUsable
	dimPeers
	dimDisk
	dimMemory
	dimCPU
)

var dimNames = [...]string{
	FailSpec, FailVolume, FailConstraint, FailEligibility, FailAffinity, FailDisk, FailMemory, FailCPU,
}

// Waiter says what a VM that fits nowhere waits for. VMs with equal waiters
// wait in one room of the queue.
type Waiter struct {
	key   string
	class *class
	pin   int32  // the only node that will do, or -1
	ns    string // set when a rule between VMs was in the way
	dims  dims
}

// Failed returns the scarcest dimension: the last check that still removed a
// node. "cpu" means that some node passed all else. "none" means no nodes.
func (w *Waiter) Failed() string {
	for i := len(dimNames) - 1; i >= 0; i-- {
		if w.dims&(1<<i) != 0 {
			return dimNames[i]
		}
	}
	return "none"
}

// Helps reports whether what changed since the last Rest can help a VM that
// waits: a node came, became usable, got new facts or has more free, and would
// now take it; or a rule between VMs was in the way and VMs of its namespace
// moved; or the networks, pools or the configuration changed.
func (e *engine) Helps(w *Waiter) bool {
	e.flush()
	if e.anew {
		return true
	}
	if w.ns != "" && (e.shifted || e.moved[w.ns]) {
		return true
	}
	if w.class == nil {
		return false
	}
	for _, i := range e.freed {
		if w.pin >= 0 && w.pin != i {
			continue
		}
		n := e.cols.nodes[i]
		if n == nil || !w.class.open(&e.cols, i) || !w.class.fits(&e.cols, i) {
			continue
		}
		if f := w.class.filter; f.live && f.pass.has(i) || !f.live && passes(f, n) {
			return true
		}
	}
	return false
}

func passes(f *filter, n *api.Node) bool {
	failed, _ := f.check(n)
	return failed == ""
}

// Rest forgets what changed; it follows Queue.Wake.
func (e *engine) Rest() {
	for _, i := range e.freed {
		e.isFreed.put(i, false)
	}
	e.freed, e.anew, e.shifted = e.freed[:0], false, false
	clear(e.moved)
}
