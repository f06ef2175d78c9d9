package rpc

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/novacron/novacron/api"
)

const (
	maxStreams = 4096 // calls at once on one connection
	// Connections are made anew after this time, so that they carry renewed
	// certificates; calls under way have the grace to end.
	maxConnAge   = 12 * time.Hour
	maxConnGrace = 10 * time.Minute
)

func (p *Port) newGRPC() *grpc.Server {
	return grpc.NewServer(
		grpc.Creds(passCreds{}),
		grpc.ForceServerCodecV2(codec{}),
		grpc.UnknownServiceHandler(p.serve),
		grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.ConnectionTimeout(p.o.HandshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: keepaliveTime, Timeout: keepaliveWait,
			MaxConnectionAge: maxConnAge, MaxConnectionAgeGrace: maxConnGrace,
		}),
		grpc.WaitForHandlers(true),
	)
}

// serve is the one gRPC handler: it finds the endpoint by its name.
func (p *Port) serve(_ any, ss grpc.ServerStream) error {
	err := p.dispatch(ss)
	if err == nil {
		return nil
	}
	var e *api.Error
	if !errors.As(err, &e) {
		return err
	}
	ss.SetTrailer(metadata.MD{mdError: {string(packError(e))}})
	return status.Error(codes.Aborted, e.Code.String())
}

func (p *Port) dispatch(ss grpc.ServerStream) error {
	ctx := ss.Context()
	path, _ := grpc.MethodFromServerStream(ss)
	name, ok := strings.CutPrefix(path, service)
	if !ok {
		return api.Errorf(api.CodeNotFoundRoute, "no such service")
	}
	gp, _ := grpcpeer.FromContext(ctx)
	var who Peer
	if gp != nil {
		if ai, ok := gp.AuthInfo.(authInfo); ok {
			who = ai.peer
		}
	}
	if who.Role == "" { // cannot be: the port lets nobody through without
		return api.Errorf(api.CodeWrongRole, "no certificate")
	}
	// Again at each call: a certificate can end, or be denied, while its
	// connection lasts.
	if err := p.tls.current(who); err != nil {
		return err
	}
	md, err := p.mux.lookup(name)
	if err != nil {
		return err
	}
	in, _ := metadata.FromIncomingContext(ctx)
	if md.Stream != (len(in[mdStream]) > 0) {
		return api.Errorf(api.CodeInvalid, "%s is called in the wrong way", md.Name)
	}
	c := &call{md: md, peer: who, hdr: headerFrom(in), req: md.newReq()}
	f := &frame{msg: c.req, keep: md.Kind.leader() && !p.mux.o.Router.IsLeader()}
	if err := f.receive(ss); err == io.EOF {
		return api.Errorf(api.CodeInvalid, "no request was sent")
	} else if err != nil {
		return err
	}
	c.wire = c.req
	if f.keep {
		c.wire = &f.raw
	}
	if md.Stream {
		return p.mux.serveStream(ctx, c, &grpcStream{ss: ss})
	}
	resp, err := p.mux.unary(ctx, c, func() api.Message { return new(raw) })
	if err != nil {
		return err
	}
	if err := ss.SendMsg(resp); err != nil {
		if status.Code(err) == codes.ResourceExhausted {
			return api.Errorf(api.CodeTooLarge, "the answer is larger than %d bytes", MaxMessage).WithHint("ask for smaller pages")
		}
		return err
	}
	return nil
}

// receive takes the next message of a stream. Its errors are io.EOF and
// *api.Error.
func (f *frame) receive(ss grpc.ServerStream) error {
	err := ss.RecvMsg(f)
	if err == io.EOF {
		return err
	}
	if e := ended(ss.Context()); err != nil && e != nil {
		return e
	}
	switch {
	case status.Code(err) == codes.ResourceExhausted:
		return api.Errorf(api.CodeTooLarge, "the message is larger than %d bytes", MaxMessage)
	case err != nil:
		return api.Errorf(api.CodeCanceled, "the caller went away")
	case f.err != nil:
		return api.Errorf(api.CodeInvalid, "%v", f.err)
	}
	return nil
}

// grpcStream is the handler's side of a stream over gRPC.
type grpcStream struct{ ss grpc.ServerStream }

var _ serverStream = (*grpcStream)(nil)

func (s *grpcStream) Context() context.Context { return s.ss.Context() }
func (s *grpcStream) accept() error            { return s.ss.SendHeader(metadata.MD{}) }

func (s *grpcStream) Send(m api.Message) error {
	if err := checkChunk(m); err != nil {
		return err
	}
	if err := s.ss.SendMsg(m); err != nil {
		if status.Code(err) == codes.ResourceExhausted {
			return api.Errorf(api.CodeTooLarge, "the message is larger than %d bytes", MaxMessage)
		}
		if e := ended(s.ss.Context()); e != nil {
			return e
		}
		return api.Errorf(api.CodeCanceled, "the caller went away")
	}
	return nil
}

func (s *grpcStream) Recv(m api.Message) error {
	return (&frame{msg: m}).receive(s.ss)
}

// CloseSend does nothing: a handler ends its side by returning.
func (s *grpcStream) CloseSend() error { return nil }
