package http

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

func validSpec() api.VMSpec {
	s := api.VMSpec{Name: "web", CPU: api.CPUSpec{Cores: 1}, Memory: 64 * api.MiB}
	s.Canonicalize()
	return s
}

// Every method of the SDK that is one question and one answer goes through the
// real handler: the right RPC method is asked with the right request, and the
// answer comes back as it was given.
func TestSDKRoundTrip(t *testing.T) {
	t.Parallel()
	id, seven := api.NewID(), uint64(7)
	meta := api.QueryMeta{Index: 42, KnownLeader: true, LastContact: api.Duration(5 * time.Millisecond)}
	wm := api.WriteMeta{Index: 42}
	vm := &api.VM{ID: id, Namespace: "default", Name: "web", Spec: validSpec()}
	get := func(key, ns string) api.GetRequest {
		return api.GetRequest{Key: key, QueryOptions: api.QueryOptions{Namespace: ns, Consistency: api.ConsistencyDefault}}
	}
	q := &api.QueryOptions{Namespace: "*", Consistency: api.ConsistencyStale, MinIndex: 7, Wait: api.Duration(time.Second), PerPage: 3, NextToken: "abc", Prefix: "w", Filter: `Name == "x"`}
	list := &api.ListRequest{QueryOptions: *q}
	bare := &api.ListRequest{QueryOptions: *q}
	bare.Namespace = ""
	delQ := &api.DeleteRequest{Namespace: "team-a", Key: "web", CheckIndex: 9, Force: true}
	delBare := &api.DeleteRequest{Namespace: "default", Key: "web", CheckIndex: 9, Force: true}
	noNS := *q
	noNS.Namespace = ""
	qNow := &api.QueryOptions{Consistency: api.ConsistencyStale} // a sample of the moment
	now := &api.ListRequest{QueryOptions: *qNow}
	qMembers := &api.QueryOptions{Consistency: api.ConsistencyStale, Filter: `Name == "x"`}
	qWatch := &api.QueryOptions{Consistency: api.ConsistencyStale, MinIndex: 7, Wait: api.Duration(time.Second)}
	watch := &api.ListRequest{QueryOptions: *qWatch}
	qEvents := *q
	qEvents.PerPage, qEvents.NextToken, qEvents.Prefix = 0, "", ""

	type row struct {
		name   string
		method string
		want   api.Message // request that arrives
		answer api.Message
		do     func(ctx context.Context, c *api.Client) (any, error)
	}
	ga := get("web", "team-a")
	gn := get("web", "")
	ns := &api.QueryOptions{Namespace: "team-a"}
	apply := &api.VMApply{Spec: validSpec(), CheckIndex: &seven, Power: api.PowerStopped}
	netw := &api.NetworkApply{Network: api.Network{Name: "web", Type: "bridge", Bridge: "br0"}}
	pool := &api.PoolApply{Pool: api.Pool{Name: "web", Ratio: 2}}
	nsp := &api.NamespaceApply{Namespace: api.Namespace{Name: "web"}}
	vol := &api.VolumeCreate{Namespace: "team-a", Name: "web", Pool: "default", Size: api.GiB, Format: "raw"}
	tok := &api.TokenCreate{Type: api.TokenJoin, Role: "client", Uses: 1, TTL: api.Duration(time.Hour)}
	sched := &api.SchedulerConfigApply{Config: api.SchedulerConfig{Algorithm: "spread", CPURatio: 2, MemoryRatio: 1}}
	power := &api.VMPower{Namespace: "team-a", Key: "web", Action: "stop", Force: true}
	revert := &api.VMRevert{Namespace: "team-a", Key: "web", Version: 3}
	move := &api.MigrationCreate{Namespace: "team-a", VM: "web", To: "n2", Mode: api.MigrateWarm, DryRun: true, Priority: 9, Options: api.MigrationOptions{Bandwidth: api.MiB, Compress: "zstd"}}
	second := time.Second
	limits := &api.MigrationUpdate{Namespace: "team-a", Key: "web", Bandwidth: new(api.Bytes), MaxDowntime: (*api.Duration)(&second)}
	drain := &api.NodeDrainRequest{Key: "web", Mode: api.MaintenanceMode, Deadline: api.Duration(time.Hour), Force: true}
	update := &api.NodeUpdate{Key: "web", Eligibility: api.Ineligible}
	rows := []row{
		{"vms list", "VM.List", list, &api.VMListResponse{QueryMeta: meta, Items: []*api.VMStub{{ID: id, Name: "web"}}}, func(ctx context.Context, c *api.Client) (any, error) { return c.VMs().List(ctx, q) }},
		{"vm get", "VM.Get", &ga, &api.VMResponse{QueryMeta: meta, VM: vm}, func(ctx context.Context, c *api.Client) (any, error) { return c.VMs().Get(ctx, "web", ns) }},
		{"vm status", "VM.Status", &ga, &api.VMStatusResponse{QueryMeta: meta, VM: vm, State: "running"}, func(ctx context.Context, c *api.Client) (any, error) { return c.VMs().Status(ctx, "web", ns) }},
		{"vm history", "VM.History", &api.VMHistoryRequest{Key: ga.Key, QueryOptions: ga.QueryOptions}, &api.VMHistoryResponse{QueryMeta: meta, Items: []*api.VMVersion{{VMID: id, Version: 2}}}, func(ctx context.Context, c *api.Client) (any, error) { return c.VMs().History(ctx, "web", ns) }},
		{"vm stats", "VM.Stats", &ga, &api.VMStatsResponse{QueryMeta: meta, Stats: &api.VMStats{VMID: id, CPUPercent: 12.5}}, func(ctx context.Context, c *api.Client) (any, error) { return c.VMs().Stats(ctx, "web", ns) }},
		{"vm apply", "VM.Apply", apply, &api.VMApplied{WriteMeta: wm, VM: vm, Created: true}, func(ctx context.Context, c *api.Client) (any, error) { return c.VMs().Apply(ctx, apply, nil) }},
		{"vm plan", "VM.Plan", &api.VMPlan{Spec: validSpec()}, &api.VMPlanned{QueryMeta: meta, Create: true, CheckIndex: 3}, func(ctx context.Context, c *api.Client) (any, error) {
			return c.VMs().Plan(ctx, &api.VMPlan{Spec: validSpec()}, nil)
		}},
		{"vm power", "VM.Power", power, &api.VMApplied{WriteMeta: wm, VM: vm}, func(ctx context.Context, c *api.Client) (any, error) { return c.VMs().Power(ctx, power, nil) }},
		{"vm revert", "VM.Revert", revert, &api.VMApplied{WriteMeta: wm, VM: vm}, func(ctx context.Context, c *api.Client) (any, error) { return c.VMs().Revert(ctx, revert, nil) }},
		{"vm delete", "VM.Delete", delQ, &wm, func(ctx context.Context, c *api.Client) (any, error) { return c.VMs().Delete(ctx, delQ, nil) }},
		{"migrations list", "Migration.List", &api.MigrationListRequest{QueryOptions: *q, VM: "web", Node: "n1", Active: true}, &api.MigrationListResponse{QueryMeta: meta, Items: []*api.Migration{{ID: id}}}, func(ctx context.Context, c *api.Client) (any, error) {
			return c.Migrations().List(ctx, &api.MigrationListRequest{QueryOptions: *q, VM: "web", Node: "n1", Active: true})
		}},
		{"migration get", "Migration.Get", &ga, &api.MigrationResponse{QueryMeta: meta, Migration: &api.Migration{ID: id}, Progress: &api.MigrationProgress{Percent: 5}, Why: []string{"w"}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Migrations().Get(ctx, "web", ns) }},
		{"migration create", "Migration.Create", move, &api.MigrationCreated{WriteMeta: wm, Migration: &api.Migration{ID: id}, Forecast: &api.MigrationForecast{Converges: true}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Migrations().Create(ctx, move, nil) }},
		{"migration cancel", "Migration.Cancel", &api.MigrationCancel{Namespace: "team-a", Key: "web"}, &api.MigrationCanceled{WriteMeta: wm, Migration: &api.Migration{ID: id}}, func(ctx context.Context, c *api.Client) (any, error) {
			return c.Migrations().Cancel(ctx, &api.MigrationCancel{Namespace: "team-a", Key: "web"}, nil)
		}},
		{"migration update", "Migration.Update", limits, &api.MigrationUpdated{WriteMeta: wm, Migration: &api.Migration{ID: id}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Migrations().Update(ctx, limits, nil) }},
		{"nodes list", "Node.List", bare, &api.NodeListResponse{QueryMeta: meta, Items: []*api.NodeStub{{ID: id, Name: "n1"}}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Nodes().List(ctx, &noNS) }},
		{"node get", "Node.Get", &gn, &api.NodeResponse{QueryMeta: meta, Node: &api.Node{ID: id}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Nodes().Get(ctx, "web", nil) }},
		{"node stats", "Node.Stats", &gn, &api.NodeStatsResponse{QueryMeta: meta, Stats: &api.NodeStats{NodeID: id}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Nodes().Stats(ctx, "web", nil) }},
		{"node drain", "Node.Drain", drain, &api.NodeResponse{QueryMeta: meta, Node: &api.Node{ID: id, Drain: &api.NodeDrain{Mode: api.DrainMode}}, Drain: []api.DrainItem{{VMID: id, State: api.DrainWaits}}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Nodes().Drain(ctx, drain, nil) }},
		{"node update", "Node.Update", update, &api.NodeResponse{QueryMeta: meta, Node: &api.Node{ID: id}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Nodes().Update(ctx, update, nil) }},
		{"node delete", "Node.Delete", delBare, &wm, func(ctx context.Context, c *api.Client) (any, error) {
			return c.Nodes().Delete(ctx, bareDelete(delQ), nil)
		}},
		{"node fence", "Operator.NodeFence", &api.NodeFence{Key: "web"}, &api.NodeResponse{QueryMeta: meta, Node: &api.Node{ID: id}}, func(ctx context.Context, c *api.Client) (any, error) {
			return c.Nodes().Fence(ctx, &api.NodeFence{Key: "web"}, nil)
		}},
		{"ha status", "Operator.HAStatus", now, &api.HAStatus{QueryMeta: meta, Active: true, Nodes: []api.HANode{{ID: id, Guard: api.GuardWatchdog}}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Operator().HAStatus(ctx, qNow) }},
		{"ha control", "Operator.HAControl", &api.HAControl{Action: api.HAHoldAction, Reason: "r"}, &api.HAStatus{QueryMeta: meta, Why: "r"}, func(ctx context.Context, c *api.Client) (any, error) {
			return c.Operator().HAControl(ctx, &api.HAControl{Action: api.HAHoldAction, Reason: "r"}, nil)
		}},
		{"node deny", "Operator.NodeDeny", &api.NodeDeny{Key: "web", Reason: "stolen"}, &wm, func(ctx context.Context, c *api.Client) (any, error) {
			return c.Nodes().Deny(ctx, &api.NodeDeny{Key: "web", Reason: "stolen"}, nil)
		}},
		{"placements list", "Placement.List", &api.PlacementListRequest{QueryOptions: *q, NodeID: id}, &api.PlacementListResponse{QueryMeta: meta, Items: []*api.Placement{{VMID: id}}}, func(ctx context.Context, c *api.Client) (any, error) {
			return c.Placements().List(ctx, &api.PlacementListRequest{QueryOptions: *q, NodeID: id})
		}},
		{"placement get", "Placement.Get", &ga, &api.PlacementResponse{QueryMeta: meta, Placement: &api.Placement{VMID: id}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Placements().Get(ctx, "web", ns) }},
		{"volumes list", "Volume.List", list, &api.VolumeListResponse{QueryMeta: meta, Items: []*api.Volume{{ID: id}}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Volumes().List(ctx, q) }},
		{"volume get", "Volume.Get", &ga, &api.VolumeResponse{QueryMeta: meta, Volume: &api.Volume{ID: id}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Volumes().Get(ctx, "web", ns) }},
		{"volume create", "Volume.Create", vol, &api.VolumeResponse{QueryMeta: meta, Volume: &api.Volume{ID: id}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Volumes().Create(ctx, vol, nil) }},
		{"volume delete", "Volume.Delete", delQ, &wm, func(ctx context.Context, c *api.Client) (any, error) { return c.Volumes().Delete(ctx, delQ, nil) }},
		{"pools list", "Pool.List", bare, &api.PoolListResponse{QueryMeta: meta, Items: []*api.Pool{{Name: "a"}}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Pools().List(ctx, &noNS) }},
		{"pool get", "Pool.Get", &gn, &api.PoolResponse{QueryMeta: meta, Pool: &api.Pool{Name: "a"}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Pools().Get(ctx, "web", nil) }},
		{"pool apply", "Pool.Apply", pool, &api.PoolResponse{QueryMeta: meta, Pool: &api.Pool{Name: "a"}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Pools().Apply(ctx, pool, nil) }},
		{"pool delete", "Pool.Delete", delBare, &wm, func(ctx context.Context, c *api.Client) (any, error) {
			return c.Pools().Delete(ctx, bareDelete(delQ), nil)
		}},
		{"images list", "Image.List", list, &api.ImageListResponse{QueryMeta: meta, Items: []*api.Image{{ID: id}}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Images().List(ctx, q) }},
		{"image get", "Image.Get", &ga, &api.ImageResponse{QueryMeta: meta, Image: &api.Image{ID: id}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Images().Get(ctx, "web", ns) }},
		{"image delete", "Image.Delete", delQ, &wm, func(ctx context.Context, c *api.Client) (any, error) { return c.Images().Delete(ctx, delQ, nil) }},
		{"networks list", "Network.List", bare, &api.NetworkListResponse{QueryMeta: meta, Items: []*api.Network{{Name: "a"}}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Networks().List(ctx, &noNS) }},
		{"network get", "Network.Get", &gn, &api.NetworkResponse{QueryMeta: meta, Network: &api.Network{Name: "a"}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Networks().Get(ctx, "web", nil) }},
		{"network apply", "Network.Apply", netw, &api.NetworkResponse{QueryMeta: meta, Network: &api.Network{Name: "a"}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Networks().Apply(ctx, netw, nil) }},
		{"network delete", "Network.Delete", delBare, &wm, func(ctx context.Context, c *api.Client) (any, error) {
			return c.Networks().Delete(ctx, bareDelete(delQ), nil)
		}},
		{"namespaces list", "Namespace.List", bare, &api.NamespaceListResponse{QueryMeta: meta, Items: []*api.Namespace{{Name: "a"}}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Namespaces().List(ctx, &noNS) }},
		{"namespace get", "Namespace.Get", &gn, &api.NamespaceResponse{QueryMeta: meta, Namespace: &api.Namespace{Name: "a"}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Namespaces().Get(ctx, "web", nil) }},
		{"namespace apply", "Namespace.Apply", nsp, &api.NamespaceResponse{QueryMeta: meta, Namespace: &api.Namespace{Name: "a"}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Namespaces().Apply(ctx, nsp, nil) }},
		{"namespace delete", "Namespace.Delete", delBare, &wm, func(ctx context.Context, c *api.Client) (any, error) {
			return c.Namespaces().Delete(ctx, bareDelete(delQ), nil)
		}},
		{"tokens list", "Token.List", bare, &api.TokenListResponse{QueryMeta: meta, Items: []*api.Token{{Accessor: id}}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Tokens().List(ctx, &noNS) }},
		{"token get", "Token.Get", &gn, &api.TokenResponse{QueryMeta: meta, Token: &api.Token{Accessor: id}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Tokens().Get(ctx, "web", nil) }},
		{"token create", "Token.Create", tok, &api.TokenCreated{WriteMeta: wm, Token: &api.Token{Accessor: id}, Secret: "s"}, func(ctx context.Context, c *api.Client) (any, error) { return c.Tokens().Create(ctx, tok, nil) }},
		{"token delete", "Token.Delete", delBare, &wm, func(ctx context.Context, c *api.Client) (any, error) {
			return c.Tokens().Delete(ctx, bareDelete(delQ), nil)
		}},
		{"events list", "Event.List", &api.EventListRequest{QueryOptions: qEvents, Topics: []string{"vm", "node:a"}, Related: "web", Limit: 5}, &api.EventListResponse{QueryMeta: meta, Items: []*api.Event{{Index: 3, Topic: "vm"}}}, func(ctx context.Context, c *api.Client) (any, error) {
			return c.Events().List(ctx, &api.EventListRequest{QueryOptions: qEvents, Topics: []string{"vm", "node:a"}, Related: "web", Limit: 5})
		}},
		{"leader", "Status.Leader", now, &api.StatusResponse{QueryMeta: meta, Region: "eu"}, func(ctx context.Context, c *api.Client) (any, error) { return c.Status().Leader(ctx, qNow) }},
		{"members", "Status.Members", &api.ListRequest{QueryOptions: *qMembers}, &api.ServerListResponse{QueryMeta: meta, Items: []*api.Server{{ID: id}}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Status().Members(ctx, qMembers) }},
		{"raft list", "Operator.RaftList", now, &api.ServerListResponse{QueryMeta: meta, Items: []*api.Server{{ID: id}}}, func(ctx context.Context, c *api.Client) (any, error) { return c.Operator().RaftList(ctx, qNow) }},
		{"raft remove", "Operator.RaftRemove", &api.RaftRemove{ID: id}, &api.Empty{}, func(ctx context.Context, c *api.Client) (any, error) {
			return &api.Empty{}, c.Operator().RaftRemove(ctx, id)
		}},
		{"raft transfer", "Operator.RaftTransfer", &api.RaftTransfer{ID: id}, &api.Empty{}, func(ctx context.Context, c *api.Client) (any, error) {
			return &api.Empty{}, c.Operator().RaftTransfer(ctx, id)
		}},
		{"schema", "Operator.SchemaStatus", now, &api.SchemaStatus{QueryMeta: meta, Active: 1}, func(ctx context.Context, c *api.Client) (any, error) { return c.Operator().SchemaStatus(ctx, qNow) }},
		{"schema change", "Operator.SchemaChange", &api.SchemaChange{Version: 2}, &api.SchemaStatus{QueryMeta: meta, Active: 2}, func(ctx context.Context, c *api.Client) (any, error) {
			return c.Operator().SchemaChange(ctx, &api.SchemaChange{Version: 2}, nil)
		}},
		{"scheduler", "Operator.SchedulerGet", watch, &api.SchedulerConfigResponse{QueryMeta: meta, Config: sched.Config}, func(ctx context.Context, c *api.Client) (any, error) { return c.Operator().SchedulerGet(ctx, qWatch) }},
		{"scheduler set", "Operator.SchedulerSet", sched, &api.SchedulerConfigResponse{QueryMeta: meta, Config: sched.Config}, func(ctx context.Context, c *api.Client) (any, error) {
			return c.Operator().SchedulerSet(ctx, sched, nil)
		}},
		{"recovery", "Operator.RecoveryGet", watch, &api.Recovery{QueryMeta: meta, Active: true}, func(ctx context.Context, c *api.Client) (any, error) { return c.Operator().RecoveryGet(ctx, qWatch) }},
		{"recovery end", "Operator.RecoveryEnd", &api.RecoveryEnd{Fenced: []string{"n1"}}, &api.Recovery{QueryMeta: meta}, func(ctx context.Context, c *api.Client) (any, error) {
			return c.Operator().RecoveryEnd(ctx, &api.RecoveryEnd{Fenced: []string{"n1"}}, nil)
		}},
	}
	f := newFake()
	_, c := serve(t, Config{Backend: f})
	for _, r := range rows {
		f.answer(r.method, r.answer)
		got, err := r.do(t.Context(), c)
		must.NoError(t, err, must.Sprint(r.name))
		must.Eq(t, any(r.answer), got, must.Sprint(r.name))
		call := f.last(t)
		must.Eq(t, r.method, call.method)
		must.Eq(t, any(r.want), any(call.req), must.Sprint(r.name))
		must.Eq(t, "nova.secret", call.call.Token)
		must.NotEq(t, "", call.call.RequestID)
	}
	// Every route with an RPC method behind it that is not a stream was asked.
	asked := map[string]bool{}
	for _, r := range rows {
		asked[r.method] = true
	}
	for _, r := range Routes() {
		if r.RPC != "" && !r.Stream {
			must.True(t, asked[r.RPC], must.Sprintf("%s is not tested", r.RPC))
		}
	}
}

