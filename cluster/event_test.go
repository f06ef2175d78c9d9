package cluster

import (
	"context"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
	"github.com/novacron/novacron/fsm/event"
)

func TestEventsAreStreamedAndResumed(t *testing.T) {
	r := newWorld(t).region("eu", 3)
	f := r.follower()
	ctx, cancel := context.WithCancel(r.as())
	defer cancel()
	mustCall[api.NamespaceResponse](r, "Namespace.Apply", &api.NamespaceApply{Namespace: api.Namespace{Name: "a"}})
	r.converge()
	st, err := f.Mux().Open(ctx, "Event.Stream", &api.EventRequest{Topics: []string{"namespace"}, Snapshot: true})
	must.NoError(t, err)
	next := func() *api.EventBatch {
		t.Helper()
		for {
			b := &api.EventBatch{}
			must.NoError(t, st.Recv(b))
			if !b.Heartbeat {
				return b
			}
		}
	}
	b := next()
	must.True(t, b.Snapshot)
	must.Len(t, 2, b.Events)
	must.SliceEmpty(t, next().Events, must.Sprint("the end of the snapshot"))
	made := mustCall[api.NamespaceResponse](r, "Namespace.Apply", &api.NamespaceApply{Namespace: api.Namespace{Name: "b"}})
	b = next()
	must.Eq(t, made.Index, b.Index)
	must.Eq(t, "created", b.Events[0].Type)
	must.Eq(t, "b", b.Events[0].Key)

	// Resumed at another server, after an index.
	r.converge()
	again, err := r.leader().Mux().Open(ctx, "Event.Stream", &api.EventRequest{Topics: []string{"namespace"}, Index: made.Index - 1})
	must.NoError(t, err)
	b = &api.EventBatch{}
	must.NoError(t, again.Recv(b))
	must.Eq(t, made.Index, b.Index)

	list := mustCall[api.EventListResponse](r, "Event.List", &api.EventListRequest{Topics: []string{"namespace"}, Limit: 2})
	must.Len(t, 2, list.Items)
	must.Eq(t, "b", list.Items[1].Key)
	list = mustCall[api.EventListResponse](r, "Event.List", &api.EventListRequest{Related: "a", QueryOptions: api.QueryOptions{Filter: "type == created"}})
	must.Len(t, 1, list.Items)
}

func TestTooManyChangesBecomeAGap(t *testing.T) {
	ring := event.New(event.Config{})
	p := newEventPump(ring)
	sub := ring.Subscribe(event.Filter{}, 0, nil)
	p.add(eventBatch{index: 1, changes: make([]fsm.Change, eventBacklog)})
	p.add(eventBatch{index: 2, changes: []fsm.Change{{Table: fsm.TableNamespace, New: &api.Namespace{Name: "a"}, Index: 2}}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.run(ctx) }()
	b, err := sub.Next(t.Context())
	must.NoError(t, err)
	must.True(t, b.Gap)
	b, err = sub.Next(t.Context())
	must.NoError(t, err)
	must.Eq(t, "a", b.Events[0].Key)
	cancel()
	<-done
}

func TestTheSchemaIsShownAndOnlyMovesWhenAllKnowIt(t *testing.T) {
	r := newWorld(t).region("eu", 3)
	r.newNode("n1").ready()
	st := mustCall[api.SchemaStatus](r, "Operator.SchemaStatus", &api.ListRequest{})
	must.Eq(t, 1, st.Active)
	must.True(t, st.Ready)
	must.Len(t, 4, st.Members)
	fin := mustCall[api.SchemaStatus](r, "Operator.SchemaChange", &api.SchemaChange{Version: 1, Finalize: true})
	must.Eq(t, 1, fin.Finalized)
	_, err := call[api.SchemaStatus](r, r.leader(), "Operator.SchemaChange", &api.SchemaChange{Version: 9})
	must.ErrorIs(t, err, code(api.CodeSchema))

	r.newNode("old", func(n *api.Node) { n.SchemaMax = 0 }).ready()
	_, err = call[api.SchemaStatus](r, r.leader(), "Operator.SchemaChange", &api.SchemaChange{Version: 1, Finalize: true})
	must.ErrorIs(t, err, code(api.CodeSchema))
	must.StrContains(t, mustCall[api.SchemaStatus](r, "Operator.SchemaStatus", &api.ListRequest{}).Why, "client old knows up to 0")
}

func TestTheSchedulerIsConfigured(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	got := mustCall[api.SchedulerConfigResponse](r, "Operator.SchedulerGet", &api.ListRequest{})
	index := got.Config.ModifyIndex
	set := mustCall[api.SchedulerConfigResponse](r, "Operator.SchedulerSet", &api.SchedulerConfigApply{Config: api.SchedulerConfig{Algorithm: "spread", Expect: 3}, CheckIndex: &index})
	must.Eq(t, "spread", set.Config.Algorithm)
	_, err := call[api.SchedulerConfigResponse](r, r.leader(), "Operator.SchedulerSet", &api.SchedulerConfigApply{Config: api.SchedulerConfig{Algorithm: "binpack"}, CheckIndex: &index})
	must.ErrorIs(t, err, code(api.CodeConflict))
	r.working("n1")
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: testSpec("web")})
	must.StrContains(t, r.vm("web", "pending").Why[0], "held back until 3 servers vote; 1 do")
}

