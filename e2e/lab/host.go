package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
)

// Host is one machine of a lab.
type Host struct {
	lab *Lab
	// Name is its hostname, Address its IPv4 address on the lab's bridge.
	Name    string
	Address string
	// Libvirt: it runs its own libvirtd.
	Libvirt bool
	// DebianQEMU keeps Debian's defaults for the user and the ownership of
	// guests instead of running everything as root.
	DebianQEMU bool

	init  atomic.Pointer[exec.Cmd] // PID 1 of the host
	agent *exec.Cmd
	done  chan struct{} // closed when agent has ended

	watchdog *device // nil: it has none, or is off
	bites    atomic.Int32
}

// Dir is the host's folder on this machine.
func (h *Host) Dir() string { return filepath.Join(h.lab.Dir, h.Name) }

func (h *Host) netns() string { return h.lab.Bridge() + "-" + h.Name }

// hostScript runs as PID 1 of the host: own mounts, then wait for ever and reap.
const hostScript = `
set -e
mount --make-rprivate /
mount -t proc proc /proc
D=$1
for d in etc/libvirt var/lib/libvirt var/log/libvirt var/cache/libvirt var/lib/novacron etc/novacron; do
  mkdir -p "$D/$d" "/$d"
  mount --bind "$D/$d" "/$d"
done
mount -t tmpfs -o mode=755,size=64m tmpfs /run
mkdir -p /run/libvirt /run/lock
[ -z "$3" ] || { mkdir -p /var/lib/novacron/shared; mount --bind "$3" /var/lib/novacron/shared; }
mount --bind "$D/machine-id" /etc/machine-id
mount --bind "$D/hosts" /etc/hosts
mount --bind "$D/boot_id" /proc/sys/kernel/random/boot_id
if [ -e "$D/kvm" ]; then mount --bind "$D/kvm" /dev/kvm; fi
hostname "$2"
ip link set lo up
echo ready > "$D/ready"
trap : TERM INT
while :; do sleep 3600 & wait $! || :; done
`

// PowerOn makes the host's namespaces and starts its first process; a host that
// was on before gets a new boot id.
func (h *Host) PowerOn(ctx context.Context) error {
	d := h.Dir()
	for _, dir := range []string{"etc/libvirt", "etc/novacron", "var/lib/libvirt", "var/log/libvirt/qemu", "var/cache/libvirt", "var/lib/novacron"} {
		if err := os.MkdirAll(filepath.Join(d, dir), 0o755); err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(d, "machine-id")); err != nil {
		var id [16]byte
		rand.Read(id[:])
		if err := writeFile(filepath.Join(d, "machine-id"), hex.EncodeToString(id[:])+"\n"); err != nil {
			return err
		}
		if err := run(ctx, "cp", "-a", "/etc/libvirt/.", filepath.Join(d, "etc/libvirt")); h.Libvirt && err != nil {
			return fmt.Errorf("libvirt is not installed: %w", err)
		}
	}
	if err := writeFile(filepath.Join(d, "boot_id"), api.NewID().String()+"\n"); err != nil {
		return err
	}
	// libvirt looks its host's name up at each start of a guest, and without an
	// answer it waits ten seconds for a DNS server.
	hosts := "127.0.0.1 localhost\n"
	for _, other := range h.lab.Hosts {
		hosts += other.Address + " " + other.Name + "\n"
	}
	if err := writeFile(filepath.Join(d, "hosts"), hosts); err != nil {
		return err
	}
	if h.Libvirt {
		if err := os.MkdirAll(h.shared(), 0o755); err != nil {
			return err
		}
	}
	if err := ownKVM(filepath.Join(d, "kvm")); err != nil {
		return err
	}
	os.Remove(filepath.Join(d, "ready"))
	if err := h.connect(ctx); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(d, "init.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	first := exec.Command("nsenter", "--net=/run/netns/"+h.netns(),
		"unshare", "--mount", "--uts", "--pid", "--ipc", "--fork", "--kill-child",
		"bash", "-c", hostScript, "host", d, h.Name, h.shared())
	first.Stdout, first.Stderr = log, log
	first.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := first.Start(); err != nil {
		return err
	}
	h.init.Store(first)
	go first.Wait() // reaped here; its death is the power loss
	wait, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := Until(wait, func() error { _, err := os.Stat(filepath.Join(d, "ready")); return err }); err != nil {
		text, _ := os.ReadFile(filepath.Join(d, "init.log"))
		return fmt.Errorf("did not come up: %w: %s", err, text)
	}
	if h.guarded() {
		if err := errors.Join(h.plugWatchdog(first), h.startGuard(ctx)); err != nil {
			return err
		}
	}
	if h.Libvirt {
		return h.StartLibvirt(ctx)
	}
	return nil
}

