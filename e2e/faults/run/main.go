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
	binary := flag.String("binary", "build/novacron.faults", "the novacron `binary`, built with the tag faultpoints")
	runs := flag.Int("n", 20, "how many runs")
	seed := flag.Uint64("seed", 0, "seed of the order and the delays; 0: of the clock")
	out := flag.String("out", "build/faults", "`folder` for report.json, report.md and truth.log")
	points := flag.String("points", "", "only these cut points, \"6,7\"")
	party := flag.String("party", "", "only parties with this in their name")
	pool := flag.String("pool", "", "only this pool, default or shared")
	others := flag.String("scenarios", "none,link-cut,cancel,agent-loop,libvirtd-kill", "what takes every fifth turn")
	only := flag.Bool("only", false, "no cut points, only the scenarios")
	flag.Parse()
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano()) % 1e6
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := faults.Plan{Seed: *seed, Runs: *runs, Only: *only}
	if *others != "" {
		p.Others = strings.Split(*others, ",")
	}
	for _, c := range faults.AllCells() {
		if (*points == "" || strings.Contains(","+*points+",", fmt.Sprintf(",%d,", c.Point))) && strings.Contains(c.Party, *party) {
			c.Pool = *pool
			p.Cells = append(p.Cells, c)
		}
	}
	report, err := run(ctx, *binary, *out, p)
	if report != nil {
		fmt.Printf("seed %d: %d runs, %d held, %d violated, %d void; %s\n", report.Seed, report.Runs, report.Held, report.Violated, report.Void, filepath.Join(*out, "report.md"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
	}
	if err != nil || report.Violated > 0 {
		os.Exit(1)
	}
}

func run(ctx context.Context, binary, out string, p faults.Plan) (report *faults.Report, err error) {
	if binary, err = filepath.Abs(binary); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, err
	}
	dir := filepath.Join(os.TempDir(), "novacron-faults")
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("another run goes on on this machine: %w", err)
	}
	c := lab.Standard("flt", "10.79.0", dir, binary)
	c.Log = os.Stderr
	c.Env = []string{faults.PointsEnv}
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

// logs keeps the agents' logs.
func logs(c *lab.Cluster, out string) {
	for _, h := range c.Hosts {
		if text, err := os.ReadFile(h.AgentLog()); err == nil {
			if err := os.WriteFile(filepath.Join(out, h.Name+".log"), text, 0o644); err != nil {
				fmt.Fprintln(os.Stderr, "faults:", err)
			}
		}
	}
}
