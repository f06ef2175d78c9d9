package libvirt_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// driver connects and closes at the end.
func (l *lab) driver(t *testing.T, change func(*libvirt.Config)) *libvirt.Driver {
	t.Helper()
	cfg := l.config()
	if change != nil {
		change(&cfg)
	}
	d := libvirt.New(cfg)
	t.Cleanup(func() { must.NoError(t, d.Close()) })
	return d
}

// virsh is what an operator of the host would use.
func (l *lab) virsh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("virsh", append([]string{"-c", "qemu+unix:///system?socket=" + l.socket}, args...)...).CombinedOutput()
	must.NoError(t, err, must.Sprintf("%s", out))
	return string(out)
}

func named(m *hypervisor.Machine) *hypervisor.Machine {
	m.ID = api.NewID()
	m.Namespace, m.Name, m.Epoch = "default", "guest-"+m.ID.Short(), 1
	return m
}

// boots reads a console until the banner.
func boots(t *testing.T, d *libvirt.Driver, id api.ID) {
	t.Helper()
	c, err := d.Console(t.Context(), id)
	must.NoError(t, err)
	defer c.Close()
	var got []byte
	buf := make([]byte, 4096)
	for !strings.Contains(string(got), conformance.Banner) {
		n, err := c.Read(buf)
		must.NoError(t, err, must.Sprintf("after %q", got))
		got = append(got, buf[:n]...)
	}
}

// With Debian's own qemu.conf QEMU is not root: it opens disks, base images,
// seed and firmware only because libvirt hands them over.
func TestUnprivilegedQEMU(t *testing.T) {
	l := newLab(t, true)
	d := l.driver(t, nil)
	ctx := t.Context()
	dir := filepath.Join(l.dir, "var/lib/libvirt")

	m := named(l.machine(t))
	base := m.Disks[0].Path
	must.NoError(t, os.Chmod(base, 0o444))
	top := filepath.Join(dir, "top.qcow2")
	out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", base, "-F", "raw", top, "2M").CombinedOutput()
	must.NoError(t, err, must.Sprintf("%s", out))
	data, seed := filepath.Join(dir, "data.raw"), filepath.Join(dir, "seed.iso")
	must.NoError(t, os.WriteFile(data, make([]byte, 1<<20), 0o600))
	must.NoError(t, exec.Command("chown", "libvirt-qemu:", data).Run(), must.Sprint("a shared pool owns its disks to the guests' user"))
	must.NoError(t, os.WriteFile(seed, make([]byte, 1<<20), 0o600))
	m.Disks = []hypervisor.MachineDisk{
		{Name: "root", Path: top, Format: "qcow2", Backing: base, BackingFormat: "raw"},
		{Name: "data", Path: data, Format: "raw", Bus: "scsi", Shared: true},
	}
	m.Seed, m.VNC = seed, true
	must.NoError(t, d.Start(ctx, m, false))
	boots(t, d, m.ID)
	xml := l.virsh(t, "dumpxml", "nova-"+m.ID.String())
	must.StrContains(t, xml, "<listen type='socket'")
	must.StrNotContains(t, xml, "<listen type='address'")
	got, err := d.Get(ctx, m.ID)
	must.NoError(t, err)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", got.PID))
	must.NoError(t, err)
	must.StrNotContains(t, string(status), "\nUid:\t0\t")
	cmd, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", got.PID))
	must.NoError(t, err)
	must.StrContains(t, string(cmd), "-sandbox\x00on")
	st, err := d.Stats(ctx, m.ID)
	must.NoError(t, err)
	must.Positive(t, st.Disks[0].ReadBytes)
	var names []string
	for _, disk := range st.Disks {
		names = append(names, disk.Name)
	}
	must.SliceContainsAll(t, []string{"root", "seed", "data"}, names)
	must.NoError(t, d.Destroy(ctx, m.ID))

	u := named(l.machine(t))
	u.Firmware, u.NVRAM, u.Memory = api.FirmwareUEFI, filepath.Join(dir, "vars.fd"), 128*api.MiB
	must.NoError(t, d.Start(ctx, u, true))
	must.NoError(t, d.Destroy(ctx, u.ID))
	_, err = os.Stat(u.NVRAM)
	must.NoError(t, err, must.Sprint("the variables are kept"))
}

// A libvirtd that hangs is unknown within the deadline, and is used again as
// soon as it answers.
func hanging(t *testing.T, l *lab) {
	d := l.driver(t, func(c *libvirt.Config) { c.KeepAlive, c.Timeout = 200*time.Millisecond, 2*time.Second })
	patient := l.driver(t, nil)
	events, err := d.Events(t.Context())
	must.NoError(t, err)
	await := func(kind hypervisor.EventKind) {
		t.Helper()
		for e := range events {
			if e.Kind == kind {
				return
			}
		}
	}
	await(hypervisor.EventReconnect)
	m := named(l.machine(t))
	must.NoError(t, patient.Start(t.Context(), m, true))
	pid := l.libvirtd.Process.Pid
	must.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = d.List(ctx)
	must.ErrorIs(t, err, hypervisor.ErrUnknown)
	must.ErrorIs(t, err, context.DeadlineExceeded)
	must.Less(t, 20*time.Second, time.Since(began))
	must.ErrorIs(t, d.Attest(t.Context(), api.NewID()), hypervisor.ErrUnknown, must.Sprint("the driver's own deadline"))
	must.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	await(hypervisor.EventReconnect) // the ping noticed
	long, done := context.WithTimeout(t.Context(), time.Minute)
	defer done()
	list, err := d.List(long)
	must.NoError(t, err)
	must.SliceLen(t, 1, list)
	must.NoError(t, patient.Destroy(t.Context(), m.ID))
}

