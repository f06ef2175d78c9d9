package cluster

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

func TestANodeIsReadyWhenItBeats(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	n := r.newNode("n1")
	resp, err := n.register()
	must.NoError(t, err)
	must.Eq(t, 3*time.Second, resp.Heartbeat.D())
	must.Eq(t, []string{r.servers[0].self.Address}, resp.Servers)
	must.Eq(t, api.NodeInit, r.leader().fsm.State().Node(n.node.ID).Status)

	ack, err := n.beat()
	must.NoError(t, err)
	must.False(t, ack.Register)
	must.Eq(t, 1, ack.Seq)
	n.status(api.NodeReady)

	stats := mustCall[api.NodeStatsResponse](r, "Node.Stats", &api.GetRequest{Key: "n1"})
	must.Eq(t, 12.5, stats.Stats.CPUPercent)
	got := mustCall[api.NodeListResponse](r, "Node.List", &api.ListRequest{QueryOptions: api.QueryOptions{Filter: `"sim" in drivers and status == ready`}})
	must.Len(t, 1, got.Items)

	stranger := *n
	stranger.session = api.NewID()
	ack, err = stranger.beat()
	must.NoError(t, err)
	must.True(t, ack.Register, must.Sprint("a session that is not known has to register"))
}

// clocked gives the leases a clock that only the test moves.
func clocked(ahead *atomic.Int64) func(*Config) {
	return func(c *Config) {
		c.Clock = func() time.Duration { return time.Hour + time.Duration(ahead.Load()) }
	}
}

func TestASilentNodeIsSuspectAndNothingElse(t *testing.T) {
	var ahead atomic.Int64
	r := newWorld(t).region("eu", 1, clocked(&ahead))
	n := r.working("n1")
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: testSpec("web")})
	r.vm("web", "running")
	before := r.leader().fsm.State().Placement(r.vm("web", "running").VM.ID)

	n.quiet()
	ahead.Add(int64(suspectAfter + time.Second))
	r.leader().pokeNodes()
	n.status(api.NodeSuspect)
	st := r.vm("web", "running")
	must.Eq(t, before.Epoch, st.Placement.Epoch, must.Sprint("silence moves no VM"))
	must.StrContains(t, st.Why[0], "node n1 is suspect")

	_, err := n.beat()
	must.NoError(t, err)
	n.status(api.NodeReady)

	// A node that is suspect is given nothing new.
	ahead.Add(int64(suspectAfter + time.Second))
	r.leader().pokeNodes()
	n.status(api.NodeSuspect)
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: testSpec("db")})
	got := r.vm("db", "pending")
	must.StrContains(t, got.Why[0], "no node fits")
	must.NotNil(t, got.Pending)
}

func TestANodeThatLeavesIsLeft(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	n := r.newNode("n1").ready()
	must.NoError(t, n.call("Node.Beat", &api.NodeBeat{NodeID: n.node.ID, SessionID: n.session, Seq: 9, Leaving: true}, &api.NodeBeaten{}))
	n.status(api.NodeLeft)
	_, err := call[api.WriteMeta](r, r.leader(), "Node.Delete", &api.DeleteRequest{Key: "n1"})
	must.NoError(t, err)
	_, err = call[api.NodeResponse](r, r.leader(), "Node.Get", &api.GetRequest{Key: "n1"})
	must.ErrorIs(t, err, code(api.CodeNotFound))
}

func TestASecondMachineOfOneNodeIsRefused(t *testing.T) {
	var ahead atomic.Int64
	r := newWorld(t).region("eu", 1, clocked(&ahead))
	n := r.newNode("n1").ready()
	n.quiet()
	twin := *n
	twin.session, twin.node.MachineID, twin.node.BootID = api.NewID(), "machine-other", "boot-other"
	_, err := twin.register()
	must.ErrorIs(t, err, code(api.CodeNodeDuplicate))
	must.Len(t, 2, err.(*api.Error).Details, must.Sprint("both machines are shown"))
	must.StrContains(t, err.(*api.Error).Details[0].Message, "machine-n1")
	must.StrContains(t, err.(*api.Error).Details[1].Message, "machine-other")

	again := *n
	again.session = api.NewID()
	_, err = again.register()
	must.NoError(t, err, must.Sprint("the same machine may start its agent again"))

	ahead.Add(int64(hostLease + time.Second))
	_, err = twin.register()
	must.NoError(t, err, must.Sprint("after the lease the id may move to another machine"))
}

