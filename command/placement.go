package command

import (
	"fmt"
	"time"

	"github.com/novacron/novacron/api"
)

func placementSpecs() []*spec {
	return []*spec{
		{
			name: "placement list", synopsis: "list which VM is on which node",
			examples: []string{"novacron placement list", "novacron placement list -node n1"},
			build:    placementList,
		},
		{
			name: "placement status", args: "VM", min: 1, max: 1, synopsis: "show the placement of a VM",
			examples: []string{"novacron placement status web"},
			build: simple(with(func(c *call, cl *api.Client) error {
				r, err := cl.Placements().Get(c, c.args[0], nil)
				if err != nil {
					return err
				}
				return c.out.show(r.Placement, func() error {
					p, now := r.Placement, time.Now()
					f := c.out.fields()
					f.add("VM", p.Namespace+"/"+p.VMName+" ("+p.VMID.String()+")")
					f.add("Node", p.NodeID.String())
					f.add("Epoch", fmt.Sprint(p.Epoch))
					f.add("Desired", string(p.Desired))
					f.add("State", c.out.state(string(p.State)))
					f.add("Reason", p.Reason)
					f.add("Message", p.Message)
					f.add("Reserved", p.Reserved.CPU.String()+" cores, "+p.Reserved.Memory.String())
					f.add("Runs version", fmt.Sprint(p.RunningVersion))
					f.add("Restarts", fmt.Sprint(p.Restarts))
					f.add("Placed", age(p.CreateTime, now))
					f.add("State since", age(p.StateTime, now))
					f.write()
					return nil
				})
			})),
		},
	}
}

func placementList(f *flags) func(*call) error {
	l := f.listFlags()
	node := f.String("node", "", "only those on this `node`")
	return with(func(c *call, cl *api.Client) error {
		req := &api.PlacementListRequest{QueryOptions: l.q}
		if *node != "" {
			n, err := cl.Nodes().Get(c, *node, nil)
			if err != nil {
				return err
			}
			req.NodeID = n.Node.ID
		}
		var stones []*api.Tombstone
		list, err := paged(req.QueryOptions, func(q *api.QueryOptions) ([]*api.Placement, string, error) {
			page := *req
			page.QueryOptions = *q
			r, err := cl.Placements().List(c, &page)
			if err != nil {
				return nil, "", err
			}
			if q.NextToken == "" {
				stones = r.Tombstones
			}
			return r.Items, r.NextToken, nil
		})
		if err != nil {
			return err
		}
		names := nodeNames(c, cl)
		return c.out.show(list, func() error {
			t := c.out.table("VM", "NODE", "STATE", "DESIRED", "EPOCH", "CPU", "MEMORY", "SINCE", "REASON")
			for _, p := range list {
				t.row(p.Namespace+"/"+p.VMName, names(p.NodeID), c.out.state(string(p.State)), string(p.Desired), fmt.Sprint(p.Epoch),
					p.Reserved.CPU.String(), p.Reserved.Memory.String(), age(p.StateTime, time.Now()), clip(p.Reason, 40))
			}
			if err := t.write("No placements."); err != nil || len(stones) == 0 {
				return err
			}
			c.out.section("Stops that a node has yet to confirm")
			t = c.out.table("VM", "NODE", "EPOCH", "WHY", "SINCE")
			for _, s := range stones {
				t.row(s.Namespace+"/"+s.VMName, names(s.NodeID), fmt.Sprint(s.Epoch), s.Reason, age(s.CreateTime, time.Now()))
			}
			return t.write("")
		})
	})
}

// nodeNames returns a function from a node's id to its name; what cannot be
// learned stays an id.
func nodeNames(c *call, cl *api.Client) func(api.ID) string {
	names := map[api.ID]string{}
	for n, err := range cl.Nodes().All(c, nil) {
		if err != nil {
			break
		}
		names[n.ID] = n.Name
	}
	return func(id api.ID) string { return first(names[id], shortID(id)) }
}
