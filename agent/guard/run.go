package guard

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/boottime"
)

// Config is what a guard runs with.
type Config struct {
	// Dir holds socket, lease and state; it is made if it is not there. It belongs on
	// a file system in memory, and to root alone.
	Dir string
	// Watchdog, if not nil, resets the host when the guard fails.
	Watchdog Watchdog
	Limits   Limits
	// Log takes lines of text; nil drops them.
	Log io.Writer
	// Stop asks the guard to end: SIGTERM. It is refused while something is armed.
	Stop <-chan os.Signal
	// Harden locks this process in memory and makes it real-time, where allowed; for
	// that it executes the program anew, with the same arguments.
	Harden bool
}

// keeper performs what Step asks for. All of it belongs to one goroutine.
type keeper struct {
	cfg      Config
	log      *slog.Logger
	state    State
	means    map[api.ID]means // of what is armed; never iterated
	alarm    *alarm
	started  time.Duration
	class    string
	probed   bool // the watchdog was tried, so that class is known
	warnings []string
	// open finds the means to kill; tests put others in its place.
	open func(t *Target, uuid api.ID) (means, error)
}

// Run guards until it is asked to end while nothing is armed; that is no error.
// The end of ctx ends it at once, as SIGKILL would: what is armed stays in the
// state file for the next one, and the watchdog is left as it is.
func Run(ctx context.Context, cfg Config) error {
	out := cfg.Log
	if out == nil {
		out = io.Discard
	}
	w := newAsyncWriter(out)
	defer w.Close() //nolint:errcheck // never fails
	k := &keeper{cfg: cfg, log: slog.New(slog.NewTextHandler(w, nil)), means: map[api.ID]means{}, started: boottime.Now(), class: ClassLeaseOnly, open: openTarget}
	return k.run(ctx)
}

func (k *keeper) run(ctx context.Context) (err error) {
	if k.cfg.Harden {
		k.warnings = harden()
		for _, w := range k.warnings {
			k.log.Warn("this guard is weaker than it should be", "missing", w)
		}
	}
	// Others use the folder above it, too.
	if err := os.MkdirAll(filepath.Dir(k.cfg.Dir), 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(k.cfg.Dir, 0o700); err != nil {
		return err
	}
	if err := checkDir(k.cfg.Dir); err != nil {
		return err
	}
	lock, err := lockDir(k.cfg.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if k.alarm, err = newAlarm(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.alarm.Close()) }()
	if err := k.load(); err != nil {
		return err
	}
	defer func() {
		for _, a := range k.state.Armed {
			k.means[a.VM].close()
		}
	}()
	k.look(Event{Kind: Tick}) // kills, if it is time, before anybody is served
	calls := make(chan call)
	srv, err := newServer(ctx, k.cfg.Dir, calls)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.Close()) }()
	k.log.Info("the guard is up", "dir", k.cfg.Dir, "class", k.class, "armed", len(k.state.Armed), "deadline", k.state.Lease.Deadline)
	return k.loop(ctx, calls)
}

// lockDir makes sure that one guard works in a folder.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(api.Errorf(api.CodeInUse, "another guard works in %s", dir), f.Close())
	}
	return f, nil
}

// load takes over what a guard before this one had armed.
func (k *keeper) load() error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	saved, err := loadState(k.cfg.Dir)
	if err != nil {
		return err
	}
	k.state = NewState(boot, k.cfg.Limits, saved)
	for _, a := range k.state.Armed {
		m, err := adopt(a.Target)
		if err != nil {
			k.log.Error("a VM that was armed is held by fewer means", "vm", a.VM, "error", err)
		}
		k.means[a.VM] = m
		k.log.Info("taken over", "vm", a.VM, "epoch", a.Epoch, "pid", a.Process.PID)
	}
	return nil
}

func (k *keeper) loop(ctx context.Context, calls <-chan call) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-k.alarm.C:
			k.look(Event{Kind: Tick})
		case c := <-calls:
			if c.req == nil {
				k.log.Info("the agent is gone", "armed", len(k.state.Armed))
				k.look(Event{Kind: AgentGone})
				continue
			}
			c.reply <- k.serve(c.req)
		case sig := <-k.cfg.Stop:
			if k.stop() {
				k.log.Info("the guard ends", "signal", sig)
				return nil
			}
		}
	}
}
