package conformance

import (
	"errors"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

func moveAborted(d *duo) {
	m := d.boot(d.p.Machine(d.T))
	_, done := d.start(m, d.prepare(m))
	other := d.migrator(d.p.From.Connect(d.T))
	defer other.Close()
	must.NoError(d, other.AbortMove(d.ctx, m.ID))
	must.ErrorIs(d, <-done, hypervisor.ErrAborted)
	d.stayed(m)
	must.ErrorIs(d, d.from.AbortMove(d.ctx, m.ID), hypervisor.ErrNotFound)

	l := d.prepare(m) // and then it can be moved
	must.NoError(d, d.from.Move(d.ctx, m.ID, &l.Move))
	d.complete(m)
}

func moveCanceled(d *duo) {
	m := d.boot(d.p.Machine(d.T))
	cancel, done := d.start(m, d.prepare(m))
	cancel()
	must.ErrorIs(d, <-done, hypervisor.ErrAborted)
	d.stayed(m)
}

func moveOrphaned(d *duo) {
	m := d.boot(d.p.Machine(d.T))
	agent := d.migrator(d.p.From.Connect(d.T))
	l := d.prepare(m)
	l.Hold()
	done := make(chan error, 1)
	go func() { done <- agent.Move(d.ctx, m.ID, &l.Move) }()
	d.until("incoming", func() error { return d.is(d.dst, m.ID, api.StatePaused, hypervisor.ReasonIncoming) })
	must.NoError(d, agent.Close())
	must.ErrorIs(d, <-done, hypervisor.ErrUnknown)
	_, err := d.from.MoveStats(d.ctx, m.ID)
	must.NoError(d, err, must.Sprint("another agent finds it"))
	l.Release()
	d.until("complete", func() error { return d.is(d.dst, m.ID, api.StatePaused, hypervisor.ReasonComplete) })
	d.until("gone", func() error { return d.from.Attest(d.ctx, m.ID) })
}

func moveCut(d *duo) {
	m := d.boot(d.p.Machine(d.T))
	l := d.prepare(m)
	_, done := d.start(m, l)
	l.Cut()
	err := <-done
	must.Eq(d, api.CodeMigration, api.CodeOf(err), must.Sprint(err))
	must.False(d, errors.Is(err, hypervisor.ErrUnknown), must.Sprint(err))
	d.stayed(m)
}

func moveNoWay(d *duo) {
	m := d.boot(d.p.Machine(d.T))
	l := d.prepare(m)
	l.Cut()
	err := d.from.Move(d.ctx, m.ID, &l.Move)
	must.Eq(d, api.CodeMigration, api.CodeOf(err), must.Sprint(err))
	var e *api.Error
	must.True(d, errors.As(err, &e))
	must.NotEq(d, "", e.Hint)
	d.stayed(m)
}

func moveDestinationDown(d *duo) {
	m := d.boot(d.p.Machine(d.T))
	_, done := d.start(m, d.prepare(m))
	d.p.To.Down(d.T)
	err := <-done
	d.p.To.Up(d.T)
	must.Eq(d, api.CodeMigration, api.CodeOf(err), must.Sprint(err))
	d.stayed(m)
}

func moveSilence(d *duo) {
	m := d.boot(d.p.Machine(d.T))
	_, done := d.start(m, d.prepare(m))
	d.h.Down(d.T)
	must.ErrorIs(d, <-done, hypervisor.ErrUnknown)
	l := d.prepare(m)
	must.ErrorIs(d, d.from.Move(d.ctx, m.ID, &l.Move), hypervisor.ErrUnknown)
	must.ErrorIs(d, d.from.AbortMove(d.ctx, m.ID), hypervisor.ErrUnknown)
	_, err := d.from.MoveStats(d.ctx, m.ID)
	must.ErrorIs(d, err, hypervisor.ErrUnknown)
	_, err = d.from.DirtyRate(d.ctx, m.ID, api.Duration(time.Second))
	must.ErrorIs(d, err, hypervisor.ErrUnknown)
	d.h.Up(d.T)
	d.await(api.ID{}, hypervisor.EventReconnect)
	d.stayed(m)
}

func moveCompleteKept(d *duo) {
	m := d.boot(d.p.Machine(d.T))
	l := d.prepare(m)
	must.NoError(d, d.from.Move(d.ctx, m.ID, &l.Move))
	d.complete(m)
	d.p.To.Down(d.T)
	d.p.To.Up(d.T)
	d.until("complete", func() error { return d.is(d.dst, m.ID, api.StatePaused, hypervisor.ReasonComplete) })
	must.NoError(d, d.dst.Resume(d.ctx, m.ID))
	d.talks(d.to, m.ID, "kept", true)
}
