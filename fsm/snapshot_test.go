package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

// sink is a raft.SnapshotSink in memory, which can fail.
type sink struct {
	bytes.Buffer
	closed, canceled bool
	fail             error
}

func (s *sink) ID() string    { return "test" }
func (s *sink) Close() error  { s.closed = true; return nil }
func (s *sink) Cancel() error { s.canceled = true; return nil }
func (s *sink) Write(b []byte) (int, error) {
	if s.fail != nil {
		return 0, s.fail
	}
	return s.Buffer.Write(b)
}

// busy is a region with at least one record in every table of the first version.
func busy(t testing.TB) *world {
	w := region(t, 3)
	w.vm(1, local("root"), shared("data"))
	w.vm(2, local("root"))
	w.vm(3)
	spec := w.s().VM(id('m', 1)).Spec
	spec.Description = "again"
	spec.CloudInit = &api.CloudInit{UserData: []byte("#cloud-config"), SSHKeys: []string{"ssh-ed25519 AAAA"}}
	w.ok(&VMApply{ID: id('m', 1), Spec: spec, VolumeIDs: volumeIDs(1, 2)})
	p := w.placed(1, 1)
	w.report(1, 1, p.Epoch, api.StateRunning, func(r *api.VMReport) { r.Addresses = []string{"10.0.0.5"} })
	w.volumes(1, api.VolumeReady, volumeIDs(1, 2)...)
	w.placed(2, 2)
	w.ok(&VMDelete{ID: id('m', 2)})
	w.report(3, 77, 4, api.StateRunning)
	w.ok(&TokenCreate{Token: api.Token{Accessor: id('t', 1), Type: api.TokenManagement}, Hash: bytes.Repeat([]byte{7}, 32)})
	w.ok(&NodeDeny{NodeID: id('n', 9), Reason: "stolen"})
	must.Nil(w.t, w.runWith(ns("dev"), &IdemKey{Accessor: id('t', 1), Key: "k", BodyHash: []byte("h")}).Err)
	return w
}

// full is busy with records of the tables that came later.
func full(t testing.TB) *world {
	w := busy(t)
	w.ok(moveOf(1))
	w.ok(&MigrationStep{ID: id('x', 1), Phase: api.MigrationQueued, Next: api.MigrationProposed, To: id('n', 2), Deadline: 99})
	return w
}

func snapshotOf(t testing.TB, f *FSM) []byte {
	t.Helper()
	snap, err := f.Snapshot()
	must.NoError(t, err)
	var s sink
	must.NoError(t, snap.Persist(&s))
	must.True(t, s.closed)
	snap.Release()
	return s.Bytes()
}

func TestSnapshotRestoresByteEqual(t *testing.T) {
	w := full(t)
	for _, c := range w.s().Counts() {
		must.Positive(t, c.Count, must.Sprint(c.Table))
	}
	b := snapshotOf(t, w.f)
	f := New(Config{})
	must.NoError(t, f.Restore(io.NopCloser(bytes.NewReader(b))))
	must.Eq(t, w.s().Hash(), f.State().Hash())
	must.Eq(t, b, snapshotOf(t, f))
	must.Eq(t, w.index, f.State().TableIndex(TableVM))
	checkIndexes(t, f.State())
	must.Eq(t, usageOf(w.s()), usageOf(f.State()))

	// Both go on alike.
	next, err := Encode(&VMPower{ID: id('m', 1), Action: "stop"}, Meta{Time: w.now})
	must.NoError(t, err)
	w.apply(next)
	f.Apply(w.log[len(w.log)-1])
	must.Eq(t, w.s().Hash(), f.State().Hash())
}

func TestSnapshotIsOfItsMoment(t *testing.T) {
	w := busy(t)
	before := snapshotOf(t, w.f)
	snap, err := w.f.Snapshot()
	must.NoError(t, err)
	w.vm(9, local("x"))
	w.ok(&VMDelete{ID: id('m', 3)})
	var s sink
	must.NoError(t, snap.Persist(&s))
	must.Eq(t, before, s.Bytes())
}

func TestSnapshotThatCannotBeWrittenIsCanceled(t *testing.T) {
	w := busy(t)
	snap, err := w.f.Snapshot()
	must.NoError(t, err)
	s := sink{fail: errors.New("disk full")}
	must.ErrorIs(t, snap.Persist(&s), s.fail)
	must.True(t, s.canceled)
	must.False(t, s.closed)
}