func TestTheListOfNodesSaysWhatIsWrongWithThem(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	n := r.newNode("n1")
	n.node.Drivers = []api.DriverInfo{{Name: "qemu", Error: "libvirtd does not answer"}, {Name: "sim", Healthy: true}}
	_, err := n.register()
	must.NoError(t, err)
	note := func() string { return mustCall[api.NodeListResponse](r, "Node.List", &api.ListRequest{}).Items[0].Note }
	must.Eq(t, "libvirtd does not answer", note())
	n.node.Drivers[0].Healthy, n.node.Drivers[0].Error = true, ""
	_, err = n.register()
	must.NoError(t, err)
	must.Eq(t, "", note())
}

func TestANodeThatCannotBeDialedGetsNoWork(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	n := r.newNode("n1")
	n.port.Close()
	n.port = nil
	_, err := n.register()
	must.NoError(t, err)
	_, err = n.beat()
	must.NoError(t, err)
	n.status(api.NodeReady)
	node := mustCall[api.NodeResponse](r, "Node.Get", &api.GetRequest{Key: "n1"}).Node
	must.StrContains(t, node.Unreachable, "n1:7647")
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: testSpec("web")})
	r.vm("web", "pending")

	n.listen()
	must.Eq(t, "", r.leader().dial(t.Context(), n.node.ID, n.node.Address))
	_, err = n.register()
	must.NoError(t, err)
	eventually(t, "placed", func() bool {
		_, err := call[api.PlacementResponse](r, r.leader(), "Placement.Get", &api.GetRequest{Key: "web"})
		return err == nil
	})
}

func TestOnlyTheNodeItselfMaySpeakForIt(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	a, b := r.newNode("n1").ready(), r.newNode("n2").ready()
	forged := *a
	forged.node, forged.session = b.node, b.session
	_, err := forged.register()
	must.ErrorIs(t, err, code(api.CodeWrongRole))
	_, err = forged.beat()
	must.ErrorIs(t, err, code(api.CodeWrongRole))
	must.ErrorIs(t, forged.report(nil), code(api.CodeWrongRole))
	must.ErrorIs(t, forged.ordersError(r.leader(), 0), code(api.CodeWrongRole))
	_, err = callIn[api.NodeBeaten](r.as(), r.leader(), "Node.Beat", &api.NodeBeat{NodeID: a.node.ID})
	must.ErrorIs(t, err, code(api.CodeWrongRole))
}

func TestABeatNeedsAQuorum(t *testing.T) {
	r := newWorld(t).region("eu", 3)
	n := r.newNode("n1").ready()
	beat := &api.NodeBeat{NodeID: n.node.ID, SessionID: n.session, Seq: 100}
	var l *machine
	var only rpc.Caller
	eventually(t, "a leader takes the beat", func() bool {
		l = r.leader()
		only = n.pool.Get(l.self.Address)
		return only.Call(t.Context(), "Node.Beat", beat, &api.NodeBeaten{}) == nil
	})

	l.Mux().SetHold(50 * time.Millisecond)
	for _, m := range r.servers {
		if m != l {
			r.w.net.Cut(l.self.Address, m.self.Address)
		}
	}
	err := only.Call(t.Context(), "Node.Beat", beat, &api.NodeBeaten{})
	must.ErrorIs(t, err, code(api.CodeNoLeader), must.Sprint("a leader without its quorum acknowledges nothing"))
	r.w.net.Rejoin(l.self.Address)
}

