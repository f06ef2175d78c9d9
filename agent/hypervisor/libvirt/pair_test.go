package libvirt_test

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/hypervisor/conformance"
	"github.com/novacron/novacron/api"
)

// links numbers the sockets of moves, so that none is used twice.
var links atomic.Int64

// way leads from one host to another: the sockets that agents would tunnel.
// Inside both hosts they have the same paths, in a folder under /run.
type way struct {
	wg      sync.WaitGroup
	mu      sync.Mutex
	free    *sync.Cond // held has become false
	held    bool
	open    []net.Conn
	ended   bool
	control string // the destination's libvirtd
	// finished is called before libvirt's last answer, to Finish, goes back.
	finished func()
}

// newWay listens in from and forwards to to. mode is that of the sockets.
func newWay(t *testing.T, from, to *lab, mode os.FileMode) *conformance.Link {
	t.Helper()
	return new(way).listen(t, from, to, mode)
}

func (w *way) listen(t *testing.T, from, to *lab, mode os.FileMode) *conformance.Link {
	t.Helper()
	w.free, w.control = sync.NewCond(&w.mu), to.socket
	n := links.Add(1)
	l := &conformance.Link{Cut: w.cut, Hold: func() { w.hold(true) }, Release: func() { w.hold(false) }}
	for path, kind := range map[*string]string{&l.Control: "ctl", &l.Memory: "mem", &l.Disks: "nbd"} {
		*path = fmt.Sprintf("/run/nova/%d.%s", n, kind)
	}
	var listeners []net.Listener
	for path, target := range map[string]string{
		l.Control: to.socket, l.Memory: to.dir + l.Memory, l.Disks: to.dir + l.Disks,
	} {
		ln, err := net.Listen("unix", from.dir+path)
		must.NoError(t, err)
		must.NoError(t, os.Chmod(from.dir+path, mode))
		listeners = append(listeners, ln)
		w.wg.Go(func() { w.accept(ln, target, path == l.Memory) })
	}
	t.Cleanup(func() {
		for _, ln := range listeners {
			_ = ln.Close()
		}
		w.cut()
		w.wg.Wait()
	})
	return l
}

func (w *way) accept(ln net.Listener, target string, memory bool) {
	for {
		near, err := ln.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("unix", target)
		if err != nil {
			_ = near.Close()
			continue
		}
		w.mu.Lock()
		w.open = append(w.open, near, far)
		if w.ended {
			_, _ = near.Close(), far.Close()
		}
		w.mu.Unlock()
		w.wg.Go(func() {
			var src io.Reader = near
			if memory {
				src = gate{w, near}
			}
			_, _ = io.Copy(far, src)
			_, _ = near.Close(), far.Close()
		})
		w.wg.Go(func() {
			if target == w.control && w.finished != nil {
				w.answers(near, far)
			} else {
				_, _ = io.Copy(near, far)
			}
			_, _ = near.Close(), far.Close()
		})
	}
}

// answers forwards libvirt's packets (length; program, version, procedure, type,
// each four bytes) and looks for the answer to DOMAIN_MIGRATE_FINISH3_PARAMS.
func (w *way) answers(near io.Writer, far io.Reader) {
	for {
		var head [4]byte
		if _, err := io.ReadFull(far, head[:]); err != nil {
			return
		}
		packet := make([]byte, binary.BigEndian.Uint32(head[:]))
		copy(packet, head[:])
		if _, err := io.ReadFull(far, packet[4:]); err != nil {
			return
		}
		if binary.BigEndian.Uint32(packet[4:]) == 0x20008086 && binary.BigEndian.Uint32(packet[12:]) == 306 && binary.BigEndian.Uint32(packet[16:]) == 1 {
			w.finished()
		}
		if _, err := near.Write(packet); err != nil {
			return
		}
	}
}

// gate lets bytes through while the way is not held.
type gate struct {
	w *way
	r io.Reader
}

func (g gate) Read(p []byte) (int, error) {
	g.w.mu.Lock()
	for g.w.held && !g.w.ended {
		g.w.free.Wait()
	}
	g.w.mu.Unlock()
	return g.r.Read(p)
}

func (w *way) hold(held bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = held
	w.free.Broadcast()
}

// cut ends every connection, and keeps none that comes later.
func (w *way) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.free.Broadcast()
	for _, c := range w.open {
		_ = c.Close()
	}
}

// shared makes a machine whose disks both hosts see.
func (l *lab) shared(t *testing.T) *hypervisor.Machine {
	m := l.machine(t)
	for i := range m.Disks {
		m.Disks[i].Shared = true
	}
	return m
}

// local makes a machine with a disk of its own, with content.
func (l *lab) local(t *testing.T, format string) *hypervisor.Machine {
	t.Helper()
	m := l.machine(t)
	raw := m.Disks[0].Path
	f, err := os.OpenFile(raw, os.O_WRONLY, 0)
	must.NoError(t, err)
	content := make([]byte, 3<<20)
	_, _ = rand.Read(content)
	_, err = f.WriteAt(content, 1<<20)
	must.NoError(t, err)
	must.NoError(t, f.Truncate(8<<20))
	must.NoError(t, f.Close())
	if format != "raw" {
		m.Disks[0].Path, m.Disks[0].Format = raw+"."+format, format
		image(t, "convert", "-f", "raw", "-O", format, raw, m.Disks[0].Path)
	}
	return m
}

func image(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("qemu-img", args...).CombinedOutput()
	must.NoError(t, err, must.Sprintf("%s", out))
	return string(out)
}

// twin makes the machine that another host shall have, with empty disks for
// those that are not shared.
func (l *lab) twin(t *testing.T, m *hypervisor.Machine) *hypervisor.Machine {
	t.Helper()
	out := *m
	out.Disks = append([]hypervisor.MachineDisk(nil), m.Disks...)
	for i := range out.Disks {
		d := &out.Disks[i]
		if d.Shared {
			continue
		}
		d.Path = filepath.Join(l.dir, "var/lib/libvirt", api.NewID().String()+"."+d.Format)
		image(t, "create", "-q", "-f", d.Format, d.Path, "8M")
	}
	return &out
}

// content reads a disk that a guest may have open.
func content(t *testing.T, _ bool, d hypervisor.MachineDisk) []byte {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "content")
	image(t, "convert", "-U", "-f", d.Format, "-O", "raw", d.Path, raw)
	b, err := os.ReadFile(raw)
	must.NoError(t, err)
	return b
}

func pair(a, b *lab) conformance.Pair {
	return conformance.Pair{
		From: a.host(), To: b.host(), Machine: a.shared, Twin: b.twin, Content: content,
		Local: map[string]func(*testing.T) *hypervisor.Machine{
			"raw":   func(t *testing.T) *hypervisor.Machine { return a.local(t, "raw") },
			"qcow2": func(t *testing.T) *hypervisor.Machine { return a.local(t, "qcow2") },
		},
		Link: func(t *testing.T, back bool) *conformance.Link {
			from, to := a, b
			if back {
				from, to = b, a
			}
			l := newWay(t, from, to, 0o666)
			l.SerialLog = filepath.Join(to.logDir, fmt.Sprintf("moved-%d.log", links.Add(1)))
			return l
		},
	}
}
