package migrate

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A tunnel carries frames: a type, a length of 4 bytes (big endian), a body. The
// first frame of the dialer is hello, the first answer accept or error.
type frameType byte

const (
	frameHello  frameType = 1 + iota // who this is: see hello
	frameAccept                      // window (4 bytes) that the acceptor grants
	frameData                        // bytes of the stream
	frameZstd                        // length when unpacked (4 bytes), one zstd frame
	frameZero                        // so many zero bytes (4 bytes)
	frameWindow                      // credit given back (4 bytes), bytes still queued (4 bytes)
	framePing                        // the sender is alive
	frameClose                       // no more data: half-close
	frameDone                        // all was sent, and all that came was delivered
	frameError                       // the stream has failed: why, as text
	frameTypes                       // how many there are, and 0
)

const (
	headerSize = 5
	sizeSize   = 4 // of a number in a body
	// chunkSize bounds what one frame carries, packed and unpacked.
	chunkSize = 128 << 10
	maxReason = 256
)

// bodies are the lengths that the bodies of a type may have.
var bodies = [frameTypes]struct{ min, max int }{
	frameHello:  {helloSize, helloSize},
	frameAccept: {sizeSize, sizeSize},
	frameData:   {1, chunkSize},
	frameZstd:   {sizeSize + 1, chunkSize},
	frameZero:   {sizeSize, sizeSize},
	frameWindow: {2 * sizeSize, 2 * sizeSize},
	frameError:  {0, maxReason},
}

// protocolError is what the other end must never send.
type protocolError string

func (e protocolError) Error() string { return "the other end breaks the protocol: " + string(e) }

// putHeader writes a header into the first headerSize bytes of b.
func putHeader(b []byte, t frameType, n int) {
	b[0] = byte(t)
	putNumber(b[1:], n)
}

// parseHeader checks a header; the length is within the type's bounds.
func parseHeader(b []byte) (frameType, int, error) {
	t, n := frameType(b[0]), binary.BigEndian.Uint32(b[1:headerSize])
	if t == 0 || t >= frameTypes {
		return 0, 0, protocolError(fmt.Sprintf("frame of type %d", t))
	}
	if lim := bodies[t]; uint64(n) < uint64(lim.min) || uint64(n) > uint64(lim.max) {
		return 0, 0, protocolError(fmt.Sprintf("frame of type %d with %d bytes", t, n))
	}
	return t, int(n), nil
}

// frame is one frame that was read. body is owned by whoever has the frame, who
// releases it.
type frame struct {
	t    frameType
	body *buffer // nil when it is empty
}

func (f frame) bytes() []byte {
	if f.body == nil {
		return nil
	}
	return f.body.b
}

// number returns number i of the body.
func (f frame) number(i int) int { return number(f.bytes()[i*sizeSize:]) }

func (f frame) release() {
	if f.body != nil {
		f.body.release()
	}
}

// frameReader reads frames. It allocates no more than what arrives, rounded up
// to a class of buffers.
type frameReader struct {
	r      io.Reader
	header [headerSize]byte
}

// next reads one frame; io.EOF only between frames.
func (r *frameReader) next() (frame, error) {
	if _, err := io.ReadFull(r.r, r.header[:]); err != nil {
		return frame{}, err
	}
	t, n, err := parseHeader(r.header[:])
	if err != nil || n == 0 {
		return frame{t: t}, err
	}
	body := newBuffer(n)
	body.b = body.b[:n]
	if _, err := io.ReadFull(r.r, body.b); err != nil {
		body.release()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	return frame{t, body}, nil
}

func number(b []byte) int { return int(binary.BigEndian.Uint32(b)) }

func putNumber(b []byte, n int) { binary.BigEndian.PutUint32(b, uint32(n)) }

// smallFrame makes a frame with numbers for a body.
func smallFrame(t frameType, numbers ...int) []byte {
	b := make([]byte, headerSize, headerSize+len(numbers)*sizeSize)
	putHeader(b, t, len(numbers)*sizeSize)
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	}
	return b
}

// errorFrame makes a frame that says why a stream failed.
func errorFrame(why string) []byte {
	why = why[:min(len(why), maxReason)]
	b := make([]byte, headerSize, headerSize+len(why))
	putHeader(b, frameError, len(why))
	return append(b, why...)
}
