package cluster

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
)

// memberFaults change who is a member, and cut gossip or the one port alone.
var memberFaults = []fault{
	{"server-joins", func(c *chaos, _ *rand.Rand) bool {
		for _, h := range c.hosts {
			if h.isSpare() {
				h.on()
				waitFor(15*time.Second, func() bool { return c.votes(h) })
				return true
			}
		}
		return false
	}},
	{"server-replaced", func(c *chaos, rng *rand.Rand) bool {
		h := c.member(rng)
		on := h.off()
		defer on()
		// It has to be out of Raft for sure before its vote may be forgotten.
		_, removed := waitFor(25*time.Second, func() bool {
			return c.operator("Operator.RaftRemove", &api.RaftRemove{ID: h.nodeID()}) == nil
		})
		if removed {
			h.replace(rng.IntN(2) == 0)
		}
		return removed
	}},
	{"leader-transfer", func(c *chaos, rng *rand.Rand) bool {
		req := &api.RaftTransfer{}
		if rng.IntN(2) == 0 {
			req.ID = c.member(rng).nodeID()
		}
		return c.operator("Operator.RaftTransfer", req) == nil
	}},
	{"gossip-cut", func(c *chaos, rng *rand.Rand) bool {
		which := rng.IntN(3)
		return c.holdOf(rng, 25*time.Second, c.ways(c.member(rng), which != 0, which != 1), wayGossip)
	}},
	{"port-cut", func(c *chaos, rng *rand.Rand) bool {
		which := rng.IntN(3)
		return c.holdOf(rng, 8*time.Second, c.ways(c.member(rng), which != 0, which != 1), wayPort)
	}},
	{"vote-error", func(c *chaos, rng *rand.Rand) bool {
		h, old := c.follower(rng), c.leader()
		if h == nil || old == nil {
			return false
		}
		l := h.now()
		key := [][]byte{keyLastVoteTerm, keyLastVoteCand}[rng.IntN(2)]
		l.mount.change(func() { l.mount.failKey = key })
		old.now().end()
		time.Sleep(4 * time.Second)
		select {
		case <-l.dead:
		default:
			if l.mount.sick() {
				c.violation("F14 %s lives on after a vote that was not written", h.name)
			}
		}
		return true
	}},
}

func (h *host) isSpare() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.spare
}

func (h *host) nodeID() api.ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.id.NodeID
}

// replace puts an empty disk into a host that is off and out of Raft, and makes
// another node of it, or the same one.
func (h *host) replace(another bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := *h.id
	id.Bootstrap, id.SealedCA = false, nil
	if another {
		id.NodeID = api.NewID()
	}
	h.id, h.disk, h.moved = &id, newSimDisk(), another
	h.c.plan.defect.disk(h)
}

// members are the hosts that were ever on.
func (c *chaos) members() (hosts []*host) {
	for _, h := range c.hosts {
		if !h.isSpare() {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

func (c *chaos) member(rng *rand.Rand) *host {
	m := c.members()
	return m[rng.IntN(len(m))]
}

// suffrage is who votes, as the leader has it; nil without one.
func (c *chaos) suffrage() map[raft.ServerID]raft.ServerSuffrage {
	l := c.leader()
	if l == nil {
		return nil
	}
	s := l.server()
	if s == nil {
		return nil
	}
	f := s.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	in := map[raft.ServerID]raft.ServerSuffrage{}
	for _, m := range f.Configuration().Servers {
		in[m.ID] = m.Suffrage
	}
	return in
}

// votes reports whether a host is a voter.
func (c *chaos) votes(h *host) bool {
	in, is := c.suffrage()[raft.ServerID(h.nodeID().String())]
	return is && in == raft.Voter
}

// operator asks one server after the other, until one has an answer.
func (c *chaos) operator(method string, req api.Message) error {
	pool := rpc.NewPool(c.net.Transport("operator", api.CertName{Region: "eu", Role: api.RoleClient, NodeID: api.NewID()}))
	defer pool.Close()
	var err error
	for _, h := range c.members() {
		ctx, cancel := context.WithTimeout(api.WithCall(context.Background(), api.Call{Token: c.token}), 3*time.Second)
		err = pool.Get(h.addr).Call(ctx, method, req, &api.Empty{})
		cancel()
		if api.CodeOf(err) != api.CodeUnreachable {
			break
		}
	}
	return err
}

// fourServers runs f in a calm cluster of four voters.
func fourServers(t *testing.T, f func(c *chaos)) {
	synctest.Test(t, func(t *testing.T) {
		c := newChaos(t, chaosPlan{seed: rand.Uint64(), spares: 1})
		c.settle()
		c.hosts[chaosServers].on()
		c.comes("the fourth server votes", func() bool { return c.votes(c.hosts[chaosServers]) })
		f(c)
		c.agree()
		c.finish()
		must.Eq(t, "", strings.Join(c.wrong, "\n"))
	})
}

// comes waits for something that has to become so. (A test that ends inside the
// simulation would leave it behind: what is wrong is only noted.)
func (c *chaos) comes(what string, ok func() bool) {
	if _, so := waitFor(2*time.Minute, ok); !so {
		c.violation("not so: %s", what)
	}
}

// allStay looks for two minutes whether Raft has four members.
func (c *chaos) allStay() {
	_, fewer := waitFor(2*time.Minute, func() bool {
		in := c.suffrage()
		return in != nil && len(in) < len(c.hosts)
	})
	if fewer {
		c.violation("F11 a server that answers was taken out of Raft")
	}
}

// TestGossipAloneTakesNobodyOut: a server that the others' gossip has lost, but
// that answers, stays in Raft.
func TestGossipAloneTakesNobodyOut(t *testing.T) {
	fourServers(t, func(c *chaos) {
		h := c.follower(c.rng)
		for _, w := range c.ways(h, true, true) {
			defer c.block(w[0], w[1], wayGossip)()
		}
		c.allStay()
	})
}

// TestALeaderThatHasNotHeardOfAServerYetLeavesItIn: after a restart of all, gossip
// finds the members anew, and one of them late.
func TestALeaderThatHasNotHeardOfAServerYetLeavesItIn(t *testing.T) {
	fourServers(t, func(c *chaos) {
		for _, w := range c.ways(c.member(c.rng), true, true) {
			defer c.block(w[0], w[1], wayGossip)()
		}
		var on []func()
		for _, h := range c.hosts {
			on = append(on, h.off())
		}
		for _, f := range on {
			f()
		}
		c.allStay()
	})
}

// TestAServerThatIsGoneIsTakenOut: neither gossip nor the port answers.
func TestAServerThatIsGoneIsTakenOut(t *testing.T) {
	fourServers(t, func(c *chaos) {
		h := c.follower(c.rng)
		on := h.off()
		c.comes("it is taken out", func() bool { return len(c.suffrage()) == 3 })
		on()
		c.comes("it is back and votes", func() bool { return c.votes(h) })
	})
}
