package faults

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/novacron/novacron/e2e/lab"
)

// Census is what there is on the hosts of a lab: a line for each thing, and
// numbers for what is only counted.
type Census struct {
	Things map[string]bool
	Counts map[string]int
}

// volatile are names that come and go without meaning: numbers of processes,
// files that databases and logs make, interfaces' changing names.
var volatile = regexp.MustCompile(`\.tmp$|/raft/snapshots/|\.log(\.\d+)?$|-journal$|/audit|\.pid$|/faultpoints/|\.save$|/seed/.*\.iso$|/qmp-\w{6}(/|$)`)

// asked is what each host is asked; every line that it prints is a thing.
const asked = `set -e
say() { sed "s/^/$1 /"; }
virsh -q -c qemu:///system list --all --name | grep . | say domain || true
ip -o link | awk -F': ' '{print $2}' | sed 's/@.*//' | say interface
iptables-save | grep '^-A\|^:.* - ' | sed 's/\[[0-9:]*\]//' | say iptables || true
awk '$2 !~ "^/run/netns/" {print $2, $3}' /proc/self/mounts | say mount
losetup -n -l -O NAME,BACK-FILE | say loop
ss -Hlntu | awk '{print $1, $5}' | say listens
find /run/novacron /run/libvirt \( -type s -o -type p \) 2>/dev/null | grep -v 'virtlogd\|libvirt-admin' | say socket || true
find /sys/fs/cgroup -maxdepth 4 -type d -name '*nova*' 2>/dev/null | say cgroup || true
`

// folders are those whose files are counted, below a host's folder.
var folders = []string{"var/lib/novacron", "var/lib/libvirt/qemu", "etc/libvirt/qemu"}

// take takes the census of all hosts.
func (b *Bed) take(ctx context.Context) (*Census, error) {
	c := &Census{map[string]bool{}, map[string]int{}}
	for _, h := range b.Clients {
		out, err := h.Run(ctx, "sh", "-c", asked)
		if err != nil {
			return nil, err
		}
		for line := range strings.SplitSeq(out, "\n") {
			if line = strings.TrimSpace(line); line != "" {
				c.Things[h.Name+" "+line] = true
			}
		}
		for _, dir := range folders {
			if err := c.files(h.Name, h.Dir(), dir); err != nil {
				return nil, err
			}
		}
		pid, err := agentOf(h)
		if err != nil {
			return nil, err
		}
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			return nil, err
		}
		c.Counts[h.Name+" agent's file descriptors"] = len(fds)
	}
	if err := c.files("shared", filepath.Join(b.Dir, "shared"), "pool"); err != nil {
		return nil, err
	}
	for _, p := range b.Truth.Processes() {
		c.Things[fmt.Sprintf("%s qemu %s", p.Host, p.VM)] = true
	}
	for _, h := range b.Clients {
		n, err := b.goroutines(ctx, h)
		if err != nil {
			return nil, err
		}
		c.Counts[h.Name+" agent's goroutines"] = n
	}
	return c, nil
}

func (c *Census) files(host, root, dir string) error {
	return filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		}
		if path = strings.TrimPrefix(path, root); volatile.MatchString(path) {
			return nil
		}
		if host != "shared" && strings.HasPrefix(path, "/var/lib/novacron/shared/") {
			return fs.SkipDir // counted once
		}
		c.Things[host+" file "+path] = true
		return nil
	})
}

// agentOf is the agent's process, as this machine numbers it.
func agentOf(h *lab.Host) (int, error) {
	first, err := h.PID1()
	if err != nil {
		return 0, err
	}
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", first))
	if err != nil {
		return 0, err
	}
	list, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, d := range list {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		of, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
		if err != nil || of != ns {
			continue
		}
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(string(line), "\x00agent\x00-config") && !strings.HasPrefix(string(line), "nsenter") {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("the agent of %s is not to be found", h.Name)
}

// expected is what a run leaves behind on purpose: disks that are kept for a while.
var expected = regexp.MustCompile(`/\.aside-\d+-`)

// ofLibvirt are files that libvirt itself makes for a domain and removes at its end:
// a host that loses power has no end.
var ofLibvirt = regexp.MustCompile(`^\+ (\S+) file /var/lib/libvirt/qemu/(channel/target/)?domain-\d+-nova-`)

// outlives reports whether a difference is what libvirt leaves on a host that has
// lost power.
func outlives(diff, host string) bool {
	m := ofLibvirt.FindStringSubmatch(diff)
	return m != nil && m[1] == host
}

var pin = regexp.MustCompile(`^(\S+) file /var/lib/novacron/images/pins/[0-9a-f]+/([0-9a-f-]{36})$`)

// pinnedAside: the image is kept for a disk that was set aside.
func (c *Census) pinnedAside(thing string) bool {
	m := pin.FindStringSubmatch(thing)
	if m == nil {
		return false
	}
	for t := range c.Things {
		if strings.HasPrefix(t, m[1]+" ") && expected.MatchString(t) && strings.Contains(t, m[2]) {
			return true
		}
	}
	return false
}

// Diff is what came and went between two censuses. Kept is what was expected to
// come. A count may have risen by a tenth and some.
func Diff(before, after *Census) (diff, kept []string) {
	for t := range after.Things {
		switch {
		case before.Things[t]:
		case expected.MatchString(t), after.pinnedAside(t):
			kept = append(kept, t)
		default:
			diff = append(diff, "+ "+t)
		}
	}
	for t := range before.Things {
		if !after.Things[t] && !expected.MatchString(t) {
			diff = append(diff, "- "+t)
		}
	}
	for name, n := range after.Counts {
		if was := before.Counts[name]; n > was+was/10+8 {
			diff = append(diff, fmt.Sprintf("+ %s: %d, before %d", name, n, was))
		}
	}
	slices.Sort(diff)
	slices.Sort(kept)
	return diff, kept
}

// compare waits until the census is as before, and says what differs when it does
// not come to that.
func (b *Bed) compare(ctx context.Context, before *Census) (diff, kept []string, err error) {
	for end := time.Now().Add(30 * time.Second); ; rest(ctx, time.Second) {
		now, err := b.take(ctx)
		if err != nil {
			return nil, nil, err
		}
		diff, kept = Diff(before, now)
		if len(diff) == 0 || time.Now().After(end) || ctx.Err() != nil {
			return diff, kept, nil
		}
	}
}
