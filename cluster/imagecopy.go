package cluster

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"slices"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

const (
	imageCopies  = 2
	replicaCheck = 30 * time.Second
	// A copy that stands still for imageStall is given up; the node that got all
	// of it has imageFinish to check it.
	imageStall  = time.Minute
	imageFinish = 10 * time.Minute
)

// copyChunks passes a stream's chunks to send until it ends.
func copyChunks(from api.Stream, send func(*api.Chunk) error) error {
	for {
		c := &api.Chunk{}
		if err := from.Recv(c); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := send(c); err != nil {
			return err
		}
	}
}

// imageSink is one node that takes content.
type imageSink struct {
	node   *api.Node
	stream api.Stream
	full   bool // it has all it wants: it may have had the content before
	err    error
}

// imageWriter hands content to several nodes at once and sums it up. A node that
// fails is left out; as long as one is left the copy goes on.
type imageWriter struct {
	want  *api.ImageUpload
	sinks []*imageSink
	size  int64
	sum   hash.Hash
}

func (s *Server) newImageWriter(ctx context.Context, want *api.ImageUpload, nodes []*api.Node) (*imageWriter, error) {
	w := &imageWriter{want: want, sum: sha256.New()}
	for _, n := range nodes {
		st, err := s.pool.Node(n.ID, n.Address).Open(ctx, "Agent.ImagePut", want)
		w.sinks = append(w.sinks, &imageSink{node: n, stream: st, err: err})
	}
	return w, w.failed()
}

// failed returns an error when no node is left.
func (w *imageWriter) failed() error {
	var errs []error
	for _, k := range w.sinks {
		if k.err == nil {
			return nil
		}
		errs = append(errs, k.err)
	}
	if len(errs) == 0 {
		return api.Errorf(api.CodeNoNode, "no node is ready to hold the image").WithHint("see: novacron node list")
	}
	return errs[0]
}

func (w *imageWriter) write(c *api.Chunk) error {
	if w.size += int64(len(c.Data)); w.size > int64(w.want.Size) {
		return api.Errorf(api.CodeImageBad, "the content is larger than the %d bytes that were declared", w.want.Size)
	}
	w.sum.Write(c.Data)
	for _, k := range w.sinks {
		if k.err != nil || k.full {
			continue
		}
		if err := k.stream.Send(c); errors.Is(err, io.EOF) {
			k.full = true // it has answered: finish reads what
		} else if err != nil {
			k.err = err
		}
	}
	return w.failed()
}

// finish checks size and checksum and collects the nodes that hold the content.
func (w *imageWriter) finish() (*api.Image, error) {
	if w.size != int64(w.want.Size) {
		return nil, api.Errorf(api.CodeImageBad, "the content has %d bytes, declared were %d", w.size, w.want.Size)
	}
	if sum := hex.EncodeToString(w.sum.Sum(nil)); sum != w.want.SHA256 {
		return nil, api.Errorf(api.CodeImageBad, "the content has the checksum %s, declared was %s", sum, w.want.SHA256)
	}
	out := &api.Image{
		ID: w.want.ID, Namespace: w.want.Namespace, Name: w.want.Name, Kind: w.want.Kind, Format: w.want.Format,
		Size: w.want.Size, SHA256: w.want.SHA256, Labels: w.want.Labels, State: api.ImageReady,
	}
	for _, k := range w.sinks {
		if k.err != nil {
			continue
		}
		_ = k.stream.CloseSend() // what went wrong is told by Recv
		var resp api.ImageResponse
		if k.err = k.stream.Recv(&resp); k.err != nil {
			continue
		}
		out.Replicas = append(out.Replicas, k.node.ID)
		if resp.Image != nil {
			out.VirtualSize = max(out.VirtualSize, resp.Image.VirtualSize)
		}
	}
	return out, w.failed()
}

// imageUpload takes an image from a user to two nodes, or to one if there is no
// other, and records it.
func (s *Server) imageUpload(ctx context.Context, req *api.ImageUpload, st api.Stream) error {
	state := s.fsm.State()
	if state.Namespace(req.Namespace) == nil {
		return api.Errorf(api.CodeNotFound, "namespace %q not found", req.Namespace)
	}
	if state.ImageByName(req.Namespace, req.Name) != nil {
		return api.Errorf(api.CodeExists, "image %q exists already", req.Name)
	}
	want := *req
	want.ID = api.NewID()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := s.newImageWriter(ctx, &want, imageHomes(state, nil, imageCopies))
	if err != nil {
		return err
	}
	if err := copyChunks(st, w.write); err != nil {
		return err
	}
	im, err := w.finish()
	if err != nil {
		return err
	}
	res, err := s.Apply(ctx, &fsm.ImageCreate{Image: *im})
	if err != nil {
		return err
	}
	return st.Send(&api.ImageResponse{QueryMeta: api.QueryMeta{Index: res.Index}, Image: value[*api.Image](res)})
}

// dutyImages sees to it that every image is on two nodes.
func (s *Server) dutyImages(ctx context.Context) error {
	return every(ctx, replicaCheck, nil, func(ctx context.Context) error {
		st := s.fsm.State()
		for im := range st.Images() {
			if im.State != api.ImageReady || s.copiesOf(st, im) >= imageCopies {
				continue
			}
			for _, n := range imageHomes(st, im.Replicas, 1) {
				if err := s.copyImage(ctx, st, im, n); err != nil && ctx.Err() == nil {
					s.log.Warn("an image could not be copied to a second node", "image", im.Name, "node", n.Name, "error", err)
				}
			}
		}
		return nil
	})
}

// copiesOf counts the nodes that hold an image; one that is only suspect counts,
// for it will most likely be back.
func (s *Server) copiesOf(st *fsm.State, im *api.Image) int {
	return len(slices.DeleteFunc(slices.Clone(im.Replicas), func(id api.ID) bool {
		n := st.Node(id)
		return n == nil || n.Status == api.NodeLost || n.Status == api.NodeLeft
	}))
}

func (s *Server) copyImage(ctx context.Context, st *fsm.State, im *api.Image, to *api.Node) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(s.cfg.imageStall, func() {
		cancel(api.Errorf(api.CodeDeadline, "the copy stood still"))
	})
	defer stall.Stop()
	from, err := s.openImage(ctx, st, im)
	if err != nil {
		return err
	}
	want := &api.ImageUpload{
		ID: im.ID, Namespace: im.Namespace, Name: im.Name, Kind: im.Kind, Format: im.Format, Size: im.Size, SHA256: im.SHA256,
	}
	w, err := s.newImageWriter(ctx, want, []*api.Node{to})
	if err != nil {
		return err
	}
	err = copyChunks(from, func(c *api.Chunk) error {
		stall.Reset(s.cfg.imageStall)
		return w.write(c)
	})
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	stall.Reset(s.cfg.imageFinish)
	got, err := w.finish()
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	_, err = s.Apply(ctx, &fsm.ImageReplicas{ID: im.ID, Add: got.Replicas, VirtualSize: got.VirtualSize})
	return err
}
