package cluster

import (
	"context"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/netconfig"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
	"github.com/novacron/novacron/scheduler"
)

var vmKind = &kindOf[*api.VM]{
	noun: "VM",
	id:   func(v *api.VM) api.ID { return v.ID },
	name: func(v *api.VM) string { return v.Name },
	ns:   func(v *api.VM) string { return v.Namespace },
}

func (s *Server) vmEndpoints() {
	write(s, "VM.Apply", acl.WriteVM, s.vmApply)
	write(s, "VM.Power", acl.PowerVM, s.vmPower)
	write(s, "VM.Revert", acl.WriteVM, s.vmRevert)
	write(s, "VM.Delete", acl.WriteVM, s.vmDelete)
	read(s, "VM.Get", acl.ReadVM, s.vmGet)
	read(s, "VM.List", acl.ReadVM, s.vmList)
	read(s, "VM.Status", acl.ReadVM, s.vmStatus)
	read(s, "VM.Plan", acl.ReadVM, s.vmPlan)
	read(s, "VM.History", acl.ReadVM, s.vmHistory)
	read(s, "VM.Stats", acl.ReadVM, s.vmStats)
	stream(s, rpc.KindAny, "VM.Console", acl.ConsoleVM, s.vmConsole)
}

// findVM finds a VM that the caller may see; one that it may not see is not
// there.
func findVM(ctx context.Context, c acl.Capability, st *fsm.State, ns, key string) (*api.VM, error) {
	return findOf(vmKind, ns, key, allowed(ctx, c), st.VMByName, st.VM, st.VMs())
}

// allowed tells the namespaces in which the caller may do something.
func allowed(ctx context.Context, c acl.Capability) func(ns string) bool {
	id := rpc.IdentityFrom(ctx)
	return func(ns string) bool { return id.Allow(c, ns) }
}

// newIDs makes ids for the volumes that the disks of a spec may need.
func newIDs(n int) []api.ID {
	ids := make([]api.ID, n)
	for i := range ids {
		ids[i] = api.NewID()
	}
	return ids
}

// checkSpec refuses what needs more to be read than package api has: constraints
// that the scheduler cannot read, network configurations that no node takes.
func checkSpec(st *fsm.State, spec *api.VMSpec) error {
	if err := netconfig.CheckSpec(spec); err != nil {
		return err
	}
	for _, c := range spec.Constraints {
		if err := scheduler.CheckConstraint(c); err != nil {
			return err
		}
	}
	return checkModel(st, spec.CPU.Model)
}

// checkModel refuses a CPU model that nobody knows. One that is known, and that no
// node can give now, only waits.
func checkModel(st *fsm.State, model string) error {
	if model == "" || model == api.ModelBaseline || model == api.ModelHost || fsm.NamedModel(model) {
		return nil
	}
	var all []string
	for n := range st.Nodes() {
		for _, d := range n.Drivers {
			if slices.Contains(d.CPUModels, model) {
				return nil
			}
			all = append(all, d.CPUModels...)
		}
	}
	if len(all) == 0 {
		return nil // no node has told yet what it can give
	}
	slices.Sort(all)
	all = slices.Compact(all)
	return api.Errorf(api.CodeInvalid, "cpu.model: the CPU model %q is not known", model).
		WithHint("use baseline, host, or what the nodes can give: %s", strings.Join(all[:min(len(all), 40)], ", ")).WithDetail("cpu.model", "%s", model)
}

func (s *Server) vmApply(ctx context.Context, req *api.VMApply) (*api.VMApplied, error) {
	if err := checkSpec(s.fsm.State(), &req.Spec); err != nil {
		return nil, err
	}
	res, err := s.Apply(ctx, &fsm.VMApply{
		ID: api.NewID(), Spec: req.Spec, VolumeIDs: newIDs(len(req.Spec.Disks)), Power: req.Power, CheckIndex: req.CheckIndex,
	})
	if err != nil {
		return nil, err
	}
	out, err := applied(res)
	if err == nil {
		out.Warnings = s.warnings(s.fsm.State(), &req.Spec)
	}
	return out, err
}

