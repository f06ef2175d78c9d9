package migrate_test

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"

	"github.com/novacron/novacron/agent/migrate"
	"github.com/novacron/novacron/api"
)

// Whoever is not expected is refused, counted, and told nothing else.
func TestStrangersAreRefused(t *testing.T) {
	b := newBed(t, nil, nil)
	reached := new(atomic.Int32)
	for _, path := range []string{b.libvirt(), b.in.Memory(), b.in.Disks()} {
		listen(t, path, func(c *net.UnixConn) { reached.Add(1); echo(c) })
	}
	stranger := b.a.node(t, nil)
	must.NoError(t, b.out.Close())
	refusals := int64(0)
	try := func(what string, from *node, change func(*migrate.OpenOptions)) {
		o := migrate.OpenOptions{Migration: b.id, To: b.dst.id, Address: b.dst.addr, Token: b.token}
		if change != nil {
			change(&o)
		}
		out, err := from.host.Open(t.Context(), o)
		must.NoError(t, err)
		for _, path := range []string{out.Control(), out.Memory(), out.Disks()} {
			refusals++
			hangsUp(t, dial(t, path))
			must.Eq(t, refusals, b.dst.host.Refused(), must.Sprint(what))
		}
		eventually(t, func() bool { return api.CodeOf(out.Err()) == api.CodeForbidden })
		must.StrContains(t, out.Err().Error(), `"refused"`)
		must.NoError(t, out.Close())
	}
	try("another node with the right token", stranger, nil)
	try("another token", b.src, func(o *migrate.OpenOptions) { o.Token[31]++ })
	try("another migration", b.src, func(o *migrate.OpenOptions) { o.Migration = api.NewID() })
	must.Zero(t, reached.Load())

	out := b.open(t.Context(), nil)
	c := dial(t, out.Control())
	_, err := c.Write([]byte("x"))
	must.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 1))
	must.NoError(t, err, must.Sprint("the one who is expected comes in"))
	must.NoError(t, out.Close())
	must.Eq(t, 1, reached.Load())

	must.NoError(t, b.in.Close())
	try("after the end", b.src, nil)
	must.Eq(t, 1, reached.Load())
}

// A node that is not the one that was meant gets no token.
func TestTheDestinationMustBeTheOneThatIsMeant(t *testing.T) {
	b := newBed(t, nil, nil)
	other := b.a.node(t, nil)
	must.NoError(t, b.out.Close())
	b.out = b.open(t.Context(), func(o *migrate.OpenOptions) { o.Address = other.addr })
	hangsUp(t, dial(t, b.out.Control()))
	eventually(t, func() bool { return api.CodeOf(b.out.Err()) == api.CodeUnreachable })
	must.Zero(t, other.host.Refused())
}

func TestGreetingsThatAreNone(t *testing.T) {
	b := newBed(t, func(c *migrate.Config) { c.Keepalive = 100 * time.Millisecond }, nil)
	for what, text := range map[string]string{
		"silence": "", "text": "GET / HTTP/1.1\r\n\r\n", "a ping": "\x07\x00\x00\x00\x00", "a long frame": "\x01\xff\xff\xff\xff",
		"an empty greeting": "\x01\x00\x00\x00\x36" + string(make([]byte, 54)),
	} {
		before := b.dst.host.Refused()
		c, err := b.src.tls.DialTunnel(t.Context(), b.dst.addr, b.dst.id)
		must.NoError(t, err)
		io.WriteString(c, text)
		io.Copy(io.Discard, c)
		c.Close()
		must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool { return b.dst.host.Refused() == before+1 }), wait.Timeout(patience)), must.Sprint(what))
	}
}

