//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/guard"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/boottime"
	"github.com/novacron/novacron/e2e/lab"
)

// guarded is a guest without a disk, so that it can run anywhere, which is
// restarted elsewhere when its node is lost.
func guarded(name string) string {
	return fmt.Sprintf(`vm %q {
  cpu    = 1
  memory = "96MiB"
  ha     = "restart"
  boot {
    kernel  = "tick-kernel"
    initrd  = "tick-initrd"
    cmdline = "console=ttyS0 quiet"
  }
}
`, name)
}

// guardStatus asks the guard of a client.
func guardStatus(t *testing.T, ctx context.Context, h *lab.Host) *guard.Status {
	t.Helper()
	dir, err := h.Path("/run/novacron/guard")
	must.NoError(t, err)
	c, err := guard.Dial(ctx, dir)
	must.NoError(t, err)
	defer c.Close()
	st, err := c.Status(ctx)
	must.NoError(t, err)
	return st
}

// proofOf is what the guard of a client says of the end of a VM.
func proofOf(t *testing.T, ctx context.Context, h *lab.Host, vm api.ID) guard.Proof {
	t.Helper()
	for _, p := range guardStatus(t, ctx, h).Proofs {
		if p.VM == vm {
			return p
		}
	}
	t.Fatalf("the guard of %s has no proof that %s has ended", h.Name, vm)
	return guard.Proof{}
}

// armed waits until the guard of a client holds a VM.
func armed(t *testing.T, ctx context.Context, h *lab.Host, vm api.ID) *guard.Status {
	t.Helper()
	var st *guard.Status
	must.NoError(t, lab.Until(ctx, func() error {
		st = guardStatus(t, ctx, h)
		for _, a := range st.Armed {
			if a.VM == vm {
				return nil
			}
		}
		return errors.New("it is not armed")
	}))
	return st
}

// runGuarded runs a guarded guest, on clients that have no watchdog, and returns
// it when it is armed and the servers know.
func runGuarded(t *testing.T, ctx context.Context, name string) *api.VMStatusResponse {
	t.Helper()
	cli(t, ctx, "operator", "ha", "set", "-fencing", "lease-only")
	t.Cleanup(func() { remove(t, name) })
	cli(t, ctx, "vm", "run", spec(t, guarded(name)))
	var s *api.VMStatusResponse
	must.NoError(t, lab.Until(ctx, func() error {
		if s = await(t, ctx, name, api.StateRunning); !s.Placement.Armed {
			return errors.New("the servers do not know that it is armed")
		}
		return nil
	}))
	return s
}

func TestAFrozenAgentKeepsNoHAVMBeyondItsLease(t *testing.T) {
	ctx := limit(t, 6*time.Minute)
	s := runGuarded(t, ctx, "guarded")
	h := host(t, s.Node)
	st := armed(t, ctx, h, s.VM.ID)
	must.Eq(t, guard.ClassLeaseOnly, st.Class)
	must.Eq(t, s.Placement.Epoch, st.Armed[0].Epoch)
	first := pids(t, ctx, s.VM.ID)
	must.Len(t, 1, first)

	t.Log("kill -9 of the agent: the guard stays, and what it holds")
	must.NoError(t, h.KillAgent(ctx))
	must.NoError(t, h.StartAgent())
	ready(t, ctx, s.Node)
	must.Eq(t, st.PID, armed(t, ctx, h, s.VM.ID).PID)
	must.Eq(t, first, pids(t, ctx, s.VM.ID))

	t.Log("the agent freezes: the guest dies at the end of the lease")
	must.NoError(t, h.SignalAgent(ctx, "STOP"))
	deadline := guardStatus(t, ctx, h).Deadline
	must.NoError(t, lab.Until(ctx, func() error {
		if alive := pids(t, ctx, s.VM.ID); len(alive) > 0 {
			return fmt.Errorf("%s lives, %s after the deadline", alive, boottime.Now()-deadline)
		}
		return nil
	}))
	late := boottime.Now() - deadline
	t.Logf("seen dead %s after the deadline", late)
	must.Less(t, guardStatus(t, ctx, h).Kill, late)
	proof := proofOf(t, ctx, h, s.VM.ID)
	must.True(t, proof.Killed)
	must.GreaterEq(t, deadline, proof.At, must.Sprint("not before"))

	t.Log("it thaws: the guest comes back, at the servers' word")
	must.NoError(t, h.SignalAgent(ctx, "CONT"))
	must.NoError(t, lab.Until(ctx, func() error {
		if now := pids(t, ctx, s.VM.ID); len(now) != 1 {
			return fmt.Errorf("its processes are %v", now)
		}
		return nil
	}))
	s = await(t, ctx, "guarded", api.StateRunning)
	h = host(t, s.Node)
	armed(t, ctx, h, s.VM.ID)

	t.Log("an agent that ends takes it back first")
	first = pids(t, ctx, s.VM.ID)
	must.NoError(t, h.StopAgent(ctx))
	must.SliceEmpty(t, guardStatus(t, ctx, h).Armed)
	must.Eq(t, first, pids(t, ctx, s.VM.ID))
	must.NoError(t, h.StartAgent())
	ready(t, ctx, s.Node)
	armed(t, ctx, h, s.VM.ID)
	must.Eq(t, first, pids(t, ctx, s.VM.ID))
}

func TestAnHAVMOfAHostThatLosesPowerIsRestartedElsewhere(t *testing.T) {
	ctx := limit(t, 6*time.Minute)
	s := runGuarded(t, ctx, "mobile")
	h := host(t, s.Node)
	lost := guardStatus(t, ctx, h).Deadline
	must.NoError(t, h.PowerOff(ctx))
	must.NoError(t, lab.Until(ctx, func() error {
		if now := pidsOn(t, ctx, s.VM.ID, h); len(now) != 1 {
			return fmt.Errorf("its processes elsewhere are %v", now)
		}
		return nil
	}))
	after := boottime.Now() - lost
	t.Logf("it runs elsewhere %s after the lease was over", after)
	must.GreaterEq(t, 5*time.Second, after, must.Sprint("not before the guard's time is over, too"))
	now := await(t, ctx, "mobile", api.StateRunning)
	must.NotEq(t, s.Node, now.Node)
	must.Eq(t, s.Placement.Epoch+1, now.Placement.Epoch)
	armed(t, ctx, host(t, now.Node), s.VM.ID)

	t.Log("the host comes back, and has nothing of it")
	must.NoError(t, h.PowerOn(ctx))
	must.NoError(t, h.StartAgent())
	ready(t, ctx, s.Node)
	must.Eq(t, now.Node, await(t, ctx, "mobile", api.StateRunning).Node)
	must.Len(t, 1, pids(t, ctx, s.VM.ID))
}
