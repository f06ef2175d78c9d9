package fsm

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"testing"

	"github.com/hashicorp/go-memdb"
	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/novacron/novacron/api"
)

// These benchmarks put our tables and codec (named nova) beside go-memdb and
// go-msgpack/v2 (named memdb, msgpack) with the same records: for each VM its
// VM, placement and volume, under the same indexes. The indexers of go-memdb
// are written by hand, which is its fast way. NOVA_BENCH_VMS sets how many VMs.

func benchVMs(b *testing.B) int {
	if s := os.Getenv("NOVA_BENCH_VMS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			b.Fatalf("NOVA_BENCH_VMS=%q is not a number", s)
		}
		return n
	}
	if testing.Short() {
		return 20_000
	}
	return 200_000
}

// benchID scatters ids like random ones, always the same.
func benchID(kind byte, n int) (id api.ID) {
	x := uint64(n)*0x9e3779b97f4a7c15 + uint64(kind)<<56
	x ^= x >> 29
	binary.BigEndian.PutUint64(id[:], x*0xbf58476d1ce4e5b9)
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return id
}

type benchRow struct {
	vm  *api.VM
	p   *api.Placement
	vol *api.Volume
}

const benchPerNode = 50

func benchMake(n int) benchRow {
	name := fmt.Sprintf("web-%07d", n)
	ns := [...]string{"default", "dev", "prod"}[n%3]
	node := benchID('n', n/benchPerNode)
	vm := &api.VM{
		ID: benchID('m', n), Namespace: ns, Name: name, SpecVersion: 3, Power: api.PowerRunning, Epoch: 2,
		Spec: api.VMSpec{
			Name: name, Namespace: ns, Description: "a web server", Labels: api.Pairs{{K: "app", V: "web"}, {K: "owner", V: "team-" + strconv.Itoa(n%40)}, {K: "tier", V: "front"}},
			Datacenters: []string{"dc1"}, Priority: 50, CPU: api.CPUSpec{Cores: 2, Model: "baseline"}, Memory: 4 * api.GiB, Firmware: api.FirmwareUEFI,
			Disks:       []api.Disk{{Name: "root", Image: "debian-12", Size: 20 * api.GiB, Pool: "default", Format: "qcow2", Bus: "virtio", Boot: 1}},
			NICs:        []api.NIC{{Network: "lan", MAC: fmt.Sprintf("52:54:00:%02x:%02x:%02x", byte(n>>16), byte(n>>8), byte(n)), Model: "virtio"}},
			Constraints: []api.Constraint{{Attribute: "kernel.name", Operator: "=", Value: "linux"}},
			Restart:     api.RestartPolicy{Policy: "on-failure", Attempts: 3}, HA: api.HAPolicy{Policy: api.HAKeep},
		},
		CreateTime: 1_700_000_000_000_000_000, ModifyTime: 1_700_000_000_000_000_000, CreateIndex: uint64(n), ModifyIndex: uint64(n) + 7,
	}
	return benchRow{vm,
		&api.Placement{VMID: vm.ID, Namespace: ns, VMName: name, NodeID: node, Epoch: 2, Desired: api.PowerRunning, Reserved: api.Resources{CPU: 2000, Memory: 4 * api.GiB},
			State: api.StateRunning, RunningVersion: 3, Addresses: []string{"10.20.30.40"}, StartTime: 1_700_000_000_000_000_000, StateTime: 1_700_000_000_000_000_000, CreateIndex: uint64(n), ModifyIndex: uint64(n) + 9},
		&api.Volume{ID: benchID('v', n), Namespace: ns, Name: name + "-root", Pool: "default", NodeID: node, Size: 20 * api.GiB, Format: "qcow2", Image: benchID('i', 1),
			State: api.VolumeReady, VMID: vm.ID, Owned: true, CreateIndex: uint64(n), ModifyIndex: uint64(n) + 8},
	}
}

func benchRows(n int) []benchRow {
	out := make([]benchRow, n)
	for i := range out {
		out[i] = benchMake(i)
	}
	return out
}

