// Package boottime is the only clock of leases: the time since boot, suspend
// included, which nobody can set.
//
// Promises: servers, agents and guards all count on the same kind of clock; that of
// one machine says nothing about another's.
//
// What does not belong: timers (the guard's own is a timerfd), wall-clock time.
package boottime

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api/mutant"
)

// Clock is the clock, for clock_gettime(2).
func Clock() int32 {
	if mutant.On(mutant.WallClock) {
		return unix.CLOCK_REALTIME
	}
	return unix.CLOCK_BOOTTIME
}

// Now reads it.
func Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(Clock(), &ts); err != nil {
		panic("CLOCK_BOOTTIME cannot be read: " + err.Error()) // exists since Linux 2.6.39
	}
	return time.Duration(ts.Nano())
}
