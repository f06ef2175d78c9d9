package libvirt

import (
	"encoding/xml"
	"path/filepath"
	"strings"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// host is what the XML of a domain depends on besides the machine itself.
type host struct {
	accel    string // kvm or tcg
	machine  string // q35 or pc, or a canonical name
	arch     string
	emulator string
	baseline string // CPU model of "baseline"
	logDir   string // of serial logs; empty: none
	code     string // UEFI code and the template of its variables
	vars     string
	lib      uint64 // libvirt's version, 9000000 for 9.0.0
}

// domainName is the name of a VM's domain.
func domainName(id api.ID) string { return "nova-" + id.String() }

// idOf reads a domain's name; ok is false for domains that are not NovaCron's.
func idOf(name string) (api.ID, bool) {
	s, ok := strings.CutPrefix(name, "nova-")
	if !ok {
		return api.ID{}, false
	}
	id, err := api.ParseID(s)
	return id, err == nil && domainName(id) == name
}

// domainXML makes the XML of a machine. A machine that is not valid is refused.
func (h *host) domainXML(m *hypervisor.Machine) ([]byte, error) {
	d, err := h.domain(m)
	if err != nil {
		return nil, err
	}
	return xml.MarshalIndent(d, "", "  ")
}

// domain describes a machine to libvirt.
func (h *host) domain(m *hypervisor.Machine) (*xmlDomain, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	d := xmlDomain{
		Type: "qemu", Name: domainName(m.ID), UUID: m.ID.String(),
		Metadata:   xmlMetadata{VM: xmlVM{metadataBody: metadataOf(m)}},
		Memory:     xmlMemory{Unit: "KiB", Value: int64(m.Memory / api.KiB)},
		VCPU:       xmlVCPU{Placement: "static", Value: m.CPU.Cores},
		OS:         xmlOS{Type: xmlOSType{Arch: h.arch, Machine: h.machine, Value: "hvm"}, Kernel: m.Kernel, Initrd: m.Initrd, Cmdline: m.Cmdline},
		CPU:        h.cpu(m.CPU.Model),
		Clock:      xmlClock{Offset: "utc"},
		OnPoweroff: "destroy", OnReboot: "restart", OnCrash: "destroy",
	}
	if h.accel == "kvm" {
		d.Type = "kvm"
	}
	if h.arch == "x86_64" {
		d.Features = &xmlFeatures{ACPI: &struct{}{}, APIC: &struct{}{}}
		d.Clock.Timers = []xmlTimer{{Name: "rtc", TickPolicy: "catchup"}, {Name: "pit", TickPolicy: "delay"}, {Name: "hpet", Present: "no"}}
	}
	if m.Firmware == api.FirmwareUEFI {
		if h.code == "" {
			return nil, api.Errorf(api.CodeUnsupported, "this node has no UEFI firmware").WithHint("install ovmf")
		}
		d.OS.Loader = &xmlLoader{ReadOnly: "yes", Type: "pflash", Path: h.code}
		d.OS.NVRAM = &xmlNVRAM{Template: h.vars, Path: m.NVRAM}
	}
	h.disks(&d, m)
	h.devices(&d, m)
	return &d, nil
}

// cpu chooses the CPU: a baseline that every node of a cluster has, all that
// the host has, or a model by name.
func (h *host) cpu(model string) xmlCPU {
	switch {
	case model == "host" && h.accel == "kvm":
		return xmlCPU{Mode: "host-passthrough", Check: "none", Migratable: "on"}
	case model == "host" || model == "max":
		return xmlCPU{Mode: "maximum", Check: "none"}
	case model == "" || model == "baseline":
		model = h.baseline
	}
	return xmlCPU{Mode: "custom", Match: "exact", Check: "none", Model: &xmlCPUModel{Fallback: "forbid", Value: model}}
}

// disks adds the disks and the seed. Names of targets are letters in order, one
// row for each bus.
func (h *host) disks(d *xmlDomain, m *hypervisor.Machine) {
	count := map[string]int{}
	target := func(bus string) xmlTarget {
		prefix := "sd"
		if bus == "virtio" {
			prefix = "vd"
		}
		count[prefix]++
		return xmlTarget{Dev: prefix + letters(count[prefix]-1), Bus: bus}
	}
	scsi, boots := false, 0
	for _, disk := range m.Disks {
		if disk.Boot > 0 {
			boots++
		}
	}
	for i, disk := range m.Disks {
		bus := disk.Bus
		if bus == "" {
			bus = "virtio"
		}
		scsi = scsi || bus == "scsi"
		x := xmlDisk{
			Type: "file", Device: "disk",
			Driver:  xmlDriver{Name: "qemu", Type: disk.Format, Discard: "unmap"},
			Source:  xmlFile{File: disk.Path},
			Backing: &xmlBacking{},
			Target:  target(bus),
		}
		if disk.Backing != "" {
			x.Backing = &xmlBacking{
				Type: "file", Format: &xmlFormat{Type: disk.BackingAs()},
				Source: &xmlFile{File: disk.Backing}, Next: &xmlBacking{},
			}
		}
		if disk.Shared {
			x.Driver.Cache = "none"
			// After a move the source's libvirtd would take the disk away from the
			// guest's user, unless it knows the file system to be a shared one.
			x.Source.Label = &xmlSecLabel{Model: "dac", Relabel: "no"}
		}
		if disk.ReadOnly {
			x.ReadOnly = &struct{}{}
		}
		switch {
		case disk.Boot > 0:
			x.Boot = &xmlBoot{Order: disk.Boot}
		case boots == 0 && i == 0: // nobody said: the first disk boots
			x.Boot = &xmlBoot{Order: 1}
		}
		if disk.Name != "" {
			d.Metadata.VM.Disks = append(d.Metadata.VM.Disks, xmlVMDisk{Dev: x.Target.Dev, Name: disk.Name})
		}
		d.Devices.Disks = append(d.Devices.Disks, x)
	}
	if m.Seed != "" {
		// A disk and not a CD: kernels made for clouds have no driver for the
		// CD's controller, and NoCloud asks only for the label.
		at := target("virtio")
		d.Metadata.VM.Disks = append(d.Metadata.VM.Disks, xmlVMDisk{Dev: at.Dev, Name: "seed"})
		d.Devices.Disks = append(d.Devices.Disks, xmlDisk{
			Type: "file", Device: "disk", Driver: xmlDriver{Name: "qemu", Type: "raw"}, Source: xmlFile{File: m.Seed},
			Backing: &xmlBacking{}, Target: at, ReadOnly: &struct{}{},
		})
	}
	if scsi {
		d.Devices.Controllers = append(d.Devices.Controllers, xmlController{Type: "scsi", Model: "virtio-scsi"})
	}
}

// letters names the n-th disk as the kernel does: a to z, then aa, ab, ...
func letters(n int) string {
	s := string(rune('a' + n%26))
	if n >= 26 {
		return letters(n/26-1) + s
	}
	return s
}

// devices adds everything that is not a disk.
func (h *host) devices(d *xmlDomain, m *hypervisor.Machine) {
	v := &d.Devices
	v.Emulator = h.emulator
	v.Controllers = append(v.Controllers, xmlController{Type: "usb", Model: "none"})
	for _, n := range m.NICs {
		x := xmlInterface{Type: "bridge", MAC: xmlMAC{Address: n.MAC}, Source: xmlBridge{Bridge: n.Bridge}, Model: xmlModel{Type: n.Model}}
		if n.Model == "" {
			x.Model.Type = "virtio"
		}
		if n.MTU > 0 {
			x.MTU = &xmlMTU{Size: n.MTU}
		}
		v.Interfaces = append(v.Interfaces, x)
	}
	if m.Serial {
		s := xmlSerial{Type: "pty"}
		if h.logDir != "" {
			s.Log = &xmlLog{File: h.serialLog(m.ID), Append: "on"}
		}
		v.Serials = append(v.Serials, s)
		v.Consoles = append(v.Consoles, xmlConsole{Type: "pty", Target: xmlSerialPort{Type: "serial"}})
	}
	if m.VNC { // libvirt chooses the path, in the domain's private folder
		v.Graphics = append(v.Graphics, xmlGraphics{Type: "vnc", Listen: xmlListen{Type: "socket"}})
		v.Videos = append(v.Videos, xmlVideo{Model: xmlModel{Type: "vga"}})
	}
	v.MemBalloon.Model = "virtio"
	v.RNGs = append(v.RNGs, xmlRNG{Model: "virtio", Backend: xmlRNGBack{Model: "random", Path: "/dev/urandom"}})
}

// serialLog is the file that keeps what the serial console showed.
func (h *host) serialLog(id api.ID) string {
	return filepath.Join(h.logDir, domainName(id)+"-serial0.log")
}

func metadataOf(m *hypervisor.Machine) metadataBody {
	return metadataBody{ID: m.ID.String(), Namespace: m.Namespace, Name: m.Name, Epoch: uint64(m.Epoch), Version: m.SpecVersion, Generation: m.Generation}
}
