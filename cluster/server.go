package cluster

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/peer"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
	"github.com/novacron/novacron/fsm/event"
)

// Server is one server of a region.
type Server struct {
	cfg  *Config
	id   *Identity
	log  *slog.Logger
	self *api.Server // what gossip tells of this server; a constant

	fsm    *fsm.FSM
	events *event.Ring
	pump   *eventPump
	// progressFeed is how far moves are, for readers of events.
	progressFeed *progressFeed
	raft         *raft.Raft
	trans        *raft.NetworkTransport
	stores       *raftStores

	net    *network
	pool   *rpc.Pool
	mux    *rpc.Mux
	gossip *gossip
	admin  *admin

	leadership *leadership
	leases     *leases
	beats      *batcher[*timedBeat, *api.NodeBeaten]
	reports    *batcher[*api.NodeReport, api.Index]
	orders     *orderHub
	sched      *scheduleLoop
	moves      *moveLoop
	drains     *drainLoop
	hash       hashPoint
	hashWanted chan *fsm.HashPoint // buffered by one
	moved      movedNodes

	// Each is buffered by one: a word that something is to be looked at.
	membersChanged, nodesChanged, deniedChanged chan struct{}

	healthMu sync.Mutex
	healthy  map[api.ID]bool // autopilot's newest verdicts

	up     atomic.Bool // everything above is there
	ctx    context.Context
	cancel context.CancelFunc
	once   sync.Once

	closeMu sync.Mutex // of closing, and of what is added to wg
	closing bool
	wg      sync.WaitGroup
	err     error
}

var _ rpc.Router = (*Server)(nil)

// New starts a server from its data folder (or from what cfg holds in memory)
// and returns when it serves; it may not have found a leader yet. ctx bounds the
// start only.
func New(ctx context.Context, cfg Config) (*Server, error) {
	c, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: c, id: c.Identity, log: c.Logger,
		leadership: newLeadership(), leases: newLeases(c.Clock), orders: newOrderHub(),
		hashWanted: make(chan *fsm.HashPoint, 1), moved: movedNodes{wake: make(chan struct{}, 1)},
		membersChanged: make(chan struct{}, 1), nodesChanged: make(chan struct{}, 1), deniedChanged: make(chan struct{}, 1),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.beats = newBatcher(beatWindow, 1<<16, s.flushBeats)
	s.reports = newBatcher(reportWindow, reportsPerEntry, s.flushReports)
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	live := &livelock{halt: s.cfg.Halt}
	s.events = event.New(event.Config{})
	s.pump = newEventPump(s.events)
	s.fsm = fsm.New(fsm.Config{
		Logger:   s.log,
		Registry: s.cfg.Registry,
		Halt:     s.cfg.Halt,
		OnCommit: s.onCommit,
		OnHash:   s.onHash,
		OnRestore: func(st *fsm.State) {
			live.restored(st.Index())
			s.onRestore(st)
		},
	})
	s.sched = newScheduleLoop(s.fsm, s.applyOutcome, s.voterCount, s.log)
	s.moves = newMoveLoop(s.fsm, s.applyOutcome, s.holding, s.sched.move, s.cfg.Now, s.log)
	s.drains = newDrainLoop(s.fsm, s.applyOutcome, s.cfg.Now, s.log)
	s.progressFeed = newProgressFeed(s.fsm, s.progress)
	s.background(s.pump.run)
	s.background(s.progressFeed.run)
	s.background(s.makeHashes)
	var err error
	if s.net, err = s.openNetwork(ctx); err != nil {
		return err
	}
	s.pool = s.net.pool
	s.self = &api.Server{
		ID: s.id.NodeID, Name: s.id.Name + "." + s.id.Region, Region: s.id.Region, Datacenter: s.cfg.Datacenter,
		Address: s.net.address, HTTPAddr: s.cfg.HTTPAddr, Status: peer.StatusAlive, Version: s.cfg.Version,
		Protocol: Protocol, SchemaMax: s.fsm.Registry().Newest(),
	}
	if s.gossip, err = newGossip(ctx, s.cfg, s.self, s.poke); err != nil {
		return err
	}
	if err := s.startRaft(); err != nil {
		return err
	}
	s.up.Store(true)
	s.leadership.poke()
	s.background(s.joinGossip)
	s.background(s.renewOwn)
	s.background(s.recheck)
	s.background(s.forgetMoved)
	if s.cfg.Dir != "" {
		if s.admin, err = s.newAdmin(s.ctx, s.cfg.Dir); err != nil {
			return err
		}
	}
	s.log.Info("server started", "region", s.id.Region, "cluster", s.id.ClusterID, "node", s.id.NodeID, "address", s.self.Address, "gossip", s.gossip.addr())
	return nil
}

