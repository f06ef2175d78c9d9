package guard

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

const sec = time.Second

var (
	bootA = api.ID{0xb0, 1}
	bootB = api.ID{0xb0, 2}
	vm1   = api.ID{1}
	vm2   = api.ID{2}
	p1    = Process{PID: 101, Start: 11}
	p2    = Process{PID: 102, Start: 12}
)

// play is a guard in a test: each method is one event.
type play struct {
	t *testing.T
	s State
}

func newPlay(t *testing.T) *play {
	return &play{t: t, s: NewState(bootA, Limits{}, State{})}
}

func (p *play) do(ev Event) Output {
	var out Output
	p.s, out = Step(p.s, ev)
	return out
}

func (p *play) at(now time.Duration) Output { return p.do(Event{Now: now}) }

// lease reads record seq at now, sent then, of the given length.
func (p *play) lease(now time.Duration, seq uint64, length time.Duration) Output {
	return p.do(Event{Kind: LeaseRead, Now: now, Lease: Lease{BootID: bootA, Sequence: seq, Sent: now, Deadline: now + length}})
}

func (p *play) arm(now time.Duration, vm api.ID, epoch api.Epoch, proc Process) Verdict {
	return p.do(Event{Kind: Arm, Now: now, Target: Target{VM: vm, Epoch: epoch, Process: proc}}).Verdict
}

func (p *play) disarm(now time.Duration, vm api.ID, epoch api.Epoch) Verdict {
	return p.do(Event{Kind: Disarm, Now: now, Target: Target{VM: vm, Epoch: epoch}}).Verdict
}

func (p *play) gone(now time.Duration, vm api.ID, proc Process) Output {
	return p.do(Event{Kind: Gone, Now: now, Target: Target{VM: vm, Process: proc}})
}

func TestALeaseRecordIsBelievedOnlyIf(t *testing.T) {
	base := Lease{BootID: bootA, Sequence: 10, Sent: 100 * sec, Deadline: 110 * sec}
	for _, w := range []struct {
		name string
		rec  Lease
		want time.Duration // the deadline afterwards
	}{
		{"it is newer and ends later", Lease{bootA, 11, 102 * sec, 117 * sec}, 117 * sec},
		{"it lasts no longer than T", Lease{bootA, 11, 102 * sec, 117*sec + 1}, 110 * sec},
		{"it is of this boot", Lease{bootB, 11, 102 * sec, 117 * sec}, 110 * sec},
		{"its sequence is higher", Lease{bootA, 10, 102 * sec, 117 * sec}, 110 * sec},
		{"an older one does not extend", Lease{bootA, 9, 102 * sec, 117 * sec}, 110 * sec},
		{"a newer one does not shorten", Lease{bootA, 11, 102 * sec, 105 * sec}, 110 * sec},
		{"it was sent before now", Lease{bootA, 11, 103*sec + 1, 117 * sec}, 110 * sec},
		{"its times are times", Lease{bootA, 11, -200 * sec, 117 * sec}, 110 * sec},
		{"it does not end before it begins", Lease{bootA, 11, 102 * sec, 101 * sec}, 110 * sec},
		{"it does not wrap around", Lease{bootA, 11, 0, 1<<63 - 1}, 110 * sec},
	} {
		t.Run(w.name, func(t *testing.T) {
			p := newPlay(t)
			must.True(t, p.do(Event{Kind: LeaseRead, Now: 100 * sec, Lease: base}).Extended)
			out := p.do(Event{Kind: LeaseRead, Now: 103 * sec, Lease: w.rec})
			must.Eq(t, w.want, p.s.Lease.Deadline)
			must.Eq(t, w.want != 110*sec, out.Extended)
		})
	}
	t.Run("an older one does not extend after a newer one that did not", func(t *testing.T) {
		p := newPlay(t)
		p.do(Event{Kind: LeaseRead, Now: 100 * sec, Lease: base})
		p.do(Event{Kind: LeaseRead, Now: 103 * sec, Lease: Lease{bootA, 20, 101 * sec, 105 * sec}})
		p.do(Event{Kind: LeaseRead, Now: 103 * sec, Lease: Lease{bootA, 15, 102 * sec, 117 * sec}})
		must.Eq(t, 110*sec, p.s.Lease.Deadline)
	})
}

