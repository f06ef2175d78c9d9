package fsm

import (
	"crypto/sha256"
	"time"

	"github.com/novacron/novacron/api"
)

// IdemTTL is how long the answer to a write with an idempotency key is kept,
// by the time that leaders stamp.
const IdemTTL = api.Duration(10 * time.Minute)

// IdemCap is how many answers are kept for one token; then the oldest goes.
const IdemCap = 1000

// expireBatch bounds the work of one entry on expired records.
const expireBatch = 64

// idemKey hides what callers choose as keys, and tells their tokens apart.
func idemKey(k *IdemKey) []byte {
	h := sha256.New()
	h.Write(k.Accessor[:])
	h.Write([]byte(k.Key))
	return h.Sum(nil)
}

// expireIdem forgets records that are older than IdemTTL.
func (tx *Txn) expireIdem() {
	for range expireBatch {
		r := first(tx.s.idems, 0, timeKey{})
		if r == nil || r.Time > tx.now-api.Time(IdemTTL) {
			return
		}
		idemDef.del(tx, string(r.Key))
	}
}

// replay finds the answer to an earlier write under the same key.
func (tx *Txn) replay(env *Envelope) (*IdemRecord, *api.Error) {
	if env.Idem == nil {
		return nil, nil
	}
	rec := tx.s.idems.get(string(idemKey(env.Idem)))
	if rec == nil || rec.Time <= tx.now-api.Time(IdemTTL) {
		return nil, nil
	}
	if string(rec.Body) != string(env.Idem.BodyHash) || rec.Cmd != env.Cmd {
		return nil, api.Errorf(api.CodeIdempotency, "the idempotency key was used with another request at index %d", rec.Index)
	}
	return rec, nil
}

// Answered reports whether a write under a key, with this body, was done already
// and is still remembered.
func (s *State) Answered(k *IdemKey) bool {
	rec := s.idems.get(string(idemKey(k)))
	return rec != nil && rec.Err == nil && rec.Time > s.meta.Time-api.Time(IdemTTL) && string(rec.Body) == string(k.BodyHash)
}

// Remembers reports whether the answer to a write under this key is kept, so that
// the write may be proposed again though it is not possible any more.
func (s *State) Remembers(k *IdemKey) bool {
	return k != nil && s.idems.get(string(idemKey(k))) != nil
}

// answer gives the first answer again, with the noun as it is now.
func (tx *Txn) answer(rec *IdemRecord) *Result {
	res := &Result{Index: rec.Index, Err: rec.Err, Replayed: true}
	if rec.Err != nil {
		return res
	}
	s := tx.s
	switch rec.Cmd {
	case cmdVMApply, cmdVMPower, cmdVMRevert:
		if vm := s.VM(rec.NounID); vm != nil {
			res.Value = &api.VMApplied{VM: vm, WriteMeta: api.WriteMeta{Index: rec.Index, Replayed: true}}
		}
	case cmdNamespaceApply:
		res.Value = nilless(s.Namespace(rec.NounName))
	case cmdNodeUpdate, cmdNodeDrain:
		res.Value = nilless(s.Node(rec.NounID))
	case cmdVolumeCreate, cmdVolumeAssign:
		res.Value = nilless(s.Volume(rec.NounID))
	case cmdPoolApply:
		res.Value = nilless(s.Pool(rec.NounName))
	case cmdImageCreate:
		res.Value = nilless(s.Image(rec.NounID))
	case cmdNetworkApply:
		res.Value = nilless(s.Network(rec.NounName))
	case cmdMigrationCreate, cmdMigrationUpdate:
		res.Value = nilless(s.Migration(rec.NounID))
	case cmdTokenCreate:
		if t := s.Token(rec.NounID); t != nil {
			res.Value = &t.Token
		}
	case cmdSchedulerSet:
		c := s.meta.Scheduler
		res.Value = &c
	}
	return res
}

// nilless makes an untyped nil of a nil pointer.
func nilless[T any](p *T) any {
	if p == nil {
		return nil
	}
	return p
}

// remember keeps the answer for as long as the write may be repeated. Answers
// that say "not now" are not kept.
func (tx *Txn) remember(env *Envelope, res *Result) {
	if env.Idem == nil {
		return
	}
	if e := res.Err; e != nil {
		switch e.Code {
		case api.CodeIdempotency, api.CodeRecovery, api.CodeSchema, api.CodeApplyPanic:
			return
		}
	}
	a := env.Idem.Accessor
	if c, _ := tx.s.use.callers.Get(callerUse{accessor: a}); c.records >= IdemCap {
		if r := first(tx.s.idems, 1, callerKey{accessor: a}); r != nil && r.Accessor == a {
			idemDef.del(tx, string(r.Key))
		}
	}
	rec := &IdemRecord{
		Key: idemKey(env.Idem), Accessor: a, Body: env.Idem.BodyHash, Index: tx.index, Time: tx.now, Cmd: env.Cmd,
		NounID: tx.nounID, NounName: tx.nounName, Err: res.Err,
	}
	if res.Err != nil {
		rec.NounID, rec.NounName = api.ID{}, ""
	}
	idemDef.put(tx, rec)
}

// made notes the noun that a command has made or changed, so that a repetition
// can be answered.
func (tx *Txn) made(id api.ID, name string) { tx.nounID, tx.nounName = id, name }
