package fsm

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

// boom is a command of the tests that fails in every way.
type boom struct {
	*Hash // its codec
	id    uint16
	fn    func(tx *Txn) (any, error)
}

func (b *boom) CommandID() uint16          { return b.id }
func (b *boom) Validate() error            { return nil }
func (b *boom) apply(tx *Txn) (any, error) { return b.fn(tx) }

// testRegistry is this binary's registry with commands that only tests have.
func testRegistry(fns ...func(tx *Txn) (any, error)) *Registry {
	r := DefaultRegistry()
	for i, fn := range fns {
		id := uint16(60000 + i)
		r.add(fmt.Sprintf("boom %d", i), 1, func() Command { return &boom{&Hash{}, id, fn} })
	}
	return r
}

func (w *world) boom(n int) Command { return w.f.reg.commands[uint16(60000+n)].New() }

func ns(name string) *NamespaceApply {
	return &NamespaceApply{Namespace: api.Namespace{Name: name}}
}

func TestPanicDiscardsTheTransactionAlone(t *testing.T) {
	w := newWorld(t, testRegistry(func(tx *Txn) (any, error) {
		namespaceDef.put(tx, &api.Namespace{Name: "half", ModifyIndex: tx.index})
		namespaceDef.put(tx, &api.Namespace{Name: "half", ModifyIndex: tx.index, Description: "again"})
		namespaceDef.del(tx, "a")
		tx.setMeta(func(m *MetaRecord) { m.Generation = 99 })
		panic("a bug")
	}))
	w.ok(ns("a"))
	before := dump(w.s())
	r := w.run(w.boom(0))
	must.Eq(t, api.CodeApplyPanic, r.Err.Code)
	must.Nil(t, r.Value)
	must.Eq(t, before, dump(w.s()))
	must.Eq(t, 1, w.f.Panics())
	last := w.seen[len(w.seen)-1]
	must.Eq(t, TableAlarm, last.Table)
	must.Eq(t, &Alarm{Index: w.index, Command: "boom 0"}, last.New.(*Alarm))
	must.Eq(t, "alarm", EventsOf(w.seen[len(w.seen)-1:], w.s())[0].Type)
	must.Nil(t, w.halt)
	w.ok(ns("b"))
}

func TestErrorTakesEveryWriteBack(t *testing.T) {
	w := newWorld(t, testRegistry(func(tx *Txn) (any, error) {
		namespaceDef.del(tx, "a")
		namespaceDef.put(tx, &api.Namespace{Name: "a", Description: "new"})
		namespaceDef.put(tx, &api.Namespace{Name: "b"})
		namespaceDef.del(tx, "b")
		return nil, io.ErrUnexpectedEOF
	}, func(tx *Txn) (any, error) {
		namespaceDef.put(tx, &api.Namespace{Name: "c"})
		namespaceDef.put(tx, &api.Namespace{Name: "c", Description: "x"})
		namespaceDef.put(tx, &api.Namespace{Name: "d"})
		namespaceDef.del(tx, "d")
		return nil, nil
	}))
	w.ok(ns("a"))
	before := dump(w.s())
	must.Eq(t, api.CodeInternal, w.run(w.boom(0)).Err.Code)
	must.Eq(t, before, dump(w.s()))

	// A record changed twice is one change; one made and removed is none.
	w.seen = nil
	must.Nil(t, w.run(w.boom(1)).Err)
	must.Len(t, 1, w.seen)
	must.Nil(t, w.seen[0].Old)
	must.Eq(t, "x", w.seen[0].New.(*api.Namespace).Description)
}

