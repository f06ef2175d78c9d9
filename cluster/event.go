package cluster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-metrics/compat"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
	"github.com/novacron/novacron/fsm/event"
)

const (
	eventHeartbeat = 10 * time.Second
	// eventBacklog is how many changes may wait to become events; beyond it they
	// are dropped and every reader is told of the gap.
	eventBacklog = 1 << 17
)

func (s *Server) eventEndpoints() {
	read(s, "Event.List", acl.ReadEvent, s.eventList)
	stream(s, rpc.KindAny, "Event.Stream", acl.ReadEvent, s.eventStream)
}

// eventPump makes events of changes beside the goroutine that applies: they are
// JSON, and that takes longer than applying.
type eventPump struct {
	ring *event.Ring
	mu   sync.Mutex
	todo []eventBatch
	size int
	lost bool
	wake chan struct{} // buffered by one
}

type eventBatch struct {
	index   api.Index
	changes []fsm.Change
	state   *fsm.State
	reset   bool
}

func newEventPump(ring *event.Ring) *eventPump {
	return &eventPump{ring: ring, wake: make(chan struct{}, 1)}
}

func (p *eventPump) add(b eventBatch) {
	p.mu.Lock()
	if p.size += len(b.changes); p.size > eventBacklog {
		p.todo, p.size, p.lost = nil, 0, true
	}
	p.todo = append(p.todo, b)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run publishes until ctx ends.
func (p *eventPump) run(ctx context.Context) {
	defer p.ring.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
		p.mu.Lock()
		todo, lost := p.todo, p.lost
		p.todo, p.size, p.lost = nil, 0, false
		p.mu.Unlock()
		if lost && len(todo) > 0 {
			metrics.IncrCounter([]string{"event", "overflow"}, 1)
			p.ring.Reset(todo[0].index - 1)
		}
		for _, b := range todo {
			if b.reset {
				p.ring.Reset(b.index)
				continue
			}
			p.ring.Publish(b.index, fsm.EventsOf(b.changes, b.state))
		}
	}
}

// allowEvents lets through what the caller may see.
func allowEvents(ctx context.Context) func(*api.Event) bool {
	id := rpc.IdentityFrom(ctx)
	return func(e *api.Event) bool {
		if e.Topic == api.TopicToken && !id.Allow(acl.ReadToken, "") {
			return false
		}
		if e.Namespace == "" {
			return id.AllowAny(acl.ReadEvent)
		}
		return id.Allow(acl.ReadEvent, e.Namespace)
	}
}

// eventStream sends events until the caller goes, beginning with a snapshot if
// that was asked for.
func (s *Server) eventStream(ctx context.Context, req *api.EventRequest, st api.Stream) error {
	f := event.Filter{Namespace: namespaceOf(req.Namespace), Topics: req.Topics, Allow: allowEvents(ctx)}
	var snap event.Snapshot
	if req.Snapshot {
		snap = func(yield func(*api.Event) bool) api.Index { return fsm.EventSnapshot(s.fsm.State(), yield) }
	}
	sub := s.events.Subscribe(f, req.Index, snap)
	if err := sub.Start(func(b *api.EventBatch) error { return st.Send(b) }); err != nil {
		return err
	}
	live := s.progressFeed.subscribe(f)
	defer s.progressFeed.drop(live)
	for {
		quiet, cancel := context.WithTimeout(ctx, eventHeartbeat)
		b, err := sub.NextOr(quiet, live.wake)
		cancel()
		switch {
		case err == nil && b == nil:
			if es := s.progressFeed.take(live); len(es) > 0 {
				if err := st.Send(&api.EventBatch{Index: sub.Index(), Events: es}); err != nil {
					return err
				}
			}
		case err == nil:
			if err := st.Send(b); err != nil {
				return err
			}
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, event.ErrClosed):
			return api.Errorf(api.CodeUnreachable, "the server is shutting down").WithHint("resume at another server")
		case quiet.Err() != nil:
			if err := st.Send(&api.EventBatch{Index: sub.Index(), Heartbeat: true}); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// eventList lists the newest events that pass, at most limit. With an index it
// lists those after it, and waits until there is one.
func (s *Server) eventList(ctx context.Context, req *api.EventListRequest) (*api.EventListResponse, error) {
	keep, err := filterOf(req.Filter)
	if err != nil {
		return nil, err
	}
	see := event.Filter{Namespace: namespaceOf(req.Namespace), Topics: req.Topics, Allow: allowEvents(ctx)}
	if req.Related != "" {
		allow := see.Allow
		see.Allow = func(e *api.Event) bool { return allow(e) && concerns(e, req.Related) }
	}
	var bad error
	passes := func(e *api.Event) bool {
		ok, err := keep(e)
		if err != nil {
			bad = err
		}
		return ok && err == nil
	}
	all := see
	all.Allow = func(e *api.Event) bool { return see.Allow(e) && passes(e) }

	sub := s.events.Subscribe(see, req.MinIndex, nil)
	wait, stop := context.WithTimeout(ctx, req.Wait.D())
	defer stop()
	resp := &api.EventListResponse{}
	for {
		var last api.Index
		resp.Items, last, resp.Gap = s.events.List(all, req.MinIndex, int(req.Limit))
		resp.Index = max(last, 1)
		if bad != nil {
			return nil, bad
		}
		if req.MinIndex == 0 || len(resp.Items) > 0 || resp.Gap {
			break
		}
		if err := nextEvent(wait, sub, passes); err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if wait.Err() == nil {
				return nil, api.Errorf(api.CodeUnreachable, "the server is shutting down").WithHint("ask another server")
			}
			break
		}
	}
	s.label(&req.QueryOptions, &resp.QueryMeta)
	return resp, nil
}

// nextEvent waits for an event that passes, or for a gap.
func nextEvent(ctx context.Context, sub *event.Subscription, passes func(*api.Event) bool) error {
	for {
		b, err := sub.Next(ctx)
		if err != nil || b.Gap || slices.ContainsFunc(b.Events, passes) {
			return err
		}
	}
}

// concerns reports whether an event is about a noun or names it.
func concerns(e *api.Event, key string) bool {
	if e.Key == key {
		return true
	}
	for _, r := range e.Related {
		if r == key {
			return true
		}
	}
	return false
}
