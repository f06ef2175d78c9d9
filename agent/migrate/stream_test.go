package migrate

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

func TestStreamCarriesBothDirectionsAndTheirEnds(t *testing.T) {
	for _, mode := range modes {
		for what, data := range map[string][]byte{
			"nothing": {}, "a byte": {7}, "text": text(3<<20 + 5), "noise": noise(3<<20 + 7), "zeros": make([]byte, 5<<20+3),
			"mixed": bytes.Join([][]byte{text(300 << 10), make([]byte, 1<<20), noise(300 << 10), text(100)}, nil),
		} {
			synctest.Test(t, func(t *testing.T) {
				l := newLink(t, Disks, mode, nil)
				go func() {
					l.source.Write(data)
					l.source.CloseWrite()
				}()
				got, err := io.ReadAll(l.target)
				must.NoError(t, err)
				must.True(t, bytes.Equal(data, got), must.Sprint(mode, what))
				// The other direction stands after the first has ended.
				time.Sleep(time.Minute)
				go func() {
					l.target.Write(data)
					l.target.CloseWrite()
				}()
				got, err = io.ReadAll(l.source)
				must.NoError(t, err)
				must.True(t, bytes.Equal(data, got), must.Sprint(mode, what))
				near, far := l.done()
				must.NoError(t, near)
				must.NoError(t, far)
			})
		}
	}
}

// A cut that nobody announces is noticed at both ends, whatever hypervisors do.
func TestSilenceClosesBothEnds(t *testing.T) {
	for _, stalled := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l := newLink(t, Memory, None, nil)
			l.flow(noise(64<<10), 1<<20)
			if stalled { // nobody reads any more, so that every buffer is full
				go l.source.Write(make([]byte, 64<<20))
				go l.target.Write(make([]byte, 64<<20))
				time.Sleep(time.Hour)
				must.Eq(t, 0, len(l.errN)+len(l.errF), must.Sprint("a hypervisor may stand still for as long as it likes"))
			}
			l.wireN.dead.Store(true)
			l.wireF.dead.Store(true)
			cut := time.Now()
			near, far := l.done()
			must.Eq(t, api.CodeUnreachable, api.CodeOf(near))
			must.Eq(t, api.CodeUnreachable, api.CodeOf(far))
			must.LessEq(t, 5*time.Second, time.Since(cut))
			_, err := io.Copy(io.Discard, l.source)
			must.NoError(t, err)
			_, err = l.target.PipeWriter.Write([]byte("x"))
			must.Error(t, err, must.Sprint("the hypervisor's sockets are closed"))
		})
	}
}

// A cut in one direction only is noticed where nothing is heard, and that end
// tells the other one by closing.
func TestSilenceInOneDirection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink(t, Control, None, nil)
		l.wireN.dead.Store(true)
		begin := time.Now()
		near, far := l.done()
		must.Error(t, near)
		must.StrContains(t, far.Error(), "nothing was heard")
		must.LessEq(t, 5*time.Second, time.Since(begin))
	})
}

func TestSlowLinkIsNotSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink(t, Memory, None, func(l *link) {
			l.wireN.rate.Store(10 << 10) // one chunk takes 13 s
		})
		l.flow(noise(128<<10), 1<<20)
	})
}

// At any point of a copy, whatever it waits for: the cap, the link, the window, or
// a hypervisor.
func TestCancelClosesEverythingWithinASecond(t *testing.T) {
	for what, change := range map[string]func(l *link){
		"the cap":  func(l *link) { l.near.limit = newBucket(1 << 10) },
		"the link": func(l *link) { l.wireN.rate.Store(1 << 10) },
		"both, and the other way": func(l *link) {
			l.near.limit = newBucket(1 << 10)
			l.wireF.rate.Store(1 << 10)
		},
		"nothing but the hypervisors": func(*link) {},
	} {
		for _, k := range []Kind{Control, Memory, Disks} {
			for _, mode := range modes {
				for _, after := range []time.Duration{0, time.Millisecond, 100 * time.Millisecond, time.Second, time.Minute} {
					synctest.Test(t, func(t *testing.T) {
						l := newLink(t, k, mode, change)
						go l.source.Write(noise(8 << 20))
						go l.target.Write(noise(8 << 20))
						time.Sleep(after)
						begin := time.Now()
						l.cancel()
						near, far := l.done()
						at := must.Sprintf("%s, %s, %s, after %s", what, k, mode, after)
						// Whichever hears of it second may see the other one close first.
						for _, err := range []error{near, far} {
							must.True(t, errors.Is(err, context.Canceled) || api.CodeOf(err) == api.CodeUnreachable, must.Sprint(err), at)
						}
						must.True(t, errors.Is(near, context.Canceled) || errors.Is(far, context.Canceled), at)
						must.LessEq(t, time.Second, time.Since(begin), at)
						_, err := l.source.Read(make([]byte, 1))
						must.Error(t, err, at)
					})
				}
			}
		}
	}
}

