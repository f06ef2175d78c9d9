package rpc_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/keyring"
	"github.com/novacron/novacron/cluster/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const goodToken = "nova.boss.secret"

// router is a Router that tests move about.
type router struct {
	region string

	mu      sync.Mutex
	leads   bool
	leader  string
	changed chan struct{}
	regions map[string][]string
	next    int
	index   func(context.Context) error
	reads   int
}

func newRouter(region string) *router {
	return &router{region: region, changed: make(chan struct{}), regions: map[string][]string{}}
}

func (r *router) Region() string { return r.region }
func (r *router) IsLeader() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leads
}
func (r *router) Leader() (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leader, r.leader != ""
}
func (r *router) LeaderChanged() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}
func (r *router) ServerIn(region string) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.regions[region]
	if len(l) == 0 {
		return "", false
	}
	r.next++
	return l[r.next%len(l)], true
}
func (r *router) ReadIndex(ctx context.Context) error {
	r.mu.Lock()
	r.reads++
	f := r.index
	r.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(ctx)
}

// set says who leads now.
func (r *router) set(leads bool, leader string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leads, r.leader = leads, leader
	close(r.changed)
	r.changed = make(chan struct{})
}

var boss = &acl.Identity{Role: acl.RoleUser, Accessor: api.ID{1}, Name: "boss", Management: true}

// auth knows goodToken and "ns:<name>", a token for one namespace.
var auth = rpc.AuthFunc(func(_ context.Context, token string) (*acl.Identity, error) {
	if token == goodToken {
		return boss, nil
	}
	if ns, ok := strings.CutPrefix(token, "ns:"); ok {
		return &acl.Identity{Role: acl.RoleUser, Accessor: api.ID{2}, Name: ns, Grants: []acl.Grant{
			{Capability: acl.ReadVM, Namespace: ns}, {Capability: acl.WriteVM, Namespace: ns},
		}}, nil
	}
	if token == "cert" {
		return &acl.Identity{Role: acl.RoleServer}, nil
	}
	return nil, api.Errorf(api.CodeUnauthenticated, "unknown token")
})

// as returns a context with a token.
func as(token string) context.Context {
	return api.WithCall(context.Background(), api.Call{Token: token})
}

// authority makes certificates.
type authority struct {
	t  testing.TB
	ca *keyring.CA
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	ca, err := keyring.NewCA(api.NewID(), time.Now())
	must.NoError(t, err)
	return &authority{t, ca}
}

func certName(role, region string) api.CertName {
	return api.CertName{Region: region, Role: role, NodeID: api.NewID()}
}

// issue signs a certificate as of a time.
func (a *authority) issue(n api.CertName, at time.Time) (cert, key []byte) {
	a.t.Helper()
	key, csr, err := keyring.NewRequest()
	must.NoError(a.t, err)
	cert, err = a.ca.Sign(csr, n, at)
	must.NoError(a.t, err)
	return cert, key
}

func (a *authority) tls(n api.CertName) *rpc.TLS {
	a.t.Helper()
	cert, key := a.issue(n, time.Now())
	t, err := rpc.NewTLS(a.ca.CertPEM(), cert, key)
	must.NoError(a.t, err)
	return t
}

// network is where a suite runs: TLS on loopback, or memory.
type network interface {
	// serve opens a port for a machine and returns its address.
	serve(n api.CertName, m *rpc.Mux) string
	// pool makes a machine's pool.
	pool(n api.CertName) *rpc.Pool
}

type tlsNet struct {
	t *testing.T
	a *authority
}

func (n *tlsNet) serve(name api.CertName, m *rpc.Mux) string {
	p, err := rpc.Listen(n.t.Context(), "127.0.0.1:0", n.a.tls(name), rpc.PortOptions{Mux: m, Raft: true})
	must.NoError(n.t, err)
	n.t.Cleanup(func() { p.Close(); m.Close() })
	return p.Addr().String()
}

func (n *tlsNet) pool(name api.CertName) *rpc.Pool {
	p := rpc.NewPool(rpc.NewTransport(n.a.tls(name)))
	n.t.Cleanup(p.Close)
	return p
}

type memNet struct {
	t   *testing.T
	mem *rpc.Memory
}

func (n *memNet) serve(name api.CertName, m *rpc.Mux) string {
	p, err := n.mem.Listen(name.NodeID.Short()+":7647", name, m)
	must.NoError(n.t, err)
	n.t.Cleanup(func() { p.Close(); m.Close() })
	return p.Addr().String()
}

