package libvirt_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/hypervisor/conformance"
	"github.com/novacron/novacron/agent/hypervisor/libvirt"
	"github.com/novacron/novacron/api"
)

// TestMigration moves guests between two hosts with a libvirtd each.
func TestMigration(t *testing.T) {
	a, b := newLab(t, false), newLab(t, false)
	conformance.RunMigrator(t, pair(a, b))
	t.Run("moves that libvirt refuses", func(t *testing.T) { refused(t, a, b) })
	t.Run("a machine with everything", func(t *testing.T) { everything(t, a, b) })
	t.Run("a destination's process that dies", func(t *testing.T) { dies(t, a, b) })
	t.Run("a libvirtd that hangs", func(t *testing.T) { hangs(t, a, b) })
	t.Run("a link that dies with the last answer", func(t *testing.T) { lastAnswer(t, a, b) })
	t.Run("a source's libvirtd that dies before the last answer", func(t *testing.T) { lastMoment(t, a, b) })
}

// refused: what libvirt says is an error with a hint, and the guest runs on.
func refused(t *testing.T, a, b *lab) {
	from, to := a.driver(t, nil), b.driver(t, nil)
	m := named(a.shared(t))
	must.NoError(t, from.Start(t.Context(), m, false))
	boots(t, from, m.ID)
	for _, c := range []struct {
		name   string
		change func(*conformance.Link)
	}{
		{"no disk there", func(l *conformance.Link) { l.Machine.Disks[0].Path = filepath.Join(b.dir, "none.raw") }},
		{"no bridge there", func(l *conformance.Link) { l.Machine.NICs[0].Bridge = "none0" }},
		{"no socket for memory", func(l *conformance.Link) { l.Memory = "/run/nova/none.mem" }},
		{"no folder for memory", func(l *conformance.Link) { l.Memory = "/run/none/none.mem" }},
		{"no control socket", func(l *conformance.Link) { l.Control = "/run/nova/none.ctl" }},
		{"to itself", func(l *conformance.Link) { l.Control = a.socket }},
	} {
		l := newWay(t, a, b, 0o666)
		twin := *b.twin(t, m)
		twin.NICs = append([]hypervisor.MachineNIC(nil), m.NICs...)
		l.Machine = &twin
		c.change(l)
		err := from.Move(t.Context(), m.ID, &l.Move)
		t.Logf("%s: %v", c.name, err)
		must.Eq(t, api.CodeMigration, api.CodeOf(err), must.Sprint(c.name))
		var e *api.Error
		must.True(t, errors.As(err, &e))
		must.NotEq(t, "", e.Hint, must.Sprint(c.name))
		got, err := from.Get(t.Context(), m.ID)
		must.NoError(t, err)
		must.Eq(t, api.StateRunning, got.State, must.Sprint(c.name))
		must.NoError(t, to.Attest(t.Context(), m.ID), must.Sprint(c.name))
	}
	must.NoError(t, from.Destroy(t.Context(), m.ID))
}

