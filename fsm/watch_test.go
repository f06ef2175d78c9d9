package fsm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

// blocked starts a query and returns what it has answered so far.
func blocked(w *world, min api.Index, wait time.Duration, fn func(s *State, ws *WatchSet) (api.Index, error)) (done chan error, runs *int, meta *api.QueryMeta) {
	done, runs, meta = make(chan error, 1), new(int), new(api.QueryMeta)
	go func() {
		done <- w.f.Query(context.Background(), &api.QueryOptions{MinIndex: min, Wait: api.Duration(wait)}, meta, func(s *State, ws *WatchSet) (api.Index, error) {
			*runs++
			return fn(s, ws)
		})
	}()
	synctest.Wait()
	return done, runs, meta
}

func over(done chan error) bool {
	synctest.Wait()
	return len(done) > 0
}

func TestQueryAnswersAtOnceWithoutMinIndex(t *testing.T) {
	w := region(t, 0)
	var meta api.QueryMeta
	must.NoError(t, w.f.Query(t.Context(), nil, &meta, func(s *State, ws *WatchSet) (api.Index, error) {
		ws.Table(TableVM)
		return 0, nil
	}))
	must.Eq(t, 1, meta.Index, must.Sprint("never zero, or the next query would not block"))
	must.Eq(t, 0, w.f.hub.n.Load())
	must.ErrorIs(t, w.f.Query(t.Context(), &api.QueryOptions{MinIndex: 5}, nil, func(*State, *WatchSet) (api.Index, error) { return 0, io.EOF }), io.EOF)
}

func TestQueryWakesForWhatItWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := region(t, 2)
		w.vm(1, local("root"))
		m := id('m', 1)
		one := func(s *State, ws *WatchSet) (api.Index, error) {
			ws.ID(TableVM, m)
			if vm := s.VM(m); vm != nil {
				return vm.ModifyIndex, nil
			}
			return s.TableIndex(TableVM), nil
		}
		done, runs, meta := blocked(w, w.index, 0, one)
		w.vm(2)
		must.False(t, over(done))
		must.Eq(t, 1, *runs, must.Sprint("another VM does not wake it"))
		w.ok(&VMPower{ID: m, Action: "reboot"})
		must.True(t, over(done))
		must.NoError(t, <-done)
		must.Eq(t, w.index, meta.Index)
		must.Eq(t, 0, w.f.hub.n.Load(), must.Sprint("nothing stays registered"))
		must.MapEmpty(t, w.f.hub.m)

		// Each prefix wakes for its own.
		for name, tc := range map[string]struct {
			watch func(ws *WatchSet)
			act   func()
		}{
			"a name that does not exist": {func(ws *WatchSet) { ws.Name(TableVM, "default", "vm-3") }, func() { w.vm(3) }},
			"a namespace":                {func(ws *WatchSet) { ws.In(TableVM, "default") }, func() { w.vm(4) }},
			"a whole table":              {func(ws *WatchSet) { ws.Table(TableNode, TablePool) }, func() { w.ok(&PoolApply{Pool: api.Pool{Name: "p"}}) }},
			"a name as key":              {func(ws *WatchSet) { ws.Key(TableNamespace, "n") }, func() { w.ok(ns("n")) }},
			"a node by name":             {func(ws *WatchSet) { ws.NodeName("node-1") }, func() { w.ok(&NodeUpdate{ID: id('n', 1), CPURatio: 3}) }},
			"what is on a node":          {func(ws *WatchSet) { ws.On(TablePlacement, id('n', 1)) }, func() { w.placed(1, 1) }},
			"what is of a VM":            {func(ws *WatchSet) { ws.Of(TableVolume, id('m', 5)) }, func() { w.vm(5, local("x")) }},
			"the region":                 {func(ws *WatchSet) { ws.Table(TableMeta) }, func() { w.ok(&SchedulerSet{}) }},
		} {
			done, _, _ := blocked(w, w.index, 0, func(s *State, ws *WatchSet) (api.Index, error) {
				tc.watch(ws)
				return s.Index(), nil
			})
			must.False(t, over(done), must.Sprint(name))
			tc.act()
			must.True(t, over(done), must.Sprint(name))
		}
	})
}

func TestQueryEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := region(t, 0)
		none := func(s *State, ws *WatchSet) (api.Index, error) { ws.Table(TableVM); return 1, nil }
		for wait, want := range map[time.Duration]time.Duration{0: DefaultWait, time.Second: time.Second, time.Hour: MaxWait} {
			start := time.Now()
			must.NoError(t, w.f.Query(t.Context(), &api.QueryOptions{MinIndex: 9, Wait: api.Duration(wait)}, nil, none))
			must.Eq(t, want, time.Since(start))
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		time.AfterFunc(time.Second, func() { cancel(gone) })
		must.ErrorIs(t, w.f.Query(ctx, &api.QueryOptions{MinIndex: 9}, nil, none), gone)
		must.Eq(t, 0, w.f.hub.n.Load())
	})
}

func TestQueryMissesNothingBetweenReadAndRegistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := region(t, 0)
		min := w.index
		done, runs, _ := blocked(w, min, 0, func(s *State, ws *WatchSet) (api.Index, error) {
			if s.Index() == min {
				w.vm(1) // committed after the state was taken, before the registration
			}
			ws.Table(TableVM)
			return s.TableIndex(TableVM), nil
		})
		must.True(t, over(done))
		must.NoError(t, <-done)
		must.Eq(t, 2, *runs)
	})
}

func TestRestoreWakesEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := region(t, 0)
		snap := snapshotOf(t, w.f)
		w.vm(1)
		done, _, meta := blocked(w, 1000, 0, func(s *State, ws *WatchSet) (api.Index, error) {
			ws.ID(TableVM, id('m', 1))
			return s.Index(), nil
		})
		var restored *State
		w.f.cfg.OnRestore = func(s *State) { restored = s }
		must.NoError(t, w.f.Restore(io.NopCloser(bytes.NewReader(snap))))
		must.True(t, over(done))
		must.NoError(t, <-done)
		must.Eq(t, w.index-1, meta.Index)
		must.Eq(t, w.f.State(), restored)
	})
}

func TestWaitIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := region(t, 0)
		s, err := w.f.WaitIndex(t.Context(), w.index)
		must.NoError(t, err)
		must.Eq(t, w.s(), s)
		var got *State
		go func() { got, _ = w.f.WaitIndex(t.Context(), w.index+2) }()
		synctest.Wait()
		w.ok(ns("a"))
		synctest.Wait()
		must.Nil(t, got)
		w.ok(ns("b"))
		synctest.Wait()
		must.Eq(t, w.index, got.Index())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = w.f.WaitIndex(ctx, w.index+1)
		must.ErrorIs(t, err, context.DeadlineExceeded)
		must.Eq(t, 0, w.f.waiters.n.Load())
	})
}
