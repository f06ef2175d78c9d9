package command

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
)

func vmStatusSpecs() []*spec {
	return []*spec{
		{
			name: "vm status", args: "[VM]", max: 1, synopsis: "show a VM: state, why, placement, disks, networks, events",
			examples: []string{"novacron vm status web", "novacron vm status 6ba7b810", "novacron vm status web -o yaml"},
			build: func(f *flags) func(*call) error {
				list := vmList(f)
				return func(c *call) error {
					if len(c.args) == 0 {
						return list(c)
					}
					return with(vmStatus)(c)
				}
			},
		},
		{
			name: "vm history", args: "VM", min: 1, max: 1, synopsis: "show the versions of a VM's specification",
			examples: []string{"novacron vm history web"},
			build:    simple(with(vmHistory)),
		},
		{
			name: "vm revert", args: "VM VERSION", min: 2, max: 2, synopsis: "make an old version of the specification the newest",
			examples: []string{"novacron vm revert web 3"},
			build:    vmRevert,
		},
	}
}

func vmStatus(c *call, cl *api.Client) error {
	s, err := cl.VMs().Status(c, c.args[0], nil)
	if err != nil {
		return err
	}
	return c.out.show(s, func() error {
		showVM(c.out, s, time.Now())
		if s.Pending != nil {
			c.out.section("Why no node fits")
			showExplanation(c.out, s.Pending, true)
		}
		if err := showDisks(c.out, s); err != nil {
			return err
		}
		if err := showNICs(c.out, s); err != nil {
			return err
		}
		if len(s.Events) > 0 {
			c.out.section("Recent events")
			return showEvents(c, s.Events)
		}
		return nil
	})
}

// showVM writes the head of a status.
func showVM(o *output, s *api.VMStatusResponse, now time.Time) {
	v, sp := s.VM, &s.VM.Spec
	f := o.fields()
	f.add("Name", v.Name)
	f.add("ID", v.ID.String())
	f.add("Namespace", v.Namespace)
	f.add("Description", sp.Description)
	state := o.state(s.State)
	if string(v.Power) != s.State {
		state += " (wanted: " + string(v.Power) + ")"
	}
	if v.Deleting {
		state += ", being deleted"
	}
	f.add("State", state)
	for i, w := range s.Why {
		name := ""
		if i == 0 {
			name = "Why"
		}
		f.add(name, o.paint("33", w))
	}
	if p := s.Placement; p != nil {
		f.add("Node", fmt.Sprintf("%s (epoch %d, since %s)", first(s.Node, p.NodeID.Short()), p.Epoch, age(p.CreateTime, now)))
		if p.StartTime != 0 && s.State == string(api.StateRunning) {
			f.add("Up", span(now.Sub(p.StartTime.Time())))
		}
		f.add("Reason", strings.TrimSuffix(p.Reason+": "+p.Message, ": "))
		f.add("Addresses", strings.Join(p.Addresses, " "))
		if p.Restarts > 0 {
			f.add("Restarts", fmt.Sprint(p.Restarts))
		}
	}
	f.add("CPU", fmt.Sprintf("%s (%s reserved, model %s)", plural(int(sp.CPU.Cores), "core"), first(reserve(sp), "all"), cpuModel(s)))
	f.add("Memory", sp.Memory.String())
	f.add("Firmware", string(sp.Firmware))
	version := fmt.Sprintf("%d (%s)", v.SpecVersion, age(v.ModifyTime, now))
	if s.RestartNeeded {
		version += o.paint("33", ", the guest still runs an older one: stop and start it")
	}
	f.add("Version", version)
	f.add("HA", sp.HA.Policy)
	f.add("Priority", fmt.Sprint(sp.Priority))
	if len(sp.Labels) > 0 {
		f.add("Labels", labels(sp.Labels))
	}
	if sp.Protection {
		f.add("Protection", "on")
	}
	f.write()
}

// cpuModel names the CPU that is asked for, and the one that the guest has.
func cpuModel(s *api.VMStatusResponse) string {
	model := first(s.VM.Spec.CPU.Model, api.ModelBaseline)
	if p := s.Placement; p != nil && p.CPUModel != "" && p.CPUModel != model {
		model += ": " + p.CPUModel
	}
	return model
}

