package spec

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func parse(t testing.TB, text string, vars ...string) ([]api.VMSpec, error) {
	t.Helper()
	r := &api.ParseRequest{Text: text, File: "t.hcl"}
	for i := 0; i+1 < len(vars); i += 2 {
		r.Variables = r.Variables.Set(vars[i], vars[i+1])
	}
	return Parse(t.Context(), r)
}

func one(t testing.TB, text string, vars ...string) api.VMSpec {
	t.Helper()
	specs, err := parse(t, text, vars...)
	must.NoError(t, err)
	must.Len(t, 1, specs)
	return specs[0]
}

// body parses a vm with the lines given.
func body(t testing.TB, lines string) (api.VMSpec, error) {
	t.Helper()
	specs, err := parse(t, "vm \"a\" {\n"+lines+"\n}")
	if err != nil {
		return api.VMSpec{}, err
	}
	return specs[0], nil
}

// Every example is read, checked, and can be written and read again.
func TestExamples(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../examples/*.*")
	must.NoError(t, err)
	n := 0
	for _, file := range files {
		format := strings.TrimPrefix(filepath.Ext(file), ".")
		if format != "hcl" && format != "json" {
			continue
		}
		n++
		data, err := os.ReadFile(file)
		must.NoError(t, err)
		specs, err := Parse(t.Context(), &api.ParseRequest{Text: string(data), Format: format, File: file})
		must.NoError(t, err, must.Sprint(file))
		for i := range specs {
			specs[i].Canonicalize()
			must.NoError(t, specs[i].Validate(), must.Sprint(file))
			again := one(t, string(Format(&specs[i])))
			again.Canonicalize()
			must.Eq(t, specs[i], again, must.Sprint(file))
		}
	}
	must.GreaterEq(t, 6, n)
}

func TestEveryFieldIsRead(t *testing.T) {
	t.Parallel()
	got := one(t, `
variable "image" { default = "debian" }
variable "n" { default = 2 }
variable "on" { default = false }
vm "db-1" {
  namespace = "team-a"
  description = "x ${upper("y")} ${lower("Z")}${trimspace(" ")}"
  labels = { app = "db", "a.b/c" = 5, ok = true }
  datacenters = ["dc1", format("dc%d", var.n)]
  priority = 50 + 10
  cpu {
    cores = var.n
    reserve = 0.5
    model = "host"
  }
  memory = 536870912
  firmware = "uefi"
  boot {
    kernel = "k"
    initrd = "i"
    cmdline = join(" ", ["a", "b=${var.n}"])
  }
  disk "root" {
    image = var.image
    size = "1.5GiB"
    pool = "ssd"
    format = "raw"
    bus = "scsi"
    keep = var.on
    read_only = true
    boot = 1
  }
  disk "old" { volume = "v" }
  network "lan" {
    mac = "52:54:00:00:00:01"
    model = "e1000"
    address = "10.0.0.2"
  }
  cloud_init {
    user_data = <<EOT
#cloud-config
x: $${literal} %%{if}
EOT
    network_config = "version: 2\n"
    hostname = "h"
    ssh_keys = ["k1", "k2"]
  }
  console {
    serial = false
    vnc = true
  }
  constraint {
    attribute = "label.rack"
    operator = ">="
    value = 5
  }
  affinity {
    selector = { app = "web" }
    domain = "node.datacenter"
    weight = 5
  }
  anti_affinity { selector = { app = "db" } }
  spread {
    attribute = "label.rack"
    selector = { app = "db" }
    weight = 7
  }
  restart {
    policy = "always"
    attempts = 9
    interval = "1h"
    delay = "2s"
  }
  ha { policy = "restart" }
  migration {
    mode = "warm"
    max_downtime = "500ms"
    downtime_limit = "2s"
    auto_converge = true
    warm_fallback = true
  }
  protection = var.on ? false : true
  stop_timeout = "5m"
}`, "on", "true", "image", "arch")
	must.Eq(t, api.VMSpec{
		Name: "db-1", Namespace: "team-a", Description: "x Y z",
		Labels: api.Pairs{{K: "a.b/c", V: "5"}, {K: "app", V: "db"}, {K: "ok", V: "true"}}, Datacenters: []string{"dc1", "dc2"}, Priority: 60,
		CPU: api.CPUSpec{Cores: 2, Reserve: 500, Model: "host"}, Memory: 512 * api.MiB, Firmware: api.FirmwareUEFI,
		Boot: &api.BootSpec{Kernel: "k", Initrd: "i", Cmdline: "a b=2"},
		Disks: []api.Disk{
			{Name: "root", Image: "arch", Size: 1536 * api.MiB, Pool: "ssd", Format: "raw", Bus: "scsi", Keep: true, ReadOnly: true, Boot: 1},
			{Name: "old", Volume: "v"},
		},
		NICs:        []api.NIC{{Network: "lan", MAC: "52:54:00:00:00:01", Model: "e1000", Address: "10.0.0.2"}},
		CloudInit:   &api.CloudInit{UserData: []byte("#cloud-config\nx: ${literal} %{if}\n"), NetworkConfig: []byte("version: 2\n"), Hostname: "h", SSHKeys: []string{"k1", "k2"}},
		Console:     api.ConsoleSpec{NoSerial: true, VNC: true},
		Constraints: []api.Constraint{{Attribute: "label.rack", Operator: ">=", Value: "5"}},
		Affinities: []api.Affinity{
			{Selector: api.Pairs{{K: "app", V: "web"}}, Domain: "node.datacenter", Weight: 5},
			{Selector: api.Pairs{{K: "app", V: "db"}}, Anti: true},
		},
		Spread:      []api.Spread{{Attribute: "label.rack", Selector: api.Pairs{{K: "app", V: "db"}}, Weight: 7}},
		Restart:     api.RestartPolicy{Policy: "always", Attempts: 9, Interval: api.Duration(time.Hour), Delay: api.Duration(2 * time.Second)},
		HA:          api.HAPolicy{Policy: api.HARestart},
		StopTimeout: api.Duration(5 * time.Minute),
		Migration:   api.MigrationPolicy{Mode: "warm", MaxDowntime: api.Duration(500 * time.Millisecond), DowntimeLimit: api.Duration(2 * time.Second), AutoConverge: true, WarmFallback: true},
	}, got)
}

func TestShortForms(t *testing.T) {
	t.Parallel()
	s, err := body(t, "cpu = 3\nha = \"none\"\nlabels = null\ncloud_init { user_data_base64 = base64encode(\"a\\u0000\") }")
	must.NoError(t, err)
	must.Eq(t, 3, s.CPU.Cores)
	must.Eq(t, api.HANone, s.HA.Policy)
	must.Nil(t, s.Labels)
	must.Eq(t, []byte("a\x00"), s.CloudInit.UserData)
	specs, err := parse(t, `vm "a" {}`+"\n"+`vm "b" {}`)
	must.NoError(t, err)
	must.Len(t, 2, specs)
}

func TestJSON(t *testing.T) {
	t.Parallel()
	js := func(text string) ([]api.VMSpec, error) {
		return Parse(t.Context(), &api.ParseRequest{Text: text, Format: "json"})
	}
	// C19: what looks like a template is data.
	s, err := js(`{"name":"a","description":"${env:HOME} %{if} {{secret}}"}`)
	must.NoError(t, err)
	must.Eq(t, "${env:HOME} %{if} {{secret}}", s[0].Description)
	s, err = js(`{"spec":{"name":"a"}}`)
	must.NoError(t, err)
	must.Eq(t, "a", s[0].Name)
	s, err = js(` [{"name":"a"},{"name":"b"}]`)
	must.NoError(t, err)
	must.Len(t, 2, s)
	for text, code := range map[string]api.Code{
		`{`: api.CodeSyntax, ``: api.CodeSyntax, `[]`: api.CodeSyntax, `{"nam":"a"}`: api.CodeUnknownField, `[{"name":"a"},{"name":"a"}]`: api.CodeSyntax,
		`{"name":"a","name":"b"}`: api.CodeDuplicateKey, `{"spec":{},"x":1}`: api.CodeUnknownField, `"x"`: api.CodeInvalid,
	} {
		_, err := js(text)
		must.Eq(t, code, api.CodeOf(err), must.Sprint(text))
	}
	_, err = Parse(t.Context(), &api.ParseRequest{Text: `{"name":"a"}`, Format: "json", Variables: api.Pairs{{K: "a"}}})
	must.Eq(t, api.CodeInvalid, api.CodeOf(err))
}

func TestErrorsNameThePlaceAndHelp(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text, field, message, hint string
		line, column               int32
	}{
		"unknown attribute":  {"vm \"a\" {\n  memroy = 1\n}", "vm.a.memroy", "unknown attribute", `did you mean "memory"?`, 2, 3},
		"unknown block":      {"vm \"a\" {\n  dsik \"r\" {}\n}", "vm.a.dsik", "unknown block", `did you mean "disk"?`, 2, 3},
		"in a nested block":  {"vm \"a\" {\n  disk \"r\" {\n    siez = 1\n  }\n}", "vm.a.disk.r.siez", "unknown attribute", `did you mean "size"?`, 3, 5},
		"unknown at the top": {"vmm \"a\" {}", "vmm", "unknown block", `did you mean "vm"?`, 1, 1},
		"attribute at top":   {"name = \"a\"", "name", "does not belong here", "at the top there are only vm and variable blocks", 1, 1},
		"block as attribute": {"vm \"a\" {\n  restart = \"never\"\n}", "vm.a.restart", "is a block", "", 2, 3},
		"attribute as block": {"vm \"a\" {\n  labels {\n  }\n}", "vm.a.labels", "is an attribute", "", 2, 3},
		"no label":           {"vm {}", "vm", "a VM has one name", "", 1, 1},
		"two labels":         {"vm \"a\" \"b\" {}", "vm", "a VM has one name", "", 1, 1},
		"disk without name":  {"vm \"a\" {\n disk {}\n}", "vm.a.disk", "want disk \"name\"", "", 2, 2},
		"cpu with name":      {"vm \"a\" {\n cpu \"x\" {}\n}", "vm.a.cpu", "want cpu {", "", 2, 2},
		"two boots":          {"vm \"a\" {\n boot {}\n boot {}\n}", "vm.a.boot", "more than 1 boot", "", 3, 2},
		"cpu twice":          {"vm \"a\" {\n cpu = 1\n cpu {}\n}", "vm.a.cpu", "as an attribute and as a block", "", 2, 2},
		"text for a number":  {"vm \"a\" {\n cpu = \"two\"\n}", "vm.a.cpu", "want a whole number, got text", "", 2, 8},
		"fraction":           {"vm \"a\" {\n cpu = 1.5\n}", "vm.a.cpu", "want a whole number from", "", 2, 8},
		"2^31":               {"vm \"a\" {\n cpu = 2147483648\n}", "vm.a.cpu", "want a whole number from", "", 2, 8},
		"number for text":    {"vm \"a\" {\n firmware = 1\n}", "vm.a.firmware", "want text in quotes, got a number", "", 2, 13},
		"size":               {"vm \"a\" {\n memory = \"lots\"\n}", "vm.a.memory", "is not a size", "", 2, 11},
		"size true":          {"vm \"a\" {\n memory = true\n}", "vm.a.memory", "want a size", "", 2, 11},
		"size negative":      {"vm \"a\" {\n memory = -1\n}", "vm.a.memory", "want a size", "", 2, 11},
		"duration":           {"vm \"a\" {\n stop_timeout = \"soon\"\n}", "vm.a.stop_timeout", "is not a duration", "", 2, 17},
		"duration number":    {"vm \"a\" {\n stop_timeout = 30\n}", "vm.a.stop_timeout", "want a duration", "", 2, 17},
		"bool":               {"vm \"a\" {\n protection = \"yes\"\n}", "vm.a.protection", "want true or false", "", 2, 15},
		"list":               {"vm \"a\" {\n datacenters = \"dc1\"\n}", "vm.a.datacenters", "want a list of texts", "", 2, 16},
		"list of numbers":    {"vm \"a\" {\n datacenters = [1]\n}", "vm.a.datacenters", "in the list", "", 2, 16},
		"list of null":       {"vm \"a\" {\n datacenters = [null]\n}", "vm.a.datacenters", "null", "", 2, 16},
		"labels":             {"vm \"a\" {\n labels = [\"a\"]\n}", "vm.a.labels", "want { key", "", 2, 11},
		"label null":         {"vm \"a\" {\n labels = { a = null }\n}", "vm.a.labels", "has no value", "", 2, 11},
		"label list":         {"vm \"a\" {\n labels = { a = [] }\n}", "vm.a.labels", "want text", "", 2, 11},
		"reserve":            {"vm \"a\" {\n cpu { reserve = 0.0001 }\n}", "vm.a.cpu.reserve", "three decimals", "", 2, 18},
		"reserve text":       {"vm \"a\" {\n cpu { reserve = \"x\" }\n}", "vm.a.cpu.reserve", "number of cores", "", 2, 18},
		"base64":             {"vm \"a\" {\n cloud_init { user_data_base64 = \"*\" }\n}", "vm.a.cloud_init.user_data_base64", "is not base64", "", 2, 34},
		"user data twice":    {"vm \"a\" {\n cloud_init {\n user_data = \"a\"\n user_data_base64 = \"YQ==\"\n }\n}", "vm.a.cloud_init.user_data_base64", "exclude each other", "", 4, 21},
		"user data number":   {"vm \"a\" {\n cloud_init { user_data = 1 }\n}", "vm.a.cloud_init.user_data", "want text", "", 2, 27},
		"base64 number":      {"vm \"a\" {\n cloud_init { user_data_base64 = 1 }\n}", "vm.a.cloud_init.user_data_base64", "want text", "", 2, 34},
		"unclosed":           {"vm \"a\" {\n", "", "Unclosed", "", 1, 8},
		"attribute twice":    {"vm \"a\" {\n cpu = 1\n cpu = 2\n}", "", "Attribute redefined", "", 3, 2},
		"unknown variable":   {"variable \"image\" { default = \"\" }\nvm \"a\" {\n memory = var.imgae\n}", "vm.a.memory", "there is no variable", `did you mean "image"?`, 3, 11},
		"bare word":          {"vm \"a\" {\n firmware = uefi\n}", "vm.a.firmware", "is not defined", "texts stand in quotes", 2, 13},
		"other root":         {"vm \"a\" {\n firmware = local.x\n}", "vm.a.firmware", "is not defined", "only variables can be used: var.name", 2, 13},
		"C19 env":            {"vm \"a\" {\n description = \"${env.HOME}\"\n}", "vm.a.description", "is not defined", "only variables can be used: var.name", 2, 19},
		"file()":             {"vm \"a\" {\n description = file(\"/etc/passwd\")\n}", "vm.a.description", "there is no function", "there are base64encode, format, join, lower, trimspace, upper", 2, 16},
		"wrong argument":     {"vm \"a\" {\n description = upper([])\n}", "vm.a.description", "Invalid function argument", "", 2, 22},
		"loop":               {"vm \"a\" {\n datacenters = [for x in [\"a\"] : x]\n}", "vm.a.datacenters", "not allowed", "", 2, 16},
		"splat":              {"variable \"x\" { default = [] }\nvm \"a\" {\n datacenters = var.x[*]\n}", "vm.a.datacenters", "not allowed", "", 3, 16},
		"index":              {"variable \"x\" { default = [] }\nvm \"a\" {\n firmware = var.x[0]\n}", "vm.a.firmware", "not defined", "", 3, 13},
		"expand":             {"vm \"a\" {\n description = join([\"a\"]...)\n}", "vm.a.description", "not expanded", "", 2, 16},
		"directive":          {"vm \"a\" {\n description = \"%{if true}x%{endif}\"\n}", "", "template directives", "write %%{ for a literal %{", 2, 17},
		"format width":       {"vm \"a\" {\n description = format(\"%999d\", 1)\n}", "vm.a.description", "width of at most two digits", "", 2, 24},
		"format index":       {"vm \"a\" {\n description = format(\"%[1]s\", 1)\n}", "vm.a.description", "width of at most two digits", "", 2, 24},
		"join of text":       {"vm \"a\" {\n description = join(\",\", \"a\")\n}", "vm.a.description", "want a list", "", 2, 27},
		"join of lists":      {"vm \"a\" {\n description = join(\",\", [[]])\n}", "vm.a.description", "want a list of texts", "", 2, 26},
		"join separator":     {"vm \"a\" {\n description = join(\"12345678901234567\", [\"a\"])\n}", "vm.a.description", "at most 16", "", 2, 22},
		"variable of nobody": {"variable { default = 1 }", "variable", "a variable has one name", "", 1, 1},
		"variable twice":     {"variable \"x\" { default = 1 }\nvariable \"x\" { default = 1 }", "variable.x", "there twice", "", 2, 1},
		"variable empty":     {"variable \"x\" {}\nvm \"a\" {}", "variable.x", "neither a default nor a value", "give it with -var x=...", 1, 1},
		"variable attribute": {"variable \"x\" { defualt = 1 }", "variable.x.defualt", "unknown attribute", `did you mean "default"?`, 1, 16},
		"variable of itself": {"variable \"x\" { default = var.x }", "variable.x.default", "there is no variable", "", 1, 26},
		"VM twice":           {"vm \"a\" {}\nvm \"a\" {}", "", "", "", 0, 0},
		"nothing":            {"# nothing\n", "", "has no VM", "write: vm \"name\" { ... }", 0, 0},
		"not UTF-8":          {"vm \"a\xff\" {}", "", "not valid UTF-8", "", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parse(t, c.text)
			must.Error(t, err)
			e, ok := err.(*api.Error)
			must.True(t, ok)
			must.Eq(t, api.CodeSyntax, e.Code)
			must.StrContains(t, e.Message, c.message)
			if c.hint != "" {
				must.Eq(t, c.hint, e.Hint)
			}
			if c.line != 0 {
				must.SliceNotEmpty(t, e.Details)
				must.Eq(t, c.field, e.Details[0].Field)
				must.Eq(t, c.line, e.Details[0].Line, must.Sprint(e.Details))
				must.Eq(t, c.column, e.Details[0].Column, must.Sprint(e.Details))
				must.StrHasPrefix(t, "t.hcl:", e.Message)
			}
		})
	}
}

func TestAllErrorsAreListedInOrder(t *testing.T) {
	t.Parallel()
	_, err := parse(t, "vm \"a\" {\n  foo = 1\n  cpu = \"x\"\n  bar {}\n}\nvm {}\n")
	e := err.(*api.Error)
	must.Len(t, 4, e.Details)
	for i, line := range []int32{2, 3, 4, 6} {
		must.Eq(t, line, e.Details[i].Line)
	}
	must.StrContains(t, e.Message, "and 3 more")
	_, err = parse(t, "vm \"a\" {\n"+strings.Repeat("  x {}\n", 500)+"}")
	must.Len(t, api.MaxDetails, err.(*api.Error).Details)
}

func TestVariablesThatAreGiven(t *testing.T) {
	t.Parallel()
	const text = "variable \"n\" { default = 1 }\nvariable \"s\" {\n  description = \"x\"\n}\nvariable \"l\" { default = [] }\nvm \"a\" {\n cpu = var.n\n description = var.s\n}"
	s := one(t, text, "n", "7", "s", "${x} %{y}")
	must.Eq(t, 7, s.CPU.Cores)
	must.Eq(t, "${x} %{y}", s.Description)
	for _, vars := range [][]string{{"n", "x", "s", ""}, {"s", "", "l", "a"}, {"s", "", "m", "1"}, {"n", "1"}} {
		_, err := parse(t, text, vars...)
		must.Eq(t, api.CodeSyntax, api.CodeOf(err), must.Sprint(vars))
	}
}

// What would take long or much is refused before it is tried.
func TestBombsAreRefused(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 100_000)
	for name, text := range map[string]string{
		"brackets":         "a = " + strings.Repeat("[", 500_000),
		"brackets, closed": "vm \"a\" {\n labels = " + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "\n}",
		"blocks":           strings.Repeat("a {\n", 200_000),
		"templates":        "a = " + strings.Repeat("\"${", 200_000),
		"parentheses":      "a = " + strings.Repeat("(", 500_000),
		"not not not":      "a = " + strings.Repeat("!", 500_000) + "true",
		"minus":            "a = " + strings.Repeat("-", 500_000) + "1",
		"sums":             "vm \"a\" {\n cpu = 1" + strings.Repeat(" + 1", 50_000) + "\n}",
		"conditions":       "vm \"a\" {\n cpu = " + strings.Repeat("true ? 1 : ", 50_000) + "1\n}",
		"heredocs":         strings.Repeat("a = <<EOT\n", 50_000),
		"tokens":           strings.Repeat("a,", 400_000),
		"variable many":    "variable \"x\" { default = \"" + big + "\" }\nvm \"a\" {\n description = \"" + strings.Repeat("${var.x}", 1000) + "\"\n}",
		"variable often":   "variable \"x\" { default = \"" + big + "\" }\nvm \"a\" {\n" + strings.Repeat(" network \"n\" { model = var.x }\n", 200) + "}",
		"format":           "vm \"a\" {\n description = format(\"" + strings.Repeat("%99d", 50_000) + "\", 1)\n}",
		"huge number":      "vm \"a\" {\n description = \"${1e999999}\"\n}",
		"huge product":     "vm \"a\" {\n description = \"${" + strings.Repeat("1e1000 * ", 500) + "1e1000}\"\n cpu = 1e1000 * 1e1000\n}",
		"tiny number":      "vm \"a\" {\n labels = { a = 1e-99999 }\n}",
		"directives":       "vm \"a\" {\n description = \"" + strings.Repeat("%{if true}", 50_000) + "\"\n}",
		"lines":            "vm \"a\" {\n description = <<EOT\n" + strings.Repeat("x\n", 150_000) + "EOT\n}",
		"disks":            "vm \"a\" {\n" + strings.Repeat(" disk \"x\" {}\n", 1000) + "}",
		"nested variables": "variable \"x\" { default = " + strings.Repeat("[", 40) + strings.Repeat("]", 40) + " }\nvm \"a\" {}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parse(t, text)
			must.Eq(t, api.CodeSyntax, api.CodeOf(err))
			must.Less(t, 1000, len(err.Error()))
		})
	}
	// What is long but sane is read.
	script := strings.Repeat("echo 0123456789 0123456789 0123456789\n", api.MaxUserData/38)
	s := one(t, "vm \"a\" {\n cloud_init {\n user_data = <<EOT\n"+script+"EOT\n }\n}")
	must.Eq(t, script, string(s.CloudInit.UserData))
	_, err := parse(t, strings.Repeat(" ", api.MaxSpecText+1))
	must.Eq(t, api.CodeTooLarge, api.CodeOf(err))
	var many strings.Builder
	for range MaxVMs + 1 {
		many.WriteString("vm \"a\" {}\n")
	}
	_, err = parse(t, many.String())
	must.Eq(t, api.CodeTooLarge, api.CodeOf(err))
}

func TestACanceledCallerIsNotServed(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Parse(ctx, &api.ParseRequest{Text: `vm "a" {}`})
	must.Error(t, err)
}

// User data reaches the spec byte for byte, by the one way or the other.
func TestFormatAndParseAreInverse(t *testing.T) {
	t.Parallel()
	word := rapid.StringMatching(`[a-z0-9][a-z0-9-]{0,8}`)
	prose := rapid.OneOf(rapid.SampledFrom([]string{"", "\n", "${x}\n", "%{y}\n", "$${x}\n", "EOT\n", " EOT\nx\n", "a\r\nb\r\n", "a", "e\u0301\n", "\x00\n", "\xff", "\t\\n\"\n"}), rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		pairs := api.PairsOf(rapid.MapOfN(rapid.StringMatching(`[a-z][a-z./0-9-]{0,6}[a-z]`), word, 0, 3).Draw(t, "pairs"))
		s := api.VMSpec{
			Name: word.Draw(t, "name"), Namespace: word.Draw(t, "ns"), Description: rapid.SampledFrom([]string{"", "a \"b\" ${c} %{d} \\ ü"}).Draw(t, "desc"),
			Labels: pairs, Datacenters: rapid.SliceOfN(word, 0, 3).Draw(t, "dcs"), Priority: rapid.Int32Range(0, 100).Draw(t, "prio"),
			CPU:       api.CPUSpec{Cores: rapid.Int32Range(1, 8).Draw(t, "cores"), Reserve: api.MilliCPU(rapid.Int64Range(0, 1000).Draw(t, "reserve")), Model: rapid.SampledFrom([]string{"", "host"}).Draw(t, "model")},
			Memory:    api.Bytes(rapid.Int64Range(1, 1<<40).Draw(t, "memory")),
			Firmware:  api.Firmware(rapid.SampledFrom([]string{"", "uefi"}).Draw(t, "fw")),
			CloudInit: &api.CloudInit{UserData: []byte(prose.Draw(t, "ud")), Hostname: rapid.SampledFrom([]string{"", "h"}).Draw(t, "host")},
			Console:   api.ConsoleSpec{NoSerial: rapid.Bool().Draw(t, "serial"), VNC: rapid.Bool().Draw(t, "vnc")},
			Disks: []api.Disk{
				{Name: word.Draw(t, "disk"), Image: word.Draw(t, "image"), Size: api.Bytes(rapid.Int64Range(0, 1<<40).Draw(t, "size")), Keep: true, Boot: 1},
				{Name: "b", Volume: word.Draw(t, "vol"), ReadOnly: true},
			},
			NICs:        []api.NIC{{Network: word.Draw(t, "net"), Address: "10.0.0.1"}},
			Constraints: []api.Constraint{{Attribute: "a", Operator: "regexp", Value: "^(a|b)${1}$"}},
			Affinities:  []api.Affinity{{Selector: pairs, Weight: rapid.Int32Range(-100, 100).Draw(t, "w")}, {Selector: pairs, Anti: true}},
			Spread:      []api.Spread{{Attribute: "label.x", Selector: pairs}},
			Restart:     api.RestartPolicy{Attempts: rapid.Int32Range(0, 5).Draw(t, "att"), Delay: api.Duration(rapid.Int64Range(0, int64(2*time.Hour)).Draw(t, "delay"))},
			HA:          api.HAPolicy{Policy: rapid.SampledFrom([]string{"", "none"}).Draw(t, "ha")},
			Protection:  rapid.Bool().Draw(t, "prot"),
			Migration:   api.MigrationPolicy{Mode: rapid.SampledFrom([]string{"", "live", "stop"}).Draw(t, "move"), MaxDowntime: api.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "downtime")), AutoConverge: rapid.Bool().Draw(t, "conv")},
			StopTimeout: api.Duration(rapid.SampledFrom([]time.Duration{0, time.Second, time.Hour, 90 * time.Minute, time.Hour + time.Second}).Draw(t, "stop")),
		}
		if len(s.CloudInit.UserData) == 0 {
			s.CloudInit.UserData = nil
		}
		s.Canonicalize()
		text := Format(&s)
		specs, err := Parse(t.Context(), &api.ParseRequest{Text: string(text)})
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		specs[0].Canonicalize()
		must.Eq(t, s, specs[0], must.Sprint(string(text)))
		must.True(t, bytes.Equal(text, Format(&specs[0])))
	})
}

// FuzzParse: no text panics or takes long, and what is read can be written and
// read again.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("../../examples/*.hcl")
	for _, name := range files {
		if data, err := os.ReadFile(name); err == nil {
			f.Add(string(data))
		}
	}
	for _, s := range []string{
		"vm \"a\" {\n cpu = -1\n labels = { \"${upper(\"a\")}\" = 1 }\n}", "variable \"x\" { default = <<-E\n a\n E\n}\nvm \"a\" { description = var.x }", "vm \"a\" { cpu = 1e400 }",
		"vm \"\" {}", "vm \"a\" { cloud_init { user_data = \"\\u0000\\ud800\" } }", "vm \"a\" { description = format(\"%99d%q\", 1/0, \"x\") }", "vm \"${x}\" {}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		specs, err := Parse(t.Context(), &api.ParseRequest{Text: s})
		if err != nil {
			if _, ok := err.(*api.Error); !ok {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		for i := range specs {
			specs[i].Canonicalize()
			if specs[i].Validate() != nil {
				continue
			}
			text := Format(&specs[i])
			again, err := Parse(t.Context(), &api.ParseRequest{Text: string(text)})
			must.NoError(t, err, must.Sprint(string(text)))
			again[0].Canonicalize()
			must.Eq(t, specs[i], again[0], must.Sprint(string(text)))
		}
	})
}
