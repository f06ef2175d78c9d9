package guard

import (
	"cmp"
	"slices"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/mutant"
)

// The guard holds at most this many armed VMs, and remembers this many proofs.
const (
	MaxArmed  = 1024
	MaxProofs = 1024
)

// Limits are the times that a guard lives by.
type Limits struct {
	// Lease is T: no lease reaches further ahead than this. Default 15 s.
	Lease time.Duration
	// Kill is K: all armed VMs must be dead this long after the deadline. Default 5 s.
	Kill time.Duration
	// Retry is the time between two attempts to kill. Default 50 ms.
	Retry time.Duration
	// Pet is the time between two pets of the watchdog, and between two looks at
	// the armed processes. Default 1 s.
	Pet time.Duration
}

// complete fills in the defaults.
func (l Limits) complete() Limits {
	l.Lease = cmp.Or(l.Lease, 15*time.Second)
	l.Kill = cmp.Or(l.Kill, 5*time.Second)
	l.Retry = cmp.Or(l.Retry, 50*time.Millisecond)
	l.Pet = cmp.Or(l.Pet, time.Second)
	return l
}

// Lease is one record of the agent: until when this host may run its HA VMs.
type Lease struct {
	BootID api.ID `json:"boot_id"`
	// Sequence rises with each record of a boot, across restarts of the agent.
	Sequence uint64 `json:"sequence"`
	// Sent is the boot time from just before the beat was sent that earned the
	// lease; Deadline is the boot time at which it is over.
	Sent     time.Duration `json:"sent"`
	Deadline time.Duration `json:"deadline"`
}

// Target is what is killed: one VM at one epoch, in one process.
type Target struct {
	VM      api.ID    `json:"vm"`
	Epoch   api.Epoch `json:"epoch"`
	Process Process   `json:"process"`
	// Cgroup is the folder of the VM's own cgroup (v2, or v1 freezer), or "".
	Cgroup string `json:"cgroup,omitempty"`
	// CgroupID is the inode of that folder, which no later one gets in this boot. The
	// guard fills it in.
	CgroupID uint64 `json:"cgroup_id,omitempty"`
}

// Armed is a VM that lives and will be killed at the deadline.
type Armed struct {
	Target
	// Doomed: the deadline passed while it was armed. Nothing takes that back.
	Doomed bool `json:"doomed,omitempty"`
}

// Proof says that an armed VM is dead: the fence proof, if Killed.
type Proof struct {
	VM    api.ID    `json:"vm"`
	Epoch api.Epoch `json:"epoch"`
	// At is the boot time by which it was dead.
	At time.Duration `json:"killed_at"`
	// Killed: at the deadline, by the guard; otherwise it ended without it.
	Killed bool `json:"killed"`
}

// State is all that the guard knows. The slices are never written in place.
type State struct {
	BootID api.ID `json:"boot_id"`
	Lease  Lease  `json:"lease"`
	// Armed is sorted by VM, Proofs by age; a VM has at most one of each.
	Armed  []Armed `json:"armed,omitempty"`
	Proofs []Proof `json:"proofs,omitempty"`

	// What follows does not outlive the process.
	Limits   Limits        `json:"-"`
	Now      time.Duration `json:"-"`
	nextKill time.Duration
	nextPet  time.Duration
	overdue  bool
}

// NewState is a guard that holds what saved holds, if that is from this boot:
// of another boot nothing lives.
func NewState(boot api.ID, limits Limits, saved State) State {
	s := State{BootID: boot, Limits: limits.complete()}
	if saved.BootID == boot {
		s.Lease, s.Armed, s.Proofs = saved.Lease, saved.Armed, saved.Proofs
	}
	return s
}

// Kind is what happened.
type Kind uint8

// The kinds of events. Each carries Now; what else it carries stands beside it.
const (
	Tick      Kind = iota // time went by
	LeaseRead             // Lease: a record whose checksum holds
	Arm                   // Target: a process that was looked at and is the VM's
	Disarm                // Target.VM and Target.Epoch
	Gone                  // Target.VM and Target.Process: nothing of it lives
	AgentGone             // the agent closed its connection: changes nothing
	Stop                  // somebody wants the guard to end
)

