package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/keyring"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

// chaos is a cluster of three real servers inside testing/synctest, on a network
// and on disks that are simulated and fail.
type chaos struct {
	t      *testing.T
	plan   chaosPlan
	rng    *rand.Rand // of the nemesis only
	start  time.Time
	net    *rpc.Memory
	gossip *MemoryGossip
	hosts  []*host
	token  string
	log    *slog.Logger
	wg     sync.WaitGroup
	enough func() // ends the trouble

	mu      sync.Mutex
	cuts    map[cut]int       // how many faults hold a way back
	gossips map[string]string // a gossip address: its host's
	joins   map[string]string // a host's address: that of its newest gossip
	faults  map[string]int
	wrong   []string
	acks    []ack
	leaders map[uint64]string // by term
	ops     []op
}

// ack is a write that a server's Raft called committed.
type ack struct {
	index  uint64
	server string
}

// cut is a way from one host to another, of the one port or of gossip.
type cut struct {
	from, to string
	gossip   bool
}

// host is the machine of one server. The server on it is killed and started
// again; its disk stays.
type host struct {
	c    *chaos
	name string
	addr string
	stop chan struct{} // closed when the simulation ends

	mu    sync.Mutex
	id    *Identity
	disk  *simDisk
	life  *life
	power chan struct{} // closed: there is power
	offs  int           // how many have taken the power away
	spare bool          // it was never on
	moved bool          // its gossip has another address from the next start
}

// life is one run of a server.
type life struct {
	h      *host
	srv    *Server // nil until it is up
	mount  *simMount
	member *MemoryMember
	once   sync.Once
	dead   chan struct{}
}

const chaosServers = 3