// benchBatch is how many VMs one transaction inserts, on both sides.
const benchBatch = 64

func novaFill(rows []benchRow) *FSM {
	f := New(Config{})
	index := uint64(0)
	for len(rows) > 0 {
		n := min(benchBatch, len(rows))
		tx := f.begin()
		index++
		tx.index, tx.s.index = index, index
		for _, r := range rows[:n] {
			vmDef.put(tx, r.vm)
			placementDef.put(tx, r.p)
			volumeDef.put(tx, r.vol)
		}
		f.publish(tx, []commit{{index: index, log: tx.log, changes: tx.changes()}})
		rows = rows[n:]
	}
	return f
}

// keyOf is a hand-written indexer of go-memdb.
type keyOf func(any) []byte

func (k keyOf) FromObject(o any) (bool, []byte, error) {
	b := k(o)
	return b != nil, b, nil
}

func (k keyOf) FromArgs(a ...any) ([]byte, error) { return a[0].([]byte), nil }

func memIndex(name string, fn func(any) []byte) *memdb.IndexSchema {
	return &memdb.IndexSchema{Name: name, Unique: name == "id" || name == "name", AllowMissing: name != "id", Indexer: keyOf(fn)}
}

func memTable(name string, ix ...*memdb.IndexSchema) *memdb.TableSchema {
	t := &memdb.TableSchema{Name: name, Indexes: map[string]*memdb.IndexSchema{}}
	for _, x := range ix {
		t.Indexes[x.Name] = x
	}
	return t
}

func nsKey(ns, name string) []byte { return []byte(ns + "\x00" + name + "\x00") }

func memSchema() *memdb.DBSchema {
	s := &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{}}
	for _, t := range []*memdb.TableSchema{
		memTable("vm",
			memIndex("id", func(o any) []byte { return o.(*api.VM).ID[:] }),
			memIndex("name", func(o any) []byte { v := o.(*api.VM); return nsKey(v.Namespace, v.Name) })),
		memTable("placement",
			memIndex("id", func(o any) []byte { return o.(*api.Placement).VMID[:] }),
			memIndex("node", func(o any) []byte { return o.(*api.Placement).NodeID[:] })),
		memTable("volume",
			memIndex("id", func(o any) []byte { return o.(*api.Volume).ID[:] }),
			memIndex("name", func(o any) []byte { v := o.(*api.Volume); return nsKey(v.Namespace, v.Name) }),
			memIndex("node", func(o any) []byte { return o.(*api.Volume).NodeID[:] }),
			memIndex("vm", func(o any) []byte { return o.(*api.Volume).VMID[:] }),
			memIndex("image", func(o any) []byte { return o.(*api.Volume).Image[:] })),
	} {
		s.Tables[t.Name] = t
	}
	return s
}

func memNew(b *testing.B) *memdb.MemDB {
	db, err := memdb.NewMemDB(memSchema())
	if err != nil {
		b.Fatal(err)
	}
	return db
}

func memInsert(b *testing.B, tx *memdb.Txn, table string, o any) {
	if err := tx.Insert(table, o); err != nil {
		b.Fatal(err)
	}
}

func memFill(b *testing.B, rows []benchRow) *memdb.MemDB {
	db := memNew(b)
	for len(rows) > 0 {
		n := min(benchBatch, len(rows))
		tx := db.Txn(true)
		for _, r := range rows[:n] {
			memInsert(b, tx, "vm", r.vm)
			memInsert(b, tx, "placement", r.p)
			memInsert(b, tx, "volume", r.vol)
		}
		tx.Commit()
		rows = rows[n:]
	}
	return db
}

// perVM reports the time for each VM of an operation on n of them.
func perVM(b *testing.B, n int) {
	d := float64(b.Elapsed().Nanoseconds()) / float64(b.N) / float64(n)
	b.ReportMetric(d, "ns/vm")
	b.ReportMetric(1e9/d, "vms/s")
}

