package cluster

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

func TestWritesNeedAToken(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	req := &api.NamespaceApply{Namespace: api.Namespace{Name: "a"}}
	_, err := callIn[api.NamespaceResponse](t.Context(), r.leader(), "Namespace.Apply", req)
	must.ErrorIs(t, err, code(api.CodeUnauthenticated))
	bad := api.WithCall(t.Context(), api.Call{Token: "nova.6ba7b810-9dad-41d1-80b4-00c04fd430c8.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"})
	_, err = callIn[api.NamespaceResponse](bad, r.leader(), "Namespace.Apply", req)
	must.ErrorIs(t, err, code(api.CodeUnauthenticated))

	r.login()
	_, err = r.leader().BootstrapToken(t.Context())
	must.ErrorIs(t, err, code(api.CodeBootstrapped))
}

func TestCheckAndSet(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	zero := uint64(0)
	apply := func(check *uint64, text string) (*api.NamespaceResponse, error) {
		return call[api.NamespaceResponse](r, r.leader(), "Namespace.Apply",
			&api.NamespaceApply{Namespace: api.Namespace{Name: "a", Description: text}, CheckIndex: check})
	}
	made, err := apply(&zero, "first")
	must.NoError(t, err)
	_, err = apply(&zero, "again")
	must.ErrorIs(t, err, code(api.CodeExists))
	index := made.Namespace.ModifyIndex
	changed, err := apply(&index, "second")
	must.NoError(t, err)
	must.Eq(t, "second", changed.Namespace.Description)
	_, err = apply(&index, "third")
	must.ErrorIs(t, err, code(api.CodeConflict))
	_, err = call[api.WriteMeta](r, r.leader(), "Namespace.Delete", &api.DeleteRequest{Key: "a", CheckIndex: index})
	must.ErrorIs(t, err, code(api.CodeConflict))
	mustCall[api.WriteMeta](r, "Namespace.Delete", &api.DeleteRequest{Key: "a", CheckIndex: changed.Namespace.ModifyIndex})
}

func TestAWriteUnderAKeyHappensOnce(t *testing.T) {
	r := newWorld(t).region("eu", 3)
	keyed := func(key string) context.Context {
		return api.WithCall(t.Context(), api.Call{Token: r.login(), IdempotencyKey: key})
	}
	apply := func(m *machine, key string, name string) (*api.VMApplied, error) {
		return callIn[api.VMApplied](keyed(key), m, "VM.Apply", &api.VMApply{Spec: testSpec(name)})
	}
	first, err := apply(r.leader(), "k1", "web")
	must.NoError(t, err)
	must.False(t, first.Replayed)
	again, err := apply(r.follower(), "k1", "web")
	must.NoError(t, err)
	must.True(t, again.Replayed)
	must.Eq(t, first.VM.ID, again.VM.ID)
	must.Eq(t, first.Index, again.Index)
	_, err = apply(r.leader(), "k1", "db")
	must.ErrorIs(t, err, code(api.CodeIdempotency))

	// The repetition of a delete finds nothing to delete, and says that it was done.
	del := &api.DeleteRequest{Key: "web"}
	gone, err := callIn[api.WriteMeta](keyed("k2"), r.leader(), "VM.Delete", del)
	must.NoError(t, err)
	twice, err := callIn[api.WriteMeta](keyed("k2"), r.leader(), "VM.Delete", del)
	must.NoError(t, err)
	must.True(t, twice.Replayed)
	must.Eq(t, gone.Index, twice.Index)
	_, err = callIn[api.WriteMeta](keyed("k3"), r.leader(), "VM.Delete", del)
	must.ErrorIs(t, err, code(api.CodeNotFound))

	power := &api.VMPower{Key: "api", Action: "reboot"}
	_, err = apply(r.leader(), "k4", "api")
	must.NoError(t, err)
	for range 3 {
		_, err = callIn[api.VMApplied](keyed("k5"), r.follower(), "VM.Power", power)
		must.NoError(t, err)
	}
	must.Eq(t, 1, mustCall[api.VMResponse](r, "VM.Get", &api.GetRequest{Key: "api"}).VM.Reboots)
}

