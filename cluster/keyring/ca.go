package keyring

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"

	"github.com/novacron/novacron/api"
)

const (
	// CertLife is how long a certificate of a node is valid; it is renewed at
	// half of it.
	CertLife = 72 * time.Hour
	// CALife is how long the authority is valid.
	CALife = 10 * 365 * 24 * time.Hour
	// backdate allows for clocks that are behind.
	backdate = 5 * time.Minute
)

// CA signs the certificates of a cluster.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes an authority for a new cluster: ECDSA P-256, 10 years, allowed to
// name only hosts under ".novacron", and one level of authorities for regions
// below it.
func NewCA(cluster api.ID, now time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber:                serial(),
		Subject:                     pkix.Name{CommonName: "NovaCron CA " + cluster.Short(), Organization: []string{"NovaCron"}},
		NotBefore:                   now.Add(-backdate),
		NotAfter:                    now.Add(CALife),
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLen:                  1,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         []string{"novacron"},
		ExcludedIPRanges:            []*net.IPNet{anyIP(net.IPv4len), anyIP(net.IPv6len)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the authority: %w", err)
	}
	return &CA{cert: cert, key: key}, nil
}

func anyIP(n int) *net.IPNet { return &net.IPNet{IP: make(net.IP, n), Mask: make(net.IPMask, n)} }

func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)
	b[0] &= 0x7f
	b[15] |= 1
	return new(big.Int).SetBytes(b)
}

// LoadCA reads what CertPEM and KeyPEM wrote.
func LoadCA(certPEM, keyPEM []byte) (*CA, error) {
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	if !cert.IsCA {
		return nil, errors.New("the certificate is not an authority's")
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("the key does not belong to the authority")
	}
	return &CA{cert: cert, key: key}, nil
}

// CertPEM returns the authority's certificate.
func (ca *CA) CertPEM() []byte { return encode("CERTIFICATE", ca.cert.Raw) }

// KeyPEM returns the authority's key, to be sealed before it is stored.
func (ca *CA) KeyPEM() ([]byte, error) { return encodeKey(ca.key) }

// Fingerprint returns the SHA-256 of the certificate as 64 hex digits: what a
// join secret carries.
func (ca *CA) Fingerprint() string {
	sum := sha256.Sum256(ca.cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Fingerprint returns the SHA-256 of the first certificate in a PEM text.
func Fingerprint(certPEM []byte) (string, error) {
	cert, err := parseCert(certPEM)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:]), nil
}

// CheckRequest checks a signing request as Sign does, and returns the SHA-256 of
// the key that it is for. Requests for one key differ, keys do not.
func (ca *CA) CheckRequest(csr []byte) ([sha256.Size]byte, error) {
	pub, err := ca.requested(csr)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return [sha256.Size]byte{}, api.Errorf(api.CodeInvalid, "the signing request's key cannot be encoded")
	}
	return sha256.Sum256(der), nil
}

// requested returns the key that a signing request asks a certificate for.
func (ca *CA) requested(csr []byte) (*ecdsa.PublicKey, error) {
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "the signing request cannot be read")
	}
	if err := req.CheckSignature(); err != nil {
		return nil, api.Errorf(api.CodeInvalid, "the signing request is not signed by its own key")
	}
	pub, ok := req.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, api.Errorf(api.CodeInvalid, "the signing request needs an ECDSA P-256 key")
	}
	if pub.Equal(ca.key.Public()) {
		return nil, api.Errorf(api.CodeInvalid, "the signing request is for the authority's own key")
	}
	return pub, nil
}

// Sign makes a certificate for name, good as a server's and as a client's, for
// CertLife from now and never beyond the authority's own end. Of the request
// (DER, PKCS #10) only the public key is used, after its signature was checked.
func (ca *CA) Sign(csr []byte, name api.CertName, now time.Time) ([]byte, error) {
	if err := name.Validate(); err != nil {
		return nil, api.Errorf(api.CodeInvalid, "%v", err)
	}
	pub, err := ca.requested(csr)
	if err != nil {
		return nil, err
	}
	end := now.Add(CertLife)
	if end.After(ca.cert.NotAfter) {
		end = ca.cert.NotAfter
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: name.DNS()},
		NotBefore:             now.Add(-backdate),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		DNSNames:              []string{name.DNS()},
		URIs:                  []*url.URL{name.URI()},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, pub, ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return encode("CERTIFICATE", der), nil
}

// NewRequest makes a key and a signing request for it (DER). The key stays.
func NewRequest() (keyPEM, csr []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	if csr, err = request(key); err != nil {
		return nil, nil, err
	}
	keyPEM, err = encodeKey(key)
	return keyPEM, csr, err
}

// RequestFor makes a signing request (DER) for a key that exists.
func RequestFor(keyPEM []byte) ([]byte, error) {
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	return request(key)
}

func request(key crypto.Signer) ([]byte, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make a signing request: %w", err)
	}
	return csr, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the key: %w", err)
	}
	return encode("PRIVATE KEY", der), nil
}

func parseCert(b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(bytes.TrimSpace(b))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("not a certificate in PEM form")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	return cert, nil
}

func parseKey(b []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(bytes.TrimSpace(b))
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("not a private key in PEM form")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the private key cannot be read")
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the private key is not ECDSA P-256")
	}
	return key, nil
}
