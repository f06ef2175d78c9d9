// Package sim is the lease guard without a process of its own: guard.Step over
// simulated guests, for tests and simulated nodes. It can die, come back, and
// freeze.
//
// Promises: it decides as the real guard does, since it is the same Step, and
// what is armed outlives its death as it outlives the real one's. All timers run
// on package time's clock, which testing/synctest makes virtual.
//
// What does not belong: real processes, files and sockets (package guard).
package sim

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/novacron/novacron/agent/guard"
	"github.com/novacron/novacron/api"
)

// Options shape a Guard.
type Options struct {
	// Limits are T and K and the guard's periods; zero: the defaults.
	Limits guard.Limits
	// Watchdog: there is one, so the host is of class A.
	Watchdog bool
	// Boottime is the clock, the one of the host's agent.
	Boottime func() time.Duration
	// Kill kills a process, as SIGKILL does; Lives tells whether it is there.
	Kill  func(pid int)
	Lives func(pid int) bool
}

// Guard is the guard of one simulated host. New starts it; Close ends it.
type Guard struct {
	o    Options
	boot api.ID

	mu     sync.Mutex
	up     bool
	frozen chan struct{} // closed when it thaws; nil: it is not frozen
	state  guard.State
	saved  guard.State // what the next one will know
	lease  guard.Lease // the lease file
	timer  *time.Timer
	conns  map[*Conn]struct{}
	since  time.Duration
	kills  int
}

// New starts a guard that holds nothing.
func New(o Options) *Guard {
	g := &Guard{o: o, boot: api.NewID(), conns: map[*Conn]struct{}{}}
	g.saved = guard.NewState(g.boot, o.Limits, guard.State{})
	g.Start()
	return g
}

// Start starts the guard again after Die or Close: it goes on with what the one
// before had armed.
func (g *Guard) Start() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.up {
		return
	}
	g.up, g.since = true, g.o.Boottime()
	g.state = guard.NewState(g.boot, g.o.Limits, g.saved)
	g.look(guard.Event{Kind: guard.Tick})
}

// Die ends the guard as SIGKILL does.
func (g *Guard) Die() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.up {
		return
	}
	g.up = false
	if g.timer != nil {
		g.timer.Stop()
	}
	for c := range g.conns {
		c.end()
	}
	if g.frozen != nil {
		close(g.frozen)
		g.frozen = nil
	}
}

// Close ends the guard.
func (g *Guard) Close() error {
	g.Die()
	return nil
}

// Forget loses the state file, while the guard is dead.
func (g *Guard) Forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.saved = guard.NewState(g.boot, g.o.Limits, guard.State{})
}

// Freeze makes the guard do nothing and answer nobody, as SIGSTOP does, until
// Thaw.
func (g *Guard) Freeze() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.frozen == nil {
		g.frozen = make(chan struct{})
	}
}

// Thaw undoes Freeze.
func (g *Guard) Thaw() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.frozen == nil {
		return
	}
	close(g.frozen)
	g.frozen = nil
	if g.up {
		g.look(guard.Event{Kind: guard.Tick})
	}
}

// Kills counts the calls of Kill.
func (g *Guard) Kills() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.kills
}

// look brings the state up to what is known now and performs an event.
func (g *Guard) look(ev guard.Event) guard.Output {
	if g.lease.Sequence != g.state.Lease.Sequence {
		g.step(guard.Event{Kind: guard.LeaseRead, Lease: g.lease})
	}
	for _, a := range g.state.Armed {
		if !g.o.Lives(a.Process.PID) {
			g.step(guard.Event{Kind: guard.Gone, Target: a.Target})
		}
	}
	return g.step(ev)
}

func (g *Guard) step(ev guard.Event) guard.Output {
	ev.Now = g.o.Boottime()
	next, out := guard.Step(g.state, ev)
	g.state = next
	for _, t := range out.Kill {
		g.kills++
		g.o.Kill(t.Process.PID)
	}
	if out.Save {
		g.saved = next
	}
	if g.timer != nil {
		g.timer.Stop()
	}
	g.timer = time.AfterFunc(max(0, out.Wake-ev.Now), g.tick)
	return out
}

