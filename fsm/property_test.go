package fsm

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

// command draws a command that has a fair chance to be accepted by the state.
func (w *world) command(r *rapid.T) Command {
	n := rapid.IntRange(1, 6).Draw(r, "n")
	node := rapid.IntRange(1, 3).Draw(r, "node")
	m := id('m', n)
	pick := func(label string, of ...string) string { return rapid.SampledFrom(of).Draw(r, label) }
	epoch := api.Epoch(rapid.IntRange(0, 4).Draw(r, "epoch"))
	if p := w.s().Placement(m); p != nil && rapid.Bool().Draw(r, "right") {
		epoch, node = p.Epoch, int(p.NodeID[15])
	}
	switch rapid.IntRange(0, 23).Draw(r, "kind") {
	case 0, 1, 2:
		var disks []api.Disk
		for i := range rapid.IntRange(0, 3).Draw(r, "disks") {
			d := []api.Disk{local("root"), shared("data"), {Name: "img", Image: "debian", Keep: true}}[i]
			disks = append(disks, d)
		}
		s := specOf(fmt.Sprintf("vm-%d", n), disks...)
		s.Memory = api.Bytes(rapid.IntRange(1, 6).Draw(r, "mem")) * api.GiB
		return &VMApply{ID: m, Spec: s, VolumeIDs: volumeIDs(n, len(disks)), Power: api.Power(pick("power", "", "running", "stopped", "paused"))}
	case 3, 4:
		return &VMPower{ID: m, Action: pick("action", "start", "stop", "reboot", "reset", "pause", "resume"), Force: rapid.Bool().Draw(r, "force")}
	case 5:
		return &VMDelete{ID: m, Force: rapid.Bool().Draw(r, "force")}
	case 6, 7, 8, 9:
		b := &PlaceBatch{}
		for k := 1; k <= 6; k++ {
			if w.s().VM(id('m', k)) == nil {
				continue
			}
			it := w.item(pick("place", PlacePlace, PlacePlace, PlaceAdmit, PlaceRelease, PlaceRecover), k, rapid.IntRange(1, 3).Draw(r, "to"))
			if p := w.s().Placement(it.VMID); p != nil && it.Action == PlaceAdmit {
				it.NodeID = p.NodeID
			}
			b.Items = append(b.Items, it)
		}
		return b
	case 10, 11, 12:
		rep := api.NodeReport{NodeID: id('n', node), SessionID: id('s', node)}
		rep.VMs = []api.VMReport{{VMID: m, Epoch: epoch, State: api.VMState(pick("state", "running", "running", "stopped", "failed", "absent", "paused", "unknown")),
			Seq: w.index, Order: w.index - uint64(rapid.IntRange(0, 1).Draw(r, "before")), Generation: w.s().Generation(), Time: w.now, Version: uint64(rapid.IntRange(1, 3).Draw(r, "version"))}}
		for _, v := range volumeIDs(n, 3) {
			rep.Volumes = append(rep.Volumes, api.VolumeReport{ID: v, State: api.VolumeState(pick("vol", "ready", "failed", "absent"))})
		}
		return &NodeReports{Reports: []api.NodeReport{rep}}
	case 13:
		return &VMRevert{ID: m, Version: uint64(rapid.IntRange(1, 3).Draw(r, "version")), VolumeIDs: volumeIDs(n, 3)}
	case 14:
		return &NodeStatus{Items: []NodeStatusItem{{NodeID: id('n', node), Status: api.NodeStatus(pick("status", "ready", "ready", "ready", "suspect", "lost", "left"))}}}
	case 15:
		if rapid.Bool().Draw(r, "purge") {
			return &NodeDelete{ID: id('n', node), Force: rapid.Bool().Draw(r, "force")}
		}
		return &NodeRegister{Node: nodeOf(node), SessionID: id('s', node), Found: []api.VMReport{{VMID: m, Epoch: epoch, State: api.StateRunning}}}
	case 16:
		if w.s().Recovery() == nil && rapid.IntRange(0, 3).Draw(r, "begin") == 0 {
			return &RecoveryBegin{}
		}
		return &RecoveryEnd{Fenced: []api.ID{id('n', 1), id('n', 2), id('n', 3)}}
	case 17, 18:
		c := moveOf(n)
		c.Migration.ID, c.Migration.Mode = id('x', int(w.index)), api.MigrationMode(pick("mode", "live", "warm", "cold"))
		c.Migration.Restart = c.Migration.Mode == api.MigrateCold && rapid.Bool().Draw(r, "restart")
		if rapid.Bool().Draw(r, "pinned") {
			c.Migration.To, c.Migration.Pinned = id('n', node), true
		}
		return c
	case 19, 20, 21:
		x := w.s().MigrationOf(m)
		if x == nil {
			return &NodeReports{}
		}
		return &NodeReports{Reports: []api.NodeReport{{NodeID: id('n', node), SessionID: id('s', node), Moves: []api.MoveReport{{
			Migration: x.ID, State: api.EndState(pick("end", "ready", "present", "present", "copying", "switched", "complete", "running", "absent", "absent", "unknown")),
			Attempt: x.Attempts, Failed: rapid.IntRange(0, 4).Draw(r, "failed") == 0, Clean: rapid.Bool().Draw(r, "clean"), BootID: "boot", Time: w.now, Seq: w.index,
		}}}}}
	case 22:
		x := w.s().MigrationOf(m)
		if x == nil {
			return &NodeReports{}
		}
		to := id('n', node)
		if x.Pinned {
			to = x.To
		}
		return &MigrationStep{ID: x.ID, Phase: x.Phase, Next: api.MigrationPhase(pick("next", "proposed", "proposed", "copying", "copying", "copying", "aborting")), To: to, Deadline: w.now}
	default:
		v := api.Volume{ID: id('V', n), Namespace: "default", Name: fmt.Sprintf("vol-%d", n), Size: api.GiB}
		switch pick("volume", "create", "delete", "assign") {
		case "create":
			return &VolumeCreate{Volume: v}
		case "delete":
			return &VolumeDelete{ID: v.ID}
		}
		return &VolumeAssign{ID: v.ID, NodeID: id('n', node)}
	}
}

