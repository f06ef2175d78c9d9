package libvirt

import (
	"bytes"
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// Config shapes the driver. The zero value suits a distribution's libvirtd.
type Config struct {
	Socket string // default /run/libvirt/libvirt-sock
	URI    string // default qemu:///system
	// Acceleration is kvm or tcg; empty or auto: kvm where it really works.
	Acceleration string
	Machine      string // machine type; default q35, else pc
	Emulator     string // default: libvirt's
	Baseline     string // CPU model of "baseline"; default kvm64, under tcg qemu64
	// LogDir is libvirt's folder of per-domain logs, /var/log/libvirt/qemu.
	LogDir string
	// NoSerialLog keeps no record of serial consoles in LogDir.
	NoSerialLog bool
	// Root is the folder with proc, dev and usr; default /.
	Root string
	// OwnNetNS counts only processes in this process's network namespace as this
	// host's: for several hosts on one machine. NetNS names another namespace than
	// this process's, like /proc/PID/ns/net.
	OwnNetNS bool
	NetNS    string
	// Timeout is the deadline of short calls that bring none (default 30s), and
	// JobTimeout that of calls that change a domain or make libvirt look at its
	// emulators (default 3m); KeepAlive is how often the event connection is tried
	// (default 5s).
	Timeout    time.Duration
	JobTimeout time.Duration
	KeepAlive  time.Duration
	Logger     *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Socket = cmp.Or(c.Socket, "/run/libvirt/libvirt-sock")
	c.URI = cmp.Or(c.URI, string(golibvirt.QEMUSystem))
	c.LogDir = cmp.Or(c.LogDir, "/var/log/libvirt/qemu")
	c.Root = cmp.Or(c.Root, "/")
	c.Timeout = cmp.Or(c.Timeout, 30*time.Second)
	c.JobTimeout = cmp.Or(c.JobTimeout, 3*time.Minute)
	c.KeepAlive = cmp.Or(c.KeepAlive, 5*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Driver is libvirt on this machine.
type Driver struct {
	cfg     Config
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	queries *link // short calls
	jobs    *link // calls that may take long: start, destroy, reboot
	bus     hypervisor.Bus

	mu       sync.Mutex
	host     *host // learned, forgotten when libvirtd restarts
	consoles map[api.ID]*console
	due      map[api.ID]*conn // starts that were not answered yet
	moves    map[api.ID]bool  // begun by Move
}

var (
	_         hypervisor.Driver    = (*Driver)(nil)
	_         hypervisor.Forgetter = (*Driver)(nil)
	_         hypervisor.Migrator  = (*Driver)(nil)
	errClosed                      = fmt.Errorf("%w: the driver is closed", hypervisor.ErrUnknown)
)

// New makes the driver and keeps it connected in the background; libvirtd need
// not be there yet.
func New(cfg Config) *Driver {
	d := &Driver{cfg: cfg.withDefaults(), consoles: map[api.ID]*console{}, due: map[api.ID]*conn{}, moves: map[api.ID]bool{}}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.queries = newLink(2, d.connect)
	d.jobs = newLink(4, d.connect)
	d.wg.Go(d.watch)
	return d
}

func (d *Driver) connect(ctx context.Context) (*conn, error) {
	return connect(ctx, &d.wg, d.cfg.Socket, d.cfg.URI)
}

// Name returns "qemu".
func (d *Driver) Name() string { return "qemu" }

// Fingerprint asks libvirt what it can do. Info.Error may hold a remark also
// when the driver is healthy: that it has no hardware acceleration, and why.
func (d *Driver) Fingerprint(ctx context.Context) (api.DriverInfo, error) {
	h, info, err := d.learn(ctx)
	if err != nil {
		info.Error = err.Error()
		return info, err
	}
	d.mu.Lock()
	d.host = h
	d.mu.Unlock()
	return info, nil
}

// known returns what was learned, and learns it if need be.
func (d *Driver) known(ctx context.Context) (*host, error) {
	d.mu.Lock()
	h := d.host
	d.mu.Unlock()
	if h != nil {
		return h, nil
	}
	h, _, err := d.learn(ctx)
	if err == nil {
		d.mu.Lock()
		d.host = h
		d.mu.Unlock()
	}
	return h, err
}

// Start makes a transient domain.
func (d *Driver) Start(ctx context.Context, m *hypervisor.Machine, paused bool) error {
	if err := m.Validate(); err != nil {
		return err
	}
	h, err := d.known(ctx)
	if err != nil {
		return err
	}
	text, err := h.domainXML(m)
	if err != nil {
		return err
	}
	if err := d.Attest(ctx, m.ID); err != nil { // never beside a process that libvirt lost
		return err
	}
	flags := golibvirt.DomainStartValidate
	if paused {
		flags |= golibvirt.DomainStartPaused
	}
	return d.create(ctx, m.ID, string(text), flags)
}

// handle names a domain for libvirt, which finds it by UUID.
func handle(id api.ID) golibvirt.Domain {
	return golibvirt.Domain{Name: domainName(id), UUID: golibvirt.UUID(id), ID: -1}
}

// lookup returns libvirt's domain, ErrNotFound or ErrUnknown. A domain with the
// UUID and another name is not NovaCron's.
func (d *Driver) lookup(ctx context.Context, id api.ID) (golibvirt.Domain, error) {
	due := d.isDue(id)
	dom, err := call(ctx, d.queries, d.cfg.Timeout, func(l *golibvirt.Libvirt) (golibvirt.Domain, error) {
		return l.DomainLookupByUUID(golibvirt.UUID(id))
	})
	if due && errors.Is(err, hypervisor.ErrNotFound) {
		return dom, errDue
	}
	if err == nil && dom.Name != domainName(id) {
		return dom, api.Errorf(api.CodeHypervisor, "the UUID belongs to domain %q, which is not NovaCron's", dom.Name)
	}
	return dom, err
}

// verb runs a call on a domain that must be there.
func (d *Driver) verb(ctx context.Context, id api.ID, f func(*golibvirt.Libvirt, golibvirt.Domain) error) error {
	dom, err := d.lookup(ctx, id)
	if err != nil {
		return err
	}
	_, err = call(ctx, d.jobs, d.cfg.JobTimeout, void(func(l *golibvirt.Libvirt) error { return f(l, dom) }))
	return err
}

// Shutdown presses the power button.
func (d *Driver) Shutdown(ctx context.Context, id api.ID) error {
	return d.verb(ctx, id, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		return l.DomainShutdownFlags(dom, golibvirt.DomainShutdownAcpiPowerBtn)
	})
}

// Destroy ends the domain. That it is gone when libvirt comes to it is what was
// wanted; libvirt may then have told nobody (it does not while it still
// reconnects to a domain after its own restart), so the driver does.
func (d *Driver) Destroy(ctx context.Context, id api.ID) error {
	dom, err := d.lookup(ctx, id)
	if err != nil {
		return err
	}
	_, err = call(ctx, d.jobs, d.cfg.JobTimeout, void(func(l *golibvirt.Libvirt) error {
		return l.DomainDestroyFlags(dom, golibvirt.DomainDestroyDefault)
	}))
	if err == nil {
		return nil
	}
	if _, e := d.lookup(ctx, id); errors.Is(e, hypervisor.ErrNotFound) {
		e := hypervisor.Event{Kind: hypervisor.EventStopped, ID: id, Reason: "destroyed"}
		d.ended(e)
		d.bus.Publish(e)
		return nil
	}
	return err
}

// Pause stops the CPUs; a domain that is paused stays so. One that came in is
// the user's from then on.
func (d *Driver) Pause(ctx context.Context, id api.ID) error {
	got, err := d.here(ctx, id)
	if err != nil {
		return err
	}
	to := movedTaken
	if got.State != api.StatePaused {
		to = ""
	}
	if err := d.verb(ctx, id, (*golibvirt.Libvirt).DomainSuspend); err != nil {
		return err
	}
	return d.mark(ctx, id, to)
}

// Resume lets the CPUs run; a domain that runs goes on.
func (d *Driver) Resume(ctx context.Context, id api.ID) error {
	got, err := d.here(ctx, id)
	if err != nil {
		return err
	}
	if got.State != api.StateRunning {
		if err := d.verb(ctx, id, (*golibvirt.Libvirt).DomainResume); err != nil {
			return err
		}
	}
	return d.mark(ctx, id, "")
}

// Reboot asks the guest by ACPI.
func (d *Driver) Reboot(ctx context.Context, id api.ID) error {
	return d.verb(ctx, id, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		return l.DomainReboot(dom, golibvirt.DomainRebootAcpiPowerBtn)
	})
}

// Reset pulls the reset line.
func (d *Driver) Reset(ctx context.Context, id api.ID) error {
	return d.verb(ctx, id, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error { return l.DomainReset(dom, 0) })
}

// List returns NovaCron's domains, in order of ID. Domains that have ended while
// it asked are left out.
func (d *Driver) List(ctx context.Context) ([]hypervisor.Domain, error) {
	all, err := call(ctx, d.queries, d.cfg.Timeout, func(l *golibvirt.Libvirt) ([]golibvirt.Domain, error) {
		doms, _, err := l.ConnectListAllDomains(1, golibvirt.ConnectListDomainsActive)
		return doms, err
	})
	if err != nil {
		return nil, err
	}
	out := make([]hypervisor.Domain, 0, len(all))
	for _, dom := range all {
		if _, ok := idOf(dom.Name); !ok {
			continue
		}
		got, err := d.view(ctx, dom)
		if errors.Is(err, hypervisor.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, got)
	}
	slices.SortFunc(out, func(a, b hypervisor.Domain) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return out, nil
}

// Get returns one domain.
func (d *Driver) Get(ctx context.Context, id api.ID) (hypervisor.Domain, error) {
	dom, err := d.lookup(ctx, id)
	if err != nil {
		return hypervisor.Domain{}, err
	}
	return d.view(ctx, dom)
}

// view asks for state and metadata. Neither waits for QEMU.
func (d *Driver) view(ctx context.Context, dom golibvirt.Domain) (hypervisor.Domain, error) {
	type seen struct {
		state, reason int32
		meta          metadataBody
	}
	s, err := call(ctx, d.queries, d.cfg.Timeout, func(l *golibvirt.Libvirt) (s seen, err error) {
		if s.state, s.reason, err = l.DomainGetState(dom, 0); err != nil {
			return s, err
		}
		s.meta, err = metadata(l, dom)
		return s, err
	})
	if err != nil {
		return hypervisor.Domain{}, err
	}
	id, _ := idOf(dom.Name)
	out := hypervisor.Domain{
		ID: id, Namespace: s.meta.Namespace, Name: s.meta.Name,
		Epoch: api.Epoch(s.meta.Epoch), SpecVersion: s.meta.Version,
	}
	out.State, out.Reason = stateOf(s.state, s.reason)
	if s.meta.MovedIn == movedWaiting {
		out.Reason = movedReason(out.State, out.Reason)
	}
	out.PID, out.StartTime = d.process(id)
	return out, nil
}

// metadata reads NovaCron's element; a domain without it has a zero one.
func metadata(l *golibvirt.Libvirt, dom golibvirt.Domain) (m metadataBody, err error) {
	text, err := l.DomainGetMetadata(dom, int32(golibvirt.DomainMetadataElement), golibvirt.OptString{Namespace}, golibvirt.DomainAffectLive)
	var e golibvirt.Error
	if errors.As(err, &e) && golibvirt.ErrorNumber(e.Code) == golibvirt.ErrNoDomainMetadata {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	var read xmlVMRead
	if xml.Unmarshal([]byte(text), &read) != nil {
		return m, nil // a hint that cannot be read is no hint
	}
	return read.metadataBody, nil
}

// SetEpoch rewrites the epoch in the metadata, of the running domain only.
func (d *Driver) SetEpoch(ctx context.Context, id api.ID, e api.Epoch) error {
	return d.verb(ctx, id, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		m, err := metadata(l, dom)
		if err != nil {
			return err
		}
		m.ID, m.Epoch = id.String(), uint64(e)
		return setMetadata(l, dom, m)
	})
}

// setMetadata replaces NovaCron's element in the running domain.
func setMetadata(l *golibvirt.Libvirt, dom golibvirt.Domain, m metadataBody) error {
	text, err := xml.Marshal(xmlVM{metadataBody: m})
	if err != nil {
		return err
	}
	return l.DomainSetMetadata(dom, int32(golibvirt.DomainMetadataElement), golibvirt.OptString{string(text)},
		golibvirt.OptString{"nova"}, golibvirt.OptString{Namespace}, golibvirt.DomainAffectLive)
}

// Events subscribes. Subscribe first, then list; EventReconnect comes whenever
// the connection to libvirt was made anew.
func (d *Driver) Events(ctx context.Context) (<-chan hypervisor.Event, error) {
	if d.ctx.Err() != nil {
		return nil, errClosed
	}
	return d.bus.Subscribe(ctx), nil
}

// Close disconnects; the guests run on.
func (d *Driver) Close() error {
	d.cancel()
	d.bus.Close()
	d.mu.Lock()
	open := make([]*console, 0, len(d.consoles))
	for _, c := range d.consoles {
		open = append(open, c)
	}
	d.mu.Unlock()
	for _, c := range open {
		c.end()
	}
	d.queries.shut()
	d.jobs.shut()
	d.cutDue()
	d.wg.Wait()
	return nil
}
