package command

import (
	"fmt"
	"strings"

	"github.com/novacron/novacron/api"
)

func networkSpecs() []*spec {
	return []*spec{
		{
			name: "network list", synopsis: "list networks",
			examples: []string{"novacron network list"},
			build: func(f *flags) func(*call) error {
				l := f.listFlags()
				return with(func(c *call, cl *api.Client) error {
					list, err := paged(l.q, func(q *api.QueryOptions) ([]*api.Network, string, error) {
						r, err := cl.Networks().List(c, q)
						if err != nil {
							return nil, "", err
						}
						return r.Items, r.NextToken, nil
					})
					if err != nil {
						return err
					}
					return c.out.show(list, func() error {
						t := c.out.table("NAME", "TYPE", "BRIDGE", "CIDR", "ISOLATED", "LABELS", "DESCRIPTION")
						for _, n := range list {
							t.row(n.Name, n.Type, orDash(n.Bridge), orDash(n.CIDR), yes(n.Isolated), labels(n.Labels), clip(n.Description, 60))
						}
						return t.write("No networks.")
					})
				})
			},
		},
		{
			name: "network status", args: "NETWORK", min: 1, max: 1, synopsis: "show a network and the nodes that have it",
			examples: []string{"novacron network status default"},
			build: simple(with(func(c *call, cl *api.Client) error {
				r, err := cl.Networks().Get(c, c.args[0], nil)
				if err != nil {
					return err
				}
				return showNetwork(c, r)
			})),
		},
		{
			name: "network create", args: "NETWORK", min: 1, max: 1, synopsis: "create or change a network",
			long:     "A bridge network attaches to a bridge that the nodes have. A nat network is made on\neach node that needs it, with DHCP; -isolated leaves it without a way out.",
			examples: []string{"novacron network create lan -type bridge -bridge br0", "novacron network create inner -type nat -cidr 10.77.0.0/24 -isolated"},
			build:    networkCreate,
		},
		deleteSpec("network", "delete networks that no VM uses", func(cl *api.Client) deleter { return cl.Networks() }),
	}
}

func networkCreate(f *flags) func(*call) error {
	n := api.Network{}
	f.StringVar(&n.Type, "type", "bridge", "`type`: bridge or nat")
	f.StringVar(&n.Bridge, "bridge", "", "`name` of the nodes' bridge")
	f.StringVar(&n.CIDR, "cidr", "", "`range` of addresses of a nat network")
	f.BoolVar(&n.Isolated, "isolated", false, "a nat network without a way out")
	mtu := f.Int("mtu", 0, "`size` of the largest packet")
	f.StringVar(&n.Description, "description", "", "`text` for people")
	lb := f.pairs("label", "a label `key=value`; may be repeated")
	check := f.check("network")
	return with(func(c *call, cl *api.Client) error {
		n.Name, n.MTU, n.Labels = c.args[0], int32(*mtu), *lb
		req := &api.NetworkApply{Network: n, CheckIndex: *check}
		r, err := write(c, func(o *api.WriteOptions) (*api.NetworkResponse, error) { return cl.Networks().Apply(c, req, o) })
		if err != nil {
			return err
		}
		return showNetwork(c, r)
	})
}

func showNetwork(c *call, r *api.NetworkResponse) error {
	return c.out.show(r, func() error {
		n := r.Network
		f := c.out.fields()
		f.add("Name", n.Name)
		f.add("Type", n.Type)
		f.add("Bridge", n.Bridge)
		f.add("CIDR", n.CIDR)
		f.add("Isolated", yes(n.Isolated))
		if n.MTU > 0 {
			f.add("MTU", fmt.Sprint(n.MTU))
		}
		f.add("Labels", labels(n.Labels))
		f.add("Description", n.Description)
		f.add("Nodes", orDash(strings.Join(r.Nodes, " ")))
		f.write()
		return nil
	})
}
