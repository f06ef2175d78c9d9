package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/novacron/novacron/api"
)

// Memory is a network within this process: it connects Muxes by address and
// makes messages, sizes, deadlines, admission and the loss of calls as the port
// does, without sockets and certificates. It works inside testing/synctest.
type Memory struct {
	mu      sync.Mutex
	hosts   map[string]*MemoryPort
	cut     map[[2]string]bool
	blocked map[[2]string]chan struct{} // by direction
	down    map[string]bool
	live    map[*memoryCall]struct{}
	latency func(from, to string) time.Duration
}

// NewMemory makes a network without hosts.
func NewMemory() *Memory {
	return &Memory{hosts: map[string]*MemoryPort{}, cut: map[[2]string]bool{}, blocked: map[[2]string]chan struct{}{}, down: map[string]bool{}, live: map[*memoryCall]struct{}{}}
}

// SetLatency sets how long a message takes from one address to another; nil
// means no time.
func (n *Memory) SetLatency(f func(from, to string) time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.latency = f
}

// Cut severs two addresses: calls and connections between them are lost, new
// ones fail, until Heal.
func (n *Memory) Cut(a, b string) {
	n.mu.Lock()
	n.cut[pair(a, b)] = true
	n.mu.Unlock()
	n.drop(func(c *memoryCall) bool { return pair(c.from, c.to) == pair(a, b) })
}

// Heal undoes Cut.
func (n *Memory) Heal(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cut, pair(a, b))
}

// Isolate cuts an address off from all that listen now.
func (n *Memory) Isolate(addr string) {
	for _, other := range n.others(addr) {
		n.Cut(addr, other)
	}
}

// Rejoin undoes Isolate.
func (n *Memory) Rejoin(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for p := range n.cut {
		if p[0] == addr || p[1] == addr {
			delete(n.cut, p)
		}
	}
}

func (n *Memory) others(addr string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []string
	for a := range n.hosts {
		if a != addr {
			list = append(list, a)
		}
	}
	return list
}

func pair(a, b string) [2]string {
	if a > b {
		a, b = b, a
	}
	return [2]string{a, b}
}

// drop loses the calls that match.
func (n *Memory) drop(match func(*memoryCall) bool) {
	n.mu.Lock()
	var gone []*memoryCall
	for c := range n.live {
		if match(c) {
			gone = append(gone, c)
		}
	}
	n.mu.Unlock()
	for _, c := range gone {
		c.lose()
	}
}

// memoryCall is a call or a connection on its way.
type memoryCall struct {
	from, to string
	lose     func()
}

var errRefused = errors.New("connection refused")

// reach enters a call, unless its way is cut or nobody listens.
func (n *Memory) reach(from string, t target, lose func()) (*MemoryPort, *memoryCall, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[t.addr]
	if h == nil || n.cut[pair(from, t.addr)] || n.down[from] || n.down[t.addr] {
		return nil, nil, errRefused
	}
	c := &memoryCall{from: from, to: t.addr, lose: lose}
	n.live[c] = struct{}{}
	return h, c, nil
}

func (n *Memory) done(c *memoryCall) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.live, c)
}

// MemoryPort is an address of a Memory at which a Mux is served.
type MemoryPort struct {
	net  *Memory
	addr string
	self Peer
	mux  *Mux
	raft *feed
	wg   tracker
}

// Listen serves a Mux at an address, as the machine that name says.
func (n *Memory) Listen(addr string, name api.CertName, m *Mux) (*MemoryPort, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts[addr] != nil {
		return nil, errors.New("address already in use: " + addr)
	}
	p := &MemoryPort{net: n, addr: addr, self: Peer{CertName: name}, mux: m, raft: newFeed(memoryAddr(addr))}
	n.hosts[addr] = p
	return p, nil
}

// Addr returns the address.
func (p *MemoryPort) Addr() net.Addr { return memoryAddr(p.addr) }

