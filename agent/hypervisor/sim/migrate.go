package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

var _ hypervisor.Migrator = (*Driver)(nil)

// errDown cuts moves when the hypervisor goes down; errLost, that an answer never
// comes; errGone, that the guest ended meanwhile.
var (
	errDown = fmt.Errorf("%w: the hypervisor went down", hypervisor.ErrUnknown)
	errLost = fmt.Errorf("%w: the answer of the destination was lost", hypervisor.ErrUnknown)
	errGone = fmt.Errorf("%w: the guest ended meanwhile", hypervisor.ErrUnknown)
)

func errMoving() error { return api.Errorf(api.CodeMigrating, "the domain is being moved") }

// ControlSocket is Options.Control.
func (d *Driver) ControlSocket() string { return d.host.opts.Control }

// Move moves a guest. The host does it, not the driver: closing the driver leaves
// the move as it is, and Move returns ErrUnknown.
//
// Faults can be injected around it (verb move) and at its cut points: move-prepare
// before the destination knows of it, move-copy when half of the memory is sent,
// move-finish when the guest is complete at the destination. There, Err is what
// a link does that dies with the answer: the guest goes on at the source as well;
// Lost leaves the source paused, and unknowing. The destination's own verb is
// incoming.
func (d *Driver) Move(ctx context.Context, id api.ID, m *hypervisor.Move) error {
	return d.call(ctx, "move", id, func() error {
		j, err := d.host.begin(id, m)
		if err != nil {
			return err
		}
		ended := ctx.Done()
		for {
			select {
			case <-j.done:
				if j.err == nil && m.Gone != nil {
					m.Gone()
				}
				return j.err
			case <-d.ctx.Done():
				return errClosed
			case <-ended:
				ended = nil
				j.abort()
			}
		}
	})
}

// job is a move at its source. The fields below host are under the host's lock.
type job struct {
	host    *Host
	id      api.ID
	dom     *domain
	move    hypervisor.Move
	ctx     context.Context
	end     context.CancelCauseFunc
	done    chan struct{}
	err     error // set before done is closed
	began   time.Time
	was     string // the reason of the user's pause; empty if the guest ran
	total   api.Bytes
	at      hypervisor.MoveStats
	final   bool // it is with the destination whether it succeeds
	stopped time.Time
}

// begin checks everything and starts the job.
func (h *Host) begin(id api.ID, m *hypervisor.Move) (*job, error) {
	ctx, end := h.life()
	h.mu.Lock()
	defer h.mu.Unlock()
	dom, err := h.movable(id, m)
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		end(err)
		return nil, err
	}
	j := &job{host: h, id: id, dom: dom, move: *m, ctx: ctx, end: end, done: make(chan struct{}), began: time.Now()}
	j.total = min(h.opts.Resident, dom.machine.Memory)
	j.at = hypervisor.MoveStats{Total: j.total, Remaining: j.total, Downtime: m.MaxDowntime}
	dom.job = j
	h.wg.Go(j.run)
	return j, nil
}

// movable finds the domain and checks that it is the machine of the move.
func (h *Host) movable(id api.ID, m *hypervisor.Move) (*domain, error) {
	if m.Machine == nil || m.Machine.ID != id {
		return nil, api.Errorf(api.CodeInvalid, "the machine for the destination is missing or another")
	}
	if err := m.Machine.Validate(); err != nil {
		return nil, err
	}
	dom, ok := h.domains[id]
	switch {
	case !ok:
		return nil, hypervisor.ErrNotFound
	case dom.job != nil || dom.in != nil:
		return nil, errMoving()
	case dom.inert && dom.state == api.StatePaused:
		return nil, api.Errorf(api.CodeState, "the guest came here paused and has not run since").WithHint("resume it first")
	}
	have, want := &dom.machine, m.Machine
	if have.Memory != want.Memory || have.CPU.Cores != want.CPU.Cores || len(have.Disks) != len(want.Disks) ||
		!slices.EqualFunc(have.NICs, want.NICs, func(a, b hypervisor.MachineNIC) bool { return strings.EqualFold(a.MAC, b.MAC) }) {
		return nil, api.Errorf(api.CodeInvalid, "the machine is not the one that runs")
	}
	for _, name := range m.Copy {
		if !slices.ContainsFunc(want.Disks, func(d hypervisor.MachineDisk) bool { return d.Name == name }) {
			return nil, api.Errorf(api.CodeInvalid, "there is no disk %q to copy", name)
		}
	}
	for i, disk := range want.Disks {
		if !disk.ReadOnly && !slices.Contains(m.Copy, disk.Name) && !(disk.Shared && have.Disks[i].Shared) {
			return nil, api.Errorf(api.CodeMigration, "disk %s is neither copied nor shared", disk.Name).WithHint("copy it")
		}
	}
	return dom, nil
}

