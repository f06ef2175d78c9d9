package scheduler

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// TestPure holds the package to its promise: no clock, no goroutine, no
// randomness, no input or output.
func TestPure(t *testing.T) {
	allowed := []string{
		"cmp", "container/heap", "encoding/binary", "fmt", "math", "math/bits", "regexp", "slices", "strconv", "strings",
		"github.com/novacron/novacron/api", "github.com/novacron/novacron/fsm",
	}
	fset := token.NewFileSet()
	names, err := filepath.Glob("*.go")
	must.NoError(t, err)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, 0)
		must.NoError(t, err)
		for _, im := range f.Imports {
			if path, _ := strconv.Unquote(im.Path.Value); !slices.Contains(allowed, path) {
				t.Errorf("%s: import of %s", fset.Position(im.Pos()), path)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt, *ast.SelectStmt, *ast.SendStmt, *ast.ChanType:
				t.Errorf("%s: the scheduler has no concurrency of its own", fset.Position(n.Pos()))
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "fmt" && strings.HasPrefix(n.Sel.Name, "Print") {
					t.Errorf("%s: output", fset.Position(n.Pos()))
				}
			}
			return true
		})
	}
}
