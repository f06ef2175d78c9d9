package sim

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"io/fs"
	"time"

	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/api"
)

// Quarantine sets a volume aside.
func (p *Pool) Quarantine(ctx context.Context, v *api.Volume, until time.Time) error {
	if err := p.enter(ctx, "quarantine", v.ID); err != nil {
		return err
	}
	defer p.mu.Unlock()
	if _, ok := p.volumes[v.ID]; ok {
		delete(p.volumes, v.ID)
		p.aside[v.ID] = until
	}
	return p.keep()
}

// Purge forgets what was set aside for long enough.
func (p *Pool) Purge(ctx context.Context, now time.Time) (gone []api.ID, err error) {
	if err := p.enter(ctx, "purge", api.ID{}); err != nil {
		return nil, err
	}
	defer p.mu.Unlock()
	for id, until := range p.aside {
		if now.After(until) {
			delete(p.aside, id)
			gone = append(gone, id)
		}
	}
	return gone, nil
}

// Aside returns how many volumes are set aside.
func (p *Pool) Aside() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.aside)
}

// Export reads a volume; its content is its size.
func (p *Pool) Export(ctx context.Context, v *api.Volume) (io.ReadCloser, error) {
	if err := p.enter(ctx, "export", v.ID); err != nil {
		return nil, err
	}
	defer p.mu.Unlock()
	have, ok := p.volumes[v.ID]
	if !ok {
		return nil, fs.ErrNotExist
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(have.Size))
	return storage.Export(bytes.NewReader(b), int64(len(b)), func() error { return nil }), nil
}

// Import makes a volume of what Export gave.
func (p *Pool) Import(ctx context.Context, v *api.Volume, src *storage.Source, r io.Reader) (storage.Handle, error) {
	var b content
	if _, err := storage.Import(&b, r, 8); err != nil {
		return storage.Handle{}, err
	}
	c := *v
	c.Size = api.Bytes(binary.BigEndian.Uint64(b[:]))
	if err := p.Delete(ctx, v); err != nil {
		return storage.Handle{}, err
	}
	return p.Create(ctx, &c, src)
}

type content [8]byte

func (c *content) WriteAt(p []byte, at int64) (int, error) { return copy(c[at:], p), nil }
