package client

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// Client is the client mode of one agent.
type Client struct {
	cfg     Config
	log     *slog.Logger
	journal *journal
	session api.ID
	servers *servers
	reports *reporter

	ctx     context.Context // ends when the client is to end
	cancel  context.CancelFunc
	callCtx context.Context // of calls to the hypervisor: ends a little later
	endCall context.CancelFunc

	starts, fetches, calls limit
	lists                  chan struct{} // wakes the watcher

	taskMu sync.Mutex
	ending bool
	tasks  sync.WaitGroup

	imageMu  sync.Mutex // what is done to the names of images, with its report
	mu       sync.Mutex
	vms      map[api.ID]*vm
	orphans  map[api.ID]hypervisor.Domain
	meta     meta
	volumes  map[api.ID]*volumeTask
	removing map[api.ID]bool  // images that are to go
	foreign  map[string]error // pools that are not what they were, and why
	bad      map[api.ID]bool  // volumes that were last reported failed

	boot       atomic.Pointer[string]
	hold       atomic.Bool // the servers have not spoken, or the region is in recovery
	recovery   atomic.Bool
	leaving    atomic.Bool
	reregister chan struct{}
	refresh    chan struct{}
	// registering holds a value while a registration is under way, and for good
	// after a leave, which a registration would undo.
	registering chan struct{}
	reopen      chan struct{}
	networks    networkState
	driver      driverState
	links       linkMeter
	peers       peerNews
	health      healthState
	guard       guardState
}

// New opens the journal and makes a client that does nothing yet. It fails when
// the journal cannot be trusted.
func New(cfg Config) (*Client, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	j, m, recs, err := openJournal(cfg.Dir, cfg.Node.ID, cfg.NoSync)
	if err != nil {
		return nil, err
	}
	c := &Client{
		cfg: cfg, log: cfg.Logger.With("node", cfg.Node.Name), journal: j, session: api.NewID(), meta: m,
		starts: make(limit, cfg.Starts), fetches: make(limit, cfg.Fetches), calls: make(limit, cfg.Calls),
		links: newLinkMeter(), lists: make(chan struct{}, 1), reregister: make(chan struct{}, 1), refresh: make(chan struct{}, 1), registering: make(chan struct{}, 1), reopen: make(chan struct{}, 1),
		networks: networkState{used: map[string]int{}, look: make(chan struct{}, 1)},
		vms:      map[api.ID]*vm{}, orphans: map[api.ID]hypervisor.Domain{}, volumes: map[api.ID]*volumeTask{},
		removing: map[api.ID]bool{}, foreign: map[string]error{}, bad: map[api.ID]bool{},
		guard: guardState{look: make(chan struct{}, 1), changed: make(chan struct{}, 1), lease: newHostLease()},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.callCtx, c.endCall = context.WithCancel(context.Background())
	c.hold.Store(true)
	c.servers = newServers(cfg.Servers, cfg.Dial, cfg.Redial)
	c.reports = newReporter(c)
	for _, r := range recs {
		c.vms[r.ID] = &vm{c: c, id: r.ID, m: newMachine(r, true)}
	}
	return c, nil
}

// endGrace is how long calls to the hypervisor may go on when the client ends.
const endGrace = 10 * time.Second

// Run works until the context ends. Guests run on. It may be called once.
func (c *Client) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, c.cancel)
	defer stop()
	facts, err := c.cfg.Facts(c.ctx)
	if err == nil && facts.BootID == "" {
		err = api.Errorf(api.CodeConfig, "the boot id of this machine cannot be read")
	}
	if err == nil {
		c.boot.Store(&facts.BootID)
		c.log.Info("client mode begins", "session", c.meta.Sessions, "vms", len(c.vms), "boot", facts.BootID)
		c.spawn(c.reports.run)
		guarded := make(chan struct{})
		if c.cfg.Guard == nil || !c.spawn(func() { c.keepGuard(guarded) }) {
			close(guarded)
		}
		select { // it tells what is armed, why what is gone has ended, and of which class the node is
		case <-guarded:
		case <-c.ctx.Done():
		}
		listed := make(chan struct{})
		c.spawn(func() { c.watch(listed) })
		first := time.NewTimer(firstAnswer)
		select { // register with what is here, if the hypervisor tells
		case <-listed:
		case <-first.C:
			c.log.Warn("the hypervisor does not answer: what runs here is unknown")
		case <-c.ctx.Done():
		}
		first.Stop()
		c.settle()
		c.spawn(c.keepRegistered)
		c.spawn(c.purge)
		c.spawn(c.readAddresses)
		c.spawn(c.keepNetworks)
		if c.cfg.ImageIdle > 0 {
			c.spawn(c.collectImages)
		}
	} else {
		c.cancel()
	}
	<-c.ctx.Done()
	return errors.Join(ignoreCanceled(err), c.end())
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// end waits for everything that was begun and closes the journal.
func (c *Client) end() error {
	c.taskMu.Lock()
	c.ending = true
	c.taskMu.Unlock()
	t := time.AfterFunc(endGrace, c.endCall)
	defer t.Stop()
	c.mu.Lock()
	for _, v := range c.vms {
		v.mu.Lock()
		v.arm(0)
		v.mu.Unlock()
	}
	c.mu.Unlock()
	c.stopVolumes()
	c.tasks.Wait()
	c.endCall()
	return c.journal.close()
}

