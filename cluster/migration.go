package cluster

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/moves"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
	"github.com/novacron/novacron/scheduler"
)

const (
	progressTimeout = time.Second      // for the source's word on how far it is
	measureTimeout  = 15 * time.Second // for a forecast's measurements
	cancelRetries   = 5
	progressKept    = time.Minute // the source is asked how it went for so long
)

var migrationKind = &kindOf[*api.Migration]{
	noun:  "migration",
	id:    func(m *api.Migration) api.ID { return m.ID },
	name:  func(m *api.Migration) string { return m.VMName },
	ns:    func(m *api.Migration) string { return m.Namespace },
	order: func(m *api.Migration) string { return fmt.Sprintf("%020d", ^m.CreateIndex) }, // the newest first
}

func (s *Server) migrationEndpoints() {
	write(s, "Migration.Create", acl.WriteVM, s.migrationCreate)
	write(s, "Migration.Cancel", acl.WriteVM, s.migrationCancel)
	write(s, "Migration.Update", acl.WriteVM, s.migrationUpdate)
	read(s, "Migration.Get", acl.ReadVM, s.migrationGet)
	read(s, "Migration.List", acl.ReadVM, s.migrationList)
}

// migrationCreate queues a move, after everything that can be known before
// anything is touched was checked.
func (s *Server) migrationCreate(ctx context.Context, req *api.MigrationCreate) (*api.MigrationCreated, error) {
	st := s.fsm.State()
	vm, err := findVM(ctx, acl.WriteVM, st, req.Namespace, req.VM)
	if err != nil {
		return nil, err
	}
	m, err := newMigration(st, vm, req)
	if err != nil {
		return nil, err
	}
	p := st.Placement(vm.ID)
	if req.DryRun {
		return s.forecastMove(ctx, st, vm, p, m)
	}
	out := &api.MigrationCreated{}
	if p != nil && st.MigrationOf(vm.ID) == nil && fsm.Movable(vm, p, m.Mode) == nil {
		// What was done before, under the same key, is answered again.
		if out.Explanation, err = s.moveRefused(st, vm, m); err != nil && !st.Remembers(s.meta(ctx).Idem) {
			return nil, err
		}
	}
	res, err := s.Apply(ctx, &fsm.MigrationCreate{Migration: *m})
	if err != nil {
		return nil, err
	}
	out.Index, out.Replayed, out.Migration = res.Index, res.Replayed, shown(value[*api.Migration](res))
	return out, nil
}

// newMigration fills in what the request leaves to the VM's policy and the
// defaults.
func newMigration(st *fsm.State, vm *api.VM, req *api.MigrationCreate) (*api.Migration, error) {
	m := &api.Migration{
		ID: api.NewID(), VMID: vm.ID, Mode: req.Mode, Options: req.Options, Cause: api.CauseOperator, Priority: req.Priority, Secret: api.NewID(),
	}
	if m.Mode == "" {
		m.Mode = modeOf(vm)
	}
	if m.Priority == 0 {
		m.Priority = vm.Spec.Priority
	}
	m.Options.Fill(&vm.Spec.Migration)
	if req.To != "" {
		n, err := findNode(st, req.To)
		if err != nil {
			return nil, err
		}
		if n.Drain != nil {
			return nil, api.Errorf(api.CodeState, "node %s is being drained", n.Name).WithHint("let it be used again first: novacron node uncordon %s", n.Name)
		}
		m.To, m.ToNode, m.Pinned = n.ID, n.Name, true
	}
	return m, nil
}

// modeOf is how a VM is moved when nobody says how.
func modeOf(vm *api.VM) api.MigrationMode {
	switch {
	case vm.Power == api.PowerStopped:
		return api.MigrateCold
	case vm.Spec.Migration.Mode == string(api.MigrateWarm):
		return api.MigrateWarm
	}
	return api.MigrateLive
}

