package client

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/api"
)

func TestWhatAGuestStandsStillForIsReportedAtOnce(t *testing.T) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		b.start()
		took := func(state api.EndState) time.Duration {
			b.sleep(time.Second)
			b.c.reports.image(api.ImageReport{ID: api.NewID()})
			b.sleep(2 * reportGather) // one has just gone out
			var n int
			b.srv.do(func() { n = len(b.srv.reports) })
			start := time.Now()
			b.c.reports.move(vm1, api.MoveReport{Migration: api.NewID(), State: state})
			for {
				synctest.Wait()
				var now int
				b.srv.do(func() { now = len(b.srv.reports) })
				if now > n {
					return time.Since(start)
				}
				time.Sleep(time.Millisecond)
			}
		}
		must.Greater(t, 50*time.Millisecond, took(api.EndCopying))
		for _, s := range []api.EndState{api.EndComplete, api.EndAbsent, api.EndSwitched} {
			must.Less(t, 10*time.Millisecond, took(s), must.Sprint(s))
		}
	})
}
