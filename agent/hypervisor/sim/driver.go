package sim

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// Driver is an agent's connection to a Host.
type Driver struct {
	host  *Host
	ctx   context.Context // ends with Close
	close context.CancelFunc
}

var (
	_ hypervisor.Driver    = (*Driver)(nil)
	_ hypervisor.Forgetter = (*Driver)(nil)
	_ hypervisor.Locator   = (*Driver)(nil)
)

var errClosed = fmt.Errorf("%w: the connection is closed", hypervisor.ErrUnknown)

// New connects to a host. Closing the driver leaves the host as it is.
func New(h *Host) *Driver {
	d := &Driver{host: h}
	d.ctx, d.close = context.WithCancel(context.Background())
	return d
}

func (d *Driver) alive(ctx context.Context) error {
	if d.ctx.Err() != nil {
		return errClosed
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", hypervisor.ErrUnknown, err)
	}
	return nil
}

// Name returns "sim".
func (d *Driver) Name() string { return "sim" }

// Fingerprint reports a healthy simulated hypervisor.
func (d *Driver) Fingerprint(ctx context.Context) (api.DriverInfo, error) {
	info := api.DriverInfo{Name: "sim", Version: "1", Acceleration: "tcg"}
	err := d.call(ctx, "fingerprint", api.ID{}, func() error {
		info.Healthy = true
		info.Machines = []string{"sim"}
		info.Firmware = []string{string(api.FirmwareBIOS), string(api.FirmwareUEFI)}
		info.CPUModels = []string{"sim"}
		info.Can = []string{"console", "pause", "start-paused", "migrate"}
		return nil
	})
	if err != nil {
		info.Error = err.Error()
	}
	return info, err
}

// Start makes a guest.
func (d *Driver) Start(ctx context.Context, m *hypervisor.Machine, paused bool) error {
	if err := m.Validate(); err != nil {
		return err
	}
	h := d.host
	return d.call(ctx, "start", m.ID, func() error {
		if h.opts.StartDelay > 0 {
			t := time.NewTimer(h.opts.StartDelay)
			defer t.Stop()
			select {
			case <-t.C:
			case <-ctx.Done(): // nobody waits any more, the hypervisor goes on all the same
				_ = h.start(m, paused)
				return fmt.Errorf("%w: %w", hypervisor.ErrUnknown, ctx.Err())
			}
		}
		return h.start(m, paused)
	})
}

func (h *Host) start(m *hypervisor.Machine, paused bool) error {
	h.mu.Lock()
	if _, ok := h.domains[m.ID]; ok {
		h.mu.Unlock()
		return hypervisor.ErrExists
	}
	h.nextPID++
	now := time.Now()
	c := *m
	c.Disks, c.NICs = slices.Clone(m.Disks), slices.Clone(m.NICs)
	dom := &domain{machine: c, epoch: m.Epoch, pid: h.nextPID, started: now, booted: now, dirty: h.opts.DirtyRate}
	if paused {
		dom.pause("starting-up")
	} else {
		dom.run("booted")
	}
	h.domains[m.ID] = dom
	delete(h.exits, m.ID)
	h.mu.Unlock()
	h.publish(hypervisor.Event{Kind: hypervisor.EventStarted, ID: m.ID, Reason: "booted"})
	if paused {
		h.publish(hypervisor.Event{Kind: hypervisor.EventPaused, ID: m.ID, Reason: "starting-up"})
	}
	return nil
}

// with runs f under the lock on a domain that must be there.
func (h *Host) with(id api.ID, f func(*domain) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	dom, ok := h.domains[id]
	if !ok {
		return hypervisor.ErrNotFound
	}
	return f(dom)
}

// listens reports whether the guest hears ACPI.
func (h *Host) listens(dom *domain) bool {
	return !h.opts.IgnoreACPI && dom.state == api.StateRunning && time.Since(dom.booted) >= h.opts.BootDelay
}

// Shutdown asks the guest; one that still boots, or is paused, does not hear.
func (d *Driver) Shutdown(ctx context.Context, id api.ID) error {
	h := d.host
	return d.call(ctx, "shutdown", id, func() error {
		now := false
		err := h.with(id, func(dom *domain) error {
			switch {
			case dom.state == api.StatePaused:
				return errState(dom)
			case !h.listens(dom) || dom.timer != nil:
			case h.opts.ShutdownDelay == 0:
				now = true
			default:
				dom.state, dom.reason = api.StateStopping, "user"
				dom.timer = time.AfterFunc(h.opts.ShutdownDelay, func() { h.endThis(id, dom, "shutdown") })
			}
			return nil
		})
		if now {
			h.end(id, "shutdown")
		}
		return err
	})
}

