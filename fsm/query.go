package fsm

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/novacron/novacron/api"
)

// The time that a blocking query waits.
const (
	DefaultWait = 5 * time.Minute
	MaxWait     = 10 * time.Minute
)

// Query answers a read, blocking if q.MinIndex asks for it: fn is run on the
// newest state until it answers an index above q.MinIndex, the time to wait is
// over, or ctx ends. What fn registers at w decides when it is run again. The
// index that fn returned goes to meta, at least 1.
func (f *FSM) Query(ctx context.Context, q *api.QueryOptions, meta *api.QueryMeta, fn func(s *State, w *WatchSet) (api.Index, error)) error {
	w := &WatchSet{hub: f.hub, on: q != nil && q.MinIndex > 0}
	if !w.on {
		index, err := fn(f.State(), w)
		setIndex(meta, index)
		return err
	}
	w.ch = make(chan struct{}, 1)
	defer f.hub.drop(w)
	wait := q.Wait.D()
	if wait <= 0 {
		wait = DefaultWait
	}
	timer := time.NewTimer(min(wait, MaxWait))
	defer timer.Stop()
	restores := f.restores.Load()
	for {
		w.added = false
		s := f.State()
		index, err := fn(s, w)
		setIndex(meta, index)
		if err != nil || index > q.MinIndex || f.restores.Load() != restores {
			return err
		}
		if w.added && f.State() != s {
			continue // something was committed between the read and the registration
		}
		select {
		case <-w.ch:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func setIndex(meta *api.QueryMeta, index api.Index) {
	if meta != nil {
		meta.Index = max(index, 1)
	}
}

// waiters are those who wait for an index.
type waiters struct {
	n    atomic.Int64
	mu   sync.Mutex
	list map[*waiter]struct{}
}

type waiter struct {
	index api.Index
	ch    chan struct{}
}

func (w *waiters) wake(index api.Index) {
	if w.n.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for x := range w.list { // any order: waking is idempotent
		if x.index <= index {
			close(x.ch)
			delete(w.list, x)
			w.n.Add(-1)
		}
	}
}

// WaitIndex returns a state that holds the command at index, waiting for it if
// need be. An index at which there is no command (a barrier) is reached with
// the next command only.
func (f *FSM) WaitIndex(ctx context.Context, index api.Index) (*State, error) {
	for {
		if s := f.State(); s.index >= index {
			return s, nil
		}
		x := &waiter{index, make(chan struct{})}
		f.waiters.mu.Lock()
		f.waiters.list[x] = struct{}{}
		f.waiters.n.Add(1)
		f.waiters.mu.Unlock()
		if f.State().index >= index {
			f.waiters.drop(x)
			continue
		}
		select {
		case <-x.ch:
		case <-ctx.Done():
			f.waiters.drop(x)
			return nil, context.Cause(ctx)
		}
	}
}

func (w *waiters) drop(x *waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.list[x]; ok {
		delete(w.list, x)
		w.n.Add(-1)
	}
}
