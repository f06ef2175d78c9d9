package truth

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// log reads lines "time host epoch state pid" of one VM.
func log(t *testing.T, lines ...string) []Record {
	t.Helper()
	var text strings.Builder
	for _, l := range lines {
		f := strings.Fields(l)
		must.Len(t, 5, f)
		text.WriteString(strings.Join([]string{f[0], f[1], "boot-" + f[1], "vm", f[2], f[3], f[4]}, " ") + "\n")
	}
	out, err := Read(strings.NewReader(text.String()))
	must.NoError(t, err)
	return out
}

// good is a move from a to b.
var good = []string{
	"100 a 1 RUN 10", "150 b 1 PAUSE 20", "200 a 1 PAUSE 10", "210 a 1 STOP 10", "260 b 2 RUN 20", "300 b 2 STOP 20",
}

func TestALineIsReadAsItWasWritten(t *testing.T) {
	for _, r := range log(t, good...) {
		again, err := Read(strings.NewReader(r.String()))
		must.NoError(t, err)
		must.Eq(t, []Record{r}, again)
	}
	for _, bad := range []string{"x", "1 a b vm 1 WALK 7", "1 a b vm 1 RUN"} {
		_, err := Read(strings.NewReader(bad))
		must.Error(t, err)
	}
}

func TestIntervals(t *testing.T) {
	got := Intervals(log(t, good...))
	must.Eq(t, []Interval{
		{"vm", "a", "boot-a", 10, 1, 100, 200, 210},
		{"vm", "b", "boot-b", 20, 2, 260, 300, 300},
	}, got)
	t.Log("an event that comes late is put where it belongs, an echo of one that is gone is nothing")
	got = Intervals(log(t, "200 a 1 STOP 10", "100 a 1 RUN 10", "250 a 1 RUN 10"))
	must.Eq(t, []Interval{{"vm", "a", "boot-a", 10, 1, 100, 200, 200}}, got)
	t.Log("what has not ended runs still")
	must.Eq(t, int64(math.MaxInt64), Intervals(log(t, "1 a 1 RUN 10"))[0].To)
}

func TestOverlaps(t *testing.T) {
	must.SliceEmpty(t, Overlaps(Intervals(log(t, good...))))
	for name, lines := range map[string][]string{
		"by one nanosecond":            {"100 a 1 RUN 10", "201 a 1 PAUSE 10", "200 b 2 RUN 20"},
		"the destination early":        {"100 a 1 RUN 10", "150 b 1 RUN 20", "160 b 1 PAUSE 20", "200 a 1 PAUSE 10"},
		"the source is resumed":        {"100 a 1 RUN 10", "200 a 1 PAUSE 10", "210 b 2 RUN 20", "300 a 1 RUN 10"},
		"two processes on one host":    {"100 a 1 RUN 10", "150 a 1 RUN 11"},
		"written in the wrong order":   {"210 b 2 RUN 20", "100 a 1 RUN 10", "220 a 1 STOP 10"},
		"the first outlasts the third": {"100 a 1 RUN 10", "150 b 2 RUN 20", "160 b 2 STOP 20", "170 c 3 RUN 30"},
	} {
		must.SliceNotEmpty(t, Overlaps(Intervals(log(t, lines...))), must.Sprint(name))
	}
}

func TestEpochs(t *testing.T) {
	bad, unknown := Epochs(Intervals(log(t, append(good, "400 b 2 RUN 21")...)))
	must.SliceEmpty(t, bad)
	must.Zero(t, unknown)
	for name, lines := range map[string][]string{
		"the same on another host": {"100 a 1 RUN 10", "200 a 1 STOP 10", "300 b 1 RUN 20"},
		"back to an older one":     {"100 a 1 RUN 10", "200 a 1 STOP 10", "300 b 2 RUN 20", "310 b 2 STOP 20", "400 a 1 RUN 11"},
		"down on one host":         {"100 a 2 RUN 10", "200 a 2 STOP 10", "300 a 1 RUN 11"},
	} {
		bad, _ := Epochs(Intervals(log(t, lines...)))
		must.SliceNotEmpty(t, bad, must.Sprint(name))
	}
	_, unknown = Epochs(Intervals(log(t, "100 a 0 RUN 10")))
	must.Eq(t, 1, unknown)
}

func TestMargins(t *testing.T) {
	h := Handovers(Intervals(log(t, good...)))
	must.Eq(t, []Handover{{"vm", "a", "b", 60, 50, 260}}, h)
	bad, smallest, any := Margins(h, 0)
	must.SliceEmpty(t, bad)
	must.True(t, any)
	must.Eq(t, time.Duration(50), smallest)
	bad, _, _ = Margins(h, time.Second)
	must.SliceNotEmpty(t, bad)
	bad, _, _ = Margins(Handovers(Intervals(log(t, "100 a 1 RUN 10", "200 a 1 PAUSE 10", "260 b 2 RUN 20"))), 0)
	must.SliceNotEmpty(t, bad, must.Sprint("the old process is still there"))
	_, _, any = Margins(Handovers(Intervals(log(t, "100 a 1 RUN 10", "110 a 1 STOP 10", "120 a 1 RUN 11"))), 0)
	must.False(t, any)
}

func TestCommitted(t *testing.T) {
	h := Handovers(Intervals(log(t, good...)))
	must.SliceEmpty(t, Committed(h, []Commit{{"vm", "b", 220}}))
	must.SliceNotEmpty(t, Committed(h, nil))
	must.SliceNotEmpty(t, Committed(h, []Commit{{"vm", "b", 261}}), must.Sprint("too late"))
	must.SliceNotEmpty(t, Committed(h, []Commit{{"vm", "a", 220}}), must.Sprint("another host"))
	must.SliceEmpty(t, Committed([]Handover{{VM: "vm", From: "a", To: "a", Time: 300}}, nil), must.Sprint("it has booted again"))
	there := Handovers(Intervals(log(t, append(good, "400 a 3 RUN 11", "410 a 3 STOP 11", "500 b 4 RUN 21")...)))
	must.SliceNotEmpty(t, Committed(there, []Commit{{"vm", "b", 220}, {"vm", "a", 350}}), must.Sprint("one commit does not serve twice"))
}

func TestUntouched(t *testing.T) {
	records := log(t, good...)
	must.SliceEmpty(t, Untouched(records, []string{"vm"}, 0, 149))
	must.SliceEmpty(t, Untouched(records, []string{"other"}, 0, 1000))
	must.SliceNotEmpty(t, Untouched(records, []string{"vm"}, 0, 200))
}
