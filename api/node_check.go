package api

import (
	"fmt"
	"net"
)

// Validate checks what a node says of itself when it registers. A node proves
// who it is by its certificate, but not that it speaks sense.
func (r *NodeRegister) Validate() error {
	var c checks
	n := r.Node
	if n == nil {
		c.add("node", "is missing")
		return c.err("the registration")
	}
	if n.ID.IsZero() {
		c.add("node.id", "is missing")
	}
	if r.SessionID.IsZero() {
		c.add("session_id", "is missing")
	}
	c.hostName("node.name", n.Name)
	c.name("node.datacenter", n.Datacenter)
	c.name("node.region", n.Region)
	if host, port, err := net.SplitHostPort(n.Address); err != nil || host == "" || port == "" {
		c.add("node.address", "%s is not host:port", quote(n.Address))
	}
	c.ascii("node.http_address", n.HTTPAddress, 300)
	c.ascii("node.gossip_address", n.GossipAddress, 300)
	c.ascii("node.version", n.Version, 128)
	c.labels("node.labels", n.Labels)
	c.attributes("node.attributes", n.Attributes)
	c.ascii("node.boot_id", n.BootID, 128)
	c.ascii("node.machine_id", n.MachineID, 128)
	c.ascii("node.product_uuid", n.ProductUUID, 128)
	between(&c, "node.capacity.cpu", n.Capacity.CPU, 0, Cores(1<<16))
	between(&c, "node.capacity.memory", n.Capacity.Memory, 0, 1024*TiB)
	if n.CPURatio != 0 {
		c.ratio("node.cpu_ratio", n.CPURatio, 0.1, 100)
	}
	if n.MemoryRatio != 0 {
		c.ratio("node.memory_ratio", n.MemoryRatio, 0.1, 10)
	}
	if len(n.Pools) > 256 {
		c.add("node.pools", "has %d entries, at most 256 are allowed", len(n.Pools))
	} else {
		seen := map[string]bool{}
		for i, p := range n.Pools {
			at := fmt.Sprintf("node.pools[%d].", i)
			c.name(at+"name", p.Name)
			if seen[p.Name] {
				c.add(at+"name", "%s is used twice", quote(p.Name))
			}
			seen[p.Name] = true
			between(&c, at+"capacity", p.Capacity, 0, 1<<62)
			between(&c, at+"free", p.Free, 0, 1<<62)
		}
	}
	for _, list := range []struct {
		field string
		n     int
	}{{"node.networks", len(n.Networks)}, {"node.drivers", len(n.Drivers)}, {"node.numa", len(n.NUMA)}} {
		if list.n > 4096 {
			c.add(list.field, "has %d entries, at most 4096 are allowed", list.n)
		}
	}
	return c.err("the registration")
}

// attributes checks fingerprints: like labels, but more of them, and with what
// a machine may say of itself.
func (c *checks) attributes(field string, p Pairs) {
	if len(p) > 1024 {
		c.add(field, "has %d entries, at most 1024 are allowed", len(p))
		return
	}
	for i, e := range p {
		at := field + "[" + quote(e.K) + "]"
		c.labelKey(at, e.K)
		if len(e.V) > 4096 {
			c.add(at, "is %d bytes long, at most 4096 are allowed", len(e.V))
		}
		if i > 0 && e.K <= p[i-1].K {
			c.add(at, "is there twice or out of order")
		}
	}
}

// Validate checks what a machine sends to join.
func (r *JoinRequest) Validate() error {
	var c checks
	c.oneOf("role", r.Role, "server", "client")
	if r.NodeID.IsZero() {
		c.add("node_id", "is missing")
	}
	c.hostName("name", r.Name)
	c.ascii("secret", r.Secret, 512)
	c.ascii("machine_id", r.MachineID, 128)
	c.ascii("product_uuid", r.ProductUUID, 128)
	if len(r.CSR) == 0 || len(r.CSR) > 64<<10 {
		c.add("csr", "is %d bytes long: want a certificate request", len(r.CSR))
	}
	return c.err("the join request")
}

// Validate checks the fields.
func (f *NodeFence) Validate() error {
	var c checks
	c.key("key", f.Key)
	return c.err("the confirmation")
}

// Validate checks the fields.
func (d *NodeDeny) Validate() error {
	var c checks
	c.key("key", d.Key)
	c.ascii("reason", d.Reason, 300)
	return c.err("the denial")
}
