package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/novacron/novacron/api"
)

// service is the one gRPC service; its methods are ours.
const service = "/nova.Rpc/"

const (
	dialTimeout   = 3 * time.Second
	keepaliveTime = 10 * time.Second // the least that gRPC allows
	keepaliveWait = 5 * time.Second
	maxHeaders    = 32 << 10
)

// NewTransport returns the transport over the one port.
func NewTransport(t *TLS) Transport { return &wire{tls: t} }

type wire struct{ tls *TLS }

func (w *wire) dial(t target) conn {
	c := &grpcConn{addr: t.addr}
	c.cc, c.err = grpc.NewClient("passthrough:///"+t.addr,
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return w.tls.dial(ctx, addr, ProtoRPC, t)
		}),
		grpc.WithTransportCredentials(passCreds{}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveWait}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 25 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: dialTimeout,
		}),
		grpc.WithStatsHandler(sentHandler{}),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithNoProxy(),
		grpc.WithMaxHeaderListSize(maxHeaders),
		grpc.WithUserAgent("novacron"),
	)
	return c
}

// grpcConn is a conn over gRPC.
type grpcConn struct {
	addr string
	cc   *grpc.ClientConn
	err  error
}

var _ conn = (*grpcConn)(nil)

func (c *grpcConn) close() {
	if c.cc != nil {
		c.cc.Close()
	}
}

func (c *grpcConn) call(ctx context.Context, method string, h *header, req, resp api.Message) error {
	if c.err != nil {
		return &lost{addr: c.addr, cause: c.err}
	}
	ctx, sent := outgoing(ctx, h)
	var tr metadata.MD
	err := c.cc.Invoke(ctx, service+method, req, resp, grpc.Trailer(&tr))
	return c.errorOf(ctx, err, tr, sent)
}

func (c *grpcConn) open(ctx context.Context, method string, h *header, req api.Message) (api.Stream, error) {
	if c.err != nil {
		return nil, &lost{addr: c.addr, cause: c.err}
	}
	parent := ctx
	ctx, cancel := context.WithCancel(ctx)
	ctx, sent := outgoing(ctx, h)
	s := &clientStream{c: c, ctx: parent, sent: sent, cancel: cancel}
	ctx = metadata.AppendToOutgoingContext(ctx, mdStream, "1")
	cs, err := c.cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, service+method)
	if err != nil {
		cancel()
		return nil, c.errorOf(parent, err, nil, sent)
	}
	s.cs = cs
	if err := cs.SendMsg(req); err != nil && err != io.EOF {
		cancel()
		return nil, c.errorOf(parent, err, cs.Trailer(), sent)
	}
	md, err := cs.Header()
	if err != nil {
		cancel()
		return nil, c.errorOf(parent, err, cs.Trailer(), sent)
	}
	if md == nil { // ended before it was admitted; the status says why
		var none raw
		if err := s.Recv(&none); err != io.EOF {
			if err == nil {
				cancel()
				err = api.Errorf(api.CodeInternal, "an answer before the admission")
			}
			return nil, err
		}
		s.over = true
	}
	return s, nil
}

// clientStream is the caller's side of a stream over gRPC.
type clientStream struct {
	c      *grpcConn
	cs     grpc.ClientStream
	ctx    context.Context
	cancel context.CancelFunc
	sent   *atomic.Bool
	over   bool
}

var _ api.Stream = (*clientStream)(nil)

func (s *clientStream) Context() context.Context { return s.ctx }

func (s *clientStream) Send(m api.Message) error {
	if err := checkChunk(m); err != nil {
		return err
	}
	if err := s.cs.SendMsg(m); err == io.EOF {
		return io.EOF
	} else if err != nil {
		return s.c.errorOf(s.ctx, err, nil, s.sent)
	}
	return nil
}

func (s *clientStream) Recv(m api.Message) error {
	if s.over {
		return io.EOF
	}
	err := s.cs.RecvMsg(m)
	if err == nil {
		return nil
	}
	defer s.cancel()
	if err == io.EOF {
		return io.EOF
	}
	return s.c.errorOf(s.ctx, err, s.cs.Trailer(), s.sent)
}

func (s *clientStream) CloseSend() error { return s.cs.CloseSend() }

func checkChunk(m api.Message) error {
	if c, ok := m.(*api.Chunk); ok && len(c.Data) > MaxChunk {
		return api.Errorf(api.CodeTooLarge, "a chunk holds at most %d bytes", MaxChunk)
	}
	return nil
}

// errorOf turns what gRPC says into *api.Error or *lost.
func (c *grpcConn) errorOf(ctx context.Context, err error, trailer metadata.MD, sent *atomic.Bool) error {
	if err == nil {
		return nil
	}
	if v := trailer[mdError]; len(v) > 0 {
		return unpackError([]byte(v[0]))
	}
	if e := ended(ctx); e != nil {
		return e
	}
	st := status.Convert(err)
	switch st.Code() {
	case codes.DeadlineExceeded:
		return api.Errorf(api.CodeDeadline, "the deadline passed")
	case codes.ResourceExhausted:
		return api.Errorf(api.CodeTooLarge, "the message is larger than %d bytes", MaxMessage)
	case codes.Unavailable, codes.Canceled, codes.Unknown:
		return &lost{sent: sent.Load(), addr: c.addr, cause: errors.New(st.Message())}
	}
	return api.Errorf(api.CodeInternal, "the call to %s failed: %s", c.addr, st.Code())
}

type sentKey struct{}

// outgoing puts the header into the context, and a flag that is raised when the
// request was handed to a connection.
func outgoing(ctx context.Context, h *header) (context.Context, *atomic.Bool) {
	sent := new(atomic.Bool)
	ctx = context.WithValue(ctx, sentKey{}, sent)
	return metadata.NewOutgoingContext(ctx, h.metadata()), sent
}

// sentHandler raises the flag of outgoing.
type sentHandler struct{}

var _ stats.Handler = sentHandler{}

func (sentHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (sentHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (sentHandler) HandleConn(context.Context, stats.ConnStats)                       {}
func (sentHandler) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutHeader); ok {
		if sent, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
			sent.Store(true)
		}
	}
}

// passCreds hands gRPC connections whose TLS handshake is done.
type passCreds struct{}

var _ credentials.TransportCredentials = passCreds{}

// authInfo tells gRPC's handlers who is at the other end.
type authInfo struct {
	credentials.CommonAuthInfo
	peer Peer
}

func (authInfo) AuthType() string { return "tls" }

func (passCreds) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, authInfo{CommonAuthInfo: secure}, nil
}

func (passCreds) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	pc, ok := c.(*portConn)
	if !ok {
		return nil, nil, errors.New("not a connection of the port")
	}
	return c, authInfo{CommonAuthInfo: secure, peer: pc.peer}, nil
}

func (passCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}
func (c passCreds) Clone() credentials.TransportCredentials { return c }
func (passCreds) OverrideServerName(string) error           { return nil }

var secure = credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}