// BenchmarkInsert fills empty tables, 64 VMs in a transaction.
func BenchmarkInsert(b *testing.B) {
	n := benchVMs(b)
	rows := benchRows(n)
	b.Run("nova", func(b *testing.B) {
		for b.Loop() {
			novaFill(rows)
		}
		perVM(b, n)
	})
	b.Run("memdb", func(b *testing.B) {
		for b.Loop() {
			memFill(b, rows)
		}
		perVM(b, n)
	})
}

// BenchmarkUpdate reports the state of one VM and publishes, as a node's report
// does.
func BenchmarkUpdate(b *testing.B) {
	n := benchVMs(b)
	rows := benchRows(n)
	b.Run("nova", func(b *testing.B) {
		f := novaFill(rows)
		i := 0
		for b.Loop() {
			tx := f.begin()
			p := *rows[i*7919%n].p
			p.ModifyIndex, p.Restarts = uint64(i), uint32(i)
			placementDef.put(tx, &p)
			f.publish(tx, []commit{{index: uint64(i), log: tx.log, changes: tx.changes()}})
			i++
		}
	})
	b.Run("memdb", func(b *testing.B) {
		db := memFill(b, rows)
		i := 0
		for b.Loop() {
			tx := db.Txn(true)
			p := *rows[i*7919%n].p
			p.ModifyIndex, p.Restarts = uint64(i), uint32(i)
			memInsert(b, tx, "placement", &p)
			tx.Commit()
			i++
		}
	})
}

// BenchmarkRead reads one VM by its id, and by its name.
func BenchmarkRead(b *testing.B) {
	n := benchVMs(b)
	rows := benchRows(n)
	f, db := novaFill(rows), memFill(b, rows)
	b.Run("id/nova", func(b *testing.B) {
		i := 0
		for b.Loop() {
			if f.State().VM(rows[i*7919%n].vm.ID) == nil {
				b.Fatal("lost")
			}
			i++
		}
	})
	b.Run("id/memdb", func(b *testing.B) {
		i := 0
		for b.Loop() {
			if v, err := db.Txn(false).First("vm", "id", rows[i*7919%n].vm.ID[:]); v == nil || err != nil {
				b.Fatal("lost")
			}
			i++
		}
	})
	b.Run("name/nova", func(b *testing.B) {
		i := 0
		for b.Loop() {
			v := rows[i*7919%n].vm
			if f.State().VMByName(v.Namespace, v.Name) == nil {
				b.Fatal("lost")
			}
			i++
		}
	})
	b.Run("name/memdb", func(b *testing.B) {
		i := 0
		for b.Loop() {
			v := rows[i*7919%n].vm
			if v, err := db.Txn(false).First("vm", "name", nsKey(v.Namespace, v.Name)); v == nil || err != nil {
				b.Fatal("lost")
			}
			i++
		}
	})
}

// BenchmarkScan walks all VMs, and the placements of one node.
func BenchmarkScan(b *testing.B) {
	n := benchVMs(b)
	rows := benchRows(n)
	f, db := novaFill(rows), memFill(b, rows)
	walk := func(b *testing.B, table, index string, args ...any) (sum int) {
		it, err := db.Txn(false).Get(table, index, args...)
		if err != nil {
			b.Fatal(err)
		}
		for o := it.Next(); o != nil; o = it.Next() {
			sum++
		}
		return sum
	}
	want := func(b *testing.B, got, want int) {
		if got != want {
			b.Fatalf("%d of %d", got, want)
		}
	}
	b.Run("all/nova", func(b *testing.B) {
		for b.Loop() {
			sum := 0
			for range f.State().VMs() {
				sum++
			}
			want(b, sum, n)
		}
		perVM(b, n)
	})
	b.Run("all/memdb", func(b *testing.B) {
		for b.Loop() {
			want(b, walk(b, "vm", "id_prefix", []byte{}), n)
		}
		perVM(b, n)
	})
	node := rows[0].p.NodeID
	b.Run("node/nova", func(b *testing.B) {
		for b.Loop() {
			sum := 0
			for range f.State().PlacementsOn(node) {
				sum++
			}
			want(b, sum, min(n, benchPerNode))
		}
	})
	b.Run("node/memdb", func(b *testing.B) {
		for b.Loop() {
			want(b, walk(b, "placement", "node", node[:]), min(n, benchPerNode))
		}
	})
}

