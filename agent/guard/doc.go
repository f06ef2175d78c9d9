// Package guard is the lease guard: a small process of its own (`novacron
// guard`) that kills the HA VMs of this host when the host's lease is over,
// whatever the agent does. The agent writes the lease (LeaseFile) and arms each HA
// VM before it lets it run (Client); the guard answers for the rest. DESIGN.md
// beside this file says how the parts fit, and which test holds which invariant.
//
// Promises: an armed VM does not live past deadline + kill budget, if it can be
// killed at all, and if it cannot, the watchdog is no longer petted; nothing is
// killed before the deadline, and nothing that was not armed; an agent that dies,
// freezes or is restarted extends no lease and disarms nothing; a guard that was
// killed and started again holds what it held. Times are CLOCK_BOOTTIME, which no
// one can set; there is no wall clock and no network in here.
//
// What does not belong: when a lease is earned (agent/client, by beats), what is
// restarted elsewhere and when (the servers), libvirt and how guests are
// started. What the guard decides is in Step, which has no clock, no goroutine and
// no I/O, so that a simulation can drive it.
package guard
