package faults

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/e2e/truth"
)

func census(counts map[string]int, things ...string) *Census {
	c := &Census{map[string]bool{}, counts}
	for _, t := range things {
		c.Things[t] = true
	}
	return c
}

func TestDiff(t *testing.T) {
	const volume = "01f57b71-1235-4fd9-bde8-7f560d45f107"
	aside := "c1 file /var/lib/novacron/pools/default/.aside-1764-" + volume + ".qcow2"
	pin := "c1 file /var/lib/novacron/images/pins/235e23/" + volume
	before := census(map[string]int{"fds": 100}, "c1 interface tap0", "c1 domain a")

	diff, kept := Diff(before, census(map[string]int{"fds": 118}, "c1 interface tap0", "c1 domain a"))
	must.SliceEmpty(t, diff)
	must.SliceEmpty(t, kept)
	diff, _ = Diff(before, census(map[string]int{"fds": 119}, "c1 domain a", "c1 interface tap1"))
	must.Eq(t, []string{"+ c1 interface tap1", "+ fds: 119, before 100", "- c1 interface tap0"}, diff)

	t.Log("a disk that is set aside is expected, and so is the image under it, there and nowhere else")
	diff, kept = Diff(before, census(nil, "c1 interface tap0", "c1 domain a", aside, pin))
	must.SliceEmpty(t, diff)
	must.Eq(t, []string{pin, aside}, kept)
	diff, _ = Diff(before, census(nil, "c1 interface tap0", "c1 domain a", pin))
	must.Eq(t, []string{"+ " + pin}, diff)
}

func TestCellsAreThoseThatExist(t *testing.T) {
	cells := AllCells()
	must.Len(t, len(points)*len(parties)-8, cells)
	for _, c := range cells {
		must.False(t, c.Party == "source QEMU" && c.Point > 10 || c.Party == "destination QEMU" && c.Point < 5, must.Sprint(c))
	}
	for i, p := range points {
		must.Eq(t, i+1, p.Number)
	}
}

func TestTheReportCounts(t *testing.T) {
	r := &Report{Seed: 7}
	r.add(&Result{N: 1, Scenario: "none"})
	r.add(&Result{N: 2, Scenario: "migration", Point: 6, PointName: "10% copied", Party: "leader", Void: "too late"})
	r.add(&Result{N: 3, Scenario: "migration", Point: 6, Party: "leader", Void: "too late", Violations: []truth.Violation{{Invariant: "S1", Text: "twice"}}})
	must.Eq(t, []int{3, 1, 1, 1}, []int{r.Runs, r.Held, r.Void, r.Violated}, must.Sprint("what is violated is never void"))
	dir := t.TempDir()
	must.NoError(t, r.Write(dir))
	text, err := os.ReadFile(filepath.Join(dir, "report.json"))
	must.NoError(t, err)
	var back Report
	must.NoError(t, json.Unmarshal(text, &back))
	must.Eq(t, *r, back)
	md, err := os.ReadFile(filepath.Join(dir, "report.md"))
	must.NoError(t, err)
	must.StrContains(t, string(md), "3 runs: 1 held, 1 violated, 1 void")
	must.StrContains(t, string(md), "migration 6 (10% copied) x leader")
	must.StrContains(t, string(md), "- S1: twice")
}

func TestFiguresCountWhatHeld(t *testing.T) {
	r := &Report{}
	for i := range 100 {
		r.add(&Result{N: i, Scenario: "none", Margin: float64(i+1) / 100, Downtime: 1})
	}
	r.add(&Result{N: 101, Scenario: "host-power-loss", Restart: 25, Detection: 22, Margin: 5})
	r.add(&Result{N: 102, Scenario: "host-power-loss", Restart: 99, Void: "too late"})
	f := r.figures()
	must.Eq(t, Figure{Name: f[0].Name, N: 100, P50: 0.5, P99: 0.99, Min: 0.01, Max: 1}, f[0])
	must.Zero(t, f[2].N)
	must.Eq(t, []float64{22, 25, 5}, []float64{f[3].P50, f[4].P99, f[5].Min})
}

func TestWhatLibvirtLeavesAtAPowerLoss(t *testing.T) {
	const left = "+ c2 file /var/lib/libvirt/qemu/domain-5-nova-c2b0ac38-382b-4/master-key.aes"
	must.True(t, outlives(left, "c2"))
	must.True(t, outlives("+ c2 file /var/lib/libvirt/qemu/channel/target/domain-5-nova-c2b0ac38-382b-4", "c2"))
	must.False(t, outlives(left, "c1"))
	must.False(t, outlives("+ c2 file /var/lib/libvirt/images/disk", "c2"))
	must.False(t, outlives("- c2 domain nova-c2b0ac38", "c2"))
}

