//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
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
	ctx := limit(t, 6*time.Minute)
	vms := runSix(t, ctx, "leaderkill")
	before := allPIDs(t, ctx, vms)
	must.Len(t, 6, before)
	old := leader(t, ctx)
	var survivor *lab.Host
	for _, h := range cluster.Servers {
		if h != old {
			survivor = h
		}
	}
	w := write(ctx, survivor, "lk")
	w.await(t, ctx, 5)
	must.NoError(t, old.KillAgent(ctx))
	w.await(t, ctx, w.count()+3)
	acked := w.stop()
	must.NoError(t, old.StartAgent())
	must.NoError(t, cluster.AwaitReady(ctx, time.Minute))
	present(t, ctx, acked)
	for _, s := range vms {
		await(t, ctx, s.VM.Name, api.StateRunning)
	}
	must.Eq(t, before, allPIDs(t, ctx, vms))
}

func TestKillOfAllServersAtOnceLosesNothing(t *testing.T) {
	ctx := limit(t, 7*time.Minute)
	vms := runSix(t, ctx, "allkill")
	before, n := allPIDs(t, ctx, vms), nonce(t, ctx, "allkill-0")
	must.Len(t, 6, before)
	w := write(ctx, cluster.Servers[1], "ak")
	w.await(t, ctx, 5)
	for _, h := range cluster.Servers {
		must.NoError(t, h.KillAgent(ctx))
	}
	acked := w.stop()
	must.Eq(t, before, allPIDs(t, ctx, vms))
	for _, h := range cluster.Servers {
		must.NoError(t, h.StartAgent())
	}
	must.NoError(t, cluster.AwaitReady(ctx, 90*time.Second))
	present(t, ctx, acked)
	for _, s := range vms {
		await(t, ctx, s.VM.Name, api.StateRunning)
	}
	must.Eq(t, before, allPIDs(t, ctx, vms))
	must.Eq(t, n, nonce(t, ctx, "allkill-0"))
}

// writer creates namespaces one after another, and remembers those that were
// acknowledged.
type writer struct {
	cancel context.CancelFunc
	done   chan struct{}
	mu     sync.Mutex
	acked  []string
}

// write begins to write.
func write(ctx context.Context, via *lab.Host, prefix string) *writer {
	ctx, cancel := context.WithCancel(ctx)
	w := &writer{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for i := 0; ctx.Err() == nil; i++ {
			name := fmt.Sprintf("%s-%d", prefix, i)
			try, end := context.WithTimeout(ctx, 10*time.Second)
			if _, err := cluster.CLIVia(try, via, "namespace", "create", name); err == nil {
				w.mu.Lock()
				w.acked = append(w.acked, name)
				w.mu.Unlock()
			}
			end()
		}
	}()
	return w
}

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// await waits until so many writes were acknowledged.
func (w *writer) await(t *testing.T, ctx context.Context, n int) {
	t.Helper()
	must.NoError(t, lab.Until(ctx, func() error {
		if have := w.count(); have < n {
			return fmt.Errorf("%d writes are acknowledged, %d are awaited", have, n)
		}
		return nil
	}))
}

// stop ends the writing and returns what was acknowledged.
func (w *writer) stop() []string {
	w.cancel()
	<-w.done
	return w.acked
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
