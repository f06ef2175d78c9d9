package libvirt

import (
	"context"

	golibvirt "github.com/digitalocean/go-libvirt"
)

// stuckLooks is how often in a row a move has to look stuck before QEMU is told
// to go on: a cancel takes a moment.
const stuckLooks = 2

// goOn is what wakes QEMU's migration thread. QEMU takes it in that state only: in
// any other it refuses it, and nothing is changed.
const goOn = `{"execute":"migrate-continue","arguments":{"state":"cancelling"}}`

// unstick looks whether a move out has got stuck, and returns how often in a row
// it looked so, this look included.
//
// QEMU 7.2 may lose a cancel that comes at the very moment of the switch-over. Its
// migration thread has seen that nobody cancels, and then waits for the word to go
// on, which nobody gives, since it was canceled: migration_maybe_pause against
// migrate_fd_cancel. The guest stays paused, libvirt's call does not come back, and
// the domain cannot even be ended. The word to go on lets the cancel come to
// its end, and the guest runs on.
func (d *Driver) unstick(ctx context.Context, dom golibvirt.Domain, canceled bool, looks int) int {
	stuck, err := call(ctx, d.queries, d.cfg.Timeout, func(l *golibvirt.Libvirt) (bool, error) {
		state, reason, err := l.DomainGetState(dom, 0)
		if err != nil || golibvirt.DomainState(state) != golibvirt.DomainPaused || golibvirt.DomainPausedReason(reason) != golibvirt.DomainPausedMigration {
			return false, err
		}
		kind, _, err := l.DomainGetJobStats(dom, 0)
		job := golibvirt.DomainJobType(kind)
		return job == golibvirt.DomainJobFailed || job == golibvirt.DomainJobCancelled || canceled && job != golibvirt.DomainJobNone, err
	})
	if err != nil || !stuck {
		return 0
	}
	if looks++; looks >= stuckLooks {
		_, _ = call(ctx, d.queries, d.cfg.Timeout, func(l *golibvirt.Libvirt) (string, error) { return l.QEMUDomainMonitorCommand(dom, goOn, 0) })
	}
	return looks
}
