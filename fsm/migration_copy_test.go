package fsm

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

// A guest that may have gone on at a source that is lost is not continued from an
// older memory over a disk that both share.
func TestACopyThatIsBehindItsDiskIsNotContinued(t *testing.T) {
	src := side{MigrationEnd: api.MigrationEnd{State: api.EndCopying, Attempt: 1}, lost: true, ahead: true}
	dst := side{MigrationEnd: api.MigrationEnd{State: api.EndComplete, Attempt: 1}}
	m := &api.Migration{Phase: api.MigrationCopying, Mode: api.MigrateLive, Attempts: 1}
	must.Eq(t, moveAbort, decideMove(m, src, dst))
	m.Phase = api.MigrationAborting
	must.Eq(t, moveKillDest, decideMove(m, src, dst))
	dst.State, dst.Clean = api.EndAbsent, true
	must.Eq(t, moveAborted, decideMove(m, src, dst))
}

// What the destination said before the source had ended may be overtaken: it is
// asked once more before its copy, maybe the only one, is ended.
func TestTheOnlyCopyIsNotEndedOnAnOldWord(t *testing.T) {
	say := func(s api.EndState, attempt int32) side {
		return side{MigrationEnd: api.MigrationEnd{State: s, Attempt: attempt}}
	}
	m := &api.Migration{Phase: api.MigrationAborting, Mode: api.MigrateLive, Attempts: 2}
	src := say(api.EndAbsent, 1)
	for state, want := range map[api.EndState]move{
		api.EndReady: moveKillDest, api.EndAbsent: moveKillDest, api.EndCopying: moveWait, api.EndUnknown: moveWait, api.EndComplete: moveCommit,
	} {
		must.Eq(t, want, decideMove(m, src, say(state, 2)), must.Sprint(state))
		if want != moveCommit {
			must.Eq(t, moveWait, decideMove(m, src, say(state, 1)), must.Sprint(state))
		}
	}
	m.Attempts = 1 // a source that has not heard of the end may still send
	must.Eq(t, moveWait, decideMove(m, say(api.EndPresent, 0), say(api.EndReady, 1)))
	must.Eq(t, moveKillDest, decideMove(m, say(api.EndPresent, 1), say(api.EndReady, 1)))
}

// All that such a VM keeps is on the shared disk, so it can start anew from it. One
// with a disk on the lost node has nothing but its copy.
func TestACopyIsBehindWhenAllDisksAreShared(t *testing.T) {
	for want, disks := range map[bool][]api.Disk{true: {shared("root")}, false: {local("root"), shared("data")}} {
		w := region(t, 2)
		w.vm(1, disks...)
		w.placed(1, 1)
		end := api.MigrationEnd{State: api.EndCopying, Attempt: 1}
		must.False(t, sideOf(w.s(), id('m', 1), id('n', 1), end).ahead, must.Sprint("its node is not lost"))
		w.ok(&NodeStatus{Items: []NodeStatusItem{{NodeID: id('n', 1), Status: api.NodeSuspect}}})
		w.ok(w.lost(1, api.EvidenceOperator))
		must.Eq(t, want, sideOf(w.s(), id('m', 1), id('n', 1), end).ahead)
		for _, stood := range []api.EndState{api.EndSwitched, api.EndAbsent} {
			must.False(t, sideOf(w.s(), id('m', 1), id('n', 1), api.MigrationEnd{State: stood, Attempt: 1}).ahead)
		}
	}
}
