package cluster

import (
	"context"
	"errors"
	"iter"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

// endpoints registers every verb of every noun, once, with its kind and the
// capability that it asks for.
func (s *Server) endpoints() {
	s.vmEndpoints()
	s.nodeEndpoints()
	s.volumeEndpoints()
	s.poolEndpoints()
	s.imageEndpoints()
	s.networkEndpoints()
	s.namespaceEndpoints()
	s.placementEndpoints()
	s.migrationEndpoints()
	s.tokenEndpoints()
	s.eventEndpoints()
	s.statusEndpoints()
	s.operatorEndpoints()
	s.snapshotEndpoints()
	s.schemaEndpoints()
	s.fenceEndpoints()
}

type handler[Q, R any] = func(context.Context, *Q) (*R, error)

// prepared completes and checks a request before its handler sees it: defaults,
// form, and the body that an idempotency key stands for.
func prepared[Q, R any, PQ rpc.Msg[Q]](s *Server, name string, h handler[Q, R]) handler[Q, R] {
	return func(ctx context.Context, in *Q) (*R, error) {
		req := *in // what the caller holds is not changed
		ctx, err := s.prepare(ctx, name, PQ(&req))
		if err != nil {
			return nil, err
		}
		return h(ctx, &req)
	}
}

func (s *Server) prepare(ctx context.Context, name string, req api.Message) (context.Context, error) {
	if !s.up.Load() {
		return nil, api.Errorf(api.CodeUnreachable, "the server is starting").WithHint("ask another server")
	}
	if c, ok := req.(api.Canonicalizer); ok {
		c.Canonicalize()
	}
	if v, ok := req.(api.Validator); ok {
		if err := v.Validate(); err != nil {
			return nil, err
		}
	}
	return withBody(ctx, name, req)
}

func read[Q, R any, PQ rpc.Msg[Q], PR rpc.Msg[R]](s *Server, name string, c acl.Capability, h handler[Q, R]) {
	p := prepared[Q, R, PQ](s, name, h)
	rpc.Read(s.mux, name, c, func(ctx context.Context, q PQ) (PR, error) { r, err := p(ctx, q); return PR(r), err })
}

func write[Q, R any, PQ rpc.Msg[Q], PR rpc.Msg[R]](s *Server, name string, c acl.Capability, h handler[Q, R]) {
	p := prepared[Q, R, PQ](s, name, h)
	rpc.Write(s.mux, name, c, func(ctx context.Context, q PQ) (PR, error) { r, err := p(ctx, q); return PR(r), err })
}

func nodeCall[Q, R any, PQ rpc.Msg[Q], PR rpc.Msg[R]](s *Server, name string, h handler[Q, R]) {
	p := prepared[Q, R, PQ](s, name, h)
	rpc.Node(s.mux, name, acl.NodeSelf, func(ctx context.Context, q PQ) (PR, error) { r, err := p(ctx, q); return PR(r), err })
}

func serverCall[Q, R any, PQ rpc.Msg[Q], PR rpc.Msg[R]](s *Server, name string, h handler[Q, R]) {
	p := prepared[Q, R, PQ](s, name, h)
	rpc.Server(s.mux, name, acl.ServerSelf, func(ctx context.Context, q PQ) (PR, error) { r, err := p(ctx, q); return PR(r), err })
}

func stream[Q any, PQ rpc.Msg[Q]](s *Server, k rpc.Kind, name string, c acl.Capability, h func(context.Context, *Q, api.Stream) error) {
	rpc.Stream(s.mux, k, name, c, func(ctx context.Context, in PQ, st api.Stream) error {
		req := *in
		ctx, err := s.prepare(ctx, name, PQ(&req))
		if err != nil {
			return err
		}
		return h(ctx, &req, st)
	})
}

// query answers a read from the state, blocking if it was asked to, and labels
// the answer.
func (s *Server) query(ctx context.Context, q *api.QueryOptions, meta *api.QueryMeta, fn func(*fsm.State, *fsm.WatchSet) (api.Index, error)) error {
	if err := s.fsm.Query(ctx, q, meta, fn); err != nil {
		return err
	}
	s.label(q, meta)
	return nil
}

// label says how fresh an answer is.
func (s *Server) label(q *api.QueryOptions, meta *api.QueryMeta) {
	if s.IsLeader() {
		meta.KnownLeader = true
		return
	}
	_, meta.KnownLeader = s.Leader()
	meta.LastContact = api.Duration(max(s.lastContact(), 0))
	meta.Stale = q.Consistency == api.ConsistencyStale
}

// list answers a list of nouns: all gives the nouns of a namespace ("*": of all).
func list[T, O any](ctx context.Context, s *Server, q *api.QueryOptions, meta *api.QueryMeta, k *kindOf[T], c acl.Capability,
	all func(st *fsm.State, ns string) iter.Seq[T], show func(*fsm.State, T) O, tables ...string) ([]O, error) {
	allow := allowed(ctx, c)
	var out []O
	err := s.query(ctx, q, meta, func(st *fsm.State, w *fsm.WatchSet) (api.Index, error) {
		w.Table(tables...)
		meta.NextToken = ""
		var err error
		out, err = pageOf(q, meta, k, all(st, namespaceOf(q.Namespace)), allow, func(v T) O { return show(st, v) })
		return st.TableIndex(tables...), err
	})
	return out, err
}

func same[T any](_ *fsm.State, v T) T { return v }

// value is what a command answered; zero when it answered nothing.
func value[T any](r *fsm.Result) T {
	v, _ := r.Value.(T)
	return v
}

// remove proposes the removal of what find finds. When nothing is found but the
// call has an idempotency key, the state machine is asked whether the removal
// was done already under that key.
func (s *Server) remove(ctx context.Context, find func(*fsm.State) (fsm.Command, error), blank fsm.Command) (*api.WriteMeta, error) {
	cmd, err := find(s.fsm.State())
	if err != nil {
		if !errors.Is(err, &api.Error{Code: api.CodeNotFound}) || api.CallFrom(ctx).IdempotencyKey == "" || blank == nil {
			return nil, err
		}
		res, rerr := s.Apply(ctx, blank)
		if rerr != nil && api.CodeOf(rerr) != api.CodeNotFound {
			return nil, rerr
		}
		if rerr == nil && res.Replayed {
			return &api.WriteMeta{Index: res.Index, Replayed: true}, nil
		}
		return nil, err
	}
	res, err := s.Apply(ctx, cmd)
	if err != nil {
		return nil, err
	}
	return &api.WriteMeta{Index: res.Index, Replayed: res.Replayed}, nil
}
