package libvirt

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

// moveOut begins a move that the fake libvirt does not end, of a domain in this
// state with a job of this kind, and returns Move's end.
func moveOut(t *testing.T, ctx context.Context, f *daemon, d *Driver, reason golibvirt.DomainPausedReason, job golibvirt.DomainJobType) <-chan error {
	u32 := binary.BigEndian.AppendUint32
	f.mu.Lock()
	f.says[procVersion] = make([]byte, 8)
	f.says[procState] = u32(u32(nil, uint32(golibvirt.DomainPaused)), uint32(reason))
	f.says[procJobStats] = u32(u32(nil, uint32(job)), 0)
	f.says[procMonitor] = u32(nil, 0)
	f.mu.Unlock()
	f.hold(procMove)
	f.hold(procMonitor)
	cn, err := d.connect(t.Context())
	must.NoError(t, err)
	ended := make(chan error, 1)
	go func() {
		defer cn.bye()
		ended <- d.perform(ctx, cn, &plan{dom: handle(api.NewID()), to: "qemu:///session"})
	}()
	must.Eq(t, procMove, <-f.came)
	return ended
}

func TestAMoveThatLostItsCancelIsWoken(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, w := range []struct {
		name string
		ctx  context.Context
		job  golibvirt.DomainJobType
	}{
		{"libvirt gave up", t.Context(), golibvirt.DomainJobFailed},
		{"libvirt canceled", t.Context(), golibvirt.DomainJobCancelled},
		{"the agent canceled", over, golibvirt.DomainJobUnbounded},
	} {
		t.Run(w.name, func(t *testing.T) {
			f := newDaemon(t)
			d := New(Config{Socket: f.socket, Root: "/", Timeout: 10 * time.Second, KeepAlive: 5 * time.Millisecond})
			defer d.Close()
			ended := moveOut(t, w.ctx, f, d, golibvirt.DomainPausedMigration, w.job)
			must.Eq(t, uint32(procMonitor), <-f.came, must.Sprint("QEMU is told to go on"))
			f.release(procMonitor)
			f.release(procMove)
			must.Error(t, <-ended)
		})
	}
}

// What is not stuck is left alone: QEMU's monitor marks the domain as tainted.
func TestAMoveThatIsNotStuckIsLeftAlone(t *testing.T) {
	for _, w := range []struct {
		name   string
		reason golibvirt.DomainPausedReason
		job    golibvirt.DomainJobType
	}{
		{"the switch-over", golibvirt.DomainPausedMigration, golibvirt.DomainJobUnbounded},
		{"paused by its user", golibvirt.DomainPausedUser, golibvirt.DomainJobFailed},
		{"no job", golibvirt.DomainPausedMigration, golibvirt.DomainJobNone},
	} {
		t.Run(w.name, func(t *testing.T) {
			f := newDaemon(t)
			d := New(Config{Socket: f.socket, Root: "/", Timeout: 10 * time.Second, KeepAlive: time.Hour})
			defer d.Close()
			ended := moveOut(t, t.Context(), f, d, w.reason, w.job)
			for range 2 * stuckLooks {
				must.Zero(t, d.unstick(t.Context(), handle(api.NewID()), false, stuckLooks))
			}
			must.Zero(t, len(f.came))
			f.release(procMove)
			must.Error(t, <-ended)
		})
	}
}
