package client

import (
	"bytes"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/agent/image"
	"github.com/novacron/novacron/api"
)

// Images with the same content share it: one that is deleted does not take it
// away from the other.
func TestImagesThatShareTheirContent(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		one, two := testImage("kernel"), testImage("kernel")
		two.ID, two.Name = api.ID{0xef}, "other"
		b.withPeer(one)
		one.Sources, two.Sources = []string{"n2:1"}, []string{"n2:1"}
		b.start()
		for id, i := range map[api.ID]*api.Image{vm1: one, vm2: two} {
			b.srv.order(id, func(o *api.Order) { o.Spec.Boot, o.Images = &api.BootSpec{Kernel: i.Name}, []*api.Image{i} })
			b.sleep(5 * time.Second)
			b.expect(id, api.StateRunning)
			must.Eq(t, i.Size, b.srv.imgs[i.ID].Size, must.Sprint("the servers know that it is held here"))
		}
		b.srv.bury(vm1, true)
		b.srv.bury(vm2, true)
		b.restart()
		remove := func(i *api.Image) {
			dead := *i
			dead.State = api.ImageDeleting
			b.srv.do(func() {
				b.srv.images = append(b.srv.images, &dead)
				b.srv.send(&api.OrderBatch{Generation: 1, Index: b.srv.index, Images: []*api.Image{&dead}})
			})
			b.rest()
			must.True(t, b.srv.imgs[i.ID].Absent)
		}
		remove(one)
		must.SliceLen(t, 1, b.images.List())
		must.False(t, b.srv.imgs[two.ID].Absent)
		remove(two)
		must.SliceEmpty(t, b.images.List())
	})
}

// What came in, and that neither a guest nor the servers know, goes after a while.
func TestImagesThatNothingUsesAreCollected(t *testing.T) {
	for idle, want := range map[time.Duration]int{0: 0, -1: 1, 100 * time.Hour: 1} {
		inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
			b.change = func(c *Config) { c.ImageIdle = idle }
			b.start()
			i := testImage("kernel")
			_, err := b.images.Put(t.Context(), image.SpecOf(i), bytes.NewReader(content))
			must.NoError(t, err)
			for _, keep := range []func() error{
				func() error { return b.images.Pin(i.SHA256, vm1) },
				func() error { _, err := b.images.Name(i.SHA256, i.ID); return err },
			} {
				must.NoError(t, keep())
				b.sleep(30 * time.Hour)
				must.SliceLen(t, 1, b.images.List())
				must.NoError(t, b.images.Unpin(i.SHA256, vm1))
			}
			must.NoError(t, b.images.Drop(i.SHA256, i.ID))
			must.SliceEmpty(t, b.images.List())
			_, err = b.images.Put(t.Context(), image.SpecOf(i), bytes.NewReader(content))
			must.NoError(t, err)
			b.sleep(20 * time.Hour)
			must.SliceLen(t, 1, b.images.List())
			b.sleep(6 * time.Hour)
			must.SliceLen(t, want, b.images.List())
		})
	}
}
