package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

const (
	drainAttempts = 3                // moves of one VM in one drain
	drainRetry    = 10 * time.Second // before the next one, times the number of those that failed
	drainTick     = time.Second
	drainRate     = 16 * api.MiB // in a second: what a move must give at least
	drainQueue    = 64           // moves of a node that wait in the queue at once
)

// drainPlan is what follows for a node that is to be empty. It is made of the
// state and the time alone.
type drainPlan struct {
	moves []*api.Migration // to be queued, without ids
	stops []*fsm.VMPower   // VMs to be stopped
	done  bool             // the node has said itself that nothing is left
	items []api.DrainItem  // what is and was done about each VM
}

// planDrain decides about the VMs of a node.
func planDrain(st *fsm.State, n *api.Node, now time.Time) drainPlan {
	d := drainer{st: st, n: n, drain: n.Drain, now: now}
	d.over = d.drain.Deadline != 0 && !now.Before(d.drain.Deadline.Time())
	var ps []*api.Placement
	for p := range st.PlacementsOn(n.ID) {
		ps = append(ps, p)
	}
	prio := func(p *api.Placement) int32 {
		if vm := st.VM(p.VMID); vm != nil {
			return vm.Spec.Priority
		}
		return 0
	}
	slices.SortFunc(ps, func(a, b *api.Placement) int {
		return cmp.Or(cmp.Compare(prio(b), prio(a)), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.VMName, b.VMName), slices.Compare(a.VMID[:], b.VMID[:]))
	})
	for m := range st.MigrationsFrom(n.ID) {
		if m.Phase == api.MigrationQueued && m.Cause == api.CauseDrain {
			d.queued++
		}
	}
	for _, p := range ps {
		d.vm(p)
	}
	d.elsewhere()
	d.plan.done = !slices.ContainsFunc(d.plan.items, func(i api.DrainItem) bool { return i.Left() })
	return d.plan
}

// drainer makes one plan.
type drainer struct {
	st     *fsm.State
	n      *api.Node
	drain  *api.NodeDrain
	now    time.Time
	over   bool // the deadline has passed
	queued int
	plan   drainPlan
}

func (d *drainer) item(p *api.Placement, state, format string, args ...any) *api.DrainItem {
	d.plan.items = append(d.plan.items, api.DrainItem{VMID: p.VMID, Namespace: p.Namespace, VM: p.VMName, State: state, Why: fmt.Sprintf(format, args...)})
	return &d.plan.items[len(d.plan.items)-1]
}

// vm decides about one VM that is on the node.
func (d *drainer) vm(p *api.Placement) {
	vm := d.st.VM(p.VMID)
	if vm == nil {
		return
	}
	if vm.Deleting {
		d.item(p, api.DrainStopping, "it is being deleted")
		return
	}
	if d.over && d.drain.Force && (vm.Power != api.PowerStopped || p.State.Holds() && !vm.ForceStop) && !d.leaving(vm) {
		d.stop(vm, p, true, "the deadline has passed")
		return
	}
	if m := d.st.MigrationOf(vm.ID); m != nil {
		d.moving(p, m)
		return
	}
	if vm.Power == api.PowerStopped {
		d.stopped(vm, p)
		return
	}
	mode := api.MigrationMode(vm.Spec.Migration.Mode)
	switch {
	case vm.Spec.Migration.Mode == api.MigrateStop:
		d.stop(vm, p, false, "its policy is to be stopped by a drain")
		return
	case mode == "" || mode == api.MigrateCold && vm.Power == api.PowerPaused:
		mode = api.MigrateLive
	}
	m := &api.Migration{Mode: mode, Restart: mode == api.MigrateCold}
	if !m.Restart {
		if err := fsm.Movable(vm, p, mode); err != nil {
			d.item(p, api.DrainWaits, "it is %s: %s", p.State, orElse(strings.TrimSpace(p.Reason+" "+p.Message), "it can be moved when it runs or is stopped"))
			return
		}
	}
	d.move(vm, p, m)
}

// leaving reports whether a VM is past the point at which its move can be ended.
func (d *drainer) leaving(vm *api.VM) bool {
	m := d.st.MigrationOf(vm.ID)
	return m != nil && (m.Phase == api.MigrationCommitted || m.Source.State == api.EndAbsent && m.Mode != api.MigrateCold)
}

// moving tells about a move that is queued or under way.
func (d *drainer) moving(p *api.Placement, m *api.Migration) {
	state := api.DrainMoving
	if m.Phase == api.MigrationQueued {
		state = api.DrainQueued
	}
	it := d.item(p, state, "%s", m.Phase)
	it.Migration, it.To = m.ID, m.ToNode
}

// stopped decides about a VM that is not wanted running.
func (d *drainer) stopped(vm *api.VM, p *api.Placement) {
	local := false
	for _, v := range d.st.DiskVolumes(vm) {
		local = local || v != nil && !v.NodeID.IsZero()
	}
	switch {
	case p.State.Holds():
		d.item(p, api.DrainStopping, "it is %s", p.State)
	case !local:
		d.item(p, api.DrainStopping, "it is stopped and gives up the node")
	case vm.Spec.Migration.Mode == api.MigrateStop:
		d.item(p, api.DrainStays, "its policy is to stay")
	case d.drain.Mode == api.MaintenanceMode:
		d.item(p, api.DrainStays, "what is stopped stays during maintenance")
	case d.over && d.drain.Force:
		d.item(p, api.DrainStays, "it was stopped: the deadline has passed")
	default:
		d.move(vm, p, &api.Migration{Mode: api.MigrateCold})
	}
}

