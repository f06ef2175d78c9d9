// Package peers is the pool that the nodes of a region form among themselves
// (memberlist: SWIM with Lifeguard, encrypted). It tells which nodes their peers
// reach no more.
//
// Promises: what it tells is a hint. It is no evidence, stops and starts nothing,
// and a node whose pool does not come up works as well without it. All goroutines
// end with Close.
//
// What does not belong: what follows from a hint; that is the servers'.
package peers

import (
	"bytes"
	"context"
	"errors"
	"log"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/novacron/novacron/api"
)

// DefaultPort is the port of the pool, TCP and UDP.
const DefaultPort = 7649

// Config is what a pool needs. NodeID and Region are needed, and an address to
// bind.
type Config struct {
	NodeID api.ID
	Region string
	// BindAddr and BindPort are listened on, AdvertiseAddr is an IP address that
	// the others reach; 0 takes any free port.
	BindAddr, AdvertiseAddr string
	BindPort                int
	Logger                  *slog.Logger
	// Transport, if set, takes the place of sockets, in tests and simulation.
	Transport memberlist.Transport
	// Fast probes in tenths of a second, for tests.
	Fast bool
}

// rejoin is how often a pool that lacks known members tries to reach them again.
const rejoin = 30 * time.Second

// Pool is this node's place in the pool. It is empty until the first Join.
type Pool struct {
	cfg Config

	mu     sync.Mutex
	list   *memberlist.Memberlist
	key    []byte
	known  []string // addresses that the servers named
	closed bool
	done   chan struct{}
	wg     sync.WaitGroup

	// seen is locked by itself: memberlist calls back while it is made.
	seen   sync.Mutex
	failed map[api.ID]bool
}

// New makes a pool that listens nowhere yet.
func New(c Config) *Pool {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Pool{cfg: c, failed: map[api.ID]bool{}, done: make(chan struct{})}
}

// errClosed: the pool has ended.
var errClosed = errors.New("the pool is closed")

// Join enters the pool with the region's key, through any of the addresses. That
// nobody answers is no error: they may come. A second Join tries again with those
// who are not there, and with another key the pool is entered anew.
func (p *Pool) Join(key []byte, members []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errClosed
	}
	p.known = members
	if p.list != nil && bytes.Equal(p.key, key) {
		p.wg.Go(p.again)
		return nil
	}
	if p.list != nil {
		_ = p.list.Shutdown()
		p.list = nil
		p.seen.Lock()
		clear(p.failed)
		p.seen.Unlock()
	}
	m := memberlist.DefaultLANConfig()
	m.Name, m.SecretKey, m.Label = p.cfg.NodeID.String(), key, "clients."+p.cfg.Region
	m.BindAddr, m.BindPort, m.AdvertiseAddr, m.AdvertisePort = p.cfg.BindAddr, p.cfg.BindPort, p.cfg.AdvertiseAddr, p.cfg.BindPort
	// A hint is worth something only before the servers themselves have missed two
	// beats (6 s), and a wrong one does no harm: probe more often than on LANs is
	// usual, and give the one that is suspected less time to object.
	m.ProbeInterval, m.ProbeTimeout, m.SuspicionMult, m.GossipInterval = 500*time.Millisecond, 200*time.Millisecond, 2, 100*time.Millisecond
	m.TCPTimeout = 2 * time.Second
	m.DeadNodeReclaimTime = time.Millisecond // a node that is back may be so at another address
	m.Events = events{p}
	m.Transport = p.cfg.Transport
	m.Logger = log.New(lines{p.cfg.Logger}, "", 0)
	if p.cfg.Fast {
		m.ProbeTimeout, m.ProbeInterval, m.GossipInterval, m.SuspicionMult = 100*time.Millisecond, 200*time.Millisecond, 20*time.Millisecond, 2
	}
	list, err := memberlist.Create(m)
	if err != nil {
		return api.Errorf(api.CodeConfig, "the pool of the region's nodes: %v", err)
	}
	first := p.key == nil
	p.list, p.key = list, key
	p.wg.Go(p.again)
	if first {
		p.wg.Go(p.keep)
	}
	return nil
}

// keep reaches for those who are not there, until Close.
func (p *Pool) keep() {
	t := time.NewTicker(rejoin)
	defer t.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-t.C:
			p.again()
		}
	}
}

// again joins through the addresses of those who are not members now: after a
// split both halves have given each other up.
func (p *Pool) again() {
	p.mu.Lock()
	list, known, closed := p.list, slices.Clone(p.known), p.closed
	p.mu.Unlock()
	if list == nil || closed {
		return
	}
	for _, m := range list.Members() {
		known = slices.DeleteFunc(known, func(a string) bool { return a == m.Address() })
	}
	if len(known) > 0 {
		_, _ = list.Join(known) // it says itself, in the log, whom it did not reach
	}
}

// Address is where the others reach this node; empty before Join.
func (p *Pool) Address() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.list == nil {
		return ""
	}
	return p.list.LocalNode().Address()
}

// View returns the nodes that the pool has seen fail, in order, and how many
// others are members; nil when this node is in no pool.
func (p *Pool) View() *api.PeerView {
	p.mu.Lock()
	list := p.list
	p.mu.Unlock()
	if list == nil {
		return nil
	}
	v := &api.PeerView{}
	p.seen.Lock()
	for id := range p.failed {
		v.Failed = append(v.Failed, id)
	}
	p.seen.Unlock()
	slices.SortFunc(v.Failed, func(a, b api.ID) int { return bytes.Compare(a[:], b[:]) })
	v.Alive = int32(list.NumMembers() - 1)
	return v
}

// Close ends the pool, and waits for what it does.
func (p *Pool) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	list := p.list
	close(p.done)
	p.mu.Unlock()
	var err error
	if list != nil {
		err = list.Shutdown()
	}
	p.wg.Wait()
	return err
}

// events notes who comes, fails and leaves.
type events struct{ p *Pool }

// NotifyJoin is called when a node is there, or there again.
func (e events) NotifyJoin(n *memberlist.Node) { e.note(n, false) }

// NotifyLeave is called when a node does not answer any more. Nobody leaves the
// pool with a word: who has left is known to the servers.
func (e events) NotifyLeave(n *memberlist.Node) { e.note(n, true) }

// NotifyUpdate means nothing here.
func (e events) NotifyUpdate(*memberlist.Node) {}

// note is called with memberlist's lock held.
func (e events) note(n *memberlist.Node, failed bool) {
	id, err := api.ParseID(n.Name)
	if err != nil || id == e.p.cfg.NodeID {
		return
	}
	e.p.seen.Lock()
	defer e.p.seen.Unlock()
	if failed {
		e.p.failed[id] = true
	} else {
		delete(e.p.failed, id)
	}
}

// lines passes memberlist's lines on to the log.
type lines struct{ log *slog.Logger }

// Write takes one line.
func (l lines) Write(b []byte) (int, error) {
	text := strings.TrimSpace(string(b))
	for mark, level := range map[string]slog.Level{"[DEBUG] ": slog.LevelDebug, "[INFO] ": slog.LevelDebug, "[WARN] ": slog.LevelInfo, "[ERR] ": slog.LevelInfo} {
		if rest, ok := strings.CutPrefix(text, mark); ok {
			l.log.Log(context.Background(), level, rest)
			return len(b), nil
		}
	}
	l.log.Debug(text)
	return len(b), nil
}
