package cluster

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/keyring"
)

func TestNoAcknowledgedWriteIsLostWithTheLeader(t *testing.T) {
	w := newWorld(t)
	r := w.region("eu", 3)
	r.login()
	var mu sync.Mutex
	written := map[string]bool{}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(written)
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(r.as())
	servers := r.alive()
	for i := range 4 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				name := fmt.Sprintf("w%d-%d", i, n)
				m := servers[n%len(servers)]
				if m.ctx.Err() != nil {
					continue // the one that was killed
				}
				_, err := callIn[api.NamespaceResponse](ctx, m, "Namespace.Apply", &api.NamespaceApply{Namespace: api.Namespace{Name: name}})
				if err == nil {
					mu.Lock()
					written[name] = true
					mu.Unlock()
				}
			}
		})
	}
	eventually(t, "writes", func() bool { return count() > 50 })
	old := r.leader()
	// Writes that are under way are lost, not finished politely.
	must.NoError(t, old.Abort())
	before := count()
	must.NotEq(t, old.id.NodeID, r.leader().id.NodeID)
	eventually(t, "writes after the leader was killed", func() bool { return count() > before+50 })
	cancel()
	wg.Wait()
	st := r.leader().fsm.State()
	for n := range written {
		must.NotNil(t, st.Namespace(n), must.Sprintf("%s was acknowledged", n))
	}
	r.converge()
}

func TestAServerThatComesBackCatchesUp(t *testing.T) {
	w := newWorld(t)
	stores := func() *Stores {
		mem := raft.NewInmemStore()
		return &Stores{Logs: mem, Stable: mem, Snapshots: raft.NewInmemSnapshotStore()}
	}
	r := w.region("eu", 3, func(c *Config) { c.Stores = stores() })
	r.login()
	f := r.follower()
	must.NoError(t, f.Close())
	for i := range 10 {
		mustCall[api.NamespaceResponse](r, "Namespace.Apply", &api.NamespaceApply{Namespace: api.Namespace{Name: fmt.Sprintf("n%d", i)}})
	}
	r.boot(f)
	r.voters(3)
	r.converge()
	must.NotNil(t, f.fsm.State().Namespace("n9"))
}

func TestAServerThatKnowsNothingYetRefusesNobody(t *testing.T) {
	w := newWorld(t)
	r := w.region("eu", 3, func(c *Config) {
		mem := raft.NewInmemStore()
		c.Stores = &Stores{Logs: mem, Stable: mem, Snapshots: raft.NewInmemSnapshotStore()}
	})
	ctx := r.as()
	for _, m := range r.servers {
		must.NoError(t, m.Close())
	}
	// Alone it cannot know what was committed: neither that a token is good nor
	// that it is not.
	first := r.servers[0]
	r.boot(first)
	_, err := callIn[api.NamespaceListResponse](ctx, first, "Namespace.List", &api.ListRequest{QueryOptions: api.QueryOptions{Consistency: api.ConsistencyStale}})
	must.ErrorIs(t, err, code(api.CodeNoLeader))
	for _, m := range r.servers[1:] {
		r.boot(m)
	}
	r.voters(3)
	for _, m := range r.servers {
		_, err = call[api.NamespaceListResponse](r, m, "Namespace.List", &api.ListRequest{})
		must.NoError(t, err)
		made := api.NewID()
		_, err = callIn[api.NamespaceListResponse](api.WithCall(t.Context(), api.Call{Token: keyring.NewToken(made)}), m, "Namespace.List", &api.ListRequest{})
		must.ErrorIs(t, err, code(api.CodeUnauthenticated), must.Sprint("a token that was never made"))
	}
}

func TestAServerThatLeavesIsTakenOut(t *testing.T) {
	r := newWorld(t).region("eu", 3)
	l := r.leader()
	must.NoError(t, l.Leave(t.Context()))
	must.NoError(t, l.Close())
	r.voters(2)
	got := mustCall[api.ServerListResponse](r, "Operator.RaftList", &api.ListRequest{})
	must.Len(t, 2, got.Items)
	mustCall[api.NamespaceResponse](r, "Namespace.Apply", &api.NamespaceApply{Namespace: api.Namespace{Name: "after"}})
}

