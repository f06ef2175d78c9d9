package migrate

import (
	"bytes"

	"github.com/klauspost/compress/zstd"
)

// codec packs and unpacks chunks. It has no goroutines and is shared by all
// streams of a Host.
type codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newCodec() (*codec, error) {
	// TLS already protects what is sent: no checksums.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(chunkSize), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	// No chunk unpacks to more than the buffer that it is unpacked into.
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxWindow(chunkSize),
		zstd.WithDecoderMaxMemory(chunkSize), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return &codec{enc, dec}, nil
}

// pack returns the whole frameZstd for a chunk, or nil when it does not become
// smaller.
func (c *codec) pack(chunk []byte) *buffer {
	out := newBuffer(len(chunk))
	out.b = append(out.b[:headerSize], 0, 0, 0, 0)
	putNumber(out.b[headerSize:], len(chunk))
	packed := c.enc.EncodeAll(chunk, out.b)
	body := len(packed) - headerSize
	if body >= len(chunk) || cap(packed) != cap(out.b) {
		out.release()
		return nil
	}
	out.b = packed
	putHeader(out.b, frameZstd, body)
	return out
}

// unpack appends to into[:0] what the body of a frameZstd holds, and fails if
// that is not as long as it says, or longer than a chunk.
func (c *codec) unpack(body, into []byte) ([]byte, error) {
	n := number(body)
	if n == 0 || n > chunkSize {
		return nil, protocolError("a chunk of a size that cannot be")
	}
	b, err := c.dec.DecodeAll(body[sizeSize:], into[:0:n])
	if err != nil || len(b) != n {
		return nil, protocolError("a chunk that does not unpack")
	}
	return b, nil
}

// isZero reports whether a chunk is worth sending as a count of zeros.
func isZero(chunk []byte) bool {
	return len(chunk) >= 4<<10 && bytes.Equal(chunk, zeros[:len(chunk)])
}
