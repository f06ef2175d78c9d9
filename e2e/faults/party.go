package faults

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/novacron/novacron/e2e/lab"
)

// errAbsent: there is nothing to break at this point.
var errAbsent = errors.New("there is no such process at this point")

// A party is what is broken.
type party struct {
	Name string
	// hit breaks it, and returns what mends it again.
	hit func(ctx context.Context, m *move) (heal func(ctx context.Context) error, err error)
	// kills: the guest's own process may be what was hit, so it may start anew.
	kills bool
	// from and to are the points at which it is there; 0 is no limit.
	from, to int
}

// parties are all of a migration.
var parties = []party{
	{"source agent", killAgent(source), false, 0, 0},
	{"source libvirtd", killLibvirt(source), false, 0, 0},
	{"source QEMU", killGuest(source), true, 0, 10},
	{"destination agent", killAgent(destination), false, 0, 0},
	{"destination libvirtd", killLibvirt(destination), false, 0, 0},
	{"destination QEMU", killGuest(destination), true, 5, 0},
	{"leader", killLeader, false, 0, 0},
	{"cut source-destination", func(ctx context.Context, m *move) (func(context.Context) error, error) {
		return cut(ctx, m.from, m.to)
	}, false, 0, 0},
	{"cut source-servers", func(ctx context.Context, m *move) (func(context.Context) error, error) {
		return cut(ctx, m.from, m.b.Servers...)
	}, false, 0, 0},
	{"cut destination-servers", func(ctx context.Context, m *move) (func(context.Context) error, error) {
		return cut(ctx, m.to, m.b.Servers...)
	}, false, 0, 0},
}

func killAgent(at func(*move) *lab.Host) func(context.Context, *move) (func(context.Context) error, error) {
	return func(ctx context.Context, m *move) (func(context.Context) error, error) {
		h := at(m)
		return func(context.Context) error { return h.StartAgent() }, h.KillAgent(ctx)
	}
}

func killLibvirt(at func(*move) *lab.Host) func(context.Context, *move) (func(context.Context) error, error) {
	return func(ctx context.Context, m *move) (func(context.Context) error, error) {
		h := at(m)
		return h.RestartLibvirt, h.Kill(ctx, "KILL", "libvirtd")
	}
}

func killGuest(at func(*move) *lab.Host) func(context.Context, *move) (func(context.Context) error, error) {
	return func(_ context.Context, m *move) (func(context.Context) error, error) {
		for _, p := range m.g.processes() {
			if p.Host == at(m).Name {
				return func(context.Context) error { return nil }, syscall.Kill(p.PID, syscall.SIGKILL)
			}
		}
		return nil, errAbsent
	}
}

func killLeader(ctx context.Context, m *move) (func(context.Context) error, error) {
	h, err := m.b.leader(ctx)
	if err != nil {
		return nil, err
	}
	m.note("the leader was %s", h.Name)
	return func(context.Context) error { return h.StartAgent() }, h.KillAgent(ctx)
}

// cut drops everything between one host and others, in both directions.
func cut(ctx context.Context, h *lab.Host, others ...*lab.Host) (func(context.Context) error, error) {
	change := func(ctx context.Context, how string) error {
		var errs []error
		for _, o := range others {
			_, in := h.Run(ctx, "iptables", "-w", how, "INPUT", "-s", o.Address, "-j", "DROP")
			_, out := h.Run(ctx, "iptables", "-w", how, "OUTPUT", "-d", o.Address, "-j", "DROP")
			errs = append(errs, in, out)
		}
		return errors.Join(errs...)
	}
	return func(ctx context.Context) error { return change(ctx, "-D") }, change(ctx, "-I")
}

// whole waits until every server votes and every client is ready again.
func (b *Bed) whole(ctx context.Context) error {
	return until(ctx, 60*time.Second, func(ctx context.Context) error {
		var errs []error
		for _, h := range b.Servers {
			if err := b.sees(ctx, h); err != nil {
				errs = append(errs, fmt.Errorf("by way of %s: %w", h.Name, err))
			}
		}
		return errors.Join(errs...)
	})
}
