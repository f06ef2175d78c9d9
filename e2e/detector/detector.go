// Package detector is the guest of the fault tests, and what reads its disk. The
// guest (boot.asm) is a boot sector that finds out by itself whether another copy
// of it has written to its disk; that catches what no control plane can see.
//
// boot.bin is boot.asm assembled (as and ld of binutils): go generate.
//
// What does not belong: running it.
package detector

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

//go:generate ./build.sh

//go:embed boot.bin
var boot []byte

const sector = 512

// Image is a raw disk that boots into the guest. The rest of it, but for the
// guest's own sectors, is what cannot be compressed.
func Image(size int) []byte {
	out := make([]byte, size)
	random := rand.NewPCG(1, 2)
	for i := 64 * sector; i+8 <= size; i += 8 {
		binary.LittleEndian.PutUint64(out[i:], random.Uint64())
	}
	copy(out, boot)
	return out
}

// State is what the guest keeps in its state sector.
type State struct {
	Boots   uint32 // how often it has booted from this disk
	Nonce   uint64 // of the present boot
	Counter uint32 // of the present boot
}

func (s State) String() string {
	return fmt.Sprintf("boot %d, nonce %016x, counter %d", s.Boots, s.Nonce, s.Counter)
}

// Verdict is what a disk says.
type Verdict struct {
	State
	// Double: the guest has found that something else has written; Own is what it
	// expected, Seen the sector that it found.
	Double bool
	Own    State
	Seen   State
}

// Parse reads the first three sectors of a disk. A disk that no guest has booted
// from has the zero State.
func Parse(disk []byte) (v Verdict, err error) {
	if len(disk) < 3*sector || !bytes.Equal(disk[:sector], boot) {
		return v, fmt.Errorf("this is no disk of the detector")
	}
	v.State, _ = state(disk[sector:])
	at := disk[2*sector:]
	if v.Double = bytes.HasPrefix(at, []byte("DBLE")); v.Double {
		v.Own, _ = state(at[4:])
		v.Seen, _ = state(at[24:])
	}
	return v, nil
}

func state(b []byte) (s State, ok bool) {
	if !bytes.HasPrefix(b, []byte("NVDT")) {
		return s, false
	}
	le := binary.LittleEndian
	return State{Boots: le.Uint32(b[4:]), Nonce: le.Uint64(b[8:]), Counter: le.Uint32(b[16:])}, true
}

// Read reads the volume of a guest that is stopped. run runs a command where path
// is known, and shares /tmp with this process.
func Read(ctx context.Context, run func(ctx context.Context, args ...string) (string, error), path, format string) (v Verdict, err error) {
	dir, err := os.MkdirTemp("/tmp", "detector")
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	raw := filepath.Join(dir, "head")
	if out, err := run(ctx, "qemu-img", "dd", "-f", format, "-O", "raw", "bs=512", "count=3", "if="+path, "of="+raw); err != nil {
		return v, fmt.Errorf("%s: %w: %s", path, err, out)
	}
	head, err := os.ReadFile(raw)
	if err != nil {
		return v, err
	}
	return Parse(head)
}

var tick = regexp.MustCompile(`T ([0-9A-F]{8}) ([0-9A-F]{8}) ([0-9A-F]{8}) ([0-9A-F]{8})\n`)

// Serial reads what the guest has shown on its serial port: its newest state, and
// whether it has told of another. False: it has shown none.
func Serial(text []byte) (s State, double, ok bool) {
	double = bytes.Contains(text, []byte("DOUBLE\n"))
	all := tick.FindAllSubmatch(text, -1)
	if len(all) == 0 {
		return s, double, false
	}
	var n [4]uint64
	for i := range n {
		n[i], _ = strconv.ParseUint(string(all[len(all)-1][i+1]), 16, 32)
	}
	return State{Boots: uint32(n[0]), Nonce: n[1]<<32 | n[2], Counter: uint32(n[3])}, double, true
}
