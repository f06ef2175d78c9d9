package fsm

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

var update = flag.Bool("update", false, "write new golden files; existing lines are never changed")

// samples is one entry for each command, with every field set that matters.
func samples() map[uint16]Command {
	spec := api.VMSpec{
		Name: "web", Namespace: "default", Description: "d", Labels: api.Pairs{{K: "a", V: "b"}}, Datacenters: []string{"dc1"}, Priority: 50,
		CPU: api.CPUSpec{Cores: 2, Reserve: 500, Model: "host"}, Memory: api.GiB, Firmware: api.FirmwareUEFI,
		Boot:        &api.BootSpec{Kernel: "k", Initrd: "i", Cmdline: "quiet"},
		Disks:       []api.Disk{{Name: "root", Image: "debian", Size: api.GiB, Pool: "default", Format: "qcow2", Bus: "virtio", Boot: 1}, {Name: "data", Volume: "v", Keep: true, ReadOnly: true}},
		NICs:        []api.NIC{{Network: "lan", MAC: "52:54:00:00:00:01", Model: "virtio", Address: "10.0.0.2/24"}},
		CloudInit:   &api.CloudInit{UserData: []byte("x"), NetworkConfig: []byte("y"), Hostname: "h", SSHKeys: []string{"k"}},
		Console:     api.ConsoleSpec{NoSerial: true, VNC: true},
		Constraints: []api.Constraint{{Attribute: "kernel.name", Operator: "=", Value: "linux"}},
		Affinities:  []api.Affinity{{Selector: api.Pairs{{K: "a", V: "b"}}, Anti: true, Domain: "node.id", Weight: 10}},
		Spread:      []api.Spread{{Attribute: "node.datacenter", Selector: api.Pairs{{K: "a", V: "b"}}, Weight: 5}},
		Restart:     api.RestartPolicy{Policy: "always", Attempts: 2, Interval: 1, Delay: 2}, HA: api.HAPolicy{Policy: api.HAKeep},
		Protection: true, StopTimeout: 3,
	}
	check := ptr(uint64(7))
	token := api.Token{Accessor: id('t', 1), Name: "n", Type: api.TokenManagement, Expires: 9}
	key := KeyRecord{Name: "ca", Kind: "ecdsa", Public: []byte("p"), Sealed: []byte("s"), Version: 2, CreateTime: 3}
	report := api.VMReport{VMID: id('m', 1), Epoch: 2, State: api.StateRunning, Reason: "r", Message: "m", Version: 1, Reboots: 1, Resets: 1, Restarts: 1, StartTime: 4, Time: 5, Seq: 6, Addresses: []string{"10.0.0.1"}}
	all := []Command{
		&ClusterInit{ClusterID: id('c', 1), Region: "r1", RegionID: id('c', 2), Keys: []KeyRecord{key}, Expect: 3},
		&NamespaceApply{Namespace: api.Namespace{Name: "dev", Description: "d", Labels: api.Pairs{{K: "a", V: "b"}}}, CheckIndex: check},
		&NamespaceDelete{Name: "dev", CheckIndex: 7},
		&NodeRegister{Node: nodeOf(1), SessionID: id('s', 1), MaxGeneration: 2, MaxIndex: 3, Found: []api.VMReport{report}, Force: true},
		&NodeStatus{Items: []NodeStatusItem{{NodeID: id('n', 1), Status: api.NodeReady, Note: "n", Unreachable: ptr("u"), SessionID: id('s', 1)}}},
		&NodeUpdate{ID: id('n', 1), Eligibility: api.Ineligible, CPURatio: 2, MemoryRatio: 1.5, CheckIndex: check},
		&NodeDelete{ID: id('n', 1), CheckIndex: 7, Force: true},
		&VMApply{ID: id('m', 1), Spec: spec, VolumeIDs: volumeIDs(1, 2), Power: api.PowerRunning, CheckIndex: check},
		&VMPower{ID: id('m', 1), Action: "stop", Force: true, CheckIndex: check},
		&VMRevert{ID: id('m', 1), Version: 3, VolumeIDs: volumeIDs(1, 1), CheckIndex: check},
		&VMDelete{ID: id('m', 1), CheckIndex: 7, Force: true},
		&PlaceBatch{Items: []PlaceItem{{Action: PlacePlace, VMID: id('m', 1), NodeID: id('n', 1), OldEpoch: 1, Epoch: 2, SpecVersion: 3, Power: api.PowerRunning}}},
		&NodeReports{Reports: []api.NodeReport{{NodeID: id('n', 1), SessionID: id('s', 1), VMs: []api.VMReport{report},
			Volumes: []api.VolumeReport{{ID: id('v', 1), State: api.VolumeReady, Used: 5, Error: "e"}}, Images: []api.ImageReport{{ID: id('i', 1), Absent: true, Size: 3}}}}},
		&VolumeCreate{Volume: api.Volume{ID: id('v', 1), Namespace: "default", Name: "v", Pool: "p", NodeID: id('n', 1), Size: 5, Format: "raw", Image: id('i', 1), Labels: api.Pairs{{K: "a", V: "b"}}}},
		&VolumeDelete{ID: id('v', 1), CheckIndex: 7},
		&PoolApply{Pool: api.Pool{Name: "p", Type: "dir", Shared: true, Description: "d", Ratio: 2}, CheckIndex: check},
		&PoolDelete{Name: "p", CheckIndex: 7},
		&ImageCreate{Image: api.Image{ID: id('i', 1), Namespace: "default", Name: "i", Kind: "disk", Format: "qcow2", Size: 1, VirtualSize: 2, SHA256: strings.Repeat("ab", 32), State: api.ImagePending, Replicas: []api.ID{id('n', 1)}}},
		&ImageReplicas{ID: id('i', 1), Add: []api.ID{id('n', 1)}, Remove: []api.ID{id('n', 2)}, Size: 1, VirtualSize: 2},
		&ImageDelete{ID: id('i', 1), CheckIndex: 7},
		&NetworkApply{Network: api.Network{Name: "n", Description: "d", Type: "nat", CIDR: "10.0.0.0/24", Isolated: true, MTU: 1400}, CheckIndex: check},
		&NetworkDelete{Name: "n", CheckIndex: 7},
		&TokenCreate{Token: token, Hash: bytes.Repeat([]byte{1}, 32)},
		&TokenDelete{Accessor: id('t', 1)},
		&TokenUse{Accessor: id('t', 1), Role: "client", NodeID: id('n', 1)},
		&SchedulerSet{Config: api.SchedulerConfig{Algorithm: "spread", CPURatio: 2, MemoryRatio: 1, Expect: 3}, CheckIndex: check},
		&SchemaStep{Version: 1},
		&SchemaFinalize{Version: 1},
		&RecoveryBegin{Floor: 4},
		&RecoveryEnd{Fenced: []api.ID{id('n', 1)}},
		&KeyringPut{Key: key},
		&Bootstrap{Token: token, Hash: bytes.Repeat([]byte{2}, 32)},
		&Hash{Index: 5, Sum: bytes.Repeat([]byte{3}, 32)},
		&NodeDeny{NodeID: id('n', 1), Allow: true, Reason: "r"},
		&VolumeAssign{ID: id('v', 1), NodeID: id('n', 1)},
		&MigrationCreate{Migration: api.Migration{ID: id('x', 1), VMID: id('m', 1), Mode: api.MigrateLive, To: id('n', 2), Pinned: true, Cause: api.CauseOperator, Priority: 50, Secret: id('k', 1),
			Options: api.MigrationOptions{Bandwidth: api.MiB, MaxDowntime: 1, DowntimeLimit: 2, Timeout: 3, AutoConverge: true, Compress: "zstd", WarmFallback: true}}},
		&MigrationStep{ID: id('x', 1), Phase: api.MigrationQueued, Next: api.MigrationProposed, To: id('n', 2), Deadline: 9, Code: api.CodeMigration, Message: "m"},
		&NodeDrain{ID: id('n', 1), Drain: &api.NodeDrain{Mode: api.DrainMode, Deadline: 9, Force: true, By: "b"}, Start: 8, CheckIndex: check},
		&HostLost{NodeID: id('n', 1), Session: id('s', 1), Registered: 7, Evidence: api.Evidence{Kind: api.EvidenceLease, BootID: "b", Term: 3, Silent: 33, Wait: 32}},
		&MigrationUpdate{ID: id('x', 1), Bandwidth: ptr(api.MiB), MaxDowntime: ptr(api.Duration(5))},
		&HASet{Config: api.HAConfig{Fencing: api.FencingLeaseOnly, Wait: 40, Hold: &api.HAHold{Storm: true, Reason: "r", By: "b", Since: 5}, Disarmed: true}, CheckIndex: check},
	}
	out := map[uint16]Command{}
	for _, c := range all {
		out[c.CommandID()] = c
	}
	return out
}

