package client

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/api"
)

// fullPool has volumes without a hole.
type fullPool struct{ storage.Pool }

func (fullPool) Export(_ context.Context, v *api.Volume) (io.ReadCloser, error) {
	b := bytes.Repeat([]byte{7}, int(v.Size))
	return storage.Export(bytes.NewReader(b), int64(len(b)), func() error { return nil }), nil
}

// drain is a stream that takes everything at once.
type drain struct {
	api.Stream
	got api.Bytes
}

func (d *drain) Send(m api.Message) error {
	d.got += api.Bytes(len(m.(*api.Chunk).Data))
	return nil
}

func TestTheDisksOfAColdMoveKeepToTheBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const all = 24 * api.MiB
		one, two := &api.Volume{ID: api.ID{1}, Size: 16 * api.MiB}, &api.Volume{ID: api.ID{2}, Size: 8 * api.MiB}
		took := func(rate api.Bytes) (time.Duration, *part) {
			p, out := &part{}, &drain{}
			g := &api.Migration{ID: api.NewID(), Attempts: 1, Options: api.MigrationOptions{Bandwidth: rate}}
			start := time.Now()
			must.NoError(t, p.coldOf(g, all).send(t.Context(), p, fullPool{}, one, out))
			must.Eq(t, 66, int(p.progress.Percent))
			must.NoError(t, p.coldOf(g, all).send(t.Context(), p, fullPool{}, two, out))
			must.GreaterEq(t, all, out.got)
			must.Eq(t, out.got, p.progress.Wire)
			return time.Since(start), p
		}
		free, _ := took(0)
		must.Zero(t, free)
		capped, p := took(2 * api.MiB)
		must.Between(t, 11*time.Second, capped, 13*time.Second)
		must.Eq(t, 100, p.progress.Percent)
		must.Between(t, 1700*api.KiB, p.progress.Rate, 2300*api.KiB)

		// A cancel does not wait for the cap, and an attempt that is made anew counts anew.
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, cancel)
		start := time.Now()
		g := *p.cold.g
		g.Attempts = 2
		must.ErrorIs(t, p.coldOf(&g, all).send(ctx, p, fullPool{}, one, &drain{}), context.Canceled)
		must.Eq(t, 3*time.Second, time.Since(start))
		must.Between(t, 15.0, p.progress.Percent, 26.0)
		must.Between(t, 1700*api.KiB, p.progress.Rate, 2300*api.KiB)
	})
}

func TestTheDisksOfAColdMoveFollowTheBandwidthThatIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := &api.Volume{ID: api.ID{1}, Size: 16 * api.MiB}
		g := &api.Migration{ID: api.NewID(), Attempts: 1, Options: api.MigrationOptions{Bandwidth: api.MiB}}
		p, out := &part{}, &drain{}
		p.give(&api.MoveOrder{Migration: g})
		set := func(after time.Duration, rate api.Bytes) {
			next := *g
			next.Options.Bandwidth = rate
			time.AfterFunc(after, func() { p.give(&api.MoveOrder{Migration: &next}) })
		}
		set(4*time.Second, 3*api.MiB)
		set(6*time.Second, 0)
		start := time.Now()
		must.NoError(t, p.coldOf(g, one.Size).send(t.Context(), p, fullPool{}, one, out))
		must.Between(t, 6*time.Second, time.Since(start), 6100*time.Millisecond, must.Sprint("4 MiB, 6 MiB, and the rest at once"))

		// One that is begun with an older word than the newest keeps to the newest.
		g.Attempts = 2
		start = time.Now()
		must.NoError(t, p.coldOf(g, one.Size).send(t.Context(), p, fullPool{}, one, out))
		must.Zero(t, time.Since(start))
	})
}
