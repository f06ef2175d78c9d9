package guard

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

func TestLeaseFile(t *testing.T) {
	dir := guardDir(t)
	boot, err := bootID()
	must.NoError(t, err)
	_, ok := readLease(dir, boot)
	must.False(t, ok, must.Sprint("no file is no lease"))
	l := openLease(t, dir)
	_, ok = readLease(dir, boot)
	must.False(t, ok, must.Sprint("an empty file is no lease"))
	must.NoError(t, l.Write(3*sec, 18*sec))
	one, ok := readLease(dir, boot)
	must.True(t, ok)
	must.Eq(t, Lease{BootID: boot, Sequence: one.Sequence, Sent: 3 * sec, Deadline: 18 * sec}, one)
	must.NoError(t, l.Write(4*sec, 19*sec))
	two, _ := readLease(dir, boot)
	must.Greater(t, one.Sequence, two.Sequence)
	_, ok = readLease(dir, api.NewID())
	must.False(t, ok, must.Sprint("of another boot"))
	must.Eq(t, api.CodeInvalid, code(l.Write(4*sec, 3*sec)))
	must.Eq(t, api.CodeInvalid, code(l.Write(-1, 3*sec)))
}

func TestOneAgentWritesTheLeaseAndTheNextGoesOn(t *testing.T) {
	dir := guardDir(t)
	boot, err := bootID()
	must.NoError(t, err)
	l, err := OpenLease(dir)
	must.NoError(t, err)
	_, err = OpenLease(dir)
	must.Eq(t, api.CodeInUse, code(err))
	must.NoError(t, l.Write(1*sec, 2*sec))
	one, _ := readLease(dir, boot)
	must.NoError(t, l.Close())

	l = openLease(t, dir)
	again, _ := readLease(dir, boot)
	must.Eq(t, one, again, must.Sprint("a start of the agent changes no lease"))
	must.NoError(t, l.Write(2*sec, 3*sec))
	two, _ := readLease(dir, boot)
	must.Greater(t, one.Sequence, two.Sequence)
	must.NoError(t, os.Remove(filepath.Join(dir, leaseName)))
	fresh := openLease(t, dir)
	must.NoError(t, fresh.Write(3*sec, 4*sec))
	three, _ := readLease(dir, boot)
	must.Greater(t, two.Sequence, three.Sequence, must.Sprint("also when the file was lost"))
}

func TestALeaseFileThatWasCutShortIsAnErrorAndNoCrash(t *testing.T) {
	dir := guardDir(t)
	boot, err := bootID()
	must.NoError(t, err)
	l := openLease(t, dir)
	must.NoError(t, l.Write(1*sec, 2*sec))
	must.NoError(t, os.Truncate(filepath.Join(dir, leaseName), 0))
	must.Error(t, l.Write(2*sec, 3*sec))
	_, ok := readLease(dir, boot)
	must.False(t, ok)
}

func TestAWriterStoppedHalfwayLeavesTheNewestRecord(t *testing.T) {
	a := Lease{BootID: bootA, Sequence: 4, Sent: 1 * sec, Deadline: 2 * sec}
	b := Lease{BootID: bootA, Sequence: 5, Sent: 3 * sec, Deadline: 4 * sec}
	c := Lease{BootID: bootA, Sequence: 6, Sent: 5 * sec, Deadline: 6 * sec}
	next := appendSlot(nil, c)
	for cut := range slotSize {
		page := appendSlot(appendSlot(nil, a), b)
		copy(page[:cut], next[:cut])
		got, at, ok := parseLease(page, bootA)
		must.True(t, ok)
		must.Eq(t, b, got, must.Sprintf("after %d bytes", cut))
		must.Eq(t, 1, at)
	}
}

func TestEveryChangedBitIsSeen(t *testing.T) {
	good := appendSlot(nil, Lease{BootID: bootA, Sequence: 6, Sent: 5 * sec, Deadline: 6 * sec})
	for bit := range slotSize * 8 {
		b := bytes.Clone(good)
		b[bit/8] ^= 1 << (bit % 8)
		_, err := parseSlot(b)
		must.Error(t, err, must.Sprintf("bit %d", bit))
	}
}

func FuzzLease(f *testing.F) {
	one := appendSlot(nil, Lease{BootID: bootA, Sequence: 6, Sent: 5 * sec, Deadline: 6 * sec})
	two := appendSlot(nil, Lease{BootID: bootA, Sequence: 7, Sent: 6 * sec, Deadline: 9 * sec})
	f.Add(append(bytes.Clone(one), two...), uint8(12), uint8(40))
	f.Add(one, uint8(0), uint8(64))
	f.Add([]byte{}, uint8(1), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, from, to uint8) {
		if l, at, ok := parseLease(b, bootA); ok {
			must.Eq(t, b[at*slotSize:(at+1)*slotSize], appendSlot(nil, l), must.Sprint("one form for one record"))
			must.True(t, l.BootID == bootA && l.Sent >= 0 && l.Deadline >= l.Sent)
		}
		// Any mix of two records is one of them, or none.
		mix := bytes.Clone(one)
		lo, hi := int(from)%slotSize, int(to)%(slotSize+1)
		if lo < hi {
			copy(mix[lo:hi], two[lo:hi])
		}
		if _, err := parseSlot(mix); err == nil {
			must.True(t, bytes.Equal(mix, one) || bytes.Equal(mix, two))
		}
	})
}

func TestStateFile(t *testing.T) {
	dir := guardDir(t)
	s, err := loadState(dir)
	must.NoError(t, err)
	must.Eq(t, State{}, s, must.Sprint("none is empty"))
	want := State{
		BootID: bootA, Lease: Lease{bootA, 3, 1, 2},
		Armed:  []Armed{{Target: Target{VM: vm1, Epoch: 3, Process: p1, Cgroup: "/c"}, Doomed: true}, {Target: Target{VM: vm2, Epoch: 1, Process: p2}}},
		Proofs: []Proof{{VM: vm2, Epoch: 9, At: 5 * time.Second, Killed: true}},
	}
	must.NoError(t, saveState(dir, want))
	s, err = loadState(dir)
	must.NoError(t, err)
	must.Eq(t, want.Armed, s.Armed)
	must.Eq(t, want.Proofs, s.Proofs)
	must.Eq(t, want.Lease, s.Lease)
	b, err := os.ReadFile(filepath.Join(dir, stateName))
	must.NoError(t, err)
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		_, err = decodeState(bad)
		must.Error(t, err, must.Sprintf("byte %d", i))
	}
	must.NoError(t, os.WriteFile(filepath.Join(dir, stateName), b[:len(b)-1], 0o600))
	_, err = loadState(dir)
	must.Eq(t, api.CodeJournal, code(err), must.Sprint("what was armed is not known"))
}

func FuzzState(f *testing.F) {
	f.Add(encodeState(State{BootID: bootA, Armed: []Armed{{Target: Target{VM: vm1, Epoch: 3, Process: p1}}}}))
	f.Add([]byte("0000000000000000\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState(b)
		if err != nil {
			return
		}
		again, err := decodeState(encodeState(s))
		must.NoError(t, err)
		must.Eq(t, encodeState(s), encodeState(again))
	})
}
