package cluster

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/moves"
	"github.com/novacron/novacron/fsm"
)

func (w *moveWorld) drain(node api.ID, change func(*api.NodeDrain)) {
	d := &api.NodeDrain{Mode: api.DrainMode}
	if change != nil {
		change(d)
	}
	w.do(&fsm.NodeDrain{ID: node, Drain: d})
}

// obey lets all nodes do for a while what they are asked for. fails names VMs
// whose moves fail.
func (w *moveWorld) obey(rounds int, fails ...api.ID) {
	for range rounds {
		s := w.fsm.State()
		for m := range s.Migrations() {
			for _, n := range []api.ID{m.From, m.To} {
				if n.IsZero() || m.Phase == api.MigrationQueued {
					continue
				}
				r, ok := playMove(m, n)
				for _, vm := range fails {
					if m.VMID == vm && m.Phase == api.MigrationCopying && n == m.From {
						r.State, r.Failed, r.Message = api.EndPresent, true, "the link was cut"
					}
				}
				if ok {
					w.tell(n, r)
				}
			}
		}
		s = w.fsm.State()
		for t := range s.Tombstones() {
			w.do(&fsm.NodeReports{Reports: []api.NodeReport{{NodeID: t.NodeID, SessionID: s.Session(t.NodeID), VMs: []api.VMReport{{VMID: t.VMID, Epoch: t.Epoch, State: api.StateAbsent, Seq: w.index + 1}}}}})
		}
		for p := range s.Placements() {
			want := map[api.Power]api.VMState{api.PowerRunning: api.StateRunning, api.PowerStopped: api.StateStopped, api.PowerPaused: api.StatePaused}[p.Desired]
			if p.State != want {
				w.report(p.VMID, want)
			}
		}
		synctest.Wait()
		time.Sleep(200 * time.Millisecond)
	}
}

// left is what a drain says of each VM: "vm1 moved n2".
func (w *moveWorld) left(node api.ID) map[string]string {
	s := w.fsm.State()
	out := map[string]string{}
	for _, it := range planDrain(s, s.Node(node), time.Now()).items {
		out[it.VM] = it.State
	}
	return out
}

func disk(s *api.VMSpec) { s.Disks = []api.Disk{{Name: "root", Size: api.GiB}} }

func policy(mode string) func(*api.VMSpec) {
	return func(s *api.VMSpec) { disk(s); s.Migration.Mode = mode }
}

func TestADrainMovesEachVMByItsPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMoveWorld(t)
		a := w.mover(1, api.TiB)
		for i := range 2 {
			w.mover(2+i, api.TiB)
		}
		for n, change := range map[int]func(*api.VMSpec){1: nil, 2: policy("warm"), 3: policy("cold"), 4: policy("stop"), 5: disk, 6: disk, 7: nil} {
			w.on(a, n, change)
		}
		stop := func(n int) {
			w.do(&fsm.VMPower{ID: sid('v', n), Action: "stop"})
			w.report(sid('v', n), api.StateStopped)
		}
		w.lead(func() {
			stop(5)
			stop(7)
			w.do(&fsm.VMPower{ID: sid('v', 6), Action: "pause"})
			w.report(sid('v', 6), api.StatePaused)
			time.Sleep(50 * time.Millisecond)
			w.drain(a, nil)
			time.Sleep(50 * time.Millisecond)
			must.Eq(t, api.Ineligible, w.fsm.State().Node(a).Eligibility)
			busy := 0
			for m := range w.fsm.State().MigrationsFrom(a) {
				must.Eq(t, api.CauseDrain, m.Cause)
				if moves.Loads(m) {
					busy++
				}
			}
			must.Eq(t, moves.CapNode, busy, must.Sprint("parallel within the caps"))
			must.True(t, w.fsm.State().Node(a).Drain.Active())
			w.obey(40)
		})
		s := w.fsm.State()
		must.Eq(t, map[string]string{"vm1": "moved", "vm2": "moved", "vm3": "moved", "vm4": "stays", "vm5": "moved", "vm6": "moved"}, w.left(a))
		must.False(t, s.Node(a).Drain.Active())
		modes, power := "", ""
		for n := 1; n <= 7; n++ {
			for m := range s.MigrationsOf(sid('v', n)) {
				modes += fmt.Sprint(n, m.Mode, " ")
			}
			power += fmt.Sprint(n, s.VM(sid('v', n)).Power, " ")
		}
		must.Eq(t, "1live 2warm 3cold 5cold 6live ", modes)
		must.Eq(t, "1running 2running 3running 4stopped 5stopped 6paused 7stopped ", power, must.Sprint("what runs goes on, what was stopped is not started"))
		must.Nil(t, s.Placement(sid('v', 7)), must.Sprint("stopped and without a local disk: it is on no node"))
		for p := range s.PlacementsOn(a) {
			must.Eq(t, sid('v', 4), p.VMID)
		}
	})
}