func foreign(t *testing.T, l *lab) {
	d := l.driver(t, func(c *libvirt.Config) { c.Acceleration = "tcg" })
	ctx := t.Context()
	id := api.NewID()
	file := filepath.Join(l.dir, "foreign.xml")
	must.NoError(t, os.WriteFile(file, fmt.Appendf(nil,
		"<domain type='qemu'><name>theirs</name><uuid>%s</uuid><memory unit='MiB'>16</memory><os><type>hvm</type></os></domain>", id), 0o644))
	l.virsh(t, "create", "--paused", file)
	list, err := d.List(ctx)
	must.NoError(t, err)
	must.SliceEmpty(t, list)
	for name, err := range map[string]error{
		"destroy": d.Destroy(ctx, id), "pause": d.Pause(ctx, id), "reset": d.Reset(ctx, id), "epoch": d.SetEpoch(ctx, id, 9),
	} {
		must.Eq(t, api.CodeHypervisor, api.CodeOf(err), must.Sprint(name))
	}
	must.ErrorIs(t, d.Attest(ctx, id), hypervisor.ErrExists)
	m := named(l.machine(t))
	m.ID = id
	must.ErrorIs(t, d.Start(ctx, m, true), hypervisor.ErrExists, must.Sprint("X19: a UUID that is taken"))
	must.StrContains(t, l.virsh(t, "list", "--name"), "theirs")
	l.virsh(t, "destroy", "theirs")

	// A domain with our name, and no metadata: seen, with nothing known of it.
	must.NoError(t, os.WriteFile(file, fmt.Appendf(nil,
		"<domain type='qemu'><name>nova-%s</name><uuid>%s</uuid><memory unit='MiB'>16</memory><os><type>hvm</type></os></domain>", id, id), 0o644))
	l.virsh(t, "create", "--paused", file)
	got, err := d.Get(ctx, id)
	must.NoError(t, err)
	must.Eq(t, 0, got.Epoch)
	must.Eq(t, "", got.Name)
	must.NoError(t, d.SetEpoch(ctx, id, 5))
	got, err = d.Get(ctx, id)
	must.NoError(t, err)
	must.Eq(t, 5, got.Epoch)
	must.NoError(t, d.Destroy(ctx, id))
}

// A QEMU that libvirt has lost is no absence.
func lostProcess(t *testing.T, l *lab) {
	d := l.driver(t, func(c *libvirt.Config) { c.NetNS = "" })
	id := api.NewID()
	lost := exec.Command("/bin/sh")
	lost.Args = []string{"qemu", "-c", "read x", "-uuid", id.String()}
	in, err := lost.StdinPipe()
	must.NoError(t, err)
	must.NoError(t, lost.Start())
	err = d.Attest(t.Context(), id)
	must.ErrorIs(t, err, hypervisor.ErrExists)
	m := named(l.machine(t))
	m.ID = id
	must.ErrorIs(t, d.Start(t.Context(), m, true), hypervisor.ErrExists)
	narrow := l.driver(t, func(c *libvirt.Config) { c.OwnNetNS, c.NetNS = true, "" })
	must.ErrorIs(t, narrow.Attest(t.Context(), id), hypervisor.ErrExists, must.Sprint("it is in this network namespace"))
	must.NoError(t, in.Close())
	_ = lost.Wait()
	must.NoError(t, d.Attest(t.Context(), id))
}

func TestWithoutLibvirtd(t *testing.T) {
	d := libvirt.New(libvirt.Config{Socket: filepath.Join(t.TempDir(), "none")})
	info, err := d.Fingerprint(t.Context())
	must.ErrorIs(t, err, hypervisor.ErrUnknown)
	must.False(t, info.Healthy)
	must.NotEq(t, "", info.Error)
	must.ErrorIs(t, d.Start(t.Context(), named(&hypervisor.Machine{CPU: api.CPUSpec{Cores: 1}, Memory: api.MiB}), false), hypervisor.ErrUnknown)
	must.ErrorIs(t, d.Attest(t.Context(), api.NewID()), hypervisor.ErrUnknown)
	_, ok := d.LastExit(t.Context(), api.NewID())
	must.False(t, ok)
	must.NoError(t, d.Close())
}

// Errors of QEMU reach the caller as what they are.
func failing(t *testing.T, l *lab) {
	d := l.driver(t, nil)
	m := named(l.machine(t))
	m.NICs[0].Bridge = "none0"
	err := d.Start(t.Context(), m, false)
	must.Error(t, err)
	must.False(t, errors.Is(err, hypervisor.ErrUnknown))
	must.NotEq(t, 0, api.CodeOf(err))
	must.NoError(t, d.Attest(t.Context(), m.ID))
	m.NICs = nil
	m.CPU.Model = "NoSuchModel"
	must.Error(t, d.Start(t.Context(), m, false))
	must.NoError(t, d.Attest(t.Context(), m.ID))
	m.CPU.Model = "host"
	must.NoError(t, d.Start(t.Context(), m, true))
	must.NoError(t, d.Destroy(t.Context(), m.ID))
}