func TestOrdersBeginWithAllAndGoOnWithChanges(t *testing.T) {
	r := newWorld(t).region("eu", 3)
	n := r.newNode("n1").ready()
	mustCall[api.NetworkResponse](r, "Network.Apply", &api.NetworkApply{Network: api.Network{Name: "lan", Type: "nat", CIDR: "10.9.0.0/24"}})
	spec := testSpec("web")
	spec.NICs = []api.NIC{{Network: "lan"}}
	vm := mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: spec}).VM
	eventually(t, "placed", func() bool { return r.leader().fsm.State().Placement(vm.ID) != nil })
	r.converge()

	m := r.follower()
	st, cancel, err := n.orders(m, m.fsm.State().Index())
	must.NoError(t, err)
	defer cancel()
	next := func() *api.OrderBatch { t.Helper(); return nextOrders(t, st) }
	b := next()
	must.True(t, b.Full)
	must.Eq(t, 1, b.Generation)
	must.Len(t, 1, b.Orders)
	o := b.Orders[0]
	must.Eq(t, vm.ID, o.VMID)
	must.Eq(t, api.PowerRunning, o.Desired)
	must.Eq(t, 1, o.Epoch)
	must.Len(t, 1, o.Volumes)
	must.Eq(t, "lan", o.Networks[0].Name)
	must.Len(t, 1, b.Volumes, must.Sprint("the new volume is to be made"))

	// A report is not an order.
	must.NoError(t, n.report([]api.VMReport{{VMID: vm.ID, Epoch: 1, State: api.StateRunning, Version: 1, Seq: 1}}))
	mustCall[api.VMApplied](r, "VM.Power", &api.VMPower{Key: "web", Action: "reboot"})
	b = next()
	must.False(t, b.Full)
	must.Len(t, 1, b.Orders)
	must.Eq(t, 1, b.Orders[0].Reboots)

	// What the hypervisor has paused can be ordered to go on.
	must.NoError(t, n.report([]api.VMReport{{VMID: vm.ID, Epoch: 1, State: api.StatePaused, Reason: "io-error", Version: 1, Seq: 2}}))
	mustCall[api.VMApplied](r, "VM.Power", &api.VMPower{Key: "web", Action: "resume"})
	must.Eq(t, 1, next().Orders[0].Resumes)

	// A change of the network reaches those who use it.
	mustCall[api.NetworkResponse](r, "Network.Apply", &api.NetworkApply{Network: api.Network{Name: "lan", Type: "nat", CIDR: "10.9.0.0/24", MTU: 1400}})
	must.Eq(t, 1400, next().Orders[0].Networks[0].MTU)

	mustCall[api.WriteMeta](r, "VM.Delete", &api.DeleteRequest{Key: "web"})
	b = next()
	must.True(t, b.Orders[0].Stop)
	must.Eq(t, 1, b.Orders[0].Epoch)

	must.ErrorIs(t, n.ordersError(m, m.fsm.State().Index()+1_000_000), code(api.CodeStale), must.Sprint("a server that is behind gives no orders"))
}

func TestADeniedNodeIsOut(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	n := r.newNode("n1").ready()
	r.apply(deny(n.node.ID))
	_, err := n.register()
	must.ErrorIs(t, err, code(api.CodeNodeDenied))
	_, err = r.leader().renew(api.CertName{Region: "eu", Role: api.RoleClient, NodeID: n.node.ID}, nil)
	must.ErrorIs(t, err, code(api.CodeNodeDenied))
}

func TestOperatorsChangeNodes(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	r.newNode("n1").ready()
	got := mustCall[api.NodeResponse](r, "Node.Update", &api.NodeUpdate{Key: "n1", Eligibility: api.Ineligible})
	must.Eq(t, api.Ineligible, got.Node.Eligibility)
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: testSpec("web")})
	r.vm("web", "pending")
	stale := uint64(1)
	_, err := call[api.NodeResponse](r, r.leader(), "Node.Update", &api.NodeUpdate{Key: "n1", Eligibility: api.Eligible, CheckIndex: &stale})
	must.ErrorIs(t, err, code(api.CodeConflict))
	mustCall[api.NodeResponse](r, "Node.Update", &api.NodeUpdate{Key: "n1", Eligibility: api.Eligible})
	eventually(t, "placed", func() bool {
		_, err := call[api.PlacementResponse](r, r.leader(), "Placement.Get", &api.GetRequest{Key: "web"})
		return err == nil
	})
	_, err = call[api.WriteMeta](r, r.leader(), "Node.Delete", &api.DeleteRequest{Key: "n1"})
	must.ErrorIs(t, err, code(api.CodeState))
}