func TestReadsSayHowFreshTheyAre(t *testing.T) {
	r := newWorld(t).region("eu", 3)
	r.login()
	f := r.follower()
	r.converge()
	list := func(c api.Consistency) (*api.NamespaceListResponse, error) {
		return call[api.NamespaceListResponse](r, f, "Namespace.List", &api.ListRequest{QueryOptions: api.QueryOptions{Consistency: c}})
	}
	got, err := list(api.ConsistencyStale)
	must.NoError(t, err)
	must.True(t, got.Stale)
	must.True(t, got.KnownLeader)
	for _, c := range []api.Consistency{api.ConsistencyDefault, api.ConsistencyConsistent} {
		got, err = list(c)
		must.NoError(t, err)
		must.False(t, got.Stale)
		must.True(t, got.KnownLeader)
	}
	_, err = list("eventual")
	must.ErrorIs(t, err, code(api.CodeInvalid))

	// Cut off from the others it still answers a stale read, and says so.
	for _, m := range r.servers {
		if m != f {
			r.w.net.Cut(f.self.Address, m.self.Address)
		}
	}
	eventually(t, "the leader is lost", func() bool { _, ok := f.Leader(); return !ok })
	got, err = list(api.ConsistencyStale)
	must.NoError(t, err)
	must.False(t, got.KnownLeader)
	must.Greater(t, 0, got.LastContact)
	f.Mux().SetHold(50 * time.Millisecond)
	_, err = callIn[api.NamespaceListResponse](r.as(), f, "Namespace.List", &api.ListRequest{})
	must.ErrorIs(t, err, code(api.CodeNoLeader))
	r.w.net.Rejoin(f.self.Address)
	r.voters(3)
}

func TestAConsistentReadSeesAllThatWasWritten(t *testing.T) {
	r := newWorld(t).region("eu", 3)
	for i := range 20 {
		want := string(rune('a' + i))
		mustCall[api.NamespaceResponse](r, "Namespace.Apply", &api.NamespaceApply{Namespace: api.Namespace{Name: "x", Description: want}})
		q := &api.GetRequest{QueryOptions: api.QueryOptions{Consistency: api.ConsistencyConsistent}, Key: "x"}
		got, err := call[api.NamespaceResponse](r, r.servers[i%3], "Namespace.Get", q)
		must.NoError(t, err)
		must.Eq(t, want, got.Namespace.Description)
	}
	eventually(t, "only the leader has a read index", func() bool {
		l, f := r.leader(), r.follower()
		return l.ReadIndex(t.Context()) == nil && api.CodeOf(f.ReadIndex(t.Context())) == api.CodeNoLeader
	})
}

func TestABlockingQueryWaitsForAChange(t *testing.T) {
	r := newWorld(t).region("eu", 3)
	r.login()
	f := r.follower()
	r.converge()
	q := api.QueryOptions{Consistency: api.ConsistencyStale}
	now, err := call[api.NamespaceListResponse](r, f, "Namespace.List", &api.ListRequest{QueryOptions: q})
	must.NoError(t, err)
	q.MinIndex, q.Wait = now.Index, api.Duration(time.Minute)
	type answer struct {
		resp *api.NamespaceListResponse
		err  error
	}
	done := make(chan answer, 1)
	ctx := r.as()
	go func() {
		resp, err := callIn[api.NamespaceListResponse](ctx, f, "Namespace.List", &api.ListRequest{QueryOptions: q})
		done <- answer{resp, err}
	}()
	mustCall[api.NetworkResponse](r, "Network.Apply", &api.NetworkApply{Network: api.Network{Name: "lan", Type: "nat", CIDR: "10.9.0.0/24"}})
	select {
	case a := <-done:
		t.Fatalf("another table woke it: %+v", a)
	default:
	}
	mustCall[api.NamespaceResponse](r, "Namespace.Apply", &api.NamespaceApply{Namespace: api.Namespace{Name: "new"}})
	a := <-done
	must.NoError(t, a.err)
	must.Greater(t, now.Index, a.resp.Index)
	must.Len(t, 2, a.resp.Items)

	q.MinIndex, q.Wait = a.resp.Index, api.Duration(10*time.Millisecond)
	same, err := call[api.NamespaceListResponse](r, f, "Namespace.List", &api.ListRequest{QueryOptions: q})
	must.NoError(t, err)
	must.Eq(t, a.resp.Index, same.Index, must.Sprint("nothing has changed"))
}

