package scheduler

import (
	"container/heap"

	"github.com/novacron/novacron/api"
)

// Item is a VM that has to be looked at.
type Item struct {
	ID       api.ID
	Priority int32     // higher first
	Since    api.Index // then older first
}

// before is the order of the work.
func (a *Item) before(b *Item) bool {
	if a.Priority != b.Priority {
		return a.Priority > b.Priority
	}
	if a.Since != b.Since {
		return a.Since < b.Since
	}
	return string(a.ID[:]) < string(b.ID[:])
}

// entry is an Item with its place in a heap.
type entry struct {
	Item
	at   int      // position in its heap
	room *room    // the class it waits in or is the probe of; nil when plainly ready
	in   *entries // the heap that holds it; nil when popped
}

// entries is a heap of entries.
type entries []*entry

var _ heap.Interface = (*entries)(nil)

// Len is part of heap.Interface.
func (h entries) Len() int { return len(h) }

// Less is part of heap.Interface.
func (h entries) Less(i, j int) bool { return h[i].before(&h[j].Item) }

// Swap is part of heap.Interface.
func (h entries) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

// Push is part of heap.Interface.
func (h *entries) Push(x any) {
	e := x.(*entry)
	e.at = len(*h)
	*h = append(*h, e)
}

// Pop is part of heap.Interface.
func (h *entries) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}

// room holds the VMs that wait for the same thing.
type room struct {
	key   string
	wait  *Waiter
	items entries
	probe *entry // the first of the room, out to be decided again
}

// Queue holds the VMs that have to be looked at, in order of priority and then
// age, and the VMs that fit nowhere, in one room for each kind of request. When
// a change can help a room, only its first VM is decided again; the next
// follows when that one found a place. So a thousand VMs that wait cost one
// failed decision for each change, not a thousand.
type Queue struct {
	ready entries
	rooms map[string]*room
	byID  map[api.ID]*entry
}

// NewQueue returns an empty queue.
func NewQueue() *Queue {
	return &Queue{rooms: map[string]*room{}, byID: map[api.ID]*entry{}}
}

// Push makes a VM ready to be looked at, wherever it was.
func (q *Queue) Push(it Item) {
	e := q.byID[it.ID]
	if e == nil {
		e = &entry{}
		q.byID[it.ID] = e
	}
	if e.in == &q.ready {
		e.Item = it
		heap.Fix(&q.ready, e.at)
		return
	}
	if e.in != nil {
		heap.Remove(e.in, e.at)
	}
	q.next(e)
	e.Item = it
	q.enter(e)
}

func (q *Queue) enter(e *entry) {
	e.in = &q.ready
	heap.Push(&q.ready, e)
}

// leave takes an entry out of its room; the room goes when it is empty.
func (q *Queue) leave(e *entry) {
	r := e.room
	if r == nil {
		return
	}
	e.room = nil
	if r.probe == e {
		r.probe = nil
	}
	if len(r.items) == 0 && r.probe == nil {
		delete(q.rooms, r.key)
	}
}

// Pop takes out the first VM. It must be followed by Wait or Done for that VM.
func (q *Queue) Pop() (Item, bool) {
	if len(q.ready) == 0 {
		return Item{}, false
	}
	e := heap.Pop(&q.ready).(*entry)
	e.in = nil
	return e.Item, true
}

// Wait puts a VM that fits nowhere to those that wait for the same.
func (q *Queue) Wait(it Item, w *Waiter) {
	e := q.byID[it.ID]
	if e == nil {
		e = &entry{}
		q.byID[it.ID] = e
	}
	if e.in != nil {
		heap.Remove(e.in, e.at)
		e.in = nil
	}
	r := q.rooms[w.key]
	if r == nil {
		r = &room{key: w.key}
		q.rooms[w.key] = r
	}
	if e.room != r {
		q.next(e)
	}
	e.Item, e.room, r.wait = it, r, w
	if r.probe == e {
		r.probe = nil
	}
	e.in = &r.items
	heap.Push(&r.items, e)
}

// Done says that a VM needs no more decision now. When it was the probe of a
// room, the next of that room becomes ready.
func (q *Queue) Done(id api.ID) {
	e := q.byID[id]
	if e == nil {
		return
	}
	if e.in != nil {
		heap.Remove(e.in, e.at)
		e.in = nil
	}
	q.next(e)
	delete(q.byID, id)
}

// next lets an entry leave its room, and the next one try when it was the probe.
func (q *Queue) next(e *entry) {
	r := e.room
	if r == nil {
		return
	}
	was := r.probe == e
	q.leave(e)
	if was && len(r.items) > 0 {
		q.try(r)
	}
}

// try makes the first of a room ready.
func (q *Queue) try(r *room) {
	e := heap.Pop(&r.items).(*entry)
	r.probe = e
	q.enter(e)
}

// Wake makes the first VM ready of each room that helps approves; rooms whose
// first VM is out already are not asked. It returns how many were woken.
func (q *Queue) Wake(helps func(*Waiter) bool) int {
	var woken []*room
	for _, r := range q.rooms {
		if r.probe == nil && len(r.items) > 0 && helps(r.wait) {
			woken = append(woken, r)
		}
	}
	for _, r := range woken { // the heap brings them in order
		q.try(r)
	}
	return len(woken)
}

// Ready is how many VMs are to be looked at.
func (q *Queue) Ready() int { return len(q.ready) }

// Waiting is how many VMs fit nowhere, in how many rooms.
func (q *Queue) Waiting() (vms, rooms int) {
	for _, r := range q.rooms {
		vms += len(r.items)
		if r.probe != nil && r.probe.in == nil {
			vms++
		}
	}
	return vms, len(q.rooms)
}

// Why counts the VMs that wait by the dimension that failed first.
func (q *Queue) Why() map[string]int {
	m := map[string]int{}
	for _, r := range q.rooms {
		m[r.wait.Failed()] += len(r.items)
	}
	return m
}
