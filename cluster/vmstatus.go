package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/fsm"
	"github.com/novacron/novacron/fsm/event"
)

const statusEvents = 10 // the newest events that a status shows

func (s *Server) vmStatus(ctx context.Context, req *api.GetRequest) (*api.VMStatusResponse, error) {
	resp := &api.VMStatusResponse{}
	err := s.query(ctx, &req.QueryOptions, &resp.QueryMeta, func(st *fsm.State, w *fsm.WatchSet) (api.Index, error) {
		vm, err := findVM(ctx, acl.ReadVM, st, req.Namespace, req.Key)
		if err != nil {
			return 0, err
		}
		w.ID(fsm.TableVM, vm.ID)
		w.ID(fsm.TablePlacement, vm.ID)
		w.Of(fsm.TableVolume, vm.ID)
		w.Of(fsm.TableTombstone, vm.ID)
		w.Of(fsm.TableMigration, vm.ID)
		p := st.Placement(vm.ID)
		*resp = api.VMStatusResponse{VM: vm, Placement: p, State: stateOf(vm, p)}
		index := max(vm.ModifyIndex, 1)
		for v := range st.VolumesOf(vm.ID) {
			resp.Volumes = append(resp.Volumes, v)
			index = max(index, v.ModifyIndex)
		}
		for t := range st.TombstonesOf(vm.ID) {
			index = max(index, t.CreateIndex)
		}
		for m := range st.MigrationsOf(vm.ID) {
			index = max(index, m.ModifyIndex)
		}
		if p != nil {
			index = max(index, p.ModifyIndex)
			if n := st.Node(p.NodeID); n != nil {
				w.ID(fsm.TableNode, n.ID)
				resp.Node = n.Name
				index = max(index, n.ModifyIndex)
			}
		}
		return index, nil
	})
	if err != nil {
		return nil, err
	}
	s.reasons(s.fsm.State(), resp)
	resp.Events = s.recent(resp.VM)
	return resp, nil
}

func (s *Server) recent(vm *api.VM) []*api.Event {
	evs, _, _ := s.events.List(event.Filter{Topics: []string{"*:" + vm.ID.String()}}, 0, statusEvents)
	return evs
}

// reasons says in words why a VM is not as it is wanted.
func (s *Server) reasons(st *fsm.State, r *api.VMStatusResponse) {
	vm, p := r.VM, r.Placement
	why := func(format string, args ...any) { r.Why = append(r.Why, fmt.Sprintf(format, args...)) }
	if rec := st.Recovery(); rec != nil {
		why("the region was restored from a snapshot; nothing starts or stops until these nodes have reported: %s", strings.Join(nodeNames(st, rec.Waiting), ", "))
	}
	if vm.Deleting {
		s.deletingReasons(st, r)
		return
	}
	if m := st.MigrationOf(vm.ID); m != nil {
		why("%s (migration %s is %s)", moveText(m), m.ID.Short(), m.Phase)
		r.Why = append(r.Why, s.moveReasons(st, m)...)
	}
	wanted := vm.Power != api.PowerStopped
	switch {
	case p == nil && wanted:
		s.pendingReasons(st, r)
		return
	case p == nil:
		return
	case wanted && p.Reserved == (api.Resources{}):
		why("the VM waits until node %s has room for it again", r.Node)
		r.Pending = s.sched.explain(vm)
	}
	n := st.Node(p.NodeID)
	switch {
	case n == nil:
		why("the node of the VM is not known any more")
	case n.Status == api.NodeSuspect || n.Status == api.NodeLost || n.Status == api.NodeLeft:
		why("node %s is %s (%s): what is shown is what it said last", n.Name, n.Status, orElse(n.StatusNote, "no reason known"))
		if v, ok := s.haVM(st, vm, p, n); ok {
			why("%s", v.Why)
		}
	case n.Unreachable != "":
		why("node %s cannot be dialed by the servers: %s", n.Name, n.Unreachable)
	}
	for _, v := range r.Volumes {
		if v.State == api.VolumeFailed {
			why("volume %s could not be made: %s", v.Name, v.Error)
		}
	}
	if wanted && (p.State == api.StatePending || p.State == api.StatePreparing) {
		s.imageReasons(st, vm, why)
	}
	s.stateReasons(st, r, why)
}

