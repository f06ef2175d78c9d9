package cluster

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/keyring"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

// InitOptions say what cluster to make.
type InitOptions struct {
	Region string // default "global"
	Name   string // of this server; default: the host's name
	NodeID api.ID // default: a new one
	// Authority and GossipKey, if set, are those of another region, so that the
	// two can form a federation.
	Authority *keyring.CA
	GossipKey []byte
	Now       time.Time
}

// NewIdentity makes a cluster: its id and that of its region, the CA, the root
// key, the gossip key, and a server that is to start a Raft of one voter. It
// writes nothing.
func NewIdentity(o InitOptions) (*Identity, error) {
	if o.Region == "" {
		o.Region = "global"
	}
	if o.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, err
		}
		o.Name = host
	}
	if o.NodeID.IsZero() {
		o.NodeID = api.NewID()
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	id := &Identity{
		ClusterID: api.NewID(), RegionID: api.NewID(), Region: o.Region, NodeID: o.NodeID, Name: o.Name,
		Role: RoleServer, Bootstrap: true, RootKey: keyring.NewRootKey(), GossipKey: o.GossipKey,
	}
	if !api.ValidRegion(o.Region) {
		return nil, api.Errorf(api.CodeInvalid, "%q is not a region name", o.Region)
	}
	if id.GossipKey == nil {
		id.GossipKey = keyring.NewGossipKey()
	}
	ca := o.Authority
	var err error
	if ca == nil {
		if ca, err = keyring.NewCA(id.ClusterID, o.Now); err != nil {
			return nil, err
		}
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return nil, err
	}
	if id.SealedCA, err = id.RootKey.Seal(key, caPlace(id.ClusterID)); err != nil {
		return nil, err
	}
	return id, id.sign(ca, o.Now)
}

// sign gives the machine a key and a certificate.
func (id *Identity) sign(ca *keyring.CA, now time.Time) error {
	key, csr, err := keyring.NewRequest()
	if err != nil {
		return err
	}
	cert, err := ca.Sign(csr, api.CertName{Region: id.Region, Role: id.Role, NodeID: id.NodeID}, now)
	if err != nil {
		return err
	}
	id.CA, id.Cert, id.Key = ca.CertPEM(), cert, key
	return nil
}

// Init makes a cluster in an empty data folder (mode 0700). The server starts
// with New on the same folder.
func Init(dir string, o InitOptions) (*Identity, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := unstamped(dir); err != nil {
		return nil, err
	}
	id, err := NewIdentity(o)
	if err != nil {
		return nil, err
	}
	return id, id.Save(dir)
}

// JoinOptions say how to join a cluster.
type JoinOptions struct {
	Addresses   []string // host:port of servers' RPC; the first that answers is used
	Secret      string   // of a join token
	Role        string   // server or client
	Name        string
	NodeID      api.ID // default: a new one
	Region      string // if set, the region that is expected
	MachineID   string
	ProductUUID string
	// Key is the private key (PEM); default: a new one. Who tries again with the
	// same key and node id pays one use of the token only.
	Key []byte
}

// Join joins a cluster and stamps an empty data folder with it. The server's
// chain must lead to the CA whose hash stands in the secret; the private key
// never leaves this machine.
func Join(ctx context.Context, dir string, o JoinOptions) (*Identity, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := unstamped(dir); err != nil {
		return nil, err
	}
	if o.NodeID.IsZero() {
		o.NodeID = api.NewID()
	}
	key, csr, err := o.Key, []byte(nil), error(nil)
	if key == nil {
		key, csr, err = keyring.NewRequest()
	} else {
		csr, err = keyring.RequestFor(key)
	}
	if err != nil {
		return nil, err
	}
	req := api.JoinRequest{
		Role: o.Role, NodeID: o.NodeID, Name: o.Name, MachineID: o.MachineID, ProductUUID: o.ProductUUID, CSR: csr,
		SchemaMax: fsm.DefaultRegistry().Newest(),
	}
	resp, err := joinAny(ctx, o, req)
	if err != nil {
		return nil, err
	}
	id := &Identity{
		ClusterID: resp.ClusterID, RegionID: resp.RegionID, Region: resp.Region, NodeID: o.NodeID, Name: o.Name, Role: o.Role,
		Servers: resp.Servers, Serf: resp.Serf, CA: resp.CA, Cert: resp.Cert, Key: key, GossipKey: resp.GossipKey,
	}
	if o.Region != "" && o.Region != id.Region {
		return nil, api.Errorf(api.CodeConfig, "the servers there are of region %q, the configuration says %q", id.Region, o.Region)
	}
	if o.Role == RoleServer {
		if id.RootKey, err = keyring.RootKeyFrom(resp.RootKey); err != nil {
			return nil, api.Errorf(api.CodeJoinRefused, "the answer is not usable: %v", err)
		}
	}
	return id, id.Save(dir)
}

// joinAny asks the servers one after the other; a refusal is final, silence is not.
func joinAny(ctx context.Context, o JoinOptions, req api.JoinRequest) (*api.JoinResponse, error) {
	if len(o.Addresses) == 0 {
		return nil, api.Errorf(api.CodeConfig, "no address of a server to join")
	}
	var errs []error
	for _, addr := range o.Addresses {
		resp, err := rpc.Join(ctx, addr, o.Secret, req)
		if err == nil {
			return resp, nil
		}
		errs = append(errs, err)
		if c := api.CodeOf(err); c != api.CodeUnreachable && c != api.CodeNoLeader {
			return nil, err
		}
	}
	return nil, errors.Join(errs...)
}

// certCheck is how often a server looks at its own certificate; it renews at
// half of its life.
const certCheck = 10 * time.Minute

// renewOwn keeps this server's certificate fresh until ctx ends.
func (s *Server) renewOwn(ctx context.Context) {
	if s.net.tls == nil {
		return
	}
	_ = every(ctx, certCheck, nil, func(ctx context.Context) error {
		left := s.net.tls.Self().Expires.Sub(s.cfg.Now())
		if left > keyring.CertLife/2 {
			return nil
		}
		if err := s.renewNow(ctx); err != nil {
			s.log.Warn("the server's certificate is not renewed yet", "left", left, "error", err)
		}
		return nil
	})
}

// renewNow gets a certificate from the leader, with a new key, and uses it.
func (s *Server) renewNow(ctx context.Context) error {
	key, csr, err := keyring.NewRequest()
	if err != nil {
		return err
	}
	resp := &api.CertRenewed{}
	if s.IsLeader() {
		resp, err = s.renew(api.CertName{Region: s.id.Region, Role: RoleServer, NodeID: s.id.NodeID}, csr)
	} else if addr, ok := s.Leader(); ok {
		err = s.pool.Get(addr).Call(ctx, "Server.Renew", &api.CertRenew{CSR: csr}, resp)
	} else {
		err = errNotLeading()
	}
	if err != nil {
		return err
	}
	next := *s.id
	next.Cert, next.Key, next.CA = resp.Cert, key, resp.CA
	if err := s.net.tls.Reload(next.CA, next.Cert, next.Key); err != nil {
		return err
	}
	if s.cfg.Dir == "" {
		return nil
	}
	return next.Save(s.cfg.Dir)
}
