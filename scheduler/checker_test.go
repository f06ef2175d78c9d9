package scheduler

import (
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// checker is a slow and independent judge of placements: it adds up everything
// anew for each question, and shares no code with the engine.
type checker struct {
	s     *fsm.State
	on    map[api.ID]api.ID // VM to node, with what was taken since
	taken map[api.ID]*api.VM
}

func newChecker(s *fsm.State) *checker {
	c := &checker{s: s, on: map[api.ID]api.ID{}, taken: map[api.ID]*api.VM{}}
	for p := range s.Placements() {
		if p.Fenced == "" { // else it runs no more on its lost node
			c.on[p.VMID] = p.NodeID
		}
	}
	return c
}

func (c *checker) take(vm *api.VM, node api.ID) {
	c.on[vm.ID] = node
	c.taken[vm.ID] = vm
}

// free adds up the node: capacity by ratio, less placements and what was taken.
func (c *checker) free(n *api.Node) (limit, free api.Resources) {
	cfg := c.s.SchedulerConfig()
	pick := func(vs ...float64) float64 {
		for _, v := range vs {
			if v > 0 {
				return v
			}
		}
		return 0
	}
	limit.CPU = api.MilliCPU(float64(n.Capacity.CPU) * pick(n.CPURatio, cfg.CPURatio, 4))
	limit.Memory = api.Bytes(float64(n.Capacity.Memory) * pick(n.MemoryRatio, cfg.MemoryRatio, 1))
	free = limit
	for p := range c.s.Placements() {
		if p.NodeID == n.ID {
			free.CPU -= p.Reserved.CPU
			free.Memory -= p.Reserved.Memory
		}
	}
	for id, vm := range c.taken {
		if c.on[id] == n.ID {
			free.CPU -= api.MilliCPU(vm.Spec.CPU.Cores) * 1000
			free.Memory -= vm.Spec.Memory
		}
	}
	return limit, free
}

// legal lists the nodes that a VM may be placed on.
func (c *checker) legal(vm *api.VM) (out []api.ID) {
	for n := range c.s.Nodes() {
		if c.allows(vm, n) {
			out = append(out, n.ID)
		}
	}
	return out
}

func (c *checker) allows(vm *api.VM, n *api.Node) bool {
	sp := &vm.Spec
	if n.Status != api.NodeReady || n.Eligibility != api.Eligible || n.Unreachable != "" {
		return false
	}
	if len(sp.Datacenters) > 0 && n.Datacenter != sp.Datacenters[0] {
		return false
	}
	healthy := false
	for _, d := range n.Drivers {
		healthy = healthy || d.Healthy
	}
	if !healthy {
		return false
	}
	if len(sp.NICs) > 0 && len(n.Networks) == 0 {
		return false
	}
	for _, k := range sp.Constraints {
		rack, _ := n.Labels.Get("rack")
		if (rack == k.Value) != (k.Operator == "=") {
			return false
		}
	}
	_, free := c.free(n)
	if free.CPU < api.MilliCPU(sp.CPU.Cores)*1000 || free.Memory < sp.Memory {
		return false
	}
	return c.disksFit(vm, n) && c.peersAllow(vm, n)
}

func (c *checker) disksFit(vm *api.VM, n *api.Node) bool {
	need := map[string]api.Bytes{}
	for v := range c.s.VolumesOf(vm.ID) {
		if !v.NodeID.IsZero() && v.NodeID != n.ID {
			return false
		}
		if v.NodeID.IsZero() {
			need[v.Pool] += v.Size
		} else {
			need[v.Pool] += 0
		}
	}
	for pool, more := range need {
		var np *api.NodePool
		for i := range n.Pools {
			if n.Pools[i].Name == pool {
				np = &n.Pools[i]
			}
		}
		if np == nil || np.Error != "" {
			return false
		}
		ratio := 1.0
		if p := c.s.Pool(pool); p != nil && p.Ratio > 0 {
			ratio = p.Ratio
		}
		room := api.Bytes(float64(np.Capacity) * ratio)
		for v := range c.s.Volumes() {
			if v.Pool != pool {
				continue
			}
			mine := v.NodeID == n.ID
			if _, taken := c.taken[v.VMID]; v.NodeID.IsZero() && taken && c.on[v.VMID] == n.ID {
				mine = true
			}
			if np.Shared && v.NodeID.IsZero() || !np.Shared && mine {
				room -= v.Size
			}
		}
		if np.Shared {
			more = 0
		}
		// A VM whose volumes are all made asks nothing more of the pool.
		if room < more && (more > 0 || c.asks(vm, pool)) {
			return false
		}
	}
	return true
}

// asks says whether a VM has a volume of the pool that is on no node.
func (c *checker) asks(vm *api.VM, pool string) bool {
	for v := range c.s.VolumesOf(vm.ID) {
		if v.Pool == pool && v.NodeID.IsZero() {
			return true
		}
	}
	return false
}

// peersAllow tries the hard rules of both sides, VM by VM.
func (c *checker) peersAllow(vm *api.VM, n *api.Node) bool {
	same := func(other api.ID, domain string) bool {
		on := c.on[other]
		if domain == "" {
			return on == n.ID
		}
		o := c.s.Node(on)
		if o == nil {
			return false
		}
		a, okA := o.Labels.Get("rack")
		b, okB := n.Labels.Get("rack")
		return okA && okB && a == b
	}
	match := func(sel api.Pairs, v *api.VM) bool {
		got, _ := v.Spec.Labels.Get("app")
		return got == sel[0].V
	}
	for id := range c.on {
		o := c.s.VM(id)
		if o == nil || id == vm.ID {
			continue
		}
		for _, a := range o.Spec.Affinities {
			if a.Anti && match(a.Selector, vm) && same(id, a.Domain) {
				return false
			}
		}
	}
	for _, a := range vm.Spec.Affinities {
		anyone, here := false, false
		for id := range c.on {
			if o := c.s.VM(id); o != nil && id != vm.ID && match(a.Selector, o) {
				anyone = true
				here = here || same(id, a.Domain)
			}
		}
		if a.Anti && here {
			return false
		}
		if !a.Anti && !here && (anyone || !match(a.Selector, vm)) {
			return false
		}
	}
	return true
}

// score rates a node from sums made anew.
func (c *checker) score(s Score, vm *api.VM, node api.ID) float64 {
	limit, free := c.free(c.s.Node(node))
	return s.Rate(Shape{int64(limit.CPU), int64(limit.Memory)}, Shape{int64(free.CPU), int64(free.Memory)},
		Shape{int64(vm.Spec.CPU.Cores) * 1000, int64(vm.Spec.Memory)})
}
