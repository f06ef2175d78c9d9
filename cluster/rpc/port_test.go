package rpc_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
)

// gate is a port of a server of region west that serves every protocol.
type gate struct {
	a    *authority
	tls  *rpc.TLS
	port *rpc.Port
	box  *box
	addr string
}

func newGate(t *testing.T, change func(*rpc.PortOptions)) *gate {
	t.Helper()
	g := &gate{a: newAuthority(t), box: newBox(nil, "west", nil)}
	g.tls = g.a.tls(g.box.name)
	o := rpc.PortOptions{
		Mux: g.box.mux, Raft: true,
		Join:   func(ctx context.Context, c net.Conn) { io.Copy(c, c) },
		Tunnel: func(ctx context.Context, c net.Conn, p rpc.Peer) { c.Write([]byte(p.NodeID.String())) },
	}
	if change != nil {
		change(&o)
	}
	var err error
	g.port, err = rpc.Listen(t.Context(), "127.0.0.1:0", g.tls, o)
	must.NoError(t, err)
	g.addr = g.port.Addr().String()
	t.Cleanup(func() { g.port.Close(); g.box.mux.Close() })
	return g
}

// knock makes a handshake by hand and reports whether the server went through
// with it: in TLS 1.3 a client learns of a refusal only when it reads.
func (g *gate) knock(t *testing.T, cfg *tls.Config) (*tls.Conn, error) {
	t.Helper()
	cfg.InsecureSkipVerify = true
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", g.addr, cfg)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return c, nil
}

func (g *gate) config(t *testing.T, n api.CertName, at time.Time, proto ...string) *tls.Config {
	cert, key := g.a.issue(n, at)
	pair, err := tls.X509KeyPair(cert, key)
	must.NoError(t, err)
	return &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: proto}
}

// refused reports whether a connection ends without a word of the protocol.
func refused(c *tls.Conn, err error) bool {
	if err != nil {
		return true
	}
	c.SetDeadline(time.Now().Add(5 * time.Second))
	_, err = c.Read(make([]byte, 1))
	var ne net.Error
	return err != nil && !(errors.As(err, &ne) && ne.Timeout())
}

