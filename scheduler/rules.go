package scheduler

import (
	"fmt"
	"math"

	"github.com/novacron/novacron/api"
)

// defaultSpreadWeight is the weight of a spread that names none.
const defaultSpreadWeight = 50

// peerRule is an affinity bound to its group.
type peerRule struct {
	g      *group
	anti   bool
	weight float64 // 0 for hard; else -2 to 2
	own    bool    // the VM matches its own selector
	left   int32   // members that do not count: they leave their node too
	most   float64 // soft: the largest count of any domain
}

// spreadRule is a spread bound to its group.
type spreadRule struct {
	g        *group
	weight   float64
	low, top float64 // the least and the largest count among the domains in play
}

// rules are what a VM asks of, and what other VMs ask of it, by who is where.
type rules struct {
	hard    []peerRule
	soft    []peerRule
	spreads []spreadRule
	away    []*group // VMs that hold a hard rule against this VM
}

func (r *rules) none() bool {
	return len(r.hard)+len(r.soft)+len(r.spreads)+len(r.away) == 0
}

// rulesOf binds the rules of a VM. The VM itself must not be counted.
func (e *engine) rulesOf(vm *api.VM) rules {
	var r rules
	e.peers.holders.matching(vm.Namespace, vm.Spec.Labels, func(g *group) {
		if g.total > 0 {
			r.away = append(r.away, g)
		}
	})
	for i := range vm.Spec.Affinities {
		a := &vm.Spec.Affinities[i]
		p := peerRule{
			g: e.peers.group(vm.Namespace, a.Selector, a.Domain), anti: a.Anti,
			own: matches(a.Selector, vm.Spec.Labels),
		}
		if a.Weight == 0 {
			r.hard = append(r.hard, p)
			continue
		}
		p.weight = float64(a.Weight) / defaultSpreadWeight
		if a.Anti {
			p.weight = -p.weight
		}
		for _, n := range p.g.inDomain {
			p.most = max(p.most, float64(n))
		}
		r.soft = append(r.soft, p)
	}
	for i := range vm.Spec.Spread {
		s := &vm.Spec.Spread[i]
		sel := s.Selector
		if len(sel) == 0 {
			sel = vm.Spec.Labels
		}
		w := s.Weight
		if w == 0 {
			w = defaultSpreadWeight
		}
		r.spreads = append(r.spreads, spreadRule{
			g: e.peers.group(vm.Namespace, sel, s.Attribute), weight: float64(w) / defaultSpreadWeight,
		})
	}
	return r
}

// forbids reports whether a node is out by a hard rule.
func (r *rules) forbids(i int32) bool {
	for _, g := range r.away {
		if _, n := g.domain(i); n > 0 {
			return true
		}
	}
	for k := range r.hard {
		if r.hard[k].forbids(i) {
			return true
		}
	}
	return false
}

func (h *peerRule) forbids(i int32) bool {
	d, n := h.g.domain(i)
	if h.anti {
		return n > 0
	}
	// The first of its kind may go anywhere, else no group could ever begin.
	return d < 0 || n == 0 && (h.g.total > h.left || !h.own)
}

// leave makes the VMs of a node that all of them leave keep nobody there.
func (r *rules) leave(home int32) {
	for k := range r.hard {
		if h := &r.hard[k]; !h.anti {
			h.left = h.g.at(home)
		}
	}
}

// why says in words what forbids a node.
func (r *rules) why(i int32) string {
	for k := range r.hard {
		h := &r.hard[k]
		if !h.forbids(i) {
			continue
		}
		d, n := h.g.domain(i)
		switch {
		case h.anti:
			return fmt.Sprintf("has %s in the same %s that this one has to keep away from", vms(n), place(h.g))
		case d < 0:
			return fmt.Sprintf("has no %s, which an affinity needs", h.g.proj.attr)
		}
		return fmt.Sprintf("has no VM in the same %s that this one has to be together with", place(h.g))
	}
	for _, g := range r.away {
		if _, n := g.domain(i); n > 0 {
			return fmt.Sprintf("%s in the same %s asked to be kept away from VMs like this one", vms(n), place(g))
		}
	}
	return ""
}

// place names a domain for people.
func place(g *group) string {
	if g.proj.attr == "node.id" || g.proj.attr == "node.name" {
		return "node"
	}
	return g.proj.attr
}

// weigh prepares the spreads for the nodes that are in play.
func (r *rules) weigh(inPlay func(func(i int32, score float64) bool)) {
	for k := range r.spreads {
		s := &r.spreads[k]
		s.low, s.top = math.Inf(1), 0
		inPlay(func(i int32, _ float64) bool {
			if d, n := s.g.domain(i); d >= 0 {
				s.low, s.top = min(s.low, float64(n)), max(s.top, float64(n))
			}
			return true
		})
	}
}

// bonus is what the soft rules add to the score of a node.
func (r *rules) bonus(i int32) float64 {
	b := 0.0
	for k := range r.soft {
		if s := &r.soft[k]; s.most > 0 {
			_, n := s.g.domain(i)
			b += s.weight * float64(n) / s.most
		}
	}
	for k := range r.spreads {
		s := &r.spreads[k]
		d, n := s.g.domain(i)
		switch {
		case d < 0:
			b -= s.weight
		case s.top > s.low:
			b -= s.weight * (float64(n) - s.low) / (s.top - s.low)
		}
	}
	return b
}

func vms(n int32) string {
	if n == 1 {
		return "1 VM"
	}
	return fmt.Sprintf("%d VMs", n)
}
