package scheduler

import (
	"slices"

	"github.com/novacron/novacron/api"
)

// projection maps the nodes to the values of one attribute: the domains of a
// spread or of an affinity. "node.id" is its own domain for each node.
type projection struct {
	attr  string
	of    []int32 // dense node id → domain, -1 where the node lacks the attribute
	ids   map[string]int32
	names []string
}

// put records a node and returns its domain before and after.
func (p *projection) put(i int32, n *api.Node) (was, now int32) {
	for int(i) >= len(p.of) {
		p.of = append(p.of, -1)
	}
	was, now = p.of[i], -1
	if n != nil {
		if v, ok := attribute(n, p.attr); ok {
			d, known := p.ids[v]
			if !known {
				d = int32(len(p.names))
				p.ids[v] = d
				p.names = append(p.names, v)
			}
			now = d
		}
	}
	p.of[i] = now
	return was, now
}

// group counts VMs by node and by domain: those whose labels match a selector,
// or those that hold the same hard rule to keep others away.
type group struct {
	selector api.Pairs
	proj     *projection
	onNode   []int32
	inDomain []int32
	total    int32
	members  map[api.ID]int32
	used     uint64
}

func (g *group) at(i int32) int32 {
	if int(i) < len(g.onNode) {
		return g.onNode[i]
	}
	return 0
}

// domain returns the domain of a node and how many members are in it.
func (g *group) domain(i int32) (d, count int32) {
	d = g.proj.of[i]
	if d >= 0 && int(d) < len(g.inDomain) {
		count = g.inDomain[d]
	}
	return d, count
}

func (g *group) count(i, d, delta int32) {
	for int(i) >= len(g.onNode) {
		g.onNode = append(g.onNode, 0)
	}
	g.onNode[i] += delta
	g.shift(d, delta)
	g.total += delta
}

func (g *group) shift(d, delta int32) {
	if d < 0 {
		return
	}
	for int(d) >= len(g.inDomain) {
		g.inDomain = append(g.inDomain, 0)
	}
	g.inDomain[d] += delta
}

func (g *group) put(vm api.ID, node int32) {
	was, ok := g.members[vm]
	switch {
	case ok && was == node, !ok && node < 0:
		return
	case ok:
		g.count(was, g.proj.of[was], -1)
		delete(g.members, vm)
	}
	if node >= 0 {
		g.members[vm] = node
		g.count(node, g.proj.of[node], 1)
	}
}

// groupKey names a group; it is comparable and holds no pointers to the spec.
type groupKey struct{ ns, selector, domain string }

// pairKey indexes groups by the first pair of their selector, so that only a
// few selectors are tried on a VM's labels.
type pairKey struct{ ns, k, v string }

// shelf is a set of groups that can be found by the labels of a VM.
type shelf struct {
	byKey  map[groupKey]*group
	byPair map[pairKey][]*group
}

func newShelf() shelf {
	return shelf{byKey: map[groupKey]*group{}, byPair: map[pairKey][]*group{}}
}

func firstPair(ns string, sel api.Pairs) pairKey {
	if len(sel) == 0 {
		return pairKey{ns: ns}
	}
	return pairKey{ns, sel[0].K, sel[0].V}
}

func (s *shelf) add(k groupKey, g *group) {
	s.byKey[k] = g
	p := firstPair(k.ns, g.selector)
	s.byPair[p] = append(s.byPair[p], g)
}

func (s *shelf) drop(k groupKey) {
	g := s.byKey[k]
	delete(s.byKey, k)
	p := firstPair(k.ns, g.selector)
	if rest := slices.DeleteFunc(s.byPair[p], func(o *group) bool { return o == g }); len(rest) > 0 {
		s.byPair[p] = rest
	} else {
		delete(s.byPair, p)
	}
}

// matching calls f with each group whose selector matches the labels.
func (s *shelf) matching(ns string, labels api.Pairs, f func(*group)) {
	if len(s.byKey) == 0 {
		return
	}
	for _, g := range s.byPair[pairKey{ns: ns}] {
		f(g)
	}
	for _, l := range labels {
		for _, g := range s.byPair[pairKey{ns, l.K, l.V}] {
			if matches(g.selector, labels) {
				f(g)
			}
		}
	}
}

// matches says whether labels hold every pair of the selector.
func matches(selector, labels api.Pairs) bool {
	for _, p := range selector {
		if v, ok := labels.Get(p.K); !ok || v != p.V {
			return false
		}
	}
	return true
}

// maxGroups bounds the groups kept only because they were used once.
const maxGroups = 4096

