package keyring_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/keyring"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newCA(t *testing.T) *keyring.CA {
	t.Helper()
	ca, err := keyring.NewCA(api.NewID(), now)
	must.NoError(t, err)
	return ca
}

func parse(t *testing.T, b []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(b)
	must.NotNil(t, block)
	c, err := x509.ParseCertificate(block.Bytes)
	must.NoError(t, err)
	return c
}

func name(role string) api.CertName {
	return api.CertName{Region: "west", Role: role, NodeID: api.NewID()}
}

func TestSignNamesTheMachineAndNothingElse(t *testing.T) {
	ca := newCA(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must.NoError(t, err)
	// A request that asks for the world gets only its key signed.
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "server.west.novacron"},
		DNSNames:    []string{"server.west.novacron", "example.com"},
		IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)},
	}, key)
	must.NoError(t, err)
	n := name(api.RoleClient)
	b, err := ca.Sign(csr, n, now)
	must.NoError(t, err)
	c := parse(t, b)
	must.Eq(t, []string{"client.west.novacron"}, c.DNSNames)
	must.SliceEmpty(t, c.IPAddresses)
	must.Len(t, 1, c.URIs)
	got, err := api.ParseCertName(c.URIs[0])
	must.NoError(t, err)
	must.Eq(t, n, got)
	must.Eq(t, 72*time.Hour, c.NotAfter.Sub(now))
	must.True(t, c.NotBefore.Before(now))
	must.False(t, c.IsCA)

	roots := x509.NewCertPool()
	roots.AddCert(parse(t, ca.CertPEM()))
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		_, err = c.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{use}, DNSName: "client.west.novacron"})
		must.NoError(t, err)
	}
	_, err = c.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now.Add(73 * time.Hour), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	must.Error(t, err)
}

func TestSignNeverOutlivesTheAuthority(t *testing.T) {
	ca := newCA(t)
	_, csr, err := keyring.NewRequest()
	must.NoError(t, err)
	b, err := ca.Sign(csr, name(api.RoleServer), now.Add(keyring.CALife-time.Hour))
	must.NoError(t, err)
	must.Eq(t, now.Add(keyring.CALife), parse(t, b).NotAfter)
}

func TestSignRefuses(t *testing.T) {
	ca := newCA(t)
	_, good, err := keyring.NewRequest()
	must.NoError(t, err)

	broken := append([]byte(nil), good...)
	broken[len(broken)-1] ^= 1

	rk, err := rsa.GenerateKey(rand.Reader, 2048)
	must.NoError(t, err)
	rsaReq, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, rk)
	must.NoError(t, err)
	k384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must.NoError(t, err)
	req384, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k384)
	must.NoError(t, err)
	caKey, err := ca.KeyPEM()
	must.NoError(t, err)
	own, err := keyring.RequestFor(caKey)
	must.NoError(t, err)

	ok := name(api.RoleServer)
	for what, row := range map[string]struct {
		csr []byte
		n   api.CertName
	}{
		"garbage":                {[]byte("hello"), ok},
		"empty":                  {nil, ok},
		"a broken signature":     {broken, ok},
		"an RSA key":             {rsaReq, ok},
		"another curve":          {req384, ok},
		"the authority's key":    {own, ok},
		"an unknown role":        {good, api.CertName{Region: "west", Role: "root", NodeID: api.NewID()}},
		"a region with a dot":    {good, api.CertName{Region: "west.evil", Role: api.RoleServer, NodeID: api.NewID()}},
		"a region in upper case": {good, api.CertName{Region: "West", Role: api.RoleServer, NodeID: api.NewID()}},
		"no region":              {good, api.CertName{Role: api.RoleServer, NodeID: api.NewID()}},
		"no node":                {good, api.CertName{Region: "west", Role: api.RoleServer}},
	} {
		_, err := ca.Sign(row.csr, row.n, now)
		must.Error(t, err, must.Sprint(what))
		must.Eq(t, api.CodeInvalid, api.CodeOf(err), must.Sprint(what))
	}
}

