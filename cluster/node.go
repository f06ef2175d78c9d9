package cluster

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"strings"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

var nodeKind = &kindOf[*api.Node]{
	noun: "node",
	id:   func(v *api.Node) api.ID { return v.ID },
	name: func(v *api.Node) string { return v.Name },
}

func (s *Server) nodeEndpoints() {
	write(s, "Node.Update", acl.WriteNode, s.nodeUpdate)
	write(s, "Node.Drain", acl.WriteNode, s.nodeDrain)
	write(s, "Node.Delete", acl.WriteNode, s.nodeDelete)
	read(s, "Node.Get", acl.ReadNode, s.nodeGet)
	read(s, "Node.List", acl.ReadNode, s.nodeList)
	read(s, "Node.Stats", acl.ReadNode, s.nodeStats)
	nodeCall(s, "Node.Register", s.nodeRegister)
	nodeCall(s, "Node.Beat", s.nodeBeat)
	nodeCall(s, "Node.Report", s.nodeReport)
	nodeCall(s, "Node.Renew", s.nodeRenew)
	stream(s, rpc.KindNodeAny, "Node.Orders", acl.NodeSelf, s.nodeOrders)
}

func findNode(st *fsm.State, key string) (*api.Node, error) {
	return findOf(nodeKind, "", key, nil, func(_, name string) *api.Node { return st.NodeByName(name) }, st.Node, st.Nodes())
}

func (s *Server) nodeUpdate(ctx context.Context, req *api.NodeUpdate) (*api.NodeResponse, error) {
	n, err := findNode(s.fsm.State(), req.Key)
	if err != nil {
		return nil, err
	}
	res, err := s.Apply(ctx, &fsm.NodeUpdate{
		ID: n.ID, Eligibility: req.Eligibility, CPURatio: req.CPURatio, MemoryRatio: req.MemoryRatio, CheckIndex: req.CheckIndex,
	})
	if err != nil {
		return nil, err
	}
	return &api.NodeResponse{QueryMeta: api.QueryMeta{Index: res.Index}, Node: value[*api.Node](res), Used: s.fsm.State().Used(n.ID)}, nil
}

func (s *Server) nodeDelete(ctx context.Context, req *api.DeleteRequest) (*api.WriteMeta, error) {
	var gone api.ID
	out, err := s.remove(ctx, func(st *fsm.State) (fsm.Command, error) {
		n, err := findNode(st, req.Key)
		if err != nil {
			return nil, err
		}
		gone = n.ID
		return &fsm.NodeDelete{ID: n.ID, CheckIndex: req.CheckIndex, Force: req.Force}, nil
	}, &fsm.NodeDelete{})
	if err == nil {
		s.leases.forget(gone)
	}
	return out, err
}

func (s *Server) nodeGet(ctx context.Context, req *api.GetRequest) (*api.NodeResponse, error) {
	resp := &api.NodeResponse{}
	err := s.query(ctx, &req.QueryOptions, &resp.QueryMeta, func(st *fsm.State, w *fsm.WatchSet) (api.Index, error) {
		n, err := findNode(st, req.Key)
		if err != nil {
			return 0, err
		}
		w.ID(fsm.TableNode, n.ID)
		w.On(fsm.TablePlacement, n.ID)
		resp.Node, resp.Used, resp.Placements = n, st.Used(n.ID), nil
		for p := range st.PlacementsOn(n.ID) {
			resp.Placements = append(resp.Placements, p)
		}
		if n.Drain == nil {
			return st.TableIndex(fsm.TableNode, fsm.TablePlacement), nil
		}
		for _, t := range []string{fsm.TableMigration, fsm.TableTombstone, fsm.TableOrphan} {
			w.On(t, n.ID)
		}
		return st.TableIndex(fsm.TableNode, fsm.TablePlacement, fsm.TableMigration, fsm.TableTombstone, fsm.TableOrphan), nil
	})
	if err != nil {
		return nil, err
	}
	resp.Drain = s.drainItems(s.fsm.State(), resp.Node)
	return resp, nil
}

func (s *Server) nodeList(ctx context.Context, req *api.ListRequest) (*api.NodeListResponse, error) {
	resp := &api.NodeListResponse{}
	var err error
	resp.Items, err = list(ctx, s, &req.QueryOptions, &resp.QueryMeta, nodeKind, acl.ReadNode,
		func(st *fsm.State, _ string) iter.Seq[*api.Node] { return st.Nodes() }, nodeStub, fsm.TableNode, fsm.TablePlacement)
	return resp, err
}

func nodeStub(st *fsm.State, n *api.Node) *api.NodeStub {
	out := &api.NodeStub{
		ID: n.ID, Name: n.Name, Datacenter: n.Datacenter, Address: n.Address, Version: n.Version, Status: n.Status,
		Eligibility: n.Eligibility, Drain: n.Drain, Unreachable: n.Unreachable, Capacity: n.Capacity, Used: st.Used(n.ID),
		VMs: int32(st.VMsOn(n.ID)), ModifyIndex: n.ModifyIndex,
	}
	notes := []string{n.Unreachable, n.StatusNote}
	for _, d := range n.Drivers {
		out.Drivers = append(out.Drivers, d.Name)
		if !d.Healthy {
			notes = append(notes, cmp.Or(d.Error, d.Name+" is not healthy"))
		}
	}
	out.Note = strings.Join(slices.DeleteFunc(notes, func(n string) bool { return n == "" }), "; ")
	return out
}

