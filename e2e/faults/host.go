package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/lab"
	"github.com/novacron/novacron/e2e/truth"
)

const (
	// haMargin is how long the old process has to be gone before the VM runs
	// elsewhere.
	haMargin = time.Second
	// haLimit is how long that may take after the host was lost: the wait for its
	// lease, and a start.
	haLimit = 120 * time.Second
)

// lost runs a VM that is to be restarted elsewhere, on the shared pool, and loses
// its host. lose returns what brings the host back, which is done once the VM
// runs elsewhere.
func (b *Bed) lost(ctx context.Context, c Cell, r *Result, lose func(ctx context.Context, h *lab.Host) (func(ctx context.Context) error, error)) {
	c.Pool, c.HA = shared, api.HARestart
	r.MayRestart, r.Least = true, haMargin.Seconds()
	if !b.watchdogs() {
		if _, err := b.CLI(ctx, "operator", "ha", "set", "-fencing", "lease-only"); err != nil {
			r.Void = err.Error()
			return
		}
	}
	b.run(ctx, c, r, func(ctx context.Context, m *move) error {
		if err := until(ctx, 60*time.Second, func(ctx context.Context) error {
			s, err := b.status(ctx, m.g.name)
			if err == nil && (s.Placement == nil || !s.Placement.Armed) {
				err = errors.New("the servers do not know that it is armed")
			}
			return err
		}); err != nil {
			return err
		}
		if _, err := m.g.counted(ctx, m.from, 30*time.Second, leastWrites); err != nil {
			return err
		}
		m.r.Hit = truth.Now()
		back, err := lose(ctx, m.from)
		if err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, haLimit)
		defer cancel()
		again, err := b.Truth.Await(wait, m.r.Hit, func(x truth.Record) bool {
			return x.VM == m.g.id && x.Host == m.to.Name && x.State == truth.Run
		})
		if err != nil {
			m.violate("HA", "it was not restarted elsewhere within %s", haLimit)
		} else {
			m.r.Restart = time.Duration(again.Time - m.r.Hit).Seconds()
		}
		var n api.NodeResponse
		if err := b.JSON(ctx, &n, "node", "status", m.from.Name); err != nil {
			return errors.Join(err, back(ctx))
		}
		if n.Node != nil && n.Node.Lost != nil {
			m.r.Detection = time.Duration(truth.At(n.Node.Lost.Time.Time()) - m.r.Hit).Seconds()
		}
		return back(ctx)
	})
}

// hostPartition cuts a host off from everybody.
func hostPartition(b *Bed, ctx context.Context, c Cell, _ *rand.Rand, r *Result) {
	b.lost(ctx, c, r, func(ctx context.Context, h *lab.Host) (func(context.Context) error, error) {
		return h.Join, h.Cut(ctx)
	})
}

// hostPowerLoss ends all of a host's processes at once; it comes back with
// another boot id.
func hostPowerLoss(b *Bed, ctx context.Context, c Cell, _ *rand.Rand, r *Result) {
	b.lost(ctx, c, r, func(ctx context.Context, h *lab.Host) (func(context.Context) error, error) {
		return b.boot(h), h.PowerOff(ctx)
	})
}

// hostFreeze stops all of a host's processes, guard and QEMU too. Its watchdog, which
// is outside of it, resets it. Without one nothing ends them, and when they go on
// the guest runs twice until the guard has come to itself: that run is a control,
// which shows what the watchdog is for, and that a double run is seen. In both the
// frozen host loses its locks: what is left to see is what NovaCron does.
func hostFreeze(b *Bed, ctx context.Context, c Cell, _ *rand.Rand, r *Result) {
	if !b.watchdogs() {
		r.Control = "the host has no watchdog, and goes on once its VM runs elsewhere"
	}
	b.lost(ctx, c, r, func(ctx context.Context, h *lab.Host) (func(context.Context) error, error) {
		if err := signalAll(h, syscall.SIGSTOP); err != nil {
			return nil, err
		}
		b.Truth.Frozen(h, true)
		if err := b.unlock(h); err != nil {
			return nil, errors.Join(err, signalAll(h, syscall.SIGCONT))
		}
		if !b.watchdogs() {
			return func(context.Context) error {
				b.Truth.Frozen(h, false)
				return signalAll(h, syscall.SIGCONT)
			}, nil
		}
		frozen, bites := time.Now(), h.Bites()
		if err := until(ctx, 2*lab.WatchdogTimeout, func(context.Context) error {
			if h.Bites() == bites {
				return fmt.Errorf("the watchdog of %s did not reset it", h.Name)
			}
			return nil
		}); err != nil {
			return nil, errors.Join(err, signalAll(h, syscall.SIGCONT))
		}
		r.Reset = time.Since(frozen).Seconds()
		return b.boot(h), nil
	})
}

// watchdogs reports whether the hosts have watchdogs.
func (b *Bed) watchdogs() bool { return len(b.Guard) > 0 }

// boot lets a host come up that has lost power.
func (b *Bed) boot(h *lab.Host) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		if err := h.PowerOff(ctx); err != nil { // what is left of one that was reset
			return err
		}
		if err := h.PowerOn(ctx); err != nil {
			return err
		}
		return h.StartAgent()
	}
}

// unbitten is L2 for a run in which no watchdog should have reset a host; one that
// was reset comes up again.
func (m *move) unbitten(ctx context.Context, before map[*lab.Host]int) {
	for h, n := range before {
		if h.Bites() == n {
			continue
		}
		m.violate("L2", "the watchdog reset %s", h.Name)
		if err := m.b.boot(h)(ctx); err != nil {
			m.violate("L1", "%s does not come up again: %v", h.Name, err)
		}
	}
}

// signalAll sends a signal to every process of a host.
func signalAll(h *lab.Host, signal syscall.Signal) error {
	first, err := h.PID1()
	if err != nil {
		return err
	}
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", first))
	if err != nil {
		return err
	}
	list, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range list {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if of, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)); err != nil || of != ns {
			continue
		}
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
