package api

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func TestADowntimeIsToldInItsParts(t *testing.T) {
	at := func(ms int) Time { return TimeOf(time.UnixMilli(1e12 + int64(ms))) }
	src := &MigrationCutover{Stopped: at(0), Gone: at(100)}
	dst := &MigrationCutover{Complete: at(90), Told: at(130), Resuming: at(135), Resumed: at(150)}
	var none *MigrationCutover
	must.Nil(t, none.Merge(nil))
	must.Eq(t, src, none.Merge(src))
	must.Eq(t, src, src.Merge(nil))
	both := src.Merge(dst)
	must.Eq(t, &MigrationCutover{Stopped: at(0), Gone: at(100), Complete: at(90), Told: at(130), Resuming: at(135), Resumed: at(150)}, both)
	must.Eq(t, 0, src.Told, must.Sprint("neither is changed"))
	must.Eq(t, both, both.Merge(&MigrationCutover{}), must.Sprint("what is not known takes nothing away"))

	m := &Migration{Cutover: both, CommitTime: at(110)}
	all, parts, ok := m.Downtime()
	must.True(t, ok)
	must.Eq(t, 150*time.Millisecond, all)
	must.Eq(t, []CutoverPart{
		{What: "gone", Took: 100 * time.Millisecond}, {What: "decided", Took: 10 * time.Millisecond},
		{What: "told", Took: 20 * time.Millisecond}, {What: "resuming", Took: 5 * time.Millisecond},
		{What: "resumed", Took: 15 * time.Millisecond},
	}, parts)
	for _, c := range []*MigrationCutover{nil, src, dst} {
		_, _, ok := (&Migration{Cutover: c}).Downtime()
		must.False(t, ok)
	}
}