func TestCAMayNameOnlyNovacronHosts(t *testing.T) {
	ca := newCA(t)
	c := parse(t, ca.CertPEM())
	must.True(t, c.IsCA)
	must.True(t, c.PermittedDNSDomainsCritical)
	keyPEM, err := ca.KeyPEM()
	must.NoError(t, err)
	block, _ := pem.Decode(keyPEM)
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must.NoError(t, err)
	// Even with the authority's key, a certificate for another host is refused
	// by whoever verifies it.
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: c.SerialNumber, NotBefore: now, NotAfter: now.Add(time.Hour), DNSNames: []string{"bank.example"},
	}, c, &k.(*ecdsa.PrivateKey).PublicKey, k)
	must.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	must.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(c)
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	must.Error(t, err)
}

func TestCASurvivesSealing(t *testing.T) {
	ca := newCA(t)
	key, err := ca.KeyPEM()
	must.NoError(t, err)
	again, err := keyring.LoadCA(ca.CertPEM(), key)
	must.NoError(t, err)
	must.Eq(t, ca.Fingerprint(), again.Fingerprint())
	fp, err := keyring.Fingerprint(ca.CertPEM())
	must.NoError(t, err)
	must.Eq(t, ca.Fingerprint(), fp)
	must.Len(t, 64, []byte(fp))

	other := newCA(t)
	_, err = keyring.LoadCA(other.CertPEM(), key)
	must.ErrorContains(t, err, "does not belong")
	_, err = keyring.LoadCA([]byte("x"), key)
	must.Error(t, err)
	_, err = keyring.LoadCA(ca.CertPEM(), []byte("x"))
	must.Error(t, err)
	_, csr, err := keyring.NewRequest()
	must.NoError(t, err)
	leaf, err := ca.Sign(csr, name(api.RoleServer), now)
	must.NoError(t, err)
	_, err = keyring.LoadCA(leaf, key)
	must.ErrorContains(t, err, "not an authority")
	_, err = keyring.Fingerprint(key)
	must.Error(t, err)
	_, err = keyring.RequestFor(ca.CertPEM())
	must.Error(t, err)
}

func TestSealIsBoundToItsPlace(t *testing.T) {
	k := keyring.NewRootKey()
	plain := []byte("the authority's key")
	sealed, err := k.Seal(plain, []byte("ca/1"))
	must.NoError(t, err)
	got, err := k.Open(sealed, []byte("ca/1"))
	must.NoError(t, err)
	must.Eq(t, plain, got)

	again, err := k.Seal(plain, []byte("ca/1"))
	must.NoError(t, err)
	must.NotEq(t, sealed, again, must.Sprint("a nonce was used twice"))

	_, err = k.Open(sealed, []byte("ca/2"))
	must.ErrorIs(t, err, keyring.ErrSealed)
	_, err = keyring.NewRootKey().Open(sealed, []byte("ca/1"))
	must.ErrorIs(t, err, keyring.ErrSealed)
	for i := range sealed {
		bad := append([]byte(nil), sealed...)
		bad[i] ^= 0x40
		_, err = k.Open(bad, []byte("ca/1"))
		must.ErrorIs(t, err, keyring.ErrSealed)
		_, err = k.Open(sealed[:i], []byte("ca/1"))
		must.ErrorIs(t, err, keyring.ErrSealed)
	}
}

func TestRootKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.key")
	k, err := keyring.CreateRootKey(path)
	must.NoError(t, err)
	st, err := os.Stat(path)
	must.NoError(t, err)
	must.Eq(t, os.FileMode(0o600), st.Mode().Perm())
	got, err := keyring.LoadRootKey(path)
	must.NoError(t, err)
	must.Eq(t, k.Bytes(), got.Bytes())

	_, err = keyring.CreateRootKey(path)
	must.ErrorIs(t, err, os.ErrExist)
	left, err := os.ReadDir(filepath.Dir(path))
	must.NoError(t, err)
	must.Len(t, 1, left, must.Sprint("temporary files stay behind"))

	must.NoError(t, os.Chmod(path, 0o640))
	_, err = keyring.LoadRootKey(path)
	must.ErrorContains(t, err, "0600")
	must.NoError(t, os.Chmod(path, 0o600))
	link := path + ".link"
	must.NoError(t, os.Symlink(path, link))
	_, err = keyring.LoadRootKey(link)
	must.ErrorContains(t, err, "regular")
	must.NoError(t, os.WriteFile(path, []byte("zz"), 0o600))
	_, err = keyring.LoadRootKey(path)
	must.Error(t, err)
	_, err = keyring.LoadRootKey(path + ".none")
	must.ErrorIs(t, err, os.ErrNotExist)
	_, err = keyring.CreateRootKey(filepath.Join(path, "x", "y"))
	must.Error(t, err)
}

