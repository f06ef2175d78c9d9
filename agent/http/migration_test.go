package http

import (
	"context"
	"errors"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

// A watch gives each state, asks again where servers do not answer, keeps to the
// migration that it began with, and ends with it.
func TestAWatchFollowsAMigrationToItsEnd(t *testing.T) {
	t.Parallel()
	id := api.NewID()
	f := newFake()
	_, c := serve(t, Config{Backend: f})
	phases := []api.MigrationPhase{api.MigrationQueued, "", api.MigrationCopying, api.MigrationCopying, api.MigrationDone}
	i := 0
	f.hook = func(context.Context, string) {
		f.refuse("Migration.Get", nil)
		if phases[i] == "" {
			f.refuse("Migration.Get", api.Errorf(api.CodeNoLeader, "no leader"))
		} else {
			f.answer("Migration.Get", &api.MigrationResponse{Migration: &api.Migration{ID: id, Phase: phases[i], ModifyIndex: 7}})
		}
		i++
	}
	var seen []api.MigrationPhase
	for r, err := range c.Migrations().Watch(t.Context(), "web", nil) {
		must.NoError(t, err)
		seen = append(seen, r.Migration.Phase)
	}
	must.Eq(t, []api.MigrationPhase{api.MigrationQueued, api.MigrationCopying, api.MigrationCopying, api.MigrationDone}, seen)
	last := f.last(t).req.(*api.GetRequest)
	must.Eq(t, id.String(), last.Key)
	must.Eq(t, 7, last.MinIndex)

	f.hook = nil
	f.refuse("Migration.Get", api.Errorf(api.CodeNotFound, "gone"))
	for r, err := range c.Migrations().Watch(t.Context(), "web", nil) {
		must.Nil(t, r)
		must.True(t, errors.Is(err, &api.Error{Code: api.CodeNotFound}))
	}
}

func TestMigrationRequestsAreChecked(t *testing.T) {
	t.Parallel()
	f := newFake()
	_, c := serve(t, Config{Backend: f})
	for _, m := range []api.MigrationCreate{
		{}, {VM: "web", Mode: "post-copy"}, {VM: "web", Priority: 101}, {VM: "web", Options: api.MigrationOptions{Bandwidth: 1}},
		{VM: "web", Options: api.MigrationOptions{Timeout: -1}}, {VM: "web", Options: api.MigrationOptions{Compress: "lzma"}}, {VM: "web", To: "no such/node"},
	} {
		_, err := c.Migrations().Create(t.Context(), &m, nil)
		must.ErrorIs(t, err, &api.Error{Code: api.CodeInvalid}, must.Sprintf("%+v", m))
	}
	low, none := api.Bytes(1), api.Duration(0)
	for _, u := range []api.MigrationUpdate{{Key: "web"}, {}, {Key: "web", Bandwidth: &low}, {Key: "web", MaxDowntime: &none}, {Key: "no such vm", Bandwidth: new(api.Bytes)}} {
		_, err := c.Migrations().Update(t.Context(), &u, nil)
		must.ErrorIs(t, err, &api.Error{Code: api.CodeInvalid}, must.Sprintf("%+v", u))
	}
	must.Eq(t, 0, f.count())
}
