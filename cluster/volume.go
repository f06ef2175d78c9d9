package cluster

import (
	"context"
	"iter"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/fsm"
)

var volumeKind = &kindOf[*api.Volume]{
	noun: "volume",
	id:   func(v *api.Volume) api.ID { return v.ID },
	name: func(v *api.Volume) string { return v.Name },
	ns:   func(v *api.Volume) string { return v.Namespace },
}

func (s *Server) volumeEndpoints() {
	write(s, "Volume.Create", acl.WriteVolume, s.volumeCreate)
	write(s, "Volume.Delete", acl.WriteVolume, s.volumeDelete)
	read(s, "Volume.Get", acl.ReadVolume, s.volumeGet)
	read(s, "Volume.List", acl.ReadVolume, s.volumeList)
}

func findVolume(ctx context.Context, c acl.Capability, st *fsm.State, ns, key string) (*api.Volume, error) {
	return findOf(volumeKind, ns, key, allowed(ctx, c), st.VolumeByName, st.Volume, st.Volumes())
}

func (s *Server) volumeCreate(ctx context.Context, req *api.VolumeCreate) (*api.VolumeResponse, error) {
	st := s.fsm.State()
	v := api.Volume{
		ID: api.NewID(), Namespace: req.Namespace, Name: req.Name, Pool: req.Pool, Size: req.Size, Format: req.Format, Labels: req.Labels,
	}
	if req.Node != "" {
		n, err := findNode(st, req.Node)
		if err != nil {
			return nil, err
		}
		v.NodeID = n.ID
	}
	if req.Image != "" {
		im := st.ImageFor(req.Namespace, req.Image)
		if im == nil {
			return nil, api.Errorf(api.CodeNotFound, "image %q not found", req.Image)
		}
		v.Image = im.ID
	}
	res, err := s.Apply(ctx, &fsm.VolumeCreate{Volume: v})
	if err != nil {
		return nil, err
	}
	return &api.VolumeResponse{QueryMeta: api.QueryMeta{Index: res.Index}, Volume: value[*api.Volume](res)}, nil
}

func (s *Server) volumeDelete(ctx context.Context, req *api.DeleteRequest) (*api.WriteMeta, error) {
	return s.remove(ctx, func(st *fsm.State) (fsm.Command, error) {
		v, err := findVolume(ctx, acl.WriteVolume, st, req.Namespace, req.Key)
		if err != nil {
			return nil, err
		}
		return &fsm.VolumeDelete{ID: v.ID, CheckIndex: req.CheckIndex}, nil
	}, &fsm.VolumeDelete{})
}

func (s *Server) volumeGet(ctx context.Context, req *api.GetRequest) (*api.VolumeResponse, error) {
	resp := &api.VolumeResponse{}
	return resp, s.query(ctx, &req.QueryOptions, &resp.QueryMeta, func(st *fsm.State, w *fsm.WatchSet) (api.Index, error) {
		v, err := findVolume(ctx, acl.ReadVolume, st, req.Namespace, req.Key)
		if err != nil {
			return 0, err
		}
		w.ID(fsm.TableVolume, v.ID)
		resp.Volume = v
		return v.ModifyIndex, nil
	})
}

func (s *Server) volumeList(ctx context.Context, req *api.ListRequest) (*api.VolumeListResponse, error) {
	resp := &api.VolumeListResponse{}
	var err error
	resp.Items, err = list(ctx, s, &req.QueryOptions, &resp.QueryMeta, volumeKind, acl.ReadVolume, volumesOf, same, fsm.TableVolume)
	return resp, err
}

func volumesOf(st *fsm.State, ns string) iter.Seq[*api.Volume] {
	if ns == "*" {
		return st.Volumes()
	}
	return st.VolumesIn(ns)
}
