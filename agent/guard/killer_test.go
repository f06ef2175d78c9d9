package guard

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
)

func TestStartTimeIsReadBehindAnyName(t *testing.T) {
	rest := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20"
	for _, name := range []string{"(qemu)", "(a b)", "(x) S 1 2 (y)", "())"} {
		n, err := startTicks([]byte("12 " + name + rest))
		must.NoError(t, err)
		must.Eq(t, 777, n)
	}
	for _, bad := range []string{"", "12 (x", "12 (x) S 1 2", "12 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x 20"} {
		_, err := startTicks([]byte(bad))
		must.Error(t, err, must.Sprint(bad))
	}
	p, err := FindProcess(os.Getpid())
	must.NoError(t, err)
	must.Positive(t, p.Start)
	_, err = FindProcess(1 << 30)
	must.ErrorIs(t, err, os.ErrNotExist)
}

func TestACommandLineBelongsToAVM(t *testing.T) {
	id := api.NewID()
	for _, w := range []struct {
		args []string
		want bool
	}{
		{[]string{"qemu", "-uuid", id.String()}, true},
		{[]string{"qemu", "-name", "guest=nova-" + id.String() + ",debug-threads=on"}, true},
		{[]string{"qemu", "-uuid", api.NewID().String()}, false},
		{[]string{"qemu", "-drive", "file=/pool/" + id.String() + ".qcow2"}, false},
		{nil, false},
	} {
		must.Eq(t, w.want, belongs([]byte(strings.Join(w.args, "\x00")), id), must.Sprint(w.args))
	}
}

func TestAProcessIsKilledByItsPidfd(t *testing.T) {
	g, other := newGuest(t), newGuest(t)
	k, err := openProcess(g.proc)
	must.NoError(t, err)
	must.True(t, k.Alive())
	must.NoError(t, k.Kill())
	g.killed(t)
	must.False(t, k.Alive())
	must.NoError(t, k.Kill(), must.Sprint("to kill the dead is no error"))
	must.NoError(t, k.Close())
	must.True(t, other.alive())

	_, err = openProcess(g.proc)
	must.ErrorIs(t, err, errGone)
	wrong := other.proc
	wrong.Start++
	k, err = openProcess(wrong)
	must.ErrorIs(t, err, errGone, must.Sprint("another process with this number"))
	must.False(t, k.Alive())
	must.NoError(t, k.Kill())
	must.True(t, other.alive())
}

func TestAZombieIsDeadAndAStoppedProcessIsNot(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	must.NoError(t, cmd.Start())
	p, err := FindProcess(cmd.Process.Pid)
	must.NoError(t, err)
	k, err := openProcess(p)
	must.NoError(t, err)
	must.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
	must.True(t, k.Alive())
	must.NoError(t, k.Kill())
	eventually(t, "the death is seen before anybody waits for the child", func() bool { return !k.Alive() })
	_, err = openProcess(p)
	must.ErrorIs(t, err, errGone)
	_ = cmd.Wait()
}

func TestOpenTargetRefuses(t *testing.T) {
	g := newGuest(t)
	good := g.target(vm1, 1).Target
	for _, w := range []struct {
		change func(*Target)
		uuid   api.ID
		want   api.Code
	}{
		{func(t *Target) { t.VM = api.ID{} }, api.ID{}, api.CodeInvalid},
		{func(t *Target) { t.Epoch = 0 }, api.ID{}, api.CodeInvalid},
		{func(t *Target) { t.Process.PID = 1 }, api.ID{}, api.CodeInvalid},
		{func(t *Target) { t.Process.PID = -5 }, api.ID{}, api.CodeInvalid},
		{func(t *Target) { t.Process.PID = os.Getpid() }, api.ID{}, api.CodeInvalid},
		{func(t *Target) { t.Process.Start = 0 }, api.ID{}, api.CodeInvalid},
		{func(t *Target) { t.Process.Start++ }, api.ID{}, api.CodeNotFound},
		{func(t *Target) { t.Process.PID = 1 << 30 }, api.ID{}, api.CodeNotFound},
		{func(t *Target) {}, vm2, api.CodeInvalid},
		{func(t *Target) { t.Cgroup = "relative" }, api.ID{}, api.CodeInvalid},
		{func(t *Target) { t.Cgroup = "/proc" }, api.ID{}, api.CodeInvalid},
		{func(t *Target) { t.Cgroup = "/none" }, api.ID{}, api.CodeInvalid},
	} {
		bad := good
		w.change(&bad)
		_, err := openTarget(&bad, w.uuid)
		must.Eq(t, w.want, code(err), must.Sprintf("%+v: %v", bad, err))
	}
	m, err := openTarget(&good, api.ID{})
	must.NoError(t, err)
	m.close()
	named := newGuest(t, "sh", "-c", "while :; do sleep 1000; done", "nova-"+vm2.String())
	r := named.target(vm2, 1)
	eventually(t, "the command line is there", func() bool { // a little later than the process
		m, err = openTarget(&r.Target, vm2)
		return err == nil
	})
	m.close()
	must.True(t, g.alive())
}

