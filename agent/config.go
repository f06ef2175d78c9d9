package agent

import (
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/novacron/novacron/agent/peers"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
)

// Config is the whole configuration of an agent. It is made by Default, then
// files, then the environment, then flags lay their values over it.
type Config struct {
	// Name of the node; default: the host name up to its first dot.
	Name       string `hcl:"name,optional"`
	Region     string `hcl:"region,optional"`
	Datacenter string `hcl:"datacenter,optional"`
	DataDir    string `hcl:"data_dir,optional"`
	// BindAddr is the IP address that all ports listen on.
	BindAddr string `hcl:"bind_addr,optional"`
	// Advertise is the address that others dial; default: BindAddr, or the
	// first private address of the machine where that is 0.0.0.0.
	Advertise string `hcl:"advertise,optional"`
	// LeaveOnTerminate: leave the cluster on SIGTERM and SIGINT, instead of
	// only stopping. Guests keep running either way.
	LeaveOnTerminate bool `hcl:"leave_on_terminate,optional"`

	Ports     *Ports     `hcl:"ports,block"`
	Log       *Log       `hcl:"log,block"`
	Server    *Server    `hcl:"server,block"`
	Client    *Client    `hcl:"client,block"`
	Join      *Join      `hcl:"join,block"`
	HTTP      *HTTP      `hcl:"http,block"`
	Telemetry *Telemetry `hcl:"telemetry,block"`

	// Dev is set by -dev only.
	Dev bool

	source map[string]Source
}

// Ports are the ports of the agent. Zero takes any free one (-dev only).
type Ports struct {
	HTTP int `hcl:"http,optional"` // 7646
	RPC  int `hcl:"rpc,optional"`  // 7647
	Serf int `hcl:"serf,optional"` // 7648, servers only
}

// Log is how the agent logs.
type Log struct {
	Level  string `hcl:"level,optional"`  // trace, debug, info, warn, error
	Format string `hcl:"format,optional"` // text, json
}

// Server is the server half.
type Server struct {
	Enabled bool `hcl:"enabled,optional"`
	// Expect holds scheduling back until so many servers are voters.
	Expect int `hcl:"expect,optional"`
	// Profile sets Raft's timing: default, fast, or slow; or RaftMultiplier
	// sets it by number (default 0.5).
	Profile        string  `hcl:"profile,optional"`
	RaftMultiplier float64 `hcl:"raft_multiplier,optional"`
	// Join lists gossip addresses of other servers, of any region.
	Join []string `hcl:"join,optional"`
	// RateLimit is how many calls a second one token may make, NodeRateLimit one
	// node; twice as many at once. Heartbeats are not counted; negative: no limit.
	RateLimit     float64 `hcl:"rate_limit,optional"`
	NodeRateLimit float64 `hcl:"node_rate_limit,optional"`
}

// The limits that hold where the configuration says nothing.
const (
	defaultRateLimit     = 500
	defaultNodeRateLimit = 100
)

// limit is how often callers may call a server.
func (s *Server) limit() rpc.Limit {
	return rpc.Limit{Rate: orDefault(s.RateLimit, defaultRateLimit), NodeRate: orDefault(s.NodeRateLimit, defaultNodeRateLimit)}
}

func orDefault(v, otherwise float64) float64 {
	if v == 0 {
		return otherwise
	}
	return max(v, 0)
}

// Client is the client half.
type Client struct {
	Enabled bool `hcl:"enabled,optional"`
	// Servers are RPC addresses to begin with; the servers then tell more.
	Servers     []string          `hcl:"servers,optional"`
	Labels      map[string]string `hcl:"labels,optional"`
	CPURatio    float64           `hcl:"cpu_ratio,optional"`
	MemoryRatio float64           `hcl:"memory_ratio,optional"`
	// Bridges are the host bridges that VMs may use; empty: all that exist.
	Bridges []string `hcl:"bridges,optional"`
	// MigrateDir holds the sockets of migrations; it must be the same on all nodes.
	// Default /run/novacron/migrate.
	MigrateDir string `hcl:"migrate_dir,optional"`
	// ImageIdle is how long an image stays that nothing uses and that the servers
	// do not count on here: "24h" (default); "0s" keeps them all.
	ImageIdle  string      `hcl:"image_idle,optional"`
	Reserved   *Reserved   `hcl:"reserved,block"`
	Hypervisor *Hypervisor `hcl:"hypervisor,block"`
	Guard      *Guard      `hcl:"guard,block"`
	Gossip     *Gossip     `hcl:"gossip,block"`
	Pools      []Pool      `hcl:"pool,block"`
}

// Gossip is the pool that the region's nodes form among themselves. What it sees
// only lets the servers suspect a silent node sooner.
type Gossip struct {
	Disabled bool `hcl:"disabled,optional"`
	Port     int  `hcl:"port,optional"` // 7649, TCP and UDP, clients only
}

// Guard is the process that ends this host's HA VMs when its lease is over
// (novacron guard).
type Guard struct {
	// Dir is its folder, in memory and of root only: /run/novacron/guard (default).
	// Empty: this node has no guard, and runs no VM with ha = restart.
	Dir string `hcl:"dir,optional"`
	// Spawn: the agent starts a guard when none answers (default true). As a service
	// of its own it is safer.
	Spawn bool `hcl:"spawn,optional"`
	// Watchdog is the device that a guard which the agent starts is given, such as
	// /dev/watchdog; empty: none.
	Watchdog string `hcl:"watchdog,optional"`
}

