package hypervisor

import (
	"context"
	"sync"
)

// busDepth is how many events a subscriber may be behind.
const busDepth = 256

// Bus hands events to subscribers. It never blocks: a subscriber that is more
// than busDepth events behind loses them all and gets one EventReconnect, which
// tells it to list again. The zero Bus is ready; it has no goroutine.
type Bus struct {
	mu     sync.Mutex
	subs   map[chan Event]func() bool
	closed bool
}

// Subscribe returns a channel that is closed when the context ends or the bus
// is closed.
func (b *Bus) Subscribe(ctx context.Context) <-chan Event {
	ch := make(chan Event, busDepth)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || ctx.Err() != nil {
		close(ch)
		return ch
	}
	if b.subs == nil {
		b.subs = map[chan Event]func() bool{}
	}
	b.subs[ch] = context.AfterFunc(ctx, func() { b.drop(ch) })
	return ch
}

func (b *Bus) drop(ch chan Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.subs[ch]; ok {
		delete(b.subs, ch)
		close(ch)
	}
}

// Publish gives an event to every subscriber.
func (b *Bus) Publish(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ch := range b.subs {
		select {
		case ch <- e:
		default:
			for emptied := false; !emptied; {
				select {
				case <-ch:
				default:
					emptied = true
				}
			}
			ch <- Event{Kind: EventReconnect} // only Publish sends, and it holds the lock
		}
	}
}

// Close ends all subscriptions.
func (b *Bus) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for ch, stop := range b.subs {
		stop()
		close(ch)
	}
	b.subs = nil
}
