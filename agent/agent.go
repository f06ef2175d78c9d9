package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/novacron/novacron/agent/client"
	guardsim "github.com/novacron/novacron/agent/guard/sim"
	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/agent/network"
	"github.com/novacron/novacron/agent/telemetry"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster"
	"github.com/novacron/novacron/cluster/rpc"
)

// Options are what an agent gets from the process around it.
type Options struct {
	// Log is where the log goes; default os.Stderr.
	Log     io.Writer
	Version string
	// SimHost, if set, is the machine of the simulated hypervisor: it outlives
	// the agent, so that a test can restart one.
	SimHost *sim.Host
	// SimGuard, if set, is the guard of SimHost; without it a simulated node has none.
	SimGuard *guardsim.Guard
}

// Agent is one node's process at work.
type Agent struct {
	opts Options
	log  *telemetry.Log

	mu  sync.Mutex // guards cfg
	cfg *Config

	metrics *telemetry.Metrics
	id      *cluster.Identity
	server  *cluster.Server // nil without server mode
	client  *clientMode     // nil without client mode
	gate    gate
	peer    *peerPort // the one port of an agent without server mode
	front   *front
	dev     *devMode // nil without -dev

	failed chan error // of a half that ended by itself
	wg     sync.WaitGroup
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	once   sync.Once
	err    error
}

// clientMode is the client half with what it stands on.
type clientMode struct {
	*client.Client
	driver   hypervisor.Driver
	kind     string // of the hypervisor
	why      string // it was chosen
	networks network.Manager
	close    []func() error
	end      context.CancelFunc
	done     chan struct{}
}

// New starts an agent and returns when it serves. The configuration must be
// valid; ctx bounds the start only. Close stops what New started.
func New(ctx context.Context, cfg *Config, o Options) (_ *Agent, err error) {
	if o.Log == nil {
		o.Log = os.Stderr
	}
	if o.Version == "" {
		o.Version = "dev"
	}
	a := &Agent{cfg: cfg, opts: o, failed: make(chan error, 2)}
	if a.log, err = telemetry.NewLog(o.Log, cfg.Log.Level, cfg.Log.Format); err != nil {
		return nil, err
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close(context.WithoutCancel(ctx)))
		}
	}()
	return a, a.start(ctx)
}

func (a *Agent) start(ctx context.Context) (err error) {
	if a.metrics, err = telemetry.NewMetrics(); err != nil {
		return err
	}
	a.metrics.SetPrometheus(a.cfg.Telemetry.Prometheus)
	if a.cfg.Dev {
		if a.dev, err = prepareDev(a.cfg); err != nil {
			return err
		}
	}
	// Other users (QEMU's) must be able to pass through to volumes and images;
	// what is secret is 0600.
	if err := os.MkdirAll(a.cfg.DataDir, 0o711); err != nil {
		return err
	}
	if a.id, err = a.identity(ctx); err != nil {
		return err
	}
	if err := a.listenHTTP(ctx); err != nil {
		return err
	}
	if a.cfg.Server.Enabled {
		if err := a.startServer(ctx); err != nil {
			return err
		}
	} else if err := a.openPeerPort(ctx); err != nil {
		return err
	}
	if a.cfg.Client.Enabled {
		if err := a.startClient(ctx); err != nil {
			return err
		}
	}
	if err := a.serveHTTP(); err != nil {
		return err
	}
	if a.dev != nil {
		if err := a.finishDev(ctx); err != nil {
			return err
		}
	}
	a.log.Info("agent started", "name", a.id.Name, "node", a.id.NodeID, "region", a.id.Region, "version", a.opts.Version,
		"server", a.server != nil, "client", a.client != nil, "http", a.Address())
	return nil
}

// identity loads who this machine is, or makes it so: -dev begins a cluster of
// its own, a join block joins one.
func (a *Agent) identity(ctx context.Context) (*cluster.Identity, error) {
	id, err := cluster.LoadIdentity(a.cfg.DataDir)
	switch {
	case a.cfg.joined():
	case a.cfg.Dev:
		id, err = cluster.Init(a.cfg.DataDir, cluster.InitOptions{Region: a.cfg.Region, Name: a.cfg.Name})
	case len(a.cfg.Join.Addresses) > 0:
		id, err = a.join(ctx)
	}
	if err != nil {
		return nil, err
	}
	if err := id.Belongs(a.cfg.DataDir, a.cfg.Region, api.ID{}, api.ID{}); err != nil {
		return nil, err
	}
	if id.Name != a.cfg.Name {
		a.log.Warn("the configuration names this node otherwise than the cluster knows it; the name of the data folder stays",
			"configured", a.cfg.Name, "name", id.Name)
	}
	switch {
	case a.cfg.Server.Enabled && id.Role != cluster.RoleServer:
		return nil, api.Errorf(api.CodeConfig, "%s joined as a client, but the configuration makes it a server", a.cfg.DataDir).
			WithHint("join again with a server's join token, into an empty data folder")
	case !a.cfg.Server.Enabled && id.Role != cluster.RoleClient:
		return nil, api.Errorf(api.CodeConfig, "%s belongs to a server, but the configuration makes it a client only", a.cfg.DataDir).
			WithHint("join again with a client's join token, into an empty data folder")
	}
	return id, nil
}

