package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/novacron/novacron/agent/guard"
	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// perform makes one call to the outside and says what came of it.
func (v *vm) perform(o op, m machine) event {
	done := event{kind: evDone, op: o, epoch: m.Epoch}
	if o == opAttest {
		done.epoch = m.Tomb
	}
	var err error
	switch o {
	case opMoveIn, opMovePull, opMoveOut, opMoveEnd, opMoveAttest, opMoveClean:
		err = v.performMove(o, m)
	case opPrepare:
		v.ready, err = v.c.prepare(v.id)
	case opStart:
		done.dom, err = v.start(m)
		v.ready = nil
	case opInspect:
		done.dom, err = v.inspect(m)
	case opArm, opDisarm:
		done.epoch = m.RunEpoch
		done.res, done.message = v.atGuard(o, m)
		return done
	default:
		err = v.call(o, m)
	}
	done.res, done.message = classify(err)
	switch {
	case o == opPrepare && done.res != resOK: // whatever it was: it can be tried again
		done.res = resFailed
	case done.res == resUnknown:
		v.c.relist()
	}
	if err != nil {
		v.c.log.Warn("vm "+o.String()+" failed", "vm", v.id, "name", m.Name, "error", err)
	}
	return done
}

// classify reads an error of a driver. A context that ended says nothing about
// what the hypervisor did.
func classify(err error) (result, string) {
	switch {
	case err == nil:
		return resOK, ""
	case errors.Is(err, hypervisor.ErrUnknown), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		api.CodeOf(err) == api.CodeHypervisorUnknown:
		return resUnknown, err.Error()
	case errors.Is(err, hypervisor.ErrNotFound):
		return resNotFound, err.Error()
	case errors.Is(err, hypervisor.ErrExists):
		return resExists, err.Error()
	}
	var e *api.Error
	if errors.As(err, &e) {
		return resFailed, e.Error()
	}
	return resFailed, err.Error()
}

// op runs one call to the driver under its limits. It is not cut short when the
// agent ends: the journal shall have the outcome.
func (c *Client) op(f func(ctx context.Context) error) error {
	if !c.calls.acquire(c.ctx) {
		return c.ctx.Err()
	}
	defer c.calls.release()
	ctx, cancel := context.WithTimeout(c.callCtx, c.cfg.OpTimeout)
	defer cancel()
	return f(ctx)
}

func (v *vm) call(o op, m machine) error {
	d := v.c.cfg.Driver
	return v.c.op(func(ctx context.Context) error {
		switch o {
		case opShutdown:
			return d.Shutdown(ctx, v.id)
		case opDestroy:
			return d.Destroy(ctx, v.id)
		case opPause:
			return d.Pause(ctx, v.id)
		case opResume:
			return d.Resume(ctx, v.id)
		case opReboot:
			return d.Reboot(ctx, v.id)
		case opReset:
			return d.Reset(ctx, v.id)
		case opSetEpoch:
			return d.SetEpoch(ctx, v.id, m.Epoch)
		case opAttest:
			if err := d.Attest(ctx, v.id); err != nil || !m.Revoked {
				return err
			}
			return v.c.cleanup(v.id)
		}
		return fmt.Errorf("no such op %d", o)
	})
}

// inspect looks at the domain; of one that is gone it asks why.
func (v *vm) inspect(m machine) (out dom, err error) {
	err = v.c.op(func(ctx context.Context) error {
		d, err := v.c.cfg.Driver.Get(ctx, v.id)
		if errors.Is(err, hypervisor.ErrNotFound) {
			out = dom{kind: domAbsent}
			if reason, ok := v.c.cfg.Driver.LastExit(ctx, v.id); ok {
				out.exit = reason
			}
			return nil
		}
		out = domOf(d)
		return err
	})
	if err == nil && out.kind == domAbsent && m.Alive && m.hold.was {
		if note, ok := v.fenced(m.RunEpoch); ok {
			out.exit, out.note = exitFenced, note
		}
	}
	return out, err
}

// start proves that nothing of the VM is left here, then starts it.
func (v *vm) start(m machine) (dom, error) {
	if !v.c.starts.acquire(v.c.ctx) {
		return dom{}, v.c.ctx.Err()
	}
	defer v.c.starts.release()
	paused := m.Desired == api.PowerPaused || m.HA == api.HARestart
	v.mu.Lock()
	v.proc = guard.Process{}
	v.mu.Unlock()
	mach := v.ready
	mach.Epoch, mach.SpecVersion, mach.Generation = m.Epoch, m.SpecVersion, m.Generation
	err := v.c.op(func(ctx context.Context) error {
		if err := v.c.cfg.Driver.Attest(ctx, v.id); err != nil {
			return err
		}
		return v.c.cfg.Driver.Start(ctx, mach, paused)
	})
	if paused {
		out := dom{kind: domPaused, reason: "user", epoch: m.Epoch, version: m.SpecVersion}
		if m.Desired != api.PowerPaused {
			out.reason = "starting-up"
		}
		return out, err
	}
	return dom{kind: domRunning, epoch: m.Epoch, version: m.SpecVersion}, err
}

// domOf reads a driver's view.
func domOf(d hypervisor.Domain) dom {
	out := dom{reason: d.Reason, epoch: d.Epoch, version: d.SpecVersion, start: d.StartTime}
	switch d.State {
	case api.StateRunning, api.StateStopping:
		out.kind = domRunning
	case api.StatePaused:
		out.kind = domPaused
	case api.StateStopped, api.StateFailed:
		out.kind, out.exit = domDead, d.Reason
	default:
		out.kind = domUnknown
	}
	return out
}

// limit bounds how many do something at once.
type limit chan struct{}

func (l limit) acquire(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	select {
	case l <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (l limit) release() { <-l }