func (g *Guard) tick() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.up && g.frozen == nil {
		g.look(guard.Event{Kind: guard.Tick})
	}
}

// Conn is an agent's connection.
type Conn struct {
	g    *Guard
	done chan struct{}
	once sync.Once
}

var errGone = api.Errorf(api.CodeUnreachable, "the guard is gone")

// Connect connects to the guard; CodeUnreachable if it is dead. A frozen one can
// be connected to.
func (g *Guard) Connect(context.Context) (*Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.up {
		return nil, errGone
	}
	c := &Conn{g: g, done: make(chan struct{})}
	g.conns[c] = struct{}{}
	return c, nil
}

func (c *Conn) end() {
	delete(c.g.conns, c)
	c.once.Do(func() { close(c.done) })
}

// Done is closed when the connection is lost or closed.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Close ends the connection.
func (c *Conn) Close() error {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	c.end()
	return nil
}

// Extend writes the lease file, also of a guard that is dead.
func (c *Conn) Extend(sent, deadline time.Duration) error {
	if sent < 0 || deadline < sent {
		return errors.New("that is no lease")
	}
	g := c.g
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lease = guard.Lease{BootID: g.boot, Sequence: g.lease.Sequence + 1, Sent: sent, Deadline: deadline}
	return nil
}

// enter waits until the guard works, and takes its lock.
func (c *Conn) enter(ctx context.Context) error {
	for {
		c.g.mu.Lock()
		frozen := c.g.frozen
		_, open := c.g.conns[c]
		if open && frozen == nil {
			return nil
		}
		c.g.mu.Unlock()
		if !open {
			return errGone
		}
		select {
		case <-frozen:
		case <-c.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Arm is guard.Client.Arm; the command line is not looked at.
func (c *Conn) Arm(ctx context.Context, r guard.ArmRequest) (time.Duration, error) {
	if err := c.enter(ctx); err != nil {
		return 0, err
	}
	g := c.g
	defer g.mu.Unlock()
	switch {
	case r.VM.IsZero() || r.Epoch == 0 || r.Process.PID <= 1:
		return 0, api.Errorf(api.CodeInvalid, "a VM, an epoch and a process are needed")
	case !g.o.Lives(r.Process.PID):
		return 0, api.Errorf(api.CodeNotFound, "process %d is not there", r.Process.PID)
	}
	if err := g.ask(guard.Arm, r.Target); err != nil {
		return 0, err
	}
	return g.state.Lease.Deadline, nil
}

// Disarm is guard.Client.Disarm.
func (c *Conn) Disarm(ctx context.Context, vm api.ID, epoch api.Epoch) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.g.mu.Unlock()
	return c.g.ask(guard.Disarm, guard.Target{VM: vm, Epoch: epoch})
}

func (g *Guard) ask(kind guard.Kind, t guard.Target) error {
	out := g.look(guard.Event{Kind: kind, Target: t})
	if e := g.state.Refusal(out.Verdict, t); e != nil {
		return e
	}
	return nil
}

// Status is guard.Client.Status.
func (c *Conn) Status(ctx context.Context) (*guard.Status, error) {
	if err := c.enter(ctx); err != nil {
		return nil, err
	}
	g := c.g
	defer g.mu.Unlock()
	g.look(guard.Event{Kind: guard.Tick})
	st := &guard.Status{
		PID: 1, Started: g.since, Now: g.state.Now, BootID: g.boot, Class: guard.ClassLeaseOnly, Deadline: g.state.Lease.Deadline,
		Lease: g.state.Limits.Lease, Kill: g.state.Limits.Kill, Armed: g.state.Armed, Proofs: g.state.Proofs,
	}
	if g.o.Watchdog {
		st.Class = guard.ClassWatchdog
	}
	return st, nil
}