func (n *memNet) pool(name api.CertName) *rpc.Pool {
	p := rpc.NewPool(n.mem.Transport(name.NodeID.Short()+":7647", name))
	n.t.Cleanup(p.Close)
	return p
}

// onBoth runs a suite over TLS and in memory: the twin must not be told apart.
func onBoth(t *testing.T, suite func(t *testing.T, n network)) {
	t.Run("tls", func(t *testing.T) { suite(t, &tlsNet{t, newAuthority(t)}) })
	t.Run("memory", func(t *testing.T) { suite(t, &memNet{t, rpc.NewMemory()}) })
}

// box is a server of a region with endpoints of every kind.
type box struct {
	name   api.CertName
	router *router
	mux    *rpc.Mux
	addr   string
	log    *logBuffer

	mu   sync.Mutex
	seen []seen
}

// seen is what a handler saw.
type seen struct {
	id   *acl.Identity
	call api.Call
	peer rpc.Peer
}

func (b *box) note(ctx context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, seen{rpc.IdentityFrom(ctx), api.CallFrom(ctx), rpc.PeerFrom(ctx)})
}

func (b *box) calls() []seen {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]seen(nil), b.seen...)
}

type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newBox makes a server that leads its region.
func newBox(n network, region string, change func(*rpc.Options)) *box {
	b := &box{name: certName(api.RoleServer, region), router: newRouter(region), log: new(logBuffer)}
	b.router.leads = true
	o := rpc.Options{Router: b.router, Auth: auth, Logger: slog.New(slog.NewTextHandler(b.log, nil))}
	if n != nil {
		o.Pool = n.pool(b.name)
	}
	if change != nil {
		change(&o)
	}
	b.mux = rpc.NewMux(o)
	b.endpoints()
	if n != nil {
		b.addr = n.serve(b.name, b.mux)
	}
	return b
}

// endpoints registers one of every kind. The answer's key says who answered.
func (b *box) endpoints() {
	answer := func(ctx context.Context, q *api.GetRequest) (*api.VMResponse, error) {
		b.note(ctx)
		return &api.VMResponse{VM: &api.VM{ID: b.name.NodeID}}, nil
	}
	write := func(ctx context.Context, q *api.DeleteRequest) (*api.WriteMeta, error) {
		b.note(ctx)
		switch q.Key {
		case "panic":
			panic("a bug with a secret")
		case "plain":
			return nil, context.Canceled
		case "internal":
			return nil, errSecret
		case "nothing":
			return nil, nil
		case "wait":
			<-ctx.Done()
			return nil, ctx.Err()
		case "coded":
			return nil, api.Errorf(api.CodeConflict, "changed").WithHint("look").WithDetail("spec.cpu", "is %d", 3)
		}
		return &api.WriteMeta{Index: 7}, nil
	}
	rpc.Read(b.mux, "VM.Get", acl.ReadVM, answer)
	rpc.Write(b.mux, "VM.Delete", acl.WriteVM, write)
	rpc.Any(b.mux, "VM.Near", acl.ReadVM, answer)
	rpc.Read(b.mux, "Status.Leader", acl.None, answer)
	rpc.Server(b.mux, "Server.Stats", acl.ServerSelf, answer)
	rpc.Local(b.mux, "Agent.Ping", acl.ServerSelf, answer)
	rpc.Peering(b.mux, "Agent.Hello", acl.Member, answer)
	rpc.Node(b.mux, "Node.Beat", acl.NodeSelf, func(ctx context.Context, q *api.NodeBeat) (*api.NodeBeaten, error) {
		b.note(ctx)
		return &api.NodeBeaten{Seq: q.Seq}, nil
	})
	rpc.Node(b.mux, "Node.Report", acl.NodeSelf, func(ctx context.Context, q *api.NodeReport) (*api.WriteMeta, error) {
		b.note(ctx)
		return &api.WriteMeta{Index: api.Index(len(q.VMs))}, nil
	})
	b.streams()
}

func vmID(r *api.VMResponse) api.ID {
	if r.VM == nil {
		return api.ID{}
	}
	return r.VM.ID
}

type secretError struct{}

func (secretError) Error() string { return "password=hunter2" }

var errSecret = secretError{}
