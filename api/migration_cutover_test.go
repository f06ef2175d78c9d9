package api_test

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

func TestADowntimeIsToldInItsParts(t *testing.T) {
	at := func(ms int) api.Time { return api.TimeOf(time.UnixMilli(1e12 + int64(ms))) }
	src := &api.MigrationCutover{Stopped: at(0), Gone: at(100)}
	dst := &api.MigrationCutover{Complete: at(90), Told: at(130), Resumed: at(150)}
	var none *api.MigrationCutover
	must.Nil(t, none.Merge(nil))
	must.Eq(t, src, none.Merge(src))
	must.Eq(t, src, src.Merge(nil))
	both := src.Merge(dst)
	must.Eq(t, &api.MigrationCutover{Stopped: at(0), Gone: at(100), Complete: at(90), Told: at(130), Resumed: at(150)}, both)
	must.Eq(t, 0, src.Told, must.Sprint("neither is changed"))
	must.Eq(t, both, both.Merge(&api.MigrationCutover{}), must.Sprint("what is not known takes nothing away"))

	m := &api.Migration{Cutover: both, CommitTime: at(110)}
	all, parts, ok := m.Downtime()
	must.True(t, ok)
	must.Eq(t, 150*time.Millisecond, all)
	must.Eq(t, []api.CutoverPart{
		{What: "gone", Took: 100 * time.Millisecond}, {What: "decided", Took: 10 * time.Millisecond},
		{What: "told", Took: 20 * time.Millisecond}, {What: "resumed", Took: 20 * time.Millisecond},
	}, parts)
	for _, c := range []*api.MigrationCutover{nil, src, dst} {
		_, _, ok := (&api.Migration{Cutover: c}).Downtime()
		must.False(t, ok)
	}
}
