package cluster

import (
	"context"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
)

// moving is a region of a VM "web" that runs on the first of some nodes.
func moving(t *testing.T, servers, nodes int) (*region, []*fakeNode, *api.VM) {
	r := newWorld(t).region("eu", servers)
	var ns []*fakeNode
	for i := range nodes {
		ns = append(ns, r.working([]string{"n1", "n2", "n3"}[i]))
		if i == 0 {
			mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: testSpec("web")})
			r.vm("web", "running")
			eventually(t, "the disk is there", func() bool {
				for v := range r.leader().fsm.State().Volumes() {
					return v.State == api.VolumeReady
				}
				return false
			})
		}
	}
	return r, ns, r.vm("web", "running").VM
}

// upTo lets a node play its part up to a phase, and says nothing from then on.
func (n *fakeNode) upTo(phases ...api.MigrationPhase) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.plays = func(m *api.Migration) (api.MoveReport, bool) {
		for _, p := range phases {
			if m.Phase == p {
				return api.MoveReport{}, false
			}
		}
		return playMove(m, n.node.ID)
	}
}

// says reports an end.
func (n *fakeNode) says(m *api.Migration, state api.EndState) {
	n.t.Helper()
	must.NoError(n.t, n.servers.Call(n.t.Context(), "Node.Report", &api.NodeReport{NodeID: n.node.ID, SessionID: n.session, Moves: []api.MoveReport{{
		Migration: m.ID, State: state, Attempt: m.Attempts, BootID: n.node.BootID, Seq: n.seq.Add(1),
	}}}, &api.WriteMeta{}))
}

func (r *region) move(key string, want api.MigrationPhase) *api.MigrationResponse {
	r.t.Helper()
	var got *api.MigrationResponse
	eventually(r.t, "the migration is "+string(want), func() bool {
		var err error
		got, err = call[api.MigrationResponse](r, r.leader(), "Migration.Get", &api.GetRequest{Key: key})
		must.NoError(r.t, err)
		return got.Migration.Phase == want
	})
	return got
}

func TestAVMMovesThroughTheNodes(t *testing.T) {
	r, ns, vm := moving(t, 3, 2)
	x := mustCall[api.MigrationCreated](r, "Migration.Create", &api.MigrationCreate{VM: "web"})
	must.Eq(t, api.MigrateLive, x.Migration.Mode)
	must.Eq(t, ns[1].node.ID, x.Explanation.Chosen)
	must.Eq(t, api.MigrationOptions{MaxDowntime: api.Duration(300 * time.Millisecond), DowntimeLimit: api.Duration(3 * time.Second), Timeout: api.Duration(30 * time.Minute), Compress: "auto"}, x.Migration.Options)
	m := r.move("web", api.MigrationDone).Migration
	must.Eq(t, x.Migration.ID, m.ID)
	must.True(t, m.Secret.IsZero(), must.Sprint("only the two ends know it"))
	st := r.vm("web", "running")
	must.Eq(t, "n2", st.Node)
	must.Eq(t, 2, st.Placement.Epoch)
	must.Eq(t, ns[1].node.ID, st.Volumes[0].NodeID)
	eventually(t, "the stop at the source is confirmed", func() bool { return r.leader().fsm.State().Tombstone(ns[0].node.ID, vm.ID) == nil })

	// And back, named.
	mustCall[api.MigrationCreated](r, "Migration.Create", &api.MigrationCreate{VM: vm.ID.String(), To: "n1", Mode: api.MigrateWarm, Priority: 90})
	r.move("web", api.MigrationDone)
	must.Eq(t, "n1", r.vm("web", "running").Node)

	// The list: newest first, in pages, by VM, node and whether it is active.
	page := mustCall[api.MigrationListResponse](r, "Migration.List", &api.MigrationListRequest{QueryOptions: api.QueryOptions{PerPage: 1}})
	must.Len(t, 1, page.Items)
	must.Eq(t, api.MigrateWarm, page.Items[0].Mode)
	page = mustCall[api.MigrationListResponse](r, "Migration.List", &api.MigrationListRequest{QueryOptions: api.QueryOptions{PerPage: 1, NextToken: page.NextToken}})
	must.Eq(t, x.Migration.ID, page.Items[0].ID)
	must.Eq(t, "", page.NextToken)
	for _, q := range []struct {
		req  api.MigrationListRequest
		want int
	}{
		{api.MigrationListRequest{VM: "web", Node: "n2"}, 2}, {api.MigrationListRequest{Active: true}, 0},
		{api.MigrationListRequest{QueryOptions: api.QueryOptions{Namespace: "*", Filter: `mode == warm`}}, 1},
	} {
		must.Len(t, q.want, mustCall[api.MigrationListResponse](r, "Migration.List", &q.req).Items)
	}
	_, err := call[api.MigrationListResponse](r, r.leader(), "Migration.List", &api.MigrationListRequest{Node: "n9"})
	must.ErrorIs(t, err, code(api.CodeNotFound))
	r.converge()
}

