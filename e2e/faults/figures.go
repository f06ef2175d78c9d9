package faults

import (
	"fmt"
	"slices"
	"strings"
)

// Figure is what was measured of one thing in all runs that held, in seconds.
type Figure struct {
	Name string  `json:"name"`
	N    int     `json:"n"`
	P50  float64 `json:"p50_s"`
	P99  float64 `json:"p99_s"`
	Min  float64 `json:"min_s"`
	Max  float64 `json:"max_s"`
}

// figureOf sums up values; percentiles are of the nearest rank.
func figureOf(name string, values []float64) Figure {
	f := Figure{Name: name, N: len(values)}
	if f.N == 0 {
		return f
	}
	slices.Sort(values)
	rank := func(p int) float64 { return values[(p*len(values)+99)/100-1] }
	f.P50, f.P99, f.Min, f.Max = rank(50), rank(99), values[0], values[len(values)-1]
	return f
}

// figures are what the runs measured. The time that the commit adds to the
// downtime of a move is that between the end of the source's process and the run
// at the destination; of moves that were broken it says how long the guest waited
// for what was broken.
func (r *Report) figures() []Figure {
	var added, downtime, broken, detection, restart, margin, reset []float64
	for _, x := range r.Results {
		if x.verdict() != "held" {
			continue
		}
		if x.Reset > 0 {
			reset = append(reset, x.Reset)
		}
		switch {
		case x.Restart > 0:
			restart, margin = append(restart, x.Restart), append(margin, x.Margin)
			if x.Detection > 0 {
				detection = append(detection, x.Detection)
			}
		case x.Margin > 0 && x.Scenario == "none":
			added, downtime = append(added, x.Margin), append(downtime, x.Downtime)
		case x.Margin > 0:
			broken = append(broken, x.Margin)
		}
	}
	return []Figure{
		figureOf("move, undisturbed: source's end to run at the destination (added by the commit)", added),
		figureOf("move, undisturbed: downtime of the guest", downtime),
		figureOf("move, broken: source's end to run at the destination", broken),
		figureOf("host lost: until the servers declare it lost", detection),
		figureOf("host lost: until the VM runs elsewhere", restart),
		figureOf("host lost: margin between the last stop and the next run", margin),
		figureOf("host frozen: until its watchdog resets it", reset),
	}
}

func writeFigures(b *strings.Builder, list []Figure) {
	b.WriteString("\n| figure | n | p50 | p99 | least | most |\n|--|--|--|--|--|--|\n")
	for _, f := range list {
		if f.N == 0 {
			fmt.Fprintf(b, "| %s | 0 | | | | |\n", f.Name)
			continue
		}
		fmt.Fprintf(b, "| %s | %d | %.3f s | %.3f s | %.3f s | %.3f s |\n", f.Name, f.N, f.P50, f.P99, f.Min, f.Max)
	}
}