func TestADeadServerIsRemovedOnceThereIsAnother(t *testing.T) {
	w := newWorld(t)
	r := w.region("eu", 4)
	r.login()
	dead := r.follower()
	must.NoError(t, dead.Close())
	r.voters(3)
	for _, m := range mustCall[api.ServerListResponse](r, "Operator.RaftList", &api.ListRequest{}).Items {
		must.NotEq(t, dead.id.NodeID, m.ID)
	}
}

func TestLeadershipIsHandedOver(t *testing.T) {
	r := newWorld(t).region("eu", 3)
	to := r.follower()
	mustCall[api.Empty](r, "Operator.RaftTransfer", &api.RaftTransfer{ID: to.id.NodeID})
	eventually(t, "the other leads", to.IsLeader)
	mustCall[api.Empty](r, "Operator.RaftTransfer", &api.RaftTransfer{ID: to.id.NodeID})
	mustCall[api.Empty](r, "Operator.RaftTransfer", &api.RaftTransfer{})
	eventually(t, "another leads", func() bool { return r.leader() != to })
	_, err := call[api.Empty](r, r.leader(), "Operator.RaftTransfer", &api.RaftTransfer{ID: api.NewID()})
	must.ErrorIs(t, err, code(api.CodeNotFound))

	l := r.leader()
	_, err = call[api.Empty](r, l, "Operator.RaftRemove", &api.RaftRemove{ID: l.id.NodeID})
	must.ErrorIs(t, err, code(api.CodeState))
	_, err = call[api.Empty](r, l, "Operator.RaftRemove", &api.RaftRemove{ID: r.follower().id.NodeID})
	must.ErrorIs(t, err, code(api.CodeState), must.Sprint("a server that is alive would come back"))
	_, err = call[api.Empty](r, l, "Operator.RaftRemove", &api.RaftRemove{ID: api.NewID()})
	must.ErrorIs(t, err, code(api.CodeNotFound))
}

func TestAnOperatorRemovesADeadServer(t *testing.T) {
	r := newWorld(t).region("eu", 3)
	r.login()
	dead := r.follower()
	must.NoError(t, dead.Close())
	eventually(t, "gossip has noticed", func() bool {
		m, ok := r.leader().gossip.regions.Server(dead.id.NodeID)
		return !ok || m.Status != "alive"
	})
	mustCall[api.Empty](r, "Operator.RaftRemove", &api.RaftRemove{ID: dead.id.NodeID})
	r.voters(2)
}

func TestHashesAreComparedThroughTheLog(t *testing.T) {
	r := newWorld(t).region("eu", 3)
	r.login()
	r.converge() // before: its own commands ask for hashes too
	for range 3 {
		eventually(t, "a hash is in the log", func() bool {
			err := r.leader().hashNow(t.Context())
			if !leaderLost(err) {
				must.NoError(t, err)
			}
			return err == nil
		})
	}
	eventually(t, "every server has made its hash, beside what it applies", func() bool {
		for _, m := range r.alive() {
			p := m.fsm.LastHash()
			if p == nil {
				return false
			}
			if _, ok := p.Made(); !ok {
				return false
			}
		}
		return true
	})
	eventually(t, "the status shows it", func() bool {
		st := mustCall[api.StatusResponse](r, "Status.Leader", &api.ListRequest{})
		return len(st.StateHash) == 64 && st.HashIndex > 0
	})
}

func TestMembersShowEveryServer(t *testing.T) {
	r := newWorld(t).region("eu", 3)
	got := mustCall[api.ServerListResponse](r, "Status.Members", &api.ListRequest{})
	must.Len(t, 3, got.Items)
	leaders := 0
	for _, m := range got.Items {
		must.Eq(t, "alive", m.Status)
		must.True(t, m.Voter)
		if m.Leader {
			leaders++
		}
	}
	must.Eq(t, 1, leaders)
	one := mustCall[api.ServerListResponse](r, "Status.Members", &api.ListRequest{QueryOptions: api.QueryOptions{Filter: `name == "s0.eu"`}})
	must.Len(t, 1, one.Items)
}
