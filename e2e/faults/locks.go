package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/e2e/lab"
)

// unlock takes the locks of a host's guests on shared disks away, as a network file
// system does to a client of which it hears nothing. The lab's hosts share a kernel,
// so that QEMU's lock would outlive every freeze, and would keep the VM from
// starting elsewhere.
func (b *Bed) unlock(h *lab.Host) error {
	taken := 0
	for _, p := range b.Truth.Processes() {
		if p.Host != h.Name {
			continue
		}
		n, err := unlockFiles(p.PID, "/shared/pool/")
		if err != nil {
			return fmt.Errorf("the locks of process %d: %w", p.PID, err)
		}
		taken += n
	}
	if taken == 0 {
		return fmt.Errorf("no guest of %s has a shared disk open", h.Name)
	}
	return nil
}

// unlockFiles releases the locks of a process on the files with this in their
// paths, and returns how many are open. QEMU's locks belong to the open file, which
// is the same one when another process gets hold of it.
func unlockFiles(pid int, path string) (n int, err error) {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(process)
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	list, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, d := range list {
		number, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if to, err := os.Readlink(filepath.Join(dir, d.Name())); err != nil || !strings.Contains(to, path) {
			continue
		}
		fd, err := unix.PidfdGetfd(process, number, 0)
		if err != nil {
			return n, os.NewSyscallError("pidfd_getfd", err)
		}
		err = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK})
		if err = errors.Join(err, unix.Close(fd)); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
