package migrate

import (
	"context"
	"sync"
)

// An end of a stream grants the other a window: how much may be on its way or
// waiting for a slow hypervisor. So each end can always read, what stands in
// front of a hypervisor never holds up a keepalive, and memory is bounded.
const (
	minWindow = 256 << 10
	maxWindow = 8 << 20
	// controlWindow is that of control streams, which carry little.
	controlWindow = 1 << 20
	// sessionWindows bounds the windows of all streams of a session, but for
	// minWindow each.
	sessionWindows = 64 << 20
)

// credit is what this end may still send of the window that was granted to it.
// One goroutine takes.
type credit struct {
	wake chan struct{}

	mu      sync.Mutex
	window  int
	avail   int
	backlog int // what waited at the other end when it last said so
}

func newCredit(window int) *credit {
	return &credit{wake: make(chan struct{}, 1), window: window, avail: window}
}

// take waits until n may be sent. It says whether it had to wait for the link:
// what is out was on its way rather than waiting for the other hypervisor.
func (c *credit) take(ctx context.Context, n int) (link bool, err error) {
	for {
		c.mu.Lock()
		if c.avail >= n {
			c.avail -= n
			c.mu.Unlock()
			return link, nil
		}
		link = c.backlog < c.window/4
		c.mu.Unlock()
		select {
		case <-c.wake:
		case <-ctx.Done():
			return link, context.Cause(ctx)
		}
	}
}

// give adds what the other end has done with.
func (c *credit) give(n, backlog int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > c.window-c.avail {
		return protocolError("more credit than was used")
	}
	c.avail += n
	c.backlog = backlog
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return nil
}

// queue holds what came in until the hypervisor takes it. One goroutine pushes,
// one pops.
type queue struct {
	window int
	wake   chan struct{}

	mu     sync.Mutex
	frames []frame
	bytes  int // credit that the sender has used
	freed  int // of it, what is not yet given back
}

func newQueue(window int) *queue {
	return &queue{window: window, wake: make(chan struct{}, 1)}
}

// push adds a frame, which is then the queue's; a sender that uses more credit
// than it has breaks the protocol.
func (q *queue) push(f frame) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	cost := costOf(len(f.bytes()))
	if q.bytes+cost > q.window && f.t != frameClose {
		return protocolError("more than the window was sent")
	}
	if f.t != frameClose {
		q.bytes += cost
	}
	q.frames = append(q.frames, f)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return nil
}

// pop waits for a frame.
func (q *queue) pop(ctx context.Context) (frame, error) {
	for {
		q.mu.Lock()
		if len(q.frames) > 0 {
			f := q.frames[0]
			q.frames[0] = frame{}
			if q.frames = q.frames[1:]; len(q.frames) == 0 {
				q.frames = nil
			}
			q.mu.Unlock()
			return f, nil
		}
		q.mu.Unlock()
		select {
		case <-q.wake:
		case <-ctx.Done():
			return frame{}, context.Cause(ctx)
		}
	}
}

// done notes that a frame of that cost was delivered. When enough has come
// together it returns what to give back, and what still waits.
func (q *queue) done(cost int) (back, backlog int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.freed += cost; q.freed < q.window/4 {
		return 0, 0
	}
	back, q.freed = q.freed, 0
	q.bytes -= back
	return back, q.bytes
}

// drop releases what nobody will take; nothing is pushed any more.
func (q *queue) drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, f := range q.frames {
		f.release()
	}
	q.frames = nil
}
