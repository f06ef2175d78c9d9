package command

import (
	"github.com/novacron/novacron/api"
)

func serverSpecs() []*spec {
	return []*spec{{
		name: "server members", synopsis: "list the servers of all regions as gossip sees them",
		examples: []string{"novacron server members"},
		build: simple(with(func(c *call, cl *api.Client) error {
			r, err := cl.Status().Members(c, nil)
			if err != nil {
				return err
			}
			return c.out.show(r.Items, func() error { return showServers(c.out, r.Items) })
		})),
	}}
}

// showServers writes a table of servers.
func showServers(o *output, list []*api.Server) error {
	t := o.table("NAME", "REGION", "DC", "STATUS", "ROLE", "ADDRESS", "GOSSIP", "VERSION", "ID")
	for _, s := range list {
		t.row(s.Name, s.Region, s.Datacenter, o.state(s.Status), serverRole(o, s), s.Address, orDash(s.SerfAddr), s.Version, s.ID.String())
	}
	return t.write("No servers.")
}

func serverRole(o *output, s *api.Server) string {
	switch {
	case s.Leader:
		return o.state("leader")
	case s.Voter:
		return "voter"
	}
	return "non-voter"
}
