package command

import (
	"fmt"

	"github.com/novacron/novacron/api"
)

func poolSpecs() []*spec {
	return []*spec{
		{
			name: "pool list", synopsis: "list storage pools",
			examples: []string{"novacron pool list"},
			build: func(f *flags) func(*call) error {
				l := f.listFlags()
				return with(func(c *call, cl *api.Client) error {
					list, err := paged(l.q, func(q *api.QueryOptions) ([]*api.Pool, string, error) {
						r, err := cl.Pools().List(c, q)
						if err != nil {
							return nil, "", err
						}
						return r.Items, r.NextToken, nil
					})
					if err != nil {
						return err
					}
					return c.out.show(list, func() error {
						t := c.out.table("NAME", "TYPE", "SHARED", "RATIO", "LABELS", "DESCRIPTION")
						for _, p := range list {
							t.row(p.Name, p.Type, yes(p.Shared), fmt.Sprint(ratio(p.Ratio, 1)), labels(p.Labels), clip(p.Description, 60))
						}
						return t.write("No pools. Nodes bring theirs when they register.")
					})
				})
			},
		},
		{
			name: "pool status", args: "POOL", min: 1, max: 1, synopsis: "show a pool and its use on each node",
			examples: []string{"novacron pool status default"},
			build: simple(with(func(c *call, cl *api.Client) error {
				r, err := cl.Pools().Get(c, c.args[0], nil)
				if err != nil {
					return err
				}
				return showPool(c, r)
			})),
		},
		{
			name: "pool update", args: "POOL", min: 1, max: 1, synopsis: "change what an operator sets of a pool",
			examples: []string{"novacron pool update default -ratio 2 -description 'local SSDs'"},
			build:    poolUpdate,
		},
		deleteSpec("pool", "forget pools that no node has and no volume is in", func(cl *api.Client) deleter { return cl.Pools() }),
	}
}

func poolUpdate(f *flags) func(*call) error {
	thin := f.Float64("ratio", 0, "promise this many times the disk that there is (thin volumes)")
	desc := f.String("description", "", "`text` for people")
	lb := f.pairs("label", "a label `key=value`; may be repeated; replaces those there are")
	check := f.check("pool")
	return with(func(c *call, cl *api.Client) error {
		r, err := cl.Pools().Get(c, c.args[0], nil)
		if err != nil {
			return err
		}
		req := &api.PoolApply{Pool: *r.Pool, CheckIndex: *check}
		if req.CheckIndex == nil {
			req.CheckIndex = &r.Pool.ModifyIndex
		}
		if *thin != 0 {
			req.Pool.Ratio = *thin
		}
		req.Pool.Description = first(*desc, req.Pool.Description)
		if len(*lb) > 0 {
			req.Pool.Labels = *lb
		}
		if r, err = write(c, func(o *api.WriteOptions) (*api.PoolResponse, error) { return cl.Pools().Apply(c, req, o) }); err != nil {
			return err
		}
		return showPool(c, r)
	})
}

func showPool(c *call, r *api.PoolResponse) error {
	return c.out.show(r, func() error {
		p := r.Pool
		f := c.out.fields()
		f.add("Name", p.Name)
		f.add("Type", p.Type)
		f.add("Shared", yes(p.Shared))
		f.add("Ratio", fmt.Sprint(ratio(p.Ratio, 1)))
		f.add("Labels", labels(p.Labels))
		f.add("Description", p.Description)
		f.write()
		c.out.section("Use")
		t := c.out.table("NODE", "DISK IN USE", "FREE", "SIZE", "PROMISED", "VOLUMES", "NOTE")
		for _, n := range r.Nodes {
			t.row(first(n.Node, shortID(n.NodeID)), bar(float64(n.Capacity-n.Free), float64(n.Capacity), 20), n.Free.String(), n.Capacity.String(), n.Promised.String(), fmt.Sprint(n.Volumes), n.Error)
		}
		return t.write("No node has it.")
	})
}
