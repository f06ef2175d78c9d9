package lease

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// world is a state machine with nodes, and a leader's table that has just begun.
type world struct {
	t     *testing.T
	f     *fsm.FSM
	index uint64
	tab   Table
	w     Watch
}

func newWorld(t *testing.T, nodes int) *world {
	w := &world{t: t, f: fsm.New(fsm.Config{})}
	must.Nil(t, w.apply(&fsm.ClusterInit{ClusterID: api.ID{1}, Region: "r", RegionID: api.ID{2}, Keys: []fsm.KeyRecord{{Name: fsm.KeyCA, Kind: "x", Public: []byte("x"), Sealed: []byte("x")}}, Expect: 1}))
	w.tab.Begin(0)
	for i := range nodes {
		w.register(i)
	}
	return w
}

func (w *world) apply(cmd fsm.Command) *api.Error {
	data, err := fsm.Encode(cmd, fsm.Meta{Schema: 1})
	must.NoError(w.t, err)
	w.index++
	return w.f.Apply(&raft.Log{Index: w.index, Type: raft.LogCommand, Data: data}).(*fsm.Result).Err
}

func nodeID(i int) api.ID    { return api.ID{0xa0, byte(i)} }
func sessionID(i int) api.ID { return api.ID{0x50, byte(i)} }

func (w *world) register(i int) {
	n := api.Node{ID: nodeID(i), Name: string(rune('a' + i)), Guard: api.GuardWatchdog, BootID: "boot"}
	must.Nil(w.t, w.apply(&fsm.NodeRegister{Node: n, SessionID: sessionID(i)}))
	w.tab.Register(nodeID(i), sessionID(i), 0)
}

func (w *world) node(i int) *api.Node { return w.f.State().Node(nodeID(i)) }

// answer is that to a beat which arrived at a time, with a check that began at one.
func (w *world) answer(i int, at, begun time.Duration, leads bool) Answer {
	c := BeginCheck(begun)
	c.End(leads)
	return w.tab.Answer(w.f.State(), Beat{Node: nodeID(i), Session: sessionID(i), At: at}, c, begun)
}

func TestOnlyACheckThatBeganLaterSpeaksForABeat(t *testing.T) {
	w := newWorld(t, 1)
	must.Eq(t, Answer{Lease: 15 * time.Second}, w.answer(0, 2*time.Second, 2*time.Second, true))
	must.Eq(t, Answer{}, w.answer(0, 3*time.Second, 2*time.Second, true))
	must.Eq(t, Answer{}, w.answer(0, 3*time.Second, 4*time.Second, false))
	begun := BeginCheck(4 * time.Second)
	must.False(t, begun.Holds(), must.Sprint("the quorum has not answered"))
	d, _ := w.tab.Silent(nodeID(0), 4*time.Second)
	must.Eq(t, 2*time.Second, d, must.Sprint("what is not acknowledged does not count"))
}

func TestWhoIsNotKnownHasToRegister(t *testing.T) {
	w := newWorld(t, 1)
	c := BeginCheck(time.Second)
	c.End(true)
	ask := func(b Beat) Answer { return w.tab.Answer(w.f.State(), b, c, time.Second) }
	must.Eq(t, Answer{Register: true}, ask(Beat{Node: nodeID(7), Session: sessionID(7)}))
	must.Eq(t, Answer{Register: true}, ask(Beat{Node: nodeID(0), Session: sessionID(7)}))
	w.tab.Begin(time.Second) // another term: Raft knows the session
	must.Eq(t, 15*time.Second, ask(Beat{Node: nodeID(0), Session: sessionID(0), At: time.Second}).Lease)
	cmd := w.w.Lose(w.f.State(), &w.tab, w.node(0), 60*time.Second)
	must.NotNil(t, cmd)
	must.Nil(t, w.apply(cmd))
	must.Eq(t, Answer{Register: true}, ask(Beat{Node: nodeID(0), Session: sessionID(0), At: time.Second}))
}