// Event is one thing that happened, at boot time Now.
type Event struct {
	Kind   Kind
	Now    time.Duration
	Lease  Lease
	Target Target
}

// Verdict is the answer to Arm, Disarm and Stop.
type Verdict uint8

// The verdicts.
const (
	NoVerdict Verdict = iota
	Accepted
	RefusedExpired // the deadline has passed, or there was never a lease
	RefusedEpoch   // not the epoch that is armed, or older than one that was
	RefusedOther   // another process of this VM, or this process as another VM, is armed
	RefusedFull    // MaxArmed
	RefusedArmed   // no stop while something is armed
)

// Output is what has to be done after an event: Kill first, then Save, then the
// rest. Of an accepted Arm or Disarm, Save comes before the answer, and one that
// fails takes it back: the caller drops the new state and refuses.
type Output struct {
	Verdict Verdict
	// Save: what a restarted guard must know has changed.
	Save bool
	// Kill these, by every means. It comes again each Retry until they are Gone.
	Kill []Target
	// Died are proofs that are new.
	Died []Proof
	// Pet the watchdog.
	Pet bool
	// Exit: the guard may end.
	Exit bool
	// Extended: the lease record was believed. Expired: the deadline has just
	// passed for something armed. Overdue: deadline + Kill has just passed and
	// something armed lives. These are for the log.
	Extended, Expired, Overdue bool
	// Wake is the boot time of the next Tick, 0 for none.
	Wake time.Duration
}

// Step is the whole behaviour of the guard: the state, an event, and what comes
// of it. It knows no clock, no goroutine and no I/O.
func Step(s State, ev Event) (State, Output) {
	var out Output
	s.Now = max(s.Now, ev.Now)
	// What may spare a VM counts before the deadline is looked at, so that a late
	// guard does not kill for a lease that was renewed in time.
	switch ev.Kind {
	case LeaseRead:
		s.extend(ev.Lease, &out)
	case Gone:
		s.bury(ev.Target, &out)
	case AgentGone:
		if mutant.On(mutant.RestartExtends) {
			s.Lease.Deadline = s.Now + s.Limits.Lease
		}
	}
	s.expire(ev.Kind, &out)
	switch ev.Kind {
	case Arm:
		out.Verdict = s.arm(ev.Target, &out)
	case Disarm:
		out.Verdict = s.disarm(ev.Target, &out)
	case Stop:
		out.Verdict, out.Exit = Accepted, true
		if len(s.Armed) > 0 {
			out.Verdict, out.Exit = RefusedArmed, false
		}
	}
	s.kill(&out)
	s.pet(&out)
	out.Wake = s.wake()
	return s, out
}

// expired: the host has no lease now.
func (s *State) expired() bool { return s.Now >= s.Lease.Deadline }

// extend takes a lease record. Only a newer record of this boot counts, one that
// was sent before now and lasts at most T (so that it ends at most T ahead of
// now); and it only extends.
func (s *State) extend(l Lease, out *Output) {
	if l.BootID != s.BootID || l.Sequence <= s.Lease.Sequence {
		return
	}
	if l.Sent < 0 || l.Sent > s.Now || l.Deadline < l.Sent || l.Deadline-l.Sent > s.Limits.Lease {
		return
	}
	s.Lease.BootID, s.Lease.Sequence = l.BootID, l.Sequence
	if l.Deadline > s.Lease.Deadline {
		s.Lease, out.Extended = l, true
	}
}

// expire dooms everything armed once the deadline is there, whoever says that it
// is: above all the guard's own timer.
func (s *State) expire(by Kind, out *Output) {
	if by == Tick && mutant.On(mutant.AgentEnforces) {
		return
	}
	if !s.expired() || !slices.ContainsFunc(s.Armed, func(a Armed) bool { return !a.Doomed }) {
		return
	}
	s.Armed = slices.Clone(s.Armed)
	for i := range s.Armed {
		s.Armed[i].Doomed = true
	}
	s.nextKill, out.Expired, out.Save = 0, true, true
}

