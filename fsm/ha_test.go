package fsm

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

// guarded is a region whose nodes have a guard with a watchdog, and VM 1 with
// ha = restart that runs on node 1, armed.
func guarded(t testing.TB) *world {
	w := region(t, 0)
	for i := 1; i <= 3; i++ {
		w.guardedNode(i, "boot")
	}
	spec := specOf("vm-1", shared("root"))
	spec.HA.Policy = api.HARestart
	w.ok(&VMApply{ID: id('m', 1), Spec: spec, VolumeIDs: volumeIDs(1, 1)})
	p := w.placed(1, 1)
	w.report(1, 1, p.Epoch, api.StateRunning, armed)
	return w
}

func (w *world) guardedNode(i int, boot string) {
	w.t.Helper()
	n := nodeOf(i)
	n.Guard, n.BootID = api.GuardWatchdog, boot
	w.ok(&NodeRegister{Node: n, SessionID: id('s', i)})
	w.ok(&NodeStatus{Items: []NodeStatusItem{{NodeID: id('n', i), Status: api.NodeReady}}})
}

func armed(r *api.VMReport) { r.Armed = true }

// lost is evidence about a node as its registration stands.
func (w *world) lost(i int, kind api.EvidenceKind) *HostLost {
	r := w.s().Registration(id('n', i))
	return &HostLost{
		NodeID: id('n', i), Session: r.SessionID, Registered: r.Index,
		Evidence: api.Evidence{Kind: kind, BootID: w.s().Node(id('n', i)).BootID, By: "somebody"},
	}
}

func TestALeaseThatHasExpiredFreesOnlyWhatWasArmed(t *testing.T) {
	w := guarded(t)
	w.vm(2, shared("root"))
	p2 := w.placed(2, 1)
	w.report(1, 2, p2.Epoch, api.StateRunning)
	p := w.s().Placement(id('m', 1))
	must.True(t, p.Armed)

	must.Eq(t, api.CodePlacement, w.place(w.item(PlaceRecover, 1, 2)).Err.Code, must.Sprint("silence is no evidence"))
	w.ok(w.lost(1, api.EvidenceLease))
	n := w.s().Node(id('n', 1))
	must.Eq(t, api.NodeLost, n.Status)
	must.Eq(t, api.EvidenceLease, n.Lost.Kind)
	must.Eq(t, api.EvidenceLease, w.s().Placement(id('m', 1)).Fenced)
	must.Eq(t, "", w.s().Placement(id('m', 2)).Fenced, must.Sprint("it may run on"))
	must.NotNil(t, w.place(w.item(PlaceRecover, 2, 2)).Err)

	r := w.place(w.recovery(1, 2))
	must.Nil(t, r.Err)
	must.Eq(t, p.Epoch+1, r.Epoch)
	q := w.s().Placement(id('m', 1))
	must.Eq(t, id('n', 2), q.NodeID)
	must.False(t, q.Armed || q.Fenced != "")
	must.Eq(t, p.Epoch, w.s().Tombstone(id('n', 1), id('m', 1)).Epoch)
	w.report(1, 1, p.Epoch, api.StateRunning, armed) // of a session that has not heard of it
	must.Eq(t, q, w.s().Placement(id('m', 1)))
}

// recovery is a decision to restart VM number n on a node.
func (w *world) recovery(n, node int) PlaceItem {
	it := w.item(PlaceRecover, n, node)
	it.Epoch = w.s().VM(id('m', n)).Epoch + 1
	return it
}

func TestEvidenceOfAnEarlierRegistrationProvesNothing(t *testing.T) {
	w := guarded(t)
	c := w.lost(1, api.EvidenceLease)
	w.guardedNode(1, "boot") // the same session, registered again: its beats count
	w.refused(api.CodePlacement, c)
	w.refused(api.CodeNotFound, &HostLost{NodeID: id('n', 9), Evidence: c.Evidence})
	w.refused(api.CodeInvalid, &HostLost{NodeID: id('n', 1), Evidence: api.Evidence{Kind: "gossip"}})
	c = w.lost(1, api.EvidenceLease)
	c.Evidence.BootID = "another"
	w.refused(api.CodePlacement, c)
	w.node(1) // without a guard
	w.refused(api.CodePlacement, w.lost(1, api.EvidenceLease))
	w.ok(w.lost(1, api.EvidenceOperator))
}

