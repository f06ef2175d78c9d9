package migrate

import (
	"context"
	"crypto/subtle"
	"errors"
	"log/slog"
	"os"
	"sync"

	"github.com/novacron/novacron/api"
)

// maxStreams bounds the streams of a session at once: control, memory, and one
// for each disk.
const maxStreams = 64

// session is what both ends of a migration have in common.
type session struct {
	host      *Host
	migration api.ID
	node      api.ID // the other one
	token     Token
	dir       string
	log       *slog.Logger
	limit     *bucket
	meter     *meters
	count     [kinds]counters

	ctx    context.Context // ends with the session
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once
	gone   error

	mu      sync.Mutex
	closed  bool
	streams int
	granted int // windows of the streams that there are
	err     error
}

func (h *Host) newSession(ctx context.Context, migration, node api.ID, token Token, bandwidth api.Bytes) *session {
	s := &session{
		host: h, migration: migration, node: node, token: token, dir: h.folder(migration),
		log:   h.log.With("migration", migration.String(), "peer", node.String()),
		limit: newBucket(int64(bandwidth)), meter: &meters{newMeter(), newMeter()},
	}
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s
}

// is compares tokens in constant time.
func (s *session) is(t Token) bool { return subtle.ConstantTimeCompare(s.token[:], t[:]) == 1 }

// enter begins a stream and returns the window that it grants; leave ends it.
func (s *session) enter(k Kind) (window int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.ctx.Err() != nil || s.streams >= maxStreams {
		return 0, false
	}
	s.streams++
	window = controlWindow
	if k != Control {
		window = min(maxWindow, max(minWindow, (sessionWindows-s.granted)/2))
	}
	s.granted += window
	s.wg.Add(1)
	return window, true
}

func (s *session) leave(window int) {
	s.mu.Lock()
	s.streams--
	s.granted -= window
	s.mu.Unlock()
	s.wg.Done()
}

// stream makes a stream of the session; own and other are the windows that the
// two ends grant.
func (s *session) stream(k Kind, mode Compression, own, other int) *stream {
	st := &stream{
		silence: s.host.silence, count: &s.count[k], codec: s.host.codec,
		credit: newCredit(other), queue: newQueue(own),
	}
	if k != Control {
		st.limit, st.meter = s.limit, s.meter
		if mode != None {
			st.choice = newChooser(mode)
		}
	}
	return st
}

// ended notes how a stream ended.
func (s *session) ended(k Kind, err error) {
	if err == nil || s.ctx.Err() != nil {
		s.log.Debug("a tunnel ended", "kind", k.String(), "error", err)
		return
	}
	s.log.Warn("a tunnel failed", "kind", k.String(), "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// Err is what first went wrong with a stream, to explain why a migration failed:
// NOVA-6004 when the other node was lost or not reached, NOVA-2001 when it
// refused, NOVA-4000 when a hypervisor's connection broke. A session goes on
// after it.
func (s *session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Stats is a snapshot of what was carried.
func (s *session) Stats() Stats {
	return Stats{
		Control: s.count[Control].read(), Memory: s.count[Memory].read(), Disks: s.count[Disks].read(),
		Rate: api.Bytes(s.meter.wire.rate()), RawRate: api.Bytes(s.meter.raw.rate()),
		Bandwidth: api.Bytes(s.limit.get()),
	}
}

// close ends the streams, waits for them, and removes the folder.
func (s *session) close(forget func()) error {
	s.once.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.cancel()
		s.wg.Wait()
		s.gone = os.RemoveAll(s.dir)
		forget()
	})
	return s.gone
}

// errClosed: the Host was closed.
var errClosed = api.Errorf(api.CodeState, "no migrations are carried any more: the agent stops")

// checkSession refuses what no session can be made of.
func checkSession(migration, node api.ID, token Token) error {
	switch {
	case migration.IsZero():
		return api.Errorf(api.CodeInvalid, "a migration without an id")
	case node.IsZero():
		return api.Errorf(api.CodeInvalid, "a migration without the other node")
	case token == Token{}:
		return api.Errorf(api.CodeInvalid, "a migration without a token")
	}
	return nil
}

// closeAll closes sessions and keeps what went wrong.
func closeAll[T interface{ Close() error }](list []T) error {
	var errs []error
	for _, s := range list {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
