package fsm

import (
	"encoding/binary"
	"fmt"
	"iter"
	"slices"

	"github.com/novacron/novacron/api"
	"github.com/tidwall/btree"
)

// degree of the B-trees: wide enough for fast scans, narrow enough that a copied
// path stays small.
const degree = 32

// record is a type that a table can hold: a struct with generated codecs.
type record[T any] interface {
	*T
	api.Message
}

// entry is one item of a primary tree. The key stands beside the pointer, so
// that a search does not touch the records.
type entry[K, T any] struct {
	key K
	val *T
}

func newTree[E any](less func(a, b E) bool) *btree.BTreeG[E] {
	return btree.NewBTreeGOptions(less, btree.Options{Degree: degree, NoLocks: true})
}

// secondary is an index of a table beside its primary key.
type secondary[K, T any] interface {
	// update follows a change of one record; nil means that it was not there, or
	// is no more.
	update(old, new *T)
	share() secondary[K, T]
	load(vals func(func(*T) bool))
	len() int
}

// index is a secondary index with keys of type S, which are unique. Its items
// point at the records, so that a walk needs no look-up for each.
type index[S comparable, K, T any] struct {
	fn    func(*T) (S, bool)
	less  func(a, b entry[S, T]) bool
	tree  *btree.BTreeG[entry[S, T]]
	owned bool
}

func newIndex[S comparable, K, T any](fn func(*T) (S, bool), less func(a, b S) bool) *index[S, K, T] {
	x := &index[S, K, T]{fn: fn, less: func(a, b entry[S, T]) bool { return less(a.key, b.key) }}
	x.tree = newTree(x.less)
	return x
}

func (x *index[S, K, T]) share() secondary[K, T] {
	c := *x
	c.owned = false
	return &c
}

func (x *index[S, K, T]) len() int { return x.tree.Len() }

func (x *index[S, K, T]) update(old, new *T) {
	var so, sn S
	var hadOld, hasNew bool
	if old != nil {
		so, hadOld = x.fn(old)
	}
	if new != nil {
		sn, hasNew = x.fn(new)
	}
	if !hadOld && !hasNew {
		return
	}
	if !x.owned {
		x.tree, x.owned = x.tree.Copy(), true
	}
	if hadOld && (!hasNew || so != sn) {
		x.tree.Delete(entry[S, T]{key: so})
	}
	if hasNew {
		x.tree.Set(entry[S, T]{sn, new})
	}
}

func (x *index[S, K, T]) load(vals func(func(*T) bool)) {
	var items []entry[S, T]
	sorted := true
	vals(func(v *T) bool {
		if s, ok := x.fn(v); ok {
			e := entry[S, T]{s, v}
			if n := len(items); n > 0 && sorted && !x.less(items[n-1], e) {
				sorted = false
			}
			items = append(items, e)
		}
		return true
	})
	if !sorted {
		slices.SortFunc(items, func(a, b entry[S, T]) int {
			if x.less(a, b) {
				return -1
			}
			if x.less(b, a) {
				return 1
			}
			return 0
		})
	}
	x.tree, x.owned = newTree(x.less), true
	for _, e := range items {
		x.tree.Load(e)
	}
}

// tableDef is what never changes of a table: its name, keys and indexes.
type tableDef[K, T any, P record[T]] struct {
	name string
	key  func(*T) K
	less func(a, b entry[K, T]) bool
	// secs builds the secondary indexes, always in the same order.
	secs func() []secondary[K, T]
	// of finds the table in a state.
	of func(*State) **table[K, T, P]
	// watch emits every prefix that a change of this record touches, besides
	// the table as a whole.
	watch func(v *T, emit func(index, prefix string))
	// derive keeps what is counted beside the table; it asks for the counters
	// only when they change.
	derive func(u func() *usage, old, new *T)
}

// table is one version of a table: a primary tree and its indexes. After it was
// published nothing of it changes.
type table[K, T any, P record[T]] struct {
	def   *tableDef[K, T, P]
	tree  *btree.BTreeG[entry[K, T]]
	secs  []secondary[K, T]
	index api.Index // of the last change
}

func (d *tableDef[K, T, P]) empty() *table[K, T, P] {
	t := &table[K, T, P]{def: d, tree: newTree(d.less)}
	if d.secs != nil {
		t.secs = d.secs()
	}
	return t
}

// clone makes a version that may be changed. Only the apply goroutine calls it.
func (t *table[K, T, P]) clone() *table[K, T, P] {
	c := *t
	c.tree = t.tree.Copy()
	c.secs = make([]secondary[K, T], len(t.secs))
	for i, s := range t.secs {
		c.secs[i] = s.share()
	}
	return &c
}

