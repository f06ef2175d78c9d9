// Run breaks things under running guests on a lab of its own and writes a report
// (package faults): make faults.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/novacron/novacron/e2e/faults"
	"github.com/novacron/novacron/e2e/lab"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "guard" {
		if err := runGuard(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "guard:", err)
			os.Exit(1)
		}
		return
	}
	binary := flag.String("binary", "build/novacron.faults", "the novacron `binary`, built with the tag faultpoints")
	runs := flag.Int("n", 20, "how many runs")
	seed := flag.Uint64("seed", 0, "seed of the order and the delays; 0: of the clock")
	out := flag.String("out", "build/faults", "`folder` for report.json, report.md and truth.log")
	points := flag.String("points", "", "only these cut points, \"6,7\"")
	party := flag.String("party", "", "only parties with this in their name")
	pool := flag.String("pool", "", "only this pool, default or shared")
	others := flag.String("scenarios", "none,link-cut,cancel,agent-loop,libvirtd-kill,host-partition,host-power-loss,host-freeze", "what takes every fifth turn")
	only := flag.Bool("only", false, "no cut points, only the scenarios")
	number := flag.Uint("lab", 0, "number of the lab, 0 to 9: labs of different numbers can be up at once")
	dogs := flag.Bool("watchdog", true, "the hosts have a watchdog; without one, fencing is lease-only and host-freeze is a control")
	merge := flag.String("merge", "", "run nothing: make one report of those in these `folders`, \"a,b\"")
	flag.Parse()
	if *merge != "" {
		report, err := faults.Merge(strings.Split(*merge, ","))
		if err == nil {
			err = errors.Join(os.MkdirAll(*out, 0o755), report.Write(*out))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "faults:", err)
			os.Exit(1)
		}
		fmt.Println(report.Counts())
		return
	}
	if *number > 9 {
		fmt.Fprintln(os.Stderr, "faults: -lab is 0 to 9")
		os.Exit(2)
	}
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano()) % 1e6
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := faults.Plan{Seed: *seed, Runs: *runs, Only: *only, Pool: *pool}
	if *others != "" {
		p.Others = strings.Split(*others, ",")
	}
	for _, c := range faults.AllCells() {
		if (*points == "" || strings.Contains(","+*points+",", fmt.Sprintf(",%d,", c.Point))) && strings.Contains(c.Party, *party) {
			c.Pool = *pool
			p.Cells = append(p.Cells, c)
		}
	}
	if len(p.Cells) == 0 && !*only {
		fmt.Fprintf(os.Stderr, "faults: no cell has -points %q and -party %q; a party is one of %s\n", *points, *party, strings.Join(faults.Parties(), ", "))
		os.Exit(2)
	}
	report, err := run(ctx, *binary, *out, *number, *dogs, p)
	if report != nil {
		fmt.Printf("seed %d: %s; %s\n", report.Seed, report.Counts(), filepath.Join(*out, "report.md"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
	}
	if err != nil || report.Violated > 0 {
		os.Exit(1)
	}
}

func run(ctx context.Context, binary, out string, number uint, dogs bool, p faults.Plan) (report *faults.Report, err error) {
	if binary, err = filepath.Abs(binary); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, err
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("novacron-faults%d", number))
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("another run has lab %d: %w", number, err)
	}
	c := lab.Standard(fmt.Sprintf("flt%d", number), fmt.Sprintf("10.79.%d", number), dir, binary)
	c.Log = os.Stderr
	c.Env = []string{faults.PointsEnv}
	if dogs {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		c.Guard = []string{self, "guard"}
	}
	defer func() {
		logs(c, out)
		err = errors.Join(err, c.Down(context.WithoutCancel(ctx)))
	}()
	if err := c.Up(ctx); err != nil {
		return nil, err
	}
	if err := c.Form(ctx); err != nil {
		return nil, err
	}
	b, err := faults.Prepare(ctx, c, filepath.Join(out, "truth.log"), true)
	if err != nil {
		return nil, err
	}
	p.Each = func(r *faults.Report) {
		if err := r.Write(out); err != nil {
			fmt.Fprintln(os.Stderr, "faults:", err)
		}
	}
	report, err = b.Run(ctx, p)
	return report, errors.Join(err, b.Close())
}

// logs keeps the logs of agents and guards.
func logs(c *lab.Cluster, out string) {
	for _, h := range c.Hosts {
		for from, to := range map[string]string{h.AgentLog(): h.Name + ".log", filepath.Join(h.Dir(), "guard.log"): h.Name + "-guard.log"} {
			if text, err := os.ReadFile(from); err == nil {
				if err := os.WriteFile(filepath.Join(out, to), text, 0o644); err != nil {
					fmt.Fprintln(os.Stderr, "faults:", err)
				}
			}
		}
	}
}
