package fsm

import (
	"slices"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/mutant"
)

// The decisions of a migration: what follows from what its two ends have said.
// Everything here is a pure function, so that a simulation can run it; the
// commands of migration.go carry out what it says.
//
// The table is that of the design (cutover rule, abort rule): `committed` only
// when the source is attested absent, or lost with evidence, and the destination
// is complete; the destination's copy is destroyed only when the source is
// attested to be there without a copy under way, or when nothing whole is there.

// move is what is to be done about a migration.
type move uint8

const (
	moveWait       move = iota // nothing follows yet
	moveNext                   // to the next phase
	moveSwitch                 // one end has attested its part
	moveKillSource             // its guest stands still, superseded: it is to be ended
	moveCommit                 // the destination owns the VM
	moveAbort                  // the source goes on
	moveAsk                    // the destination is asked what it has, now that the source has ended
	moveKillDest               // the destination removes what it has
	moveAborted                // the end: the source owns the VM
	moveLost                   // the end: the guest is nowhere any more
	moveDone                   // the end: the destination runs it, and the source is clean
)

// side is the state of an end with what the servers know of its node.
type side struct {
	api.MigrationEnd
	// lost: the node is lost, with evidence: nothing runs there.
	lost bool
	// ahead: it is lost, and the guest may have gone on there after it was copied, on
	// a disk that both ends share: its memory elsewhere would be older than its disk.
	ahead bool
}

// side is an end with what is known of its node. What was said before the
// node's machine was started anew counts no more.
func (tx *Txn) side(vm, node api.ID, e api.MigrationEnd) side { return sideOf(tx.s, vm, node, e) }

func sideOf(s *State, vm, node api.ID, e api.MigrationEnd) side {
	if n := s.Node(node); n != nil && e.BootID != "" && e.BootID != n.BootID {
		e = api.MigrationEnd{State: api.EndUnknown, Attempt: e.Attempt, Clean: e.Clean}
	}
	out := side{MigrationEnd: e, lost: !node.IsZero() && lostFor(s, vm, node)}
	// Of one that stood still for the switch-over, or was gone, it is known that it did not go on.
	stood := e.State == api.EndSwitched || e.State == api.EndAbsent
	out.ahead = out.lost && !stood && onShared(s, s.VM(vm)) && !mutant.On(mutant.ContinueOlder)
	return out
}

// onShared reports whether all that a VM keeps is on disks that several nodes reach.
// Of one with a disk on a lost node nothing is left but its copy.
func onShared(s *State, vm *api.VM) bool {
	if vm == nil {
		return false
	}
	vols := s.DiskVolumes(vm)
	return len(vols) > 0 && !slices.ContainsFunc(vols, func(v *api.Volume) bool { return v == nil || !v.NodeID.IsZero() })
}

// decideMove says what follows for a migration.
func decideMove(m *api.Migration, src, dst side) move {
	if mutant.On(mutant.UnknownIsAbsent) && src.State == api.EndUnknown {
		src.State = api.EndAbsent
	}
	switch m.Phase {
	case api.MigrationProposed:
		return decideProposed(src, dst)
	case api.MigrationPrepared:
		if src.lost || dst.lost || src.Failed || dst.Failed || dst.State == api.EndAbsent {
			return moveAbort
		}
	case api.MigrationCopying, api.MigrationSwitched:
		return decideCopying(m, src, dst)
	case api.MigrationAborting:
		return decideAborting(m, src, dst)
	case api.MigrationCommitted:
		if (src.Clean || src.lost) && (dst.Clean || dst.lost) {
			return moveDone
		}
	}
	return moveWait
}

func decideProposed(src, dst side) move {
	switch {
	case src.lost || dst.lost || src.Failed || dst.Failed:
		return moveAbort
	case src.State == api.EndPresent && dst.State == api.EndReady:
		return moveNext
	}
	return moveWait
}

