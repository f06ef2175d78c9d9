package command

import (
	"bytes"
	"flag"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

func TestSpansAreShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 3 * time.Second: "3s", 90 * time.Second: "1m30s", 5 * time.Minute: "5m", 25*time.Minute + 3*time.Second: "25m",
		2 * time.Hour: "2h", 2*time.Hour + 10*time.Minute: "2h10m", 100 * time.Hour: "4d",
	} {
		must.Eq(t, want, span(d))
	}
	now := time.Unix(1000, 0)
	must.Eq(t, "10s ago", age(api.TimeOf(now.Add(-10*time.Second)), now))
	must.Eq(t, "-", age(0, now))
	must.Eq(t, "-", clock(0))
}

func TestBarsShowUse(t *testing.T) {
	must.Eq(t, "[#####.....]  50%", bar(1, 2, 10))
	must.Eq(t, "[#.........]   1%", bar(0.01, 1, 10), must.Sprint("a little is not nothing"))
	must.Eq(t, "[##########] 150%", bar(3, 2, 10), must.Sprint("too much does not overflow"))
	must.Eq(t, "[..........]   -", bar(1, 0, 10))
	must.Eq(t, "[..........]   0%", bar(0, 4, 10))
}

func TestAmountsAreHuman(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 5 << 30: "5 GiB"} {
		must.Eq(t, want, bytesText(n))
	}
	must.Eq(t, "1 disk", plural(1, "disk"))
	must.Eq(t, "0 disks", plural(0, "disk"))
	must.Eq(t, "a=1 b=2", labels(api.Pairs{{K: "a", V: "1"}, {K: "b", V: "2"}}))
	must.Eq(t, "ab…", clip("abcd", 3))
}

func TestTablesAreAlignedAlsoWithColours(t *testing.T) {
	var b bytes.Buffer
	o := &output{Writer: &b, format: "table", color: true}
	tb := o.table("NAME", "STATE", "NODE")
	tb.row("a", o.state("running"), "n1")
	tb.row("länger", o.state("failed"), "n2")
	must.NoError(t, tb.write("none"))
	plainText := strings.NewReplacer("\x1b[1m", "", "\x1b[32m", "", "\x1b[31m", "", "\x1b[0m", "").Replace(b.String())
	must.Eq(t, "NAME    STATE    NODE\na       running  n1\nlänger  failed   n2\n", plainText)

	b.Reset()
	must.NoError(t, o.table("X").write("nothing here"))
	must.Eq(t, "nothing here\n", b.String())
}

func TestOutputFormats(t *testing.T) {
	v := []*api.Namespace{{Name: "a<b", CreateIndex: 3}}
	var b bytes.Buffer
	must.NoError(t, (&output{Writer: &b, format: "json"}).show(v, nil))
	must.StrContains(t, b.String(), `"name": "a<b"`)
	b.Reset()
	must.NoError(t, (&output{Writer: &b, format: "yaml"}).show(v, nil))
	must.Eq(t, "- name: a<b\n  create_index: 3\n", strings.Replace(b.String(), "  create_time: null\n", "", 1))
	b.Reset()
	must.NoError(t, (&output{Writer: &b, format: "json"}).line(v[0], "x"))
	must.Eq(t, 1, strings.Count(b.String(), "\n"))
}

func newTestFlags() *flags {
	f := &flags{FlagSet: flag.NewFlagSet("t", flag.ContinueOnError)}
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	return f
}

func TestFlagsMayStandAnywhere(t *testing.T) {
	f := newTestFlags()
	force := f.Bool("force", false, "")
	l := f.list("topic", "")
	p := f.pairs("var", "")
	s := f.size("size", "")
	c := f.check("vm")
	pos, err := f.parse([]string{"a", "-force", "b", "-topic", "vm", "-topic=node", "-var", "k=v=w", "-size", "2GiB", "-check-index", "0", "--", "-not-a-flag"})
	must.NoError(t, err)
	must.Eq(t, []string{"a", "b", "-not-a-flag"}, pos)
	must.True(t, *force)
	must.Eq(t, list{"vm", "node"}, *l)
	v, _ := p.Get("k")
	must.Eq(t, "v=w", v)
	must.Eq(t, 2*api.GiB, *s)
	must.Eq(t, uint64(0), **c)
}

func TestFlagErrorsSayWhatWasMeant(t *testing.T) {
	for arg, want := range map[string]string{
		"-forec":         "did you mean -force?",
		"-zzz":           "there is no option -zzz",
		"-var=x":         `"x" is not of the form key=value`,
		"-size=big":      "is not a size",
		"-check-index=x": `"x" is not an index`,
		"-topic":         "a value is missing after -topic",
	} {
		f := newTestFlags()
		f.Bool("force", false, "")
		f.pairs("var", "")
		f.size("size", "")
		f.check("vm")
		f.list("topic", "")
		_, err := f.parse([]string{arg})
		must.ErrorContains(t, err, want)
	}
}

