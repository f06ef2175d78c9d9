package rpc_test

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
)

// A message takes as long as it is told, there and back.
func TestMemoryLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNet{t, rpc.NewMemory()}
		b := newBox(n, "west", nil)
		node := certName(api.RoleClient, "west")
		n.mem.SetLatency(func(from, to string) time.Duration {
			if to == b.addr {
				return 3 * time.Millisecond
			}
			return 5 * time.Millisecond
		})
		c := n.pool(node).Get(b.addr)
		start := time.Now()
		must.NoError(t, c.Call(t.Context(), "Node.Beat", &api.NodeBeat{}, new(api.NodeBeaten)))
		must.Eq(t, 8*time.Millisecond, time.Since(start))

		start = time.Now()
		s, err := c.Open(as(goodToken), "VM.Watch", &api.GetRequest{})
		must.NoError(t, err)
		must.NotNil(t, s.Context())
		sendAll(t, s, "x")
		must.Eq(t, "x", recv(t, s))
		must.NoError(t, s.CloseSend())
		must.Eq(t, "1 chunks", recv(t, s))
		must.ErrorIs(t, recvErr(s), io.EOF)
		must.GreaterEq(t, 8*time.Millisecond, time.Since(start))

		// A deadline that passes on the way.
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond)
		defer cancel()
		before := len(b.calls())
		must.Eq(t, api.CodeDeadline, api.CodeOf(c.Call(ctx, "Node.Beat", &api.NodeBeat{}, new(api.NodeBeaten))))
		_, err = c.Open(ctx, "Node.Orders", &api.OrdersRequest{})
		must.Eq(t, api.CodeDeadline, api.CodeOf(err))
		must.Len(t, before, b.calls())
	})
}

func TestMemoryCuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNet{t, rpc.NewMemory()}
		b, other := newBox(n, "west", nil), newBox(n, "west", nil)
		c := other.mux.As(&acl.Identity{Role: acl.RoleNode, Region: "west", NodeID: api.NewID()})
		other.router.set(false, b.addr)
		far := n.pool(other.name).Get(b.addr)
		hello := func() error {
			return far.Call(t.Context(), "Agent.Hello", &api.GetRequest{}, new(api.VMResponse))
		}
		must.NoError(t, hello())
		s, err := far.Open(as(goodToken), "VM.Watch", &api.GetRequest{})
		must.NoError(t, err)
		n.mem.Isolate(b.addr)
		must.Eq(t, api.CodeUnknown, api.CodeOf(recvErr(s)), must.Sprint("a stream that is cut"))
		must.Eq(t, api.CodeUnreachable, api.CodeOf(hello()))
		n.mem.Rejoin(b.addr)
		must.NoError(t, hello())
		must.NoError(t, c.Call(t.Context(), "Node.Beat", &api.NodeBeat{}, new(api.NodeBeaten)), must.Sprint("as a node, in process, to the leader"))
		s, err = c.Open(t.Context(), "Node.Orders", &api.OrdersRequest{})
		must.NoError(t, err)
		must.ErrorIs(t, recvErr(s), io.EOF)

		_, err = n.mem.Listen(b.addr, b.name, b.mux)
		must.ErrorContains(t, err, "in use")
	})
}

// Raft connections break when their way is cut.
func TestMemoryRaftCut(t *testing.T) {
	mem := rpc.NewMemory()
	m := rpc.NewMux(rpc.Options{Router: rpc.Alone("west")})
	defer m.Close()
	a, err := mem.Listen("a", certName(api.RoleServer, "west"), m)
	must.NoError(t, err)
	defer a.Close()
	b, err := mem.Listen("b", certName(api.RoleServer, "west"), m)
	must.NoError(t, err)
	defer b.Close()
	got := make(chan error, 1)
	go func() {
		c, err := b.RaftLayer().Accept()
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		got <- err
	}()
	c, err := a.RaftLayer().Dial("b", time.Second)
	must.NoError(t, err)
	must.Eq(t, "a", c.LocalAddr().String())
	must.Eq(t, "memory", c.LocalAddr().Network())
	mem.Cut("a", "b")
	must.Error(t, <-got)
	_, err = c.Write([]byte("x"))
	must.Error(t, err)
	_, err = a.RaftLayer().Dial("b", time.Second)
	must.Error(t, err)
}

// An agent that knows several servers finds one that answers, and leaves one
// that swallows its calls.
func TestFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNet{t, rpc.NewMemory()}
		a, b := newBox(n, "west", nil), newBox(n, "west", nil)
		node := certName(api.RoleClient, "west")
		c := n.pool(node).Failover(func() []string { return []string{a.addr, b.addr} })
		beat := func(wait time.Duration) api.Code {
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			return api.CodeOf(c.Call(ctx, "Node.Beat", &api.NodeBeat{}, new(api.NodeBeaten)))
		}
		must.Eq(t, 0, beat(time.Second))
		must.Len(t, 1, a.calls())
		// a hears and does not answer.
		n.mem.SetLatency(func(from, to string) time.Duration {
			if to == a.addr {
				return time.Hour
			}
			return 0
		})
		must.Eq(t, api.CodeDeadline, beat(time.Second))
		must.Eq(t, 0, beat(time.Second))
		must.Eq(t, 0, beat(time.Second))
		must.Len(t, 2, b.calls())

		// b is cut off: back to a, which is well again.
		n.mem.SetLatency(nil)
		n.mem.Isolate(b.addr)
		n.mem.Cut(b.addr, node.NodeID.Short()+":7647")
		s, err := c.Open(t.Context(), "Node.Orders", &api.OrdersRequest{})
		must.NoError(t, err)
		must.ErrorIs(t, recvErr(s), io.EOF)
		must.Eq(t, 0, beat(time.Second))
		must.Len(t, 3, a.calls())

		// An error of an endpoint is an answer.
		must.Eq(t, api.CodeNotFoundRoute, api.CodeOf(c.Call(t.Context(), "Node.Fly", &api.NodeBeat{}, new(api.NodeBeaten))))

		// None answers.
		n.mem.Cut(a.addr, node.NodeID.Short()+":7647")
		must.Eq(t, api.CodeUnreachable, beat(time.Second))
		_, err = c.Open(t.Context(), "Node.Orders", &api.OrdersRequest{})
		must.Eq(t, api.CodeUnreachable, api.CodeOf(err))
		none := n.pool(node).Failover(func() []string { return nil })
		must.Eq(t, api.CodeUnreachable, api.CodeOf(none.Call(t.Context(), "Node.Beat", &api.NodeBeat{}, new(api.NodeBeaten))))
	})
}
