package scheduler

import (
	"fmt"
	"slices"
	"strings"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// The checks that only a move makes.
const (
	FailMigrate = "migrate" // its hypervisor cannot take the guest over
	FailBusy    = "busy"    // it takes no more moves now
)

// canMigrate is what a driver lists when it moves guests.
const canMigrate = "migrate"

// Move asks where a VM that is placed may be moved. Its local disks move along.
type Move struct {
	VM *api.VM
	// Cold: the VM is stopped and boots anew, so that CPUs need not agree.
	Cold bool
	// To is the only node that will do, also when it is cordoned; zero: any.
	To api.ID
	// Leaving: all VMs leave the node, so that those that have to be together
	// follow the first of them.
	Leaving bool
	// Busy holds nodes that take no more moves now, and why.
	Busy map[api.ID]string
}

// ExplainMove answers for a state without an engine.
func ExplainMove(s *fsm.State, q Move) *api.Explanation { return NewEngine(s).Move(q) }

// Move is part of Engine.
func (e *engine) Move(q Move) *api.Explanation {
	e.flush()
	out := &api.Explanation{Algo: e.score.Name()}
	home := e.nodeOf(q.VM.ID)
	if home >= 0 {
		defer e.lift(q.VM, home)()
	}
	m := mover{e: e, q: q, home: home}
	m.bind(out)
	if m.r.broken == "" {
		m.r.class.catchUp(e)
		m.r.rules.weigh(m.r.class.fitting)
	}
	best := int32(-1)
	counts := map[string]int32{}
	e.eachNode(func(i int32, n *api.Node) {
		v := api.NodeVerdict{NodeID: n.ID, Node: n.Name}
		v.Failed, v.Reason = m.verdict(i, n)
		if v.Fits = v.Failed == ""; v.Fits {
			v.Score = m.score(i)
			if best < 0 || v.Score > out.Score {
				best, out.Score, out.Chosen, out.Node = i, v.Score, n.ID, n.Name
			}
		} else {
			counts[v.Failed]++
		}
		out.Nodes = append(out.Nodes, v)
	})
	finish(out, counts)
	return out
}

// mover judges the nodes for one move.
type mover struct {
	e    *engine
	q    Move
	home int32
	r    request
}

// bind makes the request: what fsm reserves when the move is admitted.
func (m *mover) bind(out *api.Explanation) {
	e, vm := m.e, m.q.VM
	m.r = request{vm: vm, pin: unpinned}
	p := e.state.Placement(vm.ID)
	if p == nil || m.home < 0 {
		m.r.broken, m.r.why = "the VM is on no node", FailSpec
		return
	}
	if n := e.cols.nodes[m.home]; n == nil {
		m.r.broken, m.r.why = "the node of the VM is gone", FailNode
		return
	} else if why := inReach(n); why != "" {
		m.r.broken, m.r.why = fmt.Sprintf("node %s, where the VM is, %s", n.Name, why), FailNode
		return
	}
	vols, ask := e.state.DiskVolumes(vm), fsm.Ask{CPU: p.Reserved.CPU, Memory: p.Reserved.Memory}
	for i, v := range vols {
		switch {
		case v == nil:
			m.r.broken, m.r.why = fmt.Sprintf("disk %q has no volume", vm.Spec.Disks[i].Name), FailVolume
			return
		case v.NodeID.IsZero():
			// Shared: it is where it is, and its pool has to be there too.
		case v.State != api.VolumeReady:
			m.r.broken, m.r.why = fmt.Sprintf("volume %q is %s", v.Name, v.State), FailVolume
			return
		default:
			ask.Add(v.Pool, v.Size)
		}
	}
	out.Needs = needs(&ask)
	if m.r.class, m.r.broken = e.classOf(vm, vols, ask); m.r.broken != "" {
		m.r.why = FailSpec
		return
	}
	m.r.rules = e.rulesOf(vm)
	if m.q.Leaving {
		m.r.rules.leave(m.home)
	}
}

// verdict returns the first check that a node fails, as engine.verdict does.
func (m *mover) verdict(i int32, n *api.Node) (failed, reason string) {
	switch {
	case m.r.broken != "":
		return m.r.why, m.r.broken
	case i == m.home:
		return FailNode, "the VM is there"
	case !m.q.To.IsZero() && n.ID != m.q.To:
		return FailNode, "another node was asked for"
	}
	r := m.r
	r.cordoned = !m.q.To.IsZero()
	if failed, reason = m.e.verdict(&r, i, n); failed != "" && failed != FailDisk && failed != FailMemory && failed != FailCPU {
		return failed, reason
	}
	home := m.e.cols.nodes[m.home]
	if why := canTake(home, n, &m.q); why != "" {
		return FailMigrate, why
	}
	if why := m.otherCPU(home, n); why != "" {
		return FailCPUModel, why
	}
	if failed == "" && m.q.Busy[n.ID] != "" {
		return FailBusy, m.q.Busy[n.ID]
	}
	return failed, reason
}

// score rates a node that fits; one that is cordoned has no score.
func (m *mover) score(i int32) float64 {
	return max(m.r.class.rate(m.e, i), 0) + m.r.rules.bonus(i)
}

// canTake says why a guest that runs on one node cannot go on on another, as far
// as their hypervisors and CPUs decide it.
func canTake(from, to *api.Node, q *Move) string {
	reason := ""
	for i := range from.Drivers {
		d := &from.Drivers[i]
		if !moves(d) {
			continue
		}
		k := slices.IndexFunc(to.Drivers, func(o api.DriverInfo) bool { return o.Name == d.Name && moves(&o) })
		switch {
		case k < 0:
			reason = fmt.Sprintf("has no healthy driver %s that moves guests", d.Name)
		case q.Cold:
			return ""
		case to.Drivers[k].Acceleration != d.Acceleration:
			reason = fmt.Sprintf("runs guests with %s, node %s with %s", to.Drivers[k].Acceleration, from.Name, d.Acceleration)
		default:
			return ""
		}
	}
	if reason == "" {
		reason = fmt.Sprintf("node %s, where the VM is, has no healthy driver that moves guests", from.Name)
	}
	return reason
}

// otherCPU says why a guest that runs cannot go on with a node's CPU: it keeps
// the model that it was started with.
func (m *mover) otherCPU(from, to *api.Node) string {
	p := m.e.state.Placement(m.q.VM.ID)
	if m.q.Cold || p == nil {
		return ""
	}
	model := p.CPUModel
	if model == "" {
		model = m.q.VM.Spec.CPU.Model
	}
	switch model {
	case "", api.ModelBaseline:
		return ""
	case api.ModelHost:
		return sameCPU(from, to)
	}
	if !fsm.GivesModel(to, model) {
		return fmt.Sprintf("cannot give the CPU model %q, with which the guest runs", model)
	}
	return ""
}

// sameCPU: a guest that sees the CPU of its host can go on only on the same one.
func sameCPU(from, to *api.Node) string {
	for _, name := range []string{"cpu.arch", "cpu.vendor", "cpu.model"} {
		a, _ := from.Attributes.Get(name)
		if b, _ := to.Attributes.Get(name); a != b {
			return fmt.Sprintf("has %s = %q, the guest sees that of its host, %q", name, b, a)
		}
	}
	lacks, has := differ(from, to), differ(to, from)
	switch {
	case len(lacks) > 0:
		return "lacks CPU features that the guest sees of its host: " + some(lacks)
	case len(has) > 0:
		return "has CPU features that the guest's host has not: " + some(has)
	}
	return ""
}

// differ returns the CPU features of one node that another has not.
func differ(a, b *api.Node) (out []string) {
	x, _ := a.Attributes.Get("cpu.flags")
	y, _ := b.Attributes.Get("cpu.flags")
	if x == y {
		return nil
	}
	have := strings.Fields(y)
	slices.Sort(have)
	for _, f := range strings.Fields(x) {
		if _, ok := slices.BinarySearch(have, f); !ok {
			out = append(out, f)
		}
	}
	return out
}

// some names the first of many.
func some(names []string) string {
	if len(names) > 5 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:5], ", "), len(names)-5)
	}
	return strings.Join(names, ", ")
}

