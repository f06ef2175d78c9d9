package main

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

const module = "github.com/novacron/novacron/"

// floors says which packages of this module a package may import (besides what
// its interface package offers). Arrows go down only; what is not listed here
// fails. "agent/*" stands for the leaves below agent.
var floors = map[string][]string{
	"":    {"command"},
	"api": {},

	"api/netconfig":                {"api"},
	"api/faultpoint":               {},      // for tests
	"api/hostile":                  {"api"}, // for tests
	"api/mutant":                   {},
	"api/boottime":                 {"api/mutant"},
	"fsm/event":                    {"api"},
	"cluster/acl":                  {"api"},
	"cluster/lease":                {"api", "api/mutant", "fsm"},
	"cluster/moves":                {"api", "fsm", "scheduler"},
	"cluster/peer":                 {"api"},
	"cluster/keyring":              {"api"},
	"cluster/rpc":                  {"api", "cluster/acl"},
	"agent/cloudinit":              {"api", "api/netconfig"},
	"agent/fingerprint":            {"api"},
	"agent/guard":                  {"api", "api/boottime", "api/mutant"},
	"agent/guard/sim":              {"api", "agent/guard"},
	"agent/hypervisor":             {"api"},
	"agent/hypervisor/conformance": {"api", "agent/hypervisor"},
	"agent/hypervisor/libvirt":     {"api", "agent/hypervisor"},
	"agent/hypervisor/sim":         {"api", "agent/hypervisor"},
	"agent/image":                  {"api"},
	"agent/migrate":                {"api", "api/faultpoint", "agent/hypervisor", "agent/storage", "cluster/rpc"},
	"agent/network":                {"api"},
	"agent/peers":                  {"api"},
	"agent/spec":                   {"api"},
	"agent/storage":                {"api"},
	"agent/storage/dir":            {"api", "agent/storage"},
	"agent/storage/sim":            {"api", "agent/storage"},
	"agent/telemetry":              {"api"},

	"fsm":       {"api", "api/mutant", "fsm/event"},
	"scheduler": {"api", "fsm"},
	"cluster":   {"api", "api/boottime", "api/netconfig", "fsm", "fsm/event", "scheduler", "cluster/acl", "cluster/keyring", "cluster/lease", "cluster/moves", "cluster/peer", "cluster/rpc"},

	"agent/client": {"api", "api/boottime", "api/faultpoint", "api/mutant", "cluster/rpc", "cluster/acl", "agent/*"},
	"agent/http":   {"api", "api/netconfig"},
	"agent":        {"api", "fsm", "cluster", "cluster/acl", "cluster/keyring", "cluster/rpc", "agent/*", "agent/client", "agent/http"},
	"command":      {"api"},

	"e2e":            {"api", "e2e/lab", "e2e/faults"},
	"e2e/watchdog":   {"agent/guard"},
	"e2e/lab":        {"api", "e2e/watchdog"},
	"e2e/demo":       {"api", "e2e/lab"},
	"e2e/report":     {},
	"e2e/detector":   {},
	"e2e/truth":      {"e2e/lab"},
	"e2e/faults":     {"api", "e2e/lab", "e2e/detector", "e2e/truth"},
	"e2e/faults/run": {"agent/guard", "e2e/faults", "e2e/lab", "e2e/watchdog"},
	"e2e/fleet":      {"api", "fsm", "cluster", "cluster/acl", "cluster/rpc", "agent/*", "agent/client"},
	"e2e/bench":      {"api", "e2e/fleet", "e2e/lab", "e2e/truth", "fsm", "cluster", "cluster/keyring", "cluster/rpc", "agent/*"},
}

// byFile names the single files that may import more than their package.
var byFile = map[string][]string{
	"command/agent.go":    {"agent"},
	"command/config.go":   {"agent"},
	"command/guard.go":    {"agent/guard"},
	"command/snapshot.go": {"fsm"},
}

// overBudget names the files that may be longer than 500 lines; each says why in
// its header.
var overBudget = []string{}

type source struct {
	file    string // path from the root
	pkg     string // folder from the root, "" for the root
	test    bool
	lines   int
	imports []string
	syntax  *ast.File
}

func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	must.NoError(t, filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && p != "." || d.Name() == "build" || d.Name() == "node_modules" || d.Name() == "coverage") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_gen.go") {
			return nil
		}
		s := source{file: filepath.ToSlash(p), test: strings.HasSuffix(p, "_test.go")}
		if dir := path.Dir(s.file); dir != "." {
			s.pkg = dir
		}
		s.syntax, err = parser.ParseFile(token.NewFileSet(), p, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, i := range s.syntax.Imports {
			if in, ok := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), module); ok {
				s.imports = append(s.imports, in)
			}
		}
		s.lines, err = countLines(p)
		out = append(out, s)
		return err
	}))
	return out
}

func countLines(p string) (int, error) {
	f, err := os.Open(p)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 4<<20)
	n := 0
	for in.Scan() {
		n++
	}
	return n, in.Err()
}

// leaf: a package below agent that is not one of the floors above them.
func leaf(pkg string) bool {
	return strings.HasPrefix(pkg, "agent/") && pkg != "agent/client" && pkg != "agent/http"
}

func TestFloorsImportOnlyDownwards(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue // tests may look upwards, for fakes and conformance
		}
		allowed, known := floors[s.pkg]
		if !known {
			t.Errorf("%s: package %q has no floor: add it to the table in arch_test.go", s.file, s.pkg)
			continue
		}
		for _, in := range s.imports {
			ok := slices.Contains(allowed, in) || slices.Contains(byFile[s.file], in) ||
				leaf(in) && slices.Contains(allowed, "agent/*")
			if !ok {
				t.Errorf("%s imports %s: that arrow is not in the table", s.file, in)
			}
		}
	}
}

func TestFloorsKeepGRPCAndRaftInTheirRooms(t *testing.T) {
	only := map[string][]string{
		"google.golang.org/grpc":             {"cluster/rpc"},
		"github.com/hashicorp/raft":          {"cluster", "fsm", "e2e/bench"},
		"github.com/hashicorp/serf":          {"cluster", "cluster/peer"},
		"github.com/digitalocean/go-libvirt": {"agent/hypervisor/libvirt", "e2e/truth"},
		"github.com/hashicorp/hcl":           {"agent", "agent/spec"},
	}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		for _, i := range s.syntax.Imports {
			p := strings.Trim(i.Path.Value, `"`)
			for lib, rooms := range only {
				if (p == lib || strings.HasPrefix(p, lib+"/")) && !slices.Contains(rooms, s.pkg) {
					t.Errorf("%s imports %s, which belongs to %v", s.file, p, rooms)
				}
			}
		}
	}
}

func TestPackageHasComment(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		documented[s.pkg] = documented[s.pkg] || s.syntax.Doc != nil && len(s.syntax.Doc.Text()) > 40
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("package %q has no package comment that says what it is for", pkg)
		}
	}
}

func TestFileHasOneSubject(t *testing.T) {
	for _, s := range sources(t) {
		if s.lines > 500 && !slices.Contains(overBudget, s.file) {
			t.Errorf("%s has %d lines: what second subject does it hold?", s.file, s.lines)
		}
		base := path.Base(s.pkg)
		if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "misc", "types"}, base) {
			t.Errorf("%s: a package is named for what it holds, not %q", s.file, base)
		}
	}
}
