package client

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/novacron/novacron/agent/fingerprint"
	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/image"
	"github.com/novacron/novacron/agent/network"
	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/boottime"
	"github.com/novacron/novacron/cluster/rpc"
)

// Config is what a Client is made of. Fields without a default are required,
// unless they say otherwise.
type Config struct {
	// Node is what the node says of itself: ID, Name, Region, Datacenter,
	// Address, HTTPAddress, Version, Protocol, SchemaMax, Labels, CPURatio,
	// MemoryRatio. Everything else in it is found out.
	Node api.Node
	// Dir holds the journal and a folder for each VM (seed, NVRAM).
	Dir string
	// Servers are RPC addresses to begin with; the servers tell more.
	Servers []string
	// Dial returns the caller for a server, Peer for any machine of the region
	// (rpc.Pool's Get and Member); they may keep connections.
	Dial, Peer func(addr string) rpc.Caller
	// Redial makes the next call to an address use a new connection (rpc.Pool's
	// Forget). Optional.
	Redial func(addr string)

	Driver   hypervisor.Driver
	Pools    map[string]storage.Pool
	Images   *image.Cache
	Networks network.Manager
	// Facts looks at the machine, less what is reserved for the host.
	Facts func(context.Context) (*fingerprint.Facts, error)
	// Labels, if set, replaces Node.Labels each time the node describes itself:
	// they may change while it runs (see Refresh). Optional.
	Labels func() api.Pairs
	// Sample measures the machine's load for beats. Optional.
	Sample func() *api.NodeStats
	// MakeSeed writes the NoCloud seed of a VM to a path that does not exist.
	MakeSeed func(path string, s *Seed) error
	// Moves carries migrations from node to node. Without it, or with a driver that
	// is no hypervisor.Migrator, this node moves stopped VMs only.
	Moves Tunnels
	// Quarantine is how long the disks of VMs that have moved away are kept (24h).
	Quarantine time.Duration
	// Guard connects to the guard of this machine, or starts one. Without it the node
	// has no guard, and runs no VM with ha = restart.
	Guard func(ctx context.Context) (Guard, error)
	// Peers is the pool that the region's nodes form among themselves. Optional.
	Peers Peers
	// Logger; default slog.Default.
	Logger *slog.Logger

	// Starts, Fetches and Calls bound what is done at once: guests started
	// (default 4), images fetched (2) and calls to the hypervisor (16).
	Starts, Fetches, Calls int
	// OpTimeout bounds one call to the hypervisor, default 60s.
	OpTimeout time.Duration
	// ListInterval is how often the hypervisor is listed without a reason (30s),
	// FactsInterval how often the machine is looked at again (1m).
	ListInterval, FactsInterval time.Duration
	// StreamSilence is after how long a silent stream of orders is opened anew (60s).
	StreamSilence time.Duration
	// ImageIdle is after how long an image that nothing uses, and that the servers
	// have no name for, is removed from the cache (24h); negative: never.
	ImageIdle time.Duration
	// NoSync leaves out the journal's fsync: for tests only.
	NoSync bool
	// Boottime is the clock of leases; default CLOCK_BOOTTIME.
	Boottime func() time.Duration
	// OnBeat is told of each acknowledged beat, with the boot time from just
	// before it was sent. Optional.
	OnBeat func(sent time.Duration, ack *api.NodeBeaten)
}

// Seed is what the NoCloud seed of a VM is made of.
type Seed struct {
	ID   api.ID
	Name string
	Spec *api.VMSpec
	MACs []string // of the NICs, in their order
}

func (c *Config) complete() error {
	missing := func(what string) error {
		return api.Errorf(api.CodeConfig, "the client needs %s", what)
	}
	switch {
	case c.Node.ID.IsZero():
		return missing("a node id")
	case c.Dir == "":
		return missing("a folder")
	case len(c.Servers) == 0:
		return missing("the address of a server")
	case c.Dial == nil || c.Peer == nil || c.Driver == nil || c.Images == nil || c.Networks == nil || c.Facts == nil || c.MakeSeed == nil:
		return missing("a caller, a driver, images, networks, facts and seeds")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Starts = cmp.Or(c.Starts, 4)
	c.Fetches = cmp.Or(c.Fetches, 2)
	c.Calls = cmp.Or(c.Calls, 16)
	c.OpTimeout = cmp.Or(c.OpTimeout, time.Minute)
	c.ListInterval = cmp.Or(c.ListInterval, 30*time.Second)
	c.FactsInterval = cmp.Or(c.FactsInterval, time.Minute)
	c.Quarantine = cmp.Or(c.Quarantine, 24*time.Hour)
	c.StreamSilence = cmp.Or(c.StreamSilence, time.Minute)
	c.ImageIdle = cmp.Or(c.ImageIdle, 24*time.Hour)
	if c.Boottime == nil {
		c.Boottime = boottime.Now
	}
	if c.Redial == nil {
		c.Redial = func(string) {}
	}
	if c.Sample == nil {
		c.Sample = func() *api.NodeStats { return nil }
	}
	return nil
}
