// Command report reads the output of "go test -json" from standard input, shows
// one line for each package and the output of what failed, and closes with one
// line of summary and, with -coverage, the share of statements that ran. It
// exits with 1 when a test or a build failed, when no test ran, or when less ran
// than -least asks for.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

type event struct {
	Action      string
	Package     string
	ImportPath  string
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

type tally struct {
	passed, failed, skipped int
	broken                  []string // packages that failed without a failing test
}

func main() {
	coverage := flag.String("coverage", "", "folder with the coverage data of unit tests and binaries")
	least := flag.Float64("least", 0, "fail when less than this percentage of the statements ran")
	flag.Parse()
	begin := time.Now()
	t := read(os.Stdin)
	if *coverage != "" {
		percent, err := covered(*coverage)
		if err != nil {
			fmt.Fprintln(os.Stderr, "coverage:", err)
			t.failed++
		} else {
			fmt.Printf("coverage: %.1f %% of statements, without generated code\n", percent)
			if percent < *least {
				fmt.Printf("coverage: at least %.1f %% are wanted\n", *least)
				t.failed++
			}
		}
	}
	for _, p := range t.broken {
		fmt.Println("broken:", p)
	}
	fmt.Printf("took %s\n", time.Since(begin).Round(time.Second))
	fmt.Printf("tests: %d passed, %d failed, %d skipped\n", t.passed, t.failed+len(t.broken), t.skipped)
	if t.failed > 0 || len(t.broken) > 0 || t.passed == 0 {
		os.Exit(1)
	}
}

// read follows the events; what is not JSON (a compiler's message) is shown.
func read(f *os.File) tally {
	var t tally
	output := map[string][]string{} // by package and test
	failing := map[string]bool{}    // packages with a failed test
	in := bufio.NewScanner(f)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil {
			fmt.Println(in.Text())
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "output", "build-output":
			if e.Action == "build-output" {
				fmt.Print(e.Output)
			}
			output[key] = append(output[key], e.Output)
		case "pass", "skip":
			if e.Test == "" {
				show(e)
			} else if e.Action == "pass" {
				t.passed++
			} else {
				t.skipped++
			}
			delete(output, key)
		case "fail":
			if e.Test == "" {
				show(e)
				if !failing[e.Package] {
					t.broken = append(t.broken, e.Package)
					fmt.Print(strings.Join(output[key], ""))
				}
				continue
			}
			t.failed++
			failing[e.Package] = true
			fmt.Printf("--- %s %s\n%s", e.Package, e.Test, strings.Join(output[key], ""))
			delete(output, key)
		}
	}
	return t
}

func show(e event) {
	fmt.Printf("%-5s %6.1fs  %s\n", e.Action, e.Elapsed, strings.TrimPrefix(e.Package, "github.com/novacron/novacron/"))
}
