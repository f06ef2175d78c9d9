package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/serf/serf"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/keyring"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

// TestMain looks for goroutines that were left behind. What ends may take its
// time on a machine that is busy.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		err := goleak.Find()
		for end := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(end); {
			err = goleak.Find() // looks for a while itself
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "goroutines are left:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// world is a network and a gossip pool in memory, for clusters of any region.
type world struct {
	t      *testing.T
	net    *rpc.Memory
	gossip *MemoryGossip
	ca     *keyring.CA
	key    []byte
	addrs  []string // of gossip
}

func newWorld(t *testing.T) *world {
	ca, err := keyring.NewCA(api.NewID(), time.Now())
	must.NoError(t, err)
	return &world{t: t, net: rpc.NewMemory(), gossip: NewMemoryGossip(), ca: ca, key: keyring.NewGossipKey()}
}

// machine is one server, which can be killed and started again.
type machine struct {
	*Server
	cfg    Config
	halted atomic.Pointer[error]
}

// region is the servers of one region.
type region struct {
	w       *world
	name    string
	first   *Identity
	servers []*machine
	token   string
	t       *testing.T
}

func testLogger(t *testing.T) *slog.Logger {
	if os.Getenv("NOVA_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	return slog.New(slog.DiscardHandler)
}

func (w *world) region(name string, servers int, opts ...func(*Config)) *region {
	w.t.Helper()
	r := &region{w: w, name: name, t: w.t}
	if servers > 1 {
		// Leaders must keep their leases while the machine is busy with other work.
		opts = append([]func(*Config){func(c *Config) { c.Multiplier = ProfileNormal }}, opts...)
	}
	for i := range servers {
		id, err := NewIdentity(InitOptions{Region: name, Name: fmt.Sprintf("s%d", i), Authority: w.ca, GossipKey: w.key})
		must.NoError(w.t, err)
		if r.first == nil {
			r.first = id
		} else {
			id.ClusterID, id.RegionID, id.RootKey = r.first.ClusterID, r.first.RegionID, r.first.RootKey
			id.Bootstrap, id.SealedCA = false, nil
		}
		r.start(id, opts...)
	}
	w.t.Cleanup(r.stop)
	r.voters(servers)
	return r
}

// start starts a new server.
func (r *region) start(id *Identity, opts ...func(*Config)) *machine {
	r.t.Helper()
	m := &machine{cfg: Config{
		Identity: id, InMemory: true, Network: r.w.net, Logger: testLogger(r.t).With("server", id.Name+"."+id.Region),
		Multiplier: 0.1, StabilizationTime: 20 * time.Millisecond, HashEvery: -1,
		fastGossip: true, leaveDelay: 10 * time.Millisecond,
	}}
	m.cfg.Halt = func(err error) { m.halted.Store(&err) }
	for _, o := range opts {
		o(&m.cfg)
	}
	r.boot(m)
	r.servers = append(r.servers, m)
	return m
}

func (r *region) boot(m *machine) {
	r.t.Helper()
	g := r.w.gossip.Transport()
	m.cfg.Gossip, m.cfg.Join = g, r.w.addrs
	s, err := New(r.t.Context(), m.cfg)
	must.NoError(r.t, err)
	m.Server = s
	r.w.addrs = append(r.w.addrs[:len(r.w.addrs):len(r.w.addrs)], g.Addr())
}

func (r *region) stop() {
	for _, m := range r.servers {
		if err := m.Close(); err != nil {
			r.t.Errorf("close %s: %v", m.id.Name, err)
		}
		if p := m.halted.Load(); p != nil {
			r.t.Errorf("%s halted: %v", m.id.Name, *p)
		}
	}
}

// eventually waits until a condition holds. Conditions are looked at often and
// are cheap; a test that has to wait longer than this is broken.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not so after a minute: %s", what)
		case <-tick.C:
		}
	}
}

func (r *region) alive() []*machine {
	var out []*machine
	for _, m := range r.servers {
		if m.ctx.Err() == nil {
			out = append(out, m)
		}
	}
	return out
}

func (r *region) leader() *machine {
	r.t.Helper()
	var l *machine
	eventually(r.t, "region "+r.name+" has a leader", func() bool {
		for _, m := range r.alive() {
			// One that was replaced a moment ago may not know it yet.
			if m.IsLeader() && m.ReadIndex(r.t.Context()) == nil {
				l = m
				return true
			}
		}
		return false
	})
	return l
}

func (r *region) follower() *machine {
	r.t.Helper()
	l := r.leader()
	for _, m := range r.alive() {
		if m != l {
			return m
		}
	}
	r.t.Fatal("no follower")
	return nil
}

// voters waits until so many servers vote.
func (r *region) voters(n int) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%d voters in region %s", n, r.name), func() bool { return r.leader().voterCount() == n })
}

