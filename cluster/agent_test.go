package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
)

// fakeNode stands for an agent in client mode: it registers, beats and takes
// orders, and does what they say at once.
type fakeNode struct {
	t       *testing.T
	r       *region
	node    api.Node
	session api.ID
	mux     *rpc.Mux
	port    *rpc.MemoryPort
	pool    *rpc.Pool
	servers rpc.Caller
	seq     *atomic.Uint64
	hush    func() // ends the beats; set by ready
	rest    func() // ends the obedience; set by working

	mu     *sync.Mutex       // a pointer, so that a test can copy the node
	images map[string][]byte // by checksum
	stuck  bool              // takes no image's content
	// plays says what an end of a migration reports; nil: what playMove says.
	plays    func(*api.Migration) (api.MoveReport, bool)
	progress *api.MigrationProgress // nil: the agent cannot tell
	forecast *api.MigrationForecast
	link     *api.LinkMeasured
}

// newNode makes a machine with 8 cores and 16 GiB; it does not register.
func (r *region) newNode(name string, change ...func(*api.Node)) *fakeNode {
	r.t.Helper()
	n := &fakeNode{t: r.t, r: r, session: api.NewID(), mu: &sync.Mutex{}, seq: &atomic.Uint64{}, images: map[string][]byte{}}
	n.node = api.Node{
		ID: api.NewID(), Name: name, Datacenter: "dc1", Region: r.name, Address: name + ":7647", Version: "test", Protocol: 1, SchemaMax: 1,
		BootID: "boot-" + name, MachineID: "machine-" + name, ProductUUID: "product-" + name,
		Capacity: api.Resources{CPU: api.Cores(8), Memory: 16 * api.GiB},
		Pools:    []api.NodePool{{Name: "default", Type: "dir", UUID: api.NewID(), Capacity: 100 * api.GiB, Free: 100 * api.GiB}},
		Drivers:  []api.DriverInfo{{Name: "sim", Healthy: true, Can: []string{"migrate"}}},
	}
	for _, c := range change {
		c(&n.node)
	}
	cert := api.CertName{Region: r.name, Role: api.RoleClient, NodeID: n.node.ID}
	n.mux = rpc.NewMux(rpc.Options{Router: rpc.Alone(r.name)})
	rpc.Local(n.mux, "Agent.Ping", acl.ServerSelf, func(context.Context, *api.Empty) (*api.Empty, error) { return &api.Empty{}, nil })
	rpc.Local(n.mux, "Agent.VMStats", acl.ServerSelf, n.vmStats)
	rpc.Local(n.mux, "Agent.MoveProgress", acl.ServerSelf, func(context.Context, *api.GetRequest) (*api.MigrationProgress, error) {
		return answerOf(n, &n.progress)
	})
	rpc.Local(n.mux, "Agent.DirtyRate", acl.ServerSelf, func(context.Context, *api.GetRequest) (*api.MigrationForecast, error) {
		return answerOf(n, &n.forecast)
	})
	rpc.Local(n.mux, "Agent.LinkMeasure", acl.ServerSelf, func(context.Context, *api.LinkMeasure) (*api.LinkMeasured, error) {
		return answerOf(n, &n.link)
	})
	rpc.Stream(n.mux, rpc.KindLocal, "Agent.Console", acl.ServerSelf, n.console)
	rpc.Stream(n.mux, rpc.KindLocal, "Agent.ImagePut", acl.ServerSelf, n.imagePut)
	rpc.Stream(n.mux, rpc.KindPeer, "Agent.ImageGet", acl.Member, n.imageGet)
	n.pool = rpc.NewPool(r.w.net.Transport(n.node.Address, cert))
	n.servers = n.pool.Failover(func() []string {
		var out []string
		for _, m := range r.alive() {
			out = append(out, m.self.Address)
		}
		return out
	})
	n.listen()
	r.t.Cleanup(func() {
		if n.port != nil {
			n.port.Close()
		}
		n.mux.Close()
		n.pool.Close()
	})
	return n
}

// answerOf is what the test has put there, if anything.
func answerOf[T any](n *fakeNode, v **T) (*T, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if *v == nil {
		return nil, api.Errorf(api.CodeUnsupported, "the agent does not know")
	}
	out := **v
	return &out, nil
}

func (n *fakeNode) listen() {
	n.t.Helper()
	var err error
	cert := api.CertName{Region: n.r.name, Role: api.RoleClient, NodeID: n.node.ID}
	n.port, err = n.r.w.net.Listen(n.node.Address, cert, n.mux)
	must.NoError(n.t, err)
}

