package libvirt

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

const (
	// syncWrites is the libvirt since which copied disks can be mirrored by
	// synchronous writes, which end however fast the guest writes.
	syncWrites = 8000000
	// abortAgain is how often a job is told to end until it does: at first there
	// may be none yet.
	abortAgain = 250 * time.Millisecond
	// maxSocket is how long the path of a UNIX socket may be.
	maxSocket = 107
)

// plan is what goes to libvirt for one move.
type plan struct {
	dom    golibvirt.Domain
	to     string // connection URI of the destination
	params []golibvirt.TypedParam
	flags  golibvirt.DomainMigrateFlags
}

// ControlSocket is where libvirtd listens.
func (d *Driver) ControlSocket() string { return d.cfg.Socket }

// Move moves a domain, peer to peer: libvirtd carries on even if this process
// dies, and then leaves the domain paused at the destination. The call has a
// connection of its own. It has no deadline but the context's; when that has
// ended the job is told to end, and what came of it is awaited for as long as
// libvirtd answers.
func (d *Driver) Move(ctx context.Context, id api.ID, m *hypervisor.Move) error {
	if err := d.beginMove(id); err != nil {
		return err
	}
	defer d.endMove(id)
	p, err := d.plan(ctx, id, m)
	if err != nil {
		return err
	}
	open, stop := context.WithTimeout(ctx, d.cfg.Timeout)
	defer stop()
	cn, err := d.connect(open)
	if err != nil {
		return err
	}
	defer cn.bye()
	unhook := context.AfterFunc(d.ctx, cn.close)
	defer unhook()
	stopped := d.leaving(id, m.Gone)
	defer stopped()
	return d.outcome(ctx, id, d.perform(ctx, cn, p))
}

// beginMove notes that a move is under way; a second one is refused.
func (d *Driver) beginMove(id api.ID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx.Err() != nil {
		return errClosed
	}
	if d.moves[id] {
		return errMoving
	}
	d.moves[id] = true
	return nil
}

func (d *Driver) endMove(id api.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.moves, id)
}

var errMoving = api.Errorf(api.CodeMigrating, "the domain is being moved")

// plan looks at the domain and makes the call.
func (d *Driver) plan(ctx context.Context, id api.ID, m *hypervisor.Move) (*plan, error) {
	if m.Machine == nil || m.Machine.ID != id {
		return nil, api.Errorf(api.CodeInvalid, "the machine for the destination is missing or another")
	}
	sockets := []string{m.Control, m.Memory}
	if len(m.Copy) > 0 {
		sockets = append(sockets, m.Disks)
	}
	for _, s := range sockets {
		if !filepath.IsAbs(s) || len(s) > maxSocket {
			return nil, api.Errorf(api.CodeInvalid, "the path of a socket must be absolute and at most %d bytes: %q", maxSocket, s)
		}
	}
	got, err := d.here(ctx, id)
	if err != nil {
		return nil, err
	}
	if busy, err := d.moving(ctx, id); err != nil || busy {
		return nil, cmp.Or(err, error(errMoving))
	}
	h, err := d.known(ctx)
	if err != nil {
		return nil, err
	}
	p := &plan{dom: handle(id), to: dconnURI(d.cfg.URI, m.Control)}
	text, err := call(ctx, d.queries, d.cfg.Timeout, func(l *golibvirt.Libvirt) (string, error) {
		return l.DomainGetXMLDesc(p.dom, golibvirt.DomainXMLMigratable|golibvirt.DomainXMLSecure)
	})
	if err != nil {
		return nil, err
	}
	live, err := parseLive(text)
	if err != nil {
		return nil, err
	}
	if live.Metadata.VM.MovedIn != "" && got.State == api.StatePaused {
		return nil, api.Errorf(api.CodeState, "the guest came here paused and has not run since").
			WithHint("resume it first: QEMU would crash")
	}
	if err := p.fill(h, live, m); err != nil {
		return nil, err
	}
	if m.MaxDowntime > 0 {
		err = d.verb(ctx, id, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
			return l.DomainMigrateSetMaxDowntime(dom, milliseconds(m.MaxDowntime), 0)
		})
	}
	return p, err
}

