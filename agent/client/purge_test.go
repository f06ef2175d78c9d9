package client

import (
	"bytes"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/image"
	"github.com/novacron/novacron/agent/storage/sim"
	"github.com/novacron/novacron/api"
)

func TestADiskThatWasSetAsideHoldsItsImageUntilItIsPurged(t *testing.T) {
	ctx, pool := t.Context(), sim.New("default", api.GiB)
	cache, err := image.Open(t.TempDir(), image.Options{})
	must.NoError(t, err)
	defer func() { must.NoError(t, cache.Close()) }()
	i := testImage("disk")
	_, err = cache.Put(ctx, image.SpecOf(i), bytes.NewReader(content))
	must.NoError(t, err)
	c := &Client{cfg: Config{Images: cache}, ctx: ctx}
	moved, back := testVolume(1), testVolume(2)
	for _, v := range []*api.Volume{moved, back} {
		_, err := pool.Create(ctx, v, nil)
		must.NoError(t, err)
		must.NoError(t, cache.Pin(i.SHA256, v.ID))
		must.NoError(t, pool.Quarantine(ctx, v, time.Now().Add(-time.Hour)))
	}
	must.SliceNotEmpty(t, cache.Pinned(moved.ID))
	_, err = pool.Create(ctx, back, nil) // this VM was moved back
	must.NoError(t, err)
	must.NoError(t, c.purgePool(pool))
	must.SliceEmpty(t, cache.Pinned(moved.ID))
	must.SliceNotEmpty(t, cache.Pinned(back.ID))
}
