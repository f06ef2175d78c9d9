package client

import (
	"flag"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

var (
	simSchedules = flag.Int("sim.n", 200, "how many schedules to simulate")
	simSeed      = flag.Uint64("sim.seed", 0, "simulate this one and show it")
)

const second = api.Time(time.Second)

// fault is a kind of trouble.
type fault uint8

const (
	faultCut     fault = iota // a host reaches no server
	faultFreeze               // an agent stands still
	faultAgent                // an agent dies
	faultGuard                // a guard dies
	faultStop                 // a guard stands still
	faultReboot               // a machine is reset
	faultSlow                 // answers come later and later, until none come
	faultLeader               // another server leads, and the old one may not know it
	faultMute                 // a hypervisor does not answer
	faultLink                 // no host reaches another
	faultGuest                // the guest crashes
	faultCancel               // a move is canceled
	faultPower                // the VM is stopped, and started again
	faultStorm                // no host reaches the servers
	faultPolicy               // the VM is to be kept on its host, for a while
	faultDisarm               // HA is disarmed by an operator, for a while
	faultIsolate              // a host reaches nobody
	numFaults
)

// choose picks the kinds of trouble of a seed: about half of all. Without any, each
// sixteenth.
func (w *simWorld) choose() (out []fault) {
	if w.seed%16 == 0 {
		return nil
	}
	for f := range numFaults {
		if w.rng.IntN(2) == 0 {
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		out = append(out, fault(w.rng.IntN(int(numFaults))))
	}
	return out
}

// trouble is one bad thing after the other.
func (w *simWorld) trouble() {
	if w.calm {
		return
	}
	w.at(w.dur(8*time.Second), w.trouble)
	h := w.hosts[w.rng.IntN(len(w.hosts))]
	if w.ranOn != nil && w.rng.IntN(2) == 0 {
		h = w.ranOn
	}
	for _, o := range w.hosts {
		if o.job != nil && w.rng.IntN(2) == 0 { // an end of what is under way
			h = []*simHost{o.job.from, o.job.to}[w.rng.IntN(2)]
		}
	}
	f := w.faults[w.rng.IntN(len(w.faults))]
	w.trace("trouble %d at %s", f, h.name)
	w.happens(f, h)
	h.wall -= w.dur(100 * time.Second) // somebody sets the wall clock back
}

func (w *simWorld) happens(f fault, h *simHost) {
	switch f {
	case faultCut:
		h.cut = w.now + w.dur(80*time.Second)
	case faultFreeze:
		if h.alone() {
			return
		}
		h.frozen = max(h.frozen, w.now+w.dur(70*time.Second))
	case faultAgent:
		if h.alone() {
			return
		}
		h.agentDies(w.dur(20 * time.Second))
	case faultGuard:
		back := w.dur(4 * time.Second)
		if !w.classA && h.agentUp && h.frozen <= w.now && h.mute <= w.now && w.rng.IntN(2) == 0 {
			back = w.dur(40 * time.Second) // the agent is in its place
		}
		h.guardDies(back)
	case faultStop:
		if w.classA {
			h.guardFrozen = w.now + w.dur(60*time.Second)
		}
	case faultReboot:
		h.reset()
	case faultSlow:
		h.slow = w.now + w.dur(60*time.Second)
		w.at(w.dur(20*time.Second), func() { h.cut = w.now + w.dur(80*time.Second) })
	case faultLeader:
		s := w.leader
		if s.frozen = w.now + w.dur(60*time.Second); w.rng.IntN(3) == 0 {
			s.frozen = 0 // only deposed
		}
		s.wall += w.dur(100 * time.Second)
		if w.rng.IntN(2) == 0 { // this host reaches no other server
			h.bound, h.boundTo = s.frozen+time.Second, s
		}
		w.at(w.dur(3*time.Second), w.elect)
	case faultMute:
		if h.alone() {
			return
		}
		h.mute = w.now + w.dur(10*time.Second)
	case faultLink:
		w.unlink(w.dur(5 * time.Second))
	case faultGuest:
		if h.d.kind != domAbsent {
			h.dies("crashed")
		}
	case faultCancel:
		w.cancel()
	case faultPower:
		w.apply(&fsm.VMPower{ID: vm1, Action: "stop", Force: w.rng.IntN(2) == 0})
		w.at(w.dur(15*time.Second), w.wake)
	case faultStorm:
		until := w.now + w.dur(90*time.Second)
		for _, h := range w.hosts {
			h.cut = max(h.cut, until)
		}
	case faultPolicy:
		if w.ha {
			w.setPolicy(api.HAKeep)
			w.at(w.dur(30*time.Second), func() { w.setPolicy(api.HARestart) })
		}
	case faultDisarm:
		w.setDisarmed(true)
		w.at(w.dur(40*time.Second), func() { w.setDisarmed(false) })
	case faultIsolate:
		h.cut = w.now + w.dur(60*time.Second)
		w.unlink(w.dur(60 * time.Second))
	}
}

// alone: only the agent holds what is armed here. Without a watchdog it is not
// covered that it, or the hypervisor, fails as well.
func (h *simHost) alone() bool { return !h.w.classA && !h.guardUp }

// unlink cuts the links between hosts.
func (w *simWorld) unlink(d time.Duration) {
	w.link = max(w.link, w.now+d)
	for _, h := range w.hosts {
		if h.job != nil {
			h.stop(h.job, "the link was cut")
		}
	}
}

func (w *simWorld) wake() { w.apply(&fsm.VMPower{ID: vm1, Action: "start"}) }

func (w *simWorld) setPolicy(policy string) {
	was := w.policy
	w.policy = policy
	if w.applyVM().Err != nil {
		w.policy = was
	}
}

func (w *simWorld) setDisarmed(yes bool) {
	cfg := w.state().HAConfig()
	cfg.Disarmed, cfg.ModifyIndex = yes, 0
	if yes {
		cfg.Hold = nil
	}
	w.apply(&fsm.HASet{Config: cfg})
}

// moving asks for moves, one after the other.
func (w *simWorld) moving() {
	if !w.calm {
		w.at(w.dur(10*time.Second), w.moving)
		w.request()
	}
}

// simulate runs one seed.
func simulate(seed uint64, show bool) (bad []string, seen tally) {
	w := newSimWorld(seed, show)
	w.runFor(15 * time.Second)
	w.at(w.dur(10*time.Second), w.moving)
	if len(w.faults) > 0 {
		w.at(0, w.trouble)
	}
	w.runFor(110 * time.Second)
	w.heal()
	why := "nothing was looked at"
	for i := 0; i < 30 && why != "" && len(w.bad) == 0; i++ {
		w.runFor(15 * time.Second)
		if w.state().VM(vm1).Power != api.PowerRunning {
			w.wake() // a cold move may have stopped it, or a late word
		}
		why = w.unsettled()
	}
	if why != "" && len(w.bad) == 0 {
		w.violation("long after all trouble: %s", why)
	}
	w.runFor(20 * time.Second) // nothing comes after it
	if len(w.faults) == 0 && w.run > 1+w.colds() && len(w.bad) == 0 {
		w.violation("without any trouble the guest was started %d times", w.run)
	}
	for m := range w.state().MigrationsOf(vm1) {
		if m.Phase == api.MigrationDone {
			w.moved++
		}
		if m.GiveUp {
			w.gaveUp++
		}
	}
	return w.bad, w.tally
}

// colds counts the moves for which the guest was stopped.
func (w *simWorld) colds() (n int) {
	for m := range w.state().MigrationsOf(vm1) {
		if m.Mode == api.MigrateCold {
			n++
		}
	}
	return n
}

// heal ends all trouble.
func (w *simWorld) heal() {
	w.calm, w.link = true, 0
	w.trace("calm")
	for _, h := range w.hosts {
		h.cut, h.frozen, h.guardFrozen, h.slow, h.mute, h.bound = 0, min(h.frozen, w.now), 0, 0, 0, 0
	}
	if w.state().HAConfig().Disarmed {
		w.setDisarmed(false)
	}
	if w.ha {
		w.setPolicy(api.HARestart)
	}
	w.wake()
}

func format(f string, args ...any) string { return fmt.Sprintf(f, args...) }

// TestSchedules runs leases, guards, hosts, restarts elsewhere and migrations
// through schedules of trouble, and demands that the guest never runs twice or from
// what is old, that epochs rise, and that it runs where its owner is in the end.
func TestSchedules(t *testing.T) {
	if *simSeed != 0 {
		bad, seen := simulate(*simSeed, true)
		must.SliceEmpty(t, bad)
		fmt.Printf("%+v\n", seen)
		return
	}
	begin := time.Now()
	var next, violations atomic.Int64
	var mu sync.Mutex
	all := tally{margin: time.Hour}
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				seed := next.Add(1)
				if seed > int64(*simSchedules) {
					return
				}
				bad, seen := simulate(uint64(seed), false)
				mu.Lock()
				all.add(seen)
				if len(bad) > 0 && violations.Add(1) <= 5 {
					t.Errorf("seed %d: %v", seed, bad)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d schedules, %.0f schedules/s", *simSchedules, float64(*simSchedules)/time.Since(begin).Seconds())
	t.Logf("%d restarts elsewhere, least margin %.2f s; %d storms; %d guests taken back from a guard", all.restarts, all.margin.Seconds(), all.storms, all.disarms)
	t.Logf("%d completed moves, %d given up; %d guests went on beside a whole copy", all.moved, all.gaveUp, all.wentOn)
	t.Logf("violations: %d", violations.Load())
	must.Positive(t, all.restarts)
	must.Positive(t, all.moved)
	must.Zero(t, violations.Load())
}

func (t *tally) add(o tally) {
	t.restarts, t.moved, t.wentOn, t.gaveUp = t.restarts+o.restarts, t.moved+o.moved, t.wentOn+o.wentOn, t.gaveUp+o.gaveUp
	t.storms, t.disarms = t.storms+o.storms, t.disarms+o.disarms
	t.margin = min(t.margin, o.margin)
}