// stateReasons compares what the node observes with what is wanted.
func (s *Server) stateReasons(st *fsm.State, r *api.VMStatusResponse, why func(string, ...any)) {
	vm, p := r.VM, r.Placement
	said := strings.TrimSpace(p.Reason + " " + p.Message)
	switch p.State {
	case api.StateFailed:
		why("the VM failed on node %s: %s", r.Node, orElse(said, "no reason was reported"))
	case api.StateUnknown:
		why("node %s cannot tell what the VM does: %s", r.Node, orElse(said, "its hypervisor does not answer"))
	case api.StateStopped:
		if p.Desired == api.PowerRunning {
			why("the guest has ended by itself: %s", orElse(said, "no reason was reported"))
		}
	case api.StatePending, api.StatePreparing, api.StateStarting, api.StateStopping:
		if said != "" {
			why("%s on node %s: %s", p.State, r.Node, said)
		} else {
			why("node %s is at work: %s", r.Node, p.State)
		}
	case api.StatePaused:
		if p.Desired == api.PowerRunning && p.Message != "" {
			why("the guest stands still on node %s and cannot go on: %s", r.Node, p.Message)
			why("the node tries again, at least each 30 s; to give up what the guest has in memory, stop it by force and start it: novacron vm stop -force %s", vm.Name)
		}
	case api.StateRunning:
		if p.Desired == api.PowerStopped {
			why("the guest was asked to shut down; it is forced off after %s", vm.Spec.StopTimeout)
		}
	}
	if p.RunningVersion == 0 || p.RunningVersion == vm.SpecVersion || !p.State.Holds() {
		return
	}
	old := st.VMVersion(vm.ID, p.RunningVersion)
	if old == nil {
		r.RestartNeeded = true
	} else if diff, err := diffSpec(&old.Spec, &vm.Spec); err == nil {
		r.RestartNeeded = needsRestart(diff)
	}
	if r.RestartNeeded {
		why("the guest runs with version %d of the spec; version %d takes effect at the next stop and start", p.RunningVersion, vm.SpecVersion)
	}
}

func needsRestart(diff []api.FieldDiff) bool {
	for _, d := range diff {
		if d.RestartNeeded {
			return true
		}
	}
	return false
}

func (s *Server) imageReasons(st *fsm.State, vm *api.VM, why func(string, ...any)) {
	for _, name := range imagesOf(&vm.Spec) {
		im := st.ImageFor(vm.Namespace, name)
		switch {
		case im == nil:
			why("image %q does not exist", name)
		case im.State != api.ImageReady || len(s.withSources(st, im).Sources) == 0:
			why("image %q is on no node that can be reached", name)
		}
	}
}

// imagesOf names the images that a spec needs.
func imagesOf(spec *api.VMSpec) []string {
	var out []string
	for i := range spec.Disks {
		if n := spec.Disks[i].Image; n != "" {
			out = append(out, n)
		}
	}
	if b := spec.Boot; b != nil {
		for _, n := range []string{b.Kernel, b.Initrd} {
			if n != "" {
				out = append(out, n)
			}
		}
	}
	return out
}

func (s *Server) deletingReasons(st *fsm.State, r *api.VMStatusResponse) {
	for t := range st.TombstonesOf(r.VM.ID) {
		name := t.NodeID.String()
		if n := st.Node(t.NodeID); n != nil {
			name = n.Name + " (" + string(n.Status) + ")"
		}
		r.Why = append(r.Why, fmt.Sprintf("waits until node %s has confirmed that the VM is gone there", name))
	}
	for _, v := range r.Volumes {
		if v.State == api.VolumeDeleting {
			r.Why = append(r.Why, fmt.Sprintf("waits until volume %s is removed", v.Name))
		}
	}
}

// pendingReasons explains why a VM has no node.
func (s *Server) pendingReasons(st *fsm.State, r *api.VMStatusResponse) {
	if want, have := int(st.SchedulerConfig().Expect), s.voterCount(); have < want {
		r.Why = append(r.Why, fmt.Sprintf("scheduling is held back until %d servers vote; %d do", want, have))
	}
	e := s.sched.explain(r.VM)
	r.Pending = e
	switch {
	case e == nil:
	case !e.Chosen.IsZero():
		r.Why = append(r.Why, fmt.Sprintf("the VM is about to be placed on node %s", e.Node))
	case len(e.Nodes) == 0:
		r.Why = append(r.Why, "no node has registered")
	default:
		r.Why = append(r.Why, "no node fits: "+countsOf(e.Counts))
		for _, v := range e.Nodes[:min(len(e.Nodes), 5)] {
			if v.Reason != "" {
				r.Why = append(r.Why, fmt.Sprintf("node %s: %s", v.Node, v.Reason))
			}
		}
	}
}

