// Command bench measures NovaCron beside a limit or a peer in the same run: the
// Apply path beside bare Raft, failover beside a graceful transfer, placements,
// the memory of an agent, a migration's tunnel beside a bare copy, the start of a
// VM beside virsh, and the cutover of a migration beside a write and a bare resume.
//
// Promises: every figure is measured in this run; pairs alternate (A B A B) and
// medians are shown; the settings and the load of the machine stand beside them.
// What was started is ended, what was made is removed.
//
// What does not belong: assertions (tests), benchmarks of one package (they stand
// beside it).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// bench is what every section needs to know.
type bench struct {
	binary, guest string
	dir           string // removed at the end
	quick         bool

	nodes, appliers []int // of section apply
}

// numbers parses "1,16,256".
func numbers(into *[]int) func(string) error {
	return func(text string) error {
		*into = nil
		for _, f := range strings.Split(text, ",") {
			n, err := strconv.Atoi(f)
			if err != nil || n < 1 {
				return fmt.Errorf("%q is not a list of numbers above 0", text)
			}
			*into = append(*into, n)
		}
		return nil
	}
}

// pick returns the first when time is short.
func pick[T any](b *bench, quick, full T) T {
	if b.quick {
		return quick
	}
	return full
}

// section is one subject that is measured.
type section struct {
	name, title string
	run         func(context.Context, *bench) error
}

var sections = []section{
	{"apply", "Apply path beside bare hashicorp/raft", benchApply},
	{"failover", "Failover beside a graceful transfer", benchFailover},
	{"placements", "Placements through a Raft of three servers", benchPlacements},
	{"rss", "Memory of an agent", benchRSS},
	{"tunnel", "A migration's tunnel beside a copy over loopback", benchTunnel},
	{"start", "Start of a VM beside virsh create of the same XML", benchStart},
	{"cutover", "What the commit adds to a move's downtime, beside a write and a bare resume", benchCutover},
}

func main() {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	b := &bench{nodes: []int{1, 3}, appliers: []int{1, 16, 256}}
	flag.StringVar(&b.binary, "binary", "build/novacron", "the novacron binary")
	flag.StringVar(&b.guest, "guest", "", "folder with tick.qcow2")
	flag.BoolVar(&b.quick, "quick", false, "fewer and shorter rounds")
	flag.Func("nodes", "sizes of cluster in section apply (default 1,3)", numbers(&b.nodes))
	flag.Func("appliers", "callers at once in section apply (default 1,16,256)", numbers(&b.appliers))
	only := flag.String("only", strings.Join(names, ","), "sections to run")
	profile := flag.String("cpuprofile", "", "write a CPU profile of this process to a file")
	flag.Parse()
	chosen := strings.Split(*only, ",")
	for _, c := range chosen {
		if !slices.Contains(names, c) {
			fmt.Fprintf(os.Stderr, "bench: no section %q; there are %s\n", c, strings.Join(names, ", "))
			os.Exit(2)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := profiled(*profile, func() error { return b.run(ctx, chosen) }); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// profiled runs fn, under a CPU profile if a file is named.
func profiled(file string, fn func() error) error {
	if file == "" {
		return fn()
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return errors.Join(err, f.Close())
	}
	err = fn()
	pprof.StopCPUProfile()
	return errors.Join(err, f.Close())
}

// run runs the chosen sections. One that fails does not keep the others from
// being measured.
func (b *bench) run(ctx context.Context, chosen []string) (err error) {
	if b.binary, err = filepath.Abs(b.binary); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "novacron-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	var errs []error
	for _, s := range sections {
		if !slices.Contains(chosen, s.name) || ctx.Err() != nil {
			continue
		}
		begin := time.Now()
		fmt.Printf("== %s\n   %d cores, %s, quick %v, load %s\n", s.title, runtime.GOMAXPROCS(0), runtime.Version(), b.quick, loadAverage())
		if err := s.run(ctx, b); err != nil {
			fmt.Printf("   not measured: %v\n", err)
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
		fmt.Printf("   took %s, load %s\n\n", time.Since(begin).Round(time.Second), loadAverage())
	}
	return errors.Join(append(errs, ctx.Err())...)
}
