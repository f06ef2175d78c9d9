package cluster

import (
	"context"
	"flag"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	chaosN    = flag.Int("chaos.n", 3, "how many clusters to put under faults")
	chaosSeed = flag.Uint64("chaos.seed", 0, "the seed of the first one (0: any)")
	chaosTime = flag.Duration("chaos.time", time.Minute, "how long the faults last in each, in virtual time")
)

// chaosPlan is one run.
type chaosPlan struct {
	seed   uint64
	kinds  []fault
	last   time.Duration
	spares int // servers that may join
	defect defect
	find   string // the trouble ends when this is found
	// compact makes snapshots often and keeps few entries, so that servers that
	// were away are sent snapshots.
	compact bool
}

// planOf is the plan of a seed.
func planOf(seed uint64) chaosPlan {
	return chaosPlan{seed: seed, kinds: swarm(seed), last: *chaosTime, spares: 1, compact: seed%2 == 0}
}

// The traffic and the trouble without which a run says nothing.
const (
	leastRate   = 50 // operations a second
	leastFaults = 5
)

// outcome of one run.
type chaosRun struct {
	verdict
	ops, faults int
	rate        float64
	virtual     time.Duration
	unknown     int
	kinds       map[string]int
	leaderIn    time.Duration // after the faults
	writeIn     time.Duration
	terms       int
	sent        int  // snapshots that a server got from another
	replayed    bool // some server has a whole log, so that F2 and S2 were checked against it
}

func (r *chaosRun) void() bool {
	return r.rate < leastRate || r.faults < leastFaults || r.undecided > 0
}

// runChaos runs one cluster under a plan and checks what it did.
func runChaos(t *testing.T, p chaosPlan) *chaosRun {
	t.Helper()
	r := &chaosRun{}
	var c *chaos
	var index uint64
	var hash [32]byte
	synctest.Test(t, func(t *testing.T) {
		c = newChaos(t, p)
		c.settle()
		from := time.Now()
		ctx, cancel := context.WithCancel(context.Background())
		trouble, calm := context.WithTimeout(ctx, p.last)
		c.enough = calm
		var load sync.WaitGroup
		clients := make([]*client, chaosClients)
		for i := range clients {
			clients[i] = c.client(i)
			load.Go(func() { clients[i].run(ctx) })
		}
		if p.compact {
			load.Go(func() { c.compact(ctx) })
		}
		c.nemesis(trouble, p.kinds)
		calm()
		r.recover(c)
		r.rate = float64(len(c.ops)) / time.Since(from).Seconds()
		cancel()
		load.Wait()
		last := c.client(chaosClients)
		last.final()
		index, hash = c.agree()
		r.virtual = time.Since(c.start)
		c.finish()
	})
	r.wrong = append(r.wrong, c.wrong...)
	r.ops, r.kinds, r.terms = len(c.ops), c.faults, len(c.leaders)
	for _, n := range c.faults {
		r.faults += n
	}
	for i := range c.ops {
		if c.ops[i].result == resultUnknown && c.ops[i].kind.write() {
			r.unknown++
		}
	}
	r.linearizable(c.ops, time.Minute)
	r.checksOnce(c.ops)
	r.sessions(c.ops)
	for _, h := range c.hosts {
		r.sent += h.disk.sent
	}
	if logs := longest(c.hosts); index != 0 && len(logs) > 0 {
		r.replayed = true
		r.durable(c.ops, r.replay(logs, rand.N(len(logs)), index, hash))
		r.oneLeader(c.acks, logs)
	}
	return r
}