func newChaos(t *testing.T, p chaosPlan) *chaos {
	c := &chaos{
		t: t, plan: p, rng: rand.New(rand.NewPCG(p.seed, 1)), start: time.Now(), net: rpc.NewMemory(), gossip: NewMemoryGossip(),
		log: slog.New(slog.DiscardHandler), cuts: map[cut]int{}, gossips: map[string]string{}, joins: map[string]string{}, faults: map[string]int{}, leaders: map[uint64]string{},
	}
	if os.Getenv("NOVA_TEST_LOG") != "" {
		c.log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	// No message arrives in no time: time would stand still while two servers
	// answer each other.
	c.net.SetLatency(func(_, _ string) time.Duration { return latency() })
	c.gossip.SetWay(func(from, to string) (time.Duration, bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return latency(), c.cuts[cut{c.gossips[from], c.gossips[to], true}] == 0
	})
	ca, err := keyring.NewCA(api.NewID(), time.Now())
	must.NoError(t, err)
	key := keyring.NewGossipKey()
	var first *Identity
	for i := range chaosServers + p.spares {
		id, err := NewIdentity(InitOptions{Region: "eu", Name: fmt.Sprintf("s%d", i+1), Authority: ca, GossipKey: key})
		must.NoError(t, err)
		if first == nil {
			first = id
		} else {
			id.ClusterID, id.RegionID, id.RootKey = first.ClusterID, first.RegionID, first.RootKey
			id.Bootstrap, id.SealedCA = false, nil
		}
		h := &host{c: c, name: id.Name, addr: id.Name + ":7647", id: id, disk: newSimDisk(), stop: make(chan struct{}), power: make(chan struct{})}
		if h.spare = i >= chaosServers; h.spare {
			h.offs = 1
		} else {
			close(h.power)
		}
		p.defect.disk(h)
		c.hosts = append(c.hosts, h)
	}
	for _, h := range c.hosts {
		c.wg.Go(h.keep)
	}
	return c
}

// latency is that of one message: 1 to 5 ms, and now and then much more.
func latency() time.Duration {
	d := time.Millisecond + rand.N(4*time.Millisecond)
	if rand.N(200) == 0 {
		d += rand.N(60 * time.Millisecond)
	}
	return d
}

func (c *chaos) violation(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrong = append(c.wrong, fmt.Sprintf("%8.3fs ", time.Since(c.start).Seconds())+fmt.Sprintf(format, args...))
	if c.plan.find != "" && c.enough != nil && strings.Contains(c.wrong[len(c.wrong)-1], c.plan.find) {
		c.enough()
	}
}

func (c *chaos) seen(fault string) {
	c.log.Info("fault", "kind", fault, "at", time.Since(c.start))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults[fault]++
}

// keep starts the server when there is power, and again whenever it has ended,
// until stop.
func (h *host) keep() {
	for h.powered() {
		l := h.boot()
		if l == nil {
			return
		}
		select {
		case <-l.dead:
		case <-h.stop:
		}
		if err := l.srv.Abort(); err != nil {
			h.c.log.Info("abort", "server", h.name, "error", err)
		}
		l.end()
		select {
		case <-h.stop:
			return
		case <-time.After(time.Second + rand.N(2*time.Second)):
		}
	}
}

// powered waits for the power; it reports false when the simulation ends.
func (h *host) powered() bool {
	for {
		h.mu.Lock()
		power, on := h.power, h.offs == 0
		h.mu.Unlock()
		if on {
			return true
		}
		select {
		case <-power:
		case <-h.stop:
			return false
		}
	}
}

// boot starts the server; a crash may come while it starts.
func (h *host) boot() *life {
	c := h.c
	for {
		select {
		case <-h.stop:
			return nil
		default:
		}
		l := &life{h: h, dead: make(chan struct{})}
		h.mu.Lock()
		id, disk := *h.id, h.disk
		if h.life != nil && !h.moved {
			l.member = c.gossip.Again(h.life.member)
		} else {
			l.member = c.gossip.Transport()
		}
		h.moved = false
		h.mu.Unlock()
		var wrong string
		if l.mount, wrong = disk.mount(); wrong != "" {
			c.violation("F19 %s: %s", h.name, wrong)
		}
		l.mount.onTear = l.end
		l.mount.onTwice = func(vote string) { c.violation("S6 %s has voted twice in one term: %s", h.name, vote) }
		c.mu.Lock()
		c.gossips[l.member.Addr()] = h.addr
		cfg := Config{
			Identity: &id, InMemory: true, Network: c.net, Gossip: l.member, Join: c.others(h), Advertise: h.addr,
			Logger: c.log.With("server", h.name), StabilizationTime: 500 * time.Millisecond, HashEvery: 5 * time.Second,
			Clock:  func() time.Duration { return time.Since(c.start) },
			Stores: &Stores{Logs: simLogs{l.mount}, Snapshots: simSnaps{l.mount}, disk: l.mount},
			Halt:   l.halt, leaveDelay: 10 * time.Millisecond,
			outcome: func(f raft.ApplyFuture) (any, error) { return h.outcome(f) },
		}
		c.joins[h.addr] = l.member.Addr()
		c.mu.Unlock()
		c.plan.defect.config(&cfg)
		h.mu.Lock()
		h.life = l
		h.mu.Unlock()
		c.net.Up(h.addr)
		s, err := New(context.Background(), cfg)
		if err == nil {
			h.mu.Lock()
			l.srv = s
			h.mu.Unlock()
			s.raft.RegisterObserver(raft.NewObserver(nil, false, h.observe))
			if c.plan.compact {
				rc := s.raft.ReloadableConfig()
				rc.TrailingLogs = 100 // the snapshots are made by compact
				if err := s.raft.ReloadConfig(rc); err != nil {
					c.violation("%s: %v", h.name, err)
				}
			}
			return l
		}
		select {
		case <-l.dead:
		default:
			c.violation("%s does not start: %v", h.name, err)
		}
		l.end()
		pauseFor(time.Second, h.stop)
	}
}

// observe notes who leads a term. Raft calls it at each change of its state.
func (h *host) observe(o *raft.Observation) bool {
	if st, ok := o.Data.(raft.RaftState); ok && st == raft.Leader {
		h.c.leads(o.Raft.CurrentTerm(), h.name)
	}
	return false
}

func (c *chaos) leads(term uint64, server string) {
	c.mu.Lock()
	other := c.leaders[term]
	c.leaders[term] = server
	c.mu.Unlock()
	if other != "" && other != server {
		c.violation("S6 %s and %s were both elected in term %d", other, server, term)
	}
}

// outcome notes what a server's Raft calls committed.
func (h *host) outcome(f raft.ApplyFuture) (any, error) {
	if err := f.Error(); err != nil {
		return nil, err
	}
	h.c.mu.Lock()
	h.c.acks = append(h.c.acks, ack{f.Index(), h.name})
	h.c.mu.Unlock()
	return f.Response(), nil
}

// halt is the end of the process by its own will: allowed when the disk is ill.
func (l *life) halt(err error) {
	select {
	case <-l.dead:
		return
	default:
	}
	if !l.mount.sick() {
		l.h.c.violation("%s halted: %v", l.h.name, err)
	}
	l.h.c.log.Info("halted", "server", l.h.name, "error", err)
	l.end()
}

// end is the loss of power: nothing leaves the server any more, then nothing
// reaches its disk.
func (l *life) end() {
	l.once.Do(func() {
		l.h.c.net.Down(l.h.addr)
		l.mount.crash()
		_ = l.member.Shutdown()
		close(l.dead)
	})
}

// server returns the running server, or nil.
func (h *host) server() *Server {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.life == nil || h.life.srv == nil {
		return nil
	}
	select {
	case <-h.life.dead:
		return nil
	default:
		return h.life.srv
	}
}

func (h *host) now() *life {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.life
}

// off takes the power away, until what it returns is called. Faults may overlap:
// the last one gives it back.
func (h *host) off() (on func()) {
	h.mu.Lock()
	if h.offs++; h.offs == 1 {
		h.power = make(chan struct{})
	}
	l := h.life
	h.mu.Unlock()
	if l != nil {
		l.end()
	}
	return h.on
}

func (h *host) on() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.spare = false
	if h.offs--; h.offs == 0 {
		close(h.power)
	}
}

