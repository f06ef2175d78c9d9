package cluster

import (
	"context"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// A guest that stands still waits for the order that lets it go on, and its node
// may follow a server that does not lead. Such a server learns that an entry is
// committed only with the next message of Raft, and when nothing else is written
// that comes after Raft's commit timeout: longer than all the rest of a cutover takes.
// An entry more takes it there at once. It is a barrier, which changes nothing: who
// hears of a cutover a moment earlier hears of it as committed all the same.

// awaited reports whether a guest that stands still goes on, or ends, by what a
// change tells its nodes.
func awaited(c *fsm.Change) bool {
	if c.Table != fsm.TableMigration {
		return false
	}
	old, _ := c.Old.(*api.Migration)
	m, _ := c.New.(*api.Migration)
	if old == nil || m == nil || m.Mode == api.MigrateCold {
		return false
	}
	switch m.Phase {
	case api.MigrationCommitted, api.MigrationAborted, api.MigrationAborting:
		return m.Phase != old.Phase
	}
	return m.KillSource != old.KillSource
}

// dutyCutovers brings what guests wait for to all servers.
func (s *Server) dutyCutovers(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.moves.awaited:
		}
		if !s.enter() {
			return nil
		}
		if err := s.raft.Barrier(barrierTimeout).Error(); err != nil {
			s.log.Debug("a cutover was not hurried", "error", err) // they hear of it all the same
		}
		s.wg.Done()
	}
}
