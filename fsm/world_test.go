package fsm

import (
	"fmt"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

// world is a state machine with a log, for tests that read like stories.
type world struct {
	t     testing.TB
	f     *FSM
	index uint64
	now   api.Time
	log   []*raft.Log
	seen  []Change
	halt  error
}

// id makes a recognisable id.
func id(kind byte, n int) api.ID {
	var x api.ID
	x[0], x[14], x[15] = kind, byte(n>>8), byte(n)
	return x
}

func newWorld(t testing.TB, reg *Registry) *world {
	w := &world{t: t, now: 1_000_000_000}
	w.f = New(Config{
		Registry: reg,
		Halt:     func(err error) { w.halt = err },
		OnCommit: func(_ api.Index, c []Change) { w.seen = append(w.seen, c...) },
	})
	w.f.verify = verifyCanonical
	return w
}

// verifyCanonical panics when a record would not survive a snapshot.
func verifyCanonical(table string, m api.Message) {
	b, err := m.MarshalMsg(nil)
	if err != nil {
		panic(err)
	}
	again, err := canonicalRecord(table, b)
	if err != nil {
		panic(err)
	}
	if string(again) != string(b) {
		panic(fmt.Sprintf("table %s: record %x is not canonical", table, b))
	}
}

func canonicalRecord(table string, b []byte) ([]byte, error) {
	m, err := defs[defIndex(table)].loader(newState()).add(b)
	if err != nil {
		return nil, fmt.Errorf("table %s: %w", table, err)
	}
	return m.MarshalMsg(nil)
}

// run proposes a command and returns its result.
func (w *world) run(cmd Command) *Result { return w.runWith(cmd, nil) }

func (w *world) runWith(cmd Command, idem *IdemKey) *Result {
	w.t.Helper()
	w.now += 1_000_000
	data, err := Encode(cmd, Meta{Time: w.now, Schema: w.f.State().Schema(), Idem: idem, Registry: w.f.reg})
	if err != nil {
		return &Result{Err: apiError(err)}
	}
	return w.apply(data)
}

func (w *world) apply(data []byte) *Result {
	w.index++
	l := &raft.Log{Index: w.index, Type: raft.LogCommand, Data: data}
	w.log = append(w.log, l)
	return w.f.Apply(l).(*Result)
}

// ok demands that a command succeeds.
func (w *world) ok(cmd Command) any {
	w.t.Helper()
	r := w.run(cmd)
	if r.Err != nil {
		w.t.Fatalf("%T: %v %v", cmd, r.Err, r.Err.Details)
	}
	return r.Value
}

// refused demands that a command fails with a code and changes nothing.
func (w *world) refused(code api.Code, cmd Command) *api.Error {
	w.t.Helper()
	before := dump(w.f.State())
	seen := len(w.seen)
	r := w.run(cmd)
	if r.Err == nil {
		w.t.Fatalf("%T succeeded, want %s", cmd, code)
	}
	if r.Err.Code != code {
		w.t.Fatalf("%T: %v, want %s", cmd, r.Err, code)
	}
	must.Eq(w.t, seen, len(w.seen))
	must.Eq(w.t, before, dump(w.f.State()))
	return r.Err
}

func (w *world) s() *State { return w.f.State() }

// dump is everything replicated but index and time, as text.
func dump(s *State) string {
	c := *s
	c.index, c.meta.Time = 0, 0
	sum := c.Hash()
	return fmt.Sprintf("%x", sum)
}

// region makes a region with a namespace, a network, an image and n nodes.
func region(t testing.TB, nodes int) *world {
	t.Helper()
	w := newWorld(t, nil)
	w.ok(&ClusterInit{ClusterID: id('c', 1), Region: "r1", RegionID: id('c', 2), Keys: []KeyRecord{{Name: KeyCA, Kind: "ecdsa", Public: []byte("pem"), Sealed: []byte("box")}}, Expect: 1})
	w.ok(&NetworkApply{Network: api.Network{Name: "lan", Type: "bridge", Bridge: "br0"}})
	w.ok(&ImageCreate{Image: api.Image{ID: id('i', 1), Namespace: "default", Name: "debian", Kind: "disk", Format: "qcow2", Size: api.GiB, VirtualSize: 2 * api.GiB, SHA256: fmt.Sprintf("%064x", 1), State: api.ImageReady}})
	for i := 1; i <= nodes; i++ {
		w.node(i)
	}
	return w
}

func nodeOf(i int) api.Node {
	return api.Node{
		ID: id('n', i), Name: fmt.Sprintf("node-%d", i), Datacenter: "dc1", Region: "r1", Address: fmt.Sprintf("10.0.0.%d:7647", i),
		BootID: "boot", MachineID: fmt.Sprintf("machine-%d", i), ProductUUID: fmt.Sprintf("product-%d", i),
		Capacity:   api.Resources{CPU: api.Cores(8), Memory: 16 * api.GiB},
		Attributes: api.Pairs{{K: "kernel.name", V: "linux"}},
		Pools: []api.NodePool{
			{Name: "default", Type: "dir", Capacity: 100 * api.GiB},
			{Name: "san", Type: "sim", Shared: true, Capacity: 1000 * api.GiB},
		},
		Networks: []string{"br0"},
	}
}

// node registers a node and makes it ready.
func (w *world) node(i int, found ...api.VMReport) {
	w.t.Helper()
	w.ok(&NodeRegister{Node: nodeOf(i), SessionID: id('s', i), Found: found})
	w.ok(&NodeStatus{Items: []NodeStatusItem{{NodeID: id('n', i), Status: api.NodeReady}}})
}

func specOf(name string, disks ...api.Disk) api.VMSpec {
	return api.VMSpec{Name: name, Namespace: "default", CPU: api.CPUSpec{Cores: 2}, Memory: 2 * api.GiB,
		NICs: []api.NIC{{Network: "lan"}}, Disks: disks, Labels: api.Pairs{{K: "app", V: "web"}}}
}

func local(name string) api.Disk  { return api.Disk{Name: name, Size: 10 * api.GiB} }
func shared(name string) api.Disk { return api.Disk{Name: name, Size: 10 * api.GiB, Pool: "san"} }

func volumeIDs(n, disks int) []api.ID {
	var out []api.ID
	for i := range disks {
		x := id('v', n)
		x[1] = byte(i + 1)
		out = append(out, x)
	}
	return out
}

// vm creates VM number n.
func (w *world) vm(n int, disks ...api.Disk) *api.VM {
	w.t.Helper()
	v := w.ok(&VMApply{ID: id('m', n), Spec: specOf(fmt.Sprintf("vm-%d", n), disks...), VolumeIDs: volumeIDs(n, len(disks))})
	return v.(*api.VMApplied).VM
}

// item is a decision for VM number n made against the present state.
func (w *world) item(action string, n, node int) PlaceItem {
	vm := w.s().VM(id('m', n))
	it := PlaceItem{Action: action, VMID: vm.ID, SpecVersion: vm.SpecVersion, Power: vm.Power}
	if node != 0 {
		it.NodeID = id('n', node)
	}
	if p := w.s().Placement(vm.ID); p != nil {
		it.OldEpoch = p.Epoch
	} else {
		it.Epoch = vm.Epoch + 1
	}
	return it
}

// place runs one item and returns its result.
func (w *world) place(it PlaceItem) PlaceResult {
	w.t.Helper()
	return w.ok(&PlaceBatch{Items: []PlaceItem{it}}).([]PlaceResult)[0]
}

// placed puts VM number n on a node.
func (w *world) placed(n, node int) *api.Placement {
	w.t.Helper()
	r := w.place(w.item(PlacePlace, n, node))
	if r.Err != nil {
		w.t.Fatalf("place vm-%d on node-%d: %v", n, node, r.Err)
	}
	return w.s().Placement(id('m', n))
}

// released stops VM number n on its node, takes it off there and wants it to run
// again.
func (w *world) released(n, node int) {
	w.t.Helper()
	w.ok(&VMPower{ID: id('m', n), Action: "stop"})
	w.report(node, n, w.s().Placement(id('m', n)).Epoch, api.StateStopped)
	if r := w.place(w.item(PlaceRelease, n, 0)); r.Err != nil {
		w.t.Fatalf("release vm-%d of node-%d: %v", n, node, r.Err)
	}
	w.ok(&VMPower{ID: id('m', n), Action: "start"})
}

// report says the state of VM number n from a node, at an epoch.
func (w *world) report(node, n int, epoch api.Epoch, state api.VMState, more ...func(*api.VMReport)) {
	w.t.Helper()
	r := api.VMReport{VMID: id('m', n), Epoch: epoch, State: state, Time: w.now, Seq: w.index, Order: w.index, Generation: w.s().Generation()}
	if vm := w.s().VM(r.VMID); vm != nil {
		r.Version = vm.SpecVersion
	}
	for _, f := range more {
		f(&r)
	}
	w.ok(&NodeReports{Reports: []api.NodeReport{{NodeID: id('n', node), SessionID: id('s', node), VMs: []api.VMReport{r}}}})
}

func (w *world) volumes(node int, state api.VolumeState, ids ...api.ID) {
	w.t.Helper()
	var vs []api.VolumeReport
	for _, v := range ids {
		vs = append(vs, api.VolumeReport{ID: v, State: state, Used: api.MiB})
	}
	w.ok(&NodeReports{Reports: []api.NodeReport{{NodeID: id('n', node), SessionID: id('s', node), Volumes: vs}}})
}
