package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// chunk is how much memory is sent at once, at most.
const chunk = 32 << 10

// defaultDowntime is libvirt's.
const defaultDowntime = 300 * time.Millisecond

// stream sends a guest's memory: all of it, then again and again what it has
// written meanwhile, until the rest can be sent while it stands still.
type stream struct {
	job *job
	w   io.Writer
	sum *sum
	seq uint64
}

func (s *stream) passes() error {
	j, h := s.job, s.job.host
	todo, last := j.total, api.Bytes(0)
	for {
		began := time.Now()
		if err := s.pass(todo); err != nil {
			return err
		}
		elapsed := time.Since(began)
		h.mu.Lock()
		rate := h.opts.Rate
		if rate == 0 && elapsed > 0 {
			rate = api.Bytes(float64(todo) / elapsed.Seconds())
		}
		last, todo = todo, min(j.total, api.Bytes(float64(j.dom.dirties(j.at.Throttle))*elapsed.Seconds()))
		expected := time.Duration(0)
		if rate > 0 {
			expected = time.Duration(float64(todo) / float64(rate) * float64(time.Second))
		}
		allowed := time.Duration(j.move.MaxDowntime)
		if allowed == 0 {
			allowed = defaultDowntime
		}
		j.at.Remaining, j.at.Downtime = todo, api.Duration(expected)
		if todo == 0 || expected <= allowed {
			h.mu.Unlock()
			return s.last(todo)
		}
		if j.move.AutoConverge && j.at.Passes > 1 && todo > last/2 {
			j.at.Throttle = min(99, max(20, j.at.Throttle+10))
		}
		h.mu.Unlock()
	}
}

// last stops the guest and sends the rest.
func (s *stream) last(todo api.Bytes) error {
	j, h := s.job, s.job.host
	h.mu.Lock()
	if h.domains[j.id] != j.dom {
		h.mu.Unlock()
		return errGone
	}
	if err := j.ctx.Err(); err != nil { // an abort comes too late from here on
		h.mu.Unlock()
		return err
	}
	if j.dom.state == api.StatePaused {
		j.was = j.dom.reason
	}
	j.dom.pause(hypervisor.ReasonMigrating)
	j.stopped, j.final = time.Now(), true
	h.mu.Unlock()
	h.publish(hypervisor.Event{Kind: hypervisor.EventPaused, ID: j.id, Reason: hypervisor.ReasonMigrating})
	return s.pass(todo)
}

// pass sends some memory, not faster than allowed.
func (s *stream) pass(todo api.Bytes) error {
	j, h := s.job, s.job.host
	h.mu.Lock()
	j.at.Passes++
	first := j.at.Passes == 1
	h.mu.Unlock()
	buf := make([]byte, chunk)
	for left := todo; left > 0; {
		n := min(left, chunk)
		for i := 0; i+8 <= int(n); i += 8 {
			s.seq++
			binary.LittleEndian.PutUint64(buf[i:], s.seq*0x9e3779b97f4a7c15)
		}
		if _, err := io.MultiWriter(s.w, s.sum).Write(buf[:n]); err != nil {
			return err
		}
		j.sent(int(n))
		if err := s.wait(n); err != nil {
			return err
		}
		if half := todo / 2; first && left > half && left-n <= half {
			if err := h.point(j.ctx, "move-copy", j.id); err != nil {
				return err
			}
		}
		left -= n
	}
	return nil
}

// wait makes that n bytes take as long as they should.
func (s *stream) wait(n api.Bytes) error {
	h := s.job.host
	h.mu.Lock()
	rate := h.opts.Rate
	h.mu.Unlock()
	if rate == 0 {
		return s.job.ctx.Err()
	}
	t := time.NewTimer(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-s.job.ctx.Done():
		return s.job.ctx.Err()
	}
}

// SetDirtyRate sets how much memory a guest writes each second while it runs.
func (h *Host) SetDirtyRate(id api.ID, r api.Bytes) bool {
	return h.with(id, func(d *domain) error { d.dirty = r; return nil }) == nil
}

// Counter is how long a guest has run since it booted first, over all hosts where
// it has been: it stands still while the guest does.
func (h *Host) Counter(id api.ID) (ran time.Duration, ok bool) {
	err := h.with(id, func(d *domain) error {
		ran = d.ran
		if !d.since.IsZero() {
			ran += time.Since(d.since)
		}
		return nil
	})
	return ran, err == nil
}

// SetDisk gives a disk content; Disk returns it, nil if it never had any.
func (h *Host) SetDisk(path string, content []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.disks[path] = content
}

// Disk returns the content of a disk.
func (h *Host) Disk(path string) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.disks[path]
}

// moving runs f on the job of a guest that is being moved.
func (d *Driver) moving(ctx context.Context, verb string, id api.ID, f func(*job) error) error {
	return d.call(ctx, verb, id, func() error {
		return d.host.with(id, func(dom *domain) error {
			if dom.job == nil {
				return hypervisor.ErrNotFound
			}
			return f(dom.job)
		})
	})
}

// AbortMove ends a move; once the destination has everything it is too late.
func (d *Driver) AbortMove(ctx context.Context, id api.ID) error {
	var j *job
	return d.call(ctx, "abortmove", id, func() error {
		if err := d.host.with(id, func(dom *domain) error { j = dom.job; return nil }); err != nil {
			return err
		}
		if j == nil || !j.abort() {
			return hypervisor.ErrNotFound
		}
		return nil
	})
}

// MoveStats samples a move; at the destination it tells how the finished one was.
func (d *Driver) MoveStats(ctx context.Context, id api.ID) (hypervisor.MoveStats, error) {
	var st hypervisor.MoveStats
	err := d.call(ctx, "movestats", id, func() error {
		return d.host.with(id, func(dom *domain) error {
			switch {
			case dom.job != nil:
				st = dom.job.sample()
			case dom.came != nil:
				st = *dom.came
			default:
				return hypervisor.ErrNotFound
			}
			return nil
		})
	})
	return st, err
}

// SetMaxDowntime changes how long the guest may stand still, from the next pass on.
func (d *Driver) SetMaxDowntime(ctx context.Context, id api.ID, downtime api.Duration) error {
	return d.moving(ctx, "setmaxdowntime", id, func(j *job) error {
		j.move.MaxDowntime = downtime
		return nil
	})
}

// DirtyRate takes its time, and returns what was set.
func (d *Driver) DirtyRate(ctx context.Context, id api.ID, over api.Duration) (api.Bytes, error) {
	var rate api.Bytes
	err := d.call(ctx, "dirtyrate", id, func() error {
		measure := func(dom *domain) error { rate = dom.dirties(0); return nil }
		if err := d.host.with(id, measure); err != nil {
			return err
		}
		t := time.NewTimer(time.Duration(over))
		defer t.Stop()
		select {
		case <-t.C:
			return d.host.with(id, measure)
		case <-ctx.Done():
			return errors.Join(hypervisor.ErrUnknown, ctx.Err())
		case <-d.ctx.Done():
			return errClosed
		}
	})
	return rate, err
}
