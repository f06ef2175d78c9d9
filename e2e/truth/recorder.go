package truth

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/e2e/lab"
)

// every is how often processes and domains are looked at.
const every = 100 * time.Millisecond

// process is a QEMU process that is there.
type process struct {
	host, boot, vm string
	pid            int
	state          State
	epoch          uint64
	frozen         bool // it ran when its host was frozen
}

// Recorder writes a truth.log. It ends with Close.
type Recorder struct {
	hosts  []*lab.Host
	file   *os.File
	cancel context.CancelFunc
	done   <-chan struct{} // closed by cancel
	wg     sync.WaitGroup

	mu        sync.Mutex
	processes map[int]*process
	records   []Record
	changed   chan struct{} // closed and made anew at each record
	err       error         // of writing
}

// Start records what the hosts that have libvirt run.
func Start(path string, hosts ...*lab.Host) (*Recorder, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Recorder{file: f, cancel: cancel, done: ctx.Done(), processes: map[int]*process{}, changed: make(chan struct{})}
	for _, h := range hosts {
		if h.Libvirt {
			r.hosts = append(r.hosts, h)
		}
	}
	for _, h := range r.hosts {
		r.wg.Go(func() { r.follow(ctx, h) })
		r.wg.Go(func() { r.poll(ctx, h) })
	}
	r.wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			r.scan(ctx)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return r, nil
}

// Close ends the recording; its error says that the log is not whole.
func (r *Recorder) Close() error {
	r.cancel()
	r.wg.Wait()
	return errors.Join(r.err, r.file.Close())
}

// Records are what was recorded so far.
func (r *Recorder) Records() []Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.records)
}

// Await waits until something that has been recorded since from fits.
func (r *Recorder) Await(ctx context.Context, from int64, fits func(Record) bool) (Record, error) {
	for {
		r.mu.Lock()
		changed := r.changed
		for _, x := range r.records {
			if x.Time >= from && fits(x) {
				r.mu.Unlock()
				return x, nil
			}
		}
		r.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return Record{}, ctx.Err()
		}
	}
}

// Frozen records that all of a host stands still from now on, or goes on.
func (r *Recorder) Frozen(h *lab.Host, frozen bool) {
	at := Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.processes {
		switch {
		case p.host != h.Name:
		case frozen && p.state == Run:
			p.frozen = true
			r.add(p, at, Pause)
		case !frozen && p.frozen:
			p.frozen = false
			r.add(p, at, Run)
		}
	}
}

// Process is a QEMU process that is there now.
type Process struct {
	Host, VM string
	PID      int
	State    State
}

// Processes are those that are there now, in order of their PIDs.
func (r *Recorder) Processes() (out []Process) {
	r.scan(context.Background())
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.processes {
		out = append(out, Process{p.host, p.vm, p.pid, p.state})
	}
	slices.SortFunc(out, func(a, b Process) int { return a.PID - b.PID })
	return out
}

// add appends a record; locked.
func (r *Recorder) add(p *process, at int64, state State) {
	x := Record{at, p.host, p.boot, p.vm, p.epoch, state, p.pid}
	p.state = state
	r.records = append(r.records, x)
	if _, err := fmt.Fprintln(r.file, x); err != nil {
		r.err = err
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// scan looks for processes that are new.
func (r *Recorder) scan(ctx context.Context) {
	for _, pid := range qemus() {
		r.mu.Lock()
		_, known := r.processes[pid]
		r.mu.Unlock()
		if known {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // gone again
		}
		p := r.identify(pid)
		r.mu.Lock()
		_, known = r.processes[pid]
		if p == nil || known || ctx.Err() != nil {
			r.mu.Unlock()
			_ = unix.Close(fd)
			continue
		}
		r.processes[pid] = p
		r.add(p, Now(), Pause) // libvirt starts each with its CPUs stopped
		r.wg.Go(func() { r.wait(p, fd) })
		r.mu.Unlock()
	}
}

// wait records the end of a process.
func (r *Recorder) wait(p *process, fd int) {
	defer unix.Close(fd)
	for {
		// The end of the recorder is looked for now and then.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 200)
		if err != nil && !errors.Is(err, unix.EINTR) {
			break
		}
		if n > 0 {
			break
		}
		if r.closing() {
			return
		}
	}
	at := Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.processes, p.pid)
	r.add(p, at, Stop)
}