func TestEscapeEndsTheConsole(t *testing.T) {
	read := func(in string) string {
		b, err := io.ReadAll(&escape{r: strings.NewReader(in)})
		must.NoError(t, err)
		return string(b)
	}
	must.Eq(t, "hello\r", read("hello\r\x1dworld"), must.Sprint("Ctrl-]"))
	must.Eq(t, "ls\r", read("ls\r~.more"), must.Sprint("~. at the beginning of a line"))
	must.Eq(t, "", read("~.more"), must.Sprint("the first line is a line"))
	must.Eq(t, "a~.b", read("a~.b"), must.Sprint("~ elsewhere is a ~"))
	must.Eq(t, "\r~x", read("\r~x"), must.Sprint("~ and another key"))
	must.Eq(t, "\r~~", read("\r~~"))
	// One key at a time, as a terminal gives them.
	e := &escape{r: io.MultiReader(strings.NewReader("\r"), strings.NewReader("~"), strings.NewReader("a"))}
	b, err := io.ReadAll(e)
	must.NoError(t, err)
	must.Eq(t, "\r~a", string(b))
}

func TestTransferLines(t *testing.T) {
	must.Eq(t, "uploading [############............]  50% 512 MiB of 1 GiB, 256 MiB/s, 2s left", transferLine("uploading", 512<<20, 1<<30, 2*time.Second))
	var b bytes.Buffer
	p := &progress{out: &b, start: time.Now()}
	f := p.transfer("x", 100)
	for n := int64(1); n <= 100; n++ {
		f(n)
	}
	must.Eq(t, 10, strings.Count(b.String(), "\n"), must.Sprint("without a terminal, a line for each tenth"))
	b.Reset()
	live := &progress{out: &b, start: time.Now(), live: true}
	live.transfer("x", 100)(100)
	live.step("done")
	must.StrContains(t, b.String(), "\r\x1b[K")
	must.StrContains(t, b.String(), "done\n")
}

func TestConditionsOfWaiting(t *testing.T) {
	vm := &api.VM{Name: "web", Power: api.PowerRunning, Reboots: 2}
	s := func(state string, why ...string) *api.VMStatusResponse {
		return &api.VMStatusResponse{VM: vm, State: state, Why: why}
	}
	must.Eq(t, reached, untilDesired(s("running")))
	must.Eq(t, goOn, untilDesired(s("running", "the node is silent")))
	must.Eq(t, goOn, untilDesired(s("pending")))
	must.Eq(t, hopeless, untilDesired(s("failed", "no kernel")))
	must.Eq(t, hopeless, untilDesired(nil))
	must.Eq(t, reached, untilGone(nil))
	must.Eq(t, goOn, untilGone(s("stopping")))
	booted := s("running")
	must.Eq(t, goOn, untilBooted(2, 0)(booted))
	booted.Placement = &api.Placement{DoneReboots: 2}
	must.Eq(t, reached, untilBooted(2, 0)(booted))
	must.Eq(t, goOn, untilBooted(2, 1)(booted))
	must.Eq(t, hopeless, untilBooted(2, 1)(nil))
	must.Eq(t, "web: pending on n1 (no memory; no cpu)", describeState(&api.VMStatusResponse{VM: vm, State: "pending", Node: "n1", Why: []string{"no memory", "no cpu"}}))
}

func TestSpecChangesNameTheFields(t *testing.T) {
	a := &api.VMSpec{Name: "web", Memory: api.GiB, Disks: []api.Disk{{Name: "root", Size: api.GiB}}}
	b := &api.VMSpec{Name: "web", Memory: 2 * api.GiB, Disks: []api.Disk{{Name: "root", Size: api.GiB}}, Labels: api.Pairs{{K: "tier", V: "web"}}}
	must.Eq(t, []string{"labels.tier: - -> web", "memory: 1073741824 -> 2147483648"}, specChanges(a, b))
}

func TestImageKindsAreGuessedFromNames(t *testing.T) {
	for name, want := range map[string]string{
		"vmlinuz-6.1": "kernel raw", "initrd.img": "initrd raw", "tick.cpio.gz": "initrd raw", "debian.qcow2": "disk qcow2", "disk.raw": "disk raw", "x.img": "disk raw",
	} {
		k, f := imageKind(name, "", "")
		must.Eq(t, want, k+" "+f)
	}
	k, f := imageKind("x", "initrd", "raw")
	must.Eq(t, "initrd raw", k+" "+f)
}

func TestErrorsShowCodeDetailsHintAndRequest(t *testing.T) {
	e := api.Errorf(api.CodeInvalid, "the spec is not valid").WithHint("see the fields").WithDetail("memory", "is too small")
	e.Details[0].Line, e.Details[0].Column, e.RequestID = 3, 5, "req-1"
	var b bytes.Buffer
	writeError(&b, "Error:", e)
	must.Eq(t, "Error: the spec is not valid (NOVA-1000)\n  - line 3, column 5: memory: is too small\n  Hint: see the fields\n  Request: req-1\n", b.String())
}
