// Package image is the node's cache of images, found by the SHA-256 of their
// content.
//
// Promises: what is in the cache has been received completely, has the checksum
// and the size that were declared, and has passed Inspect; a crash at any moment
// leaves either the whole entry or none. An image that is pinned is never
// collected, also not after a restart. Formats are recorded when an image comes
// in and never read from its content again.
//
// What does not belong: which node should hold what; the transport (a Source is
// given).
package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/novacron/novacron/api"
)

// The kinds and formats of images.
const (
	KindDisk    = "disk"
	KindKernel  = "kernel"
	KindInitrd  = "initrd"
	FormatQcow2 = "qcow2"
	FormatRaw   = "raw"
)

// Spec is what an image is declared to be.
type Spec struct {
	SHA256 string    `json:"sha256"` // 64 lower-case hex digits
	Size   api.Bytes `json:"size"`
	Kind   string    `json:"kind"`
	Format string    `json:"format"`
}

// SpecOf takes the declaration from the noun.
func SpecOf(i *api.Image) Spec {
	return Spec{SHA256: i.SHA256, Size: i.Size, Kind: i.Kind, Format: i.Format}
}

// Info describes an image in the cache.
type Info struct {
	Spec
	VirtualSize api.Bytes `json:"virtual_size"`
	Names       []api.ID  `json:"names,omitempty"` // what the servers call this content: several images may share it
	Path        string    `json:"-"`
	Pins        int       `json:"-"` // how many owners hold it
	LastUsed    time.Time `json:"-"`
}

// Options shape a cache.
type Options struct {
	// MaxSize is the largest image that is taken; default 1 TiB.
	MaxSize api.Bytes
	// Now is the clock of Collect; default time.Now.
	Now func() time.Time
	// Free returns the free space of the file system; default statfs.
	Free func() (api.Bytes, error)
}

// Cache is the images of one node. All methods may be called at once.
type Cache struct {
	root *os.Root
	opts Options

	mu      sync.Mutex
	images  map[string]*entry
	flights map[string]*flight
	closed  bool
	wg      sync.WaitGroup
}

type entry struct {
	info Info
	pins map[api.ID]bool
}

// Folders inside the cache.
const (
	dirFiles = "files" // <sha256>.<format>
	dirMeta  = "meta"  // <sha256>.json
	dirParts = "parts" // what is not yet complete: the quarantine
	dirPins  = "pins"  // <sha256>/<owner>
)

// Open opens or makes a cache in a folder. Entries that are not whole are
// removed; partial downloads are kept for a day, to be resumed.
func Open(dir string, o Options) (*Cache, error) {
	o.MaxSize = cmp.Or(o.MaxSize, api.TiB)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Free == nil {
		o.Free = func() (api.Bytes, error) { return free(dir) }
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	c := &Cache{root: root, opts: o, images: map[string]*entry{}, flights: map[string]*flight{}}
	if err := c.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("image cache %s: %w", dir, err), root.Close())
	}
	return c, nil
}