func reserve(s *api.VMSpec) string {
	if s.CPU.Reserve == 0 {
		return ""
	}
	return s.CPU.Reserve.String()
}

func showDisks(o *output, s *api.VMStatusResponse) error {
	if len(s.VM.Spec.Disks) == 0 {
		return nil
	}
	o.section("Disks")
	t := o.table("DISK", "VOLUME", "POOL", "SIZE", "USED", "FORMAT", "FROM", "STATE")
	for i, d := range s.VM.Spec.Disks {
		var v *api.Volume
		if i < len(s.Volumes) {
			v = s.Volumes[i]
		}
		if v == nil {
			t.row(d.Name, orDash(d.Volume), orDash(d.Pool), d.Size.String(), "-", orDash(d.Format), orDash(d.Image), "-")
			continue
		}
		t.row(d.Name, v.Name, v.Pool, v.Size.String(), v.Used.String(), v.Format, orDash(d.Image), o.state(strings.TrimSuffix(string(v.State)+": "+v.Error, ": ")))
	}
	return t.write("")
}

func showNICs(o *output, s *api.VMStatusResponse) error {
	if len(s.VM.Spec.NICs) == 0 {
		return nil
	}
	o.section("Networks")
	t := o.table("NETWORK", "MODEL", "MAC", "ADDRESS")
	for i, n := range s.VM.Spec.NICs {
		t.row(n.Network, first(n.Model, "virtio"), first(n.MAC, api.MAC(s.VM.ID, i)), orDash(n.Address))
	}
	return t.write("")
}

func vmHistory(c *call, cl *api.Client) error {
	h, err := cl.VMs().History(c, c.args[0], nil)
	if err != nil {
		return err
	}
	for next := h.NextToken; next != ""; {
		more, err := cl.VMs().History(c, c.args[0], &api.QueryOptions{NextToken: next})
		if err != nil {
			return err
		}
		h.Items, next = append(h.Items, more.Items...), more.NextToken
	}
	return c.out.show(h.Items, func() error {
		t := c.out.table("VERSION", "TIME", "CHANGES")
		for i, v := range h.Items {
			what := "first version"
			if i+1 < len(h.Items) {
				what = strings.Join(specChanges(&h.Items[i+1].Spec, &v.Spec), ", ")
			} else if v.Version > 1 {
				what = "(older versions are no longer kept)"
			}
			t.row(fmt.Sprint(v.Version), clock(v.CreateTime), clip(orDash(what), 100))
		}
		return t.write("No versions.")
	})
}

// specChanges lists the fields that differ between two versions.
func specChanges(old, newer *api.VMSpec) []string {
	a, b := flatten(old), flatten(newer)
	seen := map[string]bool{}
	var out []string
	for _, m := range []map[string]string{a, b} {
		for k := range m {
			if seen[k] || a[k] == b[k] {
				continue
			}
			seen[k] = true
			out = append(out, fmt.Sprintf("%s: %s -> %s", k, orDash(a[k]), orDash(b[k])))
		}
	}
	sort.Strings(out)
	return out
}

func vmRevert(f *flags) func(*call) error {
	check := f.check("VM")
	w := f.waitFlags()
	return with(func(c *call, cl *api.Client) error {
		var version uint64
		if _, err := fmt.Sscanf(c.args[1], "%d", &version); err != nil {
			return usagef("%q is not a version; `novacron vm history %s` shows them", c.args[1], c.args[0])
		}
		req := &api.VMRevert{Key: c.args[0], Version: version, Check: *check}
		a, err := write(c, func(o *api.WriteOptions) (*api.VMApplied, error) { return cl.VMs().Revert(c, req, o) })
		if err != nil {
			return err
		}
		if err := w.wait(c, cl, a.VM, untilDesired); err != nil {
			return err
		}
		c.out.say("%s has the specification of version %d again, as version %d", a.VM.Name, version, a.VM.SpecVersion)
		return nil
	})
}
