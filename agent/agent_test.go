package agent

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(guardEnv); dir != "" {
		os.Exit(testGuard(dir))
	}
	goleak.VerifyTestMain(m)
}

// logBuffer is a log that several goroutines write.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var given sync.Map // ports that freePort has returned

// freePort finds a port that nobody listens on, below those that the system
// gives to whoever connects somewhere, and each only once.
func freePort(t *testing.T) int {
	t.Helper()
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		if _, taken := given.LoadOrStore(port, true); taken {
			continue
		}
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		pc, err := net.ListenPacket("udp", addr)
		must.NoError(t, ln.Close())
		if err == nil {
			must.NoError(t, pc.Close())
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// devConfig is -dev on the simulated hypervisor and a free port.
func devConfig() *Config {
	c := Default()
	c.DefaultDev()
	c.Ports.HTTP = 0
	c.Client.Hypervisor.Kind = "sim"
	return c
}

// start starts an agent that the test stops.
func start(t *testing.T, c *Config, o Options) *Agent {
	t.Helper()
	if o.Log == nil {
		log := &logBuffer{}
		o.Log = log
		t.Cleanup(func() {
			if t.Failed() {
				t.Log(log)
			}
		})
	}
	a, err := New(t.Context(), c, o)
	must.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
		defer cancel()
		must.NoError(t, a.Close(ctx))
	})
	return a
}

// sdk is a client of an agent; its connections end with the test.
func sdk(t *testing.T, cfg api.ClientConfig) *api.Client {
	t.Helper()
	c, err := api.NewClient(cfg)
	must.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// eventually waits until f is content.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return
		}
		if !sleep(ctx, 30*time.Millisecond) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// runVM applies a small VM and waits until it runs.
func runVM(t *testing.T, c *api.Client, name string) *api.VM {
	t.Helper()
	spec := api.VMSpec{Name: name, Memory: 64 * api.MiB, CPU: api.CPUSpec{Cores: 1}}
	got, err := c.VMs().Apply(t.Context(), &api.VMApply{Spec: spec}, nil)
	must.NoError(t, err)
	eventually(t, name+" runs", func() error {
		s, err := c.VMs().Status(t.Context(), name, nil)
		if err == nil && s.State != "running" {
			err = errors.New(s.State)
		}
		return err
	})
	return got.VM
}

func TestAPortInUseIsSaidBeforeAnythingStarts(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	defer ln.Close()
	c := devConfig()
	must.NoError(t, c.SetHTTPAddr(ln.Addr().String(), Source{}))
	_, err = New(t.Context(), c, Options{Log: &logBuffer{}})
	must.ErrorContains(t, err, "address already in use")
	must.Eq(t, api.CodeConfig, api.CodeOf(err))
}

// serverConfig is a server on loopback with ports of its own.
func serverConfig(t *testing.T) *Config {
	c := Default()
	c.Name, c.Region, c.BindAddr, c.DataDir = "s1", "eu", "127.0.0.1", filepath.Join(t.TempDir(), "s1")
	c.Ports = &Ports{HTTP: freePort(t), RPC: freePort(t), Serf: freePort(t)}
	c.Server.Enabled = true
	return c
}

// startCluster starts a server and returns its configuration and a client with the
// first management token, made over the socket.
func startCluster(t *testing.T) (*Config, *Agent, *api.Client) {
	t.Helper()
	c := serverConfig(t)
	must.NoError(t, c.Validate())
	id, err := InitCluster(c)
	must.NoError(t, err)
	must.Eq(t, "eu", id.Region)
	a := start(t, c, Options{})
	var token *api.TokenCreated
	eventually(t, "bootstrap", func() error {
		token, err = sdk(t, api.ClientConfig{Address: "unix://" + c.SocketPath()}).Tokens().Bootstrap(t.Context())
		return err
	})
	ca, err := os.ReadFile(filepath.Join(c.DataDir, "tls", "ca.pem"))
	must.NoError(t, err)
	return c, a, sdk(t, api.ClientConfig{Address: a.Address(), Token: token.Secret, CACert: ca})
}

