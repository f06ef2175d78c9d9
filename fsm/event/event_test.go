package event

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

func vm(ns, key string, related ...string) *api.Event {
	return &api.Event{Topic: api.TopicVM, Namespace: ns, Key: key, Type: "created", Related: related}
}

func events(of ...*api.Event) []*Event {
	var out []*Event
	for _, e := range of {
		out = append(out, Lazy(e, nil))
	}
	return out
}

// read takes batches until nothing more is there at once.
func read(t *testing.T, s *Subscription) []string {
	t.Helper()
	var out []string
	for {
		b, _, err := s.poll()
		must.NoError(t, err)
		if b == nil {
			return out
		}
		if b.Gap {
			out = append(out, fmt.Sprintf("gap %d-%d", b.Index, b.First))
		}
		for _, e := range b.Events {
			out = append(out, fmt.Sprintf("%d:%s", b.Index, e.Key))
		}
	}
}

func TestSubscribersSeeEventsInOrder(t *testing.T) {
	r := New(Config{})
	r.Publish(3, events(vm("a", "x"), vm("a", "y")))
	s := r.Subscribe(Filter{}, 0, nil)
	must.Nil(t, read(t, s), must.Sprint("from now on"))
	r.Publish(4, nil)
	r.Publish(7, events(vm("a", "z")))
	must.Eq(t, []string{"7:z"}, read(t, s))
	must.Eq(t, 7, s.Index())
	must.Eq(t, 7, r.Last())
	must.Eq(t, []string{"3:x", "3:y", "7:z"}, read(t, r.Subscribe(Filter{}, 2, nil)))
	must.Eq(t, []string{"7:z"}, read(t, r.Subscribe(Filter{}, 3, nil)), must.Sprint("resumed after an index"))
	must.Nil(t, read(t, r.Subscribe(Filter{}, 50, nil)), must.Sprint("a server that is behind has nothing new"))
}

func TestFilter(t *testing.T) {
	e := vm("a", "k", "n1")
	node := &api.Event{Topic: api.TopicNode, Key: "n1"}
	for _, tc := range []struct {
		f    Filter
		e    *api.Event
		want bool
	}{
		{Filter{}, e, true},
		{Filter{Namespace: "*"}, e, true},
		{Filter{Namespace: "a"}, e, true},
		{Filter{Namespace: "b"}, e, false},
		{Filter{Namespace: "b"}, node, true},
		{Filter{Topics: []string{"vm"}}, e, true},
		{Filter{Topics: []string{"node"}}, e, false},
		{Filter{Topics: []string{"node", "vm:k"}}, e, true},
		{Filter{Topics: []string{"vm:other"}}, e, false},
		{Filter{Topics: []string{"vm:n1"}}, e, true},
		{Filter{Topics: []string{"*:n1"}}, node, true},
		{Filter{Topics: []string{"vm:*"}}, e, true},
		{Filter{Allow: func(*api.Event) bool { return false }}, e, false},
	} {
		must.Eq(t, tc.want, tc.f.Match(tc.e), must.Sprintf("%+v", tc.f))
	}
}

func TestSlowReaderIsToldOfTheGap(t *testing.T) {
	r := New(Config{Events: 3})
	s := r.Subscribe(Filter{}, 0, nil)
	r.Publish(1, events(vm("a", "1")))
	must.Eq(t, []string{"1:1"}, read(t, s))
	for i := uint64(2); i <= 9; i++ {
		r.Publish(i, events(vm("a", fmt.Sprint(i))))
	}
	must.Eq(t, []string{"gap 6-7", "7:7", "8:8", "9:9"}, read(t, s))

	// Bytes bound it as well.
	r = New(Config{Bytes: 3000})
	s = r.Subscribe(Filter{}, 0, nil)
	for i := uint64(1); i <= 9; i++ {
		r.Publish(i, events(&api.Event{Topic: "vm", Key: fmt.Sprint(i), Payload: make([]byte, 1000), Related: []string{"x"}}))
	}
	must.Eq(t, []string{"gap 7-8", "8:8", "9:9"}, read(t, s))
	list, _, gap := r.List(Filter{}, 0, 10)
	must.Len(t, 2, list)
	must.True(t, gap)
}

func TestResumingFromBeforeARestartIsAGap(t *testing.T) {
	r := New(Config{})
	early := r.Subscribe(Filter{}, 90, nil)
	same := r.Subscribe(Filter{}, 99, nil)
	r.Publish(100, events(vm("a", "x")))
	must.Eq(t, []string{"gap 99-100", "100:x"}, read(t, early))
	must.Eq(t, []string{"100:x"}, read(t, same))
}