func bareDelete(d *api.DeleteRequest) *api.DeleteRequest {
	c := *d
	c.Namespace = ""
	return &c
}

func TestSDKDefaultsOfTheClient(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.answer("VM.Get", &api.VMResponse{})
	f.answer("VM.Apply", &api.VMApplied{})
	_, c := serve(t, Config{Backend: f})
	c = c.WithNamespace("team-b").WithRegion("us").WithToken("other")
	_, err := c.VMs().Get(t.Context(), "web", nil)
	must.NoError(t, err)
	call := f.last(t)
	must.Eq(t, "team-b", call.req.(*api.GetRequest).Namespace)
	must.Eq(t, "us", call.call.Region)
	must.Eq(t, "other", call.call.Token)

	spec := validSpec()
	spec.Namespace = ""
	_, err = c.VMs().Apply(t.Context(), &api.VMApply{Spec: spec}, &api.WriteOptions{IdempotencyKey: "k1"})
	must.NoError(t, err)
	call = f.last(t)
	must.Eq(t, "team-b", call.req.(*api.VMApply).Spec.Namespace)
	must.Eq(t, "k1", call.call.IdempotencyKey)

	spec.Namespace = "own"
	_, err = c.VMs().Apply(t.Context(), &api.VMApply{Spec: spec}, &api.WriteOptions{Namespace: "team-c"})
	must.NoError(t, err)
	must.Eq(t, "own", f.last(t).req.(*api.VMApply).Spec.Namespace)
}