func TestNounsWithoutALife(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	r.newNode("n1", func(n *api.Node) { n.Networks = []string{"br0"} }).ready()

	must.Eq(t, 2.0, mustCall[api.PoolResponse](r, "Pool.Apply", &api.PoolApply{Pool: api.Pool{Name: "default", Ratio: 2}}).Pool.Ratio)
	pool := mustCall[api.PoolResponse](r, "Pool.Get", &api.GetRequest{Key: "default"})
	must.Eq(t, "n1", pool.Nodes[0].Node)
	must.Eq(t, 100*api.GiB, pool.Nodes[0].Capacity)
	must.Len(t, 1, mustCall[api.PoolListResponse](r, "Pool.List", &api.ListRequest{}).Items)
	_, err := call[api.WriteMeta](r, r.leader(), "Pool.Delete", &api.DeleteRequest{Key: "default"})
	must.ErrorIs(t, err, code(api.CodeInUse))
	_, err = call[api.PoolResponse](r, r.leader(), "Pool.Get", &api.GetRequest{Key: "none"})
	must.ErrorIs(t, err, code(api.CodeNotFound))

	net := mustCall[api.NetworkResponse](r, "Network.Apply", &api.NetworkApply{Network: api.Network{Name: "lan", Type: "bridge", Bridge: "br0"}})
	must.Eq(t, []string{"n1"}, net.Nodes)
	must.Eq(t, []string{"n1"}, mustCall[api.NetworkResponse](r, "Network.Get", &api.GetRequest{Key: "lan"}).Nodes)
	must.Len(t, 1, mustCall[api.NetworkListResponse](r, "Network.List", &api.ListRequest{}).Items)
	mustCall[api.WriteMeta](r, "Network.Delete", &api.DeleteRequest{Key: "lan"})
	_, err = call[api.NetworkResponse](r, r.leader(), "Network.Get", &api.GetRequest{Key: "lan"})
	must.ErrorIs(t, err, code(api.CodeNotFound))

	ns := mustCall[api.NamespaceResponse](r, "Namespace.Get", &api.GetRequest{Key: "default"})
	must.Eq(t, "default", ns.Namespace.Name)
	_, err = call[api.NamespaceResponse](r, r.leader(), "Namespace.Get", &api.GetRequest{Key: "none"})
	must.ErrorIs(t, err, code(api.CodeNotFound))
	_, err = call[api.WriteMeta](r, r.leader(), "Namespace.Delete", &api.DeleteRequest{Key: "default"})
	must.ErrorIs(t, err, code(api.CodeProtected))
}