func countsOf(counts []api.VerdictCount) string {
	var parts []string
	for _, c := range counts {
		noun := "nodes"
		if c.Nodes == 1 {
			noun = "node"
		}
		parts = append(parts, fmt.Sprintf("%s removes %d %s", c.Failed, c.Nodes, noun))
	}
	return strings.Join(parts, ", ")
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// voterCount is voters without an error: 0 when Raft is shutting down.
func (s *Server) voterCount() int {
	n, err := s.voters()
	if err != nil {
		return 0
	}
	return n
}

// vmPlan answers what VM.Apply would do: the same command is tried, so that what
// would be refused is refused here.
func (s *Server) vmPlan(ctx context.Context, req *api.VMPlan) (*api.VMPlanned, error) {
	if err := checkSpec(s.fsm.State(), &req.Spec); err != nil {
		return nil, err
	}
	st := s.fsm.State()
	spec := &req.Spec
	old := st.VMByName(spec.Namespace, spec.Name)
	if _, err := s.fsm.Try(&fsm.VMApply{ID: api.NewID(), Spec: *spec, VolumeIDs: newIDs(len(spec.Disks))}); err != nil {
		return nil, err
	}
	out := &api.VMPlanned{QueryMeta: api.QueryMeta{Index: max(st.Index(), 1), KnownLeader: true}, Warnings: s.warnings(st, spec)}
	next := &api.VM{ID: api.NewID(), Namespace: spec.Namespace, Name: spec.Name, Power: api.PowerRunning, SpecVersion: 1}
	var was *api.VMSpec
	if out.Create = old == nil; old != nil {
		c := *old
		next, was, out.CheckIndex = &c, &old.Spec, old.ModifyIndex
	}
	next.Spec = *spec
	var err error
	if out.Diff, err = diffSpec(was, spec); err != nil {
		return nil, err
	}
	if p := st.Placement(next.ID); p != nil && p.State.Holds() {
		out.RestartNeeded = needsRestart(out.Diff)
	} else {
		for i := range out.Diff {
			out.Diff[i].RestartNeeded = false
		}
	}
	out.Explanation = s.sched.explain(next)
	return out, nil
}

// warnings tell what does not stop a write but will not work as it may be meant.
func (s *Server) warnings(st *fsm.State, spec *api.VMSpec) []string {
	var out []string
	warn := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, name := range imagesOf(spec) {
		if im := st.ImageFor(spec.Namespace, name); im != nil && im.State != api.ImageReady {
			warn("image %q is %s", name, im.State)
		}
	}
	if spec.CloudInit == nil {
		for i := range spec.NICs {
			if a := spec.NICs[i].Address; a != "" {
				warn("the address %s has no effect without a cloud_init block, which tells it to the guest", a)
			}
		}
	}
	for i := range spec.Disks {
		if d := &spec.Disks[i]; d.Volume == "" && d.Pool != "" && st.Pool(d.Pool) == nil {
			warn("no node has brought the pool %q", d.Pool)
		}
	}
	if spec.HA.Policy == api.HARestart && s.fsm.State().HAConfig().Disarmed {
		warn("HA is disarmed: the VM is kept on its node as with ha = %q", api.HAKeep)
	}
	return out
}

// joinStreams passes messages both ways until one side ends. down is the
// caller's stream, up the one that was opened for it; cancel ends up.
func (s *Server) joinStreams(cancel context.CancelFunc, down, up api.Stream) error {
	// This half ends when the caller's stream does, which may be only after this
	// function has returned: the server waits for it.
	begun := s.background(func(context.Context) {
		for {
			c := &api.Chunk{}
			if err := down.Recv(c); err != nil {
				if !errors.Is(err, io.EOF) {
					cancel()
				}
				_ = up.CloseSend() // the other half learns what became of it
				return
			}
			if up.Send(c) != nil {
				return
			}
		}
	})
	if !begun {
		return api.Errorf(api.CodeUnreachable, "the server is shutting down").WithHint("ask another server")
	}
	for {
		c := &api.Chunk{}
		if err := up.Recv(c); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := down.Send(c); err != nil {
			return err
		}
	}
}
