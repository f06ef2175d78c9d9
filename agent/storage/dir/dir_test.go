package dir_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/agent/storage/dir"
	"github.com/novacron/novacron/api"
)

func open(t *testing.T, cfg dir.Config) *dir.Pool {
	t.Helper()
	if cfg.Path == "" {
		cfg.Path = filepath.Join(t.TempDir(), "pool")
	}
	cfg.Name, cfg.UID, cfg.GID = "default", -1, -1
	p, err := dir.Open(cfg)
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, p.Close()) })
	return p
}

func volume(format string, size api.Bytes) *api.Volume {
	return &api.Volume{ID: api.NewID(), Name: "../../etc/passwd", Format: format, Size: size}
}

// image makes a base image of 1 MiB with "hello" at 512 KiB.
func image(t *testing.T, format string) *storage.Source {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "base.raw")
	b := make([]byte, api.MiB)
	copy(b[512*1024:], "hello")
	must.NoError(t, os.WriteFile(raw, b, 0o644))
	src := &storage.Source{Path: raw, Format: "raw", VirtualSize: api.MiB}
	if format == "qcow2" {
		src.Path, src.Format = strings.TrimSuffix(raw, ".raw")+".qcow2", "qcow2"
		run(t, "convert", "-f", "raw", "-O", "qcow2", raw, src.Path)
	}
	return src
}

func run(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command("qemu-img", args...).CombinedOutput()
	must.NoError(t, err, must.Sprintf("%s", out))
}

// content reads a volume as a guest would see it.
func content(t *testing.T, h storage.Handle) []byte {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "seen.raw")
	run(t, "convert", "-f", h.Format, "-O", "raw", h.Path, raw)
	b, err := os.ReadFile(raw)
	must.NoError(t, err)
	return b
}

func TestEveryKindOfVolume(t *testing.T) {
	for _, shared := range []bool{false, true} {
		for _, format := range []string{"qcow2", "raw"} {
			for _, from := range []string{"", "qcow2", "raw"} {
				name := strings.Join([]string{map[bool]string{false: "local", true: "shared"}[shared], format, "from", from}, " ")
				t.Run(name, func(t *testing.T) {
					p := open(t, dir.Config{Shared: shared})
					v := volume(format, 3*api.MiB)
					var src *storage.Source
					if from != "" {
						src = image(t, from)
					}
					h, err := p.Create(t.Context(), v, src)
					must.NoError(t, err)
					must.Eq(t, v.ID.String()+"."+format, filepath.Base(h.Path))
					must.Eq(t, format, h.Format)
					must.Eq(t, shared, h.Shared)
					thin := !shared && format == "qcow2" && from != ""
					must.Eq(t, thin, h.Backing != "")
					if thin {
						must.Eq(t, src.Path, h.Backing)
						must.Eq(t, src.Format, h.BackingFormat)
					}
					seen := content(t, h)
					must.Eq(t, int(v.Size), len(seen))
					must.Eq(t, from != "", string(seen[512*1024:512*1024+5]) == "hello")

					again, err := p.Create(t.Context(), v, src)
					must.NoError(t, err)
					must.Eq(t, h, again)
					opened, err := p.Open(t.Context(), v)
					must.NoError(t, err)
					must.Eq(t, h, opened)
					used, err := p.Used(t.Context(), v)
					must.NoError(t, err)
					must.Less(t, 2*api.MiB, used, must.Sprint("it is sparse"))
					ids, err := p.List(t.Context())
					must.NoError(t, err)
					must.Eq(t, []api.ID{v.ID}, ids)

					must.NoError(t, p.Delete(t.Context(), v))
					must.NoError(t, p.Delete(t.Context(), v), must.Sprint("twice is no error"))
					_, err = p.Open(t.Context(), v)
					must.ErrorIs(t, err, fs.ErrNotExist)
					left, err := os.ReadDir(filepath.Dir(h.Path))
					must.NoError(t, err)
					must.Eq(t, 1, len(left), must.Sprint("only the marker is left"))
				})
			}
		}
	}
}

