package http

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/novacron/novacron/api"
)

// Backend answers RPC calls: a server's own endpoints, or a server reached over
// the network. The caller's token, region, request id and idempotency key are
// in the context (api.CallFrom).
type Backend interface {
	Call(ctx context.Context, method string, req, resp api.Message) error
	// Open opens a stream, of which req is the first message. The stream ends
	// with its context.
	Open(ctx context.Context, method string, req api.Message) (api.Stream, error)
}

// Config is what the API needs from the agent around it. Backend is required;
// everything else has a default or switches something off.
type Config struct {
	Backend Backend
	Logger  *slog.Logger
	// Self describes the agent, Health says how it is.
	Self   func() api.AgentSelf
	Health func() api.AgentHealth
	// Metrics serves /v1/metrics.
	Metrics http.Handler
	// Parse turns the text of a specification into specs as they were written:
	// defaults are filled in and checked here.
	Parse func(ctx context.Context, r *api.ParseRequest) ([]api.VMSpec, error)
	// Bootstrap makes the first management token. It is set only for the
	// handler of the socket that root alone can open.
	Bootstrap func(ctx context.Context) (*api.TokenCreated, error)
	// Authorize decides about what this agent answers by itself (self, metrics,
	// profiles), by the token in the context. The default asks the backend for
	// something that needs the same right.
	Authorize func(ctx context.Context, capability string) error
	// Debug serves /debug/pprof/ to holders of operator:write.
	Debug bool
	// Origins, besides the agent's own, from which browsers may open consoles:
	// "https://ui.example.org".
	Origins []string

	// Timeout of a request that is neither a stream nor blocks (default 30 s).
	Timeout time.Duration
	// Rate and Burst limit the requests of one token from one address; an
	// address as a whole has four times as much. Defaults 500/s and 1000; a
	// negative Rate switches the limit off.
	Rate  float64
	Burst int
	// MaxBlocking limits the blocking queries and streams under way of one
	// token from one address (default 512).
	MaxBlocking int
	// Heartbeat is how often an idle stream of events says that it lives
	// (default 10 s).
	Heartbeat time.Duration
	// ConsoleIdle closes a console without input or output (default 15 min).
	ConsoleIdle time.Duration
	// ConsoleMax limits the open consoles of one VM on this agent (default 5).
	ConsoleMax int
}

func orDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Self == nil {
		c.Self = func() api.AgentSelf { return api.AgentSelf{} }
	}
	if c.Health == nil {
		c.Health = func() api.AgentHealth { return api.AgentHealth{OK: true} }
	}
	if c.Authorize == nil {
		c.Authorize = askBackend(c.Backend)
	}
	orDefault(&c.Timeout, 30*time.Second)
	orDefault(&c.Rate, 500)
	orDefault(&c.Burst, 1000)
	orDefault(&c.MaxBlocking, 512)
	orDefault(&c.Heartbeat, 10*time.Second)
	orDefault(&c.ConsoleIdle, 15*time.Minute)
	orDefault(&c.ConsoleMax, 5)
	return c
}

// askBackend authorizes by asking any server something that only holders of
// the right, or of one that is near it, may know. A stale answer will do, so
// that metrics can be read while there is no leader.
func askBackend(b Backend) func(context.Context, string) error {
	return func(ctx context.Context, capability string) error {
		req := &api.ListRequest{QueryOptions: api.QueryOptions{Consistency: api.ConsistencyStale}}
		if capability == "vm:read" {
			req.PerPage = 1
			return b.Call(ctx, "VM.List", req, &api.VMListResponse{})
		}
		return b.Call(ctx, "Operator.SchedulerGet", req, &api.SchedulerConfigResponse{})
	}
}
