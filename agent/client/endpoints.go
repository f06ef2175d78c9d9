package client

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"

	"github.com/novacron/novacron/agent/image"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
)

// chunkSize is how much of an image one message carries.
const chunkSize = 256 << 10

// Register registers the agent's own endpoints.
func (c *Client) Register(m *rpc.Mux) {
	rpc.Local(m, "Agent.Ping", acl.ServerSelf, c.ping)
	rpc.Local(m, "Agent.VMStats", acl.ServerSelf, c.vmStats)
	rpc.Stream(m, rpc.KindLocal, "Agent.Console", acl.ServerSelf, c.console)
	rpc.Stream(m, rpc.KindLocal, "Agent.ImagePut", acl.ServerSelf, c.imagePut)
	rpc.Stream(m, rpc.KindPeer, "Agent.ImageGet", acl.Member, c.imageGet)
	c.registerMoves(m)
}

func (c *Client) ping(context.Context, *api.Empty) (*api.Empty, error) { return &api.Empty{}, nil }

// domainID reads the VM's id; servers have resolved names.
func domainID(key string) (api.ID, error) {
	id, err := api.ParseID(key)
	if err != nil {
		return id, api.Errorf(api.CodeInvalid, "%v", err)
	}
	return id, nil
}

// public gives a driver's error a code.
func public(err error) error {
	var e *api.Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	switch res, _ := classify(err); res {
	case resUnknown:
		return api.Errorf(api.CodeHypervisorUnknown, "the hypervisor does not answer")
	case resNotFound:
		return api.Errorf(api.CodeState, "the VM does not run on this node")
	}
	return api.Errorf(api.CodeHypervisor, "%v", err)
}

func (c *Client) vmStats(ctx context.Context, q *api.GetRequest) (*api.VMStatsResponse, error) {
	id, err := domainID(q.Key)
	if err != nil {
		return nil, err
	}
	s, err := c.cfg.Driver.Stats(ctx, id)
	if err != nil {
		return nil, public(err)
	}
	return &api.VMStatsResponse{Stats: s}, nil
}

// console joins a viewer's stream and the VM's serial console.
func (c *Client) console(ctx context.Context, q *api.GetRequest, s api.Stream) error {
	id, err := domainID(q.Key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(c.ctx, cancel)
	defer stop()
	con, err := c.cfg.Driver.Console(ctx, id)
	if err != nil {
		return public(err)
	}
	closed := sync.OnceValue(con.Close)
	defer closed()
	begun := c.spawn(func() { // ends with the stream: Recv fails once the handler has returned
		defer closed()
		for {
			var ch api.Chunk
			if err := s.Recv(&ch); err != nil {
				return
			}
			if _, err := con.Write(ch.Data); len(ch.Data) > 0 && err != nil {
				return
			}
		}
	})
	if !begun {
		return api.Errorf(api.CodeUnreachable, "the agent ends")
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := con.Read(buf)
		if n > 0 {
			if err := s.Send(&api.Chunk{Data: buf[:n]}); err != nil {
				return nil // the viewer has gone
			}
		}
		if err != nil {
			return nil // the console has ended
		}
	}
}

// imagePut takes an image that a server passes on.
func (c *Client) imagePut(ctx context.Context, q *api.ImageUpload, s api.Stream) error {
	want := image.Spec{SHA256: q.SHA256, Size: q.Size, Kind: q.Kind, Format: q.Format}
	info, err := c.cfg.Images.Put(ctx, want, &chunkReader{s: s, close: func() {}})
	if err != nil {
		return err
	}
	if !q.ID.IsZero() {
		c.nameImage(&api.Image{ID: q.ID, Name: q.Name, SHA256: info.SHA256, Size: info.Size})
		c.reports.image(api.ImageReport{ID: q.ID, Size: info.Size})
	}
	return s.Send(&api.ImageResponse{Image: &api.Image{
		ID: q.ID, Namespace: q.Namespace, Name: q.Name, Kind: info.Kind, Format: info.Format, Size: info.Size,
		VirtualSize: info.VirtualSize, SHA256: info.SHA256, Replicas: []api.ID{c.cfg.Node.ID},
	}})
}

// imageGet sends the content of an image from an offset.
func (c *Client) imageGet(ctx context.Context, q *api.ImageFetch, s api.Stream) error {
	f, info, err := c.cfg.Images.Open(q.SHA256)
	if errors.Is(err, fs.ErrNotExist) {
		return api.Errorf(api.CodeImageMissing, "this node does not hold image %.12s", q.SHA256)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if q.Offset < 0 || q.Offset > int64(info.Size) {
		return api.Errorf(api.CodeInvalid, "the offset is outside of the image")
	}
	r := io.NewSectionReader(f, q.Offset, int64(info.Size)-q.Offset)
	for ctx.Err() == nil {
		buf := make([]byte, min(chunkSize, int64(info.Size)))
		n, err := r.Read(buf)
		if n > 0 {
			if err := s.Send(&api.Chunk{Data: buf[:n]}); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}