func TestCloneTakesTheSizeOfItsImage(t *testing.T) {
	p := open(t, dir.Config{})
	h, err := p.Create(t.Context(), volume("qcow2", 0), image(t, "qcow2"))
	must.NoError(t, err)
	must.Eq(t, int(api.MiB), len(content(t, h)))
}

func TestRefusals(t *testing.T) {
	p := open(t, dir.Config{})
	src := image(t, "raw")
	for name, c := range map[string]struct {
		v   *api.Volume
		src *storage.Source
	}{
		"no id":                {&api.Volume{Format: "raw", Size: api.MiB}, nil},
		"a format of its own":  {volume("vmdk", api.MiB), nil},
		"a format with a path": {volume("raw/../../x", api.MiB), nil},
		"no size":              {volume("raw", 0), nil},
		"an odd size":          {volume("raw", 1000), nil},
		"a negative size":      {volume("raw", -512), nil},
		"an absurd size":       {volume("raw", 2*storage.MaxSize), nil},
		"smaller than it is":   {volume("raw", 512), src},
		"image of no format":   {volume("raw", api.MiB), &storage.Source{Path: src.Path, VirtualSize: api.MiB}},
		"image without a path": {volume("raw", api.MiB), &storage.Source{Path: "json:{}", Format: "raw", VirtualSize: api.MiB}},
	} {
		_, err := p.Create(t.Context(), c.v, c.src)
		must.Eq(t, api.CodeInvalid, api.CodeOf(err), must.Sprint(name))
	}
	must.Eq(t, api.CodeInvalid, api.CodeOf(p.Delete(t.Context(), volume("../x", 1))))
	_, err := p.Used(t.Context(), volume("../x", 1))
	must.Eq(t, api.CodeInvalid, api.CodeOf(err))
	_, err = dir.Open(dir.Config{Path: "relative"})
	must.Eq(t, api.CodeStorage, api.CodeOf(err))
	ids, err := p.List(t.Context())
	must.NoError(t, err)
	must.SliceEmpty(t, ids)
}

// A guest that writes a qcow2 header with a backing file into its raw disk must
// not be believed: the volume stays raw, for ever.
func TestFormatIsNeverProbed(t *testing.T) {
	p := open(t, dir.Config{})
	v := volume("raw", api.MiB)
	h, err := p.Create(t.Context(), v, nil)
	must.NoError(t, err)
	evil := make([]byte, 512)
	copy(evil, "QFI\xfb")
	binary.BigEndian.PutUint32(evil[4:], 2)
	f, err := os.OpenFile(h.Path, os.O_WRONLY, 0)
	must.NoError(t, err)
	_, err = f.WriteAt(evil, 0)
	must.NoError(t, errors.Join(err, f.Close()))
	again, err := p.Open(t.Context(), v)
	must.NoError(t, err)
	must.Eq(t, h, again)
}

func TestSymlinkInThePoolIsNoVolume(t *testing.T) {
	path := t.TempDir()
	p := open(t, dir.Config{Path: path})
	v := volume("raw", api.MiB)
	must.NoError(t, os.Symlink("/etc/passwd", filepath.Join(path, v.ID.String()+".raw")))
	_, err := p.Open(t.Context(), v)
	must.Eq(t, api.CodeStorage, api.CodeOf(err))
	_, err = p.Create(t.Context(), v, nil)
	must.Eq(t, api.CodeStorage, api.CodeOf(err))
	ids, err := p.List(t.Context())
	must.NoError(t, err)
	must.SliceEmpty(t, ids)
	must.NoError(t, p.Delete(t.Context(), v)) // takes the link away, not what it points to
	_, err = os.Stat("/etc/passwd")
	must.NoError(t, err)
}

func TestFileWithoutRecordIsForeign(t *testing.T) {
	path := t.TempDir()
	p := open(t, dir.Config{Path: path})
	v := volume("qcow2", api.MiB)
	must.NoError(t, os.WriteFile(filepath.Join(path, v.ID.String()+".qcow2"), []byte("?"), 0o600))
	_, err := p.Open(t.Context(), v)
	must.Eq(t, api.CodeStorage, api.CodeOf(err))
}

