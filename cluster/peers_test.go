package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/peers"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/lease"
)

// pooled are nodes that beat as agents do and form a pool by memberlist, on a
// simulated network, with a server. All of it lives in a bubble.
type pooled struct {
	*region
	net   *MemoryGossip
	nodes []*pooledNode

	mu  sync.Mutex
	cut map[string]bool // gossip addresses that nothing leaves or reaches
}

type pooledNode struct {
	*fakeNode
	pool   *peers.Pool // nil: it is in none
	member *MemoryMember
	end    func()
	mu     sync.Mutex
	acked  time.Time // when the newest beat came back
}

// newPooled makes five nodes; without gossip none is in a pool.
func newPooled(t *testing.T, gossip bool) *pooled {
	t.Cleanup(func() { time.Sleep(time.Minute) }) // memberlist does not wait for the end of its probes
	start := time.Now()
	w := newWorld(t)
	w.net.SetLatency(func(_, _ string) time.Duration { return latency() })
	w.gossip.SetWay(func(_, _ string) (time.Duration, bool) { return latency(), true })
	p := &pooled{net: NewMemoryGossip(), cut: map[string]bool{}}
	p.region = w.region("eu", 1, func(c *Config) { c.Clock = func() time.Duration { return time.Hour + time.Since(start) } })
	p.net.SetWay(func(from, to string) (time.Duration, bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return latency(), !p.cut[from] && !p.cut[to]
	})
	for i := range 5 {
		p.add(fmt.Sprintf("n%d", i+1), gossip)
	}
	return p
}

// add starts a node: it beats, obeys, and enters the pool with what it is told.
func (p *pooled) add(name string, gossip bool) {
	n := &pooledNode{}
	n.fakeNode = p.newNode(name, guarded)
	if gossip {
		n.member = p.net.Transport()
		n.node.GossipAddress = n.member.Addr()
		n.pool = peers.New(peers.Config{NodeID: n.node.ID, Region: p.name, Transport: n.member})
	}
	got, err := n.register()
	must.NoError(p.t, err)
	if gossip {
		must.NoError(p.t, n.pool.Join(got.Pool.Key, got.Pool.Members))
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { n.obey(ctx) })
	wg.Go(func() {
		for {
			req := n.newBeat()
			if n.pool != nil {
				req.Peers = n.pool.View()
			}
			if n.servers.Call(ctx, "Node.Beat", req, &api.NodeBeaten{}) == nil {
				n.mu.Lock()
				n.acked = time.Now()
				n.mu.Unlock()
			}
			if !pause(ctx, heartbeat*9/10+rand.N(heartbeat/5)) {
				return
			}
		}
	})
	n.end = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if n.pool != nil {
			must.NoError(p.t, n.pool.Close())
		}
	})
	p.t.Cleanup(n.end)
	p.nodes = append(p.nodes, n)
	n.status(api.NodeReady)
}

// suspectIn ends a node so long after a beat, and returns how long after that
// beat it is shown as suspect.
func (p *pooled) suspectIn(n *pooledNode, after time.Duration) time.Duration {
	last := func() time.Time {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.acked
	}
	was := last()
	eventually(p.t, "it beats", func() bool { return last() != was })
	time.Sleep(after)
	n.end()
	n.status(api.NodeSuspect)
	return time.Since(last())
}

// armed gives a node a VM that would be restarted elsewhere.
func (p *pooled) armed() (*pooledNode, *api.Placement) {
	mustCall[api.VMApplied](p.region, "VM.Apply", &api.VMApply{Spec: haSpec("web")})
	p.vm("web", "running")
	eventually(p.t, "it is armed", func() bool { return p.placement("web").Armed })
	at := p.placement("web")
	for _, n := range p.nodes {
		if n.node.ID == at.NodeID {
			return n, at
		}
	}
	p.t.Fatal("it is nowhere")
	return nil, nil
}

func (p *pooled) state(n *pooledNode) *api.Node { return p.leader().fsm.State().Node(n.node.ID) }

func TestPeersMakeADeadHostSuspectSoonerAndLostNoSooner(t *testing.T) {
	took := map[bool]time.Duration{}
	for _, gossip := range []bool{false, true} {
		for after := time.Duration(0); after < heartbeat/2; after += heartbeat / 12 {
			synctest.Test(t, func(t *testing.T) {
				p := newPooled(t, gossip)
				n, was := p.armed()
				time.Sleep(20 * time.Second)
				d := p.suspectIn(n, after)
				took[gossip] += d
				note := p.state(n).StatusNote
				t.Logf("a pool: %v, dead %s after a beat, suspect %s after it: %s", gossip, after, d, note)
				const slack = 200 * time.Millisecond // a beat is heard before its answer is
				if d < suspectAfter-slack {
					must.True(t, gossip)
					must.StrContains(t, note, nobodySees)
				}
				eventually(t, "its VM runs elsewhere", func() bool { return p.placement("web").NodeID != was.NodeID })
				lost := p.state(n).Lost
				must.Eq(t, api.EvidenceLease, lost.Kind)
				must.GreaterEq(t, lease.Default.Wait(true), lost.Silent.D())
				n.mu.Lock()
				defer n.mu.Unlock()
				must.Greater(t, lease.Default.Wait(true)-slack, time.Since(n.acked), must.Sprint("the pool shortens no wait"))
			})
		}
	}
	must.Less(t, took[false], took[true], must.Sprint("without and with a pool, together"))
}

// Only the pool has lost a node: the node beats, and is believed itself. With a
// beat missing it is suspect, because nobody sees it; never lost for that.
func TestANodeThatOnlyItsPeersMissStaysWhereItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPooled(t, true)
		n, was := p.armed()
		time.Sleep(20 * time.Second)
		ready := p.state(n)
		must.Eq(t, api.NodeReady, ready.Status)
		p.mu.Lock()
		p.cut[n.member.Addr()] = true
		p.mu.Unlock()
		eventually(t, "all others report it", func() bool {
			fails, sees := p.leader().leases.peersSay(n.node.ID)
			return fails == len(p.nodes)-1 && sees == 0
		})
		time.Sleep(2 * lease.Default.Wait(true))
		must.Eq(t, ready, p.state(n), must.Sprint("nothing is noted of it"))
		must.Eq(t, was.Epoch, p.placement("web").Epoch)

		addr := p.leader().self.Address
		for range 3 {
			p.w.net.Block(n.node.Address, addr)
			n.status(api.NodeSuspect)
			must.StrContains(t, p.state(n).StatusNote, nobodySees)
			p.w.net.Unblock(n.node.Address, addr)
			n.status(api.NodeReady)
		}
		time.Sleep(2 * lease.Default.Wait(true))
		must.Nil(t, p.state(n).Lost)
		must.Eq(t, was.Epoch, p.placement("web").Epoch)
		must.Eq(t, was.NodeID, p.placement("web").NodeID)
	})
}
