package libvirt

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

const (
	// consoleAgain bounds how often a stream that ends is opened again; the pause
	// before grows by consolePause. A stream that lasted starts the count anew.
	consoleAgain  = 5
	consolePause  = 50 * time.Millisecond
	consoleSteady = 5 * time.Second
	// consoleFarewell is how long libvirt has to confirm the end of a stream.
	consoleFarewell = time.Second
)

var errConsoleEnd = api.Errorf(api.CodeConsole, "the console has ended")

// console is the one stream to a domain's serial console, on a connection of
// its own, shared by its viewers. It lives while somebody looks.
type console struct {
	hub    *hypervisor.Hub
	opened sync.Once
	ready  chan struct{} // closed when open or failed
	err    error
	ctx    context.Context
	cancel context.CancelFunc
	typed  chan []byte     // few bytes wait; writers then do
	before <-chan struct{} // closed when the console before it has ended
	done   chan struct{}
}

// write takes what a viewer types.
func (c *console) write(p []byte) (int, error) {
	select {
	case c.typed <- append([]byte(nil), p...):
		return len(p), nil
	case <-c.ctx.Done():
		return 0, io.ErrClosedPipe
	}
}

// keys carries what viewers type into one stream. It ends when the stream is to end:
// go-libvirt then tells libvirt, which confirms. What was given to a stream that
// libvirt has just ended is lost, as on a serial line.
type keys struct {
	ctx   context.Context
	typed <-chan []byte
	rest  []byte
	once  sync.Once
	open  chan struct{} // go-libvirt reads only when libvirt has opened the console
}

func (k *keys) Read(p []byte) (int, error) {
	k.once.Do(func() { close(k.open) })
	if k.ctx.Err() != nil { // the next stream's
		return 0, io.EOF
	}
	if len(k.rest) == 0 {
		select {
		case k.rest = <-k.typed:
		case <-k.ctx.Done():
			return 0, io.EOF
		}
	}
	n := copy(p, k.rest)
	k.rest = k.rest[n:]
	return n, nil
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
	if c == nil || c.ctx.Err() != nil { // none, or one that is closing
		c = d.newConsole(c)
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

// newConsole makes a console that closes itself when nobody looks any more. It
// opens when the one before it, if there is one, has ended.
func (d *Driver) newConsole(before *console) *console {
	ctx, cancel := context.WithCancel(d.ctx)
	c := &console{ready: make(chan struct{}), ctx: ctx, cancel: cancel, typed: make(chan []byte, 16), done: make(chan struct{})}
	if before != nil {
		c.before = before.done
	}
	c.hub = hypervisor.NewHub(c.write)
	c.hub.OnIdle(func() {
		d.mu.Lock() // viewers are attached under this lock
		defer d.mu.Unlock()
		if c.hub.Viewers() == 0 {
			cancel()
		}
	})
	return c
}

// serve runs the console until the guest ends, the last viewer leaves, or the
// connection is lost.
func (d *Driver) serve(c *console, dom golibvirt.Domain, id api.ID) {
	defer close(c.done)
	err := d.streams(c, dom, id)
	d.mu.Lock()
	if d.consoles[id] == c {
		delete(d.consoles, id)
	}
	d.mu.Unlock()
	c.cancel()
	c.hub.Close(nil)
	c.opened.Do(func() { c.err = err; close(c.ready) })
}

// streams runs one stream after another while the guest goes on. Libvirt ends a
// stream as it ends one whose guest is gone also when another stream to the same
// console was still closing, and when somebody else forces the console open.
func (d *Driver) streams(c *console, dom golibvirt.Domain, id api.ID) error {
	if c.before != nil {
		<-c.before // it was canceled, and takes consoleFarewell at most
	}
	if h, err := d.known(c.ctx); err == nil && h.logDir != "" {
		replay(c.hub, h.serialLog(id))
	}
	for again := 1; ; again++ {
		begun := time.Now()
		if err := d.stream(c, dom); err != nil {
			return err
		}
		if time.Since(begun) > consoleSteady {
			again = 1
		}
		select {
		case <-time.After(time.Duration(again) * consolePause):
		case <-c.ctx.Done():
			return errConsoleEnd
		}
		now, err := d.lookup(c.ctx, id)
		if err != nil || now.ID != dom.ID || again > consoleAgain {
			return errConsoleEnd
		}
	}
}

// stream opens the console and carries it until it ends, for which there is no
// error, or until it breaks.
func (d *Driver) stream(c *console, dom golibvirt.Domain) error {
	ctx, end := context.WithCancel(c.ctx)
	defer end()
	open, stop := context.WithTimeout(ctx, d.cfg.Timeout)
	defer stop()
	cn, err := d.connect(open)
	if err != nil {
		return err
	}
	defer cn.close()
	typed := &keys{ctx: ctx, typed: c.typed, open: make(chan struct{})}
	result := make(chan error, 1)
	if !cn.spawn(func() {
		err := cn.rpc.DomainOpenConsoleBidirectional(dom, nil, typed, c.hub, uint32(golibvirt.DomainConsoleForce))
		result <- classify(err)
	}) {
		return fmt.Errorf("%w: the connection is closed", hypervisor.ErrUnknown)
	}
	select {
	case err := <-result:
		return err
	case <-open.Done():
		return fmt.Errorf("%w: the console did not open: %w", hypervisor.ErrUnknown, open.Err())
	case <-typed.open:
		c.opened.Do(func() { close(c.ready) })
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
	}
	select { // typed has told libvirt that this is the end
	case <-result:
	case <-time.After(consoleFarewell):
	}
	return nil
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
