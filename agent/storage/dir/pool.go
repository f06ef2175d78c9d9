// Package dir is a storage pool in a folder of the node, or in one that several
// nodes share.
//
// Promises: a volume is made under another name, synced and then linked to its
// own, so that it is there completely or not at all; names are made from IDs and
// resolved below the folder only; formats and backing files are recorded when a
// volume is made, and never read from a disk again.
//
// What does not belong: images (they are given by path), and who may use what.
package dir

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/api"
)

// Config shapes a pool.
type Config struct {
	Name string
	Path string // the folder; made if it is not there
	// Shared: other nodes have the same folder. Volumes then depend on no file
	// outside of it.
	Shared bool
	// Limit is how much of the file system the volumes may take; 0: all of it.
	Limit api.Bytes
	// UID and GID own the volumes, so that QEMU can open them when it does not
	// run as root; of a shared pool they are the same on every node. Negative: as
	// they come.
	UID, GID int
	// QemuImg is the program; default "qemu-img".
	QemuImg string
	// Run replaces the execution of QemuImg, for tests.
	Run func(ctx context.Context, args ...string) error
}

// Pool is a pool in a folder.
type Pool struct {
	cfg  Config
	root *os.Root
	uuid api.ID

	mu   sync.Mutex
	busy map[api.ID]chan struct{}
}

var _ storage.Pool = (*Pool)(nil)

// Names in the folder, besides <volume id>.<format>.
const (
	marker = ".novacron-pool" // the pool's uuid: the same folder is the same pool
	tmp    = ".tmp-"          // what is being made
)

// record is kept beside each volume, as <volume id>.json.
type record struct {
	Format        string    `json:"format"`
	Size          api.Bytes `json:"size"`
	Backing       string    `json:"backing,omitempty"`
	BackingFormat string    `json:"backing_format,omitempty"`
}

// Open opens a pool, and makes it if the folder is new.
func Open(cfg Config) (*Pool, error) {
	cfg.QemuImg = cmp.Or(cfg.QemuImg, "qemu-img")
	if !filepath.IsAbs(cfg.Path) {
		return nil, api.Errorf(api.CodeStorage, "pool %s: %q is not an absolute path", cfg.Name, cfg.Path)
	}
	if err := os.MkdirAll(cfg.Path, 0o711); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(cfg.Path)
	if err != nil {
		return nil, err
	}
	p := &Pool{cfg: cfg, root: root, busy: map[api.ID]chan struct{}{}}
	if cfg.Run == nil {
		p.cfg.Run = p.exec
	}
	if err := errors.Join(p.mark(), p.sweep()); err != nil {
		return nil, errors.Join(fmt.Errorf("pool %s: %w", cfg.Name, err), root.Close())
	}
	return p, nil
}