func TestAMigrationSaysWhatItWaitsFor(t *testing.T) {
	r, ns, vm := moving(t, 1, 2)
	a, b := ns[0], ns[1]
	a.upTo(api.MigrationCopying, api.MigrationSwitched, api.MigrationAborting)
	b.upTo(api.MigrationProposed, api.MigrationCopying, api.MigrationSwitched)
	mustCall[api.MigrationCreated](r, "Migration.Create", &api.MigrationCreate{VM: "web"})
	got := r.move("web", api.MigrationProposed)
	eventually(t, "the source is ready", func() bool {
		got = r.move("web", api.MigrationProposed)
		return got.Migration.Source.State == api.EndPresent
	})
	must.Eq(t, []string{"waits for node n2 to prepare disks and networks"}, got.Why)
	must.Nil(t, got.Progress)
	why := r.vm("web", "running").Why
	must.StrContains(t, why[0], "is being moved live from node n1 to node n2 (migration "+got.Migration.ID.Short()+" is proposed)")
	must.Eq(t, got.Why[0], why[1])
	_, err := call[api.MigrationCreated](r, r.leader(), "Migration.Create", &api.MigrationCreate{VM: "web"})
	must.ErrorIs(t, err, code(api.CodeMigrating))

	b.says(got.Migration, api.EndReady)
	a.mu.Lock()
	a.progress = &api.MigrationProgress{ID: got.Migration.ID, Percent: 41.5}
	a.mu.Unlock()
	got = r.move("web", api.MigrationCopying)
	must.Eq(t, []string{"waits for node n1 to begin the copy"}, got.Why)
	must.Eq(t, 41.5, got.Progress.Percent)
	a.says(got.Migration, api.EndCopying)
	must.SliceEmpty(t, r.move("web", api.MigrationCopying).Why)
	b.says(got.Migration, api.EndComplete)
	got = r.move("web", api.MigrationSwitched)
	must.Eq(t, "waits for node n1 to confirm that the guest is gone there", got.Why[0])
	a.says(got.Migration, api.EndAbsent)
	r.move(vm.ID.String(), api.MigrationDone)
	must.SliceEmpty(t, r.vm("web", "running").Why)
}

func TestACanceledMigrationLeavesTheVMWhereItIs(t *testing.T) {
	r, ns, _ := moving(t, 1, 2)
	for _, n := range ns {
		n.upTo(api.MigrationCopying)
	}
	x := mustCall[api.MigrationCreated](r, "Migration.Create", &api.MigrationCreate{VM: "web"}).Migration
	r.move(x.ID.String()[:8], api.MigrationCopying)
	c := mustCall[api.MigrationCanceled](r, "Migration.Cancel", &api.MigrationCancel{Key: "web"})
	must.Eq(t, api.MigrationAborting, c.Migration.Phase)
	got := r.move("web", api.MigrationAborted)
	must.Eq(t, api.CodeCanceled, got.Migration.Code)
	must.StrContains(t, got.Why[0], "it was ended: canceled")
	must.True(t, mustCall[api.MigrationCanceled](r, "Migration.Cancel", &api.MigrationCancel{Key: x.ID.String()}).Replayed)
	st := r.vm("web", "running")
	must.Eq(t, "n1", st.Node)
	must.Eq(t, 1, st.Placement.Epoch)
	eventually(t, "both ends are clean", func() bool {
		m := r.leader().fsm.State().Migration(x.ID)
		return m.Source.Clean && m.Dest.Clean
	})

	for _, n := range ns {
		n.upTo()
	}
	x = mustCall[api.MigrationCreated](r, "Migration.Create", &api.MigrationCreate{VM: "web"}).Migration
	r.move(x.ID.String(), api.MigrationDone)
	_, err := call[api.MigrationCanceled](r, r.leader(), "Migration.Cancel", &api.MigrationCancel{Key: "web"})
	must.ErrorIs(t, err, code(api.CodeState))
	must.StrContains(t, err.(*api.Error).Hint, "-to n1")
}

