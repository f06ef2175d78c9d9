package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	metrics "github.com/hashicorp/go-metrics/compat"

	"github.com/novacron/novacron/agent/guard"
	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// Guard is a connection to the guard of this machine: a guard.Client with the
// lease file. Its methods may be called at once.
type Guard interface {
	// Arm, Disarm, Status, Done and Close are those of guard.Client.
	Arm(ctx context.Context, r guard.ArmRequest) (deadline time.Duration, err error)
	Disarm(ctx context.Context, vm api.ID, epoch api.Epoch) error
	Status(ctx context.Context) (*guard.Status, error)
	Done() <-chan struct{}
	Close() error
	// Extend writes the lease, as guard.LeaseFile.Write does. It does not wait.
	Extend(sent, deadline time.Duration) error
}

const (
	guardDial   = 5 * time.Second // to find a guard, or to start one
	guardAnswer = 2 * time.Second // for each call
	guardPeriod = 2 * time.Second // between two looks: a guard that is frozen closes nothing
)

// guardState is what the client knows of the guard and of the host's lease.
type guardState struct {
	look    chan struct{} // wakes the watcher
	changed chan struct{} // what is armed has changed

	mu    sync.Mutex
	conn  Guard         // nil: none answers
	err   error         // why none does
	lost  time.Duration // boot time since when none does
	class api.GuardClass
	life  time.Duration // T, as the guard knows it
	armed int           // VMs, when last asked
	lease hostLease
}

// keepGuard holds a connection to the guard for as long as the client runs. tried
// is closed after the first attempt.
func (c *Client) keepGuard(tried chan struct{}) {
	var delay time.Duration
	for {
		g, err := c.findGuard()
		if tried != nil {
			close(tried)
			tried = nil
		}
		if err == nil {
			delay = 0
			err = c.watchGuard(g)
			err = errors.Join(err, g.Close())
		}
		if c.ctx.Err() != nil {
			return
		}
		most := 10 * time.Second
		if c.guardLost(err) < killBudget { // there is still something to be saved
			most = time.Second
		}
		if delay = min(max(2*delay, 100*time.Millisecond), most); !c.sleep(delay) {
			return
		}
	}
}

// findGuard connects, starting a guard if need be, and learns what it holds.
func (c *Client) findGuard() (Guard, error) {
	ctx, cancel := context.WithTimeout(c.ctx, guardDial)
	defer cancel()
	g, err := c.cfg.Guard(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.lookAtGuard(g); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// watchGuard asks the guard now and then, and returns when it is lost.
func (c *Client) watchGuard(g Guard) error {
	tick := time.NewTicker(guardPeriod)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return c.ctx.Err()
		case <-g.Done():
			return errors.New("its connection is closed")
		case <-tick.C:
		case <-c.guard.look:
		}
		if err := c.lookAtGuard(g); err != nil {
			return err
		}
	}
}

// guardLost takes in that no guard answers, and returns for how long. What is
// armed may be so still: the machines wait for K before they end it.
func (c *Client) guardLost(why error) time.Duration {
	s, now := &c.guard, c.cfg.Boottime()
	s.mu.Lock()
	had := s.conn != nil || s.err == nil
	if had {
		s.lost = now
	}
	s.conn, s.err = nil, why
	gone := now - s.lost
	given := gone >= killBudget && s.class != api.GuardNone
	if given {
		s.class = api.GuardNone
	}
	armed := s.armed
	s.mu.Unlock()
	if had {
		c.log.Error("no guard answers", "error", why, "armed", armed, "ended_in", killBudget)
		c.broadcast(event{kind: evTick})
	}
	if given {
		poke(c.refresh)
	}
	metrics.SetGauge([]string{"client", "guard", "up"}, 0)
	return gone
}

