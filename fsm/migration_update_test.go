package fsm

import (
	"testing"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

func TestLimitsChangeWhileAMoveIsUnderWay(t *testing.T) {
	w := copying(t)
	before := *w.phase(api.MigrationCopying)
	limit := func(u MigrationUpdate) *api.Migration {
		u.ID = before.ID
		return w.ok(&u).(*api.Migration)
	}
	got := limit(MigrationUpdate{Bandwidth: ptr(5 * api.MiB)})
	want := before
	want.Options.Bandwidth, want.ModifyIndex = 5*api.MiB, w.index
	must.Eq(t, &want, got, must.Sprint("nothing else changes"))

	got = limit(MigrationUpdate{MaxDowntime: ptr(api.Duration(time.Minute))})
	must.Eq(t, 5*api.MiB, got.Options.Bandwidth)
	must.Eq(t, api.Duration(time.Minute), got.Options.MaxDowntime)
	must.Eq(t, api.Duration(time.Minute), got.Options.DowntimeLimit, must.Sprint("it is never below the downtime"))
	got = limit(MigrationUpdate{Bandwidth: new(api.Bytes), MaxDowntime: ptr(api.Duration(time.Second))})
	must.Eq(t, 0, got.Options.Bandwidth)
	must.Eq(t, api.Duration(time.Minute), got.Options.DowntimeLimit)

	same := limit(MigrationUpdate{Bandwidth: new(api.Bytes)})
	must.Eq(t, got.ModifyIndex, same.ModifyIndex, must.Sprint("what is so already is no change"))
}

func TestAColdMoveHasABandwidthAndNoDowntime(t *testing.T) {
	w := fetching(t)
	e := w.refused(api.CodeState, &MigrationUpdate{ID: id('x', 1), Bandwidth: ptr(api.MiB), MaxDowntime: ptr(api.Duration(time.Second))})
	must.StrContains(t, e.Message, "no downtime")
	got := w.ok(&MigrationUpdate{ID: id('x', 1), Bandwidth: ptr(5 * api.MiB)}).(*api.Migration)
	must.Eq(t, 5*api.MiB, got.Options.Bandwidth)
}

func TestLimitsAreRefusedWhereTheyMeanNothing(t *testing.T) {
	limit := &MigrationUpdate{ID: id('x', 1), Bandwidth: ptr(api.MiB)}
	for name, c := range map[string]struct {
		world func(t testing.TB) *world
		after func(w *world)
	}{
		"aborting":           {copying, func(w *world) { w.step(api.MigrationAborting) }},
		"the guest has left": {copying, func(w *world) { w.end(1, api.EndAbsent) }},
		"its end is ordered": {copying, func(w *world) { w.end(2, api.EndComplete); w.end(1, api.EndSwitched) }},
		"committed":          {copying, func(w *world) { w.end(1, api.EndAbsent); w.end(2, api.EndComplete) }},
		"done": {copying, func(w *world) {
			w.end(1, api.EndAbsent)
			w.end(2, api.EndComplete)
			w.end(1, api.EndAbsent, clean)
			w.end(2, api.EndRunning, clean)
			w.phase(api.MigrationDone)
		}},
		"cold, and its disks have left": {fetching, func(w *world) { w.end(2, api.EndComplete) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := c.world(t)
			c.after(w)
			e := w.refused(api.CodeState, limit)
			must.NotEq(t, "", e.Hint)
			must.Eq(t, 0, w.s().Migration(id('x', 1)).Options.Bandwidth)
		})
	}
	w := copying(t)
	w.refused(api.CodeNotFound, &MigrationUpdate{ID: id('x', 9), Bandwidth: ptr(api.MiB)})
	w.refused(api.CodeInvalid, &MigrationUpdate{ID: id('x', 1)})
	w.refused(api.CodeInvalid, &MigrationUpdate{ID: id('x', 1), Bandwidth: ptr(api.Bytes(-1))})
	w.refused(api.CodeInvalid, &MigrationUpdate{ID: id('x', 1), MaxDowntime: new(api.Duration)})
	w.ok(&RecoveryBegin{})
	w.refused(api.CodeRecovery, limit)
}

// A change that is answered again under its key is made once, and answered even
// when it would not be possible any more.
func TestLimitsAreChangedOnceForTheirKey(t *testing.T) {
	w := copying(t)
	key := &IdemKey{Accessor: id('t', 1), Key: "k", BodyHash: []byte("h")}
	first := w.runWith(&MigrationUpdate{ID: id('x', 1), Bandwidth: ptr(api.MiB)}, key)
	must.Nil(t, first.Err)
	w.step(api.MigrationAborting)
	again := w.runWith(&MigrationUpdate{ID: id('x', 1), Bandwidth: ptr(api.MiB)}, key)
	must.Nil(t, again.Err)
	must.True(t, again.Replayed)
	must.Eq(t, first.Index, again.Index)
	must.Eq(t, api.MigrationAborting, again.Value.(*api.Migration).Phase)
}
