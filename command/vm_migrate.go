package command

import (
	"fmt"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
)

func vmMigrateSpecs() []*spec {
	return []*spec{{
		name: "vm migrate", args: "VM", min: 1, max: 1, synopsis: "move a VM to another node",
		long: "Without -to the scheduler chooses the node. A guest that runs is moved live, one\nthat is stopped cold, unless its specification or -mode says otherwise:\n\n" +
			"  live  the guest runs while memory and disks are copied\n  warm  the guest stands still meanwhile and keeps its memory\n  cold  the VM is stopped; its disks move\n\n" +
			"Shows how far it is until it is over; the exit code is 0 only when the VM is\nthere. An interrupt ends only the watching: the move goes on.",
		examples: []string{
			"novacron vm migrate web", "novacron vm migrate web -to n2 -bandwidth 200MiB -auto-converge",
			"novacron vm migrate web -dry-run", "novacron vm migrate web -mode warm -detach",
		},
		build: vmMigrate,
	}}
}

func vmMigrate(f *flags) func(*call) error {
	req := &api.MigrationCreate{}
	o := &req.Options
	f.StringVar(&req.To, "to", "", "`name` or id of the node; also one that is cordoned")
	mode := f.String("mode", "", "`how`: live, warm or cold")
	bandwidth := f.size("bandwidth", "send no more than this `size` in a second, memory and disks together")
	downtime := f.Duration("max-downtime", 0, "the guest may stand still for this `time` at the switch-over (default 300ms)")
	limit := f.Duration("downtime-limit", 0, "what -max-downtime may be raised to when the move does not converge (default 10 times as much)")
	timeout := f.Duration("timeout", 0, "give up a move that is not over after this `time` (default 30m)")
	f.BoolVar(&o.AutoConverge, "auto-converge", false, "slow down a guest that writes faster than can be sent")
	f.StringVar(&o.Compress, "compress", "", "`how`: auto (default), zstd or none")
	f.BoolVar(&o.WarmFallback, "warm-fallback", false, "go on warm when a live move does not converge")
	priority := f.Int("priority", 0, "place in the queue, 1 to 100 (default: the VM's)")
	f.BoolVar(&req.DryRun, "dry-run", false, "only say where it would go, why, and how long it would take")
	detach := f.Bool("detach", false, "do not wait")
	return with(func(c *call, cl *api.Client) error {
		req.VM, req.Mode, req.Priority = c.args[0], api.MigrationMode(*mode), int32(*priority)
		o.Bandwidth, o.MaxDowntime, o.DowntimeLimit, o.Timeout = *bandwidth, api.Duration(*downtime), api.Duration(*limit), api.Duration(*timeout)
		r, err := write(c, func(w *api.WriteOptions) (*api.MigrationCreated, error) { return cl.Migrations().Create(c, req, w) })
		if err != nil {
			return err
		}
		if req.DryRun {
			return c.out.show(r, func() error { showForecast(c.out, r); return nil })
		}
		m := r.Migration
		if *detach {
			return c.out.show(m, func() error {
				c.out.say("%s is being moved: migration %s is %s", m.VMName, m.ID.Short(), m.Phase)
				c.out.say("  Watch it: novacron migration watch %s", m.ID.Short())
				return nil
			})
		}
		return followMove(c, cl, m.ID.String(), m.Namespace)
	})
}

// showForecast writes the answer to a dry run.
func showForecast(o *output, r *api.MigrationCreated) {
	m, f := r.Migration, r.Forecast
	o.say("VM %s/%s would be moved %s from %s", m.Namespace, m.VMName, m.Mode, m.FromNode)
	if r.Explanation != nil {
		showExplanation(o, r.Explanation, true)
	}
	if f == nil {
		return
	}
	t := o.fields()
	if m.Mode != api.MigrateCold {
		t.add("    Memory", f.Memory.String())
	}
	t.add("    Disks", f.Disk.String())
	if f.DirtyRate > 0 {
		t.add("    The guest writes", bytesText(int64(f.DirtyRate))+"/s")
	}
	if f.Link > 0 {
		link := bytesText(int64(f.Link)) + "/s"
		if f.RoundTrip > 0 {
			link += ", round trip " + f.RoundTrip.D().Round(10*time.Microsecond).String()
		}
		t.add("    The link gives", link)
	}
	if f.Duration > 0 {
		t.add("    Takes about", span(f.Duration.D()))
		if m.Mode != api.MigrateCold {
			t.add("    Stands still for", f.Downtime.D().Round(time.Millisecond).String())
			t.add("    Converges", yes(f.Converges))
		}
	}
	t.write()
	for _, n := range f.Notes {
		o.say("    %s %s", o.paint("33", "Note:"), n)
	}
}

