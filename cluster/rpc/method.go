package rpc

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
)

// Kind says who may call an endpoint and where it is served.
type Kind uint8

// The kinds.
const (
	KindRead    Kind = iota + 1 // users; served by the leader, or anywhere when the request says stale
	KindWrite                   // users; served by the leader
	KindAny                     // users; served by any server of the region
	KindNode                    // certificates of role client; served by the leader
	KindNodeAny                 // certificates of role client; served by any server of the region
	KindServer                  // servers of the region; served where it is called
	KindLocal                   // an agent's own endpoint, called by servers of the region
	KindPeer                    // an agent's own endpoint, called by any machine of the region
)

var kindNames = [...]string{"", "read", "write", "any", "node", "node-any", "server", "local", "peer"}

// String returns the kind in lower case.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

func (k Kind) user() bool   { return k == KindRead || k == KindWrite || k == KindAny }
func (k Kind) node() bool   { return k == KindNode || k == KindNodeAny }
func (k Kind) leader() bool { return k == KindRead || k == KindWrite || k == KindNode }

// writes reports whether a lost answer leaves the outcome unknown.
func (k Kind) writes() bool { return k != KindRead }

// Msg is a pointer to T that is a message.
type Msg[T any] interface {
	*T
	api.Message
}

// method is one registered endpoint.
type method struct {
	MethodInfo
	newReq  func() api.Message
	newResp func() api.Message
	// isReq reports whether a message has the request's type; assign copies an
	// answer into another of the same type.
	isReq  func(api.Message) bool
	assign func(dst, src api.Message) bool
	unary  func(context.Context, api.Message) (api.Message, error)
	stream func(context.Context, api.Message, api.Stream) error
}

// MethodInfo describes an endpoint.
type MethodInfo struct {
	Name       string
	Kind       Kind
	Capability acl.Capability
	Stream     bool
}

// Read registers an endpoint for users that changes nothing. The leader serves
// it, unless the request's QueryOptions ask for stale; for consistent the
// leader first proves that it leads.
//
// A handler of any kind may return an *api.Error with CodeNoLeader only when
// nothing was done: the call is then tried again at the next leader.
func Read[Q, R any, PQ Msg[Q], PR Msg[R]](m *Mux, name string, c acl.Capability, h func(context.Context, PQ) (PR, error)) {
	unary(m, KindRead, name, c, h)
}

// Write registers an endpoint for users that changes something.
func Write[Q, R any, PQ Msg[Q], PR Msg[R]](m *Mux, name string, c acl.Capability, h func(context.Context, PQ) (PR, error)) {
	unary(m, KindWrite, name, c, h)
}

// Any registers an endpoint for users that any server of the region serves.
func Any[Q, R any, PQ Msg[Q], PR Msg[R]](m *Mux, name string, c acl.Capability, h func(context.Context, PQ) (PR, error)) {
	unary(m, KindAny, name, c, h)
}

// Node registers an endpoint for nodes. The handler compares the node id in the
// request with IdentityFrom(ctx).NodeID.
func Node[Q, R any, PQ Msg[Q], PR Msg[R]](m *Mux, name string, c acl.Capability, h func(context.Context, PQ) (PR, error)) {
	unary(m, KindNode, name, c, h)
}

// Server registers an endpoint for the servers of the region.
func Server[Q, R any, PQ Msg[Q], PR Msg[R]](m *Mux, name string, c acl.Capability, h func(context.Context, PQ) (PR, error)) {
	unary(m, KindServer, name, c, h)
}

// Local registers an agent's endpoint that servers of the region call.
func Local[Q, R any, PQ Msg[Q], PR Msg[R]](m *Mux, name string, c acl.Capability, h func(context.Context, PQ) (PR, error)) {
	unary(m, KindLocal, name, c, h)
}

// Peering registers an agent's endpoint that any machine of the region calls.
func Peering[Q, R any, PQ Msg[Q], PR Msg[R]](m *Mux, name string, c acl.Capability, h func(context.Context, PQ) (PR, error)) {
	unary(m, KindPeer, name, c, h)
}

func unary[Q, R any, PQ Msg[Q], PR Msg[R]](m *Mux, k Kind, name string, c acl.Capability, h func(context.Context, PQ) (PR, error)) {
	m.register(&method{
		MethodInfo: MethodInfo{Name: name, Kind: k, Capability: c},
		newReq:     func() api.Message { return PQ(new(Q)) },
		newResp:    func() api.Message { return PR(new(R)) },
		isReq:      func(q api.Message) bool { _, ok := q.(PQ); return ok },
		assign: func(dst, src api.Message) bool {
			d, ok := dst.(PR)
			s, ok2 := src.(PR)
			if ok && ok2 && d != nil && s != nil {
				*d = *s
				return true
			}
			return false
		},
		unary: func(ctx context.Context, q api.Message) (api.Message, error) {
			r, err := h(ctx, q.(PQ))
			if err != nil {
				return nil, err
			}
			if r == nil {
				return nil, fmt.Errorf("%s answered nothing", name)
			}
			return r, nil
		},
	})
}

// Stream registers an endpoint of kind k whose request is followed by messages
// either way. The handler ends the stream by returning. What it returns before
// it touched the stream, the caller gets from Open or from the first Recv.
func Stream[Q any, PQ Msg[Q]](m *Mux, k Kind, name string, c acl.Capability, h func(context.Context, PQ, api.Stream) error) {
	m.register(&method{
		MethodInfo: MethodInfo{Name: name, Kind: k, Capability: c, Stream: true},
		newReq:     func() api.Message { return PQ(new(Q)) },
		isReq:      func(q api.Message) bool { _, ok := q.(PQ); return ok },
		stream: func(ctx context.Context, q api.Message, s api.Stream) error {
			return h(ctx, q.(PQ), s)
		},
	})
}

// register panics on a mistake of the programmer: it runs when a process is put
// together, before anything is served.
func (m *Mux) register(md *method) {
	noun, verb, ok := strings.Cut(md.Name, ".")
	if !ok || noun == "" || verb == "" || strings.ContainsAny(md.Name, "/ ") {
		panic(fmt.Sprintf("rpc: %q is not Noun.Verb", md.Name))
	}
	if md.Kind == 0 || int(md.Kind) >= len(kindNames) {
		panic(fmt.Sprintf("rpc: %s has no kind", md.Name))
	}
	info, ok := acl.Lookup(md.Capability)
	if !ok {
		panic(fmt.Sprintf("rpc: %s: no such capability %q", md.Name, md.Capability))
	}
	if md.Kind.user() == (info.Scope == acl.ScopeCert) || (!md.Kind.user() && info.Scope == acl.ScopeNone) {
		panic(fmt.Sprintf("rpc: %s: capability %q does not go with kind %s", md.Name, md.Capability, md.Kind))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, dup := m.methods[md.Name]; dup {
		panic(fmt.Sprintf("rpc: %s is registered twice", md.Name))
	}
	m.methods[md.Name] = md
}

func (m *Mux) lookup(name string) (*method, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if md := m.methods[name]; md != nil {
		return md, nil
	}
	return nil, api.Errorf(api.CodeNotFoundRoute, "no such method %q", clip(name, 64))
}

// Methods lists what is registered, sorted by name.
func Methods(m *Mux) []MethodInfo {
	m.mu.RLock()
	defer m.mu.RUnlock()
	list := make([]MethodInfo, 0, len(m.methods))
	for _, md := range m.methods {
		list = append(list, md.MethodInfo)
	}
	slices.SortFunc(list, func(a, b MethodInfo) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "?")
}