func (n *fakeNode) vmStats(_ context.Context, q *api.GetRequest) (*api.VMStatsResponse, error) {
	id, err := api.ParseID(q.Key)
	return &api.VMStatsResponse{Stats: &api.VMStats{VMID: id, VCPUs: 1}}, err
}

// console echoes.
func (n *fakeNode) console(_ context.Context, _ *api.GetRequest, s api.Stream) error {
	for {
		c := &api.Chunk{}
		if err := s.Recv(c); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		if string(c.Data) == "bye" {
			return nil
		}
		if err := s.Send(c); err != nil {
			return err
		}
	}
}

func (n *fakeNode) imagePut(ctx context.Context, q *api.ImageUpload, s api.Stream) error {
	if n.stuck {
		<-ctx.Done()
		return ctx.Err()
	}
	var b []byte
	if err := copyChunks(s, func(c *api.Chunk) error { b = append(b, c.Data...); return nil }); err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	if hex.EncodeToString(sum[:]) != q.SHA256 {
		return api.Errorf(api.CodeImageBad, "another checksum")
	}
	n.mu.Lock()
	n.images[q.SHA256] = b
	n.mu.Unlock()
	return s.Send(&api.ImageResponse{Image: &api.Image{ID: q.ID, VirtualSize: 2 * q.Size}})
}

func (n *fakeNode) holds(sum string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.images[sum] != nil
}

func (n *fakeNode) imageGet(_ context.Context, q *api.ImageFetch, s api.Stream) error {
	n.mu.Lock()
	b := n.images[q.SHA256]
	n.mu.Unlock()
	if b == nil {
		return api.Errorf(api.CodeImageMissing, "not here")
	}
	return s.Send(&api.Chunk{Data: b})
}

// call calls the servers, again for as long as there is no leader: what nodes
// say may be said twice.
func (n *fakeNode) call(method string, req, resp api.Message) error {
	n.t.Helper()
	var err error
	eventually(n.t, method+" has an outcome", func() bool {
		err = n.servers.Call(n.t.Context(), method, req, resp)
		return !leaderLost(err)
	})
	return err
}

func (n *fakeNode) register(found ...api.VMReport) (*api.NodeRegistered, error) {
	n.t.Helper()
	resp := &api.NodeRegistered{}
	node := n.node
	return resp, n.call("Node.Register", &api.NodeRegister{Node: &node, SessionID: n.session, Found: found}, resp)
}

func (n *fakeNode) newBeat() *api.NodeBeat {
	return &api.NodeBeat{
		NodeID: n.node.ID, SessionID: n.session, BootID: n.node.BootID, Seq: n.seq.Add(1),
		Stats: &api.NodeStats{NodeID: n.node.ID, CPUPercent: 12.5},
	}
}

func (n *fakeNode) beat() (*api.NodeBeaten, error) {
	n.t.Helper()
	resp := &api.NodeBeaten{}
	return resp, n.call("Node.Beat", n.newBeat(), resp)
}

func (n *fakeNode) report(vms []api.VMReport, vols ...api.VolumeReport) error {
	n.t.Helper()
	return n.call("Node.Report", &api.NodeReport{NodeID: n.node.ID, SessionID: n.session, VMs: vms, Volumes: vols}, &api.WriteMeta{})
}

// ready registers and beats until the servers say that the node is ready. The
// node beats on until quiet, or the end of the test.
func (n *fakeNode) ready() *fakeNode {
	n.t.Helper()
	_, err := n.register()
	must.NoError(n.t, err)
	_, err = n.beat()
	must.NoError(n.t, err)
	ctx, cancel := context.WithCancel(n.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for pause(ctx, time.Second) {
			// One that fails is made good by the next.
			_ = n.servers.Call(ctx, "Node.Beat", n.newBeat(), &api.NodeBeaten{})
		}
	})
	n.hush = func() { cancel(); wg.Wait() }
	n.t.Cleanup(n.hush)
	n.status(api.NodeReady)
	return n
}

// quiet ends the node's own beats: it is silent from now on.
func (n *fakeNode) quiet() { n.hush() }

func (n *fakeNode) status(want api.NodeStatus) {
	n.t.Helper()
	eventually(n.t, "node "+n.node.Name+" is "+string(want), func() bool {
		got := n.r.leader().fsm.State().Node(n.node.ID)
		return got != nil && got.Status == want
	})
}

// orders opens the stream of orders at one server.
func (n *fakeNode) orders(m *machine, minIndex api.Index) (api.Stream, context.CancelFunc, error) {
	ctx, cancel := context.WithCancel(n.t.Context())
	st, err := n.pool.Get(m.self.Address).Open(ctx, "Node.Orders", &api.OrdersRequest{NodeID: n.node.ID, SessionID: n.session, MinIndex: minIndex})
	if err != nil {
		cancel()
	}
	return st, cancel, err
}

