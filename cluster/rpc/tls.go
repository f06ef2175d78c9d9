package rpc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/novacron/novacron/api"
)

// The protocols of the port, as ALPN names.
const (
	ProtoRPC    = "h2"
	ProtoRaft   = "nova-raft/1"
	ProtoTunnel = "nova-tunnel/1"
	ProtoJoin   = "nova-join/1" // the only one without a client certificate
)

// TLS holds this machine's certificate, the authority, and the rules by which
// others are let in. It is TLS 1.3 only, and both sides show certificates.
type TLS struct {
	state  atomic.Pointer[tlsState]
	denied atomic.Pointer[func(api.ID) bool]
}

type tlsState struct {
	self  Peer
	roots *x509.CertPool
	cert  tls.Certificate
}

// NewTLS takes the authority's certificates and this machine's certificate and
// key, all in PEM form.
func NewTLS(ca, cert, key []byte) (*TLS, error) {
	t := new(TLS)
	if err := t.Reload(ca, cert, key); err != nil {
		return nil, err
	}
	return t, nil
}

// Reload replaces them, for connections that are made from now on. On an error
// nothing changes. The new certificate must name the same machine.
func (t *TLS) Reload(ca, cert, key []byte) error {
	st := &tlsState{roots: x509.NewCertPool()}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("the certificate and its key: %w", err)
	}
	leaf := pair.Leaf
	authorities, err := parseCerts(ca)
	if err != nil {
		return err
	}
	for _, c := range authorities {
		st.roots.AddCert(c)
		// Joiners, who know only the authority's hash, must be shown it.
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	name, err := nameOf(leaf)
	if err != nil {
		return err
	}
	mid := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			mid.AddCert(c)
		}
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		// A certificate that has expired is loaded all the same: it is how an
		// agent that was off for long starts, to be renewed by joining again.
		at := leaf.NotAfter
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: st.roots, Intermediates: mid, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
			return fmt.Errorf("the certificate is not of this authority: %w", err)
		}
	}
	if old := t.state.Load(); old != nil && old.self.CertName != name {
		return fmt.Errorf("the certificate is for %s, not %s", name.URI(), old.self.URI())
	}
	st.self = Peer{CertName: name, Expires: leaf.NotAfter}
	st.cert = pair
	t.state.Store(st)
	return nil
}

func parseCerts(b []byte) ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("the authority's certificate cannot be read")
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, errors.New("no authority's certificate")
	}
	return list, nil
}

// Self returns whom the own certificate names and when it ends.
func (t *TLS) Self() Peer { return t.state.Load().self }

// HTTPConfig returns a configuration for a server that asks its clients for no
// certificate: HTTP. Clients verify it by the authority and the name
// Self().DNS().
func (t *TLS) HTTPConfig() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: t.getCertificate,
	}
}

// SetDenied installs the list of denied nodes. It is asked at each handshake and
// at each call, so it must be quick.
func (t *TLS) SetDenied(f func(api.ID) bool) { t.denied.Store(&f) }

// current refuses a peer whose certificate has ended or who is denied.
func (t *TLS) current(p Peer) error {
	if !p.Expires.IsZero() && time.Now().After(p.Expires) {
		return api.Errorf(api.CodeWrongRole, "the certificate has expired")
	}
	if f := t.denied.Load(); f != nil && (*f)(p.NodeID) {
		return api.Errorf(api.CodeNodeDenied, "the node is denied")
	}
	return nil
}

func (t *TLS) getCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return &t.state.Load().cert, nil
}

func (t *TLS) serverConfig(protos []string) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     protos,
		GetCertificate: t.getCertificate,
		// Asked for here and, but for joining, demanded in VerifyConnection,
		// where the protocol is known.
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true, // every connection proves itself anew
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := t.admit(cs)
			return err
		},
	}
}

// admit decides on a connection that came in.
func (t *TLS) admit(cs tls.ConnectionState) (Peer, error) {
	switch cs.NegotiatedProtocol {
	case ProtoJoin:
		return Peer{}, nil
	case ProtoRPC, ProtoRaft, ProtoTunnel:
	default:
		return Peer{}, api.Errorf(api.CodeWrongRole, "no protocol was agreed on")
	}
	p, err := t.verify(cs, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return Peer{}, err
	}
	region := t.Self().Region
	ok := false
	switch cs.NegotiatedProtocol {
	case ProtoRPC: // servers of other regions forward calls
		ok = p.Region == region || p.Role == api.RoleServer
	case ProtoRaft:
		ok = p.isServer(region) && t.Self().Role == api.RoleServer
	case ProtoTunnel:
		ok = p.isMember(region)
	}
	if !ok {
		return Peer{}, api.Errorf(api.CodeWrongRole, "%s may not speak %s here", peerName(p), cs.NegotiatedProtocol)
	}
	return p, nil
}

// verify checks the other side's chain, name and standing.
func (t *TLS) verify(cs tls.ConnectionState, use x509.ExtKeyUsage) (Peer, error) {
	if len(cs.PeerCertificates) == 0 {
		return Peer{}, api.Errorf(api.CodeWrongRole, "no certificate was shown")
	}
	leaf := cs.PeerCertificates[0]
	mid := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		mid.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: t.state.Load().roots, Intermediates: mid,
		CurrentTime: time.Now(), KeyUsages: []x509.ExtKeyUsage{use},
	}); err != nil {
		return Peer{}, api.Errorf(api.CodeWrongRole, "the certificate does not verify: %v", err)
	}
	name, err := nameOf(leaf)
	if err != nil {
		return Peer{}, err
	}
	p := Peer{CertName: name, Expires: leaf.NotAfter}
	return p, t.current(p)
}

// dial connects to a target and makes sure that it is who it should be.
func (t *TLS) dial(ctx context.Context, addr, proto string, want target) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	region := want.region
	if region == "" {
		region = t.Self().Region
	}
	tc := tls.Client(nc, &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{proto},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &t.state.Load().cert, nil
		},
		// The name to verify is not a host's: VerifyConnection checks the chain,
		// the role, the region and the node id.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol != proto {
				return fmt.Errorf("%s does not speak %s", addr, proto)
			}
			p, err := t.verify(cs, x509.ExtKeyUsageServerAuth)
			if err != nil {
				return err
			}
			return want.check(p, region)
		},
	})
	if err := tc.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, err
	}
	return tc, nil
}

// check compares who answered with who should.
func (t target) check(p Peer, region string) error {
	switch {
	case p.Region != region:
		return api.Errorf(api.CodeWrongRole, "%s is of region %q, not %q", t.addr, p.Region, region)
	case t.role != "" && p.Role != t.role:
		return api.Errorf(api.CodeWrongRole, "%s is a %s, not a %s", t.addr, p.Role, t.role)
	case !t.id.IsZero() && p.NodeID != t.id:
		return api.Errorf(api.CodeWrongRole, "%s is node %s, not %s", t.addr, p.NodeID, t.id)
	}
	return nil
}
