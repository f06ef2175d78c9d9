package command

import (
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
)

func migrationSpecs() []*spec {
	return []*spec{
		{
			name: "migration list", synopsis: "list the moves of VMs, the newest first",
			examples: []string{"novacron migration list", "novacron migration list -active", "novacron migration list -vm web", "novacron migration list -node n1 -filter 'phase == aborted'"},
			build:    migrationList,
		},
		{
			name: "migration status", args: "MIGRATION", min: 1, max: 1, synopsis: "show a move: how far it is, and what it waits for",
			long:     "MIGRATION is its id or the beginning of it, or a VM, whose newest move is meant.",
			examples: []string{"novacron migration status web", "novacron migration status 6ba7b810 -o json"},
			build: simple(with(func(c *call, cl *api.Client) error {
				r, err := cl.Migrations().Get(c, c.args[0], nil)
				if err != nil {
					return err
				}
				return c.out.show(r, func() error { showMove(c.out, r, time.Now()); return nil })
			})),
		},
		{
			name: "migration watch", args: "MIGRATION", min: 1, max: 1, synopsis: "follow a move until it is over",
			long:     "MIGRATION is its id or the beginning of it, or a VM, whose newest move is meant.\nThe exit code is 0 only when the VM was moved.",
			examples: []string{"novacron migration watch web"},
			build:    simple(with(func(c *call, cl *api.Client) error { return followMove(c, cl, c.args[0], "") })),
		},
		{
			name: "migration update", args: "MIGRATION", min: 1, max: 1, synopsis: "change what a move may use while it is under way",
			long:     "MIGRATION is its id or the beginning of it, or a VM that is being moved. The node\nthat sends follows within a second. Refused once the guest, or all disks of a cold\nmove, have left it. A cold move has no downtime.",
			examples: []string{"novacron migration update web -bandwidth 50MiB", "novacron migration update web -bandwidth 0 -max-downtime 2s"},
			build:    migrationUpdate,
		},
		{
			name: "migration cancel", args: "MIGRATION...", min: 1, max: -1, synopsis: "end moves; the guests go on where they are",
			long:     "MIGRATION is its id or the beginning of it, or a VM that is being moved. Refused\nonce the guest has left its node.",
			examples: []string{"novacron migration cancel web", "novacron migration cancel 6ba7b810"},
			build:    migrationCancel,
		},
	}
}

func migrationList(f *flags) func(*call) error {
	l := f.listFlags()
	vm := f.String("vm", "", "only those of this `VM`")
	node := f.String("node", "", "only those from or to this `node`")
	active := f.Bool("active", false, "only those that are not over")
	return with(func(c *call, cl *api.Client) error {
		list, err := all(cl.Migrations().All(c, &api.MigrationListRequest{QueryOptions: l.q, VM: *vm, Node: *node, Active: *active}))
		if err != nil {
			return err
		}
		return c.out.show(list, func() error {
			t := c.out.table("ID", "VM", "MODE", "FROM", "TO", "PHASE", "CAUSE", "CREATED", "TOOK", "NOTE")
			for _, m := range list {
				t.row(m.ID.Short(), m.Namespace+"/"+m.VMName, string(m.Mode), m.FromNode, orDash(m.ToNode), c.out.phase(m.Phase), m.Cause,
					age(m.CreateTime, time.Now()), took(m), clip(m.Message, 60))
			}
			return t.write("No migrations.")
		})
	})
}

func took(m *api.Migration) string {
	if m.EndTime == 0 {
		return "-"
	}
	return span(m.EndTime.Time().Sub(m.CreateTime.Time()))
}

// phase colours the word for a phase.
func (o *output) phase(p api.MigrationPhase) string {
	switch p {
	case api.MigrationDone:
		return o.paint("32", string(p))
	case api.MigrationAborted, api.MigrationAborting:
		return o.paint("31", string(p))
	}
	return o.paint("33", string(p))
}