// followMove shows how a move goes on until it is over.
func followMove(c *call, cl *api.Client, key, ns string) error {
	p := c.progress()
	defer p.erase()
	var last *api.MigrationResponse
	told := 0 // tenths, where there is no line that lives
	for r, err := range cl.Migrations().Watch(c, key, &api.QueryOptions{Namespace: ns}) {
		if err != nil {
			if c.Err() != nil {
				break
			}
			return err
		}
		last = r
		m := r.Migration
		p.step(describeMove(r))
		if g := r.Progress; g != nil && m.Phase == api.MigrationCopying {
			line := progressLine(m, g)
			if p.live {
				p.draw(line)
			} else if tenth := int(g.Percent / 10); tenth > told {
				told = tenth
				p.step(line)
			}
		}
	}
	p.erase()
	if c.Err() != nil {
		text := "interrupted: the move goes on"
		if last != nil {
			id := last.Migration.ID.Short()
			text += "\n  Hint: `novacron migration watch " + id + "` shows it, `novacron migration cancel " + id + "` ends it"
		}
		return &exitCode{exitError, text}
	}
	m := last.Migration
	if err := c.out.show(last, func() error { return nil }); err != nil {
		return err
	}
	if m.Phase != api.MigrationDone {
		return &exitCode{exitError, moveFailed(last)}
	}
	line := fmt.Sprintf("%s is on %s now, moved %s in %s", m.VMName, m.ToNode, m.Mode, span(m.EndTime.Time().Sub(m.CreateTime.Time())))
	if g := last.Progress; g != nil && g.Downtime > 0 {
		line += ", stood still for " + g.Downtime.D().Round(time.Millisecond).String()
	}
	c.out.say("%s", line)
	return nil
}

func moveFailed(r *api.MigrationResponse) string {
	m := r.Migration
	text := fmt.Sprintf("%s was not moved: %s", m.VMName, first(m.Message, strings.Join(r.Why, "; "), "no reason is known"))
	if m.Code != 0 {
		text += " (" + m.Code.String() + ")"
	}
	if m.Lost {
		return text + "\n  The guest was lost on both nodes; " + m.FromNode + " starts it anew"
	}
	return text + "\n  It goes on where it was, on " + m.FromNode
}

// describeMove is one line on a move: its phase, its nodes, what it waits for.
func describeMove(r *api.MigrationResponse) string {
	m := r.Migration
	line := fmt.Sprintf("%s: %s from %s to %s", m.VMName, m.Phase, m.FromNode, first(m.ToNode, "a node to be chosen"))
	if len(r.Why) > 0 {
		line += " (" + strings.Join(r.Why, "; ") + ")"
	}
	return line
}

// progressLine is one sample of a move: bar, amount, rates.
func progressLine(m *api.Migration, g *api.MigrationProgress) string {
	parts := []string{fmt.Sprintf("%s %s %s of %s", m.VMName, bar(g.Percent, 100, 24), bytesText(int64(g.Done)), bytesText(int64(g.Total)))}
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if g.Rate > 0 {
		add("%s/s", bytesText(int64(g.Rate)))
	}
	if g.DirtyRate > 0 {
		add("the guest writes %s/s", bytesText(int64(g.DirtyRate)))
	}
	if g.Remaining > 0 && g.Rate > g.DirtyRate {
		left := float64(g.Remaining) / float64(g.Rate-g.DirtyRate)
		add("%s left", span(time.Duration(left*float64(time.Second))))
	}
	if g.Downtime > 0 {
		add("will stand still for %s", g.Downtime.D().Round(time.Millisecond))
	}
	if g.Throttle > 0 {
		add("slowed by %d%%", g.Throttle)
	}
	if g.Rung != "" {
		add("%s", g.Rung)
	}
	return strings.Join(parts, ", ")
}
