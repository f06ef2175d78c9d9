package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/storage"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/faultpoint"
)

// Tunnels carries migrations between nodes (agent/migrate).
type Tunnels interface {
	// Expect lets the tunnels of a migration in until the closer is closed.
	Expect(migration, from api.ID, secret api.ID, control string) (io.Closer, error)
	// Open makes the sockets of a migration that goes out, until it is closed or
	// the context ends.
	Open(ctx context.Context, migration, to api.ID, address string, secret api.ID, o api.MigrationOptions) (Tunnel, error)
}

// Tunnel is the source's end of a migration.
type Tunnel interface {
	Control() string // paths of its sockets, see hypervisor.Move
	Memory() string
	Disks() string
	Sent() api.Bytes // over the wire so far
	// SetBandwidth caps memory and disks together from now on, in bytes for each
	// second; 0: no cap.
	SetBandwidth(api.Bytes)
	Close() error
}

// part is what is known only now of a VM's part in a migration.
type part struct {
	mu       sync.Mutex
	order    *api.MoveOrder
	gate     io.Closer           // destination: the tunnel's
	machine  *hypervisor.Machine // destination: as it shall come in
	tunnel   Tunnel              // source: of the copy under way
	limits   chan struct{}       // source: poked when the servers may have set others
	cancel   context.CancelFunc  // of the copy under way
	progress *api.MigrationProgress
	cold     *coldSend      // source: of the disks of a stopped VM
	last     api.MoveReport // last told
	cutover  api.MigrationCutover
}

func (p *part) get() *api.MoveOrder {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.order
}

// end ends the copy under way.
func (p *part) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cancel != nil {
		p.cancel()
	}
}

// begin makes the context of a copy, which ends with the client too.
func (p *part) begin(c *Client) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(c.ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cancel, p.progress = cancel, nil
	return ctx, func() {
		cancel()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.cancel = nil
	}
}

// give takes the newest word of the servers. A copy under way follows its limits.
func (p *part) give(o *api.MoveOrder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ordered(o.Migration)
	p.order = o
	if p.tunnel != nil {
		p.tunnel.SetBandwidth(o.Migration.Options.Bandwidth)
		poke(p.limits)
	}
	if p.cold != nil && p.cold.g.ID == o.Migration.ID {
		p.cold.limit.Set(o.Migration.Options.Bandwidth)
	}
}

// carry notes the tunnel of the copy under way, which from then on follows the
// limits that the servers set. The channel is poked when they may be others.
func (p *part) carry(t Tunnel) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tunnel, p.limits = t, make(chan struct{}, 1)
	if p.order != nil { // it may have changed since the tunnel was asked for
		t.SetBandwidth(p.order.Migration.Options.Bandwidth)
	}
	return p.limits
}

// drop forgets the tunnel, which is about to be closed.
func (p *part) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tunnel = nil
}

// shut closes the gate.
func (p *part) shut() error {
	p.mu.Lock()
	gate := p.gate
	p.gate, p.machine = nil, nil
	p.mu.Unlock()
	if gate == nil {
		return nil
	}
	return gate.Close()
}

// moveFor says whether a VM is to be told its part in a migration. Of one that is over,
// and of which nothing is here, the servers are told so instead.
func (c *Client) moveFor(o *api.MoveOrder) bool {
	g := o.Migration
	if g != nil && g.Phase == api.MigrationCommitted && g.To == c.cfg.Node.ID {
		faultpoint.Reach("committed")
	}
	if g == nil || g.From != c.cfg.Node.ID && g.To != c.cfg.Node.ID {
		return false
	}
	if c.find(g.VMID) == nil && !g.Phase.Open() {
		c.reports.move(g.VMID, api.MoveReport{Migration: g.ID, State: api.EndAbsent, Attempt: g.Attempts, Clean: true, BootID: c.env().boot})
		return false
	}
	return true
}

