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
	// at are the points at which it is there, and kills those at which the guest's own
	// process may be what is hit, so that it may start anew.
	at, kills span
}

// span is a range of cut points.
type span struct{ from, to int }

var always, never = span{1, len(points)}, span{}

func (s span) has(point int) bool { return s.from <= point && point <= s.to }

// parties are all of a migration.
var parties = []party{
	{"source agent", killAgent(source), always, never},
	{"source libvirtd", killLibvirt(source), always, never},
	{"source QEMU", killGuest(source), span{1, 10}, always},
	{"source host", powerOff(source), always, span{1, 10}},
	{"destination agent", killAgent(destination), always, never},
	{"destination libvirtd", killLibvirt(destination), always, never},
	{"destination QEMU", killGuest(destination), span{5, len(points)}, always},
	{"destination host", powerOff(destination), always, span{5, len(points)}},
	{"leader", killLeader, always, never},
	{"cut source-destination", func(ctx context.Context, m *move) (func(context.Context) error, error) {
		return cut(ctx, m.from, m.to)
	}, always, never},
	{"cut source-servers", func(ctx context.Context, m *move) (func(context.Context) error, error) {
		return cut(ctx, m.from, m.b.Servers...)
	}, always, never},
	{"cut destination-servers", func(ctx context.Context, m *move) (func(context.Context) error, error) {
		return cut(ctx, m.to, m.b.Servers...)
	}, always, never},
}

// Parties are the names of all that is broken.
func Parties() (names []string) {
	for _, q := range parties {
		names = append(names, q.Name)
	}
	return names
}

// powerOff ends all of a host's processes at once. It boots again, with another boot
// id.
func powerOff(at func(*move) *lab.Host) func(context.Context, *move) (func(context.Context) error, error) {
	return func(ctx context.Context, m *move) (func(context.Context) error, error) {
		m.off = at(m)
		return m.b.boot(m.off), m.off.PowerOff(ctx)
	}
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
