package faults

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/novacron/novacron/e2e/truth"
)

// Result is what came of one run.
type Result struct {
	N        int    `json:"n"`
	Seed     uint64 `json:"seed"` // of this run: it alone repeats it
	Scenario string `json:"scenario"`
	Pool     string `json:"pool,omitempty"`
	From     string `json:"from,omitempty"`
	// Point and Party of a migration that was cut.
	Point     int    `json:"point,omitempty"`
	PointName string `json:"point_name,omitempty"`
	Party     string `json:"party,omitempty"`
	// Outcome is the phase in which the migration ended.
	Outcome string `json:"outcome,omitempty"`
	RunsOn  string `json:"runs_on,omitempty"`
	// Restarted: the guest was started anew; MayRestart: its process was killed.
	Restarted  bool `json:"restarted,omitempty"`
	MayRestart bool `json:"may_restart,omitempty"`
	// Control says why the run is expected to be red; empty: it is to hold.
	Control string `json:"control,omitempty"`
	// Void says why the run proves nothing; empty: it counts.
	Void       string            `json:"void,omitempty"`
	Violations []truth.Violation `json:"violations,omitempty"`
	Notes      []string          `json:"notes,omitempty"`
	// Downtime is the longest time between running on one host and on the next,
	// Margin the shortest between the end of the old process and running on the
	// next host, Duration that of the run; all in seconds.
	Downtime float64 `json:"downtime_s,omitempty"`
	Margin   float64 `json:"margin_s,omitempty"`
	Duration float64 `json:"duration_s"`
	// Least is the margin that is demanded; Restart is from the loss of the host to
	// running elsewhere.
	Least   float64 `json:"least_margin_s,omitempty"`
	Restart float64 `json:"restart_s,omitempty"`
	// Detection is from the loss of the host to the servers' word that it is lost.
	Detection float64 `json:"detection_s,omitempty"`
	// Reset is from the freeze of the host to the reset by its watchdog.
	Reset float64 `json:"reset_s,omitempty"`
	// Disk is what the guest's disk said at the end.
	Disk string `json:"disk,omitempty"`
	// Expected is what the run left behind on purpose.
	Expected []string `json:"expected,omitempty"`
	// Hit is when it was broken, by CLOCK_BOOTTIME.
	Hit int64 `json:"hit_ns,omitempty"`
}

// redControl are the invariants that a control breaks: that a VM runs twice, and
// what comes of it for the guest.
var redControl = []string{"S1", "S5", "S7", "M5"}

// verdict in one word, or two of a control: one that is red as it should be shows
// that the faults are real and that the checkers see them. It is never counted as
// good, and what else it breaks is a violation like any other.
func (r *Result) verdict() string {
	red, other := false, false
	for _, v := range r.Violations {
		red = red || v.Invariant == "S1"
		other = other || !slices.Contains(redControl, v.Invariant)
	}
	switch {
	case r.Control != "" && red && !other:
		return "red control"
	case len(r.Violations) > 0:
		return "VIOLATED"
	case r.Void != "":
		return "void"
	case r.Control != "":
		return "GREEN control"
	}
	return "held"
}

func (r *Result) title() string {
	if r.Point == 0 {
		return r.Scenario
	}
	return fmt.Sprintf("%s %d (%s) x %s", r.Scenario, r.Point, r.PointName, r.Party)
}

// Report is the outcome of all runs of a seed.
type Report struct {
	Seed     uint64 `json:"seed"`
	Runs     int    `json:"runs"`
	Held     int    `json:"held"`
	Void     int    `json:"void"`
	Violated int    `json:"violated"`
	// Controls are the red controls; a green one counts as violated.
	Controls int       `json:"controls"`
	Results  []*Result `json:"results"`
	Figures  []Figure  `json:"figures"`
}

// add counts a result.
func (r *Report) add(one *Result) {
	r.Results = append(r.Results, one)
	r.Runs++
	switch one.verdict() {
	case "held":
		r.Held++
	case "void":
		r.Void++
	case "red control":
		r.Controls++
	default:
		r.Violated++
	}
}

// Counts are the verdicts in words.
func (r *Report) Counts() string {
	return fmt.Sprintf("%d runs: %d held, %d violated, %d void, %d red controls", r.Runs, r.Held, r.Violated, r.Void, r.Controls)
}

// Write writes report.json and report.md.
func (r *Report) Write(dir string) error {
	r.Figures = r.figures()
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "report.md"), []byte(r.markdown()), 0o644)
}

func (r *Report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Faults, seed %d\n\n%s.\n\n", r.Seed, r.Counts())
	b.WriteString("| # | run | pool | from | verdict | ended | runs on | anew | downtime | margin | restart | took | seed |\n|--|--|--|--|--|--|--|--|--|--|--|--|--|\n")
	for _, x := range r.Results {
		anew := ""
		if x.Restarted {
			anew = "yes"
		}
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %.0f s | %d |\n", x.N, x.title(), x.Pool, x.From, x.verdict(), x.Outcome, x.RunsOn, anew,
			seconds(x.Downtime), seconds(x.Margin), seconds(x.Restart), x.Duration, x.Seed)
	}
	r.writeMatrix(&b)
	writeFigures(&b, r.figures())
	for _, x := range r.Results {
		if len(x.Violations) == 0 && x.Void == "" && x.Control == "" {
			continue
		}
		fmt.Fprintf(&b, "\n## %d: %s\n\n", x.N, x.title())
		if x.Control != "" {
			fmt.Fprintf(&b, "a control, expected to be red: %s\n\n", x.Control)
		}
		if x.Void != "" {
			fmt.Fprintf(&b, "void: %s\n", x.Void)
		}
		for _, v := range x.Violations {
			fmt.Fprintf(&b, "- %s: %s\n", v.Invariant, v.Text)
		}
		for _, n := range x.Notes {
			fmt.Fprintf(&b, "- note: %s\n", n)
		}
	}
	return b.String()
}

func seconds(s float64) string {
	if s == 0 {
		return ""
	}
	return fmt.Sprintf("%.3f s", s)
}