func TestWhatCannotMoveIsRefusedBeforeAnythingIsTouched(t *testing.T) {
	r, _, vm := moving(t, 1, 1)
	create := func(c api.MigrationCreate) error {
		c.VM = "web"
		_, err := call[api.MigrationCreated](r, r.leader(), "Migration.Create", &c)
		return err
	}
	before := r.leader().fsm.State().Index()
	err := create(api.MigrationCreate{})
	must.ErrorIs(t, err, code(api.CodeNoNode))
	must.StrContains(t, err.Error(), "no other node")
	must.ErrorIs(t, create(api.MigrationCreate{To: "n9"}), code(api.CodeNotFound))
	must.ErrorIs(t, create(api.MigrationCreate{Mode: "post-copy"}), code(api.CodeInvalid))
	must.ErrorIs(t, create(api.MigrationCreate{Options: api.MigrationOptions{Compress: "lzma"}}), code(api.CodeInvalid))
	must.ErrorIs(t, create(api.MigrationCreate{Options: api.MigrationOptions{MaxDowntime: api.Duration(time.Second), DowntimeLimit: 5}}), code(api.CodeInvalid))

	r.working("n2", func(n *api.Node) { n.Drivers[0].Can = nil })
	r.working("n3", func(n *api.Node) { n.Drivers[0].Acceleration = "kvm" })
	err = create(api.MigrationCreate{})
	must.ErrorIs(t, err, code(api.CodeNoNode))
	must.Len(t, 3, err.(*api.Error).Details)
	err = create(api.MigrationCreate{To: "n2"})
	must.StrContains(t, err.Error(), "node n2 cannot take VM \"web\": it has no healthy driver sim that moves guests")
	must.ErrorIs(t, create(api.MigrationCreate{To: "n1"}), code(api.CodeNoNode))
	_, err = call[api.MigrationCreated](r, r.leader(), "Migration.Create", &api.MigrationCreate{VM: "nobody"})
	must.ErrorIs(t, err, code(api.CodeNotFound))

	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: testSpec("off"), Power: api.PowerStopped})
	_, err = call[api.MigrationCreated](r, r.leader(), "Migration.Create", &api.MigrationCreate{VM: "off"})
	must.ErrorIs(t, err, code(api.CodeUnplaced))
	must.ErrorIs(t, create(api.MigrationCreate{Mode: api.MigrateCold}), code(api.CodeState))
	for range r.leader().fsm.State().MigrationsOf(vm.ID) {
		t.Fatal("a migration was made")
	}
	must.Less(t, r.leader().fsm.State().Index(), before)

	// A node that is full or cordoned may have room later: the move waits.
	r.working("n4")
	mustCall[api.NodeResponse](r, "Node.Update", &api.NodeUpdate{Key: "n4", Eligibility: api.Ineligible})
	x := mustCall[api.MigrationCreated](r, "Migration.Create", &api.MigrationCreate{VM: "web"})
	must.True(t, x.Explanation.Chosen.IsZero())
	why := r.move("web", api.MigrationQueued).Why
	must.StrContains(t, why[0], "no node fits: ")
	must.SliceContains(t, why, "node n4: is not eligible: it was cordoned")
	mustCall[api.NodeResponse](r, "Node.Update", &api.NodeUpdate{Key: "n4", Eligibility: api.Eligible})
	r.move("web", api.MigrationDone)
}

