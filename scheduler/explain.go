package scheduler

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// maxVerdicts bounds the nodes that an explanation names; all are counted.
const maxVerdicts = 50

// Explain answers for a state without an engine: on servers that do not lead,
// and for plans.
func Explain(s *fsm.State, vm *api.VM) *api.Explanation {
	return NewEngine(s).Explain(vm)
}

// Explain is part of Engine. A VM that holds capacity on a node is explained as
// if it did not.
func (e *engine) Explain(vm *api.VM) *api.Explanation {
	e.flush()
	out := &api.Explanation{Algo: e.score.Name()}
	home := e.nodeOf(vm.ID)
	if home >= 0 {
		defer e.lift(vm, home)()
	}
	vols := e.volumesOf(vm)
	r := e.requestOf(vm, vols)
	if p := e.state.Placement(vm.ID); Needs(e.state, vm, p) == NeedAdmit {
		r = e.admission(vm, p)
	}
	ask := fsm.AskOf(&vm.Spec, slices.DeleteFunc(vols, func(v *api.Volume) bool { return v == nil }))
	out.Needs = needs(&ask)
	best := int32(-1)
	if r.broken == "" {
		best, out.Score = e.pick(&r)
		if best >= 0 {
			out.Chosen, out.Node = e.cols.ids[best], e.cols.nodes[best].Name
		}
	}
	counts := map[string]int32{}
	e.eachNode(func(i int32, n *api.Node) {
		v := api.NodeVerdict{NodeID: n.ID, Node: n.Name}
		v.Failed, v.Reason = e.verdict(&r, i, n)
		if v.Fits = v.Failed == ""; v.Fits {
			v.Score = r.class.rate(e, i) + r.rules.bonus(i)
		} else {
			counts[v.Failed]++
		}
		out.Nodes = append(out.Nodes, v)
	})
	finish(out, counts)
	return out
}

// needs lists what an ask takes, for an explanation.
func needs(ask *fsm.Ask) []api.DimensionNeed {
	out := []api.DimensionNeed{{Dimension: FailCPU, Need: int64(ask.CPU)}, {Dimension: FailMemory, Need: int64(ask.Memory)}}
	for _, d := range ask.Disk {
		out = append(out, api.DimensionNeed{Dimension: FailDisk + " " + d.Pool, Need: int64(d.Bytes)})
	}
	return out
}

// finish orders the verdicts of an explanation, cuts them off and counts them.
func finish(out *api.Explanation, counts map[string]int32) {
	for i := range out.Nodes {
		if v := &out.Nodes[i]; v.Fits && v.NodeID == out.Chosen {
			v.Reason = "the best of the nodes that fit"
		}
	}
	slices.SortFunc(out.Nodes, func(a, b api.NodeVerdict) int { return order(&a, &b, out.Chosen) })
	if len(out.Nodes) > maxVerdicts {
		out.Nodes = slices.Clip(out.Nodes[:maxVerdicts])
	}
	for f, n := range counts {
		out.Counts = append(out.Counts, api.VerdictCount{Failed: f, Nodes: n})
	}
	slices.SortFunc(out.Counts, func(a, b api.VerdictCount) int {
		return cmp.Or(cmp.Compare(b.Nodes, a.Nodes), cmp.Compare(a.Failed, b.Failed))
	})
}

// order: the chosen node, then those that fit by score, then the rest by how far
// they came, then by name.
func order(a, b *api.NodeVerdict, chosen api.ID) int {
	if a.Fits != b.Fits {
		if a.Fits {
			return -1
		}
		return 1
	}
	if a.Fits {
		if a.NodeID == chosen || b.NodeID == chosen {
			if a.NodeID == chosen {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.Node, b.Node))
	}
	return cmp.Or(cmp.Compare(stage(b.Failed), stage(a.Failed)), cmp.Compare(a.Node, b.Node))
}

// stages lists the checks in the order in which they are made.
var stages = []string{
	FailSpec, FailNode, FailVolume, FailEligibility, FailDatacenter, FailDriver, FailCPUModel, FailNetwork, FailPool, FailGuard, FailConstraint,
	FailAffinity, FailMigrate, FailDisk, FailMemory, FailCPU, FailBusy,
}

func stage(failed string) int { return slices.Index(stages, failed) }

// verdict returns the first check that a node fails and why, or empty texts.
func (e *engine) verdict(r *request, i int32, n *api.Node) (failed, reason string) {
	switch {
	case r.broken != "":
		return r.why, r.broken
	case r.pin != unpinned && r.pin != i && r.why == FailNode:
		return FailNode, fmt.Sprintf("the VM is kept on %s by its disks", e.cols.nodes[r.pin].Name)
	case r.pin != unpinned && r.pin != i:
		return FailVolume, fmt.Sprintf("its volumes are on %s", e.cols.nodes[r.pin].Name)
	}
	open := usable
	if r.class.stay || r.cordoned {
		open = inReach
	}
	if reason := open(n); reason != "" {
		return FailEligibility, reason
	}
	if failed, reason := r.class.filter.check(n); failed != "" {
		return failed, reason
	}
	if reason := r.rules.why(i); reason != "" {
		return FailAffinity, reason
	}
	c, cols := r.class, &e.cols
	for k := range c.disks {
		if d := &c.disks[k]; !d.col.takes(i, d.need) {
			return FailDisk, fmt.Sprintf("needs %s in pool %q, %s free of %s",
				api.Bytes(d.need), d.pool, free(d.col.at(i)), api.Bytes(d.col.total[i]))
		}
	}
	if have := cols.memFree[i]; have < c.need.Memory {
		return FailMemory, fmt.Sprintf("needs %s, %s free of %s", api.Bytes(c.need.Memory), free(have), api.Bytes(cols.memCap[i]))
	}
	if have := cols.cpuFree[i]; have < c.need.CPU {
		return FailCPU, fmt.Sprintf("needs %s cores, %s free of %s",
			api.MilliCPU(c.need.CPU), api.MilliCPU(max(have, 0)), api.MilliCPU(cols.cpuCap[i]))
	}
	return "", ""
}

// free writes an amount that may be below zero when a node gives out less than
// it did.
func free(n int64) api.Bytes { return api.Bytes(max(n, 0)) }
