package client

import (
	"context"
	"encoding/json"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/hypervisor/sim"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
)

// longMove is a hypervisor whose moves last until they are ended, and the tunnel
// of one.
type longMove struct {
	*sim.Driver

	mu      sync.Mutex
	refuse  error // of SetMaxDowntime
	began   time.Time
	ended   time.Time
	move    hypervisor.Move
	limits  []api.Duration
	rates   []api.Bytes
	changed time.Time
	closed  bool
}

func (l *longMove) do(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

func (l *longMove) Move(ctx context.Context, _ api.ID, m *hypervisor.Move) error {
	l.do(func() { l.began, l.move = time.Now(), *m })
	<-ctx.Done()
	l.do(func() { l.ended = time.Now() })
	return hypervisor.ErrAborted
}

func (l *longMove) MoveStats(context.Context, api.ID) (hypervisor.MoveStats, error) {
	return hypervisor.MoveStats{Total: 2 * api.GiB, Remaining: api.GiB, Done: api.GiB}, nil
}

func (l *longMove) SetMaxDowntime(_ context.Context, _ api.ID, downtime api.Duration) (err error) {
	l.do(func() {
		if err = l.refuse; err == nil {
			l.limits, l.changed = append(l.limits, downtime), time.Now()
		}
	})
	return err
}

// longPeer is the destination's agent.
type longPeer struct{ rpc.Caller }

func (longPeer) Call(_ context.Context, method string, _, resp api.Message) error {
	if method != "Agent.MoveTarget" {
		return api.Errorf(api.CodeNotFoundRoute, "no %s", method)
	}
	b, err := json.Marshal(moveTarget{Machine: &hypervisor.Machine{ID: vm1}})
	resp.(*api.Chunk).Data = b
	return err
}

func (l *longMove) Expect(api.ID, api.ID, api.ID, string) (io.Closer, error) {
	return nil, api.Errorf(api.CodeInternal, "not this way")
}

func (l *longMove) Open(_ context.Context, _, _ api.ID, _ string, _ api.ID, o api.MigrationOptions) (Tunnel, error) {
	l.do(func() { l.rates = append(l.rates, o.Bandwidth) })
	return l.tunnel(), nil
}

// longTunnel is the tunnel of a longMove.
type longTunnel struct {
	Tunnel
	l *longMove
}

func (l *longMove) tunnel() Tunnel { return longTunnel{l: l} }

func (t longTunnel) Control() string          { return "/control" }
func (t longTunnel) Memory() string           { return "/memory" }
func (t longTunnel) Disks() string            { return "/disks" }
func (t longTunnel) Sent() api.Bytes          { return api.GiB }
func (t longTunnel) SetBandwidth(b api.Bytes) { t.l.do(func() { t.l.rates = append(t.l.rates, b) }) }
func (t longTunnel) Close() error             { t.l.do(func() { t.l.closed = true }); return nil }
func (l *longMove) lastRate() (b api.Bytes)   { l.do(func() { b = l.rates[len(l.rates)-1] }); return b }
func (l *longMove) isOver() (over, closed bool) {
	l.do(func() { over, closed = !l.ended.IsZero(), l.closed })
	return
}

// movingOut is a bed whose VM goes to another node for as long as the test likes.
// tell gives the source its part anew.
func movingOut(t *testing.T, f func(b *bed, l *longMove, g *api.Migration, tell func())) {
	inBed(t, sim.Options{}, func(t *testing.T, b *bed) {
		l := &longMove{}
		b.change = func(c *Config) { l.Driver, c.Driver, c.Moves = b.driver, l, l }
		b.peers["n2:1"] = longPeer{}
		b.start()
		b.srv.order(vm1)
		b.expect(vm1, api.StateRunning)
		g := &api.Migration{
			ID: api.ID{0xc0}, VMID: vm1, Mode: api.MigrateLive, Phase: api.MigrationCopying, From: node1, To: api.ID{0xbb},
			Epoch: b.report(vm1).Epoch, Attempts: 1, Secret: api.ID{1}, Options: api.MigrationOptions{Bandwidth: api.MiB},
		}
		g.Options.Fill(&api.MigrationPolicy{})
		tell := func() {
			next := *g
			b.srv.do(func() {
				b.srv.send(&api.OrderBatch{Generation: 1, Index: b.srv.index, Moves: []*api.MoveOrder{{Migration: &next, Peer: "n2:1"}}})
			})
		}
		tell()
		b.rest()
		l.do(func() { must.False(t, l.began.IsZero(), must.Sprint("it was not begun")) })
		f(b, l, g, tell)
	})
}

func TestACopyFollowsTheLimitsThatAreSet(t *testing.T) {
	movingOut(t, func(b *bed, l *longMove, g *api.Migration, tell func()) {
		must.Eq(t, api.MiB, l.lastRate())
		l.do(func() {
			must.Eq(t, 300*time.Millisecond, l.move.MaxDowntime.D())
			must.SliceEmpty(t, l.limits)
		})
		g.Options.Bandwidth = 5 * api.MiB
		begin := time.Now()
		tell()
		b.sleep(100 * time.Millisecond)
		must.Eq(t, 5*api.MiB, l.lastRate())

		g.Options.Bandwidth, g.Options.MaxDowntime = 0, api.Duration(2*time.Second)
		tell()
		b.sleep(100 * time.Millisecond)
		must.Eq(t, 0, l.lastRate())
		l.do(func() {
			must.Eq(t, []api.Duration{g.Options.MaxDowntime}, l.limits)
			must.LessEq(t, time.Second, l.changed.Sub(begin))
		})

		// What the hypervisor does not take now it is told again, and only then.
		l.do(func() { l.refuse = hypervisor.ErrNotFound })
		g.Options.MaxDowntime = api.Duration(time.Second)
		tell()
		b.sleep(3 * time.Second)
		l.do(func() { l.refuse = nil })
		b.sleep(10 * time.Second)
		l.do(func() { must.Eq(t, []api.Duration{api.Duration(2 * time.Second), api.Duration(time.Second)}, l.limits) })
		over, closed := l.isOver()
		must.False(t, over || closed, must.Sprint("it goes on"))
	})
}

// From the order on nothing waits: the copy ends at once, and the tunnel with it.
func TestACancelEndsACopyAtOnce(t *testing.T) {
	// Not longer: the servers of a bed are silent, and a stream that was silent for a minute is opened anew.
	for _, after := range []time.Duration{0, 50 * time.Millisecond, time.Second, 30 * time.Second} {
		movingOut(t, func(b *bed, l *longMove, g *api.Migration, tell func()) {
			b.sleep(after)
			g.Phase = api.MigrationAborting
			begin := time.Now()
			tell()
			b.sleep(time.Second)
			over, closed := l.isOver()
			must.True(t, over && closed)
			l.do(func() { must.Eq(t, 0, l.ended.Sub(begin), must.Sprintf("after %s", after)) })
			g.Options.Bandwidth = api.GiB // of a move that is over
			tell()
			b.rest()
			must.Eq(t, api.MiB, l.lastRate())
			b.expect(vm1, api.StateRunning)
		})
	}
}
