package client

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/novacron/novacron/agent/guard"
	"github.com/novacron/novacron/api"
)

// guardWorld is a host with one HA VM: hypervisor, guard, agent, and what the
// servers believe. Time passes in steps of a tenth of a second.
type guardWorld struct {
	t *rapid.T
	e env

	m       machine
	disk    record
	written bool
	begun   machine
	wake    api.Time
	up      bool // the agent

	// What is true.
	pid     int // 0: there is no process
	pids    int
	running bool
	epoch   api.Epoch // of the domain
	exit    string

	alive bool // the guard
	g     guard.State
	saved guard.State
	lease guard.Lease

	// The servers.
	net      bool // they hear and answer
	order    api.Order
	beat     time.Duration // next
	seq      uint64        // of reports
	armedSeq uint64        // newest that said armed
	outbox   api.VMReport  // due; zero: none
	believed api.VMReport  // committed
	bare     time.Duration // since when what they believe is not so
}

const guardTick = 100 * time.Millisecond

func newGuardWorld(t *rapid.T) *guardWorld {
	w := &guardWorld{t: t, e: env{now: api.Time(time.Hour), up: time.Hour, boot: "b", guard: true, term: 1}, up: true, alive: true, net: true}
	w.g = guard.NewState(api.ID{7}, guard.Limits{}, guard.State{})
	w.m = newMachine(record{ID: vm1}, false)
	w.order = haOrder()
	w.order.Spec.Restart = api.RestartPolicy{Policy: "always", Attempts: 1000}
	return w
}

// step gives the agent an event, and tells its report.
func (w *guardWorld) step(ev event) {
	if !w.up {
		return
	}
	was := w.m.report()
	var out output
	w.m, out = step(w.m, ev, w.e)
	if w.m.Epoch != 0 {
		w.disk, w.written = w.m.record.durable(), true
	}
	w.wake = out.wake
	if out.op != opNone {
		w.begun = w.m
	}
	r := w.m.report()
	if r.Armed && !w.disk.Told {
		w.t.Fatalf("armed is said and not in the journal")
	}
	if out.op == opResume && w.pid != 0 && w.m.guarded(w.e) && (!w.holds() || w.e.up >= w.lease.Deadline) {
		w.t.Fatalf("resumed: guard %v, deadline in %s", w.g.Armed, w.lease.Deadline-w.e.up)
	}
	if out.op == opResume && !w.m.guarded(w.e) && w.believed.Armed && w.believed.Epoch == w.m.Epoch {
		w.t.Fatalf("resumed unarmed, and the servers believe it armed")
	}
	if out.op == opDisarm && w.believed.Armed && w.believed.Epoch == w.m.Epoch {
		w.t.Fatalf("disarmed before the servers knew")
	}
	if !sameReport(was, r) || ev.kind == evOrder || out.retell {
		w.say(r)
	}
}

func (w *guardWorld) say(r api.VMReport) {
	w.seq++
	r.Seq = w.seq
	if r.Armed {
		w.armedSeq = r.Seq
	}
	w.outbox = r
}

// holds: the guard, or the one that comes after it, will kill what runs.
func (w *guardWorld) holds() bool {
	s := w.g
	if !w.alive {
		s = w.saved
	}
	for _, a := range s.Armed {
		if a.Process.PID == w.pid && a.Epoch == w.epoch {
			return true
		}
	}
	return false
}

// look is one look of the guard.
func (w *guardWorld) look(ev guard.Event) guard.Output {
	do := func(ev guard.Event) guard.Output {
		ev.Now = w.e.up
		next, out := guard.Step(w.g, ev)
		if w.g = next; out.Save {
			w.saved = next
		}
		for _, t := range out.Kill {
			if t.Process.PID == w.pid {
				w.end("crashed")
			}
		}
		return out
	}
	do(guard.Event{Kind: guard.LeaseRead, Lease: w.lease})
	for _, a := range w.g.Armed {
		if a.Process.PID != w.pid {
			do(guard.Event{Kind: guard.Gone, Target: a.Target})
		}
	}
	return do(ev)
}

// end ends the guest.
func (w *guardWorld) end(why string) { w.pid, w.running, w.exit = 0, false, why }

func (w *guardWorld) dom() dom {
	d := dom{kind: domAbsent, exit: w.exit, epoch: w.epoch, version: 1}
	for _, p := range w.g.Proofs {
		if w.alive && w.pid == 0 && p.Killed && p.Epoch == w.epoch && w.m.hold.was {
			d.exit = exitFenced
		}
	}
	if w.pid != 0 {
		d.kind, d.reason = domPaused, "starting-up"
		if w.running {
			d.kind, d.reason = domRunning, ""
		}
	}
	return d
}

