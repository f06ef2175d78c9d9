package command

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"gopkg.in/yaml.v3"
)

func TestEveryCommandHasHelpAndExamples(t *testing.T) {
	c := alone(t)
	seen := map[string]bool{}
	for _, s := range specs() {
		must.False(t, seen[s.name], must.Sprintf("%s is there twice", s.name))
		seen[s.name] = true
		out := c.ok(append(strings.Fields(s.name), "-help")...)
		must.StrContains(t, out, "Usage: novacron "+s.name)
		must.StrContains(t, out, "Examples:")
		must.StrNotContains(t, out, "default -1", must.Sprint(s.name))
		words := strings.Fields(s.name)
		for i := 1; i < len(words); i++ { // what has verbs says what it is
			noun := strings.Join(words[:i], " ")
			must.True(t, slices.ContainsFunc(nouns, func(n nounSpec) bool { return n.name == noun }), must.Sprint(noun))
		}
		must.False(t, strings.HasSuffix(s.synopsis, "."), must.Sprint(s.name))
		for _, e := range s.examples {
			must.StrContains(t, e, "novacron "+s.name, must.Sprintf("an example of %s", s.name))
		}
	}
	for _, n := range nouns {
		must.StrContains(t, c.ok(append(strings.Fields(n.name), "-help")...), "Verbs:")
	}
	must.StrContains(t, c.ok("-help"), "novacron agent -dev")
	must.StrContains(t, c.ok("-version"), Version)
	must.StrContains(t, c.ok("version", "-o", "yaml"), "version: "+Version)
}

func TestWrongUsageIsExitCodeTwoWithAHint(t *testing.T) {
	c := atDev(t)
	for _, w := range []struct {
		args []string
		want string
	}{
		{[]string{"vmm", "list"}, `did you mean "novacron vm"?`},
		{[]string{"quux"}, "`novacron -help` lists all commands"},
		{[]string{"vm"}, "Usage: novacron vm <verb>"},
		{[]string{"vm", "lst"}, `did you mean "novacron vm list"?`},
		{[]string{"vm", "explode"}, "the verbs are list, events, delete"},
		{[]string{"vm", "stop"}, "it takes at least 1 argument, not 0"},
		{[]string{"vm", "run", "a", "b"}, "it takes 1 argument, not 2"},
		{[]string{"vm", "list", "x"}, "it takes no arguments"},
		{[]string{"vm", "list", "-fitler", "x"}, "did you mean -filter?"},
		{[]string{"vm", "list", "-o", "xml"}, "want one of table, json, yaml"},
		{[]string{"node", "cordon"}, "name a node, or give -self"},
		{[]string{"node", "drain", "dev", "-self"}, "name a node, or give -self, not both"},
		{[]string{"node", "drain", "dev", "-cancel", "-force"}, "-cancel stands alone"},
		{[]string{"node", "update", "dev"}, "nothing to change"},
		{[]string{"vm", "revert", "web", "first"}, `"first" is not a version`},
		{[]string{"operator", "schema", "up", "x"}, `"x" is not a version`},
		{[]string{"completion", "csh"}, "bash, zsh or fish"},
		{[]string{"context", "add", "x"}, "-address is missing"},
		{[]string{"guard", "-kill-budget", "0s"}, "must be above 0"},
	} {
		must.StrContains(t, c.fails(exitUsage, w.args...), w.want)
	}
}

func TestErrorsOfTheAPIAreExitCodeOneWithCodeAndRequest(t *testing.T) {
	c := atDev(t)
	errs := c.fails(exitError, "vm", "status", "nobody")
	must.StrContains(t, errs, "NOVA-3000")
	must.StrContains(t, errs, "Request: ")
	c.env["NOVACRON_TOKEN"] = "nova.bad"
	must.StrContains(t, c.fails(exitError, "vm", "list"), "NOVA-2000")
	c.env["NOVACRON_ADDR"] = "http://127.0.0.1:1"
	must.StrContains(t, c.fails(exitError, "vm", "list"), "NOVA-6004")
	must.StrContains(t, c.fails(exitError, "vm", "list", "-ca-cert", "/nonexistent"), "the CA certificate")
	must.StrContains(t, c.fails(exitError, "vm", "list", "-context", "x"), `there is no context "x"`)
	must.StrContains(t, c.fails(exitError, "vm", "list", "-address", "ftp://x"), "is not an address")
}

