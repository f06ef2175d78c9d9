package client

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/fingerprint"
	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/agent/network"
	"github.com/novacron/novacron/api"
)

func withNetwork(name string) func(*api.Order) {
	return func(o *api.Order) {
		o.Spec.NICs = []api.NIC{{Network: name}}
		o.Networks = []*api.Network{{Name: name, Type: "nat"}}
	}
}

func (b *bed) bridges(want ...string) {
	b.t.Helper()
	have, err := b.nets.Bridges(b.t.Context())
	must.NoError(b.t, err)
	names := []string{"br0"}
	for _, n := range want {
		names = append(names, network.BridgeName(n))
	}
	must.SliceContainsAll(b.t, names, have)
}

func TestANetworkGoesWithItsLastVM(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		_, err := b.nets.Ensure(t.Context(), &api.Network{Name: "left", Type: "nat"}) // by an agent before
		must.NoError(t, err)
		b.srv.do(func() { b.srv.noStreams = true })
		b.start()
		b.sleep(time.Minute)
		b.bridges("left") // the servers have not spoken
		b.srv.do(func() { b.srv.noStreams = false })
		b.sleep(30 * time.Second)
		b.bridges()

		b.srv.order(vm1, withNetwork("a"))
		b.srv.order(vm2, withNetwork("a"))
		b.bridges("a")
		b.srv.bury(vm1, true)
		b.bridges("a")
		b.srv.order(vm2, func(o *api.Order) { o.Desired, o.Force = api.PowerStopped, true })
		b.restart()
		b.bridges("a") // a stopped VM has an order
		b.srv.do(func() { clear(b.srv.orders) })
		b.restart()
		b.bridges("a") // absence means nothing
		b.nets.SetError(errors.New("busy"))
		b.srv.do(func() { b.srv.orders[vm2] = &api.Order{VMID: vm2, Epoch: 1} })
		b.srv.bury(vm2, true)
		b.expect(vm2, api.StateAbsent)
		b.nets.SetError(nil)
		b.bridges("a")
		b.sleep(2 * time.Minute)
		b.bridges()
	})
}

func TestANetworkThatIsInUseStays(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		_, release, err := b.c.ensureNetwork(t.Context(), &api.Network{Name: "a", Type: "nat"})
		must.NoError(t, err)
		must.NoError(t, b.c.pruneNetworks())
		b.bridges("a")
		release()
		release()
		must.NoError(t, b.c.pruneNetworks())
		b.bridges()
		_, _, err = b.c.ensureNetwork(t.Context(), &api.Network{Name: "a", Type: "?"})
		must.Error(t, err)
		must.MapEmpty(t, b.c.networks.used)
	})
}

// What the machine has is not what VMs may use.
func TestTheNetworkOfAGuestThatIsToComeInStays(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		_, err := b.nets.Ensure(t.Context(), &api.Network{Name: "a", Type: "nat"})
		must.NoError(t, err)
		o := &api.Order{VMID: vm1, Epoch: 2, Spec: &api.VMSpec{}}
		withNetwork("a")(o)
		b.c.give(&api.OrderBatch{Moves: []*api.MoveOrder{{
			Migration: &api.Migration{ID: api.ID{7}, VMID: vm1, From: api.ID{0xbb}, To: node1, Epoch: 1, Mode: api.MigrateLive, Phase: api.MigrationProposed}, VM: o,
		}}}, 0)
		b.rest()
		must.NoError(t, b.c.pruneNetworks())
		b.bridges("a")
	})
}

func TestNoBridgeIsOfferedThatIsNotKnownToBeAllowed(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.change = func(c *Config) {
			facts := c.Facts
			c.Facts = func(ctx context.Context) (*fingerprint.Facts, error) {
				f, err := facts(ctx)
				f.Bridges = []string{"br0", "secret"}
				return f, err
			}
		}
		b.nets.SetError(errors.New("ip(8) failed"))
		b.start()
		must.SliceEmpty(t, b.srv.registers[0].Node.Networks)
		b.nets.SetError(nil)
		b.sleep(time.Minute)
		must.Eq(t, []string{"br0"}, b.srv.registers[1].Node.Networks)
	})
}