func TestTheDoor(t *testing.T) {
	g := newGate(t, func(o *rpc.PortOptions) { o.MaxPerIP = -1 })
	layer := g.port.RaftLayer()
	var wg sync.WaitGroup
	wg.Go(func() { // says "r" to whoever gets in
		for {
			c, err := layer.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("r"))
			c.Close()
		}
	})
	t.Cleanup(func() { layer.Close(); wg.Wait() })

	now := time.Now()
	west, east := "west", "east"
	other := newAuthority(t)
	for _, row := range []struct {
		what  string
		cfg   *tls.Config
		enter bool
	}{
		{"a server by h2", g.config(t, certName(api.RoleServer, west), now, "h2"), true},
		{"a node by h2", g.config(t, certName(api.RoleClient, west), now, "h2"), true},
		{"a server of another region by h2", g.config(t, certName(api.RoleServer, east), now, "h2"), true},
		{"a node of another region by h2", g.config(t, certName(api.RoleClient, east), now, "h2"), false},
		{"a server by raft", g.config(t, certName(api.RoleServer, west), now, "nova-raft/1"), true},
		{"a node by raft", g.config(t, certName(api.RoleClient, west), now, "nova-raft/1"), false},
		{"a server of another region by raft", g.config(t, certName(api.RoleServer, east), now, "nova-raft/1"), false},
		{"a node by tunnel", g.config(t, certName(api.RoleClient, west), now, "nova-tunnel/1"), true},
		{"a server by tunnel", g.config(t, certName(api.RoleServer, west), now, "nova-tunnel/1"), true},
		{"a server of another region by tunnel", g.config(t, certName(api.RoleServer, east), now, "nova-tunnel/1"), false},
		{"an expired certificate", g.config(t, certName(api.RoleServer, west), now.Add(-100*time.Hour), "h2"), false},
		{"a certificate of tomorrow", g.config(t, certName(api.RoleServer, west), now.Add(24*time.Hour), "h2"), false},
		{"no certificate by h2", &tls.Config{NextProtos: []string{"h2"}}, false},
		{"no certificate by raft", &tls.Config{NextProtos: []string{"nova-raft/1"}}, false},
		{"no certificate by tunnel", &tls.Config{NextProtos: []string{"nova-tunnel/1"}}, false},
		{"no protocol", g.config(t, certName(api.RoleServer, west), now), false},
		{"an unknown protocol", g.config(t, certName(api.RoleServer, west), now, "http/1.1"), false},
		{"another authority", (&gate{a: other}).config(t, certName(api.RoleServer, west), now, "h2"), false},
		{"another authority by raft", (&gate{a: other}).config(t, certName(api.RoleServer, west), now, "nova-raft/1"), false},
	} {
		c, err := g.knock(t, row.cfg)
		must.Eq(t, row.enter, !refused(c, err), must.Sprint(row.what))
	}

	t.Run("a certificate of the right authority with odd names", func(t *testing.T) {
		for _, names := range [][]string{
			{"server.west.novacron", "server.east.novacron"}, {}, {"client.west.novacron"},
		} {
			cfg := g.config(t, certName(api.RoleServer, west), now, "h2")
			cfg.Certificates[0] = forge(t, g.a, certName(api.RoleServer, west), names)
			c, err := g.knock(t, cfg)
			must.True(t, refused(c, err), must.Sprint(names))
		}
		cfg := g.config(t, certName(api.RoleServer, west), now, "h2")
		cfg.Certificates[0] = forge(t, g.a, certName(api.RoleServer, west), []string{"server.west.novacron"})
		c, err := g.knock(t, cfg)
		must.False(t, refused(c, err), must.Sprint("the forgery as such works"))
	})

	t.Run("TLS 1.2", func(t *testing.T) {
		cfg := g.config(t, certName(api.RoleServer, west), now, "h2")
		cfg.MaxVersion = tls.VersionTLS12
		_, err := g.knock(t, cfg)
		must.Error(t, err)
	})
	t.Run("plaintext", func(t *testing.T) {
		for _, text := range []string{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "\x00\x01\x02"} {
			c, err := net.Dial("tcp", g.addr)
			must.NoError(t, err)
			c.Write([]byte(text))
			c.(*net.TCPConn).CloseWrite()
			b, _ := io.ReadAll(c)
			must.LessEq(t, 7, len(b), must.Sprint("no more than a TLS alert"))
			c.Close()
		}
	})
	must.Len(t, 0, g.box.calls())
}

// A denied node is turned away at the door, and thrown out when it is inside.
func TestDenied(t *testing.T) {
	g := newGate(t, nil)
	good, bad := certName(api.RoleClient, "west"), certName(api.RoleClient, "west")
	call := func(n api.CertName) (rpc.Caller, error) {
		p := rpc.NewPool(rpc.NewTransport(g.a.tls(n)))
		t.Cleanup(p.Close)
		c := p.Get(g.addr)
		return c, c.Call(t.Context(), "Node.Beat", &api.NodeBeat{}, new(api.NodeBeaten))
	}
	inside, err := call(bad)
	must.NoError(t, err)
	s, err := inside.Open(t.Context(), "Node.Orders", &api.OrdersRequest{})
	must.NoError(t, err)
	must.NoError(t, s.Recv(new(api.OrderBatch)))

	g.tls.SetDenied(func(id api.ID) bool { return id == bad.NodeID })
	must.Eq(t, api.CodeNodeDenied, api.CodeOf(inside.Call(t.Context(), "Node.Beat", &api.NodeBeat{}, new(api.NodeBeaten))), must.Sprint("on a connection that stands"))
	g.port.Recheck()
	_, err = call(bad)
	must.Error(t, err)
	eventually(t, func() bool {
		return api.CodeOf(inside.Call(t.Context(), "Node.Beat", &api.NodeBeat{}, new(api.NodeBeaten))) == api.CodeUnreachable
	})
	_, err = call(good)
	must.NoError(t, err)
}

