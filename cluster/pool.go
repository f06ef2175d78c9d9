package cluster

import (
	"context"
	"iter"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/fsm"
)

var poolKind = &kindOf[*api.Pool]{noun: "pool", name: func(v *api.Pool) string { return v.Name }}

func (s *Server) poolEndpoints() {
	write(s, "Pool.Apply", acl.WritePool, s.poolApply)
	write(s, "Pool.Delete", acl.WritePool, s.poolDelete)
	read(s, "Pool.Get", acl.ReadPool, s.poolGet)
	read(s, "Pool.List", acl.ReadPool, s.poolList)
}

func (s *Server) poolApply(ctx context.Context, req *api.PoolApply) (*api.PoolResponse, error) {
	res, err := s.Apply(ctx, &fsm.PoolApply{Pool: req.Pool, CheckIndex: req.CheckIndex})
	if err != nil {
		return nil, err
	}
	return &api.PoolResponse{QueryMeta: api.QueryMeta{Index: res.Index}, Pool: value[*api.Pool](res), Nodes: poolUse(s.fsm.State(), req.Pool.Name)}, nil
}

func (s *Server) poolDelete(ctx context.Context, req *api.DeleteRequest) (*api.WriteMeta, error) {
	return s.remove(ctx, func(*fsm.State) (fsm.Command, error) {
		return &fsm.PoolDelete{Name: req.Key, CheckIndex: req.CheckIndex}, nil
	}, nil)
}

func (s *Server) poolGet(ctx context.Context, req *api.GetRequest) (*api.PoolResponse, error) {
	resp := &api.PoolResponse{}
	return resp, s.query(ctx, &req.QueryOptions, &resp.QueryMeta, func(st *fsm.State, w *fsm.WatchSet) (api.Index, error) {
		w.Key(fsm.TablePool, req.Key)
		w.Table(fsm.TableNode, fsm.TableVolume)
		if resp.Pool = st.Pool(req.Key); resp.Pool == nil {
			return 0, api.Errorf(api.CodeNotFound, "pool %q not found", req.Key)
		}
		resp.Nodes = poolUse(st, req.Key)
		return st.TableIndex(fsm.TablePool, fsm.TableNode, fsm.TableVolume), nil
	})
}

// poolUse lists a pool on each node, with what is promised there.
func poolUse(st *fsm.State, pool string) []api.PoolUse {
	var out []api.PoolUse
	for n := range st.Nodes() {
		np := fsm.NodePoolOf(n, pool)
		if np == nil {
			continue
		}
		owner := n.ID
		if np.Shared {
			owner = api.ID{}
		}
		out = append(out, api.PoolUse{
			NodeID: n.ID, Node: n.Name, Capacity: np.Capacity, Free: np.Free, Error: np.Error,
			Promised: st.Promised(owner, pool), Volumes: int32(st.VolumeCount(owner, pool)),
		})
	}
	return out
}

func (s *Server) poolList(ctx context.Context, req *api.ListRequest) (*api.PoolListResponse, error) {
	resp := &api.PoolListResponse{}
	var err error
	resp.Items, err = list(ctx, s, &req.QueryOptions, &resp.QueryMeta, poolKind, acl.ReadPool,
		func(st *fsm.State, _ string) iter.Seq[*api.Pool] { return st.Pools() }, same, fsm.TablePool)
	return resp, err
}
