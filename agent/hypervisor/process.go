package hypervisor

import (
	"context"

	"github.com/novacron/novacron/api"
)

// Process is the process of one domain, as the guard must know it to kill it
// without the hypervisor.
type Process struct {
	PID int
	// Start is when it was started, in clock ticks since the boot (field 22 of
	// /proc/PID/stat): a PID alone is used again.
	Start uint64
	// Cgroup is the folder of the domain's own cgroup (v2, or the v1 freezer);
	// empty if it shares one.
	Cgroup string
}

// Locator is a driver whose domains are processes that can be killed from
// outside. Without one, no domain can be armed at a guard.
type Locator interface {
	// Locate finds the process of a domain that is there: ErrNotFound, or ErrUnknown
	// if the hypervisor or the host does not say.
	Locate(ctx context.Context, id api.ID) (Process, error)
}
