package hypervisor

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/novacron/novacron/api"
)

// The limits of a Machine.
const (
	MaxCores   = api.MaxCores
	MinMemory  = api.MiB
	MaxMemory  = api.MaxMemory
	MaxDisks   = api.MaxDisks
	MaxNICs    = api.MaxNICs
	MaxCmdline = api.MaxCmdline
	maxPath    = 1024
)

var (
	nameRE  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	modelRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// Validate refuses a Machine that no hypervisor must ever see. It is the last
// gate before a domain is made: whatever the layers above let through, nothing
// here can name a device, inject an option, or break out of a field. The error
// is an *api.Error that lists every finding.
func (m *Machine) Validate() error {
	v := &findings{}
	v.check(!m.ID.IsZero(), "id", "is missing")
	v.check(nameRE.MatchString(m.Name), "name", "must be 1 to 128 of letters, digits, dots, dashes and underscores")
	v.check(m.Namespace == "" || nameRE.MatchString(m.Namespace), "namespace", "has characters that are not allowed")
	v.check(m.CPU.Cores >= 1 && m.CPU.Cores <= MaxCores, "cpu.cores", "must be 1 to %d", MaxCores)
	v.check(m.CPU.Model == "" || modelRE.MatchString(m.CPU.Model), "cpu.model", "has characters that are not allowed")
	v.check(m.Memory >= MinMemory && m.Memory <= MaxMemory, "memory", "must be %s to %s", MinMemory, MaxMemory)
	v.check(m.Memory%api.KiB == 0, "memory", "must be a multiple of 1 KiB")
	v.check(slices.Contains([]api.Firmware{"", api.FirmwareBIOS, api.FirmwareUEFI}, m.Firmware), "firmware", "must be bios or uefi")
	if m.Firmware == api.FirmwareUEFI {
		v.path("nvram", m.NVRAM)
	}
	m.validateBoot(v)
	m.validateDisks(v)
	m.validateNICs(v)
	return v.err()
}

func (m *Machine) validateBoot(v *findings) {
	if m.Kernel != "" {
		v.path("kernel", m.Kernel)
	}
	if m.Initrd != "" {
		v.path("initrd", m.Initrd)
	}
	v.check(m.Kernel != "" || m.Initrd == "" && m.Cmdline == "", "kernel", "is needed for an initrd or a command line")
	v.check(len(m.Cmdline) <= MaxCmdline && clean(m.Cmdline), "cmdline", "must be printable and at most %d bytes", MaxCmdline)
	if m.Seed != "" {
		v.path("seed", m.Seed)
	}
}

func (m *Machine) validateDisks(v *findings) {
	v.check(len(m.Disks) <= MaxDisks, "disks", "must be at most %d", MaxDisks)
	paths, orders := map[string]bool{}, map[int32]bool{}
	for i, d := range m.Disks {
		f := func(s string) string { return fmt.Sprintf("disks[%d].%s", i, s) }
		v.check(d.Name == "" || modelRE.MatchString(d.Name), f("name"), "has characters that are not allowed")
		v.path(f("path"), d.Path)
		v.check(!paths[d.Path], f("path"), "is used twice")
		paths[d.Path] = true
		v.check(d.Format == "qcow2" || d.Format == "raw", f("format"), "must be qcow2 or raw")
		v.check(slices.Contains([]string{"", "virtio", "sata", "scsi"}, d.Bus), f("bus"), "must be virtio, sata or scsi")
		v.check(!d.ReadOnly || d.Bus != api.BusSATA, f("read_only"), "is not possible on the bus sata")
		v.check(d.Boot >= 0 && d.Boot <= 100 && (d.Boot == 0 || !orders[d.Boot]), f("boot"), "must be unique and at most 100")
		orders[d.Boot] = true
		if d.Backing != "" {
			v.path(f("backing"), d.Backing)
			b := d.BackingAs()
			v.check(d.Format == "qcow2" && (b == "qcow2" || b == "raw"), f("backing"), "needs a qcow2 disk and a base of a known format")
			v.check(d.Backing != d.Path, f("backing"), "must be another file")
		}
	}
}

func (m *Machine) validateNICs(v *findings) {
	v.check(len(m.NICs) <= MaxNICs, "networks", "must be at most %d", MaxNICs)
	macs := map[string]bool{}
	for i, n := range m.NICs {
		f := func(s string) string { return fmt.Sprintf("networks[%d].%s", i, s) }
		hw, err := net.ParseMAC(n.MAC)
		ok := err == nil && len(hw) == 6 && hw[0]&1 == 0 && !slices.Equal(hw, make(net.HardwareAddr, 6))
		v.check(ok, f("mac"), "must be a unicast MAC address")
		v.check(!ok || !macs[hw.String()], f("mac"), "is used twice")
		macs[hw.String()] = true
		v.check(slices.Contains([]string{"", "virtio", "e1000", "e1000e"}, n.Model), f("model"), "must be virtio, e1000 or e1000e")
		v.check(api.ValidInterface(n.Bridge), f("bridge"), "is not the name of a bridge")
		v.check(n.MTU == 0 || n.MTU >= 68 && n.MTU <= 65535, f("mtu"), "must be 68 to 65535")
	}
}

// BackingAs returns the format of the backing file: as declared, else by the
// extension that the image cache gives. It is never read from the file.
func (d *MachineDisk) BackingAs() string {
	if d.BackingFormat != "" || d.Backing == "" {
		return d.BackingFormat
	}
	return strings.TrimPrefix(filepath.Ext(d.Backing), ".")
}

// findings collects what is wrong.
type findings struct{ details []api.Detail }

func (v *findings) check(ok bool, field, format string, args ...any) {
	if !ok {
		v.details = append(v.details, api.Detail{Field: field, Message: fmt.Sprintf(format, args...)})
	}
}

// path accepts a plain file path: absolute, clean, without characters that an
// option parser could take apart, and not a device or a kernel file.
func (v *findings) path(field, p string) {
	ok := filepath.IsAbs(p) && filepath.Clean(p) == p && p != "/" && len(p) <= maxPath && clean(p) && !strings.ContainsAny(p, ",\"'<>&\\")
	v.check(ok, field, "must be a plain absolute path")
	for _, tree := range []string{"/dev", "/proc", "/sys"} {
		v.check(p != tree && !strings.HasPrefix(p, tree+"/"), field, "must not be under %s", tree)
	}
}

// clean reports whether s is printable UTF-8 without anything that changes how
// text around it is read.
func clean(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

func (v *findings) err() error {
	if len(v.details) == 0 {
		return nil
	}
	first := v.details[0]
	e := api.Errorf(api.CodeInvalid, "the machine is not valid: %s %s", first.Field, first.Message)
	e.Details = v.details
	return e
}
