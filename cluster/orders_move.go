package cluster

import (
	"hash/maphash"
	"slices"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// markMoves marks the streams that a change of a migration, or of the address of
// one of its ends, concerns; the hub is locked.
func (h *orderHub) markMoves(s *fsm.State, c *fsm.Change) {
	move := func(m *api.Migration, nodes ...api.ID) {
		for _, n := range nodes {
			if !n.IsZero() {
				h.mark(n, func(sub *orderSub) { sub.moves[m.ID] = struct{}{} })
			}
		}
	}
	switch c.Table {
	case fsm.TableMigration:
		for _, v := range []any{c.Old, c.New} {
			if m, ok := v.(*api.Migration); ok {
				move(m, m.From, m.To)
			}
		}
	case fsm.TableNode:
		old, _ := c.Old.(*api.Node)
		now, _ := c.New.(*api.Node)
		if old == nil || now == nil || old.Address == now.Address {
			return
		}
		for m := range s.MigrationsFrom(now.ID) {
			move(m, m.To)
		}
		for m := range s.MigrationsTo(now.ID) {
			move(m, m.From)
		}
	}
}

// moveOrder makes a node's part in a migration; nil when it has none, or nothing
// of it is left there.
func (s *Server) moveOrder(st *fsm.State, m *api.Migration, node api.ID) *api.MoveOrder {
	if m == nil || m.Phase == api.MigrationQueued {
		return nil
	}
	o, end, peer := &api.MoveOrder{Migration: m}, m.Source, m.To
	if node == m.To {
		end, peer = m.Dest, m.From
	} else if node != m.From {
		return nil
	}
	if end.Clean { // it may have forgotten the move already, and must not remember it anew
		return nil
	}
	if n := st.Node(peer); n != nil {
		o.Peer = n.Address
	}
	if node == m.To && m.Phase != api.MigrationDone { // also to take away what it has made of it
		o.VM = s.movedOrder(st, m)
	}
	return o
}

// movedOrder is the order that the destination has, or would have, of the VM.
func (s *Server) movedOrder(st *fsm.State, m *api.Migration) *api.Order {
	vm, p := st.VM(m.VMID), st.Placement(m.VMID)
	if vm == nil || p == nil {
		return nil
	}
	if p.NodeID != m.To {
		q := *p
		q.NodeID, q.Epoch = m.To, m.Epoch+1
		p = &q
	}
	return s.orderOf(st, p)
}

// movesOf lists a node's parts in migrations.
func (s *Server) movesOf(st *fsm.State, node api.ID) []*api.MoveOrder {
	var out []*api.MoveOrder
	add := func(m *api.Migration) {
		if o := s.moveOrder(st, m, node); o != nil {
			out = append(out, o)
		}
	}
	for m := range st.MigrationsFrom(node) {
		add(m)
	}
	for m := range st.MigrationsTo(node) {
		add(m)
	}
	return out
}

// fullMoves sends all moves of the node, before what is ordered of VMs.
func (o *orderStream) fullMoves(st *fsm.State, b *orderParts) {
	clear(o.sentM)
	for _, m := range o.s.movesOf(st, o.sub.node) {
		o.sentM[m.Migration.ID] = moveSum(m)
		b.move(m)
	}
}

// moveChanges sends what its parts in these migrations ask anew.
func (o *orderStream) moveChanges(st *fsm.State, ids map[api.ID]struct{}, b *orderParts) {
	sorted := make([]api.ID, 0, len(ids))
	for id := range ids {
		sorted = append(sorted, id)
	}
	slices.SortFunc(sorted, func(a, c api.ID) int { return slices.Compare(a[:], c[:]) })
	for _, id := range sorted {
		m := o.s.moveOrder(st, st.Migration(id), o.sub.node)
		if m == nil {
			delete(o.sentM, id)
			continue
		}
		if sum := moveSum(m); sum != o.sentM[id] {
			o.sentM[id] = sum
			b.move(m)
		}
	}
}

// moveSum tells whether a part in a migration asks for something else than
// before: what the ends have said does not count.
func moveSum(o *api.MoveOrder) uint64 {
	var h maphash.Hash
	h.SetSeed(ordersSeed)
	m := o.Migration
	h.WriteString(string(m.Phase))
	h.WriteByte(0)
	h.WriteString(o.Peer)
	h.WriteByte(0)
	maphash.WriteComparable(&h, m.Options)
	maphash.WriteComparable(&h, [4]bool{m.KillSource, m.KillDest, m.Lost, m.GiveUp})
	maphash.WriteComparable(&h, m.Attempts)
	if o.VM != nil {
		maphash.WriteComparable(&h, orderSum(o.VM))
	}
	return h.Sum64()
}
