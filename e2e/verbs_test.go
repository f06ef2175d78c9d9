//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/lab"
)

func TestSixGuestsRunOnTwoClients(t *testing.T) {
	ctx := limit(t, 5*time.Minute)
	nodes := map[string]int{}
	for i := range 6 {
		t.Cleanup(func() { remove(t, fmt.Sprintf("six-%d", i)) })
		cli(t, ctx, "vm", "run", "-detach", spec(t, small(fmt.Sprintf("six-%d", i), fmt.Sprintf(`
  labels = { group = "six" }
  spread {
    attribute = "node.name"
    selector  = { group = "six" }
    weight    = %d
  }`, 100))))
	}
	for i := range 6 {
		s := await(t, ctx, fmt.Sprintf("six-%d", i), api.StateRunning)
		nodes[s.Node]++
		must.Len(t, 1, pids(t, ctx, s.VM.ID), must.Sprintf("six-%d runs once", i))
	}
	must.Eq(t, map[string]int{"c1": 3, "c2": 3}, nodes)
}

func TestPlanSaysWhatWouldHappenAndChangesNothing(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	file := spec(t, small("planned", ""))
	out, err := cluster.CLI(ctx, "vm", "plan", file)
	must.ErrorContains(t, err, "exit status 3", must.Sprint("a plan with changes exits with 3"))
	must.StrContains(t, out, "will be created")
	refused(t, ctx, api.CodeNotFound, "vm", "status", "planned")
}

func TestEveryVerb(t *testing.T) {
	ctx := limit(t, 6*time.Minute)
	s := run(t, ctx, "verbs", "")
	first := pids(t, ctx, s.VM.ID)
	must.Len(t, 1, first)

	t.Log("pause, resume")
	cli(t, ctx, "vm", "pause", "verbs")
	await(t, ctx, "verbs", api.StatePaused)
	cli(t, ctx, "vm", "resume", "verbs")
	await(t, ctx, "verbs", api.StateRunning)
	must.Eq(t, first, pids(t, ctx, s.VM.ID))

	t.Log("reset and reboot keep the process, the guest boots anew")
	for _, verb := range []string{"reset", "reboot"} {
		before := nonce(t, ctx, "verbs")
		cli(t, ctx, "vm", verb, "verbs")
		must.NoError(t, lab.Until(ctx, func() error {
			if n := nonce(t, ctx, "verbs"); n == before || n == "" {
				return fmt.Errorf("the guest has not booted again after %s", verb)
			}
			return nil
		}))
		must.Eq(t, first, pids(t, ctx, s.VM.ID))
	}

	t.Log("stop by ACPI: the guest says so, then start")
	asked := time.Now()
	cli(t, ctx, "vm", "stop", "verbs")
	await(t, ctx, "verbs", api.StateStopped)
	must.Less(t, api.DefaultStopTimeout.D(), time.Since(asked), must.Sprint("it was not waited for in vain"))
	must.Eq(t, "shutdown", lastEnd(t, ctx, s), must.Sprint("the guest ended by itself"))
	must.SliceEmpty(t, pids(t, ctx, s.VM.ID))
	cli(t, ctx, "vm", "start", "verbs")
	again := await(t, ctx, "verbs", api.StateRunning)
	must.Eq(t, s.Node, again.Node, must.Sprint("the disk is local, so the VM stays"))
	must.Eq(t, s.Placement.Epoch, again.Placement.Epoch, must.Sprint("a restart in place keeps the epoch"))

	t.Log("stop by force")
	cli(t, ctx, "vm", "stop", "-force", "verbs")
	await(t, ctx, "verbs", api.StateStopped)
	cli(t, ctx, "vm", "start", "verbs")
	await(t, ctx, "verbs", api.StateRunning)

	t.Log("change, history, revert")
	cli(t, ctx, "vm", "run", "-detach", spec(t, small("verbs", `description = "changed"`)))
	var h []api.VMVersion
	must.NoError(t, cluster.JSON(ctx, &h, "vm", "history", "verbs"))
	must.Len(t, 2, h)
	cli(t, ctx, "vm", "revert", "verbs", "1")
	must.Eq(t, "", status(t, ctx, "verbs").VM.Spec.Description)

	t.Log("stats, events, list")
	var st api.VMStats
	must.NoError(t, cluster.JSON(ctx, &st, "vm", "stats", "verbs"))
	must.Positive(t, int64(st.CPUTime))
	events := cli(t, ctx, "vm", "events", "verbs")
	must.StrContains(t, events, "placed")
	must.StrContains(t, cli(t, ctx, "vm", "list"), "verbs")

	t.Log("protection refuses delete")
	cli(t, ctx, "vm", "run", "-detach", spec(t, small("verbs", `protection = true`)))
	refused(t, ctx, api.CodeProtected, "vm", "delete", "verbs")
	cli(t, ctx, "vm", "run", "-detach", spec(t, small("verbs", "")))

	t.Log("delete leaves nothing")
	id := status(t, ctx, "verbs").VM.ID
	remove(t, "verbs")
	must.SliceEmpty(t, pids(t, ctx, id))
	for _, c := range cluster.Clients {
		out, err := c.Run(ctx, "sh", "-c", "ls -R /var/lib/novacron/pools/default; virsh -q list --all")
		must.NoError(t, err)
		for _, v := range s.Volumes {
			must.StrNotContains(t, out, v.ID.String())
		}
		must.StrNotContains(t, out, id.String())
	}
}

