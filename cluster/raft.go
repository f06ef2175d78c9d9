package cluster

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/novacron/novacron/api"
)

// The profiles of Raft's timeouts: what hashicorp/raft calls its performance
// multiplier. At 1 a dead leader is replaced in about two seconds.
const (
	ProfileFast   = 0.25 // fast disks, nothing else on the machine
	ProfileNormal = 0.5
	ProfileSlow   = 1.0 // machines that also run emulated guests
)

const (
	trailingLogs     = 10240 // also keeps the snapshot livelock away (raft #697)
	maxAppendEntries = 1024
	stallLimit       = 5 * time.Second
	snapshotsKept    = 2
	logCacheEntries  = 1024
)

// raftConfig is hashicorp/raft's configuration at a multiplier.
func raftConfig(id api.ID, mult float64, log *hlog, notify chan<- bool) *raft.Config {
	scale := func(d time.Duration) time.Duration { return time.Duration(float64(d) * mult) }
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(id.String())
	c.HeartbeatTimeout = scale(c.HeartbeatTimeout)
	c.ElectionTimeout = scale(c.ElectionTimeout)
	c.LeaderLeaseTimeout = scale(c.LeaderLeaseTimeout)
	c.CommitTimeout = max(scale(c.CommitTimeout), 5*time.Millisecond)
	c.MaxAppendEntries = maxAppendEntries
	c.BatchApplyCh = true
	c.TrailingLogs = trailingLogs
	c.ShutdownOnRemove = false // a removed server stays up and says so
	c.NoLegacyTelemetry = true
	c.Logger = log
	c.NotifyCh = notify
	return c
}

// raftStores are the three stores of Raft and what closes them.
type raftStores struct {
	logs   raft.LogStore
	stable raft.StableStore
	snaps  raft.SnapshotStore
	close  func() error
}

// openStores opens the stores of a data folder, or of memory.
func openStores(c *Config, log *hlog) (*raftStores, error) {
	if c.InMemory {
		mem := raft.NewInmemStore()
		s := &raftStores{logs: mem, stable: mem, snaps: raft.NewInmemSnapshotStore(), close: func() error { return nil }}
		if c.Stores != nil {
			*s = raftStores{logs: c.Stores.Logs, stable: c.Stores.Stable, snaps: c.Stores.Snapshots, close: s.close}
		}
		if c.Stores != nil && c.Stores.disk != nil {
			return s, s.guard(c.Stores.Logs, c.Stores.disk, &watchdog{limit: stallLimit, halt: c.Halt})
		}
		return s, nil
	}
	dir := filepath.Join(c.Dir, "raft")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	watch := &watchdog{limit: stallLimit, halt: c.Halt}
	votes, err := openVotes(filepath.Join(dir, "vote.db"))
	if err != nil {
		return nil, folderInUse(c.Dir, err)
	}
	bolt, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, "log.db"), BoltOptions: &bbolt.Options{Timeout: time.Second}})
	if err != nil {
		return nil, errors.Join(folderInUse(c.Dir, err), votes.Close())
	}
	closeAll := func() error { return errors.Join(bolt.Close(), votes.Close()) }
	s := &raftStores{close: closeAll}
	if err := s.guard(bolt, votes, watch); err != nil {
		return nil, errors.Join(err, closeAll())
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, log)
	if err != nil {
		return nil, errors.Join(err, closeAll())
	}
	s.snaps = snaps
	return s, nil
}

// guard puts what Raft does not do itself before what is on a disk: the watchdog,
// the cache, and the care for a vote of which only a half was written.
func (s *raftStores) guard(logs raft.LogStore, votes voteFile, watch *watchdog) (err error) {
	s.stable = &stableStore{file: votes, watch: watch}
	s.logs, err = raft.NewLogCache(logCacheEntries, &stallStore{LogStore: logs, watch: watch})
	return err
}

func folderInUse(dir string, err error) error {
	if errors.Is(err, bbolt.ErrTimeout) {
		return api.Errorf(api.CodeConfig, "another process uses the data folder %s", dir)
	}
	return err
}

// streams lets Raft's transport use the one port.
type streams struct {
	streamLayer
}

// streamLayer is what cluster/rpc gives for Raft without knowing Raft.
type streamLayer interface {
	net.Listener
	Dial(address string, timeout time.Duration) (net.Conn, error)
}

var _ raft.StreamLayer = streams{}

// Dial opens a stream to another server's Raft.
func (s streams) Dial(a raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return s.streamLayer.Dial(string(a), timeout)
}

// addresses lets Raft find a server that moved: gossip knows its newest address.
type addresses struct{ find func(api.ID) (string, bool) }

var _ raft.ServerAddressProvider = addresses{}

// ServerAddr returns the newest address of a server.
func (a addresses) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	n, err := api.ParseID(string(id))
	if err != nil {
		return "", err
	}
	if addr, ok := a.find(n); ok {
		return raft.ServerAddress(addr), nil
	}
	return "", fmt.Errorf("server %s is not known to gossip", id)
}

// newRaftTransport makes the transport. One request in flight turns the
// pipeline off (raft #612), which also costs throughput with batches.
func newRaftTransport(l streamLayer, find func(api.ID) (string, bool), log *hlog) *raft.NetworkTransport {
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:                streams{l},
		ServerAddressProvider: addresses{find},
		Logger:                log,
		MaxPool:               4,
		MaxRPCsInFlight:       1,
		Timeout:               10 * time.Second,
	})
}

// livelock notices a follower that is sent the same snapshot again and again
// and never gets past it (raft #697); starting anew is the cure.
type livelock struct {
	mu    sync.Mutex
	index uint64
	times int
	halt  func(error)
}

const livelockRestores = 3

func (l *livelock) restored(index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if index != l.index {
		l.index, l.times = index, 0
	}
	if l.times++; l.times >= livelockRestores {
		l.halt(fmt.Errorf("the snapshot of index %d was installed %d times in a row", index, l.times))
	}
}
