package network_test

import (
	"errors"
	"net"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/network"
	"github.com/novacron/novacron/api"
)

func TestMACIsStableUnicastAndOwn(t *testing.T) {
	vm := api.ID{1}
	must.Eq(t, network.MAC(vm, 0), network.MAC(vm, 0))
	seen := map[string]bool{}
	for i := range 1000 {
		mac := network.MAC(api.NewID(), i%4)
		hw, err := net.ParseMAC(mac)
		must.NoError(t, err)
		must.Zero(t, hw[0]&1, must.Sprint("unicast"))
		must.NonZero(t, hw[0]&2, must.Sprint("locally administered"))
		seen[mac] = true
	}
	must.Greater(t, 990, len(seen))
	must.NotEq(t, network.MAC(vm, 0), network.MAC(vm, 1))
}

func TestBridgeNamesFitAndDiffer(t *testing.T) {
	for _, name := range []string{"default", "../../etc", "a name that is much too long for an interface", "eth0; rm -rf /"} {
		b := network.BridgeName(name)
		must.LessEq(t, 15, len(b))
		must.RegexMatch(t, mustRE(`^nova-[0-9a-f]{8}$`), b)
	}
	must.NotEq(t, network.BridgeName("a"), network.BridgeName("b"))
}

func TestPlan(t *testing.T) {
	p, err := network.PlanOf(&api.Network{Name: "n", Type: "nat", CIDR: "10.1.2.77/24", MTU: 1400})
	must.NoError(t, err)
	must.Eq(t, "10.1.2.0/24", p.Subnet.String())
	must.Eq(t, "10.1.2.1/24", p.Gateway.String())
	must.Eq(t, "10.1.2.2", p.First.String())
	must.Eq(t, "10.1.2.254", p.Last.String())
	must.True(t, p.Masq)
	p, err = network.PlanOf(&api.Network{Name: "n", Type: "nat", Isolated: true})
	must.NoError(t, err)
	must.Eq(t, network.DefaultCIDR, p.Subnet.String())
	must.False(t, p.Masq)
	p, err = network.PlanOf(&api.Network{Name: "n", Type: "nat", CIDR: "192.168.5.8/29"})
	must.NoError(t, err)
	must.Eq(t, "192.168.5.14", p.Last.String())

	for _, n := range []api.Network{
		{Type: "bridge"}, {Type: ""}, {Type: "nat", CIDR: "x"}, {Type: "nat", CIDR: "fd00::/64"}, {Type: "nat", CIDR: "10.0.0.0/30"},
		{Type: "nat", CIDR: "8.8.8.0/24"}, {Type: "nat", CIDR: "0.0.0.0/0"}, {Type: "nat", CIDR: "169.254.0.0/16"},
		{Type: "nat", CIDR: "127.0.0.0/8"}, {Type: "nat", CIDR: "10.0.0.0/24; reboot"}, {Type: "nat", MTU: 5}, {Type: "nat", MTU: 70000},
	} {
		_, err := network.PlanOf(&n)
		must.Eq(t, api.CodeNetwork, api.CodeOf(err), must.Sprintf("%+v", n))
	}
}

func TestSim(t *testing.T) {
	ctx := t.Context()
	s := network.NewSim("br0", "br1")
	b, err := s.Ensure(ctx, &api.Network{Name: "lan", Type: "bridge", Bridge: "br1"})
	must.NoError(t, err)
	must.Eq(t, "br1", b)
	_, err = s.Ensure(ctx, &api.Network{Name: "lan", Type: "bridge", Bridge: "br2"})
	must.Eq(t, api.CodeNetwork, api.CodeOf(err))
	nat := &api.Network{Name: "n", Type: "nat"}
	b, err = s.Ensure(ctx, nat)
	must.NoError(t, err)
	list, err := s.Bridges(ctx)
	must.NoError(t, err)
	must.Eq(t, []string{"br0", "br1", b}, list)
	s.Lease("52:54:00:00:00:01", "10.76.0.9")
	addrs, err := s.Addresses(ctx, nat, "52:54:00:00:00:01")
	must.NoError(t, err)
	must.Eq(t, []string{"10.76.0.9"}, addrs)
	must.NoError(t, s.Remove(ctx, nat))
	must.NoError(t, s.Remove(ctx, nat))
	_, err = s.Ensure(ctx, &api.Network{Name: "n", Type: "?"})
	must.Error(t, err)
	boom := errors.New("boom")
	s.SetError(boom)
	_, err = s.Ensure(ctx, nat)
	must.ErrorIs(t, err, boom)
	must.ErrorIs(t, s.Remove(ctx, nat), boom)
	must.NoError(t, s.Close())
}
