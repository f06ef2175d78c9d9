package http

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"sync"
	"time"

	"github.com/novacron/novacron/api"
)

const (
	ticketLife = 30 * time.Second
	maxTickets = 1024
)

// ticket opens the console of one VM, once.
type ticket struct {
	call      api.Call
	namespace string
	vm        api.ID
	expires   time.Time
}

// tickets are kept in memory, by their hash.
type tickets struct {
	mu sync.Mutex
	by map[[32]byte]ticket
}

func newTickets() *tickets { return &tickets{by: map[[32]byte]ticket{}} }

// issue keeps a ticket and returns its secret.
func (t *tickets) issue(tk ticket) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for k, old := range t.by {
		if !now.Before(old.expires) {
			delete(t.by, k)
		}
	}
	if len(t.by) >= maxTickets {
		return "", api.Errorf(api.CodeRateLimited, "too many console tickets are open")
	}
	b := make([]byte, 32)
	rand.Read(b)
	secret := base64.RawURLEncoding.EncodeToString(b)
	t.by[sha256.Sum256([]byte(secret))] = tk
	return secret, nil
}

// redeem takes a ticket away and returns it, if it was there and is in time.
func (t *tickets) redeem(secret string) (ticket, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := sha256.Sum256([]byte(secret))
	tk, ok := t.by[k]
	delete(t.by, k)
	return tk, ok && time.Now().Before(tk.expires)
}

// sessions counts the open consoles of each VM.
type sessions struct {
	max int
	mu  sync.Mutex
	by  map[api.ID]int
}

func newSessions(most int) *sessions { return &sessions{max: most, by: map[api.ID]int{}} }

// enter counts a console until the function returned is called.
func (s *sessions) enter(vm api.ID) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by[vm] >= s.max {
		return nil, api.Errorf(api.CodeConsole, "%d consoles of this VM are open already", s.max)
	}
	s.by[vm]++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.by[vm]--; s.by[vm] == 0 {
			delete(s.by, vm)
		}
	}), nil
}