func TestSDKErrorsAreThoseOfTheServer(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.refuse("VM.Get", api.Errorf(api.CodeNotFound, "there is no VM web").WithHint("see vm list").WithDetail("key", "unknown"))
	srv, c := serve(t, Config{Backend: f})
	ctx := api.WithCall(t.Context(), api.Call{RequestID: "my-id"})
	_, err := c.VMs().Get(ctx, "web", nil)
	must.ErrorIs(t, err, &api.Error{Code: api.CodeNotFound})
	e := err.(*api.Error)
	must.Eq(t, "see vm list", e.Hint)
	must.Eq(t, "my-id", e.RequestID)
	must.Len(t, 1, e.Details)

	for _, call := range []func() error{
		func() error { _, err := c.VMs().Get(ctx, "", nil); return err },
		func() error { _, err := c.VMs().Delete(ctx, &api.DeleteRequest{}, nil); return err },
		func() error { _, err := c.VMs().Power(ctx, &api.VMPower{}, nil); return err },
		func() error { _, err := c.VMs().Revert(ctx, &api.VMRevert{}, nil); return err },
		func() error { _, err := c.VMs().Console(ctx, "", nil); return err },
		func() error { _, err := c.VMs().ConsoleTicket(ctx, "", nil); return err },
		func() error { _, err := c.Nodes().Update(ctx, &api.NodeUpdate{}, nil); return err },
		func() error { _, err := c.Pools().Apply(ctx, &api.PoolApply{}, nil); return err },
		func() error { _, err := c.Networks().Apply(ctx, &api.NetworkApply{}, nil); return err },
		func() error { _, err := c.Namespaces().Apply(ctx, &api.NamespaceApply{}, nil); return err },
		func() error { _, err := c.VMs().Get(ctx, "..", nil); return err },
		func() error { _, err := c.VMs().Get(ctx, "a/b", nil); return err },
	} {
		before := f.count()
		code := api.CodeOf(call())
		must.True(t, code == api.CodeInvalid || code == api.CodeNotFoundRoute, must.Sprint(code))
		must.Eq(t, before, f.count())
	}

	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.VMs().Get(canceled, "web", nil)
	must.Eq(t, api.CodeCanceled, api.CodeOf(err))
	late, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	_, err = c.VMs().Get(late, "web", nil)
	must.Eq(t, api.CodeDeadline, api.CodeOf(err))
	srv.Close()
	_, err = c.VMs().Get(t.Context(), "web", nil)
	must.Eq(t, api.CodeUnreachable, api.CodeOf(err))
}