func TestAtTheDeadlineEveryArmedVMIsKilledUntilItIsGone(t *testing.T) {
	p := newPlay(t)
	p.lease(100*sec, 1, 10*sec)
	must.Eq(t, Accepted, p.arm(101*sec, vm1, 3, p1))
	must.Eq(t, Accepted, p.arm(101*sec, vm2, 4, p2))
	out := p.at(110*sec - 1)
	must.SliceEmpty(t, out.Kill, must.Sprint("before the deadline"))
	must.Eq(t, 110*sec, out.Wake)
	out = p.at(110 * sec)
	must.True(t, out.Expired)
	must.True(t, out.Save)
	must.Len(t, 2, out.Kill)
	must.Eq(t, 110*sec+50*time.Millisecond, out.Wake)
	out = p.at(110*sec + time.Millisecond)
	must.SliceEmpty(t, out.Kill, must.Sprint("not yet again"))
	out = p.gone(110*sec+20*time.Millisecond, vm1, p1)
	must.Eq(t, []Proof{{VM: vm1, Epoch: 3, At: 110*sec + 20*time.Millisecond, Killed: true}}, out.Died)
	out = p.at(out.Wake)
	must.Eq(t, []Target{{VM: vm2, Epoch: 4, Process: p2}}, out.Kill, must.Sprint("only what lives"))
	p.gone(111*sec, vm2, p2)
	must.SliceEmpty(t, p.at(120*sec).Kill)
	must.Len(t, 2, p.s.Proofs)
}

func TestAGuardThatIsLateDoesNotKillForALeaseThatWasRenewed(t *testing.T) {
	p := newPlay(t)
	p.lease(100*sec, 1, 10*sec)
	p.arm(101*sec, vm1, 1, p1)
	out := p.do(Event{Kind: LeaseRead, Now: 112 * sec, Lease: Lease{bootA, 2, 109 * sec, 119 * sec}})
	must.False(t, out.Expired)
	must.SliceEmpty(t, out.Kill)
}

func TestADoomedVMIsNotSparedByALaterLease(t *testing.T) {
	p := newPlay(t)
	p.lease(100*sec, 1, 10*sec)
	p.arm(101*sec, vm1, 1, p1)
	p.at(110 * sec)
	p.lease(111*sec, 2, 10*sec)
	must.Eq(t, 121*sec, p.s.Lease.Deadline)
	must.Len(t, 1, p.at(112*sec).Kill)
	must.Eq(t, RefusedExpired, p.disarm(112*sec, vm1, 1))
	must.Eq(t, RefusedExpired, p.arm(112*sec, vm1, 1, p1))
	must.Eq(t, Accepted, p.arm(112*sec, vm2, 1, p2), must.Sprint("others may be armed"))
	must.Eq(t, []Target{{VM: vm1, Epoch: 1, Process: p1}}, p.at(113*sec).Kill, must.Sprint("and are not killed with it"))
}

func TestArmIsRefused(t *testing.T) {
	p := newPlay(t)
	must.Eq(t, RefusedExpired, p.arm(5*sec, vm1, 1, p1), must.Sprint("there was never a lease"))
	p.lease(100*sec, 1, 10*sec)
	must.Eq(t, RefusedExpired, p.arm(110*sec, vm1, 1, p1), must.Sprint("at the deadline"))
	p.lease(111*sec, 2, 15*sec)
	must.Eq(t, Accepted, p.arm(112*sec, vm1, 5, p1))
	must.Eq(t, Accepted, p.arm(112*sec, vm1, 5, p1), must.Sprint("again is the same"))
	must.Eq(t, RefusedEpoch, p.arm(112*sec, vm1, 4, p1), must.Sprint("an older epoch"))
	must.Eq(t, RefusedOther, p.arm(112*sec, vm1, 5, p2), must.Sprint("another process while one lives"))
	must.Eq(t, RefusedOther, p.arm(112*sec, vm1, 6, p2), must.Sprint("also at a higher epoch"))
	must.Eq(t, RefusedOther, p.arm(112*sec, vm2, 1, p1), must.Sprint("one process as two VMs"))
	must.Eq(t, Accepted, p.arm(112*sec, vm1, 6, p1), must.Sprint("a higher epoch of the same process"))
	must.Eq(t, []Armed{{Target: Target{VM: vm1, Epoch: 6, Process: p1}}}, p.s.Armed)
	p.gone(113*sec, vm1, p1)
	must.Eq(t, RefusedEpoch, p.arm(113*sec, vm1, 5, p2), must.Sprint("older than what is proven dead"))
	must.Eq(t, Accepted, p.arm(113*sec, vm1, 6, p2), must.Sprint("a restart in place keeps the epoch"))
}

