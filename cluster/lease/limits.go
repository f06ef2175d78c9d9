// Package lease is the leader's side of the leases of nodes: who was heard when,
// who may be declared lost, and when so many fall silent together that it is
// rather the servers' own network.
//
// Promises: everything here is a pure function of what it is given, with times
// on CLOCK_BOOTTIME; it knows no clock, no Raft and no goroutine, so that a
// simulation runs the same code.
//
// What does not belong: the node's side (agent/guard, agent/client), and what is
// replicated (fsm: HostLost).
package lease

import (
	"time"

	"github.com/novacron/novacron/api/mutant"
)

// Limits are the times of leases. They are the same on all machines of a region.
type Limits struct {
	Heartbeat time.Duration // h
	Lease     time.Duration // T, from just before the beat was sent
	Kill      time.Duration // K, within which the guard has killed
	Watchdog  time.Duration // T_wd, within which the watchdog resets the machine
	// Drift is the bound on the error of a machine's clock rate.
	Drift float64
}

// Default are the limits of the product.
var Default = Limits{Heartbeat: 3 * time.Second, Lease: 15 * time.Second, Kill: 5 * time.Second, Watchdog: 10 * time.Second, Drift: 0.01}

// margin lies between the last instant at which a VM may run on the old node
// and the first at which it may elsewhere.
const margin = time.Second

// Wait is the least W: how long after the receipt of the last beat that was
// acknowledged nothing guarded runs on the node any more. In whole seconds,
// rounded up: W >= (T + K + T_wd)(1+ρ)/(1-ρ) + 1 s.
func (l Limits) Wait(watchdog bool) time.Duration {
	d := l.Lease + l.Kill
	if mutant.On(mutant.ShortWait) {
		return l.Lease
	}
	if watchdog {
		d += l.Watchdog
	}
	w := time.Duration(float64(d)*(1+l.Drift)/(1-l.Drift)) + margin
	return (w + time.Second - 1).Truncate(time.Second)
}

// Suspect is after how much silence a node is suspect.
func (l Limits) Suspect() time.Duration { return 2 * l.Heartbeat }

// Storm reports whether so many of the nodes have fallen silent together that it
// must be held for a failure of the servers' own network: more than a third, and
// more than two.
func Storm(silent, nodes int) bool {
	return silent > 2 && 3*silent > nodes && !mutant.On(mutant.NoStormBrake)
}