func TestHalfMadeVolumesAreSweptAway(t *testing.T) {
	path := t.TempDir()
	boom := errors.New("boom")
	leave := func(_ context.Context, args ...string) error {
		// the agent dies here: the file stays under its temporary name
		must.NoError(t, os.WriteFile(filepath.Join(path, ".tmp-left"), nil, 0o600))
		return boom
	}
	p := open(t, dir.Config{Path: path, Run: leave})
	v := volume("qcow2", api.MiB)
	_, err := p.Create(t.Context(), v, nil)
	must.ErrorIs(t, err, boom)
	_, err = p.Open(t.Context(), v)
	must.ErrorIs(t, err, fs.ErrNotExist)

	open(t, dir.Config{Path: path, Shared: true})
	_, err = os.Stat(filepath.Join(path, ".tmp-left"))
	must.NoError(t, err, must.Sprint("in a shared pool it may be another node's"))
	open(t, dir.Config{Path: path})
	_, err = os.Stat(filepath.Join(path, ".tmp-left"))
	must.ErrorIs(t, err, fs.ErrNotExist)
}

func TestTheSameFolderIsTheSamePool(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	var uuids [4]api.ID
	var wg sync.WaitGroup
	for i := range uuids {
		wg.Go(func() {
			p, err := dir.Open(dir.Config{Path: path, Shared: true, UID: -1, GID: -1})
			must.NoError(t, err)
			info, err := p.Info(t.Context())
			must.NoError(t, err)
			uuids[i] = info.UUID
			must.NoError(t, p.Close())
		})
	}
	wg.Wait()
	for _, u := range uuids {
		must.Eq(t, uuids[0], u)
		must.False(t, u.IsZero())
	}
	info, err := open(t, dir.Config{Path: path}).Info(t.Context())
	must.NoError(t, err)
	must.Positive(t, info.Capacity)
	must.Positive(t, info.Free)
	must.Eq(t, "dir", info.Type)
}

// Without its record a volume is not made.
func TestNoVolumeWithoutItsRecord(t *testing.T) {
	path := t.TempDir()
	p := open(t, dir.Config{Path: path})
	v := volume("raw", api.MiB)
	must.NoError(t, os.MkdirAll(filepath.Join(path, v.ID.String()+".json", "x"), 0o755))
	_, err := p.Create(t.Context(), v, nil)
	must.Error(t, err)
	_, err = p.Open(t.Context(), v)
	must.ErrorIs(t, err, fs.ErrNotExist)
	left, err := os.ReadDir(path)
	must.NoError(t, err)
	must.Len(t, 2, left, must.Sprint("the marker and what was in the way"))
}

func TestLimit(t *testing.T) {
	p := open(t, dir.Config{Limit: 4 * api.MiB})
	info := func() api.NodePool {
		i, err := p.Info(t.Context())
		must.NoError(t, err)
		must.Eq(t, 4*api.MiB, i.Capacity)
		return i
	}
	must.LessEq(t, 4*api.MiB, info().Free)
	must.Greater(t, 3*api.MiB, info().Free)
	write := func(size api.Bytes) {
		h, err := p.Create(t.Context(), volume("raw", size), nil)
		must.NoError(t, err)
		must.NoError(t, os.WriteFile(h.Path, bytes.Repeat([]byte{1}, int(size)), 0o600))
	}
	write(2 * api.MiB)
	must.LessEq(t, 2*api.MiB, info().Free)
	must.Greater(t, api.MiB, info().Free)
	write(3 * api.MiB)
	must.Eq(t, 0, info().Free)
	all, err := open(t, dir.Config{Limit: 1 << 60}).Info(t.Context())
	must.NoError(t, err)
	must.Less(t, api.Bytes(1)<<60, all.Capacity, must.Sprint("no more than there is"))
}

