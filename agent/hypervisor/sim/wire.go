package sim

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"hash/crc64"
	"io"
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
)

// The source speaks to the destination's control socket in frames: four bytes of
// length, big endian, and one message in JSON. It sends prepare and gets ready;
// disks and memory then go through sockets of their own; it sends finish with the
// guest's state and gets complete. Any answer may be an error instead. A
// connection that ends before complete ends the move.
const (
	kindPrepare  = "prepare"
	kindReady    = "ready"
	kindFinish   = "finish"
	kindComplete = "complete"
	kindError    = "error"
)

// maxMessage is how long a message may be.
const maxMessage = 1 << 20

type message struct {
	Kind    string              `json:"kind"`
	Machine *hypervisor.Machine `json:"machine,omitempty"`
	Memory  string              `json:"memory,omitempty"` // paths of sockets
	Disks   string              `json:"disks,omitempty"`
	Copy    []string            `json:"copy,omitempty"` // paths of disks
	State   *state              `json:"state,omitempty"`
	Error   string              `json:"error,omitempty"`
}

// state is what a guest is besides its memory.
type state struct {
	Ran       time.Duration        `json:"ran"`
	Booted    time.Time            `json:"booted"`
	DirtyRate int64                `json:"dirty_rate"`
	Sent      int64                `json:"sent"` // bytes of memory, over all passes
	Sum       uint64               `json:"sum"`  // of them
	Stats     hypervisor.MoveStats `json:"stats"`
}

func send(w io.Writer, m *message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func receive(r io.Reader) (*message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	m := &message{}
	return m, json.Unmarshal(b, m)
}

// ask sends a message and wants an answer of a kind.
func ask(rw io.ReadWriter, m *message, want string) error {
	if err := send(rw, m); err != nil {
		return err
	}
	got, err := receive(rw)
	if err != nil {
		return err
	}
	if got.Kind == kindError {
		return fmt.Errorf("the destination: %s", got.Error)
	}
	if got.Kind != want {
		return fmt.Errorf("the destination answered %q", got.Kind)
	}
	return nil
}

// sum counts and checks a stream of memory.
type sum struct {
	hash.Hash64
	n int64
}

func newSum() *sum { return &sum{Hash64: crc64.New(crc64.MakeTable(crc64.ECMA))} }

func (s *sum) Write(p []byte) (int, error) {
	s.n += int64(len(p))
	return s.Hash64.Write(p)
}

// sendDisk and receiveDisk carry one disk: eight bytes of length, and the content.
func sendDisk(w io.Writer, content []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint64(nil, uint64(len(content))), content...))
	return err
}

// maxDisk is how much content a simulated disk may have.
const maxDisk = 64 << 20

func receiveDisk(r io.Reader) ([]byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint64(head[:])
	if n > maxDisk {
		return nil, fmt.Errorf("a disk of %d bytes", n)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}
