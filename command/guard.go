package command

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/novacron/novacron/agent/guard"
)

func guardSpecs() []*spec {
	return []*spec{{
		name: "guard", synopsis: "kill this host's HA VMs when its lease is over (a service beside the agent)", local: true,
		long: `A process of its own beside the agent, with no network and no libvirt. The agent
renews the host's lease and arms each VM that may be restarted on other hosts. When
the lease is not renewed in time, for whatever reason, the guard kills those
VMs, so that no VM ever runs twice; other VMs it never touches.

It is a service, not a tool: run it as root from the service manager, restarted
always and at once. SIGTERM is refused while a VM is armed. Killed and started
again, it goes on where it was.

With -watchdog the host is reset when the guard itself fails. Without one, a
kernel that hangs is not covered, and the host is of class B.`,
		examples: []string{"novacron guard -dir /run/novacron/guard", "novacron guard -dir /run/novacron/guard -watchdog /dev/watchdog"},
		build: func(f *flags) func(*call) error {
			dir := f.String("dir", "/run/novacron/guard", "`folder` of socket, lease and state, in memory, of root only")
			watchdog := f.String("watchdog", "", "`device` that resets the host when the guard fails; empty: none")
			timeout := f.Duration("watchdog-timeout", 10*time.Second, "`time` after which the watchdog resets the host, in whole seconds")
			lease := f.Duration("lease", 15*time.Second, "longest `time` that a lease may last")
			kill := f.Duration("kill-budget", 5*time.Second, "`time` after the end of the lease in which all armed VMs must be dead")
			return func(c *call) error {
				if *lease <= 0 || *kill <= 0 || *timeout < time.Second {
					return usagef("-lease and -kill-budget must be above 0, -watchdog-timeout at least 1s")
				}
				return runGuard(c, guard.Config{Dir: *dir, Limits: guard.Limits{Lease: *lease, Kill: *kill}}, *watchdog, *timeout)
			}
		},
	}}
}

// runGuard ends by its own decision only: a signal asks it, and does not cancel it.
func runGuard(c *call, cfg guard.Config, watchdog string, timeout time.Duration) error {
	if watchdog != "" {
		cfg.Watchdog = guard.NewDevice(watchdog, timeout)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(stop)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGUSR2)
	cfg.Stop, cfg.Log, cfg.Harden = stop, c.env.Stderr, true
	return guard.Run(context.WithoutCancel(c), cfg)
}
