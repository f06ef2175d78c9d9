package rpc

import (
	"container/list"
	"crypto/sha256"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/novacron/novacron/api"
)

// Limit bounds how often one caller may call. It is charged once, where the
// call entered the region. A zero rate is no limit.
type Limit struct {
	// Rate is calls per second for one token (or, without one, one machine),
	// Burst how many at once; 0 means twice the rate.
	Rate  float64
	Burst int
	// NodeRate and NodeBurst are those of one node's own calls.
	NodeRate  float64
	NodeBurst int
	// Exempt names the methods that have a reserved budget; nil means
	// heartbeats ("Node.Beat").
	Exempt []string
	// Entries is how many callers are remembered; 0 means 16,384. Beyond it the
	// one that called longest ago is forgotten.
	Entries int
}

// limiter holds one token bucket for each caller.
type limiter struct {
	o  Limit
	mu sync.Mutex
	m  map[string]*list.Element
	// lru has the caller that called last in front.
	lru list.List
}

type bucket struct {
	key string
	lim *rate.Limiter
}

func newLimiter(o Limit) *limiter {
	if o.Entries <= 0 {
		o.Entries = 16384
	}
	if o.Exempt == nil {
		o.Exempt = []string{"Node.Beat"}
	}
	if o.Burst <= 0 {
		o.Burst = max(1, int(2*o.Rate))
	}
	if o.NodeBurst <= 0 {
		o.NodeBurst = max(1, int(2*o.NodeRate))
	}
	return &limiter{o: o, m: map[string]*list.Element{}}
}

// allow charges a call and refuses it when the caller has used up its budget.
func (l *limiter) allow(c *call) error {
	r, b := l.o.Rate, l.o.Burst
	switch {
	case c.md.Kind.node():
		r, b = l.o.NodeRate, l.o.NodeBurst
	case !c.md.Kind.user():
		return nil
	}
	if r <= 0 || slices.Contains(l.o.Exempt, c.md.Name) {
		return nil
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	key := c.bucket()
	e := l.m[key]
	if e == nil {
		if l.lru.Len() >= l.o.Entries {
			last := l.lru.Back()
			delete(l.m, last.Value.(*bucket).key)
			l.lru.Remove(last)
		}
		e = l.lru.PushFront(&bucket{key: key, lim: rate.NewLimiter(rate.Limit(r), b)})
		l.m[key] = e
	}
	l.lru.MoveToFront(e)
	if e.Value.(*bucket).lim.AllowN(now, 1) {
		return nil
	}
	return api.Errorf(api.CodeRateLimited, "too many requests").WithHint("at most %g a second, %d at once", r, b)
}

// bucket names whom a call is charged to.
func (c *call) bucket() string {
	switch {
	case c.md.Kind.node() && c.id != nil:
		return "node " + string(c.id.NodeID[:])
	case c.id != nil && !c.id.Accessor.IsZero():
		return "token " + string(c.id.Accessor[:])
	case c.id == nil && c.hdr.Token != "":
		// Bound for another region, which alone knows the token.
		sum := sha256.Sum256([]byte(c.hdr.Token))
		return "other " + string(sum[:16])
	}
	return "machine " + string(c.peer.NodeID[:])
}
