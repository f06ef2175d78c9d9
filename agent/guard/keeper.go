package guard

import (
	"errors"
	"os"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/boottime"
)

// look reads the lease, looks at the armed processes and performs an event. The
// new state counts, and is written, before anything is answered.
func (k *keeper) look(ev Event) Output {
	k.refresh()
	next, out := k.step(ev)
	k.take(next, out)
	return out
}

// refresh brings the state up to what is known now: the lease, and who has died.
func (k *keeper) refresh() {
	if l, ok := readLease(k.cfg.Dir, k.state.BootID); ok && l.Sequence != k.state.Lease.Sequence {
		k.take(k.step(Event{Kind: LeaseRead, Lease: l}))
	}
	for _, a := range k.state.Armed {
		if !k.means[a.VM].alive() {
			k.take(k.step(Event{Kind: Gone, Target: a.Target}))
		}
	}
}

func (k *keeper) step(ev Event) (State, Output) {
	ev.Now = boottime.Now()
	return Step(k.state, ev)
}

// take makes a state the present one and does what comes of it.
func (k *keeper) take(next State, out Output) {
	k.state = next
	if out.Expired {
		k.log.Warn("the lease is over: armed VMs are killed", "deadline", next.Lease.Deadline, "now", next.Now, "armed", len(next.Armed))
	}
	k.kill(out.Kill)
	for _, p := range out.Died {
		k.means[p.VM].close()
		delete(k.means, p.VM)
		k.log.Info("dead", "vm", p.VM, "epoch", p.Epoch, "killed", p.Killed, "killed_at", p.At)
	}
	if out.Overdue {
		k.log.Error("armed VMs outlive the kill budget: the watchdog is no longer petted", "armed", len(next.Armed), "class", k.class)
	}
	if out.Save {
		if err := saveState(k.cfg.Dir, next); err != nil {
			k.log.Error("the state was not written; a guard after this one knows less", "error", err)
		}
	}
	if out.Pet {
		k.pet()
	}
	k.settle()
	if err := k.alarm.Set(out.Wake); err != nil {
		panic("the timer cannot be set: " + err.Error()) // a guard without one must not seem alive
	}
}

// kill uses the first means of every VM before the others of any.
func (k *keeper) kill(targets []Target) {
	for round, more := 0, true; more; round++ {
		more = false
		for _, t := range targets {
			m := k.means[t.VM]
			if round >= len(m) || round > 0 && !m[round].Alive() {
				continue
			}
			more = true
			if err := m[round].Kill(); err != nil {
				k.log.Error("a kill failed", "vm", t.VM, "epoch", t.Epoch, "error", err)
			}
		}
	}
}

// holds: there is a watchdog and it runs.
func (k *keeper) holds() bool { return k.cfg.Watchdog != nil && k.cfg.Watchdog.Info().Open }

func (k *keeper) pet() {
	if !k.holds() {
		return
	}
	if err := k.cfg.Watchdog.Pet(); err != nil {
		k.log.Error("the watchdog was not petted", "error", err)
	}
}

// settle keeps the watchdog running while something is armed, and only then. To
// open it is to pet it, so it waits until that is deserved.
func (k *keeper) settle() {
	if k.cfg.Watchdog == nil || !k.state.Deserves() {
		return
	}
	wanted := len(k.state.Armed) > 0
	if !k.probed {
		k.probed = true
		if err := k.cfg.Watchdog.Open(); err != nil {
			k.log.Error("the watchdog cannot be used: this host is lease-only", "error", err)
			return
		}
		k.class = ClassWatchdog
	}
	if k.class != ClassWatchdog || k.holds() == wanted {
		return
	}
	var err error
	if wanted {
		err = k.cfg.Watchdog.Open()
	} else {
		err = k.cfg.Watchdog.Release()
	}
	if err != nil {
		k.log.Error("watchdog", "error", err, "armed", len(k.state.Armed))
	}
}

// stop says whether the guard may end: nothing armed, and no watchdog that would
// reset the host without it.
func (k *keeper) stop() bool {
	out := k.look(Event{Kind: Stop})
	if !out.Exit {
		k.log.Warn("the guard does not end while something is armed", "armed", len(k.state.Armed))
		return false
	}
	if k.holds() {
		k.log.Warn("the guard does not end: its watchdog cannot be stopped and would reset the host")
		return false
	}
	return true
}

