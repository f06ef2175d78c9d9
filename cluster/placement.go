package cluster

import (
	"context"
	"iter"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

var placementKind = &kindOf[*api.Placement]{
	noun: "placement",
	id:   func(v *api.Placement) api.ID { return v.VMID },
	name: func(v *api.Placement) string { return v.VMName },
	ns:   func(v *api.Placement) string { return v.Namespace },
}

func (s *Server) placementEndpoints() {
	read(s, "Placement.Get", acl.ReadPlacement, s.placementGet)
	read(s, "Placement.List", acl.ReadPlacement, s.placementList)
}

func (s *Server) placementGet(ctx context.Context, req *api.GetRequest) (*api.PlacementResponse, error) {
	resp := &api.PlacementResponse{}
	return resp, s.query(ctx, &req.QueryOptions, &resp.QueryMeta, func(st *fsm.State, w *fsm.WatchSet) (api.Index, error) {
		vm, err := findVM(ctx, acl.ReadPlacement, st, req.Namespace, req.Key)
		if err != nil {
			return 0, err
		}
		w.ID(fsm.TablePlacement, vm.ID)
		if resp.Placement = st.Placement(vm.ID); resp.Placement == nil {
			return 0, api.Errorf(api.CodeUnplaced, "VM %q is on no node", vm.Name).WithHint("see: novacron vm status %s", vm.Name)
		}
		return resp.Placement.ModifyIndex, nil
	})
}

func (s *Server) placementList(ctx context.Context, req *api.PlacementListRequest) (*api.PlacementListResponse, error) {
	resp := &api.PlacementListResponse{}
	all := func(st *fsm.State, _ string) iter.Seq[*api.Placement] {
		if req.NodeID.IsZero() {
			return st.Placements()
		}
		return st.PlacementsOn(req.NodeID)
	}
	var err error
	resp.Items, err = list(ctx, s, &req.QueryOptions, &resp.QueryMeta, placementKind, acl.ReadPlacement, all, same, fsm.TablePlacement, fsm.TableTombstone)
	if err != nil || req.NextToken != "" {
		return resp, err
	}
	id, ns := rpc.IdentityFrom(ctx), namespaceOf(req.Namespace)
	st := s.fsm.State()
	stones := st.Tombstones()
	if !req.NodeID.IsZero() {
		stones = st.TombstonesOn(req.NodeID)
	}
	for t := range stones {
		if (ns == "*" || ns == t.Namespace) && id.Allow(acl.ReadPlacement, t.Namespace) {
			resp.Tombstones = append(resp.Tombstones, t)
		}
	}
	return resp, nil
}