// moveRefused refuses what cannot work however long it waits: when no node, or
// not the one that was named, could ever take the VM as things are. What lacks
// room or readiness only waits in the queue.
func (s *Server) moveRefused(st *fsm.State, vm *api.VM, m *api.Migration) (*api.Explanation, error) {
	x := s.sched.move(moves.Question(st, vm, m, nil))
	if !x.Chosen.IsZero() {
		return x, nil
	}
	others := 0
	for _, c := range x.Counts {
		switch c.Failed {
		case scheduler.FailEligibility, scheduler.FailAffinity, scheduler.FailDisk, scheduler.FailMemory, scheduler.FailCPU:
			return x, nil
		}
		others += int(c.Nodes)
	}
	if others <= 1 {
		return nil, api.Errorf(api.CodeNoNode, "there is no other node for VM %q", vm.Name).WithHint("join another machine in client mode")
	}
	e := api.Errorf(api.CodeNoNode, "no node can take VM %q", vm.Name).WithHint("a dry run explains each node: novacron vm migrate %s -dry-run", vm.Name)
	for _, v := range x.Nodes {
		if m.Pinned && v.NodeID != m.To {
			continue
		}
		if m.Pinned {
			e = api.Errorf(api.CodeNoNode, "node %s cannot take VM %q: it %s", v.Node, vm.Name, v.Reason)
		}
		if e = e.WithDetail(v.Node, "%s", v.Reason); len(e.Details) == 10 {
			break
		}
	}
	return nil, e
}

// migrationCancel ends a move. Once it is ending, or is over that way, another
// request changes nothing.
func (s *Server) migrationCancel(ctx context.Context, req *api.MigrationCancel) (*api.MigrationCanceled, error) {
	id := rpc.IdentityFrom(ctx)
	// What is canceled twice is canceled once: no key is needed for that.
	call := api.CallFrom(ctx)
	call.IdempotencyKey = ""
	ctx = api.WithCall(ctx, call)
	for try := 1; ; try++ {
		st := s.fsm.State()
		m, err := findMigration(ctx, acl.WriteVM, st, req.Namespace, req.Key)
		if err != nil {
			return nil, err
		}
		switch m.Phase {
		case api.MigrationAborting, api.MigrationAborted:
			return &api.MigrationCanceled{WriteMeta: api.WriteMeta{Index: m.ModifyIndex, Replayed: true}, Migration: shown(m)}, nil
		case api.MigrationCommitted, api.MigrationDone:
			return nil, api.Errorf(api.CodeState, "migration %s is %s: node %s owns the VM", m.ID.Short(), m.Phase, m.ToNode).
				WithHint("to have it back, move it back: novacron vm migrate %s -to %s", m.VMName, m.FromNode)
		}
		by := "canceled"
		if id != nil && id.Name != "" {
			by += " by " + id.Name
		}
		res, err := s.Apply(ctx, &fsm.MigrationStep{ID: m.ID, Phase: m.Phase, Next: api.MigrationAborting, Code: api.CodeCanceled, Message: by})
		if api.CodeOf(err) == api.CodePlacement && try < cancelRetries {
			continue // it went on in the meantime
		}
		if err != nil {
			return nil, err
		}
		return &api.MigrationCanceled{WriteMeta: api.WriteMeta{Index: res.Index}, Migration: shown(value[*api.Migration](res))}, nil
	}
}

// migrationUpdate changes the limits of a move that is under way or waits; the
// source hears of them in its stream of orders.
func (s *Server) migrationUpdate(ctx context.Context, req *api.MigrationUpdate) (*api.MigrationUpdated, error) {
	m, err := findMigration(ctx, acl.WriteVM, s.fsm.State(), req.Namespace, req.Key)
	if err != nil {
		return nil, err
	}
	res, err := s.Apply(ctx, &fsm.MigrationUpdate{ID: m.ID, Bandwidth: req.Bandwidth, MaxDowntime: req.MaxDowntime})
	if err != nil {
		return nil, err
	}
	return &api.MigrationUpdated{WriteMeta: api.WriteMeta{Index: res.Index, Replayed: res.Replayed}, Migration: shown(value[*api.Migration](res))}, nil
}

