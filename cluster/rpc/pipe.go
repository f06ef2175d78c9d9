package rpc

import (
	"context"
	"io"
	"sync"

	"github.com/novacron/novacron/api"
)

// serverStream is the side of a stream that a handler has. accept tells the
// caller that the call is admitted.
type serverStream interface {
	api.Stream
	accept() error
}

// pipeDepth is how many messages may be on their way in each direction.
const pipeDepth = 16

// stream is a stream within this process. Messages are encoded, so that the
// sender may use its buffers again.
type stream struct {
	up, down chan []byte
	upEnd    chan struct{} // closed by CloseSend of the near side
	admit    chan struct{}
	done     chan struct{} // closed by finish
	err      error         // set before done is closed
	endUp    sync.Once
	endAdmit sync.Once
}

// near is the caller's side, far the handler's.
type near struct {
	*stream
	ctx context.Context
	// delay stands for the network; nil means none.
	delay func(context.Context) error
}

type far struct {
	*stream
	ctx    context.Context
	cancel context.CancelFunc
	delay  func(context.Context) error
}

var (
	_ api.Stream   = (*near)(nil)
	_ serverStream = (*far)(nil)
)

func pipe(ctx context.Context) (*near, *far) {
	s := &stream{
		up: make(chan []byte, pipeDepth), down: make(chan []byte, pipeDepth),
		upEnd: make(chan struct{}), admit: make(chan struct{}), done: make(chan struct{}),
	}
	f := &far{stream: s}
	f.ctx, f.cancel = context.WithCancel(ctx)
	return &near{stream: s, ctx: ctx}, f
}

func pack(m api.Message) ([]byte, error) {
	if c, ok := m.(*api.Chunk); ok && len(c.Data) > MaxChunk {
		return nil, api.Errorf(api.CodeTooLarge, "a chunk holds at most %d bytes", MaxChunk)
	}
	b, err := encode(m)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "the message does not encode")
	}
	if len(b) > MaxMessage {
		return nil, api.Errorf(api.CodeTooLarge, "the message is larger than %d bytes", MaxMessage)
	}
	return b, nil
}

func unpack(b []byte, m api.Message) error {
	if err := decode(b, m); err != nil {
		return api.Errorf(api.CodeInvalid, "the message does not decode as %T", m)
	}
	return nil
}

// admitted waits until the call is admitted or refused.
func (n *near) admitted() (api.Stream, error) {
	select {
	case <-n.admit:
		return n, nil
	case <-n.done:
	case <-n.ctx.Done():
		return nil, ended(n.ctx)
	}
	select {
	case <-n.admit: // it was admitted and has ended since
		return n, nil
	default:
	}
	if n.err != nil {
		return nil, n.err
	}
	return n, nil
}

func (n *near) Context() context.Context { return n.ctx }

func (n *near) Send(m api.Message) error {
	b, err := pack(m)
	if err != nil {
		return err
	}
	if n.delay != nil {
		if err := n.delay(n.ctx); err != nil {
			return io.EOF
		}
	}
	select {
	case <-n.done:
		return io.EOF
	default:
	}
	select {
	case n.up <- b:
		return nil
	case <-n.done:
		return io.EOF
	case <-n.ctx.Done():
		return ended(n.ctx)
	}
}

func (n *near) Recv(m api.Message) error {
	select {
	case b := <-n.down:
		return unpack(b, m)
	default:
	}
	select {
	case b := <-n.down:
		return unpack(b, m)
	case <-n.done:
	case <-n.ctx.Done():
		return ended(n.ctx)
	}
	select {
	case b := <-n.down: // sent before the end
		return unpack(b, m)
	default:
	}
	if n.err != nil {
		return n.err
	}
	return io.EOF
}

func (n *near) CloseSend() error {
	n.endUp.Do(func() { close(n.upEnd) })
	return nil
}

func (f *far) Context() context.Context { return f.ctx }

func (f *far) accept() error {
	f.endAdmit.Do(func() { close(f.admit) })
	return nil
}

func (f *far) Send(m api.Message) error {
	b, err := pack(m)
	if err != nil {
		return err
	}
	if f.delay != nil {
		if err := f.delay(f.ctx); err != nil {
			return err
		}
	}
	if err := ended(f.ctx); err != nil {
		return err
	}
	select {
	case f.down <- b:
		return nil
	case <-f.ctx.Done():
		return ended(f.ctx)
	}
}

func (f *far) Recv(m api.Message) error {
	select {
	case b := <-f.up:
		return unpack(b, m)
	default:
	}
	select {
	case b := <-f.up:
		return unpack(b, m)
	case <-f.upEnd:
	case <-f.ctx.Done():
		return ended(f.ctx)
	}
	select {
	case b := <-f.up: // sent before the end
		return unpack(b, m)
	default:
		return io.EOF
	}
}

// CloseSend does nothing: a handler ends its side by returning.
func (f *far) CloseSend() error { return nil }

// finish ends the stream with the handler's error. Only the first counts.
func (f *far) finish(err error) {
	f.err = err
	close(f.done)
	f.cancel()
}
