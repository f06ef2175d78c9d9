package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/fleet"
)

// The goals for an agent's memory, in MiB: idle, and with 200 VMs of the
// simulated hypervisor.
const (
	rssGoalIdle = 40
	rssGoalVMs  = 60
)

// benchRSS measures the memory of one agent that is server and client: idle,
// and with 200 simulated VMs.
func benchRSS(ctx context.Context, b *bench) (err error) {
	const vms = 200
	rest := pick(b, 3*time.Second, 30*time.Second)
	fmt.Printf("   novacron agent -dev -hypervisor sim (server and client in one process), looked at %s after the last work; MiB\n", rest)
	d, err := startDev(ctx, b.binary, filepath.Join(b.dir, "rss"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	fmt.Printf("   %-18s %8s %8s %8s   %s\n", "", "PSS", "RSS", "threads", "goal (PSS)")
	report := func(what string, goal int) error {
		pause(ctx, rest)
		m, err := memoryOf(d.cmd.Process.Pid)
		if err != nil {
			return err
		}
		fmt.Printf("   %-18s %8.1f %8.1f %8d   <= %d\n", what, m.pss, m.rss, m.threads, goal)
		return nil
	}
	if err := report("idle", rssGoalIdle); err != nil {
		return err
	}
	c, err := api.NewClient(api.ClientConfig{Address: d.address, Token: d.token})
	if err != nil {
		return err
	}
	defer c.Close()
	for i := range vms {
		spec := api.VMSpec{
			Name: fmt.Sprintf("vm-%d", i), CPU: api.CPUSpec{Cores: 1, Reserve: 1}, Memory: 16 * api.MiB,
			Disks: []api.Disk{{Name: "root", Size: api.MiB}},
		}
		if _, err := c.VMs().Apply(ctx, &api.VMApply{Spec: spec}, nil); err != nil {
			return err
		}
	}
	wait, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := fleet.Until(wait, func() error { return allRunning(wait, c, vms) }); err != nil {
		return err
	}
	return report(fmt.Sprintf("%d VMs", vms), rssGoalVMs)
}

func allRunning(ctx context.Context, c *api.Client, want int) error {
	running, why := 0, ""
	for vm, err := range c.VMs().All(ctx, nil) {
		if err != nil {
			return err
		}
		if vm.State == string(api.StateRunning) {
			running++
		} else {
			why = vm.Name + " is " + vm.State + " " + vm.Reason
		}
	}
	if running < want {
		return fmt.Errorf("%d of %d VMs run; %s", running, want, why)
	}
	return nil
}

// dev is an agent in -dev mode.
type dev struct {
	cmd            *exec.Cmd
	address, token string
}

// startDev starts an agent and waits until it says where it is.
func startDev(ctx context.Context, binary, dir string) (_ *dev, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "agent.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d := &dev{cmd: exec.Command(binary, "agent", "-dev", "-hypervisor", "sim", "-http-addr", "127.0.0.1:0", "-data-dir", filepath.Join(dir, "data"))}
	d.cmd.Stderr = log
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	watch := time.AfterFunc(30*time.Second, func() { d.cmd.Process.Kill() })
	defer watch.Stop()
	lines := bufio.NewScanner(out)
	for d.token == "" && ctx.Err() == nil && lines.Scan() {
		switch key, value, _ := strings.Cut(lines.Text(), ": "); key {
		case "address":
			d.address = value
		case "token":
			d.token = value
		}
	}
	if d.address == "" || d.token == "" {
		d.cmd.Process.Kill()
		d.cmd.Wait()
		text, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("the agent did not start: %s", text)
	}
	return d, nil
}

// stop ends the agent in good order, or after a while without.
func (d *dev) stop() error {
	err := d.cmd.Process.Signal(syscall.SIGTERM)
	watch := time.AfterFunc(time.Minute, func() { d.cmd.Process.Kill() })
	defer watch.Stop()
	return errors.Join(err, d.cmd.Wait())
}

// memory is what a process uses, in MiB.
type memory struct {
	pss, rss float64
	threads  int
}

func memoryOf(pid int) (m memory, err error) {
	mib := func(line string) float64 {
		kib, _ := strconv.ParseFloat(strings.Fields(line)[1], 64)
		return kib / 1024
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return m, err
	}
	for _, line := range strings.Split(string(text), "\n") {
		switch {
		case strings.HasPrefix(line, "Pss:"):
			m.pss = mib(line)
		case strings.HasPrefix(line, "Rss:"):
			m.rss = mib(line)
		}
	}
	if m.rss == 0 {
		return m, errors.New("the kernel tells no memory of the agent")
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	m.threads = len(tasks)
	return m, err
}
