package client

import (
	"context"
	"io"
	"log/slog"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/novacron/novacron/agent/fingerprint"
	guardsim "github.com/novacron/novacron/agent/guard/sim"
	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/agent/image"
	"github.com/novacron/novacron/agent/network"
	"github.com/novacron/novacron/agent/storage"
	simpool "github.com/novacron/novacron/agent/storage/sim"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	node1 = api.ID{0xaa}
	vm1   = api.ID{1}
	vm2   = api.ID{2}
)

// bed is a machine, its servers, and an agent that can be restarted.
type bed struct {
	t      *testing.T
	dir    string
	host   *sim.Host
	pool   *simpool.Pool
	nets   *network.Sim
	srv    *cluster
	peers  map[string]rpc.Caller
	boot   string
	facts  api.Pairs
	change func(*Config)
	guard  *guardsim.Guard // nil: the node has none

	c      *Client
	driver *sim.Driver
	images *image.Cache
	cancel context.CancelFunc
	ended  chan error
}

// inBed runs a test in a bubble, with an agent that is stopped at the end.
func inBed(t *testing.T, o sim.Options, f func(t *testing.T, b *bed)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bed{
			t: t, dir: t.TempDir(), host: sim.NewHost(o), pool: simpool.New("default", 100*api.GiB), nets: network.NewSim("br0"),
			boot: "boot-1", peers: map[string]rpc.Caller{},
		}
		b.srv = newCluster(b, "s1:1", "s2:1", "s3:1")
		defer b.stop()
		f(t, b)
	})
}

func (b *bed) config() Config {
	cfg := Config{
		Node: api.Node{ID: node1, Name: "n1", Region: "r", Datacenter: "d", Address: "n1:1"}, Dir: b.dir, Servers: []string{"s1:1", "s2:1", "s3:1"},
		Dial: func(addr string) rpc.Caller { return &member{b.srv, addr} },
		Peer: func(addr string) rpc.Caller {
			b.srv.mu.Lock()
			defer b.srv.mu.Unlock()
			return b.peers[addr]
		},
		Redial: func(addr string) { b.srv.redialed(addr) },
		Driver: b.driver, Pools: map[string]storage.Pool{"default": b.pool}, Images: b.images, Networks: b.nets,
		Facts: func(context.Context) (*fingerprint.Facts, error) {
			b.srv.mu.Lock()
			defer b.srv.mu.Unlock()
			return &fingerprint.Facts{BootID: b.boot, MachineID: "m", Attributes: b.facts, Capacity: api.Resources{CPU: 4000, Memory: api.GiB}}, nil
		},
		Sample:   func() *api.NodeStats { return &api.NodeStats{Load1: 0.5} },
		MakeSeed: func(path string, s *Seed) error { return os.WriteFile(path, s.Spec.CloudInit.UserData, 0o600) },
		Logger:   slog.New(slog.NewTextHandler(io.Discard, nil)), NoSync: true,
		Boottime: func() time.Duration { return time.Duration(time.Now().UnixNano()) },
	}
	if os.Getenv("CLIENT_TEST_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if b.guard != nil {
		cfg.Guard = func(ctx context.Context) (Guard, error) { return b.guard.Connect(ctx) }
	}
	if b.change != nil {
		b.change(&cfg)
	}
	return cfg
}