func TestAClientJoinsWithATokenAndServesTheAPI(t *testing.T) {
	sc, _, cl := startCluster(t)
	tok, err := cl.Tokens().Create(t.Context(), &api.TokenCreate{Type: api.TokenJoin, Role: "client", TTL: api.Duration(time.Hour)}, nil)
	must.NoError(t, err)
	file := filepath.Join(t.TempDir(), "token")
	must.NoError(t, os.WriteFile(file, []byte(tok.Secret+"\n"), 0o600))

	c := Default()
	c.Name, c.Region, c.BindAddr, c.DataDir = "c1", "eu", "127.0.0.1", filepath.Join(t.TempDir(), "c1")
	c.Ports = &Ports{HTTP: freePort(t), RPC: freePort(t), Serf: freePort(t)}
	c.Client.Enabled, c.Client.Hypervisor.Kind = true, "sim"
	c.Client.Labels = map[string]string{"rack": "r1"}
	c.Client.Pools = []Pool{{Name: "default", Type: "sim", Capacity: "10GiB"}, {Name: "all", Type: "sim", Shared: true}, {Name: "disk", Type: "dir", Path: filepath.Join(t.TempDir(), "pool"), Capacity: "1MiB"}}
	c.Join.Addresses, c.Join.TokenFile = []string{"127.0.0.1:" + strconv.Itoa(sc.Ports.RPC)}, file
	must.NoError(t, c.Validate())
	a := start(t, c, Options{})

	eventually(t, "the node is ready", func() error {
		n, err := cl.Nodes().Get(t.Context(), "c1", nil)
		if err == nil && n.Node.Status != api.NodeReady {
			err = errors.New(string(n.Node.Status))
		}
		return err
	})
	n, err := cl.Nodes().Get(t.Context(), "c1", nil)
	must.NoError(t, err)
	must.Eq(t, api.Pairs{{K: "rack", V: "r1"}}, n.Node.Labels)
	must.Len(t, 3, n.Node.Pools)
	must.Eq(t, api.MiB, n.Node.Pools[2].Capacity, must.Sprint("of the dir pool, as configured"))

	// The client passes requests on with the caller's own token, over its own TLS.
	ca, err := os.ReadFile(filepath.Join(c.DataDir, "tls", "ca.pem"))
	must.NoError(t, err)
	_, err = sdk(t, api.ClientConfig{Address: a.Address(), CACert: ca}).VMs().List(t.Context(), nil)
	must.Eq(t, api.CodeUnauthenticated, api.CodeOf(err))
	secret, err := cl.Tokens().Create(t.Context(), &api.TokenCreate{Type: api.TokenManagement}, nil)
	must.NoError(t, err)
	viaClient := sdk(t, api.ClientConfig{Address: a.Address(), CACert: ca, Token: secret.Secret})
	vm := runVM(t, viaClient, "web")

	// A fresh certificate is taken over and stored.
	certFile := filepath.Join(c.DataDir, "tls", "node.pem")
	before, err := os.ReadFile(certFile)
	must.NoError(t, err)
	must.NoError(t, a.renewNow(t.Context()))
	after, err := os.ReadFile(certFile)
	must.NoError(t, err)
	must.NotEq(t, string(before), string(after))
	_, err = viaClient.VMs().Get(t.Context(), vm.ID.String(), nil)
	must.NoError(t, err)

	// It follows the servers to where they are, stores that, and denies whom they deny.
	more := &api.NodeBeaten{Servers: []string{"127.0.0.1:1", "127.0.0.1:" + strconv.Itoa(sc.Ports.RPC)}, Denied: []api.ID{api.NewID()}}
	must.NoError(t, a.renewNow(t.Context()))
	a.heard(0, more)
	must.SliceContainsAll(t, more.Servers, a.peer.servers())
	must.True(t, a.peer.isDenied(more.Denied[0]))
	stored, err := cluster.LoadIdentity(c.DataDir)
	must.NoError(t, err)
	must.Eq(t, more.Servers, stored.Servers)
	must.NotEq(t, string(a.id.Cert), string(stored.Cert), must.Sprint("with the certificate that is newest"))
	a.heard(0, &api.NodeBeaten{Servers: more.Servers})
	must.False(t, a.peer.isDenied(more.Denied[0]))

	// After a restart the folder is enough: no token, no addresses.
	must.NoError(t, a.Close(t.Context()))
	must.NoError(t, os.Remove(file))
	must.NoError(t, c.Validate())
	c.Join.Addresses = nil
	b := start(t, c, Options{})
	eventually(t, "back again", func() error {
		if h := b.Health(); !h.OK {
			return errors.New(h.Client.Message)
		}
		return nil
	})
	must.False(t, b.Self().Server)

	// The same folder cannot become a server's, nor another region's.
	must.NoError(t, b.Close(t.Context()))
	c.Server.Enabled = true
	_, err = New(t.Context(), c, Options{Log: &logBuffer{}})
	must.ErrorContains(t, err, "joined as a client")
	c.Server.Enabled, c.Region = false, "us"
	_, err = New(t.Context(), c, Options{Log: &logBuffer{}})
	must.ErrorContains(t, err, `belongs to region eu`)
}