func TestConnectionsToWhereNoNodeIsAnyMoreAreClosed(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	before := r.leader().pool.Len()
	n := r.newNode("n1").ready()
	must.Eq(t, before+1, r.leader().pool.Len())
	n.port.Close()
	n.node.Address = "elsewhere:7647"
	n.listen()
	_, err := n.register()
	must.NoError(t, err)
	eventually(t, "only the new connection is left", func() bool { return r.leader().pool.Len() == before+1 })
	must.NoError(t, n.call("Node.Beat", &api.NodeBeat{NodeID: n.node.ID, SessionID: n.session, Seq: 9, Leaving: true}, &api.NodeBeaten{}))
	n.status(api.NodeLeft)
	mustCall[api.WriteMeta](r, "Node.Delete", &api.DeleteRequest{Key: "n1"})
	eventually(t, "none is left", func() bool { return r.leader().pool.Len() == before })
}

// The word of its peers makes a node that has missed a beat suspect, and nothing
// else: one that beats is believed itself.
func TestPeersOnlyShortenTheWayToSuspect(t *testing.T) {
	var now time.Duration
	l := newLeases(func() time.Duration { return now })
	l.begin()
	node := func(id byte) (*api.Node, api.ID) {
		return &api.Node{ID: api.ID{id}, GossipAddress: "x:7649"}, api.ID{0x50, id}
	}
	gone, _ := node(1)
	for id := byte(1); id <= 4; id++ {
		n, s := node(id)
		l.register(n, s)
	}
	s := &Server{leases: l}
	beat := func(id byte, v *api.PeerView) {
		l.contacts[api.ID{id}].heard(&api.NodeBeat{NodeID: api.ID{id}, Peers: v}, now)
	}
	suspects := func() (bool, string) {
		silent, _ := l.silent(gone.ID)
		item := fsm.NodeStatusItem{}
		ok := silent > doubtAfter && s.suspects(gone, silent, &item)
		return ok, item.Note
	}
	sees, fails := &api.PeerView{Alive: 3}, &api.PeerView{Alive: 2, Failed: []api.ID{gone.ID}}
	now = 3 * time.Second
	for id := byte(2); id <= 4; id++ {
		beat(id, fails)
	}
	ok, _ := suspects()
	must.False(t, ok, must.Sprint("it has missed no beat"))
	now = 4500 * time.Millisecond
	ok, note := suspects()
	must.True(t, ok)
	must.Eq(t, "no heartbeat for 4.5s; nobody sees it", note)
	beat(2, sees)
	beat(3, sees)
	ok, _ = suspects()
	must.False(t, ok, must.Sprint("most of them still see it: it has its time"))
	now = 6500 * time.Millisecond
	beat(2, nil)
	beat(3, nil)
	beat(4, nil)
	ok, note = suspects()
	must.True(t, ok)
	must.Eq(t, "no heartbeat for 6.5s; its peers still see it", note)
	// Who is silent himself is no witness.
	now = 20 * time.Second
	ok, note = suspects()
	must.True(t, ok)
	must.Eq(t, "no heartbeat for 20s", note)
	gone.Status, gone.StatusNote = api.NodeSuspect, "no heartbeat for 6.5s; its peers still see it"
	beat(2, fails)
	beat(3, fails)
	_, note = suspects()
	must.Eq(t, "no heartbeat for 20s; nobody sees it", note)
	gone.StatusNote = note
	_, note = suspects()
	must.Eq(t, "", note, must.Sprint("the note changes with the verdict only"))
}
