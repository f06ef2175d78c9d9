package cluster

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-metrics/compat"
	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/peer"
)

const (
	autopilotUpdate    = time.Second
	autopilotReconcile = 5 * time.Second
	lastContactLimit   = 2 * time.Second // at multiplier 1 and below
	statsTimeout       = time.Second
)

// pilot promotes healthy servers to voters and removes dead ones; it runs on
// the leader. What is replicated decides who is a member, gossip only how they
// seem to be.
type pilot struct {
	s *Server
}

var _ autopilot.ApplicationIntegration = (*pilot)(nil)

func (s *Server) newAutopilot() *autopilot.Autopilot {
	return autopilot.New(s.raft, &pilot{s: s},
		autopilot.WithLogger(newHLog(s.log, "autopilot")),
		autopilot.WithUpdateInterval(min(autopilotUpdate, s.cfg.StabilizationTime)),
		autopilot.WithReconcileInterval(min(autopilotReconcile, s.cfg.StabilizationTime)),
		autopilot.WithPromoter(&promoter{s: s}),
	)
}

// promoter is autopilot's own rule for promotions, and one for removals: what
// gossip says of a server is not enough to take it out of Raft.
type promoter struct {
	autopilot.StablePromoter
	s *Server
	// silent is since when a server that gossip does not know has not answered.
	silent map[raft.ServerID]time.Time
	// answered is who answered when asked last.
	answered map[raft.ServerID]bool
}

// staleAfter is how long a server that gossip has never told of may be silent: after
// a restart of all it may only need longer to start.
const staleAfter = time.Minute

// FilterFailedServerRemovals lets those stay that answer, as who they are, at
// their address in Raft. Their gossip may be cut alone, or this leader's: after a
// restart it may know nobody yet. Those that left by their own word may go.
func (p *promoter) FilterFailedServerRemovals(_ *autopilot.Config, _ *autopilot.State, failed *autopilot.FailedServers) *autopilot.FailedServers {
	f := p.s.raft.GetConfiguration()
	if f.Error() != nil {
		return &autopilot.FailedServers{}
	}
	at := map[raft.ServerID]string{}
	for _, m := range f.Configuration().Servers {
		at[m.ID] = string(m.Address)
	}
	var ask []raft.ServerID
	for _, ids := range [][]raft.ServerID{failed.StaleNonVoters, failed.StaleVoters, idsOf(failed.FailedNonVoters), idsOf(failed.FailedVoters)} {
		ask = append(ask, ids...)
	}
	answers := p.s.whoAnswers(ask, at)
	for id := range answers {
		if !p.answered[id] {
			p.s.log.Warn("gossip has lost a server that answers", "server", id, "address", at[id])
		}
	}
	p.answered = answers
	silent := map[raft.ServerID]time.Time{}
	stale := func(id raft.ServerID) bool {
		if answers[id] {
			return true
		}
		if silent[id] = p.silent[id]; silent[id].IsZero() {
			silent[id] = time.Now()
		}
		return time.Since(silent[id]) < staleAfter
	}
	defer func() { p.silent = silent }()
	lost := func(srv *autopilot.Server) bool { return srv.NodeStatus != autopilot.NodeLeft && answers[srv.ID] }
	return &autopilot.FailedServers{
		StaleNonVoters:  slices.DeleteFunc(failed.StaleNonVoters, stale),
		StaleVoters:     slices.DeleteFunc(failed.StaleVoters, stale),
		FailedNonVoters: slices.DeleteFunc(failed.FailedNonVoters, lost),
		FailedVoters:    slices.DeleteFunc(failed.FailedVoters, lost),
	}
}

func idsOf(servers []*autopilot.Server) (ids []raft.ServerID) {
	for _, srv := range servers {
		ids = append(ids, srv.ID)
	}
	return ids
}

