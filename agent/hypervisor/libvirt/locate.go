package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

var _ hypervisor.Locator = (*Driver)(nil)

// Locate finds QEMU and, where libvirt gave it one, its cgroup.
func (d *Driver) Locate(ctx context.Context, id api.ID) (hypervisor.Process, error) {
	if _, err := d.lookup(ctx, id); err != nil {
		return hypervisor.Process{}, err
	}
	pid, _ := d.process(id)
	if pid == 0 {
		return hypervisor.Process{}, fmt.Errorf("%w: the process of the domain is not found", hypervisor.ErrUnknown)
	}
	proc := filepath.Join(d.cfg.Root, "proc")
	p := hypervisor.Process{PID: pid, Start: startTicks(proc, pid)}
	if p.Start == 0 { // it ended meanwhile
		return hypervisor.Process{}, fmt.Errorf("%w: process %d cannot be read", hypervisor.ErrUnknown, pid)
	}
	b, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "cgroup"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return hypervisor.Process{}, fmt.Errorf("%w: process %d: %w", hypervisor.ErrUnknown, pid, err)
	}
	if path := ownCgroup(string(b), id); path != "" {
		p.Cgroup = mounted(d.cfg.Root, path)
	}
	return p, nil
}

// cgroupPath is where a cgroup lies in its hierarchy.
type cgroupPath struct {
	freezer bool // of v1; else it is v2's
	path    string
}

// cgroupsOf reads /proc/PID/cgroup: v2 and the v1 freezer, of which killing knows.
func cgroupsOf(text string) (out []cgroupPath) {
	for l := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSuffix(l, "\n"), ":", 3)
		switch {
		case len(f) != 3:
		case f[0] == "0" && f[1] == "":
			out = append(out, cgroupPath{path: f[2]})
		case f[1] == "freezer":
			out = append(out, cgroupPath{freezer: true, path: f[2]})
		}
	}
	return out
}

// ownCgroup finds the cgroup that libvirt made for this domain alone: the
// outermost folder that bears its name, "machine-qemu\x2d1\x2dnova\x2d….scope" with
// systemd, "qemu-1-nova-….libvirt-qemu" without. It returns the path with the
// kind in front, or "".
func ownCgroup(text string, id api.ID) string {
	name := domainName(id)
	for _, c := range cgroupsOf(text) {
		parts := strings.Split(c.path, "/")
		for i, p := range parts {
			if !strings.Contains(strings.ReplaceAll(p, `\x2d`, "-"), name) {
				continue
			}
			kind := "unified"
			if c.freezer {
				kind = "freezer"
			}
			return kind + strings.Join(parts[:i+1], "/")
		}
	}
	return ""
}

// mounted finds the folder of what ownCgroup returned; "" if it is not there.
func mounted(root, own string) string {
	kind, path, _ := strings.Cut(own, "/")
	roots := []string{"sys/fs/cgroup", "sys/fs/cgroup/unified"}
	if kind == "freezer" {
		roots = []string{"sys/fs/cgroup/freezer"}
	}
	for _, r := range roots {
		dir := filepath.Join("/", r, path)
		if _, err := os.Stat(filepath.Join(root, dir, "cgroup.procs")); err == nil {
			return dir
		}
	}
	return ""
}
