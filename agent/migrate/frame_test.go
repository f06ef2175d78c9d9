package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

func TestHelloArrivesAsItLeft(t *testing.T) {
	for k := Control; k < kinds; k++ {
		for _, mode := range modes {
			want := hello{kind: k, mode: mode, window: minWindow, migration: api.NewID(), token: Token{1, 31: 9}}
			b, err := want.frame()
			must.NoError(t, err)
			f, err := (&frameReader{r: bytes.NewReader(b)}).next()
			must.NoError(t, err)
			must.Eq(t, frameHello, f.t)
			got, err := parseHello(f.bytes())
			must.NoError(t, err)
			must.Eq(t, want, got)
		}
	}
	_, err := (&hello{mode: "lzma"}).frame()
	must.Eq(t, api.CodeInvalid, api.CodeOf(err))
}

func TestATokenDoesNotPrint(t *testing.T) {
	must.Eq(t, "[redacted] [redacted]", fmt.Sprintf("%v %#v", Token{1}, Token{1}))
}

func TestFramesThatEndEarly(t *testing.T) {
	b := smallFrame(frameWindow, 1, 2)
	for n := range b {
		_, err := (&frameReader{r: bytes.NewReader(b[:n])}).next()
		if n == 0 {
			must.ErrorIs(t, err, io.EOF)
		} else {
			must.ErrorIs(t, err, io.ErrUnexpectedEOF)
		}
	}
}

func TestPackingLeavesWhatCannotBePacked(t *testing.T) {
	code, err := newCodec()
	must.NoError(t, err)
	for _, n := range []int{minPack, 4 << 10, 4<<10 + 1, 32 << 10, chunkSize} {
		must.Nil(t, code.pack(noise(n)))
		p := code.pack(text(n))
		must.NotNil(t, p)
		must.Less(t, n, len(p.b)-headerSize)
		out, err := code.unpack(p.b[headerSize:], make([]byte, 0, chunkSize))
		must.NoError(t, err)
		must.True(t, bytes.Equal(text(n), out))
		p.release()
	}
}

func TestCredit(t *testing.T) {
	c := newCredit(100)
	_, err := c.take(t.Context(), 100)
	must.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.take(ctx, 1)
	must.ErrorIs(t, err, context.Canceled)
	must.NoError(t, c.give(60, 0))
	must.Error(t, c.give(41, 0))
	must.NoError(t, c.give(40, 0))
}

// FuzzFrames reads frames from bytes of anybody: it never panics, never
// allocates more than what arrived and one buffer, and unpacks to no more than a
// chunk.
func FuzzFrames(f *testing.F) {
	code, err := newCodec()
	must.NoError(f, err)
	hi, err := (&hello{kind: Memory, mode: Auto, window: maxWindow, migration: api.ID{1}, token: Token{2}}).frame()
	must.NoError(f, err)
	packed := bytes.Clone(code.pack(text(5000)).b)
	f.Add(hi)
	f.Add(packed)
	f.Add(bytes.Join([][]byte{hi, packed, smallFrame(frameZero, 4096), smallFrame(frameWindow, 1, 2), smallFrame(framePing), smallFrame(frameClose), smallFrame(frameDone), errorFrame("why")}, nil))
	f.Add(append([]byte{byte(frameZstd), 0, 0, 0, 9, 0, 2, 0, 0}, 0x28, 0xb5, 0x2f, 0xfd, 0))
	f.Add([]byte{byte(frameData), 0xff, 0xff, 0xff, 0xff})
	f.Add(smallFrame(frameAccept, 1<<31))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := frameReader{r: bytes.NewReader(b)}
		s := &stream{codec: code}
		into := make([]byte, 0, chunkSize)
		read := 0
		for {
			fr, err := in.next()
			if err != nil {
				return
			}
			read += headerSize + len(fr.bytes())
			must.LessEq(t, len(b), read)
			switch fr.t {
			case frameHello:
				h, err := parseHello(fr.bytes())
				if err == nil {
					back, err := h.frame()
					must.NoError(t, err)
					must.Eq(t, fr.bytes(), back[headerSize:])
				}
			case frameData, frameZstd, frameZero:
				out, err := s.open(fr, into)
				must.LessEq(t, chunkSize, len(out))
				var broken protocolError
				must.True(t, err == nil || errors.As(err, &broken))
			case frameAccept:
				n, err := checkWindow(uint32(fr.number(0)))
				must.True(t, err != nil || n <= maxWindow)
			}
			fr.release()
		}
	})
}
