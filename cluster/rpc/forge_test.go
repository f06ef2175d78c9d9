package rpc_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

// forge makes a certificate that Sign would not: with any DNS names.
func forge(t *testing.T, a *authority, n api.CertName, dns []string) tls.Certificate {
	t.Helper()
	keyPEM, err := a.ca.KeyPEM()
	must.NoError(t, err)
	kb, _ := pem.Decode(keyPEM)
	caKey, err := x509.ParsePKCS8PrivateKey(kb.Bytes)
	must.NoError(t, err)
	cb, _ := pem.Decode(a.ca.CertPEM())
	ca, err := x509.ParseCertificate(cb.Bytes)
	must.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    dns, URIs: []*url.URL{n.URI()},
	}, ca, key.Public(), caKey)
	must.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