// fill makes parameters and flags from the running domain's XML.
func (p *plan) fill(h *host, live *liveDomain, m *hypervisor.Move) error {
	want, err := h.domain(m.Machine)
	if err != nil {
		return err
	}
	var copied []string
	for _, name := range m.Copy {
		i := slices.IndexFunc(want.Metadata.VM.Disks, func(x xmlVMDisk) bool { return x.Name == name })
		if i < 0 {
			return api.Errorf(api.CodeInvalid, "there is no disk %q to copy", name)
		}
		copied = append(copied, want.Metadata.VM.Disks[i].Dev)
	}
	uncached, unsafe := live.uncached(), false
	for _, disk := range want.Devices.Disks {
		dev := disk.Target.Dev
		switch {
		case disk.ReadOnly != nil, slices.Contains(copied, dev):
		case disk.Driver.Cache != "none" || !slices.Contains(uncached, dev):
			return api.Errorf(api.CodeMigration, "disk %s is neither copied nor shared without a cache", dev).
				WithHint("copy it, or put it on a shared pool and restart the VM there")
		default: // libvirt knows few shared file systems; this one was proven
			unsafe = true
		}
	}
	log := ""
	if h.logDir != "" {
		log = h.serialLog(m.Machine.ID)
	}
	if m.SerialLog != "" {
		log = m.SerialLog
	}
	thin := live.thin(want, copied)
	if err := live.retarget(want, copied, log); err != nil {
		return err
	}
	out, err := xml.Marshal(live)
	if err != nil {
		return err
	}
	p.flags = golibvirt.MigratePeer2peer | golibvirt.MigrateLive | golibvirt.MigratePaused |
		golibvirt.MigrateChangeProtection | golibvirt.MigrateAbortOnError
	p.text(golibvirt.MigrateParamURI, socketURI(m.Memory))
	p.text(golibvirt.MigrateParamDestXML, string(out))
	if m.AutoConverge {
		p.flags |= golibvirt.MigrateAutoConverge
	}
	if unsafe {
		p.flags |= golibvirt.MigrateUnsafe
	}
	if len(copied) == 0 {
		return nil
	}
	if thin {
		p.flags |= golibvirt.MigrateNonSharedInc
	} else {
		p.flags |= golibvirt.MigrateNonSharedDisk
	}
	if h.lib >= syncWrites {
		p.flags |= golibvirt.MigrateNonSharedSynchronousWrites
	}
	p.text(golibvirt.MigrateParamDisksURI, socketURI(m.Disks))
	for _, dev := range copied {
		p.text(golibvirt.MigrateParamMigrateDisks, dev)
	}
	return nil
}

func (p *plan) text(field, value string) {
	p.params = append(p.params, golibvirt.TypedParam{Field: field, Value: *golibvirt.NewTypedParamValueString(value)})
}

func socketURI(path string) string { return (&url.URL{Scheme: "unix", Path: path}).String() }

// dconnURI is how the source's libvirtd reaches the destination's: the same
// hypervisor as own, through a socket.
func dconnURI(own, socket string) string {
	u := url.URL{Scheme: "qemu+unix", Path: "/system", RawQuery: url.Values{"socket": {socket}}.Encode()}
	if o, err := url.Parse(own); err == nil && o.Path != "" {
		u.Path = o.Path
	}
	return u.String()
}

// milliseconds rounds up likewise.
func milliseconds(d api.Duration) uint64 {
	return uint64((time.Duration(d) + time.Millisecond - 1) / time.Millisecond)
}

// perform runs the call and returns libvirt's answer, whatever it is. That
// libvirtd is there is asked now and then on the same connection.
func (d *Driver) perform(ctx context.Context, cn *conn, p *plan) error {
	done := make(chan error, 1)
	if !cn.spawn(func() {
		_, err := cn.rpc.DomainMigratePerform3Params(p.dom, golibvirt.OptString{p.to}, p.params, nil, p.flags)
		done <- err
	}) {
		return errClosed
	}
	alive := time.NewTicker(d.cfg.KeepAlive)
	defer alive.Stop()
	var again <-chan time.Time
	looks := 0
	ended := ctx.Done()
	for {
		select {
		case err := <-done:
			return err
		case <-alive.C:
			quick, cancel := context.WithTimeout(d.ctx, d.cfg.Timeout)
			_, err := on(quick, cn, (*golibvirt.Libvirt).ConnectGetLibVersion)
			cancel()
			if err != nil {
				return preferred(done, err)
			}
			looks = d.unstick(d.ctx, p.dom, ended == nil, looks)
		case <-ended:
			ended = nil
			t := time.NewTicker(abortAgain)
			defer t.Stop()
			again = t.C
			d.abort(p.dom)
		case <-again:
			d.abort(p.dom)
		}
	}
}

