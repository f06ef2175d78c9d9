//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/lab"
)

func TestHostileSpecsAreRefusedAndChangeNothing(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	before := cli(t, ctx, "vm", "list", "-o", "json")
	for name, text := range map[string]string{
		"name that closes a tag":     `vm "a</name><devices>" { cpu = 1 memory = "64MiB" }`,
		"name with a right-to-left":  "vm \"a\u202eb\" {\n cpu = 1\n memory = \"64MiB\"\n}",
		"zero cores":                 "vm \"h\" {\n cpu = 0\n memory = \"64MiB\"\n}",
		"huge memory":                "vm \"h\" {\n cpu = 1\n memory = \"9000000TiB\"\n}",
		"cpu model with options":     "vm \"h\" {\n cpu {\n cores = 1\n model = \"host,+vmx\"\n }\n memory = \"64MiB\"\n}",
		"multicast MAC":              "vm \"h\" {\n cpu = 1\n memory = \"64MiB\"\n network \"default\" {\n mac = \"01:00:5e:00:00:01\"\n }\n}",
		"network with a path":        "vm \"h\" {\n cpu = 1\n memory = \"64MiB\"\n network \"../default\" {}\n}",
		"hostname with a second key": "vm \"h\" {\n cpu = 1\n memory = \"64MiB\"\n cloud_init {\n hostname = \"a\\nruncmd: [id]\"\n }\n}",
		"unknown field":              "vm \"h\" {\n cpu = 1\n memory = \"64MiB\"\n filesystem = \"/\"\n}",
		"file function":              "vm \"h\" {\n cpu = 1\n memory = \"64MiB\"\n description = file(\"/etc/passwd\")\n}",
		"not HCL":                    "vm {{{",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := cluster.CLI(ctx, "vm", "run", "-detach", spec(t, text))
			must.ErrorContains(t, err, "NOVA-1")
		})
	}
	must.Eq(t, before, cli(t, ctx, "vm", "list", "-o", "json"))
}

func TestAVMThatFitsNowhereSaysWhy(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	t.Cleanup(func() { remove(t, "huge") })
	cli(t, ctx, "vm", "run", "-detach", spec(t, "vm \"huge\" {\n  cpu = 1\n  memory = \"4TiB\"\n}\n"))
	must.NoError(t, lab.Until(ctx, func() error {
		s := status(t, ctx, "huge")
		if !strings.Contains(strings.Join(s.Why, " "), "memory") {
			return fmt.Errorf("why: %v", s.Why)
		}
		return nil
	}))
}

func TestLeadershipIsHandedOver(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	old := leader(t, ctx)
	cli(t, ctx, "operator", "raft", "transfer")
	must.NoError(t, lab.Until(ctx, func() error {
		if leader(t, ctx) == old {
			return errors.New("the old leader still leads")
		}
		return nil
	}))
}

func TestSnapshotIsSavedInspectedAndRestored(t *testing.T) {
	ctx := limit(t, 5*time.Minute)
	s := run(t, ctx, "kept", "")
	before := pids(t, ctx, s.VM.ID)
	file := filepath.Join(t.TempDir(), "region.snap")
	cli(t, ctx, "operator", "snapshot", "save", file)
	must.StrContains(t, cli(t, ctx, "operator", "snapshot", "inspect", file), "vm")

	t.Log("a broken archive is refused")
	broken := filepath.Join(t.TempDir(), "broken.snap")
	data, err := os.ReadFile(file)
	must.NoError(t, err)
	data[len(data)/2] ^= 0x40
	must.NoError(t, os.WriteFile(broken, data, 0o600))
	_, err = cluster.CLI(ctx, "operator", "snapshot", "restore", "-yes", broken)
	must.ErrorContains(t, err, "NOVA-")

	cli(t, ctx, "namespace", "create", "after-the-save")
	var old api.StatusResponse
	must.NoError(t, cluster.JSON(ctx, &old, "status"))
	cli(t, ctx, "operator", "snapshot", "restore", "-yes", file)
	must.NoError(t, lab.Until(ctx, func() error {
		var r api.Recovery
		if err := cluster.JSON(ctx, &r, "operator", "recovery", "status"); err != nil {
			return err
		}
		if r.Active {
			return fmt.Errorf("still waiting for %v", r.Waiting)
		}
		return nil
	}))
	must.StrNotContains(t, cli(t, ctx, "namespace", "list"), "after-the-save")
	again := await(t, ctx, "kept", api.StateRunning)
	must.Eq(t, before, pids(t, ctx, s.VM.ID), must.Sprint("what ran is adopted, not started again"))
	must.GreaterEq(t, s.Placement.Epoch, again.Placement.Epoch)
}

func TestAWrongTokenDoesNotJoin(t *testing.T) {
	ctx := limit(t, time.Minute)
	good := strings.TrimSpace(cli(t, ctx, "token", "join", "-role", "client", "-quiet"))
	bad := good[:len(good)-4] + "AAAA"
	h := cluster.Clients[0]
	config := filepath.Join(h.Dir(), "etc/novacron-bad")
	must.NoError(t, os.MkdirAll(config, 0o755))
	must.NoError(t, os.WriteFile(filepath.Join(config, "novacron.hcl"), []byte(fmt.Sprintf(`
data_dir = %q
client { enabled = true }
ports {
  http = 7746
  rpc = 7747
}
join {
  addresses = ["%s:7647"]
  token = %q
}
`, filepath.Join(config, "data"), cluster.Servers[0].Address, bad)), 0o600))
	out, err := h.Run(ctx, cluster.Binary, "agent", "-config", config)
	must.Error(t, err)
	must.StrContains(t, out, api.CodeJoinRefused.String())
}

func TestRequestsWithoutATokenAreRefused(t *testing.T) {
	ctx := limit(t, time.Minute)
	ca, err := os.ReadFile(cluster.CA)
	must.NoError(t, err)
	for _, h := range cluster.Hosts {
		c, err := api.NewClient(api.ClientConfig{Address: "https://" + h.Address + ":7646", CACert: ca})
		must.NoError(t, err)
		_, err = c.VMs().List(ctx, nil)
		must.Eq(t, api.CodeUnauthenticated, api.CodeOf(err), must.Sprintf("%s: %v", h.Name, err))
	}
}