// Reserved is what the host keeps for itself.
type Reserved struct {
	Cores  float64 `hcl:"cores,optional"`
	Memory string  `hcl:"memory,optional"` // "512MiB"
}

// Hypervisor chooses and sets up the driver.
type Hypervisor struct {
	Kind string `hcl:"kind,optional"` // qemu, sim; empty: qemu (with -dev: whatever there is)
	// Socket is libvirtd's UNIX socket; default: where distributions have it.
	Socket       string `hcl:"socket,optional"`
	Acceleration string `hcl:"acceleration,optional"` // kvm, tcg; empty: what the CPU can
	// User and Group own the files that guests open; empty: libvirt's own.
	User  string `hcl:"user,optional"`
	Group string `hcl:"group,optional"`
	// OwnNetNS: only processes of the agent's network namespace are this host's;
	// for several hosts on one machine.
	OwnNetNS bool `hcl:"own_netns,optional"`
}

// Pool is a storage pool of the node.
type Pool struct {
	Name   string `hcl:"name,label"`
	Type   string `hcl:"type,optional"` // dir (default), sim
	Path   string `hcl:"path,optional"`
	Shared bool   `hcl:"shared,optional"`
	// Capacity of a sim pool, and a lower limit than the disk's for a dir pool.
	Capacity string `hcl:"capacity,optional"`
}

// Join lets a fresh machine join a cluster by itself at its first start.
type Join struct {
	Addresses []string `hcl:"addresses,optional"` // RPC addresses of servers
	Token     string   `hcl:"token,optional"`
	TokenFile string   `hcl:"token_file,optional"`
}

// HTTP is the API's front.
type HTTP struct {
	// Addr overrides bind_addr for HTTP.
	Addr string `hcl:"addr,optional"`
	// CertFile and KeyFile replace the node's certificate, for people's browsers.
	CertFile string `hcl:"cert_file,optional"`
	KeyFile  string `hcl:"key_file,optional"`
}

// Telemetry says how metrics are shown.
type Telemetry struct {
	Prometheus bool `hcl:"prometheus,optional"`
}

// The ports as they are registered in people's firewalls.
const (
	PortHTTP = 7646
	PortRPC  = 7647
	PortSerf = 7648
)

// profiles are the multipliers behind Profile.
var profiles = []struct {
	name string
	mult float64
}{{"default", 0.5}, {"fast", 0.2}, {"slow", 2}}

// leaveGrace bounds how long an agent waits for a graceful leave.
const leaveGrace = 20 * time.Second

// Default returns the configuration of an agent that was told nothing.
func Default() *Config {
	return &Config{
		Name: hostName(), Region: "global", Datacenter: "dc1", DataDir: "/var/lib/novacron", BindAddr: "0.0.0.0",
		Ports:     &Ports{HTTP: PortHTTP, RPC: PortRPC, Serf: PortSerf},
		Log:       &Log{Level: "info", Format: "text"},
		Server:    &Server{},
		Client:    &Client{Reserved: &Reserved{}, Hypervisor: &Hypervisor{}, Guard: &Guard{Dir: "/run/novacron/guard", Spawn: true}, Gossip: &Gossip{Port: peers.DefaultPort}},
		Join:      &Join{},
		HTTP:      &HTTP{},
		Telemetry: &Telemetry{Prometheus: true},
		source:    map[string]Source{},
	}
}

// hostName is the host's name up to its first dot, or "node".
func hostName() string {
	n, err := os.Hostname()
	if err != nil || n == "" {
		return "node"
	}
	for i := range n {
		if n[i] == '.' {
			return n[:i]
		}
	}
	return n
}

// imageIdle returns ImageIdle, negative for ever; the text was checked by Validate.
func (c *Client) imageIdle() time.Duration {
	d, err := time.ParseDuration(c.ImageIdle)
	switch {
	case err != nil: // not set
		return 0
	case d == 0:
		return -1
	}
	return d
}

// multiplier returns Raft's timing.
func (s *Server) multiplier() float64 {
	if s.RaftMultiplier != 0 {
		return s.RaftMultiplier
	}
	for _, p := range profiles {
		if p.name == s.Profile {
			return p.mult
		}
	}
	return profiles[0].mult
}

// resources returns what is reserved; the text was checked by Validate.
func (r *Reserved) resources() api.Resources {
	mem, _ := api.ParseBytes(r.Memory)
	return api.Resources{CPU: api.MilliCPU(r.Cores * 1000), Memory: mem}
}

// ClientDir is where the client half keeps its journal and the VMs' own files.
func (c *Config) ClientDir() string { return filepath.Join(c.DataDir, "client") }

// ImageDir is the image cache.
func (c *Config) ImageDir() string { return filepath.Join(c.DataDir, "images") }

// SocketPath is the root-only socket of a server, for acl bootstrap.
func (c *Config) SocketPath() string { return filepath.Join(c.DataDir, "novacron.sock") }

// Pairs shows the configuration in /v1/agent/self, without the join token.
func (c *Config) Pairs() api.Pairs {
	m := map[string]string{}
	each(c, func(path string, v leaf) {
		if path != "join.token" {
			m[path] = v.text()
		}
	})
	for _, p := range c.Client.Pools {
		m["client.pool."+p.Name] = p.Type + " " + p.Path + " shared=" + strconv.FormatBool(p.Shared)
	}
	return api.PairsOf(m)
}