func TestAMoveIsCreatedOnceForItsKey(t *testing.T) {
	r, ns, _ := moving(t, 1, 2)
	ns[0].upTo(api.MigrationProposed)
	ctx := api.WithCall(t.Context(), api.Call{Token: r.login(), IdempotencyKey: "once"})
	first, err := callIn[api.MigrationCreated](ctx, r.leader(), "Migration.Create", &api.MigrationCreate{VM: "web"})
	must.NoError(t, err)
	again, err := callIn[api.MigrationCreated](ctx, r.leader(), "Migration.Create", &api.MigrationCreate{VM: "web"})
	must.NoError(t, err)
	must.True(t, again.Replayed)
	must.Eq(t, first.Migration.ID, again.Migration.ID)
	ns[0].says(r.move("web", api.MigrationProposed).Migration, api.EndPresent)
	r.move("web", api.MigrationDone)
	// The VM is on n2 by now, and the only other node gone: the answer is the first one all the same.
	mustCall[api.NodeResponse](r, "Node.Update", &api.NodeUpdate{Key: "n1", Eligibility: api.Ineligible})
	again, err = callIn[api.MigrationCreated](ctx, r.leader(), "Migration.Create", &api.MigrationCreate{VM: "web"})
	must.NoError(t, err)
	must.Eq(t, first.Migration.ID, again.Migration.ID)
}

func TestADryRunForecastsAndChangesNothing(t *testing.T) {
	r, ns, vm := moving(t, 1, 2)
	dry := &api.MigrationCreate{VM: "web", DryRun: true}
	got := mustCall[api.MigrationCreated](r, "Migration.Create", dry)
	must.True(t, got.Migration.ID.IsZero())
	must.Eq(t, "n2", got.Explanation.Node)
	must.Eq(t, 256*api.MiB, got.Forecast.Memory)
	must.Eq(t, api.GiB, got.Forecast.Disk)
	must.Eq(t, 0, got.Forecast.Duration)
	must.Len(t, 3, got.Forecast.Notes, must.Sprint("what was not measured is said"))
	must.StrContains(t, got.Forecast.Notes[1], "node n1 could not measure its link to n2")
	ns[0].mu.Lock()
	ns[0].forecast = &api.MigrationForecast{DirtyRate: 10 * api.MiB}
	ns[0].link = &api.LinkMeasured{Rate: 128 * api.MiB, RoundTrip: api.Duration(time.Millisecond), Sent: 64 * api.MiB}
	ns[0].mu.Unlock()
	got = mustCall[api.MigrationCreated](r, "Migration.Create", dry)
	must.True(t, got.Forecast.Converges)
	must.Positive(t, int64(got.Forecast.Duration))
	must.Eq(t, 128*api.MiB, got.Forecast.Link)
	must.Eq(t, api.Duration(time.Millisecond), got.Forecast.RoundTrip)
	must.Eq(t, []string{"the link was measured now: the agent of n1 sent 64 MiB to that of n2"}, got.Forecast.Notes)
	for range r.leader().fsm.State().MigrationsOf(vm.ID) {
		t.Fatal("a migration was made")
	}
}

func TestEstimates(t *testing.T) {
	f := func(mode api.MigrationMode, dirty, link api.Bytes, change func(*api.MigrationOptions)) *api.MigrationForecast {
		m := &api.Migration{Mode: mode}
		m.Options.Fill(&api.MigrationPolicy{})
		if change != nil {
			change(&m.Options)
		}
		f := &api.MigrationForecast{Memory: 10 * api.GiB, Disk: 10 * api.GiB, DirtyRate: dirty, Link: link}
		if mode == api.MigrateCold {
			f.Memory = 0
		}
		estimate(f, m)
		return f
	}
	idle := f(api.MigrateLive, 0, api.GiB, nil)
	must.Eq(t, api.Duration(20*time.Second), idle.Duration)
	must.Eq(t, api.Duration(switchOver), idle.Downtime)
	must.True(t, idle.Converges)
	busy := f(api.MigrateLive, api.GiB/2, api.GiB, nil)
	must.True(t, busy.Converges)
	must.Between(t, api.Duration(29*time.Second), busy.Duration, api.Duration(31*time.Second), must.Sprint("passes of halves: twice the memory"))
	wild := f(api.MigrateLive, 2*api.GiB, api.GiB, nil)
	must.False(t, wild.Converges)
	must.StrContains(t, wild.Notes[0], "given up")
	must.StrContains(t, f(api.MigrateLive, 2*api.GiB, api.GiB, func(o *api.MigrationOptions) { o.WarmFallback, o.AutoConverge = true, true }).Notes[0], "throttled, and if that is not enough the move goes on warm")
	warm := f(api.MigrateWarm, 2*api.GiB, api.GiB, nil)
	must.Eq(t, api.Duration(20*time.Second), warm.Duration)
	must.Greater(t, warm.Duration, warm.Downtime)
	must.Eq(t, api.Duration(10*time.Second), f(api.MigrateCold, 0, api.GiB, nil).Duration)
	must.Eq(t, api.Duration(40*time.Second), f(api.MigrateLive, 0, api.GiB, func(o *api.MigrationOptions) { o.Bandwidth = api.GiB / 2 }).Duration)
	must.Eq(t, 0, f(api.MigrateLive, 0, 0, nil).Duration, must.Sprint("nothing is made up"))
	almost := f(api.MigrateLive, api.GiB, api.GiB, func(o *api.MigrationOptions) { o.DowntimeLimit = api.Duration(20 * time.Second) })
	must.True(t, almost.Converges)
	must.StrContains(t, almost.Notes[0], "has to be raised above 300ms")
}

