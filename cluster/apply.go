package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"github.com/hashicorp/go-metrics/compat"
	"github.com/hashicorp/raft"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

// applyTimeout bounds how long an entry may wait for a place in Raft's queue
// when the caller gives no deadline.
const applyTimeout = 30 * time.Second

// Apply proposes a command and returns what it did. An error of the command
// itself is returned beside the result. CodeNoLeader means that nothing
// happened, CodeUnknown that nobody can say yet: the same call with the same
// idempotency key is safe.
//
// The wait for the outcome is bounded by Raft, not by ctx: a leader that loses
// its quorum steps down, and then the outcome is unknown.
func (s *Server) Apply(ctx context.Context, cmd fsm.Command) (*fsm.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if !s.IsLeader() {
		return nil, errNotLeading()
	}
	return s.propose(ctx, cmd, s.meta(ctx))
}

// applyOutcome is Apply whose error says only that the outcome is not known, or
// that nothing was proposed; the command's own stands in the result.
func (s *Server) applyOutcome(ctx context.Context, cmd fsm.Command) (*fsm.Result, error) {
	res, err := s.Apply(ctx, cmd)
	if res != nil {
		err = nil
	}
	return res, err
}

// meta is what the leader adds to a command.
func (s *Server) meta(ctx context.Context) fsm.Meta {
	m := fsm.Meta{Time: api.TimeOf(s.cfg.Now()), Schema: s.fsm.State().Schema(), Registry: s.cfg.Registry}
	call := api.CallFrom(ctx)
	if id := rpc.IdentityFrom(ctx); id != nil && call.IdempotencyKey != "" {
		if body, ok := ctx.Value(bodyKey{}).([]byte); ok {
			m.Idem = &fsm.IdemKey{Accessor: id.Accessor, Key: call.IdempotencyKey, BodyHash: body}
		}
	}
	return m
}

type bodyKey struct{}

// withBody remembers which request an idempotency key was given for, before the
// handler adds ids to it.
func withBody(ctx context.Context, method string, req api.Message) (context.Context, error) {
	if api.CallFrom(ctx).IdempotencyKey == "" {
		return ctx, nil
	}
	b, err := req.MarshalMsg(append([]byte(method), 0))
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "the request does not encode")
	}
	sum := sha256.Sum256(b)
	return context.WithValue(ctx, bodyKey{}, sum[:]), nil
}

// stepOf is ctx for one of several commands of a call: each has an idempotency
// key of its own, derived from the caller's.
func stepOf(ctx context.Context, step string) context.Context {
	call := api.CallFrom(ctx)
	if call.IdempotencyKey == "" {
		return ctx
	}
	sum := sha256.Sum256([]byte(step + "\x00" + call.IdempotencyKey))
	call.IdempotencyKey = hex.EncodeToString(sum[:])
	return api.WithCall(ctx, call)
}

// propose is Apply without the question whether this server is ready to lead:
// the first commands of a term come before that.
func (s *Server) propose(ctx context.Context, cmd fsm.Command, m fsm.Meta) (*fsm.Result, error) {
	data, err := fsm.Encode(cmd, m)
	if err != nil {
		return nil, err
	}
	timeout := applyTimeout
	if d, ok := ctx.Deadline(); ok {
		if timeout = time.Until(d); timeout <= 0 {
			return nil, context.DeadlineExceeded
		}
	}
	if !s.enter() {
		return nil, errNotLeading()
	}
	defer s.wg.Done()
	start := time.Now()
	answer, err := s.cfg.outcome(s.raft.Apply(data, timeout))
	if err != nil {
		return nil, applyError(err)
	}
	metrics.MeasureSince([]string{"apply"}, start)
	res, ok := answer.(*fsm.Result)
	if !ok || res == nil {
		return nil, api.Errorf(api.CodeInternal, "the state machine gave no answer")
	}
	if res.Err != nil {
		return res, res.Err
	}
	return res, nil
}

// applyError tells "did not happen" from "not known".
func applyError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return errNotLeading()
	case errors.Is(err, raft.ErrRaftShutdown):
		return api.Errorf(api.CodeUnknown, "the server shuts down: the outcome of the write is not known").
			WithHint("repeat it with the same idempotency key")
	}
	return api.Errorf(api.CodeUnknown, "the outcome of the write is not known: %v", err).
		WithHint("repeat it with the same idempotency key, or look at the state")
}