// lookAtGuard asks the guard what it holds and tells the VMs.
func (c *Client) lookAtGuard(g Guard) error {
	vms := c.all()
	seqs := make(map[*vm]uint64, len(vms))
	for _, v := range vms {
		v.mu.Lock()
		seqs[v] = v.seq
		v.mu.Unlock()
	}
	st, err := askGuard(c.callCtx, g)
	if err != nil {
		return fmt.Errorf("its status: %w", err)
	}
	class := api.GuardLeaseOnly
	if st.Class == guard.ClassWatchdog {
		class = api.GuardWatchdog
	}
	s := &c.guard
	s.mu.Lock()
	fresh, other := s.conn == nil, s.class != class
	s.conn, s.err, s.class, s.life, s.armed = g, nil, class, st.Lease, len(st.Armed)
	s.mu.Unlock()
	if fresh {
		c.log.Info("the guard answers", "pid", st.PID, "class", class, "armed", len(st.Armed), "warnings", st.Warnings)
	}
	if other {
		poke(c.refresh)
	}
	held := make(map[api.ID]*guard.Armed, len(st.Armed))
	for i := range st.Armed {
		held[st.Armed[i].VM] = &st.Armed[i]
	}
	for _, v := range vms {
		v.guardSays(held[v.id], seqs[v])
	}
	if fresh {
		c.broadcast(event{kind: evTick})
	}
	metrics.SetGauge([]string{"client", "guard", "up"}, 1)
	metrics.SetGauge([]string{"client", "guard", "armed"}, float32(len(st.Armed)))
	c.leaseTick()
	return nil
}

func askGuard(ctx context.Context, g Guard) (*guard.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, guardAnswer)
	defer cancel()
	return g.Status(ctx)
}

// guardSays tells the machine what the guard holds of the VM, nil for nothing, if
// it is news.
func (v *vm) guardSays(at *guard.Armed, seq uint64) {
	v.mu.Lock()
	known, alive, proc := v.m.hold, v.m.Alive, v.proc
	v.mu.Unlock()
	ev := event{kind: evGuard, seq: seq}
	if at != nil {
		ev.epoch, ev.mine = at.Epoch, at.Process == proc
		if !ev.mine && alive { // armed by an agent before this one
			if p, err := v.locate(); err == nil && processOf(p) == at.Process {
				ev.mine = true
				v.mu.Lock()
				v.proc = at.Process
				v.mu.Unlock()
			}
		}
	}
	if known.maybe || known.epoch != ev.epoch || known.mine != ev.mine {
		v.post(ev)
	}
}

func processOf(p hypervisor.Process) guard.Process {
	return guard.Process{PID: p.PID, Start: p.Start}
}

var errNoLocator = api.Errorf(api.CodeUnsupported, "the hypervisor does not tell the processes of its guests: they cannot be armed")

// locate finds the process of the VM.
func (v *vm) locate() (hypervisor.Process, error) {
	l, ok := v.c.cfg.Driver.(hypervisor.Locator)
	if !ok {
		return hypervisor.Process{}, errNoLocator
	}
	ctx, cancel := context.WithTimeout(v.c.callCtx, guardAnswer)
	defer cancel()
	return l.Locate(ctx, v.id)
}

// guardConn returns the connection, or nil.
func (c *Client) guardConn() Guard {
	c.guard.mu.Lock()
	defer c.guard.mu.Unlock()
	return c.guard.conn
}

// atGuard arms or disarms the VM.
func (v *vm) atGuard(o op, m machine) (result, string) {
	g := v.c.guardConn()
	if g == nil {
		return resFailed, "no guard answers"
	}
	ctx, cancel := context.WithTimeout(v.c.callCtx, guardAnswer)
	defer cancel()
	if o == opDisarm {
		err := g.Disarm(ctx, v.id, m.hold.epoch)
		if err == nil {
			v.c.log.Info("disarmed", "vm", v.id, "name", m.Name, "epoch", m.hold.epoch)
		}
		return v.guardResult(o, m, err)
	}
	p, err := v.locate()
	switch {
	case errors.Is(err, hypervisor.ErrNotFound):
		return resNotFound, err.Error()
	case err != nil:
		return resFailed, err.Error()
	}
	r := guard.ArmRequest{Target: guard.Target{VM: v.id, Epoch: m.RunEpoch, Process: processOf(p), Cgroup: p.Cgroup}, UUID: v.id}
	deadline, err := g.Arm(ctx, r)
	if p.Cgroup != "" && (api.CodeOf(err) == api.CodeInvalid || api.CodeOf(err) == api.CodeConflict) {
		v.c.log.Warn("a VM is armed by its process alone", "vm", v.id, "cgroup", p.Cgroup, "error", err)
		r.Cgroup = ""
		deadline, err = g.Arm(ctx, r)
	}
	if err == nil {
		v.mu.Lock()
		v.proc = r.Process
		v.mu.Unlock()
		v.c.log.Info("armed", "vm", v.id, "name", m.Name, "epoch", m.RunEpoch, "pid", p.PID, "lease_left", deadline-v.c.cfg.Boottime())
	}
	return v.guardResult(o, m, err)
}