func TestMovesAreOfANamespace(t *testing.T) {
	r, _, _ := moving(t, 1, 2)
	x := mustCall[api.MigrationCreated](r, "Migration.Create", &api.MigrationCreate{VM: "web"}).Migration
	r.move("web", api.MigrationDone)
	// An id finds a migration of any namespace, but only for those who may see it.
	_, err := findMigration(t.Context(), acl.ReadVM, r.leader().fsm.State(), "", x.ID.String())
	must.ErrorIs(t, err, code(api.CodeNotFound))
	_, err = call[api.MigrationResponse](r, r.leader(), "Migration.Get", &api.GetRequest{Key: "web", QueryOptions: api.QueryOptions{Namespace: "other"}})
	must.ErrorIs(t, err, code(api.CodeNotFound))
	_, err = callIn[api.MigrationResponse](t.Context(), r.leader(), "Migration.Get", &api.GetRequest{Key: "web"})
	must.Error(t, err)
	_, err = callIn[api.MigrationCreated](t.Context(), r.leader(), "Migration.Create", &api.MigrationCreate{VM: "web"})
	must.Error(t, err)
}

func TestANodeLearnsItsPartsInMoves(t *testing.T) {
	r, ns, vm := moving(t, 3, 1)
	a := ns[0]
	a.upTo(api.MigrationProposed, api.MigrationCopying, api.MigrationSwitched, api.MigrationCommitted, api.MigrationDone)
	b := r.newNode("n2").ready() // follows no orders
	mustCall[api.MigrationCreated](r, "Migration.Create", &api.MigrationCreate{VM: "web"})
	m := r.move("web", api.MigrationProposed).Migration
	r.converge()
	st, cancel, err := b.orders(r.follower(), m.ModifyIndex)
	must.NoError(t, err)
	defer cancel()
	next := func() *api.MoveOrder {
		t.Helper()
		for {
			b := &api.OrderBatch{}
			must.NoError(t, st.Recv(b))
			if len(b.Moves) > 0 {
				must.Len(t, 1, b.Moves)
				return b.Moves[0]
			}
		}
	}
	o := next()
	must.Eq(t, api.MigrationProposed, o.Migration.Phase)
	must.False(t, o.Migration.Secret.IsZero())
	must.Eq(t, a.node.Address, o.Peer)
	must.Eq(t, vm.ID, o.VM.VMID)
	must.Eq(t, 2, o.VM.Epoch, must.Sprint("the epoch that it would be granted"))
	must.Len(t, 1, o.VM.Volumes)
	must.Eq(t, api.PowerRunning, o.VM.Desired)

	// What the ends say is not sent around, a new phase is.
	b.says(m, api.EndReady)
	a.says(m, api.EndPresent)
	for o = next(); o.Migration.Phase != api.MigrationCopying; o = next() {
		must.Eq(t, api.MigrationPrepared, o.Migration.Phase)
	}
	m = o.Migration
	b.says(m, api.EndCopying)
	a.says(m, api.EndCopying)
	moved := *a
	moved.node.Address = "n1-new:7647"
	cert := api.CertName{Region: "eu", Role: api.RoleClient, NodeID: a.node.ID}
	port, err := r.w.net.Listen(moved.node.Address, cert, a.mux)
	must.NoError(t, err)
	t.Cleanup(func() { port.Close() })
	_, err = moved.register()
	must.NoError(t, err)
	o = next()
	must.Eq(t, moved.node.Address, o.Peer, must.Sprint("the other end has moved"))
	must.Eq(t, api.MigrationCopying, o.Migration.Phase)

	// The one that takes over learns of it together with the order.
	b.says(m, api.EndComplete)
	must.Eq(t, api.MigrationSwitched, next().Migration.Phase)
	a.says(m, api.EndAbsent)
	batch := &api.OrderBatch{}
	for len(batch.Moves) == 0 {
		*batch = api.OrderBatch{}
		must.NoError(t, st.Recv(batch))
	}
	must.Eq(t, api.MigrationCommitted, batch.Moves[0].Migration.Phase)
	must.Len(t, 1, batch.Orders)
	must.Eq(t, batch.Orders[0].Epoch, batch.Moves[0].VM.Epoch)

	// A stream that begins anew has all that is not clean here.
	for _, n := range []*fakeNode{a, b} {
		full, stop, err := n.orders(r.leader(), 0)
		must.NoError(t, err)
		first := &api.OrderBatch{}
		must.NoError(t, full.Recv(first))
		stop()
		must.Len(t, 1, first.Moves)
		must.Eq(t, n == b, first.Moves[0].VM != nil)
	}
	must.NoError(t, b.servers.Call(context.WithoutCancel(t.Context()), "Node.Report", &api.NodeReport{NodeID: b.node.ID, SessionID: b.session, Moves: []api.MoveReport{{
		Migration: m.ID, State: api.EndRunning, Attempt: 1, Clean: true, BootID: b.node.BootID, Seq: b.seq.Add(1),
	}}}, &api.WriteMeta{}))
	must.NoError(t, a.servers.Call(t.Context(), "Node.Report", &api.NodeReport{NodeID: a.node.ID, SessionID: a.session, Moves: []api.MoveReport{{
		Migration: m.ID, State: api.EndAbsent, Attempt: 1, Clean: true, BootID: a.node.BootID, Seq: a.seq.Add(1),
	}}}, &api.WriteMeta{}))
	r.move("web", api.MigrationDone)
	full, stop, err := b.orders(r.leader(), 0)
	must.NoError(t, err)
	defer stop()
	first := &api.OrderBatch{}
	must.NoError(t, full.Recv(first))
	must.SliceEmpty(t, first.Moves)
}

