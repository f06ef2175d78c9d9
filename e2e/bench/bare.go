package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	boltdb "github.com/hashicorp/raft-boltdb/v2"
)

// bareRaft is hashicorp/raft with nothing on top: the limit of the Apply path.
// Its settings are those of package cluster (stores, log cache, batching, no
// pipeline, timing, mTLS); its state machine does nothing.
type bareRaft struct {
	nodes []*raft.Raft
	close []func()
}

type nothing struct{}

func (nothing) Apply(*raft.Log) any { return nil }
func (nothing) ApplyBatch(logs []*raft.Log) []any {
	return make([]any, len(logs))
}
func (nothing) Snapshot() (raft.FSMSnapshot, error) { return nothing{}, nil }
func (nothing) Restore(r io.ReadCloser) error       { return r.Close() }
func (nothing) Persist(s raft.SnapshotSink) error   { return s.Close() }
func (nothing) Release()                            {}

var (
	_ raft.FSM         = nothing{}
	_ raft.BatchingFSM = nothing{}
)

// startBareRaft starts n nodes on loopback with their stores below dir.
func startBareRaft(n int, dir string, multiplier float64) (*bareRaft, error) {
	b := &bareRaft{}
	logger := hclog.NewNullLogger()
	layers, err := newTLSLayers(n)
	if err != nil {
		return b, err
	}
	var configuration raft.Configuration
	transports := make([]*raft.NetworkTransport, n)
	for i := range n {
		t := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: layers[i], MaxPool: 4, MaxRPCsInFlight: 1, Timeout: 10 * time.Second, Logger: logger,
		})
		transports[i] = t
		b.close = append(b.close, func() { t.Close() })
		configuration.Servers = append(configuration.Servers, raft.Server{ID: raft.ServerID(fmt.Sprint(i)), Address: t.LocalAddr()})
	}
	for i := range n {
		folder := filepath.Join(dir, fmt.Sprint(i))
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return b, err
		}
		stable, err := boltdb.NewBoltStore(filepath.Join(folder, "vote.db"))
		if err != nil {
			return b, err
		}
		b.close = append(b.close, func() { stable.Close() })
		store, err := boltdb.NewBoltStore(filepath.Join(folder, "log.db"))
		if err != nil {
			return b, err
		}
		b.close = append(b.close, func() { store.Close() })
		snapshots, err := raft.NewFileSnapshotStoreWithLogger(folder, 2, logger)
		if err != nil {
			return b, err
		}
		cache, err := raft.NewLogCache(1024, store)
		if err != nil {
			return b, err
		}
		c := raft.DefaultConfig()
		c.LocalID = raft.ServerID(fmt.Sprint(i))
		c.Logger = logger
		c.BatchApplyCh = true
		c.MaxAppendEntries = 1024
		c.HeartbeatTimeout = time.Duration(float64(c.HeartbeatTimeout) * multiplier)
		c.ElectionTimeout = time.Duration(float64(c.ElectionTimeout) * multiplier)
		c.LeaderLeaseTimeout = time.Duration(float64(c.LeaderLeaseTimeout) * multiplier)
		c.CommitTimeout = max(time.Duration(float64(c.CommitTimeout)*multiplier), 5*time.Millisecond)
		c.TrailingLogs = 10240
		c.NoLegacyTelemetry = true
		if err := raft.BootstrapCluster(c, cache, stable, snapshots, transports[i], configuration); err != nil {
			return b, err
		}
		r, err := raft.NewRaft(c, nothing{}, cache, stable, snapshots, transports[i])
		if err != nil {
			return b, err
		}
		b.nodes = append(b.nodes, r)
	}
	return b, nil
}

// leader waits up to 30 s for a leader.
func (b *bareRaft) leader() (*raft.Raft, error) {
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		for _, r := range b.nodes {
			if r.State() == raft.Leader && r.Barrier(time.Second).Error() == nil {
				return r, nil
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil, fmt.Errorf("bare raft: no leader in 30 s")
}

func (b *bareRaft) stop() {
	for _, r := range b.nodes {
		r.Shutdown().Error()
	}
	for _, c := range b.close {
		c()
	}
}

// tlsLayer is Raft's streams over mutual TLS 1.3 on loopback.
type tlsLayer struct {
	net.Listener
	config *tls.Config
}

var _ raft.StreamLayer = (*tlsLayer)(nil)

func (l *tlsLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return tls.DialWithDialer(&net.Dialer{Timeout: timeout}, "tcp", string(address), l.config)
}

// newTLSLayers listens n times, with one certificate for all.
func newTLSLayers(n int) ([]*tlsLayer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"bench"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(certificate)
	config := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      trusted, ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert,
		ServerName: "bench", MinVersion: tls.VersionTLS13,
	}
	layers := make([]*tlsLayer, n)
	for i := range layers {
		l, err := tls.Listen("tcp", "127.0.0.1:0", config)
		if err != nil {
			return nil, err
		}
		layers[i] = &tlsLayer{l, config}
	}
	return layers, nil
}
