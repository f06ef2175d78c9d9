package lease

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

func TestTheWaitCoversLeaseKillWatchdogAndDrift(t *testing.T) {
	must.Eq(t, 32*time.Second, Default.Wait(true))
	must.Eq(t, 22*time.Second, Default.Wait(false))
	none := Default
	none.Drift = 0
	must.Eq(t, 31*time.Second, none.Wait(true))
}

func beat(t *Table, id, session api.ID, at time.Duration) bool {
	return t.beat(Beat{Node: id, Session: session, At: at})
}

func TestANewLeaderCountsFromItsBarrier(t *testing.T) {
	var tab Table
	id, session := api.NewID(), api.NewID()
	tab.Begin(100 * time.Second)
	tab.Register(id, session, 101*time.Second)
	must.True(t, beat(&tab, id, session, 105*time.Second))
	tab.Begin(130 * time.Second)
	d, heard := tab.Silent(id, 140*time.Second)
	must.Eq(t, 10*time.Second, d)
	must.False(t, heard)
	must.False(t, tab.Knows(id, session))
	// A beat that arrived before the barrier does not count from before it.
	tab.Register(id, session, 0)
	must.True(t, beat(&tab, id, session, 125*time.Second))
	d, _ = tab.Silent(id, 140*time.Second)
	must.Eq(t, 10*time.Second, d)
}

func TestNoBeatIsAcknowledgedWhileTheLossIsCommitted(t *testing.T) {
	var tab Table
	id, session := api.NewID(), api.NewID()
	tab.Begin(0)
	tab.Register(id, session, 0)
	must.True(t, beat(&tab, id, session, 10*time.Second))
	must.False(t, tab.Lose(id, 41*time.Second, 32*time.Second))
	must.True(t, beat(&tab, id, session, 10*time.Second))
	must.True(t, tab.Lose(id, 42*time.Second, 32*time.Second))
	must.False(t, beat(&tab, id, session, 42*time.Second))
	tab.Spare(id)
	must.True(t, beat(&tab, id, session, 43*time.Second))
	must.True(t, tab.Lose(id, 80*time.Second, 32*time.Second))
	tab.Register(id, session, 81*time.Second)
	must.True(t, beat(&tab, id, session, 82*time.Second))
}

func TestANodeThatWasNeverHeardIsLostAfterTheWaitToo(t *testing.T) {
	var tab Table
	id := api.NewID()
	tab.Begin(time.Second)
	must.False(t, tab.Lose(id, 32*time.Second, 32*time.Second))
	must.True(t, tab.Lose(id, 33*time.Second, 32*time.Second))
	must.False(t, beat(&tab, id, api.ID{}, 34*time.Second))
	session := api.NewID()
	tab.adopt(id, session, 34*time.Second) // its session is known from an earlier term
	must.False(t, beat(&tab, id, session, 34*time.Second))
	tab.Spare(id)
	tab.adopt(id, session, 35*time.Second)
	must.True(t, beat(&tab, id, session, 35*time.Second))
}

func TestAStorm(t *testing.T) {
	must.False(t, Storm(2, 3))
	must.False(t, Storm(3, 9))
	must.True(t, Storm(3, 8))
	must.False(t, Storm(1, 2))
	must.True(t, Storm(50, 100))
}
