package rpc

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/novacron/novacron/api"
)

// target is an address and who must answer there.
type target struct {
	addr   string
	region string // empty: the own region
	role   string // empty: any
	id     api.ID // zero: any
}

// conn is a connection to a target. It connects when it is first used and again
// when it was lost.
type conn interface {
	call(ctx context.Context, method string, h *header, req, resp api.Message) error
	open(ctx context.Context, method string, h *header, req api.Message) (api.Stream, error)
	close()
}

// Transport makes connections: NewTransport over TLS, Memory.Transport without
// a network.
type Transport interface {
	dial(t target) conn
}

// Pool keeps one connection for each address.
type Pool struct {
	t      Transport
	mu     sync.Mutex
	conns  map[target]conn
	closed bool
}

// NewPool makes a pool over a transport.
func NewPool(t Transport) *Pool { return &Pool{t: t, conns: map[target]conn{}} }

func (p *Pool) get(t target) conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return closedConn{t.addr}
	}
	c := p.conns[t]
	if c == nil {
		c = p.t.dial(t)
		p.conns[t] = c
	}
	return c
}

// Get returns a Caller for a server of the own region.
func (p *Pool) Get(addr string) Caller {
	return &remote{p: p, t: target{addr: addr, role: api.RoleServer}}
}

// Region returns a Caller for a server of another region.
func (p *Pool) Region(region, addr string) Caller {
	return &remote{p: p, t: target{addr: addr, role: api.RoleServer, region: region}}
}

// Node returns a Caller for the agent of one node, whatever its role. Tokens are
// not sent there.
func (p *Pool) Node(id api.ID, addr string) Caller {
	return &remote{p: p, t: target{addr: addr, id: id}, bare: true}
}

// Member returns a Caller for any machine of the own region, whatever its role:
// one that holds an image, for example. Tokens are not sent there.
func (p *Pool) Member(addr string) Caller {
	return &remote{p: p, t: target{addr: addr}, bare: true}
}

// Failover returns a Caller for whichever of the servers answers. It stays with
// the one that answered last, and goes on to the next when one cannot be
// reached or knows no leader. A call that may have been begun is not repeated,
// but the next one goes elsewhere: so calls need deadlines of their own.
func (p *Pool) Failover(servers func() []string) Caller {
	return &failover{p: p, servers: servers}
}

// Forget closes the connections to an address that is no longer used.
func (p *Pool) Forget(addr string) {
	p.mu.Lock()
	var gone []conn
	for t, c := range p.conns {
		if t.addr == addr {
			gone = append(gone, c)
			delete(p.conns, t)
		}
	}
	p.mu.Unlock()
	for _, c := range gone {
		c.close()
	}
}

// Len is how many connections are kept.
func (p *Pool) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Close closes all connections; calls under way fail.
func (p *Pool) Close() {
	p.mu.Lock()
	conns := p.conns
	p.conns, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range conns {
		c.close()
	}
}

type closedConn struct{ addr string }

func (c closedConn) err() error {
	return &lost{addr: c.addr, cause: errors.New("the connection pool is closed")}
}
func (c closedConn) call(context.Context, string, *header, api.Message, api.Message) error {
	return c.err()
}
func (c closedConn) open(context.Context, string, *header, api.Message) (api.Stream, error) {
	return nil, c.err()
}
func (c closedConn) close() {}

// remote is a target of a pool as a Caller.
type remote struct {
	p    *Pool
	t    target
	bare bool // send nothing of the user
}

var _ Caller = (*remote)(nil)

func (r *remote) header(ctx context.Context) (*header, error) {
	h := &header{Call: api.CallFrom(ctx)}
	if r.bare {
		h.Token, h.IdempotencyKey, h.Region = "", "", ""
	}
	return h, h.clean()
}

func (r *remote) Call(ctx context.Context, method string, req, resp api.Message) error {
	return seen(r.call(ctx, method, req, resp))
}

func (r *remote) call(ctx context.Context, method string, req, resp api.Message) error {
	h, err := r.header(ctx)
	if err != nil {
		return err
	}
	return r.p.get(r.t).call(ctx, method, h, req, resp)
}

func (r *remote) Open(ctx context.Context, method string, req api.Message) (api.Stream, error) {
	s, err := r.open(ctx, method, req)
	return s, seen(err)
}

func (r *remote) open(ctx context.Context, method string, req api.Message) (api.Stream, error) {
	h, err := r.header(ctx)
	if err != nil {
		return nil, err
	}
	s, err := r.p.get(r.t).open(ctx, method, h, req)
	if err != nil {
		return nil, err
	}
	return seenStream{s}, nil
}

// seen makes a caller's error of a lost call. The caller does not know the kind
// of the endpoint, so a call that was sent is of unknown outcome.
func seen(err error) error {
	var l *lost
	if errors.As(err, &l) {
		return l.public(KindWrite)
	}
	return err
}

type seenStream struct{ api.Stream }

func (s seenStream) Send(m api.Message) error { return seen(s.Stream.Send(m)) }
func (s seenStream) Recv(m api.Message) error {
	err := s.Stream.Recv(m)
	if err == io.EOF {
		return err
	}
	return seen(err)
}

// failover is a list of servers as one Caller.
type failover struct {
	p       *Pool
	servers func() []string
	last    atomic.Pointer[string] // answered last
	shun    atomic.Pointer[string] // failed last
}

var _ Caller = (*failover)(nil)

func (f *failover) Call(ctx context.Context, method string, req, resp api.Message) error {
	return f.try(ctx, func(r *remote) error { return r.call(ctx, method, req, resp) })
}

func (f *failover) Open(ctx context.Context, method string, req api.Message) (s api.Stream, err error) {
	err = f.try(ctx, func(r *remote) (err error) {
		s, err = r.open(ctx, method, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (f *failover) try(ctx context.Context, do func(*remote) error) error {
	var err error = api.Errorf(api.CodeUnreachable, "no server is known")
	for _, addr := range f.order() {
		err = do(&remote{p: f.p, t: target{addr: addr, role: api.RoleServer}})
		var l *lost
		gone := errors.As(err, &l)
		if !gone && api.CodeOf(err) != api.CodeDeadline && api.CodeOf(err) != api.CodeNoLeader {
			f.last.Store(&addr)
			if shun := f.shun.Load(); shun != nil && *shun == addr {
				f.shun.Store(nil)
			}
			return err
		}
		f.shun.Store(&addr)
		next := gone && !l.sent || api.CodeOf(err) == api.CodeNoLeader
		if err = seen(err); !next || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// order returns the servers, the one that answered last first, the one that
// failed last at the end.
func (f *failover) order() []string {
	list := slices.Clone(f.servers())
	if last := f.last.Load(); last != nil {
		if i := slices.Index(list, *last); i > 0 {
			list[0], list[i] = list[i], list[0]
		}
	}
	if shun := f.shun.Load(); shun != nil {
		if i := slices.Index(list, *shun); i >= 0 {
			list = append(slices.Delete(list, i, i+1), *shun)
		}
	}
	return list
}
