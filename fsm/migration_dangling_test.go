package fsm

import (
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

// giveUp orders the end of what is not whole at the destination of move 1.
func (w *world) giveUp() *MigrationStep {
	m := w.s().Migration(id('x', 1))
	return &MigrationStep{ID: m.ID, Phase: m.Phase, Next: api.MigrationAborting, GiveUp: true, Code: api.CodeMigration, Message: "not whole"}
}

func (w *world) dangling() bool { return Dangling(w.s(), w.s().Migration(id('x', 1))) }

// The source has ended and the rest will never come: what came in is ended, and
// the guest begins anew where its disks are.
func TestAPartWithoutASourceIsGivenUp(t *testing.T) {
	w := copying(t)
	before := w.s().Placement(id('m', 1))
	w.end(2, api.EndCopying)
	w.refused(api.CodePlacement, w.giveUp()) // the source may go on
	w.end(1, api.EndAbsent)
	w.phase(api.MigrationSwitched)
	must.True(t, w.dangling())
	w.ok(w.giveUp())
	m := w.phase(api.MigrationAborting)
	must.True(t, m.GiveUp)
	must.Eq(t, "not whole", m.Message)
	must.Eq(t, 2, m.Attempts, must.Sprint("the destination is to look once more"))
	must.False(t, m.KillDest, must.Sprint("what it has is its own to judge"))
	must.False(t, w.dangling(), must.Sprint("once is enough"))
	w.end(2, api.EndCopying)
	must.False(t, w.phase(api.MigrationAborting).KillDest)
	w.end(2, api.EndAbsent)
	must.True(t, w.phase(api.MigrationAborting).KillDest, must.Sprint("nothing is there any more: what is left is cleared away"))
	w.end(2, api.EndAbsent, clean)
	must.True(t, w.phase(api.MigrationAborted).Lost)
	p := w.s().Placement(id('m', 1))
	must.Eq(t, before.NodeID, p.NodeID)
	must.Eq(t, before.Epoch+1, p.Epoch)
}

// It may have become whole after its last word: then it is the only copy, and the
// guest goes on from it.
func TestACopyThatIsWholeAfterAllIsNotGivenUp(t *testing.T) {
	w := copying(t)
	w.end(2, api.EndCopying)
	w.end(1, api.EndAbsent)
	late := w.giveUp()
	w.ok(w.giveUp())
	w.phase(api.MigrationAborting)
	w.end(2, api.EndComplete)
	w.phase(api.MigrationCommitted)
	must.Eq(t, id('n', 2), w.s().Placement(id('m', 1)).NodeID)
	w.refused(api.CodePlacement, late)

	w = copying(t)
	w.end(2, api.EndCopying)
	w.end(1, api.EndAbsent)
	late = w.giveUp()
	w.end(2, api.EndComplete)
	w.phase(api.MigrationCommitted)
	w.refused(api.CodePlacement, late)
}

func TestAPartOfALostSourceIsGivenUp(t *testing.T) {
	w := copying(t)
	w.end(1, api.EndCopying)
	w.end(2, api.EndCopying)
	w.ok(&NodeStatus{Items: []NodeStatusItem{{NodeID: id('n', 1), Status: api.NodeSuspect}}})
	must.False(t, w.dangling(), must.Sprint("silence is no evidence"))
	w.ok(w.lost(1, api.EvidenceOperator))
	m := w.phase(api.MigrationAborting)
	must.Eq(t, w.now, m.AskTime)
	w.end(2, api.EndCopying)
	must.True(t, w.dangling())
	w.ok(w.giveUp())
	w.end(2, api.EndUnknown)
	must.False(t, w.phase(api.MigrationAborting).KillDest)
	w.end(2, api.EndAbsent)
	w.end(2, api.EndAbsent, clean)
	w.phase(api.MigrationAborted)
}

func TestWhatIsNotAPartIsNotGivenUp(t *testing.T) {
	for _, state := range []api.EndState{api.EndReady, api.EndComplete, api.EndUnknown, api.EndAbsent, api.EndRunning} {
		w := copying(t)
		w.end(1, api.EndAbsent)
		w.end(2, state)
		must.False(t, w.dangling(), must.Sprint(state))
	}
	w := copying(t)
	w.refused(api.CodeInvalid, &MigrationStep{ID: id('x', 1), Phase: api.MigrationCopying, Next: api.MigrationCopying, GiveUp: true})
}