func TestSDKPages(t *testing.T) {
	t.Parallel()
	f := newFake()
	f.answer("VM.List", &api.VMListResponse{QueryMeta: api.QueryMeta{NextToken: "p2"}, Items: []*api.VMStub{{Name: "a"}, {Name: "b"}}})
	f.answer("Node.List", &api.NodeListResponse{Items: []*api.NodeStub{{Name: "n"}}})
	f.answer("Volume.List", &api.VolumeListResponse{Items: []*api.Volume{{Name: "v"}}})
	_, c := serve(t, Config{Backend: f})
	var names []string
	for vm, err := range c.VMs().All(t.Context(), nil) {
		must.NoError(t, err)
		names = append(names, vm.Name)
		if len(names) == 2 {
			f.answer("VM.List", &api.VMListResponse{Items: []*api.VMStub{{Name: "c"}}})
		}
	}
	must.Eq(t, []string{"a", "b", "c"}, names)
	must.Eq(t, "p2", f.last(t).req.(*api.ListRequest).NextToken)
	for n, err := range c.Nodes().All(t.Context(), nil) {
		must.NoError(t, err)
		must.Eq(t, "n", n.Name)
	}
	for v, err := range c.Volumes().All(t.Context(), &api.QueryOptions{Namespace: "*"}) {
		must.NoError(t, err)
		must.Eq(t, "v", v.Name)
	}
	f.refuse("VM.List", api.Errorf(api.CodeForbidden, "no"))
	for _, err := range c.VMs().All(t.Context(), nil) {
		must.Eq(t, api.CodeForbidden, api.CodeOf(err))
	}
}

