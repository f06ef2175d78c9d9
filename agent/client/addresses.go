package client

import (
	"context"
	"slices"
	"time"

	"github.com/novacron/novacron/agent/network"
	"github.com/novacron/novacron/api"
)

// addressInterval is how often the DHCP leases of guests are read.
const addressInterval = 10 * time.Second

// lease is one NIC whose address the node's own DHCP gives.
type lease struct {
	network *api.Network
	mac     string
}

// readAddresses keeps the addresses of running guests up to date.
func (c *Client) readAddresses() {
	for c.sleep(addressInterval) {
		for _, v := range c.all() {
			c.readAddressesOf(v)
		}
	}
}

func (c *Client) readAddressesOf(v *vm) {
	v.mu.Lock()
	alive, version, known := v.m.Alive && v.m.dom.kind == domRunning, v.m.RunVersion, v.leaseVersion
	leases, old := v.leases, v.addrs
	v.mu.Unlock()
	if !alive {
		return
	}
	if known != version || known == 0 {
		o, err := c.journal.order(v.id)
		if err != nil || o == nil {
			return
		}
		leases = leasesOf(o)
	}
	var addrs []string
	for _, l := range leases {
		ctx, cancel := context.WithTimeout(c.ctx, callTimeout)
		got, err := c.cfg.Networks.Addresses(ctx, l.network, l.mac)
		cancel()
		if err != nil {
			return
		}
		addrs = append(addrs, got...)
	}
	v.mu.Lock()
	v.leases, v.leaseVersion, v.addrs = leases, version, addrs
	v.mu.Unlock()
	if !slices.Equal(old, addrs) {
		v.resend()
	}
}

func leasesOf(o *api.Order) (out []lease) {
	if o.Spec == nil {
		return nil
	}
	for i, nic := range o.Spec.NICs {
		n := networkOf(o, nic.Network)
		if n == nil || n.Type != network.TypeNAT {
			continue
		}
		mac := nic.MAC
		if mac == "" {
			mac = network.MAC(o.VMID, i)
		}
		out = append(out, lease{n, mac})
	}
	return out
}

// addressesFor returns what goes into a report: only guests that run have any.
func addressesFor(r api.VMReport, known []string) []string {
	if r.State != api.StateRunning && r.State != api.StatePaused {
		return nil
	}
	return known
}