// A drain is not done before the node itself has said that nothing is left.
func TestADrainIsDoneWhenTheNodeSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMoveWorld(t)
		a := w.mover(1, api.TiB)
		w.mover(2, api.TiB)
		vm := w.on(a, 1, nil)
		active := func() bool { return w.fsm.State().Node(a).Drain.Active() }
		w.lead(func() {
			w.drain(a, nil)
			time.Sleep(50 * time.Millisecond)
			var x api.ID
			for m := range w.fsm.State().MigrationsOf(vm) {
				x = m.ID
			}
			for range 3 {
				w.play(x)
			}
			w.is(x, api.MigrationDone)
			time.Sleep(3 * time.Second)
			must.True(t, active(), must.Sprint("the stop at the source is not confirmed"))
			must.Eq(t, "stopping", w.left(a)["vm1"])
			s := w.fsm.State()
			orphan := api.VMReport{VMID: sid('o', 1), State: api.StateRunning, Orphan: true, Seq: w.index + 1}
			w.do(&fsm.NodeReports{Reports: []api.NodeReport{{NodeID: a, SessionID: s.Session(a), VMs: []api.VMReport{orphan}}}})
			w.obey(3)
			time.Sleep(3 * time.Second)
			must.True(t, active(), must.Sprint("a guest that nobody knows is there"))
			orphan.State, orphan.Orphan, orphan.Seq = api.StateAbsent, false, w.index+1
			w.do(&fsm.NodeReports{Reports: []api.NodeReport{{NodeID: a, SessionID: s.Session(a), VMs: []api.VMReport{orphan}}}})
			time.Sleep(3 * time.Second)
			must.False(t, active())
			must.Eq(t, "moved", w.left(a)["vm1"])
		})
	})
}

func TestADrainTriesAgainButNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMoveWorld(t)
		a := w.mover(1, api.TiB)
		w.mover(2, api.TiB)
		bad := w.on(a, 1, nil)
		w.on(a, 2, nil)
		w.lead(func() {
			w.drain(a, nil)
			w.obey(400, bad)
			tries := 0
			for m := range w.fsm.State().MigrationsOf(bad) {
				must.Eq(t, api.MigrationAborted, m.Phase)
				tries++
			}
			must.Eq(t, drainAttempts, tries)
			must.Eq(t, map[string]string{"vm1": "failed", "vm2": "moved"}, w.left(a))
			must.True(t, w.fsm.State().Node(a).Drain.Active())
			// Asked for again, it is tried again.
			w.drain(a, nil)
			w.obey(20)
			must.Eq(t, "moved", w.left(a)["vm1"])
			must.False(t, w.fsm.State().Node(a).Drain.Active())
		})
	})
}

func TestTheDeadlineOfADrain(t *testing.T) {
	for _, force := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newMoveWorld(t)
			a := w.mover(1, api.TiB)
			stuck := w.on(a, 1, disk) // there is no other node
			w.lead(func() {
				w.drain(a, func(d *api.NodeDrain) { d.Deadline, d.Force = api.TimeOf(time.Now().Add(time.Hour)), force })
				w.obey(20)
				must.Eq(t, "queued", w.left(a)["vm1"])
				time.Sleep(2 * time.Hour)
				w.obey(20)
			})
			s := w.fsm.State()
			if !force {
				must.Eq(t, "queued", w.left(a)["vm1"])
				must.Eq(t, api.PowerRunning, s.VM(stuck).Power, must.Sprint("without force nothing is stopped"))
				must.True(t, s.Node(a).Drain.Active())
				return
			}
			must.Eq(t, "stays", w.left(a)["vm1"])
			must.Eq(t, api.PowerStopped, s.VM(stuck).Power)
			must.Nil(t, s.MigrationOf(stuck))
			must.False(t, s.Node(a).Drain.Active())
		})
	}
}

func TestADrainThatIsCanceledLeavesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMoveWorld(t)
		a := w.mover(1, api.TiB)
		w.mover(2, api.TiB)
		for i := range 5 {
			w.on(a, i, nil)
		}
		w.lead(func() {
			w.drain(a, nil)
			time.Sleep(50 * time.Millisecond)
			w.do(&fsm.NodeDrain{ID: a})
			w.obey(20)
			moved, ended := 0, 0
			for m := range w.fsm.State().MigrationsFrom(a) {
				switch m.Phase {
				case api.MigrationDone:
					moved++
				case api.MigrationAborted:
					must.StrContains(t, m.Message, "canceled")
					ended++
				}
			}
			must.Eq(t, 2, moved, must.Sprint("what was under way goes on"))
			must.Eq(t, 3, ended)
			must.Eq(t, 3, w.fsm.State().VMsOn(a))
		})
	})
}

func TestMaintenanceLeavesWhatIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMoveWorld(t)
		a := w.mover(1, api.TiB)
		b := w.mover(2, api.TiB)
		stopped, runs := w.on(a, 1, disk), w.on(a, 2, disk)
		w.do(&fsm.VMPower{ID: stopped, Action: "stop"})
		w.report(stopped, api.StateStopped)
		w.lead(func() {
			w.drain(a, func(d *api.NodeDrain) { d.Mode = api.MaintenanceMode })
			w.obey(20)
		})
		s := w.fsm.State()
		must.Eq(t, map[string]string{"vm1": "stays", "vm2": "moved"}, w.left(a))
		must.Eq(t, a, s.Placement(stopped).NodeID)
		must.Eq(t, b, s.Placement(runs).NodeID)
		must.False(t, s.Node(a).Drain.Active())
	})
}

