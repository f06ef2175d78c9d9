package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/boottime"
)

// The lease file has two slots. A record is written to the one that does not hold
// the newest, so that a writer that is stopped halfway leaves the newest whole.
const (
	leaseName = "lease"
	leaseSize = 4096
	slotSize  = 64
	slotMagic = "NOVALSE1"
)

var crcTable = crc64.MakeTable(crc64.ECMA)

var errLease = errors.New("not a lease record")

// appendSlot writes a record: magic, boot id, sequence, sent, deadline, 8 bytes of
// zero, CRC-64 of all that; little endian.
func appendSlot(b []byte, l Lease) []byte {
	at := len(b)
	b = append(b, slotMagic...)
	b = append(b, l.BootID[:]...)
	b = binary.LittleEndian.AppendUint64(b, l.Sequence)
	b = binary.LittleEndian.AppendUint64(b, uint64(l.Sent))
	b = binary.LittleEndian.AppendUint64(b, uint64(l.Deadline))
	b = binary.LittleEndian.AppendUint64(b, 0)
	return binary.LittleEndian.AppendUint64(b, crc64.Checksum(b[at:], crcTable))
}

// parseSlot reads a record that is whole.
func parseSlot(b []byte) (Lease, error) {
	if len(b) != slotSize || string(b[:8]) != slotMagic ||
		binary.LittleEndian.Uint64(b[48:]) != 0 || binary.LittleEndian.Uint64(b[56:]) != crc64.Checksum(b[:56], crcTable) {
		return Lease{}, errLease
	}
	l := Lease{
		BootID: api.ID(b[8:24]), Sequence: binary.LittleEndian.Uint64(b[24:]),
		Sent: time.Duration(binary.LittleEndian.Uint64(b[32:])), Deadline: time.Duration(binary.LittleEndian.Uint64(b[40:])),
	}
	if l.Sent < 0 || l.Deadline < l.Sent {
		return Lease{}, errLease
	}
	return l, nil
}

// parseLease finds the newest whole record of a boot in a lease file, and its slot.
func parseLease(b []byte, boot api.ID) (Lease, int, bool) {
	var newest Lease
	at := -1
	for i := range 2 {
		if len(b) < (i+1)*slotSize {
			break
		}
		l, err := parseSlot(b[i*slotSize : (i+1)*slotSize])
		if err == nil && l.BootID == boot && (at < 0 || l.Sequence > newest.Sequence) {
			newest, at = l, i
		}
	}
	return newest, at, at >= 0
}

// readLease reads the lease file of a folder. The guard reads it and maps
// nothing: a file that somebody cuts short must not end it with SIGBUS. It opens it
// anew each time, so that a file put in its place counts.
func readLease(dir string, boot api.ID) (Lease, bool) {
	f, err := os.Open(filepath.Join(dir, leaseName))
	if err != nil {
		return Lease{}, false
	}
	var b [2 * slotSize]byte
	n, _ := f.ReadAt(b[:], 0) // a short file has fewer records
	_ = f.Close()             // it was only read
	l, _, ok := parseLease(b[:n], boot)
	return l, ok
}

// LeaseFile is the agent's hand on the lease: a mapped file, so that a write is
// a store to memory and never waits. Not for several goroutines at once.
type LeaseFile struct {
	f    *os.File
	page []byte
	boot api.ID
	last uint64 // sequence
	slot int    // of the newest record
}

// OpenLease opens the lease file in the guard's folder, or makes it. There is one
// writer on a machine: a second one gets an *api.Error with CodeInUse. Opening
// changes no lease.
func OpenLease(dir string) (*LeaseFile, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, leaseName), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(api.Errorf(api.CodeInUse, "another agent writes %s", f.Name()), f.Close())
	}
	if err := f.Truncate(leaseSize); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	page, err := unix.Mmap(int(f.Fd()), 0, leaseSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("mmap", err), f.Close())
	}
	l := &LeaseFile{f: f, page: page, boot: boot, slot: 1}
	if now, at, ok := parseLease(page, boot); ok {
		l.last, l.slot = now.Sequence, at
	}
	return l, nil
}

// Write says that the HA VMs of this host may run until deadline, by a beat that
// was sent at sent and acknowledged; both are boot times (package boottime). The guard
// believes it if sent is not ahead of now, if it lasts at most its T, and if it is
// later than what it knows.
func (l *LeaseFile) Write(sent, deadline time.Duration) error {
	if sent < 0 || deadline < sent {
		return api.Errorf(api.CodeInvalid, "a lease from %s until %s", sent, deadline)
	}
	// The boot time as the sequence outlives a file that was lost.
	seq := max(l.last+1, uint64(boottime.Now()))
	slot := 1 - l.slot
	b := appendSlot(make([]byte, 0, slotSize), Lease{BootID: l.boot, Sequence: seq, Sent: sent, Deadline: deadline})
	if err := store(l.page[slot*slotSize:], b); err != nil {
		return err
	}
	l.last, l.slot = seq, slot
	return nil
}

// store copies to mapped memory; a file that was cut short is an error.
func store(to, from []byte) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the lease file cannot be written: %v", r)
		}
	}()
	copy(to, from)
	return nil
}

// Close ends the writing; the lease runs out by itself.
func (l *LeaseFile) Close() error {
	return errors.Join(unix.Munmap(l.page), l.f.Close())
}
