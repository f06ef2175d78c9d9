package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/novacron/novacron/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// content makes a raw disk and its declaration.
func content(n int, fill byte) ([]byte, Spec) {
	b := bytes.Repeat([]byte{fill}, n)
	sum := sha256.Sum256(b)
	return b, Spec{SHA256: hex.EncodeToString(sum[:]), Size: api.Bytes(n), Kind: KindDisk, Format: FormatRaw}
}

func open(t *testing.T, dir string, o Options) *Cache {
	t.Helper()
	c, err := Open(dir, o)
	must.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func files(t *testing.T, dir string) (out []string) {
	t.Helper()
	must.NoError(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, p)
			out = append(out, rel)
		}
		return err
	}))
	return out
}

func TestPutAndRead(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, Options{})
	b, spec := content(4096, 'a')
	_, err := c.Stat(spec.SHA256)
	must.ErrorIs(t, err, fs.ErrNotExist)
	info, err := c.Put(t.Context(), spec, bytes.NewReader(b))
	must.NoError(t, err)
	must.Eq(t, spec, info.Spec)
	must.Eq(t, 4096, info.VirtualSize)
	must.Eq(t, filepath.Join(dir, "files", spec.SHA256+".raw"), info.Path)
	f, _, err := c.Open(spec.SHA256)
	must.NoError(t, err)
	got, err := io.ReadAll(f)
	must.NoError(t, errors.Join(err, f.Close()))
	must.Eq(t, b, got)
	must.NoError(t, c.Verify(t.Context(), spec.SHA256))

	again, err := c.Put(t.Context(), spec, iotest.ErrReader(errors.New("not read")))
	must.NoError(t, err, must.Sprint("what is there is not read again"))
	must.Eq(t, info.Path, again.Path)
	must.SliceLen(t, 1, c.List())
	must.Eq(t, spec, SpecOf(&api.Image{SHA256: spec.SHA256, Size: spec.Size, Kind: spec.Kind, Format: spec.Format}))

	must.NoError(t, c.Close())
	c = open(t, dir, Options{})
	back, err := c.Stat(spec.SHA256)
	must.NoError(t, err)
	must.Eq(t, spec, back.Spec)
	must.Eq(t, 4096, back.VirtualSize)
}

func TestRefusedContentLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, Options{MaxSize: api.MiB, Free: func() (api.Bytes, error) { return 512 * api.KiB, nil }})
	b, good := content(4096, 'a')
	other, _ := content(4096, 'b')
	q := qcow(nil)
	sum := sha256.Sum256(q)
	hostile := Spec{SHA256: hex.EncodeToString(sum[:]), Size: api.Bytes(len(q)), Kind: KindDisk, Format: FormatRaw}
	with := func(f func(*Spec)) Spec { s := good; f(&s); return s }
	for name, c1 := range map[string]struct {
		spec Spec
		body []byte
		code api.Code
	}{
		"another checksum":    {good, other, api.CodeImageBad},
		"too short":           {good, b[:4095], api.CodeImageBad},
		"too long":            {good, append(bytes.Clone(b), 0), api.CodeImageBad},
		"hostile content":     {hostile, q, api.CodeImageBad},
		"checksum of a path":  {with(func(s *Spec) { s.SHA256 = "../../../../etc/passwd" }), b, api.CodeImageBad},
		"checksum upper case": {with(func(s *Spec) { s.SHA256 = "A" + s.SHA256[1:] }), b, api.CodeImageBad},
		"no size":             {with(func(s *Spec) { s.Size = 0 }), b, api.CodeImageBad},
		"size over the limit": {with(func(s *Spec) { s.Size = 2 * api.MiB }), b, api.CodeImageBad},
		"no room":             {with(func(s *Spec) { s.Size = api.MiB }), b, api.CodePoolFull},
		"unknown kind":        {with(func(s *Spec) { s.Kind = "iso" }), b, api.CodeImageBad},
		"unknown format":      {with(func(s *Spec) { s.Format = "vmdk" }), b, api.CodeImageBad},
	} {
		_, err := c.Put(t.Context(), c1.spec, bytes.NewReader(c1.body))
		must.Eq(t, c1.code, api.CodeOf(err), must.Sprint(name))
	}
	broken := errors.New("broken")
	_, err := c.Put(t.Context(), good, io.MultiReader(bytes.NewReader(b[:100]), iotest.ErrReader(broken)))
	must.ErrorIs(t, err, broken)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Put(ctx, good, bytes.NewReader(b))
	must.ErrorIs(t, err, context.Canceled)
	must.SliceEmpty(t, c.List())
	must.SliceEmpty(t, files(t, dir))

	_, err = c.Put(t.Context(), good, bytes.NewReader(b))
	must.NoError(t, err)
	_, err = c.Put(t.Context(), with(func(s *Spec) { s.Kind = KindKernel }), bytes.NewReader(b))
	must.Eq(t, api.CodeImageBad, api.CodeOf(err), must.Sprint("the same content as something else"))
}

