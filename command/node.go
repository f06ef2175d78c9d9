package command

import (
	"fmt"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
)

func nodeSpecs() []*spec {
	return append([]*spec{
		{
			name: "node list", synopsis: "list the nodes",
			examples: []string{"novacron node list", "novacron node list -filter 'status == \"ready\"'"},
			build:    nodeList,
		},
		{
			name: "node status", args: "[NODE]", max: 1, synopsis: "show a node: capacity, use, pools, drivers, VMs",
			examples: []string{"novacron node status n1", "novacron node status n1 -o json"},
			build: func(f *flags) func(*call) error {
				list := nodeList(f)
				return func(c *call) error {
					if len(c.args) == 0 {
						return list(c)
					}
					return with(nodeStatus)(c)
				}
			},
		},
		{
			name: "node stats", args: "NODE", min: 1, max: 1, synopsis: "show the load of a node",
			examples: []string{"novacron node stats n1"},
			build:    simple(with(nodeStats)),
		},
		{
			name: "node update", args: "NODE", min: 1, max: 1, synopsis: "change the overcommit ratios of a node",
			examples: []string{"novacron node update n1 -cpu-ratio 8 -memory-ratio 1"},
			build: func(f *flags) func(*call) error {
				cpu := f.Float64("cpu-ratio", 0, "promise this many times the CPU that there is")
				mem := f.Float64("memory-ratio", 0, "promise this many times the memory that there is")
				check := f.check("node")
				return with(func(c *call, cl *api.Client) error {
					if *cpu == 0 && *mem == 0 {
						return usagef("nothing to change: give -cpu-ratio or -memory-ratio")
					}
					return nodeUpdate(c, cl, &api.NodeUpdate{Key: c.args[0], CPURatio: *cpu, MemoryRatio: *mem, CheckIndex: *check})
				})
			},
		},
		denySpec("deny", "forbid a node to connect", false),
		denySpec("allow", "allow a node to connect again", true),
		deleteSpec("node", "forget a node that left or is lost and holds nothing", func(cl *api.Client) deleter { return cl.Nodes() }),
	}, nodeDrainSpecs()...)
}

// denySpec is a verb that changes whether a node may connect.
func denySpec(verb, synopsis string, allow bool) *spec {
	return &spec{
		name: "node " + verb, args: "NODE", min: 1, max: 1, synopsis: synopsis,
		long:     "A node that never registered is named by its id. Its guests run on.",
		examples: []string{"novacron node " + verb + " n1"},
		build: func(f *flags) func(*call) error {
			reason := new(string)
			if !allow {
				reason = f.String("reason", "", "`text` that says why")
			}
			return with(func(c *call, cl *api.Client) error {
				req := &api.NodeDeny{Key: c.args[0], Allow: allow, Reason: *reason}
				if _, err := write(c, func(o *api.WriteOptions) (*api.WriteMeta, error) { return cl.Nodes().Deny(c, req, o) }); err != nil {
					return err
				}
				if allow {
					c.out.say("node %s may connect again", c.args[0])
				} else {
					c.out.say("node %s is denied", c.args[0])
				}
				return nil
			})
		},
	}
}

func nodeList(f *flags) func(*call) error {
	l := f.listFlags()
	return with(func(c *call, cl *api.Client) error {
		nodes, err := all(cl.Nodes().All(c, &l.q))
		if err != nil {
			return err
		}
		return c.out.show(nodes, func() error {
			t := c.out.table("NAME", "STATUS", "ELIGIBLE", "DC", "CPU", "MEMORY", "VMS", "DRIVERS", "ADDRESS", "VERSION", "NOTE")
			for _, n := range nodes {
				t.row(n.Name, c.out.state(string(n.Status)), eligible(n.Eligibility, n.Drain), n.Datacenter,
					bar(float64(n.Used.CPU), float64(n.Capacity.CPU), 10), bar(float64(n.Used.Memory), float64(n.Capacity.Memory), 10),
					fmt.Sprint(n.VMs), orDash(strings.Join(n.Drivers, " ")), n.Address, n.Version, clip(n.Note, 70))
			}
			return t.write("No nodes. An agent in client mode joins with a token of `novacron token join -role client`.")
		})
	})
}

func nodeStatus(c *call, cl *api.Client) error {
	r, err := cl.Nodes().Get(c, c.args[0], nil)
	if err != nil {
		return err
	}
	return c.out.show(r, func() error { return showNode(c.out, r, time.Now()) })
}

// ratio is a node's ratio or its default.
func ratio(v, otherwise float64) float64 {
	if v == 0 {
		return otherwise
	}
	return v
}

