package libvirt

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

func testHost() *host {
	return &host{accel: "tcg", machine: "q35", arch: "x86_64", baseline: "qemu64", logDir: "/var/log/libvirt/qemu", code: "/fw/code.fd", vars: "/fw/vars.fd"}
}

func full() *hypervisor.Machine {
	return &hypervisor.Machine{
		ID: api.ID{0xab}, Namespace: "default", Name: "web-1", Epoch: 7, SpecVersion: 3, Generation: 2,
		CPU: api.CPUSpec{Cores: 2}, Memory: 64 * api.MiB, Firmware: api.FirmwareUEFI, NVRAM: "/data/vars.fd",
		Kernel: "/img/k", Initrd: "/img/i", Cmdline: `console=ttyS0 x="<&>"`,
		Disks: []hypervisor.MachineDisk{
			{Name: "root", Path: "/pool/a.qcow2", Format: "qcow2", Backing: "/cache/b.raw"},
			{Name: "data", Path: "/pool/c.raw", Format: "raw", Bus: "sata", Shared: true, Boot: 2},
			{Path: "/pool/d.raw", Format: "raw", Bus: "scsi", ReadOnly: true},
		},
		NICs: []hypervisor.MachineNIC{{MAC: "52:54:00:00:00:01", Bridge: "br0", MTU: 1400}, {MAC: "52:54:00:00:00:02", Bridge: "br1", Model: "e1000"}},
		Seed: "/seed.iso", Serial: true, VNC: true,
	}
}

var update = os.Getenv("NOVA_UPDATE_GOLDEN") != ""

func TestGolden(t *testing.T) {
	small := &hypervisor.Machine{ID: api.ID{1}, Name: "tiny", CPU: api.CPUSpec{Cores: 1, Model: "host"}, Memory: api.MiB}
	kvm := testHost()
	kvm.accel, kvm.machine, kvm.emulator, kvm.logDir = "kvm", "pc", "/usr/bin/qemu", ""
	serial := *small
	serial.Serial = true
	for name, c := range map[string]struct {
		h *host
		m *hypervisor.Machine
	}{"full": {testHost(), full()}, "small-tcg": {testHost(), small}, "small-kvm": {kvm, &serial}} {
		got, err := c.h.domainXML(c.m)
		must.NoError(t, err)
		file := filepath.Join("testdata", name+".xml")
		if update {
			must.NoError(t, os.WriteFile(file, append(got, '\n'), 0o644))
		}
		want, err := os.ReadFile(file)
		must.NoError(t, err)
		must.Eq(t, string(want), string(got)+"\n", must.Sprint(name))
	}
}

func TestCPUModels(t *testing.T) {
	tcg, kvm := testHost(), testHost()
	kvm.accel = "kvm"
	must.Eq(t, "qemu64", tcg.cpu("").Model.Value)
	must.Eq(t, "qemu64", tcg.cpu("baseline").Model.Value)
	must.Eq(t, "Nehalem", tcg.cpu("Nehalem").Model.Value)
	must.Eq(t, "maximum", tcg.cpu("host").Mode)
	must.Eq(t, "maximum", kvm.cpu("max").Mode)
	must.Eq(t, "host-passthrough", kvm.cpu("host").Mode)
}

func TestUEFIWithoutFirmwareIsRefused(t *testing.T) {
	h := testHost()
	h.code = ""
	_, err := h.domainXML(full())
	must.Eq(t, api.CodeUnsupported, api.CodeOf(err))
}

// allowed is every element that domain XML may have, by its path's last name.
var allowed = strings.Fields(`domain name uuid metadata vm id namespace epoch version generation disk memory vcpu os type
	loader nvram kernel initrd cmdline features acpi apic cpu model clock timer on_poweroff on_reboot on_crash devices emulator
	driver source seclabel backingStore format target readonly boot controller interface mac mtu serial log console graphics listen
	video memballoon rng backend`)

