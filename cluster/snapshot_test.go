package cluster

import (
	"bytes"
	"context"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

func (r *region) save() (*api.SnapshotMeta, []byte) {
	r.t.Helper()
	return r.saveAt(r.follower())
}

func (r *region) saveAt(m *machine) (*api.SnapshotMeta, []byte) {
	r.t.Helper()
	var meta *api.SnapshotMeta
	var b bytes.Buffer
	eventually(r.t, "an archive", func() bool {
		meta = &api.SnapshotMeta{}
		b.Reset()
		st, err := m.Mux().Open(r.as(), "Operator.SnapshotSave", &api.Empty{})
		if err == nil {
			err = st.Recv(meta)
		}
		if err == nil {
			err = copyChunks(st, func(c *api.Chunk) error { b.Write(c.Data); return nil })
		}
		if !leaderLost(err) {
			must.NoError(r.t, err)
		}
		return err == nil
	})
	return meta, b.Bytes()
}

// restore restores an archive, again when there was no leader to do it.
func (r *region) restore(archive []byte) (meta *api.SnapshotMeta, err error) {
	r.t.Helper()
	eventually(r.t, "the restore has an outcome", func() bool {
		meta, err = r.restoreOnce(archive)
		return api.CodeOf(err) != api.CodeNoLeader
	})
	return meta, err
}

func (r *region) restoreOnce(archive []byte) (*api.SnapshotMeta, error) {
	ctx, cancel := context.WithCancel(r.as())
	defer cancel()
	st, err := r.leader().Mux().Open(ctx, "Operator.SnapshotRestore", &api.Empty{})
	if err != nil {
		return nil, err
	}
	if _, err := (chunkWriter{st}).Write(archive); err != nil {
		return nil, err
	}
	if err := st.CloseSend(); err != nil {
		return nil, err
	}
	meta := &api.SnapshotMeta{}
	return meta, st.Recv(meta)
}

func TestARestoreBeginsARecovery(t *testing.T) {
	r := newWorld(t).region("eu", 3)
	a := r.working("n1")
	silent := r.newNode("n2").ready()
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: testSpec("web")})
	web := r.vm("web", "running")
	meta, archive := r.save()
	must.Eq(t, "eu", meta.Region)
	must.Eq(t, 1, meta.Generation)
	got, err := api.ReadArchive(bytes.NewReader(archive), &bytes.Buffer{})
	must.NoError(t, err)
	must.Eq(t, meta.Index, got.Index)

	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: testSpec("later")})
	r.vm("later", "running")
	before := r.leader().fsm.State()

	// Every server that follows the orders sees recovery before anything else.
	stream, cancel, err := silent.orders(r.follower(), 0)
	must.NoError(t, err)
	defer cancel()
	nextOrders(t, stream)

	done, err := r.restore(archive)
	must.NoError(t, err)
	must.Eq(t, 2, done.Generation)
	st := r.leader().fsm.State()
	must.Greater(t, before.Index(), st.Index(), must.Sprint("the index never falls"))
	must.Nil(t, st.VMByName("default", "later"))
	rec := mustCall[api.Recovery](r, "Operator.RecoveryGet", &api.ListRequest{})
	must.True(t, rec.Active)
	must.Eq(t, 2, len(rec.Waiting))

	b := nextOrders(t, stream)
	must.True(t, b.Full)
	must.True(t, b.Recovery)
	must.Eq(t, 2, b.Generation)

	// Nothing is decided until the nodes have reported.
	_, err = call[api.VMApplied](r, r.leader(), "VM.Power", &api.VMPower{Key: "web", Action: "stop"})
	must.ErrorIs(t, err, code(api.CodeRecovery))
	must.StrContains(t, r.vm("web", "running").Why[0], "restored from a snapshot")
	_, err = call[api.Recovery](r, r.leader(), "Operator.RecoveryEnd", &api.RecoveryEnd{})
	must.ErrorIs(t, err, code(api.CodeRecovery))

	ack, err := a.beat()
	must.NoError(t, err)
	must.True(t, ack.Register, must.Sprint("a restore makes every node register again"))
	later := before.VMByName("default", "later")
	_, err = a.register(
		api.VMReport{VMID: web.VM.ID, Epoch: web.Placement.Epoch, State: api.StateRunning, Version: 1},
		api.VMReport{VMID: later.ID, Epoch: 1, State: api.StateRunning, Version: 1})
	must.NoError(t, err)
	must.True(t, mustCall[api.Recovery](r, "Operator.RecoveryGet", &api.ListRequest{}).Active)
	mustCall[api.Recovery](r, "Operator.RecoveryEnd", &api.RecoveryEnd{Fenced: []string{"n2"}})
	_, err = a.beat()
	must.NoError(t, err)
	now := r.vm("web", "running")
	must.Greater(t, web.Placement.Epoch, now.Placement.Epoch, must.Sprint("epochs go on above all that was seen"))
	must.Eq(t, a.node.ID, now.Placement.NodeID)
	orphans := 0
	for range r.leader().fsm.State().OrphansOn(a.node.ID) {
		orphans++
	}
	must.Eq(t, 1, orphans, must.Sprint("what the archive does not know is left alone"))
	r.converge()
}

func TestARecoveryEndsByItselfWhenAllHaveReported(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	n := r.newNode("n1").ready()
	_, archive := r.saveAt(r.leader())
	_, err := r.restore(archive)
	must.NoError(t, err)
	_, err = n.register()
	must.NoError(t, err)
	eventually(t, "recovery is over", func() bool { return r.leader().fsm.State().Recovery() == nil })
}

func TestAnArchiveThatIsNotOursIsRefused(t *testing.T) {
	r := newWorld(t).region("eu", 2)
	_, archive := r.save()
	hurt := bytes.Clone(archive)
	hurt[len(hurt)/2] ^= 1
	other := newWorld(t).region("eu", 2)
	_, foreign := other.save()
	for _, a := range [][]byte{hurt, foreign, []byte("nonsense"), nil} {
		_, err := r.restore(a)
		must.ErrorIs(t, err, code(api.CodeSnapshot))
	}
	must.Eq(t, 1, r.leader().fsm.State().Generation())
	r.converge()
}
