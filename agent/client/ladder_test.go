package client

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// climbAll feeds a ladder with samples of a guest that never converges, and
// returns what it wanted, in order.
func climbAll(o api.MigrationOptions) (out []climb, last string) {
	l := newLadder(o)
	for pass := range int32(100) {
		c := l.step(hypervisor.MoveStats{Passes: pass, Elapsed: api.Duration(pass) * api.Duration(10*time.Second), Remaining: api.GiB})
		if c != (climb{}) {
			out = append(out, c)
		}
		if c.giveUp {
			break
		}
	}
	return out, l.rung
}

func TestALiveMoveRaisesTheDowntimeThenGivesUp(t *testing.T) {
	ms := func(n int) api.Duration { return api.Duration(n) * api.Duration(time.Millisecond) }
	got, rung := climbAll(api.MigrationOptions{MaxDowntime: ms(300), DowntimeLimit: ms(1000)})
	must.Eq(t, []climb{{downtime: ms(600)}, {downtime: ms(1000)}, {giveUp: true}}, got)
	must.Eq(t, rungDowntime, rung)
}

func TestALiveMoveMayGoWarmInTheEnd(t *testing.T) {
	got, rung := climbAll(api.MigrationOptions{MaxDowntime: 1, DowntimeLimit: 1, WarmFallback: true})
	must.Eq(t, []climb{{pause: true}}, got, must.Sprint("and then it waits for the copy"))
	must.Eq(t, rungWarm, rung)
}

func TestTheLadderIsBoundedByDefault(t *testing.T) {
	got, _ := climbAll(api.MigrationOptions{})
	must.Eq(t, climb{giveUp: true}, got[len(got)-1])
	must.Eq(t, limitFactor*api.DefaultMaxDowntime, got[len(got)-2].downtime)
	must.Less(t, 8, len(got))
}

func TestAMoveThatConvergesIsLeftAlone(t *testing.T) {
	l := newLadder(api.MigrationOptions{AutoConverge: true})
	must.Eq(t, rungThrottle, l.rung)
	must.Eq(t, climb{}, l.step(hypervisor.MoveStats{Passes: 2, Elapsed: api.Duration(time.Hour), Remaining: 1}), must.Sprint("few passes"))
	must.Eq(t, climb{}, l.step(hypervisor.MoveStats{Passes: 9, Elapsed: api.Duration(time.Second), Remaining: 1}), must.Sprint("a short time"))
	must.Eq(t, climb{}, l.step(hypervisor.MoveStats{Passes: 9, Elapsed: api.Duration(time.Hour)}), must.Sprint("nothing is left"))
}
