package libvirt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// watched is a socket that tells when it is no longer usable.
type watched struct {
	net.Conn
	once sync.Once
	dead chan struct{}
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil {
		w.gone()
	}
	return n, err
}

func (w *watched) Close() error {
	w.gone()
	return w.Conn.Close()
}

func (w *watched) gone() { w.once.Do(func() { close(w.dead) }) }

// conn is one connection to libvirtd. go-libvirt's calls know no context, so
// each runs in a goroutine of its own; one that is given up on ends when the
// connection is closed.
type conn struct {
	rpc  *golibvirt.Libvirt
	sock *watched
	wg   *sync.WaitGroup // the driver's

	mu      sync.Mutex
	calls   int  // under way, with somebody waiting
	retired bool // takes no more calls; closed when the last one has ended
	closed  bool
}

// dialer gives go-libvirt a socket that is connected already.
type dialer struct{ c net.Conn }

func (d dialer) Dial() (net.Conn, error) { return d.c, nil }

// connect opens a connection, or gives up when the context ends.
func connect(ctx context.Context, wg *sync.WaitGroup, socket, uri string) (*conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", hypervisor.ErrUnknown, err)
	}
	c := &conn{sock: &watched{Conn: nc, dead: make(chan struct{})}, wg: wg}
	c.rpc = golibvirt.NewWithDialer(dialer{c.sock})
	done := make(chan error, 1)
	c.spawn(func() { done <- c.rpc.ConnectToURI(golibvirt.ConnectURI(uri)) })
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		c.close()
		return nil, fmt.Errorf("%w: connecting to libvirt: %w", hypervisor.ErrUnknown, err)
	}
	return c, nil
}

// close cuts the socket; calls under way end with an error.
func (c *conn) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	_ = c.sock.Close()
}

// bye takes leave of libvirtd, so that it does not log a broken connection, and
// closes.
func (c *conn) bye() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if c.alive() {
		_, _ = on(ctx, c, void((*golibvirt.Libvirt).ConnectClose))
	}
	c.close()
}

// spawn runs f in a goroutine that the driver waits for, unless the connection
// is closed, so that none begins after the driver has waited.
func (c *conn) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Go(f)
	return true
}

func (c *conn) alive() bool {
	select {
	case <-c.sock.dead:
		return false
	default:
		c.mu.Lock()
		defer c.mu.Unlock()
		return !c.retired
	}
}

// retire takes the connection out of use and closes it once nobody waits for
// an answer on it.
func (c *conn) retire() {
	c.mu.Lock()
	c.retired = true
	last := c.calls == 0
	c.mu.Unlock()
	if last {
		c.close()
	}
}

func (c *conn) enter() {
	c.mu.Lock()
	c.calls++
	c.mu.Unlock()
}

func (c *conn) leave() {
	c.mu.Lock()
	c.calls--
	last := c.retired && c.calls == 0
	c.mu.Unlock()
	if last {
		c.close()
	}
}

// on runs one call on a connection.
func on[T any](ctx context.Context, c *conn, f func(*golibvirt.Libvirt) (T, error)) (T, error) {
	c.enter()
	defer c.leave()
	return wait(ctx, c, func() {}, f)
}

// onKept is on for a call that matters also when it was given up on: the
// connection stays until the answer is there. over is called then, or when the
// connection is gone, and before onKept returns what was answered.
func onKept[T any](ctx context.Context, c *conn, over func(), f func(*golibvirt.Libvirt) (T, error)) (T, error) {
	c.enter()
	ended := sync.OnceFunc(func() { over(); c.leave() })
	stop := make(chan struct{})
	c.spawn(func() { // go-libvirt may miss the end of the connection
		select {
		case <-stop:
		case <-c.sock.dead:
			ended()
		}
	})
	return wait(ctx, c, func() { ended(); close(stop) }, f)
}

// wait runs one call and waits for it; over is called when it has returned, or
// was not begun.
func wait[T any](ctx context.Context, c *conn, over func(), f func(*golibvirt.Libvirt) (T, error)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	done := make(chan answer, 1)
	if !c.spawn(func() {
		v, err := f(c.rpc)
		over()
		done <- answer{v, err}
	}) {
		over()
		var none T
		return none, fmt.Errorf("%w: the connection is closed", hypervisor.ErrUnknown)
	}
	select {
	case a := <-done:
		return a.v, classify(a.err)
	case <-ctx.Done():
		c.retire()
		var none T
		return none, fmt.Errorf("%w: libvirt did not answer: %w", hypervisor.ErrUnknown, ctx.Err())
	}
}

