package guard

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/novacron/novacron/api"
)

const (
	worldT  = 15 * sec
	worldK  = 5 * sec
	worldWD = 10 * sec
	// The driver delivers a tick at most this late; a kill takes at most killTakes.
	worldLate = 20 * time.Millisecond
	killTakes = 2 * sec
)

// body is a VM's process in the world, and what the model knows of it.
type body struct {
	proc     Process
	alive    bool
	stubborn bool // no signal kills it
	killed   bool
	dies     time.Duration // when a signal takes effect, 0: none did yet

	excused bool // the guard was not there to kill it in time

	armed  bool
	epoch  api.Epoch     // the newest that was armed
	doomed time.Duration // the deadline that passed while it was armed
}

// world is a host: processes, a lease file, a state file, a watchdog; with every
// kind of trouble. deadline and seq are the model of the lease.
type world struct {
	t    *rapid.T
	s    State
	wake time.Duration
	now  time.Duration
	boot byte

	deadline time.Duration
	seq      uint64
	good     Lease // the last record that had to be believed
	disk     []byte
	vms      [3]body
	pids     int

	classA  bool
	lastPet time.Duration
	since   time.Duration // petting has been deserved since then
	wdOpen  bool
}

func (w *world) vm(i int) api.ID { return api.ID{byte(i + 1)} }

func (w *world) anyArmed() bool {
	return w.vms[0].armed || w.vms[1].armed || w.vms[2].armed
}

// step delivers one event, then judges and performs what comes of it.
func (w *world) step(ev Event) Output {
	ev.Now = w.now
	var out Output
	w.s, out = Step(w.s, ev)
	w.wake = out.Wake
	if out.Wake <= w.now && len(out.Kill) == 0 {
		w.t.Fatalf("it asks to be woken at %s, and it is %s", out.Wake, w.now)
	}
	for _, p := range out.Died {
		b := &w.vms[p.VM[0]-1]
		if b.alive || p.Epoch != b.epoch || p.Killed != (b.doomed != 0) {
			w.t.Fatalf("proof %+v of %+v", p, *b)
		}
		b.armed = false
	}
	for i := range w.vms {
		if b := &w.vms[i]; b.armed && b.doomed == 0 && w.now >= w.deadline {
			b.doomed = max(w.deadline, 1)
		}
	}
	if out.Verdict == Accepted && ev.Kind == Arm || out.Verdict == Accepted && ev.Kind == Disarm {
		i := int(ev.Target.VM[0]) - 1
		w.vms[i].armed = ev.Kind == Arm
		if ev.Kind == Arm {
			w.vms[i].epoch = ev.Target.Epoch
			w.vms[i].doomed = 0
		}
	}
	for _, k := range out.Kill {
		b := &w.vms[k.VM[0]-1]
		switch {
		case !b.armed || b.proc != k.Process || b.epoch != k.Epoch:
			w.t.Fatalf("kills %+v, and armed is %+v", k, *b)
		case b.doomed == 0:
			w.t.Fatalf("kills %+v at %s, before the deadline %s", k, w.now, w.deadline)
		}
		if !b.killed && !b.excused && w.now > b.doomed+worldLate {
			w.t.Fatalf("first killed at %s, and the deadline was %s", w.now, b.doomed)
		}
		b.killed = true
		if b.dies == 0 && !rapid.Bool().Draw(w.t, "signal lost") {
			b.dies = w.now + time.Duration(rapid.Int64Range(1, int64(killTakes)).Draw(w.t, "kill takes"))
		}
	}
	if out.Save {
		w.disk = encodeState(w.s)
	}
	deserved := !w.anyArmed() || w.now < w.deadline+worldK
	if out.Pet && !deserved {
		w.t.Fatalf("petted at %s: deadline %s, armed %+v", w.now, w.deadline, w.vms)
	}
	if out.Pet {
		w.lastPet = w.now
	}
	if !deserved {
		w.since = w.now
	}
	if w.now-max(w.since, w.lastPet) > sec+worldLate {
		w.t.Fatalf("not petted since %s, and it is %s", w.lastPet, w.now)
	}
	if w.classA && deserved && w.wdOpen != w.anyArmed() {
		w.wdOpen, w.lastPet = w.anyArmed(), w.now
	}
	return out
}

