package rpc_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
)

func TestHoldForLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNet{t, rpc.NewMemory()}
		leader, follower := newBox(n, "west", nil), newBox(n, "west", nil)
		follower.router.set(false, "")
		start := time.Now()
		errs := make(chan error, 1)
		go func() {
			errs <- follower.mux.Call(as(goodToken), "VM.Delete", &api.DeleteRequest{}, new(api.WriteMeta))
		}()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		must.Eq(t, 0, len(errs))
		follower.router.set(false, leader.addr)
		synctest.Wait()
		must.NoError(t, <-errs, must.Sprint("woken by the change, not by a timer"))
		must.Eq(t, 3*time.Second, time.Since(start))
	})
}

func TestHoldEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNet{t, rpc.NewMemory()}
		b := newBox(n, "west", nil)
		b.router.set(false, "")
		start := time.Now()
		err := b.mux.Call(as(goodToken), "VM.Delete", &api.DeleteRequest{}, new(api.WriteMeta))
		must.Eq(t, api.CodeNoLeader, api.CodeOf(err))
		must.Eq(t, rpc.DefaultHold, time.Since(start))

		// The caller's own deadline is shorter.
		ctx, cancel := context.WithTimeout(as(goodToken), time.Second)
		defer cancel()
		start = time.Now()
		err = b.mux.Call(ctx, "VM.Delete", &api.DeleteRequest{}, new(api.WriteMeta))
		must.Eq(t, api.CodeDeadline, api.CodeOf(err))
		must.Eq(t, time.Second, time.Since(start))

		// A leader that is named but cannot be reached is held for, too.
		b.router.set(false, "nowhere:1")
		start = time.Now()
		err = b.mux.Call(as(goodToken), "VM.Delete", &api.DeleteRequest{}, new(api.WriteMeta))
		must.Eq(t, api.CodeUnreachable, api.CodeOf(err))
		must.Eq(t, rpc.DefaultHold, time.Since(start))
	})
}

// Two followers that take each other for the leader do not play ball: each call
// makes one hop and is held where it came in.
func TestLeaderLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNet{t, rpc.NewMemory()}
		a, b := newBox(n, "west", nil), newBox(n, "west", nil)
		a.router.set(false, b.addr)
		b.router.set(false, a.addr)
		start := time.Now()
		err := a.mux.Call(as(goodToken), "VM.Delete", &api.DeleteRequest{}, new(api.WriteMeta))
		must.Eq(t, api.CodeNoLeader, api.CodeOf(err))
		must.Eq(t, rpc.DefaultHold, time.Since(start))

		// And when one of them has learned better, the call goes through.
		go func() {
			time.Sleep(time.Second)
			b.router.set(true, "")
		}()
		must.NoError(t, a.mux.Call(as(goodToken), "VM.Delete", &api.DeleteRequest{}, new(api.WriteMeta)))
	})
}

// A leader that dies after it got a write leaves the outcome unknown; one that
// could not be reached, or says that it does not lead, does not. A read is
// simply asked again.
func TestLostLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := rpc.NewMemory()
		n := &memNet{t, mem}
		leader, follower, next := newBox(n, "west", nil), newBox(n, "west", nil), newBox(n, "west", nil)
		follower.router.set(false, leader.addr)
		call := func(method string, req, resp api.Message) chan error {
			errs := make(chan error, 1)
			go func() { errs <- follower.mux.Call(as(goodToken), method, req, resp) }()
			synctest.Wait()
			return errs
		}
		errs := call("VM.Delete", &api.DeleteRequest{Key: "wait"}, new(api.WriteMeta))
		must.Len(t, 1, leader.calls())
		mem.Cut(follower.addr, leader.addr)
		must.Eq(t, api.CodeUnknown, api.CodeOf(<-errs))

		// Not sent: held until there is another leader.
		errs = call("VM.Delete", &api.DeleteRequest{}, new(api.WriteMeta))
		must.Eq(t, 0, len(errs))
		follower.router.set(false, next.addr)
		must.NoError(t, <-errs)
		must.Len(t, 1, leader.calls())
		must.Len(t, 1, next.calls())

		// A read that was under way.
		mem.SetLatency(func(from, to string) time.Duration { return 100 * time.Millisecond })
		got := new(api.VMResponse)
		errs = call("VM.Get", &api.GetRequest{}, got)
		mem.Cut(follower.addr, next.addr)
		mem.Heal(follower.addr, leader.addr)
		follower.router.set(false, leader.addr)
		must.NoError(t, <-errs)
		must.Eq(t, leader.name.NodeID, vmID(got))
	})
}

// A handler that says "no leader" did nothing: the call is tried again.
func TestLeadershipLostInTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNet{t, rpc.NewMemory()}
		old, next := newBox(n, "west", nil), newBox(n, "west", nil)
		next.router.set(false, "")
		tries := 0
		for _, b := range []*box{old, next} {
			rpc.Write(b.mux, "VM.Apply", acl.WriteVM, func(ctx context.Context, q *api.VMApply) (*api.VMApplied, error) {
				tries++
				if b == old {
					old.router.set(false, next.addr)
					next.router.set(true, "")
					return nil, api.Errorf(api.CodeNoLeader, "leadership was lost before the command was taken")
				}
				return &api.VMApplied{}, nil
			})
		}
		must.NoError(t, old.mux.Call(as(goodToken), "VM.Apply", &api.VMApply{}, new(api.VMApplied)))
		must.Eq(t, 2, tries)
	})
}