func (a *Agent) startServer(ctx context.Context) (err error) {
	c := a.cfg
	a.server, err = cluster.New(ctx, cluster.Config{
		Dir: c.DataDir, Region: c.Region, Datacenter: c.Datacenter, Version: a.opts.Version,
		Bind: c.bind(c.Ports.RPC), Advertise: c.advertise(c.Ports.RPC),
		SerfBind: c.bind(c.Ports.Serf), SerfAdvertise: c.advertise(c.Ports.Serf),
		HTTPAddr: a.front.advertised, Join: c.Server.Join,
		Limit: c.Server.limit(), Multiplier: c.Server.multiplier(), Expect: int32(c.Server.Expect), Tunnel: a.gate.serve,
		Logger: a.log.Logger,
	})
	return err
}

// fail reports a half that ended by itself.
func (a *Agent) fail(err error) {
	select {
	case a.failed <- err:
	default:
	}
}

// Run waits until the context ends or a half of the agent fails, then stops.
func (a *Agent) Run(ctx context.Context) error {
	var failed error
	select {
	case <-ctx.Done():
	case failed = <-a.failed:
		a.log.Error("the agent stops", "error", failed)
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveGrace)
	defer cancel()
	return errors.Join(failed, a.Close(stop))
}

// Close stops the agent: it leaves the cluster if the configuration says so,
// ends the API, then the halves. Guests run on, except those of -dev. ctx bounds
// the leave.
func (a *Agent) Close(ctx context.Context) error {
	a.once.Do(func() { a.err = a.stop(ctx) })
	return a.err
}

func (a *Agent) stop(ctx context.Context) error {
	a.log.Info("stopping", "leave", a.cfg.LeaveOnTerminate)
	var errs []error
	if a.front != nil {
		errs = append(errs, a.front.close())
	}
	if a.client != nil { // while it still beats
		a.disarm(ctx)
	}
	if a.cfg.LeaveOnTerminate {
		a.leave(ctx)
	}
	if a.client != nil {
		errs = append(errs, a.client.stop())
	}
	if a.dev != nil && a.client != nil {
		errs = append(errs, a.cleanVMs(ctx, a.madeVMs()))
	}
	if a.client != nil {
		errs = append(errs, a.client.release())
	}
	a.cancel()
	if a.peer != nil {
		a.peer.close()
	}
	if a.server != nil {
		errs = append(errs, a.server.Close())
	}
	a.wg.Wait()
	if a.dev != nil {
		errs = append(errs, a.dev.remove())
	}
	err := errors.Join(errs...)
	a.log.Info("stopped", "error", err)
	return err
}

// leave tells the others that this node goes; what fails is logged, since the
// agent stops either way.
func (a *Agent) leave(ctx context.Context) {
	if a.client != nil {
		if err := a.client.Leave(ctx); err != nil {
			a.log.Warn("the servers do not know that this client leaves", "error", err)
		}
	}
	if a.server != nil {
		if err := a.server.Leave(ctx); err != nil {
			a.log.Warn("the leave did not complete", "error", err)
		}
	}
}

// caller is how this agent calls endpoints for its users.
func (a *Agent) caller() rpc.Caller {
	if a.server != nil {
		return a.server.Mux()
	}
	return a.peer.failover
}

// Address is the URL of the API.
func (a *Agent) Address() string {
	if a.front == nil {
		return ""
	}
	return a.front.url
}

// Token is the management token of -dev.
func (a *Agent) Token() string {
	if a.dev == nil {
		return ""
	}
	return a.dev.token
}

// Hypervisor says which hypervisor is used, and why.
func (a *Agent) Hypervisor() string {
	if a.client == nil {
		return "none"
	}
	return fmt.Sprintf("%s (%s)", a.client.driver.Name(), a.client.why)
}

// Log is the agent's logger.
func (a *Agent) Log() *telemetry.Log { return a.log }

// DataDir is where the agent keeps its state.
func (a *Agent) DataDir() string { return a.cfg.DataDir }

// InitCluster makes a new cluster in the data folder, with this machine as its
// first server. It starts nothing.
func InitCluster(c *Config) (*cluster.Identity, error) {
	if err := os.MkdirAll(c.DataDir, 0o711); err != nil {
		return nil, err
	}
	return cluster.Init(c.DataDir, cluster.InitOptions{Region: c.Region, Name: c.Name})
}

// startLimit bounds the start of -dev: until its server leads and its node is
// ready.
const startLimit = 60 * time.Second