// event is one turn of the driver: who has died, then what happened.
func (w *world) event(ev Event) Output {
	for i := range w.vms {
		if b := &w.vms[i]; b.armed && !b.alive {
			w.step(Event{Kind: Gone, Target: Target{VM: w.vm(i), Process: b.proc}})
		}
	}
	return w.step(ev)
}

// pass lets time go by, with the guard's ticks unless it is frozen.
func (w *world) pass(d time.Duration, frozen bool) {
	end := w.now + d
	for w.now < end {
		next := end
		if !frozen {
			late := time.Duration(rapid.Int64Range(0, int64(worldLate)).Draw(w.t, "late"))
			next = min(end, max(w.now, w.wake)+late)
		}
		tick := !frozen && next >= w.wake
		for i := range w.vms {
			if b := &w.vms[i]; b.alive && b.dies != 0 && !b.stubborn && b.dies <= next {
				b.alive = false
				w.judge(b, b.dies)
			}
		}
		if w.wdOpen && w.lastPet+worldWD <= next {
			w.reset(w.lastPet + worldWD)
			return
		}
		w.now = next
		if frozen {
			w.excuse()
		}
		for i := range w.vms {
			if b := &w.vms[i]; b.alive {
				w.judge(b, w.now)
			}
		}
		if tick {
			w.event(Event{Kind: Tick})
		} else if !frozen {
			return
		}
	}
}

// excuse: the guard was away until now. What should be dying is late, and for that
// there is the watchdog.
func (w *world) excuse() {
	for i := range w.vms {
		b := &w.vms[i]
		b.excused = b.excused || b.armed && (b.doomed != 0 || w.now > w.deadline)
	}
	w.since = w.now
}

// judge: b lived until at.
func (w *world) judge(b *body, at time.Duration) {
	switch {
	case !b.armed:
	case !b.stubborn && !b.excused && b.doomed != 0 && at > b.doomed+worldK:
		w.t.Fatalf("armed until %s, alive at %s", b.doomed, at)
	case w.classA && at > w.deadline+worldK+worldWD:
		w.t.Fatalf("armed, deadline %s, alive at %s in spite of the watchdog", w.deadline, at)
	}
}

// reset is the watchdog: all dies, and another boot begins.
func (w *world) reset(at time.Duration) {
	w.now = at
	w.excuse()
	for i := range w.vms {
		if b := &w.vms[i]; b.alive {
			w.judge(b, at)
		}
		w.vms[i] = body{}
	}
	w.boot++
	w.now, w.lastPet, w.wdOpen, w.since = sec, 0, false, sec
	w.deadline, w.good = 0, Lease{}
	w.restart()
	if len(w.s.Armed) > 0 {
		w.t.Fatalf("armed after a reboot: %+v", w.s.Armed)
	}
}

// restart is a guard that was killed and begins again.
func (w *world) restart() {
	var saved State
	if w.disk != nil {
		var err error
		if saved, err = decodeState(w.disk); err != nil {
			w.t.Fatal(err)
		}
	}
	w.s = NewState(api.ID{0xb0, w.boot}, Limits{Lease: worldT, Kill: worldK}, saved)
	w.since = w.now
	if w.good.Sequence > w.s.Lease.Sequence {
		w.lease(w.good)
	}
	w.event(Event{Kind: Tick})
}

func (w *world) lease(l Lease) { w.step(Event{Kind: LeaseRead, Lease: l}) }

// A check is cheap and the troubles are rare together: hence the rounds.
func TestGuardKeepsItsPromises(t *testing.T) {
	for range 20 {
		rapid.Check(t, keepsItsPromises)
	}
}

