package rpc

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	metrics "github.com/hashicorp/go-metrics/compat"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
)

// call is one call on its way through the pipeline.
type call struct {
	md   *method
	peer Peer
	hdr  header
	req  api.Message
	wire api.Message // what is sent when the call is forwarded
	id   *acl.Identity
	// begun: the caller of a stream was told that it is admitted; from then on
	// it cannot be tried elsewhere.
	begun bool
}

func (c *call) begin(s serverStream) error {
	c.begun = true
	return s.accept()
}

// unary runs a call. A forwarded answer is decoded into what out returns.
func (m *Mux) unary(ctx context.Context, c *call, out func() api.Message) (resp api.Message, err error) {
	err = m.run(ctx, c,
		func(ctx context.Context) error {
			r, err := c.md.unary(ctx, c.req)
			resp = r
			return err
		},
		func(ctx context.Context, to conn, h *header) error {
			r := out()
			if err := to.call(ctx, c.md.Name, h, c.wire, r); err != nil {
				return err
			}
			resp = r
			return nil
		})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// serveStream runs a stream to its end.
func (m *Mux) serveStream(ctx context.Context, c *call, s serverStream) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.stop, cancel)()
	if m.stop.Err() != nil {
		return stamp(errClosing(), c.hdr.RequestID)
	}
	err := m.run(ctx, c,
		func(ctx context.Context) error {
			if err := c.begin(s); err != nil {
				return err
			}
			return c.md.stream(ctx, c.req, &bound{serverStream: s, ctx: ctx})
		},
		func(ctx context.Context, to conn, h *header) error {
			up, err := to.open(ctx, c.md.Name, h, c.wire)
			if err != nil {
				return err
			}
			if err := c.begin(s); err != nil {
				return err
			}
			return m.relay(ctx, s, up)
		})
	if err != nil && m.stop.Err() != nil {
		return stamp(errClosing(), c.hdr.RequestID)
	}
	return err
}

// bound is a server's stream with the context of its call.
type bound struct {
	serverStream
	ctx context.Context
}

func (b *bound) Context() context.Context { return b.ctx }

// run is the pipeline. Its error is nil or *api.Error.
func (m *Mux) run(ctx context.Context, c *call, here func(context.Context) error, there func(context.Context, conn, *header) error) (err error) {
	start := time.Now()
	defer func() {
		if e := outward(ctx, m.log, c, err); e != nil {
			err = e
		}
		labels := []metrics.Label{{Name: "method", Value: c.md.Name}}
		metrics.MeasureSinceWithLabels([]string{"rpc", "latency"}, start, labels)
		metrics.IncrCounterWithLabels([]string{"rpc", "calls"}, 1, append(labels, metrics.Label{Name: "code", Value: codeLabel(err)}))
	}()
	if err := c.hdr.clean(); err != nil {
		return err
	}
	if err := ended(ctx); err != nil {
		return err
	}
	if err := m.admit(c); err != nil {
		return err
	}
	away := c.md.Kind.user() && c.hdr.Region != "" && c.hdr.Region != m.o.Router.Region()
	if !away {
		if err := m.authenticate(ctx, c); err != nil {
			return err
		}
	}
	if c.hdr.hops == 0 {
		if err := m.limits.allow(c); err != nil {
			return err
		}
	}
	if away {
		return m.toRegion(ctx, c, there)
	}
	c.hdr.Region = m.o.Router.Region()
	handle := func() error {
		if err := authorize(c); err != nil {
			return err
		}
		return m.handle(ctx, c, here)
	}
	if !c.md.Kind.leader() || stale(c) {
		return handle()
	}
	return m.toLeader(ctx, c, handle, there)
}

func codeLabel(err error) string {
	if err == nil {
		return "ok"
	}
	return api.CodeOf(err).String()
}

