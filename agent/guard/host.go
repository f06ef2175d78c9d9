package guard

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
)

// bootID names this boot of the machine.
func bootID() (api.ID, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return api.ID{}, err
	}
	return api.ParseID(strings.TrimSpace(string(b)))
}

// realtimeBudget is how long a real-time thread may run without waiting for
// anything before the kernel ends the process: a guard that spins must not take
// the host with it. The service manager starts the next one.
const realtimeBudget = time.Second

// harden makes this process hard to delay: before every ordinary thread, in
// memory, the last to be killed for memory. What is not allowed is told, and is no
// reason not to guard. It may execute the program anew, so it comes first of all.
func harden() (warnings []string) {
	note := func(what string, err error) {
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("%s: %v", what, err))
		}
	}
	note("not real-time", realtime())
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	debug.SetGCPercent(50)
	// Memory is locked once it is used, so that it stays small; the program is locked
	// whole, so that no kill waits for a disk.
	note("memory is not locked", unix.Mlockall(unix.MCL_CURRENT|unix.MCL_FUTURE|unix.MCL_ONFAULT))
	note("the program is not locked", lockProgram())
	note("may be killed for memory", os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0))
	return warnings
}

// realtime gives SCHED_RR, at the lowest priority, to all threads.
//
// Not SCHED_FIFO: Go's runtime has threads that spin until another one of the
// process has run; of two with one FIFO priority on one CPU the other one never
// does, and the host hangs. SCHED_RR has a time slice. And not thread by thread:
// then a real-time one waits for an ordinary one, which a busy host may not let
// run. So this thread takes the policy and executes the program anew; all threads
// then have it from the start.
func realtime() error {
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return os.NewSyscallError("sched_getattr", err)
	}
	if attr.Policy == unix.SCHED_RR {
		return nil
	}
	usec := uint64(realtimeBudget / time.Microsecond)
	if err := unix.Setrlimit(unix.RLIMIT_RTTIME, &unix.Rlimit{Cur: usec, Max: usec}); err != nil {
		return os.NewSyscallError("setrlimit", err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	attr = &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: 1}
	if err := unix.SchedSetAttr(0, attr, 0); err != nil {
		return os.NewSyscallError("sched_setattr", err)
	}
	err = unix.Exec("/proc/self/exe", os.Args, os.Environ())
	back := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, 0)
	return errors.Join(os.NewSyscallError("execve", err), os.NewSyscallError("sched_setattr", back))
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