func keepsItsPromises(t *rapid.T) {
	w := &world{t: t, now: 50 * sec, since: 50 * sec, pids: 100, classA: rapid.Bool().Draw(t, "watchdog")}
	w.restart()
	which := func() int { return rapid.IntRange(0, len(w.vms)-1).Draw(t, "vm") }
	span := func(what string, upTo time.Duration) time.Duration {
		return time.Duration(rapid.Int64Range(0, int64(upTo)).Draw(t, what))
	}
	t.Repeat(map[string]func(*rapid.T){
		"time passes": func(t *rapid.T) { w.pass(span("time", 4*sec), false) },
		"much time passes": func(t *rapid.T) {
			w.pass(span("time", 20*sec), false)
		},
		"a beat is acknowledged": func(t *rapid.T) {
			sent := max(0, w.now-span("ago", 4*sec))
			w.seq++
			l := Lease{BootID: api.ID{0xb0, w.boot}, Sequence: w.seq, Sent: sent, Deadline: sent + worldT - span("short", 14*sec)}
			if l.Deadline > w.deadline {
				w.deadline, w.good = l.Deadline, l
			}
			w.lease(l)
			if w.s.Lease.Deadline != w.deadline {
				t.Fatalf("deadline %s after %+v, want %s", w.s.Lease.Deadline, l, w.deadline)
			}
		},
		"a record is wrong": func(t *rapid.T) {
			l := Lease{BootID: api.ID{0xb0, w.boot}, Sequence: w.seq + 1, Sent: w.now, Deadline: w.now + worldT}
			switch rapid.IntRange(0, 3).Draw(t, "how") {
			case 0:
				l.BootID[5]++
			case 1:
				l.Sequence = rapid.Uint64Range(0, w.s.Lease.Sequence).Draw(t, "sequence")
			case 2:
				l.Deadline += 1 + span("too far", 100*sec)
			case 3:
				d := 1 + span("ahead", 100*sec)
				l.Sent, l.Deadline = l.Sent+d, l.Deadline+d
			}
			w.lease(l)
			if w.s.Lease.Deadline != w.deadline {
				t.Fatalf("%+v was believed", l)
			}
		},
		"a VM is armed": func(t *rapid.T) {
			i := which()
			b := &w.vms[i]
			epoch := api.Epoch(rapid.Uint64Range(1, 6).Draw(t, "epoch"))
			if !b.alive {
				w.event(Event{Kind: Tick})
				w.pids++
				b = &w.vms[i]
				*b = body{proc: Process{w.pids, uint64(w.pids)}, alive: true, stubborn: rapid.IntRange(0, 4).Draw(t, "stubborn") == 0, epoch: b.epoch}
			}
			was := *b
			v := w.event(Event{Kind: Arm, Target: Target{VM: w.vm(i), Epoch: epoch, Process: b.proc}}).Verdict
			want := w.now < w.deadline && was.doomed == 0 && (!was.armed || epoch >= was.epoch)
			if v == Accepted && !want || v == RefusedExpired && w.now < w.deadline && was.doomed == 0 {
				t.Fatalf("armed at epoch %d: %d, of %+v", epoch, v, was)
			}
		},
		"a VM is disarmed": func(t *rapid.T) {
			i := which()
			epoch := api.Epoch(rapid.Uint64Range(1, 6).Draw(t, "epoch"))
			w.event(Event{Kind: Tick})
			was := w.vms[i]
			v := w.event(Event{Kind: Disarm, Target: Target{VM: w.vm(i), Epoch: epoch}}).Verdict
			if was.armed && (v == Accepted) != (was.doomed == 0 && was.epoch == epoch) {
				t.Fatalf("disarmed at epoch %d: %d, of %+v", epoch, v, was)
			}
		},
		"a guest ends": func(t *rapid.T) { w.vms[which()].alive = false },
		"the agent dies": func(t *rapid.T) {
			w.event(Event{Kind: AgentGone})
		},
		"the guard is asked to stop": func(t *rapid.T) {
			if out := w.event(Event{Kind: Stop}); out.Exit == w.anyArmed() {
				t.Fatalf("stops: %t, armed %+v", out.Exit, w.vms)
			}
		},
		"the guard is killed and starts again": func(t *rapid.T) {
			if w.classA {
				w.pass(span("away", 15*sec), true)
			}
			w.restart()
		},
		"the guard is frozen": func(t *rapid.T) {
			if w.classA {
				w.pass(span("frozen", 30*sec), true)
				w.event(Event{Kind: Tick})
			}
		},
	})
}