func TestCallsOfOneTokenAreLimited(t *testing.T) {
	c := serverConfig(t)
	must.Eq(t, defaultRateLimit, c.Server.limit().Rate)
	must.Eq(t, defaultNodeRateLimit, c.Server.limit().NodeRate)
	c.Server.RateLimit, c.Server.NodeRateLimit = -1, 7
	must.Eq(t, 0, c.Server.limit().Rate, must.Sprint("no limit"))
	must.Eq(t, 7, c.Server.limit().NodeRate)
}

func TestJoiningWithABadTokenIsRefusedAtOnce(t *testing.T) {
	sc, _, cl := startCluster(t)
	tok, err := cl.Tokens().Create(t.Context(), &api.TokenCreate{Type: api.TokenJoin, Role: "server", TTL: api.Duration(time.Hour)}, nil)
	must.NoError(t, err)
	c := serverConfig(t)
	c.Server.Enabled, c.Client.Enabled, c.Client.Hypervisor.Kind = false, true, "sim"
	c.Join.Addresses, c.Join.Token = []string{"127.0.0.1:" + strconv.Itoa(sc.Ports.RPC)}, tok.Secret
	_, err = New(t.Context(), c, Options{Log: &logBuffer{}})
	must.Eq(t, api.CodeJoinRefused, api.CodeOf(err))
	must.ErrorContains(t, err, "lets a server join, not a client")

	c.Join.Token, c.Join.TokenFile = "", "/nonexistent"
	_, err = New(t.Context(), c, Options{Log: &logBuffer{}})
	must.ErrorContains(t, err, "the join token")

	// Silence is not a refusal: it is tried again until the context ends.
	c.Join.TokenFile, c.Join.Token = "", tok.Secret
	c.Join.Addresses = []string{"127.0.0.1:" + strconv.Itoa(freePort(t))}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = New(ctx, c, Options{Log: &logBuffer{}})
	must.Error(t, err)
}

