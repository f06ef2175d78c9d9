package cluster

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/keyring"
	"github.com/novacron/novacron/fsm"
)

// The place of the CA's key, bound to what seals it.
func caPlace(cluster api.ID) []byte { return []byte("ca/" + cluster.String()) }

// authority opens the region's CA.
func (s *Server) authority() (*keyring.CA, error) {
	rec := s.fsm.State().CA()
	if rec == nil {
		return nil, api.Errorf(api.CodeNoLeader, "the cluster's authority is not there yet")
	}
	key, err := s.id.RootKey.Open(rec.Sealed, caPlace(s.id.ClusterID))
	if err != nil {
		return nil, api.Errorf(api.CodeConfig, "the authority's key cannot be opened: %v", err).
			WithHint("the root key of this server is not the cluster's")
	}
	return keyring.LoadCA(rec.Public, key)
}

// join admits a machine; any server may be asked, the leader decides.
func (s *Server) join(ctx context.Context, req *api.JoinRequest) *api.JoinResponse {
	resp, err := s.joinAnywhere(ctx, req)
	if err != nil {
		s.log.Warn("a join was refused", "name", req.Name, "role", req.Role, "node", req.NodeID, "error", err)
		return &api.JoinResponse{Error: asError(err)}
	}
	return resp
}

// joinHold is how long a join waits for a leader.
const joinHold = 10 * time.Second