// moveEvent tells a VM's machine of its part.
func (c *Client) moveEvent(o *api.MoveOrder) event {
	move := moveOrderOf(o.Migration, c.cfg.Node.ID)
	move.guarded = o.VM != nil && o.VM.Spec != nil && o.VM.Spec.HA.Policy == api.HARestart
	return event{kind: evMove, move: move}
}

// tellMove reports what a step changed of the part in a migration.
func (v *vm) tellMove(m machine, ev event) {
	r, ok := m.moveReport(v.c.env().boot)
	if !ok {
		if ev.kind == evMoveKnown {
			v.part.mu.Lock()
			v.part.order, v.part.last = nil, api.MoveReport{}
			v.part.mu.Unlock()
			v.c.forget(v.id, m.Epoch)
		}
		return
	}
	v.part.mu.Lock()
	same := r == v.part.last
	v.part.last = r
	r.Cutover = v.part.reported(m.Move.In, r.State)
	v.part.mu.Unlock()
	if !same {
		reach(m, r)
		v.c.log.Info("migration", "vm", v.id, "name", m.Name, "migration", r.Migration, "state", r.State, "attempt", r.Attempt,
			"failed", r.Failed, "message", r.Message, "clean", r.Clean)
		v.c.reports.move(v.id, r)
	}
}

// reach is where tests hold a destination before it tells what it has.
func reach(m machine, r api.MoveReport) {
	switch {
	case m.Move.In && r.State == api.EndComplete:
		faultpoint.Reach("complete")
	case m.Move.In && r.State == api.EndRunning:
		faultpoint.Reach("running")
	}
}

// resendMoves reports every part in a migration anew.
func (c *Client) resendMoves() {
	for _, v := range c.all() {
		v.mu.Lock()
		r, ok := v.m.moveReport(c.env().boot)
		v.mu.Unlock()
		v.part.mu.Lock()
		r.Cutover = v.part.times()
		v.part.mu.Unlock()
		if ok {
			c.reports.move(v.id, r)
		}
	}
}

var errNoPart = api.Errorf(api.CodeState, "the servers have not told this node its part in the migration yet")

// performMove makes one call of a move.
func (v *vm) performMove(o op, m machine) error {
	order := v.part.get()
	if order == nil {
		return errNoPart
	}
	switch o {
	case opMoveIn:
		faultpoint.Reach("receive")
		return v.receive(order)
	case opMovePull:
		return v.pull(order)
	case opMoveOut:
		return v.send(order, m)
	case opMoveEnd:
		return v.endSend()
	case opMoveAttest:
		return v.c.op(func(ctx context.Context) error { return v.c.cfg.Driver.Attest(ctx, v.id) })
	case opMoveClean:
		return v.cleanMove(order, m)
	}
	return fmt.Errorf("no such op %d", o)
}

// receive prepares the destination: everything but what is copied, and the
// volumes that the copy fills.
func (v *vm) receive(o *api.MoveOrder) error {
	if o.VM == nil || o.VM.Spec == nil {
		return errNoPart
	}
	if err := v.part.shut(); err != nil {
		return err
	}
	g := o.Migration
	m, err := v.c.prepareOrder(o.VM, func(ctx context.Context, vol *api.Volume, images []*api.Image) (storage.Handle, error) {
		p := v.c.cfg.Pools[vol.Pool]
		switch {
		case p == nil:
			return storage.Handle{}, api.Errorf(api.CodeStorage, "this node has no pool %q", vol.Pool)
		case !slices.Contains(g.Volumes, vol.ID): // shared: it must be the same one
			h, err := p.Open(ctx, vol)
			if errors.Is(err, fs.ErrNotExist) {
				err = api.Errorf(api.CodeStorage, "the shared pool %q does not show volume %s on this node", vol.Pool, vol.Name)
			}
			return h, err
		case g.Mode == api.MigrateCold:
			return storage.Handle{Path: "/nonexistent/" + vol.ID.String(), Format: vol.Format}, nil // comes whole
		}
		h, err := p.Open(ctx, vol)
		if errors.Is(err, fs.ErrNotExist) {
			h, err = v.c.createVolume(ctx, p, vol, images)
		}
		return h, err
	})
	if err != nil || g.Mode == api.MigrateCold {
		return err
	}
	m.Epoch, m.SpecVersion, m.Generation = g.Epoch, o.VM.SpecVersion, 0
	d, ok := v.c.cfg.Driver.(hypervisor.Migrator)
	if !ok || v.c.cfg.Moves == nil {
		return api.Errorf(api.CodeUnsupported, "this node cannot take in running guests")
	}
	gate, err := v.c.cfg.Moves.Expect(g.ID, g.From, g.Secret, d.ControlSocket())
	if err != nil {
		return err
	}
	v.part.mu.Lock()
	v.part.gate, v.part.machine = gate, m
	v.part.mu.Unlock()
	return nil
}

