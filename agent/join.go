package agent

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/novacron/novacron/agent/fingerprint"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster"
	"github.com/novacron/novacron/cluster/keyring"
	"github.com/novacron/novacron/cluster/rpc"
)

// joinRetry is how long a fresh machine waits between attempts to join: the
// servers may start at the same time.
const joinRetry = 2 * time.Second

// join makes this machine a member: key and request are made here, the servers
// sign. Silence is tried again until the context ends, a refusal is final.
func (a *Agent) join(ctx context.Context) (*cluster.Identity, error) {
	j := a.cfg.Join
	secret := j.Token
	if j.TokenFile != "" {
		b, err := os.ReadFile(j.TokenFile)
		if err != nil {
			return nil, api.Errorf(api.CodeConfig, "the join token: %v", err)
		}
		secret = strings.TrimSpace(string(b))
	}
	facts, err := fingerprint.Find(ctx, fingerprint.Options{})
	if err != nil {
		return nil, err
	}
	role := cluster.RoleClient
	if a.cfg.Server.Enabled {
		role = cluster.RoleServer
	}
	key, _, err := keyring.NewRequest()
	if err != nil {
		return nil, err
	}
	o := cluster.JoinOptions{
		Key:       key, // one for all attempts: an answer that is lost costs nothing
		Addresses: j.Addresses, Secret: secret, Role: role, Name: a.cfg.Name, Region: a.cfg.Region, NodeID: api.NewID(),
		MachineID: facts.MachineID, ProductUUID: facts.ProductUUID,
	}
	for {
		id, err := cluster.Join(ctx, a.cfg.DataDir, o)
		if err == nil {
			a.log.Info("joined", "region", id.Region, "cluster", id.ClusterID, "node", id.NodeID, "role", role)
			return id, nil
		}
		if c := api.CodeOf(err); c != api.CodeUnreachable && c != api.CodeNoLeader {
			return nil, err
		}
		a.log.Warn("no server admits this machine yet", "addresses", j.Addresses, "error", err)
		if !sleep(ctx, joinRetry) {
			return nil, err
		}
	}
}

// sleep waits; false says that the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// peerPort is the one port of an agent without server mode, and its way to the
// servers.
type peerPort struct {
	tls      *rpc.TLS
	pool     *rpc.Pool
	mux      *rpc.Mux
	port     *rpc.Port
	address  string            // as others dial it
	id       *cluster.Identity // as it is stored; with mu
	failover rpc.Caller
	first    []string // servers of the configuration and of the data folder

	mu      sync.Mutex
	learned []string // servers as the servers tell
	denied  map[api.ID]bool
}

// servers are all that are known, those that are newest in front.
func (p *peerPort) servers() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return unique(p.learned, p.first)
}

func (p *peerPort) isDenied(id api.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.denied[id]
}

// heard takes over what came with a heartbeat, and reports what of it is new.
func (p *peerPort) heard(ack *api.NodeBeaten) (servers, denied bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(ack.Servers) > 0 && !sameSet(p.learned, ack.Servers) {
		p.learned, servers = slices.Clone(ack.Servers), true
	}
	next := map[api.ID]bool{}
	for _, id := range ack.Denied {
		next[id] = true
	}
	if !maps.Equal(p.denied, next) {
		p.denied, denied = next, true
	}
	return servers, denied
}

func sameSet(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

// heard follows the answers to heartbeats: the servers may all be others when
// this machine starts next, and whom they deny this port denies too.
func (a *Agent) heard(_ time.Duration, ack *api.NodeBeaten) {
	servers, denied := a.peer.heard(ack)
	if denied {
		a.peer.port.Recheck()
	}
	if !servers {
		return
	}
	if err := a.saveIdentity(func(id *cluster.Identity) { id.Servers = slices.Clone(ack.Servers) }); err != nil {
		a.log.Warn("the servers' addresses are not stored", "error", err)
	}
}

// saveIdentity changes what the data folder says of this machine.
func (a *Agent) saveIdentity(change func(*cluster.Identity)) error {
	a.peer.mu.Lock()
	defer a.peer.mu.Unlock()
	next := *a.peer.id
	change(&next)
	if err := next.Save(a.cfg.DataDir); err != nil {
		return err
	}
	a.peer.id = &next
	return nil
}

// openPeerPort opens the port and begins to keep the certificate fresh.
func (a *Agent) openPeerPort(ctx context.Context) error {
	t, err := rpc.NewTLS(a.id.CA, a.id.Cert, a.id.Key)
	if err != nil {
		return api.Errorf(api.CodeConfig, "the node's certificate: %v", err)
	}
	p := &peerPort{tls: t, pool: rpc.NewPool(rpc.NewTransport(t)), id: a.id}
	t.SetDenied(p.isDenied)
	p.first = unique(a.cfg.Client.Servers, a.id.Servers, a.cfg.Join.Addresses)
	if len(p.first) == 0 {
		return api.Errorf(api.CodeConfig, "no server is known").WithHint("set servers in the client block")
	}
	p.failover = p.pool.Failover(p.servers)
	p.mux = rpc.NewMux(rpc.Options{Router: rpc.Alone(a.id.Region), Pool: p.pool, Logger: a.log.Logger})
	a.peer = p
	if p.port, err = rpc.Listen(ctx, a.cfg.bind(a.cfg.Ports.RPC), t, rpc.PortOptions{Mux: p.mux, Logger: a.log.Logger, Tunnel: a.gate.serve}); err != nil {
		return api.Errorf(api.CodeConfig, "%v", err)
	}
	if p.address, err = a.cfg.advertised(p.port.Addr()); err != nil {
		return err
	}
	a.wg.Go(func() { a.renewCertificate(a.ctx) })
	return nil
}

func (p *peerPort) close() {
	p.mux.Drain()
	if p.port != nil {
		p.port.Close()
	}
	p.mux.Close()
	p.pool.Close()
}

func unique(lists ...[]string) []string {
	var out []string
	seen := map[string]bool{}
	for _, l := range lists {
		for _, s := range l {
			if !seen[s] {
				seen[s] = true
				out = append(out, s)
			}
		}
	}
	return out
}

// The certificate is looked at every renewEvery and renewed at half of its life.
const renewEvery = 10 * time.Minute

// renewCertificate keeps the certificate of a client fresh; servers see to their
// own.
func (a *Agent) renewCertificate(ctx context.Context) {
	for sleep(ctx, renewEvery) {
		left := time.Until(a.peer.tls.Self().Expires)
		if left > keyring.CertLife/2 {
			continue
		}
		if err := a.renewNow(ctx); err != nil {
			a.log.Warn("the node's certificate is not renewed yet", "left", left, "error", err)
		}
	}
}

// renewNow gets a certificate for a new key, stores it and uses it.
func (a *Agent) renewNow(ctx context.Context) error {
	key, csr, err := keyring.NewRequest()
	if err != nil {
		return err
	}
	got := &api.CertRenewed{}
	if err := a.peer.failover.Call(ctx, "Node.Renew", &api.CertRenew{CSR: csr}, got); err != nil {
		return err
	}
	if err := a.saveIdentity(func(id *cluster.Identity) { id.CA, id.Cert, id.Key = got.CA, got.Cert, key }); err != nil {
		return err
	}
	return a.peer.tls.Reload(got.CA, got.Cert, key)
}
