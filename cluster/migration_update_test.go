package cluster

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

func TestTheSourceHearsOfOtherLimits(t *testing.T) {
	r, ns, _ := moving(t, 3, 2)
	for _, n := range ns {
		n.upTo(api.MigrationCopying)
	}
	x := mustCall[api.MigrationCreated](r, "Migration.Create", &api.MigrationCreate{VM: "web"}).Migration
	m := r.move("web", api.MigrationCopying).Migration
	r.converge()
	st, cancel, err := ns[0].orders(r.follower(), m.ModifyIndex)
	must.NoError(t, err)
	defer cancel()
	next := func() *api.Migration {
		t.Helper()
		for {
			b := &api.OrderBatch{}
			must.NoError(t, st.Recv(b))
			if len(b.Moves) > 0 {
				return b.Moves[0].Migration
			}
		}
	}
	must.Eq(t, 0, next().Options.Bandwidth)

	rate, downtime := 5*api.MiB, api.Duration(2*time.Second)
	got := mustCall[api.MigrationUpdated](r, "Migration.Update", &api.MigrationUpdate{Key: "web", Bandwidth: &rate})
	must.Eq(t, rate, got.Migration.Options.Bandwidth)
	must.True(t, got.Migration.Secret.IsZero())
	o := next()
	must.Eq(t, rate, o.Options.Bandwidth)
	must.Eq(t, api.MigrationCopying, o.Phase)
	must.Eq(t, m.Attempts, o.Attempts)
	mustCall[api.MigrationUpdated](r, "Migration.Update", &api.MigrationUpdate{Key: x.ID.String()[:8], MaxDowntime: &downtime})
	o = next()
	must.Eq(t, downtime, o.Options.MaxDowntime)
	must.Eq(t, rate, o.Options.Bandwidth, must.Sprint("what is not said stays"))

	for _, n := range ns {
		n.upTo()
		n.says(o, map[bool]api.EndState{true: api.EndAbsent, false: api.EndComplete}[n == ns[0]])
	}
	r.move("web", api.MigrationDone)
}

func TestLimitsThatAreRefusedChangeNothing(t *testing.T) {
	r, ns, _ := moving(t, 1, 2)
	update := func(u api.MigrationUpdate) error {
		u.Key = "web"
		_, err := call[api.MigrationUpdated](r, r.leader(), "Migration.Update", &u)
		return err
	}
	rate := api.MiB
	must.ErrorIs(t, update(api.MigrationUpdate{Bandwidth: &rate}), code(api.CodeNotFound), must.Sprint("it was not moved yet"))
	for _, n := range ns {
		n.upTo(api.MigrationCopying)
	}
	mustCall[api.MigrationCreated](r, "Migration.Create", &api.MigrationCreate{VM: "web", Options: api.MigrationOptions{Bandwidth: api.GiB}})
	m := r.move("web", api.MigrationCopying).Migration
	little, long := api.Bytes(1), 2*api.MaxMaxDowntime
	for _, u := range []api.MigrationUpdate{
		{}, {Bandwidth: &little}, {MaxDowntime: &long}, {Bandwidth: &rate, MaxDowntime: &long}, {Bandwidth: &rate, Namespace: "no such"},
	} {
		must.ErrorIs(t, update(u), code(api.CodeInvalid))
	}
	must.ErrorIs(t, update(api.MigrationUpdate{Bandwidth: &rate, Namespace: "other"}), code(api.CodeNotFound))
	_, err := callIn[api.MigrationUpdated](t.Context(), r.leader(), "Migration.Update", &api.MigrationUpdate{Key: "web", Bandwidth: &rate})
	must.Error(t, err, must.Sprint("without a token"))
	must.Eq(t, m.Options, r.move("web", api.MigrationCopying).Migration.Options)

	for _, n := range ns {
		n.upTo()
		n.says(m, map[bool]api.EndState{true: api.EndAbsent, false: api.EndComplete}[n == ns[0]])
	}
	r.move("web", api.MigrationDone)
	err = update(api.MigrationUpdate{Bandwidth: &rate})
	must.ErrorIs(t, err, code(api.CodeState))
	must.StrContains(t, err.Error(), "is done: node n2 owns the VM")
	must.Eq(t, api.GiB, r.move("web", api.MigrationDone).Migration.Options.Bandwidth)
}
