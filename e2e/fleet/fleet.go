// Package fleet runs servers and simulated clients in one process: real Raft,
// real gossip and real mTLS on loopback, and the real client mode on the sim
// hypervisor. Tests of scale and the benchmarks use it.
//
// Promises: Close ends everything that was started and waits for it.
//
// What does not belong: real hypervisors and several hosts (package lab).
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/novacron/novacron/agent/client"
	"github.com/novacron/novacron/agent/fingerprint"
	hvsim "github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/agent/image"
	"github.com/novacron/novacron/agent/network"
	"github.com/novacron/novacron/agent/storage"
	poolsim "github.com/novacron/novacron/agent/storage/sim"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster"
	"github.com/novacron/novacron/cluster/rpc"
)

// Options of a fleet.
type Options struct {
	Dir        string
	Multiplier float64 // Raft's timing
	Logger     *slog.Logger
}

// Fleet is a region in one process.
type Fleet struct {
	opts    Options
	Token   string // the management token
	Servers []*Server
	Clients []*Client

	once sync.Once
	err  error
}

// Server is one server of a fleet.
type Server struct {
	up      atomic.Pointer[cluster.Server]
	Dir     string
	Address string // keeps its port over restarts
	serf    string
}

// Up returns the server, or nil while it is down.
func (s *Server) Up() *cluster.Server { return s.up.Load() }

// Client is one client with its simulated hypervisor.
type Client struct {
	Host   *hvsim.Host
	Name   string
	client *client.Client
	port   *rpc.Port
	pool   *rpc.Pool
	cancel context.CancelFunc
	done   chan error
	images *image.Cache
}

// New makes a region with one server.
func New(ctx context.Context, o Options) (*Fleet, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Fleet{opts: o}
	s := &Server{Dir: filepath.Join(o.Dir, "s1")}
	if _, err := cluster.Init(s.Dir, cluster.InitOptions{Name: "s1"}); err != nil {
		return f, err
	}
	f.Servers = append(f.Servers, s)
	if err := f.start(ctx, s); err != nil {
		return f, err
	}
	return f, Until(ctx, func() error {
		made, err := s.Up().BootstrapToken(ctx)
		if err == nil {
			f.Token = made.Secret
		}
		return err
	})
}

