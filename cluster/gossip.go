package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/peer"
)

// gossip is this server's place in the one pool that the servers of all regions
// form, encrypted with the gossip key. What it tells is a hint where to dial;
// the certificate there is the proof.
type gossip struct {
	log     *slog.Logger
	serf    *serf.Serf
	events  chan serf.Event
	regions peer.Regions
	// onChange is told of each change; it must not block.
	onChange func()
	done     chan struct{}
	left     sync.Once
}

// onlyServers refuses to merge with a pool that holds anything else.
type onlyServers struct{}

// NotifyMerge returns an error to refuse.
func (onlyServers) NotifyMerge(ms []*serf.Member) error {
	for _, m := range ms {
		if m.Status == serf.StatusLeft {
			continue
		}
		if _, err := peer.Parse(m.Name, "", m.Tags); err != nil {
			return err
		}
	}
	return nil
}

func newGossip(ctx context.Context, c *Config, self *api.Server, onChange func()) (*gossip, error) {
	g := &gossip{log: c.Logger, events: make(chan serf.Event, 2048), onChange: onChange, done: make(chan struct{})}
	ml := memberlist.DefaultLANConfig()
	// Servers of other regions are far away: a probe may take a second. Members
	// that seem dead are asked through others first (SWIM with Lifeguard).
	ml.ProbeTimeout, ml.ProbeInterval = time.Second, 2*time.Second
	if c.fastGossip {
		ml.ProbeTimeout, ml.ProbeInterval, ml.GossipInterval, ml.SuspicionMult = 200*time.Millisecond, 300*time.Millisecond, 20*time.Millisecond, 2
	}
	// A server that comes back at another address is taken in soon, not only when
	// the old one is forgotten.
	ml.DeadNodeReclaimTime = 5 * time.Second
	ml.SecretKey = c.Identity.GossipKey
	sc := serf.DefaultConfig()
	sc.NodeName = c.Identity.Name + "." + c.Identity.Region
	sc.Tags = peer.Tags(self)
	sc.EventCh = g.events
	sc.MemberlistConfig = ml
	sc.EnableNameConflictResolution = false
	sc.DisableCoordinates = true
	sc.RejoinAfterLeave = true
	sc.Merge = onlyServers{}
	sc.LeavePropagateDelay = c.leaveDelay
	sc.BroadcastTimeout = 2 * time.Second
	logger := newHLog(c.Logger, "gossip").StandardLogger(nil)
	sc.Logger, ml.Logger, sc.LogOutput, ml.LogOutput = logger, logger, nil, nil
	if c.Gossip != nil {
		ml.Transport = c.Gossip
	} else {
		var err error
		if ml.BindAddr, ml.BindPort, err = hostPort(ctx, c.SerfBind); err != nil {
			return nil, err
		}
		if c.SerfAdvertise != "" {
			if ml.AdvertiseAddr, ml.AdvertisePort, err = hostPort(ctx, c.SerfAdvertise); err != nil {
				return nil, err
			}
		}
		if c.Dir != "" && !c.InMemory {
			sc.SnapshotPath = filepath.Join(c.Dir, "serf.snapshot")
		}
	}
	s, err := serf.Create(sc)
	if err != nil {
		return nil, api.Errorf(api.CodeConfig, "gossip on %s: %v", c.SerfBind, err)
	}
	g.serf = s
	go g.run()
	return g, nil
}

// hostPort resolves a host to one IP address, as gossip needs it.
func hostPort(ctx context.Context, addr string) (string, int, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, api.Errorf(api.CodeConfig, "%q is not host:port", addr)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", 0, api.Errorf(api.CodeConfig, "%q has no port number", addr)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	if net.ParseIP(host) == nil {
		ips, err := net.DefaultResolver.LookupIP(ctx, "ip", host)
		if err != nil || len(ips) == 0 {
			return "", 0, api.Errorf(api.CodeConfig, "%q does not resolve: %v", addr, err)
		}
		host = ips[0].String()
	}
	return host, int(n), nil
}

// run takes events until gossip is shut down.
func (g *gossip) run() {
	defer close(g.done)
	for {
		select {
		case <-g.serf.ShutdownCh():
			return
		case e := <-g.events:
			me, ok := e.(serf.MemberEvent)
			if !ok {
				continue
			}
			for _, m := range me.Members {
				g.member(me.Type, m)
			}
			g.onChange()
		}
	}
}

func (g *gossip) member(t serf.EventType, m serf.Member) {
	s, err := peer.Parse(m.Name, net.JoinHostPort(m.Addr.String(), strconv.Itoa(int(m.Port))), m.Tags)
	if err != nil {
		g.log.Warn("gossip: a member is not a server of ours", "member", m.Name, "error", err)
		return
	}
	switch t {
	case serf.EventMemberReap:
		if cur, ok := g.regions.Server(s.ID); ok && cur.Status != peer.StatusAlive {
			g.regions.Remove(s.ID)
		}
		return
	case serf.EventMemberFailed:
		s.Status = peer.StatusFailed
	case serf.EventMemberLeave:
		s.Status = peer.StatusLeft
	}
	g.regions.Put(s)
	g.log.Info("gossip: member", "event", t.String(), "server", s.Name, "id", s.ID, "address", s.Address, "status", s.Status)
}

// addr is where other servers find this one's gossip.
func (g *gossip) addr() string {
	m := g.serf.LocalMember()
	return net.JoinHostPort(m.Addr.String(), strconv.Itoa(int(m.Port)))
}

// join contacts known members; one that answers is enough.
func (g *gossip) join(addrs []string) error {
	if len(addrs) == 0 {
		return nil
	}
	n, err := g.serf.Join(addrs, true)
	if n > 0 {
		return nil
	}
	return fmt.Errorf("gossip: none of %v answers: %w", addrs, err)
}

// leave tells the pool that this server goes for good.
func (g *gossip) leave() error {
	var err error
	g.left.Do(func() { err = g.serf.Leave() })
	return err
}

// forget tells the pool that a member that is gone has left. It is not pruned:
// where the word comes after the member itself is back, serf would lose a member
// that memberlist knows to be alive, and never find it again; a member that is only
// said to have left takes it back.
func (g *gossip) forget(name string) error { return g.serf.RemoveFailedNode(name) }

// close ends gossip without a word: to the others this server has failed.
func (g *gossip) close() error {
	err := g.serf.Shutdown()
	<-g.done
	return errors.Join(err)
}
