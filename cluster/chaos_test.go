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

	"github.com/shoenig/test/must"
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
	defect defect
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
		var load sync.WaitGroup
		clients := make([]*client, chaosClients)
		for i := range clients {
			clients[i] = c.client(i)
			load.Go(func() { clients[i].run(ctx) })
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
		c.finish()
		r.virtual = time.Since(c.start)
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
	logs := longest(c.hosts)
	if index == 0 || len(logs) == 0 {
		return r
	}
	r.linearizable(c.ops, time.Minute)
	r.checksOnce(c.ops)
	r.sessions(c.ops)
	r.durable(c.ops, r.replay(logs, rand.N(len(logs)), index, hash))
	r.oneLeader(c.acks, logs)
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
		for _, h := range c.hosts {
			if h.server() == nil {
				return false
			}
		}
		return true
	})
	if !ok {
		c.violation("L1 a server does not come back")
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
	var sum chaosSum
	for i := range *chaosN {
		p := chaosPlan{seed: seed + uint64(i), kinds: swarm(seed + uint64(i)), last: *chaosTime}
		sum.add(t, p, runChaos(t, p))
	}
	sum.print(t)
}

// chaosSum adds up runs.
type chaosSum struct {
	runs, void, ops, checked, unknown, faults, terms, violations int
	virtual                                                      time.Duration
	worstLeader, worstWrite                                      time.Duration
	wall                                                         time.Time
}

func (s *chaosSum) add(t *testing.T, p chaosPlan, r *chaosRun) {
	t.Helper()
	if s.wall.IsZero() {
		s.wall = time.Now()
	}
	s.runs++
	s.ops, s.checked, s.unknown, s.faults, s.terms = s.ops+r.ops, s.checked+r.checked, s.unknown+r.unknown, s.faults+r.faults, s.terms+r.terms
	s.virtual += r.virtual
	s.worstLeader, s.worstWrite = max(s.worstLeader, r.leaderIn), max(s.worstWrite, r.writeIn)
	note := ""
	if r.void() {
		s.void++
		note = " VOID"
	}
	t.Logf("seed %d: %d ops (%.0f/s, %d unknown), %d faults in %s, %d terms%s", p.seed, r.ops, r.rate, r.unknown, r.faults, r.virtual.Round(time.Second), r.terms, note)
	for _, k := range slices.Sorted(maps.Keys(r.kinds)) {
		t.Logf("  %-18s %d", k, r.kinds[k])
	}
	for _, w := range r.wrong {
		s.violations++
		t.Errorf("seed %d: %s", p.seed, w)
	}
}

func (s *chaosSum) print(t *testing.T) {
	t.Logf("runs: %d (void: %d), operations: %d (checked by porcupine: %d, unknown writes: %d), faults: %d, terms: %d, virtual hours: %.2f",
		s.runs, s.void, s.ops, s.checked, s.unknown, s.faults, s.terms, s.virtual.Hours())
	t.Logf("after the last fault: a leader in %s, a write in %s at most", s.worstLeader.Round(time.Millisecond), s.worstWrite.Round(time.Millisecond))
	if s.void == s.runs {
		t.Errorf("every run is void: fewer than %d operations a second, or than %d faults", leastRate, leastFaults)
	}
	t.Logf("violations: %d", s.violations)
	must.Zero(t, s.violations)
}