// moveTarget is what a source must know of the destination's machine.
type moveTarget struct {
	Machine *hypervisor.Machine
	Copy    []string // names of the disks to copy
}

// target tells the source how the guest shall come in.
func (v *vm) target(from api.ID) ([]byte, error) {
	v.part.mu.Lock()
	defer v.part.mu.Unlock()
	o, m := v.part.order, v.part.machine
	if o == nil || m == nil || o.Migration.From != from || o.VM == nil {
		return nil, api.Errorf(api.CodeState, "this node does not expect that guest")
	}
	t := moveTarget{Machine: m}
	for i, vol := range o.VM.Volumes {
		if slices.Contains(o.Migration.Volumes, vol.ID) {
			t.Copy = append(t.Copy, m.Disks[i].Name)
		}
	}
	return json.Marshal(t)
}

// askTarget asks a destination how a guest shall come in. That changes nothing, so
// it is asked once more when the connection is lost: one that was idle while the
// link was cut is found dead only when it is used again.
func (c *Client) askTarget(ctx context.Context, address string, id api.ID) (t moveTarget, err error) {
	var chunk api.Chunk
	for range 2 {
		err = c.cfg.Peer(address).Call(ctx, "Agent.MoveTarget", &api.GetRequest{Key: id.String()}, &chunk)
		if code := api.CodeOf(err); code != api.CodeUnknown && code != api.CodeUnreachable {
			break
		}
	}
	if err != nil {
		return t, failedMove("the destination cannot be asked: %v", err)
	}
	if err := json.Unmarshal(chunk.Data, &t); err != nil || t.Machine == nil {
		return t, failedMove("the destination's answer cannot be read")
	}
	return t, nil
}

