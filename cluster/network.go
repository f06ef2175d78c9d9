package cluster

import (
	"context"
	"iter"
	"slices"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/fsm"
)

var networkKind = &kindOf[*api.Network]{noun: "network", name: func(v *api.Network) string { return v.Name }}

func (s *Server) networkEndpoints() {
	write(s, "Network.Apply", acl.WriteNetwork, s.networkApply)
	write(s, "Network.Delete", acl.WriteNetwork, s.networkDelete)
	read(s, "Network.Get", acl.ReadNetwork, s.networkGet)
	read(s, "Network.List", acl.ReadNetwork, s.networkList)
}

func (s *Server) networkApply(ctx context.Context, req *api.NetworkApply) (*api.NetworkResponse, error) {
	res, err := s.Apply(ctx, &fsm.NetworkApply{Network: req.Network, CheckIndex: req.CheckIndex})
	if err != nil {
		return nil, err
	}
	n := value[*api.Network](res)
	return &api.NetworkResponse{QueryMeta: api.QueryMeta{Index: res.Index}, Network: n, Nodes: nodesWith(s.fsm.State(), n)}, nil
}

func (s *Server) networkDelete(ctx context.Context, req *api.DeleteRequest) (*api.WriteMeta, error) {
	return s.remove(ctx, func(*fsm.State) (fsm.Command, error) {
		return &fsm.NetworkDelete{Name: req.Key, CheckIndex: req.CheckIndex}, nil
	}, nil)
}

func (s *Server) networkGet(ctx context.Context, req *api.GetRequest) (*api.NetworkResponse, error) {
	resp := &api.NetworkResponse{}
	return resp, s.query(ctx, &req.QueryOptions, &resp.QueryMeta, func(st *fsm.State, w *fsm.WatchSet) (api.Index, error) {
		w.Key(fsm.TableNetwork, req.Key)
		if resp.Network = st.Network(req.Key); resp.Network == nil {
			return 0, api.Errorf(api.CodeNotFound, "network %q not found", req.Key)
		}
		resp.Nodes = nodesWith(st, resp.Network)
		return resp.Network.ModifyIndex, nil
	})
}

// nodesWith names the nodes on which a network is there, or can be made.
func nodesWith(st *fsm.State, n *api.Network) []string {
	if n == nil {
		return nil
	}
	var out []string
	for node := range st.Nodes() {
		if n.Type != "bridge" || slices.Contains(node.Networks, n.Bridge) {
			out = append(out, node.Name)
		}
	}
	slices.Sort(out)
	return out
}

func (s *Server) networkList(ctx context.Context, req *api.ListRequest) (*api.NetworkListResponse, error) {
	resp := &api.NetworkListResponse{}
	var err error
	resp.Items, err = list(ctx, s, &req.QueryOptions, &resp.QueryMeta, networkKind, acl.ReadNetwork,
		func(st *fsm.State, _ string) iter.Seq[*api.Network] { return st.Networks() }, same, fsm.TableNetwork)
	return resp, err
}
