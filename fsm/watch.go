package fsm

import (
	"sync"
	"sync/atomic"

	"github.com/novacron/novacron/api"
)

// watchKey is what can be watched: a table, or a prefix of one of its indexes
// that ends at the boundary of a component.
type watchKey struct{ table, index, prefix string }

// hub tells those who watch that something has changed. It costs one atomic
// load for each change while nobody watches.
type hub struct {
	n  atomic.Int64 // registrations
	mu sync.Mutex
	m  map[watchKey]map[*WatchSet]struct{}
}

func newHub() *hub { return &hub{m: map[watchKey]map[*WatchSet]struct{}{}} }

func (h *hub) add(w *WatchSet, k watchKey) {
	h.mu.Lock()
	defer h.mu.Unlock()
	set := h.m[k]
	if set == nil {
		set = map[*WatchSet]struct{}{}
		h.m[k] = set
	}
	set[w] = struct{}{}
	h.n.Add(1)
}

func (h *hub) drop(w *WatchSet) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range w.keys {
		delete(h.m[k], w)
		if len(h.m[k]) == 0 {
			delete(h.m, k)
		}
		h.n.Add(-1)
	}
	w.keys = nil
}

// fire wakes those who watch a key; the hub is locked.
func (h *hub) fire(table, index, prefix string) {
	for w := range h.m[watchKey{table, index, prefix}] { // any order: waking is idempotent
		w.wake()
	}
}

// commit wakes those who watch what a command changed.
func (h *hub) commit(log []undo) {
	if h.n.Load() == 0 || len(log) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, u := range log {
		if !u.quiet {
			u.def.notify(h, u.old, u.new)
		}
	}
}

// wakeAll wakes everybody: after a restore nothing is as it was.
func (h *hub) wakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, set := range h.m { // any order: waking is idempotent
		for w := range set {
			w.wake()
		}
	}
}

// WatchSet collects what a blocking query depends on. Register before reading;
// Query takes care of changes in between. The methods do nothing when the query
// does not block.
type WatchSet struct {
	hub   *hub
	ch    chan struct{}
	keys  []watchKey
	seen  map[watchKey]struct{}
	on    bool
	added bool
}

func (w *WatchSet) wake() {
	select {
	case w.ch <- struct{}{}:
	default:
	}
}

func (w *WatchSet) add(k watchKey) {
	if w == nil || !w.on {
		return
	}
	if _, ok := w.seen[k]; ok {
		return
	}
	if w.seen == nil {
		w.seen = map[watchKey]struct{}{}
	}
	w.seen[k] = struct{}{}
	w.keys = append(w.keys, k)
	w.hub.add(w, k)
	w.added = true
}

// Table watches whole tables.
func (w *WatchSet) Table(tables ...string) {
	for _, t := range tables {
		w.add(watchKey{table: t})
	}
}

// ID watches one record by its id.
func (w *WatchSet) ID(table string, id api.ID) { w.add(watchKey{table, primary, bytesOf(id)}) }

// Key watches one record of a table whose key is a name: a pool, a network, a
// namespace, a key.
func (w *WatchSet) Key(table, name string) { w.add(watchKey{table, primary, name}) }

// Name watches a noun by namespace and name, whether it exists or not.
func (w *WatchSet) Name(table, ns, n string) { w.add(watchKey{table, byName, name(ns, n)}) }

// NodeName watches a node by name, whether it exists or not.
func (w *WatchSet) NodeName(n string) { w.add(watchKey{TableNode, byName, n}) }

// In watches the records of a namespace.
func (w *WatchSet) In(table, ns string) { w.add(watchKey{table, byName, ns}) }

// On watches the records of a node: placements, tombstones, orphans, volumes.
func (w *WatchSet) On(table string, node api.ID) { w.add(watchKey{table, byNode, bytesOf(node)}) }

// Of watches the records of a VM: volumes, versions, tombstones.
func (w *WatchSet) Of(table string, vm api.ID) { w.add(watchKey{table, byVM, bytesOf(vm)}) }
