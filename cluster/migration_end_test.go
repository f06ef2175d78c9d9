package cluster

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/moves"
)

// copied runs f, in a bubble, with a move x from a to b that is played until it is
// copied.
func copied(t *testing.T, f func(t *testing.T, w *moveWorld, x, a, b api.ID)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newMoveWorld(t)
		a, b := w.mover(1, api.TiB), w.mover(2, api.TiB)
		x := w.move(w.on(a, 1, nil), nil)
		w.lead(func() {
			time.Sleep(50 * time.Millisecond)
			w.play(x)
			f(t, w, x, a, b)
		})
	})
}

// A destination that goes on to receive after its source has ended is told to end
// that, and not before its time.
func TestADestinationThatNeverBecomesWhole(t *testing.T) {
	copied(t, func(t *testing.T, w *moveWorld, x, a, b api.ID) {
		w.is(x, api.MigrationCopying)
		w.say(x, b, api.EndCopying)
		w.say(x, a, api.EndAbsent)
		w.is(x, api.MigrationSwitched)
		time.Sleep(moves.DanglingWait - 2*time.Second)
		w.is(x, api.MigrationSwitched)
		time.Sleep(4 * time.Second)
		m := w.is(x, api.MigrationAborting)
		must.True(t, m.GiveUp)
		must.Eq(t, api.CodeMigration, m.Code)
		w.say(x, b, api.EndCopying)
		time.Sleep(time.Hour)
		must.False(t, w.is(x, api.MigrationAborting).KillDest, must.Sprint("the destination does not say that nothing is there"))
		must.True(t, w.moves.alarmed[x])
		w.say(x, b, api.EndAbsent)
		must.True(t, w.is(x, api.MigrationAborting).KillDest)
		w.tell(b, api.MoveReport{Migration: x, State: api.EndAbsent, Attempt: 2, Clean: true})
		must.True(t, w.is(x, api.MigrationAborted).Lost)
	})
}

// A guest that is granted to its destination and cannot go on there is seen: an
// alarm, an event, words for the move and for the VM.
func TestAGuestThatDoesNotGoOnAfterItsCutover(t *testing.T) {
	copied(t, func(t *testing.T, w *moveWorld, x, a, b api.ID) {
		w.say(x, b, api.EndComplete)
		w.say(x, a, api.EndAbsent)
		w.is(x, api.MigrationCommitted)
		w.tell(b, api.MoveReport{Migration: x, State: api.EndComplete, Attempt: 1, Message: "resume: no"})
		time.Sleep(moves.UnresumedWait - 2*time.Second)
		must.False(t, w.moves.alarmed[x])
		time.Sleep(4 * time.Second)
		must.True(t, w.moves.alarmed[x])
		must.Len(t, 1, w.moves.plan().Unresumed)
		w.tell(b, api.MoveReport{Migration: x, State: api.EndRunning, Attempt: 1, Clean: true})
		must.SliceEmpty(t, w.moves.plan().Unresumed)
		w.is(x, api.MigrationCommitted)
	})
}

func TestAGuestThatDoesNotGoOnIsExplained(t *testing.T) {
	r, ns, vm := moving(t, 1, 2)
	a, b := ns[0], ns[1]
	for _, n := range ns {
		n.upTo(api.MigrationCopying, api.MigrationSwitched, api.MigrationCommitted)
	}
	mustCall[api.MigrationCreated](r, "Migration.Create", &api.MigrationCreate{VM: "web"})
	m := r.move("web", api.MigrationCopying).Migration
	b.says(m, api.EndComplete)
	a.says(m, api.EndAbsent)
	r.move("web", api.MigrationCommitted)
	why := "resume: NOVA-4000: the disk is gone"
	must.NoError(t, b.servers.Call(t.Context(), "Node.Report", &api.NodeReport{
		NodeID: b.node.ID, SessionID: b.session,
		Moves: []api.MoveReport{{Migration: m.ID, State: api.EndComplete, Attempt: m.Attempts, Message: why, BootID: b.node.BootID, Seq: b.seq.Add(1)}},
		VMs:   []api.VMReport{{VMID: vm.ID, Epoch: 2, State: api.StatePaused, Reason: "migrated-in", Message: why, Seq: b.seq.Add(1)}},
	}, &api.WriteMeta{}))
	must.SliceContains(t, r.move("web", api.MigrationCommitted).Why, "node n2 cannot let it go on, and tries again: "+why)
	st := r.vm("web", "paused")
	must.SliceContains(t, st.Why, "the guest stands still on node n2 and cannot go on: "+why)
	must.StrContains(t, st.Why[len(st.Why)-1], "novacron vm stop -force web")
	eventually(t, "the event is there", func() bool {
		evs, err := call[api.EventListResponse](r, r.leader(), "Event.List", &api.EventListRequest{Topics: []string{"migration:" + m.ID.String()}})
		must.NoError(t, err)
		for _, e := range evs.Items {
			if e.Type == "unresumed" {
				must.StrContains(t, e.Message, "the guest does not go on on n2 yet: "+why)
				return true
			}
		}
		return false
	})
}
