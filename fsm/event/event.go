// Package event keeps the newest events of a region in a ring and hands them to
// those who subscribe, each at its own pace.
//
// Promises: a subscriber sees every event of its filter in the order of the
// Raft log, or is told with an explicit gap that it does not; Publish never
// waits for a reader; a reader that is too slow is dropped with a gap instead of
// holding memory. After a restart the ring is empty, so resuming from before it
// is a gap too.
//
// What does not belong: what an event means (package fsm derives events from
// changes), the network, permissions.
package event

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/novacron/novacron/api"
)

// The bounds of a ring unless Config says otherwise.
const (
	DefaultEvents = 8192
	DefaultBytes  = 32 << 20
)

// ErrClosed says that the ring was closed: the server is going down.
var ErrClosed = errors.New("the event ring is closed")

// Config bounds a ring. The ring is the only buffer: a reader that falls behind
// it is told of a gap.
type Config struct {
	Events int // how many events are kept
	Bytes  int // and how many bytes
}

// batch is the events of one index.
type batch struct {
	index  api.Index
	events []*Event
	bytes  int
}

// Ring holds the newest events. All methods may be used at the same time.
type Ring struct {
	cfg Config

	mu sync.Mutex
	// batches are those held, by index.
	batches []batch
	events  int
	bytes   int
	// floor is the index up to which events may be missing: to resume at or
	// after it is possible without a gap.
	floor  api.Index
	last   api.Index
	epoch  uint64 // rises with each Reset
	change chan struct{}
	closed bool
}

// New returns an empty ring. What was before is a gap.
func New(cfg Config) *Ring {
	if cfg.Events <= 0 {
		cfg.Events = DefaultEvents
	}
	if cfg.Bytes <= 0 {
		cfg.Bytes = DefaultBytes
	}
	return &Ring{cfg: cfg, change: make(chan struct{})}
}

// Publish adds the events of one index, which must be above those before. The
// events must not be changed afterwards.
func (r *Ring) Publish(index api.Index, events []*Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	if r.last == 0 && r.floor == 0 {
		r.floor = index - min(index, 1) // nothing is known of what was before
	}
	r.last = max(r.last, index)
	if len(events) == 0 {
		return
	}
	b := batch{index: index, events: events}
	for _, e := range events {
		b.bytes += e.size
	}
	r.batches = append(r.batches, b)
	r.events += len(events)
	r.bytes += b.bytes
	drop := 0
	for drop < len(r.batches) && (r.events > r.cfg.Events || r.bytes > r.cfg.Bytes) {
		old := r.batches[drop]
		r.events -= len(old.events)
		r.bytes -= old.bytes
		r.floor = old.index
		drop++
	}
	if drop > 0 {
		// What was dropped can be collected at once; append takes fresh memory
		// when the rest has moved to the end of the old.
		clear(r.batches[:drop])
		r.batches = r.batches[drop:]
	}
	close(r.change)
	r.change = make(chan struct{})
}

// Reset empties the ring after a restore at an index: everything before is a
// gap, and every subscriber is told.
func (r *Ring) Reset(index api.Index) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches, r.events, r.bytes = nil, 0, 0
	r.floor, r.last = index, index
	r.epoch++
	if !r.closed {
		close(r.change)
		r.change = make(chan struct{})
	}
}

// Close ends all subscriptions with ErrClosed.
func (r *Ring) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed = true
		close(r.change)
	}
}

// Filter says which events are wanted.
type Filter struct {
	// Namespace of the events; "*" or empty for all. Events of nouns without a
	// namespace pass always.
	Namespace string
	// Topics are "vm" or "vm:KEY", where the key may also be among the related
	// ids; empty for all.
	Topics []string
	// Allow, if set, says whether the caller may see an event.
	Allow func(*api.Event) bool
}

// Match reports whether an event passes.
func (f *Filter) Match(e *api.Event) bool {
	if f.Namespace != "" && f.Namespace != "*" && e.Namespace != "" && e.Namespace != f.Namespace {
		return false
	}
	if len(f.Topics) > 0 && !slices.ContainsFunc(f.Topics, func(t string) bool { return topic(t, e) }) {
		return false
	}
	return f.Allow == nil || f.Allow(e)
}

func topic(want string, e *api.Event) bool {
	name, key, keyed := strings.Cut(want, ":")
	if name != "*" && name != e.Topic {
		return false
	}
	return !keyed || key == "*" || key == e.Key || slices.Contains(e.Related, key)
}

func (f *Filter) pick(events []*Event) []*Event {
	var out []*Event
	for _, e := range events {
		if f.Match(e.Event) {
			out = append(out, e)
		}
	}
	return out
}

// Snapshot returns the index of a state and one event for each noun in it.
type Snapshot func(yield func(*api.Event) bool) api.Index

// Subscription is one reader's place in the ring. It is used by one goroutine.
type Subscription struct {
	ring   *Ring
	filter Filter
	at     api.Index // everything up to here was seen
	epoch  uint64
	snap   Snapshot
	rest   []*api.Event // of the index at, which did not fit into one batch
}

// Subscribe begins to read: after index, or from now on when it is 0. With a
// snapshot the reader gets the nouns that exist first, and index is not looked
// at.
func (r *Ring) Subscribe(f Filter, index api.Index, snap Snapshot) *Subscription {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &Subscription{ring: r, filter: f, at: index, epoch: r.epoch, snap: snap}
	if index == 0 {
		s.at = r.last
	}
	return s
}

