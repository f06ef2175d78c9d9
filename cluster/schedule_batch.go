package cluster

import (
	"context"
	"time"

	"github.com/hashicorp/go-metrics/compat"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
	"github.com/novacron/novacron/scheduler"
)

// busy reports whether there is more to decide without waiting for anything.
func (t *scheduleTerm) busy() bool {
	return !t.broken && t.held == "" && t.queue.Ready() > 0 && len(t.batch) < scheduleBatch
}

// send commits the batch when it is full, its window is over, or nothing else
// is on its way and nothing more is to be decided. The loop decides the next
// one meanwhile.
func (t *scheduleTerm) send(ctx context.Context) {
	if len(t.batch) == 0 || t.flight >= scheduleFlight {
		return
	}
	idle := t.flight == 0 && t.queue.Ready() == 0
	if len(t.batch) < scheduleBatch && !idle && time.Since(t.opened) < scheduleWindow {
		return
	}
	items := t.batch
	t.batch = nil
	metrics.AddSample([]string{"scheduler", "batch"}, float32(len(items)))
	t.launch(ctx, &fsm.PlaceBatch{Items: items}, scheduleOutcome{items: items})
}

// launch commits a command beside the loop.
func (t *scheduleTerm) launch(ctx context.Context, cmd fsm.Command, out scheduleOutcome) {
	t.flight++
	t.flying.Go(func() {
		start := time.Now()
		res, err := t.apply(ctx, cmd)
		out.took = time.Since(start)
		switch {
		case res != nil && res.Err != nil:
			out.refused = res.Err
		case err != nil:
			out.err = err
		case out.items != nil:
			out.results, _ = res.Value.([]fsm.PlaceResult)
		}
		t.results <- out // has room for all that fly
	})
}

// decideVolumes gives standalone volumes of local pools their nodes.
func (t *scheduleTerm) decideVolumes(ctx context.Context) {
	for id, w := range t.volumes {
		if w != nil || t.flight >= scheduleFlight {
			continue
		}
		if _, pausing := t.pauses[id]; pausing {
			continue
		}
		switch d := t.engine.Assign(id); d.Verdict {
		case scheduler.Commit:
			delete(t.volumes, id)
			t.launch(ctx, &fsm.VolumeAssign{ID: id, NodeID: d.Node}, scheduleOutcome{volume: id, node: d.Node})
		case scheduler.Wait:
			t.volumes[id] = d.Waiter
		default:
			delete(t.volumes, id)
		}
	}
}

// settle takes the outcome of one entry out of the overlay. What was refused is
// dirty again; when the outcome is not known, everything is thrown away.
func (t *scheduleTerm) settle(r scheduleOutcome) {
	t.engMu.Lock()
	defer t.engMu.Unlock()
	t.flight--
	metrics.AddSample([]string{"scheduler", "commit"}, float32(r.took.Seconds()*1000))
	for i := range r.items {
		t.engine.Settle(r.items[i].VMID)
	}
	if !r.volume.IsZero() {
		t.engine.Settle(r.volume)
	}
	if r.err != nil || r.volume.IsZero() && len(r.results) != len(r.items) {
		t.unknown(r)
		return
	}
	t.failed = 0
	s := t.fsm.State()
	if !r.volume.IsZero() {
		if r.refused != nil {
			t.refused(r.volume, r.node, r.refused, nil)
		} else {
			delete(t.strikes, r.volume)
		}
		if scheduler.NeedsNode(s, s.Volume(r.volume)) {
			t.volumes[r.volume] = nil
		}
		return
	}
	placed := 0
	for i := range r.items {
		it, res := &r.items[i], &r.results[i]
		if res.Err != nil {
			t.refused(it.VMID, it.NodeID, res.Err, s.VM(it.VMID))
		} else {
			placed++
			delete(t.strikes, it.VMID)
		}
		t.push(s, it.VMID)
	}
	metrics.IncrCounter([]string{"scheduler", "committed"}, float32(placed))
}

// unknown follows an entry of which it is not known whether it is committed, or
// which was refused as a whole: the overlay is not to be trusted any more.
func (t *scheduleTerm) unknown(r scheduleOutcome) {
	t.broken = true
	t.failed++
	t.retryAt = time.Now().Add(backoff(t.failed))
	err := r.err
	if err == nil && r.refused != nil {
		err = r.refused
	}
	if err == nil {
		err = api.Errorf(api.CodeInternal, "%d results for %d placements", len(r.results), len(r.items))
	}
	metrics.IncrCounter([]string{"scheduler", "unknown"}, 1)
	t.log.Warn("an entry of placements did not come through; the overlay is rebuilt from the state",
		"items", len(r.items), "error", err, "code", api.CodeOf(err).String())
}

// refused counts a refusal. A VM or volume that is refused again and again for
// one node backs off, because deciding it once more would give the same answer.
func (t *scheduleTerm) refused(id, node api.ID, err *api.Error, vm *api.VM) {
	metrics.IncrCounterWithLabels([]string{"scheduler", "refused"}, 1, []metrics.Label{{Name: "code", Value: err.Code.String()}})
	k := t.strikes[id]
	if k.node != node {
		k = strike{node: node}
	}
	k.count++
	t.strikes[id] = k
	if k.count < scheduleStrikes {
		return
	}
	pause := backoff(k.count - scheduleStrikes + 1)
	t.pauses[id] = time.Now().Add(pause)
	name := ""
	if vm != nil {
		name = vm.Namespace + "/" + vm.Name
	}
	metrics.IncrCounter([]string{"scheduler", "backoff"}, 1)
	t.log.Warn("the state machine keeps refusing a decision; the scheduler backs off", "id", id, "vm", name, "node", node,
		"refusals", k.count, "for", pause, "error", err)
}

// backoff is the n-th pause, from 1.
func backoff(n int) time.Duration {
	return min(backoffFirst<<min(n-1, 20), backoffMost)
}

// resume makes those dirty again whose pause is over.
func (t *scheduleTerm) resume(now time.Time) {
	if len(t.pauses) == 0 {
		return
	}
	s := t.fsm.State()
	for id, until := range t.pauses {
		if until.After(now) {
			continue
		}
		delete(t.pauses, id)
		if _, volume := t.volumes[id]; !volume {
			t.push(s, id)
		}
	}
}

// arm sets the timer to the next moment at which there is something to do
// though nothing happens.
func (t *scheduleTerm) arm() {
	now := time.Now()
	next := now.Add(time.Hour)
	soonest := func(at time.Time) {
		if at.Before(next) {
			next = at
		}
	}
	switch {
	case t.broken && t.flight > 0: // their outcomes come first
	case t.broken:
		soonest(t.retryAt)
	case t.held != "":
		soonest(now.Add(scheduleHold))
	default:
		if len(t.batch) > 0 && t.flight < scheduleFlight {
			soonest(t.opened.Add(scheduleWindow))
		}
		for _, at := range t.pauses {
			soonest(at)
		}
	}
	t.timer.Reset(max(next.Sub(now), 0))
}
