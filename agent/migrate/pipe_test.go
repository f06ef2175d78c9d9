package migrate

import (
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// end is one end of a connection in memory that can be half-closed.
type end struct {
	*io.PipeReader
	*io.PipeWriter
}

func (e end) Close() error      { e.PipeReader.Close(); return e.PipeWriter.Close() }
func (e end) CloseWrite() error { return e.PipeWriter.Close() }

// socketPair stands for a UNIX socket: a hypervisor's end and the stream's.
func socketPair() (hypervisor, stream end) {
	ar, aw := io.Pipe()
	br, bw := io.Pipe()
	return end{ar, bw}, end{br, aw}
}

// wire is one end of a tunnel in memory. Its writes take the time that its rate
// (bytes in a second, 0: none) asks for; once dead they go nowhere.
type wire struct {
	net.Conn
	rate atomic.Int64
	dead atomic.Bool
}

func (w *wire) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		if w.dead.Load() {
			return len(p), nil
		}
		piece := len(p) - n
		if r := int(w.rate.Load()); r > 0 {
			piece = min(piece, max(1, r/10))
			time.Sleep(time.Duration(float64(piece) / float64(r) * float64(time.Second)))
		}
		piece, err = w.Conn.Write(p[n : n+piece])
		n += piece
	}
	return n, err
}

// link is two streams that are connected, each with a hypervisor.
type link struct {
	t          *testing.T
	near, far  *stream // near is the dialer
	wireN      *wire
	wireF      *wire
	source     end // what the near hypervisor holds
	target     end
	cancel     context.CancelFunc
	errN, errF chan error
	wg         sync.WaitGroup
}

// newLink connects two streams of a kind. change may set them up before they run.
func newLink(t *testing.T, k Kind, mode Compression, change func(l *link)) *link {
	t.Helper()
	code, err := newCodec()
	must.NoError(t, err)
	h := &Host{codec: code, silence: 4 * time.Second}
	session := func() *session {
		return &session{host: h, limit: newBucket(0), meter: &meters{newMeter(), newMeter()}}
	}
	l := &link{t: t, errN: make(chan error, 1), errF: make(chan error, 1)}
	window := 1 << 20
	l.near, l.far = session().stream(k, mode, window, window), session().stream(k, mode, window, window)
	l.near.dialer = true
	a, b := net.Pipe()
	l.wireN, l.wireF = &wire{Conn: a}, &wire{Conn: b}
	if change != nil {
		change(l)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	run := func(s *stream, w *wire, into chan error) end {
		hv, local := socketPair()
		l.wg.Go(func() {
			into <- s.run(ctx, w, func(context.Context) (duplex, error) { return local, nil })
			w.Close()
		})
		return hv
	}
	t.Cleanup(l.stop)
	l.source, l.target = run(l.near, l.wireN, l.errN), run(l.far, l.wireF, l.errF)
	return l
}

// done waits for both ends and returns how they ended.
func (l *link) done() (near, far error) {
	near, far = <-l.errN, <-l.errF
	l.wg.Wait()
	l.cancel()
	return near, far
}

// stop ends the streams.
func (l *link) stop() {
	l.cancel()
	l.wg.Wait()
}

// text is compressible data, noise is not.
func text(n int) []byte {
	b := make([]byte, 0, n+64)
	for i := 0; len(b) < n; i++ {
		b = append(b, "the page of a guest, number "...)
		b = append(b, byte(i), byte(i>>8), byte(i>>16), '\n')
	}
	return b[:n]
}

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

// flow writes pieces to one end of a link and reads them at the other, until so
// many bytes went through.
func (l *link) flow(piece []byte, total int) {
	l.t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		for sent := 0; sent < total; sent += len(piece) {
			if _, err := l.source.Write(piece); err != nil {
				return
			}
		}
	})
	want, got := sha256.New(), sha256.New()
	for n := 0; n < total; n += len(piece) {
		want.Write(piece)
	}
	n := (total + len(piece) - 1) / len(piece) * len(piece)
	_, err := io.CopyN(got, l.target, int64(n))
	must.NoError(l.t, err)
	must.Eq(l.t, want.Sum(nil), got.Sum(nil))
	wg.Wait()
}
