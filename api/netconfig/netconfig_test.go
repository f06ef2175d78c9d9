package netconfig

import (
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"version 2":             {"version: 2\nethernets: {eth0: {dhcp4: true}}\n", true},
		"version 1":             {"version: 1\nconfig: []\n", true},
		"under network":         {"network:\n  version: 2\n", true},
		"JSON":                  {`{"version": 2, "ethernets": {}}`, true},
		"a date":                {"version: 2\nx: 2020-01-01\n", true},
		"a marker":              {"---\nversion: 2\n", true},
		"no version":            {"ethernets: {}\n", false},
		"another version":       {"version: 3\n", false},
		"a list":                {"- version: 2\n", false},
		"a word":                {"version", false},
		"nothing":               {"", false},
		"only a comment":        {"# version: 2\n", false},
		"not YAML":              {"version: 2\n\t- x: [", false},
		"anchor":                {"version: 2\na: &a [x]\n", false},
		"alias":                 {"version: 2\na: &a [x]\nb: *a\n", false},
		"bomb":                  {"version: 2\na: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", false},
		"alias of itself":       {"version: 2\na: &a [*a]\n", false},
		"merge key":             {"version: 2\nx: {<<: {a: b}}\n", false},
		"own tag":               {"version: 2\nx: !exec rm\n", false},
		"python object":         {"version: 2\nx: !!python/object:os.system {}\n", false},
		"verbatim tag":          {"version: 2\nx: !<tag:yaml.org,2002:python/name:os.system> {}\n", false},
		"core tag that is said": {"version: 2\nx: !!str 1\n", true},
		"binary":                {"version: 2\nx: !!binary aGk=\n", false},
		"a second document":     {"version: 2\n---\nversion: 2\nx: !exec rm\n", false},
		"deep":                  {"version: 2\nx: " + strings.Repeat("[", 30_000), false},
		"one byte too long":     {"version: 2\n#" + strings.Repeat("x", api.MaxNetworkConfig), false},
	} {
		err := Check([]byte(c.text))
		if c.ok {
			must.NoError(t, err, must.Sprint(name))
			continue
		}
		must.Eq(t, api.CodeInvalid, api.CodeOf(err), must.Sprint(name))
		must.Eq(t, Field, err.(*api.Error).Details[0].Field, must.Sprint(name))
	}
}

func TestCheckSpec(t *testing.T) {
	t.Parallel()
	must.NoError(t, CheckSpec(&api.VMSpec{}))
	must.NoError(t, CheckSpec(&api.VMSpec{CloudInit: &api.CloudInit{}}))
	must.Error(t, CheckSpec(&api.VMSpec{CloudInit: &api.CloudInit{NetworkConfig: []byte("x: *a")}}))
}
