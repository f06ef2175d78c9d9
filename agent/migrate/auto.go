package migrate

import (
	"math"
	"time"
)

// chooser decides for one direction of one stream whether chunks are packed.
// Where it is to choose, it measures what a byte of the stream costs in time,
// packed and as it is: packing plus what the link (or the cap of bandwidth)
// takes. Time in which the hypervisors are what is waited for does not count. It
// keeps measuring the way that it has chosen, tries the other one from time to
// time, and packs only where that is clearly faster: the CPU has other work.
//
// The zero chooser does not pack. It has no clock: callers pass the time.
type chooser struct {
	choose bool
	pack   bool // now

	probing bool          // the way that was not chosen is tried
	probes  time.Time     // when it is next
	cost    [2]float64    // ns for a byte: as it is, packed; NaN: not known
	raw     int           // of the present window
	wire    int           //
	took    time.Duration //
	chunks  int           //
}

const (
	// A window of measuring ends after so many bytes, or so much time.
	measureBytes = 1 << 20
	measureTime  = 250 * time.Millisecond
	// The other way is tried no more often than this, and for no more than a
	// share of the time.
	probeEvery = 2 * time.Second
	probeShare = 20
	// Packing must be faster by this factor.
	packGain = 0.9
	// Packing that leaves more than this of the bytes is not worth trying on.
	packRatio = 0.95
)

func newChooser(mode Compression) *chooser {
	return &chooser{
		choose: mode == Auto, pack: mode == Zstd,
		cost: [2]float64{math.NaN(), math.NaN()},
	}
}

// note takes how a chunk fared: its bytes, those that went over the wire, and
// how long packing and the link took.
func (c *chooser) note(now time.Time, raw, wire int, took time.Duration) {
	if !c.choose {
		return
	}
	c.raw += raw
	c.wire += wire
	c.took += took
	c.chunks++
	hopeless := c.pack && c.probing && c.chunks >= 4 && float64(c.wire) > packRatio*float64(c.raw)
	if c.raw < measureBytes && c.took < measureTime && !hopeless {
		return
	}
	way := 0
	if c.pack {
		way = 1
	}
	c.cost[way] = float64(c.took) / float64(c.raw)
	if hopeless {
		c.cost[way] = math.Inf(1)
	}
	if c.probing || c.probes.IsZero() {
		c.probes = now.Add(max(probeEvery, probeShare*c.took))
	}
	switch {
	case math.IsNaN(c.cost[1-way]), !c.probing && !now.Before(c.probes):
		c.begin(!c.pack, true) // not tried yet, or not for long
	default:
		c.begin(c.cost[1] < packGain*c.cost[0], false)
	}
}

// begin begins a window.
func (c *chooser) begin(pack, probing bool) {
	c.pack, c.probing = pack, probing
	c.raw, c.wire, c.took, c.chunks = 0, 0, 0, 0
}
