package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
)

// dnsmasqArgs is the command line of a network's DHCP server. It is also how a
// server that runs already is told to be the right one.
func (h *Host) dnsmasqArgs(p *Plan) []string {
	args := []string{
		"--conf-file=/dev/null", "--no-hosts", "--bind-interfaces", "--except-interface=lo",
		"--interface=" + p.Bridge, "--listen-address=" + p.Gateway.Addr().String(),
		fmt.Sprintf("--dhcp-range=%s,%s,12h", p.First, p.Last), "--dhcp-authoritative", "--dhcp-no-override",
		"--dhcp-lease-max=65536",
		"--dhcp-leasefile=" + h.file(p.Bridge, "leases"), "--pid-file=" + h.file(p.Bridge, "pid"),
	}
	if !p.Masq { // no way out: no router, no forwarding of names
		args = append(args, "--no-resolv", "--dhcp-option=3")
	}
	return args
}

// serve starts the DHCP server unless the right one runs. dnsmasq puts itself
// into the background when it is ready.
func (h *Host) serve(ctx context.Context, p *Plan) error {
	want := h.dnsmasqArgs(p)
	pid, have, err := h.server(p.Bridge)
	if err != nil {
		return err
	}
	if pid != 0 {
		if slices.Equal(have, want) {
			return nil
		}
		if err := h.unserve(ctx, p.Bridge); err != nil {
			return err
		}
	}
	return h.run(ctx, h.cfg.Dnsmasq, want...)
}

// server finds a network's DHCP server by its pid file. A process that has
// another pid file on its command line is somebody else.
func (h *Host) server(bridge string) (pid int, args []string, err error) {
	file := h.file(bridge, "pid")
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, nil, nil
	}
	cmd, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	parts := strings.Split(strings.TrimSuffix(string(cmd), "\x00"), "\x00")
	if !slices.Contains(parts, "--pid-file="+file) {
		return 0, nil, nil
	}
	return pid, parts[1:], nil
}

// unserve ends a network's DHCP server and waits until it is gone.
func (h *Host) unserve(ctx context.Context, bridge string) error {
	pid, _, err := h.server(bridge)
	if err != nil {
		return err
	}
	if pid != 0 {
		if err := terminate(ctx, pid); err != nil {
			return err
		}
	}
	for _, ext := range []string{"pid", "leases"} {
		if err := os.Remove(h.file(bridge, ext)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// terminate ends one process, which cannot be mistaken for a later one of the
// same number.
func terminate(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
			if errors.Is(err, syscall.ESRCH) {
				return nil
			}
			return err
		}
		for range 30 { // 3 s, and the context is looked at in between
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
			if n > 0 {
				return nil
			}
			if err != nil && !errors.Is(err, syscall.EINTR) {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	return api.Errorf(api.CodeNetwork, "process %d does not end", pid)
}
