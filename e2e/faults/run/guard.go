package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/novacron/novacron/agent/guard"
	"github.com/novacron/novacron/e2e/lab"
	"github.com/novacron/novacron/e2e/watchdog"
)

// runGuard is novacron guard with a lab's watchdog in place of a device.
func runGuard(path string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(stop)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGUSR2)
	return guard.Run(context.Background(), guard.Config{
		Dir: "/run/novacron/guard", Limits: guard.Limits{Lease: 15 * time.Second, Kill: 5 * time.Second},
		Watchdog: watchdog.NewPipe(path, lab.WatchdogTimeout), Stop: stop, Log: os.Stderr, Harden: true,
	})
}