// preferred returns libvirt's answer if it is there, else err.
func preferred(done <-chan error, err error) error {
	select {
	case answer := <-done:
		return answer
	default:
		return err
	}
}

// abort tells the job to end; that there is none, or none yet, is no matter.
func (d *Driver) abort(dom golibvirt.Domain) {
	ctx, cancel := context.WithTimeout(d.ctx, d.cfg.Timeout)
	defer cancel()
	_, _ = call(ctx, d.jobs, d.cfg.Timeout, void(func(l *golibvirt.Libvirt) error { return l.DomainAbortJob(dom) }))
}

// outcome turns libvirt's answer into Move's. What libvirt says is never taken
// alone: where the domain is now has to fit.
func (d *Driver) outcome(ctx context.Context, id api.ID, answer error) error {
	var said golibvirt.Error
	if answer != nil && !errors.As(answer, &said) {
		return fmt.Errorf("%w: the move: %w", hypervisor.ErrUnknown, answer)
	}
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.cfg.Timeout)
	defer cancel()
	got, err := d.Get(look, id)
	switch {
	case answer == nil && errors.Is(err, hypervisor.ErrNotFound):
		return nil
	case answer == nil && err == nil:
		return fmt.Errorf("%w: libvirt says that the domain was moved, and still has it, %s (%s)", hypervisor.ErrUnknown, got.State, got.Reason)
	case answer == nil:
		return err
	case err != nil:
		return fmt.Errorf("%w: the move failed (%w), and then: %w", hypervisor.ErrUnknown, answer, err)
	case got.State == api.StatePaused && got.Reason == hypervisor.ReasonMigrating:
		return fmt.Errorf("%w: the move broke off while the guest was handed over: %w", hypervisor.ErrUnknown, answer)
	case got.State != api.StateRunning && got.State != api.StatePaused:
		return fmt.Errorf("%w: the move failed and the domain is %s (%s): %w", hypervisor.ErrUnknown, got.State, got.Reason, answer)
	}
	if ctx.Err() != nil || golibvirt.ErrorNumber(said.Code) == golibvirt.ErrOperationAborted {
		return fmt.Errorf("%w: %w", hypervisor.ErrAborted, answer)
	}
	return moveError(said)
}

// moveError gives an answer of libvirt a code and a hint.
func moveError(e golibvirt.Error) error {
	out := api.Errorf(api.CodeMigration, "libvirt: %s", e.Message)
	switch golibvirt.ErrorNumber(e.Code) {
	case golibvirt.ErrMigrateUnsafe:
		return out.WithHint("a disk is neither copied nor on a pool that both nodes share without a cache")
	case golibvirt.ErrCPUIncompatible:
		return out.WithHint("the destination's CPU lacks what the guest has: use cpu.model baseline, or a node with the same CPU")
	case golibvirt.ErrConfigUnsupported, golibvirt.ErrNoSupport, golibvirt.ErrOperationUnsupported, golibvirt.ErrArgumentUnsupported:
		return out.WithHint("the destination cannot run this guest: compare CPU model, machine type and versions of libvirt and QEMU on both nodes")
	case golibvirt.ErrSystemError, golibvirt.ErrNoConnect, golibvirt.ErrRPC, golibvirt.ErrInternalError:
		return out.WithHint("look at the path between the nodes, at libvirtd there, and whether QEMU may use the sockets and the disks")
	case golibvirt.ErrOperationTimeout, golibvirt.ErrOperationInvalid:
		return out.WithHint("another job holds the domain on one of the nodes, or it is not in a state to be moved")
	case golibvirt.ErrDomExist, golibvirt.ErrOperationFailed:
		return out.WithHint("look at the domain's log in /var/log/libvirt/qemu on both nodes")
	}
	return out
}
