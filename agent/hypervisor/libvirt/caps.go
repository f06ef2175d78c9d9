package libvirt

import (
	"context"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// capabilities is the part of libvirt's capabilities that is read.
type capabilities struct {
	Guests []struct {
		OSType string `xml:"os_type"`
		Arch   struct {
			Name     string       `xml:"name,attr"`
			Emulator string       `xml:"emulator"`
			Machines []capMachine `xml:"machine"`
			Domains  []struct {
				Type     string       `xml:"type,attr"`
				Machines []capMachine `xml:"machine"`
			} `xml:"domain"`
		} `xml:"arch"`
	} `xml:"guest"`
}

type capMachine struct {
	Canonical string `xml:"canonical,attr"`
	Name      string `xml:",chardata"`
}

// domainCapabilities is the part of the domain capabilities that is read.
type domainCapabilities struct {
	CPU struct {
		Modes []struct {
			Name   string `xml:"name,attr"`
			Models []struct {
				Usable string `xml:"usable,attr"`
				Name   string `xml:",chardata"`
			} `xml:"model"`
		} `xml:"mode"`
	} `xml:"cpu"`
}

// archName is libvirt's name for the architecture that this runs on.
func archName() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return runtime.GOARCH
}

// kvmWorks says whether KVM can be trusted: the device opens, and on x86 the CPU
// has svm or vmx. There are software back ends that open and then hang guests.
func kvmWorks(root, arch string) (bool, string) {
	f, err := os.OpenFile(filepath.Join(root, "dev/kvm"), os.O_RDWR, 0)
	if err != nil {
		return false, "/dev/kvm does not open"
	}
	_ = f.Close()
	if arch != "x86_64" {
		return true, ""
	}
	b, err := os.ReadFile(filepath.Join(root, "proc/cpuinfo"))
	if err != nil {
		return false, "/proc/cpuinfo cannot be read"
	}
	for l := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == "flags" {
			flags := strings.Fields(v)
			if slices.Contains(flags, "svm") || slices.Contains(flags, "vmx") {
				return true, ""
			}
			break
		}
	}
	return false, "the CPU shows neither svm nor vmx"
}

// firmwares are where distributions keep UEFI code and the template of its
// variables.
var firmwares = map[string][][2]string{
	"x86_64": {
		{"usr/share/OVMF/OVMF_CODE_4M.fd", "usr/share/OVMF/OVMF_VARS_4M.fd"},
		{"usr/share/OVMF/OVMF_CODE.fd", "usr/share/OVMF/OVMF_VARS.fd"},
		{"usr/share/edk2/ovmf/OVMF_CODE.fd", "usr/share/edk2/ovmf/OVMF_VARS.fd"},
		{"usr/share/edk2/x64/OVMF_CODE.4m.fd", "usr/share/edk2/x64/OVMF_VARS.4m.fd"},
	},
	"aarch64": {{"usr/share/AAVMF/AAVMF_CODE.fd", "usr/share/AAVMF/AAVMF_VARS.fd"}},
}

func findFirmware(root, arch string) (code, vars string) {
	for _, f := range firmwares[arch] {
		c, v := filepath.Join(root, f[0]), filepath.Join(root, f[1])
		if regular(c) && regular(v) {
			return c, v
		}
	}
	return "", ""
}

func regular(p string) bool {
	st, err := os.Stat(p)
	return err == nil && st.Mode().IsRegular()
}

