package cluster

import (
	"context"
	"iter"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

var namespaceKind = &kindOf[*api.Namespace]{noun: "namespace", name: func(v *api.Namespace) string { return v.Name }}

func (s *Server) namespaceEndpoints() {
	write(s, "Namespace.Apply", acl.WriteNamespace, s.namespaceApply)
	write(s, "Namespace.Delete", acl.WriteNamespace, s.namespaceDelete)
	read(s, "Namespace.Get", acl.ReadNamespace, s.namespaceGet)
	read(s, "Namespace.List", acl.ReadNamespace, s.namespaceList)
}

func (s *Server) namespaceApply(ctx context.Context, req *api.NamespaceApply) (*api.NamespaceResponse, error) {
	res, err := s.Apply(ctx, &fsm.NamespaceApply{Namespace: req.Namespace, CheckIndex: req.CheckIndex})
	if err != nil {
		return nil, err
	}
	return &api.NamespaceResponse{QueryMeta: api.QueryMeta{Index: res.Index}, Namespace: value[*api.Namespace](res)}, nil
}

func (s *Server) namespaceDelete(ctx context.Context, req *api.DeleteRequest) (*api.WriteMeta, error) {
	return s.remove(ctx, func(*fsm.State) (fsm.Command, error) {
		return &fsm.NamespaceDelete{Name: req.Key, CheckIndex: req.CheckIndex}, nil
	}, nil)
}

func (s *Server) namespaceGet(ctx context.Context, req *api.GetRequest) (*api.NamespaceResponse, error) {
	if !rpc.IdentityFrom(ctx).Allow(acl.ReadNamespace, req.Key) {
		return nil, api.Errorf(api.CodeForbidden, "permission denied")
	}
	resp := &api.NamespaceResponse{}
	return resp, s.query(ctx, &req.QueryOptions, &resp.QueryMeta, func(st *fsm.State, w *fsm.WatchSet) (api.Index, error) {
		w.Key(fsm.TableNamespace, req.Key)
		if resp.Namespace = st.Namespace(req.Key); resp.Namespace == nil {
			return 0, api.Errorf(api.CodeNotFound, "namespace %q not found", req.Key)
		}
		return resp.Namespace.ModifyIndex, nil
	})
}

func (s *Server) namespaceList(ctx context.Context, req *api.ListRequest) (*api.NamespaceListResponse, error) {
	resp := &api.NamespaceListResponse{}
	id := rpc.IdentityFrom(ctx)
	var err error
	resp.Items, err = list(ctx, s, &req.QueryOptions, &resp.QueryMeta, namespaceKind, acl.None,
		func(st *fsm.State, _ string) iter.Seq[*api.Namespace] {
			return func(yield func(*api.Namespace) bool) {
				for n := range st.Namespaces() {
					if id.Allow(acl.ReadNamespace, n.Name) && !yield(n) {
						return
					}
				}
			}
		}, same, fsm.TableNamespace)
	return resp, err
}
