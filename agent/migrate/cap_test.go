package migrate

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"
)

// near asserts that a duration is within a tenth of what it should be.
func about(t *testing.T, want, got time.Duration, what string) {
	t.Helper()
	must.Between(t, want*9/10, got, want*11/10, must.Sprint(what))
}

func TestBandwidthIsCapped(t *testing.T) {
	for _, rate := range []int64{100 << 10, 10 << 20, 1 << 30} {
		synctest.Test(t, func(t *testing.T) {
			l := newLink(t, Memory, None, func(l *link) { l.near.limit = newBucket(rate) })
			begin := time.Now()
			total := int(min(20*rate, 32<<20))
			l.flow(noise(128<<10), total)
			about(t, time.Duration(float64(total)/float64(rate)*float64(time.Second)), time.Since(begin), "all of it")
		})
	}
}

func TestCapIsSharedByTheStreamsOfASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := newBucket(8 << 20)
		var links []*link
		for _, k := range []Kind{Memory, Disks, Disks} {
			links = append(links, newLink(t, k, None, func(l *link) { l.near.limit = shared }))
		}
		begin := time.Now()
		done := make(chan time.Duration)
		for _, l := range links {
			go func() {
				l.flow(noise(128<<10), 16<<20)
				done <- time.Since(begin)
			}()
		}
		for range links {
			about(t, 6*time.Second, <-done, "48 MiB at 8 MiB/s, shared alike")
		}
	})
}

func TestCapCountsWhatGoesOverTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink(t, Memory, Zstd, func(l *link) { l.near.limit = newBucket(1 << 20) })
		begin := time.Now()
		l.flow(text(128<<10), 32<<20)
		must.Less(t, 16*time.Second, time.Since(begin))
	})
}

// A new cap holds at once, also for those who wait under the old one.
func TestCapChangesWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(1 << 20)
		l := newLink(t, Memory, None, func(l *link) { l.near.limit = b })
		measure := func(total int) time.Duration {
			begin := time.Now()
			l.flow(noise(128<<10), total)
			return time.Since(begin)
		}
		about(t, 16*time.Second, measure(16<<20), "1 MiB/s")
		b.set(8 << 20)
		about(t, 2*time.Second, measure(16<<20), "8 MiB/s")
		b.set(0)
		must.Less(t, 500*time.Millisecond, measure(16<<20))
		b.set(2 << 20)
		about(t, 8*time.Second, measure(16<<20), "2 MiB/s")
		must.Eq(t, 2<<20, b.get())
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(1)
		must.NoError(t, b.take(t.Context(), 1000)) // a debt of 1000 s
		begin := time.Now()
		time.AfterFunc(time.Second, func() { b.set(0) })
		must.NoError(t, b.take(t.Context(), 1000))
		must.Eq(t, time.Second, time.Since(begin))

		b.set(1)
		must.NoError(t, b.take(t.Context(), 1000))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		must.ErrorIs(t, b.take(ctx, 1), context.DeadlineExceeded)
	})
}

func TestMeter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeter()
		must.Eq(t, 0, m.rate())
		for range 100 {
			m.add(1000)
			time.Sleep(100 * time.Millisecond)
		}
		must.Between(t, 9000, m.rate(), 11000)
		time.Sleep(time.Second)
		must.Between(t, 4000, m.rate(), 6500)
		time.Sleep(time.Hour)
		must.Eq(t, 0, m.rate())
	})
}
