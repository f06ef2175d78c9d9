package libvirt

import (
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

// The procedures of libvirt's protocol that the fake one answers.
const (
	procOpen      = 1
	procCreateXML = 10
	procLookup    = 24
	procAuthList  = 66
	procVersion   = 157
	procState     = 212
	procJobStats  = 298
	procMove      = 305

	qemuProgram = 0x20008087
	procMonitor = 1<<31 | 1 // of that program
)

// daemon speaks enough of libvirt's protocol to be connected to, to make one
// domain and to find it. Calls can be held back.
type daemon struct {
	t      *testing.T
	socket string
	ln     net.Listener
	wg     sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	held   map[uint32]chan struct{}         // answered when it is closed
	refuse map[uint32]golibvirt.ErrorNumber // answered with an error
	says   map[uint32][]byte                // answered with this
	came   chan uint32                      // procedures that are held back
	domain api.ID                           // made, zero: none
	wanted api.ID                           // what DomainCreateXML makes
}

func newDaemon(t *testing.T) *daemon {
	f := &daemon{
		t: t, socket: filepath.Join(t.TempDir(), "sock"), conns: map[net.Conn]bool{}, held: map[uint32]chan struct{}{},
		refuse: map[uint32]golibvirt.ErrorNumber{}, says: map[uint32][]byte{}, came: make(chan uint32, 100),
	}
	var err error
	f.ln, err = net.Listen("unix", f.socket)
	must.NoError(t, err)
	f.wg.Go(f.accept)
	t.Cleanup(func() {
		must.NoError(t, f.ln.Close())
		f.hangUp()
		f.mu.Lock()
		for p := range f.held {
			f.free(p)
		}
		f.mu.Unlock()
		f.wg.Wait()
	})
	return f
}

func (f *daemon) accept() {
	for {
		c, err := f.ln.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conns[c] = true
		f.mu.Unlock()
		f.wg.Go(func() { f.serve(c) })
	}
}

// hangUp ends all connections, as the end of the daemon would.
func (f *daemon) hangUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		_ = c.Close()
		delete(f.conns, c)
	}
}

func (f *daemon) hold(proc uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held[proc] = make(chan struct{})
}

func (f *daemon) release(proc uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free(proc)
}

func (f *daemon) free(proc uint32) {
	if ch := f.held[proc]; ch != nil {
		close(ch)
		delete(f.held, proc)
	}
}

func (f *daemon) serve(c net.Conn) {
	var out sync.Mutex
	for {
		head := make([]byte, 28)
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head))-28); err != nil {
			return
		}
		f.wg.Go(func() {
			proc := binary.BigEndian.Uint32(head[12:])
			if binary.BigEndian.Uint32(head[4:]) == qemuProgram {
				proc |= 1 << 31
			}
			status, body := f.answer(proc)
			binary.BigEndian.PutUint32(head, uint32(28+len(body)))
			binary.BigEndian.PutUint32(head[16:], 1) // a reply
			binary.BigEndian.PutUint32(head[24:], status)
			out.Lock()
			defer out.Unlock()
			_, _ = c.Write(append(head, body...)) // who has gone needs no answer
		})
	}
}

func (f *daemon) answer(proc uint32) (status uint32, body []byte) {
	f.mu.Lock()
	wait := f.held[proc]
	f.mu.Unlock()
	if wait != nil {
		f.came <- proc
		<-wait
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if code, bad := f.refuse[proc]; bad {
		return 1, failure(code)
	}
	if body, ok := f.says[proc]; ok {
		return 0, body
	}
	u32 := binary.BigEndian.AppendUint32
	domain := func() []byte {
		name := domainName(f.domain)
		b := append(u32(nil, uint32(len(name))), name...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
		return u32(append(b, f.domain[:]...), 1)
	}
	switch proc {
	case procAuthList:
		return 0, u32(u32(nil, 1), 0)
	case procOpen:
		return 0, nil
	case procCreateXML:
		f.domain = f.wanted
		return 0, domain()
	case procLookup:
		if f.domain.IsZero() {
			return 1, failure(golibvirt.ErrNoDomain)
		}
		return 0, domain()
	}
	return 1, failure(golibvirt.ErrNoSupport)
}

// failure is an error as libvirt sends it: code, domain, message, level.
func failure(code golibvirt.ErrorNumber) []byte {
	u32 := binary.BigEndian.AppendUint32
	b := u32(u32(u32(u32(nil, uint32(code)), 0), 1), 4)
	return u32(append(b, "fake"...), 2)
}

func (f *daemon) driver() *Driver {
	return New(Config{Socket: f.socket, Root: "/", Timeout: 10 * time.Second, KeepAlive: time.Hour})
}
