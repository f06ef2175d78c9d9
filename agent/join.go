package agent

import (
	"context"
	"os"
	"strings"
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
	address  string // as others dial it
	failover rpc.Caller
	servers  func() []string
}

// openPeerPort opens the port and begins to keep the certificate fresh.
func (a *Agent) openPeerPort(ctx context.Context) error {
	t, err := rpc.NewTLS(a.id.CA, a.id.Cert, a.id.Key)
	if err != nil {
		return api.Errorf(api.CodeConfig, "the node's certificate: %v", err)
	}
	p := &peerPort{tls: t, pool: rpc.NewPool(rpc.NewTransport(t))}
	known := unique(a.cfg.Client.Servers, a.id.Servers, a.cfg.Join.Addresses)
	if len(known) == 0 {
		return api.Errorf(api.CodeConfig, "no server is known").WithHint("set servers in the client block")
	}
	p.servers = func() []string { return known }
	p.failover = p.pool.Failover(func() []string { return p.servers() })
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
	next := *a.id
	next.CA, next.Cert, next.Key = got.CA, got.Cert, key
	if err := next.Save(a.cfg.DataDir); err != nil {
		return err
	}
	return a.peer.tls.Reload(next.CA, next.Cert, next.Key)
}