func (f *Fleet) start(ctx context.Context, s *Server) error {
	cfg := cluster.Config{
		Dir: s.Dir, Bind: or(s.Address, "127.0.0.1:0"), SerfBind: or(s.serf, "127.0.0.1:0"),
		Multiplier: f.opts.Multiplier, StabilizationTime: time.Second, Logger: f.opts.Logger.With("server", filepath.Base(s.Dir)),
		MaxPerIP: 1 << 14,
		Limit:    rpc.Limit{Rate: 1e6, Burst: 1e6, NodeRate: 1e6, NodeBurst: 1e6},
	}
	if f.Servers[0] != s {
		cfg.Join = []string{f.Servers[0].serf}
	}
	server, err := cluster.New(ctx, cfg)
	if err != nil {
		return err
	}
	s.Address, s.serf = server.Self().Address, server.GossipAddr()
	s.up.Store(server)
	return nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// AddServer joins one more server and waits until it votes.
func (f *Fleet) AddServer(ctx context.Context) error {
	name := fmt.Sprintf("s%d", len(f.Servers)+1)
	s := &Server{Dir: filepath.Join(f.opts.Dir, name)}
	if err := f.join(ctx, s.Dir, name, cluster.RoleServer); err != nil {
		return err
	}
	f.Servers = append(f.Servers, s)
	if err := f.start(ctx, s); err != nil {
		return err
	}
	return Until(ctx, func() error {
		var members api.ServerListResponse
		if err := f.Call(ctx, "Operator.RaftList", &api.ListRequest{}, &members); err != nil {
			return err
		}
		for _, m := range members.Items {
			if m.ID == s.Up().Identity().NodeID && m.Voter {
				return nil
			}
		}
		return fmt.Errorf("%s does not vote yet", name)
	})
}

func (f *Fleet) join(ctx context.Context, dir, name, role string) error {
	var made api.TokenCreated
	if err := f.Call(ctx, "Token.Create", &api.TokenCreate{Type: api.TokenJoin, Role: role, TTL: api.Duration(time.Hour), Uses: 1}, &made); err != nil {
		return err
	}
	var addresses []string
	for _, s := range f.Servers {
		if s.Up() != nil {
			addresses = append(addresses, s.Address)
		}
	}
	_, err := cluster.Join(ctx, dir, cluster.JoinOptions{
		Addresses: addresses, Secret: made.Secret, Role: role, Name: name, MachineID: api.NewID().String(),
	})
	return err
}

// Call calls an endpoint with the management token, on any server that is up.
func (f *Fleet) Call(ctx context.Context, method string, req, resp api.Message) error {
	return f.CallOnce(ctx, "", method, req, resp)
}

// CallOnce is Call with an idempotency key: it can be repeated when its outcome
// was not known.
func (f *Fleet) CallOnce(ctx context.Context, key, method string, req, resp api.Message) error {
	ctx = api.WithCall(ctx, api.Call{Token: f.Token, RequestID: api.NewID().String(), IdempotencyKey: key})
	err := errors.New("no server is up")
	for _, s := range f.Servers {
		up := s.Up()
		if up == nil {
			continue
		}
		if err = up.Mux().Call(ctx, method, req, resp); api.CodeOf(err) != api.CodeNoLeader {
			return err
		}
	}
	return err
}

// Leader returns the server that leads, or nil.
func (f *Fleet) Leader() *Server {
	for _, s := range f.Servers {
		if up := s.Up(); up != nil && up.IsLeader() {
			return s
		}
	}
	return nil
}

// Stop ends a server as a crash of its process would: its connections are cut
// before anything that is under way can end; Restart starts it again from its folder.
func (f *Fleet) Stop(s *Server) error {
	return s.up.Swap(nil).Abort()
}

// Restart starts a stopped server.
func (f *Fleet) Restart(ctx context.Context, s *Server) error { return f.start(ctx, s) }

// AddClient joins one more client on the sim hypervisor and starts it.
func (f *Fleet) AddClient(ctx context.Context, capacity api.Resources) error {
	name := fmt.Sprintf("c%d", len(f.Clients)+1)
	dir := filepath.Join(f.opts.Dir, name)
	if err := f.join(ctx, dir, name, cluster.RoleClient); err != nil {
		return err
	}
	id, err := cluster.LoadIdentity(dir)
	if err != nil {
		return err
	}
	tls, err := rpc.NewTLS(id.CA, id.Cert, id.Key)
	if err != nil {
		return err
	}
	c := &Client{Host: hvsim.NewHost(hvsim.Options{}), Name: name, done: make(chan error, 1)}
	c.pool = rpc.NewPool(rpc.NewTransport(tls))
	log := f.opts.Logger.With("client", name)
	mux := rpc.NewMux(rpc.Options{Router: lone(id.Region), Pool: c.pool, Logger: log})
	if c.port, err = rpc.Listen(ctx, "127.0.0.1:0", tls, rpc.PortOptions{Mux: mux, Logger: log}); err != nil {
		return err
	}
	if c.images, err = image.Open(filepath.Join(dir, "images"), image.Options{}); err != nil {
		return err
	}
	boot := api.NewID().String()
	c.client, err = client.New(client.Config{
		Node: api.Node{
			ID: id.NodeID, Name: name, Region: id.Region, Datacenter: "dc1", Address: c.port.Addr().String(),
			Version: "fleet", Protocol: 1, SchemaMax: 1,
		},
		Dir: filepath.Join(dir, "client"), Servers: id.Servers,
		Dial: c.pool.Get, Peer: c.pool.Member, Redial: c.pool.Forget,
		Driver: hvsim.New(c.Host), Pools: map[string]storage.Pool{"default": poolsim.New("default", 10*api.TiB)},
		Images: c.images, Networks: network.NewSim(),
		Facts: func(context.Context) (*fingerprint.Facts, error) {
			return &fingerprint.Facts{
				Attributes: api.PairsOf(map[string]string{"kernel.name": "linux"}), Capacity: capacity,
				BootID: boot, MachineID: id.NodeID.String(),
			}, nil
		},
		MakeSeed: func(path string, _ *client.Seed) error { return os.WriteFile(path, nil, 0o600) },
		Logger:   log,
	})
	if err != nil {
		return err
	}
	c.client.Register(mux)
	run, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	go func() { c.done <- c.client.Run(run) }()
	f.Clients = append(f.Clients, c)
	return nil
}

// lone routes nothing: a client's own endpoints are served where they are called.
type lone string

func (l lone) Region() string               { return string(l) }
func (lone) IsLeader() bool                 { return false }
func (lone) Leader() (string, bool)         { return "", false }
func (lone) LeaderChanged() <-chan struct{} { return nil }
func (lone) ServerIn(string) (string, bool) { return "", false }
func (lone) ReadIndex(ctx context.Context) error {
	return api.Errorf(api.CodeNotServer, "not a server")
}

// Close ends every client, then every server; a second call does nothing.
func (f *Fleet) Close() error {
	f.once.Do(func() { f.err = f.end() })
	return f.err
}

func (f *Fleet) end() error {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for _, c := range f.Clients {
		wg.Go(func() {
			c.cancel()
			err := errors.Join(<-c.done, c.images.Close())
			c.port.Close()
			c.pool.Close()
			mu.Lock()
			errs = append(errs, err)
			mu.Unlock()
		})
	}
	wg.Wait()
	for _, s := range f.Servers {
		if up := s.up.Swap(nil); up != nil {
			errs = append(errs, up.Close())
		}
	}
	return errors.Join(errs...)
}

// Until calls check every 20 ms until it returns nil; the last error comes back
// when ctx ends first.
func Until(ctx context.Context, check func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}
