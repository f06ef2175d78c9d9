package rpc_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
)

func (b *box) streams() {
	// Echo: every chunk comes back; at the end one with the count.
	echo := func(ctx context.Context, q *api.GetRequest, s api.Stream) error {
		b.note(ctx)
		if q.Key == "refuse" {
			return api.Errorf(api.CodeConsole, "no console")
		}
		if q.Key == "wait" {
			<-ctx.Done()
			b.note(ctx)
			return ctx.Err()
		}
		if q.Key == "at once" {
			return nil
		}
		n := 0
		for {
			var c api.Chunk
			err := s.Recv(&c)
			if err == io.EOF {
				return s.Send(&api.Chunk{Data: fmt.Appendf(nil, "%d chunks", n)})
			}
			if err != nil {
				return err
			}
			if string(c.Data) == "fail" {
				return api.Errorf(api.CodeGuest, "the guest is gone")
			}
			if string(c.Data) == "panic" {
				panic("a bug with a secret")
			}
			n++
			if err := s.Send(&c); err != nil {
				return err
			}
		}
	}
	rpc.Stream(b.mux, rpc.KindRead, "VM.Console", acl.ConsoleVM, echo)
	rpc.Stream(b.mux, rpc.KindAny, "VM.Watch", acl.ReadVM, echo)
	rpc.Stream(b.mux, rpc.KindLocal, "Agent.Console", acl.ServerSelf, echo)
	rpc.Stream(b.mux, rpc.KindNodeAny, "Node.Orders", acl.NodeSelf, func(ctx context.Context, q *api.OrdersRequest, s api.Stream) error {
		b.note(ctx)
		for i := range 3 {
			if err := s.Send(&api.OrderBatch{Index: api.Index(i + 1), Full: i == 0}); err != nil {
				return err
			}
		}
		return nil
	})
}

func sendAll(t *testing.T, s api.Stream, texts ...string) {
	t.Helper()
	for _, x := range texts {
		must.NoError(t, s.Send(&api.Chunk{Data: []byte(x)}))
	}
}

func recv(t *testing.T, s api.Stream) string {
	t.Helper()
	var c api.Chunk
	must.NoError(t, s.Recv(&c))
	return string(c.Data)
}

func recvErr(s api.Stream) error {
	for {
		var c api.Chunk
		if err := s.Recv(&c); err != nil {
			return err
		}
	}
}

// A stream is the same in process, in memory and over TLS, direct and by way
// of a follower.
func TestStreams(t *testing.T) {
	onBoth(t, func(t *testing.T, n network) {
		leader := newBox(n, "west", nil)
		follower := newBox(n, "west", nil)
		follower.router.set(false, leader.addr)
		member := n.pool(certName(api.RoleClient, "west"))
		for what, c := range map[string]rpc.Caller{
			"in process":               leader.mux,
			"direct":                   member.Get(leader.addr),
			"by a follower":            member.Get(follower.addr),
			"in process by a follower": follower.mux,
		} {
			t.Run(what, func(t *testing.T) {
				t.Run("both ways", func(t *testing.T) {
					s, err := c.Open(as(goodToken), "VM.Console", &api.GetRequest{Key: "vm"})
					must.NoError(t, err)
					sendAll(t, s, "a", "b")
					must.Eq(t, "a", recv(t, s))
					must.Eq(t, "b", recv(t, s))
					sendAll(t, s, "c")
					must.NoError(t, s.CloseSend())
					must.Eq(t, "c", recv(t, s))
					must.Eq(t, "3 chunks", recv(t, s))
					must.ErrorIs(t, s.Recv(new(api.Chunk)), io.EOF)
					must.ErrorIs(t, s.Recv(new(api.Chunk)), io.EOF)
				})
				t.Run("ends at once", func(t *testing.T) {
					s, err := c.Open(as(goodToken), "VM.Console", &api.GetRequest{Key: "at once"})
					must.NoError(t, err)
					must.ErrorIs(t, s.Recv(new(api.Chunk)), io.EOF)
				})
				t.Run("an error of the handler", func(t *testing.T) {
					s, err := c.Open(as(goodToken), "VM.Console", &api.GetRequest{Key: "vm"})
					must.NoError(t, err)
					sendAll(t, s, "fail")
					err = recvErr(s)
					must.Eq(t, api.CodeGuest, api.CodeOf(err))
					for range 100 { // the other side is gone; some are still taken
						if err = s.Send(&api.Chunk{Data: []byte("x")}); err != nil {
							break
						}
					}
					must.ErrorIs(t, err, io.EOF)
				})
				t.Run("a panic of the handler", func(t *testing.T) {
					s, err := c.Open(as(goodToken), "VM.Console", &api.GetRequest{Key: "vm"})
					must.NoError(t, err)
					sendAll(t, s, "panic")
					err = recvErr(s)
					must.Eq(t, api.CodeInternal, api.CodeOf(err))
					must.StrNotContains(t, err.Error(), "secret")
				})
				t.Run("refused at the opening", func(t *testing.T) {
					_, err := c.Open(as("bad"), "VM.Console", &api.GetRequest{Key: "vm"})
					must.Eq(t, api.CodeUnauthenticated, api.CodeOf(err))
					_, err = c.Open(as("ns:blue"), "VM.Console", &api.GetRequest{Key: "vm"})
					must.Eq(t, api.CodeForbidden, api.CodeOf(err))
				})
				t.Run("refused by the handler", func(t *testing.T) {
					s, err := c.Open(as(goodToken), "VM.Console", &api.GetRequest{Key: "refuse"})
					if err == nil {
						err = recvErr(s)
					}
					must.Eq(t, api.CodeConsole, api.CodeOf(err))
				})
				t.Run("cancel reaches the handler", func(t *testing.T) {
					before := len(leader.calls())
					ctx, cancel := context.WithCancel(as(goodToken))
					s, err := c.Open(ctx, "VM.Console", &api.GetRequest{Key: "wait"})
					must.NoError(t, err)
					cancel()
					must.Eq(t, api.CodeCanceled, api.CodeOf(recvErr(s)))
					eventually(t, func() bool { return len(leader.calls()) == before+2 })
				})
				t.Run("chunk over the limit", func(t *testing.T) {
					ctx, cancel := context.WithCancel(as(goodToken))
					defer cancel()
					s, err := c.Open(ctx, "VM.Console", &api.GetRequest{Key: "vm"})
					must.NoError(t, err)
					big := bytes.Repeat([]byte("x"), rpc.MaxChunk)
					must.NoError(t, s.Send(&api.Chunk{Data: big}))
					must.Eq(t, len(big), len(recv(t, s)))
					must.Eq(t, api.CodeTooLarge, api.CodeOf(s.Send(&api.Chunk{Data: append(big, 1)})))
				})
				t.Run("many chunks in order", func(t *testing.T) {
					s, err := c.Open(as(goodToken), "VM.Console", &api.GetRequest{Key: "vm"})
					must.NoError(t, err)
					done := make(chan struct{})
					go func() {
						defer close(done)
						buf := make([]byte, 4) // used again at once: Send must not keep it
						for i := range 500 {
							copy(buf, fmt.Sprintf("%04d", i))
							if s.Send(&api.Chunk{Data: buf}) != nil {
								return
							}
						}
						s.CloseSend()
					}()
					for i := range 500 {
						must.Eq(t, fmt.Sprintf("%04d", i), recv(t, s))
					}
					must.Eq(t, "500 chunks", recv(t, s))
					must.ErrorIs(t, s.Recv(new(api.Chunk)), io.EOF)
					<-done
				})
			})
		}
	})
}