func TestRestoreIsAGapForAll(t *testing.T) {
	r := New(Config{})
	r.Publish(5, events(vm("a", "x")))
	s := r.Subscribe(Filter{}, 5, nil)
	r.Reset(40)
	must.Eq(t, []string{"gap 40-40"}, read(t, s))
	r.Publish(41, events(vm("a", "y")))
	must.Eq(t, []string{"41:y"}, read(t, s))
	list, _, gap := r.List(Filter{}, 5, 10)
	must.Len(t, 1, list)
	must.True(t, gap)
}

func TestSnapshotComesFirst(t *testing.T) {
	r := New(Config{})
	r.Publish(9, events(vm("a", "old")))
	snap := func(yield func(*api.Event) bool) api.Index {
		for i := range 600 {
			e := vm("a", fmt.Sprint(i))
			if i == 0 {
				e.Namespace = "hidden"
			}
			e.Index = 9
			if !yield(e) {
				break
			}
		}
		r.Publish(10, events(vm("a", "new")))
		return 9
	}
	s := r.Subscribe(Filter{Namespace: "a"}, 3, snap)
	var sizes []int
	must.NoError(t, s.Start(func(b *api.EventBatch) error {
		must.True(t, b.Snapshot)
		must.Eq(t, 9, b.Index)
		sizes = append(sizes, len(b.Events))
		return nil
	}))
	must.Eq(t, []int{256, 256, 87, 0}, sizes)
	must.Eq(t, []string{"10:new"}, read(t, s), must.Sprint("nothing between is lost or told twice"))
	must.NoError(t, s.Start(nil), must.Sprint("once"))

	s = r.Subscribe(Filter{}, 0, snap)
	gone := context.Canceled
	must.ErrorIs(t, s.Start(func(*api.EventBatch) error { return gone }), gone)
}

func TestListIsNewestButOldestFirst(t *testing.T) {
	r := New(Config{})
	for i := uint64(1); i <= 5; i++ {
		r.Publish(i, events(vm("a", fmt.Sprint(i)), vm("b", "other")))
	}
	list, _, gap := r.List(Filter{Namespace: "a"}, 0, 3)
	must.False(t, gap)
	var keys []string
	for _, e := range list {
		keys = append(keys, e.Key)
	}
	must.Eq(t, []string{"3", "4", "5"}, keys)
	list, _, _ = r.List(Filter{Namespace: "a"}, 4, 3)
	must.Len(t, 1, list)
}

func TestNextWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{})
		r.Publish(1, nil)
		s := r.Subscribe(Filter{Topics: []string{"vm:x"}}, 0, nil)
		got := make(chan *api.EventBatch, 1)
		var failed error
		go func() {
			for {
				b, err := s.Next(t.Context())
				if err != nil {
					failed = err
					return
				}
				got <- b
			}
		}()
		synctest.Wait()
		r.Publish(2, events(vm("a", "y")))
		synctest.Wait()
		must.Eq(t, 0, len(got))
		r.Publish(3, events(vm("a", "x")))
		must.Eq(t, 3, (<-got).Index)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := r.Subscribe(Filter{}, 0, nil).Next(ctx)
		must.ErrorIs(t, err, context.Canceled)
		synctest.Wait()
		r.Close()
		r.Close()
		r.Reset(9)
		r.Publish(10, events(vm("a", "x")))
		synctest.Wait()
		must.ErrorIs(t, failed, ErrClosed)
	})
}

// heavy is an event with a payload of n bytes.
func heavy(index api.Index, n int) *Event {
	return Lazy(&api.Event{Index: index, Topic: "vm", Key: "k", Payload: make([]byte, n)}, nil)
}

func TestLargeEventsComeInSeveralBatches(t *testing.T) {
	r := New(Config{})
	sub := r.Subscribe(Filter{}, 6, nil)
	var all []*Event
	for range 10 {
		all = append(all, heavy(7, 900<<10))
	}
	r.Publish(6, nil)
	r.Publish(7, all)
	r.Publish(8, []*Event{heavy(8, 1)})
	got := 0
	for got < len(all) {
		b, err := sub.Next(t.Context())
		must.NoError(t, err)
		must.LessEq(t, 2*batchBytes, b.Msgsize())
		got += len(b.Events)
		if got < len(all) {
			must.Eq(t, 6, b.Index, must.Sprint("who resumes after a part gets the index again"))
			must.Eq(t, 6, sub.Index())
		} else {
			must.Eq(t, 7, b.Index)
			must.Eq(t, 7, sub.Index())
		}
	}
	b, err := sub.Next(t.Context())
	must.NoError(t, err)
	must.Eq(t, 8, b.Index)

	snap := r.Subscribe(Filter{}, 0, func(yield func(*api.Event) bool) api.Index {
		for _, e := range all {
			if !yield(e.Whole()) {
				break
			}
		}
		return 8
	})
	got = 0
	must.NoError(t, snap.Start(func(b *api.EventBatch) error {
		must.LessEq(t, 2*batchBytes, b.Msgsize())
		got += len(b.Events)
		return nil
	}))
	must.Eq(t, len(all), got)
}