// findMigration finds a migration by its id or a prefix of it, or by a VM, whose
// active or else newest one is meant.
func findMigration(ctx context.Context, c acl.Capability, st *fsm.State, ns, key string) (*api.Migration, error) {
	allow := allowed(ctx, c)
	newest := func(ms iter.Seq[*api.Migration]) (out *api.Migration) {
		for m := range ms {
			if out == nil || m.CreateIndex > out.CreateIndex {
				out = m
			}
		}
		return out
	}
	vm := st.VMByName(namespaceOf(ns), key)
	if id, err := api.ParseID(key); err == nil && vm == nil {
		vm = st.VM(id)
	}
	if vm != nil && (ns == "" || ns == "*" || vm.Namespace == ns) {
		if !allow(vm.Namespace) {
			return nil, api.Errorf(api.CodeNotFound, "%s %q not found", migrationKind.noun, key)
		}
		if m := newest(st.MigrationsOf(vm.ID)); m != nil {
			return m, nil
		}
		return nil, api.Errorf(api.CodeNotFound, "VM %q was not moved lately", vm.Name)
	}
	none := func(string, string) *api.Migration { return nil }
	return findOf(migrationKind, ns, key, allow, none, st.Migration, st.Migrations())
}

func (s *Server) migrationGet(ctx context.Context, req *api.GetRequest) (*api.MigrationResponse, error) {
	resp := &api.MigrationResponse{}
	err := s.query(ctx, &req.QueryOptions, &resp.QueryMeta, func(st *fsm.State, w *fsm.WatchSet) (api.Index, error) {
		m, err := findMigration(ctx, acl.ReadVM, st, req.Namespace, req.Key)
		if err != nil {
			return 0, err
		}
		w.Of(fsm.TableMigration, m.VMID)
		resp.Migration = shown(m)
		return m.ModifyIndex, nil
	})
	if err != nil {
		return nil, err
	}
	resp.Why = s.moveReasons(s.fsm.State(), resp.Migration)
	resp.Progress = s.progress(ctx, resp.Migration)
	return resp, nil
}

// progress asks the source how far it is; nil when it does not answer at once.
func (s *Server) progress(ctx context.Context, m *api.Migration) *api.MigrationProgress {
	switch m.Phase {
	case api.MigrationCopying, api.MigrationSwitched, api.MigrationCommitted, api.MigrationAborting:
	case api.MigrationDone:
		if s.cfg.Now().Sub(m.EndTime.Time()) > progressKept {
			return nil
		}
	default:
		return nil
	}
	n := s.fsm.State().Node(m.From)
	if n == nil || n.Status != api.NodeReady || n.Unreachable != "" || m.Attempts == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, progressTimeout)
	defer cancel()
	out := &api.MigrationProgress{}
	ask := &api.GetRequest{QueryOptions: api.QueryOptions{Namespace: m.Namespace}, Key: m.ID.String()}
	if err := s.pool.Node(n.ID, n.Address).Call(ctx, "Agent.MoveProgress", ask, out); err != nil {
		return nil
	}
	return out
}

func (s *Server) migrationList(ctx context.Context, req *api.MigrationListRequest) (*api.MigrationListResponse, error) {
	resp := &api.MigrationListResponse{}
	st := s.fsm.State()
	var vm, node api.ID
	if req.VM != "" {
		ns := req.Namespace
		if ns == "*" {
			ns = ""
		}
		v, err := findVM(ctx, acl.ReadVM, st, ns, req.VM)
		if err != nil {
			return nil, err
		}
		vm = v.ID
	}
	if req.Node != "" {
		n, err := findNode(st, req.Node)
		if err != nil {
			return nil, err
		}
		node = n.ID
	}
	all := func(st *fsm.State, _ string) iter.Seq[*api.Migration] {
		return func(yield func(*api.Migration) bool) {
			for m := range st.Migrations() {
				if !vm.IsZero() && m.VMID != vm || !node.IsZero() && m.From != node && m.To != node || req.Active && !m.Phase.Active() {
					continue
				}
				if !yield(m) {
					return
				}
			}
		}
	}
	var err error
	resp.Items, err = list(ctx, s, &req.QueryOptions, &resp.QueryMeta, migrationKind, acl.ReadVM, all,
		func(_ *fsm.State, m *api.Migration) *api.Migration { return shown(m) }, fsm.TableMigration)
	return resp, err
}

// shown is a migration without what only its two ends may know.
func shown(m *api.Migration) *api.Migration {
	if m == nil {
		return nil
	}
	c := *m
	c.Secret = api.ID{}
	return &c
}

// moveText names a migration for people.
func moveText(m *api.Migration) string {
	to := "a node to be chosen"
	if m.ToNode != "" {
		to = "node " + m.ToNode
	}
	return strings.Join([]string{"is being moved", string(m.Mode), "from node", m.FromNode, "to", to}, " ")
}