func showMove(o *output, r *api.MigrationResponse, now time.Time) {
	m := r.Migration
	f := o.fields()
	f.add("ID", m.ID.String())
	f.add("VM", m.Namespace+"/"+m.VMName+" ("+m.VMID.String()+")")
	f.add("From", m.FromNode)
	to := m.ToNode
	if m.Pinned {
		to += " (asked for)"
	}
	f.add("To", first(to, "not chosen yet"))
	f.add("Mode", string(m.Mode))
	f.add("Phase", o.phase(m.Phase)+" since "+age(m.PhaseTime, now))
	f.add("Cause", m.Cause)
	f.add("Priority", fmt.Sprint(m.Priority))
	if m.Message != "" {
		f.add("Message", m.Message+" ("+m.Code.String()+")")
	}
	for i, w := range r.Why {
		f.add(map[bool]string{true: "Waits", false: ""}[i == 0 && m.Phase.Active()], w)
	}
	if m.Phase.Active() && m.Phase != api.MigrationQueued {
		f.add("Source", endText(m.Source))
		f.add("Destination", endText(m.Dest))
	}
	if m.Deadline != 0 && m.Phase.Open() {
		f.add("Deadline", clock(m.Deadline))
	}
	f.add("Options", optionsText(&m.Options))
	f.add("Created", age(m.CreateTime, now))
	if m.EndTime != 0 {
		f.add("Took", took(m))
	}
	if all, parts, ok := m.Downtime(); ok {
		f.add("Stood still", stoodStill(all, parts))
	}
	f.write()
	if g := r.Progress; g != nil {
		o.section("Progress")
		o.say("%s", progressLine(m, g))
	}
}

// stoodStill is what a guest waited for at its cutover. What the nodes' clocks do not
// tell in order is left out.
func stoodStill(all time.Duration, parts []api.CutoverPart) string {
	ms := func(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
	words := map[string]string{
		"gone": "to end at its source", "decided": "to be decided on", "told": "until its destination knew",
		"resuming": "to be made ready", "resumed": "to go on",
	}
	var out []string
	for _, p := range parts {
		if p.Took < 0 {
			return ms(all) + " (the nodes' clocks differ)"
		}
		out = append(out, ms(p.Took)+" "+words[p.What])
	}
	return ms(all) + ": " + strings.Join(out, ", ")
}

func endText(e api.MigrationEnd) string {
	s := first(string(e.State), "not heard of yet")
	if e.Failed {
		s += ", failed"
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

func optionsText(o *api.MigrationOptions) string {
	s := fmt.Sprintf("downtime %s to %s, timeout %s, compress %s", o.MaxDowntime, o.DowntimeLimit, span(o.Timeout.D()), first(o.Compress, api.CompressAuto))
	if o.Bandwidth > 0 {
		s += fmt.Sprintf(", at most %s/s", o.Bandwidth)
	}
	if o.AutoConverge {
		s += ", auto-converge"
	}
	if o.WarmFallback {
		s += ", warm if it does not converge"
	}
	return s
}

func migrationUpdate(f *flags) func(*call) error {
	bandwidth := f.size("bandwidth", "send no more than this `size` in a second, memory and disks together; 0: as fast as it can")
	downtime := f.Duration("max-downtime", 0, "the guest may stand still for this `time` at the switch-over")
	return with(func(c *call, cl *api.Client) error {
		u := &api.MigrationUpdate{Key: c.args[0]}
		f.Visit(func(fl *flag.Flag) {
			switch fl.Name {
			case "bandwidth":
				u.Bandwidth = bandwidth
			case "max-downtime":
				u.MaxDowntime = (*api.Duration)(downtime)
			}
		})
		if u.Bandwidth == nil && u.MaxDowntime == nil {
			return usagef("nothing to change: give -bandwidth or -max-downtime")
		}
		r, err := write(c, func(o *api.WriteOptions) (*api.MigrationUpdated, error) { return cl.Migrations().Update(c, u, o) })
		if err != nil {
			return err
		}
		m := r.Migration
		return c.out.show(m, func() error {
			c.out.say("%s: the move is %s: %s", m.VMName, m.Phase, optionsText(&m.Options))
			return nil
		})
	})
}

func migrationCancel(*flags) func(*call) error {
	return with(func(c *call, cl *api.Client) error {
		for _, key := range c.args {
			r, err := write(c, func(o *api.WriteOptions) (*api.MigrationCanceled, error) {
				return cl.Migrations().Cancel(c, &api.MigrationCancel{Key: key}, o)
			})
			if err != nil {
				return err
			}
			m := r.Migration
			if err := c.out.show(m, func() error {
				c.out.say("%s: the move is %s; the guest goes on on %s", m.VMName, m.Phase, m.FromNode)
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
}
