package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"time"

	"github.com/novacron/novacron/agent/client"
	"github.com/novacron/novacron/agent/fingerprint"
	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/hypervisor/libvirt"
	simhv "github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/agent/image"
	"github.com/novacron/novacron/agent/network"
	"github.com/novacron/novacron/agent/peers"
	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/agent/storage/dir"
	simpool "github.com/novacron/novacron/agent/storage/sim"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

// The kinds of hypervisors.
const (
	kindQEMU = "qemu"
	kindSim  = "sim"
)

// simCapacity is the size of a simulated pool that says nothing.
const simCapacity = 1 * api.TiB

// startClient starts the client half.
func (a *Agent) startClient(ctx context.Context) (err error) {
	m := &clientMode{done: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.release())
		}
	}()
	if err := a.openDriver(ctx, m); err != nil {
		return err
	}
	pools, err := a.openPools(m)
	if err != nil {
		return err
	}
	if err := a.openNetworks(m); err != nil {
		return err
	}
	for _, d := range []string{a.cfg.ClientDir(), a.cfg.ImageDir()} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return err
		}
	}
	images, err := image.Open(a.cfg.ImageDir(), image.Options{})
	if err != nil {
		return err
	}
	m.close = append(m.close, images.Close)

	moves, err := a.openMoves(m)
	if err != nil {
		return err
	}
	guards, err := a.openGuard(m)
	if err != nil {
		return err
	}
	node := a.node()
	c := client.Config{
		Moves: moves, Guard: guards, Peers: a.openPeers(m, &node),
		Node: node, Dir: a.cfg.ClientDir(), Driver: m.driver, Pools: pools, Images: images, Networks: m.networks,
		ImageIdle: a.cfg.Client.imageIdle(),
		Facts:     a.facts, Sample: fingerprint.NewSampler("").Sample, MakeSeed: makeSeed, Logger: a.log.Logger,
		Labels: func() api.Pairs {
			a.mu.Lock()
			defer a.mu.Unlock()
			return api.PairsOf(a.cfg.Client.Labels)
		},
	}
	var mux *rpc.Mux
	if a.server != nil {
		// In both modes the client half speaks to the server half, which passes
		// on what is the leader's.
		mux = a.server.Mux()
		own := mux.As(&acl.Identity{Role: acl.RoleNode, Region: a.id.Region, NodeID: a.id.NodeID})
		c.Servers = []string{a.server.Self().Address}
		c.Dial = func(string) rpc.Caller { return own }
		c.Peer = a.server.Pool().Member
	} else {
		mux = a.peer.mux
		c.Servers = a.peer.servers()
		c.Dial, c.Peer, c.Redial = a.peer.pool.Get, a.peer.pool.Member, a.peer.pool.Forget
		c.OnBeat = a.heard
	}
	if m.Client, err = client.New(c); err != nil {
		return err
	}
	m.Register(mux)
	run, end := context.WithCancel(context.Background())
	m.end = end
	a.client = m
	a.wg.Go(func() {
		defer close(m.done)
		if err := m.Run(run); err != nil {
			a.fail(fmt.Errorf("client mode: %w", err))
		}
	})
	return nil
}

// openPeers makes this node's place in the pool of the region's nodes; nil where
// there is none.
func (a *Agent) openPeers(m *clientMode, n *api.Node) client.Peers {
	g := a.cfg.Client.Gossip
	if a.cfg.Dev || g.Disabled {
		return nil
	}
	host, _, err := net.SplitHostPort(n.Address)
	if err != nil {
		return nil
	}
	n.GossipAddress = net.JoinHostPort(host, strconv.Itoa(g.Port))
	c := peers.Config{NodeID: n.ID, Region: n.Region, BindAddr: a.cfg.BindAddr, BindPort: g.Port, Logger: a.log.Logger}
	if net.ParseIP(host) != nil { // else memberlist takes a private address of the machine
		c.AdvertiseAddr = host
	}
	p := peers.New(c)
	m.close = append(m.close, p.Close)
	return p
}