func TestBatchIsPublishedOnceAndTellsEachIndex(t *testing.T) {
	var got []string
	var f *FSM
	f = New(Config{OnCommit: func(i api.Index, c []Change) {
		got = append(got, fmt.Sprintf("%d:%d@%d", i, len(c), f.State().Index()))
	}})
	entry := func(i uint64, c Command) *raft.Log {
		b, err := Encode(c, Meta{Time: api.Time(i)})
		must.NoError(t, err)
		return &raft.Log{Index: i, Type: raft.LogCommand, Data: b}
	}
	res := f.ApplyBatch([]*raft.Log{
		entry(3, ns("a")), {Index: 4, Type: raft.LogConfiguration}, entry(5, &NamespaceDelete{Name: "nope"}),
		entry(6, &NamespaceDelete{Name: "a"}), entry(7, &Hash{}), entry(8, ns("b")),
	})
	must.Eq(t, []string{"3:1@6", "5:0@6", "6:1@6", "7:0@8", "8:1@8"}, got)
	must.Nil(t, res[1])
	must.Eq(t, api.CodeNotFound, res[2].(*Result).Err.Code)
	p := res[4].(*Result).Value.(*HashPoint)
	must.Eq(t, 6, p.Index())
	must.Eq(t, 8, f.State().Index())
	must.Eq(t, 8, f.State().TableIndex(TableNamespace, TableVM))
}

func TestTimeNeverFalls(t *testing.T) {
	w := newWorld(t, nil)
	w.ok(ns("a"))
	high := w.s().Time()
	w.now -= 1_000_000_000
	w.ok(ns("b"))
	must.Eq(t, high, w.s().Time())
	must.Eq(t, high, w.s().Namespace("b").CreateTime)
}

func TestWhatCannotBeDecodedHalts(t *testing.T) {
	good, err := Encode(ns("a"), Meta{Time: 1})
	must.NoError(t, err)
	var env Envelope
	_, err = env.UnmarshalMsg(good)
	must.NoError(t, err)
	reenvelop := func(change func(*Envelope)) []byte {
		e := env
		change(&e)
		b, err := e.MarshalMsg(nil)
		must.NoError(t, err)
		return b
	}
	for name, data := range map[string][]byte{
		"nothing":             {},
		"garbage":             {0xc1, 0xff},
		"cut off":             good[:len(good)-1],
		"something left over": append(bytes.Clone(good), 0xc0),
		"unknown command":     reenvelop(func(e *Envelope) { e.Cmd = 59999 }),
		"unknown field":       reenvelop(func(e *Envelope) { e.Body = []byte{0x81, 0xa1, 'x', 0x01} }),
		"another order":       reenvelop(func(e *Envelope) { e.Body = append(bytes.Clone(e.Body), 0xc0) }),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.ok(ns("before"))
			before := w.s()
			r := w.apply(data)
			must.Eq(t, api.CodeInternal, r.Err.Code)
			must.Error(t, w.halt)
			must.Eq(t, before, w.s())
			must.Eq(t, api.CodeInternal, w.run(ns("after")).Err.Code, must.Sprint("it refuses everything"))
			_, err := w.f.Snapshot()
			must.Error(t, err)
			must.Error(t, w.f.Restore(io.NopCloser(bytes.NewReader(nil))))
			must.Error(t, w.f.Halted())
			must.Eq(t, before, w.s())
		})
	}
}

func TestEncodeSettlesWhatCallersBuild(t *testing.T) {
	w := region(t, 1)
	spec := specOf("a")
	spec.Disks, spec.Constraints, spec.Datacenters = []api.Disk{}, []api.Constraint{}, []string{}
	spec.CloudInit = &api.CloudInit{UserData: []byte{}, SSHKeys: []string{}}
	w.ok(&VMApply{ID: id('m', 1), Spec: spec, VolumeIDs: []api.ID{}})
	must.Nil(t, w.halt)
	must.Nil(t, w.s().VM(id('m', 1)).Spec.Disks)
}

func TestEncodeRefuses(t *testing.T) {
	_, err := Encode(&NamespaceApply{}, Meta{})
	must.Eq(t, api.CodeInvalid, api.CodeOf(err))
	_, err = Encode(&boom{&Hash{}, 61000, nil}, Meta{})
	must.Eq(t, api.CodeSchema, api.CodeOf(err))
	_, err = Encode(ns("a"), Meta{Idem: &IdemKey{}})
	must.Eq(t, api.CodeInvalid, api.CodeOf(err))
	big := &NodeReports{}
	for range 9 * 256 {
		big.Reports = append(big.Reports, api.NodeReport{NodeID: id('n', 1), VMs: []api.VMReport{{VMID: id('m', 1), State: api.StateRunning, Message: string(make([]byte, 4<<10))}}})
	}
	_, err = Encode(big, Meta{})
	must.Eq(t, api.CodeTooLarge, api.CodeOf(err))
	must.Eq(t, "VMApply", DefaultRegistry().Name(cmdVMApply))
	must.Eq(t, "command 9999", DefaultRegistry().Name(9999))
}

