package libvirt_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/hypervisor/conformance"
	"github.com/novacron/novacron/agent/hypervisor/libvirt"
	"github.com/novacron/novacron/api"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if os.Getenv("NOVA_LIBVIRT") != "" {
			if dir, err := cache(); err == nil {
				_ = os.RemoveAll(dir)
			}
		}
		os.Exit(code)
	}))
}

func (l *lab) config() libvirt.Config {
	return libvirt.Config{Socket: l.socket, LogDir: l.logDir, NetNS: fmt.Sprintf("/proc/%d/ns/net", l.holder.Process.Pid)}
}

// machine boots the boot sector; it has a disk, a seed-like cdrom and a NIC.
func (l *lab) machine(t *testing.T) *hypervisor.Machine {
	t.Helper()
	id := api.NewID()
	disk := filepath.Join(l.dir, "var/lib/libvirt", id.String()+".raw")
	must.NoError(t, os.WriteFile(disk, conformance.BootDisk(), 0o644))
	return &hypervisor.Machine{
		CPU: api.CPUSpec{Cores: 1}, Memory: 32 * api.MiB, Serial: true,
		Disks: []hypervisor.MachineDisk{{Name: "root", Path: disk, Format: "raw"}},
		NICs:  []hypervisor.MachineNIC{{MAC: "52:54:00:00:00:01", Bridge: "br0"}},
	}
}

func (l *lab) host() conformance.Host {
	return conformance.Host{
		Connect: func(*testing.T) hypervisor.Driver { return libvirt.New(l.config()) },
		Machine: l.machine,
		Banner:  conformance.Banner,
		Kill:    l.end,
		Down:    l.kill,
		Up:      l.start,
	}
}

// end kills a guest's process.
func (l *lab) end(t *testing.T, d hypervisor.Domain) {
	t.Helper()
	must.Positive(t, d.PID) // 0 would be this process and all around it
	must.NoError(t, syscall.Kill(d.PID, syscall.SIGKILL))
}

// TestLibvirt runs everything that needs a host whose QEMU is root on one host.
func TestLibvirt(t *testing.T) {
	l := newLab(t, false)
	t.Run("conformance", func(t *testing.T) { conformance.Run(t, l.host()) })
	t.Run("a libvirtd that hangs", func(t *testing.T) { hanging(t, l) })
	t.Run("foreign domains are left alone", func(t *testing.T) { foreign(t, l) })
	t.Run("a lost process is not absent", func(t *testing.T) { lostProcess(t, l) })
	t.Run("starts that fail", func(t *testing.T) { failing(t, l) })
}
