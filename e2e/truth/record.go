package truth

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
)

// State is what a QEMU process does.
type State string

// The states.
const (
	Run   State = "RUN"
	Pause State = "PAUSE"
	Stop  State = "STOP"
)

// Record is one change.
type Record struct {
	Time  int64 // CLOCK_BOOTTIME in nanoseconds
	Host  string
	Boot  string
	VM    string
	Epoch uint64
	State State
	PID   int // as this machine numbers it
}

func (r Record) String() string {
	return fmt.Sprintf("%d %s %s %s %d %s %d", r.Time, r.Host, r.Boot, r.VM, r.Epoch, r.State, r.PID)
}

// Read reads a truth.log.
func Read(in io.Reader) ([]Record, error) {
	var out []Record
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		var r Record
		if _, err := fmt.Sscan(lines.Text(), &r.Time, &r.Host, &r.Boot, &r.VM, &r.Epoch, &r.State, &r.PID); err != nil {
			return nil, fmt.Errorf("line %d: %w: %q", n, err, lines.Text())
		}
		if r.State != Run && r.State != Pause && r.State != Stop {
			return nil, fmt.Errorf("line %d: no such state: %q", n, r.State)
		}
		out = append(out, r)
	}
	return out, lines.Err()
}

// Interval is a time in which a process ran its VM.
type Interval struct {
	VM, Host, Boot string
	PID            int
	Epoch          uint64 // 0: not known
	From, To       int64  // To is not in it; math.MaxInt64: it runs still
	// Gone is when the process ended; math.MaxInt64: it is there still.
	Gone int64
}

// Intervals are the times in which VMs ran, in order of their beginning.
func Intervals(records []Record) []Interval {
	type process struct {
		host, boot, vm string
		pid            int
	}
	sorted := slices.Clone(records)
	slices.SortStableFunc(sorted, func(a, b Record) int { return cmp.Compare(a.Time, b.Time) })
	var out []Interval
	open := map[process]int{}       // the interval under way
	all := map[process][]int{}      // all of a process that is there
	ended := map[process]struct{}{} // events that come after the end are an echo
	for _, r := range sorted {
		p := process{r.Host, r.Boot, r.VM, r.PID}
		if _, over := ended[p]; over {
			continue
		}
		i, runs := open[p]
		switch {
		case r.State == Run && runs:
			if r.Epoch != 0 {
				out[i].Epoch = r.Epoch
			}
		case r.State == Run:
			open[p] = len(out)
			all[p] = append(all[p], len(out))
			out = append(out, Interval{r.VM, r.Host, r.Boot, r.PID, r.Epoch, r.Time, math.MaxInt64, math.MaxInt64})
		case runs:
			out[i].To = r.Time
			delete(open, p)
		}
		if r.State == Stop {
			for _, i := range all[p] {
				out[i].Gone = r.Time
			}
			ended[p] = struct{}{}
		}
	}
	return out
}