func TestOwner(t *testing.T) {
	p, err := dir.Open(dir.Config{Path: t.TempDir(), UID: os.Getuid() + 4321, GID: 8765})
	must.NoError(t, err)
	h, err := p.Create(t.Context(), volume("raw", api.MiB), nil)
	if os.Getuid() != 0 {
		must.ErrorIs(t, err, fs.ErrPermission)
		return
	}
	must.NoError(t, err)
	st, err := os.Stat(h.Path)
	must.NoError(t, err)
	must.Eq(t, 4321, st.Sys().(*syscall.Stat_t).Uid)
	must.Eq(t, 8765, st.Sys().(*syscall.Stat_t).Gid)
	must.Eq(t, 0o660, st.Mode().Perm())
}

func TestAVolumeOfASharedPoolBelongsToTheGuestsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root gives files away")
	}
	path, v := t.TempDir(), volume("raw", api.MiB)
	old, err := dir.Open(dir.Config{Path: path, Shared: true, UID: -1, GID: -1})
	must.NoError(t, err)
	h, err := old.Create(t.Context(), v, nil)
	must.NoError(t, err)
	owner := func() int {
		st, err := os.Stat(h.Path)
		must.NoError(t, err)
		return int(st.Sys().(*syscall.Stat_t).Uid)
	}
	must.Zero(t, owner())
	for _, shared := range []bool{false, true} { // libvirt minds those of a local one
		p, err := dir.Open(dir.Config{Path: path, Shared: shared, UID: 4321, GID: 8765})
		must.NoError(t, err)
		_, err = p.Open(t.Context(), v)
		must.NoError(t, err)
		must.Eq(t, shared, owner() == 4321)
	}
}

func TestManyCallersOneVolume(t *testing.T) {
	p := open(t, dir.Config{})
	v, src := volume("raw", 2*api.MiB), image(t, "raw")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := p.Create(t.Context(), v, src)
			must.NoError(t, err)
		})
	}
	wg.Wait()
	ids, err := p.List(t.Context())
	must.NoError(t, err)
	must.Eq(t, 1, len(ids))
}

func TestTheDoorToQemuImg(t *testing.T) {
	t.Run("its words come back", func(t *testing.T) {
		p := open(t, dir.Config{})
		bad := filepath.Join(t.TempDir(), "bad.qcow2")
		must.NoError(t, os.WriteFile(bad, bytes.Repeat([]byte{1}, 4096), 0o644))
		_, err := p.Create(t.Context(), volume("raw", api.MiB), &storage.Source{Path: bad, Format: "qcow2", VirtualSize: api.MiB})
		must.Eq(t, api.CodeStorage, api.CodeOf(err))
		must.StrContains(t, err.Error(), "not in qcow2 format")
	})
	t.Run("a missing program is named", func(t *testing.T) {
		p := open(t, dir.Config{QemuImg: "/nonexistent/qemu-img"})
		_, err := p.Create(t.Context(), volume("qcow2", api.MiB), nil)
		must.Eq(t, api.CodeStorage, api.CodeOf(err))
		must.StrContains(t, err.Error(), "qemu-utils")
	})
	t.Run("it ends with the context", func(t *testing.T) {
		slow := filepath.Join(t.TempDir(), "slow")
		must.NoError(t, os.WriteFile(slow, []byte("#!/bin/sh\nexec sleep 600\n"), 0o755))
		p := open(t, dir.Config{QemuImg: slow})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := p.Create(ctx, volume("qcow2", api.MiB), nil)
		must.ErrorIs(t, err, context.DeadlineExceeded)
	})
	t.Run("a caller that has left gets nothing", func(t *testing.T) {
		p := open(t, dir.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := p.Info(ctx)
		must.ErrorIs(t, err, context.Canceled)
		_, err = p.List(ctx)
		must.ErrorIs(t, err, context.Canceled)
		_, err = p.Create(ctx, volume("raw", api.MiB), nil)
		must.ErrorIs(t, err, context.Canceled)
	})
}
