package guard

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
)

// Process names one process for good: a PID alone is used again.
type Process struct {
	PID int `json:"pid"`
	// Start is when it was started, in clock ticks since the boot: field 22 of
	// /proc/PID/stat.
	Start uint64 `json:"start"`
}

// errGone: there is no such process, or another one has its number.
var errGone = errors.New("the process is gone")

// FindProcess names the process that has a PID now. The error is fs.ErrNotExist
// if there is none.
func FindProcess(pid int) (Process, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, unix.ESRCH) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Process{}, err
	}
	start, err := startTicks(b)
	return Process{PID: pid, Start: start}, err
}

// startTicks finds field 22 of /proc/PID/stat. The command's name stands in
// parentheses and may itself hold anything.
func startTicks(stat []byte) (uint64, error) {
	i := bytes.LastIndexByte(stat, ')')
	f := bytes.Fields(stat[i+1:])
	if i < 0 || len(f) < 20 {
		return 0, errors.New("/proc/PID/stat is cut short")
	}
	return strconv.ParseUint(string(f[19]), 10, 64)
}

// belongs: the command line of a process names the VM: an argument is its UUID,
// or holds the domain's name, nova-UUID.
func belongs(cmdline []byte, vm api.ID) bool {
	uuid, name := []byte(vm.String()), []byte("nova-"+vm.String())
	for arg := range bytes.SplitSeq(cmdline, []byte{0}) {
		if bytes.Equal(arg, uuid) || bytes.Contains(arg, name) {
			return true
		}
	}
	return false
}

// process is a Killer by pidfd: the descriptor means this process and no later
// one with its number.
type process struct {
	Process
	fd   int // -1: not open yet, or gone
	gone bool
}

// openProcess opens a process and checks that it is the one that was meant.
// The error wraps errGone if it is not there (any more).
func openProcess(p Process) (*process, error) {
	k := &process{Process: p, fd: -1}
	return k, k.open()
}

func (k *process) open() error {
	if k.gone {
		return errGone
	}
	if k.fd >= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(k.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		k.gone = true
		return errGone
	}
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	// Alive after its start was read means that what was read was this process.
	is, err := FindProcess(k.PID)
	alive := !exited(fd)
	if err == nil && is == k.Process && alive {
		k.fd = fd
		return nil
	}
	_ = unix.Close(fd)
	if err == nil || errors.Is(err, fs.ErrNotExist) || !alive {
		k.gone = true
		return errGone
	}
	return err
}

// exited: the process of a pidfd has ended, or is a zombie.
func exited(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, 0)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n > 0 && p[0].Revents&unix.POLLIN != 0
		}
	}
}

func (k *process) Kill() error {
	switch err := k.open(); {
	case errors.Is(err, errGone):
		return nil
	case err != nil:
		return err
	}
	if err := unix.PidfdSendSignal(k.fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	return nil
}

// Alive is true as long as the death is not proven.
func (k *process) Alive() bool {
	if k.open() != nil {
		return !k.gone
	}
	if exited(k.fd) {
		_ = k.Close()
		k.gone = true
	}
	return !k.gone
}

func (k *process) Close() error {
	fd := k.fd
	k.fd = -1
	if fd < 0 {
		return nil
	}
	return unix.Close(fd)
}
