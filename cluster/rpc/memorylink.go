package rpc

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Block holds back what goes from one address to another, and nothing of what
// comes the other way: it stays under way until Unblock, as with a network that
// loses packets which are then sent again. Whoever waits for an answer waits.
func (n *Memory) Block(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.blocked[[2]string{from, to}] == nil {
		n.blocked[[2]string{from, to}] = make(chan struct{})
	}
}

// Unblock undoes Block; what was held back arrives, late.
func (n *Memory) Unblock(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.blocked[[2]string{from, to}]; c != nil {
		close(c)
		delete(n.blocked, [2]string{from, to})
	}
}

// gate is closed when the way opens; nil when it is open.
func (n *Memory) gate(from, to string) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.blocked[[2]string{from, to}]
}

// Down takes an address off the network, as the loss of its power would: calls
// and connections from and to it are lost, and there are no new ones until Up.
func (n *Memory) Down(addr string) {
	n.mu.Lock()
	n.down[addr] = true
	n.mu.Unlock()
	n.drop(func(c *memoryCall) bool { return c.from == addr || c.to == addr })
}

// Up undoes Down.
func (n *Memory) Up(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.down, addr)
}

// Break loses the calls and connections between two addresses; new ones are
// made at once.
func (n *Memory) Break(a, b string) {
	n.drop(func(c *memoryCall) bool { return pair(c.from, c.to) == pair(a, b) })
}

// delay is how long a message takes that is sent now.
func (n *Memory) delay(from, to string) time.Duration {
	n.mu.Lock()
	f := n.latency
	n.mu.Unlock()
	if f == nil {
		return 0
	}
	return f(from, to)
}

// wait lets the time of one message pass, and what blocks its way.
func (n *Memory) wait(ctx context.Context, from, to string) error {
	if d := n.delay(from, to); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ended(ctx)
		}
	}
	for g := n.gate(from, to); g != nil; g = n.gate(from, to) {
		select {
		case <-g:
		case <-ctx.Done():
			return ended(ctx)
		}
	}
	return nil
}

// lane is one direction of a connection. It holds any number of bytes, and each
// arrives after the network's latency.
type lane struct {
	net      *Memory
	from, to string

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at each change
	queue    []segment
	ended    bool // no more is written
	lost     bool // nothing more is read
	deadline time.Time
}

type segment struct {
	at  time.Time
	b   []byte
	end bool
}

func newLane(n *Memory, from, to string) *lane {
	return &lane{net: n, from: from, to: to, changed: make(chan struct{})}
}

// change runs f and wakes the reader.
func (l *lane) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.changed)
	l.changed = make(chan struct{})
}

// send puts a segment on its way behind those before it.
func (l *lane) send(s segment) (err error) {
	s.at = time.Now().Add(l.net.delay(l.from, l.to))
	l.change(func() {
		if l.ended || l.lost {
			err = io.ErrClosedPipe
			return
		}
		if n := len(l.queue); n > 0 && l.queue[n-1].at.After(s.at) {
			s.at = l.queue[n-1].at
		}
		l.queue, l.ended = append(l.queue, s), s.end
	})
	return err
}

func (l *lane) lose() { l.change(func() { l.lost, l.queue = true, nil }) }

func (l *lane) read(p []byte) (int, error) {
	for {
		n, err, changed, open, until := l.take(p)
		if n > 0 || err != nil {
			return n, err
		}
		var alarm <-chan time.Time
		if !until.IsZero() {
			t := time.NewTimer(time.Until(until))
			defer t.Stop()
			alarm = t.C
		}
		select {
		case <-changed:
		case <-open:
		case <-alarm:
		}
	}
}

// take reads what has arrived, or says what to wait for.
func (l *lane) take(p []byte) (n int, err error, changed, open <-chan struct{}, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	switch {
	case l.lost:
		return 0, net.ErrClosed, nil, nil, until
	case !l.deadline.IsZero() && !now.Before(l.deadline):
		return 0, os.ErrDeadlineExceeded, nil, nil, until
	}
	until = l.deadline
	if len(l.queue) == 0 {
		return 0, nil, l.changed, nil, until
	}
	head := &l.queue[0]
	if open = l.net.gate(l.from, l.to); open != nil {
		return 0, nil, l.changed, open, until
	}
	if head.at.After(now) {
		if until.IsZero() || head.at.Before(until) {
			until = head.at
		}
		return 0, nil, l.changed, nil, until
	}
	if head.end {
		return 0, io.EOF, nil, nil, until
	}
	n = copy(p, head.b)
	if head.b = head.b[n:]; len(head.b) == 0 {
		l.queue = l.queue[1:]
	}
	return n, nil, nil, nil, until
}

// link is one end of a connection within this process.
type link struct {
	in, out *lane
	closed  func()
	once    sync.Once
}

var _ net.Conn = (*link)(nil)

// newLink connects two addresses. closed is called when both ends are.
func newLink(n *Memory, from, to string, closed func()) (near, far *link) {
	there, back := newLane(n, from, to), newLane(n, to, from)
	var mu sync.Mutex
	open := 2
	end := func() {
		mu.Lock()
		defer mu.Unlock()
		if open--; open == 0 {
			closed()
		}
	}
	return &link{in: back, out: there, closed: end}, &link{in: there, out: back, closed: end}
}

func (c *link) Read(p []byte) (int, error) { return c.in.read(p) }

func (c *link) Write(p []byte) (int, error) {
	if err := c.out.send(segment{b: append([]byte(nil), p...)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close ends both directions; what was written still arrives.
func (c *link) Close() error {
	c.once.Do(func() {
		_ = c.out.send(segment{end: true}) // the other side may have closed before
		c.in.lose()
		c.closed()
	})
	return nil
}

// lose ends both directions and what is under way in them.
func (c *link) lose() {
	c.out.lose()
	c.in.lose()
}

func (c *link) LocalAddr() net.Addr  { return memoryAddr(c.out.from) }
func (c *link) RemoteAddr() net.Addr { return memoryAddr(c.out.to) }

func (c *link) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *link) SetReadDeadline(t time.Time) error {
	c.in.change(func() { c.in.deadline = t })
	return nil
}

// SetWriteDeadline does nothing: writing does not wait.
func (c *link) SetWriteDeadline(time.Time) error { return nil }
