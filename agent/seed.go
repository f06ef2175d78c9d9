package agent

import (
	"fmt"
	"net/netip"

	"github.com/novacron/novacron/agent/client"
	"github.com/novacron/novacron/agent/cloudinit"
	"github.com/novacron/novacron/api"
)

// makeSeed writes the NoCloud seed of a VM.
func makeSeed(path string, s *client.Seed) error {
	c := s.Spec.CloudInit
	if c == nil {
		c = &api.CloudInit{}
	}
	seed := &cloudinit.Seed{
		InstanceID: s.ID, Hostname: c.Hostname, UserData: c.UserData, NetworkConfig: c.NetworkConfig, SSHKeys: c.SSHKeys,
	}
	if seed.Hostname == "" {
		seed.Hostname = s.Name
	}
	for i, n := range s.Spec.NICs {
		if i >= len(s.MACs) {
			break
		}
		nic := cloudinit.NIC{MAC: s.MACs[i]}
		if n.Address != "" {
			p, err := guestAddress(n.Address)
			if err != nil {
				return fmt.Errorf("network %d: %w", i, err)
			}
			nic.Address = p
		}
		seed.NICs = append(seed.NICs, nic)
	}
	return cloudinit.Write(path, seed)
}

// guestAddress reads an address with or without the length of its prefix; a
// length that was not said is that of a usual subnet.
func guestAddress(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	if a.Is4() {
		return netip.PrefixFrom(a, 24), nil
	}
	return netip.PrefixFrom(a, 64), nil
}
