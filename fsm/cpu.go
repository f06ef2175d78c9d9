package fsm

import (
	"slices"
	"strings"

	"github.com/novacron/novacron/api"
)

// generations are the CPU models that "baseline" may mean, the newest first, as
// QEMU names them. Of a generation that has them, the variants without TSX (which
// microcode takes away) and with the cures for speculation come first. A name
// that was released keeps its place: every server has to choose alike.
var generations = strings.Fields(`
	EPYC-Genoa SapphireRapids EPYC-Milan Icelake-Server-noTSX Icelake-Server EPYC-Rome Cooperlake
	Cascadelake-Server-noTSX Cascadelake-Server Skylake-Server-noTSX-IBRS Skylake-Server-IBRS Skylake-Server EPYC-IBPB EPYC
	Skylake-Client-noTSX-IBRS Skylake-Client-IBRS Skylake-Client Broadwell-noTSX-IBRS Broadwell-noTSX Broadwell-IBRS Broadwell
	Haswell-noTSX-IBRS Haswell-noTSX Haswell-IBRS Haswell IvyBridge-IBRS IvyBridge Opteron_G5 Opteron_G4 SandyBridge-IBRS
	SandyBridge Westmere-IBRS Westmere Nehalem-IBRS Nehalem Opteron_G3 Penryn Opteron_G2 Conroe Opteron_G1 kvm64 qemu64
	neoverse-v1 neoverse-n1 cortex-a76 cortex-a72 cortex-a57 cortex-a53`)

// NamedModel reports whether a CPU model is one that "baseline" may mean.
func NamedModel(model string) bool { return slices.Contains(generations, model) }

// ListsModels reports whether a hypervisor of a node says which CPU models it
// can give.
func ListsModels(n *api.Node) bool {
	return slices.ContainsFunc(n.Drivers, func(d api.DriverInfo) bool { return len(d.CPUModels) > 0 })
}

// GivesModel reports whether a hypervisor of a node can give a CPU model. One
// that lists none is taken to give all.
func GivesModel(n *api.Node, model string) bool {
	return !ListsModels(n) || slices.ContainsFunc(n.Drivers, func(d api.DriverInfo) bool { return slices.Contains(d.CPUModels, model) })
}

// archOf is the architecture of a node, as its fingerprint names it.
func archOf(n *api.Node) string {
	arch, _ := n.Attributes.Get("cpu.arch")
	return arch
}

// Baselines are the CPU models that "baseline" means for what is started now, by
// architecture: the newest that every node of it can give. Nodes that are only
// silent count, those that are lost or have left do not. It must not be changed.
func (s *State) Baselines() api.Pairs { return s.meta.CPUBaselines }

// baselineOf computes the baseline of an architecture; empty when the nodes have
// no model in common, or none lists any.
func baselineOf(s *State, arch string) string {
	left := generations
	known := false
	for n := range s.Nodes() {
		if archOf(n) != arch || !counts(n) {
			continue
		}
		var both []string
		for _, m := range left {
			if GivesModel(n, m) {
				both = append(both, m)
			}
		}
		left, known = both, true
	}
	if !known || len(left) == 0 {
		return ""
	}
	return left[0]
}

// counts reports whether a node has a say in the baseline.
func counts(n *api.Node) bool {
	return n != nil && !gone(n) && slices.ContainsFunc(n.Drivers, func(d api.DriverInfo) bool { return slices.ContainsFunc(d.CPUModels, NamedModel) })
}

// followNodes keeps the baselines with what a command did to nodes.
func (tx *Txn) followNodes() {
	var archs []string
	for _, u := range tx.log {
		if u.def != anyDef(nodeDef) {
			continue
		}
		old, _ := u.old.(*api.Node)
		now, _ := u.new.(*api.Node)
		for _, a := range tx.unsettled(old, now) {
			if !slices.Contains(archs, a) {
				archs = append(archs, a)
			}
		}
	}
	for _, a := range archs {
		was, _ := tx.s.Baselines().Get(a)
		if b := baselineOf(tx.s, a); b != was {
			tx.setMeta(func(m *MetaRecord) { m.CPUBaselines = setOrDrop(m.CPUBaselines, a, b) })
		}
	}
}

// unsettled returns the architectures whose baseline may be another after a
// change of a node. A node that joins and can give the baseline changes nothing.
func (tx *Txn) unsettled(old, now *api.Node) (archs []string) {
	if counts(old) && !(counts(now) && archOf(old) == archOf(now) && sameModels(old, now)) {
		archs = append(archs, archOf(old))
	}
	if counts(now) && len(archs) == 0 {
		if b, ok := tx.s.Baselines().Get(archOf(now)); !ok || !GivesModel(now, b) {
			archs = append(archs, archOf(now))
		}
	} else if counts(now) && archOf(now) != archs[0] {
		archs = append(archs, archOf(now))
	}
	return archs
}

func sameModels(a, b *api.Node) bool {
	return slices.EqualFunc(a.Drivers, b.Drivers, func(x, y api.DriverInfo) bool { return slices.Equal(x.CPUModels, y.CPUModels) })
}

// setOrDrop returns pairs with another value for a key, without it for "".
func setOrDrop(p api.Pairs, k, v string) api.Pairs {
	out := slices.DeleteFunc(slices.Clone(p), func(q api.Pair) bool { return q.K == k })
	if v != "" {
		out = out.Set(k, v)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// keepModels lets what a hypervisor said that does not answer now stand: that it
// is silent makes no node newer.
func keepModels(old, now *api.Node) {
	if old == nil {
		return
	}
	now.Drivers = slices.Clone(now.Drivers)
	for i := range now.Drivers {
		d := &now.Drivers[i]
		if k := slices.IndexFunc(old.Drivers, func(o api.DriverInfo) bool { return o.Name == d.Name }); k >= 0 && !d.Healthy && len(d.CPUModels) == 0 {
			d.CPUModels = old.Drivers[k].CPUModels
		}
	}
}

// startModel is the CPU model with which a VM that is started on a node now runs:
// it is recorded with the placement, and stays while the guest runs, wherever it
// is moved. Empty leaves it to the node.
func (tx *Txn) startModel(spec *api.VMSpec, n *api.Node) string {
	if m := spec.CPU.Model; m != "" && m != api.ModelBaseline {
		return m
	}
	b, _ := tx.s.Baselines().Get(archOf(n))
	return b
}

// remodel follows a changed spec: like all of it, the model counts from the next
// start on.
func (tx *Txn) remodel(old, vm *api.VM) {
	p := tx.s.Placement(vm.ID)
	if p == nil || old.Spec.CPU.Model == vm.Spec.CPU.Model {
		return
	}
	n := tx.s.Node(p.NodeID)
	if n == nil {
		return
	}
	if m := tx.startModel(&vm.Spec, n); m != p.CPUModel {
		q := *p
		q.CPUModel, q.ModifyIndex = m, tx.index
		placementDef.put(tx, &q)
	}
}
