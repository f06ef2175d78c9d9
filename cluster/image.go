package cluster

import (
	"context"
	"iter"
	"slices"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

var imageKind = &kindOf[*api.Image]{
	noun: "image",
	id:   func(v *api.Image) api.ID { return v.ID },
	name: func(v *api.Image) string { return v.Name },
	ns:   func(v *api.Image) string { return v.Namespace },
}

func (s *Server) imageEndpoints() {
	write(s, "Image.Delete", acl.WriteImage, s.imageDelete)
	read(s, "Image.Get", acl.ReadImage, s.imageGet)
	read(s, "Image.List", acl.ReadImage, s.imageList)
	stream(s, rpc.KindWrite, "Image.Upload", acl.WriteImage, s.imageUpload)
	stream(s, rpc.KindAny, "Image.Download", acl.ReadImage, s.imageDownload)
}

func findImage(ctx context.Context, c acl.Capability, st *fsm.State, ns, key string) (*api.Image, error) {
	return findOf(imageKind, ns, key, allowed(ctx, c), st.ImageByName, st.Image, st.Images())
}

func (s *Server) imageDelete(ctx context.Context, req *api.DeleteRequest) (*api.WriteMeta, error) {
	return s.remove(ctx, func(st *fsm.State) (fsm.Command, error) {
		im, err := findImage(ctx, acl.WriteImage, st, req.Namespace, req.Key)
		if err != nil {
			return nil, err
		}
		return &fsm.ImageDelete{ID: im.ID, CheckIndex: req.CheckIndex}, nil
	}, &fsm.ImageDelete{})
}

func (s *Server) imageGet(ctx context.Context, req *api.GetRequest) (*api.ImageResponse, error) {
	resp := &api.ImageResponse{}
	return resp, s.query(ctx, &req.QueryOptions, &resp.QueryMeta, func(st *fsm.State, w *fsm.WatchSet) (api.Index, error) {
		im, err := findImage(ctx, acl.ReadImage, st, req.Namespace, req.Key)
		if err != nil {
			return 0, err
		}
		w.ID(fsm.TableImage, im.ID)
		resp.Image, resp.UsedBy = im, 0
		for range st.VolumesFrom(im.ID) {
			resp.UsedBy++
		}
		return im.ModifyIndex, nil
	})
}

func (s *Server) imageList(ctx context.Context, req *api.ListRequest) (*api.ImageListResponse, error) {
	resp := &api.ImageListResponse{}
	var err error
	resp.Items, err = list(ctx, s, &req.QueryOptions, &resp.QueryMeta, imageKind, acl.ReadImage,
		func(st *fsm.State, ns string) iter.Seq[*api.Image] {
			if ns == "*" {
				return st.Images()
			}
			return st.ImagesIn(ns)
		}, same, fsm.TableImage)
	return resp, err
}

// readyNodes lists the nodes that can be asked for something now.
func readyNodes(st *fsm.State) []*api.Node {
	var out []*api.Node
	for n := range st.Nodes() {
		if n.Status == api.NodeReady && n.Unreachable == "" {
			out = append(out, n)
		}
	}
	return out
}

// imageHomes picks the nodes that are to hold new content: those that hold the
// least already.
func imageHomes(st *fsm.State, not []api.ID, n int) []*api.Node {
	held := map[api.ID]api.Bytes{}
	for im := range st.Images() {
		for _, id := range im.Replicas {
			held[id] += im.Size
		}
	}
	nodes := slices.DeleteFunc(readyNodes(st), func(n *api.Node) bool { return slices.Contains(not, n.ID) })
	slices.SortStableFunc(nodes, func(a, b *api.Node) int { return int(min(max(held[a.ID]-held[b.ID], -1), 1)) })
	return nodes[:min(len(nodes), n)]
}

// imageDownload passes on the content from a node that holds it.
func (s *Server) imageDownload(ctx context.Context, req *api.GetRequest, down api.Stream) error {
	st := s.fsm.State()
	im, err := findImage(ctx, acl.ReadImage, st, req.Namespace, req.Key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	up, err := s.openImage(ctx, st, im)
	if err != nil {
		return err
	}
	return copyChunks(up, func(c *api.Chunk) error { return down.Send(c) })
}

// openImage opens the content at the first node that answers.
func (s *Server) openImage(ctx context.Context, st *fsm.State, im *api.Image) (api.Stream, error) {
	err := error(api.Errorf(api.CodeImageMissing, "image %q is on no node that can be reached", im.Name))
	for _, id := range im.Replicas {
		n := st.Node(id)
		if n == nil || n.Status == api.NodeLost || n.Status == api.NodeLeft {
			continue
		}
		up, oerr := s.pool.Node(n.ID, n.Address).Open(ctx, "Agent.ImageGet", &api.ImageFetch{ID: im.ID, SHA256: im.SHA256})
		if oerr == nil {
			return up, nil
		}
		s.log.Warn("an image cannot be read at a node", "image", im.Name, "node", n.Name, "error", oerr)
	}
	return nil, err
}
