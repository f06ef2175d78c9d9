package cluster

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// fault is one kind of trouble. do begins it, waits, and ends it; it reports
// whether there was something to do it to.
type fault struct {
	name string
	do   func(c *chaos, rng *rand.Rand) bool
}

// chaosFaults are all kinds. Each run leaves out a half of them.
var chaosFaults = []fault{
	{"leader-kill", func(c *chaos, _ *rand.Rand) bool {
		h := c.leader()
		if h == nil {
			return false
		}
		h.now().end()
		return true
	}},
	{"follower-kill", func(c *chaos, rng *rand.Rand) bool {
		h := c.follower(rng)
		if h == nil {
			return false
		}
		h.now().end()
		return true
	}},
	{"leader-pause", func(c *chaos, rng *rand.Rand) bool {
		h := c.leader()
		if h == nil {
			return false
		}
		return c.hold(rng, 8*time.Second, append(c.ways(h, true, true), c.clientWays(h, func(int) bool { return true })...))
	}},
	{"leader-partition", func(c *chaos, rng *rand.Rand) bool {
		h := c.leader()
		if h == nil {
			return false
		}
		ways := c.ways(h, true, true)
		if rng.IntN(2) == 0 { // some clients are on one side, some on the other
			ways = append(ways, c.clientWays(h, func(n int) bool { return n%2 == 0 })...)
		}
		return c.hold(rng, 8*time.Second, ways)
	}},
	{"leader-deaf", func(c *chaos, rng *rand.Rand) bool {
		h := c.leader()
		return h != nil && c.hold(rng, 8*time.Second, c.ways(h, true, false))
	}},
	{"leader-mute", func(c *chaos, rng *rand.Rand) bool {
		h := c.leader()
		return h != nil && c.hold(rng, 8*time.Second, c.ways(h, false, true))
	}},
	{"bridge", func(c *chaos, rng *rand.Rand) bool {
		i := rng.IntN(len(c.hosts))
		a, b := c.hosts[i].addr, c.hosts[(i+1)%len(c.hosts)].addr
		return c.hold(rng, 8*time.Second, [][2]string{{a, b}, {b, a}})
	}},
	{"connections-lost", func(c *chaos, rng *rand.Rand) bool {
		for range 3 + rng.IntN(5) {
			for i, h := range c.hosts {
				c.net.Break(h.addr, c.hosts[(i+1)%len(c.hosts)].addr)
			}
			time.Sleep(rand.N(500 * time.Millisecond))
		}
		return true
	}},
	{"disk-stall", func(c *chaos, rng *rand.Rand) bool {
		h := c.member(rng)
		if l := c.leader(); l != nil && rng.IntN(2) == 0 {
			h = l
		}
		l := h.now()
		l.mount.stall()
		time.Sleep(2*time.Second + time.Duration(rng.Int64N(int64(7*time.Second))))
		waited := l.mount.goOn()
		select {
		case <-l.dead:
		default:
			if waited > stallLimit+100*time.Millisecond {
				c.violation("F13 %s lives on with a write that takes %s", h.name, waited)
			}
		}
		return true
	}},
	{"disk-error", func(c *chaos, rng *rand.Rand) bool {
		h := c.member(rng)
		l := h.now()
		l.mount.arm(&l.mount.fail)
		_, ended := waitFor(10*time.Second, func() bool {
			select {
			case <-l.dead:
				return true
			default:
				return !l.mount.sick()
			}
		})
		if !ended {
			c.violation("F14 %s lives on after a write that failed", h.name)
		}
		return true
	}},
	{"torn-vote", func(c *chaos, rng *rand.Rand) bool {
		h := c.follower(rng)
		old := c.leader()
		if h == nil || old == nil {
			return false
		}
		l := h.now()
		l.mount.arm(&l.mount.tear)
		old.now().end()
		time.Sleep(4 * time.Second)
		return true
	}},
	{"power-loss", func(c *chaos, rng *rand.Rand) bool {
		var on []func()
		for _, h := range c.members() {
			on = append(on, h.off())
		}
		rng.Shuffle(len(on), func(i, j int) { on[i], on[j] = on[j], on[i] })
		time.Sleep(time.Duration(rng.Int64N(int64(3 * time.Second))))
		for _, f := range on {
			f()
			time.Sleep(rand.N(time.Second))
		}
		return true
	}},
	{"snapshot", func(c *chaos, rng *rand.Rand) bool {
		s := c.member(rng).server()
		if s == nil {
			return false
		}
		err := s.raft.Snapshot().Error()
		c.log.Info("snapshot", "error", err)
		return err == nil
	}},
}

// follower returns a server that runs and does not lead, or nil.
func (c *chaos) follower(rng *rand.Rand) *host {
	for _, i := range rng.Perm(len(c.hosts)) {
		if s := c.hosts[i].server(); s != nil && !s.IsLeader() {
			return c.hosts[i]
		}
	}
	return nil
}

// ways are those between a server and the others: in, out or both.
func (c *chaos) ways(h *host, in, out bool) [][2]string {
	var ways [][2]string
	for _, o := range c.hosts {
		if o != h && in {
			ways = append(ways, [2]string{o.addr, h.addr})
		}
		if o != h && out {
			ways = append(ways, [2]string{h.addr, o.addr})
		}
	}
	return ways
}

// clientWays are those between a server and some clients.
func (c *chaos) clientWays(h *host, which func(int) bool) [][2]string {
	var ways [][2]string
	for n := range chaosClients {
		if a := clientAddr(n); which(n) {
			ways = append(ways, [2]string{a, h.addr}, [2]string{h.addr, a})
		}
	}
	return ways
}

// hold blocks ways for a while.
func (c *chaos) hold(rng *rand.Rand, longest time.Duration, ways [][2]string) bool {
	return c.holdOf(rng, longest, ways, wayPort|wayGossip)
}

// holdOf is hold for a part of what goes over the ways.
func (c *chaos) holdOf(rng *rand.Rand, longest time.Duration, ways [][2]string, what int) bool {
	var undo []func()
	for _, w := range ways {
		undo = append(undo, c.block(w[0], w[1], what))
	}
	time.Sleep(time.Second + time.Duration(rng.Int64N(int64(longest))))
	for _, f := range undo {
		f()
	}
	return true
}

// swarm are the kinds of one run.
func swarm(seed uint64) []fault {
	rng := rand.New(rand.NewPCG(seed, 2))
	all := append(slices.Clone(chaosFaults), memberFaults...)
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:(len(all)+1)/2]
}

// compact lets every server make a snapshot now and then, until ctx ends.
func (c *chaos) compact(ctx context.Context) {
	for pause(ctx, 500*time.Millisecond+rand.N(time.Second)) {
		if s := c.member(rand.New(rand.NewPCG(rand.Uint64(), 0))).server(); s != nil {
			_ = s.raft.Snapshot().Error() // nothing new, or the server has ended
		}
	}
}

// nemesis makes trouble until ctx ends, at most two kinds at once, and returns
// when all of it is over.
func (c *chaos) nemesis(ctx context.Context, kinds []fault) {
	var wg sync.WaitGroup
	defer wg.Wait()
	two := make(chan struct{}, 2)
	for pause(ctx, time.Second+time.Duration(c.rng.Int64N(int64(4*time.Second)))) {
		f, rng := kinds[c.rng.IntN(len(kinds))], rand.New(rand.NewPCG(c.rng.Uint64(), 3))
		select {
		case two <- struct{}{}:
		case <-ctx.Done():
			return
		}
		wg.Go(func() {
			defer func() { <-two }()
			if f.do(c, rng) {
				c.seen(f.name)
			}
		})
	}
}
