package cluster

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/hashicorp/raft"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// keyState is a key in the model: a register with the index of its last change.
type keyState struct {
	id    string // of the operation that wrote it; "" when it is not there
	index uint64 // 0 when nobody has ever seen it
}

// keyModel is what consistent reads and writes of one key promise: they seem to
// happen one after the other, each between its call and its return; a write with
// a check succeeds only at that index.
var keyModel = porcupine.Model{
	Init: func() any { return keyState{} },
	Step: func(state, input, _ any) (bool, any) {
		st, o := state.(keyState), input.(*op)
		if o.kind == opGet {
			return o.absent && st.id == "" || !o.absent && st.id == o.seen && (st.index == o.index || st.index == 0), st
		}
		fits := st.fits(o)
		next := keyState{id: o.id, index: o.index}
		if o.kind == opDelete {
			next = keyState{}
		}
		switch o.result {
		case resultOK:
			return fits, next
		case resultRefused:
			return !fits, st
		}
		if !fits {
			return true, st
		}
		return true, next
	},
	DescribeOperation: func(input, _ any) string {
		o := input.(*op)
		return fmt.Sprintf("%d %s %s check %v: result %d, %s at %d, absent %v", o.kind, o.id, o.key, o.check, o.result, o.seen, o.index, o.absent)
	},
}

// fits reports whether the check of a write holds.
func (st keyState) fits(o *op) bool {
	switch {
	case o.kind == opDelete && st.id == "":
		return false
	case o.check == nil:
		return true
	case *o.check == 0:
		return st.id == ""
	}
	return st.id != "" && st.index == *o.check
}

// byKey splits a history and puts the unknown outcomes at its end: what they may
// do, they may do at any time. Their indexes are those at which others saw them.
func byKey(ops []op) map[string][]porcupine.Operation {
	seenAt := map[string]uint64{}
	for i := range ops {
		if !ops[i].kind.write() && ops[i].result == resultOK && !ops[i].absent {
			seenAt[ops[i].seen] = ops[i].index
		}
	}
	out := map[string][]porcupine.Operation{}
	for i := range ops {
		o := ops[i]
		if o.kind == opGuess || o.kind == opStale || o.result == resultNothing || o.kind == opGet && o.result != resultOK {
			continue
		}
		ret := int64(o.ret)
		if o.result == resultUnknown {
			o.index, ret = seenAt[o.id], math.MaxInt64
		}
		out[o.key] = append(out[o.key], porcupine.Operation{ClientId: o.client, Input: &o, Call: int64(o.call), Return: ret})
	}
	return out
}

// verdict is what the checkers say of one history.
type verdict struct {
	wrong     []string
	checked   int // operations
	undecided int // keys for which the time did not suffice

	// What stands between the log and the second state machine of replay; nil is
	// nothing. They are defects.
	persist func(*fsm.FSM, io.Writer) error
	again   func(*raft.Log) *raft.Log
}

func (v *verdict) say(format string, args ...any) {
	v.wrong = append(v.wrong, fmt.Sprintf(format, args...))
}

// linearizable checks S3 with porcupine, key by key.
func (v *verdict) linearizable(ops []op, limit time.Duration) {
	parts := byKey(ops)
	for _, key := range slices.Sorted(maps.Keys(parts)) {
		v.checked += len(parts[key])
		switch porcupine.CheckOperationsTimeout(keyModel, parts[key], limit) {
		case porcupine.Illegal:
			v.say("S3 the history of %s is not linearizable (%d operations)", key, len(parts[key]))
		case porcupine.Unknown:
			v.undecided++
		}
	}
}

// checksOnce checks that no index was taken twice by writes with a check.
func (v *verdict) checksOnce(ops []op) {
	took := map[string]string{}
	for i := range ops {
		o := &ops[i]
		if o.result != resultOK || o.check == nil || *o.check == 0 {
			continue
		}
		k := fmt.Sprintf("%s at %d", o.key, *o.check)
		if other := took[k]; other != "" {
			v.say("S3 both %s and %s have changed %s", other, o.id, k)
		}
		took[k] = o.id
	}
}

// replacedFor is how long a leader that was replaced may answer without knowing
// it, as its lease and the way of the answer last.
const replacedFor = time.Second

