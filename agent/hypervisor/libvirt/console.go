package libvirt

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// console is the one stream to a domain's serial console, on a connection of
// its own, shared by its viewers. It lives while somebody looks.
type console struct {
	hub    *hypervisor.Hub
	ready  chan struct{} // closed when open or failed
	err    error
	typed  *typed
	cancel context.CancelFunc
}

// typed carries what viewers type to libvirt. Few bytes wait; writers then do.
type typed struct {
	ctx  context.Context
	ch   chan []byte
	rest []byte
	once sync.Once
	open chan struct{} // go-libvirt reads only when libvirt has opened the console
}

func (t *typed) Read(p []byte) (int, error) {
	t.once.Do(func() { close(t.open) })
	if len(t.rest) == 0 {
		select {
		case t.rest = <-t.ch:
		case <-t.ctx.Done():
			return 0, io.EOF
		}
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

func (t *typed) write(p []byte) (int, error) {
	select {
	case t.ch <- append([]byte(nil), p...):
		return len(p), nil
	case <-t.ctx.Done():
		return 0, io.ErrClosedPipe
	}
}

// end closes the console for everybody.
func (c *console) end() { c.cancel() }

// Console attaches a viewer, and opens the stream for the first one.
func (d *Driver) Console(ctx context.Context, id api.ID) (io.ReadWriteCloser, error) {
	dom, err := d.lookup(ctx, id)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	if d.ctx.Err() != nil {
		d.mu.Unlock()
		return nil, errClosed
	}
	c := d.consoles[id]
	if c == nil || c.typed.ctx.Err() != nil { // none, or one that is closing
		c = d.newConsole()
		d.consoles[id] = c
		d.wg.Go(func() { d.serve(c, dom, id) })
	}
	// Attached before it is open, so that it cannot end as idle meanwhile.
	v := c.hub.Attach(ctx)
	d.mu.Unlock()
	select {
	case <-c.ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", hypervisor.ErrUnknown, ctx.Err())
	}
	if c.err != nil {
		_ = v.Close()
		return nil, c.err
	}
	return v, nil
}

// newConsole makes a console that closes itself when nobody looks any more.
func (d *Driver) newConsole() *console {
	ctx, cancel := context.WithCancel(d.ctx)
	c := &console{ready: make(chan struct{}), cancel: cancel}
	c.typed = &typed{ctx: ctx, ch: make(chan []byte, 16), open: make(chan struct{})}
	c.hub = hypervisor.NewHub(c.typed.write)
	c.hub.OnIdle(func() {
		d.mu.Lock() // viewers are attached under this lock
		defer d.mu.Unlock()
		if c.hub.Viewers() == 0 {
			cancel()
		}
	})
	return c
}

// serve runs the stream until the guest ends, the last viewer leaves, or the
// connection is lost.
func (d *Driver) serve(c *console, dom golibvirt.Domain, id api.ID) {
	err := d.stream(c.typed.ctx, c, dom, id)
	d.mu.Lock()
	if d.consoles[id] == c {
		delete(d.consoles, id)
	}
	d.mu.Unlock()
	c.cancel()
	c.hub.Close(nil)
	select {
	case <-c.ready:
	default:
		c.err = err
		close(c.ready)
	}
}

func (d *Driver) stream(ctx context.Context, c *console, dom golibvirt.Domain, id api.ID) error {
	open, stop := context.WithTimeout(ctx, d.cfg.Timeout)
	defer stop()
	cn, err := d.connect(open)
	if err != nil {
		return err
	}
	defer cn.close()
	unhook := context.AfterFunc(ctx, cn.close)
	defer unhook()
	if h, err := d.known(open); err == nil && h.logDir != "" {
		replay(c.hub, h.serialLog(id))
	}
	result := make(chan error, 1)
	if !cn.spawn(func() {
		err := cn.rpc.DomainOpenConsoleBidirectional(dom, nil, c.typed, c.hub, uint32(golibvirt.DomainConsoleForce))
		result <- classify(err)
	}) {
		return fmt.Errorf("%w: the connection is closed", hypervisor.ErrUnknown)
	}
	select {
	case err := <-result:
		if err == nil {
			err = api.Errorf(api.CodeConsole, "the console has ended")
		}
		return err
	case <-open.Done():
		return fmt.Errorf("%w: the console did not open: %w", hypervisor.ErrUnknown, open.Err())
	case <-c.typed.open:
		close(c.ready)
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done(): // cn.close ends the call
		return nil
	}
}

// replay shows what the log of the console holds, at most a hub's history.
func replay(hub *hypervisor.Hub, path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return
	}
	at := max(0, st.Size()-hypervisor.HubHistory)
	_, _ = io.Copy(hub, io.NewSectionReader(f, at, st.Size()-at))
}