// admit checks the machine that called against the kind of the endpoint.
func (m *Mux) admit(c *call) error {
	region, p := m.o.Router.Region(), c.peer
	if p.Role != api.RoleServer {
		// Only servers forward, and so only they may say that they do.
		if c.hdr.origin != "" {
			return api.Errorf(api.CodeWrongRole, "only a server may pass on the call of a node")
		}
		c.hdr.hops = 0
	}
	if c.hdr.origin != "" && p.Region != region {
		return api.Errorf(api.CodeWrongRole, "a server of another region cannot pass on the call of a node")
	}
	ok := false
	switch k := c.md.Kind; {
	case k.user():
		ok = p.Role == "" || p.isMember(region) || p.Role == api.RoleServer
	case k.node():
		ok = p.isMember(region) && (p.Role == api.RoleClient) != (c.hdr.origin != "")
	case k == KindServer, k == KindLocal:
		ok = p.isServer(region)
	case k == KindPeer:
		ok = p.isMember(region)
	}
	if !ok {
		return api.Errorf(api.CodeWrongRole, "%s may not call %s", peerName(p), c.md.Name)
	}
	if !c.md.Kind.user() && c.hdr.Region != "" && c.hdr.Region != region {
		return api.Errorf(api.CodeNoRegion, "%s is not forwarded to other regions", c.md.Name)
	}
	return nil
}

func peerName(p Peer) string {
	if p.Role == "" {
		return "a caller without a certificate"
	}
	return fmt.Sprintf("a %s of region %q", p.Role, p.Region)
}

// authenticate finds out who calls.
func (m *Mux) authenticate(ctx context.Context, c *call) error {
	if !c.md.Kind.user() {
		c.id = c.peer.identity()
		if c.hdr.origin == "" {
			return nil
		}
		id, err := api.ParseID(c.hdr.origin)
		if err != nil || id.IsZero() || c.hdr.hops&hopLeader == 0 {
			return api.Errorf(api.CodeWrongRole, "the call passed on names no node")
		}
		c.id = &acl.Identity{Role: acl.RoleNode, Region: c.peer.Region, NodeID: id}
		return nil
	}
	if c.hdr.Token == "" {
		if c.md.Capability != acl.None {
			return api.Errorf(api.CodeUnauthenticated, "%s needs a token", c.md.Name)
		}
		c.id = acl.Anonymous()
		return nil
	}
	if m.o.Auth == nil {
		return api.Errorf(api.CodeUnauthenticated, "this agent checks no tokens")
	}
	id, err := m.o.Auth.Authenticate(ctx, c.hdr.Token)
	if err != nil {
		return err
	}
	if id == nil || id.Role != acl.RoleUser {
		return api.Errorf(api.CodeUnauthenticated, "the token is not a user's")
	}
	c.id = id
	return nil
}

// authorize compares what the caller may do with what the endpoint asks for.
func authorize(c *call) error {
	ns := ""
	if s, ok := c.req.(interface{ Scope() string }); ok {
		ns = s.Scope()
	}
	if c.id.Allow(c.md.Capability, ns) {
		return nil
	}
	// A list over all namespaces is opened to whoever has the right in one; the
	// handler leaves out the others.
	if ns == "*" && !c.md.Kind.writes() && c.id.AllowAny(c.md.Capability) {
		return nil
	}
	return api.Errorf(api.CodeForbidden, "permission denied").WithHint("%s needs %s", c.md.Name, c.md.Capability)
}

// stale reports whether a read may be answered by any server.
func stale(c *call) bool {
	q, ok := c.req.(interface{ Query() *api.QueryOptions })
	return ok && c.md.Kind == KindRead && q.Query().Consistency == api.ConsistencyStale
}

func consistent(c *call) bool {
	q, ok := c.req.(interface{ Query() *api.QueryOptions })
	return ok && c.md.Kind == KindRead && q.Query().Consistency == api.ConsistencyConsistent
}

// handle runs the handler and stands between its panic and the process.
func (m *Mux) handle(ctx context.Context, c *call, here func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			m.log.Error("panic in a handler", "method", c.md.Name, "request_id", c.hdr.RequestID, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = api.Errorf(api.CodeInternal, "internal error").WithHint("the server's log has the cause under the request id")
		}
	}()
	ctx = api.WithCall(ctx, c.hdr.Call)
	ctx = context.WithValue(ctx, identityKey{}, c.id)
	ctx = context.WithValue(ctx, peerKey{}, c.peer)
	return here(ctx)
}