func (t *table[K, T, P]) get(k K) *T {
	e, _ := t.tree.Get(entry[K, T]{key: k})
	return e.val
}

func (t *table[K, T, P]) len() int { return t.tree.Len() }

// all walks the records in key order.
func (t *table[K, T, P]) all() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		t.tree.Scan(func(e entry[K, T]) bool { return yield(e.val) })
	}
}

// from walks the records from a key on.
func (t *table[K, T, P]) from(k K) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		t.tree.Ascend(entry[K, T]{key: k}, func(e entry[K, T]) bool { return yield(e.val) })
	}
}

// sec returns a secondary index with its concrete type.
func sec[S comparable, K, T any, P record[T]](t *table[K, T, P], i int) *index[S, K, T] {
	return t.secs[i].(*index[S, K, T])
}

// walk yields the records that an index holds from pivot on while in holds.
func walk[S comparable, K, T any, P record[T]](t *table[K, T, P], i int, pivot S, in func(S) bool) iter.Seq[*T] {
	x := sec[S](t, i)
	return func(yield func(*T) bool) {
		x.tree.Ascend(entry[S, T]{key: pivot}, func(e entry[S, T]) bool { return in(e.key) && yield(e.val) })
	}
}

// find returns the record of a key of an index, or nil.
func find[S comparable, K, T any, P record[T]](t *table[K, T, P], i int, key S) *T {
	e, _ := sec[S](t, i).tree.Get(entry[S, T]{key: key})
	return e.val
}

// first returns the first record of an index at or after pivot, or nil.
func first[S comparable, K, T any, P record[T]](t *table[K, T, P], i int, pivot S) *T {
	var found *T
	sec[S](t, i).tree.Ascend(entry[S, T]{key: pivot}, func(e entry[S, T]) bool {
		found = e.val
		return false
	})
	return found
}

// anyDef is a table's definition without its types: what transactions,
// snapshots and watches need of it.
type anyDef interface {
	tableName() string
	revert(tx *Txn, old, new any)
	touch(s *State, index api.Index)
	notify(h *hub, old, new any)
	count(s *State) int
	each(s *State, fn func(api.Message) error) error
	reset(s *State)
	loader(s *State) loader
}

// loader takes the records of a snapshot in key order.
type loader interface {
	// add decodes one record; it refuses what is not canonical or not in order.
	add(b []byte) (api.Message, error)
	done(index api.Index)
}

func (d *tableDef[K, T, P]) tableName() string { return d.name }

// writable returns the table of the transaction's state, copied on the first
// write of a batch.
func (d *tableDef[K, T, P]) writable(tx *Txn) *table[K, T, P] {
	p, base := d.of(tx.s), d.of(tx.base)
	if *p == *base {
		*p = (*base).clone()
	}
	return *p
}

func (d *tableDef[K, T, P]) get(tx *Txn, k K) *T { return (*d.of(tx.s)).get(k) }

// put writes a record, which must not be changed afterwards.
func (d *tableDef[K, T, P]) put(tx *Txn, v *T) { d.putAs(tx, v, false) }

// quiet writes a record that is the same to everybody but the state machine.
func (d *tableDef[K, T, P]) quiet(tx *Txn, v *T) { d.putAs(tx, v, true) }

func (d *tableDef[K, T, P]) putAs(tx *Txn, v *T, quiet bool) {
	if tx.verify != nil {
		tx.verify(d.name, P(v))
	}
	t := d.writable(tx)
	if old := d.set(tx, t, d.key(v), v); old != nil {
		tx.recordAs(d, old, v, quiet)
	} else {
		tx.recordAs(d, nil, v, quiet)
	}
}

// del removes a record if it is there.
func (d *tableDef[K, T, P]) del(tx *Txn, k K) {
	if d.get(tx, k) == nil {
		return
	}
	t := d.writable(tx)
	tx.record(d, d.set(tx, t, k, nil), nil)
}

// set changes the trees and what is derived; nil deletes.
func (d *tableDef[K, T, P]) set(tx *Txn, t *table[K, T, P], k K, v *T) *T {
	var prev entry[K, T]
	if v == nil {
		prev, _ = t.tree.Delete(entry[K, T]{key: k})
	} else {
		prev, _ = t.tree.Set(entry[K, T]{key: k, val: v})
	}
	for _, s := range t.secs {
		s.update(prev.val, v)
	}
	if d.derive != nil {
		d.derive(tx.usage, prev.val, v)
	}
	return prev.val
}

func (d *tableDef[K, T, P]) revert(tx *Txn, old, new any) {
	o, _ := old.(*T)
	n, _ := new.(*T)
	t := d.writable(tx)
	switch {
	case o != nil:
		d.set(tx, t, d.key(o), o)
	case n != nil:
		d.set(tx, t, d.key(n), nil)
	}
}