func TestAControlIsRedAndNeverCountedAsGood(t *testing.T) {
	twice := truth.Violation{Invariant: "S1", Text: "twice"}
	r := &Report{}
	for want, x := range map[string]*Result{
		"red control":   {Violations: []truth.Violation{twice, {Invariant: "M5"}}},
		"GREEN control": {},
		"void":          {Void: "it was not restarted"},
		"VIOLATED":      {Violations: []truth.Violation{twice, {Invariant: "M4", Text: "+ c1 interface tap1"}}},
	} {
		x.Control = "no watchdog"
		must.Eq(t, want, x.verdict())
		r.add(x)
	}
	must.Eq(t, []int{4, 0, 2, 1, 1}, []int{r.Runs, r.Held, r.Violated, r.Void, r.Controls})
	must.StrContains(t, r.markdown(), "a control, expected to be red: no watchdog")
	must.Eq(t, "VIOLATED", (&Result{Violations: []truth.Violation{twice}}).verdict())
}

func TestReportsAreMergedAndTellOfEachCell(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	one, two := &Report{Seed: 7}, &Report{Seed: 8}
	one.add(&Result{N: 1, Seed: 70, Scenario: "migration", Point: 6, Party: "leader", Pool: local})
	one.add(&Result{N: 2, Seed: 71, Scenario: "migration", Point: 6, Party: "leader", Pool: local, Void: "too late"})
	two.add(&Result{N: 1, Seed: 80, Scenario: "migration", Point: 6, Party: "leader", Pool: local, Violations: []truth.Violation{{Invariant: "S1"}}})
	two.add(&Result{N: 2, Seed: 81, Scenario: "none", Pool: shared})
	must.NoError(t, one.Write(a))
	must.NoError(t, two.Write(b))
	all, err := Merge([]string{a, b})
	must.NoError(t, err)
	must.Eq(t, []int{4, 2, 1, 1}, []int{all.Runs, all.Held, all.Void, all.Violated})
	must.Eq(t, []uint64{70, 71, 80, 81}, []uint64{all.Results[0].Seed, all.Results[1].Seed, all.Results[2].Seed, all.Results[3].Seed})
	must.Eq(t, 3, all.Results[2].N)
	md := all.markdown()
	must.StrContains(t, md, "| VIOLATED, held, void |")
	must.StrContains(t, md, "| 1 before prepared | not run | not run | not run | not run | not run | not run | - | not run |")
	must.StrNotContains(t, md, "pool "+shared+":", must.Sprint("no cell was run there"))
	_, err = Merge([]string{a, t.TempDir()})
	must.ErrorIs(t, err, os.ErrNotExist)
}

func TestGoroutinesOfPooledConnectionsAreNotCounted(t *testing.T) {
	n, err := countStacks(`goroutine profile: total 9
4 @ 0x1 0x2
#	0x1	google.golang.org/grpc/internal/transport.(*loopyWriter).run+0x1

3 @ 0x3
#	0x3	github.com/novacron/novacron/agent/client.(*vm).loop+0x1

1 @ 0x4
#	0x4	net/http.(*conn).serve+0x1

1 @ 0x5
#	0x5	main.main+0x1
`)
	must.NoError(t, err)
	must.Eq(t, 4, n)
	_, err = countStacks("404 page not found")
	must.ErrorContains(t, err, "no profile")
}

func TestLocksAreTakenFromAnotherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	held, err := os.Create(path)
	must.NoError(t, err)
	defer held.Close()
	other, err := os.OpenFile(path, os.O_RDWR, 0)
	must.NoError(t, err)
	defer other.Close()
	lock := func(f *os.File) error {
		return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1})
	}
	must.NoError(t, lock(held))
	must.ErrorIs(t, lock(other), unix.EAGAIN)
	n, err := unlockFiles(os.Getpid(), filepath.Dir(path)+"/no")
	must.NoError(t, err)
	must.Zero(t, n)
	must.ErrorIs(t, lock(other), unix.EAGAIN)
	n, err = unlockFiles(os.Getpid(), filepath.Dir(path))
	must.NoError(t, err)
	must.Eq(t, 2, n)
	must.NoError(t, lock(other))
}
