//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/lab"
)

// leader returns the host that leads.
func leader(t *testing.T, ctx context.Context) *lab.Host {
	t.Helper()
	var found *lab.Host
	must.NoError(t, lab.Until(ctx, func() error {
		for _, via := range cluster.Servers {
			out, err := cluster.CLIVia(ctx, via, "operator", "raft", "list", "-o", "json")
			if err != nil {
				continue
			}
			var servers []api.Server
			decode(t, out, &servers)
			for _, s := range servers {
				if s.Leader {
					name, _, _ := strings.Cut(s.Name, ".")
					found = cluster.Host(name)
					return nil
				}
			}
		}
		return errors.New("no leader")
	}))
	return found
}

// kill sends SIGKILL to "host:pid".
func kill(ctx context.Context, at string) error {
	name, pid, _ := strings.Cut(at, ":")
	_, err := cluster.Host(name).Run(ctx, "kill", "-9", pid)
	return err
}

// ready waits until the node of that name is ready.
func ready(t *testing.T, ctx context.Context, node string) {
	t.Helper()
	must.NoError(t, lab.Until(ctx, func() error {
		var nodes []api.NodeStub
		if err := cluster.JSON(ctx, &nodes, "node", "list"); err != nil {
			return err
		}
		for _, n := range nodes {
			if n.Name == node && n.Status == api.NodeReady {
				return nil
			}
		}
		return fmt.Errorf("%s is not ready", node)
	}))
}

func TestKillOfAnAgentStopsNoGuest(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	s := run(t, ctx, "agentkill", "")
	before, n := pids(t, ctx, s.VM.ID), nonce(t, ctx, "agentkill")
	h := host(t, s.Node)
	for range 3 {
		must.NoError(t, h.KillAgent(ctx))
		must.Eq(t, before, pids(t, ctx, s.VM.ID))
		must.NoError(t, h.StartAgent())
		ready(t, ctx, s.Node)
	}
	await(t, ctx, "agentkill", api.StateRunning)
	must.Eq(t, before, pids(t, ctx, s.VM.ID))
	must.Eq(t, n, nonce(t, ctx, "agentkill"))
	t.Log("and it still obeys")
	cli(t, ctx, "vm", "stop", "agentkill")
	await(t, ctx, "agentkill", api.StateStopped)
}

func TestKillOfLibvirtdStopsNoGuest(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	s := run(t, ctx, "libvirtkill", "")
	before := pids(t, ctx, s.VM.ID)
	h := host(t, s.Node)
	must.NoError(t, h.Kill(ctx, "KILL", "libvirtd"))
	must.Eq(t, before, pids(t, ctx, s.VM.ID))
	must.NoError(t, h.RestartLibvirt(ctx))
	await(t, ctx, "libvirtkill", api.StateRunning)
	t.Log("events and orders go on over the new connection")
	cli(t, ctx, "vm", "pause", "libvirtkill")
	await(t, ctx, "libvirtkill", api.StatePaused)
	cli(t, ctx, "vm", "resume", "libvirtkill")
	await(t, ctx, "libvirtkill", api.StateRunning)
	must.Eq(t, before, pids(t, ctx, s.VM.ID))
}

func TestKillOfTheLeaderLosesNothing(t *testing.T) {
	ctx := limit(t, 4*time.Minute)
	s := run(t, ctx, "leaderkill", "")
	before := pids(t, ctx, s.VM.ID)
	old := leader(t, ctx)
	var survivor *lab.Host
	for _, h := range cluster.Servers {
		if h != old {
			survivor = h
		}
	}
	stop := make(chan struct{})
	done := make(chan []string)
	go func() { done <- write(ctx, survivor, "lk", stop) }()
	must.NoError(t, old.KillAgent(ctx))
	must.NoError(t, lab.Until(ctx, func() error {
		_, err := cluster.CLIVia(ctx, survivor, "network", "list")
		return err
	}))
	close(stop)
	acked := <-done
	must.NoError(t, old.StartAgent())
	must.NoError(t, cluster.AwaitReady(ctx, time.Minute))
	present(t, ctx, acked)
	await(t, ctx, "leaderkill", api.StateRunning)
	must.Eq(t, before, pids(t, ctx, s.VM.ID))
}

