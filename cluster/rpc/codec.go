package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tinylib/msgp/msgp"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"github.com/novacron/novacron/api"
)

const (
	// MaxMessage is the largest encoded message, in bytes.
	MaxMessage = 8 << 20
	// MaxChunk is the most data in one api.Chunk; ChunkSize is what senders
	// use.
	MaxChunk  = 256 << 10
	ChunkSize = 128 << 10
)

// codec is msgpack over api.Message.
type codec struct{}

var _ encoding.CodecV2 = codec{}

// Name is the content subtype on the wire.
func (codec) Name() string { return "nova-msgp" }

// Marshal encodes a message.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(api.Message)
	if !ok {
		return nil, fmt.Errorf("%T is not a message", v)
	}
	b, err := encode(m)
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

// Unmarshal decodes a message, or keeps it encoded in a frame.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(api.Message)
	if !ok {
		return fmt.Errorf("%T is not a message", v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	return decode(buf.ReadOnlyData(), m)
}

func encode(m api.Message) ([]byte, error) {
	return m.MarshalMsg(make([]byte, 0, m.Msgsize()))
}

// decode fills m, which must be a zero value, from all of b. What it allocates
// is bounded by the length of b.
func decode(b []byte, m api.Message) error {
	switch t := m.(type) {
	case *raw:
		*t = append(raw(nil), b...)
		return nil
	case *frame:
		if t.keep {
			t.raw = append(raw(nil), b...)
		}
		t.err = decode(b, t.msg)
		return nil // see frame
	}
	if err := CheckBytes(b); err != nil {
		return err
	}
	rest, err := m.UnmarshalMsg(b)
	if err != nil {
		return errors.New("the message does not decode")
	}
	if len(rest) > 0 {
		return errors.New("bytes follow the message")
	}
	if c, ok := m.(*api.Chunk); ok && len(c.Data) > MaxChunk {
		return errors.New("the chunk is too large")
	}
	return nil
}

// raw is a message that stays encoded: servers that only pass it on neither
// pay for decoding it nor lose fields that they do not know.
type raw []byte

var _ api.Message = (*raw)(nil)

func (r *raw) MarshalMsg(b []byte) ([]byte, error) { return append(b, *r...), nil }
func (r *raw) UnmarshalMsg(b []byte) ([]byte, error) {
	*r = append(raw(nil), b...)
	return nil, nil
}
func (r *raw) Msgsize() int { return len(*r) }

// frame is a message that came in, and its encoding when that is to be kept. A
// message that does not decode is noted in err: gRPC would answer such an error
// by itself.
type frame struct {
	msg  api.Message
	raw  raw
	keep bool
	err  error
}

var _ api.Message = (*frame)(nil)

func (f *frame) decode(b []byte) error {
	_ = decode(b, f)
	return f.err
}

func (f *frame) MarshalMsg(b []byte) ([]byte, error)   { return f.msg.MarshalMsg(b) }
func (f *frame) UnmarshalMsg(b []byte) ([]byte, error) { return nil, decode(b, f) }
func (f *frame) Msgsize() int                          { return f.msg.Msgsize() }

// Bounds of what CheckBytes lets through.
const (
	maxDepth = 64
	// A map or a list in a message may become a struct of some hundred bytes,
	// and can be one byte long on the wire. So many are always allowed, and one
	// more for every containerBytes of the message.
	freeContainers = 16 << 10
	containerBytes = 16
)

// ErrBomb is returned by CheckBytes.
var ErrBomb = errors.New("the message is malformed or would take far more memory than its length")

// CheckBytes walks over one msgpack value before anything is allocated for it:
// every length must be covered by bytes that are there, nesting is bounded,
// and so is the number of maps and lists. Generated decoders believe lengths.
func CheckBytes(b []byte) error {
	budget := freeContainers + len(b)/containerBytes
	var left [maxDepth]uint64 // values still to come at each depth
	depth := 0
	left[0] = 1
	for {
		for left[depth] == 0 {
			if depth == 0 {
				return nil // what follows the value is the caller's to refuse
			}
			depth--
		}
		left[depth]--
		if len(b) == 0 {
			return ErrBomb
		}
		n, kids, ok := span(b)
		if !ok || n > uint64(len(b)) {
			return ErrBomb
		}
		if container(b[0]) {
			if budget--; budget < 0 {
				return ErrBomb
			}
		}
		b = b[n:]
		if kids == 0 {
			continue
		}
		if depth+1 == maxDepth || kids > uint64(len(b)) {
			return ErrBomb
		}
		depth++
		left[depth] = kids
	}
}

func container(c byte) bool { return c >= 0x80 && c <= 0x9f || c >= 0xdc && c <= 0xdf }

// span returns the length of the value at the start of b without the values
// inside it, and how many of those follow.
func span(b []byte) (n, kids uint64, ok bool) {
	c := b[0]
	num := func(size int) uint64 {
		if len(b) < 1+size {
			ok = false
			return 0
		}
		switch size {
		case 1:
			return uint64(b[1])
		case 2:
			return uint64(binary.BigEndian.Uint16(b[1:]))
		}
		return uint64(binary.BigEndian.Uint32(b[1:]))
	}
	ok = true
	switch {
	case c <= 0x7f, c >= 0xe0, c == 0xc0, c == 0xc2, c == 0xc3: // small ints, nil, bool
		n = 1
	case c <= 0x8f: // small map
		n, kids = 1, 2*uint64(c&0x0f)
	case c <= 0x9f: // small list
		n, kids = 1, uint64(c&0x0f)
	case c <= 0xbf: // small text
		n = 1 + uint64(c&0x1f)
	case c == 0xc4, c == 0xd9: // bytes, text
		n = 2 + num(1)
	case c == 0xc5, c == 0xda:
		n = 3 + num(2)
	case c == 0xc6, c == 0xdb:
		n = 5 + num(4)
	case c == 0xc7: // extensions: length, type, data
		n = 3 + num(1)
	case c == 0xc8:
		n = 4 + num(2)
	case c == 0xc9:
		n = 6 + num(4)
	case c == 0xca, c == 0xce, c == 0xd2: // 4 bytes
		n = 5
	case c == 0xcb, c == 0xcf, c == 0xd3: // 8 bytes
		n = 9
	case c == 0xcc, c == 0xd0:
		n = 2
	case c == 0xcd, c == 0xd1:
		n = 3
	case c >= 0xd4 && c <= 0xd8: // fixed extensions: type and 1, 2, 4, 8, 16
		n = 2 + 1<<(c-0xd4)
	case c == 0xdc:
		n, kids = 3, num(2)
	case c == 0xdd:
		n, kids = 5, num(4)
	case c == 0xde:
		n, kids = 3, 2*num(2)
	case c == 0xdf:
		n, kids = 5, 2*num(4)
	default: // 0xc1 is never used
		ok = false
	}
	return n, kids, ok
}

var _ msgp.Marshaler = (*raw)(nil)