// decideCopying is the decision table of reliability: rows are the source,
// columns the destination.
func decideCopying(m *api.Migration, src, dst side) move {
	here := src.Attempt == m.Attempts
	if mutant.On(mutant.CommitOnDestination) && dst.State == api.EndComplete {
		return moveCommit
	}
	if mutant.On(mutant.CommitIncomplete) && src.State == api.EndAbsent && dst.State == api.EndCopying {
		return moveCommit
	}
	if mutant.On(mutant.KillSourceEarly) && src.State == api.EndSwitched && dst.State == api.EndCopying && !m.KillSource {
		return moveKillSource
	}
	switch {
	case src.lost: // fenced: nothing of it runs, or ever will
		switch {
		case dst.lost:
			return moveAbort
		case src.ahead && (dst.State == api.EndComplete || dst.State == api.EndRunning):
			return moveAbort // it starts anew from the disk
		case dst.State == api.EndComplete || dst.State == api.EndRunning:
			return moveCommit // saves the guest
		case dst.State == api.EndCopying || dst.State == api.EndReady || dst.State == api.EndAbsent:
			return moveAbort
		}
	case !here && src.State != api.EndAbsent:
		return moveWait // it speaks of an earlier attempt
	case src.State == api.EndDied:
		return moveAbort
	case src.State == api.EndPresent:
		if src.Failed || dst.lost || dst.State == api.EndRunning || dst.Failed || dst.State == api.EndAbsent {
			return moveAbort
		}
	case src.State == api.EndCopying:
		if dst.lost || dst.Failed || dst.State == api.EndAbsent || dst.State == api.EndRunning {
			return moveAbort
		}
	case src.State == api.EndSwitched:
		switch {
		case m.KillSource && !mutant.On(mutant.AbortAfterKill):
			// It may be gone already: only its next word says where the guest goes on.
		case dst.lost || dst.State == api.EndAbsent || dst.State == api.EndReady || dst.State == api.EndCopying || dst.State == api.EndUnknown:
			// Aborted first, then the source resumes: the destination cannot run
			// without a commit.
			return moveAbort
		case (dst.State == api.EndComplete || dst.State == api.EndRunning) && !m.KillSource:
			return moveKillSource
		}
	case src.State == api.EndAbsent:
		switch {
		case dst.lost || dst.State == api.EndAbsent:
			return moveAbort // lost on both: aborting finds that out
		case dst.State == api.EndComplete || dst.State == api.EndRunning:
			return moveCommit
		case m.Phase == api.MigrationCopying:
			return moveSwitch
		}
	}
	if m.Phase == api.MigrationCopying && dst.State == api.EndComplete && !dst.lost {
		return moveSwitch
	}
	return moveWait
}

// decideAborting brings a migration back to its source, or to its destination
// when the guest turns out to be nowhere else.
func decideAborting(m *api.Migration, src, dst side) move {
	if m.Mode == api.MigrateCold && src.State == api.EndAbsent {
		src.State = api.EndPresent // the VM is stopped: nothing of it can be lost
	}
	whole := (dst.State == api.EndComplete || dst.State == api.EndRunning) && !dst.lost
	gone := dst.Clean || dst.lost
	switch {
	case src.lost:
		if whole && !m.KillDest && !src.ahead {
			return moveCommit
		}
		if gone {
			return moveAborted
		}
		if src.ahead {
			return orderKill(m)
		}
		return killLast(m, src, dst)
	case src.State == api.EndAbsent:
		if whole && !m.KillDest && !mutant.On(mutant.AbortKillsOnlyCopy) {
			return moveCommit
		}
		if gone {
			return moveLost
		}
		return killLast(m, src, dst)
	case src.State == api.EndDied: // what the destination has may be older than what the guest did last
		if gone {
			return moveLost
		}
		return orderKill(m)
	case src.State == api.EndPresent || src.State == api.EndSwitched:
		if m.Attempts > 0 && src.Attempt == 0 && !mutant.On(mutant.KillUnsettled) {
			return moveWait // it was told to send, and has not said that it will not
		}
		if gone {
			return moveAborted
		}
		return orderKill(m)
	}
	return moveWait // unknown, or the copy is still under way there
}

// killLast ends the destination's copy when there is none at the source. What the
// destination said before the source had ended proves nothing: it may have become
// whole since. It is asked once more, by a higher attempt, which it answers after
// another look.
func killLast(m *api.Migration, src, dst side) move {
	switch {
	case m.Attempts == 0 || m.KillDest || mutant.On(mutant.KillUnheard):
	case src.Attempt == m.Attempts:
		return moveAsk
	case dst.Attempt < m.Attempts:
		return moveWait
	case dst.State == api.EndUnknown || dst.State == api.EndUnheard || dst.State == api.EndCopying:
		return moveWait // it may hold the only copy
	}
	return orderKill(m)
}

func orderKill(m *api.Migration) move {
	if m.KillDest {
		return moveWait
	}
	return moveKillDest
}
