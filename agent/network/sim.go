package network

import (
	"context"
	"slices"
	"sync"

	"github.com/novacron/novacron/api"
)

// Sim is a Manager that exists only in memory.
type Sim struct {
	mu      sync.Mutex
	bridges map[string]bool // true: made by Ensure
	leases  map[string][]string
	err     error
}

var _ Manager = (*Sim)(nil)

// NewSim makes a host with these bridges.
func NewSim(bridges ...string) *Sim {
	s := &Sim{bridges: map[string]bool{}, leases: map[string][]string{}}
	for _, b := range bridges {
		s.bridges[b] = false
	}
	return s
}

// SetError makes every call fail until it is set to nil.
func (s *Sim) SetError(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// Lease gives addresses to a MAC.
func (s *Sim) Lease(mac string, addrs ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leases[mac] = addrs
}

// Ensure makes a network.
func (s *Sim) Ensure(ctx context.Context, n *api.Network) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fails(ctx); err != nil {
		return "", err
	}
	if n.Type == TypeBridge {
		if _, ok := s.bridges[n.Bridge]; !ok {
			return "", errNoBridge(n)
		}
		return n.Bridge, nil
	}
	p, err := PlanOf(n)
	if err == nil {
		s.bridges[p.Bridge] = true
	}
	return p.Bridge, err
}

// Remove takes a network away.
func (s *Sim) Remove(ctx context.Context, n *api.Network) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fails(ctx); err != nil {
		return err
	}
	if n.Type == TypeNAT && s.bridges[BridgeName(n.Name)] {
		delete(s.bridges, BridgeName(n.Name))
	}
	return nil
}

// Prune removes networks that are not to be kept.
func (s *Sim) Prune(ctx context.Context, keep []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fails(ctx); err != nil {
		return err
	}
	for b, made := range s.bridges {
		if made && !slices.Contains(keep, b) {
			delete(s.bridges, b)
		}
	}
	return nil
}

// Bridges lists the bridges.
func (s *Sim) Bridges(ctx context.Context) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]string, 0, len(s.bridges))
	for b := range s.bridges {
		out = append(out, b)
	}
	slices.Sort(out)
	return out, s.fails(ctx)
}

// Addresses returns what Lease has set.
func (s *Sim) Addresses(ctx context.Context, _ *api.Network, mac string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.leases[mac]), s.fails(ctx)
}

// Close does nothing.
func (s *Sim) Close() error { return nil }

func (s *Sim) fails(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.err
}

func errNoBridge(n *api.Network) error {
	return api.Errorf(api.CodeNetwork, "network %q: this node has no bridge %q", n.Name, n.Bridge).
		WithHint("make the bridge in the host's network configuration, or use a network of type nat")
}
