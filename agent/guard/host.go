package guard

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
)

// Boottime reads CLOCK_BOOTTIME, the only clock of leases: no one can set it, and
// it runs on while the machine sleeps.
func Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("CLOCK_BOOTTIME cannot be read: " + err.Error()) // exists since Linux 2.6.39
	}
	return time.Duration(ts.Nano())
}

// bootID names this boot of the machine.
func bootID() (api.ID, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return api.ID{}, err
	}
	return api.ParseID(strings.TrimSpace(string(b)))
}

// realtimePriority is above every ordinary thread and below the kernel's own.
const realtimePriority = 10

// harden makes this process hard to delay: all of it in memory, before every
// ordinary thread, the last to be killed for memory. What is not allowed is told,
// and is no reason not to guard.
func harden() (warnings []string) {
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	debug.SetGCPercent(50)
	note := func(what string, err error) {
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("%s: %v", what, err))
		}
	}
	// Memory is locked once it is used, so that it stays small; the program is locked
	// whole, so that no kill waits for a disk.
	note("memory is not locked", unix.Mlockall(unix.MCL_CURRENT|unix.MCL_FUTURE|unix.MCL_ONFAULT))
	note("the program is not locked", lockProgram())
	note("not real-time", realtime())
	note("may be killed for memory", os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0))
	return warnings
}

// lockProgram brings all of the binary into memory and keeps it there: 30 to 40
// MiB, shared with the agent, which runs from the same file.
func lockProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	for l := range strings.Lines(string(maps)) {
		var from, to uintptr
		if !strings.HasSuffix(l, " "+exe+"\n") {
			continue
		}
		if _, err := fmt.Sscanf(l, "%x-%x ", &from, &to); err != nil {
			return err
		}
		if _, _, errno := unix.Syscall(unix.SYS_MLOCK, from, to-from, 0); errno != 0 {
			return os.NewSyscallError("mlock", errno)
		}
	}
	return nil
}

// realtime gives SCHED_FIFO to all threads; those made later inherit it.
func realtime() error {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		if err != nil {
			return err
		}
		attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: realtimePriority}
		if err := unix.SchedSetAttr(tid, &attr, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return os.NewSyscallError("sched_setattr", err)
		}
	}
	return nil
}

// alarm is one timer on CLOCK_BOOTTIME; Go's own timers stand still while the
// machine sleeps. C gets a value when it rings. Its goroutine ends with Close.
type alarm struct {
	C    <-chan struct{}
	f    *os.File
	done chan struct{}
}

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	c := make(chan struct{}, 1)
	a := &alarm{C: c, f: os.NewFile(uintptr(fd), "timerfd"), done: make(chan struct{})}
	go func() {
		defer close(a.done)
		var b [8]byte
		for {
			if _, err := a.f.Read(b[:]); err != nil {
				return // closed
			}
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}()
	return a, nil
}

// Set makes it ring at a boot time, at once if that has passed.
func (a *alarm) Set(at time.Duration) error {
	raw, err := a.f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(at, 1)))}
		serr = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME, &spec, nil)
	})
	return errors.Join(err, serr)
}

func (a *alarm) Close() error {
	err := a.f.Close()
	<-a.done
	return err
}
