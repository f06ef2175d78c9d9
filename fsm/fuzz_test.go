package fsm

import (
	"bytes"
	"encoding/hex"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// seeds adds the golden lines of a file.
func seeds(f *testing.F, file string) {
	data, err := os.ReadFile("testdata/" + file)
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		_, enc, _ := strings.Cut(strings.TrimSpace(line), " ")
		b, err := hex.DecodeString(enc)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// Whatever stands in the log: it is applied, or it halts; it never panics, and
// what was applied is its own canonical encoding.
func FuzzEntry(f *testing.F) {
	seeds(f, "commands.golden")
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	base := busy(f)
	snap := snapshotOf(f, base.f)
	f.Fuzz(func(t *testing.T, data []byte) {
		m := New(Config{})
		m.verify = verifyCanonical
		if err := m.Restore(io.NopCloser(bytes.NewReader(snap))); err != nil {
			t.Fatal(err)
		}
		before := m.State()
		res := m.Apply(&raft.Log{Index: base.index + 1, Type: raft.LogCommand, Data: data}).(*Result)
		if m.Halted() != nil {
			if res.Err == nil || m.State() != before {
				t.Fatal("a halted state machine went on")
			}
			return
		}
		if m.Panics() != 0 {
			t.Fatalf("%v", res.Err)
		}
		invariants(t, m.State())
		env, _, _, err := m.reg.decode(data, nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := env.MarshalMsg(nil)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("applied %x, which is %x", data, again)
		}
	})
}

// Whatever a snapshot holds: it is restored and written back equal, or refused
// with the state untouched.
func FuzzSnapshot(f *testing.F) {
	seeds(f, "snapshot.golden")
	var empty bytes.Buffer
	if err := newState().Persist(&empty); err != nil {
		f.Fatal(err)
	}
	f.Add(empty.Bytes())
	f.Add([]byte(snapMagic + "\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := New(Config{})
		before := m.State()
		if err := m.Restore(io.NopCloser(bytes.NewReader(data))); err != nil {
			if m.State() != before {
				t.Fatal("a refused snapshot changed the state")
			}
			return
		}
		var again bytes.Buffer
		if err := m.State().Persist(&again); err != nil || !bytes.Equal(again.Bytes(), data) {
			t.Fatal("restored and written, the snapshot differs")
		}
	})
}
