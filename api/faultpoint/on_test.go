//go:build faultpoints

package faultpoint

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func TestReachHoldsUntilThePointIsDisarmed(t *testing.T) {
	dir = t.TempDir()
	Reach("free") // not armed
	armed := filepath.Join(dir, "held")
	must.NoError(t, os.WriteFile(armed, nil, 0o600))
	gone := make(chan struct{})
	go func() { Reach("held"); close(gone) }()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !exists(armed + ".reached") {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatal("it is not reached")
		}
	}
	select {
	case <-gone:
		t.Fatal("it went on")
	default:
	}
	must.NoError(t, os.Remove(armed))
	<-gone
	must.False(t, exists(armed+".reached"))
}
