package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func TestNewClientChecksItsConfiguration(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]ClientConfig{
		"scheme":       {Address: "ftp://host"},
		"no host":      {Address: "https://"},
		"user":         {Address: "https://me@host"},
		"query":        {Address: "https://host?x=1"},
		"unix host":    {Address: "unix://host/path"},
		"control":      {Address: "https://ho\x7fst"},
		"token":        {Token: "a\r\nX: b"},
		"hash":         {CAHash: "abc"},
		"hash not hex": {CAHash: "zz"},
		"pem":          {CACert: []byte("no certificate")},
	} {
		_, err := NewClient(cfg)
		must.Eq(t, CodeConfig, CodeOf(err), must.Sprint(name))
	}
	for _, addr := range []string{"", "host", "host:7646", "https://host/", "http://127.0.0.1:1", "http://host", "unix:///run/x.sock"} {
		_, err := NewClient(ClientConfig{Address: addr})
		must.NoError(t, err, must.Sprint(addr))
	}
}

// pki is an authority with one certificate for an agent, as a cluster has it.
func pki(t *testing.T, uri *url.URL) (ca []byte, hash string, chain tls.Certificate) {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must.NoError(t, err)
	caTmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, err := x509.CreateCertificate(rand.Reader, caTmpl, caTmpl, &caKey.PublicKey, caKey)
	must.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, DNSNames: []string{"server.eu.novacron"}}
	if uri != nil {
		tmpl.URIs = []*url.URL{uri}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, caTmpl, &key.PublicKey, caKey)
	must.NoError(t, err)
	sum := sha256.Sum256(caDER)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), hex.EncodeToString(sum[:]), tls.Certificate{Certificate: [][]byte{der, caDER}, PrivateKey: key}
}

func TestClientTrustsTheClustersAuthority(t *testing.T) {
	t.Parallel()
	name := CertName{Region: "eu", Role: RoleServer, NodeID: NewID()}
	ca, hash, chain := pki(t, name.URI())
	otherCA, otherHash, nameless := pki(t, nil)
	serve := func(c tls.Certificate) string {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set(HeaderIndex, "7")
			w.Header().Set(HeaderLastContact, "12")
			w.Header().Set(HeaderKnownLeader, "true")
			w.Header().Set(HeaderStale, "true")
			w.Header().Set(HeaderNextToken, "n")
			_, _ = io.WriteString(w, `{"items":[{"name":"web"}],"field_of_a_newer_server":1}`)
		}))
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{c}}
		srv.EnableHTTP2 = true
		srv.Config.ErrorLog = nil
		srv.StartTLS()
		t.Cleanup(srv.Close)
		return srv.URL
	}
	good, bad := serve(chain), serve(nameless)
	ask := func(cfg ClientConfig) error {
		c, err := NewClient(cfg)
		must.NoError(t, err)
		defer c.Close()
		l, err := c.VMs().List(t.Context(), nil)
		if err == nil {
			must.Eq(t, "web", l.Items[0].Name)
			must.Eq(t, QueryMeta{Index: 7, LastContact: Duration(12 * time.Millisecond), KnownLeader: true, Stale: true, NextToken: "n"}, l.QueryMeta)
		}
		return err
	}
	must.NoError(t, ask(ClientConfig{Address: good, CACert: ca}))
	must.NoError(t, ask(ClientConfig{Address: good, CAHash: hash}))
	must.NoError(t, ask(ClientConfig{Address: good, CACert: otherCA, CAHash: hash}))
	for _, cfg := range []ClientConfig{
		{Address: good}, {Address: good, CACert: otherCA}, {Address: good, CAHash: otherHash},
		{Address: bad, CACert: ca},
		{Address: bad, CACert: otherCA}, // of the authority, but for nobody of the cluster, and for another host
	} {
		must.Eq(t, CodeUnreachable, CodeOf(ask(cfg)))
	}
	// The console checks the same things.
	c, err := NewClient(ClientConfig{Address: good, CACert: otherCA})
	must.NoError(t, err)
	_, err = c.VMs().Console(t.Context(), "web", nil)
	must.Eq(t, CodeUnreachable, CodeOf(err))
}

func TestClientOverAUnixSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "agent.sock")
	ln, err := net.Listen("unix", path)
	must.NoError(t, err)
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"secret":"`+r.URL.Path+`"}`)
	})}
	done := make(chan error)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	c, err := NewClient(ClientConfig{Address: "unix://" + path})
	must.NoError(t, err)
	tok, err := c.Tokens().Bootstrap(t.Context())
	must.NoError(t, err)
	must.Eq(t, "/v1/tokens/bootstrap", tok.Secret)
}

func TestAnswersThatAreNotNovaCrons(t *testing.T) {
	t.Parallel()
	status, body, kind := 200, "", "text/html"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Location", "https://evil.example/")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	defer srv.Close()
	c, err := NewClient(ClientConfig{Address: srv.URL, Token: "secret"})
	must.NoError(t, err)
	for _, r := range []struct {
		status     int
		kind, body string
		code       Code
	}{
		{200, "application/json", "{", CodeInternal}, {200, "application/json", "[]", CodeInternal},
		{302, "text/html", "moved", CodeInternal}, {401, "text/html", "<html>", CodeUnauthenticated},
		{403, "application/json", "{}", CodeForbidden}, {404, "application/json", "null", CodeNotFoundRoute},
		{429, "text/plain", "slow", CodeRateLimited}, {502, "text/html", "proxy", CodeUnreachable},
		{409, "application/json", `{"code":"NOVA-3002","message":"changed"}`, CodeConflict},
	} {
		status, kind, body = r.status, r.kind, r.body
		_, err := c.VMs().Get(t.Context(), "web", nil)
		must.Eq(t, r.code, CodeOf(err), must.Sprint(r))
	}
	status, kind, body = 200, "application/octet-stream", "x"
	_, err = c.Operator().SnapshotSave(t.Context(), io.Discard)
	must.Eq(t, CodeSnapshot, CodeOf(err))
	_, err = c.VMs().Console(t.Context(), "web", nil)
	must.Eq(t, CodeInternal, CodeOf(err)) // not 101
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.VMs().Console(canceled, "web", nil)
	must.Eq(t, CodeCanceled, CodeOf(err))
}
