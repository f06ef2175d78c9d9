package libvirt

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

func TestTheOwnCgroupOfADomain(t *testing.T) {
	id := must1(api.ParseID("11111111-2222-4333-8444-555555555555"))
	scope := `machine-qemu\x2d7\x2dnova\x2d11111111\x2d2222\x2d4333\x2d8444\x2d555555555555.scope`
	for name, c := range map[string]struct{ text, want string }{
		"v2 with systemd":    {"0::/machine.slice/" + scope + "/libvirt/emulator\n", "unified/machine.slice/" + scope},
		"v2 without systemd": {"0::/machine/qemu-7-nova-11111111-2222-4333-8444-555555555555.libvirt-qemu/emulator\n", "unified/machine/qemu-7-nova-11111111-2222-4333-8444-555555555555.libvirt-qemu"},
		"v1":                 {"5:cpu,cpuacct:/machine/x\n4:freezer:/machine/qemu-7-nova-11111111-2222-4333-8444-555555555555.libvirt-qemu\n1:name=systemd:/a\n0::/\n", "freezer/machine/qemu-7-nova-11111111-2222-4333-8444-555555555555.libvirt-qemu"},
		"shared":             {"0::/system.slice/libvirtd.service\n", ""},
		"of another VM":      {"0::/machine.slice/machine-qemu\\x2d7\\x2dnova\\x2d99999999\\x2d2222\\x2d4333\\x2d8444\\x2d555555555555.scope\n", ""},
		"nonsense":           {"\n::\nx", ""},
	} {
		must.Eq(t, c.want, ownCgroup(c.text, id), must.Sprint(name))
	}
}

func TestACgroupCountsOnlyIfItIsThere(t *testing.T) {
	root := t.TempDir()
	must.Eq(t, "", mounted(root, ""))
	must.Eq(t, "", mounted(root, "unified/a/b"))
	for _, dir := range []string{"sys/fs/cgroup/unified/a/b", "sys/fs/cgroup/freezer/a/b"} {
		must.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
		must.NoError(t, os.WriteFile(filepath.Join(root, dir, "cgroup.procs"), nil, 0o644))
	}
	must.Eq(t, "/sys/fs/cgroup/unified/a/b", mounted(root, "unified/a/b"))
	must.Eq(t, "/sys/fs/cgroup/freezer/a/b", mounted(root, "freezer/a/b"))
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