func TestSDKAgentAndRegions(t *testing.T) {
	t.Parallel()
	f := newFake()
	id := api.NewID()
	f.answer("Status.Leader", &api.StatusResponse{Region: "eu", Regions: []string{"eu", "us"}})
	cfg := Config{
		Backend: f, Self: func() api.AgentSelf { return api.AgentSelf{ID: id, Name: "a1"} },
		Health: func() api.AgentHealth {
			return api.AgentHealth{Server: &api.HealthDetail{Message: "no leader"}}
		},
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "metrics as "+r.URL.Query().Get("format"))
		}),
		Parse: func(_ context.Context, r *api.ParseRequest) ([]api.VMSpec, error) {
			return []api.VMSpec{{Name: strings.TrimSpace(r.Text), CPU: api.CPUSpec{Cores: 1}, Memory: api.GiB}}, nil
		},
		Bootstrap: func(context.Context) (*api.TokenCreated, error) {
			return &api.TokenCreated{Secret: "first"}, nil
		},
	}
	_, c := serve(t, cfg)
	self, err := c.Agent().Self(t.Context())
	must.NoError(t, err)
	must.Eq(t, id, self.ID)
	health, err := c.Agent().Health(t.Context())
	must.NoError(t, err)
	must.False(t, health.OK)
	must.Eq(t, "no leader", health.Server.Message)
	m, err := c.Agent().Metrics(t.Context(), "prometheus")
	must.NoError(t, err)
	must.Eq(t, "metrics as prometheus", string(m))
	doc, err := c.Agent().OpenAPI(t.Context())
	must.NoError(t, err)
	must.Eq(t, description, doc)
	regions, err := c.Status().Regions(t.Context(), nil)
	must.NoError(t, err)
	must.Eq(t, []string{"eu", "us"}, regions.Items)
	first, err := c.Tokens().Bootstrap(t.Context())
	must.NoError(t, err)
	must.Eq(t, "first", first.Secret)
	parsed, err := c.WithNamespace("team-a").VMs().Parse(t.Context(), &api.ParseRequest{Text: "web"})
	must.NoError(t, err)
	must.Eq(t, "web", parsed.Spec.Name)
	must.Eq(t, "team-a", parsed.Spec.Namespace)
	must.Eq(t, 50, parsed.Specs[0].Priority)
}

