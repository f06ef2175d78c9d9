package fsm

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// forbidden packages bring in what differs between servers.
var forbidden = map[string]string{
	"math/rand": "randomness", "math/rand/v2": "randomness", "crypto/rand": "randomness",
	"os": "the environment", "os/exec": "the environment", "syscall": "the environment",
	"net": "the network", "net/http": "the network", "unsafe": "memory addresses", "reflect": "map order",
}

// clocks are functions of package time that read or need a clock. Queries may
// use timers: they are no part of what is replicated.
var clocks = map[string]bool{"Now": true, "Since": true, "Until": true, "Sleep": true, "After": true, "Tick": true, "NewTicker": true}

// anyOrder are the functions that may range over a map, because they only wake
// waiting readers.
var anyOrder = map[string]bool{"fire": true, "wakeAll": true, "wake": true}

func lint(t *testing.T, fset *token.FileSet, files []*ast.File) []string {
	t.Helper()
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	conf := types.Config{Importer: importer.ForCompiler(fset, "source", nil), Error: func(error) {}}
	conf.Check("fsm", fset, files, info)
	var found []string
	say := func(n ast.Node, what string) { found = append(found, fset.Position(n.Pos()).String()+": "+what) }
	for _, f := range files {
		for _, im := range f.Imports {
			path, _ := strconv.Unquote(im.Path.Value)
			if why := forbidden[path]; why != "" {
				say(im, "imports "+path+": "+why)
			}
		}
		for _, d := range f.Decls {
			fn, _ := d.(*ast.FuncDecl)
			ast.Inspect(d, func(n ast.Node) bool {
				switch x := n.(type) {
				case *ast.GoStmt:
					say(x, "starts a goroutine")
				case *ast.SelectorExpr:
					if p, ok := x.X.(*ast.Ident); ok && (p.Name == "time" && clocks[x.Sel.Name] || p.Name == "api" && x.Sel.Name == "NewID") {
						say(x, "calls "+p.Name+"."+x.Sel.Name)
					}
				case *ast.RangeStmt:
					if fn != nil && anyOrder[fn.Name.Name] {
						break
					}
					if tv, ok := info.Types[x.X]; ok && tv.Type != nil {
						if _, isMap := tv.Type.Underlying().(*types.Map); isMap {
							say(x, "ranges over a map")
						}
					}
				}
				return true
			})
		}
	}
	return found
}

func TestNothingHereDiffersBetweenServers(t *testing.T) {
	if testing.Short() {
		t.Skip("type checks the package from source")
	}
	fset := token.NewFileSet()
	names, err := os.ReadDir(".")
	must.NoError(t, err)
	var files []*ast.File
	for _, n := range names {
		if strings.HasSuffix(n.Name(), ".go") && !strings.HasSuffix(n.Name(), "_test.go") {
			f, err := parser.ParseFile(fset, n.Name(), nil, 0)
			must.NoError(t, err)
			files = append(files, f)
		}
	}
	must.SliceEmpty(t, lint(t, fset, files))
}

// The lint itself must be able to fail.
func TestLintSees(t *testing.T) {
	for name, src := range map[string]string{
		"a clock":     `package fsm; import "time"; var _ = time.Now()`,
		"randomness":  `package fsm; import _ "crypto/rand"`,
		"the network": `package fsm; import _ "net"`,
		"a goroutine": `package fsm; func f() { go f() }`,
		"a map":       `package fsm; func f(m map[int]int) { for range m {} }`,
		"an id":       `package fsm; var api struct{ NewID func() int }; var _ = api.NewID()`,
	} {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, "x.go", src, 0)
		must.NoError(t, err)
		must.SliceNotEmpty(t, lint(t, fset, []*ast.File{f}), must.Sprint(name))
	}
}