// guardResult reads the guard's answer. What is no refusal says nothing of what
// the guard did.
func (v *vm) guardResult(o op, m machine, err error) (result, string) {
	if err == nil {
		return resOK, ""
	}
	v.c.log.Warn("vm "+o.String()+" was refused", "vm", v.id, "name", m.Name, "epoch", m.RunEpoch, "error", err)
	poke(v.c.guard.look)
	var e *api.Error
	switch {
	case !errors.As(err, &e) || e.Code == api.CodeUnreachable || e.Code == api.CodeInternal:
		return resUnknown, err.Error()
	case o == opArm && e.Code == api.CodeNotFound:
		return resNotFound, e.Error()
	}
	return resFailed, e.Error()
}

// fenced asks whether the guard has killed what ran of the VM, and says when.
func (v *vm) fenced(epoch api.Epoch) (note string, ok bool) {
	g := v.c.guardConn()
	if g == nil {
		return "", false
	}
	st, err := askGuard(v.c.callCtx, g)
	if err != nil {
		return "", false
	}
	say := func(at time.Duration) string {
		return fmt.Sprintf("killed by the guard at %s: the lease of this node was over", time.Now().Add(at-st.Now).UTC().Format(time.RFC3339))
	}
	for _, a := range st.Armed {
		if a.VM == v.id && a.Doomed { // dying
			return say(st.Now), true
		}
	}
	for _, p := range st.Proofs {
		if p.VM == v.id && p.Epoch == epoch && p.Killed {
			return say(p.At), true
		}
	}
	return "", false
}

// wantsGuard reports whether a VM is ordered here that runs only under the guard.
func (c *Client) wantsGuard() bool {
	for _, v := range c.all() {
		v.mu.Lock()
		wants := v.m.HA == api.HARestart && !v.m.Revoked && v.m.Desired != api.PowerStopped
		v.mu.Unlock()
		if wants {
			return true
		}
	}
	return false
}

// guardClass is what the node says of its guard when it registers.
func (c *Client) guardClass() api.GuardClass {
	c.guard.mu.Lock()
	defer c.guard.mu.Unlock()
	return c.guard.class
}

// Disarm takes all VMs back from the guard, before the agent ends: it tells the
// servers first, and waits until they know. What they have not acknowledged when
// the context ends stays armed, and dies with the lease unless another agent comes.
func (c *Client) Disarm(ctx context.Context) error {
	if c.cfg.Guard == nil {
		return nil
	}
	c.guard.mu.Lock()
	c.guard.lease.quitting = true
	c.guard.mu.Unlock()
	c.broadcast(event{kind: evTick})
	for {
		left := c.armed()
		if len(left) == 0 {
			return nil
		}
		select {
		case <-c.guard.changed:
			continue
		case <-ctx.Done():
		case <-c.ctx.Done():
		}
		c.log.Error("VMs stay armed without an agent: they are killed when the lease is over", "vms", left, "lease_left", c.leaseLeft())
		return api.Errorf(api.CodeState, "%d VMs stay armed", len(left))
	}
}

// armed lists the VMs that the guard holds, as far as is known.
func (c *Client) armed() (out []api.ID) {
	for _, v := range c.all() {
		v.mu.Lock()
		if v.m.Alive && v.m.hold.epoch != 0 {
			out = append(out, v.id)
		}
		v.mu.Unlock()
	}
	return out
}
