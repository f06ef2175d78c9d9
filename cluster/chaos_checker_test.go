package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

// history writes operations down one after the other: each begins when the one
// before it has ended, unless it is given other times.
type history struct{ ops []op }

func (h *history) add(o op) *history {
	n := time.Duration(len(h.ops)) * 10
	if o.ret == 0 {
		o.call, o.ret = n, n+5
	}
	if o.key == "" {
		o.key = "k"
	}
	h.ops = append(h.ops, o)
	return h
}

func put(id string, index uint64) op { return op{kind: opPut, id: id, index: index, result: resultOK} }

func cas(id string, check, index uint64) op {
	return op{kind: opPut, id: id, check: &check, index: index, result: resultOK}
}

func get(seen string, index uint64) op {
	return op{kind: opGet, seen: seen, index: index, absent: seen == "", result: resultOK}
}

func with(o op, f func(*op)) op {
	f(&o)
	return o
}

func refused(o *op)           { o.result = resultRefused }
func unknown(o *op)           { o.result = resultUnknown }
func kind(k opKind) func(*op) { return func(o *op) { o.kind = k } }
func by(n int) func(*op)      { return func(o *op) { o.client = n } }

func during(call, ret time.Duration) func(*op) {
	return func(o *op) { o.call, o.ret = call, ret }
}

// said runs the checkers of histories.
func said(ops []op) string {
	var v verdict
	v.linearizable(ops, time.Minute)
	v.checksOnce(ops)
	v.sessions(ops)
	return strings.Join(v.wrong, "\n")
}

func TestTheCheckersAcceptWhatIsAllowed(t *testing.T) {
	for name, h := range map[string]*history{
		"one after the other": new(history).add(get("", 0)).add(cas("a", 0, 5)).add(get("a", 5)).add(cas("b", 5, 7)).add(get("b", 7)),
		"a check that fails":  new(history).add(put("a", 5)).add(with(cas("b", 4, 0), refused)).add(with(cas("c", 0, 0), refused)).add(get("a", 5)),
		"a delete": new(history).add(put("a", 5)).add(with(put("d", 6), kind(opDelete))).add(get("", 0)).
			add(with(with(put("e", 0), kind(opDelete)), refused)).add(cas("f", 0, 9)).add(get("f", 9)),
		"an unknown write that never was":  new(history).add(put("a", 5)).add(with(put("b", 0), unknown)).add(get("a", 5)).add(get("a", 5)),
		"an unknown write that comes late": new(history).add(put("a", 5)).add(with(put("b", 0), unknown)).add(get("a", 5)).add(get("b", 9)).add(cas("c", 9, 10)),
		"an unknown write that explains a refusal": new(history).add(put("a", 5)).add(with(put("b", 0), unknown)).add(with(cas("c", 5, 0), refused)).
			add(put("d", 9)),
		"a read beside a write sees either": new(history).add(put("a", 5)).add(with(put("b", 8), during(100, 200))).
			add(with(get("b", 8), during(110, 120))).add(with(get("b", 8), during(130, 140))),
		"a leader that was just replaced answers": new(history).add(put("a", 5)).add(with(with(put("b", 7), by(1)), during(100, 200))).add(with(with(get("b", 7), kind(opGuess)), during(210, 220))).
			add(with(with(get("a", 5), kind(opGuess)), during(230, 240))),
		"two clients at different servers": new(history).add(put("a", 5)).add(put("b", 7)).add(with(with(get("a", 5), kind(opGuess)), by(2))),
	} {
		must.Eq(t, "", said(h.ops), must.Sprint(name))
	}
}