// stop ends the client half; guests run on.
func (m *clientMode) stop() error {
	m.end()
	<-m.done
	return nil
}

// release closes what the client half stood on.
func (m *clientMode) release() error {
	var errs []error
	for _, f := range slices.Backward(m.close) {
		errs = append(errs, f())
	}
	m.close = nil
	return errors.Join(errs...)
}

// node is what this node says of itself besides the facts.
func (a *Agent) node() api.Node {
	n := api.Node{
		ID: a.id.NodeID, Name: a.id.Name, Region: a.id.Region, Datacenter: a.cfg.Datacenter,
		HTTPAddress: a.front.advertised, Version: a.opts.Version, Protocol: cluster.Protocol,
		SchemaMax: fsm.DefaultRegistry().Newest(),
		CPURatio:  a.cfg.Client.CPURatio, MemoryRatio: a.cfg.Client.MemoryRatio,
	}
	if a.server != nil {
		n.Address = a.server.Self().Address
	} else {
		n.Address = a.peer.address
	}
	return n
}

// facts looks at the machine, less what is reserved.
func (a *Agent) facts(ctx context.Context) (*fingerprint.Facts, error) {
	r := a.cfg.Client.Reserved.resources()
	return fingerprint.Find(ctx, fingerprint.Options{ReserveCPU: r.CPU, ReserveMemory: r.Memory})
}

// -dev waits probeTime for a local libvirt to answer, and learnTime for it to say
// what it can do: the first time it tries out its emulators.
const (
	probeTime = 3 * time.Second
	learnTime = 30 * time.Second
)

// probe says why the local libvirt is used, or in the error why it is not.
func probe(ctx context.Context, d hypervisor.Driver) (string, error) {
	if os.Geteuid() != 0 {
		return "", errors.New("this is not root")
	}
	short, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	if _, err := d.List(short); err != nil {
		return "", fmt.Errorf("no libvirt answers: %w", err)
	}
	long, cancel := context.WithTimeout(ctx, learnTime)
	defer cancel()
	info, err := d.Fingerprint(long)
	switch {
	case err != nil:
		return "", fmt.Errorf("libvirt answers, but not what it can do: %w", err)
	case !info.Healthy:
		return "", fmt.Errorf("libvirt answers, but is not usable: %s", info.Error)
	}
	return "libvirt answers, version " + info.Version, nil
}

// openDriver makes the driver. Without a configured kind it is qemu, and with
// -dev whatever there is.
func (a *Agent) openDriver(ctx context.Context, m *clientMode) (err error) {
	h := a.cfg.Client.Hypervisor
	m.why = "configured"
	kind := h.Kind
	if kind == "" {
		kind, m.why = kindQEMU, "default"
	}
	if kind == kindQEMU {
		m.driver = libvirt.New(libvirt.Config{Socket: h.Socket, Acceleration: h.Acceleration, OwnNetNS: h.OwnNetNS, Logger: a.log.Logger})
	}
	if a.cfg.Dev && h.Kind == "" {
		if m.why, err = probe(ctx, m.driver); err != nil {
			kind, m.why = kindSim, err.Error()
			if err := m.driver.Close(); err != nil {
				a.log.Debug("the probe of libvirt", "error", err)
			}
		}
	}
	if kind == kindSim {
		host := a.opts.SimHost
		if host == nil {
			host = simhv.NewHost(simhv.Options{StartDelay: 300 * time.Millisecond, ShutdownDelay: 300 * time.Millisecond})
		}
		m.driver = simhv.New(host)
	}
	m.kind = kind
	m.close = append(m.close, m.driver.Close)
	a.log.Info("hypervisor", "kind", kind, "why", m.why)
	return nil
}

