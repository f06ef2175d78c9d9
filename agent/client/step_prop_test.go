package client

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/novacron/novacron/api"
)

// world is a hypervisor, a journal and the servers for one machine, with every
// kind of trouble: lost answers, lost effects, crashes of the agent between any
// two steps, reboots of the host, old orders, recovery.
type world struct {
	t       *rapid.T
	m       machine
	disk    record
	written bool
	e       env
	wake    api.Time
	begun   machine // as it was when the op under way was asked for

	// What is true.
	domain  domKind // absent, running or paused
	epoch   api.Epoch
	exit    string
	reboots uint64
	resets  uint64
	late    api.Time // when a start of a dead agent is executed, 0: none is due
	lateAt  api.Epoch

	// What the servers said.
	index     api.Index
	granted   api.Epoch // the highest of a placement
	desired   api.Power
	tomb      api.Epoch // the highest of a tombstone
	force     bool
	orderedRb uint64
	orderedRs uint64
}

func (w *world) step(ev event) {
	var out output
	w.m, out = step(w.m, ev, w.e)
	if out.verdict == orderAccepted || w.m.Epoch != 0 && w.m.record.durable() != w.disk {
		w.disk, w.written = w.m.record.durable(), true
	}
	w.wake = out.wake
	if out.op != opNone {
		w.begun = w.m
	}
	w.check(out)
	if ev.kind == evDone && ev.res == resUnknown && out.op == ev.op {
		w.t.Fatalf("%s is tried again at once though nobody answers", out.op)
	}
}

// check is what must hold of every op that is asked for.
func (w *world) check(out output) {
	switch out.op {
	case opStart:
		if w.late != 0 {
			w.t.Fatalf("start beside one that may still come")
		}
		if w.m.Epoch != w.granted || w.tomb >= w.granted || w.desired == api.PowerStopped {
			w.t.Fatalf("start at epoch %d: granted %d, tombstone %d, desired %s", w.m.Epoch, w.granted, w.tomb, w.desired)
		}
		if w.disk.Phase != phaseStart {
			w.t.Fatalf("start without its intent in the journal")
		}
		if w.e.hold {
			w.t.Fatalf("start while held")
		}
	case opShutdown, opDestroy:
		ordered := w.desired == api.PowerStopped && w.granted >= w.epoch || w.tomb >= w.epoch
		if w.domain != domAbsent && !ordered {
			w.t.Fatalf("%s at epoch %d without an order: granted %d desired %s, tombstone %d", out.op, w.epoch, w.granted, w.desired, w.tomb)
		}
		if w.disk.Phase != phaseStop {
			w.t.Fatalf("%s without its intent in the journal", out.op)
		}
	case opReboot:
		if w.disk.DoneReboots < w.orderedRb {
			w.t.Fatalf("reboot is not counted before it is done")
		}
	case opAttest:
		if w.tomb == 0 {
			w.t.Fatalf("attest without a tombstone")
		}
	}
	if r := w.m.report(); r.State == api.StateAbsent && w.domain != domAbsent && w.epoch <= r.Epoch && w.m.busy == opNone {
		w.t.Fatalf("reported absent at epoch %d, and it runs at %d", r.Epoch, w.epoch)
	}
	if out.attested != 0 && w.late != 0 && w.lateAt <= out.attested {
		w.t.Fatalf("attested absent at epoch %d, and a start at %d may still come", out.attested, w.lateAt)
	}
	if out.attested != 0 && w.domain != domAbsent && w.epoch <= out.attested {
		w.t.Fatalf("attested absent at epoch %d, and it runs at %d", out.attested, w.epoch)
	}
}

