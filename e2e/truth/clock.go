package truth

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now reads CLOCK_BOOTTIME.
func Now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // Linux has had it since 2.6.39
	}
	return t.Nano()
}

// At turns a time of the wall clock, which all hosts of a lab share, into one of
// CLOCK_BOOTTIME.
func At(wall time.Time) int64 { return Now() - time.Since(wall.Round(0)).Nanoseconds() }
