package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster"
	"github.com/novacron/novacron/e2e/fleet"
)

// c1m is what HashiCorp published for one million containers in less than five
// minutes on 5,000 hosts with 5 servers (https://www.hashicorp.com/c1m, 2016).
// It is another program on other machines: a mark, not a peer.
const c1m = 3750

// benchPlacements measures how fast VMs are taken in and given nodes, through a
// Raft of three servers. Nobody runs them: nodes are heartbeats only.
func benchPlacements(ctx context.Context, b *bench) error {
	const nodes, callers = 2000, 64
	vms, rounds := pick(b, 2000, 10000), 3
	fmt.Printf("   3 servers with disk and mTLS in this process, %d nodes that only beat, %d callers of VM.Apply, one VM a call, %d VMs a round\n",
		nodes, callers, vms)
	f, err := newFleet(ctx, filepath.Join(b.dir, "placements"), 3, 1)
	defer func() { err = errors.Join(err, f.Close()) }()
	if err != nil {
		return err
	}
	phantoms, err := func() (*fleet.Phantoms, error) {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		return f.AddPhantoms(ctx, nodes, api.Resources{CPU: api.Cores(64), Memory: 256 * api.GiB})
	}()
	defer phantoms.Close()
	if err != nil {
		return err
	}
	fmt.Printf("   %5s   %14s %14s   %-34s %s\n", "round", "acknowledged/s", "placed/s", "apply to placement", "placed/s against C1M's published 3750/s")
	var acked, placed []float64
	for round := range rounds {
		r, err := placeRound(ctx, f, round, vms, callers)
		if err != nil {
			return err
		}
		acked, placed = append(acked, r.acked), append(placed, r.placed)
		fmt.Printf("   %5d   %14.0f %14.0f   %-34s %.2f\n", round+1, r.acked, r.placed,
			fmt.Sprintf("p50 %s p99 %s", r.p50.Round(100*time.Microsecond), r.p99.Round(100*time.Microsecond)), r.placed/c1m)
	}
	fmt.Printf("   %5s   %14.0f %14.0f   %-34s %.2f\n", "median", median(acked), median(placed), "", median(placed)/c1m)
	return nil
}

type placeResult struct {
	acked, placed float64 // per second
	p50, p99      time.Duration
}

// placeRound applies n new VMs and waits until each has a node in the leader's
// state.
func placeRound(ctx context.Context, f *fleet.Fleet, round, n, callers int) (placeResult, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	leader, err := leaderOf(ctx, f)
	if err != nil {
		return placeResult{}, err
	}
	begin := time.Now()
	acks := make(chan placeAck, n)
	seen := make(chan placeSeen, 1)
	go func() { seen <- watchPlacements(ctx, leader, n, acks) }()
	var next atomic.Int64
	var mu sync.Mutex
	var failed error
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				ack := placeAck{called: time.Now()}
				var done api.VMApplied
				if err := f.Call(ctx, "VM.Apply", &api.VMApply{Spec: placeSpec(round, i)}, &done); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
				ack.vm = done.VM.ID
				acks <- ack // has room for all
			}
		})
	}
	wg.Wait()
	out := placeResult{acked: float64(n) / time.Since(begin).Seconds()}
	if failed != nil {
		cancel()
	}
	s := <-seen
	if err := errors.Join(failed, s.err); err != nil {
		return out, err
	}
	slices.Sort(s.took)
	out.placed = float64(n) / s.last.Sub(begin).Seconds()
	out.p50, out.p99 = percentile(s.took, 50), percentile(s.took, 99)
	return out, nil
}

func placeSpec(round, i int) api.VMSpec {
	return api.VMSpec{
		Name: fmt.Sprintf("vm-%d-%d", round, i), CPU: api.CPUSpec{Cores: 1}, Memory: 256 * api.MiB,
		Disks: []api.Disk{{Name: "root", Size: api.GiB}},
	}
}

// placeAck is a VM that was taken in, and when that was asked for.
type placeAck struct {
	vm     api.ID
	called time.Time
}

// placeSeen is how long each took from the call to its placement, and when the
// last was placed.
type placeSeen struct {
	took []time.Duration
	last time.Time
	err  error
}

// placeLook is how often the state is looked at: the resolution of the times.
const placeLook = 2 * time.Millisecond

// watchPlacements waits until n VMs have been acknowledged and have a node in
// the server's state.
func watchPlacements(ctx context.Context, s *cluster.Server, n int, acks <-chan placeAck) (out placeSeen) {
	tick := time.NewTicker(placeLook)
	defer tick.Stop()
	var open []placeAck
	for len(out.took) < n {
		select {
		case <-ctx.Done():
			out.err = fmt.Errorf("%d of %d placed: %w", len(out.took), n, ctx.Err())
			return out
		case a := <-acks:
			open = append(open, a)
		case <-tick.C:
			st, now := s.FSM().State(), time.Now()
			open = slices.DeleteFunc(open, func(a placeAck) bool {
				if st.Placement(a.vm) == nil {
					return false
				}
				out.took, out.last = append(out.took, now.Sub(a.called)), now
				return true
			})
		}
	}
	return out
}