func (s *Server) joinAnywhere(ctx context.Context, req *api.JoinRequest) (*api.JoinResponse, error) {
	if !s.up.Load() {
		return nil, api.Errorf(api.CodeUnreachable, "the server is starting")
	}
	ctx, cancel := context.WithTimeout(ctx, joinHold)
	defer cancel()
	for {
		changed := s.LeaderChanged()
		if s.IsLeader() {
			return s.joinLeader(ctx, req)
		}
		if addr, ok := s.Leader(); ok {
			resp := &api.JoinResponse{}
			err := s.pool.Get(addr).Call(ctx, "Server.Join", req, resp)
			if c := api.CodeOf(err); c != api.CodeNoLeader && c != api.CodeUnreachable {
				return resp, err
			}
		}
		t := time.NewTimer(200 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, api.Errorf(api.CodeNoLeader, "the region has no leader").WithHint("try again in a few seconds")
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
}

func (s *Server) rpcJoin(ctx context.Context, req *api.JoinRequest) (*api.JoinResponse, error) {
	if !s.IsLeader() {
		return nil, errNotLeading()
	}
	return s.joinLeader(ctx, req)
}

// joinLeader checks the token, takes one use of it, and signs.
func (s *Server) joinLeader(ctx context.Context, req *api.JoinRequest) (*api.JoinResponse, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	refused := func(format string, args ...any) *api.Error { return api.Errorf(api.CodeJoinRefused, format, args...) }
	sec, err := keyring.ParseJoinSecret(req.Secret)
	if err != nil {
		return nil, err
	}
	ca, err := s.authority()
	if err != nil {
		return nil, err
	}
	if sec.CAHash != ca.Fingerprint() {
		return nil, refused("the token is of another cluster")
	}
	key, err := ca.CheckRequest(req.CSR)
	if err != nil {
		return nil, err
	}
	if req.Role == RoleServer {
		if err := s.knowsSchema("server "+req.Name, req.SchemaMax); err != nil {
			return nil, err
		}
	}
	st := s.fsm.State()
	rec := st.Token(sec.Accessor)
	hash := keyring.HashSecret(req.Secret)
	// The answer may have been lost. The same machine with the same key may ask
	// again for as long as keys of writes are remembered, at no further cost.
	idem := &fsm.IdemKey{Accessor: sec.Accessor, Key: fmt.Sprintf("join %s %x", req.NodeID, key[:8]), BodyHash: joinHash(req, hash, key)}
	again := st.Answered(idem)
	switch {
	case again && st.Denied(req.NodeID) == nil:
	case rec == nil || rec.Token.Type != api.TokenJoin || !hash.Equal(rec.Hash):
		return nil, refused("the token is not known").WithHint("it may have expired or have been used up")
	case rec.Token.Role != req.Role:
		return nil, refused("the token lets a %s join, not a %s", rec.Token.Role, req.Role)
	case rec.Token.Expires != 0 && rec.Token.Expires <= api.TimeOf(s.cfg.Now()):
		return nil, api.Errorf(api.CodeTokenExpired, "the token has expired")
	case st.Denied(req.NodeID) != nil:
		return nil, api.Errorf(api.CodeNodeDenied, "node %s is denied: %s", req.NodeID, st.Denied(req.NodeID).Reason)
	}
	if err := s.unclaimed(st, req); err != nil {
		return nil, err
	}
	if !again {
		if !s.IsLeader() {
			return nil, errNotLeading()
		}
		m := s.meta(ctx)
		m.Idem = idem
		if _, err := s.propose(ctx, &fsm.TokenUse{Accessor: sec.Accessor, Role: req.Role, NodeID: req.NodeID}, m); err != nil {
			return nil, err
		}
	}
	name := api.CertName{Region: s.id.Region, Role: req.Role, NodeID: req.NodeID}
	cert, err := ca.Sign(req.CSR, name, s.cfg.Now())
	if err != nil {
		return nil, err
	}
	resp := &api.JoinResponse{
		Region: s.id.Region, RegionID: s.id.RegionID, ClusterID: s.id.ClusterID, CA: ca.CertPEM(), Cert: cert,
		GossipKey: s.id.GossipKey, Servers: s.serverAddrs(),
	}
	if req.Role == RoleServer {
		resp.RootKey = s.id.RootKey.Bytes()
		for _, m := range s.gossip.regions.Servers(s.id.Region) {
			resp.Serf = append(resp.Serf, m.SerfAddr)
		}
	}
	s.log.Info("a machine joined", "name", req.Name, "role", req.Role, "node", req.NodeID, "machine", req.MachineID)
	return resp, nil
}

// joinHash tells one join from another: the secret, who asks, and for which key.
func joinHash(req *api.JoinRequest, secret keyring.Hash, key [sha256.Size]byte) []byte {
	h := sha256.New()
	for _, b := range [][]byte{secret[:], key[:], []byte(req.Role), {0}, []byte(req.MachineID), {0}, []byte(req.ProductUUID)} {
		h.Write(b)
	}
	return h.Sum(nil)
}

// unclaimed refuses a node id that another machine has.
func (s *Server) unclaimed(st *fsm.State, req *api.JoinRequest) error {
	if n := st.Node(req.NodeID); n != nil && (n.MachineID != req.MachineID || n.ProductUUID != req.ProductUUID) {
		return api.Errorf(api.CodeNodeDuplicate, "node id %s belongs to %s (machine %s, product %s), not to machine %s, product %s",
			n.ID, n.Name, n.MachineID, n.ProductUUID, req.MachineID, req.ProductUUID)
	}
	f := s.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return err
	}
	if slices.ContainsFunc(f.Configuration().Servers, func(r raft.Server) bool { return string(r.ID) == req.NodeID.String() }) {
		return api.Errorf(api.CodeNodeDuplicate, "node id %s belongs to a server of this region", req.NodeID)
	}
	if req.Role != RoleServer {
		return nil
	}
	for _, m := range s.gossip.regions.Servers(s.id.Region) {
		if plainName(m.Name, s.id.Region) == req.Name && m.ID != req.NodeID && m.Status == "alive" {
			return api.Errorf(api.CodeExists, "a server %q is there already", req.Name)
		}
	}
	return nil
}

// serverAddrs are the RPC addresses of the region's servers that are alive, the
// own one first.
func (s *Server) serverAddrs() []string {
	out := []string{s.self.Address}
	for _, m := range s.gossip.regions.Servers(s.id.Region) {
		if m.Status == "alive" && m.ID != s.id.NodeID {
			out = append(out, m.Address)
		}
	}
	return out
}

// renew signs a fresh certificate for a machine that proved who it is.
func (s *Server) renew(name api.CertName, csr []byte) (*api.CertRenewed, error) {
	if d := s.fsm.State().Denied(name.NodeID); d != nil {
		return nil, api.Errorf(api.CodeNodeDenied, "node %s is denied: %s", name.NodeID, d.Reason)
	}
	ca, err := s.authority()
	if err != nil {
		return nil, err
	}
	cert, err := ca.Sign(csr, name, s.cfg.Now())
	if err != nil {
		return nil, err
	}
	return &api.CertRenewed{Cert: cert, CA: ca.CertPEM()}, nil
}

// establish makes what a new cluster needs: its identity and its authority in
// Raft. In a cluster that has them it does nothing.
func (s *Server) establish(ctx context.Context) error {
	st := s.fsm.State()
	if has := st.ClusterID(); !has.IsZero() && has != s.id.ClusterID {
		err := api.Errorf(api.CodeConfig, "Raft holds cluster %s, this server belongs to %s", has, s.id.ClusterID)
		s.cfg.Halt(err)
		return err
	}
	if st.ClusterID().IsZero() {
		if len(s.id.SealedCA) == 0 {
			return api.Errorf(api.CodeConfig, "neither Raft nor this server holds the authority's key")
		}
		cmd := &fsm.ClusterInit{
			ClusterID: s.id.ClusterID, Region: s.id.Region, RegionID: s.id.RegionID,
			Keys:   []fsm.KeyRecord{{Name: fsm.KeyCA, Kind: "ca", Public: s.id.CA, Sealed: s.id.SealedCA, Version: 1}},
			Expect: s.cfg.Expect,
		}
		if _, err := s.propose(ctx, cmd, s.meta(ctx)); err != nil {
			return err
		}
	}
	return s.dropSealedCA()
}

// dropSealedCA removes the folder's copy of the CA's key once Raft has it.
func (s *Server) dropSealedCA() error {
	if len(s.id.SealedCA) == 0 || s.cfg.InMemory || s.cfg.Dir == "" {
		return nil
	}
	s.id.SealedCA = nil
	return s.id.Save(s.cfg.Dir)
}
