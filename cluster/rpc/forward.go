package rpc

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/novacron/novacron/api"
)

// regionTries is how many servers of a region are tried when they cannot be
// reached.
const regionTries = 3

// toRegion passes a call on to a server of the region that it names.
func (m *Mux) toRegion(ctx context.Context, c *call, there func(context.Context, conn, *header) error) error {
	region := c.hdr.Region
	if c.hdr.hops != 0 {
		return api.Errorf(api.CodeNoRegion, "the call for region %q went round in a loop", region)
	}
	h := c.hdr
	h.hops |= hopRegion
	var err error = api.Errorf(api.CodeNoRegion, "no path to region %q", region)
	for range regionTries {
		addr, ok := m.o.Router.ServerIn(region)
		if !ok || m.o.Pool == nil {
			return err
		}
		err = there(ctx, m.o.Pool.get(target{addr: addr, role: api.RoleServer, region: region}), &h)
		if !c.retriable(err) {
			return err
		}
	}
	return err
}

// toLeader runs a call here when this server leads, else at the leader. While
// there is none, or it cannot be reached, the call is held.
func (m *Mux) toLeader(ctx context.Context, c *call, handle func() error, there func(context.Context, conn, *header) error) error {
	r := m.o.Router
	hold := time.NewTimer(time.Duration(m.hold.Load()))
	defer hold.Stop()
	var err error = api.Errorf(api.CodeNoLeader, "region %q has no leader", r.Region()).WithHint("try again in a few seconds")
	for try := 0; ; try++ {
		changed := r.LeaderChanged() // before looking, so that no change is missed
		if r.IsLeader() {
			if err = m.lead(ctx, c, handle); !c.retriable(err) {
				return err
			}
		} else if c.hdr.hops&hopLeader != 0 {
			// Whoever forwarded it here holds it and looks again.
			return api.Errorf(api.CodeNoLeader, "this server does not lead region %q", r.Region())
		} else if addr, ok := r.Leader(); ok && m.o.Pool != nil {
			h := c.hdr
			h.hops |= hopLeader
			if c.md.Kind.node() {
				h.origin = c.id.NodeID.String()
			}
			err = there(ctx, m.o.Pool.get(target{addr: addr, role: api.RoleServer, region: r.Region()}), &h)
			if !c.retriable(err) {
				return err
			}
		}
		if c.hdr.hops&hopLeader != 0 {
			return err
		}
		again := time.NewTimer(pause(try))
		select {
		case <-ctx.Done():
			again.Stop()
			return ended(ctx)
		case <-hold.C:
			again.Stop()
			return err
		case <-changed:
		case <-again.C:
		}
		again.Stop()
	}
}

// lead serves a call on the leader.
func (m *Mux) lead(ctx context.Context, c *call, handle func() error) error {
	if consistent(c) {
		if err := m.o.Router.ReadIndex(ctx); err != nil {
			return err
		}
	}
	return handle()
}

// retriable reports whether a call that failed may be tried elsewhere: it did
// nothing where it went, or it changes nothing at all.
func (c *call) retriable(err error) bool {
	var l *lost
	if errors.As(err, &l) {
		return !c.begun && (!l.sent || !c.md.Kind.writes())
	}
	return err != nil && !c.begun && api.CodeOf(err) == api.CodeNoLeader
}

// pause is 25 to 50 ms at first, doubling to 400 to 800 ms.
func pause(try int) time.Duration {
	d := 25 * time.Millisecond << min(try, 4)
	return d + rand.N(d)
}

// relay joins a caller's stream with the one that was opened for it, until the
// far one ends.
func (m *Mux) relay(ctx context.Context, s serverStream, up api.Stream) error {
	if !m.wg.add() {
		return errClosing()
	}
	// This half ends when the caller's stream does, which may be only after
	// this function has returned: the mux waits for it.
	go func() {
		defer m.wg.done()
		for {
			var b raw
			if s.Recv(&b) != nil {
				up.CloseSend() // at the end, or in vain when the call is over
				return
			}
			if up.Send(&b) != nil {
				return // the other half learns why
			}
		}
	}()
	for {
		var b raw
		if err := up.Recv(&b); err == io.EOF {
			return nil
		} else if err != nil {
			if e := ended(ctx); e != nil {
				return e
			}
			return err
		}
		if err := s.Send(&b); err != nil {
			return err
		}
	}
}