func TestStandaloneVolumesGetANode(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	r.working("n1")
	v := mustCall[api.VolumeResponse](r, "Volume.Create", &api.VolumeCreate{Name: "data", Size: api.GiB}).Volume
	eventually(t, "the volume is made", func() bool {
		got := mustCall[api.VolumeResponse](r, "Volume.Get", &api.GetRequest{Key: "data"})
		return got.Volume.State == api.VolumeReady && !got.Volume.NodeID.IsZero()
	})
	must.Len(t, 1, mustCall[api.VolumeListResponse](r, "Volume.List", &api.ListRequest{}).Items)
	must.Len(t, 1, mustCall[api.VolumeListResponse](r, "Volume.List", &api.ListRequest{QueryOptions: api.QueryOptions{Namespace: "*"}}).Items)

	on := mustCall[api.VolumeResponse](r, "Volume.Create", &api.VolumeCreate{Name: "there", Size: api.GiB, Node: "n1"}).Volume
	must.False(t, on.NodeID.IsZero())
	for _, bad := range []*api.VolumeCreate{{Name: "x", Size: api.GiB, Node: "n9"}, {Name: "x", Size: api.GiB, Image: "none"}} {
		_, err := call[api.VolumeResponse](r, r.leader(), "Volume.Create", bad)
		must.ErrorIs(t, err, code(api.CodeNotFound))
	}
	mustCall[api.WriteMeta](r, "Volume.Delete", &api.DeleteRequest{Key: v.ID.String()})
	eventually(t, "the volume is gone", func() bool {
		_, err := call[api.VolumeResponse](r, r.leader(), "Volume.Get", &api.GetRequest{Key: "data"})
		return api.CodeOf(err) == api.CodeNotFound
	})
}

func TestTokensAreShownOnceAndExpire(t *testing.T) {
	var ahead atomic.Int64
	r := newWorld(t).region("eu", 1, func(c *Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	made := mustCall[api.TokenCreated](r, "Token.Create", &api.TokenCreate{Type: api.TokenManagement, Name: "ci", TTL: api.Duration(time.Hour)})
	must.StrHasPrefix(t, "nova.", made.Secret)
	got := mustCall[api.TokenResponse](r, "Token.Get", &api.GetRequest{Key: made.Token.Accessor.String()})
	must.Eq(t, "ci", got.Token.Name)
	must.Eq(t, "ci", mustCall[api.TokenResponse](r, "Token.Get", &api.GetRequest{Key: "ci"}).Token.Name)
	must.Len(t, 2, mustCall[api.TokenListResponse](r, "Token.List", &api.ListRequest{}).Items)

	with := api.WithCall(t.Context(), api.Call{Token: made.Secret})
	_, err := callIn[api.NamespaceListResponse](with, r.leader(), "Namespace.List", &api.ListRequest{})
	must.NoError(t, err)
	ahead.Store(int64(2 * time.Hour))
	_, err = callIn[api.NamespaceListResponse](with, r.leader(), "Namespace.List", &api.ListRequest{})
	must.ErrorIs(t, err, code(api.CodeTokenExpired))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.leader().dutyTokens(ctx) }()
	eventually(t, "the expired token is gone", func() bool {
		return len(mustCall[api.TokenListResponse](r, "Token.List", &api.ListRequest{}).Items) == 1
	})
	cancel()
	must.NoError(t, <-done)

	node := mustCall[api.TokenCreated](r, "Token.Create", &api.TokenCreate{Type: api.TokenNode, NodeID: api.NewID()})
	powerless := api.WithCall(t.Context(), api.Call{Token: node.Secret})
	_, err = callIn[api.NamespaceListResponse](powerless, r.leader(), "Namespace.List", &api.ListRequest{})
	must.ErrorIs(t, err, code(api.CodeForbidden))
	mustCall[api.WriteMeta](r, "Token.Delete", &api.DeleteRequest{Key: node.Token.Accessor.String()})
	_, err = callIn[api.NamespaceListResponse](powerless, r.leader(), "Namespace.List", &api.ListRequest{})
	must.ErrorIs(t, err, code(api.CodeUnauthenticated))
}

func TestAVolumeWhosePoolComesLaterGetsANode(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	r.working("n1")
	r.apply(&fsm.VolumeCreate{Volume: api.Volume{ID: api.NewID(), Namespace: "default", Name: "early", Pool: "fast", Size: api.GiB}})
	r.working("n2", func(n *api.Node) {
		n.Pools = []api.NodePool{{Name: "fast", Type: "dir", UUID: api.NewID(), Capacity: 100 * api.GiB, Free: 100 * api.GiB}}
	})
	eventually(t, "the volume is made", func() bool {
		return mustCall[api.VolumeResponse](r, "Volume.Get", &api.GetRequest{Key: "early"}).Volume.State == api.VolumeReady
	})
}