func (c *Cache) load() error {
	for _, d := range []string{dirFiles, dirMeta, dirParts, dirPins} {
		if err := c.root.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	names, err := fs.Glob(c.root.FS(), dirMeta+"/*.json")
	if err != nil {
		return err
	}
	for _, name := range names {
		sha := strings.TrimSuffix(filepath.Base(name), ".json")
		if err := c.loadOne(sha); err != nil {
			_ = c.root.Remove(name) // the content, if there is any, goes below
		}
	}
	files, err := fs.ReadDir(c.root.FS(), dirFiles)
	if err != nil {
		return err
	}
	for _, f := range files {
		sha, _, _ := strings.Cut(f.Name(), ".")
		if _, ok := c.images[sha]; !ok {
			if err := c.root.Remove(dirFiles + "/" + f.Name()); err != nil {
				return err
			}
		}
	}
	parts, err := fs.ReadDir(c.root.FS(), dirParts)
	if err != nil {
		return err
	}
	for _, f := range parts {
		info, err := f.Info()
		old := err != nil || c.opts.Now().Sub(info.ModTime()) > 24*time.Hour
		if old || !strings.HasSuffix(f.Name(), ".part") {
			if err := c.root.Remove(dirParts + "/" + f.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Cache) loadOne(sha string) error {
	b, err := c.root.ReadFile(metaName(sha))
	if err != nil {
		return err
	}
	var info Info
	if err := json.Unmarshal(b, &info); err != nil {
		return err
	}
	if err := c.check(info.Spec); err != nil || info.SHA256 != sha {
		return errors.Join(err, fs.ErrInvalid)
	}
	st, err := c.root.Lstat(fileName(info.Spec))
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Size() != int64(info.Size) {
		return fs.ErrInvalid
	}
	e := &entry{info: info, pins: map[api.ID]bool{}}
	if m, err := c.root.Stat(metaName(sha)); err == nil {
		e.info.LastUsed = m.ModTime()
	}
	pins, err := fs.ReadDir(c.root.FS(), dirPins+"/"+sha)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, p := range pins {
		if id, err := api.ParseID(p.Name()); err == nil {
			e.pins[id] = true
		}
	}
	c.images[sha] = e
	return nil
}

func fileName(s Spec) string     { return dirFiles + "/" + s.SHA256 + "." + s.Format }
func metaName(sha string) string { return dirMeta + "/" + sha + ".json" }

// check refuses a declaration that cannot be right, before anything is read.
func (c *Cache) check(s Spec) error {
	hexa := len(s.SHA256) == 64 && strings.Trim(s.SHA256, "0123456789abcdef") == ""
	switch {
	case !hexa:
		return bad("the checksum must be 64 lower-case hex digits")
	case s.Size <= 0 || s.Size > c.opts.MaxSize:
		return bad("the size must be 1 byte to %s", c.opts.MaxSize)
	case s.Kind != KindDisk && s.Kind != KindKernel && s.Kind != KindInitrd:
		return bad("the kind must be disk, kernel or initrd")
	case s.Format != FormatRaw && s.Format != FormatQcow2:
		return bad("the format must be qcow2 or raw")
	}
	return nil
}

// view copies an entry for callers; the lock is held.
func (c *Cache) view(e *entry) Info {
	i := e.info
	i.Pins = len(e.pins)
	i.Path = filepath.Join(c.root.Name(), fileName(i.Spec))
	return i
}

// Stat returns an image, or fs.ErrNotExist.
func (c *Cache) Stat(sha string) (Info, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.images[sha]
	if !ok {
		return Info{}, fmt.Errorf("image %.12s: %w", sha, fs.ErrNotExist)
	}
	return c.view(e), nil
}

// Open opens the content for reading.
func (c *Cache) Open(sha string) (*os.File, Info, error) {
	info, err := c.Stat(sha)
	if err != nil {
		return nil, info, err
	}
	f, err := c.root.Open(fileName(info.Spec))
	if err == nil {
		c.touch(sha)
	}
	return f, info, err
}

// List returns the images, in order of checksum.
func (c *Cache) List() []Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Info, 0, len(c.images))
	for _, e := range c.images {
		out = append(out, c.view(e))
	}
	slices.SortFunc(out, func(a, b Info) int { return strings.Compare(a.SHA256, b.SHA256) })
	return out
}

func (c *Cache) touch(sha string) {
	now := c.opts.Now()
	_ = c.root.Chtimes(metaName(sha), now, now)
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.images[sha]; ok {
		e.info.LastUsed = now
	}
}

// Pin keeps an image for an owner (a volume that is cloned from it, or a VM
// that boots it) until Unpin, across restarts. Pin first, then use it.
func (c *Cache) Pin(sha string, owner api.ID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.images[sha]
	if !ok {
		return fmt.Errorf("image %.12s: %w", sha, fs.ErrNotExist)
	}
	if e.pins[owner] {
		return nil
	}
	if err := c.root.MkdirAll(dirPins+"/"+sha, 0o755); err != nil {
		return err
	}
	f, err := c.root.Create(dirPins + "/" + sha + "/" + owner.String())
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close(), c.syncDir(dirPins+"/"+sha), c.syncDir(dirPins)); err != nil {
		return err
	}
	e.pins[owner] = true
	return nil
}

// Unpin lets go; an owner that holds nothing is no error.
func (c *Cache) Unpin(sha string, owner api.ID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.images[sha]; ok {
		if !e.pins[owner] {
			return nil
		}
		delete(e.pins, owner)
		e.info.LastUsed = c.opts.Now()
		_ = c.root.Chtimes(metaName(sha), e.info.LastUsed, e.info.LastUsed)
	}
	err := c.root.Remove(dirPins + "/" + sha + "/" + owner.String())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Pinned returns the images that an owner holds.
func (c *Cache) Pinned(owner api.ID) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for sha, e := range c.images {
		if e.pins[owner] {
			out = append(out, sha)
		}
	}
	slices.Sort(out)
	return out
}

// Remove deletes an image; one that is pinned is api.CodeInUse, one that is not
// there is no error.
func (c *Cache) Remove(sha string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.remove(sha)
}

func (c *Cache) remove(sha string) error {
	e, ok := c.images[sha]
	if !ok {
		return nil
	}
	if len(e.pins) > 0 {
		return api.Errorf(api.CodeInUse, "image %.12s is used by %d volumes", sha, len(e.pins))
	}
	// The meta file goes first: content without one is removed at the next start.
	if err := c.root.Remove(metaName(sha)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	delete(c.images, sha)
	_ = c.root.Remove(dirPins + "/" + sha)
	return c.root.Remove(fileName(e.info.Spec))
}

// Collect removes the images that nobody holds, that were not used for idle,
// and that keep (may be nil) does not ask to keep. It returns what it removed.
func (c *Cache) Collect(ctx context.Context, idle time.Duration, keep func(sha string) bool) ([]Info, error) {
	var gone []Info
	for _, i := range c.List() {
		if err := ctx.Err(); err != nil {
			return gone, err
		}
		if i.Pins > 0 || c.opts.Now().Sub(i.LastUsed) < idle || keep != nil && keep(i.SHA256) {
			continue
		}
		err := c.Remove(i.SHA256)
		if api.CodeOf(err) == api.CodeInUse {
			continue // pinned in the meantime
		}
		if err != nil {
			return gone, err
		}
		gone = append(gone, i)
	}
	return gone, nil
}

// Verify reads an image again and compares its checksum.
func (c *Cache) Verify(ctx context.Context, sha string) error {
	f, info, err := c.Open(sha)
	if err != nil {
		return err
	}
	defer f.Close()
	sum, n, err := hashAll(ctx, io.Discard, f, int64(info.Size))
	if err != nil {
		return err
	}
	if sum != sha || n != int64(info.Size) {
		return bad("the content in the cache has changed")
	}
	return nil
}

// Close ends fetches that are under way and waits for them.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.closed = true
	for _, f := range c.flights {
		f.cancel()
	}
	c.mu.Unlock()
	c.wg.Wait()
	return c.root.Close()
}