func TestEventsAreFilteredBeforeTheyAreCounted(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	for _, n := range []string{"a", "b", "c"} {
		mustCall[api.NamespaceResponse](r, "Namespace.Apply", &api.NamespaceApply{Namespace: api.Namespace{Name: n}})
	}
	for _, n := range []string{"x", "y"} {
		mustCall[api.NamespaceResponse](r, "Namespace.Apply", &api.NamespaceApply{Namespace: api.Namespace{Name: "c", Description: n}})
	}
	filter := api.QueryOptions{Filter: `type == created and topic == namespace`}
	eventually(t, "the last event", func() bool {
		got := mustCall[api.EventListResponse](r, "Event.List", &api.EventListRequest{Limit: 1, QueryOptions: api.QueryOptions{Filter: `type == updated`}})
		return len(got.Items) == 1
	})
	got := mustCall[api.EventListResponse](r, "Event.List", &api.EventListRequest{QueryOptions: filter, Limit: 2})
	must.Len(t, 2, got.Items)
	must.Eq(t, "b", got.Items[0].Key)
	must.Eq(t, "c", got.Items[1].Key)
	_, err := call[api.EventListResponse](r, r.leader(), "Event.List", &api.EventListRequest{QueryOptions: api.QueryOptions{Filter: "type =="}})
	must.ErrorIs(t, err, code(api.CodeFilter))

	// With an index it waits for what passes, and only for that.
	filter.MinIndex, filter.Wait = got.Index, api.Duration(time.Minute)
	type answer struct {
		resp *api.EventListResponse
		err  error
	}
	done, ctx := make(chan answer, 1), r.as()
	go func() {
		resp, err := callIn[api.EventListResponse](ctx, r.leader(), "Event.List", &api.EventListRequest{QueryOptions: filter})
		done <- answer{resp, err}
	}()
	mustCall[api.NamespaceResponse](r, "Namespace.Apply", &api.NamespaceApply{Namespace: api.Namespace{Name: "c", Description: "z"}})
	made := mustCall[api.NamespaceResponse](r, "Namespace.Apply", &api.NamespaceApply{Namespace: api.Namespace{Name: "d"}})
	a := <-done
	must.NoError(t, a.err)
	must.Len(t, 1, a.resp.Items)
	must.Eq(t, "d", a.resp.Items[0].Key)
	must.GreaterEq(t, made.Index, a.resp.Index)
	filter.MinIndex, filter.Wait = a.resp.Index, api.Duration(10*time.Millisecond)
	none := mustCall[api.EventListResponse](r, "Event.List", &api.EventListRequest{QueryOptions: filter})
	must.SliceEmpty(t, none.Items)
	must.GreaterEq(t, a.resp.Index, none.Index)
}

// Options that a read has no use for are refused, not accepted and ignored.
func TestOptionsWithoutMeaningAreRefused(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	r.working("n1")
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: testSpec("web")})
	r.vm("web", "running")
	options := map[string]api.QueryOptions{
		"index": {MinIndex: 1}, "wait": {Wait: 1}, "per_page": {PerPage: 1}, "next_token": {NextToken: "a/b/c"}, "prefix": {Prefix: "a"}, "filter": {Filter: `name == "x"`},
	}
	get := func(key string) func(q api.QueryOptions) api.Message {
		return func(q api.QueryOptions) api.Message { return &api.GetRequest{QueryOptions: q, Key: key} }
	}
	list := func(q api.QueryOptions) api.Message { return &api.ListRequest{QueryOptions: q} }
	for method, c := range map[string]struct {
		req     func(api.QueryOptions) api.Message
		refused []string
	}{
		"VM.Get":                {get("web"), api.NotOne},
		"Node.Get":              {get("n1"), api.NotOne},
		"VM.Stats":              {get("web"), api.NotNow},
		"Node.Stats":            {get("n1"), api.NotNow},
		"Operator.RaftList":     {list, api.NotNow},
		"Operator.SchemaStatus": {list, api.NotNow},
		"Operator.SchedulerGet": {list, api.NotOne},
		"Operator.RecoveryGet":  {list, api.NotOne},
		"Status.Leader":         {list, api.NotNow},
		"Status.Members":        {list, api.NotMembers},
		"Event.List":            {func(q api.QueryOptions) api.Message { return &api.EventListRequest{QueryOptions: q} }, api.NotEvents},
	} {
		for _, name := range c.refused {
			err := r.leader().Mux().Call(r.as(), method, c.req(options[name]), &api.Empty{})
			must.Eq(t, api.CodeInvalid, api.CodeOf(err), must.Sprintf("%s %s: %v", method, name, err))
			must.StrContains(t, err.Error(), name)
		}
	}
}