func TestOverlappingCgroups(t *testing.T) {
	must.True(t, overlaps("/c/a", "/c/a"))
	must.True(t, overlaps("/c", "/c/a"))
	must.True(t, overlaps("/c/a/b", "/c/a"))
	must.False(t, overlaps("/c/a", "/c/ab"))
	must.False(t, overlaps("", "/c"))
	must.False(t, overlaps("", ""))
}

// hierarchy is where a kind of cgroup is mounted here.
func hierarchy(t *testing.T, v2 bool) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	must.NoError(t, err)
	for l := range strings.Lines(string(b)) {
		f := strings.Fields(l)
		if v2 && f[2] == "cgroup2" || !v2 && f[2] == "cgroup" && strings.Contains(","+f[3]+",", ",freezer,") {
			return f[1]
		}
	}
	return ""
}

// newCgroup makes a cgroup, or skips the test where that is not possible.
func newCgroup(t *testing.T, v2 bool) string {
	t.Helper()
	at := hierarchy(t, v2)
	if at == "" {
		t.Skipf("there is no such hierarchy here (v2: %t)", v2)
	}
	dir := filepath.Join(at, fmt.Sprintf("guard-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("no cgroup can be made here: %v", err)
	}
	t.Cleanup(func() {
		if root, err := os.OpenRoot(dir); err == nil { // what a failed test left there
			_ = (&freezeGroup{root}).signal()
			_ = root.Close()
		}
		eventually(t, "the cgroup can be removed", func() bool {
			_ = unix.Rmdir(filepath.Join(dir, "sub"))
			err := unix.Rmdir(dir)
			return err == nil || os.IsNotExist(err)
		})
	})
	if v2 {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.kill")); err != nil {
			t.Skip("this kernel has no cgroup.kill")
		}
	}
	return dir
}

// guestIn runs a shell script in a cgroup.
func guestIn(t *testing.T, dir, script string) *guest {
	t.Helper()
	ready := filepath.Join(t.TempDir(), "in")
	must.NoError(t, unix.Mkfifo(ready, 0o600))
	// It is in the cgroup before anything else, so that its children are, too.
	g := newGuest(t, "sh", "-c", "set -e; echo $$ >"+dir+"/cgroup.procs; echo >"+ready+"; "+script)
	_, err := os.ReadFile(ready)
	must.NoError(t, err)
	return g
}

func count(t *testing.T, dir string) int {
	t.Helper()
	root, err := os.OpenRoot(dir)
	must.NoError(t, err)
	pids, err := members(root, cgroupDepth)
	must.NoError(t, err)
	must.NoError(t, root.Close())
	return len(pids)
}

func freeze(t *testing.T, dir string, v2 bool) {
	t.Helper()
	file, text := "freezer.state", "FROZEN"
	if v2 {
		file, text = "cgroup.freeze", "1"
	}
	must.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600))
}

// repeat is what the guard does until nothing lives.
func repeat(t *testing.T, k Killer) {
	t.Helper()
	eventually(t, "everything in the cgroup is dead", func() bool {
		must.NoError(t, k.Kill())
		return !k.Alive()
	})
}

