package cluster

import (
	"context"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/fsm"
)

func (s *Server) fenceEndpoints() {
	write(s, "Operator.NodeFence", acl.OperatorWrite, s.nodeFence)
	write(s, "Operator.NodeDeny", acl.OperatorWrite, s.nodeDeny)
	read(s, "Operator.HAStatus", acl.OperatorRead, s.haStatus)
	write(s, "Operator.HAControl", acl.OperatorWrite, s.haControl)
}

// nodeFence takes an operator's word that a node is off for certain. It is the
// evidence that silence is not: the node is lost, what it held can be given up.
// A node that has a lease is not off, whatever anybody says.
func (s *Server) nodeFence(ctx context.Context, req *api.NodeFence) (*api.NodeResponse, error) {
	st := s.fsm.State()
	n, err := findNode(st, req.Key)
	if err != nil {
		return nil, err
	}
	if st.Recovery() != nil {
		return nil, api.Errorf(api.CodeRecovery, "the region is in recovery").
			WithHint("end it and name the node as fenced: novacron operator recovery end -fenced %s", n.Name)
	}
	silent, _ := s.leases.silent(n.ID)
	switch {
	case n.Lost != nil && n.Lost.Kind == api.EvidenceOperator:
		return &api.NodeResponse{QueryMeta: api.QueryMeta{Index: max(n.ModifyIndex, 1)}, Node: n, Used: st.Used(n.ID)}, nil
	case n.Status == api.NodeReady:
		return nil, api.Errorf(api.CodeState, "node %q is ready: it is not off", n.Name)
	case !s.leases.lose(n.ID, hostLease):
		return nil, api.Errorf(api.CodeState, "node %q may still hold a lease: it was heard %s ago, or this server leads for no longer than that", n.Name, silent.Round(time.Millisecond)).
			WithHint("try again in %s", (hostLease-silent).Round(time.Second)+time.Second)
	}
	by := callerName(ctx)
	reg := st.Registration(n.ID)
	res, err := s.Apply(ctx, &fsm.HostLost{
		NodeID: n.ID, Session: reg.SessionID, Registered: reg.Index,
		Evidence: api.Evidence{Kind: api.EvidenceOperator, BootID: n.BootID, Term: s.raft.CurrentTerm(), By: by, Silent: api.Duration(silent)},
	})
	if err != nil {
		s.unlose(n.ID, res)
		return nil, err
	}
	st = s.fsm.State()
	now := st.Node(n.ID)
	if now == nil {
		now = n // deleted since
	}
	s.log.Warn("a node is confirmed off", "node", n.Name, "by", by)
	return &api.NodeResponse{QueryMeta: api.QueryMeta{Index: res.Index}, Node: now, Used: st.Used(n.ID)}, nil
}

// nodeDeny forbids a node to connect to any machine of the region.
func (s *Server) nodeDeny(ctx context.Context, req *api.NodeDeny) (*api.WriteMeta, error) {
	id, err := api.ParseID(req.Key)
	if err != nil {
		n, ferr := findNode(s.fsm.State(), req.Key)
		if ferr != nil {
			return nil, ferr
		}
		id = n.ID
	}
	if !req.Allow && id == s.id.NodeID {
		return nil, api.Errorf(api.CodeState, "server %s leads: hand leadership over first", id)
	}
	res, err := s.Apply(ctx, &fsm.NodeDeny{NodeID: id, Allow: req.Allow, Reason: req.Reason})
	if err != nil {
		return nil, err
	}
	s.log.Warn("a node is denied or allowed", "node", id, "allowed", req.Allow, "reason", req.Reason)
	return &api.WriteMeta{Index: res.Index, Replayed: res.Replayed}, nil
}