// wellFormed parses XML and fails on any element that is not allowed.
func wellFormed(t *testing.T, text []byte) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(string(text)))
	d.Strict = true
	depth := 0
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		must.NoError(t, err)
		switch e := tok.(type) {
		case xml.StartElement:
			depth++
			must.True(t, slices.Contains(allowed, e.Name.Local), must.Sprint(e.Name))
			must.True(t, e.Name.Space == "" || e.Name.Space == Namespace, must.Sprint(e.Name))
			must.True(t, depth > 1 || e.Name.Local == "domain")
		case xml.EndElement:
			depth--
		case xml.Directive, xml.ProcInst, xml.Comment:
			t.Fatalf("unexpected %T", tok)
		}
	}
	must.Zero(t, depth)
}

// FuzzXML: whatever is in a machine, it is refused, or its XML has only what the
// types can say and reads back as it was.
func FuzzXML(f *testing.F) {
	f.Add("web-1", "default", "console=ttyS0", "/pool/a.raw", "raw", "virtio", "52:54:00:00:00:01", "br0", "qemu64", "root", int64(64<<20), int32(1))
	for _, s := range []string{"a</name><devices>", "]]>", "&lol;", "a\x00", "\u202e", "a,file.driver=nbd", "\xff", "<!DOCTYPE x>", "a\"b'c", "/a&b", "/a<b>"} {
		f.Add(s, s, s, "/"+s, s, s, s, s, s, s, int64(-1), int32(-1))
		f.Add("a", "b", s, "/x/"+s, "raw", "", "52:54:00:00:00:01", "br0", "", "", int64(1<<20), int32(2))
	}
	f.Fuzz(func(t *testing.T, name, ns, cmdline, path, format, bus, mac, bridge, model, disk string, memory int64, cores int32) {
		m := &hypervisor.Machine{
			ID: api.ID{1}, Name: name, Namespace: ns, Kernel: "/k", Cmdline: cmdline, Memory: api.Bytes(memory),
			CPU:   api.CPUSpec{Cores: cores, Model: model},
			Disks: []hypervisor.MachineDisk{{Name: disk, Path: path, Format: format, Bus: bus}},
			NICs:  []hypervisor.MachineNIC{{MAC: mac, Bridge: bridge}},
		}
		text, err := testHost().domainXML(m)
		if err != nil {
			must.Eq(t, api.CodeInvalid, api.CodeOf(err))
			return
		}
		wellFormed(t, text)
		var back xmlDomain
		must.NoError(t, xml.Unmarshal(text, &back))
		must.Eq(t, name, back.Metadata.VM.Name)
		must.Eq(t, ns, back.Metadata.VM.Namespace)
		must.Eq(t, cmdline, back.OS.Cmdline)
		must.SliceLen(t, 1, back.Devices.Disks)
		must.Eq(t, path, back.Devices.Disks[0].Source.File)
		must.SliceLen(t, 1, back.Devices.Interfaces)
		must.Eq(t, bridge, back.Devices.Interfaces[0].Source.Bridge)
	})
}

func TestXMLHasOnlyWhatTheTypesSay(t *testing.T) {
	text, err := testHost().domainXML(full())
	must.NoError(t, err)
	wellFormed(t, text)
	m := full()
	m.Name = "a</name><devices>"
	_, err = testHost().domainXML(m)
	must.Eq(t, api.CodeInvalid, api.CodeOf(err))
}

func TestStates(t *testing.T) {
	for _, c := range []struct {
		state  golibvirt.DomainState
		reason int32
		want   api.VMState
		why    string
	}{
		{golibvirt.DomainRunning, 1, api.StateRunning, "booted"},
		{golibvirt.DomainBlocked, 0, api.StateRunning, "unknown"},
		{golibvirt.DomainPaused, 1, api.StatePaused, "user"},
		{golibvirt.DomainPaused, 2, api.StatePaused, "migrating"},
		{golibvirt.DomainPaused, 5, api.StatePaused, "io-error"},
		{golibvirt.DomainPaused, 99, api.StatePaused, "unknown"},
		{golibvirt.DomainPaused, -1, api.StatePaused, "unknown"},
		{golibvirt.DomainPmsuspended, 0, api.StatePaused, "suspended"},
		{golibvirt.DomainShutdown, 1, api.StateStopping, "user"},
		{golibvirt.DomainShutoff, 2, api.StateStopped, "destroyed"},
		{golibvirt.DomainCrashed, 1, api.StateFailed, "crashed"},
		{golibvirt.DomainNostate, 0, api.StateUnknown, "unknown"},
	} {
		got, why := stateOf(int32(c.state), c.reason)
		must.Eq(t, c.want, got)
		must.Eq(t, c.why, why)
	}
}

