package command

import (
	"fmt"
	"sort"
	"strings"

	"github.com/novacron/novacron/api"
)

// summary is what `novacron status` shows.
type summary struct {
	Status  *api.StatusResponse `json:"status"`
	Servers []*api.Server       `json:"servers"`
	Nodes   []*api.NodeStub     `json:"nodes"`
	VMs     map[string]int      `json:"vms"` // by state
}

func statusSpecs() []*spec {
	return []*spec{{
		name: "status", synopsis: "show the cluster at a glance",
		examples: []string{"novacron status"},
		build:    simple(with(status)),
	}}
}

func status(c *call, cl *api.Client) error {
	s := &summary{VMs: map[string]int{}}
	var err error
	if s.Status, err = cl.Status().Leader(c, nil); err != nil {
		return err
	}
	members, err := cl.Status().Members(c, nil)
	if err != nil {
		return err
	}
	s.Servers = members.Items
	if s.Nodes, err = all(cl.Nodes().All(c, nil)); err != nil {
		return err
	}
	for v, err := range cl.VMs().All(c, &api.QueryOptions{Namespace: "*"}) {
		if err != nil {
			return err
		}
		s.VMs[v.State]++
	}
	return c.out.show(s, func() error { return showSummary(c.out, s) })
}

func showSummary(o *output, s *summary) error {
	leader := "none"
	for _, m := range s.Servers {
		if m.ID == s.Status.LeaderID && !m.ID.IsZero() {
			leader = m.Name
		}
	}
	if leader == "none" && s.Status.LeaderAddr != "" {
		leader = s.Status.LeaderAddr
	}
	f := o.fields()
	f.add("Region", s.Status.Region)
	f.add("Cluster", s.Status.ClusterID.String())
	f.add("Leader", leader)
	f.add("Servers", fmt.Sprintf("%d, of which %d vote", len(s.Servers), s.Status.Voters))
	f.add("Index", fmt.Sprintf("%d (term %d, generation %d)", s.Status.Applied, s.Status.Term, s.Status.Generation))
	if s.Status.Recovery {
		f.add("State", o.state("recovery"))
	}
	f.add("Nodes", countsText(o, len(s.Nodes), nodeCounts(s.Nodes)))
	total := 0
	for _, n := range s.VMs {
		total += n
	}
	f.add("VMs", countsText(o, total, s.VMs))
	var used, capacity api.Resources
	for _, n := range s.Nodes {
		used.CPU += n.Used.CPU
		used.Memory += n.Used.Memory
		capacity.CPU += n.Capacity.CPU
		capacity.Memory += n.Capacity.Memory
	}
	f.add("CPU", fmt.Sprintf("%s  %s promised, %s cores in the nodes", bar(float64(used.CPU), float64(capacity.CPU), 24), used.CPU, capacity.CPU))
	f.add("Memory", fmt.Sprintf("%s  %s promised, %s in the nodes", bar(float64(used.Memory), float64(capacity.Memory), 24), used.Memory, capacity.Memory))
	f.write()
	if len(s.Nodes) == 0 {
		return nil
	}
	fmt.Fprintln(o)
	t := o.table("NODE", "STATUS", "CPU", "MEMORY", "VMS")
	for _, n := range s.Nodes {
		t.row(n.Name, o.state(string(n.Status)), bar(float64(n.Used.CPU), float64(n.Capacity.CPU), 16), bar(float64(n.Used.Memory), float64(n.Capacity.Memory), 16), fmt.Sprint(n.VMs))
	}
	return t.write("")
}

func nodeCounts(list []*api.NodeStub) map[string]int {
	m := map[string]int{}
	for _, n := range list {
		m[string(n.Status)]++
	}
	return m
}

// countsText writes "5: 4 running, 1 pending".
func countsText(o *output, total int, by map[string]int) string {
	if total == 0 {
		return "0"
	}
	keys := make([]string, 0, len(by))
	for k := range by {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = fmt.Sprintf("%d %s", by[k], o.state(k))
	}
	return fmt.Sprintf("%d: %s", total, strings.Join(parts, ", "))
}
