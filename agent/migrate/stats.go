package migrate

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/novacron/novacron/api"
)

// Counts are those of the streams of one kind since the session began. Raw is
// what the hypervisors sent and got; wire is what the tunnels carried for it,
// with their frames, before TLS.
type Counts struct {
	Opened, Open int // streams
	RawSent      api.Bytes
	WireSent     api.Bytes
	RawReceived  api.Bytes
	WireReceived api.Bytes
	Packed       api.Bytes // of RawSent, what went as zstd
	Zero         api.Bytes // of RawSent, what was zeros and went as their count
}

// Stats is a snapshot of a session.
type Stats struct {
	Control, Memory, Disks Counts
	// Rate and RawRate are bytes in a second, of memory and disks in both
	// directions, over the last two seconds: on the wire, and for the hypervisors.
	Rate, RawRate api.Bytes
	// Bandwidth is the cap of what this end sends of memory and disks, in bytes in
	// a second; 0 is none.
	Bandwidth api.Bytes
}

type counters struct {
	opened, open          atomic.Int64
	rawSent, wireSent     atomic.Int64
	rawRecv, wireRecv     atomic.Int64
	packedSent, zerosSent atomic.Int64
}

func (c *counters) read() Counts {
	return Counts{
		Opened: int(c.opened.Load()), Open: int(c.open.Load()),
		RawSent: api.Bytes(c.rawSent.Load()), WireSent: api.Bytes(c.wireSent.Load()),
		RawReceived: api.Bytes(c.rawRecv.Load()), WireReceived: api.Bytes(c.wireRecv.Load()),
		Packed: api.Bytes(c.packedSent.Load()), Zero: api.Bytes(c.zerosSent.Load()),
	}
}

// meters are those of a session.
type meters struct{ wire, raw *meter }

// meter tells a rate: a ring of the bytes of the last slots of time.
type meter struct {
	mu    sync.Mutex
	begin time.Time
	slots [meterSlots]int64
	last  int64 // number of the newest slot
}

const (
	meterSlots = 10
	meterSlot  = 200 * time.Millisecond
)

func newMeter() *meter { return &meter{begin: time.Now()} }

// turn forgets the slots that have passed.
func (m *meter) turn() {
	now := int64(time.Since(m.begin) / meterSlot)
	for range min(now-m.last, meterSlots) {
		m.last++
		m.slots[m.last%meterSlots] = 0
	}
	m.last = now
}

func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn()
	m.slots[m.last%meterSlots] += n
}

// rate is in bytes in a second.
func (m *meter) rate() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn()
	var sum int64
	for _, n := range m.slots {
		sum += n
	}
	// The newest slot is not over yet, so what is covered is a little less.
	over := time.Since(m.begin)
	if full := meterSlot * (meterSlots - 1); over > full {
		over = full + over%meterSlot
	}
	return int64(float64(sum) / max(over, meterSlot).Seconds())
}