// What dials makes sure who answers.
func TestTheDialerChecksToo(t *testing.T) {
	g := newGate(t, nil)
	me := g.a.tls(certName(api.RoleServer, "west"))
	pool := rpc.NewPool(rpc.NewTransport(me))
	defer pool.Close()
	hello := func(c rpc.Caller) error {
		return c.Call(t.Context(), "Agent.Hello", &api.GetRequest{}, new(api.VMResponse))
	}
	must.NoError(t, hello(pool.Get(g.addr)))
	must.NoError(t, hello(pool.Member(g.addr)))
	must.NoError(t, hello(pool.Node(g.box.name.NodeID, g.addr)))
	must.Eq(t, api.CodeUnreachable, api.CodeOf(hello(pool.Node(api.NewID(), g.addr))), must.Sprint("another node"))
	must.Eq(t, api.CodeUnreachable, api.CodeOf(hello(pool.Region("east", g.addr))), must.Sprint("another region"))

	// A node that poses as a server gets no tokens.
	thief := newBox(nil, "west", nil)
	defer thief.mux.Close()
	p, err := rpc.Listen(t.Context(), "127.0.0.1:0", g.a.tls(certName(api.RoleClient, "west")), rpc.PortOptions{Mux: thief.mux})
	must.NoError(t, err)
	defer p.Close()
	must.Eq(t, api.CodeUnreachable, api.CodeOf(pool.Get(p.Addr().String()).Call(as(goodToken), "VM.Get", &api.GetRequest{}, new(api.VMResponse))))
	must.NoError(t, pool.Member(p.Addr().String()).Call(as(goodToken), "Agent.Ping", &api.GetRequest{}, new(api.VMResponse)))
	for _, c := range thief.calls() {
		must.Eq(t, "", c.call.Token, must.Sprint("a user's token was sent to a node"))
	}
	// Nor does a machine of another authority.
	alien := newAuthority(t)
	p2, err := rpc.Listen(t.Context(), "127.0.0.1:0", alien.tls(certName(api.RoleServer, "west")), rpc.PortOptions{Mux: thief.mux})
	must.NoError(t, err)
	defer p2.Close()
	must.Eq(t, api.CodeUnreachable, api.CodeOf(hello(pool.Get(p2.Addr().String()))))

	// A port that does not serve a protocol says so at the handshake.
	_, err = me.DialTunnel(t.Context(), p.Addr().String(), api.ID{})
	must.Error(t, err)
	tc, err := me.DialTunnel(t.Context(), g.addr, g.box.name.NodeID)
	must.NoError(t, err)
	b, err := io.ReadAll(tc)
	must.NoError(t, err)
	must.Eq(t, me.Self().NodeID.String(), string(b), must.Sprint("the tunnel knows who dialed"))
	tc.Close()
}

func TestSlowHandshakesDoNotBlockOthers(t *testing.T) {
	g := newGate(t, func(o *rpc.PortOptions) { o.HandshakeTimeout = 300 * time.Millisecond; o.MaxPending = 20 })
	var slow []net.Conn
	for range 10 {
		c, err := net.Dial("tcp", g.addr)
		must.NoError(t, err)
		c.Write([]byte{0x16, 3, 1}) // the first bytes of a handshake, and no more
		slow = append(slow, c)
	}
	p := rpc.NewPool(rpc.NewTransport(g.a.tls(certName(api.RoleClient, "west"))))
	defer p.Close()
	must.NoError(t, p.Get(g.addr).Call(t.Context(), "Node.Beat", &api.NodeBeat{}, new(api.NodeBeaten)))
	for _, c := range slow {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err := io.ReadAll(c)
		var ne net.Error
		must.False(t, errors.As(err, &ne) && ne.Timeout(), must.Sprint("the server ends a slow handshake"))
		c.Close()
	}
}

func TestTooManyConnections(t *testing.T) {
	closed := func(c net.Conn) bool {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err := c.Read(make([]byte, 1))
		var ne net.Error
		return !(errors.As(err, &ne) && ne.Timeout())
	}
	t.Run("of one address", func(t *testing.T) {
		g := newGate(t, func(o *rpc.PortOptions) { o.MaxPerIP = 3 })
		var in []*tls.Conn
		for range 3 {
			c, err := g.knock(t, g.config(t, certName(api.RoleServer, "west"), time.Now(), "h2"))
			must.NoError(t, err)
			must.False(t, refused(c, nil))
			in = append(in, c)
		}
		_, err := g.knock(t, g.config(t, certName(api.RoleServer, "west"), time.Now(), "h2"))
		must.Error(t, err)
		in[0].Close() // makes room
		eventually(t, func() bool {
			_, err := g.knock(t, g.config(t, certName(api.RoleServer, "west"), time.Now(), "h2"))
			return err == nil
		})
	})
	t.Run("in handshake", func(t *testing.T) {
		g := newGate(t, func(o *rpc.PortOptions) { o.MaxPending = 1 })
		a, err := net.Dial("tcp", g.addr)
		must.NoError(t, err)
		defer a.Close()
		// The second is refused at once, long before the first's deadline.
		b, err := net.Dial("tcp", g.addr)
		must.NoError(t, err)
		defer b.Close()
		must.True(t, closed(b))
	})
}