func TestSnapshotCanBeInspected(t *testing.T) {
	w := full(t)
	r, err := ReadSnapshot(bytes.NewReader(snapshotOf(t, w.f)))
	must.NoError(t, err)
	m := r.Meta()
	must.Eq(t, "r1", m.Region)
	must.Eq(t, w.index, m.Index)
	must.Eq(t, w.s().ClusterID(), m.ClusterID)
	must.Eq(t, w.s().Counts(), m.Tables)
	counts := map[string]int64{}
	for {
		table, b, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must.NoError(t, err)
		must.SliceNotEmpty(t, b)
		counts[table]++
	}
	for _, c := range m.Tables {
		must.Eq(t, c.Count, counts[c.Table])
	}
	_, _, err = r.Next()
	must.ErrorIs(t, err, io.EOF)
}

func TestDamagedSnapshotIsRefusedAndChangesNothing(t *testing.T) {
	w := busy(t)
	good := snapshotOf(t, w.f)
	f := New(Config{})
	must.NoError(t, f.Restore(io.NopCloser(bytes.NewReader(good))))
	before := f.State()
	refuse := func(b []byte, what string) {
		t.Helper()
		err := f.Restore(io.NopCloser(bytes.NewReader(b)))
		must.Error(t, err, must.Sprint(what))
		must.Eq(t, before, f.State())
	}
	for at := 0; at < len(good); at += 1 + len(good)/400 {
		bad := slices.Clone(good)
		bad[at] ^= 1 << (at % 8)
		refuse(bad, "a flipped bit")
		refuse(good[:at], "cut off")
	}
	refuse(append(slices.Clone(good), 0), "something behind it")
	refuse(nil, "nothing")
}

func TestSnapshotOfAnotherFormatIsRefused(t *testing.T) {
	var b bytes.Buffer
	must.NoError(t, region(t, 1).s().Persist(&b)) // several tables
	reheader := func(change func(h *SnapshotHeader)) []byte {
		r, err := ReadSnapshot(bytes.NewReader(b.Bytes()))
		must.NoError(t, err)
		h := r.Header
		change(&h)
		enc, err := h.MarshalMsg(nil)
		must.NoError(t, err)
		return append(binary.AppendUvarint([]byte(snapMagic), uint64(len(enc))), enc...)
	}
	for _, bad := range [][]byte{
		reheader(func(h *SnapshotHeader) { h.Format = 9 }),
		reheader(func(h *SnapshotHeader) { h.Tables[0].Count = -1 }),
	} {
		_, err := ReadSnapshot(bytes.NewReader(bad))
		must.Eq(t, api.CodeSnapshot, api.CodeOf(err))
	}
	for _, bad := range [][]byte{
		reheader(func(h *SnapshotHeader) { h.Tables[0].Table = "future" }),
		reheader(func(h *SnapshotHeader) { h.Tables[0], h.Tables[1] = h.Tables[1], h.Tables[0] }),
	} {
		must.StrContains(t, New(Config{}).Restore(io.NopCloser(bytes.NewReader(bad))).Error(), "out of order")
	}
}

// checkIndexes compares every secondary index with its table.
func checkIndexes(t testing.TB, s *State) {
	t.Helper()
	for vm := range s.VMs() {
		must.Eq(t, vm, s.VMByName(vm.Namespace, vm.Name))
	}
	must.Eq(t, s.vms.len(), s.vms.secs[0].len())
	on := 0
	for n := range s.Nodes() {
		on += len(slices.Collect(s.PlacementsOn(n.ID)))
	}
	must.Eq(t, s.placements.len(), on)
	for v := range s.Volumes() {
		must.Eq(t, v, s.VolumeByName(v.Namespace, v.Name))
		must.Eq(t, !v.NodeID.IsZero(), slices.Contains(slices.Collect(s.VolumesOn(v.NodeID)), v))
		must.Eq(t, !v.VMID.IsZero(), slices.Contains(slices.Collect(s.VolumesOf(v.VMID)), v))
		must.Eq(t, !v.Image.IsZero(), slices.Contains(slices.Collect(s.VolumesFrom(v.Image)), v))
	}
	for x := range s.Tombstones() {
		must.SliceContains(t, slices.Collect(s.TombstonesOf(x.VMID)), x)
	}
	for x := range s.Tokens() {
		must.Eq(t, x, s.TokenByHash(x.Hash))
	}
}

// usageOf is what is counted beside the tables, as a comparable list.
func usageOf(s *State) []any {
	var out []any
	for n := range scan(s.use.nodes) {
		out = append(out, n)
	}
	for d := range scan(s.use.disks) {
		out = append(out, d)
	}
	for c := range scan(s.use.callers) {
		out = append(out, c)
	}
	return out
}