func TestHashesAreComparedWithTheLeaders(t *testing.T) {
	w := region(t, 1)
	p := w.ok(&Hash{}).(*HashPoint)
	sum := p.Sum()
	must.Eq(t, w.index-1, p.Index())
	must.Eq(t, p, w.f.LastHash())
	w.vm(1)
	q := w.ok(&Hash{Index: p.Index(), Sum: sum[:]}).(*HashPoint)
	must.NotEq(t, p.Sum(), q.Sum())
	w.ok(&Hash{Index: 1, Sum: sum[:]}) // not the one we have: nothing to compare
	must.Nil(t, w.halt)
	sum[0]++
	r := w.run(&Hash{Index: w.f.LastHash().Index(), Sum: sum[:]})
	must.NotNil(t, r.Err)
	must.StrContains(t, w.halt.Error(), "hash")
	_, err := Encode(&Hash{Index: 1}, Meta{})
	must.Eq(t, api.CodeInvalid, api.CodeOf(err))
}

func TestIdempotency(t *testing.T) {
	w := region(t, 1)
	key := func(accessor int, k, body string) *IdemKey {
		return &IdemKey{Accessor: id('t', accessor), Key: k, BodyHash: []byte(body)}
	}
	mk := &VMApply{ID: id('m', 1), Spec: specOf("vm-1")}
	first := w.runWith(mk, key(1, "k", "body"))
	must.Nil(t, first.Err)
	mk.ID = id('m', 2) // ids are chosen anew for the repetition
	again := w.runWith(mk, key(1, "k", "body"))
	must.Nil(t, again.Err)
	must.True(t, again.Replayed)
	must.Eq(t, first.Index, again.Index)
	must.Eq(t, id('m', 1), again.Value.(*api.VMApplied).VM.ID)
	must.True(t, again.Value.(*api.VMApplied).Replayed)

	must.Eq(t, api.CodeIdempotency, w.runWith(mk, key(1, "k", "other")).Err.Code)
	must.Eq(t, api.CodeIdempotency, w.runWith(ns("x"), key(1, "k", "body")).Err.Code)
	must.False(t, w.runWith(&VMPower{ID: id('m', 1), Action: "reboot"}, key(2, "k", "r")).Replayed, must.Sprint("another caller's key"))
	must.True(t, w.runWith(&VMPower{ID: id('m', 1), Action: "reboot"}, key(2, "k", "r")).Replayed)
	must.Eq(t, 1, w.s().VM(id('m', 1)).Reboots, must.Sprint("executed once"))

	// A refusal is answered again too.
	must.Eq(t, api.CodeNotFound, w.runWith(&NamespaceDelete{Name: "late"}, key(1, "d", "b")).Err.Code)
	w.ok(ns("late"))
	r := w.runWith(&NamespaceDelete{Name: "late"}, key(1, "d", "b"))
	must.Eq(t, api.CodeNotFound, r.Err.Code)
	must.True(t, r.Replayed)

	// All that is answered with a noun.
	hash := make([]byte, 32)
	for i, c := range []Command{
		ns("n"), &NodeUpdate{ID: id('n', 1), CPURatio: 3}, &VolumeCreate{Volume: api.Volume{ID: id('V', 1), Namespace: "default", Name: "v", Size: 1}},
		&VolumeAssign{ID: id('V', 1), NodeID: id('n', 1)}, &PoolApply{Pool: api.Pool{Name: "p"}}, &NetworkApply{Network: api.Network{Name: "x", Type: "nat"}},
		&ImageCreate{Image: api.Image{ID: id('i', 5), Namespace: "default", Name: "im", Kind: "disk", Format: "raw", SHA256: fmt.Sprintf("%064x", 5), State: api.ImagePending}},
		&TokenCreate{Token: api.Token{Accessor: id('t', 7), Type: api.TokenManagement}, Hash: hash}, &SchedulerSet{},
	} {
		k := key(3, fmt.Sprint(i), "b")
		one := w.runWith(c, k)
		must.Nil(t, one.Err, must.Sprintf("%T", c))
		two := w.runWith(c, k)
		must.True(t, two.Replayed)
		must.Eq(t, fmt.Sprintf("%#v", one.Value), fmt.Sprintf("%#v", two.Value), must.Sprintf("%T", c))
	}
	gone := w.runWith(&NamespaceDelete{Name: "n"}, key(3, "gone", "b"))
	must.Nil(t, gone.Err)
	r = w.runWith(ns("n"), key(3, "0", "b"))
	must.True(t, r.Replayed)
	must.Nil(t, r.Value, must.Sprint("the noun is gone by now"))

	// After ten minutes of leaders' time a key is forgotten.
	w.now += api.Time(IdemTTL) + 1
	must.False(t, w.runWith(&VMPower{ID: id('m', 1), Action: "reboot"}, key(2, "k", "r")).Replayed)
	must.Eq(t, 2, w.s().VM(id('m', 1)).Reboots)
	w.now += api.Time(IdemTTL) + 1
	w.ok(ns("y"))
	must.Eq(t, 0, w.s().idems.len())
	must.Eq(t, 0, w.s().use.callers.Len())
}

