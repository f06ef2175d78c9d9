package rpc

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
)

// Peer is the machine at the other end of a connection, as its certificate
// names it. The zero Peer is this process itself, without a certificate.
type Peer struct {
	api.CertName
	Addr    string    // host:port, for the log
	Expires time.Time // of the certificate; zero: never
}

func (p Peer) isServer(region string) bool { return p.Role == api.RoleServer && p.Region == region }
func (p Peer) isMember(region string) bool { return p.Role != "" && p.Region == region }

// identity is what the certificate alone proves; nil for the zero Peer.
func (p Peer) identity() *acl.Identity {
	switch p.Role {
	case api.RoleServer:
		return &acl.Identity{Role: acl.RoleServer, Region: p.Region, NodeID: p.NodeID}
	case api.RoleClient:
		return &acl.Identity{Role: acl.RoleNode, Region: p.Region, NodeID: p.NodeID}
	}
	return nil
}

// nameOf reads whom a certificate names. Both forms must be there, once, and
// agree.
func nameOf(leaf *x509.Certificate) (api.CertName, error) {
	if len(leaf.URIs) != 1 || len(leaf.DNSNames) != 1 || leaf.IsCA {
		return api.CertName{}, api.Errorf(api.CodeWrongRole, "the certificate does not name one machine")
	}
	n, err := api.ParseCertName(leaf.URIs[0])
	if err != nil || n.DNS() != leaf.DNSNames[0] {
		return api.CertName{}, api.Errorf(api.CodeWrongRole, "the certificate does not name one machine")
	}
	return n, nil
}

type identityKey struct{}
type peerKey struct{}

// IdentityFrom returns who called; inside a handler it is never nil.
func IdentityFrom(ctx context.Context) *acl.Identity {
	id, _ := ctx.Value(identityKey{}).(*acl.Identity)
	return id
}

// PeerFrom returns the machine that the call came from: the one before this in
// a chain of forwards.
func PeerFrom(ctx context.Context) Peer {
	p, _ := ctx.Value(peerKey{}).(Peer)
	return p
}

// WithIdentity puts an identity into a context, for tests of handlers.
func WithIdentity(ctx context.Context, id *acl.Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, id)
}