func TestLifecycleEvents(t *testing.T) {
	id := api.NewID()
	msg := func(name string, event golibvirt.DomainEventType, detail int32) golibvirt.DomainEventLifecycleMsg {
		return golibvirt.DomainEventLifecycleMsg{Dom: golibvirt.Domain{Name: name}, Event: int32(event), Detail: detail}
	}
	for _, c := range []struct {
		event  golibvirt.DomainEventType
		detail int32
		kind   hypervisor.EventKind
		reason string
	}{
		{golibvirt.DomainEventStarted, 0, hypervisor.EventStarted, "booted"},
		{golibvirt.DomainEventSuspended, 0, hypervisor.EventPaused, "user"},
		{golibvirt.DomainEventSuspended, 2, hypervisor.EventPaused, "io-error"},
		{golibvirt.DomainEventResumed, 0, hypervisor.EventResumed, "unpaused"},
		{golibvirt.DomainEventStopped, 0, hypervisor.EventStopped, "shutdown"},
		{golibvirt.DomainEventStopped, 2, hypervisor.EventStopped, "crashed"},
		{golibvirt.DomainEventStopped, 77, hypervisor.EventStopped, "unknown"},
	} {
		e, ok := eventOf(msg(domainName(id), c.event, c.detail))
		must.True(t, ok)
		must.Eq(t, hypervisor.Event{Kind: c.kind, ID: id, Reason: c.reason}, e)
	}
	for _, name := range []string{"other", "nova-x", "nova-" + strings.ToUpper(id.String()), "x" + domainName(id)} {
		_, ok := eventOf(msg(name, golibvirt.DomainEventStarted, 0))
		must.False(t, ok, must.Sprint(name))
	}
	_, ok := eventOf(msg(domainName(id), golibvirt.DomainEventDefined, 0))
	must.False(t, ok)
}

func TestClassify(t *testing.T) {
	e := func(n golibvirt.ErrorNumber) error { return golibvirt.Error{Code: uint32(n), Message: "m"} }
	must.NoError(t, classify(nil))
	must.ErrorIs(t, classify(e(golibvirt.ErrNoDomain)), hypervisor.ErrNotFound)
	must.ErrorIs(t, classify(e(golibvirt.ErrDomExist)), hypervisor.ErrExists)
	must.ErrorIs(t, classify(e(golibvirt.ErrOperationTimeout)), hypervisor.ErrUnknown)
	must.ErrorIs(t, classify(golibvirt.ErrInterrupted), hypervisor.ErrUnknown)
	must.Eq(t, api.CodeState, api.CodeOf(classify(e(golibvirt.ErrOperationInvalid))))
	must.Eq(t, api.CodeUnsupported, api.CodeOf(classify(e(golibvirt.ErrNoSupport))))
	must.Eq(t, api.CodeUnsupported, api.CodeOf(classify(golibvirt.ErrUnsupported)))
	must.Eq(t, api.CodeHypervisor, api.CodeOf(classify(e(golibvirt.ErrInternalError))))
}

func TestLastExit(t *testing.T) {
	const up, down = "2026-11-22 21:20:37.073+0000: starting up libvirt version: 9.0.0\n", "2026-11-22 21:20:38.073+0000: shutting down, reason="
	for _, c := range []struct {
		log, reason string
		ok          bool
	}{
		{"", "", false}, {up, "", false},
		{up + down + "crashed\n", "crashed", true},
		{up + down + "destroyed\n" + up, "", false},
		{up + down + "destroyed\n" + up + down + "shutdown\n", "shutdown", true},
		{up + down + "daemon\n", "daemon", false},
		{up + down + "shutdown", "shutdown", true},
	} {
		reason, ok := lastExit([]byte(c.log))
		must.Eq(t, c.ok, ok, must.Sprint(c.log))
		must.Eq(t, c.reason, reason)
	}
}

