package storage

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"io"

	"github.com/novacron/novacron/api"
)

// A volume on its way to another node is a sequence of pieces, each an offset
// (8 bytes), a length (4 bytes) and so many bytes, in rising order and without
// what is zero. The last piece has the size as its offset, the length streamEnd,
// and the SHA-256 of everything before it.
const (
	streamBlock = 256 << 10
	streamEnd   = 0xffffffff
	streamHead  = 12
)

// exporter is a volume's content as such a sequence.
type exporter struct {
	r     io.ReaderAt
	close func() error
	size  int64
	at    int64
	sum   hash.Hash
	block []byte
	rest  []byte // of the piece that is being read
	ended bool
}

// Export reads size bytes of r as Import takes them. Close calls close.
func Export(r io.ReaderAt, size int64, close func() error) io.ReadCloser {
	return &exporter{r: r, close: close, size: size, sum: sha256.New(), block: make([]byte, streamHead+streamBlock)}
}

// Positioned is what the reader of Export also is.
type Positioned interface {
	// Position is how much of the volume was read.
	Position() api.Bytes
}

var _ Positioned = (*exporter)(nil)

func (e *exporter) Position() api.Bytes { return api.Bytes(e.at) }

func (e *exporter) Close() error { return e.close() }

func (e *exporter) Read(p []byte) (int, error) {
	for len(e.rest) == 0 {
		if e.ended {
			return 0, io.EOF
		}
		if err := e.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

// next makes the next piece; one that is all zero is left out.
func (e *exporter) next() error {
	if e.at >= e.size {
		e.ended = true
		b := e.block[:streamHead]
		binary.BigEndian.PutUint64(b, uint64(e.size))
		binary.BigEndian.PutUint32(b[8:], streamEnd)
		e.sum.Write(b)
		e.rest = e.sum.Sum(b)
		return nil
	}
	n := int(min(streamBlock, e.size-e.at))
	data := e.block[streamHead : streamHead+n]
	if k, err := e.r.ReadAt(data, e.at); k < n {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	at := e.at
	e.at += int64(n)
	if allZero(data) {
		return nil
	}
	binary.BigEndian.PutUint64(e.block, uint64(at))
	binary.BigEndian.PutUint32(e.block[8:], uint32(n))
	e.rest = e.block[:streamHead+n]
	e.sum.Write(e.rest)
	return nil
}

var zeroes [4096]byte

func allZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeroes))
		if !bytes.Equal(b[:n], zeroes[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// errStream says that what came is not what was sent.
func errStream(what string) error {
	return api.Errorf(api.CodeStorage, "the volume that was sent %s", what)
}

// Import writes what Export gave to w, which must be empty, and returns the
// size. An error leaves w half written. limit is the largest size that is taken.
func Import(w io.WriterAt, r io.Reader, limit int64) (int64, error) {
	sum := sha256.New()
	buf := make([]byte, streamHead+streamBlock)
	for last := int64(-1); ; {
		if _, err := io.ReadFull(r, buf[:streamHead]); err != nil {
			return 0, cutOff(err)
		}
		at, n := binary.BigEndian.Uint64(buf), binary.BigEndian.Uint32(buf[8:])
		if at > uint64(limit) {
			return 0, errStream("is larger than it may be")
		}
		if n == streamEnd {
			sum.Write(buf[:streamHead])
			want := buf[streamHead : streamHead+sha256.Size]
			if _, err := io.ReadFull(r, want); err != nil {
				return 0, cutOff(err)
			}
			if !bytes.Equal(want, sum.Sum(nil)) {
				return 0, errStream("has another checksum")
			}
			return int64(at), nil
		}
		if n == 0 || n > streamBlock || int64(at) <= last || int64(at)+int64(n) > limit {
			return 0, errStream("is not well formed")
		}
		last = int64(at)
		piece := buf[:streamHead+n]
		if _, err := io.ReadFull(r, piece[streamHead:]); err != nil {
			return 0, cutOff(err)
		}
		sum.Write(piece)
		if _, err := w.WriteAt(piece[streamHead:], int64(at)); err != nil {
			return 0, err
		}
	}
}

func cutOff(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errStream("was cut off")
	}
	return err
}
