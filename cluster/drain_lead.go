package cluster

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-metrics/compat"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/moves"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

// drainLoop is the duty of the leader that empties nodes: it queues moves, stops
// VMs and records when a node has said that nothing is left. It is
// level-triggered, like the moves that it asks for.
type drainLoop struct {
	fsm   *fsm.FSM
	apply applyFunc
	now   func() time.Time
	log   *slog.Logger
	wake  chan struct{} // buffered by one

	mu  sync.Mutex
	any bool // some node is being drained
}

func newDrainLoop(f *fsm.FSM, apply applyFunc, now func() time.Time, log *slog.Logger) *drainLoop {
	return &drainLoop{fsm: f, apply: apply, now: now, log: log, wake: make(chan struct{}, 1)}
}

// onCommit is called on the goroutine that applies and only marks.
func (l *drainLoop) onCommit(changes []fsm.Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range changes {
		switch v := changes[i].New.(type) {
		case *api.Node:
			l.any = l.any || v.Drain.Active()
		}
	}
	if l.any {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// run leads until ctx ends.
func (l *drainLoop) run(ctx context.Context) error {
	return every(ctx, drainTick, l.wake, l.pass)
}

func (l *drainLoop) pass(ctx context.Context) error {
	st := l.fsm.State()
	var nodes []*api.Node
	for n := range st.Nodes() {
		if n.Drain.Active() {
			nodes = append(nodes, n)
		}
	}
	l.mu.Lock()
	l.any = len(nodes) > 0
	l.mu.Unlock()
	metrics.SetGauge([]string{"node", "draining"}, float32(len(nodes)))
	if st.Recovery() != nil {
		return nil
	}
	for _, n := range nodes {
		if err := l.node(ctx, st, n); err != nil {
			return err
		}
	}
	return nil
}

// node does what is due for one node.
func (l *drainLoop) node(ctx context.Context, st *fsm.State, n *api.Node) error {
	plan := planDrain(st, n, l.now())
	var cmds []fsm.Command
	for _, m := range plan.moves {
		m.ID, m.Secret = api.NewID(), api.NewID()
		cmds = append(cmds, &fsm.MigrationCreate{Migration: *m})
	}
	for _, s := range plan.stops {
		cmds = append(cmds, s)
	}
	if plan.done && n.Status == api.NodeReady {
		cmds = append(cmds, &fsm.NodeDrain{ID: n.ID, Done: true, Start: n.Drain.StartTime})
	}
	for _, c := range cmds {
		res, err := l.apply(ctx, c)
		if err != nil && (res == nil || res.Err == nil) {
			return err // the outcome is not known, or this server leads no more
		}
		if res.Err != nil {
			l.log.Info("a step of a drain was refused", "node", n.Name, "error", res.Err)
		}
	}
	if plan.done && n.Status == api.NodeReady {
		l.log.Info("a node is drained", "node", n.Name, "mode", n.Drain.Mode)
	}
	return nil
}

// nodeDrain begins to empty a node, or cancels that.
func (s *Server) nodeDrain(ctx context.Context, req *api.NodeDrainRequest) (*api.NodeResponse, error) {
	n, err := findNode(s.fsm.State(), req.Key)
	if err != nil {
		return nil, err
	}
	cmd := &fsm.NodeDrain{ID: n.ID, CheckIndex: req.CheckIndex}
	if !req.Cancel {
		d := &api.NodeDrain{Mode: req.Mode, Force: req.Force}
		if id := rpc.IdentityFrom(ctx); id != nil {
			d.By = id.Name
		}
		if req.Deadline > 0 {
			d.Deadline = api.TimeOf(s.cfg.Now().Add(req.Deadline.D()))
		}
		cmd.Drain = d
	}
	res, err := s.Apply(ctx, cmd)
	if err != nil {
		return nil, err
	}
	st := s.fsm.State()
	out := &api.NodeResponse{QueryMeta: api.QueryMeta{Index: res.Index}, Node: value[*api.Node](res), Used: st.Used(n.ID)}
	out.Drain = s.drainItems(st, out.Node)
	return out, nil
}

// drainItems tells how far the drain of a node is, VM by VM.
func (s *Server) drainItems(st *fsm.State, n *api.Node) []api.DrainItem {
	if n == nil || n.Drain == nil {
		return nil
	}
	items := planDrain(st, n, s.cfg.Now()).items
	var plan *moves.Plan
	for i := range items {
		it := &items[i]
		if it.State != api.DrainQueued && it.State != api.DrainMoving || it.Migration.IsZero() {
			continue
		}
		if m := st.Migration(it.Migration); m != nil && i < drainExplained {
			for _, why := range s.moveReasonsIn(st, m, &plan) {
				it.Why += "; " + why
			}
		}
	}
	return items
}

// drainExplained bounds the moves that are explained in one answer.
const drainExplained = 32