func TestProcessesAreKnownByTheirArguments(t *testing.T) {
	id := api.NewID()
	cmd := func(args ...string) []byte { return []byte(strings.Join(args, "\x00") + "\x00") }
	must.True(t, belongs(cmd("qemu", "-name", "guest="+domainName(id)+",debug-threads=on"), id))
	must.True(t, belongs(cmd("qemu", "-name", "guest="+domainName(id)), id))
	must.True(t, belongs(cmd("qemu", "-uuid", id.String()), id))
	must.False(t, belongs(cmd("qemu", "-name", "guest="+domainName(id)+"x"), id))
	must.False(t, belongs(cmd("less", "/var/log/libvirt/qemu/"+domainName(id)+".log"), id))
	must.False(t, belongs(cmd("virsh", "destroy", domainName(id)), id))
	must.False(t, belongs(cmd("qemu", "-uuid", api.NewID().String()), id))
	must.False(t, belongs(nil, id))
}

// fakeRoot makes a root folder with a proc of these processes.
func fakeRoot(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		p := filepath.Join(root, name)
		must.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		must.NoError(t, os.WriteFile(p, []byte(text), 0o644))
	}
	return root
}

func TestProcessIsFoundAndDated(t *testing.T) {
	id := api.NewID()
	root := fakeRoot(t, map[string]string{
		"proc/stat":       "cpu 1\nbtime 1000\n",
		"proc/42/cmdline": "qemu\x00-uuid\x00" + id.String() + "\x00",
		"proc/42/stat":    "42 (qemu (x)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 150 20",
		"proc/43/cmdline": "bash\x00",
		"proc/x/cmdline":  "qemu\x00-uuid\x00" + id.String() + "\x00",
	})
	d := &Driver{cfg: Config{Root: root}.withDefaults()}
	pid, start := d.process(id)
	must.Eq(t, 42, pid)
	must.Eq(t, 1001.5e9, float64(start))
	pids, err := d.scan(id, false)
	must.NoError(t, err)
	must.Eq(t, []int{42}, pids)
	pid, start = d.process(api.NewID())
	must.Zero(t, pid)
	must.Zero(t, start)
	d.cfg.Root = t.TempDir()
	_, err = d.scan(id, false)
	must.Error(t, err, must.Sprint("without /proc nothing is proven"))
	must.Zero(t, startTime(root+"/proc", 43))
	must.Zero(t, bootTime(t.TempDir()))
}

func TestKVMIsTrustedOnlyWithTheFlags(t *testing.T) {
	for _, c := range []struct {
		dev   bool
		flags string
		arch  string
		works bool
	}{
		{true, "fpu svm", "x86_64", true}, {true, "fpu vmx", "x86_64", true}, {true, "fpu", "x86_64", false},
		{false, "fpu svm", "x86_64", false}, {true, "", "aarch64", true},
	} {
		files := map[string]string{"proc/cpuinfo": "processor\t: 0\nflags\t\t: " + c.flags + "\n"}
		if c.dev {
			files["dev/kvm"] = ""
		}
		works, why := kvmWorks(fakeRoot(t, files), c.arch)
		must.Eq(t, c.works, works)
		must.Eq(t, c.works, why == "")
	}
	works, _ := kvmWorks(fakeRoot(t, map[string]string{"dev/kvm": ""}), "x86_64")
	must.False(t, works)
}

const caps = `<capabilities><guest><os_type>hvm</os_type><arch name='x86_64'>
<machine canonical='pc-q35-7.2'>q35</machine><machine canonical='pc-i440fx-7.2'>pc</machine>
<domain type='qemu'/><domain type='kvm'/></arch></guest></capabilities>`

