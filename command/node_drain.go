package command

import (
	"fmt"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
)

func nodeDrainSpecs() []*spec {
	return []*spec{
		{
			name: "node cordon", args: "[NODE]", max: 1, synopsis: "give a node nothing new; what is there stays",
			examples: []string{"novacron node cordon n1", "novacron node cordon -self"},
			build:    func(f *flags) func(*call) error { return nodeCordon(f, api.Ineligible) },
		},
		{
			name: "node uncordon", args: "[NODE]", max: 1, synopsis: "use a node again, after a cordon, a drain or maintenance",
			examples: []string{"novacron node uncordon n1", "novacron node uncordon -self"},
			build:    func(f *flags) func(*call) error { return nodeCordon(f, api.Eligible) },
		},
		{
			name: "node drain", args: "[NODE]", max: 1, synopsis: "empty a node: move its VMs elsewhere",
			long: "The node takes nothing new. What runs is moved live, or as the VM's own policy\nsays (migration { mode = ... }); what is stopped is moved with its local disks.\n" +
				"Each VM is tried three times. It is done when the node itself says that nothing\nis left, and lasts until node uncordon. The exit code is 0 only when it is done.",
			examples: []string{"novacron node drain n1", "novacron node drain -self -deadline 1h -force", "novacron node drain n1 -cancel"},
			build:    func(f *flags) func(*call) error { return nodeDrain(f, api.DrainMode) },
		},
		{
			name: "node maintenance", args: "[NODE]", max: 1, synopsis: "move what runs on a node elsewhere; what is stopped stays",
			long:     "As node drain, but VMs that are stopped stay on the node with their disks.",
			examples: []string{"novacron node maintenance n1 -deadline 30m", "novacron node maintenance -self -detach", "novacron node maintenance n1 -cancel"},
			build:    func(f *flags) func(*call) error { return nodeDrain(f, api.MaintenanceMode) },
		},
	}
}

// self declares -self and returns what finds the node that is meant.
func (f *flags) self() func(*call, *api.Client) (string, error) {
	self := f.Bool("self", false, "the node of the agent that is asked")
	return func(c *call, cl *api.Client) (string, error) {
		switch {
		case *self && len(c.args) > 0:
			return "", usagef("name a node, or give -self, not both")
		case !*self && len(c.args) == 0:
			return "", usagef("name a node, or give -self")
		case !*self:
			return c.args[0], nil
		}
		a, err := cl.Agent().Self(c)
		if err != nil {
			return "", err
		}
		if !a.Client {
			return "", fmt.Errorf("the agent %s is not in client mode: it is no node", a.Name)
		}
		return a.ID.String(), nil
	}
}

func nodeCordon(f *flags, to api.Eligibility) func(*call) error {
	self := f.self()
	check := f.check("node")
	return with(func(c *call, cl *api.Client) error {
		key, err := self(c, cl)
		if err != nil {
			return err
		}
		u := &api.NodeUpdate{Key: key, Eligibility: to, CheckIndex: *check}
		r, err := write(c, func(o *api.WriteOptions) (*api.NodeResponse, error) { return cl.Nodes().Update(c, u, o) })
		if err != nil {
			return err
		}
		return c.out.show(r, func() error {
			if to == api.Eligible {
				c.out.say("%s is used again", r.Node.Name)
			} else {
				c.out.say("%s takes nothing new", r.Node.Name)
			}
			return nil
		})
	})
}

func nodeDrain(f *flags, mode string) func(*call) error {
	self := f.self()
	deadline := f.Duration("deadline", 0, "begin no move after this `time`")
	force := f.Bool("force", false, "at the deadline stop the VMs that are left")
	cancel := f.Bool("cancel", false, "use the node again; moves under way go on")
	detach := f.Bool("detach", false, "do not wait")
	check := f.check("node")
	return with(func(c *call, cl *api.Client) error {
		if *cancel && (*force || *deadline != 0) {
			return usagef("-cancel stands alone")
		}
		key, err := self(c, cl)
		if err != nil {
			return err
		}
		req := &api.NodeDrainRequest{Key: key, Mode: mode, Deadline: api.Duration(*deadline), Force: *force, CheckIndex: *check}
		if *cancel {
			req = &api.NodeDrainRequest{Key: key, Cancel: true, CheckIndex: *check}
		}
		r, err := write(c, func(o *api.WriteOptions) (*api.NodeResponse, error) { return cl.Nodes().Drain(c, req, o) })
		if err != nil {
			return err
		}
		switch {
		case *cancel:
			return c.out.show(r, func() error { c.out.say("%s is used again", r.Node.Name); return nil })
		case *detach:
			return c.out.show(r, func() error {
				c.out.say("%s is being emptied: %s", r.Node.Name, countLeft(r.Drain))
				c.out.say("  Look at it: novacron node status %s", r.Node.Name)
				return nil
			})
		}
		return followDrain(c, cl, r.Node)
	})
}

