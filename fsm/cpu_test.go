package fsm

import (
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// gives registers node i with a hypervisor that lists models.
func (w *world) gives(i int, models ...string) {
	w.t.Helper()
	n := nodeOf(i)
	n.Drivers = []api.DriverInfo{{Name: "qemu", Healthy: len(models) > 0, CPUModels: models}}
	n.Attributes = api.Pairs{{K: "cpu.arch", V: "amd64"}}
	w.ok(&NodeRegister{Node: n, SessionID: id('s', i)})
	w.ok(&NodeStatus{Items: []NodeStatusItem{{NodeID: n.ID, Status: api.NodeReady}}})
}

func (w *world) baseline() string {
	b, _ := w.s().Baselines().Get("amd64")
	return b
}

func (w *world) is(i int, s api.NodeStatus) {
	if s == api.NodeLost {
		w.ok(w.lost(i, api.EvidenceOperator))
		return
	}
	w.ok(&NodeStatus{Items: []NodeStatusItem{{NodeID: id('n', i), Status: s}}})
}

func TestTheBaselineIsTheNewestThatAllNodesGive(t *testing.T) {
	w := region(t, 0)
	must.Eq(t, "", w.baseline())
	w.gives(1, "EPYC", "Nehalem", "qemu64")
	must.Eq(t, "EPYC", w.baseline())
	w.gives(2, "Haswell", "Nehalem", "qemu64")
	must.Eq(t, "Nehalem", w.baseline())
	w.gives(3) // its hypervisor does not answer: it has no say
	must.Eq(t, "Nehalem", w.baseline())
	w.gives(2) // and what it said before stands
	must.Eq(t, "Nehalem", w.baseline())
	w.is(2, api.NodeSuspect)
	must.Eq(t, "Nehalem", w.baseline(), must.Sprint("silence makes no node newer"))
	w.is(2, api.NodeLeft)
	must.Eq(t, "EPYC", w.baseline())
	w.gives(2, "Haswell")
	must.Eq(t, "", w.baseline(), must.Sprint("they have nothing in common"))
	w.gives(2, "of a newer QEMU", "EPYC")
	must.Eq(t, "EPYC", w.baseline())
}

// The model of a guest that runs changes only with a new start, or with its spec.
func TestAPlacementKeepsItsModel(t *testing.T) {
	w := region(t, 0)
	w.gives(1, "EPYC", "Nehalem")
	w.vm(1)
	w.place(w.item(PlacePlace, 1, 1))
	model := func() string { return w.s().Placement(id('m', 1)).CPUModel }
	must.Eq(t, "EPYC", model())
	w.gives(2, "Nehalem")
	must.Eq(t, "Nehalem", w.baseline())
	must.Eq(t, "EPYC", model())

	w.ok(&VMPower{ID: id('m', 1), Action: "stop"})
	p := w.s().Placement(id('m', 1))
	w.report(1, 1, p.Epoch, api.StateStopped)
	w.ok(&VMPower{ID: id('m', 1), Action: "start"})
	must.Eq(t, "EPYC", model())
	must.Nil(t, w.place(w.item(PlaceAdmit, 1, 1)).Err)
	must.Eq(t, "Nehalem", model())

	s := specOf("vm-1")
	s.CPU.Model = api.ModelHost
	w.ok(&VMApply{ID: id('m', 1), Spec: s})
	must.Eq(t, api.ModelHost, model())
	s.Memory *= 2
	w.gives(3, "qemu64")
	w.ok(&VMApply{ID: id('m', 1), Spec: s})
	must.Eq(t, api.ModelHost, model())
}

// What is kept from change to change is what all nodes together say.
func TestBaselinesAgreeWithTheNodes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := region(t, 0)
		models := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"EPYC", "Haswell", "Nehalem", "qemu64", "other"}), 0, 4, rapid.ID[string])
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			i := rapid.IntRange(1, 4).Draw(rt, "node")
			switch {
			case w.s().Node(id('n', i)) == nil || rapid.Bool().Draw(rt, "register"):
				w.gives(i, models.Draw(rt, "models")...)
			case gone(w.s().Node(id('n', i))) && rapid.Bool().Draw(rt, "delete"):
				w.ok(&NodeDelete{ID: id('n', i), CheckIndex: w.s().Node(id('n', i)).ModifyIndex})
			default:
				w.is(i, rapid.SampledFrom([]api.NodeStatus{api.NodeReady, api.NodeSuspect, api.NodeLost, api.NodeLeft}).Draw(rt, "status"))
			}
			if got, want := w.baseline(), baselineOf(w.s(), "amd64"); got != want {
				rt.Fatalf("kept is %q, the nodes say %q", got, want)
			}
		}
	})
}
