package command

import (
	"fmt"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
)

func operatorHASpecs() []*spec {
	return []*spec{
		{
			name: "operator ha status", synopsis: "show leases, guards, who would have no room, and what waits for a restart",
			examples: []string{"novacron operator ha status", "novacron operator ha status -o json"},
			build: simple(with(func(c *call, cl *api.Client) error {
				r, err := cl.Operator().HAStatus(c, nil)
				if err != nil {
					return err
				}
				return showHA(c, r)
			})),
		},
		{
			name: "operator ha hold", args: "[REASON]", max: 1, synopsis: "restart nothing elsewhere until it is resumed",
			long:     "Guards go on: a VM whose node has lost its lease is still ended there. It is\nrestarted elsewhere once this is resumed.",
			examples: []string{"novacron operator ha hold 'work on the switches'"},
			build:    simple(with(func(c *call, cl *api.Client) error { return haControl(c, cl, api.HAHoldAction) })),
		},
		{
			name: "operator ha resume", synopsis: "undo hold and disarm",
			examples: []string{"novacron operator ha resume"},
			build:    simple(with(func(c *call, cl *api.Client) error { return haControl(c, cl, api.HAResumeAction) })),
		},
		{
			name: "operator ha disarm", synopsis: "take all VMs from the guards: none is ended by a lease, none restarted elsewhere",
			long:     "For work that takes all servers away for longer than a lease (15 s): without it the\nguards would end the VMs with ha = restart. See: novacron operator ha status",
			examples: []string{"novacron operator ha disarm"},
			build:    simple(with(func(c *call, cl *api.Client) error { return haControl(c, cl, api.HADisarmAction) })),
		},
		{
			name: "operator ha set", synopsis: "change how hosts are fenced",
			long:     "With fencing watchdog (the default) VMs with ha = restart are placed only on nodes\nwhose guard has a watchdog; with lease-only also on those that have none: a hang of\nthe host's kernel is then not covered.",
			examples: []string{"novacron operator ha set -fencing lease-only", "novacron operator ha set -wait 60s"},
			build: func(f *flags) func(*call) error {
				fencing := f.String("fencing", "", "`how`: watchdog or lease-only")
				wait := f.Duration("wait", 0, "how long after the last beat of a host its VMs are restarted elsewhere")
				return with(func(c *call, cl *api.Client) error {
					if *fencing == "" && *wait == 0 {
						return usagef("give -fencing or -wait")
					}
					return haOrder(c, cl, &api.HAControl{Fencing: *fencing, Wait: api.Duration(*wait)})
				})
			},
		},
	}
}

func haControl(c *call, cl *api.Client, action string) error {
	req := &api.HAControl{Action: action}
	if len(c.args) == 1 {
		req.Reason = c.args[0]
	}
	return haOrder(c, cl, req)
}

func haOrder(c *call, cl *api.Client, req *api.HAControl) error {
	r, err := write(c, func(o *api.WriteOptions) (*api.HAStatus, error) { return cl.Operator().HAControl(c, req, o) })
	if err != nil {
		return err
	}
	return showHA(c, r)
}

func showHA(c *call, r *api.HAStatus) error {
	return c.out.show(r, func() error {
		f := c.out.fields()
		state := "active"
		switch {
		case r.Config.Disarmed:
			state = "disarmed"
		case !r.Active:
			state = "held"
		}
		f.add("HA", c.out.state(state))
		f.add("Why", r.Why)
		if h := r.Config.Hold; h != nil {
			f.add("Held by", fmt.Sprintf("%s, since %s", orDash(h.By), clock(h.Since)))
		}
		f.add("Fencing", r.Config.Fencing)
		f.add("Times", fmt.Sprintf("beat %s, lease %s, kill %s, watchdog %s", r.Heartbeat, r.Lease, r.Kill, r.Watchdog))
		f.write()
		c.out.section("Nodes")
		t := c.out.table("NODE", "STATUS", "GUARD", "SILENT", "RESTART AFTER", "HA VMS", "ARMED", "WOULD FIT NOWHERE")
		for i := range r.Nodes {
			n := &r.Nodes[i]
			t.row(n.Name, c.out.state(string(n.Status)), orDash(string(n.Guard)), n.Silent.D().Round(100*time.Millisecond).String(),
				waitText(n), fmt.Sprint(n.VMs), fmt.Sprint(n.Armed), strandedText(n.Stranded))
		}
		if err := t.write("None."); err != nil {
			return err
		}
		c.out.section("VMs that wait")
		t = c.out.table("NAMESPACE", "VM", "NODE", "POLICY", "ARMED", "WHY")
		for i := range r.VMs {
			v := &r.VMs[i]
			t.row(v.Namespace, v.Name, v.Node, v.Policy, yes(v.Armed), v.Why)
		}
		return t.write("None.")
	})
}

func waitText(n *api.HANode) string {
	switch {
	case n.Lost != nil:
		return "lost: " + string(n.Lost.Kind)
	case !n.Usable:
		return "never by itself"
	}
	return n.Wait.String()
}

// strandedText names the first few VMs that a loss of a node would leave without
// a place.
func strandedText(list []api.HAStranded) string {
	var out []string
	for i := range list {
		if i == 3 {
			out = append(out, fmt.Sprintf("and %d more", len(list)-i))
			break
		}
		out = append(out, fmt.Sprintf("%s (%s)", list[i].Name, list[i].Short))
	}
	return orDash(strings.Join(out, ", "))
}
