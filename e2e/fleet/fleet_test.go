package fleet

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

// census counts what must return to its baseline: goroutines, and open files and
// sockets (not the runtime's own epoll, which comes with the first socket).
func census() (goroutines int, files []string) {
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		to, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err == nil && !strings.HasPrefix(to, "anon_inode:") {
			files = append(files, to)
		}
	}
	return runtime.NumGoroutine(), files
}

func TestTwoThousandVMsOnFiftyClientsWithALeaderKill(t *testing.T) {
	vms, clients := 2000, 50
	if testing.Short() {
		vms, clients = 200, 5
	}
	goroutines, files := census()
	ctx := stage(t)
	f, err := New(ctx, Options{Dir: t.TempDir(), Multiplier: 1})
	t.Cleanup(func() { must.NoError(t, f.Close()) })
	must.NoError(t, err)
	for range 2 {
		must.NoError(t, f.AddServer(ctx))
	}
	for range clients {
		must.NoError(t, f.AddClient(ctx, api.Resources{CPU: api.Cores(16), Memory: 32 * api.GiB}))
	}
	must.NoError(t, Until(ctx, func() error {
		var nodes api.NodeListResponse
		if err := f.Call(ctx, "Node.List", &api.ListRequest{}, &nodes); err != nil {
			return err
		}
		ready := 0
		for _, n := range nodes.Items {
			if n.Status == api.NodeReady && n.Unreachable == "" {
				ready++
			}
		}
		if ready != clients {
			return fmt.Errorf("%d of %d clients are ready", ready, clients)
		}
		return nil
	}))

	ctx = stage(t)
	begin := time.Now()
	killed := make(chan error, 1)
	acked := submit(t, ctx, f, vms, vms/2, func() {
		go func() { killed <- killLeader(ctx, f) }()
	})
	must.NoError(t, <-killed)
	must.Eq(t, vms, len(acked))
	t.Logf("%d VMs acknowledged in %s, with a leader lost in the middle", vms, time.Since(begin).Round(time.Millisecond))

	ctx = stage(t)
	must.NoError(t, Until(ctx, func() error {
		s := f.Leader()
		if s == nil || s.Up() == nil {
			return fmt.Errorf("no leader")
		}
		running := 0
		st := s.Up().FSM().State()
		for _, id := range acked {
			if p := st.Placement(id); p != nil && p.State == api.StateRunning {
				running++
			}
		}
		if running != vms {
			return fmt.Errorf("%d of %d run", running, vms)
		}
		return nil
	}))
	t.Logf("all running after %s", time.Since(begin).Round(time.Millisecond))

	held := 0
	for _, c := range f.Clients {
		held += c.Host.Len()
	}
	must.Eq(t, vms, held, must.Sprint("each VM runs on exactly one node"))
	ctx = stage(t)
	for _, s := range f.Servers {
		if s.Up() == nil {
			must.NoError(t, f.Restart(ctx, s))
		}
	}
	must.NoError(t, Until(ctx, func() error { return f.sameState() }))

	// No garbage collection may close what Close forgot.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	must.NoError(t, f.Close())
	must.NoError(t, Until(stage(t), func() error {
		g, n := census()
		if g > goroutines+leftover || len(n) > len(files) {
			return fmt.Errorf("goroutines %d, then %d; files %v, then %v", goroutines, g, files, n)
		}
		return nil
	}))
}

// leftover is how many goroutines may be left that belong to nobody: of the
// runtime and of the testing package.
const leftover = 3

// stage is the context of one part of the test: none lives on what another left.
func stage(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// killLeader stops the server that leads.
func killLeader(ctx context.Context, f *Fleet) error {
	var old *Server
	if err := Until(ctx, func() error {
		if old = f.Leader(); old == nil {
			return fmt.Errorf("no leader")
		}
		return nil
	}); err != nil {
		return err
	}
	return f.Stop(old)
}

// submit applies n VMs from 16 callers and calls at when the middle is reached;
// a write whose outcome is not known is repeated with its key.
func submit(t *testing.T, ctx context.Context, f *Fleet, n, middle int, at func()) []api.ID {
	var mu sync.Mutex
	var acked []api.ID
	next := make(chan int)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := range next {
				id, err := apply(ctx, f, i)
				if err != nil {
					t.Errorf("vm %d: %v", i, err)
					continue
				}
				mu.Lock()
				acked = append(acked, id)
				mu.Unlock()
			}
		})
	}
	for i := range n {
		if i == middle {
			at()
		}
		next <- i
	}
	close(next)
	wg.Wait()
	return acked
}

func apply(ctx context.Context, f *Fleet, i int) (api.ID, error) {
	req := &api.VMApply{Spec: api.VMSpec{
		Name: fmt.Sprintf("vm-%d", i), CPU: api.CPUSpec{Cores: 1}, Memory: 256 * api.MiB,
		Disks: []api.Disk{{Name: "root", Size: api.GiB}},
	}}
	key := fmt.Sprintf("vm-%d", i)
	for {
		var done api.VMApplied
		err := f.CallOnce(ctx, key, "VM.Apply", req, &done)
		switch api.CodeOf(err) {
		case 0:
			return done.VM.ID, nil
		case api.CodeUnknown, api.CodeNoLeader, api.CodeUnreachable, api.CodeCanceled, api.CodeDeadline:
			if ctx.Err() != nil {
				return api.ID{}, err
			}
		default:
			return api.ID{}, err
		}
	}
}

// sameState compares the servers' states by hash at one index.
func (f *Fleet) sameState() error {
	var sums []string
	var at []uint64
	for _, s := range f.Servers {
		st := s.Up().FSM().State()
		sums = append(sums, fmt.Sprint(st.Hash()))
		at = append(at, st.Index())
	}
	for i := range sums {
		if at[i] != at[0] || sums[i] != sums[0] {
			return fmt.Errorf("indexes %v, hashes %v", at, sums)
		}
	}
	return nil
}
