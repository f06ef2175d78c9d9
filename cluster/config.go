package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/raft"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/boottime"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

// The default ports.
const (
	PortRPC  = 7647
	PortSerf = 7648
)

// Protocol is the version of the RPC protocol that this binary speaks.
const Protocol = 1

// Stores replaces the stores of an in-memory Raft, so that a test can restart a
// server without a disk, or break one.
type Stores struct {
	Logs      raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore

	// disk, if set, is used in place of Stable, and with Logs as a disk would be:
	// under the watchdog and the cache (tests).
	disk voteFile
}

// Config is what a server needs to know. Zero values are the defaults.
type Config struct {
	// Dir is the data folder of the agent; it holds identity.json.
	Dir string
	// Identity, if set, is used instead of the one in Dir.
	Identity *Identity
	// Region, if set, must be the region that Dir is stamped with.
	Region     string
	Datacenter string // default "dc1"
	Version    string // of the binary

	// Bind is host:port of the one port (default ":7647"); Advertise is how
	// others dial it (default: Bind, if that names one address).
	Bind, Advertise string
	// SerfBind (default ":7648") and SerfAdvertise are the same for gossip.
	SerfBind, SerfAdvertise string
	// HTTPAddr is only told to others.
	HTTPAddr string
	// Join are gossip addresses of other servers, of any region; those that the
	// join answered with are added.
	Join []string

	// Multiplier scales Raft's timeouts (default ProfileNormal).
	Multiplier float64
	// Expect holds scheduling back until so many servers vote.
	Expect int32
	// HashEvery is how often the leader puts the state's hash into the log
	// (default 5m; negative: never).
	HashEvery time.Duration
	// StabilizationTime is how long a new server must be healthy before it votes
	// (default 5s).
	StabilizationTime time.Duration

	// Network, if set, replaces sockets with an in-memory network.
	Network *rpc.Memory
	// Gossip, if set, replaces gossip's sockets.
	Gossip memberlist.NodeAwareTransport
	// InMemory keeps Raft in memory.
	InMemory bool
	Stores   *Stores

	// Limit bounds how often one caller may call; Hold is how long a call waits
	// for a leader; MaxPerIP bounds the connections of one address.
	Limit    rpc.Limit
	Hold     time.Duration
	MaxPerIP int
	// Tunnel serves nova-tunnel/1 of the port; nil refuses it.
	Tunnel func(ctx context.Context, c net.Conn, p rpc.Peer)
	// Registry is what the state machine knows; nil is this binary's.
	Registry *fsm.Registry

	// Clock is time since boot, suspend included (default CLOCK_BOOTTIME).
	Clock func() time.Duration
	// Now is the wall clock that stamps entries.
	Now func() time.Time
	// Halt stops the process: the state cannot be trusted any more, or the disk
	// stands still. It must not return control to the server's work; the default
	// logs and exits.
	Halt   func(error)
	Logger *slog.Logger

	fastGossip bool // tests
	// router and outcome, if set, stand between the endpoints and the server, and
	// between Raft and who proposed (tests).
	router     func(rpc.Router) rpc.Router
	outcome    func(raft.ApplyFuture) (any, error)
	leaveDelay time.Duration // how long a leave may spread
	// How long a copy of an image may stand still, and be checked.
	imageStall, imageFinish time.Duration
}

// withDefaults fills in what is not set and refuses what cannot work.
func (c Config) withDefaults() (*Config, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Datacenter == "" {
		c.Datacenter = "dc1"
	}
	if c.Version == "" {
		c.Version = "dev"
	}
	if c.Bind == "" {
		c.Bind = fmt.Sprintf(":%d", PortRPC)
	}
	if c.SerfBind == "" {
		c.SerfBind = fmt.Sprintf(":%d", PortSerf)
	}
	if c.Multiplier == 0 {
		c.Multiplier = ProfileNormal
	}
	if c.Multiplier < 0.1 || c.Multiplier > 10 || math.IsNaN(c.Multiplier) {
		return nil, api.Errorf(api.CodeConfig, "the raft multiplier must be between 0.1 and 10, not %v", c.Multiplier).
			WithHint("fast is %v, normal is %v, slow is %v and more", ProfileFast, ProfileNormal, ProfileSlow)
	}
	if c.HashEvery == 0 {
		c.HashEvery = 5 * time.Minute
	}
	if c.StabilizationTime == 0 {
		c.StabilizationTime = 5 * time.Second
	}
	if c.leaveDelay == 0 {
		c.leaveDelay = time.Second
	}
	if c.imageStall == 0 {
		c.imageStall, c.imageFinish = imageStall, imageFinish
	}
	if c.router == nil {
		c.router = func(r rpc.Router) rpc.Router { return r }
	}
	if c.outcome == nil {
		c.outcome = func(f raft.ApplyFuture) (any, error) {
			err := f.Error()
			return f.Response(), err
		}
	}
	if c.Clock == nil {
		c.Clock = boottime.Now
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Halt == nil {
		log := c.Logger
		c.Halt = func(err error) {
			log.Error("the server halts", "error", err)
			os.Exit(70)
		}
	}
	if c.Identity == nil {
		id, err := LoadIdentity(c.Dir)
		if err != nil {
			return nil, err
		}
		c.Identity = id
	}
	if c.Identity.Role != RoleServer {
		return nil, api.Errorf(api.CodeConfig, "%s joined as a %s, not as a server", c.Dir, c.Identity.Role).
			WithHint("join again with a server's join token, into an empty data folder")
	}
	if err := c.Identity.Belongs(c.Dir, c.Region, api.ID{}, api.ID{}); err != nil {
		return nil, err
	}
	return &c, nil
}

// advertised returns the address that others dial: the configured one, or the
// bound one if it names one address of this machine.
func advertised(configured, bound string) (string, error) {
	if configured != "" {
		host, port, err := net.SplitHostPort(configured)
		if err != nil || host == "" || port == "" || port == "0" {
			return "", api.Errorf(api.CodeConfig, "advertise %q is not host:port", configured)
		}
		return configured, nil
	}
	host, port, err := net.SplitHostPort(bound)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return bound, nil
	}
	ip, err := firstAddress()
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(ip, port), nil
}

// firstAddress finds the one private or global address of this machine; with
// several it takes the first and with none it asks for a configured one.
func firstAddress() (string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			return n.IP.String(), nil
		}
	}
	return "", api.Errorf(api.CodeConfig, "this machine has no address that others could dial").
		WithHint("set the address to advertise")
}
