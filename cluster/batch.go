package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/novacron/novacron/api"
)

// batcher collects requests for a short time and answers them together: beats
// behind one quorum check, reports in one Raft entry.
type batcher[Q, R any] struct {
	window time.Duration
	limit  int // most requests in one batch
	// flush answers a batch; it returns one result for each request, or an error for all.
	flush func(context.Context, []Q) ([]R, error)

	mu   sync.Mutex
	open bool
	todo []*waiting[Q, R]
	wake chan struct{} // buffered by one
	now  chan struct{} // buffered by one: the batch is not to wait for more
}

type waiting[Q, R any] struct {
	req  Q
	resp R
	err  error
	done chan struct{}
}

func newBatcher[Q, R any](window time.Duration, limit int, flush func(context.Context, []Q) ([]R, error)) *batcher[Q, R] {
	return &batcher[Q, R]{window: window, limit: limit, flush: flush, wake: make(chan struct{}, 1), now: make(chan struct{}, 1)}
}

// errNotLeading is what the leader's own machinery answers when it does not run.
func errNotLeading() error { return api.Errorf(api.CodeNoLeader, "this server is not the leader") }

// run serves requests until ctx ends; it is one of the leader's duties. Those
// that still wait then are told that this server does not lead.
func (b *batcher[Q, R]) run(ctx context.Context) error {
	b.mu.Lock()
	b.open = true
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.open = false
		left := b.todo
		b.todo = nil
		b.mu.Unlock()
		for _, w := range left {
			w.err = errNotLeading()
			close(w.done)
		}
	}()
	timer := time.NewTimer(b.window)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.wake:
		}
		timer.Reset(b.window)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-b.now:
			timer.Stop()
		}
		b.once(ctx)
	}
}

func (b *batcher[Q, R]) once(ctx context.Context) {
	b.mu.Lock()
	batch := b.todo
	if len(batch) > b.limit {
		batch = batch[:b.limit:b.limit]
		b.signal()
	}
	b.todo = b.todo[len(batch):]
	b.mu.Unlock()
	if len(batch) == 0 {
		return
	}
	reqs := make([]Q, len(batch))
	for i, w := range batch {
		reqs[i] = w.req
	}
	resps, err := b.flush(ctx, reqs)
	for i, w := range batch {
		if w.err = err; err == nil {
			w.resp = resps[i]
		}
		close(w.done)
	}
}

func (b *batcher[Q, R]) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// do adds a request to the next batch and waits for its answer. With now the
// batch does not wait for more.
func (b *batcher[Q, R]) do(ctx context.Context, req Q, now bool) (R, error) {
	w := &waiting[Q, R]{req: req, done: make(chan struct{})}
	b.mu.Lock()
	if !b.open {
		b.mu.Unlock()
		return w.resp, errNotLeading()
	}
	b.todo = append(b.todo, w)
	b.signal()
	if now {
		select {
		case b.now <- struct{}{}:
		default:
		}
	}
	b.mu.Unlock()
	select {
	case <-w.done:
		return w.resp, w.err
	case <-ctx.Done():
		var zero R
		return zero, context.Cause(ctx)
	}
}