// snapshotBatch is how many events of a snapshot come in one batch, batchBytes
// how large any batch may be if it has more than one event: far below what one
// message may carry.
const (
	snapshotBatch = 256
	batchBytes    = 2 << 20
)

// Next waits for the next batch of events that pass the filter. A batch with
// Gap says that events between the reader's place and First are lost. It ends
// with the cause of ctx or with ErrClosed.
func (s *Subscription) Next(ctx context.Context) (*api.EventBatch, error) { return s.NextOr(ctx, nil) }

// NextOr is Next that also ends, with neither a batch nor an error, when
// something else is there.
func (s *Subscription) NextOr(ctx context.Context, other <-chan struct{}) (*api.EventBatch, error) {
	for {
		b, wait, err := s.poll()
		if b != nil || err != nil {
			return b, err
		}
		select {
		case <-wait:
		case <-other:
			return nil, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// poll returns what there is, or the channel to wait on.
func (s *Subscription) poll() (*api.EventBatch, <-chan struct{}, error) {
	if len(s.rest) > 0 {
		return s.part(), nil, nil
	}
	b, picked, wait, err := s.take()
	if b == nil || len(picked) == 0 {
		return b, wait, err
	}
	s.rest = whole(picked)
	return s.part(), nil, nil
}

// part hands over what fits into one batch of the events of one index. Only the
// last part bears that index: who resumes after an earlier one gets them again.
func (s *Subscription) part() *api.EventBatch {
	n, size := 0, 0
	for _, e := range s.rest {
		if size += e.Msgsize(); n > 0 && size > batchBytes {
			break
		}
		n++
	}
	b := &api.EventBatch{Index: s.at, Events: s.rest[:n:n]}
	if s.rest = s.rest[n:]; len(s.rest) > 0 {
		b.Index--
	}
	return b
}

// take is poll before the payloads: those are encoded without the lock, so that
// Publish does not wait for it.
func (s *Subscription) take() (*api.EventBatch, []*Event, <-chan struct{}, error) {
	r := s.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nil, nil, ErrClosed
	}
	if s.epoch != r.epoch || s.at < r.floor {
		s.epoch = r.epoch
		s.at = r.floor
		first := r.last
		if len(r.batches) > 0 {
			first = r.batches[0].index
		}
		return &api.EventBatch{Index: s.at, Gap: true, First: first}, nil, nil, nil
	}
	i, ok := slices.BinarySearchFunc(r.batches, s.at, func(b batch, at api.Index) int {
		switch {
		case b.index < at:
			return -1
		case b.index > at:
			return 1
		}
		return 0
	})
	if ok {
		i++
	}
	for ; i < len(r.batches); i++ {
		s.at = r.batches[i].index
		if events := s.filter.pick(r.batches[i].events); len(events) > 0 {
			return &api.EventBatch{Index: s.at}, events, nil, nil
		}
	}
	s.at = max(s.at, r.last)
	return nil, nil, r.change, nil
}

// Index is the place of the reader: what to resume after.
func (s *Subscription) Index() api.Index {
	if len(s.rest) > 0 {
		return s.at - 1
	}
	return s.at
}

// Start hands over the snapshot that the subscription begins with, in batches
// marked Snapshot; then Next goes on where the snapshot was taken. Without one
// it does nothing.
func (s *Subscription) Start(send func(*api.EventBatch) error) error {
	if s.snap == nil {
		return nil
	}
	var buf []*api.Event
	var size int
	var failed error
	flush := func() bool {
		if len(buf) > 0 {
			failed = send(&api.EventBatch{Index: buf[0].Index, Snapshot: true, Events: buf})
			buf, size = nil, 0
		}
		return failed == nil
	}
	index := s.snap(func(e *api.Event) bool {
		if !s.filter.Match(e) {
			return true
		}
		n := e.Msgsize()
		if size+n > batchBytes && !flush() {
			return false
		}
		buf, size = append(buf, e), size+n
		return len(buf) < snapshotBatch || flush()
	})
	if failed != nil || !flush() {
		return failed
	}
	s.ring.mu.Lock()
	s.epoch = s.ring.epoch
	s.ring.mu.Unlock()
	s.at, s.snap = index, nil
	return send(&api.EventBatch{Index: index, Snapshot: true})
}

// List returns the newest events that pass, oldest first, at most limit, and the
// index up to which they were looked at; gap says that the ring does not reach
// back to after.
func (r *Ring) List(f Filter, after api.Index, limit int) (events []*api.Event, last api.Index, gap bool) {
	picked, last, gap := r.list(f, after, limit)
	return whole(picked), last, gap
}

// list is List before the payloads. The filter runs without the lock, for it may
// take long.
func (r *Ring) list(f Filter, after api.Index, limit int) (events []*Event, last api.Index, gap bool) {
	r.mu.Lock()
	held, floor, last := slices.Clone(r.batches), r.floor, r.last
	r.mu.Unlock()
	for i := len(held) - 1; i >= 0 && held[i].index > after; i-- {
		picked := f.pick(held[i].events)
		for j := len(picked) - 1; j >= 0; j-- {
			if len(events) == limit {
				slices.Reverse(events)
				return events, last, false
			}
			events = append(events, picked[j])
		}
	}
	slices.Reverse(events)
	return events, last, after < floor
}

// Last is the newest index published, with or without events.
func (r *Ring) Last() api.Index {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}
