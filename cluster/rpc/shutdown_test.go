package rpc_test

import (
	"context"
	"net"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
)

// Shutdown lets calls end and does not wait for streams.
func TestShutdown(t *testing.T) {
	g := newGate(t, nil)
	release := make(chan struct{})
	entered := make(chan struct{})
	rpc.Read(g.box.mux, "VM.Slow", acl.ReadVM, func(ctx context.Context, q *api.GetRequest) (*api.Empty, error) {
		close(entered)
		<-release
		return &api.Empty{}, ctx.Err()
	})
	p := rpc.NewPool(rpc.NewTransport(g.a.tls(certName(api.RoleClient, "west"))))
	defer p.Close()
	c := p.Get(g.addr)
	s, err := c.Open(as(goodToken), "VM.Watch", &api.GetRequest{Key: "wait"})
	must.NoError(t, err)
	errs := make(chan error, 1)
	go func() { errs <- c.Call(as(goodToken), "VM.Slow", &api.GetRequest{}, new(api.Empty)) }()
	<-entered
	done := make(chan struct{})
	go func() { g.port.Shutdown(t.Context()); close(done) }()
	must.Eq(t, api.CodeUnreachable, api.CodeOf(recvErr(s)))
	close(release)
	must.NoError(t, <-errs)
	<-done
	must.Eq(t, api.CodeUnreachable, api.CodeOf(c.Call(as(goodToken), "VM.Get", &api.GetRequest{}, new(api.VMResponse))))
}

// Shutdown does not wait longer than it is told; handlers are canceled then.
func TestShutdownAtTheDeadline(t *testing.T) {
	g := newGate(t, nil)
	p := rpc.NewPool(rpc.NewTransport(g.a.tls(certName(api.RoleClient, "west"))))
	defer p.Close()
	errs := make(chan error, 1)
	go func() {
		errs <- p.Get(g.addr).Call(as(goodToken), "VM.Delete", &api.DeleteRequest{Key: "wait"}, new(api.WriteMeta))
	}()
	eventually(t, func() bool { return len(g.box.calls()) == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g.port.Shutdown(ctx)
	must.Eq(t, api.CodeUnknown, api.CodeOf(<-errs), must.Sprint("a write that was lost under way"))
}

// A server that comes back at the same address is found again.
func TestReconnect(t *testing.T) {
	a := newAuthority(t)
	b := newBox(nil, "west", nil)
	defer b.mux.Close()
	open := func(addr string) *rpc.Port {
		var p *rpc.Port
		eventually(t, func() (ok bool) {
			var err error
			p, err = rpc.Listen(t.Context(), addr, a.tls(b.name), rpc.PortOptions{Mux: b.mux})
			return err == nil
		})
		return p
	}
	port := open("127.0.0.1:0")
	addr := port.Addr().String()
	pool := rpc.NewPool(rpc.NewTransport(a.tls(certName(api.RoleClient, "west"))))
	beat := func() api.Code {
		return api.CodeOf(pool.Get(addr).Call(t.Context(), "Node.Beat", &api.NodeBeat{}, new(api.NodeBeaten)))
	}
	must.Eq(t, 0, beat())
	port.Close()
	port.Close() // twice is once
	eventually(t, func() bool { return beat() == api.CodeUnreachable })
	port = open(addr)
	eventually(t, func() bool { return beat() == 0 })
	pool.Close()
	must.Eq(t, api.CodeUnreachable, beat(), must.Sprint("a closed pool"))
	_, err := pool.Get(addr).Open(t.Context(), "Node.Orders", &api.OrdersRequest{})
	must.Eq(t, api.CodeUnreachable, api.CodeOf(err))
	port.Close()

	_, err = rpc.Listen(t.Context(), "127.0.0.1:99999", a.tls(b.name), rpc.PortOptions{Mux: b.mux})
	must.Error(t, err)
}

// Whoever serves a tunnel can end it under TLS, whose own Close may wait for a
// socket that is full.
func TestATunnelShowsItsConnection(t *testing.T) {
	over := make(chan error, 1)
	g := newGate(t, func(o *rpc.PortOptions) {
		o.Tunnel = func(_ context.Context, c net.Conn, _ rpc.Peer) {
			over <- c.(interface{ NetConn() net.Conn }).NetConn().Close()
		}
	})
	n := certName(api.RoleClient, "west")
	c, err := g.a.tls(n).DialTunnel(t.Context(), g.addr, g.box.name.NodeID)
	must.NoError(t, err)
	defer c.Close()
	must.NoError(t, <-over)
	_, err = c.Read(make([]byte, 1))
	must.Error(t, err)
}