func TestALossHoldsBackAcknowledgementsUntilItsOutcomeIsKnown(t *testing.T) {
	w := newWorld(t, 1)
	wait := WaitOf(w.f.State().HAConfig(), w.node(0))
	must.Eq(t, 32*time.Second, wait)
	must.Nil(t, w.w.Lose(w.f.State(), &w.tab, w.node(0), wait-1))
	cmd := w.w.Lose(w.f.State(), &w.tab, w.node(0), wait)
	must.Eq(t, api.EvidenceLease, cmd.Evidence.Kind)
	must.Eq(t, wait, cmd.Evidence.Silent.D())
	must.Eq(t, w.f.State().Registration(nodeID(0)).Index, cmd.Registered)
	must.Zero(t, w.answer(0, wait, wait, true).Lease)
	must.SliceEmpty(t, w.tab.Doubtful())
	w.tab.Doubt(nodeID(0))
	must.Eq(t, []api.ID{nodeID(0)}, w.tab.Doubtful())
	must.Zero(t, w.answer(0, wait, wait, true).Lease)
	w.tab.Spare(nodeID(0))
	must.SliceEmpty(t, w.tab.Doubtful())
	must.Positive(t, w.answer(0, wait, wait, true).Lease)
}

func TestTheBrakeCountsWhoWasLostAMomentAgo(t *testing.T) {
	w := newWorld(t, 6)
	at := 40 * time.Second
	for i := range 4 {
		must.Positive(t, w.answer(i, at, at, true).Lease)
	}
	p := w.w.Look(w.f.State(), &w.tab, at)
	must.Len(t, 2, p.Over)
	must.False(t, p.Storm)
	must.Nil(t, p.Brake)
	for _, n := range p.Over {
		cmd := w.w.Lose(w.f.State(), &w.tab, n, at)
		must.Nil(t, w.apply(cmd))
		w.w.Took(n.ID, at)
	}
	later := at + 10*time.Second
	for i := range 3 {
		must.Positive(t, w.answer(i, later, later, true).Lease)
	}
	p = w.w.Look(w.f.State(), &w.tab, later)
	must.Eq(t, 3, p.Silent, must.Sprint("two are lost, one is silent"))
	must.Eq(t, 6, p.Nodes)
	must.True(t, p.Storm)
	must.Nil(t, p.Brake, must.Sprint("nobody's wait is over"))
	for i := range 2 {
		must.Positive(t, w.answer(i, at+wait(w), at+wait(w), true).Lease)
	}
	p = w.w.Look(w.f.State(), &w.tab, at+wait(w))
	must.False(t, p.Storm, must.Sprint("the two are long gone"))
}

func wait(w *world) time.Duration { return WaitOf(w.f.State().HAConfig(), w.node(0)) }

func TestTheBrakeHoldsAndLetsGo(t *testing.T) {
	w := newWorld(t, 4)
	p := w.w.Look(w.f.State(), &w.tab, 33*time.Second)
	must.Len(t, 4, p.Over)
	must.True(t, p.Storm)
	must.True(t, p.Brake.Config.Hold.Storm)
	must.Nil(t, w.apply(p.Brake))
	must.StrContains(t, Blocked(w.f.State(), 1), "4 of 4 nodes are silent")
	must.Nil(t, w.w.Look(w.f.State(), &w.tab, 34*time.Second).Brake, must.Sprint("it holds already"))
	for i := range 3 {
		must.Positive(t, w.answer(i, 35*time.Second, 35*time.Second, true).Lease)
	}
	p = w.w.Look(w.f.State(), &w.tab, 36*time.Second)
	must.Nil(t, p.Brake.Config.Hold)
	must.Nil(t, w.apply(p.Brake))
	must.Eq(t, "", Blocked(w.f.State(), 1))
	must.StrContains(t, Blocked(w.f.State(), 0), "servers vote")
	must.Nil(t, w.apply(&fsm.HASet{Config: api.HAConfig{Disarmed: true}}))
	must.StrContains(t, Blocked(w.f.State(), 1), "disarmed")
}
