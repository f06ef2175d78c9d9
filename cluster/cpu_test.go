package cluster

import (
	"errors"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/scheduler"
	"github.com/shoenig/test/must"
)

// gives makes a node list CPU models.
func gives(models ...string) func(*api.Node) {
	return func(n *api.Node) {
		n.Drivers[0].CPUModels = models
		n.Attributes = n.Attributes.Set("cpu.arch", "amd64")
	}
}

func TestCPUModelsOfARegion(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	spec := func(name, model string) api.VMSpec {
		s := testSpec(name)
		s.CPU.Model = model
		return s
	}
	n1 := r.working("n1", gives("Haswell", "Nehalem"))
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: spec("web", api.ModelBaseline)})
	web := r.vm("web", "running")
	must.Eq(t, "Haswell", web.Placement.CPUModel)
	must.Eq(t, n1.node.ID, web.Placement.NodeID)

	_, err := call[api.VMApplied](r, r.leader(), "VM.Apply", &api.VMApply{Spec: spec("odd", "Haswel")})
	must.ErrorIs(t, err, code(api.CodeInvalid))
	var e *api.Error
	must.True(t, errors.As(err, &e))
	must.StrContains(t, e.Hint, "Haswell, Nehalem")
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: spec("new", "EPYC-Milan")})
	why := r.vm("new", "pending")
	must.StrContains(t, why.Why[0], scheduler.FailCPUModel)

	// A node that lacks the model joins: what runs keeps it, and cannot go there.
	r.working("n2", gives("Nehalem"))
	must.Eq(t, "Nehalem", mustCall[api.SchedulerConfigResponse](r, "Operator.SchedulerGet", &api.ListRequest{}).CPUBaselines[0].V)
	must.Eq(t, "Haswell", r.vm("web", "running").Placement.CPUModel)
	dry := mustCall[api.MigrationCreated](r, "Migration.Create", &api.MigrationCreate{VM: "web", DryRun: true})
	must.True(t, dry.Explanation.Chosen.IsZero())
	must.Eq(t, scheduler.FailCPUModel, dry.Explanation.Nodes[0].Failed)
	_, err = call[api.MigrationCreated](r, r.leader(), "Migration.Create", &api.MigrationCreate{VM: "web", To: "n2"})
	must.ErrorIs(t, err, code(api.CodeNoNode))
	must.ErrorContains(t, err, `cannot give the CPU model "Haswell"`)

	// The node is told what was settled, not "baseline".
	st := r.leader().fsm.State()
	o := r.leader().orderOf(st, st.Placement(web.VM.ID))
	must.Eq(t, "Haswell", o.Spec.CPU.Model)
	must.Eq(t, api.ModelBaseline, st.VM(web.VM.ID).Spec.CPU.Model)
}