// start starts an agent and waits until it has nothing to do.
func (b *bed) start() {
	b.t.Helper()
	var err error
	b.driver = sim.New(b.host)
	b.images, err = image.Open(b.dir+"/images", image.Options{})
	must.NoError(b.t, err)
	b.c, err = New(b.config())
	must.NoError(b.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel, b.ended = cancel, make(chan error, 1)
	go func(c *Client, ended chan error) { ended <- c.Run(ctx) }(b.c, b.ended)
	b.rest()
}

// stop ends the agent; guests run on.
func (b *bed) stop() {
	if b.c == nil {
		return
	}
	b.cancel()
	must.NoError(b.t, <-b.ended)
	must.NoError(b.t, b.images.Close())
	must.NoError(b.t, b.driver.Close())
	b.c = nil
}

// kill ends the agent as kill -9 would: its connection to the hypervisor is cut
// first, so that it learns nothing more.
func (b *bed) kill() {
	must.NoError(b.t, b.driver.Close())
	b.stop()
}

func (b *bed) restart() {
	b.stop()
	b.start()
}

// rest waits until reports and beats have gone out.
func (b *bed) rest() { b.sleep(time.Second) }

func (b *bed) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// state is what the servers know of a VM.
func (b *bed) state(id api.ID) api.VMState { return b.report(id).State }

func (b *bed) report(id api.ID) api.VMReport {
	b.srv.mu.Lock()
	defer b.srv.mu.Unlock()
	return b.srv.vms[id]
}

func (b *bed) expect(id api.ID, want api.VMState) {
	b.t.Helper()
	must.Eq(b.t, want, b.state(id), must.Sprintf("%+v", b.report(id)))
}

// pid is the process of a guest, 0 if there is none.
func (b *bed) pid(id api.ID) int {
	for _, d := range b.host.Domains() {
		if d.ID == id {
			return d.PID
		}
	}
	return 0
}

func (b *bed) domain(id api.ID) (s api.VMState, e api.Epoch) {
	for _, d := range b.host.Domains() {
		if d.ID == id {
			return d.State, d.Epoch
		}
	}
	return api.StateAbsent, 0
}

// cluster is the servers: what they order, and what they were told.
type cluster struct {
	b *bed

	mu       sync.Mutex
	addrs    []string
	down     map[string]bool
	behind   map[string]bool // a server that has not caught up
	calls    []string
	redials  map[string]int
	gen      uint64
	index    api.Index
	recovery bool
	orders   map[api.ID]*api.Order
	tombs    []*api.Order
	volumes  map[api.ID]*api.Volume
	images   []*api.Image
	streams  map[*orderStream]bool
	session  api.ID
	forgot   bool          // answer the next beat with Register
	late     time.Duration // until a registration is taken

	registers []*api.NodeRegister
	beats     []*api.NodeBeat
	reports   []*api.NodeReport
	vms       map[api.ID]api.VMReport
	attested  map[api.ID]api.Epoch
	vols      map[api.ID]api.VolumeReport
	imgs      map[api.ID]api.ImageReport
	refuse    error // of reports
	lease     api.Duration
	disarm    bool
	noStreams bool
}

func newCluster(b *bed, addrs ...string) *cluster {
	return &cluster{
		b: b, addrs: addrs, down: map[string]bool{}, behind: map[string]bool{}, redials: map[string]int{}, gen: 1, index: 100,
		orders: map[api.ID]*api.Order{}, volumes: map[api.ID]*api.Volume{}, streams: map[*orderStream]bool{},
		vms: map[api.ID]api.VMReport{}, attested: map[api.ID]api.Epoch{}, vols: map[api.ID]api.VolumeReport{}, imgs: map[api.ID]api.ImageReport{},
	}
}

func (s *cluster) redialed(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.redials[addr]++
}

// do changes the cluster's state under its lock.
func (s *cluster) do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// full is the first batch of a stream.
func (s *cluster) full() *api.OrderBatch {
	b := &api.OrderBatch{Generation: s.gen, Index: s.index, Full: true, Recovery: s.recovery, Images: s.images}
	for _, o := range s.orders {
		b.Orders = append(b.Orders, o)
	}
	b.Orders = append(b.Orders, s.tombs...)
	for _, v := range s.volumes {
		b.Volumes = append(b.Volumes, v)
	}
	return b
}

// send gives a batch to every stream.
func (s *cluster) send(b *api.OrderBatch) {
	for st := range s.streams {
		st.ch <- b
	}
}

// order gives a VM an order and waits for what comes of it.
func (s *cluster) order(id api.ID, change ...func(*api.Order)) {
	s.do(func() {
		s.index++
		o := &api.Order{VMID: id, Name: "vm" + id.Short()[:2], Epoch: 1, Desired: api.PowerRunning, SpecVersion: 1, Spec: spec()}
		if old := s.orders[id]; old != nil {
			c := *old
			o = &c
		}
		o.Index = s.index
		for _, f := range change {
			f(o)
		}
		s.orders[id] = o
		s.send(&api.OrderBatch{Generation: s.gen, Index: s.index, Orders: []*api.Order{o}})
	})
	s.b.rest()
}

// bury replaces a VM's order by a tombstone.
func (s *cluster) bury(id api.ID, force bool) {
	s.do(func() {
		s.index++
		o := &api.Order{VMID: id, Stop: true, Force: force, Index: s.index, Epoch: 1}
		if old := s.orders[id]; old != nil {
			o.Epoch = old.Epoch
		}
		delete(s.orders, id)
		s.tombs = append(s.tombs, o)
		s.send(&api.OrderBatch{Generation: s.gen, Index: s.index, Orders: []*api.Order{o}})
	})
	s.b.rest()
}

func (s *cluster) volume(v *api.Volume) {
	s.do(func() {
		s.index++
		s.volumes[v.ID] = v
		s.send(&api.OrderBatch{Generation: s.gen, Index: s.index, Volumes: []*api.Volume{v}, Images: s.images})
	})
	s.b.rest()
}

// cut ends every stream.
func (s *cluster) cut() {
	s.do(func() {
		for st := range s.streams {
			close(st.ch)
			delete(s.streams, st)
		}
	})
}

func spec() *api.VMSpec {
	return &api.VMSpec{CPU: api.CPUSpec{Cores: 1}, Memory: 64 * api.MiB, StopTimeout: api.Duration(30 * time.Second)}
}

// member is one server of the cluster.
type member struct {
	s    *cluster
	addr string
}

func (m *member) Call(ctx context.Context, method string, req, resp api.Message) error {
	s := m.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := req.(*api.NodeRegister); ok {
		d := s.late
		s.mu.Unlock()
		time.Sleep(d)
		s.mu.Lock()
	}
	s.calls = append(s.calls, m.addr+" "+method)
	if s.down[m.addr] {
		return api.Errorf(api.CodeUnreachable, "down")
	}
	switch q := req.(type) {
	case *api.NodeRegister:
		s.registers = append(s.registers, q)
		*resp.(*api.NodeRegistered) = api.NodeRegistered{Generation: s.gen, Heartbeat: api.Duration(3 * time.Second), Servers: s.addrs, WriteMeta: api.WriteMeta{Index: s.index}}
	case *api.NodeBeat:
		s.beats = append(s.beats, q)
		*resp.(*api.NodeBeaten) = api.NodeBeaten{Seq: q.Seq, Generation: s.gen, Heartbeat: api.Duration(3 * time.Second), Register: s.forgot, Lease: s.lease, Disarm: s.disarm}
		s.forgot = false
	case *api.NodeReport:
		s.reports = append(s.reports, q)
		if s.refuse != nil {
			return s.refuse
		}
		s.take(q)
	}
	return nil
}

func (s *cluster) take(q *api.NodeReport) {
	if q.SessionID != s.session {
		s.session = q.SessionID
		for id, v := range s.vms {
			v.Seq = 0
			s.vms[id] = v
		}
	}
	for _, v := range q.VMs {
		if v.State == api.StateAbsent {
			s.attested[v.VMID] = max(s.attested[v.VMID], v.Epoch)
			s.tombs = without(s.tombs, v)
		}
		if old := s.vms[v.VMID]; v.Epoch >= old.Epoch && v.Seq > old.Seq || old.Seq == 0 {
			s.vms[v.VMID] = v
		}
	}
	for _, v := range q.Volumes {
		s.vols[v.ID] = v
		if v.State == api.VolumeAbsent {
			delete(s.volumes, v.ID)
		}
	}
	for _, i := range q.Images {
		s.imgs[i.ID] = i
	}
}

func without(tombs []*api.Order, v api.VMReport) (out []*api.Order) {
	for _, o := range tombs {
		if o.VMID != v.VMID || o.Epoch > v.Epoch {
			out = append(out, o)
		}
	}
	return out
}

func (m *member) Open(ctx context.Context, method string, req api.Message) (api.Stream, error) {
	s := m.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := req.(*api.NodeRegister); ok {
		d := s.late
		s.mu.Unlock()
		time.Sleep(d)
		s.mu.Lock()
	}
	s.calls = append(s.calls, m.addr+" "+method)
	q, ok := req.(*api.OrdersRequest)
	if !ok || s.down[m.addr] || s.noStreams {
		return nil, api.Errorf(api.CodeUnreachable, "down")
	}
	st := &orderStream{ctx: ctx, ch: make(chan *api.OrderBatch, 100)}
	b := s.full()
	if s.behind[m.addr] { // it does not even know that it is behind
		b = &api.OrderBatch{Generation: s.gen, Index: q.MinIndex - 1, Full: true}
	} else {
		s.streams[st] = true
	}
	st.ch <- b
	return st, nil
}

// orderStream is a stream of orders.
type orderStream struct {
	ctx context.Context
	ch  chan *api.OrderBatch
}

func (s *orderStream) Context() context.Context { return s.ctx }
func (s *orderStream) Send(api.Message) error   { return nil }
func (s *orderStream) CloseSend() error         { return nil }
func (s *orderStream) Recv(m api.Message) error {
	select {
	case b, ok := <-s.ch:
		if !ok {
			return io.EOF
		}
		*m.(*api.OrderBatch) = *b
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func domainIn(s api.VMState) hypervisor.Domain { return hypervisor.Domain{State: s} }
