package agent

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// writeConfig writes files ("name", "text" pairs) to a folder and returns it.
func writeConfig(t *testing.T, pairs ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(pairs); i += 2 {
		must.NoError(t, os.WriteFile(filepath.Join(dir, pairs[i]), []byte(pairs[i+1]), 0o600))
	}
	return dir
}

const goodConfig = `
name       = "n1"
region     = "eu"
data_dir   = "/var/lib/nova"
bind_addr  = "10.0.0.1"
ports { rpc = 9647 }
log   { format = "json" }
server {
  enabled = true
  expect  = 3
  profile = "fast"
  join    = ["10.0.0.2:7648"]
}
client {
  enabled = true
  labels  = { rack = "r1" }
  image_idle = "90m"
  reserved {
    cores  = 0.5
    memory = "512MiB"
  }
  hypervisor { kind = "qemu" }
  guard { watchdog = "/dev/watchdog" }
  pool "default" { path = "/srv/vms" }
  pool "fast" {
    type     = "sim"
    capacity = "1TiB"
  }
}
`

func TestConfigFileIsLaidOverTheDefaults(t *testing.T) {
	c, err := Load(filepath.Join(writeConfig(t, "a.hcl", goodConfig), "a.hcl"))
	must.NoError(t, err)
	must.NoError(t, c.Validate())
	must.Eq(t, "n1", c.Name)
	must.Eq(t, "dc1", c.Datacenter)
	must.Eq(t, Ports{HTTP: 7646, RPC: 9647, Serf: 7648}, *c.Ports)
	must.Eq(t, Log{Level: "info", Format: "json"}, *c.Log)
	must.Eq(t, 0.2, c.Server.multiplier())
	must.Eq(t, api.Resources{CPU: 500, Memory: 512 * api.MiB}, c.Client.Reserved.resources())
	must.Eq(t, 90*time.Minute, c.Client.imageIdle())
	for text, want := range map[string]time.Duration{"": 0, "0s": -1} {
		must.Eq(t, want, (&Client{ImageIdle: text}).imageIdle(), must.Sprint(text))
	}
	must.Eq(t, Guard{Dir: "/run/novacron/guard", Watchdog: "/dev/watchdog", Spawn: true}, *c.Client.Guard, must.Sprint("what is not said stays"))
	must.Eq(t, []Pool{{Name: "default", Type: "dir", Path: "/srv/vms"}, {Name: "fast", Type: "sim", Capacity: "1TiB"}}, c.Client.Pools)
}

func TestConfigFolderIsMergedInTheOrderOfNames(t *testing.T) {
	dir := writeConfig(t,
		"20-b.hcl", "client {\n pool \"fast\" { path = \"/b\" }\n}\nlog { level = \"warn\" }",
		"10-a.hcl", goodConfig,
		"ignored.txt", "not hcl at all {")
	c, err := Load(dir, filepath.Join(writeConfig(t, "last.hcl", `region = "us"`), "last.hcl"))
	must.NoError(t, err)
	must.NoError(t, c.Validate())
	must.Eq(t, "us", c.Region)
	must.Eq(t, Log{Level: "warn", Format: "json"}, *c.Log)
	must.True(t, c.Client.Enabled)
	must.Eq(t, "/b", c.Client.Pools[1].Path)
	must.Len(t, 2, c.Client.Pools)
}

func TestConfigEnvironmentAndFlagsOverrideFiles(t *testing.T) {
	c, err := Load(writeConfig(t, "a.hcl", goodConfig))
	must.NoError(t, err)
	env := map[string]string{
		"NOVACRON_LOG_LEVEL": "debug", "NOVACRON_CLIENT_HYPERVISOR_KIND": "sim", "NOVACRON_PORTS_RPC": "7000",
		"NOVACRON_CLIENT_LABELS": "a=1,b=2", "NOVACRON_SERVER_JOIN": "x:1, y:2", "NOVACRON_CLIENT_CPU_RATIO": "2.5", "NOVACRON_LEAVE_ON_TERMINATE": "true", "NOVACRON_CLIENT_GUARD_SPAWN": "false",
		"NOVACRON_REGION": "",
	}
	must.NoError(t, c.SetEnv(func(k string) (string, bool) { v, ok := env[k]; return v, ok }))
	must.Eq(t, "debug", c.Log.Level)
	must.Eq(t, "sim", c.Client.Hypervisor.Kind)
	must.Eq(t, 7000, c.Ports.RPC)
	must.Eq(t, map[string]string{"a": "1", "b": "2"}, c.Client.Labels)
	must.Eq(t, []string{"x:1", "y:2"}, c.Server.Join)
	must.Eq(t, 2.5, c.Client.CPURatio)
	must.True(t, c.LeaveOnTerminate)
	must.False(t, c.Client.Guard.Spawn)
	must.Eq(t, "eu", c.Region, must.Sprint("an empty variable says nothing"))

	must.NoError(t, c.Set("region", "us", Source{Name: "flag -region"}))
	must.Eq(t, "us", c.Region)
	must.ErrorContains(t, c.Set("no.such", "x", Source{}), `no setting "no.such"`)
	must.ErrorContains(t, c.Set("ports.http", "x", Source{Name: "flag -http-port"}), `flag -http-port: ports.http: "x" is not a whole number`)
	must.ErrorContains(t, c.SetEnv(func(k string) (string, bool) { return "maybe", k == "NOVACRON_SERVER_ENABLED" }),
		`environment NOVACRON_SERVER_ENABLED: server.enabled: "maybe" is not true or false`)

	c.Join.Token = "nova-join.secret"
	p := c.Pairs()
	v, _ := p.Get("ports.rpc")
	must.Eq(t, "7000", v)
	_, ok := p.Get("join.token")
	must.False(t, ok, must.Sprint("a secret is not shown"))
	v, _ = p.Get("client.pool.default")
	must.StrContains(t, v, "/srv/vms")
}

// Each file of testdata/config is wrong in its own way; the golden file beside
// it holds what the user reads.
func TestConfigErrorsAreGolden(t *testing.T) {
	t.Chdir("testdata/config")
	files, err := filepath.Glob("*.hcl")
	must.NoError(t, err)
	must.SliceNotEmpty(t, files)
	for _, f := range files {
		t.Run(f, func(t *testing.T) {
			c, err := Load(f)
			if err == nil {
				err = c.Validate()
			}
			must.Error(t, err)
			golden := strings.TrimSuffix(f, ".hcl") + ".golden"
			if *update {
				must.NoError(t, os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644))
			}
			want, rerr := os.ReadFile(golden)
			must.NoError(t, rerr)
			must.Eq(t, string(want), err.Error()+"\n")

			var ce *ConfigError
			must.True(t, errors.As(err, &ce))
			a := ce.API()
			must.Eq(t, api.CodeConfig, a.Code)
			must.Len(t, len(ce.Findings), a.Details)
		})
	}
}

func TestConfigOfMissingOrEmptyPaths(t *testing.T) {
	_, err := Load("/nonexistent/x.hcl")
	must.ErrorContains(t, err, "/nonexistent/x.hcl: no such file or directory")
	_, err = Load(t.TempDir())
	must.ErrorContains(t, err, "holds no .hcl file")
	big := filepath.Join(writeConfig(t, "big.hcl", strings.Repeat("#", maxConfigFile+1)), "big.hcl")
	_, err = Load(big)
	must.ErrorContains(t, err, "larger than 1 MiB")
}

func TestDefaultIsNeitherServerNorClient(t *testing.T) {
	must.ErrorContains(t, Default().Validate(), "neither server nor client")
}