// mark reads the pool's uuid, or makes one. Of several nodes that make it at
// once, one wins.
func (p *Pool) mark() error {
	b, err := p.root.ReadFile(marker)
	if errors.Is(err, fs.ErrNotExist) {
		name := tmp + "marker-" + rand.Text()
		if err := p.write(name, []byte(api.NewID().String()+"\n")); err != nil {
			return err
		}
		err = p.root.Link(name, marker)
		if err := p.root.Remove(name); err != nil {
			return err
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if b, err = p.root.ReadFile(marker); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	p.uuid, err = api.ParseID(strings.TrimSpace(string(b)))
	return err
}

// sweep removes what an agent that died has left half made. In a shared folder
// it may be another node's work, so it must be old.
func (p *Pool) sweep() error {
	list, err := fs.ReadDir(p.root.FS(), ".")
	if err != nil {
		return err
	}
	for _, f := range list {
		if !strings.HasPrefix(f.Name(), tmp) {
			continue
		}
		if info, err := f.Info(); p.cfg.Shared && (err != nil || time.Since(info.ModTime()) < 24*time.Hour) {
			continue
		}
		if err := p.root.Remove(f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Close lets go of the folder.
func (p *Pool) Close() error { return p.root.Close() }

func fileName(v *api.Volume) string { return v.ID.String() + "." + v.Format }
func recordName(id api.ID) string   { return id.String() + ".json" }

// path is where a volume's file is for QEMU.
func (p *Pool) path(name string) string { return filepath.Join(p.cfg.Path, name) }

// Info asks the file system.
func (p *Pool) Info(ctx context.Context) (api.NodePool, error) {
	info := api.NodePool{Name: p.cfg.Name, Type: "dir", UUID: p.uuid, Shared: p.cfg.Shared}
	var st unix.Statfs_t
	err := ctx.Err()
	if err == nil {
		err = unix.Statfs(p.cfg.Path, &st)
	}
	if err != nil {
		info.Error = err.Error()
		return info, err
	}
	info.Capacity = api.Bytes(st.Blocks) * api.Bytes(st.Bsize)
	info.Free = api.Bytes(st.Bavail) * api.Bytes(st.Bsize)
	if p.cfg.Limit <= 0 {
		return info, nil
	}
	taken, err := p.taken()
	if err != nil {
		info.Error = err.Error()
		return info, err
	}
	info.Capacity = min(info.Capacity, p.cfg.Limit)
	info.Free = min(info.Free, max(p.cfg.Limit-taken, 0))
	return info, nil
}

// taken is the space that the pool's files really have, also of volumes that are
// being made.
func (p *Pool) taken() (n api.Bytes, err error) {
	list, err := fs.ReadDir(p.root.FS(), ".")
	if err != nil {
		return 0, err
	}
	for _, f := range list {
		st, err := f.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		n += blocks(st)
	}
	return n, nil
}

// blocks is the space that a file takes.
func blocks(st fs.FileInfo) api.Bytes {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return api.Bytes(sys.Blocks) * 512
	}
	return api.Bytes(st.Size())
}

// lock keeps calls for one volume apart.
func (p *Pool) lock(ctx context.Context, id api.ID) (unlock func(), err error) {
	for {
		p.mu.Lock()
		wait, taken := p.busy[id]
		if !taken {
			done := make(chan struct{})
			p.busy[id] = done
			p.mu.Unlock()
			return func() {
				p.mu.Lock()
				delete(p.busy, id)
				p.mu.Unlock()
				close(done)
			}, nil
		}
		p.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Open returns the handle of a volume.
func (p *Pool) Open(ctx context.Context, v *api.Volume) (storage.Handle, error) {
	if err := errors.Join(ctx.Err(), known(v)); err != nil {
		return storage.Handle{}, err
	}
	st, err := p.root.Lstat(fileName(v))
	if err != nil {
		return storage.Handle{}, err
	}
	if !st.Mode().IsRegular() {
		return storage.Handle{}, api.Errorf(api.CodeStorage, "volume %s is not a regular file", v.ID)
	}
	if err := p.give(fileName(v), st); err != nil {
		return storage.Handle{}, err
	}
	b, err := p.root.ReadFile(recordName(v.ID))
	var r record
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil || r.Format != v.Format {
		return storage.Handle{}, api.Errorf(api.CodeStorage, "volume %s has no record of how it was made", v.ID)
	}
	return storage.Handle{
		Path: p.path(fileName(v)), Format: v.Format, Shared: p.cfg.Shared,
		Backing: r.Backing, BackingFormat: r.BackingFormat,
	}, nil
}

// give gives a volume of a shared pool to the guests' user, where an older agent
// has left that to libvirt.
func (p *Pool) give(name string, st fs.FileInfo) error {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !p.cfg.Shared || p.cfg.UID < 0 || p.cfg.GID < 0 || int(sys.Uid) == p.cfg.UID {
		return nil
	}
	return p.root.Lchown(name, p.cfg.UID, p.cfg.GID)
}

// known refuses formats that would make a strange file name.
func known(v *api.Volume) error {
	if v.ID.IsZero() || v.Format != "qcow2" && v.Format != "raw" {
		return api.Errorf(api.CodeInvalid, "a volume needs an id and the format qcow2 or raw")
	}
	return nil
}

// Delete removes a volume. The record goes last: it alone is nothing.
func (p *Pool) Delete(ctx context.Context, v *api.Volume) error {
	if err := known(v); err != nil {
		return err
	}
	unlock, err := p.lock(ctx, v.ID)
	if err != nil {
		return err
	}
	defer unlock()
	for _, name := range []string{fileName(v), recordName(v.ID)} {
		if err := p.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return p.sync(".")
}

// Used returns the blocks that the file has.
func (p *Pool) Used(ctx context.Context, v *api.Volume) (api.Bytes, error) {
	if err := errors.Join(ctx.Err(), known(v)); err != nil {
		return 0, err
	}
	st, err := p.root.Lstat(fileName(v))
	if err != nil {
		return 0, err
	}
	return blocks(st), nil
}

// List returns the volumes, in order.
func (p *Pool) List(ctx context.Context) ([]api.ID, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	list, err := fs.ReadDir(p.root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var out []api.ID
	for _, f := range list {
		name, ext, _ := strings.Cut(f.Name(), ".")
		if id, err := api.ParseID(name); err == nil && (ext == "qcow2" || ext == "raw") && f.Type().IsRegular() {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, func(a, b api.ID) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(out), nil
}

// write makes a small file that is on disk when it returns.
func (p *Pool) write(name string, b []byte) error {
	f, err := p.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func (p *Pool) sync(name string) error {
	f, err := p.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