func TestContextsRememberClusters(t *testing.T) {
	c := alone(t)
	must.StrContains(t, c.ok("context", "list"), "No contexts.")
	ca := file(t, "ca.pem", "-----BEGIN CERTIFICATE-----\n")
	c.stdin = dev.token + "\n"
	c.ok("context", "add", "lab", "-address", dev.address, "-token", "-", "-ca-cert", ca, "-namespace", "default")
	info, err := os.Stat(filepath.Join(c.home, "contexts.json"))
	must.NoError(t, err)
	must.Eq(t, 0o600, info.Mode().Perm())

	out := c.ok("context", "show")
	must.StrContains(t, out, dev.address)
	must.StrNotContains(t, out, dev.token)
	c.ok("context", "add", "other", "-address", "https://10.0.0.1:7646")
	must.StrContains(t, c.ok("context", "list"), "*  lab")

	// The context in use is what commands talk to; its CA is not asked for plain HTTP.
	c.ok("context", "add", "lab", "-region", "")
	b, err := os.ReadFile(filepath.Join(c.home, "contexts.json"))
	must.NoError(t, err)
	must.NoError(t, os.WriteFile(filepath.Join(c.home, "contexts.json"), []byte(strings.ReplaceAll(string(b), `-----BEGIN CERTIFICATE-----\n`, "")), 0o600))
	must.StrContains(t, c.ok("node", "list"), "dev")

	c.ok("context", "use", "other")
	must.StrContains(t, c.ok("context", "list"), "*  other")
	must.StrContains(t, c.ok("context", "show", "-o", "json"), `"https://10.0.0.1:7646"`)
	must.StrContains(t, c.ok("node", "list", "-context", "lab"), "dev", must.Sprint("a flag wins"))
	c.ok("context", "remove", "other")
	must.StrContains(t, c.fails(exitError, "context", "show"), "there is no context")
	must.StrContains(t, c.fails(exitError, "context", "use", "other"), "there is no context")

	must.NoError(t, os.Chmod(filepath.Join(c.home, "contexts.json"), 0o644))
	must.StrContains(t, c.fails(exitError, "context", "list"), "chmod 600")
	must.NoError(t, os.WriteFile(filepath.Join(c.home, "contexts.json"), []byte("{"), 0o600))
	must.NoError(t, os.Chmod(filepath.Join(c.home, "contexts.json"), 0o600))
	must.Error(t, json.Unmarshal([]byte("{"), &contexts{}))
	c.fails(exitError, "context", "list")
}

func TestMachineFormatsAreWhole(t *testing.T) {
	c := atDev(t)
	for _, args := range [][]string{
		{"node", "list"}, {"node", "status", "dev"}, {"vm", "list"}, {"status"}, {"token", "list"}, {"namespace", "list"}, {"pool", "list"},
		{"network", "list"}, {"volume", "list"}, {"image", "list"}, {"placement", "list"}, {"server", "members"}, {"operator", "raft", "list"},
		{"operator", "schema", "status"}, {"operator", "scheduler", "get"}, {"operator", "recovery", "status"}, {"events"},
	} {
		var v any
		must.NoError(t, json.Unmarshal([]byte(c.ok(append(args, "-o", "json")...)), &v), must.Sprint(args))
		must.NoError(t, yaml.Unmarshal([]byte(c.ok(append(args, "-o", "yaml")...)), &v), must.Sprint(args))
		must.StrNotContains(t, c.ok(args...), "\x1b", must.Sprint("no colours without a terminal"))
	}
	c.terminal = true
	must.StrContains(t, c.ok("node", "list"), "\x1b[1m")
	must.StrNotContains(t, c.ok("node", "list", "-no-color"), "\x1b")
	c.env["NO_COLOR"] = "1"
	must.StrNotContains(t, c.ok("node", "list"), "\x1b")
}

func TestCompletionScripts(t *testing.T) {
	c := alone(t)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		must.StrContains(t, c.ok("completion", shell), "novacron")
	}
	for _, s := range specs() {
		cmd := &command{spec: s, ctx: t.Context(), env: &Env{}}
		must.Eq(t, strings.Contains(s.args, "FILE"), cmd.AutocompleteArgs() != nil, must.Sprint(s.name))
		must.MapContainsKey(t, cmd.AutocompleteFlags(), "-o")
	}
}

func TestConfigValidateShowsEveryFinding(t *testing.T) {
	c := alone(t)
	good := file(t, "good.hcl", "server {\n  enabled = true\n}\n")
	must.Eq(t, "valid\n", c.ok("config", "validate", good))
	bad := file(t, "bad.hcl", "server {\n  enabled = true\n  expct   = 3\n}\n")
	errs := c.fails(exitError, "config", "validate", bad)
	must.StrContains(t, errs, "NOVA-6010")
	must.StrContains(t, errs, bad+":3:3: An argument named \"expct\" is not expected here.")
	must.StrContains(t, errs, `hint: Did you mean "expect"?`)
}