// peers knows which VMs are where, as far as a rule between VMs asks for it.
// Groups are made when a rule first needs them and followed from then on.
type peers struct {
	projections map[string]*projection
	match       shelf // members: VMs whose labels match the selector
	holders     shelf // members: VMs with the hard rule "keep these away"
	of          map[api.ID][]*group
	tick        uint64
	// roster calls f with every VM of the namespace that is placed or on its way
	// to a node, the id under which it counts, and the node.
	roster func(ns string, f func(id api.ID, vm *api.VM, node int32))
	nodes  func(f func(i int32, n *api.Node))
}

func newPeers(roster func(string, func(api.ID, *api.VM, int32)), nodes func(func(int32, *api.Node))) *peers {
	return &peers{
		projections: map[string]*projection{}, match: newShelf(), holders: newShelf(),
		of: map[api.ID][]*group{}, roster: roster, nodes: nodes,
	}
}

// projection returns the domains of an attribute; empty means "node.id".
func (p *peers) projection(attr string) *projection {
	if attr == "" {
		attr = "node.id"
	}
	pr := p.projections[attr]
	if pr == nil {
		pr = &projection{attr: attr, ids: map[string]int32{}}
		p.nodes(func(i int32, n *api.Node) { pr.put(i, n) })
		p.projections[attr] = pr
	}
	return pr
}

func keyOf(ns string, sel api.Pairs, domain string) groupKey {
	var b []byte
	for _, p := range sel {
		b = appendText(appendText(b, p.K), p.V)
	}
	return groupKey{ns, string(b), domain}
}

// group returns the group of the VMs that match a selector.
func (p *peers) group(ns string, sel api.Pairs, domain string) *group {
	k := keyOf(ns, sel, domain)
	p.tick++
	if g := p.match.byKey[k]; g != nil {
		g.used = p.tick
		return g
	}
	p.evict()
	g := &group{selector: sel, proj: p.projection(domain), members: map[api.ID]int32{}, used: p.tick}
	p.match.add(k, g)
	p.roster(ns, func(id api.ID, vm *api.VM, node int32) {
		if matches(sel, vm.Spec.Labels) {
			g.put(id, node)
			p.of[id] = append(p.of[id], g)
		}
	})
	return g
}

// evict drops the half of the groups that was not used for longest.
func (p *peers) evict() {
	if len(p.match.byKey) < maxGroups {
		return
	}
	ticks := make([]uint64, 0, len(p.match.byKey))
	for _, g := range p.match.byKey {
		ticks = append(ticks, g.used)
	}
	slices.Sort(ticks)
	median := ticks[len(ticks)/2]
	for k, g := range p.match.byKey {
		if g.used >= median {
			continue
		}
		for vm := range g.members {
			p.forget(vm, g)
		}
		p.match.drop(k)
	}
}

func (p *peers) forget(vm api.ID, g *group) {
	if rest := slices.DeleteFunc(p.of[vm], func(o *group) bool { return o == g }); len(rest) > 0 {
		p.of[vm] = rest
	} else {
		delete(p.of, vm)
	}
}

// put records that a VM is on a node, or with -1 on none (vm may be nil then).
func (p *peers) put(id api.ID, vm *api.VM, node int32) {
	for _, g := range p.of[id] {
		g.put(id, -1)
	}
	delete(p.of, id)
	if node < 0 || vm == nil {
		return
	}
	join := func(g *group) {
		g.put(id, node)
		p.of[id] = append(p.of[id], g)
	}
	p.match.matching(vm.Namespace, vm.Spec.Labels, join)
	for i := range vm.Spec.Affinities {
		if a := &vm.Spec.Affinities[i]; a.Anti && a.Weight == 0 {
			join(p.holder(vm.Namespace, a))
		}
	}
}

func (p *peers) holder(ns string, a *api.Affinity) *group {
	k := keyOf(ns, a.Selector, a.Domain)
	g := p.holders.byKey[k]
	if g == nil {
		g = &group{selector: a.Selector, proj: p.projection(a.Domain), members: map[api.ID]int32{}}
		p.holders.add(k, g)
	}
	return g
}

// node moves the counts of a node whose attributes changed (nil: it is gone),
// and reports whether there were any.
func (p *peers) node(i int32, n *api.Node) (moved bool) {
	for _, pr := range p.projections {
		was, now := pr.put(i, n)
		if was == now {
			continue
		}
		for _, s := range []*shelf{&p.match, &p.holders} {
			for _, g := range s.byKey {
				if c := g.at(i); c != 0 && g.proj == pr {
					g.shift(was, -c)
					g.shift(now, c)
					moved = true
				}
			}
		}
	}
	return moved
}

// appendText appends a text so that no two lists of texts encode alike.
func appendText(b []byte, s string) []byte {
	for n := uint(len(s)); ; n >>= 7 {
		if n < 0x80 {
			b = append(b, byte(n))
			break
		}
		b = append(b, byte(n)|0x80)
	}
	return append(b, s...)
}