// perform makes the op's effect on the truth, and tells the outcome or loses it.
func (w *world) perform(lost, failed bool) {
	o := w.m.busy
	done := event{kind: evDone, op: o, epoch: w.begun.Epoch}
	if o == opAttest {
		done.epoch = w.begun.Tomb
	}
	if failed {
		done.res = resFailed
		if lost {
			done.res = resUnknown
		}
		w.step(done)
		return
	}
	here := w.domain != domAbsent
	absent := func() { w.domain, w.exit = domAbsent, "destroyed" }
	switch o {
	case opInspect:
		done.dom = w.look()
	case opStart:
		if here {
			done.res = resExists
			break
		}
		w.domain, w.epoch, w.exit = domRunning, w.begun.Epoch, ""
		if w.begun.Desired == api.PowerPaused {
			w.domain = domPaused
		}
		done.dom = w.look()
	case opAttest:
		if here {
			done.res = resExists
		}
	case opPrepare:
	default:
		if !here {
			done.res = resNotFound
			break
		}
		switch o {
		case opDestroy:
			absent()
		case opPause:
			w.domain = domPaused
		case opResume:
			w.domain = domRunning
		case opReboot:
			w.reboots++
		case opReset:
			w.resets++
		case opSetEpoch:
			w.epoch = w.begun.Epoch
		}
	}
	if lost {
		done = event{kind: evDone, op: o, res: resUnknown}
	}
	w.step(done)
}

// come lets time pass, in which a late start may come true.
func (w *world) come(now api.Time) {
	w.e.now = now
	if w.late != 0 && now >= w.late {
		if w.domain == domAbsent {
			w.domain, w.epoch, w.exit = domRunning, w.lateAt, ""
		}
		w.late = 0
	}
}

func (w *world) look() dom {
	d := dom{kind: w.domain, epoch: w.epoch, version: 1, exit: w.exit}
	if d.kind == domPaused {
		d.reason = "user"
	}
	return d
}

func (w *world) order(o api.Order) {
	if !o.Stop && o.Epoch > w.tomb {
		if o.Epoch > w.granted {
			w.granted = o.Epoch
		}
		w.desired = o.Desired
	}
	if o.Stop {
		w.tomb = max(w.tomb, o.Epoch)
	}
	w.step(event{kind: evOrder, order: &o, generation: 1})
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, domain: domAbsent, desired: api.PowerStopped, e: env{now: api.Time(time.Hour), boot: "a"}}
	w.m = newMachine(record{ID: api.ID{1}}, false)
	if e := api.Epoch(rapid.Uint64Range(0, 3).Draw(t, "orphan")); e > 0 { // a domain that the journal does not know
		w.domain, w.epoch = domRunning, e
	}
	return w
}

