package hypervisor

import (
	"context"
	"errors"

	"github.com/novacron/novacron/api"
)

// ErrAborted: the move was ended before it was complete; the guest is where it
// was.
var ErrAborted = errors.New("migration aborted")

// The states of a Move, as DomainState reasons of the two ends. A domain that
// comes in is StatePaused with ReasonIncoming until all of it is there, then
// StatePaused with ReasonComplete until somebody resumes it. At the source it is
// StatePaused with ReasonMigrating from the switch-over until it is gone.
const (
	ReasonIncoming  = "incoming"
	ReasonComplete  = "migrated-in"
	ReasonMigrating = "migrating"
)

// Move is a migration of one running or paused domain, as the source's driver
// carries it out.
type Move struct {
	// Control, Memory and Disks are paths of UNIX sockets on the source that lead
	// to the destination: to its hypervisor's control socket, and to the sockets
	// of the same path there, at which the destination's guest process waits for
	// memory and disks. Disks is empty when no disk is copied.
	Control, Memory, Disks string
	// Machine is the domain as the destination shall have it: its paths, bridges,
	// epoch. What the guest sees must be the same on both ends.
	Machine *Machine
	// Copy names the disks of Machine that are copied; they exist at the
	// destination, with the same virtual size.
	Copy []string
	// Bandwidth caps memory and disks, in bytes for each second; 0 is no cap.
	Bandwidth api.Bytes
	// MaxDowntime is how long the guest may stand still at the switch-over.
	MaxDowntime api.Duration
	// AutoConverge throttles the guest's CPUs when it writes faster than can be
	// sent.
	AutoConverge bool
}

// MoveStats is a sample of a move that is under way. Bytes are as libvirt
// counts them (virDomainGetJobStats), over memory and disks together.
type MoveStats struct {
	Total, Done, Remaining api.Bytes
	Rate                   api.Bytes    // in a second
	DirtyRate              api.Bytes    // in a second, of memory
	Downtime               api.Duration // expected; after the end as it was
	Throttle               int32        // percent of CPU time taken from the guest
	Passes                 int32        // over memory
	Elapsed                api.Duration
}

// Migrator is a driver that moves domains between hosts. Where a driver is one,
// its Fingerprint lists "migrate".
type Migrator interface {
	Driver
	// Move moves a domain and leaves it paused and complete at the destination. It
	// blocks until that is so and the domain is gone here (nil), or the guest goes
	// on here as it was (ErrAborted, or what went wrong), or nobody can tell
	// (ErrUnknown). When the context ends it aborts the move. A paused guest stays
	// paused.
	Move(ctx context.Context, id api.ID, m *Move) error
	// AbortMove ends a move that is under way, whoever began it; ErrNotFound if
	// there is none. It does not wait for Move to return.
	AbortMove(ctx context.Context, id api.ID) error
	// MoveStats samples a move that is under way here; ErrNotFound if there is none.
	MoveStats(ctx context.Context, id api.ID) (MoveStats, error)
	// SetMoveLimits changes bandwidth (0: as it is) and downtime (0: as it is) of a
	// move that is under way.
	SetMoveLimits(ctx context.Context, id api.ID, bandwidth api.Bytes, downtime api.Duration) error
	// DirtyRate measures for a while how fast a running guest writes memory, in
	// bytes for each second (virDomainStartDirtyRateCalc).
	DirtyRate(ctx context.Context, id api.ID, over api.Duration) (api.Bytes, error)
	// ControlSocket is the path of this host's hypervisor socket, to which a
	// source's Control leads.
	ControlSocket() string
}
