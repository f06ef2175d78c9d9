package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/go-metrics/compat"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/lease"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
	"github.com/novacron/novacron/scheduler"
)

// hostWatch is the leader's duty that declares hosts lost whose lease is over.
// It lives for one term: what the leader before it saw does not count.
type hostWatch struct {
	s *Server
	// took is when this leader declared nodes lost by their lease, for the brake.
	took map[api.ID]time.Duration
}

// dutyHosts looks at the leases once a second.
func (s *Server) dutyHosts(ctx context.Context) error {
	w := &hostWatch{s: s, took: map[api.ID]time.Duration{}}
	return every(ctx, livenessTick, nil, w.check)
}

// leaseWait is the W of a node: after so much silence nothing that is armed runs
// there any more.
func leaseWait(cfg api.HAConfig, n *api.Node) time.Duration {
	return max(lease.Default.Wait(n.Guard == api.GuardWatchdog), cfg.Wait.D())
}

// haBlocked says why leases do not count now, or "".
func (s *Server) haBlocked(st *fsm.State) string {
	cfg := st.HAConfig()
	switch expect := st.SchedulerConfig().Expect; {
	case st.Recovery() != nil:
		return "the region is in recovery after a restore"
	case cfg.Disarmed:
		return "HA is disarmed by an operator"
	case cfg.Hold != nil:
		return "restarts are held back: " + cfg.Hold.Reason
	case int32(s.sched.voters()) < expect:
		return fmt.Sprintf("fewer than %d servers vote", expect)
	}
	return ""
}

func (w *hostWatch) check(ctx context.Context) error {
	if err := w.settle(); err != nil {
		return err
	}
	s, st := w.s, w.s.fsm.State()
	cfg := st.HAConfig()
	over, silent, nodes := w.survey(st)
	storm := lease.Storm(silent, nodes)
	if err := w.brake(ctx, cfg, storm, len(over) > 0, silent, nodes); err != nil {
		return err
	}
	held := float32(0)
	if cfg.Hold != nil {
		held = 1
	}
	metrics.SetGauge([]string{"ha", "hold"}, held)
	if storm || s.haBlocked(s.fsm.State()) != "" {
		return nil
	}
	for _, n := range over {
		if err := w.lose(ctx, n, leaseWait(cfg, n)); err != nil {
			return err
		}
	}
	return nil
}

// survey finds the nodes whose wait is over, and counts those that are silent,
// or were until they were declared lost a moment ago, among all.
func (w *hostWatch) survey(st *fsm.State) (over []*api.Node, silent, nodes int) {
	cfg, now := st.HAConfig(), w.s.cfg.Clock()
	for n := range st.Nodes() {
		if n.Status == api.NodeLost {
			if at, ok := w.took[n.ID]; ok && now-at < leaseWait(cfg, n) {
				silent, nodes = silent+1, nodes+1
			} else {
				delete(w.took, n.ID)
			}
			continue
		}
		delete(w.took, n.ID)
		d, _ := w.s.leases.silent(n.ID)
		if n.Status == api.NodeLeft && !holdsArmed(st, n.ID) {
			continue
		}
		nodes++
		if d <= suspectAfter {
			continue
		}
		silent++
		if fsm.GuardUsable(st, n) && d >= leaseWait(cfg, n) {
			over = append(over, n)
		}
	}
	return over, silent, nodes
}

// holdsArmed reports whether a node has a VM of which it said that it is armed.
func holdsArmed(st *fsm.State, node api.ID) bool {
	for p := range st.PlacementsOn(node) {
		if p.Armed {
			return true
		}
	}
	return false
}

// brake holds restarts back when too many nodes fell silent together: that is
// more often the servers' own network. It lets go when they are back.
func (w *hostWatch) brake(ctx context.Context, cfg api.HAConfig, storm, due bool, silent, nodes int) error {
	next := cfg
	switch {
	case storm && due && cfg.Hold == nil && !cfg.Disarmed:
		next.Hold = &api.HAHold{Storm: true, Reason: fmt.Sprintf("%d of %d nodes are silent: the fault may lie with the servers' network", silent, nodes), By: "the leader"}
		w.s.log.Error("the storm brake holds restarts back", "silent", silent, "nodes", nodes)
	case !storm && cfg.Hold != nil && cfg.Hold.Storm:
		next.Hold = nil
		w.s.log.Info("the storm brake lets go", "silent", silent, "nodes", nodes)
	default:
		return nil
	}
	_, err := w.s.Apply(ctx, &fsm.HASet{Config: next, CheckIndex: &cfg.ModifyIndex})
	if api.CodeOf(err) == api.CodeConflict {
		return nil // an operator was faster
	}
	return err
}

// lose commits that a host is lost. From before the proposal until its outcome is
// known no beat of the host is acknowledged.
func (w *hostWatch) lose(ctx context.Context, n *api.Node, wait time.Duration) error {
	s := w.s
	if !s.leases.lose(n.ID, wait) {
		return nil // heard in this moment
	}
	silent, _ := s.leases.silent(n.ID)
	reg := s.fsm.State().Registration(n.ID)
	res, err := s.Apply(ctx, &fsm.HostLost{NodeID: n.ID, Session: reg.SessionID, Registered: reg.Index, Evidence: api.Evidence{
		Kind: api.EvidenceLease, BootID: n.BootID, Term: s.raft.CurrentTerm(), Silent: api.Duration(silent.Round(time.Millisecond)), Wait: api.Duration(wait),
	}})
	switch {
	case err == nil:
		w.took[n.ID] = s.cfg.Clock()
		metrics.IncrCounter([]string{"ha", "lost"}, 1)
		s.log.Warn("a host is lost: its lease is over", "node", n.Name, "silent", silent, "wait", wait)
		return nil
	}
	s.unlose(n.ID, res)
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

// settle finds out what became of losses whose outcome was not known: after a
// barrier, all that this leader ever proposed is applied or never will be.
func (w *hostWatch) settle() error {
	ids := w.s.leases.doubtful()
	if len(ids) == 0 {
		return nil
	}
	if !w.s.enter() {
		return errNotLeading()
	}
	defer w.s.wg.Done()
	if err := w.s.raft.Barrier(barrierTimeout).Error(); err != nil {
		return err
	}
	for _, id := range ids {
		w.s.leases.spare(id) // what was committed is in the state, and refused there
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
			h.Wait = api.Duration(leaseWait(out.Config, n))
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
