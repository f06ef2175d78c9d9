package cluster

import (
	"fmt"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/lease"
	"github.com/novacron/novacron/fsm"
)

// haVM tells of a VM that is to run and may not, because of its node: why it is
// not restarted yet, and when it will be. False: nothing of that kind.
func (s *Server) haVM(st *fsm.State, vm *api.VM, p *api.Placement, n *api.Node) (api.HAVM, bool) {
	out := api.HAVM{ID: vm.ID, Namespace: vm.Namespace, Name: vm.Name, Node: n.Name, Policy: vm.Spec.HA.Policy, Priority: vm.Spec.Priority, Armed: p.Armed}
	switch n.Status {
	case api.NodeSuspect, api.NodeLost:
	case api.NodeLeft:
		if !p.Armed {
			return out, false
		}
	default:
		return out, false
	}
	if vm.Deleting || vm.Power == api.PowerStopped {
		return out, false
	}
	why, in := s.restartWhy(st, vm, p, n)
	out.Why, out.In = why, api.Duration(in)
	return out, true
}

// never: not restarted elsewhere without somebody's doing.
const never = -1 * time.Second

// restartWhy says why a VM of a node that does not answer is not restarted yet,
// and how long until it may be, if nothing more is heard of the node.
func (s *Server) restartWhy(st *fsm.State, vm *api.VM, p *api.Placement, n *api.Node) (string, time.Duration) {
	cfg := st.HAConfig()
	silent, _ := s.leases.silent(n.ID)
	confirm := fmt.Sprintf("if its machine is off for certain, say so: novacron operator node fence-confirm %s", n.Name)
	switch {
	case vm.Spec.HA.Policy == api.HANone:
		return "ha = none: it is not restarted, neither here nor elsewhere", never
	case p.Fenced != "":
		if err := fsm.Restartable(st, vm, p); err != nil {
			return err.Message, never
		}
		return s.noRoomWhy(vm)
	case vm.Spec.HA.Policy != api.HARestart:
		return fmt.Sprintf("ha = keep: it may run on there, and is restarted elsewhere only with evidence; %s", confirm), never
	case !p.Armed:
		return fmt.Sprintf("node %s has not said that the VM is armed at its guard, so the end of the lease proves nothing; %s", n.Name, confirm), never
	case n.Status == api.NodeLost:
		return fmt.Sprintf("the evidence about node %s does not cover it; %s", n.Name, confirm), never
	case !fsm.GuardUsable(st, n):
		return fmt.Sprintf("node %s has a guard of class %q, and fencing is %q; %s", n.Name, n.Guard, orElse(cfg.Fencing, api.FencingWatchdog), confirm), never
	}
	if why := s.haBlocked(st); why != "" {
		return why, never
	}
	if !s.IsLeader() { // a stale read: this server has heard no beat of any node
		return fmt.Sprintf("node %s is silent; when its lease is over the VM is restarted elsewhere, and only the leader knows when that is", n.Name), never
	}
	left := max(lease.WaitOf(cfg, n)-silent, 0)
	return fmt.Sprintf("node %s has been silent for %s; its lease and the wait after it end in %s, then the VM is restarted elsewhere",
		n.Name, silent.Round(time.Second), left.Round(time.Second)), left
}

// noRoomWhy says what keeps a VM from its restart for which there is evidence.
func (s *Server) noRoomWhy(vm *api.VM) (string, time.Duration) {
	x := s.sched.explain(vm)
	if x.Node != "" {
		return "it is about to be restarted on node " + x.Node, 0
	}
	if len(x.Nodes) == 0 {
		return "it is restarted as soon as there is a node", never
	}
	var why []string
	for _, v := range x.Nodes[:min(len(x.Nodes), 3)] { // those that come nearest are first
		why = append(why, fmt.Sprintf("node %s: %s", v.Node, v.Reason))
	}
	return fmt.Sprintf("it is restarted as soon as a node can take it; now %s (%s)", countsOf(x.Counts), strings.Join(why, "; ")), never
}
