//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/lab"
)

// elsewhere is the client that a VM is not on.
func elsewhere(node string) string {
	if node == "c1" {
		return "c2"
	}
	return "c1"
}

// moved waits until a VM's newest migration has ended, and returns it.
func moved(t *testing.T, ctx context.Context, name string) *api.Migration {
	t.Helper()
	var r api.MigrationResponse
	must.NoError(t, lab.Until(ctx, func() error {
		r = api.MigrationResponse{}
		if err := cluster.JSON(ctx, &r, "migration", "status", name); err != nil {
			return err
		}
		if r.Migration.Phase.Active() {
			return fmt.Errorf("the migration is %s: %v", r.Migration.Phase, r.Why)
		}
		return nil
	}))
	return r.Migration
}

func TestAGuestMovesThereAndBack(t *testing.T) {
	ctx := limit(t, 8*time.Minute)
	s := run(t, ctx, "mover", "")
	born := nonce(t, ctx, "mover")

	t.Log("live, with its local disk")
	to := elsewhere(s.Node)
	out := cli(t, ctx, "vm", "migrate", "mover")
	must.StrContains(t, out, "moved live")
	live := await(t, ctx, "mover", api.StateRunning)
	must.Eq(t, to, live.Node)
	must.Eq(t, s.Placement.Epoch+1, live.Placement.Epoch, must.Sprint("each owner has its own epoch"))
	on := pids(t, ctx, s.VM.ID)
	must.Len(t, 1, on)
	must.StrHasPrefix(t, to+":", on[0])
	must.Eq(t, born, nonce(t, ctx, "mover"), must.Sprint("the guest went on, it was not started anew"))
	must.Eq(t, api.MigrationDone, moved(t, ctx, "mover").Phase)

	t.Log("warm, back to where it was")
	cli(t, ctx, "vm", "migrate", "-mode", "warm", "-to", s.Node, "mover")
	warm := await(t, ctx, "mover", api.StateRunning)
	must.Eq(t, s.Node, warm.Node)
	must.Eq(t, born, nonce(t, ctx, "mover"))

	t.Log("paused, it stays paused")
	cli(t, ctx, "vm", "pause", "mover")
	await(t, ctx, "mover", api.StatePaused)
	cli(t, ctx, "vm", "migrate", "mover")
	must.Eq(t, to, await(t, ctx, "mover", api.StatePaused).Node)
	cli(t, ctx, "vm", "resume", "mover")
	await(t, ctx, "mover", api.StateRunning)
	must.Eq(t, born, nonce(t, ctx, "mover"))

	t.Log("cold: stopped, its disk moves")
	cli(t, ctx, "vm", "stop", "mover")
	await(t, ctx, "mover", api.StateStopped)
	refused(t, ctx, api.CodeState, "vm", "migrate", "-mode", "live", "mover")
	cli(t, ctx, "vm", "migrate", "mover")
	must.Eq(t, s.Node, await(t, ctx, "mover", api.StateStopped).Node)
	cli(t, ctx, "vm", "start", "mover")
	await(t, ctx, "mover", api.StateRunning)
	must.NotEq(t, born, nonce(t, ctx, "mover"))
	must.StrContains(t, cli(t, ctx, "vm", "events", "mover"), "committed")
}

func TestAMoveThatIsCanceledLeavesTheGuestWhereItWas(t *testing.T) {
	ctx := limit(t, 5*time.Minute)
	s := run(t, ctx, "stayer", "")
	born := nonce(t, ctx, "stayer")
	// So slow that it lasts: 96 MiB at 1 MiB/s.
	cli(t, ctx, "vm", "migrate", "-detach", "-bandwidth", "1MiB", "-compress", "none", "stayer")
	must.NoError(t, lab.Until(ctx, func() error {
		var r api.MigrationResponse
		if err := cluster.JSON(ctx, &r, "migration", "status", "stayer"); err != nil {
			return err
		}
		if r.Progress == nil || r.Progress.Done == 0 {
			return fmt.Errorf("nothing was sent yet: %s", r.Migration.Phase)
		}
		return nil
	}))
	refused(t, ctx, api.CodeMigrating, "vm", "reboot", "stayer")
	cli(t, ctx, "migration", "cancel", "stayer")
	must.Eq(t, api.MigrationAborted, moved(t, ctx, "stayer").Phase)
	now := await(t, ctx, "stayer", api.StateRunning)
	must.Eq(t, s.Node, now.Node)
	must.Eq(t, s.Placement.Epoch, now.Placement.Epoch)
	must.Eq(t, born, nonce(t, ctx, "stayer"))
	must.Len(t, 1, pids(t, ctx, s.VM.ID))
	leftovers(t, ctx, elsewhere(s.Node), s.VM.ID)
	leftovers(t, ctx, elsewhere(s.Node), s.Volumes[0].ID)
}

// leftovers demands that nothing of a VM or a volume is on a client.
func leftovers(t *testing.T, ctx context.Context, node string, id api.ID) {
	t.Helper()
	h := host(t, node)
	must.NoError(t, lab.Until(ctx, func() error {
		out, err := h.Run(ctx, "find", "/run/novacron", "-path", "*/migrate/*")
		if err != nil {
			return err
		}
		if out != "" {
			return fmt.Errorf("left on %s: %s", node, out)
		}
		return filepath.WalkDir(h.Dir(), func(path string, _ fs.DirEntry, err error) error {
			if err == nil && strings.Contains(filepath.Base(path), id.String()) {
				return fmt.Errorf("left on %s: %s", node, path)
			}
			return nil
		})
	}))
}

func TestAKilledAgentInTheMiddleOfAMoveLosesNothing(t *testing.T) {
	ctx := limit(t, 8*time.Minute)
	s := run(t, ctx, "survivor", "")
	born := nonce(t, ctx, "survivor")
	for _, victim := range []string{s.Node, elsewhere(s.Node)} {
		t.Logf("kill -9 of the agent of %s", victim)
		must.NoError(t, lab.Until(ctx, func() error {
			var r api.MigrationResponse
			if err := cluster.JSON(ctx, &r, "migration", "status", "survivor"); err != nil || !r.Migration.Phase.Active() {
				_, err := cluster.CLI(ctx, "vm", "migrate", "-detach", "-bandwidth", "2MiB", "-compress", "none", "survivor")
				return fmt.Errorf("begun (%v)", err)
			}
			if r.Migration.Phase != api.MigrationCopying || r.Progress == nil {
				return fmt.Errorf("the migration is %s", r.Migration.Phase)
			}
			return nil
		}))
		h := host(t, victim)
		must.NoError(t, h.KillAgent(ctx))
		must.NoError(t, h.StartAgent())
		must.Eq(t, api.MigrationAborted, moved(t, ctx, "survivor").Phase)
		now := await(t, ctx, "survivor", api.StateRunning)
		must.Eq(t, s.Node, now.Node)
		must.Eq(t, born, nonce(t, ctx, "survivor"))
		must.Len(t, 1, pids(t, ctx, s.VM.ID))
	}
}
