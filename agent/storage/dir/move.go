package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/api"
)

// aside begins the names of volumes that were set aside: .aside-<unix seconds
// until which they are kept>-<volume id>.<format>.
const aside = ".aside-"

// Quarantine sets a volume aside: no VM can open it any more, and a person can
// still find its content.
func (p *Pool) Quarantine(ctx context.Context, v *api.Volume, until time.Time) error {
	if err := known(v); err != nil {
		return err
	}
	unlock, err := p.lock(ctx, v.ID)
	if err != nil {
		return err
	}
	defer unlock()
	err = p.root.Rename(fileName(v), fmt.Sprintf("%s%d-%s", aside, until.Unix(), fileName(v)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := p.root.Remove(recordName(v.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return p.sync(".")
}

// Purge removes the volumes that were set aside until before now.
func (p *Pool) Purge(ctx context.Context, now time.Time) (gone []api.ID, err error) {
	list, err := fs.ReadDir(p.root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, f := range list {
		rest, ok := strings.CutPrefix(f.Name(), aside)
		sec, file, _ := strings.Cut(rest, "-")
		until, err := strconv.ParseInt(sec, 10, 64)
		if !ok || err != nil || !now.After(time.Unix(until, 0)) || ctx.Err() != nil {
			continue
		}
		if err := p.root.Remove(f.Name()); err != nil {
			errs = append(errs, err)
			continue
		}
		name, _, _ := strings.Cut(file, ".")
		if id, err := api.ParseID(name); err == nil {
			gone = append(gone, id)
		}
	}
	return gone, errors.Join(errs...)
}

// Export reads the file of a volume, of whatever format.
func (p *Pool) Export(ctx context.Context, v *api.Volume) (io.ReadCloser, error) {
	if _, err := p.Open(ctx, v); err != nil {
		return nil, err
	}
	f, err := p.root.OpenFile(fileName(v), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return storage.Export(f, st.Size(), f.Close), nil
}

// Import makes a volume of the file that Export gave on another node. A thin
// clone is given this node's image to stand on: the other's path is of no use.
func (p *Pool) Import(ctx context.Context, v *api.Volume, src *storage.Source, r io.Reader) (storage.Handle, error) {
	if err := storage.Check(v, src); err != nil {
		return storage.Handle{}, err
	}
	unlock, err := p.lock(ctx, v.ID)
	if err != nil {
		return storage.Handle{}, err
	}
	defer unlock()
	for _, name := range []string{fileName(v), recordName(v.ID)} {
		if err := p.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return storage.Handle{}, err
		}
	}
	err = p.create(v, src, func(name string, rec *record) error { return p.take(ctx, name, rec, v, src, r) })
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = api.Errorf(api.CodePoolFull, "pool %s is full", p.cfg.Name)
	}
	if err != nil {
		return storage.Handle{}, err
	}
	return p.Open(ctx, v)
}

// take writes what is sent under a temporary name.
func (p *Pool) take(ctx context.Context, name string, rec *record, v *api.Volume, src *storage.Source, r io.Reader) error {
	f, err := p.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	limit := int64(v.Size)
	if v.Format == "qcow2" { // with its tables, and clusters that are no longer in use
		limit = 2*limit + int64(api.GiB)
	}
	size, err := storage.Import(f, r, limit)
	if err == nil {
		err = f.Truncate(size)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if src == nil || v.Format != "qcow2" || p.cfg.Shared {
		return nil
	}
	rec.Backing, rec.BackingFormat = src.Path, src.Format
	return p.cfg.Run(ctx, "rebase", "-q", "-u", "-f", "qcow2", "-b", src.Path, "-F", src.Format, p.path(name))
}