// nextOrders is the next batch that says something: not one that only keeps the
// stream alive.
func nextOrders(t *testing.T, st api.Stream) *api.OrderBatch {
	t.Helper()
	for {
		b := &api.OrderBatch{}
		must.NoError(t, st.Recv(b))
		if b.Full || len(b.Orders)+len(b.Volumes)+len(b.Images) > 0 {
			return b
		}
	}
}

// ordersError opens the stream and returns why it ends without an order.
func (n *fakeNode) ordersError(m *machine, minIndex api.Index) error {
	st, cancel, err := n.orders(m, minIndex)
	if err != nil {
		return err
	}
	defer cancel()
	return st.Recv(&api.OrderBatch{})
}

// obey follows the node's orders until ctx ends: what is ordered is so at once.
func (n *fakeNode) obey(ctx context.Context) {
	for ctx.Err() == nil {
		st, err := n.servers.Open(ctx, "Node.Orders", &api.OrdersRequest{NodeID: n.node.ID, SessionID: n.session})
		if err != nil {
			pause(ctx, 10*time.Millisecond)
			continue
		}
		for {
			b := &api.OrderBatch{}
			if st.Recv(b) != nil {
				break
			}
			if b.Recovery {
				continue
			}
			n.carryOut(ctx, b)
		}
	}
}

func (n *fakeNode) carryOut(ctx context.Context, b *api.OrderBatch) {
	r := &api.NodeReport{NodeID: n.node.ID, SessionID: n.session}
	for _, o := range b.Orders {
		v := api.VMReport{VMID: o.VMID, Epoch: o.Epoch, Order: o.Index, Generation: b.Generation, Seq: n.seq.Add(1), Time: api.TimeOf(time.Now())}
		switch {
		case o.Stop:
			v.State = api.StateAbsent
		case o.Desired == api.PowerStopped:
			v.State, v.Version = api.StateStopped, o.SpecVersion
		case o.Desired == api.PowerPaused:
			v.State, v.Version = api.StatePaused, o.SpecVersion
		default:
			v.State, v.Version, v.Reboots, v.Resets = api.StateRunning, o.SpecVersion, o.Reboots, o.Resets
			v.Armed = n.node.Guard != api.GuardNone && o.Spec.HA.Policy == api.HARestart
		}
		r.VMs = append(r.VMs, v)
		for _, vol := range o.Volumes {
			r.Volumes = append(r.Volumes, api.VolumeReport{ID: vol.ID, State: api.VolumeReady})
		}
	}
	for _, v := range b.Volumes {
		state := api.VolumeReady
		if v.State == api.VolumeDeleting {
			state = api.VolumeAbsent
		}
		r.Volumes = append(r.Volumes, api.VolumeReport{ID: v.ID, State: state})
	}
	n.mu.Lock()
	plays := n.plays
	n.mu.Unlock()
	if plays == nil {
		plays = func(m *api.Migration) (api.MoveReport, bool) { return playMove(m, n.node.ID) }
	}
	for _, o := range b.Moves {
		if m, ok := plays(o.Migration); ok {
			m.BootID, m.Seq = n.node.BootID, n.seq.Add(1)
			r.Moves = append(r.Moves, m)
		}
	}
	if len(r.VMs)+len(r.Volumes)+len(r.Moves) == 0 {
		return
	}
	for ctx.Err() == nil && n.servers.Call(ctx, "Node.Report", r, &api.WriteMeta{}) != nil {
		pause(ctx, 10*time.Millisecond)
	}
}

// working makes a node that is ready and follows its orders.
func (r *region) working(name string, change ...func(*api.Node)) *fakeNode {
	r.t.Helper()
	n := r.newNode(name, change...)
	n.ready()
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { n.obey(ctx) })
	n.rest = func() { cancel(); wg.Wait() }
	r.t.Cleanup(n.rest)
	return n
}

// die ends the node: it neither beats nor obeys any more.
func (n *fakeNode) die() {
	n.quiet()
	n.rest()
}

// vm waits until a VM is in a state.
func (r *region) vm(name, state string) *api.VMStatusResponse {
	r.t.Helper()
	var st *api.VMStatusResponse
	eventually(r.t, "VM "+name+" is "+state, func() bool {
		got, err := call[api.VMStatusResponse](r, r.leader(), "VM.Status",
			&api.GetRequest{Key: name, QueryOptions: api.QueryOptions{Consistency: api.ConsistencyConsistent}})
		if err != nil {
			return state == "" && api.CodeOf(err) == api.CodeNotFound
		}
		st = got
		return got.State == state
	})
	return st
}
