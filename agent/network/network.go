// Package network makes the networks of a node: it finds the host's bridges,
// and makes NAT and isolated networks with their own bridge, DHCP and way out.
//
// Promises: Ensure and Remove are idempotent and survive restarts of the agent;
// only bridges that this package made are ever changed or removed; names on the
// host are made from hashes, never from what users write.
//
// What does not belong: which VM is on which network; taps (the hypervisor
// makes them).
package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"

	"github.com/novacron/novacron/api"
)

// The types of networks.
const (
	TypeBridge = "bridge"
	TypeNAT    = "nat"
)

// Manager makes networks on this machine. All methods may be called at once.
type Manager interface {
	// Ensure makes a network usable and returns the host bridge to attach to.
	Ensure(ctx context.Context, n *api.Network) (bridge string, err error)
	// Remove takes away what Ensure made; a bridge of the host is left alone.
	Remove(ctx context.Context, n *api.Network) error
	// Prune removes what Ensure has made in the past, except the bridges that are
	// to be kept and those that something is attached to. Those that it could not
	// remove are named in the error.
	Prune(ctx context.Context, keep []string) error
	// Bridges returns the bridges of the host, sorted, for Node.Networks.
	Bridges(ctx context.Context) ([]string, error)
	// Addresses returns the addresses that DHCP gave to a MAC; none is no error.
	Addresses(ctx context.Context, n *api.Network, mac string) ([]string, error)
	// Close lets go; networks and their DHCP servers stay for the next start.
	Close() error
}

// MAC is the address of the index-th NIC of a VM whose spec names none.
func MAC(vm api.ID, index int) string { return api.MAC(vm, index) }

// BridgeName is the name of the bridge that is made for a network: "nova-" and
// 8 hex digits, within the 15 characters that Linux takes.
func BridgeName(name string) string {
	sum := sha256.Sum256([]byte(name))
	return "nova-" + hex.EncodeToString(sum[:4])
}

var bridgeRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$`)

// Plan is what a NAT network looks like on the host.
type Plan struct {
	Bridge  string
	Gateway netip.Prefix // the host's address in it
	First   netip.Addr   // of the DHCP range
	Last    netip.Addr
	Subnet  netip.Prefix
	MTU     int32
	Masq    bool // hosts in it reach the outside
}

// DefaultCIDR is the subnet of a NAT network that names none.
const DefaultCIDR = "10.76.0.0/24"

// PlanOf works out a NAT network. It needs no access to the machine.
func PlanOf(n *api.Network) (Plan, error) {
	bad := func(format string, args ...any) (Plan, error) {
		return Plan{}, api.Errorf(api.CodeNetwork, "network %q: %s", n.Name, fmt.Sprintf(format, args...))
	}
	if n.Type != TypeNAT {
		return bad("type must be bridge or nat")
	}
	cidr := n.CIDR
	if cidr == "" {
		cidr = DefaultCIDR
	}
	p, err := api.ParseSubnet(cidr)
	if err != nil {
		return bad("%v", err)
	}
	if n.MTU != 0 && (n.MTU < 576 || n.MTU > 65535) {
		return bad("mtu must be 576 to 65535")
	}
	gw := p.Addr().Next()
	return Plan{
		Bridge: BridgeName(n.Name), Subnet: p, Gateway: netip.PrefixFrom(gw, p.Bits()),
		First: gw.Next(), Last: last(p).Prev(), MTU: n.MTU, Masq: !n.Isolated,
	}, nil
}

// last is the broadcast address of an IPv4 subnet.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}
