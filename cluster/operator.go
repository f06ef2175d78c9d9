package cluster

import (
	"context"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

const (
	recoveryTick = 500 * time.Millisecond
	tokenSweep   = time.Minute
)

func (s *Server) operatorEndpoints() {
	read(s, "Operator.RaftList", acl.OperatorRead, s.raftList)
	write(s, "Operator.RaftRemove", acl.OperatorWrite, s.raftRemove)
	write(s, "Operator.RaftTransfer", acl.OperatorWrite, s.raftTransfer)
	read(s, "Operator.SchedulerGet", acl.OperatorRead, s.schedulerGet)
	write(s, "Operator.SchedulerSet", acl.OperatorWrite, s.schedulerSet)
	read(s, "Operator.RecoveryGet", acl.OperatorRead, s.recoveryGet)
	write(s, "Operator.RecoveryEnd", acl.OperatorWrite, s.recoveryEnd)
}

// raftList lists the servers that Raft knows, with what gossip says of them.
func (s *Server) raftList(ctx context.Context, req *api.ListRequest) (*api.ServerListResponse, error) {
	if err := req.Refuse(api.NotNow...); err != nil {
		return nil, err
	}
	f := s.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, err
	}
	out := &api.ServerListResponse{}
	_, leader := s.raft.LeaderWithID()
	for _, m := range f.Configuration().Servers {
		id, err := api.ParseID(string(m.ID))
		if err != nil {
			return nil, api.Errorf(api.CodeInternal, "raft holds the server id %q", m.ID)
		}
		srv, ok := s.gossip.regions.Server(id)
		if !ok {
			srv = &api.Server{ID: id, Region: s.id.Region, Status: "unknown"}
		}
		srv.Address, srv.Voter, srv.Leader, srv.Healthy = string(m.Address), m.Suffrage == raft.Voter, m.ID == leader, s.isHealthy(id)
		if id == s.id.NodeID {
			own := s.serverStats()
			srv.LastIndex, srv.LastTerm = own.LastIndex, own.LastTerm
		}
		out.Items = append(out.Items, srv)
	}
	slices.SortFunc(out.Items, func(a, b *api.Server) int { return slices.Compare(a.ID[:], b.ID[:]) })
	out.Index = max(f.Index(), 1)
	s.label(&req.QueryOptions, &out.QueryMeta)
	return out, nil
}

// raftRemove takes a server out of Raft; if gossip still sees it alive it would
// come back, so that is refused.
func (s *Server) raftRemove(ctx context.Context, req *api.RaftRemove) (*api.Empty, error) {
	if !s.enter() {
		return nil, errNotLeading()
	}
	defer s.wg.Done()
	f := s.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, err
	}
	id := raft.ServerID(req.ID.String())
	if !slices.ContainsFunc(f.Configuration().Servers, func(m raft.Server) bool { return m.ID == id }) {
		return nil, api.Errorf(api.CodeNotFound, "server %s is not in Raft", req.ID)
	}
	if req.ID == s.id.NodeID {
		return nil, api.Errorf(api.CodeState, "server %s leads: hand leadership over first", req.ID)
	}
	if m, ok := s.gossip.regions.Server(req.ID); ok && m.Status == "alive" {
		return nil, api.Errorf(api.CodeState, "server %s is alive and would come back", m.Name).WithHint("let it leave, or stop it, first")
	}
	if err := s.raft.RemoveServer(id, 0, applyTimeout).Error(); err != nil {
		return nil, applyError(err)
	}
	if m, ok := s.gossip.regions.Server(req.ID); ok {
		if err := s.gossip.forget(m.Name); err != nil {
			s.log.Warn("gossip does not let go of a server", "server", m.Name, "error", err)
		}
	}
	return &api.Empty{}, nil
}