func (s *State) arm(t Target, out *Output) Verdict {
	if s.expired() && !mutant.On(mutant.ArmExpired) {
		return RefusedExpired
	}
	for _, p := range s.Proofs {
		if p.VM == t.VM && p.Epoch > t.Epoch {
			return RefusedEpoch
		}
	}
	i, held := s.find(t.VM)
	switch {
	case held && s.Armed[i].Epoch > t.Epoch:
		return RefusedEpoch
	case held && s.Armed[i].Doomed:
		return RefusedExpired
	case held && s.Armed[i].Process != t.Process:
		return RefusedOther
	case held && s.Armed[i].Target == t:
		return Accepted
	case !held && len(s.Armed) >= MaxArmed:
		return RefusedFull
	case !held && slices.ContainsFunc(s.Armed, func(a Armed) bool { return a.Process == t.Process }):
		return RefusedOther
	}
	s.Armed = slices.Clone(s.Armed)
	if held {
		s.Armed[i].Target = t
	} else {
		s.Armed = slices.Insert(s.Armed, i, Armed{Target: t})
	}
	out.Save = true
	return Accepted
}

func (s *State) disarm(t Target, out *Output) Verdict {
	i, held := s.find(t.VM)
	switch {
	case !held:
		return Accepted
	case s.Armed[i].Epoch != t.Epoch:
		return RefusedEpoch
	case s.Armed[i].Doomed:
		return RefusedExpired
	}
	s.Armed = slices.Delete(slices.Clone(s.Armed), i, i+1)
	out.Save = true
	return Accepted
}

// bury takes a dead VM out of what is armed and writes its proof.
func (s *State) bury(t Target, out *Output) {
	i, held := s.find(t.VM)
	if !held || s.Armed[i].Process != t.Process {
		return
	}
	a := s.Armed[i]
	p := Proof{VM: a.VM, Epoch: a.Epoch, At: s.Now, Killed: a.Doomed}
	s.Armed = slices.Delete(slices.Clone(s.Armed), i, i+1)
	s.Proofs = slices.DeleteFunc(slices.Clone(s.Proofs), func(q Proof) bool { return q.VM == p.VM })
	if len(s.Proofs) >= MaxProofs {
		s.Proofs = s.Proofs[1:]
	}
	s.Proofs = append(s.Proofs, p)
	out.Died, out.Save = append(out.Died, p), true
}

// kill asks for the death of what is doomed, again and again.
func (s *State) kill(out *Output) {
	if s.Now >= s.nextKill {
		for _, a := range s.Armed {
			if a.Doomed {
				out.Kill = append(out.Kill, a.Target)
			}
		}
		s.nextKill = s.Now + s.Limits.Retry
	}
	late := !s.Deserves()
	out.Overdue, s.overdue = late && !s.overdue, late
}

// Deserves reports whether the watchdog may be petted: the lease holds, or its end
// is less than K ago, or nothing armed lives.
func (s *State) Deserves() bool {
	return len(s.Armed) == 0 || s.Now < s.Lease.Deadline+s.Limits.Kill
}

// pet pets the watchdog while that is deserved.
func (s *State) pet(out *Output) {
	if s.Now < s.nextPet {
		return
	}
	s.nextPet = s.Now + s.Limits.Pet
	out.Pet = s.Deserves()
}

// wake is when something is due next.
func (s *State) wake() time.Duration {
	at := s.nextPet
	for _, a := range s.Armed {
		if a.Doomed {
			at = min(at, s.nextKill)
		} else {
			at = min(at, s.Lease.Deadline)
		}
	}
	return at
}

// find is where a VM is, or belongs, in what is armed.
func (s *State) find(vm api.ID) (int, bool) {
	return slices.BinarySearchFunc(s.Armed, vm, func(a Armed, vm api.ID) int { return slices.Compare(a.VM[:], vm[:]) })
}