// serve answers a request.
func (k *keeper) serve(r *request) answer {
	k.refresh()
	switch r.Op {
	case opArm:
		if err := k.arm(r.Arm); err != nil {
			return answer{Error: err}
		}
		return answer{Deadline: k.state.Lease.Deadline}
	case opDisarm:
		return answer{Error: k.disarm(r.Arm.Target)}
	}
	k.look(Event{Kind: Tick})
	return answer{Status: k.status()}
}

func (k *keeper) arm(r *ArmRequest) *api.Error {
	m, err := k.open(&r.Target, r.UUID)
	if err != nil {
		return asError(err)
	}
	for _, a := range k.state.Armed {
		if a.VM != r.VM && overlaps(a.Cgroup, r.Cgroup) {
			m.close()
			return api.Errorf(api.CodeConflict, "the cgroup is not the VM's own: VM %s is in it", a.VM)
		}
	}
	next, out := k.step(Event{Kind: Arm, Target: r.Target})
	if out.Verdict != Accepted {
		m.close()
		k.take(next, out)
		return k.state.Refusal(out.Verdict, r.Target)
	}
	if e := k.ready(next, out.Save); e != nil {
		m.close()
		k.look(Event{Kind: Tick})
		return e
	}
	k.means[r.VM].close()
	k.means[r.VM] = m
	out.Save = false
	k.take(next, out)
	k.log.Info("armed", "vm", r.VM, "epoch", r.Epoch, "pid", r.Process.PID, "cgroup", r.Cgroup, "deadline", k.state.Lease.Deadline)
	return nil
}

// ready makes what "armed" promises true before it is said: the watchdog runs, and
// a guard after this one will know.
func (k *keeper) ready(next State, save bool) *api.Error {
	if k.class == ClassWatchdog && !k.holds() {
		if err := k.cfg.Watchdog.Open(); err != nil {
			return api.Errorf(api.CodeUnsupported, "the watchdog cannot be started: %v", err)
		}
		k.pet()
	}
	if !save {
		return nil
	}
	if err := saveState(k.cfg.Dir, next); err != nil {
		return api.Errorf(api.CodeJournal, "the guard's state cannot be written: %v", err)
	}
	return nil
}

func (k *keeper) disarm(t Target) *api.Error {
	next, out := k.step(Event{Kind: Disarm, Target: t})
	if out.Verdict == Accepted && out.Save {
		if err := saveState(k.cfg.Dir, next); err != nil {
			k.look(Event{Kind: Tick})
			return api.Errorf(api.CodeJournal, "the guard's state cannot be written: %v", err)
		}
		k.means[t.VM].close()
		delete(k.means, t.VM)
		out.Save = false
		k.log.Info("disarmed", "vm", t.VM, "epoch", t.Epoch)
	}
	k.take(next, out)
	return k.state.Refusal(out.Verdict, t)
}

// Refusal puts a verdict into words; nil for one that is none.
func (s *State) Refusal(v Verdict, t Target) *api.Error {
	switch v {
	case RefusedExpired:
		return api.Errorf(api.CodeState, "the lease was over at boot time %s", s.Lease.Deadline)
	case RefusedEpoch:
		return api.Errorf(api.CodeStaleEpoch, "VM %s was armed at another epoch than %d", t.VM, t.Epoch)
	case RefusedOther:
		return api.Errorf(api.CodeConflict, "another process of VM %s is armed, or process %d as another VM", t.VM, t.Process.PID)
	case RefusedFull:
		return api.Errorf(api.CodeState, "%d VMs are armed", MaxArmed)
	}
	return nil
}

func (k *keeper) status() *Status {
	s := &Status{
		PID: os.Getpid(), Started: k.started, Now: k.state.Now, BootID: k.state.BootID, Class: k.class, Deadline: k.state.Lease.Deadline,
		Lease: k.state.Limits.Lease, Kill: k.state.Limits.Kill, Armed: k.state.Armed, Proofs: k.state.Proofs, Warnings: k.warnings,
	}
	if k.cfg.Watchdog != nil {
		i := k.cfg.Watchdog.Info()
		s.Watchdog = &i
	}
	return s
}

// asError makes an *api.Error of any error.
func asError(err error) *api.Error {
	var e *api.Error
	if errors.As(err, &e) {
		return e
	}
	return api.Errorf(api.CodeInternal, "%v", err)
}