// perform makes the op's effect, and tells the outcome unless that is lost.
func (w *guardWorld) perform(lost bool) {
	o, m := w.m.busy, w.begun
	done := event{kind: evDone, op: o, epoch: m.Epoch}
	target := guard.Target{VM: vm1, Epoch: m.RunEpoch, Process: guard.Process{PID: w.pid, Start: 1}}
	ask := func(kind guard.Kind) {
		switch {
		case !w.alive:
			done.res = resUnknown
		case w.look(guard.Event{Kind: kind, Target: target}).Verdict != guard.Accepted:
			done.res = resFailed
		}
	}
	switch {
	case o == opInspect:
		done.dom = w.dom()
	case o == opPrepare:
	case o == opStart && w.pid != 0:
		done.res = resExists
	case o == opStart:
		w.pids++
		w.pid, w.running, w.epoch, w.exit = w.pids, false, m.Epoch, ""
		done.dom = w.dom()
	case w.pid == 0 && o != opDisarm:
		done.res = resNotFound
	case o == opArm:
		done.epoch = m.RunEpoch
		ask(guard.Arm)
	case o == opDisarm:
		target.Epoch = m.hold.epoch
		ask(guard.Disarm)
	case o == opDestroy || o == opShutdown:
		w.end("destroyed")
	case o == opPause, o == opResume:
		w.running = o == opResume
	case o == opSetEpoch:
		w.epoch = m.Epoch
	}
	if lost && (o == opArm || o == opDisarm) {
		done.res = resUnknown
	}
	w.step(done)
}

// tick lets a tenth of a second pass.
func (w *guardWorld) tick(lost bool) {
	w.e.up += guardTick
	w.e.now += api.Time(guardTick)
	if w.alive {
		w.look(guard.Event{Kind: guard.Tick})
	}
	if w.net {
		w.serve(lost)
	}
	if w.up {
		switch {
		case w.m.busy != opNone:
			w.perform(lost)
		case w.m.Alive && w.pid == 0:
			w.step(event{kind: evLook})
		case w.wake != 0 && w.wake <= w.e.now:
			w.step(event{kind: evTick})
		}
		if w.e.up%(2*time.Second) == 0 {
			w.guardSays()
		}
	}
	w.check()
}

func (w *guardWorld) guardSays() {
	if !w.alive {
		return
	}
	w.look(guard.Event{Kind: guard.Tick})
	ev := event{kind: evGuard}
	for _, a := range w.g.Armed {
		ev.epoch, ev.mine = a.Epoch, a.Process.PID == w.pid
	}
	w.step(ev)
}

// serve is what the servers do: take reports and answer beats. An answer may be lost.
func (w *guardWorld) serve(lost bool) {
	if r := w.outbox; r.Seq != 0 {
		if r.Epoch == w.order.Epoch && r.Seq > w.believed.Seq {
			w.believed = r
		}
		if !lost {
			w.outbox = api.VMReport{}
			if !r.Armed && r.Seq > w.armedSeq {
				w.step(event{kind: evUnarmed, seq: r.Seq, epoch: r.Epoch})
			}
		}
	}
	if !w.up || lost || w.e.up < w.beat {
		return
	}
	w.beat = w.e.up + 3*time.Second
	lapsed := false
	if w.alive {
		lapsed = w.e.deadline != 0 && w.e.up >= w.e.deadline
		w.lease = guard.Lease{BootID: api.ID{7}, Sequence: w.lease.Sequence + 1, Sent: w.e.up, Deadline: w.e.up + 15*time.Second}
		w.e.deadline = w.lease.Deadline
	}
	if lapsed || w.e.up >= w.e.known {
		w.e.term++
	}
	w.e.known = w.e.up + 15*time.Second
	w.e.hold = false
	o := w.order
	w.step(event{kind: evOrder, order: &o, generation: 1, term: w.e.term})
	w.step(event{kind: evTick})
}

// check is what must hold at any time.
func (w *guardWorld) check() {
	believed := w.believed.Armed && w.believed.Epoch == w.order.Epoch
	if !believed || !w.running || w.holds() && (w.alive || !w.up) {
		w.bare = 0
		return
	}
	if !w.up {
		w.t.Fatalf("no agent, and the guard does not hold what the servers believe it holds")
	}
	if w.bare == 0 {
		w.bare = w.e.up
	}
	if since := w.e.up - w.bare; since > killBudget+2500*time.Millisecond {
		w.t.Fatalf("it has run unarmed for %s, and the servers believe it armed", since)
	}
	if late := w.e.up - w.lease.Deadline; w.alive && w.holds() && late > time.Second {
		w.t.Fatalf("it runs %s after the lease", late)
	}
}

