package scheduler

import (
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func item(id byte, priority int32, since uint64) Item {
	return Item{ID: api.ID{id}, Priority: priority, Since: since}
}

func popAll(q *Queue) (out []byte) {
	for {
		it, ok := q.Pop()
		if !ok {
			return out
		}
		out = append(out, it.ID[0])
		q.Done(it.ID)
	}
}

func TestQueueIsOrderedByPriorityThenAge(t *testing.T) {
	q := NewQueue()
	q.Push(item(1, 50, 9))
	q.Push(item(2, 50, 3))
	q.Push(item(3, 90, 8))
	q.Push(item(4, 50, 3))
	q.Push(item(1, 50, 1)) // a second push changes the place, not the number
	must.EqOp(t, 4, q.Ready())
	must.Eq(t, []byte{3, 1, 2, 4}, popAll(q))
	must.MapEmpty(t, q.byID)
}

// wait puts VMs into the room of a key.
func wait(q *Queue, key string, items ...Item) {
	for _, it := range items {
		q.Push(it)
	}
	for range items {
		it, _ := q.Pop()
		q.Wait(it, &Waiter{key: key, dims: dimCPU})
	}
}

func TestWaitingRoomTriesOneAtATime(t *testing.T) {
	q := NewQueue()
	wait(q, "big", item(1, 50, 1), item(2, 50, 2), item(3, 90, 3))
	wait(q, "small", item(9, 1, 1))
	vms, rooms := q.Waiting()
	must.Eq(t, []int{4, 2}, []int{vms, rooms})
	must.MapEq(t, map[string]int{FailCPU: 4}, q.Why())
	must.Zero(t, q.Ready())

	must.EqOp(t, 1, q.Wake(func(w *Waiter) bool { return w.key == "big" }))
	must.Zero(t, q.Wake(func(w *Waiter) bool { return w.key == "big" }), must.Sprint("its probe is out"))
	it, ok := q.Pop()
	must.True(t, ok)
	must.EqOp(t, 3, it.ID[0])
	q.Done(it.ID) // it was placed: the next one tries
	it, _ = q.Pop()
	must.EqOp(t, 1, it.ID[0])
	q.Wait(it, &Waiter{key: "big", dims: dimCPU}) // it was not: nobody else tries
	must.Zero(t, q.Ready())
	vms, _ = q.Waiting()
	must.EqOp(t, 3, vms)

	// A VM that changes leaves its room and frees it for the next.
	q.Wake(func(w *Waiter) bool { return w.key == "big" })
	q.Done(api.ID{1})
	must.Eq(t, []byte{2}, popAll(q))
	q.Push(item(9, 1, 1))
	must.Eq(t, []byte{9}, popAll(q))
	must.MapEmpty(t, q.rooms)
	must.MapEmpty(t, q.byID)
}

func TestProbeMayMoveToAnotherRoom(t *testing.T) {
	q := NewQueue()
	wait(q, "a", item(1, 50, 1), item(2, 50, 2))
	q.Wake(func(*Waiter) bool { return true })
	it, _ := q.Pop()
	q.Wait(it, &Waiter{key: "b"})
	must.EqOp(t, 1, q.Ready(), must.Sprint("the next of room a tries"))
	must.Eq(t, []byte{2}, popAll(q))
	vms, rooms := q.Waiting()
	must.Eq(t, []int{1, 1}, []int{vms, rooms})
}

// However calls come, no VM is lost and no room is left with nobody to wake it.
func TestQueueLosesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := NewQueue()
		live := map[api.ID]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			id := byte(rapid.IntRange(1, 8).Draw(t, "id"))
			switch rapid.IntRange(0, 4).Draw(t, "op") {
			case 0, 1:
				q.Push(item(id, int32(id%3), uint64(id)))
				live[api.ID{id}] = true
			case 2:
				if it, ok := q.Pop(); ok {
					if rapid.Bool().Draw(t, "fits") {
						q.Done(it.ID)
						delete(live, it.ID)
					} else {
						q.Wait(it, &Waiter{key: string('a' + rune(rapid.IntRange(0, 2).Draw(t, "room")))})
					}
				}
			case 3:
				q.Wake(func(*Waiter) bool { return rapid.Bool().Draw(t, "helps") })
			case 4:
				q.Done(api.ID{id})
				delete(live, api.ID{id})
			}
			vms, _ := q.Waiting()
			must.EqOp(t, len(live), vms+q.Ready())
			must.EqOp(t, len(live), len(q.byID))
		}
		for range 100 { // everything can be drained by waking
			q.Wake(func(*Waiter) bool { return true })
			for _, id := range popAll(q) {
				delete(live, api.ID{id})
			}
		}
		must.MapEmpty(t, live)
	})
}
