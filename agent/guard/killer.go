package guard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
)

// Killer is one means to kill a VM.
type Killer interface {
	// Kill sends what kills and does not wait for the death. To kill what is dead is
	// no error.
	Kill() error
	// Alive reports whether anything of it lives. What cannot be known is alive.
	Alive() bool
	// Close lets go of it; nothing is killed by that.
	Close() error
}

// means are the Killers of one VM, the first means first.
type means []Killer

func (m means) alive() bool { return slices.ContainsFunc(m, Killer.Alive) }

func (m means) close() {
	for _, k := range m {
		_ = k.Close() // descriptors of /proc and cgroupfs: nothing is lost
	}
}

// openTarget opens a process and its cgroup for an arm request, and checks that
// they are what they are said to be; it fills in CgroupID. uuid, if not zero,
// must be on the command line. Errors are *api.Error.
func openTarget(t *Target, uuid api.ID) (means, error) {
	t.CgroupID = 0
	if t.VM.IsZero() || t.Epoch == 0 || t.Process.PID <= 1 || t.Process.PID == unix.Getpid() || t.Process.Start == 0 {
		return nil, api.Errorf(api.CodeInvalid, "a VM, an epoch, a process and its start time are needed, and process %d cannot be a VM", t.Process.PID)
	}
	p, err := openProcess(t.Process)
	m := means{p}
	switch {
	case errors.Is(err, errGone):
		return nil, api.Errorf(api.CodeNotFound, "process %d, started at tick %d, is not there", t.Process.PID, t.Process.Start)
	case err != nil:
		return nil, api.Errorf(api.CodeInternal, "process %d: %v", t.Process.PID, err)
	}
	if !uuid.IsZero() {
		if err := checkCommand(p, uuid); err != nil {
			m.close()
			return nil, err
		}
	}
	if t.Cgroup != "" {
		g, id, err := openCgroup(t.Cgroup, t.Process.PID)
		if err != nil {
			m.close()
			return nil, api.Errorf(api.CodeInvalid, "cgroup %s: %v", t.Cgroup, err)
		}
		t.CgroupID = id
		m = append(m, g)
	}
	return m, nil
}

// checkCommand reads the command line while the process is certainly this one.
func checkCommand(p *process, uuid api.ID) error {
	cmd, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
	if err != nil || !p.Alive() {
		return api.Errorf(api.CodeNotFound, "process %d has ended", p.PID)
	}
	if !belongs(cmd, uuid) {
		return api.Errorf(api.CodeInvalid, "process %d does not run VM %s", p.PID, uuid)
	}
	return nil
}

// adopt opens what a guard before this one had armed. The process may be gone and
// its cgroup may not be empty. With an error the means are fewer, and still count.
func adopt(t Target) (means, error) {
	p, err := openProcess(t.Process)
	m := means{p}
	if errors.Is(err, errGone) {
		err = nil
	}
	if t.Cgroup == "" {
		return m, err
	}
	g, gerr := reopenCgroup(t.Cgroup, t.CgroupID)
	if g != nil {
		m = append(m, g)
	}
	return m, errors.Join(err, gerr)
}

// overlaps: one cgroup lies in the other, so that killing one VM would kill both.
func overlaps(a, b string) bool {
	if a == "" || b == "" {
		return false
	}
	a, b = filepath.Clean(a)+"/", filepath.Clean(b)+"/"
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
}