func TestIdempotencyIsCappedForEachCaller(t *testing.T) {
	w := newWorld(t, nil)
	w.f.verify = nil
	for i := range IdemCap + 10 {
		k := &IdemKey{Accessor: id('t', 1), Key: fmt.Sprint(i), BodyHash: []byte("b")}
		must.Nil(t, w.runWith(ns("a"), k).Err)
	}
	must.Nil(t, w.runWith(ns("a"), &IdemKey{Accessor: id('t', 2), Key: "x", BodyHash: []byte("b")}).Err)
	must.Eq(t, IdemCap+1, w.s().idems.len())
	must.False(t, w.runWith(ns("a"), &IdemKey{Accessor: id('t', 1), Key: "0", BodyHash: []byte("b")}).Replayed, must.Sprint("the oldest went"))
	must.True(t, w.runWith(ns("a"), &IdemKey{Accessor: id('t', 1), Key: "500", BodyHash: []byte("b")}).Replayed)
}

func TestTryChangesNothing(t *testing.T) {
	w := region(t, 1)
	w.vm(1, local("root"))
	before, base, seen := w.s().Hash(), w.s(), len(w.seen)
	spec := specOf("vm-2", local("root"))
	v, err := w.f.Try(&VMApply{ID: id('m', 2), Spec: spec, VolumeIDs: volumeIDs(2, 1)})
	must.NoError(t, err)
	must.True(t, v.(*api.VMApplied).Created)
	_, err = w.f.Try(&VMDelete{ID: id('m', 1)})
	must.NoError(t, err)
	for want, cmd := range map[api.Code]Command{
		api.CodeNotFound: &VMApply{ID: id('m', 2), Spec: specOf("x", api.Disk{Name: "root", Image: "nope"}), VolumeIDs: volumeIDs(2, 1)},
		api.CodeInvalid:  &VMApply{ID: id('m', 2), Spec: api.VMSpec{Name: "/"}},
		api.CodeExists:   &VMApply{ID: id('m', 1), Spec: spec, VolumeIDs: volumeIDs(2, 1)},
	} {
		_, err := w.f.Try(cmd)
		must.Eq(t, want, api.CodeOf(err))
	}
	must.True(t, base == w.s())
	must.Eq(t, before, w.s().Hash())
	must.Eq(t, seen, len(w.seen))
	must.Eq(t, 1, w.s().VMCount())

	// What comes after is as if nothing had been tried.
	other := region(t, 1)
	other.vm(1, local("root"))
	w.vm(3, local("root"))
	other.vm(3, local("root"))
	must.Eq(t, other.s().Hash(), w.s().Hash())
}
