package sim_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/agent/storage/sim"
	"github.com/novacron/novacron/api"
)

func TestPool(t *testing.T) {
	ctx := t.Context()
	p := sim.New("default", 10*api.GiB)
	v := &api.Volume{ID: api.NewID(), Format: "qcow2", Size: 6 * api.GiB}
	_, err := p.Open(ctx, v)
	must.ErrorIs(t, err, fs.ErrNotExist)
	src := &storage.Source{Path: "/cache/x.raw", Format: "raw", VirtualSize: api.GiB}
	h, err := p.Create(ctx, v, src)
	must.NoError(t, err)
	must.Eq(t, "/cache/x.raw", h.Backing)
	must.Eq(t, "raw", h.BackingFormat)
	again, err := p.Create(ctx, v, src)
	must.NoError(t, err)
	must.Eq(t, h, again)
	opened, err := p.Open(ctx, v)
	must.NoError(t, err)
	must.Eq(t, h, opened)

	big := &api.Volume{ID: api.NewID(), Format: "raw", Size: 5 * api.GiB}
	_, err = p.Create(ctx, big, nil)
	must.Eq(t, api.CodePoolFull, api.CodeOf(err))
	_, err = p.Create(ctx, &api.Volume{ID: api.NewID(), Format: "vmdk", Size: 512}, nil)
	must.Eq(t, api.CodeInvalid, api.CodeOf(err))

	used, err := p.Used(ctx, v)
	must.NoError(t, err)
	must.Eq(t, v.Size, used)
	_, err = p.Used(ctx, big)
	must.ErrorIs(t, err, fs.ErrNotExist)
	info, err := p.Info(ctx)
	must.NoError(t, err)
	must.Eq(t, 4*api.GiB, info.Free)
	ids, err := p.List(ctx)
	must.NoError(t, err)
	must.Eq(t, []api.ID{v.ID}, ids)

	boom := errors.New("boom")
	p.SetFault(func(verb string, _ api.ID) error { return boom })
	_, err = p.Info(ctx)
	must.ErrorIs(t, err, boom)
	_, err = p.List(ctx)
	must.ErrorIs(t, err, boom)
	_, err = p.Create(ctx, big, nil)
	must.ErrorIs(t, err, boom)
	_, err = p.Open(ctx, v)
	must.ErrorIs(t, err, boom)
	_, err = p.Used(ctx, v)
	must.ErrorIs(t, err, boom)
	must.ErrorIs(t, p.Delete(ctx, v), boom)
	p.SetFault(nil)
	must.NoError(t, p.Delete(ctx, v))
	must.NoError(t, p.Delete(ctx, v))
	_, err = p.Create(ctx, big, nil)
	must.NoError(t, err)
	shared, err := sim.NewShared("s", api.GiB).Info(ctx)
	must.NoError(t, err)
	must.True(t, shared.Shared)
}

func TestAFileRemembersThePool(t *testing.T) {
	ctx, file := t.Context(), filepath.Join(t.TempDir(), "pools", "default.json")
	p, err := sim.Open("default", api.GiB, true, file)
	must.NoError(t, err)
	first, err := p.Info(ctx)
	must.NoError(t, err)
	v, gone := &api.Volume{ID: api.NewID(), Format: "raw", Size: api.MiB}, &api.Volume{ID: api.NewID(), Format: "raw", Size: api.MiB}
	h, err := p.Create(ctx, v, nil)
	must.NoError(t, err)
	_, err = p.Create(ctx, gone, nil)
	must.NoError(t, err)
	must.NoError(t, p.Delete(ctx, gone))

	p, err = sim.Open("default", api.GiB, true, file)
	must.NoError(t, err)
	again, err := p.Info(ctx)
	must.NoError(t, err)
	must.Eq(t, first.UUID, again.UUID)
	must.Eq(t, api.GiB-api.MiB, again.Free)
	got, err := p.Open(ctx, v)
	must.NoError(t, err)
	must.Eq(t, h, got)
	_, err = p.Open(ctx, gone)
	must.ErrorIs(t, err, fs.ErrNotExist)

	must.NoError(t, os.WriteFile(file, []byte("{"), 0o600))
	_, err = sim.Open("default", api.GiB, true, file)
	must.Eq(t, api.CodeStorage, api.CodeOf(err))
}