func (d *drainer) stop(vm *api.VM, p *api.Placement, force bool, why string) {
	if vm.Power != api.PowerStopped || force && !vm.ForceStop {
		d.plan.stops = append(d.plan.stops, &fsm.VMPower{ID: vm.ID, Action: api.ActionStop, Force: force})
	}
	d.item(p, api.DrainStopping, "%s", why)
}

// move queues a move, unless it was tried often enough.
func (d *drainer) move(vm *api.VM, p *api.Placement, m *api.Migration) {
	failed, last := 0, (*api.Migration)(nil)
	for o := range d.st.MigrationsOf(vm.ID) {
		if o.Cause == api.CauseDrain && o.From == d.n.ID && o.Phase == api.MigrationAborted && o.CreateTime >= d.drain.StartTime {
			if failed++; last == nil || o.CreateIndex > last.CreateIndex {
				last = o
			}
		}
	}
	state, why := "", ""
	if last != nil {
		why = fmt.Sprintf("attempt %d of %d failed: %s", failed, drainAttempts, orElse(last.Message, "no reason is known"))
	}
	switch {
	case failed >= drainAttempts:
		state = api.DrainFailed
	case d.over:
		state, why = api.DrainFailed, strings.TrimPrefix(why+"; the deadline has passed", "; ")
	case last != nil && d.now.Sub(last.EndTime.Time()) < time.Duration(failed)*drainRetry:
		state = api.DrainWaits
	case d.queued >= drainQueue:
		state, why = api.DrainWaits, "others come first"
	}
	if state != "" {
		if it := d.item(p, state, "%s", why); last != nil {
			it.Migration = last.ID
		}
		return
	}
	d.queued++
	m.VMID, m.Cause, m.Priority = vm.ID, api.CauseDrain, vm.Spec.Priority
	m.Options.Timeout = d.timeout(vm)
	m.Options.Fill(&vm.Spec.Migration)
	d.plan.moves = append(d.plan.moves, m)
	d.item(p, api.DrainQueued, "its move is about to be queued")
}

// timeout gives a large VM more than the default: nobody is there to ask for it.
func (d *drainer) timeout(vm *api.VM) api.Duration {
	size := vm.Spec.Memory
	for _, v := range d.st.DiskVolumes(vm) {
		if v != nil && !v.NodeID.IsZero() {
			size += v.Size
		}
	}
	t := api.Duration(size/drainRate) * api.Duration(time.Second)
	return min(max(t, api.DefaultMigrationTimeout), api.MaxMigrationTimeout)
}

// elsewhere tells about what is on the node though no placement says so, and
// about what was moved away.
func (d *drainer) elsewhere() {
	for t := range d.st.TombstonesOn(d.n.ID) {
		d.plan.items = append(d.plan.items, api.DrainItem{VMID: t.VMID, Namespace: t.Namespace, VM: t.VMName, State: api.DrainStopping, Why: "waits for the node to confirm that it is gone"})
	}
	for o := range d.st.OrphansOn(d.n.ID) {
		d.plan.items = append(d.plan.items, api.DrainItem{VMID: o.VMID, VM: o.VMID.Short(), State: api.DrainFailed, Why: "the node holds a guest that the region does not know; it is left alone"})
	}
	here := func(id api.ID) bool {
		return slices.ContainsFunc(d.plan.items, func(i api.DrainItem) bool { return i.VMID == id })
	}
	for m := range d.st.MigrationsTo(d.n.ID) {
		if m.Phase.Active() && m.Phase != api.MigrationQueued && !here(m.VMID) {
			d.plan.items = append(d.plan.items, api.DrainItem{VMID: m.VMID, Namespace: m.Namespace, VM: m.VMName, State: api.DrainMoving, Migration: m.ID, To: m.ToNode, Why: "it is on its way to this node"})
		}
	}
	newest := map[api.ID]*api.Migration{}
	for m := range d.st.MigrationsFrom(d.n.ID) {
		if o := newest[m.VMID]; (o == nil || m.CreateIndex > o.CreateIndex) && (m.Phase.Active() || m.EndTime >= d.drain.StartTime) {
			newest[m.VMID] = m
		}
	}
	var moved []*api.Migration
	for _, m := range newest {
		if !here(m.VMID) && (m.Phase == api.MigrationDone || m.Phase.Active()) {
			moved = append(moved, m)
		}
	}
	slices.SortFunc(moved, func(a, b *api.Migration) int { return cmp.Compare(a.CreateIndex, b.CreateIndex) })
	for _, m := range moved {
		it := api.DrainItem{VMID: m.VMID, Namespace: m.Namespace, VM: m.VMName, State: api.DrainMoved, Migration: m.ID, To: m.ToNode}
		if m.Phase.Active() {
			it.State, it.Why = api.DrainMoving, string(m.Phase)
		}
		d.plan.items = append(d.plan.items, it)
	}
}