// openPools opens the configured pools, and one named default if there is none.
func (a *Agent) openPools(m *clientMode) (map[string]storage.Pool, error) {
	list := a.cfg.Client.Pools
	if len(list) == 0 {
		list = []Pool{{Name: "default", Type: "dir", Path: a.cfg.poolDir("default")}}
		if m.kind == kindSim {
			list[0].Type = "sim"
		}
	}
	uid, gid, err := owner(a.cfg.Client.Hypervisor)
	if err != nil {
		return nil, err
	}
	guestUID, guestGID, err := guestOwner(a.cfg.Client.Hypervisor, qemuConf)
	if err != nil {
		return nil, err
	}
	pools := map[string]storage.Pool{}
	for _, p := range list {
		if p.Type == "sim" {
			if pools[p.Name], err = a.simPool(p); err != nil {
				return nil, err
			}
			continue
		}
		limit, _ := api.ParseBytes(p.Capacity) // Validate has read it
		c := dir.Config{Name: p.Name, Path: p.Path, Shared: p.Shared, Limit: limit, UID: uid, GID: gid}
		if p.Shared { // libvirt leaves the owner as it is there
			c.UID, c.GID = guestUID, guestGID
		}
		d, err := dir.Open(c)
		if err != nil {
			return nil, err
		}
		m.close = append(m.close, d.Close)
		pools[p.Name] = d
	}
	return pools, nil
}

// simPool opens a simulated pool. Its volumes outlive the agent as real ones do.
func (a *Agent) simPool(p Pool) (storage.Pool, error) {
	size, err := api.ParseBytes(p.Capacity)
	if err != nil || size == 0 {
		size = simCapacity
	}
	return simpool.Open(p.Name, size, p.Shared, a.cfg.poolDir(p.Name)+".json")
}

// owner looks up who owns the files that guests open; -1 leaves that to libvirt.
func owner(h *Hypervisor) (uid, gid int, err error) {
	uid, gid = -1, -1
	if h.User != "" {
		u, err := user.Lookup(h.User)
		if err != nil {
			return 0, 0, api.Errorf(api.CodeConfig, "client.hypervisor.user: %v", err)
		}
		uid, err = strconv.Atoi(u.Uid)
		if err != nil {
			return 0, 0, err
		}
		if gid, err = strconv.Atoi(u.Gid); err != nil {
			return 0, 0, err
		}
	}
	if h.Group != "" {
		g, err := user.LookupGroup(h.Group)
		if err != nil {
			return 0, 0, api.Errorf(api.CodeConfig, "client.hypervisor.group: %v", err)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return 0, 0, err
		}
	}
	return uid, gid, nil
}

// openNetworks makes the manager of networks that goes with the hypervisor.
func (a *Agent) openNetworks(m *clientMode) error {
	if m.kind == kindSim {
		m.networks = network.NewSim(a.cfg.Client.Bridges...)
	} else {
		host, err := network.New(network.Config{Dir: a.cfg.networkDir(), Logger: a.log.Logger})
		if err != nil {
			return err
		}
		m.networks = host
		if len(a.cfg.Client.Bridges) > 0 {
			m.networks = &someBridges{host, a.cfg.Client.Bridges}
		}
	}
	m.close = append(m.close, m.networks.Close)
	return nil
}

// someBridges shows only the bridges that the configuration allows.
type someBridges struct {
	network.Manager
	allowed []string
}

// Ensure refuses a bridge of the host that is not allowed.
func (s *someBridges) Ensure(ctx context.Context, n *api.Network) (string, error) {
	if n.Type == network.TypeBridge && !slices.Contains(s.allowed, n.Bridge) {
		return "", api.Errorf(api.CodeNetwork, "network %q: bridge %q is not for VMs on this node", n.Name, n.Bridge).
			WithHint("client.bridges in the agent's configuration lists those that are")
	}
	return s.Manager.Ensure(ctx, n)
}

// Bridges returns those that exist and are allowed.
func (s *someBridges) Bridges(ctx context.Context) ([]string, error) {
	list, err := s.Manager.Bridges(ctx)
	return slices.DeleteFunc(list, func(b string) bool { return !slices.Contains(s.allowed, b) }), err
}