// shared is the folder that all hosts with guests have as
// /var/lib/novacron/shared: the lab's shared storage.
func (h *Host) shared() string {
	if !h.Libvirt {
		return ""
	}
	return filepath.Join(h.lab.Dir, "shared")
}

// ownKVM gives the host a /dev/kvm that belongs to the group kvm, as Debian's udev
// makes it. Where it belongs to root alone libvirt finds KVM when it probes QEMU,
// then that its guests may not use it, and probes again at each call: a start
// takes many seconds.
func ownKVM(path string) error {
	var st unix.Stat_t
	err := unix.Stat("/dev/kvm", &st)
	group, lerr := user.LookupGroup("kvm")
	if err != nil || lerr != nil { // no KVM, or no QEMU
		return nil
	}
	gid, err := strconv.Atoi(group.Gid)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := unix.Mknod(path, unix.S_IFCHR|0o660, int(st.Rdev)); err != nil {
		return fmt.Errorf("mknod %s: %w", path, err)
	}
	return errors.Join(os.Chown(path, 0, gid), os.Chmod(path, 0o660))
}

// GuestPort is the port of the lab's bridge that leads to the guests of the host.
func (h *Host) GuestPort() string { return h.lab.Bridge() + h.Name + "g" }

// connect makes the network namespace and plugs it into the bridge.
func (h *Host) connect(ctx context.Context) error {
	if _, err := os.Stat("/run/netns/" + h.netns()); err == nil {
		return nil
	}
	outer := fmt.Sprintf("%s%s", h.lab.Bridge(), h.Name)
	for _, args := range [][]string{
		{"ip", "netns", "add", h.netns()},
		{"ip", "link", "add", outer, "type", "veth", "peer", "name", "uplink", "netns", h.netns()},
		{"ip", "link", "set", outer, "master", h.lab.Bridge(), "up"},
		{"ip", "-n", h.netns(), "addr", "add", h.Address + "/24", "dev", "uplink"},
		{"ip", "-n", h.netns(), "link", "set", "uplink", "up"},
		{"ip", "-n", h.netns(), "route", "add", "default", "via", h.lab.Gateway()},
		// A bridge for guests, so that networks of type bridge can be tried. The lab's
		// bridge is the switch between those of its hosts.
		{"ip", "-n", h.netns(), "link", "add", "br0", "type", "bridge"},
		{"ip", "-n", h.netns(), "link", "set", "br0", "up"},
		{"ip", "link", "add", h.GuestPort(), "type", "veth", "peer", "name", "guests", "netns", h.netns()},
		{"ip", "link", "set", h.GuestPort(), "master", h.lab.Bridge(), "up"},
		{"ip", "-n", h.netns(), "link", "set", "guests", "master", "br0", "up"},
	} {
		if err := run(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// Cut takes the host off the network, Join plugs it in again.
func (h *Host) Cut(ctx context.Context) error {
	return run(ctx, "ip", "-n", h.netns(), "link", "set", "uplink", "down")
}

// Join undoes Cut.
func (h *Host) Join(ctx context.Context) error {
	if err := run(ctx, "ip", "-n", h.netns(), "link", "set", "uplink", "up"); err != nil {
		return err
	}
	return run(ctx, "ip", "-n", h.netns(), "route", "replace", "default", "via", h.lab.Gateway())
}

// Mend undoes what may have been done to the host, and starts what does not run:
// a test that fails in the middle of it leaves the others a whole host.
func (h *Host) Mend(ctx context.Context) error {
	if h.init.Load() == nil {
		if err := h.PowerOn(ctx); err != nil {
			return err
		}
	}
	if err := h.Join(ctx); err != nil {
		return err
	}
	if h.Libvirt {
		if err := errors.Join(h.Kill(ctx, "CONT", "libvirtd"), h.RestartLibvirt(ctx)); err != nil {
			return err
		}
	}
	select {
	case <-h.done:
		return h.StartAgent()
	default:
		return h.SignalAgent(ctx, "CONT")
	}
}

// PowerOff kills every process of the host at once, as a power loss does.
func (h *Host) PowerOff(context.Context) error {
	var err error
	if first := h.init.Swap(nil); first != nil {
		err = cutPower(first)
	}
	if h.done != nil {
		select {
		case <-h.done:
		default: // what waits for a stopped agent is stopped itself
			_ = h.agent.Process.Signal(syscall.SIGCONT)
			<-h.done
		}
	}
	return errors.Join(err, h.unplugWatchdog())
}

// cutPower kills what began with a host's first process.
func cutPower(first *exec.Cmd) error {
	pid, err := pid1(first)
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	syscall.Kill(-first.Process.Pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// PID1 is the host's first process as this machine numbers it: the child of
// unshare, which nsenter has become.
func (h *Host) PID1() (int, error) {
	first := h.init.Load()
	if first == nil {
		return 0, os.ErrNotExist
	}
	return pid1(first)
}

func pid1(first *exec.Cmd) (int, error) {
	unshare := first.Process.Pid
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", unshare, unshare))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) == 0 {
		return 0, os.ErrNotExist
	}
	return strconv.Atoi(fields[0])
}

// Path is where this machine sees a file of the host, which must be on.
func (h *Host) Path(name string) (string, error) {
	if h.init.Load() == nil {
		return "", fmt.Errorf("host %s is off", h.Name)
	}
	pid, err := h.PID1()
	return filepath.Join("/proc", strconv.Itoa(pid), "root", name), err
}

// Command is a command that runs on the host.
func (h *Host) Command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	if h.init.Load() == nil {
		return nil, fmt.Errorf("host %s is off", h.Name)
	}
	pid, err := h.PID1()
	if err != nil {
		return nil, err
	}
	full := append([]string{"-t", strconv.Itoa(pid), "-m", "-u", "-n", "-p", "-i", "--"}, args...)
	return exec.CommandContext(ctx, "nsenter", full...), nil
}

// Run runs a command on the host and returns what it printed.
func (h *Host) Run(ctx context.Context, args ...string) (string, error) {
	cmd, err := h.Command(ctx, args...)
	if err != nil {
		return "", err
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %s: %w: %s", h.Name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Kill sends a signal to every process of that name on the host; that there is
// none is no error.
func (h *Host) Kill(ctx context.Context, signal, name string) error {
	return h.pkill(ctx, signal, "-x", name)
}

func (h *Host) pkill(ctx context.Context, signal string, pattern ...string) error {
	_, err := h.Run(ctx, append([]string{"pkill", "-" + signal}, pattern...)...)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return nil
	}
	return err
}

// PIDs lists the processes of that name, as the host numbers them.
func (h *Host) PIDs(ctx context.Context, pattern string) ([]string, error) {
	out, err := h.Run(ctx, "pgrep", "-f", pattern)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return nil, nil
	}
	return strings.Fields(out), err
}

// Sent is how many bytes the host has sent to others.
func (h *Host) Sent() (int64, error) {
	pid, err := h.PID1()
	if err != nil {
		return 0, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(line, ":")
		if f := strings.Fields(rest); strings.TrimSpace(name) == "uplink" && len(f) > 8 {
			return strconv.ParseInt(f[8], 10, 64)
		}
	}
	return 0, fmt.Errorf("host %s has no network", h.Name)
}
