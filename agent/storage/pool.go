// Package storage declares what NovaCron needs of a storage pool. The kinds of
// pools are in the folders below.
//
// Promises: formats are given, never probed; names on disk are made from IDs,
// never from what users write; a volume is made completely or not at all.
package storage

import (
	"context"
	"io"
	"time"

	"github.com/novacron/novacron/api"
)

// Source is the content that a new volume starts from.
type Source struct {
	Path        string // of the base image in the cache
	Format      string
	VirtualSize api.Bytes
}

// Handle says how a hypervisor reaches a volume.
type Handle struct {
	Path    string
	Format  string
	Backing string // path of the base image, empty if none
	// BackingFormat is qcow2 or raw, empty without Backing.
	BackingFormat string
	Shared        bool
}

// Pool is a place for volumes on this machine. Calls are idempotent by volume ID.
type Pool interface {
	// Info returns name, type, uuid, capacity and free space.
	Info(ctx context.Context) (api.NodePool, error)
	// Create makes a volume, thin where the pool can, from src or empty (nil).
	// A volume that is there already is left as it is.
	Create(ctx context.Context, v *api.Volume, src *Source) (Handle, error)
	// Open returns the handle of an existing volume, or fs.ErrNotExist.
	Open(ctx context.Context, v *api.Volume) (Handle, error)
	// Delete removes a volume; one that is not there is no error.
	Delete(ctx context.Context, v *api.Volume) error
	// Quarantine sets aside a volume whose VM has moved away: it can no longer be
	// opened, and is removed some time after until. One that is not there is no
	// error.
	Quarantine(ctx context.Context, v *api.Volume, until time.Time) error
	// Purge removes what was set aside and whose time is over, and tells which
	// volumes that were, also with an error.
	Purge(ctx context.Context, now time.Time) ([]api.ID, error)
	// Export reads a volume that nobody has open, as Import takes it.
	Export(ctx context.Context, v *api.Volume) (io.ReadCloser, error)
	// Import makes a volume of what Export gave on another node. src is the image
	// that it is a thin clone of, or nil. A volume that is there already is replaced.
	Import(ctx context.Context, v *api.Volume, src *Source, r io.Reader) (Handle, error)
	// Used returns the space that a volume really takes.
	Used(ctx context.Context, v *api.Volume) (api.Bytes, error)
	// List returns the IDs of the volumes that are there.
	List(ctx context.Context) ([]api.ID, error)
}
