package truth

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// qemus are the processes of QEMU on this machine.
func qemus() (out []int) {
	list, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, d := range list {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && bytes.HasPrefix(comm, []byte("qemu-system-")) {
			out = append(out, pid)
		}
	}
	return out
}

var guest = regexp.MustCompile(`guest=nova-([0-9a-f-]{36})`)

// identify finds a process's host, by its network namespace, and its VM; nil when
// it is none of the hosts' guests.
func (r *Recorder) identify(pid int) *process {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	m := guest.FindSubmatch(line)
	if m == nil {
		return nil
	}
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil
	}
	for _, h := range r.hosts {
		first, err := h.PID1()
		if err != nil {
			continue
		}
		if of, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", first)); err != nil || of != ns {
			continue
		}
		boot, err := os.ReadFile(filepath.Join(h.Dir(), "boot_id"))
		if err != nil {
			return nil
		}
		return &process{host: h.Name, boot: strings.TrimSpace(string(boot)), vm: string(m[1]), pid: pid}
	}
	return nil
}
