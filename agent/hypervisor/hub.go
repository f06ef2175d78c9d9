package hypervisor

import (
	"context"
	"io"
	"sync"
)

// HubHistory is how much recent output a new viewer of a console sees.
const HubHistory = 64 << 10

// Hub shares one serial console among viewers. What the guest writes goes to
// all of them; a new viewer first sees the last HubHistory bytes; a viewer that
// is too slow loses the oldest bytes and never slows down the guest or others.
// A Hub has no goroutine of its own.
type Hub struct {
	input func([]byte) (int, error)

	mu      sync.Mutex
	wake    *sync.Cond
	ring    []byte // grows to HubHistory, then byte i of the stream is at i%len
	end     int64  // bytes ever written
	viewers map[*viewer]struct{}
	idle    func()
	closed  error
}

// NewHub makes a hub. input receives what viewers type; it may be called by
// several viewers at once.
func NewHub(input func([]byte) (int, error)) *Hub {
	h := &Hub{input: input, viewers: map[*viewer]struct{}{}}
	h.wake = sync.NewCond(&h.mu)
	return h
}

// OnIdle sets a function that is called, without locks, when the last viewer
// has left.
func (h *Hub) OnIdle(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.idle = f
}

// Write adds output of the guest. It never blocks and fails only when closed.
func (h *Hub) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed != nil {
		return 0, io.ErrClosedPipe
	}
	n := len(p)
	if skip := len(p) - HubHistory; skip > 0 {
		p, h.end = p[skip:], h.end+int64(skip)
		if len(h.ring) < HubHistory {
			h.ring = make([]byte, HubHistory)
		}
	}
	if len(h.ring) < HubHistory { // still growing: the stream's byte i is at i
		k := min(HubHistory-len(h.ring), len(p))
		h.ring = append(h.ring, p[:k]...)
		h.end += int64(k)
		p = p[k:]
	}
	for len(p) > 0 {
		k := copy(h.ring[h.end%HubHistory:], p)
		h.end += int64(k)
		p = p[k:]
	}
	h.wake.Broadcast()
	return n, nil
}

// Attach adds a viewer, which is closed when the context ends. A viewer's Read
// returns io.EOF when the console has ended.
func (h *Hub) Attach(ctx context.Context) io.ReadWriteCloser {
	v := &viewer{hub: h}
	h.mu.Lock()
	v.pos = max(0, h.end-int64(len(h.ring)))
	h.viewers[v] = struct{}{}
	h.mu.Unlock()
	v.stop = context.AfterFunc(ctx, func() { v.Close() })
	return v
}

// Viewers returns how many are attached.
func (h *Hub) Viewers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.viewers)
}

// Close ends the console: viewers read what is left, then err (io.EOF if nil).
func (h *Hub) Close(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		err = io.EOF
	}
	if h.closed == nil {
		h.closed = err
	}
	h.wake.Broadcast()
}

type viewer struct {
	hub  *Hub
	stop func() bool
	pos  int64
	gone bool
}

func (v *viewer) Read(p []byte) (int, error) {
	h := v.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case v.gone:
			return 0, io.ErrClosedPipe
		case len(p) == 0:
			return 0, nil
		case v.pos < h.end:
			size := int64(len(h.ring))
			v.pos = max(v.pos, h.end-size)
			at := v.pos % size
			k := copy(p, h.ring[at:min(size, at+h.end-v.pos)])
			v.pos += int64(k)
			return k, nil
		case h.closed != nil:
			return 0, h.closed
		}
		h.wake.Wait()
	}
}

func (v *viewer) Write(p []byte) (int, error) {
	h := v.hub
	h.mu.Lock()
	closed := v.gone || h.closed != nil
	h.mu.Unlock()
	if closed {
		return 0, io.ErrClosedPipe
	}
	return h.input(p)
}

func (v *viewer) Close() error {
	h := v.hub
	h.mu.Lock()
	if v.gone {
		h.mu.Unlock()
		return nil
	}
	v.gone = true
	delete(h.viewers, v)
	var idle func()
	if len(h.viewers) == 0 {
		idle = h.idle
	}
	h.wake.Broadcast()
	h.mu.Unlock()
	if v.stop != nil {
		v.stop()
	}
	if idle != nil {
		idle()
	}
	return nil
}
