package libvirt

import (
	"context"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// A domain that comes in is told from others by the mark moved-in in its
// metadata, which Move writes into the destination's XML, together with libvirt's
// reason for its pause:
//
//   - paused (starting-up, migrating): not all of it is here. Libvirt itself ends
//     such a domain when the move fails, or when libvirtd is restarted.
//   - paused (user): libvirt says so only when QEMU has told that it has read the
//     whole stream (the last step, Finish). The state and the mark are in libvirt's
//     status file and so survive its restart, which libvirt's statistics of the
//     finished job do not. QEMU's own query-migrate says "completed" as long as the
//     process lives, also long after the guest was resumed, and asking for it marks
//     the domain as tainted: it is not asked.
//
// Pause makes it a pause like any other, Resume takes the mark away. The mark of a
// domain that runs means nothing.
type movedIn string

const (
	// movedWaiting: nobody has resumed or paused it here yet.
	movedWaiting movedIn = "waiting"
	// movedTaken: it is the user's, and has still not run here. QEMU 7.2 has not
	// activated its disks then and crashes when it is to migrate (the assertion
	// !(bs->open_flags & BDRV_O_INACTIVE)), so such a domain is not moved on.
	movedTaken movedIn = "taken"
)

// movedReason tells why a domain that came in is paused.
func movedReason(state api.VMState, reason string) string {
	switch {
	case state != api.StatePaused:
		return reason
	case reason == "user":
		return hypervisor.ReasonComplete
	case reason == "migrating" || reason == "starting-up" || reason == "unknown":
		return hypervisor.ReasonIncoming
	}
	return reason
}

// here returns a domain that is not still on its way: libvirt would let a call
// wait for the end of the move.
func (d *Driver) here(ctx context.Context, id api.ID) (hypervisor.Domain, error) {
	got, err := d.Get(ctx, id)
	if err == nil && got.State == api.StatePaused && got.Reason == hypervisor.ReasonIncoming {
		err = api.Errorf(api.CodeMigrating, "the domain is still being moved to this host")
	}
	return got, err
}

// mark changes the mark of a domain that came in.
func (d *Driver) mark(ctx context.Context, id api.ID, to movedIn) error {
	return d.verb(ctx, id, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		m, err := metadata(l, dom)
		if err != nil || m.MovedIn == "" {
			return err
		}
		m.MovedIn = to
		return setMetadata(l, dom, m)
	})
}
