package libvirt_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

// cache is what libvirt finds out about its emulators, which takes seconds; the
// labs of one run share it.
var cache = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "nova-cache-") })

// lab is one private host with its own libvirtd: own mount, network and UTS
// namespaces, own folders under dir, a bridge br0. Everything that it holds can
// be seen from outside at the same paths.
type lab struct {
	dir      string
	holder   *exec.Cmd
	libvirtd *exec.Cmd
	socket   string
	logDir   string
}

// setup runs inside the namespaces. The folders are bound rather than mounted
// afresh, so that sockets and logs are visible outside.
const setup = `set -e
mount --make-rprivate /
for d in etc/libvirt var/lib/libvirt var/log/libvirt var/cache/libvirt run; do mkdir -p /$d; mount --bind "$LAB/$d" /$d; done
mount --bind "$CACHE" /var/cache/libvirt
# A KVM that libvirtd can open and QEMU's user cannot makes libvirt look at QEMU
# anew at each call, which takes seconds.
if [ -e /dev/kvm ]; then cp -a /dev/kvm "$LAB/kvm"; chmod 666 "$LAB/kvm"; mount --bind "$LAB/kvm" /dev/kvm; fi
ip link set lo up
ip link add br0 type bridge
ip link set br0 up
hostname novalab
# Without this, libvirt waits for DNS on its own name at each start of a guest.
printf '127.0.0.1 localhost novalab\n' > "$LAB/hosts"
mount --bind "$LAB/hosts" /etc/hosts
echo ready
exec cat >/dev/null
`

// newLab starts the host. Without NOVA_LIBVIRT=1 the test is not meant to run.
func newLab(t *testing.T, asUser bool) *lab {
	t.Helper()
	if os.Getenv("NOVA_LIBVIRT") == "" {
		t.Skip("set NOVA_LIBVIRT=1 to run against a real libvirt")
	}
	dir, err := os.MkdirTemp("", "nova-lab-")
	must.NoError(t, err)
	must.NoError(t, os.Chmod(dir, 0o755))
	l := &lab{dir: dir, socket: dir + "/run/libvirt/libvirt-sock", logDir: dir + "/var/log/libvirt/qemu"}
	for _, d := range []string{"etc/libvirt/qemu", "var/lib/libvirt", "var/log/libvirt/qemu", "var/cache/libvirt", "run/lock", "run/nova"} {
		must.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	write := func(name, text string) {
		must.NoError(t, os.WriteFile(filepath.Join(dir, "etc/libvirt", name), []byte(text), 0o644))
	}
	write("libvirtd.conf", fmt.Sprintf("host_uuid = %q\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\nunix_sock_rw_perms = \"0700\"\n", api.NewID()))
	qemu := "security_driver = \"none\"\ncgroup_controllers = []\n"
	if !asUser {
		qemu += "user = \"root\"\ngroup = \"root\"\nnamespaces = []\nremember_owner = 0\n"
	}
	write("qemu.conf", qemu)
	write("virtlogd.conf", "")

	l.holder = exec.Command("unshare", "--mount", "--net", "--uts", "sh", "-c", setup)
	known, err := cache()
	must.NoError(t, err)
	l.holder.Env = append(os.Environ(), "LAB="+dir, "CACHE="+known)
	l.holder.Stderr = os.Stderr
	_, err = l.holder.StdinPipe() // cat ends when this process does
	must.NoError(t, err)
	out, err := l.holder.StdoutPipe()
	must.NoError(t, err)
	must.NoError(t, l.holder.Start())
	t.Cleanup(func() { l.stop(t) })
	line, err := bufio.NewReader(out).ReadString('\n')
	must.NoError(t, err)
	must.Eq(t, "ready\n", line)
	l.enter(t, "virtlogd")
	l.start(t)
	return l
}

// enter starts a program in the host's namespaces. It dies with the test.
func (l *lab) enter(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	pid := strconv.Itoa(l.holder.Process.Pid)
	cmd := exec.Command("nsenter", append([]string{"--target", pid, "--mount", "--net", "--uts", "--"}, args...)...)
	log, err := os.OpenFile(filepath.Join(l.dir, args[0]+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	must.NoError(t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must.NoError(t, cmd.Start())
	if args[0] == "virtlogd" {
		t.Cleanup(func() { end(cmd) })
	}
	return cmd
}

// start starts libvirtd and waits until it accepts connections.
func (l *lab) start(t *testing.T) {
	t.Helper()
	l.libvirtd = l.enter(t, "libvirtd")
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if c, err := net.Dial("unix", l.socket); err == nil {
			must.NoError(t, c.Close())
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("libvirtd does not listen")
		}
	}
}

// kill ends libvirtd as a crash would; guests run on.
func (l *lab) kill(t *testing.T) {
	t.Helper()
	end(l.libvirtd)
	l.libvirtd = nil
}

func end(cmd *exec.Cmd) {
	if cmd != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// alive tells how libvirtd has ended where nobody ended it: every failure after
// that is a consequence.
func (l *lab) alive(t *testing.T) {
	if l.libvirtd == nil {
		return
	}
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(l.libvirtd.Process.Pid, &status, syscall.WNOHANG, nil)
	if err == nil && pid == 0 {
		return
	}
	out, _ := os.ReadFile(filepath.Join(l.dir, "libvirtd.out"))
	t.Errorf("libvirtd has ended by itself: %v, status %#x, signal %q, its last words:\n%s",
		err, uint32(status), status.Signal(), out[max(0, len(out)-8<<10):])
}

// stop ends the host and every guest whose files are in its folder.
func (l *lab) stop(t *testing.T) {
	l.alive(t)
	end(l.libvirtd)
	for _, pid := range l.guests(t) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	end(l.holder)
	if t.Failed() && os.Getenv("NOVA_LIBVIRT_LOG") != "" {
		logs, _ := filepath.Glob(l.logDir + "/nova-*[0-9a-f].log")
		for _, name := range append(logs, l.dir+"/libvirtd.out", l.dir+"/virtlogd.out") {
			b, _ := os.ReadFile(name)
			t.Logf("%s:\n%s", name, b)
		}
	}
	if err := os.RemoveAll(l.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Log(err)
	}
}

// guests finds the QEMU processes of this host: libvirt's folder is in their
// mount namespace.
func (l *lab) guests(t *testing.T) []int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must.NoError(t, err)
	var out []int
	for _, f := range all {
		b, err := os.ReadFile(f)
		if err != nil || !strings.Contains(string(b), "guest=nova-") {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		home, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", l.holder.Process.Pid))
		if err == nil && err2 == nil && ns == home {
			out = append(out, pid)
		}
	}
	return out
}