func (d *tableDef[K, T, P]) touch(s *State, index api.Index) { (*d.of(s)).index = index }

func (d *tableDef[K, T, P]) count(s *State) int { return (*d.of(s)).len() }

func (d *tableDef[K, T, P]) reset(s *State) { *d.of(s) = d.empty() }

func (d *tableDef[K, T, P]) each(s *State, fn func(api.Message) error) error {
	var err error
	(*d.of(s)).tree.Scan(func(e entry[K, T]) bool {
		err = fn(P(e.val))
		return err == nil
	})
	return err
}

func (d *tableDef[K, T, P]) notify(h *hub, old, new any) {
	h.fire(d.name, "", "")
	if d.watch == nil {
		return
	}
	emit := func(index, prefix string) { h.fire(d.name, index, prefix) }
	if o, _ := old.(*T); o != nil {
		d.watch(o, emit)
	}
	if n, _ := new.(*T); n != nil {
		d.watch(n, emit)
	}
}

// load is the loader of one table.
type load[K, T any, P record[T]] struct {
	def  *tableDef[K, T, P]
	s    *State
	t    *table[K, T, P]
	last entry[K, T]
	buf  []byte
}

func (d *tableDef[K, T, P]) loader(s *State) loader {
	return &load[K, T, P]{def: d, s: s, t: d.empty()}
}

func (l *load[K, T, P]) add(b []byte) (api.Message, error) {
	v := P(new(T))
	var err error
	if l.buf, err = decodeStrict(b, v, l.buf); err != nil {
		return nil, fmt.Errorf("table %s: %w", l.def.name, err)
	}
	e := entry[K, T]{key: l.def.key(v), val: v}
	if l.last.val != nil && !l.def.less(l.last, e) {
		return nil, fmt.Errorf("table %s: records are not in order", l.def.name)
	}
	l.last = e
	l.t.tree.Load(e)
	return v, nil
}

func (l *load[K, T, P]) done(index api.Index) {
	vals := func(yield func(*T) bool) { l.t.all()(yield) }
	for _, s := range l.t.secs {
		s.load(vals)
	}
	l.t.index = index
	*l.def.of(l.s) = l.t
	if l.def.derive != nil {
		use := func() *usage { return l.s.use }
		for v := range l.t.all() {
			l.def.derive(use, nil, v)
		}
	}
}

// Keys.

// cmpID orders ids by their bytes.
func cmpID(a, b api.ID) int {
	x, y := binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(b[:8])
	if x == y {
		x, y = binary.BigEndian.Uint64(a[8:]), binary.BigEndian.Uint64(b[8:])
	}
	if x < y {
		return -1
	}
	if x > y {
		return 1
	}
	return 0
}

func idLess[T any](a, b entry[api.ID, T]) bool { return cmpID(a.key, b.key) < 0 }

func stringLess[T any](a, b entry[string, T]) bool { return a.key < b.key }

// nameKey finds a noun by namespace and name. The first bytes stand in the key
// itself, so that a search seldom touches the strings.
type nameKey struct {
	ns8, n8, n16 uint64
	ns, name     string
}

func nameKeyOf(ns, name string) nameKey {
	return nameKey{head(ns, 0), head(name, 0), head(name, 8), ns, name}
}

// head is eight bytes of a string from at on, as a number that sorts like them.
func head(s string, at int) uint64 {
	var b [8]byte
	if at < len(s) {
		copy(b[:], s[at:])
	}
	return binary.BigEndian.Uint64(b[:])
}

func nameLess(a, b nameKey) bool {
	if a.ns8 != b.ns8 {
		return a.ns8 < b.ns8
	}
	if (len(a.ns) > 8 || len(b.ns) > 8) && a.ns != b.ns {
		return a.ns < b.ns
	}
	if a.n8 != b.n8 {
		return a.n8 < b.n8
	}
	if a.n16 != b.n16 {
		return a.n16 < b.n16
	}
	return (len(a.name) > 16 || len(b.name) > 16) && a.name < b.name
}

// pairKey is an id within another: a VM on a node, a volume of a VM.
type pairKey struct{ a, b api.ID }

func pairLess(x, y pairKey) bool {
	if c := cmpID(x.a, y.a); c != 0 {
		return c < 0
	}
	return cmpID(x.b, y.b) < 0
}

func bytesOf(id api.ID) string { return string(id[:]) }

// scan walks a tree in order.
func scan[E any](t *btree.BTreeG[E]) iter.Seq[E] {
	return func(yield func(E) bool) { t.Scan(yield) }
}