func TestArmIsRefusedWhenFull(t *testing.T) {
	p := newPlay(t)
	p.lease(100*sec, 1, 10*sec)
	for i := range MaxArmed {
		must.Eq(t, Accepted, p.arm(101*sec, api.ID{byte(i), byte(i >> 8), 1}, 1, Process{PID: 10 + i, Start: 1}))
	}
	must.Eq(t, RefusedFull, p.arm(101*sec, vm1, 1, p1))
	must.Eq(t, Accepted, p.disarm(101*sec, api.ID{0, 0, 1}, 1))
	must.Eq(t, Accepted, p.arm(101*sec, vm1, 1, p1))
	for _, a := range p.s.Armed {
		p.gone(102*sec, a.VM, a.Process)
	}
	must.Len(t, MaxArmed, p.s.Proofs)
	must.Eq(t, Accepted, p.arm(103*sec, vm2, 1, p2))
	p.gone(104*sec, vm2, p2)
	must.Len(t, MaxProofs, p.s.Proofs, must.Sprint("the oldest proof makes room"))
}

func TestDisarmIsForTheArmedEpochAndBeforeTheDeadline(t *testing.T) {
	p := newPlay(t)
	must.Eq(t, Accepted, p.disarm(1*sec, vm1, 1), must.Sprint("what is not armed is disarmed"))
	p.lease(100*sec, 1, 10*sec)
	p.arm(101*sec, vm1, 5, p1)
	must.Eq(t, RefusedEpoch, p.disarm(102*sec, vm1, 4))
	must.Eq(t, RefusedEpoch, p.disarm(102*sec, vm1, 6))
	must.Eq(t, Accepted, p.disarm(102*sec, vm1, 5))
	must.SliceEmpty(t, p.at(110*sec).Kill, must.Sprint("never killed when not armed"))
	p.lease(111*sec, 2, 10*sec)
	p.arm(111*sec, vm1, 5, p1)
	out := p.do(Event{Kind: Disarm, Now: 121 * sec, Target: Target{VM: vm1, Epoch: 5}})
	must.Eq(t, RefusedExpired, out.Verdict, must.Sprint("the death is decided"))
	must.Len(t, 1, out.Kill)
}

func TestTheDeathOfAnotherProcessIsNotTheVMs(t *testing.T) {
	p := newPlay(t)
	p.lease(100*sec, 1, 10*sec)
	p.arm(101*sec, vm1, 1, p1)
	must.SliceEmpty(t, p.gone(102*sec, vm1, p2).Died)
	must.SliceEmpty(t, p.gone(102*sec, vm2, p1).Died)
	must.Eq(t, []Proof{{VM: vm1, Epoch: 1, At: 103 * sec}}, p.gone(103*sec, vm1, p1).Died, must.Sprint("it ended by itself"))
}

func TestTheEndOfTheAgentChangesNothing(t *testing.T) {
	p := newPlay(t)
	p.lease(100*sec, 1, 10*sec)
	p.arm(101*sec, vm1, 1, p1)
	before := p.s
	out := p.do(Event{Kind: AgentGone, Now: 101 * sec})
	must.Eq(t, before.Armed, p.s.Armed)
	must.Eq(t, before.Lease, p.s.Lease)
	must.SliceEmpty(t, out.Kill)
	must.Len(t, 1, p.at(110*sec).Kill, must.Sprint("the lease just runs out"))
}

