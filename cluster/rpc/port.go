package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	metrics "github.com/hashicorp/go-metrics/compat"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
)

// PortOptions are those of a Port. Mux is needed.
type PortOptions struct {
	Mux *Mux
	// Raft: serve nova-raft/1 through RaftLayer.
	Raft bool
	// Join serves nova-join/1, usually by ServeJoin; nil refuses it. The
	// connection is closed when it returns.
	Join func(ctx context.Context, c net.Conn)
	// Tunnel serves nova-tunnel/1; nil refuses it. The connection is closed
	// when it returns.
	Tunnel func(ctx context.Context, c net.Conn, p Peer)
	// HandshakeTimeout: 0 means 5 s.
	HandshakeTimeout time.Duration
	// MaxPending bounds handshakes at once; 0 means 512.
	MaxPending int
	// MaxPerIP bounds connections of one address (IPv6: one /64); 0 means 128,
	// negative no limit.
	MaxPerIP int
	// MaxJoins bounds join attempts per second; 0 means 20.
	MaxJoins float64
	Logger   *slog.Logger
}

// Port is the one port: it makes the TLS handshakes and hands each connection
// to the protocol that was agreed on.
type Port struct {
	ln   net.Listener
	tls  *TLS
	mux  *Mux
	o    PortOptions
	log  *slog.Logger
	grpc *grpc.Server
	rpc  *feed
	raft *feed
	join *rate.Limiter

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	conns   map[net.Conn]netip.Addr // all, from accept to close
	admit   map[*portConn]struct{}  // those past their handshake
	perIP   map[netip.Addr]int
	pending int
	closed  bool
}

// Listen opens the port at addr ("host:port") and serves it until Close. The
// context is for opening only.
func Listen(ctx context.Context, addr string, t *TLS, o PortOptions) (*Port, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return Serve(ln, t, o), nil
}

