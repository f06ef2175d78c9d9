package migrate

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
)

// duplex is a hypervisor's side of a stream.
type duplex interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// stream carries one connection of a hypervisor through one tunnel. Four
// goroutines move bytes (send and deliver on the hypervisor's side, receive and
// beat on the tunnel's), one closes both sockets when the stream ends; run waits
// for them.
type stream struct {
	dialer  bool          // this end opened the tunnel, and closes it first
	silence time.Duration // without a byte from the other end, until it is taken for lost
	count   *counters
	limit   *bucket // nil: no cap
	meter   *meters // nil: not metered
	codec   *codec
	choice  *chooser // nil: never packs
	credit  *credit
	queue   *queue

	conn  net.Conn
	ctx   context.Context
	end   context.CancelCauseFunc
	write chan struct{} // holds a value while somebody writes to conn

	mu       sync.Mutex
	failed   error // of this end: what the other one then does is no news
	halves   int   // directions of the hypervisor that are complete
	sent     bool  // frameDone was sent
	received bool  // frameDone was received
}

// errEnded: both directions are complete.
var errEnded = errors.New("the stream has ended")

// run moves bytes until both directions are complete (nil), something fails or
// the context ends. open connects to the hypervisor, and may take its time. run
// closes the tunnel and the hypervisor's connection.
func (s *stream) run(ctx context.Context, conn net.Conn, open func(context.Context) (duplex, error)) error {
	s.ctx, s.end = context.WithCancelCause(ctx)
	s.conn, s.write = conn, make(chan struct{}, 1)
	keepShort(conn)
	s.count.opened.Add(1)
	s.count.open.Add(1)
	defer s.count.open.Add(-1)
	var wg sync.WaitGroup
	wg.Go(s.receive)
	wg.Go(s.beat)
	wg.Go(func() {
		<-s.ctx.Done()
		closeNow(s.conn)
	})
	if local, err := open(s.ctx); err != nil {
		s.fail(err)
	} else {
		wg.Go(func() {
			<-s.ctx.Done()
			local.Close()
		})
		wg.Go(func() { s.send(local) })
		wg.Go(func() { s.deliver(local) })
	}
	wg.Wait()
	s.queue.drop()
	if err := context.Cause(s.ctx); err != errEnded {
		return err
	}
	return nil
}

// unsent is how much may wait in the kernel before it is on its way. What waits
// there adds to a guest's downtime, and hides from chooser how slow a link is.
const unsent = 256 << 10

// keepShort bounds what waits in the kernel, where there is one.
func keepShort(c net.Conn) {
	t, ok := c.(interface{ NetConn() net.Conn })
	if !ok {
		return
	}
	tcp, ok := t.NetConn().(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		// A kernel without it queues more, and that is all.
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent) })
	}
}

// closeNow closes a connection without TLS's farewell, for which a full socket
// would make it wait.
func closeNow(c net.Conn) {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		t.NetConn().Close()
	}
	c.Close()
}

// farewell is how long a failing stream tries to say why.
const farewell = 250 * time.Millisecond

// fail ends the stream because of this end, and tries to tell the other why.
func (s *stream) fail(err error) {
	if s.ctx.Err() == nil {
		s.mu.Lock()
		if s.failed == nil {
			s.failed = err
		}
		s.mu.Unlock()
		t := time.NewTimer(farewell)
		defer t.Stop()
		select {
		case s.write <- struct{}{}:
			s.conn.SetWriteDeadline(time.Now().Add(farewell))
			s.conn.Write(errorFrame(err.Error()))
			// Nothing is written after it: the lock is kept.
		case <-t.C:
		case <-s.ctx.Done():
		}
	}
	s.end(err)
}

// lost ends the stream because of the tunnel.
func (s *stream) lost(err error) {
	var broken protocolError
	s.mu.Lock()
	failed := s.failed
	s.mu.Unlock()
	switch {
	case failed != nil:
		err = failed
	case s.over():
		err = errEnded
	case errors.As(err, &broken):
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = api.Errorf(api.CodeUnreachable, "nothing was heard from the other node for %s", s.silence)
	case err == io.EOF:
		err = api.Errorf(api.CodeUnreachable, "the other node ended the connection")
	default:
		err = api.Errorf(api.CodeUnreachable, "the connection to the other node broke: %v", err)
	}
	s.end(err)
}

// put writes whole frames to the tunnel.
func (s *stream) put(b []byte) bool {
	select {
	case s.write <- struct{}{}:
	case <-s.ctx.Done():
		return false
	}
	_, err := s.conn.Write(b)
	<-s.write
	if err != nil {
		s.lost(err)
		return false
	}
	s.count.wireSent.Add(int64(len(b)))
	if s.meter != nil {
		s.meter.wire.add(int64(len(b)))
	}
	return true
}

// beat shows the other end that this one is alive.
func (s *stream) beat() {
	t := time.NewTicker(s.silence / keepalives)
	defer t.Stop()
	ping := smallFrame(framePing)
	for {
		select {
		case <-t.C:
			if !s.put(ping) {
				return
			}
		case <-s.ctx.Done():
			return
		}
	}
}

// listener reads from a tunnel for as long as it is not silent.
type listener struct {
	*stream
	armed time.Time
}

func (l *listener) Read(p []byte) (int, error) {
	// Arming for each piece would cost more than it tells.
	if now := time.Now(); now.Sub(l.armed) > l.silence/16 {
		l.armed = now
		l.conn.SetReadDeadline(now.Add(l.silence))
	}
	n, err := l.conn.Read(p)
	l.count.wireRecv.Add(int64(n))
	if l.meter != nil {
		l.meter.wire.add(int64(n))
	}
	return n, err
}