func TestASecondServerJoinsAndLeaves(t *testing.T) {
	sc, _, cl := startCluster(t)
	tok, err := cl.Tokens().Create(t.Context(), &api.TokenCreate{Type: api.TokenJoin, Role: "server", TTL: api.Duration(time.Hour)}, nil)
	must.NoError(t, err)
	c := serverConfig(t)
	c.Name, c.LeaveOnTerminate = "s2", true
	c.Client.Enabled, c.Client.Hypervisor.Kind = true, "sim"
	c.Join.Addresses, c.Join.Token = []string{"127.0.0.1:" + strconv.Itoa(sc.Ports.RPC)}, tok.Secret
	a := start(t, c, Options{})
	servers := func() int {
		r, err := cl.Operator().RaftList(t.Context(), nil)
		if err != nil {
			return 0
		}
		return len(r.Items)
	}
	eventually(t, "s2 is in Raft", func() error {
		if servers() != 2 {
			return errors.New("not yet")
		}
		return nil
	})
	eventually(t, "its client half is ready", func() error {
		n, err := cl.Nodes().Get(t.Context(), "s2", nil)
		if err == nil && n.Node.Status != api.NodeReady {
			err = errors.New(string(n.Node.Status))
		}
		return err
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must.NoError(t, a.Run(ctx))
	eventually(t, "s2 has left", func() error {
		n, err := cl.Nodes().Get(t.Context(), "s2", nil)
		switch {
		case err != nil:
			return err
		case servers() != 1:
			return errors.New("still in Raft")
		case n.Node.Status != api.NodeLeft:
			return errors.New(string(n.Node.Status))
		}
		return nil
	})
}

func TestAFolderWithoutAClusterSaysWhatToDo(t *testing.T) {
	_, err := New(t.Context(), serverConfig(t), Options{Log: &logBuffer{}})
	must.ErrorContains(t, err, "does not belong to a cluster yet")
	must.ErrorContains(t, err, "cluster init")
	c := serverConfig(t)
	_, err = InitCluster(c)
	must.NoError(t, err)
	_, err = InitCluster(c)
	must.ErrorContains(t, err, "already")
	c.Server.Enabled, c.Client.Enabled = false, true
	_, err = New(t.Context(), c, Options{Log: &logBuffer{}})
	must.ErrorContains(t, err, "belongs to a server")
	_, err = New(t.Context(), &Config{Log: &Log{Level: "loud"}}, Options{})
	must.ErrorContains(t, err, "not a log level")
}

func TestReloadTakesOverWhatItCanAndNamesTheRest(t *testing.T) {
	log := &logBuffer{}
	running := devConfig()
	a := start(t, running, Options{Log: log})
	next := devConfig()
	next.Log.Level, next.Telemetry.Prometheus, next.LeaveOnTerminate = "debug", false, false
	next.Client.Labels = map[string]string{"rack": "r2"}
	next.Datacenter = "dc9"
	next.Client.Pools = []Pool{{Name: "new", Type: "sim"}}
	changed, restart, err := a.Reload(next)
	must.NoError(t, err)
	must.SliceContainsAll(t, []string{"log.level", "telemetry.prometheus", "client.labels", "datacenter", "client.pool"}, changed)
	must.SliceContainsAll(t, []string{"datacenter", "client.pool"}, restart)
	must.StrContains(t, log.String(), `needs_restart="datacenter client.pool"`)
	next.HTTP.CertFile, next.HTTP.KeyFile = "/nonexistent/crt", "/nonexistent/key"
	_, restart, err = a.Reload(next)
	must.NoError(t, err)
	must.SliceContains(t, restart, "http.cert_file", must.Sprint("the listener has another certificate"))
	next.HTTP.CertFile, next.HTTP.KeyFile = "", ""

	c := sdk(t, api.ClientConfig{Address: a.Address(), Token: a.Token()})
	_, err = c.Agent().Metrics(t.Context(), "prometheus")
	must.Error(t, err)
	eventually(t, "the label is seen", func() error {
		n, err := c.Nodes().Get(t.Context(), "dev", nil)
		if err == nil {
			if v, _ := n.Node.Labels.Get("rack"); v != "r2" {
				err = errors.New("rack is " + v)
			}
		}
		return err
	})
	changed, _, err = a.Reload(next)
	must.NoError(t, err)
	must.SliceContainsAll(t, []string{"datacenter", "client.pool"}, changed, must.Sprint("what needs a restart stays to be said"))
}

func TestTheOperatorsOwnCertificateIsServedAndReloaded(t *testing.T) {
	c := serverConfig(t)
	id, err := InitCluster(c)
	must.NoError(t, err)
	dir := t.TempDir()
	write := func(id *cluster.Identity) {
		must.NoError(t, os.WriteFile(filepath.Join(dir, "crt"), id.Cert, 0o600))
		must.NoError(t, os.WriteFile(filepath.Join(dir, "key"), id.Key, 0o600))
	}
	write(id)
	c.HTTP.CertFile, c.HTTP.KeyFile = filepath.Join(dir, "crt"), filepath.Join(dir, "key")
	must.NoError(t, c.Validate())
	a := start(t, c, Options{})
	first := a.front.cert.Load()

	other := serverConfig(t)
	id2, err := InitCluster(other)
	must.NoError(t, err)
	write(id2)
	_, _, err = a.Reload(c)
	must.NoError(t, err)
	must.NotEq(t, first.Certificate[0], a.front.cert.Load().Certificate[0])
	must.NoError(t, os.WriteFile(filepath.Join(dir, "crt"), nil, 0o600))
	_, _, err = a.Reload(c)
	must.ErrorContains(t, err, "cert_file")
	cl := sdk(t, api.ClientConfig{Address: a.Address(), CACert: id2.CA})
	_, err = cl.Agent().Health(t.Context())
	must.NoError(t, err)
}