// recover waits for the cluster to work after the last fault (L1).
func (r *chaosRun) recover(c *chaos) {
	var ok bool
	if r.leaderIn, ok = waitFor(10*time.Second, func() bool { return c.leader() != nil }); !ok {
		c.violation("L1 no leader 10 s after the last fault")
	}
	writes := func() (n int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for i := len(c.ops) - 1; i >= 0 && i > len(c.ops)-200; i-- {
			if c.ops[i].kind.write() && c.ops[i].result == resultOK {
				return i
			}
		}
		return -1
	}
	before := writes()
	if r.writeIn, ok = waitFor(15*time.Second-r.leaderIn, func() bool { return writes() > before }); !ok {
		c.violation("L1 no write 15 s after the last fault")
	}
	r.writeIn += r.leaderIn
	_, ok = waitFor(30*time.Second, func() bool {
		for _, h := range c.members() {
			if h.server() == nil {
				return false
			}
		}
		return true
	})
	if !ok {
		c.violation("L1 a server does not come back")
	}
	_, ok = waitFor(2*time.Minute, func() bool {
		for _, h := range c.members() {
			if !c.votes(h) {
				return false
			}
		}
		return true
	})
	if !ok {
		c.violation("L1 a server does not vote two minutes after the last fault")
	}
}

// final reads every key once more, so that the history ends with what is there.
func (cl *client) final() {
	defer cl.pool.Close()
	for k := range chaosKeys {
		for range 10 {
			o := op{client: cl.n, kind: opGet, key: keyName(k)}
			cl.do(&o)
			if o.result == resultOK {
				break
			}
		}
	}
}

// TestChaos runs the cluster under random faults and checks what it promises.
func TestChaos(t *testing.T) {
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	sum := chaosSum{wall: time.Now()}
	for good := 0; good < *chaosN && sum.void <= *chaosN; seed++ {
		p := planOf(seed)
		r := runChaos(t, p)
		sum.add(t, p, r)
		if !r.void() {
			good++
		}
	}
	sum.print(t)
}

// chaosSum adds up runs.
type chaosSum struct {
	runs, void, ops, checked, unknown, faults, terms, sent, replayed, violations int
	virtual                                                                      time.Duration
	worstLeader, worstWrite                                                      time.Duration
	wall                                                                         time.Time
}

func (s *chaosSum) add(t *testing.T, p chaosPlan, r *chaosRun) {
	t.Helper()
	s.runs++
	s.ops, s.checked, s.unknown, s.faults, s.terms = s.ops+r.ops, s.checked+r.checked, s.unknown+r.unknown, s.faults+r.faults, s.terms+r.terms
	s.virtual += r.virtual
	s.sent += r.sent
	if r.replayed {
		s.replayed++
	}
	s.worstLeader, s.worstWrite = max(s.worstLeader, r.leaderIn), max(s.worstWrite, r.writeIn)
	note := ""
	if r.void() {
		s.void++
		note = " VOID"
	}
	t.Logf("seed %d: %d ops (%.0f/s, %d unknown), %d faults in %s, %d terms, %d snapshots sent%s", p.seed, r.ops, r.rate, r.unknown, r.faults, r.virtual.Round(time.Second), r.terms, r.sent, note)
	for _, k := range slices.Sorted(maps.Keys(r.kinds)) {
		t.Logf("  %-18s %d", k, r.kinds[k])
	}
	for _, w := range r.wrong {
		s.violations++
		t.Errorf("seed %d: %s", p.seed, w)
	}
}

func (s *chaosSum) print(t *testing.T) {
	t.Logf("runs: %d (void: %d, compared with the whole log: %d), operations: %d (checked by porcupine: %d, unknown writes: %d)", s.runs, s.void, s.replayed, s.ops, s.checked, s.unknown)
	t.Logf("faults: %d, terms: %d, snapshots sent: %d, virtual hours: %.2f, in %s", s.faults, s.terms, s.sent, s.virtual.Hours(), time.Since(s.wall).Round(time.Second))
	t.Logf("after the last fault: a leader in %s, a write in %s at most", s.worstLeader.Round(time.Millisecond), s.worstWrite.Round(time.Millisecond))
	if s.void > s.runs/2 {
		t.Errorf("%d of %d runs are void: they had fewer than %d operations a second, or than %d faults", s.void, s.runs, leastRate, leastFaults)
	}
	t.Logf("violations: %d", s.violations)
}
