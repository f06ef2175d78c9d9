package migrate_test

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"
	"go.uber.org/goleak"

	"github.com/novacron/novacron/agent/migrate"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/keyring"
	"github.com/novacron/novacron/cluster/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is for what must happen, on a machine that may be busy.
const patience = 30 * time.Second

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	must.Wait(t, wait.InitialSuccess(wait.BoolFunc(ok), wait.Timeout(patience), wait.Gap(time.Millisecond)))
}

// authority makes certificates.
type authority struct{ ca *keyring.CA }

func newAuthority(t testing.TB) *authority {
	t.Helper()
	ca, err := keyring.NewCA(api.NewID(), time.Now())
	must.NoError(t, err)
	return &authority{ca}
}

// node is an agent: its port, and what carries its migrations.
type node struct {
	id   api.ID
	tls  *rpc.TLS
	addr string
	dir  string
	port *rpc.Port
	host *migrate.Host
}

func (a *authority) node(t testing.TB, change func(*migrate.Config)) *node {
	t.Helper()
	n := &node{id: api.NewID()}
	key, csr, err := keyring.NewRequest()
	must.NoError(t, err)
	cert, err := a.ca.Sign(csr, api.CertName{Region: "west", Role: api.RoleClient, NodeID: n.id}, time.Now())
	must.NoError(t, err)
	n.tls, err = rpc.NewTLS(a.ca.CertPEM(), cert, key)
	must.NoError(t, err)
	// Not t.TempDir: paths of sockets must be short.
	n.dir, err = os.MkdirTemp("", "nova")
	must.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(n.dir) })
	c := migrate.Config{Dir: filepath.Join(n.dir, "m"), UID: -1, GID: -1, Dial: n.tls.DialTunnel}
	if change != nil {
		change(&c)
	}
	n.host, err = migrate.New(c)
	must.NoError(t, err)
	mux := rpc.NewMux(rpc.Options{Router: rpc.Alone("west")})
	n.port, err = rpc.Listen(t.Context(), "127.0.0.1:0", n.tls, rpc.PortOptions{Mux: mux, Tunnel: n.host.Tunnel})
	must.NoError(t, err)
	n.addr = n.port.Addr().String()
	t.Cleanup(func() {
		must.NoError(t, n.host.Close())
		n.port.Close()
		mux.Close()
	})
	return n
}

// bed is a source and a destination with one migration between them.
type bed struct {
	t        testing.TB
	a        *authority
	src, dst *node
	id       api.ID
	token    migrate.Token
	in       *migrate.Incoming
	out      *migrate.Outgoing
}

func newBed(t testing.TB, change func(*migrate.Config), open func(*migrate.OpenOptions)) *bed {
	t.Helper()
	a := newAuthority(t)
	b := &bed{t: t, a: a, src: a.node(t, change), dst: a.node(t, change), id: api.NewID(), token: migrate.Token{1, 2, 3}}
	var err error
	b.in, err = b.dst.host.Expect(migrate.ExpectOptions{Migration: b.id, From: b.src.id, Token: b.token, Control: b.libvirt()})
	must.NoError(t, err)
	b.out = b.open(t.Context(), open)
	return b
}

// libvirt is the path of the destination's hypervisor socket.
func (b *bed) libvirt() string { return filepath.Join(b.dst.dir, "libvirt-sock") }

func (b *bed) open(ctx context.Context, change func(*migrate.OpenOptions)) *migrate.Outgoing {
	b.t.Helper()
	o := migrate.OpenOptions{Migration: b.id, To: b.dst.id, Address: b.dst.addr, Token: b.token}
	if change != nil {
		change(&o)
	}
	out, err := b.src.host.Open(ctx, o)
	must.NoError(b.t, err)
	return out
}

// listen stands for a process of the destination that listens at a socket.
func listen(t testing.TB, path string, serve func(*net.UnixConn)) {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must.NoError(t, err)
	ln.SetUnlinkOnClose(false)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := ln.AcceptUnix()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() { defer c.Close(); serve(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// dial stands for a process of the source that connects to a socket.
func dial(t testing.TB, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	must.NoError(t, err)
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c
}

// echo answers with what it gets.
func echo(c *net.UnixConn) {
	io.Copy(c, c)
	c.CloseWrite()
}

// hangsUp waits until the other end of a socket has closed it.
func hangsUp(t testing.TB, c net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, c)
	must.False(t, os.IsTimeout(err), must.Sprint("the socket stays open"))
}