func (k keyOf) PrefixFromArgs(a ...any) ([]byte, error) { return a[0].([]byte), nil }

func heapBytes() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// BenchmarkMemory reports the heap for each VM: records and indexes, and the
// indexes alone.
func BenchmarkMemory(b *testing.B) {
	n := benchVMs(b)
	measure := func(b *testing.B, fill func(rows []benchRow) any) {
		for b.Loop() {
			base := heapBytes()
			rows := benchRows(n)
			records := heapBytes()
			db := fill(rows)
			clear(rows)
			rows = nil
			full := heapBytes()
			b.ReportMetric((full-base)/float64(n), "bytes/vm")
			b.ReportMetric((full-records+float64(n)*24)/float64(n), "index-bytes/vm")
			runtime.KeepAlive(db)
		}
	}
	b.Run("nova", func(b *testing.B) { measure(b, func(r []benchRow) any { return novaFill(r) }) })
	b.Run("memdb", func(b *testing.B) { measure(b, func(r []benchRow) any { return memFill(b, r) }) })
}

var msgpackHandle = &codec.MsgpackHandle{}

// BenchmarkPersist writes a snapshot: ours with SHA-256, the other without.
func BenchmarkPersist(b *testing.B) {
	n := benchVMs(b)
	rows := benchRows(n)
	b.Run("nova", func(b *testing.B) {
		s := novaFill(rows).State()
		for b.Loop() {
			if err := s.Persist(io.Discard); err != nil {
				b.Fatal(err)
			}
		}
		perVM(b, n)
	})
	b.Run("memdb", func(b *testing.B) {
		db := memFill(b, rows)
		for b.Loop() {
			memPersist(b, db, io.Discard)
		}
		perVM(b, n)
	})
}

func memPersist(b *testing.B, db *memdb.MemDB, w io.Writer) {
	bw := bufio.NewWriterSize(w, 256<<10)
	enc := codec.NewEncoder(bw, msgpackHandle)
	tx := db.Txn(false)
	for _, table := range []string{"vm", "placement", "volume"} {
		it, err := tx.Get(table, "id_prefix", []byte{})
		if err != nil {
			b.Fatal(err)
		}
		for o := it.Next(); o != nil; o = it.Next() {
			if err := enc.Encode(o); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := bw.Flush(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRestore reads a snapshot from memory into fresh tables.
func BenchmarkRestore(b *testing.B) {
	n := benchVMs(b)
	rows := benchRows(n)
	var nova, mem bytes.Buffer
	if err := novaFill(rows).State().Persist(&nova); err != nil {
		b.Fatal(err)
	}
	memPersist(b, memFill(b, rows), &mem)
	rows = nil
	b.Run("nova", func(b *testing.B) {
		f := New(Config{})
		for b.Loop() {
			if err := f.Restore(io.NopCloser(bytes.NewReader(nova.Bytes()))); err != nil {
				b.Fatal(err)
			}
		}
		perVM(b, n)
		b.ReportMetric(float64(nova.Len())/float64(n), "file-bytes/vm")
	})
	b.Run("memdb", func(b *testing.B) {
		for b.Loop() {
			db := memNew(b)
			tx := db.Txn(true)
			dec := codec.NewDecoder(bufio.NewReaderSize(bytes.NewReader(mem.Bytes()), 256<<10), msgpackHandle)
			for range n {
				memDecode(b, tx, dec, "vm", new(api.VM))
			}
			for range n {
				memDecode(b, tx, dec, "placement", new(api.Placement))
			}
			for range n {
				memDecode(b, tx, dec, "volume", new(api.Volume))
			}
			tx.Commit()
		}
		perVM(b, n)
		b.ReportMetric(float64(mem.Len())/float64(n), "file-bytes/vm")
	})
}

func memDecode(b *testing.B, tx *memdb.Txn, dec *codec.Decoder, table string, o any) {
	if err := dec.Decode(o); err != nil {
		b.Fatal(err)
	}
	memInsert(b, tx, table, o)
}
