package migrate_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/migrate"
	"github.com/novacron/novacron/api"
)

// digest reads to the end, then answers with the hash.
func digest(c *net.UnixConn) {
	h := sha256.New()
	io.Copy(h, c)
	c.Write(h.Sum(nil))
	c.CloseWrite()
}

// image is data of a seed: noise, zeros and text in turns.
func image(seed byte, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{seed})
	for i := 0; i < n; i += 3 * 64 << 10 {
		r.Read(b[i:min(n, i+64<<10)])
		for j := i + 128<<10; j < min(n, i+192<<10); j++ {
			b[j] = "a guest's memory "[j%17]
		}
	}
	return b
}

// All streams of a migration at once arrive whole, each at its socket.
func TestAWholeMigration(t *testing.T) {
	for _, mode := range []migrate.Compression{migrate.None, migrate.Zstd, migrate.Auto} {
		b := newBed(t, nil, func(o *migrate.OpenOptions) { o.Compression = mode })
		listen(t, b.libvirt(), echo)
		listen(t, b.in.Memory(), digest)
		listen(t, b.in.Disks(), digest)
		var wg sync.WaitGroup
		wg.Go(func() {
			c := dial(t, b.out.Control())
			for i := range 200 {
				ask := fmt.Appendf(nil, "call %d", i)
				c.Write(ask)
				got := make([]byte, len(ask))
				_, err := io.ReadFull(c, got)
				must.NoError(t, err)
				must.Eq(t, string(ask), string(got))
			}
			c.CloseWrite()
			hangsUp(t, c)
		})
		const size, disks = 12 << 20, 6
		for i := range disks + 1 {
			path := b.out.Disks()
			if i == 0 {
				path = b.out.Memory()
			}
			wg.Go(func() {
				data := image(byte(i), size)
				c := dial(t, path)
				_, err := c.Write(data)
				must.NoError(t, err)
				must.NoError(t, c.CloseWrite())
				got, err := io.ReadAll(c)
				must.NoError(t, err)
				want := sha256.Sum256(data)
				must.Eq(t, want[:], got)
			})
		}
		wg.Wait()
		eventually(t, func() bool {
			in, out := b.in.Stats(), b.out.Stats()
			return in.Disks.Open+in.Memory.Open+in.Control.Open+out.Disks.Open+out.Memory.Open+out.Control.Open == 0
		})
		must.NoError(t, b.out.Err())
		must.NoError(t, b.in.Err())
		in, out := b.in.Stats(), b.out.Stats()
		must.Eq(t, disks, out.Disks.Opened)
		must.Eq(t, disks*size, out.Disks.RawSent)
		must.Eq(t, size, out.Memory.RawSent)
		must.Eq(t, out.Disks.RawSent, in.Disks.RawReceived)
		must.Eq(t, out.Memory.WireSent, in.Memory.WireReceived)
		must.Eq(t, in.Disks.RawSent, out.Disks.RawReceived)
		must.Eq(t, out.Control.RawSent, out.Control.RawReceived)
		must.Eq(t, 0, out.Control.Packed)
		switch mode {
		case migrate.None:
			must.Eq(t, 0, out.Disks.Packed+out.Disks.Zero)
			must.Greater(t, out.Memory.RawSent, out.Memory.WireSent)
		case migrate.Zstd:
			must.Positive(t, out.Disks.Packed)
			must.Less(t, size/2, out.Memory.WireSent)
		}
	}
}

func TestEitherSideMayEndFirst(t *testing.T) {
	b := newBed(t, nil, nil)
	listen(t, b.in.Memory(), func(c *net.UnixConn) { // ends first, and listens on
		c.Write([]byte("ready"))
		c.CloseWrite()
		got, _ := io.ReadAll(c)
		os.WriteFile(filepath.Join(b.dst.dir, "got"), got, 0o600)
	})
	c := dial(t, b.out.Memory())
	got, err := io.ReadAll(c)
	must.NoError(t, err)
	must.Eq(t, "ready", string(got))
	data := image(1, 1<<20)
	_, err = c.Write(data)
	must.NoError(t, err)
	c.Close()
	eventually(t, func() bool { return b.in.Stats().Memory.Open+b.out.Stats().Memory.Open == 0 })
	eventually(t, func() bool {
		got, _ := os.ReadFile(filepath.Join(b.dst.dir, "got"))
		return bytes.Equal(data, got)
	})
	must.NoError(t, b.out.Err())
}

// The guest process of the destination may begin to listen after the source's has
// connected.
func TestTheGuestMayListenLater(t *testing.T) {
	b := newBed(t, nil, nil)
	c := dial(t, b.out.Memory())
	_, err := c.Write([]byte("early"))
	must.NoError(t, err)
	eventually(t, func() bool { return b.in.Stats().Memory.Open == 1 })
	listen(t, b.in.Memory(), echo)
	got := make([]byte, 5)
	_, err = io.ReadFull(c, got)
	must.NoError(t, err)
	must.Eq(t, "early", string(got))
}

func TestAGuestThatNeverListens(t *testing.T) {
	b := newBed(t, func(c *migrate.Config) { c.SocketWait = 50 * time.Millisecond }, nil)
	hangsUp(t, dial(t, b.out.Memory()))
	eventually(t, func() bool { return b.out.Err() != nil && b.in.Err() != nil })
	must.Eq(t, api.CodeHypervisor, api.CodeOf(b.in.Err()))
	must.Zero(t, b.dst.host.Refused())
}

