package client

import (
	"context"
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
)

// registerMoves registers what other nodes and servers ask of moves.
func (c *Client) registerMoves(m *rpc.Mux) {
	rpc.Peering(m, "Agent.MoveTarget", acl.Member, c.moveTarget)
	rpc.Stream(m, rpc.KindPeer, "Agent.VolumeGet", acl.Member, c.volumeGet)
	rpc.Local(m, "Agent.MoveProgress", acl.ServerSelf, c.moveProgress)
	rpc.Local(m, "Agent.DirtyRate", acl.ServerSelf, c.dirtyRate)
	rpc.Local(m, "Agent.LinkMeasure", acl.ServerSelf, c.linkMeasure)
	rpc.Stream(m, rpc.KindPeer, "Agent.LinkProbe", acl.Member, c.linkProbe)
}

// moving returns a VM that is being moved between this node and a caller.
func (c *Client) moving(ctx context.Context, key string) (*vm, *api.MoveOrder, api.ID, error) {
	id, err := domainID(key)
	if err != nil {
		return nil, nil, id, err
	}
	caller := rpc.IdentityFrom(ctx).NodeID
	v := c.find(id)
	if v == nil {
		return nil, nil, caller, api.Errorf(api.CodeState, "this node has no part in a move of that VM")
	}
	o := v.part.get()
	if o == nil || o.Migration.From != caller && o.Migration.To != caller {
		return nil, nil, caller, api.Errorf(api.CodeState, "this node has no part in a move of that VM with the caller")
	}
	return v, o, caller, nil
}

// moveTarget answers the source of a migration that this node expects.
func (c *Client) moveTarget(ctx context.Context, q *api.GetRequest) (*api.Chunk, error) {
	v, _, caller, err := c.moving(ctx, q.Key)
	if err != nil {
		return nil, err
	}
	b, err := v.target(caller)
	return &api.Chunk{Data: b}, err
}

// moveProgress is the newest sample of a move that goes out from here; Key is
// the migration's id.
func (c *Client) moveProgress(_ context.Context, q *api.GetRequest) (*api.MigrationProgress, error) {
	id, err := domainID(q.Key)
	if err != nil {
		return nil, err
	}
	for _, v := range c.all() {
		v.part.mu.Lock()
		p := v.part.progress
		v.part.mu.Unlock()
		if p != nil && p.ID == id {
			return p, nil
		}
	}
	return nil, api.Errorf(api.CodeNotFound, "nothing of migration %s is sent from here", id.Short())
}

// dirtyOver is how long a guest's writes are watched.
const dirtyOver = api.Duration(1e9)

// dirtyRate measures how fast a guest writes memory.
func (c *Client) dirtyRate(ctx context.Context, q *api.GetRequest) (*api.MigrationForecast, error) {
	id, err := domainID(q.Key)
	if err != nil {
		return nil, err
	}
	d, ok := c.cfg.Driver.(hypervisor.Migrator)
	if !ok {
		return nil, api.Errorf(api.CodeUnsupported, "the node's hypervisor cannot measure that")
	}
	rate, err := d.DirtyRate(ctx, id, dirtyOver)
	if err != nil {
		return nil, public(err)
	}
	return &api.MigrationForecast{DirtyRate: rate}, nil
}

// pull fetches the disks of a stopped VM from the source.
func (v *vm) pull(o *api.MoveOrder) error {
	ctx, done := v.part.begin(v.c)
	defer done()
	g := o.Migration
	err := v.eachVolume(g, o, func(_ context.Context, p storage.Pool, vol *api.Volume) error {
		return v.c.patiently(ctx, func() error { return v.pullVolume(ctx, o, p, vol) })
	})
	if err != nil && ctx.Err() == nil {
		return failedMove("fetching the disks: %v", err)
	}
	return err
}

func (v *vm) pullVolume(ctx context.Context, o *api.MoveOrder, p storage.Pool, vol *api.Volume) error {
	var src *storage.Source
	if !vol.Image.IsZero() {
		i, err := v.c.volumeImage(vol, o.VM.Images)
		if err != nil {
			return err
		}
		src = &storage.Source{Path: i.Path, Format: i.Format, VirtualSize: i.VirtualSize}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := v.c.cfg.Peer(o.Peer).Open(ctx, "Agent.VolumeGet", &api.VolumeFetch{VM: v.id, Volume: vol.ID})
	if err != nil {
		return err
	}
	_, err = p.Import(ctx, vol, src, &chunkReader{s: s, close: cancel})
	return err
}

// pullWait is how long a source may take to hear that its disks are wanted.
const (
	pullWait  = 30 * time.Second
	pullRetry = 200 * time.Millisecond
)

// patiently repeats f while the source has not come so far.
func (c *Client) patiently(ctx context.Context, f func() error) error {
	for begin := time.Now(); ; {
		err := f()
		if api.CodeOf(err) != api.CodeState || time.Since(begin) > pullWait || ctx.Err() != nil || !c.sleep(pullRetry) {
			return err
		}
	}
}
