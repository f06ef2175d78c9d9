package cluster

import (
	"cmp"
	"context"
	"slices"

	"github.com/hashicorp/go-metrics/compat"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/lease"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
	"github.com/novacron/novacron/scheduler"
)

// dutyHosts is the leader's duty that declares hosts lost whose lease is over. It
// looks at the leases once a second.
func (s *Server) dutyHosts(ctx context.Context) error {
	return every(ctx, livenessTick, nil, s.checkHosts)
}

// haBlocked says why leases do not count now, or "".
func (s *Server) haBlocked(st *fsm.State) string { return lease.Blocked(st, s.sched.voters()) }

// checkHosts carries out what follows from the leases (lease.Watch).
func (s *Server) checkHosts(ctx context.Context) error {
	if err := s.settleLosses(); err != nil {
		return err
	}
	st := s.fsm.State()
	plan := s.leases.look(st)
	if err := s.brake(ctx, &plan); err != nil {
		return err
	}
	held := float32(0)
	if st.HAConfig().Hold != nil {
		held = 1
	}
	metrics.SetGauge([]string{"ha", "hold"}, held)
	if plan.Storm || s.haBlocked(s.fsm.State()) != "" {
		return nil
	}
	for _, n := range plan.Over {
		if err := s.loseHost(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// brake commits what the storm brake does.
func (s *Server) brake(ctx context.Context, plan *lease.Plan) error {
	switch {
	case plan.Brake == nil:
		return nil
	case plan.Storm:
		s.log.Error("the storm brake holds restarts back", "silent", plan.Silent, "nodes", plan.Nodes)
	default:
		s.log.Info("the storm brake lets go", "silent", plan.Silent, "nodes", plan.Nodes)
	}
	_, err := s.Apply(ctx, plan.Brake)
	if api.CodeOf(err) == api.CodeConflict {
		return nil // an operator was faster
	}
	return err
}

// loseHost commits that a host is lost. From before the proposal until its outcome
// is known no beat of the host is acknowledged.
func (s *Server) loseHost(ctx context.Context, n *api.Node) error {
	cmd := s.leases.expire(s.fsm.State(), n)
	if cmd == nil {
		return nil // heard in this moment
	}
	cmd.Evidence.Term = s.raft.CurrentTerm()
	res, err := s.Apply(ctx, cmd)
	if err != nil {
		s.unlose(n.ID, res)
		return nil
	}
	s.leases.took(n.ID)
	metrics.IncrCounter([]string{"ha", "lost"}, 1)
	s.log.Warn("a host is lost: its lease is over", "node", n.Name, "silent", cmd.Evidence.Silent, "wait", cmd.Evidence.Wait)
	return nil
}

// unlose follows a loss that failed: one that was refused is never committed. Of
// another the outcome is not known: until it is, no beat is acknowledged.
func (s *Server) unlose(id api.ID, res *fsm.Result) {
	if res != nil {
		s.leases.spare(id)
	} else {
		s.leases.doubt(id)
	}
}

// settleLosses finds out what became of losses whose outcome was not known: after a
// barrier, all that this leader ever proposed is applied or never will be.
func (s *Server) settleLosses() error {
	ids := s.leases.doubtful()
	if len(ids) == 0 {
		return nil
	}
	if !s.enter() {
		return errNotLeading()
	}
	defer s.wg.Done()
	if err := s.raft.Barrier(barrierTimeout).Error(); err != nil {
		return err
	}
	for _, id := range ids {
		s.leases.spare(id) // what was committed is in the state, and refused there
	}
	return nil
}

// haStatus shows the leases of the nodes, who would have no room, and what waits.
func (s *Server) haStatus(ctx context.Context, req *api.ListRequest) (*api.HAStatus, error) {
	if err := req.Refuse(api.NotNow...); err != nil {
		return nil, err
	}
	if !s.IsLeader() {
		return nil, api.Errorf(api.CodeUnsupported, "only the leader knows the leases").WithHint("ask without consistency=stale")
	}
	st := s.fsm.State()
	out := s.haStatusOf(st)
	out.Index = max(st.Index(), 1)
	s.label(&req.QueryOptions, &out.QueryMeta)
	return out, nil
}

func (s *Server) haStatusOf(st *fsm.State) *api.HAStatus {
	l := lease.Default
	out := &api.HAStatus{
		Config: st.HAConfig(), Why: s.haBlocked(st), Lease: api.Duration(l.Lease), Kill: api.Duration(l.Kill),
		Watchdog: api.Duration(l.Watchdog), Heartbeat: api.Duration(l.Heartbeat),
	}
	out.Config.Fencing = cmp.Or(out.Config.Fencing, api.FencingWatchdog)
	out.Active = out.Why == ""
	stranded := scheduler.Failover(st)
	for n := range st.Nodes() {
		d, _ := s.leases.silent(n.ID)
		h := api.HANode{
			ID: n.ID, Name: n.Name, Status: n.Status, Guard: n.Guard, Usable: fsm.GuardUsable(st, n), Silent: api.Duration(d),
			Lost: n.Lost, Stranded: stranded[n.ID],
		}
		if n.Guard != api.GuardNone {
			h.Wait = api.Duration(lease.WaitOf(out.Config, n))
		}
		for p := range st.PlacementsOn(n.ID) {
			vm := st.VM(p.VMID)
			if vm == nil {
				continue
			}
			if vm.Spec.HA.Policy == api.HARestart && vm.Power != api.PowerStopped {
				h.VMs++
			}
			if p.Armed {
				h.Armed++
			}
			if v, ok := s.haVM(st, vm, p, n); ok {
				out.VMs = append(out.VMs, v)
			}
		}
		out.Nodes = append(out.Nodes, h)
	}
	slices.SortFunc(out.Nodes, func(a, b api.HANode) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(out.VMs, func(a, b api.HAVM) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// haControl carries out an operator's order about HA.
func (s *Server) haControl(ctx context.Context, req *api.HAControl) (*api.HAStatus, error) {
	st := s.fsm.State()
	now := st.HAConfig()
	next := now
	next.Fencing = cmp.Or(req.Fencing, now.Fencing)
	if least := lease.Default.Wait(true); req.Wait != 0 {
		if req.Wait.D() < least {
			return nil, api.Errorf(api.CodeInvalid, "the wait must be at least %s: less could start a VM before it has ended where it was", least)
		}
		next.Wait = req.Wait
	}
	switch req.Action {
	case api.HAHoldAction:
		next.Hold = &api.HAHold{Reason: cmp.Or(req.Reason, "an operator holds them back"), By: callerName(ctx)}
	case api.HAResumeAction:
		next.Hold, next.Disarmed = nil, false
	case api.HADisarmAction:
		next.Disarmed = true
	case "":
	default:
		return nil, api.Errorf(api.CodeInvalid, "there is no action %q", req.Action).WithHint("hold, resume or disarm")
	}
	res, err := s.Apply(ctx, &fsm.HASet{Config: next, CheckIndex: &now.ModifyIndex})
	if err != nil {
		return nil, err
	}
	s.log.Warn("HA is changed", "action", req.Action, "fencing", next.Fencing, "wait", next.Wait, "by", callerName(ctx))
	out := s.haStatusOf(s.fsm.State())
	out.Index = res.Index
	return out, nil
}

// callerName names who calls, for records that people read.
func callerName(ctx context.Context) string {
	if id := rpc.IdentityFrom(ctx); id != nil {
		return id.Accessor.String()
	}
	return "an operator"
}
