package libvirt

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// Attest proves that a VM is absent: libvirt answers that there is no such
// domain, and no process was started for it.
func (d *Driver) Attest(ctx context.Context, id api.ID) error {
	_, err := d.lookup(ctx, id)
	switch {
	case err == nil:
		return hypervisor.ErrExists
	case errors.Is(err, hypervisor.ErrUnknown):
		return err
	case !errors.Is(err, hypervisor.ErrNotFound): // e.g. a foreign domain with this UUID
		return fmt.Errorf("%w: %w", hypervisor.ErrExists, err)
	}
	pids, err := d.scan(id, false)
	if err != nil {
		return fmt.Errorf("%w: looking for processes: %w", hypervisor.ErrUnknown, err)
	}
	if len(pids) > 0 {
		return fmt.Errorf("%w: libvirt has lost process %d", hypervisor.ErrExists, pids[0])
	}
	return nil
}

// scan finds the processes of a VM by what libvirt puts on QEMU's command line.
// first stops at the first one.
func (d *Driver) scan(id api.ID, first bool) ([]int, error) {
	proc := filepath.Join(d.cfg.Root, "proc")
	dir, err := os.Open(proc)
	if err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(-1)
	if err := errors.Join(err, dir.Close()); err != nil {
		return nil, err
	}
	home := ""
	if d.cfg.OwnNetNS || d.cfg.NetNS != "" {
		if home, err = os.Readlink(cmp.Or(d.cfg.NetNS, filepath.Join(proc, "self/ns/net"))); err != nil {
			return nil, err
		}
	}
	var out []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		cmd, err := os.ReadFile(filepath.Join(proc, name, "cmdline"))
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !belongs(cmd, id) {
			continue
		}
		if home != "" {
			ns, err := os.Readlink(filepath.Join(proc, name, "ns/net"))
			if err == nil && ns != home || gone(err) {
				continue
			}
		}
		if out = append(out, pid); first {
			break
		}
	}
	return out, nil
}

// gone: the process has ended while it was looked at.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

// belongs finds "-uuid ID" or "-name guest=nova-ID" among the arguments.
func belongs(cmdline []byte, id api.ID) bool {
	uuid, name := []byte(id.String()), []byte("guest="+domainName(id))
	if !bytes.Contains(cmdline, uuid) {
		return false
	}
	args := bytes.Split(cmdline, []byte{0})
	for i := 1; i < len(args); i++ {
		switch string(args[i-1]) {
		case "-uuid":
			if bytes.Equal(args[i], uuid) {
				return true
			}
		case "-name":
			if rest, ok := bytes.CutPrefix(args[i], name); ok && (len(rest) == 0 || rest[0] == ',') {
				return true
			}
		}
	}
	return false
}

// process returns the PID of a VM and when it was started; zeros if it cannot
// be found. Libvirt's pid file is believed only if the process fits.
func (d *Driver) process(id api.ID) (int, api.Time) {
	pid := 0
	b, err := os.ReadFile(filepath.Join(filepath.Dir(d.cfg.Socket), "qemu", domainName(id)+".pid"))
	if err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			cmd, err := os.ReadFile(filepath.Join(d.cfg.Root, "proc", strconv.Itoa(n), "cmdline"))
			if err == nil && belongs(cmd, id) {
				pid = n
			}
		}
	}
	if pid == 0 {
		pids, err := d.scan(id, true)
		if err != nil || len(pids) == 0 {
			return 0, 0
		}
		pid = pids[0]
	}
	return pid, startTime(filepath.Join(d.cfg.Root, "proc"), pid)
}

// startTime is when a process was started, of ticks of 10 ms since the boot.
func startTime(proc string, pid int) api.Time {
	ticks := startTicks(proc, pid)
	boot := bootTime(proc)
	if ticks == 0 || boot == 0 {
		return 0
	}
	return boot + api.Time(ticks)*api.Time(10*time.Millisecond)
}

// startTicks reads field 22 of /proc/PID/stat; 0 if there is none.
func startTicks(proc string, pid int) uint64 {
	b, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 20 {
		return 0
	}
	ticks, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return 0
	}
	return ticks
}

func bootTime(proc string) api.Time {
	b, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(l, "btime "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return api.Time(n * int64(time.Second))
		}
	}
	return 0
}
