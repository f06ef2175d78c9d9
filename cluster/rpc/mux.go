package rpc

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
)

// Caller calls endpoints, wherever they are. What accompanies the request
// (token, region, idempotency key) is the api.Call in the context.
type Caller interface {
	// Call fills resp. Its errors are *api.Error.
	Call(ctx context.Context, method string, req, resp api.Message) error
	// Open begins a stream. It returns when the other side has admitted the
	// call or refused it. Whoever does not read a stream to its end must cancel
	// ctx. When Send returns io.EOF the other side has ended the stream, and
	// Recv says why.
	Open(ctx context.Context, method string, req api.Message) (api.Stream, error)
}

// Router knows the region's leader and the way to other regions.
type Router interface {
	// Region is the own region.
	Region() string
	// IsLeader reports whether this server leads and has applied everything
	// that was committed before it did.
	IsLeader() bool
	// Leader returns the address of the leader, if one is known.
	Leader() (addr string, ok bool)
	// LeaderChanged returns a channel that is closed at the next change of
	// what IsLeader or Leader answer.
	LeaderChanged() <-chan struct{}
	// ServerIn picks a server of another region.
	ServerIn(region string) (addr string, ok bool)
	// ReadIndex returns when this server has proved that it still leads and has
	// applied all that was committed when it was called. An error with
	// CodeNoLeader means that it does not.
	ReadIndex(ctx context.Context) error
}

// Authenticator turns a token into an identity. Its errors are *api.Error; an
// empty token never reaches it.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (*acl.Identity, error)
}

// AuthFunc is an Authenticator made of a function.
type AuthFunc func(ctx context.Context, token string) (*acl.Identity, error)

// Authenticate calls f.
func (f AuthFunc) Authenticate(ctx context.Context, token string) (*acl.Identity, error) {
	return f(ctx, token)
}

// Alone is the Router of a process that serves only its own endpoints, such as
// an agent in client mode: it forwards nothing.
func Alone(region string) Router { return alone(region) }

type alone string

var _ Router = alone("")

func (a alone) Region() string                  { return string(a) }
func (a alone) IsLeader() bool                  { return true }
func (a alone) Leader() (string, bool)          { return "", false }
func (a alone) LeaderChanged() <-chan struct{}  { return nil }
func (a alone) ServerIn(string) (string, bool)  { return "", false }
func (a alone) ReadIndex(context.Context) error { return nil }

// Options are those of a Mux. Router is needed; without Auth every token is
// refused; without Pool nothing is forwarded.
type Options struct {
	Router Router
	Auth   Authenticator
	Pool   *Pool
	Limit  Limit
	// Hold is how long a call waits for a leader; 0 means DefaultHold.
	Hold   time.Duration
	Logger *slog.Logger
}

// DefaultHold is how long a call waits for a leader.
const DefaultHold = 5 * time.Second

// Mux holds the endpoints of a process and runs every call to them.
type Mux struct {
	o      Options
	log    *slog.Logger
	limits *limiter
	hold   atomic.Int64 // Options.Hold, or what SetHold said later

	mu      sync.RWMutex
	methods map[string]*method

	// stop ends streams; wg counts what a Close waits for.
	stop context.Context
	end  context.CancelFunc
	wg   tracker
}

var _ Caller = (*Mux)(nil)

