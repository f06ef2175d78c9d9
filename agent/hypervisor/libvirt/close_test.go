package libvirt_test

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/hypervisor/libvirt"
)

// libvirt 9.0 frees what a client has subscribed to without a lock when the client
// is gone, and ends with a segmentation fault if it is being unsubscribed meanwhile.
func TestADriverThatClosesLeavesLibvirtdAlone(t *testing.T) {
	l := newLab(t, false)
	for range 1000 {
		d := libvirt.New(l.config())
		events, err := d.Events(t.Context())
		must.NoError(t, err)
		select {
		case e := <-events:
			must.Eq(t, hypervisor.EventReconnect, e.Kind)
		case <-time.After(30 * time.Second): // it is only that long if libvirtd is gone
			l.alive(t)
			t.Fatal("libvirtd does not answer")
		}
		must.NoError(t, d.Close())
	}
	l.alive(t)
}
