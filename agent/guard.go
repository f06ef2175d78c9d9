package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/agent/client"
	"github.com/novacron/novacron/agent/guard"
	guardsim "github.com/novacron/novacron/agent/guard/sim"
)

// disarmLimit bounds how long an agent that ends waits for the servers to know
// that its VMs are taken from the guard.
const disarmLimit = 5 * time.Second

// guardRetry is how often a guard that was just started is dialed.
const guardRetry = 20 * time.Millisecond

// hostGuard is the way to the guard of this machine: it is found by its socket,
// or started. The guard outlives the agent.
type hostGuard struct {
	cfg     Guard
	program []string // that starts a guard; empty: none is started
	logFile string   // of a guard that was started
	log     *slog.Logger

	mu    sync.Mutex
	lease *guard.LeaseFile
	child *exec.Cmd // that was started by this agent and not yet reaped
}

// openGuard says how the client half reaches its guard; nil: the node has none.
func (a *Agent) openGuard(m *clientMode) (func(context.Context) (client.Guard, error), error) {
	switch {
	case a.cfg.Dev, a.cfg.Client.Guard.Dir == "":
		return nil, nil
	case m.kind == kindSim:
		return simGuard(a.opts.SimGuard), nil
	}
	g := &hostGuard{cfg: *a.cfg.Client.Guard, logFile: filepath.Join(a.cfg.DataDir, "guard.log"), log: a.log.Logger}
	if g.cfg.Spawn {
		program, err := os.Executable()
		if err != nil {
			return nil, err
		}
		g.program = []string{program, "guard", "-dir", g.cfg.Dir}
		if g.cfg.Watchdog != "" {
			g.program = append(g.program, "-watchdog", g.cfg.Watchdog)
		}
	}
	m.close = append(m.close, g.close)
	return g.connect, nil
}

func simGuard(g *guardsim.Guard) func(context.Context) (client.Guard, error) {
	if g == nil {
		return nil
	}
	return func(ctx context.Context) (client.Guard, error) { return g.Connect(ctx) }
}

// guardConn is a connection, with the lease file beside it.
type guardConn struct {
	*guard.Client
	host *hostGuard
}

// Extend writes the lease.
func (c *guardConn) Extend(sent, deadline time.Duration) error {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	if c.host.lease == nil {
		return os.ErrClosed
	}
	return c.host.lease.Write(sent, deadline)
}

// connect finds the guard or starts one.
func (g *hostGuard) connect(ctx context.Context) (client.Guard, error) {
	c, err := guard.Dial(ctx, g.cfg.Dir)
	if err != nil && len(g.program) > 0 {
		c, err = g.spawn(ctx)
	}
	if err != nil {
		return nil, err
	}
	if err := g.openLease(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &guardConn{c, g}, nil
}

// openLease opens the lease file anew: the folder may be another one by now.
func (g *hostGuard) openLease() (err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.closeLease(); err != nil {
		return err
	}
	g.lease, err = guard.OpenLease(g.cfg.Dir)
	return err
}

func (g *hostGuard) closeLease() error {
	l := g.lease
	if g.lease = nil; l == nil {
		return nil
	}
	return l.Close()
}

// close lets go of the lease file. The guard goes on.
func (g *hostGuard) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closeLease()
}

// spawn starts a guard in a session of its own, unless one that was started is
// still on its way, and connects to it.
func (g *hostGuard) spawn(ctx context.Context) (*guard.Client, error) {
	if !g.childRuns() {
		if err := g.start(); err != nil {
			return nil, fmt.Errorf("the guard cannot be started: %w", err)
		}
	}
	for {
		c, err := guard.Dial(ctx, g.cfg.Dir)
		if err == nil {
			return c, nil
		}
		if !g.childRuns() {
			return nil, fmt.Errorf("the guard that was started has ended (see %s): %w", g.logFile, err)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(guardRetry):
		}
	}
}

func (g *hostGuard) start() error {
	log, err := os.OpenFile(g.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the child has its own
	cmd := exec.Command(g.program[0], g.program[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	g.child = cmd
	g.log.Warn("no guard was there: one was started; as a service of its own it is safer", "pid", cmd.Process.Pid, "dir", g.cfg.Dir, "log", g.logFile)
	return nil
}

// childRuns reports whether the guard that this agent started runs, and reaps it
// if it has ended. Nobody waits for it: it is meant to outlive the agent.
func (g *hostGuard) childRuns() bool {
	if g.child == nil {
		return false
	}
	pid, err := unix.Wait4(g.child.Process.Pid, nil, unix.WNOHANG, nil)
	if pid == 0 && err == nil {
		return true
	}
	_ = g.child.Process.Release() // it is reaped
	g.child = nil
	return false
}

// disarm takes the VMs back from the guard before the agent ends.
func (a *Agent) disarm(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, disarmLimit)
	defer cancel()
	if err := a.client.Disarm(ctx); err != nil {
		a.log.Error("the agent ends and leaves VMs armed: start it again before their lease is over", "error", err)
	}
}