// login makes the first management token.
func (r *region) login() string {
	r.t.Helper()
	if r.token == "" {
		eventually(r.t, "the first token is made", func() bool {
			c, err := r.leader().BootstrapToken(r.t.Context())
			if err == nil {
				r.token = c.Secret
			} else if api.CodeOf(err) != api.CodeNoLeader {
				r.t.Fatal(err)
			}
			return err == nil
		})
	}
	return r.token
}

// as is a context with the management token.
func (r *region) as() context.Context {
	return api.WithCall(r.t.Context(), api.Call{Token: r.login()})
}

// call calls an endpoint at a server, as the manager. What the loss of a leader
// left open is asked again, under the same idempotency key.
func call[R any, PR rpc.Msg[R]](r *region, m *machine, method string, req api.Message) (PR, error) {
	r.t.Helper()
	ctx := api.WithCall(r.t.Context(), api.Call{Token: r.login(), IdempotencyKey: api.NewID().String()})
	var out PR
	var err error
	eventually(r.t, method+" has an outcome", func() bool {
		out, err = callIn[R, PR](ctx, m, method, req)
		return !leaderLost(err)
	})
	return out, err
}

// leaderLost reports whether an error only says that the leader changed.
func leaderLost(err error) bool {
	c := api.CodeOf(err)
	return c == api.CodeNoLeader || c == api.CodeUnknown
}

// apply proposes a command at the leader, until one takes it. Commands that may
// be applied twice only.
func (r *region) apply(cmd fsm.Command) *fsm.Result {
	r.t.Helper()
	var res *fsm.Result
	eventually(r.t, "a leader takes the command", func() bool {
		var err error
		if res, err = r.leader().Apply(r.t.Context(), cmd); !leaderLost(err) {
			must.NoError(r.t, err)
		}
		return err == nil
	})
	return res
}

func callIn[R any, PR rpc.Msg[R]](ctx context.Context, m *machine, method string, req api.Message) (PR, error) {
	out := PR(new(R))
	return out, m.Mux().Call(ctx, method, req, out)
}

// mustCall calls at the leader and must succeed.
func mustCall[R any, PR rpc.Msg[R]](r *region, method string, req api.Message) PR {
	r.t.Helper()
	out, err := call[R, PR](r, r.leader(), method, req)
	must.NoError(r.t, err, must.Sprint(method))
	return out
}

// converge waits until all servers have applied the same and compares their
// states by hash.
func (r *region) converge() {
	r.t.Helper()
	least := r.apply(noop()).Index
	eventually(r.t, "equal states", func() bool {
		var states []*fsm.State
		for _, m := range r.alive() {
			st := m.fsm.State()
			if states = append(states, st); st.Index() < least || st.Index() != states[0].Index() {
				return false
			}
		}
		for _, st := range states[1:] {
			must.Eq(r.t, states[0].Hash(), st.Hash(), must.Sprintf("hashes at index %d", st.Index()))
		}
		return true
	})
}

func code(c api.Code) error { return &api.Error{Code: c} }

func testSpec(name string) api.VMSpec {
	return api.VMSpec{Name: name, CPU: api.CPUSpec{Cores: 1}, Memory: 256 * api.MiB, Disks: []api.Disk{{Name: "root", Size: api.GiB}}}
}

func TestOneServerBoots(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	st := mustCall[api.StatusResponse](r, "Status.Leader", &api.ListRequest{})
	must.Eq(t, "eu", st.Region)
	must.Eq(t, r.first.ClusterID, st.ClusterID)
	must.Eq(t, r.first.NodeID, st.LeaderID)
	must.Eq(t, 1, st.Voters)
	must.Eq(t, 1, st.Generation)
	must.True(t, st.KnownLeader)
}

func TestThreeServersAgree(t *testing.T) {
	r := newWorld(t).region("eu", 3)
	for i, m := range r.servers {
		_, err := call[api.NamespaceResponse](r, m, "Namespace.Apply", &api.NamespaceApply{Namespace: api.Namespace{Name: fmt.Sprintf("ns%d", i)}})
		must.NoError(t, err)
	}
	got := mustCall[api.NamespaceListResponse](r, "Namespace.List", &api.ListRequest{})
	var names []string
	for _, n := range got.Items {
		names = append(names, n.Name)
	}
	must.Eq(t, "default ns0 ns1 ns2", strings.Join(names, " "))
	r.converge()
}

// noop is a command that only moves the index.
func noop() *fsm.Hash { return &fsm.Hash{} }

func deny(id api.ID) *fsm.NodeDeny { return &fsm.NodeDeny{NodeID: id, Reason: "stolen"} }

func members(tags map[string]string) []*serf.Member {
	return []*serf.Member{{Name: "x", Tags: tags, Status: serf.StatusAlive}}
}