// NewMux makes a Mux without endpoints.
func NewMux(o Options) *Mux {
	if o.Hold == 0 {
		o.Hold = DefaultHold
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Mux{o: o, log: o.Logger, limits: newLimiter(o.Limit), methods: map[string]*method{}}
	m.stop, m.end = context.WithCancel(context.Background())
	m.SetHold(o.Hold)
	return m
}

// SetHold changes how long later calls wait for a leader.
func (m *Mux) SetHold(d time.Duration) { m.hold.Store(int64(d)) }

// Call runs an endpoint in this process, through the same pipeline as a call
// from outside, as a user with the token in ctx. Requests and answers are not
// copied: a handler must not change the one, the caller not the other.
func (m *Mux) Call(ctx context.Context, method string, req, resp api.Message) error {
	return m.callAs(ctx, Peer{}, method, req, resp)
}

// Open opens a stream to an endpoint in this process.
func (m *Mux) Open(ctx context.Context, method string, req api.Message) (api.Stream, error) {
	return m.openAs(ctx, Peer{}, method, req)
}

// As returns a Caller that runs endpoints in this process with the identity of
// a machine: how the client half of an agent in both modes calls the server
// half. Users' identities come from tokens only, and are refused here.
func (m *Mux) As(id *acl.Identity) Caller {
	p := Peer{CertName: api.CertName{Region: id.Region, NodeID: id.NodeID}}
	switch id.Role {
	case acl.RoleNode:
		p.Role = api.RoleClient
	case acl.RoleServer:
		p.Role = api.RoleServer
	default:
		panic("rpc: As needs the identity of a node or a server")
	}
	return &local{m: m, peer: p}
}

// local is a Mux called as a machine.
type local struct {
	m    *Mux
	peer Peer
}

var _ Caller = (*local)(nil)

func (l *local) Call(ctx context.Context, method string, req, resp api.Message) error {
	return l.m.callAs(ctx, l.peer, method, req, resp)
}

func (l *local) Open(ctx context.Context, method string, req api.Message) (api.Stream, error) {
	return l.m.openAs(ctx, l.peer, method, req)
}

func (m *Mux) callAs(ctx context.Context, p Peer, name string, req, resp api.Message) error {
	md, err := m.lookup(name)
	if err != nil {
		return err
	}
	if md.Stream {
		return api.Errorf(api.CodeInvalid, "%s is a stream", name)
	}
	if req, err = md.adapt(req); err != nil {
		return err
	}
	c := &call{md: md, peer: p, hdr: header{Call: api.CallFrom(ctx)}, req: req, wire: req}
	got, err := m.unary(ctx, c, func() api.Message { return resp })
	if err != nil {
		return err
	}
	if got == resp || md.assign(resp, got) {
		return nil
	}
	b, err := encode(got)
	if err == nil {
		err = decode(b, resp)
	}
	if err != nil {
		return api.Errorf(api.CodeInternal, "%s does not answer with a %T", name, resp)
	}
	return nil
}

func (m *Mux) openAs(ctx context.Context, p Peer, name string, req api.Message) (api.Stream, error) {
	md, err := m.lookup(name)
	if err != nil {
		return nil, err
	}
	if !md.Stream {
		return nil, api.Errorf(api.CodeInvalid, "%s is not a stream", name)
	}
	if req, err = md.adapt(req); err != nil {
		return nil, err
	}
	c := &call{md: md, peer: p, hdr: header{Call: api.CallFrom(ctx)}, req: req, wire: req}
	near, far := pipe(ctx)
	if !m.wg.add() {
		far.finish(errClosing())
		return nil, errClosing()
	}
	go func() {
		defer m.wg.done()
		far.finish(m.serveStream(far.ctx, c, far))
	}()
	return near.admitted()
}

// adapt returns the request in the endpoint's own type.
func (md *method) adapt(req api.Message) (api.Message, error) {
	if md.isReq(req) {
		return req, nil
	}
	b, err := encode(req)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "the request does not encode")
	}
	q := md.newReq()
	if err := decode(b, q); err != nil {
		return nil, api.Errorf(api.CodeInvalid, "%s does not take a %T", md.Name, req)
	}
	return q, nil
}

// Drain ends the streams and refuses new ones. Other calls still run.
func (m *Mux) Drain() { m.end() }

// Close ends the streams and waits for them.
func (m *Mux) Close() {
	m.end()
	m.wg.wait()
}

func errClosing() *api.Error {
	return api.Errorf(api.CodeUnreachable, "the server is shutting down").WithHint("ask another server")
}

// tracker is a WaitGroup that can be closed against late comers.
type tracker struct {
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

func (t *tracker) add() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Add(1)
	return true
}

func (t *tracker) done() { t.wg.Done() }

func (t *tracker) wait() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.wg.Wait()
}
