package libvirt

import (
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// living is the machine of testdata/live.xml.
func living() *hypervisor.Machine {
	return &hypervisor.Machine{
		ID: api.ID{0xab}, Namespace: "default", Name: "guest-vm", Epoch: 1, CPU: api.CPUSpec{Cores: 2}, Memory: 128 * api.MiB,
		Firmware: api.FirmwareUEFI, NVRAM: "/a/vm.fd", Seed: "/a/vm.iso", Serial: true, VNC: true,
		Disks: []hypervisor.MachineDisk{
			{Name: "root", Path: "/a/vmroot.qcow2", Format: "qcow2", Backing: "/a/base.raw"},
			{Name: "data", Path: "/a/vmdata.raw", Format: "raw", Bus: "sata"},
			{Name: "more", Path: "/a/vmmore.raw", Format: "raw", Bus: "scsi", Shared: true},
		},
		NICs: []hypervisor.MachineNIC{{MAC: "52:54:00:00:00:01", Bridge: "br0"}, {MAC: "52:54:00:AB:00:02", Bridge: "br0", Model: "e1000", MTU: 1400}},
	}
}

func liveXML(t *testing.T) *liveDomain {
	t.Helper()
	b, err := os.ReadFile("testdata/live.xml")
	must.NoError(t, err)
	d, err := parseLive(string(b))
	must.NoError(t, err)
	return d
}

// flat lists the text and the attributes of every element below nodes.
func flat(nodes []node, path string) []string {
	var out []string
	for _, n := range nodes {
		at := path + "/" + n.XMLName.Local
		for _, a := range n.Attrs {
			at += fmt.Sprintf("[%s=%s]", a.Name.Local, a.Value)
		}
		out = append(out, at+" "+strings.TrimSpace(n.Text))
		out = append(out, flat(n.Nodes, at)...)
	}
	return out
}

func TestRetargetChangesNothingElse(t *testing.T) {
	same := liveXML(t)
	want, err := testHost().domain(living())
	must.NoError(t, err)
	must.NoError(t, same.retarget(want, nil, ""))
	text, err := xml.Marshal(same)
	must.NoError(t, err)
	again, err := parseLive(string(text))
	must.NoError(t, err)
	must.Eq(t, flat(liveXML(t).Nodes, ""), flat(again.Nodes, ""), must.Sprint("to the same machine: nothing"))
	must.Eq(t, movedWaiting, again.Metadata.VM.MovedIn)
	must.Eq(t, 4, len(again.Metadata.VM.Disks))

	m := living()
	m.Epoch, m.NVRAM, m.Seed = 2, "/b/vars", "/b/seed"
	m.Disks[0].Path, m.Disks[0].Backing, m.Disks[0].BackingFormat = "/b/root", "/b/base", "qcow2"
	m.Disks[1].Path, m.Disks[1].Format = "/b/data", "qcow2"
	m.NICs[0].Bridge = "br7"
	want, err = testHost().domain(m)
	must.NoError(t, err)
	d := liveXML(t)
	must.NoError(t, d.retarget(want, []string{"sda"}, "/b/log"))
	must.Eq(t, 2, d.Metadata.VM.Epoch)
	before, after := flat(liveXML(t).Nodes, ""), flat(d.Nodes, "")
	must.Eq(t, len(before), len(after))
	var changed []string
	for i := range before {
		if before[i] != after[i] {
			line := after[i]
			changed = append(changed, line[strings.LastIndex(line, "]/")+1:])
		}
	}
	must.Eq(t, []string{
		"/os/nvram[template=/usr/share/OVMF/OVMF_VARS_4M.fd] /b/vars",
		"/source[file=/b/root] ", "/format[type=qcow2] ", "/source[file=/b/base] ",
		"/source[file=/b/seed] ",
		"/driver[name=qemu][type=qcow2][discard=unmap] ", "/source[file=/b/data] ",
		"/source[bridge=br7] ",
		"/log[file=/b/log][append=on] ", "/log[file=/b/log][append=on] ",
	}, changed)
}

func TestRetargetRefusesAnotherMachine(t *testing.T) {
	for name, change := range map[string]func(*hypervisor.Machine){
		"uuid":      func(m *hypervisor.Machine) { m.ID = api.ID{1} },
		"memory":    func(m *hypervisor.Machine) { m.Memory += api.MiB },
		"cores":     func(m *hypervisor.Machine) { m.CPU.Cores = 1 },
		"firmware":  func(m *hypervisor.Machine) { m.Firmware = api.FirmwareBIOS },
		"kernel":    func(m *hypervisor.Machine) { m.Kernel = "/k" },
		"format":    func(m *hypervisor.Machine) { m.Disks[1].Format = "qcow2" },
		"read-only": func(m *hypervisor.Machine) { m.Disks[0].ReadOnly = true },
		"bus":       func(m *hypervisor.Machine) { m.Disks[1].Bus = "virtio" },
		"seed":      func(m *hypervisor.Machine) { m.Seed = "" },
		"one more": func(m *hypervisor.Machine) {
			m.NICs = append(m.NICs, hypervisor.MachineNIC{MAC: "52:54:00:00:00:09", Bridge: "b"})
		},
		"mac": func(m *hypervisor.Machine) { m.NICs[0].MAC = "52:54:00:00:00:09" },
	} {
		m := living()
		change(m)
		want, err := testHost().domain(m)
		must.NoError(t, err)
		must.Eq(t, api.CodeInvalid, api.CodeOf(liveXML(t).retarget(want, nil, "")), must.Sprint(name))
	}
	_, err := parseLive(`<domain xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0" type="kvm"/>`)
	must.Eq(t, api.CodeUnsupported, api.CodeOf(err))
	_, err = parseLive("<domain")
	must.ErrorIs(t, err, hypervisor.ErrUnknown)
}

func TestPlan(t *testing.T) {
	fill := func(h *host, change func(*hypervisor.Move)) (*plan, error) {
		p := &plan{}
		mv := &hypervisor.Move{Memory: "/run/a b.mem", Disks: "/run/x.nbd", Machine: living(), Copy: []string{"root", "data"}}
		if change != nil {
			change(mv)
		}
		return p, p.fill(h, liveXML(t), mv)
	}
	values := func(p *plan, field string) (out []any) {
		for _, x := range p.params {
			if x.Field == field {
				out = append(out, x.Value.I)
			}
		}
		return out
	}
	h := testHost()
	h.lib = 9000000
	p, err := fill(h, func(m *hypervisor.Move) { m.AutoConverge = true })
	must.NoError(t, err)
	must.Eq(t, golibvirt.MigratePeer2peer|golibvirt.MigrateLive|golibvirt.MigratePaused|golibvirt.MigrateChangeProtection|golibvirt.MigrateAbortOnError|
		golibvirt.MigrateAutoConverge|golibvirt.MigrateNonSharedInc|golibvirt.MigrateNonSharedSynchronousWrites|golibvirt.MigrateUnsafe, p.flags)
	full, err := fill(h, func(m *hypervisor.Move) {
		c := *m.Machine
		c.Disks = append([]hypervisor.MachineDisk(nil), c.Disks...)
		for i := range c.Disks {
			c.Disks[i].Backing = ""
		}
		m.Machine = &c
	})
	must.NoError(t, err)
	must.Eq(t, golibvirt.MigrateNonSharedDisk, full.flags&(golibvirt.MigrateNonSharedDisk|golibvirt.MigrateNonSharedInc), must.Sprint("where there is no base, all is copied"))
	must.Eq(t, []any{"unix:///run/a%20b.mem"}, values(p, "migrate_uri"))
	must.Eq(t, []any{"unix:///run/x.nbd"}, values(p, "disks_uri"))
	must.Eq(t, []any{"vda", "sda"}, values(p, "migrate_disks"))
	must.StrContains(t, fmt.Sprint(values(p, "destination_xml")...), "pc-q35-7.2")

	h.lib = 7000000
	p, err = fill(h, nil)
	must.NoError(t, err)
	must.Eq(t, 0, p.flags&golibvirt.MigrateNonSharedSynchronousWrites)
	must.SliceEmpty(t, values(p, "bandwidth"))

	_, err = fill(h, func(m *hypervisor.Move) { m.Copy = []string{"root"} })
	must.Eq(t, api.CodeMigration, api.CodeOf(err), must.Sprint("data stays behind"))
	_, err = fill(h, func(m *hypervisor.Move) { m.Copy = []string{"root"}; m.Machine.Disks[1].Shared = true })
	must.Eq(t, api.CodeMigration, api.CodeOf(err), must.Sprint("it runs with a cache"))
	_, err = fill(h, func(m *hypervisor.Move) { m.Copy = append(m.Copy, "other") })
	must.Eq(t, api.CodeInvalid, api.CodeOf(err))
	p, err = fill(h, func(m *hypervisor.Move) { m.Copy = append(m.Copy, "more") })
	must.NoError(t, err)
	must.Eq(t, 0, p.flags&golibvirt.MigrateUnsafe, must.Sprint("nothing is shared"))

	must.Eq(t, "qemu+unix:///system?socket=%2Frun%2Fx.sock", dconnURI("qemu:///system", "/run/x.sock"))
	must.Eq(t, "qemu+unix:///session?socket=%2Fx", dconnURI("qemu:///session", "/x"))
}

func TestMovedReasons(t *testing.T) {
	for _, c := range []struct {
		state       api.VMState
		reason, out string
	}{
		{api.StatePaused, "starting-up", hypervisor.ReasonIncoming},
		{api.StatePaused, "migrating", hypervisor.ReasonIncoming},
		{api.StatePaused, "user", hypervisor.ReasonComplete},
		{api.StatePaused, "io-error", "io-error"},
		{api.StateRunning, "unpaused", "unpaused"},
	} {
		must.Eq(t, c.out, movedReason(c.state, c.reason))
	}
}

func TestMoveErrorsHaveHints(t *testing.T) {
	for _, n := range []golibvirt.ErrorNumber{
		golibvirt.ErrMigrateUnsafe, golibvirt.ErrCPUIncompatible, golibvirt.ErrConfigUnsupported, golibvirt.ErrSystemError,
		golibvirt.ErrOperationTimeout, golibvirt.ErrOperationFailed, golibvirt.ErrInternalError,
	} {
		err := moveError(golibvirt.Error{Code: uint32(n), Message: "words"})
		var e *api.Error
		must.True(t, errors.As(err, &e))
		must.Eq(t, api.CodeMigration, e.Code)
		must.NotEq(t, "", e.Hint)
		must.StrContains(t, e.Message, "words")
	}
	must.True(t, slices.Contains(elsewhere, golibvirt.ErrOperationUnsupported))
}