// VMs that keep together or apart do so on their new nodes.
func TestADrainKeepsAffinities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMoveWorld(t)
		w.do(&fsm.SchedulerSet{Config: api.SchedulerConfig{Algorithm: "spread", Migrations: 20, NodeMigrations: 10}})
		a := w.mover(1, api.TiB)
		rule := func(app string, anti bool) func(*api.VMSpec) {
			return func(s *api.VMSpec) {
				s.Labels = api.PairsOf(map[string]string{"app": app})
				s.Affinities = []api.Affinity{{Selector: s.Labels, Anti: anti}}
			}
		}
		w.mover(2, api.TiB)
		w.mover(3, api.TiB)
		w.mover(4, api.TiB)
		pair := []api.ID{w.on(a, 1, rule("pair", false)), w.on(a, 2, rule("pair", false)), w.on(a, 3, rule("pair", false))}
		lone := []api.ID{w.on(a, 4, rule("lone", true)), w.on(sid('n', 2), 5, rule("lone", true)), w.on(sid('n', 3), 6, rule("lone", true))}
		w.lead(func() {
			w.drain(a, nil)
			w.obey(30)
		})
		s := w.fsm.State()
		must.False(t, s.Node(a).Drain.Active())
		for _, vm := range pair {
			must.Eq(t, s.Placement(pair[0]).NodeID, s.Placement(vm).NodeID)
		}
		must.Eq(t, sid('n', 4), s.Placement(lone[0]).NodeID)
	})
}

func TestANodeIsDrainedThroughTheServers(t *testing.T) {
	r, ns, vm := moving(t, 3, 2)
	stop := testSpec("db")
	stop.Migration.Mode = api.MigrateStop
	mustCall[api.NodeResponse](r, "Node.Update", &api.NodeUpdate{Key: "n2", Eligibility: api.Ineligible})
	mustCall[api.VMApplied](r, "VM.Apply", &api.VMApply{Spec: stop})
	r.vm("db", "running")
	mustCall[api.NodeResponse](r, "Node.Update", &api.NodeUpdate{Key: "n2", Eligibility: api.Eligible})
	for _, n := range ns {
		n.upTo(api.MigrationCopying)
	}
	got := mustCall[api.NodeResponse](r, "Node.Drain", &api.NodeDrainRequest{Key: "n1", Deadline: api.Duration(time.Hour)})
	must.True(t, got.Node.Drain.Active())
	must.Positive(t, int64(got.Node.Drain.Deadline))
	item := func(name string) (out api.DrainItem) {
		for _, it := range mustCall[api.NodeResponse](r, "Node.Get", &api.GetRequest{Key: "n1"}).Drain {
			if it.VM == name {
				out = it
			}
		}
		return out
	}
	eventually(t, "web is on its way", func() bool { return item("web").State == api.DrainMoving })
	m := r.move("web", api.MigrationCopying).Migration
	must.Eq(t, api.CauseDrain, m.Cause)
	must.Eq(t, "n2", item("web").To)
	must.StrContains(t, item("web").Why, "copying; waits for node n1 to begin the copy")
	eventually(t, "db stays", func() bool { return item("db").State == api.DrainStays })
	_, err := call[api.MigrationCreated](r, r.leader(), "Migration.Create", &api.MigrationCreate{VM: "db", To: "n1"})
	must.ErrorIs(t, err, code(api.CodeState))

	// The next leader goes on with it.
	must.NoError(t, r.leader().Close())
	for _, n := range ns {
		n.upTo()
	}
	ns[0].says(m, api.EndCopying)
	ns[1].says(m, api.EndComplete)
	ns[0].says(m, api.EndAbsent)
	eventually(t, "drained", func() bool {
		n := r.leader().fsm.State().Node(ns[0].node.ID)
		return n.Drain != nil && !n.Drain.Active()
	})
	must.Eq(t, ns[1].node.ID, r.leader().fsm.State().Placement(vm.ID).NodeID)
	list := mustCall[api.NodeListResponse](r, "Node.List", &api.ListRequest{QueryOptions: api.QueryOptions{Filter: `drain.mode == "drain"`}})
	must.Len(t, 1, list.Items)

	must.Nil(t, mustCall[api.NodeResponse](r, "Node.Update", &api.NodeUpdate{Key: "n1", Eligibility: api.Eligible}).Node.Drain)
	_, err = call[api.NodeResponse](r, r.leader(), "Node.Drain", &api.NodeDrainRequest{Key: "n1", Cancel: true})
	must.ErrorIs(t, err, code(api.CodeState))
	_, err = call[api.NodeResponse](r, r.leader(), "Node.Drain", &api.NodeDrainRequest{Key: "n1", Force: true})
	must.ErrorIs(t, err, code(api.CodeInvalid))
	_, err = callIn[api.NodeResponse](t.Context(), r.leader(), "Node.Drain", &api.NodeDrainRequest{Key: "n1"})
	must.Error(t, err)
}