// moves reports whether a driver moves guests now.
func moves(d *api.DriverInfo) bool { return d.Healthy && slices.Contains(d.Can, canMigrate) }

// arrives reports whether a move counts at its destination for the rules between
// VMs: the VM may be there soon.
func arrives(m *api.Migration) bool {
	if m == nil {
		return false
	}
	switch m.Phase {
	case api.MigrationProposed, api.MigrationPrepared, api.MigrationCopying, api.MigrationSwitched, api.MigrationAborting:
		return !m.To.IsZero()
	}
	return false
}

// followMove marks what a change of a migration touches: what is reserved at the
// destination, and who is on the way there.
func (e *engine) followMove(old, now *api.Migration) {
	for _, m := range []*api.Migration{old, now} {
		if m == nil {
			continue
		}
		for _, d := range m.Disk {
			e.touchPool(m.To, d.Pool)
		}
		e.touch(m.To)
		e.arrived[m.ID] = struct{}{}
	}
	if now != nil && (arrives(old) != arrives(now)) {
		e.moved[now.Namespace] = true
	}
}

// arrive counts a VM that is on its way at its destination too, under the id of
// the move.
func (e *engine) arrive(id api.ID) {
	m := e.state.Migration(id)
	if arrives(m) {
		if i, ok := e.cols.index[m.To]; ok {
			e.arrivals[id] = i
			e.peers.put(id, e.state.VM(m.VMID), i)
			return
		}
	}
	delete(e.arrivals, id)
	e.peers.put(id, nil, -1)
}