// run carries the move out, and puts the guest where it then is.
func (j *job) run() {
	err := j.carry()
	h := j.host
	h.mu.Lock()
	dom := j.dom
	dom.job = nil
	here := h.domains[j.id] == dom
	kind := hypervisor.EventKind("")
	switch {
	case !here:
		err = errGone
	case err == nil:
		h.mu.Unlock()
		h.endThis(j.id, dom, "migrated")
		h.mu.Lock()
	case j.final && errors.Is(err, hypervisor.ErrUnknown): // stays paused (migrating)
	default:
		if dom.state == api.StatePaused && dom.reason == hypervisor.ReasonMigrating {
			if j.was != "" {
				dom.reason = j.was
			} else {
				dom.run("migration-canceled")
				kind = hypervisor.EventResumed
			}
		}
		if !errors.Is(err, hypervisor.ErrAborted) && !errors.Is(err, hypervisor.ErrUnknown) {
			err = api.Errorf(api.CodeMigration, "the move failed: %s", err).WithHint("look at the way to the destination, and at it")
		}
	}
	h.mu.Unlock()
	if kind != "" {
		h.publish(hypervisor.Event{Kind: kind, ID: j.id, Reason: "migration-canceled"})
	}
	j.err = err
	j.end(nil)
	close(j.done)
}

// carry sends everything and asks for the destination's word. Its error is the
// cause for which the job was cut, if it was.
func (j *job) carry() (err error) {
	defer func() {
		if cause := context.Cause(j.ctx); err != nil && cause != nil && !errors.Is(err, errLost) {
			err = cause
		}
	}()
	h := j.host
	if err := h.point(j.ctx, "move-prepare", j.id); err != nil {
		return err
	}
	control, stop, err := j.dial(j.move.Control)
	if err != nil {
		return err
	}
	defer stop()
	paths, content := j.copies()
	if err := ask(control, &message{Kind: kindPrepare, Machine: j.move.Machine, Memory: j.move.Memory, Disks: j.move.Disks, Copy: paths}, kindReady); err != nil {
		return err
	}
	if len(paths) > 0 {
		if err := j.sendDisks(content); err != nil {
			return err
		}
	}
	memory, hangUp, err := j.dial(j.move.Memory)
	if err != nil {
		return err
	}
	defer hangUp()
	out := &stream{job: j, w: memory, sum: newSum()}
	if err := out.passes(); err != nil {
		return err
	}
	hangUp()
	if err := j.ctx.Err(); err != nil {
		return err
	}
	if err := ask(control, &message{Kind: kindFinish, State: j.state(out.sum)}, kindComplete); err != nil {
		return err
	}
	return h.point(j.ctx, "move-finish", j.id)
}

// dial connects, until the job ends.
func (j *job) dial(path string) (c io.ReadWriteCloser, hangUp func(), err error) {
	nc, err := j.host.opts.Dial(j.ctx, path)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(j.ctx, func() { _ = nc.Close() })
	return nc, func() { stop(); _ = nc.Close() }, nil
}

// copies returns the paths there of the disks that are copied, and what is in
// them here.
func (j *job) copies() (paths []string, content [][]byte) {
	h := j.host
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, d := range j.move.Machine.Disks {
		if slices.Contains(j.move.Copy, d.Name) {
			b := h.disks[j.dom.machine.Disks[i].Path]
			paths, content = append(paths, d.Path), append(content, b)
			j.at.Total += api.Bytes(len(b))
			j.at.Remaining += api.Bytes(len(b))
		}
	}
	return paths, content
}

func (j *job) sendDisks(content [][]byte) error {
	c, hangUp, err := j.dial(j.move.Disks)
	if err != nil {
		return err
	}
	defer hangUp()
	for _, b := range content {
		if err := sendDisk(c, b); err != nil {
			return err
		}
		j.sent(len(b))
	}
	return nil
}

// sent counts.
func (j *job) sent(n int) {
	j.host.mu.Lock()
	defer j.host.mu.Unlock()
	j.at.Done += api.Bytes(n)
	j.at.Remaining = max(0, j.at.Remaining-api.Bytes(n))
}

// state is what goes with the last message.
func (j *job) state(s *sum) *state {
	h := j.host
	h.mu.Lock()
	defer h.mu.Unlock()
	st := j.sample()
	st.Remaining, st.Downtime = 0, api.Duration(time.Since(j.stopped))
	return &state{Ran: j.dom.ran, Booted: j.dom.booted, DirtyRate: int64(j.dom.dirty), Sent: s.n, Sum: s.Sum64(), Stats: st}
}

// sample is the statistics now; the host's lock is held.
func (j *job) sample() hypervisor.MoveStats {
	st := j.at
	elapsed := time.Since(j.began)
	st.Elapsed = api.Duration(elapsed)
	if elapsed > 0 {
		st.Rate = api.Bytes(float64(st.Done) / elapsed.Seconds())
	}
	st.DirtyRate = j.dom.dirties(st.Throttle)
	return st
}

// dirties is how fast the guest writes memory now.
func (d *domain) dirties(throttle int32) api.Bytes {
	if d.state != api.StateRunning {
		return 0
	}
	return d.dirty * api.Bytes(100-throttle) / 100
}

// abort ends the job unless it is with the destination already.
func (j *job) abort() bool {
	h := j.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if j.final {
		return false
	}
	j.end(hypervisor.ErrAborted)
	return true
}

// point is a cut point: what is injected there happens.
func (h *Host) point(ctx context.Context, verb string, id api.ID) error {
	f, _ := h.match(verb, id)
	if f.Delay > 0 {
		t := time.NewTimer(f.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if f.Hang {
		<-ctx.Done()
		return ctx.Err()
	}
	if f.Before != nil {
		f.Before()
	}
	if f.After != nil {
		defer f.After()
	}
	if f.Lost {
		return errLost
	}
	return f.Err
}
