package http

import (
	"container/list"
	"crypto/sha256"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/novacron/novacron/api"
)

// maxCallers is how many callers the limiter remembers; the one not seen for
// longest is forgotten.
const maxCallers = 8192

// caller is who a limit is for. The token enters as a hash only.
type caller struct {
	addr  string
	token [16]byte
}

// callerOf names the caller by what cannot be forged: the address of the
// connection, never a header that says another.
func callerOf(r *http.Request, token string) caller {
	c := caller{addr: "local"}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		c.addr = host
	}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		copy(c.token[:], sum[:])
	}
	return c
}

// limiter bounds the requests of each caller and of each address.
type limiter struct {
	rate  float64
	burst int
	held  int

	mu  sync.Mutex
	by  map[caller]*list.Element
	age *list.List // of *bucket, newest first
}

type bucket struct {
	who   caller
	limit *rate.Limiter
	held  int
}

func newLimiter(perSecond float64, burst, held int) *limiter {
	return &limiter{rate: perSecond, burst: burst, held: held, by: map[caller]*list.Element{}, age: list.New()}
}

// get returns the bucket of a caller. The lock is held.
func (l *limiter) get(who caller, times int) *bucket {
	if e, ok := l.by[who]; ok {
		l.age.MoveToFront(e)
		return e.Value.(*bucket)
	}
	if len(l.by) >= maxCallers {
		for e := l.age.Back(); e != nil; e = e.Prev() {
			if old := e.Value.(*bucket); old.held == 0 {
				l.age.Remove(e)
				delete(l.by, old.who)
				break
			}
		}
	}
	b := &bucket{who: who, limit: rate.NewLimiter(rate.Limit(l.rate)*rate.Limit(times), l.burst*times)}
	l.by[who] = l.age.PushFront(b)
	return b
}

// allow takes one request from the caller's budget and from the address's.
func (l *limiter) allow(who caller) error {
	if l.rate < 0 {
		return nil
	}
	l.mu.Lock()
	own := l.get(who, 1)
	whole := l.get(caller{addr: "*" + who.addr}, 4)
	l.mu.Unlock()
	now := time.Now()
	if whole.limit.AllowN(now, 1) && own.limit.AllowN(now, 1) {
		return nil
	}
	return api.Errorf(api.CodeRateLimited, "too many requests").WithHint("at most %g a second, with bursts of %d", l.rate, l.burst)
}

// hold counts a request that stays for long, until the function returned is
// called.
func (l *limiter) hold(who caller) (func(), error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.get(who, 1)
	if b.held >= l.held {
		return nil, api.Errorf(api.CodeRateLimited, "too many blocking queries and streams").WithHint("at most %d at once", l.held)
	}
	b.held++
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		b.held--
	}), nil
}