// invariants hold in every state.
func invariants(t testing.TB, s *State) {
	t.Helper()
	checkIndexes(t, s)
	fresh := newUsage()
	use := func() *usage { return fresh }
	for p := range s.Placements() {
		countPlacement(use, nil, p)
		vm := s.VM(p.VMID)
		must.NotNil(t, vm, must.Sprint("a placement without a VM"))
		must.False(t, vm.Deleting, must.Sprint("a placement of a VM that is being deleted"))
		must.LessEq(t, vm.Epoch, p.Epoch)
		if old := s.Tombstone(p.NodeID, p.VMID); old != nil {
			must.Less(t, p.Epoch, old.Epoch, must.Sprint("an order to stop what is to run"))
		}
		for _, v := range s.DiskVolumes(vm) {
			if v != nil && !v.NodeID.IsZero() {
				must.Eq(t, p.NodeID, v.NodeID, must.Sprint("a disk on another node"))
			}
		}
	}
	for v := range s.Volumes() {
		countVolume(use, nil, v)
		if !v.VMID.IsZero() {
			must.NotNil(t, s.VM(v.VMID), must.Sprint("a volume of no VM"))
		}
	}
	for r := range s.idems.all() {
		countIdem(use, nil, r)
	}
	moving := map[api.ID]bool{}
	for m := range s.Migrations() {
		countMigration(use, nil, m)
		if !m.Phase.Active() {
			must.Eq(t, api.Resources{}, m.Reserved)
			continue
		}
		must.False(t, moving[m.VMID], must.Sprint("two moves of one VM"))
		moving[m.VMID] = true
		p := s.Placement(m.VMID)
		must.NotNil(t, p, must.Sprint("a VM that is being moved lost its owner"))
		if m.Phase != api.MigrationQueued && m.Phase != api.MigrationCommitted {
			must.Eq(t, m.From, p.NodeID, must.Sprint("the source owns the VM until the commit"))
			must.Eq(t, m.Epoch, p.Epoch)
		}
		if m.Phase == api.MigrationCommitted {
			must.Greater(t, m.Epoch, p.Epoch)
		}
	}
	counted := *s
	counted.use = fresh
	must.Eq(t, usageOf(&counted), usageOf(s), must.Sprint("what is counted is not what there is"))
	for x := range s.Tombstones() {
		if vm := s.VM(x.VMID); vm != nil {
			must.LessEq(t, vm.Epoch, x.Epoch)
		}
	}
	for v := range s.versions.all() {
		must.NotNil(t, s.VM(v.VMID))
	}
}

