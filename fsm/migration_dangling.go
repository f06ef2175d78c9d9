package fsm

import (
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/mutant"
)

// Dangling reports whether a move has left a part of a guest at its destination
// that will not become whole by itself: the source has ended, attested or lost with
// evidence, and the destination says that it still receives. Nothing more can come;
// what is on its way at that moment may still complete it.
func Dangling(s *State, m *api.Migration) bool {
	if m.Mode == api.MigrateCold || m.GiveUp || m.KillDest {
		return false
	}
	switch m.Phase {
	case api.MigrationCopying, api.MigrationSwitched, api.MigrationAborting:
	default:
		return false
	}
	src, dst := sideOf(s, m.VMID, m.From, m.Source), sideOf(s, m.VMID, m.To, m.Dest)
	return (src.lost || src.State == api.EndAbsent || mutant.On(mutant.GiveUpSending)) && !dst.lost && dst.State == api.EndCopying
}

// giveUp lets the destination look once more, and end what came in if it is still
// not whole. It is the destination that decides by its own look: what the servers
// know may be overtaken, and a copy that has become whole is the only one.
func (tx *Txn) giveUp(m *api.Migration, code api.Code, message string) error {
	if !Dangling(tx.s, m) {
		return raced("the destination of migration %s has more than a part, or its source may go on", m.ID.Short())
	}
	m.GiveUp = true
	if m.Phase.Open() {
		m.Phase, m.Code, m.Message = api.MigrationAborting, code, message
	}
	return nil
}