// nodeStats answers from the leader's memory: samples come with the beats.
func (s *Server) nodeStats(ctx context.Context, req *api.GetRequest) (*api.NodeStatsResponse, error) {
	if err := req.Refuse(api.NotNow...); err != nil {
		return nil, err
	}
	n, err := findNode(s.fsm.State(), req.Key)
	if err != nil {
		return nil, err
	}
	resp := &api.NodeStatsResponse{Stats: s.leases.stats(n.ID)}
	resp.Index = max(n.ModifyIndex, 1)
	s.label(&req.QueryOptions, &resp.QueryMeta)
	if resp.Stats == nil {
		return nil, api.Errorf(api.CodeNotFound, "node %q has sent no statistics yet", n.Name).WithHint("they come with the next heartbeat")
	}
	return resp, nil
}

// nodeRegister records a node and its facts, and tries to dial it.
func (s *Server) nodeRegister(ctx context.Context, req *api.NodeRegister) (*api.NodeRegistered, error) {
	n := *req.Node
	if err := ownNode(ctx, n.ID); err != nil {
		return nil, err
	}
	if n.Region != "" && n.Region != s.id.Region {
		return nil, api.Errorf(api.CodeWrongRole, "the node says it is of region %q, this is %q", n.Region, s.id.Region)
	}
	n.Region = s.id.Region
	if err := s.knowsSchema("node "+n.Name, n.SchemaMax); err != nil {
		return nil, err
	}
	if err := s.leases.admit(&n, req.SessionID); err != nil {
		return nil, err
	}
	silent, _ := s.leases.silent(n.ID)
	unreachable := s.dial(ctx, n.ID, n.Address)
	cmd := &fsm.NodeRegister{
		Node: n, SessionID: req.SessionID, MaxGeneration: req.MaxGeneration, MaxIndex: req.MaxIndex, Found: clipReports(req.Found),
		Force: silent >= hostLease,
	}
	res, err := s.Apply(ctx, cmd)
	if err != nil {
		return nil, err
	}
	s.leases.register(&n, req.SessionID)
	st := s.fsm.State()
	if now := st.Node(n.ID); now != nil && now.Unreachable != unreachable {
		item := fsm.NodeStatusItem{NodeID: n.ID, Unreachable: &unreachable, SessionID: req.SessionID}
		if _, err := s.Apply(ctx, &fsm.NodeStatus{Items: []fsm.NodeStatusItem{item}}); err != nil {
			return nil, err
		}
	}
	if unreachable != "" {
		s.log.Warn("a node registered that cannot be dialed", "node", n.Name, "address", n.Address, "reason", unreachable)
	}
	out := &api.NodeRegistered{Heartbeat: api.Duration(heartbeat)}
	if v := value[*api.NodeRegistered](res); v != nil {
		*out = *v
		out.Heartbeat = api.Duration(heartbeat)
	}
	out.Index, out.Servers, out.Pool = res.Index, s.serverAddrs(), s.peerPool(st, n.ID)
	s.pokeNodes()
	return out, nil
}

// nodeBeat acknowledges a heartbeat, after a quorum check that began after it
// had arrived. An acknowledgement from a leader that was replaced in the
// meantime would make a lease that nobody honours.
func (s *Server) nodeBeat(ctx context.Context, req *api.NodeBeat) (*api.NodeBeaten, error) {
	if err := ownNode(ctx, req.NodeID); err != nil {
		return nil, err
	}
	return s.beats.do(ctx, &timedBeat{beat: req, at: s.cfg.Clock()}, false)
}

// nodeReport puts a node's reports into the next batch.
func (s *Server) nodeReport(ctx context.Context, req *api.NodeReport) (*api.WriteMeta, error) {
	if err := ownNode(ctx, req.NodeID); err != nil {
		return nil, err
	}
	r := *req
	r.VMs, r.Volumes = clipReports(req.VMs), slices.Clone(req.Volumes)
	for i := range r.Volumes {
		r.Volumes[i].Error = clipText(r.Volumes[i].Error)
	}
	req = &r
	// One report that is wrong must not spoil the others of its batch.
	if err := (&fsm.NodeReports{Reports: []api.NodeReport{*req}}).Validate(); err != nil {
		return nil, err
	}
	if s.fsm.State().Session(req.NodeID) != req.SessionID {
		// Passed over, it would be acknowledged and lost.
		return nil, api.Errorf(api.CodeStale, "node %s has not registered this session", req.NodeID).WithHint("it registers, and reports again")
	}
	index, err := s.reports.do(ctx, req, slices.ContainsFunc(req.Moves, standsStill))
	if err != nil {
		return nil, err
	}
	return &api.WriteMeta{Index: index}, nil
}

// standsStill reports whether a guest stands still until the report is committed.
func standsStill(r api.MoveReport) bool {
	switch r.State {
	case api.EndSwitched, api.EndAbsent, api.EndComplete:
		return !r.Clean
	}
	return false
}

// maxReportText is how much of a hypervisor's words is kept.
const maxReportText = 4 << 10

func clipText(s string) string {
	if len(s) <= maxReportText {
		return s
	}
	return strings.ToValidUTF8(s[:maxReportText], "")
}

// clipReports is a copy of reports whose texts are not too long: what a
// hypervisor says is no reason to refuse what the node says.
func clipReports(in []api.VMReport) []api.VMReport {
	out := slices.Clone(in)
	for i := range out {
		out[i].Reason, out[i].Message = clipText(out[i].Reason), clipText(out[i].Message)
	}
	return out
}

func (s *Server) nodeRenew(ctx context.Context, req *api.CertRenew) (*api.CertRenewed, error) {
	id := rpc.IdentityFrom(ctx)
	return s.renew(api.CertName{Region: s.id.Region, Role: api.RoleClient, NodeID: id.NodeID}, req.CSR)
}
