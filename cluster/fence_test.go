package cluster

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

func TestADeadHostIsGivenUpOnAnOperatorsWord(t *testing.T) {
	var ahead atomic.Int64
	r := newWorld(t).region("eu", 1, clocked(&ahead))
	n := r.working("n1")
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: testSpec("web")})
	r.vm("web", "running")
	fence := func(key string) (*api.NodeResponse, error) {
		return call[api.NodeResponse](r, r.leader(), "Operator.NodeFence", &api.NodeFence{Key: key})
	}
	_, err := fence("n1")
	must.ErrorIs(t, err, code(api.CodeState), must.Sprint("a node that is ready is not off"))
	_, err = fence("n9")
	must.ErrorIs(t, err, code(api.CodeNotFound))

	n.die()
	ahead.Add(int64(suspectAfter + time.Second))
	r.leader().pokeNodes()
	n.status(api.NodeSuspect)
	_, err = fence("n1")
	must.ErrorIs(t, err, code(api.CodeState), must.Sprint("its lease may not be over"))
	ahead.Add(int64(hostLease))
	got, err := fence("n1")
	must.NoError(t, err)
	must.Eq(t, api.NodeLost, got.Node.Status)
	must.StrHasPrefix(t, "confirmed off by ", got.Node.StatusNote)
	_, err = fence("n1")
	must.NoError(t, err, must.Sprint("saying it twice is fine"))

	_, err = call[api.WriteMeta](r, r.leader(), "Node.Delete", &api.DeleteRequest{Key: "n1", Force: true})
	must.ErrorIs(t, err, code(api.CodeInUse), must.Sprint("its VM has to be given up first"))
	mustCall[api.WriteMeta](r, "VM.Delete", &api.DeleteRequest{Key: "web", Force: true})
	mustCall[api.WriteMeta](r, "Node.Delete", &api.DeleteRequest{Key: "n1", Force: true})
	r.vm("web", "")
	_, err = call[api.NodeResponse](r, r.leader(), "Node.Get", &api.GetRequest{Key: "n1"})
	must.ErrorIs(t, err, code(api.CodeNotFound))
}

func TestANodeThatWasNotOffComesBack(t *testing.T) {
	var ahead atomic.Int64
	r := newWorld(t).region("eu", 1, clocked(&ahead))
	n := r.newNode("n1").ready()
	n.quiet()
	ahead.Add(int64(hostLease + time.Second))
	r.leader().pokeNodes()
	n.status(api.NodeSuspect)
	mustCall[api.NodeResponse](r, "Operator.NodeFence", &api.NodeFence{Key: "n1"})
	ack, err := n.beat()
	must.NoError(t, err)
	must.True(t, ack.Register)
	n.ready()
}

func TestOperatorsDenyNodes(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	n, other := r.newNode("n1").ready(), r.newNode("n2").ready()
	mustCall[api.WriteMeta](r, "Operator.NodeDeny", &api.NodeDeny{Key: "n1", Reason: "stolen"})
	_, err := n.register()
	must.ErrorIs(t, err, code(api.CodeNodeDenied))
	ack, err := other.beat()
	must.NoError(t, err)
	must.Eq(t, []api.ID{n.node.ID}, ack.Denied, must.Sprint("nodes are told whom not to let in"))
	mustCall[api.WriteMeta](r, "Operator.NodeDeny", &api.NodeDeny{Key: n.node.ID.String(), Allow: true})
	_, err = n.register()
	must.NoError(t, err)

	never := api.NewID()
	mustCall[api.WriteMeta](r, "Operator.NodeDeny", &api.NodeDeny{Key: never.String()})
	must.NotNil(t, r.leader().fsm.State().Denied(never))
	_, err = call[api.WriteMeta](r, r.leader(), "Operator.NodeDeny", &api.NodeDeny{Key: "nobody"})
	must.ErrorIs(t, err, code(api.CodeNotFound))
	_, err = call[api.WriteMeta](r, r.leader(), "Operator.NodeDeny", &api.NodeDeny{Key: r.leader().id.NodeID.String()})
	must.ErrorIs(t, err, code(api.CodeState), must.Sprint("the leader cannot deny itself"))
}