func TestTheCheckersRefuseWhatIsNot(t *testing.T) {
	run := &life{}
	stale := func(o *op) { o.kind, o.stale, o.life = opStale, true, run }
	for name, c := range map[string]struct {
		h    *history
		want string
	}{
		"a write is lost":                  {new(history).add(put("a", 5)).add(put("b", 7)).add(get("a", 5)), "S3 "},
		"a write is lost altogether":       {new(history).add(put("a", 5)).add(get("", 0)), "S3 "},
		"a consistent read is stale":       {new(history).add(put("a", 5)).add(with(put("b", 7), by(1))).add(with(get("a", 5), by(2))).add(get("b", 7)), "S3 "},
		"a read goes back beside a write":  {new(history).add(put("a", 5)).add(with(put("b", 8), during(100, 200))).add(with(get("b", 8), during(110, 120))).add(with(get("a", 5), during(130, 140))), "S3 "},
		"two checks of one index succeed":  {new(history).add(put("a", 5)).add(with(cas("b", 5, 7), during(100, 200))).add(with(cas("c", 5, 8), during(100, 200))), "both b and c have changed k at 5"},
		"that is not linearizable either":  {new(history).add(put("a", 5)).add(with(cas("b", 5, 7), during(100, 200))).add(with(cas("c", 5, 8), during(100, 200))), "S3 the history of k"},
		"two creations succeed":            {new(history).add(cas("a", 0, 5)).add(cas("b", 0, 7)), "S3 "},
		"a check is refused that holds":    {new(history).add(put("a", 5)).add(with(cas("b", 5, 0), refused)).add(get("a", 5)), "S3 "},
		"a write that nobody made is read": {new(history).add(put("a", 5)).add(get("x", 6)), "S3 "},
		"an unknown write comes and goes":  {new(history).add(put("a", 5)).add(with(put("b", 0), unknown)).add(get("b", 9)).add(get("a", 5)), "S3 "},
		"a leader goes back":               {new(history).add(with(with(get("b", 7), kind(opGuess)), during(1, 2))).add(with(with(get("a", 5), kind(opGuess)), during(2*time.Second, 3*time.Second))), "S4 client 0 saw k at index 5 after 7"},
		"a server goes back":               {new(history).add(with(get("b", 7), stale)).add(with(get("a", 5), stale)), "S4 client 0 saw k at index 5 after 7"},
		"a label that is not due":          {new(history).add(put("a", 5)).add(with(get("a", 5), func(o *op) { o.stale = true })), "labelled"},
	} {
		must.StrContains(t, said(c.h.ops), c.want, must.Sprint(name))
	}
}

func TestTheCheckersCompareWithTheLog(t *testing.T) {
	log := map[uint64]logged{5: {id: "op-a", key: "k"}, 7: {key: "k", delete: true}, 9: {id: "op-b", key: "k"}}
	check := func(log map[uint64]logged, ops ...op) string {
		var v verdict
		h := new(history)
		for _, o := range ops {
			h.add(o)
		}
		v.durable(h.ops, log)
		return strings.Join(v.wrong, "\n")
	}
	nothing := func(o *op) { o.result = resultNothing }
	must.Eq(t, "", check(log, put("op-a", 5), with(put("op-d", 7), kind(opDelete)), with(put("op-b", 0), unknown), with(put("op-c", 0), nothing)))
	must.StrContains(t, check(log, put("op-c", 6)), "S2 op-c was acknowledged at index 6")
	must.StrContains(t, check(log, put("op-c", 5)), "S2 op-c was acknowledged at index 5")
	must.StrContains(t, check(log, with(put("op-d", 5), kind(opDelete))), "S2 op-d")
	must.StrContains(t, check(log, with(put("op-a", 0), nothing)), "did not happen")
	must.StrContains(t, check(log, with(put("op-a", 0), refused)), "was refused and is in the log")
	log[11] = logged{id: "op-a", key: "k"}
	must.StrContains(t, check(log, put("op-a", 5)), "took effect twice, at 5 and 11")
}

