package fleet

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/fsm"
)

// phantomBeat is how often a phantom says that it lives: as often as a client.
const phantomBeat = 3 * time.Second

// Phantoms are nodes of which only the heartbeats exist: for measuring servers
// with thousands of nodes in one process. They are given VMs and run none.
type Phantoms struct {
	f      *Fleet
	nodes  []api.NodeBeat
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// AddPhantoms registers n nodes of a capacity with the leader, and keeps them
// alive until Close. It returns when all of them are ready. Nobody dials them.
func (f *Fleet) AddPhantoms(ctx context.Context, n int, capacity api.Resources) (*Phantoms, error) {
	p := &Phantoms{f: f, nodes: make([]api.NodeBeat, n)}
	leader := f.Leader()
	if leader == nil {
		return nil, fmt.Errorf("no leader")
	}
	up := leader.Up()
	var mu sync.Mutex
	var failed error
	p.each(64, func(i int) {
		name := fmt.Sprintf("phantom-%d", i)
		node := api.Node{
			ID: api.NewID(), Name: name, Datacenter: "dc1", Region: up.Region(), Address: "192.0.2.1:7647",
			Version: "fleet", Protocol: 1, SchemaMax: 1, BootID: name, MachineID: name, ProductUUID: name,
			Attributes: api.PairsOf(map[string]string{"kernel.name": "linux"}), Capacity: capacity,
			Pools:   []api.NodePool{{Name: "default", Type: "dir", UUID: api.NewID(), Capacity: 10 * api.TiB, Free: 10 * api.TiB}},
			Drivers: []api.DriverInfo{{Name: "sim", Healthy: true}},
		}
		p.nodes[i] = api.NodeBeat{NodeID: node.ID, SessionID: api.NewID(), BootID: name}
		if _, err := up.Apply(ctx, &fsm.NodeRegister{Node: node, SessionID: p.nodes[i].SessionID}); err != nil {
			mu.Lock()
			failed = err
			mu.Unlock()
		}
	})
	if failed != nil {
		return nil, failed
	}
	run, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.done.Go(func() { p.beat(run) })
	return p, Until(ctx, func() error {
		ready := 0
		for node := range up.FSM().State().Nodes() {
			if node.Status == api.NodeReady && node.Unreachable == "" {
				ready++
			}
		}
		if ready < n {
			return fmt.Errorf("%d of %d nodes are ready", ready, n)
		}
		return nil
	})
}

// each calls fn for every node, several at a time.
func (p *Phantoms) each(workers int, fn func(i int)) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range next {
				fn(i)
			}
		})
	}
	for i := range p.nodes {
		next <- i
	}
	close(next)
	wg.Wait()
}

// beat sends everybody's heartbeats until ctx ends. One that fails is made good
// by the next.
func (p *Phantoms) beat(ctx context.Context) {
	tick := time.NewTicker(phantomBeat)
	defer tick.Stop()
	for {
		p.each(256, func(i int) {
			s := p.f.Leader()
			if s == nil || ctx.Err() != nil {
				return
			}
			up := s.Up()
			if up == nil {
				return
			}
			b := p.nodes[i]
			b.Seq = uint64(time.Now().UnixNano())
			id := &acl.Identity{Role: acl.RoleNode, Region: up.Region(), NodeID: b.NodeID}
			_ = up.Mux().As(id).Call(ctx, "Node.Beat", &b, &api.NodeBeaten{})
		})
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Close ends the heartbeats.
func (p *Phantoms) Close() {
	if p != nil && p.cancel != nil {
		p.cancel()
		p.done.Wait()
	}
}
