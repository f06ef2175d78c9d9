package cluster

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// What a guest waits for is hurried, and nothing else of a move.
func TestACutoverIsHurried(t *testing.T) {
	hurried := func(w *moveWorld) bool {
		select {
		case <-w.moves.awaited:
			return true
		default:
			return false
		}
	}
	copied(t, func(t *testing.T, w *moveWorld, x, a, b api.ID) {
		w.say(x, a, api.EndCopying)
		w.say(x, b, api.EndComplete)
		w.is(x, api.MigrationSwitched)
		must.False(t, hurried(w))
		w.say(x, a, api.EndAbsent)
		w.is(x, api.MigrationCommitted)
		must.True(t, hurried(w))
		w.tell(b, api.MoveReport{Migration: x, State: api.EndRunning, Attempt: 1, Clean: true})
		must.False(t, hurried(w))
	})
	copied(t, func(t *testing.T, w *moveWorld, x, a, b api.ID) {
		w.say(x, a, api.EndCopying)
		w.say(x, b, api.EndComplete)
		w.say(x, a, api.EndSwitched)
		must.True(t, w.is(x, api.MigrationSwitched).KillSource)
		must.True(t, hurried(w), must.Sprint("the source is to end its guest"))
	})
	copied(t, func(t *testing.T, w *moveWorld, x, a, b api.ID) {
		w.say(x, b, api.EndCopying)
		w.say(x, a, api.EndSwitched)
		w.is(x, api.MigrationAborting)
		must.True(t, hurried(w))
		w.tell(b, api.MoveReport{Migration: x, State: api.EndAbsent, Attempt: 1, Clean: true})
		w.is(x, api.MigrationAborted)
		must.True(t, hurried(w), must.Sprint("the source may let its guest go on"))
	})
	must.False(t, awaited(&fsm.Change{Table: fsm.TableMigration, New: &api.Migration{Phase: api.MigrationCommitted}}), must.Sprint("a restored one"))
}
