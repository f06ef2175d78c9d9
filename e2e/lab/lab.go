// Package lab makes several hosts out of one Linux machine, for the demo and for
// the end-to-end tests: each host has its own network, mount, PID and UTS
// namespaces, boot id, machine id and, where asked for, its own libvirtd.
//
// Promises: it touches only what it made (namespaces, one bridge, one folder);
// Down removes all of it; the death of a host's first process is its power loss.
// It needs root.
//
// What does not belong: assertions (package e2e), knowledge of NovaCron beyond
// starting its binary.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Lab is a set of hosts on one bridge.
type Lab struct {
	// Name tells labs apart; at most 6 characters, since it is part of the
	// names of network interfaces.
	Name string
	// Dir holds everything the hosts write.
	Dir string
	// Binary is the novacron binary to run.
	Binary string
	// Subnet is the first three octets, "10.77.0".
	Subnet string
	// Env is added to the environment of agents, for example GOCOVERDIR.
	Env []string
	// Guard is a program that is started as the guard of each host with libvirt, with
	// the path of the host's watchdog (package watchdog) as its last argument. Empty:
	// no host has a watchdog, and the agents start their own guards.
	Guard []string
	// Log receives one line for each step.
	Log   io.Writer
	Hosts []*Host
}

// New describes a lab; Up makes it.
func New(name, subnet, dir, binary string) *Lab {
	return &Lab{Name: name, Subnet: subnet, Dir: dir, Binary: binary, Log: io.Discard}
}

// Bridge is the name of the lab's bridge on this machine.
func (l *Lab) Bridge() string { return "nv" + l.Name }

// Gateway is the address of this machine on the lab's bridge.
func (l *Lab) Gateway() string { return l.Subnet + ".1" }

func (l *Lab) logf(format string, args ...any) { fmt.Fprintf(l.Log, format+"\n", args...) }

// Up makes the bridge and every host of the lab. What an earlier run with the
// same name left behind is removed first.
func (l *Lab) Up(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("the lab needs root: it makes network and mount namespaces")
	}
	if err := l.Down(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(l.Dir, 0o755); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"ip", "link", "add", l.Bridge(), "type", "bridge"},
		{"ip", "addr", "add", l.Gateway() + "/24", "dev", l.Bridge()},
		{"ip", "link", "set", l.Bridge(), "up"},
	} {
		if err := run(ctx, args...); err != nil {
			return err
		}
	}
	for _, h := range l.Hosts {
		if err := h.PowerOn(ctx); err != nil {
			return fmt.Errorf("host %s: %w", h.Name, err)
		}
	}
	return nil
}

// Down ends all hosts and removes what the lab made. It can be called again,
// and by a process that did not call Up.
func (l *Lab) Down(ctx context.Context) error {
	var errs []error
	for _, h := range l.Hosts {
		errs = append(errs, h.PowerOff(ctx))
	}
	names, err := os.ReadDir("/run/netns")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, n := range names {
		if strings.HasPrefix(n.Name(), l.Bridge()+"-") {
			errs = append(errs, empty(ctx, n.Name()), run(ctx, "ip", "netns", "delete", n.Name()))
		}
	}
	// A network namespace ends some time after its name: until then its cable is
	// still plugged in, and the same lab could not be made anew.
	cables := []string{l.Bridge()}
	for _, h := range l.Hosts {
		cables = append(cables, l.Bridge()+h.Name, h.GuestPort())
	}
	for _, c := range cables {
		if _, err := os.Stat("/sys/class/net/" + c); err == nil {
			err = run(ctx, "ip", "link", "delete", c)
			if _, left := os.Stat("/sys/class/net/" + c); left == nil {
				errs = append(errs, err)
			}
		}
	}
	errs = append(errs, os.RemoveAll(l.Dir))
	return errors.Join(errs...)
}

// empty kills every process of a network namespace and waits until it is empty.
func empty(ctx context.Context, netns string) error {
	wait, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return Until(wait, func() error {
		out, err := output(wait, "ip", "netns", "pids", netns)
		if err != nil {
			return err
		}
		pids := strings.Fields(out)
		for _, p := range pids {
			if n, err := strconv.Atoi(p); err == nil {
				syscall.Kill(n, syscall.SIGKILL)
			}
		}
		if len(pids) > 0 {
			return fmt.Errorf("%d processes left in %s", len(pids), netns)
		}
		return nil
	})
}

// Host returns the host of that name, or nil.
func (l *Lab) Host(name string) *Host {
	for _, h := range l.Hosts {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// Add adds a host; its address is the lab's subnet and the number.
func (l *Lab) Add(name string, number int, libvirt bool) *Host {
	h := &Host{lab: l, Name: name, Address: fmt.Sprintf("%s.%d", l.Subnet, number), Libvirt: libvirt}
	l.Hosts = append(l.Hosts, h)
	return h
}

// run runs a command and returns what it printed with its error.
func run(ctx context.Context, args ...string) error {
	_, err := output(ctx, args...)
	return err
}

func output(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = 2 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// Until calls check every 100 ms until it returns nil, and returns its last error
// when the context ends first.
func Until(ctx context.Context, check func() error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}

func writeFile(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}
