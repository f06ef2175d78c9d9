package client

import (
	"context"
	"sync"
	"time"

	"github.com/novacron/novacron/agent/network"
	"github.com/novacron/novacron/api"
)

// networkRetry is how long a network that could not be removed is left alone; it
// is doubled each time.
const networkRetry = time.Minute

// networkState says which networks are in use, so that the others can go.
type networkState struct {
	mu   sync.Mutex
	used map[string]int // bridges that something needs which is no order yet
	look chan struct{}  // a network may have lost its last VM
}

// ensureNetwork makes a network usable. It is not removed before release is
// called, nor for as long as an order in the journal uses it.
func (c *Client) ensureNetwork(ctx context.Context, n *api.Network) (bridge string, release func(), err error) {
	name := network.BridgeName(n.Name)
	count := func(d int) {
		c.networks.mu.Lock()
		defer c.networks.mu.Unlock()
		if c.networks.used[name] += d; c.networks.used[name] == 0 {
			delete(c.networks.used, name)
		}
	}
	count(1)
	release = sync.OnceFunc(func() { count(-1) })
	if bridge, err = c.cfg.Networks.Ensure(ctx, n); err != nil {
		release()
	}
	return bridge, release, err
}

// keepNetworks removes the networks that no order uses any more: when the
// servers have given all orders, and when a VM is gone.
func (c *Client) keepNetworks() {
	var retry <-chan time.Time
	delay := networkRetry
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.networks.look:
			delay = networkRetry
		case <-retry:
		}
		if c.hold.Load() {
			continue // it comes again with the orders
		}
		retry = nil
		if err := c.pruneNetworks(); err != nil && c.ctx.Err() == nil {
			c.log.Warn("networks that nothing uses were not removed", "error", err)
			retry = time.After(jitter(delay))
			delay = min(2*delay, time.Hour)
		}
	}
}

// pruneNetworks lets no network be made while it decides and removes: a VM whose
// order comes later makes its network anew.
func (c *Client) pruneNetworks() error {
	c.networks.mu.Lock()
	defer c.networks.mu.Unlock()
	keep, err := c.journal.bridges()
	if err != nil {
		return err
	}
	for name := range c.networks.used {
		keep = append(keep, name)
	}
	for _, v := range c.all() { // guests that are to come in have no order yet
		if o := v.part.get(); o != nil && o.VM != nil {
			for _, n := range o.VM.Networks {
				keep = append(keep, network.BridgeName(n.Name))
			}
		}
	}
	return c.cfg.Networks.Prune(c.ctx, keep)
}