func TestStopIsRefusedWhileAnythingIsArmed(t *testing.T) {
	p := newPlay(t)
	p.lease(100*sec, 1, 10*sec)
	p.arm(101*sec, vm1, 1, p1)
	out := p.do(Event{Kind: Stop, Now: 102 * sec})
	must.Eq(t, RefusedArmed, out.Verdict)
	must.False(t, out.Exit)
	p.disarm(103*sec, vm1, 1)
	must.True(t, p.do(Event{Kind: Stop, Now: 103 * sec}).Exit)
}

func TestTheWatchdogIsPettedEachSecondOnlyWhileThatIsDeserved(t *testing.T) {
	p := newPlay(t)
	must.True(t, p.at(1*sec).Pet, must.Sprint("nothing is armed"))
	must.False(t, p.at(1*sec+1).Pet, must.Sprint("not each time"))
	must.True(t, p.at(2*sec).Pet)
	p.lease(100*sec, 1, 10*sec)
	p.arm(100*sec, vm1, 1, p1)
	must.True(t, p.at(105*sec).Pet, must.Sprint("the lease holds"))
	must.True(t, p.at(110*sec).Pet, must.Sprint("within the kill budget"))
	must.True(t, p.at(114*sec).Pet)
	must.False(t, p.at(114*sec+1).Pet)
	out := p.at(115 * sec)
	must.False(t, out.Pet, must.Sprint("past deadline + K something armed lives"))
	must.True(t, out.Overdue)
	must.Len(t, 1, out.Kill, must.Sprint("it is still killed"))
	out = p.at(116 * sec)
	must.False(t, out.Pet)
	must.False(t, out.Overdue, must.Sprint("it is said once"))
	p.gone(117*sec, vm1, p1)
	must.True(t, p.at(118*sec).Pet, must.Sprint("it is dead at last"))
}

func TestARestartedGuardHoldsWhatItHeldInTheSameBoot(t *testing.T) {
	p := newPlay(t)
	p.lease(100*sec, 1, 10*sec)
	p.arm(101*sec, vm1, 7, p1)
	saved, err := decodeState(encodeState(p.s))
	must.NoError(t, err)
	must.SliceEmpty(t, NewState(bootB, Limits{}, saved).Armed, must.Sprint("of another boot nothing lives"))
	p.s = NewState(bootA, Limits{}, saved)
	must.Eq(t, RefusedEpoch, p.arm(102*sec, vm1, 6, p1))
	must.SliceEmpty(t, p.at(109*sec).Kill)
	must.Len(t, 1, p.at(130*sec).Kill, must.Sprint("however late it is"))
	must.False(t, p.s.Deserves())
}

func TestTimeDoesNotGoBack(t *testing.T) {
	p := newPlay(t)
	p.lease(100*sec, 1, 10*sec)
	p.arm(101*sec, vm1, 1, p1)
	p.at(110 * sec)
	p.at(50 * sec)
	must.Eq(t, 110*sec, p.s.Now)
	must.Eq(t, RefusedExpired, p.arm(50*sec, vm2, 1, p2))
}

func TestAStepWritesNothingIntoTheStateItWasGiven(t *testing.T) {
	p := newPlay(t)
	p.lease(100*sec, 1, 10*sec)
	p.arm(101*sec, vm1, 1, p1)
	p.arm(101*sec, vm2, 1, p2)
	for _, ev := range []Event{
		{Kind: Arm, Now: 102 * sec, Target: Target{VM: vm1, Epoch: 2, Process: p1}},
		{Kind: Arm, Now: 102 * sec, Target: Target{VM: api.ID{0}, Epoch: 2, Process: Process{9, 9}}},
		{Kind: Disarm, Now: 102 * sec, Target: Target{VM: vm1, Epoch: 1}},
		{Kind: Gone, Now: 102 * sec, Target: Target{VM: vm1, Process: p1}},
		{Kind: Tick, Now: 120 * sec},
	} {
		before := encodeState(p.s)
		Step(p.s, ev)
		must.Eq(t, string(before), string(encodeState(p.s)))
	}
}