// golden compares lines "name hex" with a file. Lines may be added with
// -update; one that is there pins what logs and snapshots in the world hold.
func golden(t *testing.T, file string, got map[string][]byte) map[string][]byte {
	t.Helper()
	path := filepath.Join("testdata", file)
	data, err := os.ReadFile(path)
	if err != nil && !*update {
		t.Fatal(err)
	}
	pinned := map[string][]byte{}
	for line := range strings.Lines(string(data)) {
		name, enc, _ := strings.Cut(strings.TrimSpace(line), " ")
		b, err := hex.DecodeString(enc)
		must.NoError(t, err)
		pinned[name] = b
	}
	if *update {
		var names []string
		for n := range got {
			if pinned[n] == nil {
				pinned[n] = got[n]
			}
		}
		for n := range pinned {
			names = append(names, n)
		}
		sort.Strings(names)
		var b strings.Builder
		for _, n := range names {
			fmt.Fprintf(&b, "%s %x\n", n, pinned[n])
		}
		must.NoError(t, os.MkdirAll("testdata", 0o755))
		must.NoError(t, os.WriteFile(path, []byte(b.String()), 0o644))
	}
	for n, b := range got {
		if !bytes.Equal(b, pinned[n]) {
			t.Errorf("%s is not encoded as it was:\nnow    %x\npinned %x", n, b, pinned[n])
		}
	}
	return pinned
}