func (w *guardWorld) pass(t *rapid.T, most time.Duration) {
	lost := rapid.IntRange(0, 3).Draw(t, "lost") == 0
	for range rapid.IntRange(1, int(most/guardTick)).Draw(t, "ticks") {
		w.tick(lost)
	}
}

// change is a new order from the servers.
func (w *guardWorld) change(f func(*api.Order)) {
	w.order.Index++
	spec := *w.order.Spec
	w.order.Spec = &spec
	f(&w.order)
	w.beat = 0
}

func (w *guardWorld) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"a little time": func(t *rapid.T) { w.pass(t, 2*time.Second) },
		"time":          func(t *rapid.T) { w.pass(t, 25*time.Second) },
		"policy": func(t *rapid.T) {
			w.change(func(o *api.Order) {
				o.Spec.HA.Policy = rapid.SampledFrom([]string{api.HAKeep, api.HARestart, api.HARestart}).Draw(t, "policy")
				o.SpecVersion++
			})
		},
		"power": func(t *rapid.T) {
			w.change(func(o *api.Order) {
				o.Desired, o.Force = rapid.SampledFrom([]api.Power{api.PowerRunning, api.PowerRunning, api.PowerPaused, api.PowerStopped}).Draw(t, "power"), true
			})
		},
		"grant": func(*rapid.T) { // nothing is known at the new epoch
			w.believed.Armed = false
			w.change(func(o *api.Order) { o.Epoch++ })
		},
		"net": func(*rapid.T) { w.net = !w.net },
		"disarm": func(*rapid.T) {
			w.e.disarm = !w.e.disarm
			w.step(event{kind: evTick})
		},
		"guest crashes": func(*rapid.T) {
			if w.pid != 0 {
				w.end("crashed")
			}
		},
		"guard dies": func(*rapid.T) {
			if w.up {
				w.alive, w.e.guard = false, false
				w.step(event{kind: evTick})
			}
		},
		"guard starts": func(t *rapid.T) {
			if !w.alive {
				w.startGuard(w.up && rapid.IntRange(0, 3).Draw(t, "forgets") == 0)
			}
		},
		"agent crashes": func(*rapid.T) {
			if w.bare != 0 {
				return // with its guard's memory gone, too, nobody could hold the promise
			}
			w.up = false
			if !w.alive {
				w.startGuard(false)
			}
		},
		"agent starts": func(*rapid.T) { w.startAgent() },
	}
}

func (w *guardWorld) startGuard(forgets bool) {
	if forgets {
		w.saved = guard.State{}
	}
	w.g = guard.NewState(api.ID{7}, guard.Limits{}, w.saved)
	w.alive, w.e.guard = true, true
	w.guardSays()
	w.step(event{kind: evTick})
}

func (w *guardWorld) startAgent() {
	if w.up {
		return
	}
	w.up, w.e.hold, w.e.deadline, w.e.known, w.e.guard, w.wake = true, true, 0, 0, w.alive, 0
	w.m = newMachine(w.disk, w.written)
	w.m.ID = vm1
	w.guardSays()
	w.step(event{kind: evSeen, dom: w.dom()})
	w.beat = 0
	w.say(w.m.report())
}

// TestGuardedStepIsSafe: whatever happens to guard, agent, net and guest, a VM that
// the servers believe to be armed does not run unarmed for longer than K, and is
// not disarmed before they know; and when the trouble ends, all is as ordered.
func TestGuardedStepIsSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newGuardWorld(t)
		a := w.actions()
		a[""] = func(*rapid.T) { w.check() }
		t.Repeat(a)

		if !w.alive {
			w.startGuard(false)
		}
		w.startAgent()
		w.net, w.e.disarm = true, false
		w.change(func(o *api.Order) {
			o.Desired, o.Spec.HA.Policy = api.PowerRunning, api.HARestart
			o.Starts++
			o.SpecVersion++
		})
		for range 2 * time.Minute / guardTick {
			w.tick(false)
		}
		must.True(t, w.running, must.Sprintf("%+v", w.m))
		must.True(t, w.holds())
		must.True(t, w.believed.Armed)
		must.Eq(t, w.order.Epoch, w.epoch)
		w.change(func(o *api.Order) { o.Spec.HA.Policy = api.HAKeep; o.SpecVersion++ })
		for range time.Minute / guardTick {
			w.tick(false)
		}
		must.True(t, w.running)
		must.False(t, w.holds() || w.believed.Armed)
	})
}