// send moves the guest to the destination and returns when it is gone here, or
// goes on here, or nobody can tell.
func (v *vm) send(o *api.MoveOrder, m machine) (err error) {
	g := o.Migration
	d, ok := v.c.cfg.Driver.(hypervisor.Migrator)
	if !ok || v.c.cfg.Moves == nil {
		return api.Errorf(api.CodeUnsupported, "this node cannot send running guests")
	}
	ctx, done := v.part.begin(v.c)
	defer done()
	faultpoint.Reach("send")
	t, err := v.c.askTarget(ctx, o.Peer, g.VMID)
	if err != nil {
		return err
	}
	tunnel, err := v.c.cfg.Moves.Open(ctx, g.ID, g.To, o.Peer, g.Secret, g.Options)
	if err != nil {
		return failedMove("the tunnel cannot be opened: %v", err)
	}
	limits := v.part.carry(tunnel)
	defer func() {
		v.part.drop()
		err = errors.Join(err, tunnel.Close())
	}()
	faultpoint.Reach("opened")
	if m.Move.Paused {
		if err := d.Pause(ctx, v.id); err != nil {
			return failedMove("the guest cannot be paused: %v", err)
		}
	}
	// The tunnel alone caps the bandwidth: libvirt keeps a disk's rate for as long
	// as it is copied, so that no other could be set.
	move := &hypervisor.Move{
		Control: tunnel.Control(), Memory: tunnel.Memory(), Machine: t.Machine, Copy: t.Copy,
		MaxDowntime: g.Options.MaxDowntime, AutoConverge: g.Options.AutoConverge,
	}
	reached := sync.OnceFunc(func() { faultpoint.Reach("gone") })
	move.Gone = func() {
		reached()
		v.post(event{kind: evGone})
	}
	if move.MaxDowntime == 0 {
		move.MaxDowntime = api.DefaultMaxDowntime
	}
	if len(t.Copy) > 0 {
		move.Disks = tunnel.Disks()
	}
	gaveUp := make(chan error, 1)
	watched := make(chan struct{})
	stop, stopped := context.WithCancel(ctx)
	v.c.spawn(func() {
		defer close(watched)
		w := &watcher{v: v, d: d, g: g, tunnel: tunnel, limits: limits, cancel: done, gaveUp: gaveUp}
		w.run(stop)
	})
	err = d.Move(ctx, v.id, move)
	if err == nil {
		reached()
	}
	stopped()
	<-watched
	select {
	case why := <-gaveUp:
		if err != nil && !errors.Is(err, hypervisor.ErrUnknown) {
			return why
		}
	default:
	}
	return err
}

func failedMove(format string, args ...any) *api.Error {
	return api.Errorf(api.CodeMigration, format, args...)
}

// endSend ends a copy that an earlier agent began. Its tunnel went with it.
func (v *vm) endSend() error {
	d, ok := v.c.cfg.Driver.(hypervisor.Migrator)
	if !ok {
		return nil
	}
	return v.c.op(func(ctx context.Context) error {
		err := d.AbortMove(ctx, v.id)
		if errors.Is(err, hypervisor.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := d.MoveStats(ctx, v.id); err == nil {
			return hypervisor.ErrUnknown // it has not ended yet
		}
		return nil
	})
}

// cleanMove takes away what a move has left here. A destination that did not
// become the owner removes the volumes that it made; a source whose VM has gone
// sets the old ones aside.
func (v *vm) cleanMove(o *api.MoveOrder, m machine) error {
	err := v.part.shut()
	g := o.Migration
	switch {
	case m.foreign():
		if m.Move.Made {
			err = errors.Join(err, v.eachVolume(g, o, func(ctx context.Context, p storage.Pool, vol *api.Volume) error {
				return cmp.Or(p.Delete(ctx, vol), v.c.unpin(vol.ID))
			}))
		}
		err = errors.Join(err, v.c.cleanup(v.id))
	case !m.Move.In && (m.Move.Phase == api.MigrationCommitted || m.Move.Phase == api.MigrationDone):
		err = errors.Join(err, v.eachVolume(g, o, func(ctx context.Context, p storage.Pool, vol *api.Volume) error {
			return p.Quarantine(ctx, vol, time.Now().Add(v.c.cfg.Quarantine))
		}))
	}
	return err
}

// eachVolume runs f for the volumes that a migration moves. Their pools and
// formats are those of the order, or of the journal's.
func (v *vm) eachVolume(g *api.Migration, o *api.MoveOrder, f func(context.Context, storage.Pool, *api.Volume) error) error {
	if len(g.Volumes) == 0 {
		return nil
	}
	order := o.VM
	if order == nil {
		var err error
		if order, err = v.c.journal.order(v.id); err != nil {
			return err
		}
	}
	if order == nil {
		return nil
	}
	var errs []error
	for _, vol := range order.Volumes {
		if p := v.c.cfg.Pools[vol.Pool]; p != nil && slices.Contains(g.Volumes, vol.ID) {
			errs = append(errs, f(v.c.callCtx, p, vol))
		}
	}
	return errors.Join(errs...)
}
