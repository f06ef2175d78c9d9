package scheduler

import (
	"slices"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// Failover works out for each node what would become of its VMs with ha =
// restart if it were lost now, all others being as they are (N+1): it returns
// those that would fit nowhere, by node, and which check the nearest node fails.
// The VMs are tried in the order in which they would be restarted.
func Failover(s *fsm.State) map[api.ID][]api.HAStranded {
	homes := map[api.ID][]*api.VM{}
	for p := range s.Placements() {
		if vm := s.VM(p.VMID); vm != nil && vm.Spec.HA.Policy == api.HARestart && vm.Power != api.PowerStopped {
			homes[p.NodeID] = append(homes[p.NodeID], vm)
		}
	}
	if len(homes) == 0 {
		return nil
	}
	out := map[api.ID][]api.HAStranded{}
	e := NewEngine(s).(*engine)
	for node, vms := range homes { // in any order: each is worked out by itself
		if i, ok := e.cols.index[node]; ok {
			if lost := e.failover(i, vms); len(lost) > 0 {
				out[node] = lost
			}
		}
	}
	return out
}

// failover places the VMs of a node elsewhere, in the overlay, and takes all of
// it back.
func (e *engine) failover(home int32, vms []*api.VM) (stranded []api.HAStranded) {
	slices.SortFunc(vms, func(a, b *api.VM) int {
		x, y := ItemOf(a), ItemOf(b)
		if x.before(&y) {
			return -1
		}
		return 1
	})
	open := e.cols.usable.has(home)
	e.close(home, false)
	var all []api.ID
	for _, vm := range vms { // they run there no more, and keep nobody away
		all = append(all, vm.ID)
		e.overlay[vm.ID] = &pledge{node: unpinned, gone: true}
		e.peers.put(vm.ID, nil, -1)
	}
	for _, vm := range vms {
		r := e.requestOf(vm, e.state.DiskVolumes(vm))
		i, _ := e.choose(&r)
		if i < 0 {
			stranded = append(stranded, api.HAStranded{Namespace: vm.Namespace, Name: vm.Name, Short: e.waiter(&r).Failed()})
			continue
		}
		e.promise(vm.ID, i, r.class, true)
	}
	e.Settle(all...)
	e.flush()
	e.close(home, open)
	return stranded
}

// close takes a node out of what may be chosen, or brings it back.
func (e *engine) close(i int32, open bool) {
	e.cols.usable.put(i, open)
	e.cols.log.add(i, len(e.cols.ids))
}
