package rpc

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/keyring"
)

// What a member can do on the wire that our own client does not.
func TestOddCallers(t *testing.T) {
	ca, err := keyring.NewCA(api.NewID(), time.Now())
	must.NoError(t, err)
	machine := func(role string) *TLS {
		key, csr, err := keyring.NewRequest()
		must.NoError(t, err)
		cert, err := ca.Sign(csr, api.CertName{Region: "west", Role: role, NodeID: api.NewID()}, time.Now())
		must.NoError(t, err)
		tl, err := NewTLS(ca.CertPEM(), cert, key)
		must.NoError(t, err)
		return tl
	}
	mux := NewMux(Options{Router: Alone("west")})
	defer mux.Close()
	Peering(mux, "Agent.Hello", acl.Member, func(context.Context, *api.Empty) (*api.Empty, error) { return &api.Empty{}, nil })
	Stream(mux, KindPeer, "Agent.Sink", acl.Member, func(_ context.Context, _ *api.Empty, s api.Stream) error {
		must.NotNil(t, s.Context())
		must.NoError(t, s.CloseSend())
		return s.Recv(new(api.Chunk))
	})
	port, err := Listen(t.Context(), "127.0.0.1:0", machine(api.RoleServer), PortOptions{Mux: mux})
	must.NoError(t, err)
	defer port.Close()
	c := NewTransport(machine(api.RoleClient)).dial(target{addr: port.Addr().String()}).(*grpcConn)
	defer c.close()

	coded := func(err error, tr metadata.MD) api.Code {
		return api.CodeOf(c.errorOf(t.Context(), err, tr, new(atomic.Bool)))
	}
	var tr metadata.MD
	err = c.cc.Invoke(t.Context(), "/nova.Other/Agent.Hello", &api.Empty{}, &api.Empty{}, grpc.Trailer(&tr))
	must.Eq(t, api.CodeNotFoundRoute, coded(err, tr))
	err = c.cc.Invoke(t.Context(), service, &api.Empty{}, &api.Empty{}, grpc.Trailer(&tr))
	must.Eq(t, api.CodeNotFoundRoute, coded(err, tr))

	// A token twice, a header of bytes, hops of nonsense: the first counts, the
	// rest is ignored.
	ctx := metadata.AppendToOutgoingContext(t.Context(), mdHops, "boo", mdHops, "2", "x-bin", "\xff\x00")
	must.NoError(t, c.cc.Invoke(ctx, service+"Agent.Hello", &api.Empty{}, &api.Empty{}))

	// Headers without end.
	ctx = metadata.AppendToOutgoingContext(t.Context(), "x-long", longText())
	err = c.cc.Invoke(ctx, service+"Agent.Hello", &api.Empty{}, &api.Empty{})
	must.Error(t, err)
	must.NoError(t, c.cc.Invoke(t.Context(), service+"Agent.Hello", &api.Empty{}, &api.Empty{}), must.Sprint("the connection lives on"))

	// A call that ends before its request.
	ctx = metadata.AppendToOutgoingContext(t.Context(), mdStream, "1")
	cs, err := c.cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, service+"Agent.Sink")
	must.NoError(t, err)
	must.NoError(t, cs.CloseSend())
	err = cs.RecvMsg(new(raw))
	must.Eq(t, api.CodeInvalid, coded(err, cs.Trailer()))

	// A message of a stream that is not one of ours, and one over the limit.
	for _, row := range []struct {
		b    []byte
		want api.Code
	}{{[]byte{0xc1}, api.CodeInvalid}, {make([]byte, MaxMessage+1), api.CodeTooLarge}} {
		s, err := c.open(t.Context(), "Agent.Sink", &header{}, &api.Empty{})
		must.NoError(t, err)
		r := raw(row.b)
		if err = s.Send(&r); err == nil {
			err = s.Recv(new(api.Chunk))
		} else {
			s.(*clientStream).cancel()
		}
		must.Eq(t, row.want, api.CodeOf(err))
	}

	// What gRPC says by itself is turned into codes.
	for in, want := range map[codes.Code]api.Code{
		codes.DeadlineExceeded: api.CodeDeadline, codes.ResourceExhausted: api.CodeTooLarge, codes.Internal: api.CodeInternal, codes.Unimplemented: api.CodeInternal,
	} {
		must.Eq(t, want, coded(status.Error(in, "x"), nil))
	}
	must.Eq(t, api.CodeInternal, coded(status.Error(codes.Aborted, "x"), metadata.MD{mdError: {"\xc1"}}))

	// Pass-through credentials take only connections of the port.
	_, _, err = passCreds{}.ServerHandshake(nil)
	must.Error(t, err)
	must.NoError(t, passCreds{}.Clone().OverrideServerName("x"))
	must.Eq(t, "tls", authInfo{}.AuthType())
}

func longText() string { return string(bytes.Repeat([]byte("x"), 2*maxHeaders)) }
