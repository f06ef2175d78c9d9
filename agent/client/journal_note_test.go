package client

import (
	"errors"
	"testing"

	"github.com/shoenig/test/must"
	"go.etcd.io/bbolt"

	"github.com/novacron/novacron/api"
)

// What is noted of the node is on disk when anything that follows from it is, and
// is not lost with a write that fails.
func TestWhatIsNotedGoesWithTheNextWrite(t *testing.T) {
	dir := t.TempDir()
	open := func() (*journal, meta) {
		j, m, _, err := openJournal(dir, node1, true)
		must.NoError(t, err)
		return j, m
	}
	j, m := open()
	for i, write := range []func() error{
		func() error { return j.putVM(record{ID: vm1, Epoch: 1}, nil) },
		func() error { return j.settle() },
		func() error { return j.write(func(tx *bbolt.Tx) error { return nil }) },
		func() error {
			boom := errors.New("boom")
			must.ErrorIs(t, j.db.Update(func(tx *bbolt.Tx) error { return boom }), boom) // another's
			must.Error(t, j.write(func(*bbolt.Tx) error { return boom }))
			return j.settle()
		},
	} {
		m.Index = api.Index(i + 1)
		j.note(m)
		must.NoError(t, write())
		must.NoError(t, j.close())
		var read meta
		j, read = open()
		must.Eq(t, m.Index, read.Index)
		m = read
	}
	must.NoError(t, j.settle())
	j.note(m)
	must.NoError(t, j.close())
	must.Eq(t, api.CodeJournal, api.CodeOf(j.settle()))
}

// The cutover comes in a move and an order. They are one write; a guest waits for it.
func TestAMoveAndAnOrderThatComeTogetherAreWrittenOnce(t *testing.T) {
	movingOut(t, func(b *bed, l *longMove, g *api.Migration, _ func()) {
		writes := func() (n int) {
			must.NoError(b.t, b.c.journal.db.View(func(tx *bbolt.Tx) error { n = tx.ID(); return nil }))
			return n
		}
		next := *g
		next.Phase = api.MigrationSwitched
		before := writes()
		b.srv.do(func() {
			b.srv.index++
			o := *b.srv.orders[vm1]
			o.SpecVersion, o.Index = o.SpecVersion+1, b.srv.index
			b.srv.send(&api.OrderBatch{
				Generation: b.srv.gen, Index: b.srv.index, Orders: []*api.Order{&o}, Moves: []*api.MoveOrder{{Migration: &next, Peer: "n2:1"}},
			})
		})
		b.rest()
		must.Eq(b.t, before+1, writes())
	})
}