// An empty disk boots nothing, so nobody hears the power button.
func TestAGuestThatIsDeafToACPIIsForced(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	t.Cleanup(func() { remove(t, "deaf") })
	cli(t, ctx, "vm", "run", spec(t, "vm \"deaf\" {\n  cpu = 1\n  memory = \"64MiB\"\n  stop_timeout = \"5s\"\n  disk \"root\" {\n    size = \"8MiB\"\n  }\n}\n"))
	s := await(t, ctx, "deaf", api.StateRunning)
	asked := time.Now()
	cli(t, ctx, "vm", "stop", "deaf")
	await(t, ctx, "deaf", api.StateStopped)
	must.GreaterEq(t, 5*time.Second, time.Since(asked), must.Sprint("it had its time"))
	must.Eq(t, "destroyed", lastEnd(t, ctx, s))
	must.SliceEmpty(t, pids(t, ctx, s.VM.ID))
}

func TestDirectBootWithTwoDisksAndASeed(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	t.Cleanup(func() { remove(t, "direct") })
	cli(t, ctx, "vm", "run", spec(t, `vm "direct" {
  cpu    = 1
  memory = "96MiB"
  boot {
    kernel  = "tick-kernel"
    initrd  = "tick-initrd"
    cmdline = "console=ttyS0 quiet"
  }
  disk "one" { size = "8MiB" }
  disk "two" {
    size   = "16MiB"
    format = "raw"
  }
  network "default" {}
  cloud_init {
    hostname  = "direct-host"
    user_data = "#cloud-config\nfinal: $${literal} {{secret}}\n"
  }
}
`))
	await(t, ctx, "direct", api.StateRunning)
	out := converse(t, ctx, "direct", "user-data\ndisks\n", "vdb")
	must.StrContains(t, out, "final: ${literal} {{secret}}")
	must.StrContains(t, out, "direct-host ready")
}

func TestGuestThatEndsByItself(t *testing.T) {
	ctx := limit(t, 4*time.Minute)
	t.Run("a guest that powers off stays off", func(t *testing.T) {
		run(t, ctx, "off", "")
		converse(t, ctx, "off", "poweroff\n", "powering off")
		s := await(t, ctx, "off", api.StateStopped)
		must.StrContains(t, strings.Join(s.Why, " "), "guest")
	})
	t.Run("a guest that reboots goes on in the same process", func(t *testing.T) {
		s := run(t, ctx, "again", "")
		before := pids(t, ctx, s.VM.ID)
		n := nonce(t, ctx, "again")
		converse(t, ctx, "again", "reboot\n", "ready nonce")
		must.NotEq(t, n, nonce(t, ctx, "again"))
		must.Eq(t, before, pids(t, ctx, s.VM.ID))
	})
	t.Run("a guest that is killed is restarted in place", func(t *testing.T) {
		s := run(t, ctx, "killed", "restart {\n    delay = \"1s\"\n  }")
		before := pids(t, ctx, s.VM.ID)
		must.NoError(t, kill(ctx, before[0]))
		must.NoError(t, lab.Until(ctx, func() error {
			now := pids(t, ctx, s.VM.ID)
			if len(now) != 1 || now[0] == before[0] {
				return fmt.Errorf("before %v, now %v", before, now)
			}
			return nil
		}))
		again := await(t, ctx, "killed", api.StateRunning)
		must.Eq(t, s.Placement.Epoch, again.Placement.Epoch)
	})
}