func (s *Server) raftTransfer(ctx context.Context, req *api.RaftTransfer) (*api.Empty, error) {
	if !s.enter() {
		return nil, errNotLeading()
	}
	defer s.wg.Done()
	if req.ID.IsZero() {
		if err := s.raft.LeadershipTransfer().Error(); err != nil {
			return nil, api.Errorf(api.CodeState, "leadership could not be handed over: %v", err)
		}
		return &api.Empty{}, nil
	}
	if req.ID == s.id.NodeID {
		return &api.Empty{}, nil
	}
	f := s.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, err
	}
	for _, m := range f.Configuration().Servers {
		if string(m.ID) != req.ID.String() {
			continue
		}
		if m.Suffrage != raft.Voter {
			return nil, api.Errorf(api.CodeState, "server %s does not vote", req.ID)
		}
		if err := s.raft.LeadershipTransferToServer(m.ID, m.Address).Error(); err != nil {
			return nil, api.Errorf(api.CodeState, "leadership could not be handed over: %v", err)
		}
		return &api.Empty{}, nil
	}
	return nil, api.Errorf(api.CodeNotFound, "server %s is not in Raft", req.ID)
}

func (s *Server) schedulerGet(ctx context.Context, req *api.ListRequest) (*api.SchedulerConfigResponse, error) {
	if err := req.Refuse(api.NotOne...); err != nil {
		return nil, err
	}
	out := &api.SchedulerConfigResponse{}
	return out, s.query(ctx, &req.QueryOptions, &out.QueryMeta, func(st *fsm.State, w *fsm.WatchSet) (api.Index, error) {
		w.Table(fsm.TableMeta)
		out.Config, out.CPUBaselines = st.SchedulerConfig(), st.Baselines()
		return st.TableIndex(fsm.TableMeta), nil
	})
}

func (s *Server) schedulerSet(ctx context.Context, req *api.SchedulerConfigApply) (*api.SchedulerConfigResponse, error) {
	res, err := s.Apply(ctx, &fsm.SchedulerSet{Config: req.Config, CheckIndex: req.CheckIndex})
	if err != nil {
		return nil, err
	}
	out := &api.SchedulerConfigResponse{QueryMeta: api.QueryMeta{Index: res.Index}}
	if c := value[*api.SchedulerConfig](res); c != nil {
		out.Config = *c
	}
	s.sched.poke()
	return out, nil
}

func (s *Server) recoveryGet(ctx context.Context, req *api.ListRequest) (*api.Recovery, error) {
	if err := req.Refuse(api.NotOne...); err != nil {
		return nil, err
	}
	out := &api.Recovery{}
	return out, s.query(ctx, &req.QueryOptions, &out.QueryMeta, func(st *fsm.State, w *fsm.WatchSet) (api.Index, error) {
		w.Table(fsm.TableMeta)
		*out = api.Recovery{}
		if r := st.Recovery(); r != nil {
			out.Active, out.Waiting = true, nodeNames(st, r.Waiting)
		}
		return st.TableIndex(fsm.TableMeta), nil
	})
}

func nodeNames(st *fsm.State, ids []api.ID) []string {
	var out []string
	for _, id := range ids {
		if n := st.Node(id); n != nil {
			out = append(out, n.Name)
		} else {
			out = append(out, id.String())
		}
	}
	return out
}

func (s *Server) recoveryEnd(ctx context.Context, req *api.RecoveryEnd) (*api.Recovery, error) {
	st := s.fsm.State()
	cmd := &fsm.RecoveryEnd{}
	for _, key := range req.Fenced {
		n, err := findNode(st, key)
		if err != nil {
			return nil, err
		}
		cmd.Fenced = append(cmd.Fenced, n.ID)
	}
	res, err := s.Apply(ctx, cmd)
	if err != nil {
		return nil, err
	}
	return &api.Recovery{QueryMeta: api.QueryMeta{Index: res.Index}}, nil
}

// dutyRecovery ends recovery when every node that it waits for has reported.
func (s *Server) dutyRecovery(ctx context.Context) error {
	return every(ctx, recoveryTick, nil, func(ctx context.Context) error {
		if r := s.fsm.State().Recovery(); r == nil || len(r.Waiting) > 0 {
			return nil
		}
		if _, err := s.Apply(ctx, &fsm.RecoveryEnd{}); err != nil {
			return err
		}
		s.log.Info("recovery has ended: every node has reported")
		return nil
	})
}

func (s *Server) rpcRenew(ctx context.Context, req *api.CertRenew) (*api.CertRenewed, error) {
	if !s.IsLeader() {
		return nil, errNotLeading()
	}
	id := rpc.IdentityFrom(ctx)
	return s.renew(api.CertName{Region: s.id.Region, Role: api.RoleServer, NodeID: id.NodeID}, req.CSR)
}