// A leader that is killed in the middle of moves loses none of them.
func TestAMoveOutlivesItsLeader(t *testing.T) {
	r, ns, _ := moving(t, 3, 2)
	for _, n := range ns {
		n.upTo(api.MigrationCopying)
	}
	mustCall[api.MigrationCreated](r, "Migration.Create", &api.MigrationCreate{VM: "web"})
	m := r.move("web", api.MigrationCopying).Migration
	must.NoError(t, r.leader().Close())
	ns[1].says(m, api.EndComplete)
	ns[0].says(m, api.EndAbsent)
	for _, n := range ns {
		n.upTo()
	}
	got := r.move("web", api.MigrationDone).Migration
	must.Eq(t, 1, got.Attempts)
	must.Eq(t, "n2", r.vm("web", "running").Node)
}

func TestADestinationLearnsWhatToTakeAway(t *testing.T) {
	r, ns, _ := moving(t, 3, 1)
	ns[0].upTo(api.MigrationProposed)
	b := r.newNode("n2").ready() // follows no orders
	mustCall[api.MigrationCreated](r, "Migration.Create", &api.MigrationCreate{VM: "web"})
	r.move("web", api.MigrationProposed)
	mustCall[api.MigrationCanceled](r, "Migration.Cancel", &api.MigrationCancel{Key: "web"})
	st, cancel, err := b.orders(r.leader(), 0)
	must.NoError(t, err)
	defer cancel()
	full := &api.OrderBatch{}
	must.NoError(t, st.Recv(full))
	must.Len(t, 1, full.Moves)
	must.False(t, full.Moves[0].Migration.Phase.Open())
	must.NotNil(t, full.Moves[0].VM, must.Sprint("its agent may have died: nothing else says which volumes it has made"))
	must.Len(t, 1, full.Moves[0].VM.Volumes)
}