// everything: what the guest sees is the same at both ends, down to the last
// address, whatever the machine has.
func everything(t *testing.T, a, b *lab) {
	from, to := a.driver(t, nil), b.driver(t, nil)
	m := named(a.local(t, "raw"))
	base := m.Disks[0].Path
	at := func(l *lab, name string) string { return filepath.Join(l.dir, "var/lib/libvirt", m.ID.Short()+name) }
	m.Memory, m.CPU.Cores, m.VNC = 128*api.MiB, 2, true
	m.CPU.Model = "Westmere" // as the servers settle it: the newest of all nodes
	for _, d := range []*libvirt.Driver{from, to} {
		info, err := d.Fingerprint(t.Context())
		must.NoError(t, err)
		must.SliceContains(t, info.CPUModels, m.CPU.Model)
	}
	m.Firmware, m.NVRAM = api.FirmwareUEFI, at(a, ".fd")
	m.Seed = at(a, ".iso")
	m.Disks = []hypervisor.MachineDisk{
		{Name: "root", Path: at(a, "root.qcow2"), Format: "qcow2", Backing: base, BackingFormat: "raw"},
		{Name: "data", Path: at(a, "data.raw"), Format: "raw", Bus: "sata"},
		{Name: "more", Path: at(a, "more.raw"), Format: "raw", Bus: "scsi", Shared: true},
	}
	m.NICs = append(m.NICs, hypervisor.MachineNIC{MAC: "52:54:00:AB:00:02", Bridge: "br0", Model: "e1000", MTU: 1400})
	twin := *m
	twin.NVRAM, twin.Seed, twin.Epoch = at(b, ".fd"), at(b, ".iso"), 2
	twin.Disks = append([]hypervisor.MachineDisk(nil), m.Disks...)
	twin.Disks[0].Path, twin.Disks[1].Path = at(b, "root.qcow2"), at(b, "data.qcow2")
	twin.Disks[1].Format = "qcow2"
	for _, d := range []hypervisor.MachineDisk{m.Disks[0], twin.Disks[0]} {
		image(t, "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", d.Path)
	}
	image(t, "create", "-q", "-f", "qcow2", twin.Disks[1].Path, "8M")
	image(t, "convert", "-f", "raw", "-O", "raw", base, m.Disks[1].Path)
	for _, path := range []string{m.Seed, twin.Seed, m.Disks[2].Path} {
		must.NoError(t, os.WriteFile(path, make([]byte, 1<<20), 0o644))
	}
	must.NoError(t, from.Start(t.Context(), m, false))
	seen := func(l *lab) string {
		x := l.virsh(t, "dumpxml", "--migratable", "nova-"+m.ID.String())
		for _, meta := range []string{"metadata", "seclabel"} {
			x = regexp.MustCompile(`(?s)<`+meta+`[ >].*</?`+meta+`[^\n]*`).ReplaceAllString(x, "")
		}
		x = strings.ReplaceAll(strings.ReplaceAll(x, a.dir, "DIR"), b.dir, "DIR")
		return strings.Join(strings.Fields(x), " ")
	}
	before := seen(a)
	must.StrContains(t, before, ">Westmere</model>")
	if out := os.Getenv("NOVA_LIBVIRT_XML"); out != "" {
		must.NoError(t, os.WriteFile(out, []byte(a.virsh(t, "dumpxml", "--migratable", "nova-"+m.ID.String())), 0o644))
	}
	l := newWay(t, a, b, 0o600)
	l.Machine, l.Copy, l.AutoConverge = &twin, []string{"root", "data"}, true
	l.SerialLog = filepath.Join(b.logDir, "nova-"+m.ID.String()+"-serial0.log")
	must.NoError(t, from.Move(t.Context(), m.ID, &l.Move))
	held := func(path string) int64 {
		st, err := os.Stat(path)
		must.NoError(t, err)
		return st.Sys().(*syscall.Stat_t).Blocks * 512
	}
	t.Logf("bytes of the base %d, of its clone here %d, there %d", held(base), held(m.Disks[0].Path), held(twin.Disks[0].Path))
	must.Less(t, held(base), held(twin.Disks[0].Path), must.Sprint("a thin clone arrives thin"))
	must.Eq(t, content(t, false, m.Disks[0]), content(t, true, twin.Disks[0]))
	after := seen(b)
	after = strings.ReplaceAll(after, "type='qcow2' discard='unmap'/> <source file='DIR/var/lib/libvirt/"+m.ID.Short()+"data.qcow2'",
		"type='raw' discard='unmap'/> <source file='DIR/var/lib/libvirt/"+m.ID.Short()+"data.raw'")
	must.Eq(t, before, after)
	must.Eq(t, content(t, false, m.Disks[1]), content(t, true, twin.Disks[1]))
	_, err := os.Stat(twin.NVRAM)
	must.NoError(t, err)
	must.NoError(t, to.Resume(t.Context(), m.ID))
	must.NoError(t, to.Destroy(t.Context(), m.ID))
}

// begun starts a move that stands still when the destination is incoming.
func begun(t *testing.T, from, to *libvirt.Driver, m *hypervisor.Machine, l *conformance.Link) <-chan error {
	t.Helper()
	l.Hold()
	done := make(chan error, 1)
	go func() { done <- from.Move(t.Context(), m.ID, &l.Move) }()
	state(t, to, m.ID, hypervisor.ReasonIncoming)
	return done
}

// state waits for a reason to be paused, or for any state if it is empty.
func state(t *testing.T, d *libvirt.Driver, id api.ID, reason string) hypervisor.Domain {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		got, err := d.Get(t.Context(), id)
		if err == nil && (reason == "" || got.Reason == reason) {
			return got
		}
		must.Less(t, 3000, n, must.Sprintf("%+v %v", got, err))
		<-tick.C
	}
}

// process waits until the process of a domain is there: a domain that comes in is
// seen a little before.
func process(t *testing.T, d *libvirt.Driver, id api.ID) hypervisor.Domain {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		got, err := d.Get(t.Context(), id)
		must.NoError(t, err)
		if got.PID > 0 {
			return got
		}
		must.Less(t, 3000, n, must.Sprint("no process"))
		<-tick.C
	}
}

func dies(t *testing.T, a, b *lab) {
	from, to := a.driver(t, nil), b.driver(t, nil)
	m := named(a.shared(t))
	must.NoError(t, from.Start(t.Context(), m, false))
	boots(t, from, m.ID)
	l := newWay(t, a, b, 0o666)
	l.Machine = b.twin(t, m)
	done := begun(t, from, to, m, l)
	b.end(t, process(t, to, m.ID))
	l.Release()
	err := <-done
	t.Log(err)
	must.Eq(t, api.CodeMigration, api.CodeOf(err))
	got, err := from.Get(t.Context(), m.ID)
	must.NoError(t, err)
	must.Eq(t, api.StateRunning, got.State)
	must.NoError(t, from.Destroy(t.Context(), m.ID))
}