func TestRaftLayer(t *testing.T) {
	onBoth(t, func(t *testing.T, n network) {
		server, client := certName(api.RoleServer, "west"), certName(api.RoleClient, "west")
		layer := func(name api.CertName) (rpc.Layer, func()) {
			m := rpc.NewMux(rpc.Options{Router: rpc.Alone(name.Region)})
			switch n := n.(type) {
			case *tlsNet:
				p, err := rpc.Listen(t.Context(), "127.0.0.1:0", n.a.tls(name), rpc.PortOptions{Mux: m, Raft: true})
				must.NoError(t, err)
				return p.RaftLayer(), func() { p.Close(); m.Close() }
			case *memNet:
				p, err := n.mem.Listen(name.NodeID.Short(), name, m)
				must.NoError(t, err)
				return p.RaftLayer(), func() { p.Close(); m.Close() }
			}
			return nil, nil
		}
		a, closeA := layer(server)
		b, closeB := layer(certName(api.RoleServer, "west"))
		node, closeNode := layer(client)
		defer closeA()
		defer closeB()
		defer closeNode()

		got := make(chan string, 1)
		go func() {
			c, err := b.Accept()
			if err != nil {
				got <- err.Error()
				return
			}
			defer c.Close()
			buf := make([]byte, 5)
			io.ReadFull(c, buf)
			got <- string(buf)
		}()
		c, err := a.Dial(b.Addr().String(), 5*time.Second)
		must.NoError(t, err)
		must.Eq(t, b.Addr().String(), c.RemoteAddr().String())
		_, err = c.Write([]byte("hello"))
		must.NoError(t, err)
		must.Eq(t, "hello", <-got)
		must.NoError(t, c.Close())

		_, err = a.Dial(node.Addr().String(), 5*time.Second)
		must.Error(t, err, must.Sprint("a node is no Raft peer"))
		must.NoError(t, b.Close())
		_, err = b.Accept()
		must.ErrorIs(t, err, net.ErrClosed)
		if c, err := a.Dial(b.Addr().String(), 200*time.Millisecond); err == nil {
			c.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err = c.Read(make([]byte, 1))
			must.Error(t, err, must.Sprint("a closed layer takes nothing"))
			c.Close()
		}
		_, err = a.Dial("127.0.0.1:1", 200*time.Millisecond)
		must.Error(t, err)
	})
}

// A certificate is replaced while the port runs.
func TestReload(t *testing.T) {
	g := newGate(t, nil)
	me := certName(api.RoleClient, "west")
	mine := g.a.tls(me)
	p := rpc.NewPool(rpc.NewTransport(mine))
	defer p.Close()
	beat := func() error {
		return p.Get(g.addr).Call(t.Context(), "Node.Beat", &api.NodeBeat{}, new(api.NodeBeaten))
	}
	must.NoError(t, beat())
	ca := g.a.ca.CertPEM()
	later := time.Now().Add(time.Minute)
	cert, key := g.a.issue(g.box.name, later)
	must.NoError(t, g.tls.Reload(ca, cert, key))
	must.Eq(t, later.Add(72*time.Hour).Unix(), g.tls.Self().Expires.Unix())
	cert, key = g.a.issue(me, later)
	must.NoError(t, mine.Reload(ca, cert, key))
	must.NoError(t, beat())
	p.Forget(g.addr)
	must.NoError(t, beat(), must.Sprint("with the new certificate"))

	// What does not fit is refused and changes nothing.
	_, otherKey := g.a.issue(me, later)
	alien := newAuthority(t)
	alienCert, alienKey := alien.issue(me, later)
	other, otherNameKey := g.a.issue(certName(api.RoleServer, "west"), later)
	for what, f := range map[string]func() error{
		"another key":       func() error { return mine.Reload(ca, cert, otherKey) },
		"another authority": func() error { return mine.Reload(ca, alienCert, alienKey) },
		"another name":      func() error { return mine.Reload(ca, other, otherNameKey) },
		"no authority":      func() error { return mine.Reload(nil, cert, key) },
		"a broken one": func() error {
			return mine.Reload([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), cert, key)
		},
		"the authority's": func() error { k, _ := g.a.ca.KeyPEM(); return mine.Reload(ca, ca, k) },
	} {
		must.Error(t, f(), must.Sprint(what))
	}
	_, err := rpc.NewTLS(ca, nil, nil)
	must.Error(t, err)
	must.NoError(t, beat())
	must.Eq(t, me, mine.Self().CertName)
}

