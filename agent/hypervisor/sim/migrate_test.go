package sim_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/hypervisor/conformance"
	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/api"
)

const control = "/sim/control"

// node is a host with its sockets in memory.
type node struct {
	sim.Sockets
	*sim.Host
	d *sim.Driver
}

func newNode(t *testing.T, o sim.Options) *node {
	t.Helper()
	n := &node{}
	o.Control, o.Dial, o.Listen = control, n.Dial, n.Listen
	n.Host = sim.NewHost(o)
	n.d = sim.New(n.Host)
	must.NoError(t, n.Serve())
	t.Cleanup(func() {
		must.NoError(t, n.d.Close())
		n.Close()
	})
	return n
}

// way forwards from one node's sockets to another's.
type way struct {
	ctx  context.Context
	wg   sync.WaitGroup
	mu   sync.Mutex
	open chan struct{} // closed while nothing is held
}

func newWay(t *testing.T, from, to *node) *conformance.Link {
	t.Helper()
	ctx, cut := context.WithCancel(context.Background())
	w := &way{ctx: ctx, open: make(chan struct{})}
	close(w.open)
	l := &conformance.Link{Cut: cut, Hold: func() { w.hold(true) }, Release: func() { w.hold(false) }}
	id := api.NewID()
	for path, kind := range map[*string]string{&l.Control: "ctl", &l.Memory: "mem", &l.Disks: "nbd"} {
		*path = fmt.Sprintf("/sim/%s.%s", id, kind)
	}
	for path, target := range map[string]string{l.Control: control, l.Memory: l.Memory, l.Disks: l.Disks} {
		ln, err := from.Listen(path)
		must.NoError(t, err)
		context.AfterFunc(ctx, func() { _ = ln.Close() })
		w.wg.Go(func() {
			for {
				near, err := ln.Accept()
				if err != nil {
					return
				}
				far, err := to.Dial(ctx, target)
				if err != nil {
					_ = near.Close()
					continue
				}
				w.join(near, far, path == l.Memory)
			}
		})
	}
	t.Cleanup(func() {
		cut()
		w.wg.Wait()
	})
	return l
}

func (w *way) join(near, far net.Conn, memory bool) {
	stop := context.AfterFunc(w.ctx, func() { _, _ = near.Close(), far.Close() })
	end := func() { stop(); _, _ = near.Close(), far.Close() }
	w.wg.Go(func() {
		defer end()
		var src io.Reader = near
		if memory {
			src = gate{w, near}
		}
		_, _ = io.Copy(far, src)
	})
	w.wg.Go(func() {
		defer end()
		_, _ = io.Copy(near, far)
	})
}

type gate struct {
	w *way
	r io.Reader
}

func (g gate) Read(p []byte) (int, error) {
	g.w.mu.Lock()
	open := g.w.open
	g.w.mu.Unlock()
	select {
	case <-open:
		return g.r.Read(p)
	case <-g.w.ctx.Done(): // what was held back does not come through a cut
		return 0, context.Cause(g.w.ctx)
	}
}

func (w *way) hold(held bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.open:
		if held {
			w.open = make(chan struct{})
		}
	default:
		if !held {
			close(w.open)
		}
	}
}

func (n *node) conformance(t *testing.T) conformance.Host {
	return conformance.Host{
		Connect: func(*testing.T) hypervisor.Driver { return sim.New(n.Host) },
		Machine: func(*testing.T) *hypervisor.Machine { return machine() },
		Banner:  "NovaCron simulated machine",
		Obeys:   true,
		Kill:    func(_ *testing.T, d hypervisor.Domain) { n.Crash(d.ID) },
		Down:    func(*testing.T) { n.SetDown(true) },
		Up:      func(*testing.T) { n.SetDown(false) },
	}
}

func shared() *hypervisor.Machine {
	m := machine()
	m.Disks[0].Shared = true
	return m
}

func TestMigration(t *testing.T) {
	a, b := newNode(t, sim.Options{}), newNode(t, sim.Options{})
	conformance.RunMigrator(t, conformance.Pair{
		From: a.conformance(t), To: b.conformance(t),
		Machine: func(*testing.T) *hypervisor.Machine { return shared() },
		Local: map[string]func(*testing.T) *hypervisor.Machine{"raw": func(*testing.T) *hypervisor.Machine {
			m := machine()
			m.Disks[0].Path = "/sim/" + api.NewID().String()
			a.SetDisk(m.Disks[0].Path, []byte("what the guest has written to "+m.Disks[0].Path))
			return m
		}},
		Twin: func(_ *testing.T, m *hypervisor.Machine) *hypervisor.Machine {
			twin := *m
			twin.Disks = append([]hypervisor.MachineDisk(nil), m.Disks...)
			for i := range twin.Disks {
				if !twin.Disks[i].Shared {
					twin.Disks[i].Path = "/sim/" + api.NewID().String()
				}
			}
			return &twin
		},
		Content: func(_ *testing.T, to bool, d hypervisor.MachineDisk) []byte {
			if to {
				return b.Disk(d.Path)
			}
			return a.Disk(d.Path)
		},
		Link: func(t *testing.T, back bool) *conformance.Link {
			if back {
				return newWay(t, b, a)
			}
			return newWay(t, a, b)
		},
	})
}