// receive reads the tunnel. It never waits for the hypervisor.
func (s *stream) receive() {
	in := frameReader{r: &listener{stream: s}}
	closed := false
	for {
		f, err := in.next()
		if err != nil {
			s.lost(err)
			return
		}
		switch f.t {
		case frameData, frameZstd, frameZero, frameClose:
			if closed {
				f.release()
				s.lost(protocolError("data after the end of data"))
				return
			}
			closed = f.t == frameClose
			if err := s.queue.push(f); err != nil {
				f.release()
				s.lost(err)
				return
			}
			continue // the queue has it
		case frameWindow:
			err = s.credit.give(f.number(0), f.number(1))
		case framePing:
		case frameDone:
			s.noteDone()
		case frameError:
			err = api.Errorf(api.CodeHypervisor, "the other node: %q", f.bytes())
			s.end(err)
		default:
			err = protocolError("a greeting in the middle")
		}
		f.release()
		if err != nil {
			s.lost(err)
			return
		}
	}
}

// send takes from the hypervisor and puts into the tunnel.
func (s *stream) send(local duplex) {
	buf := newBuffer(chunkSize)
	defer buf.release()
	b := buf.b[:headerSize+chunkSize]
	for {
		n, err := local.Read(b[headerSize:])
		if n > 0 && !s.chunk(b[:headerSize+n]) {
			return
		}
		if err == io.EOF {
			if s.put(smallFrame(frameClose)) {
				s.half()
			}
			return
		}
		if err != nil {
			s.fail(hypervisorError(err))
			return
		}
	}
}

// hypervisorError is what happened to a hypervisor's connection.
func hypervisorError(err error) error {
	return api.Errorf(api.CodeHypervisor, "the hypervisor's connection broke: %v", err)
}

// minPack is the smallest chunk that packing is tried on.
const minPack = 512

// chunk sends one chunk; b has room for the header in front of it.
func (s *stream) chunk(b []byte) bool {
	raw := b[headerSize:]
	begin := time.Now()
	putHeader(b, frameData, len(raw))
	out := b
	zero, packed := false, false
	if s.choice != nil {
		if zero = isZero(raw); zero {
			out = smallFrame(frameZero, len(raw))
		} else if s.choice.pack && len(raw) >= minPack {
			if p := s.codec.pack(raw); p != nil {
				defer p.release()
				out, packed = p.b, true
			}
		}
	}
	took := time.Since(begin)
	link, err := s.credit.take(s.ctx, costOf(len(out)-headerSize))
	if err != nil {
		return false
	}
	if !link {
		begin = time.Now() // what was waited for is the other hypervisor
	} else {
		begin = begin.Add(took)
	}
	if s.limit != nil && s.limit.take(s.ctx, len(out)) != nil {
		return false
	}
	if !s.put(out) {
		return false
	}
	now := time.Now()
	s.count.rawSent.Add(int64(len(raw)))
	switch {
	case zero:
		s.count.zerosSent.Add(int64(len(raw)))
	case packed:
		s.count.packedSent.Add(int64(len(raw)))
	}
	if s.meter != nil {
		s.meter.raw.add(int64(len(raw)))
	}
	if s.choice != nil && !zero {
		s.choice.note(now, len(raw), len(out), took+now.Sub(begin))
	}
	return true
}

// deliver gives the hypervisor what came.
func (s *stream) deliver(local duplex) {
	buf := newBuffer(chunkSize)
	defer buf.release()
	for {
		f, err := s.queue.pop(s.ctx)
		if err != nil {
			return
		}
		if f.t == frameClose {
			// One that is gone altogether will show itself in the other direction.
			local.CloseWrite()
			s.half()
			return
		}
		cost := costOf(len(f.bytes()))
		b, err := s.open(f, buf.b)
		if err != nil {
			f.release()
			s.lost(err)
			return
		}
		_, err = local.Write(b)
		f.release()
		if err != nil {
			s.fail(hypervisorError(err))
			return
		}
		s.count.rawRecv.Add(int64(len(b)))
		if s.meter != nil {
			s.meter.raw.add(int64(len(b)))
		}
		if back, backlog := s.queue.done(cost); back > 0 && !s.put(smallFrame(frameWindow, back, backlog)) {
			return
		}
	}
}

// open returns the bytes of a chunk, unpacked into a buffer if need be.
func (s *stream) open(f frame, into []byte) ([]byte, error) {
	switch f.t {
	case frameZstd:
		return s.codec.unpack(f.bytes(), into)
	case frameZero:
		n := f.number(0)
		if n == 0 || n > chunkSize {
			return nil, protocolError("a chunk of a size that cannot be")
		}
		return zeros[:n], nil
	}
	return f.bytes(), nil
}

// half notes that one direction is complete. When both are, the other end is
// told. The dialer closes first; the acceptor reads until then, so that nothing
// that is on its way is lost to a reset.
func (s *stream) half() {
	s.mu.Lock()
	s.halves++
	both := s.halves == 2
	if both && !s.dialer {
		s.sent = true // from now on the dialer may close
	}
	s.mu.Unlock()
	if !both || !s.put(smallFrame(frameDone)) {
		return
	}
	s.mu.Lock()
	s.sent = true
	s.mu.Unlock()
	if s.dialer && s.over() {
		s.end(errEnded)
	}
}

// noteDone notes that the other end has nothing more to do.
func (s *stream) noteDone() {
	s.mu.Lock()
	s.received = true
	s.mu.Unlock()
	if s.dialer && s.over() {
		s.end(errEnded)
	}
}

// over reports whether all was done on both ends: how the tunnel ends does not
// matter then.
func (s *stream) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent && s.received
}