// applied is the answer of a command on a VM; the state machine's own is a
// constant.
func applied(res *fsm.Result) (*api.VMApplied, error) {
	v := value[*api.VMApplied](res)
	if v == nil {
		return nil, api.Errorf(api.CodeNotFound, "the VM does not exist any more")
	}
	out := *v
	out.Index, out.Replayed = res.Index, res.Replayed
	return &out, nil
}

func (s *Server) vmPower(ctx context.Context, req *api.VMPower) (*api.VMApplied, error) {
	vm, err := findVM(ctx, acl.PowerVM, s.fsm.State(), req.Namespace, req.Key)
	if err != nil {
		return nil, err
	}
	res, err := s.Apply(ctx, &fsm.VMPower{ID: vm.ID, Action: req.Action, Force: req.Force, CheckIndex: req.Check})
	if err != nil {
		return nil, err
	}
	return applied(res)
}

func (s *Server) vmRevert(ctx context.Context, req *api.VMRevert) (*api.VMApplied, error) {
	st := s.fsm.State()
	vm, err := findVM(ctx, acl.WriteVM, st, req.Namespace, req.Key)
	if err != nil {
		return nil, err
	}
	disks := 0
	if v := st.VMVersion(vm.ID, req.Version); v != nil {
		disks = len(v.Spec.Disks)
	}
	res, err := s.Apply(ctx, &fsm.VMRevert{ID: vm.ID, Version: req.Version, VolumeIDs: newIDs(disks), CheckIndex: req.Check})
	if err != nil {
		return nil, err
	}
	return applied(res)
}

func (s *Server) vmDelete(ctx context.Context, req *api.DeleteRequest) (*api.WriteMeta, error) {
	return s.remove(ctx, func(st *fsm.State) (fsm.Command, error) {
		vm, err := findVM(ctx, acl.WriteVM, st, req.Namespace, req.Key)
		if err != nil {
			return nil, err
		}
		return &fsm.VMDelete{ID: vm.ID, CheckIndex: req.CheckIndex, Force: req.Force}, nil
	}, &fsm.VMDelete{})
}

func (s *Server) vmGet(ctx context.Context, req *api.GetRequest) (*api.VMResponse, error) {
	resp := &api.VMResponse{}
	return resp, s.query(ctx, &req.QueryOptions, &resp.QueryMeta, func(st *fsm.State, w *fsm.WatchSet) (api.Index, error) {
		vm, err := findVM(ctx, acl.ReadVM, st, req.Namespace, req.Key)
		if err != nil {
			return 0, err
		}
		w.ID(fsm.TableVM, vm.ID)
		resp.VM = vm
		return vm.ModifyIndex, nil
	})
}

func (s *Server) vmList(ctx context.Context, req *api.ListRequest) (*api.VMListResponse, error) {
	resp := &api.VMListResponse{}
	var err error
	resp.Items, err = list(ctx, s, &req.QueryOptions, &resp.QueryMeta, vmKind, acl.ReadVM,
		func(st *fsm.State, ns string) iter.Seq[*api.VM] {
			if ns == "*" {
				return st.VMs()
			}
			return st.VMsIn(ns)
		}, vmStub, fsm.TableVM, fsm.TablePlacement, fsm.TableNode)
	return resp, err
}

func vmStub(st *fsm.State, vm *api.VM) *api.VMStub {
	p := st.Placement(vm.ID)
	ask := fsm.AskOf(&vm.Spec, []*api.Volume{})
	out := &api.VMStub{
		ID: vm.ID, Namespace: vm.Namespace, Name: vm.Name, Labels: vm.Spec.Labels, Power: vm.Power, State: stateOf(vm, p),
		CPU: ask.CPU, Memory: ask.Memory, CreateTime: vm.CreateTime, ModifyIndex: vm.ModifyIndex,
	}
	if p == nil {
		return out
	}
	out.NodeID, out.Epoch, out.Addresses, out.Reason = p.NodeID, p.Epoch, p.Addresses, p.Reason
	out.ModifyIndex = max(vm.ModifyIndex, p.ModifyIndex)
	if n := st.Node(p.NodeID); n != nil {
		out.Node = n.Name
		if n.Status != api.NodeReady && n.Status != api.NodeInit {
			out.Reason = "node " + n.Name + " is " + string(n.Status)
		}
	}
	return out
}

