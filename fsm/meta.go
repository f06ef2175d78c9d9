package fsm

import (
	"errors"
	"fmt"

	"github.com/novacron/novacron/api"
)

// metaTable makes the one MetaRecord, which a State holds by value, look like a
// table of one record.
type metaTable struct{}

var metaDef = metaTable{}

func (metaTable) tableName() string { return TableMeta }

func (metaTable) revert(tx *Txn, old, _ any) { tx.s.meta = *old.(*MetaRecord) }

func (metaTable) touch(s *State, index api.Index) { s.metaIndex = index }

func (metaTable) notify(h *hub, _, _ any) { h.fire(TableMeta, "", "") }

func (metaTable) count(*State) int { return 1 }

func (metaTable) each(s *State, fn func(api.Message) error) error { return fn(&s.meta) }

func (metaTable) reset(*State) {}

func (metaTable) loader(s *State) loader { return &metaLoad{s: s} }

type metaLoad struct {
	s   *State
	buf []byte
	n   int
}

func (l *metaLoad) add(b []byte) (api.Message, error) {
	if l.n++; l.n > 1 {
		return nil, errors.New("table meta: more than one record")
	}
	m := new(MetaRecord)
	var err error
	if l.buf, err = decodeStrict(b, m, l.buf); err != nil {
		return nil, fmt.Errorf("table meta: %w", err)
	}
	l.s.meta = *m
	return m, nil
}

func (l *metaLoad) done(index api.Index) { l.s.metaIndex = index }
