// Package watchdog is the hardware watchdog of a lab's hosts. Watch is the device,
// which is outside of the host; Pipe is what the guard on the host opens in place
// of /dev/watchdog. Between them is a FIFO: where the kernel has no watchdog of
// its own to lend, no other thing of the host's needs to be alive.
//
// Promises: as with hardware, the death of who opened it does not stop it.
//
// What does not belong: what a reset does to a host (package lab).
package watchdog

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/novacron/novacron/agent/guard"
)

// What is said over the FIFO.
const (
	petted  = 'p' // starts it, or its timeout anew
	stopped = 'V' // the magic close
)

// Watch is the device: it calls bite when it was started and is then neither petted
// nor stopped for its timeout. It ends with what it reads from.
func Watch(r io.Reader, timeout time.Duration, bite func()) {
	timer := time.AfterFunc(timeout, bite)
	timer.Stop()
	defer timer.Stop()
	said := make([]byte, 64)
	for {
		n, err := r.Read(said)
		for _, c := range said[:n] {
			switch c {
			case petted:
				timer.Reset(timeout)
			case stopped:
				timer.Stop()
			}
		}
		if err != nil {
			return
		}
	}
}

// Pipe is a guard.Watchdog by way of a FIFO.
type Pipe struct {
	path string
	info guard.WatchdogInfo
	f    *os.File
}

// NewPipe describes the watchdog at a path, and does not touch it yet.
func NewPipe(path string, timeout time.Duration) *Pipe {
	return &Pipe{path: path, info: guard.WatchdogInfo{Identity: "lab", Timeout: timeout}}
}

// Open starts it. A FIFO at which no device reads is none.
func (p *Pipe) Open() (err error) {
	if p.f != nil {
		return nil
	}
	if p.f, err = os.OpenFile(p.path, os.O_WRONLY|syscall.O_NONBLOCK, 0); err != nil {
		return err
	}
	p.info.Open = true
	return p.Pet()
}

// Pet starts the timeout anew.
func (p *Pipe) Pet() error { return p.say(petted) }

// Release stops it.
func (p *Pipe) Release() error {
	if p.f == nil {
		return nil
	}
	err := errors.Join(p.say(stopped), p.f.Close())
	p.f, p.info.Open = nil, false
	return err
}

// Info describes it.
func (p *Pipe) Info() guard.WatchdogInfo { return p.info }

func (p *Pipe) say(c byte) error {
	if p.f == nil {
		return fs.ErrClosed
	}
	_, err := p.f.Write([]byte{c})
	return err
}