// classify turns go-libvirt's errors into what callers tell apart: an answer of
// libvirt is ErrNotFound or has a code; anything else leaves the state unknown.
func classify(err error) error {
	if err == nil {
		return nil
	}
	var e golibvirt.Error
	switch {
	case errors.Is(err, golibvirt.ErrUnsupported):
		return api.Errorf(api.CodeUnsupported, "this libvirt cannot do that")
	case !errors.As(err, &e):
		return fmt.Errorf("%w: %w", hypervisor.ErrUnknown, err)
	}
	switch golibvirt.ErrorNumber(e.Code) {
	case golibvirt.ErrNoDomain:
		return hypervisor.ErrNotFound
	case golibvirt.ErrDomExist:
		return hypervisor.ErrExists
	case golibvirt.ErrOperationTimeout, golibvirt.ErrNoConnect, golibvirt.ErrInvalidConn, golibvirt.ErrRPC:
		return fmt.Errorf("%w: %w", hypervisor.ErrUnknown, err)
	case golibvirt.ErrOperationInvalid:
		return api.Errorf(api.CodeState, "libvirt: %s", e.Message)
	case golibvirt.ErrConfigUnsupported, golibvirt.ErrNoSupport, golibvirt.ErrOperationUnsupported:
		return api.Errorf(api.CodeUnsupported, "libvirt: %s", e.Message)
	}
	return api.Errorf(api.CodeHypervisor, "libvirt: %s", e.Message)
}

// link is a set of connections for one purpose, made when they are needed and
// used in turn.
type link struct {
	open  func(context.Context) (*conn, error)
	slots []slot
	next  atomic.Uint32
	ctx   context.Context // ends with shut
	end   context.CancelFunc
}

// slot is one connection. Who has put a token into busy may change it, so that
// many callers at once do not make a connection each.
type slot struct {
	busy chan struct{}
	conn *conn
}

func newLink(size int, open func(context.Context) (*conn, error)) *link {
	l := &link{open: open, slots: make([]slot, size)}
	l.ctx, l.end = context.WithCancel(context.Background())
	for i := range l.slots {
		l.slots[i].busy = make(chan struct{}, 1)
	}
	return l
}

// get returns a live connection. Nobody waits longer than their context, also
// when another one connects.
func (l *link) get(ctx context.Context) (*conn, error) {
	s := &l.slots[l.next.Add(1)%uint32(len(l.slots))]
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	case <-l.ctx.Done():
	case <-ctx.Done():
	}
	if l.ctx.Err() != nil {
		return nil, errClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", hypervisor.ErrUnknown, err)
	}
	if s.conn != nil && s.conn.alive() {
		return s.conn, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(l.ctx, cancel)
	defer stop()
	c, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	s.conn = c
	return c, nil
}

// shut closes all connections for good; attempts to make one end.
func (l *link) shut() {
	l.end()
	var wg sync.WaitGroup
	for i := range l.slots {
		wg.Go(func() {
			s := &l.slots[i]
			s.busy <- struct{}{}
			defer func() { <-s.busy }()
			if s.conn != nil {
				s.conn.bye()
				s.conn = nil
			}
		})
	}
	wg.Wait()
}

// call runs one call on some connection of a link, within the context's deadline
// or, if it has none, within limit.
func call[T any](ctx context.Context, l *link, limit time.Duration, f func(*golibvirt.Libvirt) (T, error)) (T, error) {
	ctx, cancel := within(ctx, limit)
	defer cancel()
	c, err := l.get(ctx)
	if err != nil {
		var none T
		return none, err
	}
	return on(ctx, c, f)
}

// void wraps a call without a result.
func void(f func(*golibvirt.Libvirt) error) func(*golibvirt.Libvirt) (struct{}, error) {
	return func(l *golibvirt.Libvirt) (struct{}, error) { return struct{}{}, f(l) }
}

// within gives a context without a deadline one.
func within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, limit)
}
