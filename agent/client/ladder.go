package client

import (
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// The rungs of the ladder that a live move climbs when it does not converge.
const (
	rungNone     = ""
	rungThrottle = "throttle" // the hypervisor takes CPU time from the guest
	rungDowntime = "downtime" // the guest may stand still for longer
	rungWarm     = "warm"     // the guest stands still until all is there
)

const (
	// ladderPasses over memory without an end make a move climb a rung, and then
	// each time as many again.
	ladderPasses = 3
	ladderTime   = 20 * time.Second // the least time on a rung
	limitFactor  = 10               // DowntimeLimit by default, in MaxDowntime
)

// climb is what a ladder wants done.
type climb struct {
	downtime api.Duration // to allow, 0: as it is
	pause    bool         // the guest is to stand still
	giveUp   bool         // the move is to be ended, the source goes on
}

// ladder decides how hard a live move tries. It is a pure state machine over
// samples: bounded, since each rung is climbed once and downtime only doubles.
type ladder struct {
	opts     api.MigrationOptions
	rung     string
	downtime api.Duration
	passes   int32        // when the rung was reached
	since    api.Duration // elapsed then
}

func newLadder(o api.MigrationOptions) *ladder {
	if o.MaxDowntime == 0 {
		o.MaxDowntime = api.DefaultMaxDowntime
	}
	if o.DowntimeLimit == 0 {
		o.DowntimeLimit = limitFactor * o.MaxDowntime
	}
	l := &ladder{opts: o, downtime: o.MaxDowntime}
	if o.AutoConverge {
		l.rung = rungThrottle // from the start: the hypervisor does it by itself
	}
	return l
}

// allow takes other limits, which the servers have set, and returns the downtime
// to allow from now on. The ladder is climbed anew from there.
func (l *ladder) allow(o api.MigrationOptions) api.Duration {
	l.opts.MaxDowntime, l.opts.DowntimeLimit = o.MaxDowntime, max(o.DowntimeLimit, o.MaxDowntime)
	l.downtime = o.MaxDowntime
	return l.downtime
}

// step takes a sample and says what to do next.
func (l *ladder) step(s hypervisor.MoveStats) climb {
	stuck := s.Passes-l.passes >= ladderPasses && s.Elapsed-l.since >= api.Duration(ladderTime)
	if !stuck || l.rung == rungWarm || s.Remaining == 0 {
		return climb{}
	}
	l.passes, l.since = s.Passes, s.Elapsed
	switch {
	case l.downtime < l.opts.DowntimeLimit:
		l.rung = rungDowntime
		l.downtime = min(2*l.downtime, l.opts.DowntimeLimit)
		return climb{downtime: l.downtime}
	case l.opts.WarmFallback:
		l.rung = rungWarm
		return climb{pause: true}
	}
	return climb{giveUp: true}
}