func (s *Server) startRaft() error {
	log := newHLog(s.log, "raft")
	var err error
	if s.stores, err = openStores(s.cfg, log); err != nil {
		return err
	}
	s.trans = newRaftTransport(s.net.raft, s.addressOf, log)
	notify := make(chan bool, 8)
	rc := raftConfig(s.id.NodeID, s.cfg.Multiplier, log, notify)
	has, err := raft.HasExistingState(s.stores.logs, s.stores.stable, s.stores.snaps)
	if err != nil {
		return err
	}
	if s.id.Bootstrap && !has {
		one := raft.Configuration{Servers: []raft.Server{{ID: rc.LocalID, Address: raft.ServerAddress(s.self.Address)}}}
		if err := raft.BootstrapCluster(rc, s.stores.logs, s.stores.stable, s.stores.snaps, s.trans, one); err != nil {
			return err
		}
	}
	if s.id.Bootstrap && s.cfg.Dir != "" && !s.cfg.InMemory {
		s.id.Bootstrap = false
		if err := s.id.Save(s.cfg.Dir); err != nil {
			return err
		}
	}
	if s.raft, err = raft.NewRaft(rc, s.fsm, s.stores.logs, s.stores.stable, s.stores.snaps, s.trans); err != nil {
		return err
	}
	if st := s.fsm.State(); !st.ClusterID().IsZero() {
		if err := s.id.Belongs(s.cfg.Dir, st.RegionName(), api.ID{}, st.ClusterID()); err != nil {
			return err
		}
	}
	obs := make(chan raft.Observation, 64)
	s.raft.RegisterObserver(raft.NewObserver(obs, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	}))
	s.background(func(ctx context.Context) { s.observe(ctx, obs) })
	s.background(func(ctx context.Context) { s.monitor(ctx, notify) })
	return nil
}

// background runs fn on a goroutine that Close waits for. Once the server
// closes it runs nothing and reports false.
func (s *Server) background(fn func(context.Context)) bool {
	if !s.enter() {
		return false
	}
	go func() {
		defer s.wg.Done()
		fn(s.ctx)
	}()
	return true
}

// enter counts something that Close waits for before it stops Raft: an entry
// that is proposed to a Raft that stops would wait for ever.
func (s *Server) enter() bool {
	s.closeMu.Lock()
	defer s.closeMu.Unlock()
	if s.closing {
		return false
	}
	s.wg.Add(1)
	return true
}

// poke tells the leader's duties that gossip or nodes changed.
func (s *Server) poke() {
	select {
	case s.membersChanged <- struct{}{}:
	default:
	}
}

// onCommit is called after each entry, on the goroutine that applies.
func (s *Server) onCommit(index api.Index, changes []fsm.Change) {
	if len(changes) == 0 {
		return
	}
	st := s.fsm.State()
	s.pump.add(eventBatch{index: index, changes: changes, state: st})
	s.orders.commit(st, changes)
	s.sched.onCommit(index, changes)
	s.moved.commit(changes)
	s.moves.onCommit(changes)
	s.progressFeed.onCommit(changes)
	s.drains.onCommit(changes)
	for i := range changes {
		if changes[i].Table == fsm.TableDenied {
			select {
			case s.deniedChanged <- struct{}{}:
			default:
			}
			break
		}
	}
}

// onRestore is called after the state was replaced.
func (s *Server) onRestore(st *fsm.State) {
	s.pump.add(eventBatch{index: st.Index(), reset: true})
	s.orders.restored()
	s.sched.onRestore(st)
	s.moves.onRestore()
	s.progressFeed.onRestore()
}

// duties are what only the leader does.
func (s *Server) duties() []duty {
	return []duty{
		{"members", s.dutyMembers},
		{"autopilot", s.dutyAutopilot},
		{"beats", s.beats.run},
		{"reports", s.reports.run},
		{"liveness", s.dutyLiveness},
		{"hosts", s.dutyHosts},
		{"dial-back", s.dutyDialBack},
		{"schedule", s.sched.run},
		{"migrations", s.moves.run},
		{"cutovers", s.dutyCutovers},
		{"drains", s.drains.run},
		{"images", s.dutyImages},
		{"recovery", s.dutyRecovery},
		{"tokens", s.dutyTokens},
		{"hash", s.dutyHash},
	}
}

