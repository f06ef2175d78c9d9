// Package sim is a storage pool that exists only in memory, for tests and for
// the simulated hypervisor.
//
// Promises: the same answers as a real pool, including a full one, and faults
// on demand. It outlives the agent that uses it: keep the Pool, restart the rest.
//
// What does not belong: content; a simulated volume has a size and no bytes.
package sim

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/api"
)

// Pool is a simulated pool.
type Pool struct {
	name     string
	uuid     api.ID
	capacity api.Bytes
	shared   bool
	file     string // remembers the volumes; empty: nothing does

	mu      sync.Mutex
	volumes map[api.ID]volume
	aside   map[api.ID]time.Time // until when
	fault   func(verb string, id api.ID) error
}

var _ storage.Pool = (*Pool)(nil)

// New makes an empty pool.
func New(name string, capacity api.Bytes) *Pool {
	return &Pool{name: name, uuid: api.NewID(), capacity: capacity, volumes: map[api.ID]volume{}, aside: map[api.ID]time.Time{}}
}

// NewShared makes a pool that several simulated nodes may use at once.
func NewShared(name string, capacity api.Bytes) *Pool {
	p := New(name, capacity)
	p.shared = true
	return p
}

// SetFault makes calls fail: f is asked before each ("create", "open", "delete",
// "used", "list", "info"); nil ends it.
func (p *Pool) SetFault(f func(verb string, id api.ID) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
}

// enter locks the pool unless the call is to fail.
func (p *Pool) enter(ctx context.Context, verb string, id api.ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.mu.Lock()
	if p.fault != nil {
		if err := p.fault(verb, id); err != nil {
			p.mu.Unlock()
			return err
		}
	}
	return nil
}

func (p *Pool) used() (n api.Bytes) {
	for _, v := range p.volumes {
		n += v.Size
	}
	return n
}

// Info describes the pool.
func (p *Pool) Info(ctx context.Context) (api.NodePool, error) {
	info := api.NodePool{Name: p.name, Type: "sim", UUID: p.uuid, Shared: p.shared, Capacity: p.capacity}
	if err := p.enter(ctx, "info", api.ID{}); err != nil {
		info.Error = err.Error()
		return info, err
	}
	defer p.mu.Unlock()
	info.Free = p.capacity - p.used()
	return info, nil
}

// Create makes a volume.
func (p *Pool) Create(ctx context.Context, v *api.Volume, src *storage.Source) (storage.Handle, error) {
	if err := storage.Check(v, src); err != nil {
		return storage.Handle{}, err
	}
	if err := p.enter(ctx, "create", v.ID); err != nil {
		return storage.Handle{}, err
	}
	defer p.mu.Unlock()
	if have, ok := p.volumes[v.ID]; ok {
		return have.Handle, nil
	}
	size := v.Size
	h := storage.Handle{Path: fmt.Sprintf("/sim/%s/%s.%s", p.name, v.ID, v.Format), Format: v.Format, Shared: p.shared}
	if src != nil {
		size = max(size, src.VirtualSize)
		if v.Format == "qcow2" {
			h.Backing, h.BackingFormat = src.Path, src.Format
		}
	}
	if p.used()+size > p.capacity {
		return storage.Handle{}, api.Errorf(api.CodePoolFull, "pool %s has no room for %s", p.name, size)
	}
	p.volumes[v.ID] = volume{Size: size, Handle: h}
	return h, p.keep()
}

// Open finds a volume.
func (p *Pool) Open(ctx context.Context, v *api.Volume) (storage.Handle, error) {
	if err := p.enter(ctx, "open", v.ID); err != nil {
		return storage.Handle{}, err
	}
	defer p.mu.Unlock()
	have, ok := p.volumes[v.ID]
	if !ok {
		return storage.Handle{}, fs.ErrNotExist
	}
	return have.Handle, nil
}

// Delete removes a volume.
func (p *Pool) Delete(ctx context.Context, v *api.Volume) error {
	if err := p.enter(ctx, "delete", v.ID); err != nil {
		return err
	}
	defer p.mu.Unlock()
	delete(p.volumes, v.ID)
	return p.keep()
}

// Used returns the size of a volume: simulated ones are not thin.
func (p *Pool) Used(ctx context.Context, v *api.Volume) (api.Bytes, error) {
	if err := p.enter(ctx, "used", v.ID); err != nil {
		return 0, err
	}
	defer p.mu.Unlock()
	have, ok := p.volumes[v.ID]
	if !ok {
		return 0, fs.ErrNotExist
	}
	return have.Size, nil
}

// List returns the ids of the volumes, in order.
func (p *Pool) List(ctx context.Context) ([]api.ID, error) {
	if err := p.enter(ctx, "list", api.ID{}); err != nil {
		return nil, err
	}
	defer p.mu.Unlock()
	out := make([]api.ID, 0, len(p.volumes))
	for id := range p.volumes {
		out = append(out, id)
	}
	slices.SortFunc(out, func(a, b api.ID) int { return bytes.Compare(a[:], b[:]) })
	return out, nil
}