func TestChoices(t *testing.T) {
	root := fakeRoot(t, map[string]string{"dev/kvm": "", "proc/cpuinfo": "flags : vmx\n"})
	trap := fakeRoot(t, map[string]string{"dev/kvm": "", "proc/cpuinfo": "flags : fpu\n"})
	for _, c := range []struct {
		cfg            Config
		text           string
		accel, machine string
		code           api.Code
	}{
		{Config{Root: root}, caps, "kvm", "q35", 0},
		{Config{Root: trap}, caps, "tcg", "q35", 0},
		{Config{Root: trap, Acceleration: "kvm"}, caps, "kvm", "q35", 0},
		{Config{Root: root, Acceleration: "tcg", Machine: "pc"}, caps, "tcg", "pc", 0},
		{Config{Root: root, Machine: "none"}, caps, "kvm", "q35", 0},
		{Config{Root: root}, strings.ReplaceAll(caps, "q35", "isapc"), "kvm", "pc", 0},
		{Config{Root: root}, strings.ReplaceAll(caps, "kvm", "hvf"), "tcg", "q35", 0},
		{Config{Root: root}, "<capabilities/>", "", "", api.CodeUnsupported},
	} {
		h := &host{arch: "x86_64"}
		var info api.DriverInfo
		err := h.fromCapabilities([]byte(c.text), c.cfg, &info)
		must.Eq(t, c.code, api.CodeOf(err))
		must.Eq(t, c.accel, h.accel)
		must.Eq(t, c.machine, h.machine)
	}
	must.ErrorIs(t, (&host{}).fromCapabilities([]byte("<"), Config{}, &api.DriverInfo{}), hypervisor.ErrUnknown)

	models := cpuModels([]byte(`<domainCapabilities><cpu><mode name='host-model'/><mode name='custom'>
		<model usable='yes'>qemu64</model><model usable='no'>EPYC</model><model usable='unknown'>kvm64</model></mode></cpu></domainCapabilities>`))
	must.Eq(t, []string{"kvm64", "qemu64"}, models)
	must.Nil(t, cpuModels([]byte("<")))
	for _, c := range []struct{ accel, configured, want string }{
		{"kvm", "", "kvm64"}, {"tcg", "", "qemu64"}, {"kvm", "qemu64", "qemu64"}, {"kvm", "EPYC", "kvm64"},
	} {
		h := &host{accel: c.accel}
		h.chooseBaseline(c.configured, models)
		must.Eq(t, c.want, h.baseline)
	}
	h := &host{accel: "tcg"}
	h.chooseBaseline("", []string{"other"})
	must.Eq(t, "max", h.baseline)
	must.Eq(t, "9.0.12", dotted(9000012))
	code, _ := findFirmware(t.TempDir(), "x86_64")
	must.Eq(t, "", code)
	must.StrContains(t, archName(), "64")
}

func TestStatsOf(t *testing.T) {
	p := func(k string, v any) golibvirt.TypedParam {
		return golibvirt.TypedParam{Field: k, Value: golibvirt.TypedParamValue{I: v}}
	}
	s := statsOf([]golibvirt.TypedParam{
		p("cpu.time", uint64(5)), p("vcpu.current", uint32(2)), p("balloon.current", uint64(1024)), p("balloon.rss", uint64(512)),
		p("block.count", uint32(2)), p("block.0.name", "vda"), p("block.0.rd.bytes", uint64(10)), p("block.0.wr.reqs", uint64(3)),
		p("block.1.name", "sda"), p("net.count", uint32(1)), p("net.0.rx.bytes", uint64(7)), p("net.0.tx.errs", int64(1)), p("net.0.rx.errs", int32(1)),
	}, map[string]string{"vda": "root"})
	must.Eq(t, &api.VMStats{
		CPUTime: 5, VCPUs: 2, Memory: api.MiB, MemoryRSS: 512 * api.KiB,
		Disks: []api.IOStats{{Name: "root", ReadBytes: 10, WriteOps: 3}, {Name: "sda"}},
		NICs:  []api.IOStats{{Name: "net0", ReadBytes: 7, Errors: 2}},
	}, s)
}

func TestReplayShowsTheEndOfALog(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	must.NoError(t, os.WriteFile(file, []byte(strings.Repeat("x", hypervisor.HubHistory)+"end"), 0o644))
	hub := hypervisor.NewHub(nil)
	replay(hub, file)
	replay(hub, "/nonexistent")
	replay(hub, t.TempDir())
	v := hub.Attach(t.Context())
	hub.Close(nil)
	b, err := io.ReadAll(v)
	must.NoError(t, err)
	must.Eq(t, hypervisor.HubHistory, len(b))
	must.True(t, strings.HasSuffix(string(b), "xend"))
}

func TestDisksBeyondTheAlphabetHaveNames(t *testing.T) {
	names := map[int]string{0: "a", 25: "z", 26: "aa", 27: "ab", 51: "az", 52: "ba"}
	for n, want := range names {
		must.Eq(t, want, letters(n))
	}
}