func TestEveryCommandIsPinned(t *testing.T) {
	reg := DefaultRegistry()
	all := samples()
	got := map[string][]byte{}
	for id, spec := range reg.commands {
		cmd := all[id]
		must.NotNil(t, cmd, must.Sprintf("%s has no sample", spec.Name))
		data, err := Encode(cmd, Meta{Time: 1_700_000_000_000_000_000, Schema: 1, Idem: &IdemKey{Accessor: api.ID{1}, Key: "k", BodyHash: []byte("h")}})
		must.NoError(t, err, must.Sprint(spec.Name))
		got[fmt.Sprintf("%03d-%s", id, spec.Name)] = data
	}
	for name, b := range golden(t, "commands.golden", got) {
		_, _, _, err := reg.decode(b, nil)
		must.NoError(t, err, must.Sprintf("%s of an older version must still be read", name))
	}
}

func TestEveryRecordIsPinned(t *testing.T) {
	got := map[string][]byte{}
	w := busy(t)
	w.ok(&RecoveryBegin{})
	w.node(1, api.VMReport{VMID: id('m', 1), Epoch: 1, State: api.StateRunning, Version: 2})
	for _, d := range defs {
		w := w
		if d == anyDef(migrationDef) { // a table that came later
			w = full(t)
		}
		n := 0
		must.NoError(t, d.each(w.s(), func(m api.Message) error {
			b, err := m.MarshalMsg(nil)
			if n++; n <= 2 {
				got[fmt.Sprintf("%s-%d", d.tableName(), n)] = b
			}
			return err
		}))
		must.Positive(t, n, must.Sprint(d.tableName()))
	}
	for name, b := range golden(t, "records.golden", got) {
		table := name[:strings.LastIndexByte(name, '-')]
		_, err := canonicalRecord(table, b)
		must.NoError(t, err, must.Sprintf("%s of an older version must still be read", name))
	}
}

// A snapshot of the first version stays readable, and means the same.
func TestSnapshotOfTheFirstVersionIsPinned(t *testing.T) {
	w := busy(t)
	got := golden(t, "snapshot.golden", map[string][]byte{"schema-1": snapshotOf(t, w.f), "schema-1-moves": snapshotOf(t, full(t).f)})
	f := New(Config{})
	must.NoError(t, f.Restore(io.NopCloser(bytes.NewReader(got["schema-1"]))))
	must.Eq(t, w.s().Hash(), f.State().Hash())
}