func TestKillOfAllServersAtOnceLosesNothing(t *testing.T) {
	ctx := limit(t, 5*time.Minute)
	s := run(t, ctx, "allkill", "")
	before, n := pids(t, ctx, s.VM.ID), nonce(t, ctx, "allkill")
	stop := make(chan struct{})
	done := make(chan []string)
	go func() { done <- write(ctx, cluster.Servers[1], "ak", stop) }()
	must.NoError(t, lab.Until(ctx, func() error {
		out, err := cluster.CLI(ctx, "namespace", "list")
		if err == nil && strings.Count(out, "ak-") < 3 {
			err = errors.New("too few writes yet")
		}
		return err
	}))
	for _, h := range cluster.Servers {
		must.NoError(t, h.KillAgent(ctx))
	}
	close(stop)
	acked := <-done
	must.Eq(t, before, pids(t, ctx, s.VM.ID))
	for _, h := range cluster.Servers {
		must.NoError(t, h.StartAgent())
	}
	must.NoError(t, cluster.AwaitReady(ctx, 90*time.Second))
	present(t, ctx, acked)
	await(t, ctx, "allkill", api.StateRunning)
	must.Eq(t, before, pids(t, ctx, s.VM.ID))
	must.Eq(t, n, nonce(t, ctx, "allkill"))
}

// write creates namespaces one after another until stop is closed, and returns
// the names of those that were acknowledged.
func write(ctx context.Context, via *lab.Host, prefix string, stop <-chan struct{}) []string {
	var acked []string
	for i := 0; ; i++ {
		select {
		case <-stop:
			return acked
		default:
		}
		name := fmt.Sprintf("%s-%d", prefix, i)
		try, cancel := context.WithTimeout(ctx, 10*time.Second)
		if _, err := cluster.CLIVia(try, via, "namespace", "create", name); err == nil {
			acked = append(acked, name)
		}
		cancel()
	}
}

func present(t *testing.T, ctx context.Context, names []string) {
	t.Helper()
	must.SliceNotEmpty(t, names)
	out := cli(t, ctx, "namespace", "list", "-o", "json")
	for _, n := range names {
		must.StrContains(t, out, fmt.Sprintf("%q", n))
	}
	t.Logf("%d acknowledged writes, all present", len(names))
}

func TestAHostThatLosesPowerIsSuspectAndItsVMsComeBackWithIt(t *testing.T) {
	ctx := limit(t, 5*time.Minute)
	s := run(t, ctx, "power", "")
	h := host(t, s.Node)
	must.NoError(t, h.PowerOff(ctx))
	must.NoError(t, lab.Until(ctx, func() error {
		now := status(t, ctx, "power")
		if !strings.Contains(strings.Join(now.Why, " "), s.Node) {
			return fmt.Errorf("why: %v", now.Why)
		}
		return nil
	}))
	t.Log("no evidence, so nothing was started elsewhere")
	must.SliceEmpty(t, pidsOn(t, ctx, s.VM.ID, h))
	must.NoError(t, h.PowerOn(ctx))
	must.NoError(t, h.StartAgent())
	ready(t, ctx, s.Node)
	again := await(t, ctx, "power", api.StateRunning)
	must.Eq(t, s.Node, again.Node)
	must.Len(t, 1, pids(t, ctx, s.VM.ID))
}

// pidsOn is pids without one host, which is off.
func pidsOn(t *testing.T, ctx context.Context, id api.ID, off *lab.Host) []string {
	t.Helper()
	var out []string
	for _, h := range cluster.Clients {
		if h == off {
			continue
		}
		found, err := h.PIDs(ctx, "qemu-system.*guest=nova-"+id.String())
		must.NoError(t, err)
		out = append(out, found...)
	}
	return out
}