func TestANodeThatIsBackKeepsWhatWasNotRestarted(t *testing.T) {
	w := guarded(t)
	w.ok(w.lost(1, api.EvidenceLease))
	it := w.recovery(1, 2)
	w.guardedNode(1, "boot")
	p := w.s().Placement(id('m', 1))
	must.Eq(t, "", p.Fenced)
	must.True(t, p.Armed, must.Sprint("its word stands until it says otherwise"))
	must.Nil(t, w.s().Node(id('n', 1)).Lost)
	must.NotNil(t, w.place(it).Err, must.Sprint("the decision came too late"))

	w.ok(w.lost(1, api.EvidenceLease))
	w.guardedNode(1, "a later boot")
	must.False(t, w.s().Placement(id('m', 1)).Armed, must.Sprint("nothing survives a boot"))
}

func TestADisarmThatIsCommittedEndsTheEvidence(t *testing.T) {
	w := guarded(t)
	p := w.s().Placement(id('m', 1))
	w.report(1, 1, p.Epoch, api.StateRunning)
	must.False(t, w.s().Placement(id('m', 1)).Armed)
	w.ok(w.lost(1, api.EvidenceLease))
	must.Eq(t, "", w.s().Placement(id('m', 1)).Fenced)
	// An operator's word covers it all the same, and adds to what is known.
	w.ok(w.lost(1, api.EvidenceOperator))
	must.Eq(t, api.EvidenceOperator, w.s().Placement(id('m', 1)).Fenced)
	must.Nil(t, w.place(w.recovery(1, 3)).Err)
}

func TestAHoldKeepsVMsWhereTheyAre(t *testing.T) {
	w := guarded(t)
	w.ok(w.lost(1, api.EvidenceOperator))
	w.ok(&HASet{Config: api.HAConfig{Hold: &api.HAHold{Reason: "works on the switch"}}})
	must.Positive(t, w.s().HAConfig().Hold.Since)
	e := w.place(w.recovery(1, 2)).Err
	must.StrContains(t, e.Message, "works on the switch")
	w.refused(api.CodePlacement, w.lost(2, api.EvidenceLease))
	w.refused(api.CodeInvalid, &HASet{Config: api.HAConfig{Fencing: "luck"}})
	stale := uint64(1)
	w.refused(api.CodeConflict, &HASet{CheckIndex: &stale})
	w.ok(&HASet{})
	must.Nil(t, w.place(w.recovery(1, 2)).Err)
	w.ok(&HASet{Config: api.HAConfig{Disarmed: true}})
	w.refused(api.CodePlacement, w.lost(2, api.EvidenceLease))
}

func TestPoliciesDecideWhoIsRestarted(t *testing.T) {
	w := guarded(t)
	for n, policy := range map[int]string{2: api.HAKeep, 3: api.HANone} {
		spec := specOf("vm", shared("root"))
		spec.Name, spec.HA.Policy = "vm-"+policy, policy
		w.ok(&VMApply{ID: id('m', n), Spec: spec, VolumeIDs: volumeIDs(n, 1)})
		w.placed(n, 1)
	}
	w.ok(w.lost(1, api.EvidenceOperator))
	must.Nil(t, w.place(w.recovery(1, 2)).Err)
	must.Nil(t, w.place(w.recovery(2, 2)).Err)
	must.NotNil(t, w.place(w.recovery(3, 2)).Err)
}

func TestRestartNeedsAGuardAndDisksThatOthersReach(t *testing.T) {
	w := guarded(t)
	spec := specOf("here", local("root"))
	spec.HA.Policy = api.HARestart
	e := w.refused(api.CodeUnsupported, &VMApply{ID: id('m', 2), Spec: spec, VolumeIDs: volumeIDs(2, 1)})
	must.StrContains(t, e.Message, "here-root")
	w.vm(3, local("root"))
	spec = specOf("vm-3", local("root"))
	spec.HA.Policy = api.HARestart
	w.refused(api.CodeUnsupported, &VMApply{ID: id('m', 3), Spec: spec, VolumeIDs: volumeIDs(3, 1)})

	w.ok(w.lost(1, api.EvidenceLease))
	n := nodeOf(2)
	n.Guard = api.GuardLeaseOnly
	w.ok(&NodeRegister{Node: n, SessionID: id('s', 2)})
	must.NotNil(t, w.place(w.recovery(1, 2)).Err)
	w.ok(&HASet{Config: api.HAConfig{Fencing: api.FencingLeaseOnly}})
	must.Nil(t, w.place(w.recovery(1, 2)).Err)
}