func TestNodeStreamIsServedWhereItIsCalled(t *testing.T) {
	onBoth(t, func(t *testing.T, n network) {
		follower := newBox(n, "west", nil)
		follower.router.set(false, "")
		node := certName(api.RoleClient, "west")
		s, err := n.pool(node).Get(follower.addr).Open(t.Context(), "Node.Orders", &api.OrdersRequest{NodeID: node.NodeID})
		must.NoError(t, err)
		for i := range 3 {
			var o api.OrderBatch
			must.NoError(t, s.Recv(&o))
			must.Eq(t, api.Index(i+1), o.Index)
		}
		must.ErrorIs(t, s.Recv(new(api.OrderBatch)), io.EOF)
		must.Eq(t, node.NodeID, follower.calls()[0].id.NodeID)
	})
}

// What is a stream cannot be called, what is none cannot be opened.
func TestStreamAndCallAreNotMixedUp(t *testing.T) {
	onBoth(t, func(t *testing.T, n network) {
		b := newBox(n, "west", nil)
		far := n.pool(certName(api.RoleClient, "west")).Get(b.addr)
		for _, c := range []rpc.Caller{b.mux, far} {
			_, err := c.Open(as(goodToken), "VM.Nothing", &api.GetRequest{})
			must.Eq(t, api.CodeNotFoundRoute, api.CodeOf(err))
			_, err = c.Open(as(goodToken), "VM.Get", &api.GetRequest{})
			must.Eq(t, api.CodeInvalid, api.CodeOf(err))
			must.Eq(t, api.CodeInvalid, api.CodeOf(c.Call(as(goodToken), "VM.Console", &api.GetRequest{}, new(api.Chunk))))
		}
		must.Len(t, 0, b.calls())
	})
}

// Draining ends the streams that run and refuses new ones.
func TestDrainEndsStreams(t *testing.T) {
	onBoth(t, func(t *testing.T, n network) {
		b := newBox(n, "west", nil)
		c := n.pool(certName(api.RoleClient, "west")).Get(b.addr)
		s, err := c.Open(as(goodToken), "VM.Watch", &api.GetRequest{Key: "wait"})
		must.NoError(t, err)
		b.mux.Drain()
		must.Eq(t, api.CodeUnreachable, api.CodeOf(recvErr(s)))
		_, err = c.Open(as(goodToken), "VM.Watch", &api.GetRequest{Key: "wait"})
		must.Eq(t, api.CodeUnreachable, api.CodeOf(err))
		must.NoError(t, c.Call(as(goodToken), "VM.Get", &api.GetRequest{}, new(api.VMResponse)), must.Sprint("calls still run"))
		b.mux.Close()
		_, err = b.mux.Open(as(goodToken), "VM.Watch", &api.GetRequest{})
		must.Eq(t, api.CodeUnreachable, api.CodeOf(err))
	})
}
