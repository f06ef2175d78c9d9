// Package sim is a hypervisor that exists only in memory. It serves tests with
// clusters in one process, `-dev` on machines without libvirt, and thousands of
// VMs: a domain at rest costs a struct, no goroutine and no timer.
//
// Promises: it passes the same conformance suite as the real driver. The Host
// outlives its Drivers, so closing a driver and making another on the same host
// is an agent restart. All delays run on package time's clock, which
// testing/synctest makes virtual. Guests move between hosts over real byte
// streams: what is sent is what arrives, or the move fails.
//
// What does not belong: policy; anything that a real hypervisor could not do.
package sim

import (
	"cmp"
	"context"
	"net"
	"sync"
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// Options shape a Host. The zero value starts and stops guests at once.
type Options struct {
	// StartDelay is how long Start takes.
	StartDelay time.Duration
	// BootDelay is how long a guest does not yet listen to ACPI after its start.
	BootDelay time.Duration
	// ShutdownDelay is how long a guest takes to power off when asked.
	ShutdownDelay time.Duration
	// IgnoreACPI makes guests deaf to Shutdown and Reboot.
	IgnoreACPI bool

	// Control is the path of the hypervisor's socket, /run/nova-sim.sock if empty.
	// Dial and Listen connect moves and wait for them; UNIX sockets if nil.
	Control string
	Dial    func(ctx context.Context, path string) (net.Conn, error)
	Listen  func(path string) (net.Listener, error)
	// Resident is how much of a guest's memory is really sent when it moves, 1 MiB
	// if 0; never more than it has.
	Resident api.Bytes
	// Rate is how fast moves send, in bytes for each second; 0: as fast as they can.
	Rate api.Bytes
	// DirtyRate is how much memory guests write each second, until SetDirtyRate.
	DirtyRate api.Bytes
}

// Host is a simulated machine with its running guests.
type Host struct {
	opts   Options
	bus    hypervisor.Bus
	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	domains map[api.ID]*domain
	exits   map[api.ID]string
	faults  []*Fault
	down    bool
	nextPID int
	boots   int
	disks   map[string][]byte                     // contents, by path
	lives   map[*context.CancelCauseFunc]struct{} // moves under way
}

type domain struct {
	machine hypervisor.Machine
	epoch   api.Epoch
	state   api.VMState
	reason  string
	pid     int
	started time.Time // of the domain
	booted  time.Time // of the guest: a reset changes it
	ran     time.Duration
	since   time.Time // running since, zero while paused
	hub     *hypervisor.Hub
	timer   *time.Timer // a shutdown under way
	dirty   api.Bytes   // written each second
	job     *job        // it is being moved away
	in      *incoming   // it is coming in
	moved   bool        // it has come in
	inert   bool        // and has not run here
	came    *hypervisor.MoveStats
}

// NewHost makes a machine without guests. It has to be closed only if it serves,
// or moves guests.
func NewHost(o Options) *Host {
	o.Control = cmp.Or(o.Control, "/run/nova-sim.sock")
	o.Resident = cmp.Or(o.Resident, api.MiB)
	if o.Dial == nil {
		o.Dial = dialUNIX
	}
	if o.Listen == nil {
		o.Listen = listenUNIX
	}
	h := &Host{opts: o, domains: map[api.ID]*domain{}, exits: map[api.ID]string{}, disks: map[string][]byte{}, nextPID: 1000}
	h.ctx, h.cancel = context.WithCancelCause(context.Background())
	return h
}

// Len returns how many guests there are, running or paused.
func (h *Host) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.domains)
}

// Domains returns what really is there, whatever faults are injected.
func (h *Host) Domains() []hypervisor.Domain {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.list()
}

// SetDown makes the hypervisor stop answering, or answer again. The guests run
// on; moves are cut, and those that were handing the guest over stay so. When it
// comes back, subscribers get EventReconnect.
func (h *Host) SetDown(down bool) {
	h.mu.Lock()
	was := h.down
	h.down = down
	if down {
		for end := range h.lives {
			(*end)(errDown)
		}
		for _, d := range h.domains {
			d.came = nil
		}
	}
	h.mu.Unlock()
	if was && !down {
		h.bus.Publish(hypervisor.Event{Kind: hypervisor.EventReconnect})
	}
}

// Crash ends a guest as a crash of its QEMU process would.
func (h *Host) Crash(id api.ID) bool { return h.end(id, "crashed") }

// PowerOff ends a guest as if it had shut itself down.
func (h *Host) PowerOff(id api.ID) bool { return h.end(id, "shutdown") }

// Kill ends the guest of a process, as SIGKILL does; false if there is none.
func (h *Host) Kill(pid int) bool {
	id, ok := h.find(pid)
	return ok && h.Crash(id)
}

// Lives reports whether a process is there.
func (h *Host) Lives(pid int) bool {
	_, ok := h.find(pid)
	return ok
}

func (h *Host) find(pid int) (api.ID, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, d := range h.domains {
		if d.pid == pid {
			return id, true
		}
	}
	return api.ID{}, false
}

// Vanish removes a guest without an event and without a reason in the log, as
// when everything went away while nobody looked.
func (h *Host) Vanish(id api.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, ok := h.domains[id]
	if ok {
		h.remove(id, d)
		delete(h.exits, id)
	}
	return ok
}

// Reboot is a loss of power of the machine: all guests and logs of their ends
// are gone, without events.
func (h *Host) Reboot() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, d := range h.domains {
		h.remove(id, d)
	}
	clear(h.exits)
	h.boots++
}

// Boots counts the calls of Reboot: part of a simulated boot id.
func (h *Host) Boots() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.boots
}

// end takes a guest away and tells everybody.
func (h *Host) end(id api.ID, reason string) bool {
	h.mu.Lock()
	d, ok := h.domains[id]
	if ok {
		h.remove(id, d)
		h.exits[id] = reason
	}
	h.mu.Unlock()
	if ok {
		h.publish(hypervisor.Event{Kind: hypervisor.EventStopped, ID: id, Reason: reason})
	}
	return ok
}

func (h *Host) remove(id api.ID, d *domain) {
	delete(h.domains, id)
	if d.timer != nil {
		d.timer.Stop()
	}
	if d.hub != nil {
		d.hub.Close(nil)
	}
	if d.job != nil {
		d.job.end(errGone)
	}
	if d.in != nil {
		d.in.end(errGone)
	}
}

// publish loses events while the hypervisor is down, as a broken connection does.
func (h *Host) publish(e hypervisor.Event) {
	h.mu.Lock()
	down := h.down
	h.mu.Unlock()
	if !down {
		h.bus.Publish(e)
	}
}

func (h *Host) list() []hypervisor.Domain {
	out := make([]hypervisor.Domain, 0, len(h.domains))
	for id, d := range h.domains {
		out = append(out, d.view(id))
	}
	return out
}

func (d *domain) view(id api.ID) hypervisor.Domain {
	return hypervisor.Domain{
		ID: id, Namespace: d.machine.Namespace, Name: d.machine.Name, Epoch: d.epoch,
		SpecVersion: d.machine.SpecVersion, State: d.state, Reason: d.reason, PID: d.pid,
		StartTime: api.TimeOf(d.started),
	}
}

func (d *domain) pause(reason string) {
	if !d.since.IsZero() {
		d.ran += time.Since(d.since)
		d.since = time.Time{}
	}
	d.state, d.reason = api.StatePaused, reason
}

func (d *domain) run(reason string) {
	d.state, d.reason, d.since, d.inert = api.StateRunning, reason, time.Now(), false
}
