package event

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

// noun counts how often it is encoded.
type noun struct{ encoded atomic.Int32 }

func (n *noun) Msgsize() int { return 1000 }

func (n *noun) MarshalJSON() ([]byte, error) {
	n.encoded.Add(1)
	return []byte(`{"name":"x"}`), nil
}

func TestPayloadIsEncodedOnceAndOnlyForReaders(t *testing.T) {
	r := New(Config{})
	n := &noun{}
	other := r.Subscribe(Filter{Topics: []string{"node"}}, 0, nil)
	r.Publish(1, []*Event{Lazy(vm("a", "x"), n)})
	must.Nil(t, read(t, other))
	must.Eq(t, 0, n.encoded.Load(), must.Sprint("nobody reads it"))

	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			b, err := r.Subscribe(Filter{}, 0, nil).Next(cancelled())
			must.Nil(t, b, must.Sprint("from now on"))
			must.ErrorIs(t, err, context.Canceled)
			list, _, _ := r.List(Filter{}, 0, 10)
			must.Eq(t, `{"name":"x"}`, string(list[0].Payload))
		})
	}
	wg.Wait()
	must.Eq(t, 1, n.encoded.Load())
}

func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestNounsCountAmongTheBytes(t *testing.T) {
	r := New(Config{Bytes: 2500})
	for i := range api.Index(5) {
		r.Publish(i+1, []*Event{Lazy(&api.Event{Topic: api.TopicVM}, &noun{})})
	}
	list, _, gap := r.List(Filter{}, 0, 10)
	must.Len(t, 2, list)
	must.True(t, gap)
}