func TestACgroupIsKilledWhole(t *testing.T) {
	for _, v2 := range []bool{true, false} {
		t.Run(fmt.Sprintf("v2=%t", v2), func(t *testing.T) {
			dir := newCgroup(t, v2)
			must.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
			// Children that leave their parent and their session, one in a cgroup below.
			g := guestIn(t, dir, "setsid sleep 600 & sleep 600 & (echo 0 >"+dir+"/sub/cgroup.procs; exec setsid sleep 600) & wait")
			eventually(t, "the children are there", func() bool { return count(t, dir) >= 4 && count(t, dir+"/sub") == 1 })
			outside := newGuest(t)
			k, _, err := openCgroup(dir, g.proc.PID)
			must.NoError(t, err)
			must.True(t, k.Alive())
			repeat(t, k)
			g.killed(t)
			must.Eq(t, 0, count(t, dir))
			must.NoError(t, k.Kill(), must.Sprint("an empty one"))
			must.NoError(t, unix.Rmdir(dir+"/sub"))
			must.NoError(t, unix.Rmdir(dir))
			must.False(t, k.Alive())
			must.NoError(t, k.Kill(), must.Sprint("one that is gone"))
			must.NoError(t, k.Close())
			must.True(t, outside.alive())
		})
	}
}

func TestAFrozenCgroupIsKilled(t *testing.T) {
	for _, v2 := range []bool{true, false} {
		t.Run(fmt.Sprintf("v2=%t", v2), func(t *testing.T) {
			dir := newCgroup(t, v2)
			g := guestIn(t, dir, "exec sleep 600")
			freeze(t, dir, v2)
			k, _, err := openCgroup(dir, g.proc.PID)
			must.NoError(t, err)
			must.True(t, k.Alive())
			repeat(t, k)
			g.killed(t)
			must.NoError(t, k.Close())
		})
	}
}

func TestACgroupThatForksAllTheTimeIsKilled(t *testing.T) {
	for _, v2 := range []bool{true, false} {
		t.Run(fmt.Sprintf("v2=%t", v2), func(t *testing.T) {
			dir := newCgroup(t, v2)
			// Two lines of succession, each process lives only to start the next one.
			script := filepath.Join(t.TempDir(), "hydra")
			must.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\nsh "+script+" &\n"), 0o700))
			g := guestIn(t, dir, "sh "+script+"; sh "+script+"; exec sleep 600")
			k, _, err := openCgroup(dir, g.proc.PID)
			must.NoError(t, err)
			repeat(t, k)
			g.killed(t)
			must.Eq(t, 0, count(t, dir))
			must.NoError(t, k.Close())
		})
	}
}

func TestACgroupIsRefused(t *testing.T) {
	g := newGuest(t)
	for _, v2 := range []bool{true, false} {
		t.Run(fmt.Sprintf("v2=%t", v2), func(t *testing.T) {
			dir := newCgroup(t, v2)
			_, _, err := openCgroup(dir, g.proc.PID)
			must.ErrorContains(t, err, "it does not hold process")
			_, _, err = openCgroup(dir+"/", g.proc.PID)
			must.ErrorContains(t, err, "clean absolute path")
			_, _, err = openCgroup(hierarchy(t, v2), g.proc.PID)
			must.ErrorContains(t, err, "it has no", must.Sprint("the root"))
			in := guestIn(t, dir, "exec sleep 600")
			k, _, err := openCgroup(dir, in.proc.PID)
			must.NoError(t, err)
			must.NoError(t, k.Close())
			must.True(t, in.alive(), must.Sprint("to let go kills nothing"))
		})
	}
}

func TestACgroupMadeAnewUnderTheNameIsAnotherOne(t *testing.T) {
	for _, v2 := range []bool{true, false} {
		t.Run(fmt.Sprintf("v2=%t", v2), func(t *testing.T) {
			dir := newCgroup(t, v2)
			old := guestIn(t, dir, "exec sleep 600")
			k, id, err := openCgroup(dir, old.proc.PID)
			must.NoError(t, err)
			again, err := reopenCgroup(dir, id)
			must.NoError(t, err)
			must.True(t, again.Alive())
			must.NoError(t, again.Close())
			must.NoError(t, old.cmd.Process.Kill())
			old.killed(t)
			eventually(t, "it is removed", func() bool { return unix.Rmdir(dir) == nil })
			again, err = reopenCgroup(dir, id)
			must.NoError(t, err)
			must.Nil(t, again)
			must.NoError(t, os.Mkdir(dir, 0o755))
			next := guestIn(t, dir, "exec sleep 600")
			again, err = reopenCgroup(dir, id)
			must.NoError(t, err)
			must.Nil(t, again)
			must.False(t, k.Alive())
			must.NoError(t, k.Kill())
			must.NoError(t, k.Close())
			must.True(t, next.alive())
			must.Eq(t, 1, count(t, dir))
		})
	}
}