// endThis ends a guest unless it was replaced in the meantime.
func (h *Host) endThis(id api.ID, dom *domain, reason string) {
	h.mu.Lock()
	same := h.domains[id] == dom
	h.mu.Unlock()
	if same {
		h.end(id, reason)
	}
}

func errState(dom *domain) error {
	return api.Errorf(api.CodeState, "the domain is %s", dom.state)
}

// Destroy ends the guest at once.
func (d *Driver) Destroy(ctx context.Context, id api.ID) error {
	return d.call(ctx, "destroy", id, func() error {
		if !d.host.end(id, "destroyed") {
			return hypervisor.ErrNotFound
		}
		return nil
	})
}

// Pause stops the guest's CPUs; a paused guest stays so, and is the user's.
func (d *Driver) Pause(ctx context.Context, id api.ID) error {
	return d.change(ctx, "pause", id, hypervisor.EventPaused, func(dom *domain) bool {
		if dom.state == api.StatePaused {
			if dom.reason == hypervisor.ReasonComplete {
				dom.reason = "user"
			}
			return false
		}
		if dom.timer != nil {
			dom.timer.Stop()
			dom.timer = nil
		}
		dom.pause("user")
		return true
	})
}

// Resume runs a paused guest; a running one stays so.
func (d *Driver) Resume(ctx context.Context, id api.ID) error {
	return d.change(ctx, "resume", id, hypervisor.EventResumed, func(dom *domain) bool {
		if dom.state != api.StatePaused {
			return false
		}
		dom.run("unpaused")
		return true
	})
}

// Reboot asks the guest.
func (d *Driver) Reboot(ctx context.Context, id api.ID) error {
	return d.change(ctx, "reboot", id, hypervisor.EventRebooted, func(dom *domain) bool {
		return d.host.listens(dom) && dom.reboot()
	})
}

// Reset restarts the guest without asking it.
func (d *Driver) Reset(ctx context.Context, id api.ID) error {
	return d.change(ctx, "reset", id, hypervisor.EventRebooted, (*domain).reboot)
}

func (d *domain) reboot() bool {
	d.booted = time.Now()
	if d.hub != nil {
		d.hub.Write(banner(d))
	}
	return true
}

func (d *Driver) change(ctx context.Context, verb string, id api.ID, kind hypervisor.EventKind, f func(*domain) bool) error {
	h := d.host
	return d.call(ctx, verb, id, func() error {
		changed := false
		err := h.with(id, func(dom *domain) error {
			if dom.in != nil || dom.job != nil && dom.job.final {
				return errMoving()
			}
			changed = f(dom)
			return nil
		})
		if changed {
			h.publish(hypervisor.Event{Kind: kind, ID: id, Reason: "user"})
		}
		return err
	})
}

// List returns every guest, in order of ID.
func (d *Driver) List(ctx context.Context) ([]hypervisor.Domain, error) {
	var out []hypervisor.Domain
	err := d.call(ctx, "list", api.ID{}, func() error {
		out = d.host.Domains()
		slices.SortFunc(out, func(a, b hypervisor.Domain) int { return bytes.Compare(a.ID[:], b.ID[:]) })
		return nil
	})
	return out, err
}

// Get returns one guest.
func (d *Driver) Get(ctx context.Context, id api.ID) (hypervisor.Domain, error) {
	var out hypervisor.Domain
	err := d.call(ctx, "get", id, func() error {
		return d.host.with(id, func(dom *domain) error { out = dom.view(id); return nil })
	})
	return out, err
}

// Locate returns the guest's process; a PID is never used twice here.
func (d *Driver) Locate(ctx context.Context, id api.ID) (hypervisor.Process, error) {
	dom, err := d.Get(ctx, id)
	if err != nil {
		return hypervisor.Process{}, err
	}
	return hypervisor.Process{PID: dom.PID, Start: uint64(dom.PID)}, nil
}

// SetEpoch rewrites the epoch.
func (d *Driver) SetEpoch(ctx context.Context, id api.ID, e api.Epoch) error {
	return d.call(ctx, "setepoch", id, func() error {
		return d.host.with(id, func(dom *domain) error { dom.epoch = e; return nil })
	})
}

