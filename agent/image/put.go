package image

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
)

// Source opens the content of an image at an offset, for instance on a peer.
type Source func(ctx context.Context, offset int64) (io.ReadCloser, error)

// Put takes an image from a stream, which is read to its end unless the image
// is there already. Nothing is visible before everything is checked and on disk.
func (c *Cache) Put(ctx context.Context, want Spec, r io.Reader) (Info, error) {
	if have, ok, err := c.prepare(want); ok || err != nil {
		return have, err
	}
	name := dirParts + "/put-" + rand.Text()
	f, err := c.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Info{}, err
	}
	defer c.root.Remove(name) // gone already when all went well
	defer f.Close()
	sum, n, err := hashAll(ctx, f, r, int64(want.Size))
	if err != nil {
		return Info{}, err
	}
	if err := matches(want, sum, n); err != nil {
		return Info{}, err
	}
	return c.accept(want, f, name)
}

// prepare checks the declaration and the room for it.
func (c *Cache) prepare(want Spec) (Info, bool, error) {
	if err := c.check(want); err != nil {
		return Info{}, false, err
	}
	if have, err := c.Stat(want.SHA256); err == nil {
		if have.Spec != want {
			return have, false, bad("the same content is here as %s %s of %d bytes", have.Format, have.Kind, have.Size)
		}
		c.touch(want.SHA256)
		return have, true, nil
	}
	room, err := c.opts.Free()
	if err != nil {
		return Info{}, false, err
	}
	if room < want.Size {
		return Info{}, false, api.Errorf(api.CodePoolFull, "the image cache has no room for %s", want.Size)
	}
	return Info{}, false, nil
}

func matches(want Spec, sum string, n int64) error {
	if n != int64(want.Size) {
		return bad("%d bytes came, %d were declared", n, want.Size)
	}
	if sum != want.SHA256 {
		return bad("the checksum is %s, %s was declared", sum, want.SHA256)
	}
	return nil
}

// accept inspects a complete file and moves it out of the quarantine.
func (c *Cache) accept(want Spec, f *os.File, name string) (Info, error) {
	virtual, err := Inspect(f, int64(want.Size), want.Kind, want.Format)
	if err != nil {
		return Info{}, err
	}
	if err := errors.Join(f.Chmod(0o444), f.Sync()); err != nil {
		return Info{}, err
	}
	e := &entry{info: Info{Spec: want, VirtualSize: virtual, LastUsed: c.opts.Now()}, pins: map[api.ID]bool{}}
	meta, err := json.Marshal(e.info)
	if err != nil {
		return Info{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if have, ok := c.images[want.SHA256]; ok { // came twice at once
		return c.view(have), nil
	}
	// Content first: a meta file without content, or content without a meta
	// file, is removed by Open.
	if err := errors.Join(c.root.Rename(name, fileName(want)), c.syncDir(dirFiles)); err != nil {
		return Info{}, err
	}
	if err := c.writeMeta(want.SHA256, meta); err != nil {
		return Info{}, err
	}
	_ = c.root.Chtimes(metaName(want.SHA256), e.info.LastUsed, e.info.LastUsed)
	c.images[want.SHA256] = e
	return c.view(e), nil
}

func (c *Cache) writeMeta(sha string, b []byte) error {
	tmp := dirParts + "/meta-" + rand.Text()
	f, err := c.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, c.root.Remove(tmp))
	}
	return errors.Join(c.root.Rename(tmp, metaName(sha)), c.syncDir(dirMeta))
}

