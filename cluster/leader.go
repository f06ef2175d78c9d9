package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-metrics/compat"
	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"

	"github.com/novacron/novacron/api"
)

// duty is something that only the leader does, for as long as it leads. It
// returns nil when ctx ends; after an error it is begun again.
type duty struct {
	name string
	run  func(context.Context) error
}

const (
	barrierTimeout = time.Minute
	dutyPause      = time.Second // before a duty that failed is begun again
)

// leadership is what changes when the leader changes.
type leadership struct {
	mu      sync.Mutex
	ready   bool          // this server leads and its barrier has passed
	barrier uint64        // commit index at that moment
	changed chan struct{} // closed and replaced at each change
}

func newLeadership() *leadership { return &leadership{changed: make(chan struct{})} }

func (l *leadership) set(ready bool, barrier uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready, l.barrier = ready, barrier
	close(l.changed)
	l.changed = make(chan struct{})
}

// poke wakes those that wait for a leader, though this server's own part did not change.
func (l *leadership) poke() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *leadership) get() (ready bool, barrier uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready, l.barrier
}

func (l *leadership) watch() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// monitor follows Raft's word on leadership until ctx ends. Raft waits for each
// word to be taken, so the term itself runs beside.
func (s *Server) monitor(ctx context.Context, notify <-chan bool) {
	end := func() {}
	defer func() { end() }()
	for {
		select {
		case <-ctx.Done():
			return
		case leads := <-notify:
			end()
			end = func() {}
			if leads {
				end = s.beginTerm(ctx)
			}
		}
	}
}

// beginTerm leads beside the caller until what it returns is called, which
// waits for the end of all duties.
func (s *Server) beginTerm(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.lead(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// lead is one term of leadership: barrier, what must be there before anything is
// answered, then the duties side by side. It returns when all have ended.
func (s *Server) lead(ctx context.Context) {
	s.log.Info("leadership gained")
	metrics.IncrCounter([]string{"leader", "gained"}, 1)
	defer func() {
		s.leadership.set(false, 0)
		s.log.Info("leadership lost, all duties ended")
	}()
	for {
		err := s.begin(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		s.log.Error("the leader cannot begin", "error", err)
		if !pause(ctx, dutyPause) {
			return
		}
	}
	// Before the duties: what they propose would be refused.
	s.leadership.set(true, s.raft.CommitIndex())
	g, ctx := errgroup.WithContext(ctx)
	for _, d := range s.duties() {
		g.Go(func() error {
			s.serve(ctx, d)
			return nil
		})
	}
	_ = g.Wait() // no duty returns an error: serve keeps them
}

// serve runs a duty until ctx ends.
func (s *Server) serve(ctx context.Context, d duty) {
	for ctx.Err() == nil {
		err := d.run(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("ended before its time")
		}
		s.log.Error("a leader's duty failed", "duty", d.name, "error", err)
		metrics.IncrCounterWithLabels([]string{"leader", "duty_failed"}, 1, []metrics.Label{{Name: "duty", Value: d.name}})
		pause(ctx, dutyPause)
	}
}

// begin brings the state machine up to the term's first entry and makes what a
// cluster needs before its first answer.
func (s *Server) begin(ctx context.Context) error {
	if err := s.raft.Barrier(barrierTimeout).Error(); err != nil {
		return fmt.Errorf("barrier: %w", err)
	}
	s.leases.begin()
	return s.establish(ctx)
}

// pause waits, and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// every runs fn at once and then periodically, and whenever wake fires.
func every(ctx context.Context, d time.Duration, wake <-chan struct{}, fn func(context.Context) error) error {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		if err := fn(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-wake:
		}
	}
}

// observe turns Raft's observations of leaders into pokes, until ctx ends.
func (s *Server) observe(ctx context.Context, obs <-chan raft.Observation) {
	for {
		select {
		case <-ctx.Done():
			return
		case o := <-obs:
			if lo, ok := o.Data.(raft.LeaderObservation); ok {
				s.log.Info("the region's leader", "id", lo.LeaderID, "address", lo.LeaderAddr)
			}
			s.leadership.poke()
		}
	}
}

// The Router of the RPC layer.

// Region returns the region of this server.
func (s *Server) Region() string { return s.id.Region }

// IsLeader reports whether this server leads and its state is up to its term.
func (s *Server) IsLeader() bool {
	ready, _ := s.leadership.get()
	return ready && s.up.Load() && s.raft.State() == raft.Leader
}

// Leader returns the leader's RPC address. While this server itself is about to
// lead there is none yet.
func (s *Server) Leader() (string, bool) {
	if !s.up.Load() {
		return "", false
	}
	addr, id := s.raft.LeaderWithID()
	if id == "" || id == raft.ServerID(s.id.NodeID.String()) {
		return s.self.Address, s.IsLeader()
	}
	if n, err := api.ParseID(string(id)); err == nil {
		if now, ok := s.addressOf(n); ok {
			return now, true
		}
	}
	return string(addr), addr != ""
}

// LeaderChanged returns a channel that is closed at the next change of leader.
func (s *Server) LeaderChanged() <-chan struct{} { return s.leadership.watch() }

// ServerIn returns the RPC address of a server of another region.
func (s *Server) ServerIn(region string) (string, bool) {
	if !s.up.Load() {
		return "", false
	}
	p, ok := s.gossip.regions.RandomServer(region)
	if !ok {
		return "", false
	}
	return p.Address, true
}

// readIndexFallback is how long a read waits for the index it needs before it
// asks for a barrier: entries that are not commands do not move the state.
const readIndexFallback = 20 * time.Millisecond

// ReadIndex returns when this server has proved that it still leads, and its
// state holds everything that was committed before the call.
func (s *Server) ReadIndex(ctx context.Context) error {
	ready, barrier := s.leadership.get()
	if !ready || !s.enter() {
		return errNotLeading()
	}
	defer s.wg.Done()
	commit := s.raft.CommitIndex()
	if err := s.raft.VerifyLeader().Error(); err != nil {
		return errNotLeading()
	}
	if commit <= barrier || s.fsm.State().Index() >= commit {
		return nil
	}
	short, cancel := context.WithTimeout(ctx, readIndexFallback)
	_, err := s.fsm.WaitIndex(short, commit)
	cancel()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := s.raft.Barrier(barrierTimeout).Error(); err != nil {
		return errNotLeading()
	}
	return nil
}

// current reports whether this follower hears a leader and holds what that one
// has told it to be committed. One that has just started holds nothing yet: that
// something is not there then means nothing.
func (s *Server) current() bool {
	_, id := s.raft.LeaderWithID()
	if id == "" || s.raft.State() != raft.Follower {
		return false
	}
	commit := s.raft.CommitIndex()
	return commit > 0 && s.raft.AppliedIndex() >= commit
}

// addressOf returns the newest RPC address of a server of this region.
func (s *Server) addressOf(id api.ID) (string, bool) {
	p, ok := s.gossip.regions.Server(id)
	if !ok || p.Region != s.id.Region {
		return "", false
	}
	return p.Address, true
}