// Serve serves the port on a listener, which it closes in the end.
func Serve(ln net.Listener, t *TLS, o PortOptions) *Port {
	if o.HandshakeTimeout == 0 {
		o.HandshakeTimeout = 5 * time.Second
	}
	if o.MaxPending == 0 {
		o.MaxPending = 512
	}
	if o.MaxPerIP == 0 {
		o.MaxPerIP = 128
	}
	if o.MaxJoins == 0 {
		o.MaxJoins = 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Port{
		ln: ln, tls: t, mux: o.Mux, o: o, log: o.Logger,
		rpc: newFeed(ln.Addr()), raft: newFeed(ln.Addr()),
		join:  rate.NewLimiter(rate.Limit(o.MaxJoins), max(1, int(o.MaxJoins))),
		conns: map[net.Conn]netip.Addr{}, admit: map[*portConn]struct{}{}, perIP: map[netip.Addr]int{},
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.grpc = p.newGRPC()
	p.wg.Go(func() { p.grpc.Serve(p.rpc) })
	p.wg.Go(p.accept)
	return p
}

// Addr returns the address that the port listens on.
func (p *Port) Addr() net.Addr { return p.ln.Addr() }

func (p *Port) protos() []string {
	list := []string{ProtoRPC}
	if p.o.Raft {
		list = append(list, ProtoRaft)
	}
	if p.o.Tunnel != nil {
		list = append(list, ProtoTunnel)
	}
	if p.o.Join != nil {
		list = append(list, ProtoJoin)
	}
	return list
}

func (p *Port) accept() {
	cfg := p.tls.serverConfig(p.protos())
	for {
		nc, err := p.ln.Accept()
		if err != nil {
			if p.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			p.log.Warn("accept", "error", err.Error()) // too many open files, for one
			select {
			case <-p.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		if why := p.enter(nc); why != "" {
			nc.Close()
			metrics.IncrCounter([]string{"rpc", "port", "refused"}, 1)
			p.log.Debug("connection refused", "remote", nc.RemoteAddr().String(), "why", why)
			continue
		}
		p.wg.Go(func() { p.handshake(nc, cfg) })
	}
}

// enter counts a connection, or says why it may not come in.
func (p *Port) enter(nc net.Conn) string {
	ip := source(nc.RemoteAddr())
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return "closed"
	case p.pending >= p.o.MaxPending:
		return "too many handshakes at once"
	case p.o.MaxPerIP > 0 && p.perIP[ip] >= p.o.MaxPerIP:
		return "too many connections of this address"
	}
	p.pending++
	p.perIP[ip]++
	p.conns[nc] = ip
	return ""
}

// leave forgets a connection; it may be called more than once.
func (p *Port) leave(nc net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ip, ok := p.conns[nc]
	if !ok {
		return
	}
	delete(p.conns, nc)
	if p.perIP[ip]--; p.perIP[ip] == 0 {
		delete(p.perIP, ip)
	}
}

func source(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	ip := ap.Addr().Unmap().WithZone("")
	if ip.Is6() {
		if pre, err := ip.Prefix(64); err == nil {
			return pre.Addr()
		}
	}
	return ip
}

func (p *Port) handshake(nc net.Conn, cfg *tls.Config) {
	ctx, cancel := context.WithTimeout(p.ctx, p.o.HandshakeTimeout)
	tc := tls.Server(nc, cfg)
	err := tc.HandshakeContext(ctx)
	cancel()
	p.mu.Lock()
	p.pending--
	p.mu.Unlock()
	if err != nil {
		nc.Close()
		p.leave(nc)
		metrics.IncrCounter([]string{"rpc", "port", "handshake_failed"}, 1)
		p.log.Debug("handshake failed", "remote", nc.RemoteAddr().String(), "error", err.Error())
		return
	}
	cs := tc.ConnectionState()
	pc := &portConn{Conn: tc, port: p, raw: nc}
	if cs.NegotiatedProtocol != ProtoJoin {
		// Decided in VerifyConnection; here the name is read once more.
		if pc.peer, err = p.tls.admit(cs); err != nil {
			pc.Close()
			return
		}
		pc.peer.Addr = nc.RemoteAddr().String()
	}
	if !p.admitted(pc) {
		pc.Close()
		return
	}
	switch cs.NegotiatedProtocol {
	case ProtoRPC:
		p.rpc.deliver(pc)
	case ProtoRaft:
		p.raft.deliver(pc)
	case ProtoTunnel:
		defer pc.Close()
		p.o.Tunnel(p.ctx, pc, pc.peer)
	case ProtoJoin:
		defer pc.Close()
		if !p.join.Allow() {
			p.log.Warn("join refused: too many attempts", "remote", nc.RemoteAddr().String())
			return
		}
		p.o.Join(p.ctx, pc)
	}
}

// admitted notes a connection so that it ends with its certificate.
func (p *Port) admitted(pc *portConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.admit[pc] = struct{}{}
	if e := pc.peer.Expires; !e.IsZero() {
		pc.end = time.AfterFunc(time.Until(e), func() { pc.Close() })
	}
	return true
}

// Recheck closes the connections of those who may no longer come in: after the
// list of denied nodes has changed.
func (p *Port) Recheck() {
	p.mu.Lock()
	var gone []*portConn
	for pc := range p.admit {
		if pc.peer.Role != "" && p.tls.current(pc.peer) != nil {
			gone = append(gone, pc)
		}
	}
	p.mu.Unlock()
	for _, pc := range gone {
		p.log.Info("connection closed: the peer may no longer come in", "peer", pc.peer.NodeID.String(), "remote", pc.peer.Addr)
		pc.Close()
	}
}

// Shutdown stops accepting, ends streams, waits for other calls until ctx ends,
// and closes.
func (p *Port) Shutdown(ctx context.Context) {
	p.ln.Close()
	p.mux.Drain()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { p.grpc.GracefulStop(); close(done) })
	select {
	case <-done:
	case <-ctx.Done():
	}
	p.Close()
	wg.Wait()
}

// Close closes the port and all its connections and waits for every goroutine,
// handlers too: their contexts are canceled.
func (p *Port) Close() {
	p.mu.Lock()
	p.closed = true
	conns := make([]net.Conn, 0, len(p.conns))
	for c := range p.conns {
		conns = append(conns, c)
	}
	admit := make([]*portConn, 0, len(p.admit))
	for pc := range p.admit {
		admit = append(admit, pc)
	}
	p.mu.Unlock()
	p.cancel()
	p.ln.Close()
	p.raft.Close()
	for _, c := range conns {
		c.Close() // under TLS: no close_notify that could block
	}
	for _, pc := range admit {
		pc.Close()
	}
	p.grpc.Stop()
	p.wg.Wait()
}

// portConn is a connection past its handshake.
type portConn struct {
	net.Conn
	port *Port
	raw  net.Conn
	peer Peer
	end  *time.Timer
	once sync.Once
	err  error
}

// Close closes the connection; only the first call does something.
func (c *portConn) Close() error {
	c.once.Do(func() {
		c.port.mu.Lock()
		delete(c.port.admit, c)
		end := c.end
		c.port.mu.Unlock()
		if end != nil {
			end.Stop()
		}
		c.err = c.Conn.Close()
		c.port.leave(c.raw)
	})
	return c.err
}

// NetConn returns the connection under TLS, as (*tls.Conn).NetConn does: closing
// it first ends a connection whose buffers are full at once.
func (c *portConn) NetConn() net.Conn { return c.raw }

// feed is a net.Listener of connections that were accepted elsewhere.
type feed struct {
	addr net.Addr
	ch   chan net.Conn
	done chan struct{}
	once sync.Once
}

var _ net.Listener = (*feed)(nil)

func newFeed(a net.Addr) *feed {
	return &feed{addr: a, ch: make(chan net.Conn), done: make(chan struct{})}
}

// feedWait is how long a connection waits to be accepted.
const feedWait = 5 * time.Second

// deliver hands a connection over, or closes it when nobody takes it.
func (f *feed) deliver(c net.Conn) {
	t := time.NewTimer(feedWait)
	defer t.Stop()
	select {
	case f.ch <- c:
	case <-f.done:
		c.Close()
	case <-t.C:
		c.Close()
	}
}

func (f *feed) Accept() (net.Conn, error) {
	select {
	case c := <-f.ch:
		return c, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

func (f *feed) Close() error {
	f.once.Do(func() { close(f.done) })
	return nil
}

func (f *feed) Addr() net.Addr { return f.addr }