// joinGossip contacts the servers that are known until one answers.
func (s *Server) joinGossip(ctx context.Context) {
	addrs := append(append([]string(nil), s.cfg.Join...), s.id.Serf...)
	for wait := time.Second; len(addrs) > 0; wait = min(2*wait, 30*time.Second) {
		err := s.gossip.join(addrs)
		if err == nil {
			return
		}
		s.log.Warn("gossip: nobody answers yet", "error", err)
		if !pause(ctx, wait) {
			return
		}
	}
}

// Mux holds all endpoints of this server; it is also how this process calls
// them.
func (s *Server) Mux() *rpc.Mux { return s.mux }

// FSM is the state machine, for reads in this process.
func (s *Server) FSM() *fsm.FSM { return s.fsm }

// Pool is the connections to other servers and nodes.
func (s *Server) Pool() *rpc.Pool { return s.pool }

// Self is what this server tells of itself.
func (s *Server) Self() api.Server { return *s.self }

// GossipAddr is where other servers join the pool.
func (s *Server) GossipAddr() string { return s.gossip.addr() }

// Identity is this server's identity; it is a constant.
func (s *Server) Identity() *Identity { return s.id }

// Leave leaves for good: leadership is handed over, the others learn by gossip,
// and the leader takes this server out of Raft. The last voter stays a voter.
// Close is still to be called.
func (s *Server) Leave(ctx context.Context) error {
	voters, err := s.voters()
	if err != nil {
		return err
	}
	if voters > 1 && s.raft.State() == raft.Leader {
		if err := s.raft.LeadershipTransfer().Error(); err != nil {
			s.log.Warn("leadership could not be handed over", "error", err)
		}
	}
	if err := s.gossip.leave(); err != nil {
		s.log.Warn("gossip: leave", "error", err)
	}
	if voters <= 1 {
		return nil
	}
	// The leader removes this server; the word of it may not reach us, so the
	// wait is bounded.
	ctx, cancel := context.WithTimeout(ctx, leaveWait)
	defer cancel()
	for ctx.Err() == nil {
		f := s.raft.GetConfiguration()
		if err := f.Error(); err != nil {
			return nil
		}
		in := false
		for _, m := range f.Configuration().Servers {
			in = in || string(m.ID) == s.id.NodeID.String()
		}
		if !in {
			return nil
		}
		pause(ctx, 50*time.Millisecond)
	}
	return nil
}

const leaveWait = 5 * time.Second

func (s *Server) voters() (int, error) {
	f := s.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return 0, err
	}
	n := 0
	for _, m := range f.Configuration().Servers {
		if m.Suffrage == raft.Voter {
			n++
		}
	}
	return n, nil
}

// Abort stops the server as the loss of its power would: the network is cut
// first, so that nothing under way can end well. Then it closes.
func (s *Server) Abort() error {
	if s.up.Load() {
		s.net.shut()
		s.pool.Close()
		if err := s.trans.Close(); err != nil {
			return errors.Join(err, s.Close())
		}
		s.trans.CloseStreams()
	}
	return s.Close()
}

// Close stops the server and waits for everything that it started. To the
// others it has failed, unless Leave came before.
func (s *Server) Close() error {
	s.once.Do(func() {
		var errs []error
		add := func(err error) { errs = append(errs, err) }
		if s.mux != nil {
			s.mux.Drain()
		}
		s.closeMu.Lock()
		s.closing = true
		s.closeMu.Unlock()
		s.cancel()
		if s.admin != nil {
			add(s.admin.close())
		}
		s.wg.Wait() // while Raft still runs, whatever waits for it ends
		if s.gossip != nil {
			add(s.gossip.close())
		}
		if s.raft != nil {
			add(s.raft.Shutdown().Error())
		}
		if s.trans != nil {
			add(s.trans.Close())
			s.trans.CloseStreams() // Close leaves the pooled ones open
		}
		if s.net != nil {
			s.net.shut()
		}
		if s.mux != nil {
			s.mux.Close()
		}
		if s.pool != nil {
			s.pool.Close()
		}
		if s.stores != nil {
			add(s.stores.close())
		}
		s.err = errors.Join(errs...)
	})
	return s.err
}
