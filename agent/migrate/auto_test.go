package migrate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"
)

// sent carries bytes over a link of a rate and returns what share of them was
// packed.
func sent(t *testing.T, l *link, rate int64, piece []byte, total int) float64 {
	t.Helper()
	l.wireN.rate.Store(rate)
	before := l.near.count.read()
	l.flow(piece, total)
	after := l.near.count.read()
	return float64(after.Packed-before.Packed) / float64(after.RawSent-before.RawSent)
}

func TestAutoPacksOnASlowLinkOnly(t *testing.T) {
	for _, row := range []struct {
		what  string
		rate  int64
		piece []byte
		min   float64
		max   float64
	}{
		// Packing takes no time here, so that only the link counts.
		{"slow", 10 << 20, text(128 << 10), 0.8, 1},
		{"slow, noise", 10 << 20, noise(128 << 10), 0, 0},
		{"fast", 0, text(128 << 10), 0, 0.2},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLink(t, Memory, Auto, nil)
			share := sent(t, l, row.rate, row.piece, 64<<20)
			must.Between(t, row.min, share, row.max, must.Sprint(row.what))
		})
	}
}

func TestAutoFollowsTheLinkAndTheCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink(t, Memory, Auto, nil)
		piece := text(128 << 10)
		must.LessEq(t, 0.2, sent(t, l, 0, piece, 32<<20))
		time.Sleep(time.Minute)
		must.GreaterEq(t, 0.8, sent(t, l, 4<<20, piece, 64<<20))
		time.Sleep(time.Minute)
		must.LessEq(t, 0.3, sent(t, l, 0, piece, 64<<20))
		time.Sleep(time.Minute)
		l.near.limit.set(4 << 20) // a cap is a slow link
		must.GreaterEq(t, 0.8, sent(t, l, 0, piece, 64<<20))
	})
}

// A destination that does not keep up is no reason to pack.
func TestAutoDoesNotPackForASlowHypervisor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink(t, Memory, Auto, nil)
		piece := text(128 << 10)
		go func() {
			for {
				if _, err := l.source.Write(piece); err != nil {
					return
				}
			}
		}()
		b := make([]byte, 64<<10)
		for range 1000 {
			_, err := l.target.Read(b)
			must.NoError(t, err)
			time.Sleep(20 * time.Millisecond)
		}
		c := l.near.count.read()
		must.LessEq(t, 0.3, float64(c.Packed)/float64(c.RawSent))
	})
}

// drive feeds a chooser with chunks of a machine: ns for a byte of the link and
// of packing, and what packing leaves.
func drive(c *chooser, now *time.Time, chunks int, link, pack, ratio float64) (packed int) {
	for range chunks {
		wire, ns := float64(chunkSize), 0.0
		if c.pack {
			packed++
			ns = pack * chunkSize
			wire *= ratio
		}
		took := time.Duration(ns + link*wire)
		*now = now.Add(took)
		c.note(*now, chunkSize, int(wire), took)
	}
	return packed
}

func TestChooserWeighsTheProcessor(t *testing.T) {
	for _, row := range []struct {
		what              string
		link, pack, ratio float64
		packs             bool
	}{
		{"1 Gbit/s, packs fast", 8, 2, 0.3, true},
		{"10 Gbit/s, packs slower than the link", 0.8, 2, 0.3, false},
		{"1 Gbit/s, packs too slowly", 8, 12, 0.3, false},
		{"100 Mbit/s, packs little", 80, 2, 0.85, true},
		{"100 Mbit/s, packs next to nothing", 80, 2, 0.97, false},
		{"no gain", 8, 1, 0.8, false},
	} {
		c, now := newChooser(Auto), time.Unix(0, 0)
		drive(c, &now, 1000, row.link, row.pack, row.ratio)
		packed := drive(c, &now, 10000, row.link, row.pack, row.ratio)
		if row.packs {
			must.Greater(t, 9000, packed, must.Sprint(row.what))
		} else {
			must.Less(t, 1000, packed, must.Sprint(row.what))
		}
	}
}

func TestChooserChangesItsMind(t *testing.T) {
	c, now := newChooser(Auto), time.Unix(0, 0)
	drive(c, &now, 1000, 0.5, 2, 0.3)
	must.False(t, c.pack)
	drive(c, &now, 20000, 20, 2, 0.3) // the link got slow
	must.True(t, c.pack)
	drive(c, &now, 100000, 0.5, 2, 0.3) // and fast again
	packed := drive(c, &now, 100000, 0.5, 2, 0.3)
	must.Less(t, 10000, packed)
}

func TestChooserObeys(t *testing.T) {
	for mode, want := range map[Compression]bool{None: false, Zstd: true} {
		c, now := newChooser(mode), time.Unix(0, 0)
		drive(c, &now, 100, 100, 0.1, 0.1)
		must.Eq(t, want, c.pack)
	}
}
