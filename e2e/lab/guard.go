package lab

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/novacron/novacron/e2e/watchdog"
)

// WatchdogTimeout is that of the hosts' watchdogs: what a guard sets by default.
const WatchdogTimeout = 10 * time.Second

// device is the hardware watchdog of a host that is on.
type device struct {
	fifo *os.File
	done chan struct{} // closed when it has ended
}

// guarded reports whether the host has a watchdog, and a guard as a service.
func (h *Host) guarded() bool { return h.Libvirt && len(h.lab.Guard) > 0 }

// plugWatchdog makes the host's watchdog, which cuts its power when it bites.
func (h *Host) plugWatchdog(first *exec.Cmd) error {
	path := filepath.Join(h.Dir(), "watchdog")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		return &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	// Open for both, it never ends because nobody has it open for writing.
	fifo, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	d := &device{fifo, make(chan struct{})}
	h.watchdog = d
	go func() {
		defer close(d.done)
		watchdog.Watch(fifo, WatchdogTimeout, func() {
			if h.init.CompareAndSwap(first, nil) {
				h.lab.logf("%s: its watchdog cuts its power", h.Name)
				_ = cutPower(first)
				h.bites.Add(1)
			}
		})
	}()
	return nil
}

// unplugWatchdog ends the watchdog of a host that is off.
func (h *Host) unplugWatchdog() error {
	d := h.watchdog
	if d == nil {
		return nil
	}
	h.watchdog = nil
	err := d.fifo.Close()
	<-d.done
	return err
}

// Bites is how often the host's watchdog has cut its power. The host is then off,
// as after PowerOff, which still has to be called before PowerOn.
func (h *Host) Bites() int { return int(h.bites.Load()) }

// startGuard starts the host's guard as its service manager would.
func (h *Host) startGuard(ctx context.Context) error {
	_, err := h.Run(ctx, slices.Concat([]string{"sh", "-c", `exec setsid -f "$@" >>"$0" 2>&1 </dev/null`, filepath.Join(h.Dir(), "guard.log")},
		h.lab.Guard, []string{filepath.Join(h.Dir(), "watchdog")})...)
	return err
}