// sessions checks S4. What a leader answers never goes back within one client (but
// a read without a quorum check, at a leader that was just replaced, by as long as
// that may not know it); what one run of one server answers neither; and only what
// was asked for as stale is labelled so.
func (v *verdict) sessions(ops []op) {
	type place struct {
		client int
		key    string
		life   *life
	}
	type seen struct {
		index uint64
		at    time.Duration
	}
	before := map[place][]seen{} // rising indexes
	for i := range ops {
		o := &ops[i]
		if o.result != resultOK || o.absent || o.kind == opDelete {
			continue
		}
		if o.stale && o.kind != opStale {
			v.say("S4 client %d: a read of %s that was not asked for as stale is labelled so", o.client, o.key)
		}
		at := place{client: o.client, key: o.key}
		if o.kind == opStale {
			if o.life == nil {
				continue
			}
			at.life = o.life
		}
		known := before[at]
		if n := len(known); n == 0 || o.index > known[n-1].index {
			before[at] = append(known, seen{o.index, o.ret})
		}
		for _, s := range slices.Backward(known) {
			if o.index < s.index && (o.kind != opGuess || s.at < o.call-replacedFor) {
				v.say("S4 client %d saw %s at index %d after %d (kind %d)", o.client, o.key, o.index, s.index, o.kind)
				break
			}
		}
	}
}

// logged is an entry of the log that changed a key.
type logged struct {
	id     string // "" for a delete
	key    string
	term   uint64
	delete bool
}

// replay runs the log through a new state machine, and at one entry through a
// snapshot into a second one (F2). It returns what changed keys, by index.
func (v *verdict) replay(logs []*raft.Log, cut int, index uint64, hash [32]byte) map[uint64]logged {
	out := map[uint64]logged{}
	var term uint64
	whole := fsm.New(fsm.Config{OnCommit: func(at api.Index, changes []fsm.Change) {
		for _, ch := range changes {
			if ch.Table != fsm.TableNamespace {
				continue
			}
			if n, ok := ch.New.(*api.Namespace); ok && n != nil {
				out[at] = logged{id: n.Description, key: n.Name, term: term}
			} else if n, ok := ch.Old.(*api.Namespace); ok && n != nil {
				out[at] = logged{key: n.Name, term: term, delete: true}
			}
		}
	}})
	var rest *fsm.FSM
	for i, l := range logs {
		if l.Index > index {
			break
		}
		if i == cut {
			var b bytes.Buffer
			persist := v.persist
			if persist == nil {
				persist = func(f *fsm.FSM, w io.Writer) error { return f.State().Persist(w) }
			}
			if err := persist(whole, &b); err != nil {
				v.say("F2 the snapshot before index %d: %v", l.Index, err)
				break
			}
			rest = fsm.New(fsm.Config{})
			if err := rest.Restore(io.NopCloser(&b)); err != nil {
				v.say("F2 the snapshot before index %d is refused: %v", l.Index, err)
				break
			}
		}
		term = l.Term
		whole.ApplyBatch([]*raft.Log{l})
		if rest != nil && v.again != nil {
			l = v.again(l)
		}
		if rest != nil {
			rest.ApplyBatch([]*raft.Log{l})
		}
	}
	if whole.State().Index() != index || whole.State().Hash() != hash {
		v.say("F1 the log gives another state at index %d than the servers hold at %d", whole.State().Index(), index)
	}
	if rest != nil && rest.State().Hash() != whole.State().Hash() {
		v.say("F2 the snapshot before entry %d and the log after it give another state than the log", cut)
	}
	return out
}

// durable checks S2 against what the log holds in the end: each write that was
// acknowledged is there, at its index; none that "did not happen" is; and none is
// there twice.
func (v *verdict) durable(ops []op, log map[uint64]logged) {
	in := map[string]uint64{}
	for _, at := range slices.Sorted(maps.Keys(log)) {
		a := log[at]
		if a.delete || !strings.HasPrefix(a.id, "op-") {
			continue
		}
		if in[a.id] != 0 {
			v.say("S2 %s took effect twice, at %d and %d", a.id, in[a.id], at)
		}
		in[a.id] = at
	}
	for i := range ops {
		o := &ops[i]
		if !o.kind.write() {
			continue
		}
		a, ok := log[o.index]
		switch {
		case o.result == resultOK && (!ok || a.key != o.key || a.id != o.id && o.kind == opPut || a.delete != (o.kind == opDelete)):
			v.say("S2 %s was acknowledged at index %d, where the log has %+v", o.id, o.index, a)
		case o.result == resultNothing && in[o.id] != 0:
			v.say("S2 %s did not happen, it was said (%v), and is in the log at %d", o.id, o.lastErr, in[o.id])
		case o.result == resultRefused && in[o.id] != 0:
			v.say("S2 %s was refused and is in the log at %d", o.id, in[o.id])
		}
	}
}

// oneLeader checks S6: what was acknowledged in one term was so by one server.
func (v *verdict) oneLeader(acks []ack, logs []*raft.Log) {
	terms := map[uint64]uint64{}
	for _, l := range logs {
		terms[l.Index] = l.Term
	}
	by := map[uint64]string{}
	for _, a := range acks {
		term, ok := terms[a.index]
		if !ok {
			v.say("S6 %s acknowledged index %d, which the log does not have", a.server, a.index)
			continue
		}
		if other := by[term]; other != "" && other != a.server {
			v.say("S6 both %s and %s acknowledged writes in term %d", other, a.server, term)
		}
		by[term] = a.server
	}
}
