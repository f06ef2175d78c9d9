package fsm

import (
	"net/netip"

	"github.com/novacron/novacron/api"
)

// NetworkApply creates or changes a network. It answers *api.Network.
type NetworkApply struct {
	Network    api.Network `msg:"network,omitempty"`
	CheckIndex *uint64     `msg:"check_index,omitempty"`
}

// CommandID is 21.
func (c *NetworkApply) CommandID() uint16 { return cmdNetworkApply }

// Validate checks the fields.
func (c *NetworkApply) Validate() error {
	var k checker
	n := &c.Network
	k.name("name", n.Name)
	k.text("description", n.Description)
	k.pairs("labels", n.Labels)
	k.oneOf("type", n.Type, "bridge", "nat")
	switch n.Type {
	case "bridge":
		if !validInterface(n.Bridge) {
			k.fail("bridge", "%.80q is not the name of an interface", n.Bridge)
		}
	case "nat":
		if p, err := netip.ParsePrefix(n.CIDR); n.CIDR != "" && (err != nil || p.Bits() > p.Addr().BitLen()-2) {
			k.fail("cidr", "%.80q is not a network such as 10.20.0.0/24", n.CIDR)
		}
	}
	if n.MTU != 0 && (n.MTU < 576 || n.MTU > 65535) {
		k.fail("mtu", "%d is not between 576 and 65535", n.MTU)
	}
	return k.done()
}

func (c *NetworkApply) apply(tx *Txn) (any, error) {
	n := c.Network
	old := tx.s.Network(n.Name)
	n.CreateTime, n.CreateIndex, n.ModifyIndex = tx.now, tx.index, tx.index
	var now api.Index
	if old != nil {
		now, n.CreateTime, n.CreateIndex = old.ModifyIndex, old.CreateTime, old.CreateIndex
	}
	if err := checkIndex(c.CheckIndex, now, "network "+n.Name); err != nil {
		return nil, err
	}
	if err := tx.networkChanges(old, &n); err != nil {
		return nil, err
	}
	networkDef.put(tx, &n)
	tx.made(api.ID{}, n.Name)
	return &n, nil
}

// networkChanges refuses what would pull a network out from under the VMs that
// are on it, and a subnet that hosts could not tell from that of another network.
func (tx *Txn) networkChanges(old, n *api.Network) error {
	if old != nil && (old.Type != n.Type || old.CIDR != n.CIDR || old.Bridge != n.Bridge) {
		if vm := tx.networkUser(n.Name); vm != nil {
			return inUse("network", n.Name, "VM "+vm.Namespace+"/"+vm.Name).WithHint("its type, cidr and bridge can change when no VM is on it")
		}
	}
	mine, err := netip.ParsePrefix(n.CIDR)
	if n.Type != "nat" || err != nil {
		return nil
	}
	for o := range tx.s.Networks() {
		if o.Name == n.Name || o.Type != "nat" {
			continue
		}
		if theirs, err := netip.ParsePrefix(o.CIDR); err == nil && theirs.Overlaps(mine) {
			return api.Errorf(api.CodeInUse, "cidr %s overlaps %s of network %q", mine, theirs, o.Name).WithDetail("cidr", "overlaps network %q", o.Name)
		}
	}
	return nil
}

// networkUser returns a VM that has a NIC in a network, or nil.
func (tx *Txn) networkUser(name string) *api.VM {
	for vm := range tx.s.VMs() {
		for i := range vm.Spec.NICs {
			if vm.Spec.NICs[i].Network == name {
				return vm
			}
		}
	}
	return nil
}

// NetworkDelete deletes a network that no VM uses. It answers nothing.
type NetworkDelete struct {
	Name       string `msg:"name,omitempty"`
	CheckIndex uint64 `msg:"check_index,omitempty"`
}

// CommandID is 22.
func (c *NetworkDelete) CommandID() uint16 { return cmdNetworkDelete }

// Validate checks nothing: the name is looked up.
func (c *NetworkDelete) Validate() error { return nil }

func (c *NetworkDelete) apply(tx *Txn) (any, error) {
	if err := tx.settled(); err != nil {
		return nil, err
	}
	n := tx.s.Network(c.Name)
	if n == nil {
		return nil, api.Errorf(api.CodeNotFound, "network %q not found", c.Name)
	}
	if err := sameIndex(c.CheckIndex, n.ModifyIndex, "network "+c.Name); err != nil {
		return nil, err
	}
	if vm := tx.networkUser(c.Name); vm != nil {
		return nil, inUse("network", c.Name, "VM "+vm.Namespace+"/"+vm.Name)
	}
	networkDef.del(tx, c.Name)
	return nil, nil
}
