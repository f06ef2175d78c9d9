// Package hypervisor declares what NovaCron needs of a hypervisor. The drivers
// are in the folders below; conformance holds the one suite that they all pass.
//
// Promises: a driver never infers absence from silence: what it cannot tell is
// ErrUnknown. Every call honours its context. A driver touches only domains that
// carry NovaCron's metadata.
//
// What does not belong: policy (restart, epochs, what should run): that is
// agent/client.
package hypervisor

import (
	"context"
	"errors"
	"io"

	"github.com/novacron/novacron/api"
)

// The errors that callers tell apart.
var (
	// ErrUnknown: the hypervisor did not answer; nothing follows from it.
	ErrUnknown = errors.New("hypervisor state unknown")
	// ErrNotFound: the hypervisor answered, and there is no such domain.
	ErrNotFound = errors.New("no such domain")
	// ErrExists: a domain of that id is already there.
	ErrExists = errors.New("domain already exists")
)

// Machine is all that a driver needs to start a VM: paths are resolved, the
// volumes exist, nothing is looked up.
type Machine struct {
	ID          api.ID
	Namespace   string
	Name        string
	Epoch       api.Epoch
	SpecVersion uint64
	Generation  uint64
	CPU         api.CPUSpec
	Memory      api.Bytes
	Firmware    api.Firmware
	// NVRAM is the file that holds the UEFI variables; empty for BIOS.
	NVRAM   string
	Kernel  string // path, for direct boot
	Initrd  string
	Cmdline string
	Disks   []MachineDisk
	NICs    []MachineNIC
	// Seed is the path of the NoCloud ISO, or empty.
	Seed   string
	Serial bool
	VNC    bool
}

// MachineDisk is one disk of a Machine.
type MachineDisk struct {
	Name     string
	Path     string
	Format   string // qcow2 or raw, never probed
	Bus      string
	ReadOnly bool
	Shared   bool // reachable from other nodes: cache=none
	Boot     int32
	Backing  string // path of the base image of a thin clone, for the driver's backing chain; empty if none
	// BackingFormat is qcow2 or raw; empty: the extension of Backing says.
	BackingFormat string
}

// MachineNIC is one interface of a Machine.
type MachineNIC struct {
	MAC    string
	Model  string
	Bridge string // host bridge to attach to
	MTU    int32
}

// Domain is what a driver sees of one VM.
type Domain struct {
	ID          api.ID
	Namespace   string
	Name        string
	Epoch       api.Epoch // from the metadata: a hint, the journal decides
	SpecVersion uint64
	State       api.VMState // running, paused, stopping, stopped, failed, unknown
	// Reason in the hypervisor's words: "shutdown", "crashed", "destroyed",
	// "migrated", "user", "migrating", "io-error", ...
	Reason    string
	PID       int
	StartTime api.Time
}

// EventKind says what happened to a domain.
type EventKind string

// The kinds of events.
const (
	EventStarted   EventKind = "started"
	EventPaused    EventKind = "paused"
	EventResumed   EventKind = "resumed"
	EventStopped   EventKind = "stopped" // gone; Reason says why
	EventRebooted  EventKind = "rebooted"
	EventReconnect EventKind = "reconnect" // events may have been lost: list again
)

// Event is something that happened to a domain.
type Event struct {
	Kind   EventKind
	ID     api.ID
	Reason string // for stopped: "shutdown", "crashed", "destroyed", "failed", "migrated"
}

// Driver is one hypervisor on this machine. All methods may be called at once.
type Driver interface {
	Name() string
	// Fingerprint says what the driver can do here.
	Fingerprint(ctx context.Context) (api.DriverInfo, error)
	// Start makes a transient domain and runs it, or leaves it paused.
	Start(ctx context.Context, m *Machine, paused bool) error
	// Shutdown asks the guest to power off (ACPI); it does not wait.
	Shutdown(ctx context.Context, id api.ID) error
	// Destroy ends the domain at once; ErrNotFound if there is none.
	Destroy(ctx context.Context, id api.ID) error
	Pause(ctx context.Context, id api.ID) error
	Resume(ctx context.Context, id api.ID) error
	// Reboot asks the guest (ACPI); Reset pulls the reset line.
	Reboot(ctx context.Context, id api.ID) error
	Reset(ctx context.Context, id api.ID) error
	// List returns every domain of NovaCron, or ErrUnknown.
	List(ctx context.Context) ([]Domain, error)
	// Get returns one domain, ErrNotFound or ErrUnknown.
	Get(ctx context.Context, id api.ID) (Domain, error)
	// SetEpoch rewrites the epoch in the metadata of a live domain.
	SetEpoch(ctx context.Context, id api.ID, e api.Epoch) error
	// Attest proves that a domain is absent: the hypervisor answered and has no
	// such domain, and no process of it is left. ErrUnknown otherwise, ErrExists
	// if it is there.
	Attest(ctx context.Context, id api.ID) error
	// Events delivers events until the context ends; slow readers lose events
	// and get EventReconnect. Events are hints: one may come twice, and one may be
	// lost while the hypervisor itself restarts, so look (List) now and then too.
	Events(ctx context.Context) (<-chan Event, error)
	// Console opens the serial console; several viewers may be open.
	Console(ctx context.Context, id api.ID) (io.ReadWriteCloser, error)
	// Stats samples one domain.
	Stats(ctx context.Context, id api.ID) (*api.VMStats, error)
	// LastExit tells why a domain that is gone ended, from the hypervisor's own
	// log; ok is false when it does not say.
	LastExit(ctx context.Context, id api.ID) (reason string, ok bool)
	Close() error
}

// Forgetter is a Driver that keeps something of domains that have ended, such as
// the logs that LastExit reads.
type Forgetter interface {
	// Forget removes that of a VM which is gone from this host for good. It must
	// be absent.
	Forget(ctx context.Context, id api.ID) error
}
