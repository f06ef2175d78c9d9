package hypervisor

import (
	"context"
	"errors"

	"github.com/novacron/novacron/api"
)

// ErrAborted: the move was ended before it was complete; the guest is where it
// was.
var ErrAborted = errors.New("migration aborted")

// The states of a Move, as Reason of a Domain at the two ends; List and Get show
// it at both from the moment on at which it is there. A domain that comes in is
// StatePaused with ReasonIncoming until all of it is there, then StatePaused with
// ReasonComplete until somebody resumes it, or pauses it (which makes it a user's
// pause), also across restarts of agent and hypervisor. At the source it is
// StatePaused with ReasonMigrating from the switch-over until it is gone; if it
// stays so with no move under way, nobody here knows whether the destination has
// it, and only a decision from outside may resume or destroy it.
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
	//
	// At the destination the guest process makes Memory and Disks, and nobody else
	// may listen there; it must be able to write to their folder: with Debian's
	// qemu.conf, user libvirt-qemu. At the source libvirtd connects to Control and
	// Memory, as root, and the guest process to Disks, which libvirt first gives
	// to its user: the folder must be searchable for that user, and the mode of
	// the sockets may be 0600.
	Control, Memory, Disks string
	// Machine is the domain as the destination shall have it: its paths, bridges,
	// epoch. What the guest sees must be the same on both ends.
	Machine *Machine
	// Copy names the disks of Machine that are copied; they exist at the
	// destination, with the same virtual size. Of a disk with a base image at both
	// ends, which must hold the same, only what lies above it is copied.
	Copy []string
	// SerialLog is the file that keeps what the serial console shows at the
	// destination; empty: the same path as here.
	SerialLog string
	// MaxDowntime is how long the guest may stand still at the switch-over.
	MaxDowntime api.Duration
	// AutoConverge throttles the guest's CPUs when it writes faster than can be
	// sent.
	AutoConverge bool
	// Gone, unless it is nil, is called at most once, before Move returns, as soon as
	// it is proven that the guest was handed over and that nothing of it runs here,
	// nor ever will. The hypervisor may still be tidying up after it, and may answer
	// questions about the domain only after that. Whatever Move then returns takes
	// nothing of it back. A driver that cannot tell does not call it.
	Gone func()
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
	// (ErrUnknown). When the context ends it aborts the move, and still waits for
	// what comes of it. A paused guest stays paused.
	//
	// A failed move is an *api.Error: CodeMigrating if one is under way,
	// CodeInvalid if Machine is not the guest that runs, CodeState if the guest
	// came here paused and has not run since (QEMU 7.2 crashes),
	// CodeMigration with a hint for what the hypervisors said. That the guest goes
	// on here does not prove that the destination has nothing: ask there too.
	Move(ctx context.Context, id api.ID, m *Move) error
	// AbortMove ends a move that is under way, whoever began it; ErrNotFound if
	// there is none, or it is too late. It does not wait for Move to return.
	AbortMove(ctx context.Context, id api.ID) error
	// MoveStats samples a move that is under way from here; ErrNotFound if there is
	// none. At the destination it tells how the finished move was, as long as the
	// hypervisor remembers (not across its restart).
	MoveStats(ctx context.Context, id api.ID) (MoveStats, error)
	// SetMaxDowntime changes how long the guest of a move that is under way may stand
	// still at its end, more than 0; ErrNotFound if there is none. How fast a move
	// sends is not the driver's matter: what carries its streams limits them.
	SetMaxDowntime(ctx context.Context, id api.ID, d api.Duration) error
	// DirtyRate measures for a while how fast a running guest writes memory, in
	// bytes for each second (virDomainStartDirtyRateCalc: a sample of pages, so 0
	// may be a little).
	DirtyRate(ctx context.Context, id api.ID, over api.Duration) (api.Bytes, error)
	// ControlSocket is the path of this host's hypervisor socket, to which a
	// source's Control leads.
	ControlSocket() string
}
