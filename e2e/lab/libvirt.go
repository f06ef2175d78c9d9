package lab

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/novacron/novacron/api"
)

// libvirtdConf: libvirt refuses to migrate between equal host UUIDs.
const libvirtdConf = `host_uuid = "%s"
auth_unix_rw = "none"
`

// rootQEMUConf runs guests as root, for speed of setting up.
const rootQEMUConf = `user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
`

// debianQEMUConf leaves the user, the group and the ownership to Debian's
// defaults; only what this machine's kernel cannot do is turned off.
const debianQEMUConf = `security_driver = "none"
cgroup_controllers = []
namespaces = []
`

// StartLibvirt writes the host's libvirt configuration and starts its daemons.
func (h *Host) StartLibvirt(ctx context.Context) error {
	etc := filepath.Join(h.Dir(), "etc/libvirt")
	if err := writeFile(filepath.Join(etc, "libvirtd.conf"), fmt.Sprintf(libvirtdConf, api.NewID())); err != nil {
		return err
	}
	conf := rootQEMUConf
	if h.DebianQEMU {
		conf = debianQEMUConf
	}
	if err := writeFile(filepath.Join(etc, "qemu.conf"), conf); err != nil {
		return err
	}
	return h.RestartLibvirt(ctx)
}

// RestartLibvirt starts virtlogd and libvirtd where they do not run, and waits
// until libvirtd answers.
func (h *Host) RestartLibvirt(ctx context.Context) error {
	const start = `pgrep -x virtlogd >/dev/null || virtlogd -d
pgrep -x libvirtd >/dev/null || { rm -f /run/libvirtd.pid; libvirtd -d; }`
	if _, err := h.Run(ctx, "sh", "-c", start); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return Until(wait, func() error {
		_, err := h.Run(wait, "virsh", "-q", "-c", "qemu:///system", "version")
		return err
	})
}