// Attest returns nil when the guest is absent.
func (d *Driver) Attest(ctx context.Context, id api.ID) error {
	return d.call(ctx, "attest", id, func() error {
		d.host.mu.Lock()
		defer d.host.mu.Unlock()
		if _, ok := d.host.domains[id]; ok {
			return hypervisor.ErrExists
		}
		return nil
	})
}

// Events subscribes.
func (d *Driver) Events(ctx context.Context) (<-chan hypervisor.Event, error) {
	if err := d.alive(ctx); err != nil {
		return nil, err
	}
	sub, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(d.ctx, cancel)
	context.AfterFunc(sub, func() { stop(); cancel() })
	return d.host.bus.Subscribe(sub), nil
}

// Console opens the console: it shows a boot banner and echoes what is typed.
func (d *Driver) Console(ctx context.Context, id api.ID) (io.ReadWriteCloser, error) {
	var rw io.ReadWriteCloser
	err := d.call(ctx, "console", id, func() error {
		return d.host.with(id, func(dom *domain) error {
			if !dom.machine.Serial {
				return api.Errorf(api.CodeConsole, "the VM has no serial console")
			}
			if dom.hub == nil {
				var hub *hypervisor.Hub
				hub = hypervisor.NewHub(func(p []byte) (int, error) { return len(p), echo(hub, p) })
				if !dom.moved { // it was shown elsewhere
					hub.Write(banner(dom))
				}
				dom.hub = hub
			}
			rw = dom.hub.Attach(ctx)
			return nil
		})
	})
	return rw, err
}

func banner(dom *domain) []byte {
	return fmt.Appendf(nil, "NovaCron simulated machine %s\r\nvm %s/%s, %d cpus, %s memory\r\n%s login: ",
		dom.machine.ID, dom.machine.Namespace, dom.machine.Name, dom.machine.CPU.Cores, dom.machine.Memory, dom.machine.Name)
}

func echo(hub *hypervisor.Hub, p []byte) error {
	_, err := hub.Write(bytes.ReplaceAll(p, []byte("\r"), []byte("\r\n")))
	return err
}

// Stats invents plausible figures from how long the guest has run.
func (d *Driver) Stats(ctx context.Context, id api.ID) (*api.VMStats, error) {
	var s *api.VMStats
	err := d.call(ctx, "stats", id, func() error {
		return d.host.with(id, func(dom *domain) error {
			ran := dom.ran
			if !dom.since.IsZero() {
				ran += time.Since(dom.since)
			}
			s = &api.VMStats{
				VMID: id, Time: api.TimeOf(time.Now()), VCPUs: dom.machine.CPU.Cores, CPUTime: api.Duration(ran / 20),
				Memory: dom.machine.Memory, MemoryRSS: dom.machine.Memory / 4,
				GuestUptime: api.Duration(time.Since(dom.booted)),
			}
			for _, disk := range dom.machine.Disks {
				s.Disks = append(s.Disks, api.IOStats{Name: disk.Name})
			}
			for i := range dom.machine.NICs {
				s.NICs = append(s.NICs, api.IOStats{Name: fmt.Sprintf("net%d", i)})
			}
			return nil
		})
	})
	return s, err
}

// LastExit tells how a guest that is gone ended.
func (d *Driver) LastExit(ctx context.Context, id api.ID) (string, bool) {
	var reason string
	var ok bool
	if d.call(ctx, "lastexit", id, func() error {
		d.host.mu.Lock()
		defer d.host.mu.Unlock()
		reason, ok = d.host.exits[id]
		return nil
	}) != nil {
		return "", false
	}
	return reason, ok
}

// Forget drops how a guest that is gone ended.
func (d *Driver) Forget(ctx context.Context, id api.ID) error {
	return d.call(ctx, "forget", id, func() error {
		d.host.mu.Lock()
		defer d.host.mu.Unlock()
		delete(d.host.exits, id)
		return nil
	})
}

// Close disconnects; the guests run on.
func (d *Driver) Close() error {
	d.close()
	return nil
}

// IDs returns the ids of all guests, for tests.
func (h *Host) IDs() []api.ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.SortedFunc(maps.Keys(h.domains), func(a, b api.ID) int { return bytes.Compare(a[:], b[:]) })
}
