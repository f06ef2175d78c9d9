package guard

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupDepth bounds how deep a VM's cgroup is looked through.
const cgroupDepth = 8

// freezeWait bounds how long one attempt waits for the v1 freezer.
const freezeWait = 2 * time.Millisecond

// openCgroup opens the cgroup of a VM, which must hold process pid, and neither
// this process nor init; it returns its inode, too. The folder stays open: one
// that is made later under the same name is another one.
func openCgroup(path string, pid int) (Killer, uint64, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return nil, 0, errors.New("want a clean absolute path")
	}
	return withRoot(path, func(root *os.Root) (Killer, error) {
		g, err := cgroupKiller(root, path)
		if err != nil {
			return nil, err
		}
		pids, err := members(root, cgroupDepth)
		switch {
		case err != nil:
			return nil, err
		case !slices.Contains(pids, pid):
			return nil, fmt.Errorf("it does not hold process %d", pid)
		case slices.Contains(pids, 1) || slices.Contains(pids, os.Getpid()):
			return nil, errors.New("it holds more than the VM")
		}
		return g, nil
	})
}

// reopenCgroup opens a cgroup that was checked before, by its inode, whoever is in
// it by now. No Killer and no error: it was removed.
func reopenCgroup(path string, id uint64) (Killer, error) {
	g, is, err := withRoot(path, func(root *os.Root) (Killer, error) { return cgroupKiller(root, path) })
	switch {
	case absent(err):
		return nil, nil
	case err != nil:
		return nil, err
	case is != id:
		return nil, g.Close()
	}
	return g, nil
}

// withRoot opens a folder for f, and closes it again if f fails.
func withRoot(path string, f func(*os.Root) (Killer, error)) (Killer, uint64, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, 0, err
	}
	g, err := f(root)
	var st fs.FileInfo
	if err == nil {
		st, err = root.Stat(".")
	}
	if err != nil {
		return nil, 0, errors.Join(err, root.Close())
	}
	return g, st.Sys().(*syscall.Stat_t).Ino, nil
}

// cgroupKiller chooses the means by the kind of cgroup.
func cgroupKiller(root *os.Root, path string) (Killer, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return nil, os.NewSyscallError("statfs", err)
	}
	switch int64(st.Type) {
	case unix.CGROUP2_SUPER_MAGIC:
		if _, err := root.Stat("cgroup.kill"); err != nil {
			return nil, fmt.Errorf("it has no cgroup.kill (the root, or a kernel before 5.14): %w", err)
		}
		return &killGroup{root}, nil
	case unix.CGROUP_SUPER_MAGIC:
		if _, err := root.Stat("freezer.state"); err != nil {
			return nil, fmt.Errorf("it has no freezer.state (the root, or not the freezer hierarchy): %w", err)
		}
		return &freezeGroup{root}, nil
	}
	return nil, errors.New("it is no cgroup")
}

// absent: the cgroup, or a file in it, was removed.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

// members lists the processes in a cgroup and below it.
func members(root *os.Root, depth int) ([]int, error) {
	b, err := root.ReadFile("cgroup.procs")
	if absent(err) {
		return nil, nil
	}
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // a threaded cgroup: its domain lists them
		return nil, err
	}
	var out []int
	for l := range bytes.Lines(b) {
		pid, err := strconv.Atoi(string(bytes.TrimSpace(l)))
		if err != nil {
			return nil, err
		}
		out = append(out, pid)
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil && !absent(err) {
		return nil, err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if depth == 0 {
			return nil, errors.New("it is too deep")
		}
		sub, err := root.OpenRoot(e.Name())
		if absent(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		pids, err := members(sub, depth-1)
		if err := errors.Join(err, sub.Close()); err != nil {
			return nil, err
		}
		out = append(out, pids...)
	}
	return out, nil
}

// put writes a cgroup file. One that was removed is no error: nothing lives there.
func put(root *os.Root, name, value string) error {
	f, err := root.OpenFile(name, os.O_WRONLY, 0)
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if absent(err) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// killGroup is a Killer by cgroup.kill of v2, which reaches all at once, and also
// what is frozen.
type killGroup struct{ root *os.Root }

func (g *killGroup) Kill() error  { return put(g.root, "cgroup.kill", "1") }
func (g *killGroup) Close() error { return g.root.Close() }

func (g *killGroup) Alive() bool {
	b, err := g.root.ReadFile("cgroup.events")
	return !absent(err) && (err != nil || !strings.Contains("\n"+string(b), "\npopulated 0"))
}

// freezeGroup is a Killer by the freezer of v1: what is frozen cannot fork while
// its processes are signalled; they die when it is thawed.
type freezeGroup struct{ root *os.Root }

func (g *freezeGroup) Close() error { return g.root.Close() }

func (g *freezeGroup) Alive() bool {
	pids, err := members(g.root, cgroupDepth)
	return err != nil || len(pids) > 0
}

// Kill thaws whatever happened before, also what somebody else had frozen:
// otherwise the signal waits for ever.
func (g *freezeGroup) Kill() error {
	err := put(g.root, "freezer.state", "FROZEN")
	for begun := time.Now(); err == nil && time.Since(begun) < freezeWait; time.Sleep(freezeWait / 10) {
		b, err := g.root.ReadFile("freezer.state")
		if err != nil || string(bytes.TrimSpace(b)) == "FROZEN" {
			break
		}
	}
	err = errors.Join(err, g.signal())
	return errors.Join(err, put(g.root, "freezer.state", "THAWED"))
}

// signal sends SIGKILL to what is in the cgroup. A process that is listed both
// before and after its pidfd was opened is one of the cgroup, whoever else may
// have had its number in between.
func (g *freezeGroup) signal() error {
	pids, err := members(g.root, cgroupDepth)
	if err != nil {
		return err
	}
	fds := make([]int, len(pids))
	for i, pid := range pids {
		if fds[i], err = unix.PidfdOpen(pid, 0); err != nil {
			fds[i] = -1
		}
	}
	still, err := members(g.root, cgroupDepth)
	for i, pid := range pids {
		if fds[i] < 0 {
			continue
		}
		if slices.Contains(still, pid) {
			if e := unix.PidfdSendSignal(fds[i], unix.SIGKILL, nil, 0); e != nil && !errors.Is(e, unix.ESRCH) {
				err = errors.Join(err, os.NewSyscallError("pidfd_send_signal", e))
			}
		}
		_ = unix.Close(fds[i])
	}
	return err
}
