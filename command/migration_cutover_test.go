package command

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

func TestWhatAGuestStoodStillForIsSaid(t *testing.T) {
	ms := time.Millisecond
	must.Eq(t, "150 ms: 100 ms to end at its source, 10 ms to be decided on, 20 ms until its destination knew, 20 ms to go on", stoodStill(150*ms, []api.CutoverPart{
		{What: "gone", Took: 100 * ms}, {What: "decided", Took: 10 * ms}, {What: "told", Took: 20 * ms}, {What: "resumed", Took: 20 * ms},
	}))
	must.Eq(t, "150 ms (the nodes' clocks differ)", stoodStill(150*ms, []api.CutoverPart{{What: "gone", Took: -ms}, {What: "resumed", Took: 151 * ms}}))
}
