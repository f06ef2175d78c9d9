package truth

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Violation is a broken invariant.
type Violation struct {
	Invariant string `json:"invariant"`
	Text      string `json:"text"`
}

func violation(invariant, format string, args ...any) Violation {
	return Violation{invariant, fmt.Sprintf(format, args...)}
}

// where names the machine of an interval: a host that has booted anew is another.
func (i Interval) where() string { return i.Host + "/" + i.Boot }

// Overlaps is S1: no VM runs in two processes at once, on whatever hosts.
func Overlaps(intervals []Interval) (out []Violation) {
	for n, a := range intervals {
		for _, b := range intervals[n+1:] {
			if a.VM != b.VM || a.where() == b.where() && a.PID == b.PID {
				continue
			}
			if over := min(a.To, b.To) - max(a.From, b.From); over > 0 {
				out = append(out, violation("S1", "VM %s ran twice for %s: process %d on %s and process %d on %s",
					a.VM, length(over), a.PID, a.where(), b.PID, b.where()))
			}
		}
	}
	return out
}

func length(ns int64) string {
	if ns > math.MaxInt64/2 {
		return "an unknown time"
	}
	return time.Duration(ns).String()
}

// Epochs is S5: from host to host the epoch of what runs rises strictly, on one
// host it does not fall. It returns also how many epochs were not known.
func Epochs(intervals []Interval) (out []Violation, unknown int) {
	last := map[string]Interval{}
	for _, i := range intervals {
		if i.Epoch == 0 {
			unknown++
			continue
		}
		before, seen := last[i.VM]
		switch {
		case !seen:
		case before.Host != i.Host && i.Epoch <= before.Epoch:
			out = append(out, violation("S5", "VM %s ran with epoch %d on %s after epoch %d on %s", i.VM, i.Epoch, i.Host, before.Epoch, before.Host))
		case i.Epoch < before.Epoch:
			out = append(out, violation("S5", "VM %s ran with epoch %d after epoch %d on %s", i.VM, i.Epoch, before.Epoch, i.Host))
		}
		last[i.VM] = i
	}
	return out, unknown
}

// Handover is a change of the host on which a VM runs.
type Handover struct {
	VM, From, To string
	// Downtime is from the last instant at which it ran on the old host to the
	// first on the new one.
	Downtime time.Duration
	// Margin is from the end of the old process to the first instant on the new
	// host; negative when the old process was still there.
	Margin time.Duration
	Time   int64 // of the first instant on the new host
}

// Handovers are the changes of host, in order.
func Handovers(intervals []Interval) (out []Handover) {
	last := map[string]Interval{}
	for _, i := range intervals {
		if before, seen := last[i.VM]; seen && before.where() != i.where() {
			margin := i.From - before.Gone
			if before.Gone == math.MaxInt64 {
				margin = math.MinInt64
			}
			out = append(out, Handover{i.VM, before.Host, i.Host, time.Duration(i.From - before.To), time.Duration(margin), i.From})
		}
		last[i.VM] = i
	}
	return out
}

// Margins is S7: at each handover the old process is gone for at least so long
// before the new one runs. For a migration least is 0: the source's process has
// ended. It returns the smallest margin too; false when nothing changed hosts.
func Margins(handovers []Handover, least time.Duration) (out []Violation, smallest time.Duration, any bool) {
	smallest = math.MaxInt64
	for _, h := range handovers {
		any, smallest = true, min(smallest, h.Margin)
		switch {
		case h.Margin == math.MinInt64:
			out = append(out, violation("S7", "VM %s ran on %s while its process on %s was still there", h.VM, h.To, h.From))
		case h.Margin < least:
			out = append(out, violation("S7", "VM %s ran on %s %s after its process on %s had ended, at least %s are needed", h.VM, h.To, h.Margin, h.From, least))
		}
	}
	return out, smallest, any
}

// Commit is a cutover as Raft has it.
type Commit struct {
	VM, To string
	Time   int64 // CLOCK_BOOTTIME at which the leader proposed it
}

// Committed is M3: a VM changes hosts only after a commit that names the new one,
// and each commit serves one handover. Restarts elsewhere are commits too.
func Committed(handovers []Handover, commits []Commit) (out []Violation) {
	left := slices.Clone(commits)
	for _, h := range handovers {
		if h.From == h.To { // it has booted again
			continue
		}
		at := slices.IndexFunc(left, func(c Commit) bool { return c.VM == h.VM && c.To == h.To && c.Time <= h.Time })
		if at < 0 {
			out = append(out, violation("M3", "VM %s ran on %s with no commit before it", h.VM, h.To))
			continue
		}
		left = slices.Delete(left, at, at+1)
	}
	return out
}

// Untouched is L3: in a time nothing of these VMs ended or was paused.
func Untouched(records []Record, vms []string, from, to int64) (out []Violation) {
	for _, r := range records {
		if r.State != Run && r.Time >= from && r.Time <= to && slices.Contains(vms, r.VM) {
			out = append(out, violation("L3", "VM %s: %s of process %d on %s", r.VM, r.State, r.PID, r.Host))
		}
	}
	return out
}
