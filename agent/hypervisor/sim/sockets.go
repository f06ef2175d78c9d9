package sim

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
)

// Sockets are the UNIX sockets of one simulated machine, in memory: an Options'
// Dial and Listen without a file system, for tests under testing/synctest. The
// zero value is ready.
type Sockets struct {
	mu    sync.Mutex
	paths map[string]*listener
}

// Dial connects to whoever listens at the path.
func (s *Sockets) Dial(ctx context.Context, path string) (net.Conn, error) {
	s.mu.Lock()
	l := s.paths[path]
	s.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("dial %s: %w", path, syscall.ECONNREFUSED)
	}
	near, far := net.Pipe()
	select {
	case l.incoming <- far:
		return near, nil
	case <-l.closed:
		return nil, fmt.Errorf("dial %s: %w", path, syscall.ECONNREFUSED)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Listen listens at a path that nobody else listens at.
func (s *Sockets) Listen(path string) (net.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paths[path] != nil {
		return nil, fmt.Errorf("listen %s: %w", path, syscall.EADDRINUSE)
	}
	l := &listener{of: s, path: path, incoming: make(chan net.Conn), closed: make(chan struct{})}
	if s.paths == nil {
		s.paths = map[string]*listener{}
	}
	s.paths[path] = l
	return l, nil
}

type listener struct {
	of       *Sockets
	path     string
	incoming chan net.Conn
	once     sync.Once
	closed   chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.incoming:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.of.mu.Lock()
		delete(l.of.paths, l.path)
		l.of.mu.Unlock()
		close(l.closed)
	})
	return nil
}

// Addr is the path.
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// dialUNIX and listenUNIX are the real ones.
func dialUNIX(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

func listenUNIX(path string) (net.Listener, error) { return net.Listen("unix", path) }
