package agent

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/network"
	"github.com/novacron/novacron/api"
)

func TestOnlyAllowedBridgesAreUsed(t *testing.T) {
	s := &someBridges{network.NewSim("br0", "secret"), []string{"br0", "br1"}}
	list, err := s.Bridges(t.Context())
	must.NoError(t, err)
	must.Eq(t, []string{"br0"}, list)
	b, err := s.Ensure(t.Context(), &api.Network{Name: "a", Type: "bridge", Bridge: "br0"})
	must.NoError(t, err)
	must.Eq(t, "br0", b)
	_, err = s.Ensure(t.Context(), &api.Network{Name: "a", Type: "bridge", Bridge: "secret"})
	must.Eq(t, api.CodeNetwork, api.CodeOf(err))
	must.StrContains(t, err.Error(), "client.bridges")
	b, err = s.Ensure(t.Context(), &api.Network{Name: "n", Type: "nat"})
	must.NoError(t, err)
	must.Eq(t, network.BridgeName("n"), b)
}
