package hypervisor_test

import (
	"math"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

func good() *hypervisor.Machine {
	return &hypervisor.Machine{
		ID: api.ID{1}, Namespace: "default", Name: "web-1", CPU: api.CPUSpec{Cores: 2}, Memory: 64 * api.MiB,
		Firmware: api.FirmwareUEFI, NVRAM: "/var/lib/nova/x.fd",
		Kernel: "/k", Initrd: "/i", Cmdline: "console=ttyS0 quiet",
		Disks: []hypervisor.MachineDisk{
			{Name: "root", Path: "/pool/a.qcow2", Format: "qcow2", Bus: "virtio", Boot: 1, Backing: "/cache/b.raw"},
			{Name: "data", Path: "/pool/c.raw", Format: "raw", Bus: "sata"},
		},
		NICs: []hypervisor.MachineNIC{{MAC: "52:54:00:00:00:01", Model: "virtio", Bridge: "br0", MTU: 1500}},
		Seed: "/seed.iso",
	}
}

// Hostile are the rows X1 to X20 of what users may try, as far as they reach a
// driver, and what else a driver must never take.
var hostile = map[string]func(m *hypervisor.Machine){
	"X1 name that closes its element": func(m *hypervisor.Machine) { m.Name = "a</name><devices>" },
	"X2 name with NUL":                func(m *hypervisor.Machine) { m.Name = "a\x00b" },
	"X3 name that turns text around":  func(m *hypervisor.Machine) { m.Name = "a\u202eb" },
	"X4 name of 10 MB":                func(m *hypervisor.Machine) { m.Name = strings.Repeat("a", 10<<20) },
	"X5 CDATA end":                    func(m *hypervisor.Machine) { m.Namespace = "a]]>" },
	"X6 entity":                       func(m *hypervisor.Machine) { m.Namespace = `<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>` },
	"X7 entity bomb":                  func(m *hypervisor.Machine) { m.Name = "&lol9;" },
	"X8 metadata that closes":         func(m *hypervisor.Machine) { m.Namespace = "</vm></metadata><qemu:commandline>" },
	"X9 device as disk":               func(m *hypervisor.Machine) { m.Disks[0].Path = "/dev/sda" },
	"X9b process file as disk":        func(m *hypervisor.Machine) { m.Disks[0].Path = "/proc/1/root/etc/shadow" },
	"X10 option in a path":            func(m *hypervisor.Machine) { m.Disks[0].Path = "/pool/a,file.driver=nbd" },
	"X10b option in the backing file": func(m *hypervisor.Machine) { m.Disks[0].Backing = "/c,file.driver=nbd.raw" },
	"X10c json as disk":               func(m *hypervisor.Machine) { m.Disks[0].Path = `json:{"driver":"nbd"}` },
	"X10d URL as disk":                func(m *hypervisor.Machine) { m.Disks[0].Path = "nbd://127.0.0.1" },
	"X11 bridge with a path":          func(m *hypervisor.Machine) { m.NICs[0].Bridge = "../default" },
	"X12 bridge with a command":       func(m *hypervisor.Machine) { m.NICs[0].Bridge = "eth0; rm" },
	"X13 multicast MAC":               func(m *hypervisor.Machine) { m.NICs[0].MAC = "01:00:5e:00:00:01" },
	"X13b zero MAC":                   func(m *hypervisor.Machine) { m.NICs[0].MAC = "00:00:00:00:00:00" },
	"X13c MAC twice":                  func(m *hypervisor.Machine) { m.NICs = append(m.NICs, m.NICs[0]) },
	"X13d long MAC":                   func(m *hypervisor.Machine) { m.NICs[0].MAC = "52:54:00:00:00:01:00:00" },
	"X13e no MAC":                     func(m *hypervisor.Machine) { m.NICs[0].MAC = "" },
	"X14 no CPU":                      func(m *hypervisor.Machine) { m.CPU.Cores = 0 },
	"X14b negative CPU":               func(m *hypervisor.Machine) { m.CPU.Cores = -1 },
	"X14c many CPUs":                  func(m *hypervisor.Machine) { m.CPU.Cores = math.MaxInt32 },
	"X15 no memory":                   func(m *hypervisor.Machine) { m.Memory = 0 },
	"X15b all memory":                 func(m *hypervisor.Machine) { m.Memory = math.MaxInt64 },
	"X15c 1 KiB":                      func(m *hypervisor.Machine) { m.Memory = api.KiB },
	"X15d odd memory":                 func(m *hypervisor.Machine) { m.Memory = 64*api.MiB + 1 },
	"X16 CPU model with options":      func(m *hypervisor.Machine) { m.CPU.Model = "host,+vmx,l3-cache=on" },
	"read-only SATA disk":             func(m *hypervisor.Machine) { m.Disks[1].ReadOnly = true },
	"X18 folder":                      func(m *hypervisor.Machine) { m.Disks[0].Path = "/" },
	"X19 no id":                       func(m *hypervisor.Machine) { m.ID = api.ID{} },
	"X20 control characters":          func(m *hypervisor.Machine) { m.Cmdline = "a\x01b" },
	"X20b newline":                    func(m *hypervisor.Machine) { m.Cmdline = "a\nb" },
	"X20c invalid UTF-8":              func(m *hypervisor.Machine) { m.Cmdline = "a\xffb" },
	"X20d surrogate":                  func(m *hypervisor.Machine) { m.Cmdline = "a\xed\xa0\x80" },
	"command line too long":           func(m *hypervisor.Machine) { m.Cmdline = strings.Repeat("a", 4096) },
	"command line without a kernel":   func(m *hypervisor.Machine) { m.Kernel = "" },
	"relative path":                   func(m *hypervisor.Machine) { m.Disks[0].Path = "a.raw" },
	"path that climbs":                func(m *hypervisor.Machine) { m.Disks[0].Path = "/pool/../etc/shadow" },
	"path of 4 KiB":                   func(m *hypervisor.Machine) { m.Disks[0].Path = "/" + strings.Repeat("a", 4096) },
	"path twice":                      func(m *hypervisor.Machine) { m.Disks[1].Path = m.Disks[0].Path },
	"its own backing file":            func(m *hypervisor.Machine) { m.Disks[0].Backing = m.Disks[0].Path },
	"backing of a raw disk":           func(m *hypervisor.Machine) { m.Disks[1].Backing = "/x.raw" },
	"backing of no format":            func(m *hypervisor.Machine) { m.Disks[0].Backing = "/x" },
	"another disk format":             func(m *hypervisor.Machine) { m.Disks[0].Format = "vmdk" },
	"no disk format":                  func(m *hypervisor.Machine) { m.Disks[0].Format = "" },
	"another bus":                     func(m *hypervisor.Machine) { m.Disks[0].Bus = "usb" },
	"boot order twice":                func(m *hypervisor.Machine) { m.Disks[1].Boot = 1 },
	"negative boot order":             func(m *hypervisor.Machine) { m.Disks[1].Boot = -1 },
	"disk name with quotes":           func(m *hypervisor.Machine) { m.Disks[0].Name = `a"b` },
	"too many disks":                  func(m *hypervisor.Machine) { m.Disks = make([]hypervisor.MachineDisk, 25) },
	"too many NICs":                   func(m *hypervisor.Machine) { m.NICs = make([]hypervisor.MachineNIC, 17) },
	"another NIC":                     func(m *hypervisor.Machine) { m.NICs[0].Model = "vmxnet" },
	"MTU":                             func(m *hypervisor.Machine) { m.NICs[0].MTU = 1 },
	"firmware":                        func(m *hypervisor.Machine) { m.Firmware = "/tmp/evil.fd" },
	"UEFI without variables":          func(m *hypervisor.Machine) { m.NVRAM = "" },
	"kernel on a device":              func(m *hypervisor.Machine) { m.Kernel = "/dev/kmem" },
	"seed on a device":                func(m *hypervisor.Machine) { m.Seed = "/sys/x" },
	"initrd relative":                 func(m *hypervisor.Machine) { m.Initrd = "x" },
}

func TestGoodMachine(t *testing.T) { must.NoError(t, good().Validate()) }

func TestHostileMachines(t *testing.T) {
	for name, change := range hostile {
		t.Run(name, func(t *testing.T) {
			m := good()
			change(m)
			err := m.Validate()
			must.Eq(t, api.CodeInvalid, api.CodeOf(err))
			must.Less(t, 4096, len(err.Error()), must.Sprint("errors do not repeat what was sent"))
		})
	}
}