func TestSDKImages(t *testing.T) {
	t.Parallel()
	f := newFake()
	content := bytes.Repeat([]byte("0123456789abcdef"), 40_000) // 640 kB: three chunks
	sum := sha256.Sum256(content)
	img := &api.Image{ID: api.NewID(), Namespace: "default", Name: "debian", SHA256: hex.EncodeToString(sum[:]), Size: api.Bytes(len(content))}
	var got bytes.Buffer
	f.streams("Image.Upload", func(s *fakeStream) error {
		got.Reset()
		for {
			m, err := s.next()
			if err != nil {
				return err
			}
			if m == nil {
				return s.give(&api.ImageResponse{Image: img})
			}
			got.Write(m.(*api.Chunk).Data)
		}
	})
	f.streams("Image.Download", func(s *fakeStream) error {
		for part := range bytesChunks(content, 100_000) {
			if err := s.give(&api.Chunk{Data: part}); err != nil {
				return err
			}
		}
		return nil
	})
	f.answer("Image.Get", &api.ImageResponse{Image: img})
	_, c := serve(t, Config{Backend: f})

	var seen int64
	up := &api.ImageUpload{Namespace: "default", Name: "debian", SHA256: img.SHA256, Size: img.Size, Labels: api.PairsOf(map[string]string{"os": "debian=12"})}
	resp, err := c.Images().Upload(t.Context(), up, bytes.NewReader(content), func(n int64) { seen = n })
	must.NoError(t, err)
	must.Eq(t, img, resp.Image)
	must.Eq(t, content, got.Bytes())
	must.Eq(t, int64(len(content)), seen)
	up.Canonicalize()
	must.Eq(t, any(up), any(f.last(t).req))

	var out bytes.Buffer
	n, err := c.Images().Download(t.Context(), "debian", nil, &out, func(n int64) { seen = n })
	must.NoError(t, err)
	must.Eq(t, int64(len(content)), n)
	must.Eq(t, content, out.Bytes())
	must.Eq(t, img.ID.String(), f.last(t).req.(*api.GetRequest).Key)

	// What was changed on the way is noticed, and so is what broke off.
	img.SHA256 = strings.Repeat("0", 64)
	f.answer("Image.Get", &api.ImageResponse{Image: img})
	_, err = c.Images().Download(t.Context(), "debian", nil, io.Discard, nil)
	must.Eq(t, api.CodeImageBad, api.CodeOf(err))
	f.streams("Image.Download", func(s *fakeStream) error {
		_ = s.give(&api.Chunk{Data: []byte("half")})
		return api.Errorf(api.CodeImageMissing, "the node went away")
	})
	_, err = c.Images().Download(t.Context(), "debian", nil, io.Discard, nil)
	must.Eq(t, api.CodeUnreachable, api.CodeOf(err))
	f.streams("Image.Download", func(*fakeStream) error { return api.Errorf(api.CodeImageMissing, "no node holds it") })
	_, err = c.Images().Download(t.Context(), "debian", nil, io.Discard, nil)
	must.Eq(t, api.CodeImageMissing, api.CodeOf(err))

	// A server that refuses in the middle is heard.
	f.streams("Image.Upload", func(s *fakeStream) error {
		_, _ = s.next()
		return api.Errorf(api.CodeImageBad, "it has a backing file")
	})
	_, err = c.Images().Upload(t.Context(), up, bytes.NewReader(content), nil)
	must.Eq(t, api.CodeImageBad, api.CodeOf(err))
	// A reader that has less than was said is an error, and never a whole image.
	whole := false
	f.streams("Image.Upload", func(s *fakeStream) error {
		for {
			m, err := s.next()
			if err != nil {
				return err
			}
			if m == nil {
				whole = true
				return nil
			}
		}
	})
	_, err = c.Images().Upload(t.Context(), up, bytes.NewReader(content[:1000]), nil)
	must.Error(t, err)
	must.False(t, whole)
}