// learn asks libvirt what it can do and settles acceleration, machine type and
// CPU. It is asked once for each connection that was made anew.
func (d *Driver) learn(ctx context.Context) (*host, api.DriverInfo, error) {
	info := api.DriverInfo{Name: d.Name(), Can: []string{"console", "pause", "start-paused", "migrate"}}
	type versions struct{ lib, hv uint64 }
	v, err := call(ctx, d.jobs, d.cfg.JobTimeout, func(l *golibvirt.Libvirt) (v versions, err error) {
		if v.lib, err = l.ConnectGetLibVersion(); err == nil {
			v.hv, err = l.ConnectGetVersion()
		}
		return v, err
	})
	if err != nil {
		return nil, info, err
	}
	info.Version = fmt.Sprintf("libvirt %s, qemu %s", dotted(v.lib), dotted(v.hv))
	text, err := call(ctx, d.jobs, d.cfg.JobTimeout, (*golibvirt.Libvirt).ConnectGetCapabilities)
	if err != nil {
		return nil, info, err
	}
	h := &host{arch: archName(), logDir: d.cfg.LogDir, emulator: d.cfg.Emulator, lib: v.lib}
	if err := h.fromCapabilities([]byte(text), d.cfg, &info); err != nil {
		return nil, info, err
	}
	h.code, h.vars = findFirmware(d.cfg.Root, h.arch)
	info.Firmware = []string{string(api.FirmwareBIOS)}
	if h.code != "" {
		info.Firmware = append(info.Firmware, string(api.FirmwareUEFI))
	}
	if d.cfg.NoSerialLog {
		h.logDir = ""
	}
	text, err = call(ctx, d.jobs, d.cfg.JobTimeout, func(l *golibvirt.Libvirt) (string, error) {
		virt := "qemu"
		if h.accel == "kvm" {
			virt = "kvm"
		}
		return l.ConnectGetDomainCapabilities(nil, golibvirt.OptString{h.arch}, golibvirt.OptString{h.machine}, golibvirt.OptString{virt}, 0)
	})
	if err != nil {
		return nil, info, err
	}
	info.CPUModels = cpuModels([]byte(text))
	h.chooseBaseline(d.cfg.Baseline, info.CPUModels)
	info.Healthy, info.Acceleration = true, h.accel
	return h, info, nil
}

// fromCapabilities chooses acceleration and machine type.
func (h *host) fromCapabilities(text []byte, cfg Config, info *api.DriverInfo) error {
	var caps capabilities
	if err := xml.Unmarshal(text, &caps); err != nil {
		return fmt.Errorf("%w: capabilities: %w", hypervisor.ErrUnknown, err)
	}
	hasKVM := false
	for _, g := range caps.Guests {
		if g.OSType != "hvm" || g.Arch.Name != h.arch {
			continue
		}
		for _, m := range g.Arch.Machines {
			info.Machines = append(info.Machines, m.Name)
		}
		for _, dom := range g.Arch.Domains {
			hasKVM = hasKVM || dom.Type == "kvm"
		}
	}
	slices.Sort(info.Machines)
	info.Machines = slices.Compact(info.Machines)
	for _, want := range []string{cfg.Machine, "q35", "virt", "pc"} {
		if want != "" && slices.Contains(info.Machines, want) {
			h.machine = want
			break
		}
	}
	if h.machine == "" {
		return api.Errorf(api.CodeUnsupported, "libvirt offers no machine type for %s", h.arch).WithHint("install qemu-system for this architecture")
	}
	works, why := kvmWorks(cfg.Root, h.arch)
	switch cfg.Acceleration {
	case "kvm":
		h.accel = "kvm"
	case "tcg":
		h.accel = "tcg"
	default:
		h.accel = "tcg"
		if works && hasKVM {
			h.accel = "kvm"
		}
	}
	if h.accel == "tcg" && cfg.Acceleration != "tcg" {
		info.Error = "slow emulation (tcg): " + why
	}
	return nil
}

// chooseBaseline settles the CPU model that "baseline" means.
func (h *host) chooseBaseline(configured string, models []string) {
	candidates := []string{configured, "kvm64", "qemu64"}
	if h.accel == "tcg" {
		candidates = []string{configured, "qemu64"}
	}
	for _, c := range candidates {
		if c != "" && (slices.Contains(models, c) || len(models) == 0) {
			h.baseline = c
			return
		}
	}
	h.baseline = "max"
}

func cpuModels(text []byte) []string {
	var caps domainCapabilities
	if xml.Unmarshal(text, &caps) != nil {
		return nil
	}
	var out []string
	for _, mode := range caps.CPU.Modes {
		for _, m := range mode.Models {
			if mode.Name == "custom" && m.Usable != "no" {
				out = append(out, m.Name)
			}
		}
	}
	slices.Sort(out)
	return out
}

// dotted writes libvirt's 9000000 as 9.0.0.
func dotted(v uint64) string {
	return fmt.Sprintf("%d.%d.%d", v/1000000, v/1000%1000, v%1000)
}