func (c *Cache) syncDir(name string) error {
	d, err := c.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func free(dir string) (api.Bytes, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return api.Bytes(st.Bavail) * api.Bytes(st.Bsize), nil
}

// hashAll copies at most limit+1 bytes, so that what is too long is seen.
func hashAll(ctx context.Context, w io.Writer, r io.Reader, limit int64) (string, int64, error) {
	h := sha256.New()
	n, err := copyCtx(ctx, io.MultiWriter(w, h), io.LimitReader(r, limit+1))
	return hex.EncodeToString(h.Sum(nil)), n, err
}

func copyCtx(ctx context.Context, w io.Writer, r io.Reader) (int64, error) {
	buf := make([]byte, 256<<10)
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n, err := r.Read(buf)
		if n > 0 {
			k, werr := w.Write(buf[:n])
			total += int64(k)
			if werr != nil {
				return total, werr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// flight is one fetch that several callers wait for.
type flight struct {
	cancel  context.CancelFunc
	done    chan struct{}
	waiters int
	info    Info
	err     error
}

// Fetch gets an image from one of the sources, in their order; what a source
// has begun another one, or a later Fetch, goes on with. Callers that ask for
// the same image at once share one fetch, which ends when all of them have left.
func (c *Cache) Fetch(ctx context.Context, want Spec, sources ...Source) (Info, error) {
	if have, ok, err := c.prepare(want); ok || err != nil {
		return have, err
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return Info{}, fs.ErrClosed
	}
	f := c.flights[want.SHA256]
	if f == nil {
		fctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		f = &flight{cancel: cancel, done: make(chan struct{})}
		c.flights[want.SHA256] = f
		c.wg.Go(func() { c.fly(fctx, f, want, sources) })
	}
	f.waiters++
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.info, f.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	f.waiters--
	if f.waiters == 0 {
		f.cancel()
		if c.flights[want.SHA256] == f {
			delete(c.flights, want.SHA256)
		}
	}
	c.mu.Unlock()
	return Info{}, ctx.Err()
}

func (c *Cache) fly(ctx context.Context, f *flight, want Spec, sources []Source) {
	defer f.cancel()
	f.info, f.err = c.fetch(ctx, want, sources)
	c.mu.Lock()
	if c.flights[want.SHA256] == f {
		delete(c.flights, want.SHA256)
	}
	c.mu.Unlock()
	close(f.done)
}

func (c *Cache) fetch(ctx context.Context, want Spec, sources []Source) (Info, error) {
	name := dirParts + "/" + want.SHA256 + ".part"
	f, err := c.root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return Info{}, api.Errorf(api.CodeInUse, "image %.12s is being fetched", want.SHA256)
	}
	var failed error = api.Errorf(api.CodeImageMissing, "image %.12s could not be fetched from %d sources", want.SHA256, len(sources))
	for _, src := range sources {
		h := sha256.New()
		n, err := resume(ctx, f, h, int64(want.Size))
		if err != nil {
			return Info{}, err
		}
		if n < int64(want.Size) {
			k, err := pull(ctx, src, f, h, n, int64(want.Size))
			n += k
			if err != nil {
				if ctx.Err() != nil {
					return Info{}, ctx.Err()
				}
				failed = errors.Join(failed, err)
				continue
			}
		}
		if err := matches(want, hex.EncodeToString(h.Sum(nil)), n); err != nil {
			failed = errors.Join(failed, err)
			if err := f.Truncate(0); err != nil { // some source sent rubbish: from the start
				return Info{}, err
			}
			continue
		}
		info, err := c.accept(want, f, name)
		if err != nil {
			return info, errors.Join(err, ignoreGone(c.root.Remove(name)))
		}
		return info, ignoreGone(c.root.Remove(name))
	}
	return Info{}, failed
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// resume hashes what is there of a partial file and stands at its end.
func resume(ctx context.Context, f *os.File, h hash.Hash, size int64) (int64, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := copyCtx(ctx, h, f)
	if err != nil || n <= size {
		return n, err
	}
	h.Reset()
	if err := f.Truncate(0); err != nil {
		return 0, err
	}
	_, err = f.Seek(0, io.SeekStart)
	return 0, err
}

// pull reads from one source from offset at to the end.
func pull(ctx context.Context, src Source, f *os.File, h hash.Hash, at, size int64) (int64, error) {
	r, err := src(ctx, at)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	n, err := copyCtx(ctx, io.MultiWriter(f, h), io.LimitReader(r, size-at+1))
	if err == nil && at+n < size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
