package cluster

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
	"github.com/novacron/novacron/fsm/event"
	"github.com/shoenig/test/must"
)

func TestEventsShowTheProgressOfMoves(t *testing.T) {
	r, ns, vm := moving(t, 3, 2)
	ns[0].upTo(api.MigrationSwitched, api.MigrationAborting)
	ns[1].upTo(api.MigrationSwitched, api.MigrationAborting)
	ns[0].mu.Lock()
	ns[0].plays = func(m *api.Migration) (api.MoveReport, bool) {
		if m.Phase == api.MigrationCopying {
			return api.MoveReport{}, false
		}
		return playMove(m, ns[0].node.ID)
	}
	ns[0].progress = &api.MigrationProgress{Percent: 41.5, Total: api.GiB, Done: 400 * api.MiB, Remaining: 624 * api.MiB, Rate: 100 * api.MiB,
		DirtyRate: api.MiB, Downtime: api.Duration(30 * time.Millisecond)}
	ns[0].mu.Unlock()
	ctx, cancel := context.WithCancel(r.as())
	defer cancel()
	// Whichever server is asked; who reads something else gets none of it.
	f := r.follower()
	st, err := f.Mux().Open(ctx, "Event.Stream", &api.EventRequest{Topics: []string{api.TopicMigration}})
	must.NoError(t, err)
	other, err := f.Mux().Open(ctx, "Event.Stream", &api.EventRequest{Topics: []string{api.TopicVM + ":none"}})
	must.NoError(t, err)
	m := mustCall[api.MigrationCreated](r, "Migration.Create", &api.MigrationCreate{VM: "web"}).Migration
	seen, last := 0, time.Time{}
	for seen < 2 {
		b := &api.EventBatch{}
		must.NoError(t, st.Recv(b))
		for _, e := range b.Events {
			if e.Type != "progress" {
				must.False(t, e.Transient)
				continue
			}
			seen++
			must.True(t, time.Since(last) > progressEvery*8/10, must.Sprint("at most once a second"))
			last = time.Now()
			must.True(t, e.Transient)
			must.Eq(t, 0, e.Index)
			must.Positive(t, b.Index)
			must.Eq(t, m.ID.String(), e.Key)
			must.SliceContains(t, e.Related, vm.ID.String())
			must.Eq(t, "VM web: 42%, 400 MiB of 1 GiB copied, 624 MiB left, 100 MiB/s, the guest writes 1 MiB/s, will stand still for 30ms", e.Message)
			got := &api.MigrationProgress{}
			must.NoError(t, json.Unmarshal(e.Payload, got))
			must.Eq(t, 41.5, got.Percent)
		}
	}
	list := mustCall[api.EventListResponse](r, "Event.List", &api.EventListRequest{Topics: []string{api.TopicMigration}, Limit: 100})
	for _, e := range list.Items {
		must.NotEq(t, "progress", e.Type)
	}
	cancel()
	must.Error(t, other.Recv(&api.EventBatch{}))
}

// A slow reader is told where a move is now, not where it was.
func TestOnlyTheNewestProgressIsKept(t *testing.T) {
	p := newProgressFeed(fsm.New(fsm.Config{}), nil)
	m := &api.Migration{ID: api.NewID(), VMID: api.NewID(), Namespace: "a", Phase: api.MigrationCopying, Attempts: 1}
	all, none := p.subscribe(event.Filter{}), p.subscribe(event.Filter{Namespace: "b"})
	p.tell(m, &api.MigrationProgress{Percent: 1})
	p.tell(m, &api.MigrationProgress{Percent: 2})
	got := p.take(all)
	must.Len(t, 1, got)
	must.StrContains(t, got[0].Message, "2%")
	must.SliceEmpty(t, p.take(all))
	must.SliceEmpty(t, p.take(none))
	p.drop(all)
	p.tell(m, &api.MigrationProgress{Percent: 3})
	must.SliceEmpty(t, p.take(all))
}
