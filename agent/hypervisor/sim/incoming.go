package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// Serve makes the host's hypervisor take in guests at Options.Control, until
// Close.
func (h *Host) Serve() error {
	l, err := h.opts.Listen(h.opts.Control)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx.Err() != nil {
		return errors.Join(net.ErrClosed, l.Close())
	}
	context.AfterFunc(h.ctx, func() { _ = l.Close() })
	h.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.wg.Go(func() { h.serve(c) })
		}
	})
	return nil
}

// Close ends Serve and all moves, and waits for them. The guests stay.
func (h *Host) Close() {
	h.mu.Lock()
	h.cancel(errDown)
	h.mu.Unlock()
	h.wg.Wait()
}

// life returns a context that ends when the hypervisor goes down or away.
func (h *Host) life() (context.Context, context.CancelCauseFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ctx, cancel := context.WithCancelCause(h.ctx)
	if h.down {
		cancel(errDown)
		return ctx, cancel
	}
	if h.lives == nil {
		h.lives = map[*context.CancelCauseFunc]struct{}{}
	}
	key := &cancel
	h.lives[key] = struct{}{}
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.lives, key)
	})
	return ctx, cancel
}

// incoming is a guest that comes in.
type incoming struct {
	h       *Host
	dom     *domain
	id      api.ID
	end     context.CancelCauseFunc
	memory  net.Listener
	disks   net.Listener
	sum     *sum
	content map[string][]byte
	arrived chan error // of memory and disks
}

// serve takes one guest in.
func (h *Host) serve(c net.Conn) {
	ctx, end := h.life()
	defer end(nil)
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	m, err := receive(c)
	if err != nil || m.Kind != kindPrepare || m.Machine == nil {
		return
	}
	in, err := h.prepare(ctx, end, m)
	if err != nil {
		_ = send(c, &message{Kind: kindError, Error: err.Error()})
		return
	}
	done := false
	defer func() {
		if in.close(); !done {
			h.drop(in)
		}
	}()
	if send(c, &message{Kind: kindReady}) != nil {
		return
	}
	m, err = receive(c)
	if err != nil || m.Kind != kindFinish || m.State == nil {
		return
	}
	if err := in.finish(ctx, m.State); err != nil {
		_ = send(c, &message{Kind: kindError, Error: err.Error()})
		return
	}
	done = true
	h.publish(hypervisor.Event{Kind: hypervisor.EventPaused, ID: in.id, Reason: "user"})
	_ = send(c, &message{Kind: kindComplete})
}

// prepare makes the domain and listens for its memory.
func (h *Host) prepare(ctx context.Context, end context.CancelCauseFunc, m *message) (*incoming, error) {
	if err := m.Machine.Validate(); err != nil {
		return nil, err
	}
	if f, _ := h.match("incoming", m.Machine.ID); f.Err != nil {
		return nil, f.Err
	}
	in := &incoming{h: h, id: m.Machine.ID, end: end, sum: newSum(), content: map[string][]byte{}, arrived: make(chan error, 2)}
	var err error
	if in.memory, err = h.opts.Listen(m.Memory); err != nil {
		return nil, err
	}
	if len(m.Copy) > 0 {
		if in.disks, err = h.opts.Listen(m.Disks); err != nil {
			return nil, errors.Join(err, in.memory.Close())
		}
	}
	if err := h.place(in, m.Machine); err != nil {
		in.close()
		return nil, err
	}
	h.wg.Go(func() {
		in.arrived <- in.receive(ctx, in.memory, func(r io.Reader) error { _, err := io.Copy(in.sum, r); return err })
	})
	if in.disks == nil {
		in.arrived <- nil
		return in, nil
	}
	h.wg.Go(func() {
		in.arrived <- in.receive(ctx, in.disks, func(r io.Reader) error {
			for _, path := range m.Copy {
				b, err := receiveDisk(r)
				if err != nil {
					return err
				}
				in.content[path] = b
			}
			return nil
		})
	})
	return in, nil
}

// place makes the domain.
func (h *Host) place(in *incoming, m *hypervisor.Machine) error {
	h.mu.Lock()
	if _, ok := h.domains[m.ID]; ok {
		h.mu.Unlock()
		return hypervisor.ErrExists
	}
	h.nextPID++
	now := time.Now()
	in.dom = &domain{machine: *m, epoch: m.Epoch, pid: h.nextPID, started: now, booted: now, in: in, inert: true, moved: true}
	in.dom.pause(hypervisor.ReasonIncoming)
	h.domains[m.ID] = in.dom
	delete(h.exits, m.ID)
	h.mu.Unlock()
	h.publish(hypervisor.Event{Kind: hypervisor.EventStarted, ID: m.ID, Reason: "migrated"})
	return nil
}

// receive reads one connection to its end.
func (in *incoming) receive(ctx context.Context, l net.Listener, f func(io.Reader) error) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	return f(c)
}

func (in *incoming) close() {
	_ = in.memory.Close()
	if in.disks != nil {
		_ = in.disks.Close()
	}
}

// finish waits for all of the guest and checks that it is all of it.
func (in *incoming) finish(ctx context.Context, s *state) error {
	for range cap(in.arrived) {
		select {
		case err := <-in.arrived:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if in.sum.n != s.Sent || in.sum.Sum64() != s.Sum {
		return fmt.Errorf("%d of %d bytes of memory came, or others", in.sum.n, s.Sent)
	}
	h := in.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if ctx.Err() != nil || h.domains[in.id] != in.dom {
		return errors.New("the domain is gone")
	}
	for path, b := range in.content {
		h.disks[path] = b
	}
	d := in.dom
	d.in, d.ran, d.booted, d.dirty = nil, s.Ran, s.Booted, api.Bytes(s.DirtyRate)
	d.came = &s.Stats
	d.pause(hypervisor.ReasonComplete)
	return nil
}

// drop takes a guest away that has not come.
func (h *Host) drop(in *incoming) {
	h.mu.Lock()
	same := h.domains[in.id] == in.dom && in.dom.in == in
	h.mu.Unlock()
	if same {
		h.end(in.id, "failed")
	}
}