// Whoever does not read holds up the other hypervisor, and costs no more than the
// window.
func TestBackpressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink(t, Memory, None, nil)
		data := noise(8 << 20)
		wrote := make(chan struct{})
		go func() {
			l.source.Write(data)
			close(wrote)
		}()
		time.Sleep(time.Hour)
		select {
		case <-wrote:
			t.Error("more was taken than fits")
		default:
		}
		held, _ := l.far.queue.held()
		must.Between(t, 1<<19, held, 1<<20)
		got := make([]byte, len(data))
		_, err := io.ReadFull(l.target, got)
		must.NoError(t, err)
		must.True(t, bytes.Equal(data, got))
	})
}

// What small pieces cost is bounded as well.
func TestBackpressureOfSmallPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink(t, Disks, None, nil)
		go func() {
			for {
				if _, err := l.source.Write([]byte{1}); err != nil {
					return
				}
			}
		}()
		time.Sleep(time.Hour)
		_, frames := l.far.queue.held()
		must.Between(t, 100, frames, 1<<20/classes[0])
	})
}

func TestAFailureIsToldToTheOtherEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink(t, Disks, None, nil)
		l.target.PipeReader.CloseWithError(errors.New("the guest died"))
		go l.source.Write(text(1000))
		near, far := l.done()
		must.StrContains(t, far.Error(), "the guest died")
		must.StrContains(t, near.Error(), "the guest died")
		must.Eq(t, api.CodeHypervisor, api.CodeOf(near))
	})
	synctest.Test(t, func(t *testing.T) {
		l := newLink(t, Disks, None, nil)
		l.source.PipeWriter.CloseWithError(errors.New(strings.Repeat("a long story ", 100)))
		near, far := l.done()
		must.StrContains(t, near.Error(), "a long story")
		must.StrContains(t, far.Error(), "a long story")
	})
}

// evil is a stream whose other end is the test, which may send anything.
func evil(t *testing.T, send func(w io.Writer)) error {
	t.Helper()
	var far error
	synctest.Test(t, func(t *testing.T) {
		l := newLink(t, Memory, None, func(l *link) { l.near.conn = nil })
		w := l.wireN.Conn
		go send(w) // beside the beats of the near end, at whose ends of frames nothing stands
		_, far = l.done()
	})
	return far
}

func TestBrokenProtocolEndsTheStream(t *testing.T) {
	code, err := newCodec()
	must.NoError(t, err)
	bomb := code.enc.EncodeAll(make([]byte, 64<<20), nil) // 64 MiB of zeros in a few KiB
	raw := func(ft frameType, body []byte) []byte {
		b := make([]byte, headerSize)
		putHeader(b, ft, len(body))
		return append(b, body...)
	}
	number := func(n int) []byte {
		b := make([]byte, 4)
		putNumber(b, n)
		return b
	}
	for what, frames := range map[string][][]byte{
		"an unknown type":              {raw(99, nil)},
		"type 0":                       {raw(0, nil)},
		"a frame that is too long":     {{byte(frameData), 0xff, 0xff, 0xff, 0xff}},
		"empty data":                   {raw(frameData, nil)},
		"a greeting in the middle":     {raw(frameHello, make([]byte, helloSize))},
		"credit that was not used":     {smallFrame(frameWindow, 1, 0)},
		"data after the end":           {smallFrame(frameClose), raw(frameData, []byte{1})},
		"two ends":                     {smallFrame(frameClose), smallFrame(frameClose)},
		"a bomb that says its size":    {raw(frameZstd, append(number(64<<20), bomb...))},
		"a bomb that lies":             {raw(frameZstd, append(number(chunkSize), bomb...))},
		"zstd that is none":            {raw(frameZstd, append(number(100), "not zstd at all"...))},
		"zstd of another size":         {raw(frameZstd, append(number(100), code.enc.EncodeAll(text(99), nil)...))},
		"zeros without end":            {smallFrame(frameZero, 1<<30)},
		"no zeros":                     {smallFrame(frameZero, 0)},
		"more than the window (big)":   repeat(raw(frameData, make([]byte, chunkSize)), 20),
		"more than the window (small)": repeat(raw(frameData, []byte{1}), 1000),
		"more than the window (zeros)": repeat(smallFrame(frameZero, chunkSize), 1000),
	} {
		err := evil(t, func(w io.Writer) {
			for _, f := range frames {
				w.Write(f)
			}
		})
		var broken protocolError
		must.True(t, errors.As(err, &broken), must.Sprint(what, err))
	}
}

func repeat(b []byte, n int) (list [][]byte) {
	for range n {
		list = append(list, b)
	}
	return list
}

// held is what waits in a queue.
func (q *queue) held() (bytes, frames int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes, len(q.frames)
}
