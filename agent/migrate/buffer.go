package migrate

import "sync"

// classes are the sizes of buffers. What a frame costs in credit is the class of
// its body, so that credit bounds memory, not only bytes.
var classes = [...]int{4 << 10, 32 << 10, chunkSize}

// slack is room for a header and for what packing adds to what cannot be packed.
const slack = 128

var pools [len(classes)]sync.Pool

// buffer is a reused piece of memory.
type buffer struct {
	b     []byte
	class int
}

func classOf(n int) int {
	for i, size := range classes {
		if n <= size {
			return i
		}
	}
	panic("migrate: no buffer is that large")
}

// newBuffer returns an empty buffer for n bytes, n <= chunkSize, and slack.
func newBuffer(n int) *buffer {
	c := classOf(n)
	if b, ok := pools[c].Get().(*buffer); ok {
		b.b = b.b[:0]
		return b
	}
	return &buffer{b: make([]byte, 0, classes[c]+slack), class: c}
}

func (b *buffer) release() { pools[b.class].Put(b) }

// costOf is what a body of n bytes costs in credit.
func costOf(n int) int { return classes[classOf(n)] }

// zeros is what a frameZero unpacks to; it is never written.
var zeros [chunkSize]byte