// HTTP uses the same certificate; a client checks it by authority and name.
func TestHTTPConfig(t *testing.T) {
	g := newGate(t, nil)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", g.tls.HTTPConfig())
	must.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		if c, err := ln.Accept(); err == nil {
			c.Write([]byte("ok"))
			c.Close()
		}
	})
	roots := x509.NewCertPool()
	must.True(t, roots.AppendCertsFromPEM(g.a.ca.CertPEM()))
	c, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{RootCAs: roots, ServerName: g.tls.Self().DNS()})
	must.NoError(t, err)
	b, err := io.ReadAll(c)
	must.NoError(t, err)
	must.Eq(t, "ok", string(b))
	c.Close()
	ln.Close()
	wg.Wait()
}

// Bytes that are no request get an error, not a crash.
func TestHostileBytes(t *testing.T) {
	g := newGate(t, nil)
	p := rpc.NewPool(rpc.NewTransport(g.a.tls(certName(api.RoleClient, "west"))))
	defer p.Close()
	for what, b := range map[string][]byte{
		"nothing":                  {},
		"not a map":                {0x01},
		"a list of four billion":   {0x81, 0xa3, 'v', 'm', 's', 0xdd, 0xff, 0xff, 0xff, 0xff},
		"bytes of four billion":    {0x81, 0xa3, 'k', 'e', 'y', 0xc6, 0xff, 0xff, 0xff, 0xff},
		"deep":                     bytes.Repeat([]byte{0x91}, 10000),
		"an extension":             {0x81, 0xa3, 'v', 'm', 's', 0xc9, 0xff, 0xff, 0xff, 0xff, 1},
		"bytes after it":           {0x80, 0x80},
		"the byte that means none": {0xc1},
		"a million empty maps":     append([]byte{0x81, 0xa3, 'v', 'm', 's', 0xdd, 0, 0x0f, 0x42, 0x40}, bytes.Repeat([]byte{0x80}, 1000000)...),
	} {
		err := p.Get(g.addr).Call(t.Context(), "Node.Report", (*rawMessage)(&b), new(api.WriteMeta))
		must.Eq(t, api.CodeInvalid, api.CodeOf(err), must.Sprint(what))
	}
	must.Len(t, 0, g.box.calls())
}

// rawMessage sends any bytes as a message.
type rawMessage []byte

func (r *rawMessage) MarshalMsg(b []byte) ([]byte, error) { return append(b, *r...), nil }
func (r *rawMessage) UnmarshalMsg(b []byte) ([]byte, error) {
	*r = append(rawMessage(nil), b...)
	return nil, nil
}
func (r *rawMessage) Msgsize() int { return len(*r) }

// An answer over the limit is an error to the caller.
func TestAnswerTooLarge(t *testing.T) {
	onBoth(t, func(t *testing.T, n network) {
		b := newBox(n, "west", nil)
		rpc.Read(b.mux, "VM.Big", acl.ReadVM, func(context.Context, *api.GetRequest) (*api.Chunk, error) {
			return &api.Chunk{Data: make([]byte, rpc.MaxMessage+1)}, nil
		})
		c := n.pool(certName(api.RoleClient, "west")).Get(b.addr)
		must.Eq(t, api.CodeTooLarge, api.CodeOf(c.Call(as(goodToken), "VM.Big", &api.GetRequest{}, new(api.Chunk))))
	})
}
