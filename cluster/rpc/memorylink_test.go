package rpc_test

import (
	"context"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
)

// raftPair connects two servers' Raft layers.
func raftPair(t *testing.T, n *rpc.Memory) (near, far net.Conn, again func() error) {
	t.Helper()
	var ports []*rpc.MemoryPort
	for _, a := range []string{"a", "b"} {
		m := rpc.NewMux(rpc.Options{Router: rpc.Alone("west")})
		p, err := n.Listen(a, certName(api.RoleServer, "west"), m)
		must.NoError(t, err)
		t.Cleanup(func() { p.Close(); m.Close() })
		ports = append(ports, p)
	}
	got := make(chan net.Conn, 1)
	go func() {
		c, err := ports[1].RaftLayer().Accept()
		must.NoError(t, err)
		got <- c
	}()
	near, err := ports[0].RaftLayer().Dial("b", time.Second)
	must.NoError(t, err)
	return near, <-got, func() error {
		_, err := ports[0].RaftLayer().Dial("b", time.Second)
		return err
	}
}

func TestMemoryLinksTakeTimeAndAreHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := rpc.NewMemory()
		n.SetLatency(func(_, _ string) time.Duration { return 5 * time.Millisecond })
		start := time.Now()
		near, far, again := raftPair(t, n)
		must.Eq(t, 10*time.Millisecond, time.Since(start), must.Sprint("there and back"))
		must.Eq(t, "b", near.RemoteAddr().String())
		must.Eq(t, "b", far.LocalAddr().String())

		b := make([]byte, 8)
		start = time.Now()
		_, err := near.Write([]byte("one"))
		must.NoError(t, err)
		_, err = io.ReadFull(far, b[:3])
		must.NoError(t, err)
		must.Eq(t, "one", string(b[:3]))
		must.Eq(t, 5*time.Millisecond, time.Since(start))

		// One direction is held back; the other is not, and nobody can connect.
		n.Block("a", "b")
		_, err = near.Write([]byte("two"))
		must.NoError(t, err)
		must.NoError(t, far.SetDeadline(time.Now().Add(time.Second)))
		_, err = far.Read(b)
		must.ErrorIs(t, err, os.ErrDeadlineExceeded)
		_, err = far.Write([]byte("back"))
		must.NoError(t, err)
		_, err = io.ReadFull(near, b[:4])
		must.NoError(t, err)
		start = time.Now()
		must.Error(t, again())
		must.Eq(t, time.Second, time.Since(start))
		n.Unblock("a", "b")
		must.NoError(t, far.SetDeadline(time.Time{}))
		_, err = io.ReadFull(far, b[:3])
		must.NoError(t, err)
		must.Eq(t, "two", string(b[:3]), must.Sprint("late, but there"))

		// What was written before an end arrives before it.
		_, err = near.Write([]byte("end"))
		must.NoError(t, err)
		must.NoError(t, near.Close())
		rest, err := io.ReadAll(far)
		must.NoError(t, err)
		must.Eq(t, "end", string(rest))
		must.NoError(t, far.Close())
		_, err = far.Write(b)
		must.Error(t, err)
	})
}

func TestMemoryPowerLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := rpc.NewMemory()
		n.SetLatency(func(_, _ string) time.Duration { return time.Millisecond })
		near, far, again := raftPair(t, n)
		_, err := near.Write([]byte("lost"))
		must.NoError(t, err)
		n.Down("a")
		_, err = io.ReadAll(far)
		must.Error(t, err, must.Sprint("what was under way is lost"))
		must.Error(t, again())
		n.Up("a")
		n.Break("a", "b") // nothing is connected
		must.NoError(t, near.Close())
		must.NoError(t, far.Close())

		// A call waits for its way, as long as its caller does.
		nw := &memNet{t, n}
		s := newBox(nw, "west", nil)
		p := rpc.NewPool(n.Transport("client", certName(api.RoleClient, "west")))
		t.Cleanup(p.Close)
		n.Block(s.addr, "client")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		must.Eq(t, api.CodeDeadline, api.CodeOf(p.Get(s.addr).Call(ctx, "Node.Beat", &api.NodeBeat{}, new(api.NodeBeaten))))
		must.Eq(t, time.Second, time.Since(start))
		n.Unblock(s.addr, "client")
		must.NoError(t, p.Get(s.addr).Call(t.Context(), "Node.Beat", &api.NodeBeat{}, new(api.NodeBeaten)))
	})
}