// Close ends the address: calls to it are lost; it waits for their handlers.
func (p *MemoryPort) Close() {
	p.net.mu.Lock()
	if p.net.hosts[p.addr] == p {
		delete(p.net.hosts, p.addr)
	}
	p.net.mu.Unlock()
	p.raft.Close()
	p.net.drop(func(c *memoryCall) bool { return c.to == p.addr })
	p.wg.wait()
}

type memoryAddr string

func (memoryAddr) Network() string  { return "memory" }
func (a memoryAddr) String() string { return string(a) }

// Transport returns the transport of a machine at an address. The address need
// not listen.
func (n *Memory) Transport(from string, name api.CertName) Transport {
	return &memoryTransport{net: n, from: from, self: Peer{CertName: name, Addr: from}}
}

type memoryTransport struct {
	net  *Memory
	from string
	self Peer
}

func (t *memoryTransport) dial(to target) conn { return &memoryConn{t: t, to: to} }

type memoryConn struct {
	t  *memoryTransport
	to target
}

var _ conn = (*memoryConn)(nil)

func (c *memoryConn) close() {}

func (c *memoryConn) lost(sent bool, err error) error {
	return &lost{sent: sent, addr: c.to.addr, cause: err}
}

// start finds the other side and makes a context for it: with the caller's
// deadline and cancellation, but none of its values.
func (c *memoryConn) start(ctx context.Context) (p *MemoryPort, far context.Context, cut <-chan struct{}, end func(), err error) {
	far, cancel := context.WithCancel(context.Background())
	if d, ok := ctx.Deadline(); ok {
		far, cancel = context.WithDeadline(context.Background(), d)
	}
	gone := make(chan struct{})
	var once sync.Once
	p, mc, err := c.t.net.reach(c.t.from, c.to, func() { once.Do(func() { close(gone) }); cancel() })
	if err == nil {
		region := c.to.region
		if region == "" {
			region = c.t.self.Region
		}
		if err = c.to.check(p.self, region); err == nil {
			err = memoryAdmit(c.t.self, p.self)
		}
		if err == nil && !p.wg.add() {
			err = errRefused
		}
		if err != nil {
			c.t.net.done(mc)
		}
	}
	if err != nil {
		cancel()
		return nil, nil, nil, nil, c.lost(false, err)
	}
	stop := context.AfterFunc(ctx, cancel)
	return p, far, gone, func() {
		stop()
		cancel()
		c.t.net.done(mc)
		p.wg.done()
	}, nil
}

// memoryAdmit is what the port asks of those who speak h2.
func memoryAdmit(who, at Peer) error {
	if who.Region != at.Region && who.Role != api.RoleServer {
		return api.Errorf(api.CodeWrongRole, "%s may not speak %s here", peerName(who), ProtoRPC)
	}
	return nil
}

func (c *memoryConn) call(ctx context.Context, method string, h *header, req, resp api.Message) error {
	if e := ended(ctx); e != nil {
		return e
	}
	b, err := pack(req)
	if err != nil {
		return err
	}
	p, far, cut, end, err := c.start(ctx)
	if err != nil {
		return err
	}
	type result struct {
		b   []byte
		err error
	}
	answer := make(chan result, 1)
	hdr := *h
	go func() {
		defer end()
		var r result
		if r.err = c.t.net.wait(far, c.t.from, c.to.addr); r.err == nil {
			r.b, r.err = p.unary(far, c.t.self, method, hdr, b)
		}
		if r.err == nil || ended(far) == nil {
			if err := c.t.net.wait(far, c.to.addr, c.t.from); err != nil {
				r.err = err
			}
		}
		answer <- r
	}()
	select {
	case r := <-answer:
		select {
		case <-cut:
			return c.lost(true, io.ErrUnexpectedEOF)
		default:
		}
		if r.err != nil {
			if e := ended(ctx); e != nil {
				return e
			}
			return r.err
		}
		return unpack(r.b, resp)
	case <-cut:
		return c.lost(true, io.ErrUnexpectedEOF)
	case <-ctx.Done():
		return ended(ctx)
	}
}

