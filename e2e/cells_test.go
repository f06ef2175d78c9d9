//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/faults"
)

// representative cells of the migration's cut points: none needs an agent that
// holds itself, so they run on the binary that is tested everywhere else. All of
// them: make faults.
var representative = []faults.Cell{
	{Point: 5, Party: "destination QEMU", Pool: "default", From: "c1"},
	{Point: 6, Party: "source agent", Pool: "shared", From: "c2"},
	{Point: 6, Party: "cut source-destination", Pool: "default", From: "c1"},
	{Point: 7, Party: "destination libvirtd", Pool: "shared", From: "c1"},
	{Point: 9, Party: "leader", Pool: "default", From: "c2"},
	{Point: 9, Party: "destination agent", Pool: "shared", From: "c1"},
}

func TestFaultsUnderMigrations(t *testing.T) {
	ctx := limit(t, 10*time.Minute)
	b, err := faults.Prepare(ctx, cluster, filepath.Join(t.TempDir(), "truth.log"), false)
	must.NoError(t, err)
	defer func() {
		must.NoError(t, b.Close())
		_, err := cluster.CLI(ctx, "image", "delete", "detector")
		must.NoError(t, err)
	}()
	report, err := b.Run(ctx, faults.Plan{Seed: 1, Runs: len(representative), Cells: representative})
	must.NoError(t, err)
	dir := t.TempDir()
	must.NoError(t, report.Write(dir))
	text, err := os.ReadFile(filepath.Join(dir, "report.md"))
	must.NoError(t, err)
	t.Logf("%s", text)
	must.Zero(t, report.Violated, must.Sprintf("%s", text))
	// What came too late on a machine that is busy proves nothing; but something
	// has to be proved.
	must.GreaterEq(t, len(representative)/2, report.Held, must.Sprintf("%s", text))
	must.SliceEmpty(t, left(t))
}

// left are VMs that the runs have left behind.
func left(t *testing.T) []*api.VMStub {
	t.Helper()
	list, err := sdk(t, cluster.Servers[0]).VMs().List(t.Context(), nil)
	must.NoError(t, err)
	return list.Items
}
