package fsm

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/novacron/novacron/api"
)

// Hash is the canonical SHA-256 of everything that is replicated in a state.
// Equal logs give equal hashes on every server. It walks all records.
func (s *State) Hash() [32]byte {
	h := sha256.New()
	var buf []byte
	var head [8]byte
	binary.BigEndian.PutUint64(head[:], s.index)
	h.Write(head[:])
	for _, d := range defs {
		h.Write([]byte(d.tableName()))
		binary.BigEndian.PutUint64(head[:], uint64(d.count(s)))
		h.Write(head[:])
		err := d.each(s, func(m api.Message) error {
			var err error
			if buf, err = m.MarshalMsg(buf[:0]); err != nil {
				return err
			}
			binary.BigEndian.PutUint64(head[:], uint64(len(buf)))
			h.Write(head[:])
			h.Write(buf)
			return nil
		})
		if err != nil {
			// The encoders of our records cannot fail; a state that cannot be
			// encoded must not look equal to another.
			h.Write([]byte(err.Error()))
		}
	}
	var sum [32]byte
	h.Sum(sum[:0])
	return sum
}

// HashPoint is the state before a Hash command. Its sum is computed once, by
// whoever asks first, so that the apply goroutine is not held up.
type HashPoint struct {
	index api.Index
	once  sync.Once
	state *State
	sum   [32]byte
	made  atomic.Bool
}

func newHashPoint(s *State) *HashPoint { return &HashPoint{index: s.index, state: s} }

// Index of the state.
func (p *HashPoint) Index() api.Index { return p.index }

// Sum computes the hash on the first call and lets the state go.
func (p *HashPoint) Sum() [32]byte {
	p.once.Do(func() {
		p.sum = p.state.Hash()
		p.state = nil
		p.made.Store(true)
	})
	return p.sum
}

// Made returns the hash if somebody has computed it already.
func (p *HashPoint) Made() (sum [32]byte, ok bool) {
	if !p.made.Load() {
		return sum, false
	}
	return p.sum, true
}

// Hash asks every server to take the hash of the state before it. It carries
// the hash that the leader took at the last one: a server whose own differs
// halts. It answers a *HashPoint, whose Index and Sum go into the next one.
type Hash struct {
	Index uint64 `msg:"index,omitempty"` // 0: nothing to compare
	Sum   []byte `msg:"sum,omitempty"`
}

// CommandID is 33.
func (c *Hash) CommandID() uint16 { return cmdHash }

// Validate checks the length of the sum.
func (c *Hash) Validate() error {
	if (c.Index == 0) != (len(c.Sum) == 0) || len(c.Sum) != 0 && len(c.Sum) != 32 {
		return api.Errorf(api.CodeInvalid, "a hash has an index and 32 bytes, or neither")
	}
	return nil
}

func (c *Hash) apply(*Txn) (any, error) { return nil, nil }

// compare checks the leader's hash against ours of the same index.
func (f *FSM) compare(c *Hash) error {
	p := f.point
	if c.Index == 0 || p == nil || p.index != c.Index {
		return nil
	}
	if sum := p.Sum(); string(sum[:]) != string(c.Sum) {
		return fmt.Errorf("the state at index %d has hash %x here and %x at the leader", c.Index, sum, c.Sum)
	}
	return nil
}

// LastHash returns the point of the newest Hash command, or nil. Whoever wants
// to spare the apply goroutine calls its Sum soon.
func (f *FSM) LastHash() *HashPoint {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.point
}