func showNode(o *output, r *api.NodeResponse, now time.Time) error {
	n := r.Node
	f := o.fields()
	f.add("Name", n.Name)
	f.add("ID", n.ID.String())
	f.add("Datacenter", n.Datacenter)
	f.add("Status", o.state(string(n.Status))+" since "+age(n.StatusTime, now))
	f.add("Note", n.StatusNote)
	f.add("Eligible", eligible(n.Eligibility, n.Drain))
	if d := n.Drain; d != nil {
		f.add("Drain", drainText(d, now))
	}
	if n.Unreachable != "" {
		f.add("Unreachable", o.paint("31", n.Unreachable))
	}
	f.add("Address", n.Address)
	f.add("Version", n.Version)
	cpuRatio, memRatio := ratio(n.CPURatio, 4), ratio(n.MemoryRatio, 1)
	cpu, mem := float64(n.Capacity.CPU)*cpuRatio, float64(n.Capacity.Memory)*memRatio
	f.add("CPU", fmt.Sprintf("%s  %s of %s cores promised (%s x %v)", bar(float64(r.Used.CPU), cpu, 24), r.Used.CPU, api.MilliCPU(cpu), n.Capacity.CPU, cpuRatio))
	f.add("Memory", fmt.Sprintf("%s  %s of %s promised", bar(float64(r.Used.Memory), mem, 24), r.Used.Memory, api.Bytes(mem)))
	if len(n.Labels) > 0 {
		f.add("Labels", labels(n.Labels))
	}
	f.add("Networks", strings.Join(n.Networks, " "))
	f.write()

	o.section("Drivers")
	t := o.table("DRIVER", "VERSION", "STATE", "ACCELERATION", "CAN")
	for _, d := range n.Drivers {
		state := "healthy"
		if !d.Healthy {
			state = "failed"
		}
		t.row(d.Name, orDash(d.Version), strings.TrimSuffix(o.state(state)+" "+d.Error, " "), orDash(d.Acceleration), orDash(strings.Join(d.Can, " ")))
	}
	if err := t.write("None."); err != nil {
		return err
	}
	o.section("Pools")
	t = o.table("POOL", "TYPE", "SHARED", "DISK IN USE", "FREE", "SIZE", "NOTE")
	for _, p := range n.Pools {
		t.row(p.Name, p.Type, yes(p.Shared), bar(float64(p.Capacity-p.Free), float64(p.Capacity), 16), p.Free.String(), p.Capacity.String(), p.Error)
	}
	if err := t.write("None."); err != nil {
		return err
	}
	if err := showDrain(o, r); err != nil {
		return err
	}
	o.section("VMs")
	t = o.table("VM", "STATE", "CPU", "MEMORY", "EPOCH", "SINCE")
	for _, p := range r.Placements {
		t.row(p.Namespace+"/"+p.VMName, o.state(string(p.State)), p.Reserved.CPU.String(), p.Reserved.Memory.String(), fmt.Sprint(p.Epoch), age(p.CreateTime, now))
	}
	if err := t.write("None."); err != nil {
		return err
	}
	o.section("Attributes")
	for _, a := range n.Attributes {
		o.say("  %s = %s", a.K, clip(a.V, 100))
	}
	return nil
}

func nodeStats(c *call, cl *api.Client) error {
	r, err := cl.Nodes().Stats(c, c.args[0], nil)
	if err != nil {
		return err
	}
	return c.out.show(r.Stats, func() error {
		s := r.Stats
		f := c.out.fields()
		f.add("Time", clock(s.Time))
		f.add("CPU", bar(s.CPUPercent, 100, 24))
		f.add("Load", fmt.Sprintf("%.2f", s.Load1))
		f.add("Memory", fmt.Sprintf("%s  %s of %s", bar(float64(s.MemoryUsed), float64(s.Memory), 24), s.MemoryUsed, s.Memory))
		f.add("VMs", fmt.Sprint(s.VMs))
		f.add("Up", span(s.Uptime.D()))
		f.write()
		return nil
	})
}

func nodeUpdate(c *call, cl *api.Client, u *api.NodeUpdate) error {
	r, err := write(c, func(o *api.WriteOptions) (*api.NodeResponse, error) { return cl.Nodes().Update(c, u, o) })
	if err != nil {
		return err
	}
	return c.out.show(r, func() error {
		n := r.Node
		c.out.say("%s is %s (CPU x %v, memory x %v)", n.Name, n.Eligibility, ratio(n.CPURatio, 4), ratio(n.MemoryRatio, 1))
		return nil
	})
}