func TestTheCheckersKnowLeadersAndStates(t *testing.T) {
	var logs []*raft.Log
	for i := range uint64(6) {
		b, err := fsm.Encode(noop(), fsm.Meta{Schema: 1})
		must.NoError(t, err)
		logs = append(logs, &raft.Log{Index: i + 1, Term: 1 + i/3, Type: raft.LogCommand, Data: b})
	}
	var v verdict
	v.oneLeader([]ack{{1, "s1"}, {2, "s1"}, {4, "s2"}, {5, "s2"}}, logs)
	must.SliceEmpty(t, v.wrong)
	v.oneLeader([]ack{{1, "s1"}, {2, "s3"}}, logs)
	v.oneLeader([]ack{{99, "s1"}}, logs)
	must.Eq(t, "S6 both s1 and s3 acknowledged writes in term 1; S6 s1 acknowledged index 99, which the log does not have", strings.Join(v.wrong, "; "))

	c := &chaos{leaders: map[uint64]string{}, start: time.Now()}
	c.leads(3, "s1")
	c.leads(3, "s1")
	c.leads(4, "s2")
	must.SliceEmpty(t, c.wrong)
	c.leads(4, "s1")
	must.Len(t, 1, c.wrong)

	v = verdict{}
	f := fsm.New(fsm.Config{})
	f.ApplyBatch(logs)
	v.replay(logs, 3, 6, f.State().Hash())
	must.SliceEmpty(t, v.wrong)
	v.replay(logs, 3, 6, [32]byte{1})
	must.StrContains(t, fmt.Sprint(v.wrong), "F1 ")
}

func TestTheCheckersCompareASnapshotWithTheLog(t *testing.T) {
	var logs []*raft.Log
	f := fsm.New(fsm.Config{})
	var states []*fsm.State
	for i := range uint64(6) {
		b, err := fsm.Encode(&fsm.NamespaceApply{Namespace: api.Namespace{Name: fmt.Sprintf("ns%d", i), Description: fmt.Sprintf("op-%d", i)}}, fsm.Meta{Schema: 1})
		must.NoError(t, err)
		logs = append(logs, &raft.Log{Index: i + 1, Term: 1, Type: raft.LogCommand, Data: b})
		f.ApplyBatch(logs[i:])
		states = append(states, f.State())
	}
	check := func(v *verdict) string {
		v.replay(logs, 3, 6, f.State().Hash())
		return strings.Join(v.wrong, "\n")
	}
	must.Eq(t, "", check(&verdict{}))
	must.StrContains(t, check(&verdict{persist: func(_ *fsm.FSM, w io.Writer) error {
		return states[1].Persist(w) // it lacks the newest entry
	}}), "F2 the snapshot before entry 3 and the log after it give another state")
	must.StrContains(t, check(&verdict{persist: func(f *fsm.FSM, w io.Writer) error {
		var b bytes.Buffer
		must.NoError(t, f.State().Persist(&b))
		_, err := w.Write(b.Bytes()[:b.Len()/2]) // it is torn
		return err
	}}), "F2 the snapshot before index 4 is refused")
	must.StrContains(t, check(&verdict{again: func(l *raft.Log) *raft.Log {
		c := *l
		c.Data = flipped(l.Data) // one machine makes of an entry what the other does not
		return &c
	}}), "F2 the snapshot before entry 3 and the log after it give another state")
}

func TestAHaltNeedsAReason(t *testing.T) {
	c := &chaos{start: time.Now(), net: rpc.NewMemory(), gossip: NewMemoryGossip(), log: slog.New(slog.DiscardHandler)}
	halt := func(sick bool) {
		disk := newSimDisk()
		l := &life{h: &host{c: c, name: "s1"}, member: c.gossip.Transport(), dead: make(chan struct{})}
		l.mount, _ = disk.mount()
		l.mount.failed = sick
		l.halt(errors.New("no reason"))
		<-l.dead
	}
	halt(true)
	must.SliceEmpty(t, c.wrong)
	halt(false)
	must.Len(t, 1, c.wrong)
	must.StrContains(t, c.wrong[0], "s1 halted: no reason")
}

func TestARunWithoutTrafficOrTroubleIsVoid(t *testing.T) {
	good := chaosRun{rate: leastRate, faults: leastFaults}
	must.False(t, good.void())
	must.True(t, (&chaosRun{rate: leastRate - 1, faults: leastFaults}).void())
	must.True(t, (&chaosRun{rate: leastRate, faults: leastFaults - 1}).void())
	must.True(t, (&chaosRun{rate: leastRate, faults: leastFaults, verdict: verdict{undecided: 1}}).void())
}
