package cluster

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// upTo is what a binary knows that knows this schema: steps that change nothing.
func upTo(version uint32) func(*Config) {
	return func(c *Config) {
		c.Registry = fsm.DefaultRegistry()
		for v := c.Registry.Newest() + 1; v <= version; v++ {
			nothing := func(*fsm.Txn) error { return nil }
			c.Registry.AddStep(fsm.Step{Version: v, Name: "test", Up: nothing, Down: nothing})
		}
	}
}

func TestTheSchemaMovesSeveralStepsUnderOneKey(t *testing.T) {
	r := newWorld(t).region("eu", 3, upTo(3))
	keyed := api.WithCall(t.Context(), api.Call{Token: r.login(), IdempotencyKey: "up"})
	change := &api.SchemaChange{Version: 3, Finalize: false}
	for range 2 { // the repetition finds nothing left to do
		var st *api.SchemaStatus
		eventually(t, "the schema is 3", func() bool {
			var err error
			if st, err = callIn[api.SchemaStatus](keyed, r.leader(), "Operator.SchemaChange", change); !leaderLost(err) {
				must.NoError(t, err)
			}
			return err == nil
		})
		must.Eq(t, 3, st.Active)
		must.Eq(t, 1, st.Finalized)
	}
	must.Eq(t, 1, mustCall[api.SchemaStatus](r, "Operator.SchemaChange", &api.SchemaChange{Version: 1}).Active)

	// Under the key of the way up the steps were taken: they are not again.
	_, err := callIn[api.SchemaStatus](keyed, r.leader(), "Operator.SchemaChange", change)
	must.ErrorIs(t, err, code(api.CodeConflict))
	must.Eq(t, 1, r.leader().fsm.State().Schema())

	st := mustCall[api.SchemaStatus](r, "Operator.SchemaChange", &api.SchemaChange{Version: 3, Finalize: true})
	must.Eq(t, 3, st.Active)
	must.Eq(t, 3, st.Finalized)
	_, err = call[api.SchemaStatus](r, r.leader(), "Operator.SchemaChange", &api.SchemaChange{Version: 1})
	must.ErrorIs(t, err, code(api.CodeSchema))
	r.converge()
}

func TestABinaryOlderThanTheFinalizedSchemaIsRefused(t *testing.T) {
	r := newWorld(t).region("eu", 1, upTo(3))
	newer := func(n *api.Node) { n.SchemaMax = 3 }
	r.newNode("n1", newer).ready()
	mustCall[api.SchemaStatus](r, "Operator.SchemaChange", &api.SchemaChange{Version: 3, Finalize: true})
	_, err := r.newNode("old").register()
	must.ErrorIs(t, err, code(api.CodeSchema))
	r.newNode("n2", newer).ready()

	_, err = r.join(r.joinToken("server"), func(q *api.JoinRequest) { q.Role, q.SchemaMax = "server", 2 })
	must.ErrorIs(t, err, code(api.CodeSchema))
	_, err = r.join(r.joinToken("server"), func(q *api.JoinRequest) { q.Role, q.SchemaMax = "server", 3 })
	must.NoError(t, err)
}