// others are the newest gossip addresses of the other hosts. The caller holds the
// lock.
func (c *chaos) others(h *host) (addrs []string) {
	for _, o := range c.hosts {
		if a := c.joins[o.addr]; o != h && a != "" {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// leader returns the host whose server leads, or nil.
func (c *chaos) leader() *host {
	for _, h := range c.hosts {
		if s := h.server(); s != nil && s.IsLeader() {
			return h
		}
	}
	return nil
}

// What a fault may hold back between two hosts.
const (
	wayPort = 1 << iota // Raft and RPC
	wayGossip
)

// block holds back what goes from one address to another; faults may overlap.
func (c *chaos) block(from, to string, what int) (undo func()) {
	change := func(by int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if what&wayGossip != 0 {
			c.cuts[cut{from, to, true}] += by
		}
		if what&wayPort == 0 {
			return
		}
		k := cut{from, to, false}
		if c.cuts[k] += by; c.cuts[k] == 0 {
			c.net.Unblock(from, to)
		} else {
			c.net.Block(from, to)
		}
	}
	change(1)
	return func() { change(-1) }
}

// waitFor looks at a condition until it holds or the time is over.
func waitFor(d time.Duration, ok func() bool) (time.Duration, bool) {
	start := time.Now()
	for !ok() {
		if time.Since(start) > d {
			return time.Since(start), false
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(start), true
}

// settle waits for the first leader of three voters and makes the token.
func (c *chaos) settle() {
	_, ok := waitFor(time.Minute, func() bool {
		h := c.leader()
		if h == nil {
			return false
		}
		s := h.server()
		if s == nil || s.voterCount() != chaosServers {
			return false
		}
		out, err := s.BootstrapToken(context.Background())
		if err == nil {
			c.token = out.Secret
		}
		return err == nil
	})
	if !ok {
		c.t.Fatal("the cluster does not come up")
	}
}

// finish ends all servers and waits for everything that was started.
func (c *chaos) finish() {
	for _, h := range c.hosts {
		close(h.stop)
	}
	c.wg.Wait()
	time.Sleep(time.Minute) // memberlist does not wait for the end of its probes
}

// agree waits until every server has the same state at one index and compares
// the hashes (F1). It returns that index and hash.
func (c *chaos) agree() (index uint64, hash [32]byte) {
	var states []*fsm.State
	_, ok := waitFor(time.Minute, func() bool {
		states = nil
		for _, h := range c.members() {
			s := h.server()
			if s == nil {
				return false
			}
			st := s.fsm.State()
			if states = append(states, st); st.Index() != states[0].Index() {
				return false
			}
		}
		return true
	})
	if !ok {
		c.violation("F1 the servers do not come to one index")
		return 0, hash
	}
	sums := map[[32]byte]int{}
	for _, st := range states {
		sums[st.Hash()]++
	}
	if len(sums) != 1 {
		c.violation("F1 at index %d the servers hold %d different states", states[0].Index(), len(sums))
	}
	for hash = range maps.Keys(sums) {
	}
	return states[0].Index(), hash
}
