package scheduler

import (
	"fmt"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
	"github.com/shoenig/test/must"
)

// world is a real state machine with an engine that follows it.
type world struct {
	t     must.T
	f     *fsm.FSM
	index uint64
	seen  []fsm.Change
	e     *engine
}

func newWorld(t must.T) *world {
	w := &world{t: t}
	w.f = fsm.New(fsm.Config{OnCommit: func(_ uint64, c []fsm.Change) { w.seen = append(w.seen, c...) }})
	w.must(&fsm.ClusterInit{ClusterID: api.ID{0xc}, RegionID: api.ID{0xd}, Region: "r1"})
	w.must(&fsm.NetworkApply{Network: api.Network{Name: "lan", Type: "bridge", Bridge: "br0"}})
	w.must(&fsm.NetworkApply{Network: api.Network{Name: "nat", Type: "nat", CIDR: "10.9.0.0/24"}})
	w.e = NewEngine(w.f.State()).(*engine)
	w.seen = nil
	return w
}

// do applies a command as the log would.
func (w *world) do(c fsm.Command) *fsm.Result {
	data, err := fsm.Encode(c, fsm.Meta{Time: api.Time(w.index + 1), Schema: 1})
	if err != nil {
		return &fsm.Result{Err: api.Errorf(api.CodeOf(err), "%v", err)}
	}
	w.index++
	return w.f.Apply(&raft.Log{Index: w.index, Term: 1, Type: raft.LogCommand, Data: data}).(*fsm.Result)
}

func (w *world) must(c fsm.Command) *fsm.Result {
	r := w.do(c)
	if r.Err != nil {
		w.t.Fatalf("%T: %v", c, r.Err)
	}
	return r
}

// follow shows the engine what happened.
func (w *world) follow() *fsm.State {
	s := w.f.State()
	w.e.Apply(s, w.seen)
	w.seen = nil
	return s
}

func id(kind byte, n int) api.ID {
	return api.ID{kind, byte(n >> 16), byte(n >> 8), byte(n)}
}

// node registers a ready node of 8 cores (32 with overcommit), 16 GiB and a
// pool of 100 GiB; change alters it first.
func (w *world) node(n int, change func(*api.Node)) api.ID {
	nd := api.Node{
		ID: id('n', n), Name: fmt.Sprintf("n%d", n), Datacenter: "dc1", Region: "r1", Address: fmt.Sprintf("10.0.0.%d:7647", n),
		MachineID: fmt.Sprint(n), Capacity: api.Resources{CPU: api.Cores(8), Memory: 16 * api.GiB},
		Labels:   api.PairsOf(map[string]string{"rack": fmt.Sprintf("r%d", n%3)}),
		Pools:    []api.NodePool{{Name: "default", Type: "dir", Capacity: 100 * api.GiB}},
		Networks: []string{"br0"}, Drivers: []api.DriverInfo{{Name: "sim", Healthy: true}},
	}
	if change != nil {
		change(&nd)
	}
	w.must(&fsm.NodeRegister{Node: nd, SessionID: id('s', n)})
	w.must(&fsm.NodeStatus{Items: []fsm.NodeStatusItem{{NodeID: nd.ID, Status: api.NodeReady}}})
	return nd.ID
}

// spec is a VM of 2 cores, 2 GiB and a disk of 10 GiB.
func spec(name string, change func(*api.VMSpec)) api.VMSpec {
	s := api.VMSpec{
		Name: name, Namespace: api.DefaultNamespace, CPU: api.CPUSpec{Cores: 2}, Memory: 2 * api.GiB,
		Disks: []api.Disk{{Name: "root", Size: 10 * api.GiB}}, NICs: []api.NIC{{Network: "lan"}},
	}
	if change != nil {
		change(&s)
	}
	return s
}

func diskless(s *api.VMSpec) { s.Disks = nil }

func (w *world) vm(n int, change func(*api.VMSpec)) api.ID {
	s := spec(fmt.Sprintf("vm%d", n), change)
	c := &fsm.VMApply{ID: id('v', n), Spec: s}
	for i := range s.Disks {
		c.VolumeIDs = append(c.VolumeIDs, id('d', n*32+i))
	}
	w.must(c)
	return c.ID
}

// commit applies decisions in one entry and settles them.
func (w *world) commit(ds ...Decision) []fsm.PlaceResult {
	var b fsm.PlaceBatch
	for _, d := range ds {
		b.Items = append(b.Items, d.Item)
	}
	res := w.must(&b).Value.([]fsm.PlaceResult)
	for _, d := range ds {
		w.e.Settle(d.Item.VMID)
	}
	w.follow()
	return res
}

// place decides a VM, which must find a node, and commits it.
func (w *world) place(vm api.ID) api.ID {
	w.follow()
	d := w.e.Decide(vm)
	if d.Verdict != Commit {
		w.t.Fatalf("%v has verdict %v, waits for %v", vm, d.Verdict, d.Waiter)
	}
	for _, r := range w.commit(d) {
		if r.Err != nil {
			w.t.Fatalf("%v", r.Err)
		}
	}
	return d.Node
}

func TestWorld(t *testing.T) {
	w := newWorld(t)
	n := w.node(1, nil)
	must.Eq(t, n, w.place(w.vm(1, nil)))
}