// whoAnswers asks servers whether they are there.
func (s *Server) whoAnswers(ids []raft.ServerID, at map[raft.ServerID]string) map[raft.ServerID]bool {
	ctx, cancel := context.WithTimeout(s.ctx, statsTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[raft.ServerID]bool{}
	for _, id := range ids {
		wg.Go(func() {
			n, err := api.ParseID(string(id))
			if err != nil || s.pool.Node(n, at[id]).Call(ctx, "Server.Stats", &api.Empty{}, &api.Server{}) != nil {
				return
			}
			mu.Lock()
			out[id] = true
			mu.Unlock()
		})
	}
	wg.Wait()
	return out
}

// dutyAutopilot runs autopilot for a term.
func (s *Server) dutyAutopilot(ctx context.Context) error {
	a := s.newAutopilot()
	a.Start(ctx)
	<-ctx.Done()
	<-a.Stop()
	return nil
}

// AutopilotConfig answers how careful autopilot is to be.
func (p *pilot) AutopilotConfig() *autopilot.Config {
	return &autopilot.Config{
		CleanupDeadServers:      true,
		LastContactThreshold:    time.Duration(float64(lastContactLimit) * max(1, p.s.cfg.Multiplier)),
		MaxTrailingLogs:         1000,
		MinQuorum:               3,
		ServerStabilizationTime: p.s.cfg.StabilizationTime,
	}
}

// NotifyState keeps the newest verdicts for "operator raft list".
func (p *pilot) NotifyState(st *autopilot.State) {
	metrics.SetGauge([]string{"autopilot", "failure_tolerance"}, float32(st.FailureTolerance))
	healthy := map[api.ID]bool{}
	for id, srv := range st.Servers {
		if n, err := api.ParseID(string(id)); err == nil {
			healthy[n] = srv.Health.Healthy
		}
	}
	p.s.healthMu.Lock()
	p.s.healthy = healthy
	p.s.healthMu.Unlock()
}

// FetchServerStats asks each server how far it is.
func (p *pilot) FetchServerStats(ctx context.Context, servers map[raft.ServerID]*autopilot.Server) map[raft.ServerID]*autopilot.ServerStats {
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[raft.ServerID]*autopilot.ServerStats{}
	for id, srv := range servers {
		wg.Go(func() {
			st, err := p.s.statsOf(ctx, srv)
			if err != nil {
				p.s.log.Debug("autopilot: no statistics", "server", srv.Name, "error", err)
				return
			}
			mu.Lock()
			out[id] = st
			mu.Unlock()
		})
	}
	wg.Wait()
	return out
}

func (s *Server) statsOf(ctx context.Context, srv *autopilot.Server) (*autopilot.ServerStats, error) {
	var st *api.Server
	if string(srv.ID) == s.id.NodeID.String() {
		st = s.serverStats()
	} else {
		st = &api.Server{}
		if err := s.pool.Get(string(srv.Address)).Call(ctx, "Server.Stats", &api.Empty{}, st); err != nil {
			return nil, err
		}
	}
	return &autopilot.ServerStats{LastContact: st.LastContact.D(), LastTerm: st.LastTerm, LastIndex: st.LastIndex}, nil
}

// serverStats is what this server says of itself.
func (s *Server) serverStats() *api.Server {
	out := *s.self
	out.LastIndex = s.raft.LastIndex()
	st := s.raft.Stats()
	out.LastTerm, _ = strconv.ParseUint(st["last_log_term"], 10, 64)
	out.LastContact = api.Duration(s.lastContact())
	return &out
}

// lastContact is the time since this server heard of the leader; negative when
// it never did.
func (s *Server) lastContact() time.Duration {
	if s.raft.State() == raft.Leader {
		return 0
	}
	t := s.raft.LastContact()
	if t.IsZero() {
		return -1
	}
	return time.Since(t)
}

// KnownServers lists the servers of this region as gossip shows them.
func (p *pilot) KnownServers() map[raft.ServerID]*autopilot.Server {
	out := map[raft.ServerID]*autopilot.Server{}
	for _, m := range p.s.gossip.regions.Servers(p.s.id.Region) {
		id := raft.ServerID(m.ID.String())
		out[id] = &autopilot.Server{
			ID: id, Name: m.Name, Address: raft.ServerAddress(m.Address), Version: m.Version, RaftVersion: 3,
			NodeStatus: map[string]autopilot.NodeStatus{
				peer.StatusAlive: autopilot.NodeAlive, peer.StatusFailed: autopilot.NodeFailed, peer.StatusLeft: autopilot.NodeLeft,
			}[m.Status],
			IsLeader: m.ID == p.s.id.NodeID,
			NodeType: autopilot.NodeVoter,
		}
	}
	return out
}

// RemoveFailedServer takes a server that failed for good out of gossip, which
// makes it a server that left; autopilot removes it from Raft.
func (p *pilot) RemoveFailedServer(srv *autopilot.Server) {
	p.s.log.Warn("autopilot: a failed server is removed", "server", srv.Name, "id", srv.ID)
	p.s.background(func(context.Context) {
		if err := p.s.gossip.forget(srv.Name); err != nil {
			p.s.log.Warn("autopilot: gossip does not let go of a server", "server", srv.Name, "error", err)
		}
	})
}

// dutyMembers keeps Raft's configuration in step with gossip: a server that
// appears is added without a vote (autopilot gives it one when it is stable), a
// server that left is removed, one that moved gets its new address.
func (s *Server) dutyMembers(ctx context.Context) error {
	return every(ctx, 10*time.Second, s.membersChanged, s.reconcileMembers)
}

func (s *Server) reconcileMembers(ctx context.Context) error {
	f := s.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return err
	}
	present := map[raft.ServerID]raft.Server{}
	for _, srv := range f.Configuration().Servers {
		present[srv.ID] = srv
	}
	denied := s.fsm.State().Denied
	for _, m := range s.gossip.regions.Servers(s.id.Region) {
		if ctx.Err() != nil {
			return nil
		}
		id, addr := raft.ServerID(m.ID.String()), raft.ServerAddress(m.Address)
		cur, in := present[id]
		if m.Status == peer.StatusAlive && (!in || cur.Address != addr) && !s.proves(ctx, m) {
			continue
		}
		var err error
		switch {
		case m.Status == peer.StatusAlive && !in && s.knowsSchema("server "+m.Name, m.SchemaMax) != nil:
			s.log.Warn("a server is too old to join Raft", "server", m.Name, "knows", m.SchemaMax)
		case m.Status == peer.StatusAlive && !in && denied(m.ID) == nil:
			s.log.Info("a server joins Raft without a vote", "server", m.Name, "id", m.ID, "address", m.Address)
			err = s.raft.AddNonvoter(id, addr, 0, 0).Error()
		case m.Status == peer.StatusAlive && in && cur.Address != addr && cur.Suffrage == raft.Voter:
			s.log.Info("a server moved", "server", m.Name, "from", cur.Address, "to", m.Address)
			err = s.raft.AddVoter(id, addr, 0, 0).Error()
		case m.Status == peer.StatusAlive && in && cur.Address != addr:
			err = s.raft.AddNonvoter(id, addr, 0, 0).Error()
		case m.Status == peer.StatusLeft && in && m.ID != s.id.NodeID:
			s.log.Info("a server that left is removed from Raft", "server", m.Name, "id", m.ID)
			err = s.raft.RemoveServer(id, 0, 0).Error()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// proves reports whether the server that gossip tells of has the certificate
// for that id at that address: what gossip says is only a hint.
func (s *Server) proves(ctx context.Context, m *api.Server) bool {
	if m.ID == s.id.NodeID {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	if err := s.pool.Node(m.ID, m.Address).Call(ctx, "Server.Stats", &api.Empty{}, &api.Server{}); err != nil {
		s.log.Warn("gossip tells of a server that does not prove itself", "server", m.Name, "id", m.ID, "address", m.Address, "error", err)
		return false
	}
	return true
}

// plainName cuts the region off a gossip name.
func plainName(name, region string) string { return strings.TrimSuffix(name, "."+region) }