// hangs: a source's libvirtd that does not answer is unknown in the end, and the
// move may all the same go on.
func hangs(t *testing.T, a, b *lab) {
	from := a.driver(t, func(c *libvirt.Config) { c.KeepAlive, c.Timeout = 200*time.Millisecond, 2*time.Second })
	to := b.driver(t, nil)
	m := named(a.shared(t))
	must.NoError(t, a.driver(t, nil).Start(t.Context(), m, false))
	l := newWay(t, a, b, 0o666)
	l.Machine = b.twin(t, m)
	done := begun(t, from, to, m, l)
	pid := a.libvirtd.Process.Pid
	must.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	must.ErrorIs(t, <-done, hypervisor.ErrUnknown)
	must.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	l.Release()
	state(t, to, m.ID, hypervisor.ReasonComplete)
	must.NoError(t, to.Destroy(t.Context(), m.ID))
}

// lastAnswer: when the link dies with the destination's last answer, the guest is
// complete there and libvirt lets it run on here. Only because the destination
// leaves it paused it does not run twice.
func lastAnswer(t *testing.T, a, b *lab) {
	from, to := a.driver(t, nil), b.driver(t, nil)
	m := named(a.shared(t))
	must.NoError(t, from.Start(t.Context(), m, false))
	boots(t, from, m.ID)
	w := &way{}
	w.finished = w.cut
	l := w.listen(t, a, b, 0o600)
	l.Machine = b.twin(t, m)
	err := from.Move(t.Context(), m.ID, &l.Move)
	t.Log(err)
	must.Eq(t, api.CodeMigration, api.CodeOf(err))
	got, err := from.Get(t.Context(), m.ID)
	must.NoError(t, err)
	must.Eq(t, api.StateRunning, got.State)
	must.Eq(t, hypervisor.ReasonComplete, state(t, to, m.ID, "").Reason)
	must.NoError(t, to.Destroy(t.Context(), m.ID))
	must.NoError(t, from.Destroy(t.Context(), m.ID))
}

// lastMoment: a source whose libvirtd dies before it hears the last answer does not
// know. Nobody resumes the guest there; somebody who knows both ends has to decide.
func lastMoment(t *testing.T, a, b *lab) {
	from, to := a.driver(t, nil), b.driver(t, nil)
	m := named(a.shared(t))
	must.NoError(t, from.Start(t.Context(), m, false))
	boots(t, from, m.ID)
	w := &way{}
	w.finished = func() { a.kill(t) }
	l := w.listen(t, a, b, 0o600)
	l.Machine = b.twin(t, m)
	must.ErrorIs(t, from.Move(t.Context(), m.ID, &l.Move), hypervisor.ErrUnknown)
	a.start(t)
	got := state(t, from, m.ID, "")
	t.Log(got.State, got.Reason)
	must.Eq(t, api.StatePaused, got.State)
	must.Eq(t, hypervisor.ReasonMigrating, got.Reason)
	state(t, to, m.ID, hypervisor.ReasonComplete)
	_, err := from.MoveStats(t.Context(), m.ID)
	must.ErrorIs(t, err, hypervisor.ErrNotFound)
	must.NoError(t, to.Destroy(t.Context(), m.ID)) // the server decides for the source
	must.NoError(t, from.Resume(t.Context(), m.ID))
	boots(t, from, m.ID)
	must.NoError(t, from.Destroy(t.Context(), m.ID))
}

// With Debian's own qemu.conf QEMU is not root. The destination's QEMU makes the
// sockets for memory and disks, so their folder must be writable for it; the
// source's connects to the one for disks by itself.
func TestUnprivilegedMigration(t *testing.T) {
	a, b := newLab(t, true), newLab(t, true)
	from, to := a.driver(t, nil), b.driver(t, nil)
	st, err := os.Stat("/var/lib/libvirt/qemu")
	must.NoError(t, err)
	uid, gid := int(st.Sys().(*syscall.Stat_t).Uid), int(st.Sys().(*syscall.Stat_t).Gid)
	must.NotEq(t, 0, uid)
	m := named(a.local(t, "qcow2"))
	must.NoError(t, from.Start(t.Context(), m, false))
	boots(t, from, m.ID)
	want := content(t, false, m.Disks[0])
	move := func(mode os.FileMode) (*conformance.Link, error) {
		l := newWay(t, a, b, mode)
		l.Machine = b.twin(t, m)
		l.Copy = []string{"root"}
		l.SerialLog = filepath.Join(b.logDir, fmt.Sprintf("%s.log", m.ID))
		return l, from.Move(t.Context(), m.ID, &l.Move)
	}
	_, err = move(0o600)
	must.Eq(t, api.CodeMigration, api.CodeOf(err), must.Sprint("the folder there belongs to root"))
	must.NoError(t, os.Chown(filepath.Join(b.dir, "run/nova"), uid, gid))
	l, err := move(0o600)
	must.NoError(t, err)
	st, err = os.Stat(a.dir + l.Disks)
	must.NoError(t, err)
	must.Eq(t, uid, int(st.Sys().(*syscall.Stat_t).Uid), must.Sprint("libvirt has given it away"))
	must.Eq(t, want, content(t, true, l.Machine.Disks[0]))
	must.NoError(t, to.Resume(t.Context(), m.ID))
	must.NoError(t, to.Destroy(t.Context(), m.ID))
}