// stateOf is the one word for what a VM does: what its node observes, or that
// it has none.
func stateOf(vm *api.VM, p *api.Placement) string {
	switch {
	case vm.Deleting:
		return "deleting"
	case p != nil && p.State != "":
		return string(p.State)
	case vm.Power == api.PowerStopped:
		return string(api.StateStopped)
	}
	return string(api.StatePending)
}

func (s *Server) vmHistory(ctx context.Context, req *api.VMHistoryRequest) (*api.VMHistoryResponse, error) {
	resp := &api.VMHistoryResponse{}
	return resp, s.query(ctx, &req.QueryOptions, &resp.QueryMeta, func(st *fsm.State, w *fsm.WatchSet) (api.Index, error) {
		vm, err := findVM(ctx, acl.ReadVM, st, req.Namespace, req.Key)
		if err != nil {
			return 0, err
		}
		w.ID(fsm.TableVM, vm.ID)
		resp.Items, resp.NextToken, err = historyPage(slices.Collect(st.VMVersions(vm.ID)), &req.QueryOptions)
		return vm.ModifyIndex, err
	})
}

// historyBytes is the size of a page of versions: their user data is large.
const historyBytes = 4 << 20

// historyPage is a page of versions, newest first, and the token of the next
// one: the version that it begins with.
func historyPage(all []*api.VMVersion, q *api.QueryOptions) (page []*api.VMVersion, next string, err error) {
	from := uint64(math.MaxUint64)
	if q.NextToken != "" {
		if from, err = strconv.ParseUint(q.NextToken, 10, 64); err != nil {
			return nil, "", api.Errorf(api.CodeInvalid, "next_token %q is not one that a history returned", q.NextToken)
		}
	}
	size := 0
	for _, v := range slices.Backward(all) {
		if v.Version > from {
			continue
		}
		size += v.Msgsize()
		if len(page) > 0 && size > historyBytes || q.PerPage > 0 && len(page) == int(q.PerPage) {
			return page, strconv.FormatUint(v.Version, 10), nil
		}
		page = append(page, v)
	}
	return page, "", nil
}

// owner finds the node that a VM is on, for what only that node can answer.
func (s *Server) owner(ctx context.Context, c acl.Capability, ns, key string) (*api.VM, *api.Node, error) {
	st := s.fsm.State()
	vm, err := findVM(ctx, c, st, ns, key)
	if err != nil {
		return nil, nil, err
	}
	p := st.Placement(vm.ID)
	if p == nil {
		return nil, nil, api.Errorf(api.CodeUnplaced, "VM %q is on no node", vm.Name).WithHint("see: novacron vm status %s", vm.Name)
	}
	n := st.Node(p.NodeID)
	if n == nil {
		return nil, nil, api.Errorf(api.CodeUnplaced, "the node of VM %q is not known", vm.Name)
	}
	return vm, n, nil
}

func (s *Server) vmStats(ctx context.Context, req *api.GetRequest) (*api.VMStatsResponse, error) {
	if err := req.Refuse(api.NotNow...); err != nil {
		return nil, err
	}
	vm, n, err := s.owner(ctx, acl.ReadVM, req.Namespace, req.Key)
	if err != nil {
		return nil, err
	}
	resp := &api.VMStatsResponse{}
	ask := &api.GetRequest{QueryOptions: api.QueryOptions{Namespace: vm.Namespace}, Key: vm.ID.String()}
	if err := s.pool.Node(n.ID, n.Address).Call(ctx, "Agent.VMStats", ask, resp); err != nil {
		return nil, err
	}
	resp.QueryMeta = api.QueryMeta{Index: max(vm.ModifyIndex, 1)}
	s.label(&req.QueryOptions, &resp.QueryMeta)
	return resp, nil
}

// vmConsole joins the caller with the console at the VM's node.
func (s *Server) vmConsole(ctx context.Context, req *api.GetRequest, down api.Stream) error {
	vm, n, err := s.owner(ctx, acl.ConsoleVM, req.Namespace, req.Key)
	if err != nil {
		return err
	}
	ask := &api.GetRequest{QueryOptions: api.QueryOptions{Namespace: vm.Namespace}, Key: vm.ID.String()}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	up, err := s.pool.Node(n.ID, n.Address).Open(ctx, "Agent.Console", ask)
	if err != nil {
		return err
	}
	return s.joinStreams(cancel, down, up)
}
