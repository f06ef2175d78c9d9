package scheduler

import "github.com/novacron/novacron/api"

// pick returns the best node for a request and its score, or -1.
func (e *engine) pick(r *request) (int32, float64) {
	c := r.class
	switch {
	case r.pin != unpinned:
		if s := c.rate(e, r.pin); s != no && !r.rules.forbids(r.pin) {
			return r.pin, s
		}
		return -1, 0
	case r.rules.none():
		c.catchUp(e)
		if i := c.top(); i >= 0 {
			return i, c.score[i]
		}
		return -1, 0
	}
	c.catchUp(e)
	r.rules.weigh(c.fitting)
	best, top := int32(-1), no
	c.fitting(func(i int32, s float64) bool {
		if s += r.rules.bonus(i); s > top && !r.rules.forbids(i) {
			best, top = i, s
		}
		return true
	})
	return best, top
}

// fitting calls f with every node that the class fits on, and its score.
func (c *class) fitting(f func(i int32, s float64) bool) {
	for b, i := range c.best {
		if i < 0 {
			continue
		}
		lo := b << blockBits
		for k, s := range c.score[lo:min(lo+1<<blockBits, len(c.score))] {
			if s != no && !f(int32(lo+k), s) {
				return
			}
		}
	}
}

// waiter says what a request that fits nowhere waits for.
func (e *engine) waiter(r *request) *Waiter {
	if r.broken != "" {
		d := dimSpec
		if r.why == FailVolume {
			d = dimVolume
		}
		var id api.ID
		if r.vm != nil {
			id = r.vm.ID
		}
		return &Waiter{key: "!" + r.broken + string(id[:]), pin: unpinned, dims: d}
	}
	w := &Waiter{class: r.class, pin: r.pin}
	b := append(e.scratch[:0], '=')
	b = appendText(b, r.class.key)
	b = appendCount(b, int(r.pin+1))
	if r.pin == unpinned {
		w.dims = r.class.blocked(e)
	} else {
		w.dims = r.class.lacks(e, r.pin) | dimVolume
	}
	if !r.rules.none() {
		if r.pin != unpinned && r.class.rate(e, r.pin) != no {
			w.dims |= dimPeers
		} else if r.pin == unpinned {
			r.class.fitting(func(int32, float64) bool { w.dims |= dimPeers; return false })
		}
		w.ns = r.vm.Namespace
		b = appendText(b, w.ns)
		for _, l := range r.vm.Spec.Labels {
			b = appendText(appendText(b, l.K), l.V)
		}
		b = append(b, 0xff)
		for i := range r.vm.Spec.Affinities {
			a := &r.vm.Spec.Affinities[i]
			if a.Weight != 0 {
				continue // soft rules keep nobody waiting
			}
			b = appendText(b, a.Domain)
			if a.Anti {
				b = append(b, '-')
			} else {
				b = append(b, '+')
			}
			for _, l := range a.Selector {
				b = appendText(appendText(b, l.K), l.V)
			}
			b = append(b, 0xff)
		}
	}
	w.key = string(b)
	e.scratch = b
	return w
}