// followDrain shows what a drain does about each VM until it is done, or nothing
// more is tried.
func followDrain(c *call, cl *api.Client, n *api.Node) error {
	p := c.progress()
	defer p.erase()
	told := map[api.ID]string{}
	var last *api.NodeResponse
	for r, err := range cl.Nodes().WatchDrain(c, n.ID.String()) {
		if err != nil {
			if c.Err() != nil {
				break
			}
			return err
		}
		last = r
		for _, it := range r.Drain {
			if line := drainLine(&it); told[it.VMID] != line {
				told[it.VMID] = line
				p.step(line)
			}
		}
		p.draw(p.since() + "  " + countLeft(r.Drain))
		if !hopeful(r, time.Now()) {
			break
		}
	}
	p.erase()
	if c.Err() != nil {
		return &exitCode{exitError, "interrupted: the drain goes on\n  Hint: `novacron node status " + n.Name + "` shows it, `novacron node drain " + n.Name + " -cancel` ends it"}
	}
	if err := c.out.show(last, func() error { return nil }); err != nil {
		return err
	}
	switch d := last.Node.Drain; {
	case d == nil:
		return &exitCode{exitError, "the drain of " + n.Name + " was canceled"}
	case d.Active():
		text := fmt.Sprintf("%s is not empty: %s", n.Name, countLeft(last.Drain))
		for _, it := range last.Drain {
			if it.Left() {
				text += "\n  " + drainLine(&it)
			}
		}
		return &exitCode{exitError, text}
	case d.Mode == api.MaintenanceMode:
		c.out.say("%s is in maintenance: %s", n.Name, countMoved(last.Drain))
	default:
		c.out.say("%s is drained: %s", n.Name, countMoved(last.Drain))
	}
	return nil
}

// hopeful reports whether a drain may still get further by itself.
func hopeful(r *api.NodeResponse, now time.Time) bool {
	d := r.Node.Drain
	if !d.Active() || d.Force {
		return d.Active()
	}
	over := d.Deadline != 0 && now.After(d.Deadline.Time())
	left := false
	for _, it := range r.Drain {
		switch it.State {
		case api.DrainMoving, api.DrainStopping:
			return true
		case api.DrainFailed:
			left = true
		case api.DrainWaits, api.DrainQueued:
			if !over {
				return true
			}
			left = true
		}
	}
	return !left
}

func drainLine(it *api.DrainItem) string {
	line := strings.TrimPrefix(it.Namespace+"/"+it.VM, "/") + ": " + it.State
	if it.To != "" {
		line += " to " + it.To
	}
	if it.Why != "" {
		line += " (" + it.Why + ")"
	}
	return line
}

func countLeft(items []api.DrainItem) string {
	left := 0
	for i := range items {
		if items[i].Left() {
			left++
		}
	}
	return fmt.Sprintf("%s of %d left", plural(left, "VM"), len(items))
}

func countMoved(items []api.DrainItem) string {
	moved, stay := 0, 0
	for i := range items {
		switch items[i].State {
		case api.DrainMoved:
			moved++
		case api.DrainStays:
			stay++
		}
	}
	out := plural(moved, "VM") + " moved"
	if stay > 0 {
		out += fmt.Sprintf(", %d stopped and left there", stay)
	}
	return out
}

// eligible writes whether the scheduler uses a node, and why not.
func eligible(e api.Eligibility, d *api.NodeDrain) string {
	switch {
	case d != nil && d.Active():
		return "no: " + d.Mode
	case d != nil && d.Mode == api.MaintenanceMode:
		return "no: in maintenance"
	case d != nil:
		return "no: drained"
	}
	return yes(e == api.Eligible)
}

func drainText(d *api.NodeDrain, now time.Time) string {
	s := d.Mode + " since " + age(d.StartTime, now)
	if d.By != "" {
		s += " by " + d.By
	}
	if !d.Active() {
		return s + ", done " + age(d.DoneTime, now)
	}
	if d.Deadline != 0 {
		s += ", deadline " + clock(d.Deadline)
		if d.Force {
			s += " (then what is left is stopped)"
		}
	}
	return s
}

// showDrain is the section of a node's status.
func showDrain(o *output, r *api.NodeResponse) error {
	if r.Node.Drain == nil {
		return nil
	}
	o.section("Drain")
	t := o.table("VM", "STATE", "TO", "MIGRATION", "WHY")
	for i := range r.Drain {
		it := &r.Drain[i]
		t.row(strings.TrimPrefix(it.Namespace+"/"+it.VM, "/"), it.State, orDash(it.To), shortID(it.Migration), clip(it.Why, 100))
	}
	return t.write("Nothing was there.")
}
