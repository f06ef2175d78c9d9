package cluster

import (
	"context"
	"encoding/hex"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/fsm"
)

func (s *Server) statusEndpoints() {
	read(s, "Status.Leader", acl.None, s.statusLeader)
	read(s, "Status.Members", acl.OperatorRead, s.statusMembers)
	serverCall(s, "Server.Stats", func(context.Context, *api.Empty) (*api.Server, error) { return s.serverStats(), nil })
	serverCall(s, "Server.Join", s.rpcJoin)
	serverCall(s, "Server.Renew", s.rpcRenew)
	serverCall(s, "Server.Bootstrap", s.bootstrap)
}

func (s *Server) statusLeader(_ context.Context, req *api.ListRequest) (*api.StatusResponse, error) {
	if err := req.Refuse(api.NotNow...); err != nil {
		return nil, err
	}
	st := s.fsm.State()
	out := &api.StatusResponse{
		Region: s.id.Region, ClusterID: s.id.ClusterID, Term: s.raft.CurrentTerm(), Applied: st.Index(), Committed: s.raft.CommitIndex(),
		Generation: st.Generation(), Recovery: st.Recovery() != nil, Expect: st.SchedulerConfig().Expect, Regions: s.gossip.regions.Regions(),
	}
	_, id := s.raft.LeaderWithID()
	out.LeaderID, _ = api.ParseID(string(id)) // zero when there is none
	out.LeaderAddr, _ = s.Leader()
	if n, err := s.voters(); err == nil {
		out.Voters = int32(n)
	}
	if p := s.hash.get(); p != nil {
		if sum, ok := p.Made(); ok { // a status does not walk the state
			out.StateHash, out.HashIndex = hex.EncodeToString(sum[:]), p.Index()
		}
	}
	out.Index = max(st.Index(), 1)
	s.label(&req.QueryOptions, &out.QueryMeta)
	return out, nil
}

// statusMembers lists the servers of all regions as gossip shows them.
func (s *Server) statusMembers(_ context.Context, req *api.ListRequest) (*api.ServerListResponse, error) {
	if err := req.Refuse(api.NotMembers...); err != nil {
		return nil, err
	}
	out := &api.ServerListResponse{}
	_, leader := s.raft.LeaderWithID()
	voter := map[api.ID]bool{}
	if f := s.raft.GetConfiguration(); f.Error() == nil {
		for _, m := range f.Configuration().Servers {
			if id, err := api.ParseID(string(m.ID)); err == nil {
				voter[id] = m.Suffrage == raft.Voter
			}
		}
	}
	for _, m := range s.gossip.regions.All() {
		m.Voter, m.Leader, m.Healthy = voter[m.ID], m.ID.String() == string(leader), s.isHealthy(m.ID)
		out.Items = append(out.Items, m)
	}
	keep, err := filterOf(req.Filter)
	if err != nil {
		return nil, err
	}
	kept := out.Items[:0]
	for _, m := range out.Items {
		ok, err := keep(m)
		if err != nil {
			return nil, err
		}
		if ok {
			kept = append(kept, m)
		}
	}
	out.Items = kept
	out.Index = max(s.fsm.State().Index(), 1)
	s.label(&req.QueryOptions, &out.QueryMeta)
	return out, nil
}

func (s *Server) isHealthy(id api.ID) bool {
	s.healthMu.Lock()
	defer s.healthMu.Unlock()
	return s.healthy[id]
}

// hashPoint is the newest state that was hashed.
type hashPoint struct {
	mu sync.Mutex
	p  *fsm.HashPoint
}

func (h *hashPoint) get() *fsm.HashPoint {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.p
}

func (h *hashPoint) set(p *fsm.HashPoint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.p = p
}

// onHash notes the state that is to be hashed; the goroutine that applies calls it.
func (s *Server) onHash(p *fsm.HashPoint) {
	for {
		select {
		case s.hashWanted <- p:
			return
		default:
		}
		select { // an older one, which nobody will ask for
		case <-s.hashWanted:
		default:
		}
	}
}

// makeHashes hashes states beside the goroutine that applies, until ctx ends.
func (s *Server) makeHashes(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-s.hashWanted:
			p.Sum()
		}
	}
}

// dutyHash puts the hash of the state into the log from time to time: a server
// whose own state differs halts.
func (s *Server) dutyHash(ctx context.Context) error {
	if s.cfg.HashEvery < 0 {
		<-ctx.Done()
		return nil
	}
	s.hash.set(nil) // of an earlier term
	return every(ctx, s.cfg.HashEvery, nil, s.hashNow)
}

func (s *Server) hashNow(ctx context.Context) error {
	cmd := &fsm.Hash{}
	if p := s.hash.get(); p != nil {
		sum := p.Sum()
		cmd.Index, cmd.Sum = p.Index(), sum[:]
	}
	res, err := s.Apply(ctx, cmd)
	if err != nil {
		return err
	}
	s.hash.set(value[*fsm.HashPoint](res))
	return nil
}

// onLeader runs something where the leader is: here, or by a call to the leader
// that only servers may make.
func (s *Server) onLeader(ctx context.Context, method string, req, resp api.Message, here func(context.Context) error) error {
	if s.IsLeader() {
		return here(ctx)
	}
	if addr, ok := s.Leader(); ok {
		return s.pool.Get(addr).Call(ctx, method, req, resp)
	}
	return api.Errorf(api.CodeNoLeader, "the region has no leader").WithHint("try again in a few seconds")
}