func TestStreamsOfASessionAreBounded(t *testing.T) {
	b := newBed(t, nil, nil)
	listen(t, b.in.Disks(), echo)
	var open []net.Conn
	for range 64 {
		c := dial(t, b.out.Disks())
		c.Write([]byte("x"))
		_, err := io.ReadFull(c, make([]byte, 1))
		must.NoError(t, err)
		open = append(open, c)
	}
	hangsUp(t, dial(t, b.out.Disks()))
	open[7].Close()
	eventually(t, func() bool { return b.out.Stats().Disks.Open == 63 && b.in.Stats().Disks.Open == 63 })
	c := dial(t, b.out.Disks())
	c.Write([]byte("y"))
	_, err := io.ReadFull(c, make([]byte, 1))
	must.NoError(t, err)
}

// proxy stands between two nodes.
type proxy struct {
	ln   net.Listener
	hole atomic.Bool // swallows everything
	mu   sync.Mutex
	cons []net.Conn
	wg   sync.WaitGroup
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	p := &proxy{ln: ln}
	p.wg.Go(func() {
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				a.Close()
				continue
			}
			p.mu.Lock()
			p.cons = append(p.cons, a, b)
			p.mu.Unlock()
			p.wg.Go(func() { p.copy(a, b) })
			p.wg.Go(func() { p.copy(b, a) })
		}
	})
	t.Cleanup(func() { ln.Close(); p.kill(); p.wg.Wait() })
	return p
}

func (p *proxy) copy(to, from net.Conn) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if p.hole.Load() {
			if err != nil {
				return // and the other side hears nothing of it
			}
			continue
		}
		if _, werr := to.Write(b[:n]); err != nil || werr != nil {
			to.Close()
			return
		}
	}
}

func (p *proxy) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.cons {
		c.Close()
	}
}

// When the link is cut, both hypervisors see their connection end, whether the
// cut shows or not.
func TestTheLinkIsCut(t *testing.T) {
	for what, cut := range map[string]func(p *proxy){
		"connections break": func(p *proxy) { p.kill() },
		"a black hole":      func(p *proxy) { p.hole.Store(true) },
	} {
		t.Run(what, func(t *testing.T) {
			b := newBed(t, func(c *migrate.Config) { c.Keepalive = time.Second }, nil)
			must.NoError(t, b.out.Close())
			p := newProxy(t, b.dst.addr)
			b.out = b.open(t.Context(), func(o *migrate.OpenOptions) { o.Address = p.ln.Addr().String() })
			var ended sync.WaitGroup
			ended.Add(2)
			serve := func(c *net.UnixConn) { echo(c); ended.Done() }
			listen(t, b.libvirt(), serve)
			listen(t, b.in.Disks(), serve)
			var conns []net.Conn
			for _, path := range []string{b.out.Control(), b.out.Disks()} {
				c := dial(t, path)
				c.Write([]byte("x"))
				_, err := io.ReadFull(c, make([]byte, 1))
				must.NoError(t, err)
				conns = append(conns, c)
			}
			cut(p)
			for _, c := range conns {
				hangsUp(t, c)
			}
			ended.Wait()
			eventually(t, func() bool {
				return api.CodeOf(b.out.Err()) == api.CodeUnreachable && api.CodeOf(b.in.Err()) == api.CodeUnreachable
			})
		})
	}
}

// A dial that hangs does not hold up the end of a session.
func TestADialThatHangs(t *testing.T) {
	a := newAuthority(t)
	dialing := make(chan struct{})
	src := a.node(t, func(c *migrate.Config) {
		c.Dial = func(ctx context.Context, _ string, _ api.ID) (net.Conn, error) {
			close(dialing)
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	out, err := src.host.Open(t.Context(), migrate.OpenOptions{Migration: api.NewID(), To: api.NewID(), Token: migrate.Token{1}})
	must.NoError(t, err)
	c := dial(t, out.Control())
	<-dialing
	must.NoError(t, out.Close())
	hangsUp(t, c)
	_, err = os.Stat(out.Control())
	must.ErrorIs(t, err, os.ErrNotExist)
}