// unary serves one call that came over the network.
func (p *MemoryPort) unary(ctx context.Context, who Peer, method string, h header, b []byte) ([]byte, error) {
	c, err := p.call(who, method, h, b, false)
	if err != nil {
		return nil, err
	}
	resp, err := p.mux.unary(ctx, c, func() api.Message { return new(raw) })
	if err != nil {
		return nil, err
	}
	return pack(resp)
}

func (p *MemoryPort) call(who Peer, method string, h header, b []byte, stream bool) (*call, error) {
	md, err := p.mux.lookup(method)
	if err != nil {
		return nil, err
	}
	if md.Stream != stream {
		return nil, api.Errorf(api.CodeInvalid, "%s is called in the wrong way", method)
	}
	c := &call{md: md, peer: who, hdr: h, req: md.newReq()}
	f := &frame{msg: c.req, keep: true}
	if err := f.decode(b); err != nil {
		return nil, api.Errorf(api.CodeInvalid, "the message does not decode")
	}
	c.wire = &f.raw
	return c, nil
}

func (c *memoryConn) open(ctx context.Context, method string, h *header, req api.Message) (api.Stream, error) {
	if e := ended(ctx); e != nil {
		return nil, e
	}
	b, err := pack(req)
	if err != nil {
		return nil, err
	}
	p, fctx, cut, end, err := c.start(ctx)
	if err != nil {
		return nil, err
	}
	near, far := pipe(fctx)
	near.ctx = ctx
	near.delay = func(ctx context.Context) error { return c.t.net.wait(ctx, c.t.from, c.to.addr) }
	far.delay = func(ctx context.Context) error { return c.t.net.wait(ctx, c.to.addr, c.t.from) }
	hdr := *h
	go func() {
		defer end()
		err := far.delay(far.ctx)
		var in *call
		if err == nil {
			in, err = p.call(c.t.self, method, hdr, b, true)
		}
		if err == nil {
			err = p.mux.serveStream(far.ctx, in, far)
		}
		select {
		case <-cut:
			err = c.lost(true, io.ErrUnexpectedEOF)
		default:
		}
		far.finish(err)
	}()
	s, err := near.admitted()
	if err != nil {
		return nil, err
	}
	return s, nil
}

// RaftLayer returns Raft's connections on this network.
func (p *MemoryPort) RaftLayer() Layer { return &memoryLayer{feed: p.raft, p: p} }

type memoryLayer struct {
	*feed
	p *MemoryPort
}

var _ Layer = (*memoryLayer)(nil)

// Dial connects to a server's Raft layer.
func (l *memoryLayer) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	if timeout <= 0 {
		timeout = dialTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	near, err := l.dial(ctx, addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "memory", Addr: memoryAddr(addr), Err: err}
	}
	return near, nil
}

func (l *memoryLayer) dial(ctx context.Context, addr string) (net.Conn, error) {
	n := l.p.net
	var mc *memoryCall
	near, far := newLink(n, l.p.addr, addr, func() { n.done(mc) })
	to := target{addr: addr, role: api.RoleServer}
	p, mc, err := n.reach(l.p.addr, to, near.lose)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (net.Conn, error) {
		near.Close()
		far.Close()
		return nil, err
	}
	if err := to.check(p.self, l.p.self.Region); err != nil {
		return fail(err)
	}
	if err := n.wait(ctx, l.p.addr, addr); err != nil {
		return fail(err)
	}
	select {
	case p.raft.ch <- far:
	case <-p.raft.done:
		return fail(errRefused)
	case <-ctx.Done():
		return fail(ctx.Err())
	}
	if err := n.wait(ctx, addr, l.p.addr); err != nil {
		near.Close()
		return nil, err
	}
	return near, nil
}