// Close ends a client that is not to run (again); after Run it does nothing.
func (c *Client) Close() error {
	c.taskMu.Lock()
	ended := c.ending
	c.taskMu.Unlock()
	if ended {
		return nil
	}
	c.cancel()
	return c.end()
}

// Leave tells the servers that this agent goes for good. Guests are left
// running; reports that are still due are sent first. The caller then ends Run.
func (c *Client) Leave(ctx context.Context) error {
	c.leaving.Store(true)
	select {
	case c.registering <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	return errors.Join(c.reports.flush(ctx), c.beat(ctx))
}

// Refresh looks at the machine at once, and registers again if it has changed.
func (c *Client) Refresh() { poke(c.refresh) }

// relist makes the watcher list the hypervisor at once.
func (c *Client) relist() { poke(c.lists) }

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// spawn runs f in a goroutine that the end waits for; false when it has begun.
func (c *Client) spawn(f func()) bool {
	c.taskMu.Lock()
	defer c.taskMu.Unlock()
	if c.ending || c.ctx.Err() != nil {
		return false
	}
	c.tasks.Go(f)
	return true
}

// settle waits until every VM has taken in what it was given so far.
func (c *Client) settle() {
	vms := c.all()
	marks := make(chan struct{}, len(vms)) // never blocks who marks
	n := 0
	for _, v := range vms {
		if v.post(event{mark: marks}) {
			n++
		}
	}
	for ; n > 0; n-- {
		select {
		case <-marks:
		case <-c.ctx.Done():
			return
		}
	}
}

// env is what steps see now.
func (c *Client) env() env {
	e := env{now: api.TimeOf(time.Now()), hold: c.hold.Load() || c.ctx.Err() != nil}
	if b := c.boot.Load(); b != nil {
		e.boot = *b
	}
	e.up, e.doubt = c.cfg.Boottime(), c.doubts()
	c.guard.mu.Lock()
	defer c.guard.mu.Unlock()
	l := &c.guard.lease
	e.guard, e.deadline, e.known, e.term, e.disarm = c.guard.conn != nil, l.deadline, l.known, l.term, l.disarm || l.quitting
	return e
}

// vm returns the runner of a VM, made anew if there is none.
func (c *Client) vm(id api.ID) *vm {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.vms[id]
	if v == nil {
		v = &vm{c: c, id: id, m: newMachine(record{ID: id}, false)}
		c.vms[id] = v
		delete(c.orphans, id)
	}
	return v
}

// find returns the runner of a VM, or nil.
func (c *Client) find(id api.ID) *vm {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.vms[id]
}

// all returns the runners, for going through them without the lock.
func (c *Client) all() []*vm {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*vm, 0, len(c.vms))
	for _, v := range c.vms {
		out = append(out, v)
	}
	return out
}

// Known lists the VMs that the servers or the journal have given to this node,
// also those that are to go.
func (c *Client) Known() []api.ID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.vms))
}

// broadcast gives an event to every VM.
func (c *Client) broadcast(ev event) {
	for _, v := range c.all() {
		v.post(ev)
	}
}

// forget drops a VM whose absence, attested at an epoch, the servers know.
func (c *Client) forget(id api.ID, epoch api.Epoch) {
	v := c.find(id)
	if v == nil {
		return
	}
	v.mu.Lock()
	gone := (v.m.Revoked || v.m.Epoch == 0) && v.m.Tomb == 0 && !v.m.Alive && v.m.Epoch <= epoch && v.m.State == api.StateAbsent && v.m.Move.IsZero() &&
		len(v.queue) == 0 && v.m.busy == opNone
	if gone {
		err := c.journal.dropVM(id)
		c.journalError(err)
		gone = err == nil
		v.dropped = gone
	}
	v.mu.Unlock()
	if gone {
		c.mu.Lock()
		delete(c.vms, id)
		c.mu.Unlock()
		poke(c.networks.look)
		c.spawn(func() { c.forgetLogs(id) })
	}
}

// forgetLogs removes what the hypervisor keeps of a VM, unless it is back.
func (c *Client) forgetLogs(id api.ID) {
	f, ok := c.cfg.Driver.(hypervisor.Forgetter)
	if !ok || c.find(id) != nil {
		return
	}
	if err := c.op(func(ctx context.Context) error { return f.Forget(ctx, id) }); err != nil && c.ctx.Err() == nil {
		c.log.Warn("the logs of a VM were not removed", "vm", id, "error", err)
	}
}