// Whoever ends a session, both hypervisors' sockets are closed, though everything
// is full and no keepalive is due.
func TestEndingASession(t *testing.T) {
	for what, end := range map[string]func(b *bed, cancel func()){
		"the source's context ends":   func(b *bed, cancel func()) { cancel() },
		"the source closes":           func(b *bed, _ func()) { b.out.Close() },
		"the destination closes":      func(b *bed, _ func()) { b.in.Close() },
		"the source's agent ends":     func(b *bed, _ func()) { b.src.host.Close() },
		"the destination's port ends": func(b *bed, _ func()) { b.dst.port.Close() },
	} {
		t.Run(what, func(t *testing.T) {
			b := newBed(t, func(c *migrate.Config) { c.Keepalive = time.Hour }, nil)
			must.NoError(t, b.out.Close())
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			b.out = b.open(ctx, nil)
			started, over := make(chan struct{}), make(chan struct{})
			listen(t, b.in.Memory(), func(c *net.UnixConn) { // does not read
				var buf [1]byte
				c.Read(buf[:])
				close(started)
				var wg sync.WaitGroup
				wg.Go(func() { io.Copy(c, zeros{}) })
				wg.Wait()
				close(over)
			})
			c := dial(t, b.out.Memory())
			c.SetDeadline(time.Time{})
			wrote := make(chan struct{})
			go func() { io.Copy(c, zeros{}); close(wrote) }()
			<-started
			eventually(t, func() bool { return b.out.Stats().Memory.RawSent > 4<<20 })
			end(b, cancel)
			within(t, wrote, "the source's hypervisor")
			within(t, over, "the destination's guest")
			must.NoError(t, b.out.Close())
			must.NoError(t, b.in.Close())
			for _, dir := range []string{filepath.Dir(b.out.Control()), filepath.Dir(b.in.Memory())} {
				_, err := os.Stat(dir)
				must.ErrorIs(t, err, os.ErrNotExist)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func within(t *testing.T, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s is still connected", what)
	}
}

func TestASessionIsThereOnce(t *testing.T) {
	b := newBed(t, nil, nil)
	_, err := b.src.host.Open(t.Context(), migrate.OpenOptions{Migration: b.id, To: b.dst.id, Address: b.dst.addr, Token: b.token})
	must.Eq(t, api.CodeExists, api.CodeOf(err))
	_, err = b.dst.host.Expect(migrate.ExpectOptions{Migration: b.id, From: b.src.id, Token: b.token})
	must.Eq(t, api.CodeExists, api.CodeOf(err))
	for _, o := range []migrate.OpenOptions{
		{To: b.dst.id, Token: b.token}, {Migration: b.id, Token: b.token}, {Migration: b.id, To: b.dst.id},
		{Migration: b.id, To: b.dst.id, Token: b.token, Compression: "gzip"},
		{Migration: b.id, To: b.dst.id, Token: b.token, Bandwidth: -1},
	} {
		_, err := b.src.host.Open(t.Context(), o)
		must.Eq(t, api.CodeInvalid, api.CodeOf(err))
	}
	// What a process that died has left is no obstacle.
	must.NoError(t, b.out.Close())
	must.NoError(t, os.MkdirAll(filepath.Dir(b.out.Control()), 0o700))
	must.NoError(t, os.WriteFile(b.out.Control(), nil, 0o600))
	b.out = b.open(t.Context(), nil)
	must.NoError(t, b.src.host.Close())
	_, err = b.src.host.Open(t.Context(), migrate.OpenOptions{Migration: b.id, To: b.dst.id, Token: b.token})
	must.Eq(t, api.CodeState, api.CodeOf(err))
}

// Both hypervisors get what they need of the folders, and others nothing.
func TestModesOfTheSockets(t *testing.T) {
	b := newBed(t, func(c *migrate.Config) { c.UID, c.GID = os.Getuid(), os.Getgid() }, nil)
	for path, want := range map[string]os.FileMode{
		filepath.Dir(b.out.Control()): os.ModeDir | 0o711,
		b.out.Control():               os.ModeSocket | 0o600,
		b.out.Memory():                os.ModeSocket | 0o660,
		b.out.Disks():                 os.ModeSocket | 0o660,
		filepath.Dir(b.in.Memory()):   os.ModeDir | 0o770,
	} {
		info, err := os.Stat(path)
		must.NoError(t, err)
		must.Eq(t, want, info.Mode(), must.Sprint(path))
	}
	listen(t, b.in.Memory(), echo) // of the right user
	c := dial(t, b.out.Memory())
	_, err := c.Write([]byte("x"))
	must.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 1))
	must.NoError(t, err)
}

func TestPathsMustFit(t *testing.T) {
	for _, dir := range []string{"relative", "/" + string(bytes.Repeat([]byte("x"), 60))} {
		_, err := migrate.New(migrate.Config{Dir: dir})
		must.Eq(t, api.CodeConfig, api.CodeOf(err))
	}
	_, err := migrate.New(migrate.Config{})
	must.NoError(t, err)
}

func TestTheCapMayChange(t *testing.T) {
	b := newBed(t, nil, func(o *migrate.OpenOptions) { o.Bandwidth = 1; o.Compression = migrate.None })
	listen(t, b.in.Memory(), digest)
	c := dial(t, b.out.Memory())
	data := image(1, 1<<20)
	var wg sync.WaitGroup
	wg.Go(func() { c.Write(data); c.CloseWrite() })
	eventually(t, func() bool { return b.out.Stats().Memory.RawSent > 0 })
	must.Eq(t, 1, b.out.Stats().Bandwidth)
	must.Less(t, len(data), int(b.out.Stats().Memory.RawSent))
	b.out.SetBandwidth(0)
	got, err := io.ReadAll(c)
	must.NoError(t, err)
	want := sha256.Sum256(data)
	must.Eq(t, want[:], got)
	wg.Wait()
}