func TestPinsOutliveARestart(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(1e9, 0)
	o := Options{Now: func() time.Time { return now }}
	c := open(t, dir, o)
	a, sa := content(512, 'a')
	b, sb := content(512, 'b')
	for _, x := range []struct {
		b []byte
		s Spec
	}{{a, sa}, {b, sb}} {
		_, err := c.Put(t.Context(), x.s, bytes.NewReader(x.b))
		must.NoError(t, err)
	}
	owner := api.NewID()
	must.NoError(t, c.Pin(sa.SHA256, owner))
	must.NoError(t, c.Pin(sa.SHA256, owner))
	must.ErrorIs(t, c.Pin("nope", owner), fs.ErrNotExist)
	must.Eq(t, []string{sa.SHA256}, c.Pinned(owner))
	must.NoError(t, c.Close())

	c = open(t, dir, o)
	must.Eq(t, []string{sa.SHA256}, c.Pinned(owner))
	must.Eq(t, api.CodeInUse, api.CodeOf(c.Remove(sa.SHA256)))
	gone, err := c.Collect(t.Context(), time.Hour, nil)
	must.NoError(t, err)
	must.SliceEmpty(t, gone, must.Sprint("just used"))
	now = now.Add(2 * time.Hour)
	gone, err = c.Collect(t.Context(), time.Hour, func(sha string) bool { return sha == sb.SHA256 })
	must.NoError(t, err)
	must.SliceEmpty(t, gone, must.Sprint("asked to be kept"))
	gone, err = c.Collect(t.Context(), time.Hour, nil)
	must.NoError(t, err)
	must.SliceLen(t, 1, gone)
	must.Eq(t, sb.SHA256, gone[0].SHA256)

	must.NoError(t, c.Unpin(sa.SHA256, owner))
	must.NoError(t, c.Unpin(sa.SHA256, owner))
	gone, err = c.Collect(t.Context(), time.Hour, nil)
	must.NoError(t, err)
	must.SliceEmpty(t, gone, must.Sprint("the hour begins with the last use"))
	must.NoError(t, c.Remove(sa.SHA256))
	must.NoError(t, c.Remove(sa.SHA256))
	must.SliceEmpty(t, files(t, dir))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Put(t.Context(), sa, bytes.NewReader(a))
	must.NoError(t, err)
	_, err = c.Collect(ctx, 0, nil)
	must.ErrorIs(t, err, context.Canceled)
}

func TestOpenDropsWhatIsNotWhole(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, Options{})
	var specs []Spec
	for i := range byte(5) {
		b, s := content(1024, i)
		_, err := c.Put(t.Context(), s, bytes.NewReader(b))
		must.NoError(t, err)
		specs = append(specs, s)
	}
	must.NoError(t, c.Close())
	file := func(i int) string { return filepath.Join(dir, "files", specs[i].SHA256+".raw") }
	meta := func(i int) string { return filepath.Join(dir, "meta", specs[i].SHA256+".json") }
	must.NoError(t, os.Remove(meta(1)))                                     // died between content and record
	must.NoError(t, os.Remove(file(2)))                                     // content lost
	must.NoError(t, os.Truncate(file(3), 100))                              // content cut
	must.NoError(t, os.WriteFile(meta(4), []byte(`{"sha256":"../x`), 0644)) // record damaged
	parts := filepath.Join(dir, "parts")
	must.NoError(t, os.WriteFile(filepath.Join(parts, "put-x"), nil, 0o600))
	must.NoError(t, os.WriteFile(filepath.Join(parts, "a.part"), nil, 0o600))
	must.NoError(t, os.WriteFile(filepath.Join(parts, "b.part"), nil, 0o600))
	old := time.Now().Add(-48 * time.Hour)
	must.NoError(t, os.Chtimes(filepath.Join(parts, "b.part"), old, old))

	c = open(t, dir, Options{})
	must.SliceLen(t, 1, c.List())
	must.Eq(t, specs[0], c.List()[0].Spec)
	must.Eq(t, []string{"files/" + specs[0].SHA256 + ".raw", "meta/" + specs[0].SHA256 + ".json", "parts/a.part"}, files(t, dir))
	must.NoError(t, os.Chmod(file(0), 0o600))
	must.NoError(t, os.WriteFile(file(0), make([]byte, 1024)[:1024], 0o600))
	must.NoError(t, os.WriteFile(file(0), bytes.Repeat([]byte{9}, 1024), 0o600))
	must.Eq(t, api.CodeImageBad, api.CodeOf(c.Verify(t.Context(), specs[0].SHA256)), must.Sprint("rot is seen"))
	must.ErrorIs(t, c.Verify(t.Context(), "none"), fs.ErrNotExist)
}