func TestRootKeyDoesNotPrint(t *testing.T) {
	k := keyring.NewRootKey()
	js, err := json.Marshal(struct{ K keyring.RootKey }{k})
	must.NoError(t, err)
	for _, s := range []string{fmt.Sprint(k), fmt.Sprintf("%v %+v %#v %s", k, k, k, k), string(js)} {
		must.StrContains(t, s, "[redacted]")
		must.StrNotContains(t, s, fmt.Sprintf("%x", k.Bytes()))
	}
	_, err = keyring.RootKeyFrom(make([]byte, 32))
	must.Error(t, err)
	_, err = keyring.RootKeyFrom(make([]byte, 31))
	must.Error(t, err)
	again, err := keyring.RootKeyFrom(k.Bytes())
	must.NoError(t, err)
	must.Eq(t, k.Bytes(), again.Bytes())
	must.Len(t, 32, keyring.NewGossipKey())
}

func TestTokens(t *testing.T) {
	id := api.NewID()
	s := keyring.NewToken(id)
	got, err := keyring.ParseToken(s)
	must.NoError(t, err)
	must.Eq(t, id, got)
	must.NotEq(t, s, keyring.NewToken(id))

	h := keyring.HashSecret(s)
	must.True(t, h.Equal(h[:]))
	other := keyring.HashSecret(s + "x")
	must.False(t, h.Equal(other[:]))
	must.False(t, h.Equal(h[:31]))
	must.False(t, h.Equal(nil))

	for _, bad := range []string{
		"", "nova", "nova..", s + ".", "x" + s, s[:len(s)-1], s + "A", strings.ToUpper(s),
		strings.Replace(s, "nova.", "nova-join.", 1),
		"nova." + api.ID{}.String() + s[41:],
		"nova." + id.String() + ".", "nova." + id.String() + ".AAAA",
	} {
		_, err := keyring.ParseToken(bad)
		must.Eq(t, api.CodeUnauthenticated, api.CodeOf(err), must.Sprint(bad))
	}
}

func TestJoinSecrets(t *testing.T) {
	ca := newCA(t)
	id := api.NewID()
	s := keyring.NewJoinSecret(ca.Fingerprint(), id)
	js, err := keyring.ParseJoinSecret(s)
	must.NoError(t, err)
	must.Eq(t, keyring.JoinSecret{CAHash: ca.Fingerprint(), Accessor: id}, js)
	for _, bad := range []string{
		"", "nova-join...", s + ".", s[:len(s)-2], strings.ToUpper(s), keyring.NewToken(id),
		strings.Replace(s, ca.Fingerprint(), strings.ToUpper(ca.Fingerprint()), 1),
		strings.Replace(s, ca.Fingerprint(), strings.Repeat("z", 64), 1),
		strings.Replace(s, ca.Fingerprint(), "ab", 1),
		strings.Replace(s, id.String(), "1", 1),
	} {
		_, err := keyring.ParseJoinSecret(bad)
		must.Eq(t, api.CodeJoinRefused, api.CodeOf(err), must.Sprint(bad))
	}
}

// FuzzToken: what parses is exactly what is written, and nothing panics.
func FuzzToken(f *testing.F) {
	f.Add(keyring.NewToken(api.NewID()))
	f.Add(keyring.NewJoinSecret(strings.Repeat("ab", 32), api.NewID()))
	f.Add("nova.....")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := keyring.ParseToken(s); err == nil {
			must.True(t, strings.HasPrefix(s, "nova."+id.String()+"."))
			must.Eq(t, 85, len(s))
		}
		if j, err := keyring.ParseJoinSecret(s); err == nil {
			must.True(t, strings.HasPrefix(s, "nova-join."+j.CAHash+"."+j.Accessor.String()+"."))
		}
	})
}
