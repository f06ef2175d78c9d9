package migrate

import (
	"context"
	"sync"
	"time"

	"github.com/novacron/novacron/api"
)

// bucket caps bandwidth. Unlike rate.Limiter it lets those who wait see a new
// cap at once, and serves them in their order. It may go into debt by what one
// taker takes.
type bucket struct {
	turn chan struct{} // holds a value while somebody waits for tokens

	mu      sync.Mutex
	rate    float64 // bytes in a second; 0 is no cap
	tokens  float64
	at      time.Time
	changed chan struct{} // closed and replaced by set
}

// Cap caps the bandwidth of what is sent without a session.
type Cap struct{ bucket *bucket }

// NewCap returns a cap in bytes for each second; 0 is none.
func NewCap(rate api.Bytes) *Cap { return &Cap{newBucket(int64(rate))} }

// Set changes it at once, also for those who wait; 0 is none.
func (c *Cap) Set(rate api.Bytes) { c.bucket.set(int64(rate)) }

// Rate is the cap; 0 is none.
func (c *Cap) Rate() api.Bytes { return api.Bytes(c.bucket.get()) }

// Take waits until n bytes may go.
func (c *Cap) Take(ctx context.Context, n int) error { return c.bucket.take(ctx, n) }

// burst is how much of a second's bytes may be saved up.
const burst = 0.05

func newBucket(bytesPerSecond int64) *bucket {
	return &bucket{turn: make(chan struct{}, 1), rate: float64(bytesPerSecond), at: time.Now(), changed: make(chan struct{})}
}

// set changes the cap, also for those who wait.
func (b *bucket) set(bytesPerSecond int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill()
	b.rate = float64(bytesPerSecond)
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *bucket) get() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int64(b.rate)
}

func (b *bucket) fill() {
	now := time.Now()
	b.tokens = min(b.tokens+b.rate*now.Sub(b.at).Seconds(), b.rate*burst)
	if b.rate <= 0 {
		b.tokens = 0
	}
	b.at = now
}

// take waits until n bytes may go.
func (b *bucket) take(ctx context.Context, n int) error {
	if b.get() == 0 {
		return nil
	}
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for {
		wait, changed := b.try(n)
		if wait == 0 {
			return nil
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-changed:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}

// try takes n bytes, or says how long to wait unless the cap changes.
func (b *bucket) try(n int) (wait time.Duration, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fill(); b.tokens < 0 {
		return time.Duration(-b.tokens/b.rate*float64(time.Second)) + time.Microsecond, b.changed
	}
	if b.rate > 0 {
		b.tokens -= float64(n)
	}
	return 0, nil
}
