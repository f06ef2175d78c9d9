package rpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
)

const (
	// MaxJoin is the largest join request or answer, in bytes.
	MaxJoin = 64 << 10
	// joinRead is how long a request may take to arrive; joinTotal how long the
	// whole may take, a Raft entry included.
	joinRead  = 5 * time.Second
	joinTotal = 30 * time.Second
)

// Join asks a server for a certificate. Only a server whose chain holds the
// authority of which the secret carries the hash is trusted; the secret is sent
// to nobody else. The request's Secret is filled in. The answer's certificate
// is checked: it is of that authority, for the request's key, role and node id.
func Join(ctx context.Context, addr, secret string, req api.JoinRequest) (*api.JoinResponse, error) {
	pin, err := pinOf(secret)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, joinTotal)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, joinLost(ctx, addr, err)
	}
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	var verdict error
	tc := tls.Client(nc, &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{ProtoJoin},
		// Nothing is known but the authority's hash: VerifyConnection finds the
		// authority by it and verifies the chain.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, verdict = pinned(cs, pin)
			return verdict
		},
	})
	if err := tc.HandshakeContext(ctx); err != nil {
		if verdict != nil {
			return nil, verdict
		}
		return nil, joinLost(ctx, addr, err)
	}
	req.Secret = secret
	if err := WriteFrame(tc, &req); err != nil {
		return nil, joinLost(ctx, addr, err)
	}
	resp := new(api.JoinResponse)
	if err := ReadFrame(tc, resp); err != nil {
		return nil, joinLost(ctx, addr, err)
	}
	if resp.Error != nil {
		return nil, resp.Error
	}
	if err := checkJoined(resp, &req, pin); err != nil {
		return nil, err
	}
	return resp, nil
}

func joinLost(ctx context.Context, addr string, err error) error {
	if e := ended(ctx); e != nil {
		return e
	}
	return api.Errorf(api.CodeUnreachable, "join at %s: %v", addr, err)
}

// pinOf returns the authority's hash in a join secret
// ("nova-join.<hash>.<accessor>.<random>").
func pinOf(secret string) ([sha256.Size]byte, error) {
	var pin [sha256.Size]byte
	parts := strings.Split(secret, ".")
	bad := api.Errorf(api.CodeJoinRefused, "not a join secret").WithHint("it begins with \"nova-join.\" and is made by `novacron token join`")
	if len(parts) != 4 || parts[0] != "nova-join" || len(parts[1]) != hex.EncodedLen(len(pin)) {
		return pin, bad
	}
	if _, err := hex.Decode(pin[:], []byte(parts[1])); err != nil {
		return pin, bad
	}
	return pin, nil
}

// pinned finds the authority by its hash in what a server shows, and verifies
// the server's certificate by it alone.
func pinned(cs tls.ConnectionState, pin [sha256.Size]byte) (*x509.Certificate, error) {
	refuse := func(why string) (*x509.Certificate, error) {
		return nil, api.Errorf(api.CodeJoinRefused, "the machine there is not a server of the cluster that made the join secret: %s", why)
	}
	if cs.NegotiatedProtocol != ProtoJoin || len(cs.PeerCertificates) == 0 {
		return refuse("it does not answer to joins")
	}
	var ca *x509.Certificate
	mid := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		if sha256.Sum256(c.Raw) == pin {
			ca = c
		}
		mid.AddCert(c)
	}
	if ca == nil {
		return refuse("its authority has another hash")
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	leaf := cs.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: mid, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return refuse("its certificate does not verify")
	}
	if n, err := nameOf(leaf); err != nil || n.Role != api.RoleServer {
		return refuse("its certificate is not a server's")
	}
	return ca, nil
}

// checkJoined verifies what a join brought.
func checkJoined(resp *api.JoinResponse, req *api.JoinRequest, pin [sha256.Size]byte) error {
	refuse := func(why string) error {
		return api.Errorf(api.CodeJoinRefused, "the answer is not usable: %s", why)
	}
	csr, err := x509.ParseCertificateRequest(req.CSR)
	if err != nil {
		return refuse("the request has no readable signing request")
	}
	cas, err := parseCerts(resp.CA)
	if err != nil || sha256.Sum256(cas[0].Raw) != pin {
		return refuse("the authority is another one")
	}
	certs, err := parseCerts(resp.Cert)
	if err != nil {
		return refuse("no certificate")
	}
	leaf := certs[0]
	roots, mid := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(cas[0])
	for _, c := range certs[1:] {
		mid.AddCert(c)
	}
	// The clock of a joining machine may be behind: the chain is what counts.
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: mid, CurrentTime: leaf.NotAfter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return refuse("the certificate is not of the authority")
	}
	pub, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || !pub.Equal(csr.PublicKey) {
		return refuse("the certificate is for another key")
	}
	n, err := nameOf(leaf)
	if err != nil || n.Role != req.Role || n.NodeID != req.NodeID || n.Region != resp.Region {
		return refuse("the certificate names another machine")
	}
	return nil
}

// ServeJoin answers one join request on a connection: a length of 4 bytes, big
// endian, and msgpack, at most MaxJoin, both ways. The connection stays open. A
// request that does not decode, or comes too slowly, is not answered.
func ServeJoin(ctx context.Context, c net.Conn, h func(ctx context.Context, remote string, req *api.JoinRequest) *api.JoinResponse) error {
	ctx, cancel := context.WithTimeout(ctx, joinTotal)
	defer cancel()
	now := time.Now()
	if err := errors.Join(c.SetReadDeadline(now.Add(joinRead)), c.SetWriteDeadline(now.Add(joinTotal))); err != nil {
		return err
	}
	req := new(api.JoinRequest)
	if err := ReadFrame(c, req); err != nil {
		return fmt.Errorf("join request of %s: %w", c.RemoteAddr(), err)
	}
	resp := h(ctx, c.RemoteAddr().String(), req)
	if resp == nil {
		resp = &api.JoinResponse{Error: api.Errorf(api.CodeInternal, "internal error")}
	}
	if err := WriteFrame(c, resp); err != nil {
		return fmt.Errorf("join answer to %s: %w", c.RemoteAddr(), err)
	}
	return nil
}

// WriteFrame writes a message with its length before it.
func WriteFrame(w io.Writer, m api.Message) error {
	b, err := m.MarshalMsg(make([]byte, 4, 4+m.Msgsize()))
	if err != nil {
		return err
	}
	if len(b)-4 > MaxJoin {
		return api.Errorf(api.CodeTooLarge, "the message is larger than %d bytes", MaxJoin)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	_, err = w.Write(b)
	return err
}

// ReadFrame reads what WriteFrame wrote into a zero message.
func ReadFrame(r io.Reader, m api.Message) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxJoin {
		return api.Errorf(api.CodeTooLarge, "the message is larger than %d bytes", MaxJoin)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return decode(b, m)
}
