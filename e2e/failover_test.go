//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/boottime"
	"github.com/novacron/novacron/e2e/lab"
)

// restarted waits until a VM runs on another host than before, and returns when
// its process was first seen there (boot time).
func restarted(t *testing.T, ctx context.Context, vm api.ID, from *lab.Host) (*api.VMStatusResponse, time.Duration) {
	t.Helper()
	var seen time.Duration
	must.NoError(t, lab.Until(ctx, func() error {
		if len(pidsOn(t, ctx, vm, from)) == 0 {
			return fmt.Errorf("it runs nowhere but on %s", from.Name)
		}
		seen = boottime.Now()
		return nil
	}))
	s := await(t, ctx, "phoenix", api.StateRunning)
	must.NotEq(t, from.Name, s.Node)
	return s, seen
}

func TestAHostThatIsCutOffEndsItsHAVMBeforeItRunsElsewhere(t *testing.T) {
	ctx := limit(t, 6*time.Minute)
	old := runGuarded(t, ctx, "phoenix")
	h := host(t, old.Node)

	t.Cleanup(func() { must.NoError(t, h.Join(context.Background())) })
	must.NoError(t, h.Cut(ctx))
	cut := boottime.Now()
	now, seen := restarted(t, ctx, old.VM.ID, h)
	proof := proofOf(t, ctx, h, old.VM.ID)
	must.True(t, proof.Killed)
	t.Logf("cut at 0, dead on %s at %s, running on %s at %s: margin %s", old.Node, (proof.At - cut).Round(time.Millisecond),
		now.Node, (seen - cut).Round(time.Millisecond), (seen - proof.At).Round(time.Millisecond))
	must.Greater(t, time.Second, seen-proof.At)

	must.NoError(t, h.Join(ctx))
	ready(t, ctx, old.Node)
	must.Len(t, 1, pids(t, ctx, old.VM.ID))
	must.Eq(t, now.Node, await(t, ctx, "phoenix", api.StateRunning).Node)
}