// peer serves content, and breaks after so many bytes.
func peer(b []byte, limit int, asked *[]int64) Source {
	return func(_ context.Context, at int64) (io.ReadCloser, error) {
		*asked = append(*asked, at)
		part := b[at:]
		if limit < len(part) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(part[:limit]), iotest.ErrReader(io.ErrUnexpectedEOF))), nil
		}
		return io.NopCloser(bytes.NewReader(part)), nil
	}
}

func TestFetchGoesOnWhereItStopped(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, Options{})
	b, spec := content(10000, 'x')
	var asked []int64
	_, err := c.Fetch(t.Context(), spec, peer(b, 1000, &asked))
	must.Eq(t, api.CodeImageMissing, api.CodeOf(err))
	must.NoError(t, c.Close())

	c = open(t, dir, Options{}) // also after a restart
	info, err := c.Fetch(t.Context(), spec, peer(b, 2000, &asked), peer(b, 1<<20, &asked))
	must.NoError(t, err)
	must.Eq(t, []int64{0, 1000, 3000}, asked)
	must.Eq(t, spec, info.Spec)
	must.NoError(t, c.Verify(t.Context(), spec.SHA256))
	must.Eq(t, 2, len(files(t, dir)), must.Sprint("no part is left"))
	_, err = c.Fetch(t.Context(), spec)
	must.NoError(t, err, must.Sprint("it is there"))
}

func TestFetchFromALiar(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, Options{})
	b, spec := content(10000, 'x')
	lie, _ := content(10000, 'y')
	endless := func(context.Context, int64) (io.ReadCloser, error) { return io.NopCloser(zeros{}), nil }
	short := func(_ context.Context, at int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b[at : at+(10000-at)/2])), nil
	}
	refuses := func(context.Context, int64) (io.ReadCloser, error) { return nil, errors.New("go away") }
	var asked []int64
	_, err := c.Fetch(t.Context(), spec, peer(lie, 1<<20, &asked), endless, short, refuses, peer(b, 1<<20, &asked))
	must.NoError(t, err)
	must.Eq(t, []int64{0, 5000}, asked, must.Sprint("what liars sent is thrown away, what others sent is kept"))

	q := qcow(nil)
	sum := sha256.Sum256(q)
	hostile := Spec{SHA256: hex.EncodeToString(sum[:]), Size: api.Bytes(len(q)), Kind: KindDisk, Format: FormatRaw}
	_, err = c.Fetch(t.Context(), hostile, peer(q, 1<<20, &asked))
	must.Eq(t, api.CodeImageBad, api.CodeOf(err))
	must.Eq(t, 2, len(files(t, dir)))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestFetchIsShared(t *testing.T) {
	c := open(t, t.TempDir(), Options{})
	b, spec := content(10000, 'x')
	var calls atomic.Int32
	gate := make(chan struct{})
	src := func(context.Context, int64) (io.ReadCloser, error) {
		calls.Add(1)
		<-gate
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := c.Fetch(t.Context(), spec, src)
			must.NoError(t, err)
		})
	}
	wg.Go(func() { close(gate) })
	wg.Wait()
	must.Eq(t, 1, calls.Load())
}

// blocked is a source that waits for its context.
func blocked(begun chan<- struct{}) Source {
	return func(ctx context.Context, _ int64) (io.ReadCloser, error) {
		begun <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
}

func TestFetchEndsWithItsLastCaller(t *testing.T) {
	c := open(t, t.TempDir(), Options{})
	b, spec := content(10000, 'x')
	begun := make(chan struct{}, 2)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := c.Fetch(ctx, spec, blocked(begun)); done <- err }()
	<-begun
	cancel()
	must.ErrorIs(t, <-done, context.Canceled)
	c.wg.Wait() // the source was told
	_, err := c.Fetch(t.Context(), spec, peer(b, 1<<20, new([]int64)))
	must.NoError(t, err)
}

func TestCloseEndsFetches(t *testing.T) {
	c := open(t, t.TempDir(), Options{})
	_, spec := content(10000, 'x')
	begun := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() { _, err := c.Fetch(context.Background(), spec, blocked(begun)); done <- err }()
	<-begun
	must.NoError(t, c.Close())
	must.ErrorIs(t, <-done, context.Canceled)
	_, err := c.Fetch(context.Background(), spec, blocked(begun))
	must.ErrorIs(t, err, fs.ErrClosed)
}

func TestFreeSpaceIsAsked(t *testing.T) {
	n, err := free(t.TempDir())
	must.NoError(t, err)
	must.Positive(t, n)
	_, err = free("/nonexistent")
	must.ErrorIs(t, err, fs.ErrNotExist)
	boom := errors.New("boom")
	c := open(t, t.TempDir(), Options{Free: func() (api.Bytes, error) { return 0, boom }})
	b, spec := content(512, 1)
	_, err = c.Put(t.Context(), spec, bytes.NewReader(b))
	must.ErrorIs(t, err, boom)
}
