package fsm

import "github.com/novacron/novacron/api"

// Change is one record that a command made, changed or removed.
type Change struct {
	Table string
	Index api.Index
	// Time stamped by the leader that proposed the command.
	Time api.Time
	// Old and New are pointers to the table's type, untyped nil when there is
	// none. They are constants.
	Old, New any
}

// Txn is one command's transaction on the state. Its changes are seen by later
// commands of the same batch at once, and by readers when the batch is
// published.
type Txn struct {
	base *State // as published
	s    *State // being made
	reg  *Registry

	index api.Index
	now   api.Time
	log   []undo
	// noun is the key of the noun that the command made, for idempotency.
	nounID   api.ID
	nounName string
	// verify checks records as they are put; only in tests.
	verify func(table string, m api.Message)
}

// undo is a change with what it takes to take it back.
type undo struct {
	def      anyDef
	old, new any
	// quiet: the change tells nobody anything; no watch, event or index moves.
	quiet bool
}

// merge is how far back record looks for an earlier change of the same record.
const merge = 32

// record notes a change. A record changed twice by one command is one change.
// Old and new are untyped nil where there is no record.
func (tx *Txn) record(d anyDef, old, new any) { tx.recordAs(d, old, new, false) }

func (tx *Txn) recordAs(d anyDef, old, new any, quiet bool) {
	if old != nil {
		for i, n := len(tx.log)-1, 0; i >= 0 && n < merge; i, n = i-1, n+1 {
			if u := &tx.log[i]; u.def == d && u.new == old {
				u.new, u.quiet = new, u.quiet && quiet
				return
			}
		}
	}
	tx.log = append(tx.log, undo{d, old, new, quiet})
}

// undo takes back all changes but the first keep, newest first.
func (tx *Txn) undo(keep int) {
	for i := len(tx.log) - 1; i >= keep; i-- {
		u := tx.log[i]
		u.def.revert(tx, u.old, u.new)
	}
	tx.log = tx.log[:keep]
}

// changes returns what the command did, oldest first, and marks the tables.
func (tx *Txn) changes() []Change {
	if len(tx.log) == 0 {
		return nil
	}
	out := make([]Change, 0, len(tx.log))
	for _, u := range tx.log {
		if u.quiet {
			continue
		}
		c := Change{Table: u.def.tableName(), Index: tx.index, Time: tx.now}
		c.Old, c.New = u.old, u.new
		if c.Old == nil && c.New == nil {
			continue // made and removed again
		}
		u.def.touch(tx.s, tx.index)
		out = append(out, c)
	}
	return out
}

// usage returns the counters, copied on the first write of a batch.
func (tx *Txn) usage() *usage {
	if tx.s.use == tx.base.use {
		tx.s.use = tx.base.use.clone()
	}
	return tx.s.use
}

// setMeta changes what the state knows of itself.
func (tx *Txn) setMeta(fn func(m *MetaRecord)) {
	old := tx.s.meta
	next := old
	fn(&next)
	tx.s.meta = next
	tx.record(metaDef, &old, &next)
}