func (w *world) actions() map[string]func(*rapid.T) {
	powers := []api.Power{api.PowerRunning, api.PowerRunning, api.PowerPaused, api.PowerStopped}
	base := func(t *rapid.T) api.Order {
		w.index++
		return api.Order{
			VMID: api.ID{1}, Index: w.index, Epoch: w.granted, Desired: rapid.SampledFrom(powers).Draw(t, "power"),
			Reboots: w.orderedRb, Resets: w.orderedRs, SpecVersion: 1, Spec: &api.VMSpec{Restart: api.RestartPolicy{Policy: "always", Attempts: 1000}},
		}
	}
	return map[string]func(*rapid.T){
		"order": func(t *rapid.T) {
			if w.granted > w.tomb {
				w.order(base(t))
			}
		},
		"grant": func(t *rapid.T) {
			o := base(t)
			o.Epoch = max(w.granted, w.tomb, w.epoch) + 1
			w.order(o)
		},
		"reboot": func(t *rapid.T) {
			if w.granted > w.tomb {
				w.orderedRb++
				w.orderedRs += uint64(rapid.IntRange(0, 1).Draw(t, "reset"))
				w.order(base(t))
			}
		},
		"tombstone": func(t *rapid.T) {
			w.index++
			e := api.Epoch(rapid.Uint64Range(1, uint64(max(w.granted, 1))).Draw(t, "epoch"))
			w.order(api.Order{VMID: api.ID{1}, Stop: true, Epoch: e, Index: w.index, Force: rapid.Bool().Draw(t, "force")})
		},
		"stale order": func(t *rapid.T) {
			if w.granted > 1 {
				o := base(t)
				o.Epoch = api.Epoch(rapid.Uint64Range(1, uint64(w.granted)-1).Draw(t, "epoch"))
				w.step(event{kind: evOrder, order: &o, generation: 1})
			}
		},
		"perform": func(t *rapid.T) {
			if w.m.busy != opNone {
				w.perform(rapid.IntRange(0, 4).Draw(t, "lost") == 0, rapid.IntRange(0, 4).Draw(t, "failed") == 0)
			}
		},
		"perform well": func(t *rapid.T) {
			for i := 0; w.m.busy != opNone && i < 10; i++ {
				w.perform(false, false)
			}
		},
		"list":    func(*rapid.T) { w.step(event{kind: evSeen, dom: w.look()}) },
		"unknown": func(*rapid.T) { w.step(event{kind: evSeen, dom: dom{kind: domUnknown}}) },
		"time": func(t *rapid.T) {
			w.come(w.e.now + api.Time(rapid.Int64Range(0, int64(2*time.Minute)).Draw(t, "time")))
			w.step(event{kind: evTick})
		},
		"a little time": func(t *rapid.T) {
			w.come(w.e.now + api.Time(rapid.Int64Range(0, int64(6*time.Second)).Draw(t, "time")))
			w.step(event{kind: evTick})
		},
		"guest ends": func(t *rapid.T) {
			w.domain, w.exit = domAbsent, rapid.SampledFrom([]string{"", "shutdown", "crashed"}).Draw(t, "exit")
			w.step(event{kind: evLook, hint: w.exit})
		},
		"agent crash": func(t *rapid.T) {
			if w.m.busy == opStart && w.domain == domAbsent && w.late == 0 && rapid.Bool().Draw(t, "takes effect later") {
				w.late = w.e.now + api.Time(rapid.Int64Range(1, int64(9*time.Second)).Draw(t, "later"))
				w.lateAt = w.begun.Epoch
			} else if w.m.busy != opNone && rapid.Bool().Draw(t, "took effect") {
				w2 := *w // the effect happens, the machine does not hear of it
				w2.perform(true, false)
				w.domain, w.epoch, w.exit, w.reboots, w.resets = w2.domain, w2.epoch, w2.exit, w2.reboots, w2.resets
			}
			w.e.hold = true
			w.m = newMachine(w.disk, w.written)
			w.m.ID = api.ID{1}
			w.step(event{kind: evSeen, dom: w.look()})
		},
		"host reboot": func(*rapid.T) {
			w.domain, w.exit, w.e.hold, w.late = domAbsent, "", true, 0
			w.e.boot += "a"
			w.m = newMachine(w.disk, w.written)
			w.m.ID = api.ID{1}
			w.step(event{kind: evSeen, dom: w.look()})
		},
		"servers speak": func(*rapid.T) {
			w.e.hold = false
			w.step(event{kind: evTick})
		},
	}
}

// TestStepIsSafe: whatever happens, no start with an old epoch or beside a
// tombstone, no stop without an order, no reboot twice, and no two domains.
func TestStepIsSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		a := w.actions()
		a[""] = func(t *rapid.T) {
			must.LessEq(t, w.orderedRb, w.reboots)
			must.LessEq(t, w.orderedRs, w.resets)
		}
		t.Repeat(a)
		w.settle(t)
	})
}

// settle ends all trouble: then what is wanted comes about.
func (w *world) settle(t *rapid.T) {
	w.e.hold = false
	w.step(event{kind: evTick})
	w.drain()
	w.index++
	o := api.Order{VMID: api.ID{1}, Index: w.index, Epoch: max(w.granted, w.tomb, w.epoch) + 1, Desired: api.PowerRunning, SpecVersion: 2, Spec: &api.VMSpec{}}
	w.order(o)
	w.drain()
	must.Eq(t, domRunning, w.domain)
	must.Eq(t, o.Epoch, w.epoch)
	must.Eq(t, api.StateRunning, w.m.report().State)
	must.Eq(t, 0, w.m.Tomb)
}

// drain lets the machine do what it wants until it wants nothing.
func (w *world) drain() {
	for range 200 {
		if w.m.busy != opNone {
			w.perform(false, false)
			continue
		}
		if w.m.dom.kind == domUnknown {
			w.step(event{kind: evSeen, dom: w.look()})
			if w.m.busy != opNone || w.m.dom.kind != domUnknown {
				continue
			}
		}
		if w.wake == 0 {
			break
		}
		w.come(w.wake)
		w.step(event{kind: evTick})
	}
}
