package client

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/migrate"
	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/api"
)

// volumeGet sends a volume of a stopped VM to the node that it moves to.
func (c *Client) volumeGet(ctx context.Context, q *api.VolumeFetch, s api.Stream) error {
	v, o, caller, err := c.moving(ctx, q.VM.String())
	if err != nil {
		return err
	}
	v.mu.Lock()
	still := v.m.Move.ID == o.Migration.ID && !v.m.Move.In && !v.m.Alive && v.m.Move.Attested &&
		(v.m.Move.Phase == api.MigrationCopying || v.m.Move.Phase == api.MigrationSwitched)
	v.mu.Unlock()
	if o.Migration.To != caller || o.Migration.Mode != api.MigrateCold || !still {
		return api.Errorf(api.CodeState, "the VM's disks are not for that node now")
	}
	var pool storage.Pool
	var vol *api.Volume
	var all api.Bytes
	err = v.eachVolume(o.Migration, o, func(_ context.Context, p storage.Pool, it *api.Volume) error {
		if all += it.Size; it.ID == q.Volume {
			pool, vol = p, it
		}
		return nil
	})
	if err == nil && vol == nil {
		err = api.Errorf(api.CodeNotFound, "volume %s is not one of those that move", q.Volume.Short())
	}
	if err != nil {
		return err
	}
	return v.part.coldOf(o.Migration, all).send(ctx, &v.part, pool, vol, s)
}

// coldSend is what was sent of the disks of a cold move, one after the other.
type coldSend struct {
	g     *api.Migration
	limit *migrate.Cap
	begun time.Time
	all   api.Bytes // the size of the disks
	read  map[api.ID]api.Bytes
	wire  api.Bytes
	noted time.Time
	then  api.Bytes // done when it was noted last
	rate  api.Bytes // over the last second
}

// coldOf returns the sender of a move; the next disk goes on where the last has ended.
func (p *part) coldOf(g *api.Migration, all api.Bytes) *coldSend {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cold == nil || p.cold.g.ID != g.ID || p.cold.g.Attempts != g.Attempts {
		now := time.Now()
		rate := g.Options.Bandwidth
		if o := p.order; o != nil && o.Migration.ID == g.ID { // it may have changed since
			rate = o.Migration.Options.Bandwidth
		}
		p.cold = &coldSend{g: g, limit: migrate.NewCap(rate), begun: now, all: all, read: map[api.ID]api.Bytes{}, noted: now}
	}
	return p.cold
}

// send sends a disk, no faster than the servers allow.
func (d *coldSend) send(ctx context.Context, p *part, pool storage.Pool, vol *api.Volume, s api.Stream) error {
	r, err := pool.Export(ctx, vol)
	if err != nil {
		return err
	}
	defer r.Close()
	buf := make([]byte, chunkSize)
	for ctx.Err() == nil {
		n, err := io.ReadFull(r, buf[:d.piece()])
		if n > 0 {
			if err := d.limit.Take(ctx, n); err != nil {
				return err
			}
			if err := s.Send(&api.Chunk{Data: buf[:n]}); err != nil {
				return err
			}
		}
		over := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		d.note(p, vol, r, api.Bytes(n), over)
		if over {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// piece is how many bytes go at once: few under a low cap, so that none waits for long.
func (d *coldSend) piece() api.Bytes {
	if rate := d.limit.Rate(); rate > 0 {
		return min(chunkSize, max(rate/8, 4<<10))
	}
	return chunkSize
}

// note counts what was sent, and keeps a sample each second.
func (d *coldSend) note(p *part, vol *api.Volume, r io.Reader, sent api.Bytes, over bool) {
	p.mu.Lock()
	d.wire += sent
	if at, ok := r.(storage.Positioned); ok {
		d.read[vol.ID] = min(at.Position(), vol.Size)
	}
	if over {
		d.read[vol.ID] = vol.Size
	}
	var done api.Bytes
	for _, n := range d.read {
		done += n
	}
	now := time.Now()
	if since := now.Sub(d.noted); since >= progressEvery {
		d.rate = api.Bytes(float64(done-d.then) / since.Seconds())
		d.noted, d.then = now, done
		over = true
	}
	rate, wire := d.rate, d.wire
	p.mu.Unlock()
	if over {
		p.note(d.g.ID, hypervisor.MoveStats{
			Total: d.all, Done: done, Remaining: max(0, d.all-done), Rate: rate, Elapsed: api.Duration(now.Sub(d.begun)),
		}, wire, "")
	}
}
