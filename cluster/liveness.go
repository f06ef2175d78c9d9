package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-metrics/compat"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/lease"
	"github.com/novacron/novacron/fsm"
)

const (
	livenessTick    = time.Second
	dialTimeout     = 2 * time.Second
	dialRetry       = 10 * time.Second
	dialAtOnce      = 16
	statusPerEntry  = 1024
	reportWindow    = 50 * time.Millisecond
	reportsPerEntry = 256
)

// timedBeat is a heartbeat with the time of its arrival.
type timedBeat struct {
	beat *api.NodeBeat
	at   time.Duration
}

// flushBeats acknowledges beats behind one quorum check.
func (s *Server) flushBeats(ctx context.Context, batch []*timedBeat) ([]*api.NodeBeaten, error) {
	defer metrics.MeasureSince([]string{"node", "beats"}, time.Now())
	check := lease.BeginCheck(s.cfg.Clock())
	check.End(s.raft.VerifyLeader().Error() == nil)
	if !check.Holds() {
		return nil, errNotLeading()
	}
	st := s.fsm.State()
	servers, denied, disarm := s.serverAddrs(), deniedIDs(st), st.HAConfig().Disarmed
	out := make([]*api.NodeBeaten, len(batch))
	wake := false
	for i, b := range batch {
		ack := &api.NodeBeaten{Seq: b.beat.Seq, Generation: st.Generation(), Heartbeat: api.Duration(heartbeat), Servers: servers, Denied: denied, Disarm: disarm}
		out[i] = ack
		a := s.leases.answer(st, b.beat, b.at, check)
		ack.Register, ack.Lease = a.Register, api.Duration(a.Lease)
		wake = wake || !a.Register && (st.Node(b.beat.NodeID).Status != api.NodeReady || b.beat.Leaving)
	}
	if wake {
		s.pokeNodes()
	}
	return out, nil
}

// deniedIDs are the nodes that no machine of the region may let in.
func deniedIDs(st *fsm.State) []api.ID {
	var out []api.ID
	for d := range st.DeniedNodes() {
		out = append(out, d.NodeID)
	}
	return out
}

// flushReports commits reports as one entry.
func (s *Server) flushReports(ctx context.Context, batch []*api.NodeReport) ([]api.Index, error) {
	defer metrics.MeasureSince([]string{"node", "reports"}, time.Now())
	cmd := &fsm.NodeReports{Reports: make([]api.NodeReport, len(batch))}
	for i, r := range batch {
		cmd.Reports[i] = *r
	}
	res, err := s.Apply(ctx, cmd)
	if err == nil {
		out := make([]api.Index, len(batch))
		for i := range out {
			out[i] = res.Index
		}
		return out, nil
	}
	if len(batch) > 1 && api.CodeOf(err) == api.CodeTooLarge {
		a, err := s.flushReports(ctx, batch[:len(batch)/2])
		if err != nil {
			return nil, err
		}
		b, err := s.flushReports(ctx, batch[len(batch)/2:])
		return append(a, b...), err
	}
	return nil, err
}

// pokeNodes makes the liveness duty look at once.
func (s *Server) pokeNodes() {
	select {
	case s.nodesChanged <- struct{}{}:
	default:
	}
}

// dutyLiveness follows the lease table: nodes that beat are ready, nodes that
// are silent for two beats are suspect. Nothing of what they run is touched, and
// nothing is started elsewhere: silence is no evidence.
func (s *Server) dutyLiveness(ctx context.Context) error {
	return every(ctx, livenessTick, s.nodesChanged, s.checkLiveness)
}

func (s *Server) checkLiveness(ctx context.Context) error {
	var items []fsm.NodeStatusItem
	st := s.fsm.State()
	silentNodes := 0
	for n := range st.Nodes() {
		silent, heard := s.leases.silent(n.ID)
		item := fsm.NodeStatusItem{NodeID: n.ID, SessionID: st.Session(n.ID)}
		switch {
		case n.Status == api.NodeLost || n.Status == api.NodeLeft:
			continue
		case s.leases.leaving(n.ID):
			item.Status, item.Note = api.NodeLeft, "left; its guests run on"
		case silent > doubtAfter && s.suspects(n, silent, &item):
			silentNodes++
			if item.Status == "" {
				continue
			}
		case heard && n.Status != api.NodeReady && !item.SessionID.IsZero():
			item.Status = api.NodeReady
		default:
			continue
		}
		items = append(items, item)
	}
	metrics.SetGauge([]string{"node", "silent"}, float32(silentNodes))
	for len(items) > 0 {
		k := min(len(items), statusPerEntry)
		if _, err := s.Apply(ctx, &fsm.NodeStatus{Items: items[:k]}); err != nil {
			return err
		}
		for _, it := range items[:k] {
			s.log.Info("a node's status changes", "node", it.NodeID, "status", it.Status, "note", it.Note)
		}
		items = items[k:]
	}
	return nil
}

// dial tries to reach a node's agent; it returns why that fails, or "".
func (s *Server) dial(ctx context.Context, id api.ID, addr string) string {
	if addr == "" {
		return "the node tells no address"
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := s.pool.Node(id, addr).Call(ctx, "Agent.Ping", &api.Empty{}, &api.Empty{}); err != nil {
		e := asError(err)
		return addr + ": " + e.Message
	}
	return ""
}

// dutyDialBack tries again to reach the nodes that could not be dialed.
func (s *Server) dutyDialBack(ctx context.Context) error {
	return every(ctx, dialRetry, nil, func(ctx context.Context) error {
		var mu sync.Mutex
		var items []fsm.NodeStatusItem
		var wg sync.WaitGroup
		slots := make(chan struct{}, dialAtOnce)
		for n := range s.fsm.State().Nodes() {
			if n.Unreachable == "" || n.Status == api.NodeLeft || n.Status == api.NodeLost {
				continue
			}
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				why := s.dial(ctx, n.ID, n.Address)
				if why == n.Unreachable || ctx.Err() != nil {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				items = append(items, fsm.NodeStatusItem{NodeID: n.ID, Unreachable: &why})
			})
		}
		wg.Wait()
		if len(items) == 0 {
			return nil
		}
		_, err := s.Apply(ctx, &fsm.NodeStatus{Items: items})
		return err
	})
}
