package libvirt

import (
	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// reasons are libvirt's words for why a domain is in a state, by state.
var reasons = map[golibvirt.DomainState][]string{
	golibvirt.DomainRunning: {"unknown", "booted", "migrated", "restored", "from-snapshot", "unpaused", "migration-canceled",
		"save-canceled", "wakeup", "crashed", "postcopy", "postcopy-failed"},
	golibvirt.DomainPaused: {"unknown", "user", "migrating", "saving", "dumping", "io-error", "watchdog", "from-snapshot",
		"shutting-down", "snapshot", "crashed", "starting-up", "postcopy", "postcopy-failed", "api-error"},
	golibvirt.DomainShutdown: {"unknown", "user"},
	golibvirt.DomainShutoff: {"unknown", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from-snapshot",
		"daemon"},
	golibvirt.DomainCrashed: {"unknown", "panicked"},
}

// stateOf maps libvirt's state and reason.
func stateOf(state, reason int32) (api.VMState, string) {
	s := golibvirt.DomainState(state)
	why := "unknown"
	if list := reasons[s]; int(reason) >= 0 && int(reason) < len(list) {
		why = list[reason]
	}
	switch s {
	case golibvirt.DomainRunning, golibvirt.DomainBlocked:
		return api.StateRunning, why
	case golibvirt.DomainPaused:
		return api.StatePaused, why
	case golibvirt.DomainPmsuspended:
		return api.StatePaused, "suspended"
	case golibvirt.DomainShutdown:
		return api.StateStopping, why
	case golibvirt.DomainShutoff:
		return api.StateStopped, why
	case golibvirt.DomainCrashed:
		return api.StateFailed, "crashed"
	}
	return api.StateUnknown, why
}

var (
	suspended = []string{"user", "migrating", "io-error", "watchdog", "restored", "from-snapshot", "api-error", "postcopy", "postcopy-failed"}
	resumed   = []string{"unpaused", "migrated", "from-snapshot", "postcopy", "postcopy-failed"}
	started   = []string{"booted", "migrated", "restored", "from-snapshot", "wakeup", "recreated"}
	stopped   = []string{"shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from-snapshot", "recreated"}
)

// eventOf maps a lifecycle event; ok is false for those that nobody needs.
func eventOf(m golibvirt.DomainEventLifecycleMsg) (e hypervisor.Event, ok bool) {
	if e.ID, ok = idOf(m.Dom.Name); !ok {
		return e, false
	}
	var words []string
	switch golibvirt.DomainEventType(m.Event) {
	case golibvirt.DomainEventStarted:
		e.Kind, words = hypervisor.EventStarted, started
	case golibvirt.DomainEventSuspended, golibvirt.DomainEventPmsuspended:
		e.Kind, words = hypervisor.EventPaused, suspended
	case golibvirt.DomainEventResumed:
		e.Kind, words = hypervisor.EventResumed, resumed
	case golibvirt.DomainEventStopped:
		e.Kind, words = hypervisor.EventStopped, stopped
	default: // shutdown has begun, defined, undefined; crashed is followed by stopped
		return e, false
	}
	e.Reason = "unknown"
	if int(m.Detail) >= 0 && int(m.Detail) < len(words) {
		e.Reason = words[m.Detail]
	}
	return e, true
}