// capacity holds as long as nodes were not taken over by force or recovery.
func capacity(t testing.TB, s *State) {
	t.Helper()
	for n := range s.Nodes() {
		used, limit := s.Used(n.ID), Limits(s, n)
		must.LessEq(t, limit.CPU, used.CPU)
		must.LessEq(t, limit.Memory, used.Memory)
		for i := range n.Pools {
			if np := &n.Pools[i]; !np.Shared {
				must.LessEq(t, PoolLimit(s, np), s.Promised(n.ID, np.Name))
			}
		}
	}
}

// Any log: the invariants hold after each entry; the snapshot at a random index
// with the rest of the log gives the same bytes as the whole log; so does a
// replay in batches of another size.
func TestSnapshotAndLogRestoreByteEqual(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := region(t, 3)
		recovered := false
		at := rapid.IntRange(0, 60).Draw(r, "snapshot at")
		var snap []byte
		cut := 0
		epochs := map[api.ID]api.Epoch{}
		for i := range 60 {
			if i == at {
				snap, cut = snapshotOf(t, w.f), len(w.log)
			}
			res := w.runWith(w.command(r), w.key(r))
			if res.Err != nil && res.Err.Code == api.CodeApplyPanic || w.halt != nil {
				r.Fatalf("%v %v", res.Err, w.halt)
			}
			invariants(t, w.s())
			if recovered = recovered || w.s().Recovery() != nil; !recovered {
				capacity(t, w.s())
			}
			for p := range w.s().Placements() {
				must.LessEq(t, p.Epoch, epochs[p.VMID], must.Sprint("an epoch fell"))
				epochs[p.VMID] = p.Epoch
			}
			for _, c := range w.seen {
				if c.Table == TableVM && c.New == nil {
					delete(epochs, c.Old.(*api.VM).ID)
				}
			}
		}
		if snap == nil {
			snap, cut = snapshotOf(t, w.f), len(w.log)
		}
		want := snapshotOf(t, w.f)

		f := New(Config{})
		must.NoError(t, f.Restore(io.NopCloser(bytes.NewReader(snap))))
		for _, l := range w.log[cut:] {
			f.Apply(l)
		}
		must.Eq(t, want, snapshotOf(t, f))
		must.Eq(t, usageOf(w.s()), usageOf(f.State()))
		must.Eq(t, w.s().Hash(), f.State().Hash())

		g := New(Config{})
		for batch := range slices.Chunk(w.log, rapid.IntRange(1, 40).Draw(r, "batch")) {
			g.ApplyBatch(batch)
		}
		must.Eq(t, want, snapshotOf(t, g))
	})
}

func (w *world) key(r *rapid.T) *IdemKey {
	k := rapid.IntRange(0, 40).Draw(r, "key")
	if k > 10 {
		return nil
	}
	return &IdemKey{Accessor: id('t', k%3), Key: fmt.Sprint(k), BodyHash: []byte{byte(k)}}
}

// The same log gives the same state whatever the scheduler of the machine does.
func TestReplayIsEqualUnderAnyParallelism(t *testing.T) {
	w := busy(t)
	want := w.s().Hash()
	before := runtime.GOMAXPROCS(0)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	for _, procs := range []int{1, 2, 8} {
		runtime.GOMAXPROCS(procs)
		f := New(Config{})
		for _, l := range w.log {
			f.Apply(&raft.Log{Index: l.Index, Type: l.Type, Data: bytes.Clone(l.Data)})
		}
		must.Eq(t, want, f.State().Hash())
	}
}

// A state that was taken stays as it was, whatever is applied afterwards.
func TestStatesAreImmutable(t *testing.T) {
	w := busy(t)
	s := w.s()
	sum := s.Hash()
	w.ok(&VMDelete{ID: id('m', 1)})
	w.ok(&VMPower{ID: id('m', 3), Action: "stop"})
	w.ok(&NodeUpdate{ID: id('n', 1), CPURatio: 9})
	must.Eq(t, sum, s.Hash())
	must.NotEq(t, sum, w.s().Hash())
	invariants(t, s)
}
