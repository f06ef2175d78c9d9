package client

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/novacron/novacron/api"
)

var (
	errBehind  = api.Errorf(api.CodeStale, "the server is behind what this node has seen")
	errSilence = api.Errorf(api.CodeUnreachable, "the stream of orders was silent for too long")
	errReopen  = errors.New("the stream of orders is opened anew")
)

// followOrders keeps one stream of orders open, at any server that is not
// behind what this node has seen.
func (c *Client) followOrders() {
	var delay time.Duration
	for c.ctx.Err() == nil {
		for _, addr := range c.servers.list() {
			got, err := c.stream(addr)
			c.health.set(func(h *healthState) {
				if h.stream {
					h.stream, h.streamLost = false, time.Now()
				}
			})
			if c.ctx.Err() != nil {
				return
			}
			if got {
				delay = 0
			}
			if errors.Is(err, errReopen) {
				break
			}
			c.log.Info("stream of orders ended", "server", addr, "error", err)
			c.servers.bad(addr, err)
			if got { // it was good until now: all servers are worth a try again
				break
			}
		}
		delay = backoffDelay(delay)
		if !c.sleep(jitter(delay)) {
			return
		}
	}
}

// stream follows one server until it ends, and reports whether it was of use.
func (c *Client) stream(addr string) (got bool, err error) {
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer cancel(nil)
	silence := time.AfterFunc(jitter(c.cfg.StreamSilence), func() { cancel(errSilence) })
	defer silence.Stop()
	reopened := make(chan struct{})
	watching := c.spawn(func() {
		defer close(reopened)
		select {
		case <-c.reopen:
			cancel(errReopen)
		case <-ctx.Done():
		}
	})
	if watching {
		defer func() { cancel(nil); <-reopened }()
	}
	l := c.streamLease()
	c.mu.Lock()
	req := &api.OrdersRequest{NodeID: c.cfg.Node.ID, SessionID: c.session, MinIndex: c.meta.Index}
	if l.generation == c.meta.Generation {
		req.MinIndex = max(req.MinIndex, l.index)
	}
	c.mu.Unlock()
	s, err := c.cfg.Dial(addr).Open(ctx, "Node.Orders", req)
	if err != nil {
		return false, cause(ctx, err)
	}
	for {
		b := &api.OrderBatch{}
		if err := s.Recv(b); err != nil {
			return got, cause(ctx, err)
		}
		silence.Reset(jitter(c.cfg.StreamSilence))
		if older(b.Generation, b.Index, l.generation, l.index) {
			return got, errBehind
		}
		if err := c.apply(b, !got, l.fresh); err != nil {
			return got, err
		}
		if !got {
			got = true
			c.health.set(func(h *healthState) { h.stream = true })
		}
	}
}

// cause prefers why we ended the stream over what the stream says of it.
func cause(ctx context.Context, err error) error {
	if e := context.Cause(ctx); e != nil {
		return e
	}
	return err
}

// apply takes in one batch of a stream that was opened in a term of the lease.
// What is not in it means nothing.
func (c *Client) apply(b *api.OrderBatch, first bool, term uint64) error {
	c.mu.Lock()
	m := c.meta
	if older(b.Generation, b.Index, m.Generation, m.Index) {
		c.mu.Unlock()
		return errBehind
	}
	restored := m.Generation != 0 && b.Generation > m.Generation
	c.meta.Generation, c.meta.Index = b.Generation, b.Index
	m = c.meta
	c.mu.Unlock()
	if first && !b.Full {
		return api.Errorf(api.CodeStale, "the stream of orders did not begin with a full batch")
	}
	if restored || first || len(b.Volumes)+len(b.Images) > 0 {
		err := c.journal.putMeta(m)
		c.journalError(err)
		if err != nil {
			return err
		}
	} else if len(b.Orders)+len(b.Moves) > 0 {
		c.journal.note(m) // it goes with what the VMs write, before they act
	}
	if restored || b.Recovery && !c.recovery.Load() {
		// Grants of a lost future count no more, until they are given again.
		c.hold.Store(true)
		c.broadcast(event{kind: evForget})
	}
	if b.Recovery {
		if !c.recovery.Swap(true) {
			c.log.Warn("the region is in recovery: nothing is started or stopped", "generation", b.Generation)
		}
		return nil
	}
	if !b.Full && (c.recovery.Load() || restored) {
		return errReopen // what was not followed during recovery comes again, in full
	}
	c.recovery.Store(false)
	held := c.hold.Swap(false)
	if !c.give(b, term) {
		err := c.journal.settle()
		c.journalError(err)
		if err != nil {
			return err
		}
	}
	if held {
		c.broadcast(event{kind: evTick})
	}
	c.volumeOrders(b)
	if held || b.Full {
		poke(c.networks.look)
	}
	return nil
}

// give hands its moves and orders to each VM, at once: they are written together. Of
// one VM its part in a migration comes first, since a guest that is under way is not to
// be touched, and then the tombstone, so that a newer grant does not begin beside an old
// copy. It reports whether there was anything to hand out.
func (c *Client) give(b *api.OrderBatch, term uint64) bool {
	var ids []api.ID
	moves, events := map[api.ID][]*api.MoveOrder{}, map[api.ID][]event{}
	add := func(id api.ID, ev event) {
		if events[id] == nil {
			ids = append(ids, id)
		}
		events[id] = append(events[id], ev)
	}
	for _, o := range b.Moves {
		if c.moveFor(o) {
			moves[o.Migration.VMID] = append(moves[o.Migration.VMID], o)
			add(o.Migration.VMID, c.moveEvent(o))
		}
	}
	orders := slices.Clone(b.Orders)
	slices.SortStableFunc(orders, func(x, y *api.Order) int {
		switch {
		case x.Stop == y.Stop:
			return int(int64(x.Epoch - y.Epoch))
		case x.Stop:
			return -1
		}
		return 1
	})
	for _, o := range orders {
		add(o.VMID, event{kind: evOrder, order: o, generation: b.Generation, term: term})
	}
	for _, id := range ids {
		for given := false; !given; { // forgotten just now: made anew
			if c.ctx.Err() != nil {
				return true
			}
			v := c.vm(id)
			for _, o := range moves[id] {
				v.part.give(o)
			}
			given = v.post(events[id]...)
		}
	}
	return len(ids) > 0
}
