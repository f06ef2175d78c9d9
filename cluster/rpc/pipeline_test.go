package rpc_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"
	"github.com/shoenig/test/wait"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
	"github.com/novacron/novacron/cluster/rpc"
)

// eventually waits for what another goroutine is about to do.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	must.Wait(t, wait.InitialSuccess(wait.BoolFunc(ok), wait.Timeout(10*time.Second), wait.Gap(time.Millisecond)))
}

// Each way to reach an endpoint behaves the same.
func TestCalls(t *testing.T) {
	onBoth(t, func(t *testing.T, n network) {
		leader := newBox(n, "west", nil)
		follower := newBox(n, "west", nil)
		follower.router.set(false, leader.addr)
		member := n.pool(certName(api.RoleClient, "west"))
		for what, c := range map[string]rpc.Caller{
			"in process":               leader.mux,
			"direct":                   member.Get(leader.addr),
			"by a follower":            member.Get(follower.addr),
			"in process by a follower": follower.mux,
			"by whichever answers":     member.Failover(func() []string { return []string{"127.0.0.1:1", follower.addr, leader.addr} }),
		} {
			t.Run(what, func(t *testing.T) {
				del := func(ctx context.Context, key string) (*api.WriteMeta, error) {
					r := new(api.WriteMeta)
					return r, c.Call(ctx, "VM.Delete", &api.DeleteRequest{Key: key}, r)
				}
				t.Run("an answer", func(t *testing.T) {
					r, err := del(as(goodToken), "vm")
					must.NoError(t, err)
					must.Eq(t, 7, r.Index)
					got := new(api.VMResponse)
					must.NoError(t, c.Call(as(goodToken), "VM.Get", &api.GetRequest{Key: "vm"}, got))
					must.Eq(t, leader.name.NodeID, vmID(got))
				})
				t.Run("what accompanies the request arrives", func(t *testing.T) {
					ctx := api.WithCall(t.Context(), api.Call{Token: goodToken, RequestID: "req-1", IdempotencyKey: "ключ\x00"})
					_, err := del(ctx, "vm")
					must.NoError(t, err)
					calls := leader.calls()
					last := calls[len(calls)-1]
					must.Eq(t, api.Call{Token: goodToken, RequestID: "req-1", IdempotencyKey: "ключ\x00", Region: "west"}, last.call)
					must.Eq(t, boss, last.id)
				})
				t.Run("a coded error arrives as it left", func(t *testing.T) {
					_, err := del(api.WithCall(t.Context(), api.Call{Token: goodToken, RequestID: "req-2"}), "coded")
					want := api.Errorf(api.CodeConflict, "changed").WithHint("look").WithDetail("spec.cpu", "is 3")
					want.RequestID = "req-2"
					must.Eq(t, error(want), err)
				})
				t.Run("another error stays inside", func(t *testing.T) {
					for _, key := range []string{"internal", "panic", "nothing"} {
						_, err := del(api.WithCall(t.Context(), api.Call{Token: goodToken, RequestID: "req-" + key}), key)
						must.Eq(t, api.CodeInternal, api.CodeOf(err))
						must.StrNotContains(t, err.Error(), "hunter2")
						must.StrNotContains(t, err.Error(), "secret")
						must.StrContains(t, leader.log.String(), "req-"+key)
					}
					must.StrContains(t, leader.log.String(), "hunter2")
					must.StrContains(t, leader.log.String(), "a bug with a secret")
				})
				t.Run("the deadline reaches the handler", func(t *testing.T) {
					ctx, cancel := context.WithTimeout(as(goodToken), 50*time.Millisecond)
					defer cancel()
					_, err := del(ctx, "wait") // returns only when the handler's context ends
					must.Eq(t, api.CodeDeadline, api.CodeOf(err))
				})
				t.Run("cancel reaches the handler", func(t *testing.T) {
					before := len(leader.calls())
					ctx, cancel := context.WithCancel(as(goodToken))
					errs := make(chan error, 1)
					go func() {
						_, err := del(ctx, "wait")
						errs <- err
					}()
					eventually(t, func() bool { return len(leader.calls()) == before+1 })
					cancel()
					must.Eq(t, api.CodeCanceled, api.CodeOf(<-errs))
				})
				t.Run("a call that is over is not begun", func(t *testing.T) {
					ctx, cancel := context.WithCancel(as(goodToken))
					cancel()
					before := len(leader.calls())
					_, err := del(ctx, "vm")
					must.Eq(t, api.CodeCanceled, api.CodeOf(err))
					must.Len(t, before, leader.calls())
				})
				t.Run("tokens", func(t *testing.T) {
					for token, code := range map[string]api.Code{
						"": api.CodeUnauthenticated, "bad": api.CodeUnauthenticated, "with space": api.CodeUnauthenticated,
						strings.Repeat("x", 5000): api.CodeUnauthenticated, "cert": api.CodeUnauthenticated, "ns:blue": api.CodeForbidden,
					} {
						_, err := del(as(token), "vm")
						must.Eq(t, code, api.CodeOf(err), must.Sprint(clipped(token)))
					}
					must.NoError(t, c.Call(t.Context(), "Status.Leader", &api.GetRequest{}, new(api.VMResponse)), must.Sprint("needs no token"))
					must.Eq(t, api.CodeUnauthenticated, api.CodeOf(c.Call(as("bad"), "Status.Leader", &api.GetRequest{}, new(api.VMResponse))))
				})
				t.Run("namespaces", func(t *testing.T) {
					get := func(ns string) error {
						return c.Call(as("ns:blue"), "VM.Get", &api.GetRequest{QueryOptions: api.QueryOptions{Namespace: ns}}, new(api.VMResponse))
					}
					must.NoError(t, get("blue"))
					must.Eq(t, api.CodeForbidden, api.CodeOf(get("red")))
					must.Eq(t, api.CodeForbidden, api.CodeOf(get("")), must.Sprint("the default namespace"))
					must.NoError(t, get("*"), must.Sprint("opened; the handler filters"))
					err := c.Call(as("ns:blue"), "VM.Delete", &api.DeleteRequest{Namespace: "*"}, new(api.WriteMeta))
					must.Eq(t, api.CodeForbidden, api.CodeOf(err), must.Sprint("a write to all namespaces"))
				})
				t.Run("bad headers", func(t *testing.T) {
					for _, h := range []api.Call{
						{Token: goodToken, Region: "../x"},
						{Token: goodToken, IdempotencyKey: strings.Repeat("k", 257)},
					} {
						_, err := del(api.WithCall(t.Context(), h), "vm")
						must.Eq(t, api.CodeInvalid, api.CodeOf(err))
					}
					_, err := del(api.WithCall(t.Context(), api.Call{Token: goodToken, RequestID: "a b\nc"}), "coded")
					must.Eq(t, 36, len(err.(*api.Error).RequestID), must.Sprint("a request id of another form is replaced"))
				})
				t.Run("too large", func(t *testing.T) {
					_, err := del(as(goodToken), strings.Repeat("k", rpc.MaxMessage))
					if what == "in process" { // nothing is sent
						must.NoError(t, err)
						return
					}
					must.Eq(t, api.CodeTooLarge, api.CodeOf(err))
				})
				t.Run("no such method", func(t *testing.T) {
					err := c.Call(as(goodToken), "VM.Fly", &api.GetRequest{}, new(api.VMResponse))
					must.Eq(t, api.CodeNotFoundRoute, api.CodeOf(err))
				})
				t.Run("a message of another type", func(t *testing.T) {
					// Fields that are not known are ignored, as between versions.
					got := new(api.VMResponse)
					must.NoError(t, c.Call(as(goodToken), "VM.Get", &api.ListRequest{}, got))
					must.Eq(t, leader.name.NodeID, vmID(got))
				})
			})
		}
	})
}

func clipped(s string) string { return s[:min(len(s), 20)] }

// The table: which machine may call which kind.
func TestWhoMayCallWhat(t *testing.T) {
	onBoth(t, func(t *testing.T, n network) {
		b := newBox(n, "west", nil)
		server, node := certName(api.RoleServer, "west"), certName(api.RoleClient, "west")
		foreign := certName(api.RoleServer, "east")
		methods := []string{"VM.Get", "VM.Delete", "VM.Near", "Node.Beat", "Node.Report", "Server.Stats", "Agent.Ping", "Agent.Hello"}
		for _, row := range []struct {
			who string
			c   rpc.Caller
			may string
		}{
			{"a server", n.pool(server).Get(b.addr), "VM.Get VM.Delete VM.Near Server.Stats Agent.Ping Agent.Hello"},
			{"a node", n.pool(node).Get(b.addr), "VM.Get VM.Delete VM.Near Node.Beat Node.Report Agent.Hello"},
			{"a server of another region", n.pool(foreign).Region("west", b.addr), "VM.Get VM.Delete VM.Near"},
			{"this process", b.mux, "VM.Get VM.Delete VM.Near"},
			{"this process as a node", b.mux.As(&acl.Identity{Role: acl.RoleNode, Region: "west", NodeID: node.NodeID}), "VM.Get VM.Delete VM.Near Node.Beat Node.Report Agent.Hello"},
			{"this process as a server", b.mux.As(&acl.Identity{Role: acl.RoleServer, Region: "west", NodeID: server.NodeID}), "VM.Get VM.Delete VM.Near Server.Stats Agent.Ping Agent.Hello"},
		} {
			for _, m := range methods {
				err := row.c.Call(as(goodToken), m, &api.Empty{}, new(api.Empty))
				want := api.CodeWrongRole
				if strings.Contains(row.may, m) {
					want = 0
				}
				must.Eq(t, want, api.CodeOf(err), must.Sprintf("%s calls %s: %v", row.who, m, err))
			}
		}
		// Streams have the same guard.
		_, err := n.pool(node).Get(b.addr).Open(t.Context(), "Agent.Console", &api.GetRequest{})
		must.Eq(t, api.CodeWrongRole, api.CodeOf(err))
		_, err = n.pool(server).Get(b.addr).Open(t.Context(), "Node.Orders", &api.OrdersRequest{})
		must.Eq(t, api.CodeWrongRole, api.CodeOf(err))
	})
}

// A node's own calls carry its identity through a follower.
func TestForwardedNodeCallKeepsTheNode(t *testing.T) {
	onBoth(t, func(t *testing.T, n network) {
		leader, follower := newBox(n, "west", nil), newBox(n, "west", nil)
		follower.router.set(false, leader.addr)
		node := certName(api.RoleClient, "west")
		beaten := new(api.NodeBeaten)
		must.NoError(t, n.pool(node).Get(follower.addr).Call(t.Context(), "Node.Beat", &api.NodeBeat{Seq: 9}, beaten))
		must.Eq(t, 9, beaten.Seq)
		must.Len(t, 0, follower.calls())
		got := leader.calls()[0]
		must.Eq(t, &acl.Identity{Role: acl.RoleNode, Region: "west", NodeID: node.NodeID}, got.id)
		must.Eq(t, follower.name.NodeID, got.peer.NodeID)
	})
}

func TestReadsByConsistency(t *testing.T) {
	onBoth(t, func(t *testing.T, n network) {
		leader, follower := newBox(n, "west", nil), newBox(n, "west", nil)
		follower.router.set(false, leader.addr)
		who := func(c api.Consistency) api.ID {
			r := new(api.VMResponse)
			must.NoError(t, follower.mux.Call(as(goodToken), "VM.Get", &api.GetRequest{QueryOptions: api.QueryOptions{Consistency: c}}, r))
			return vmID(r)
		}
		must.Eq(t, leader.name.NodeID, who(""))
		must.Eq(t, leader.name.NodeID, who(api.ConsistencyDefault))
		must.Eq(t, 0, leader.router.reads)
		must.Eq(t, leader.name.NodeID, who(api.ConsistencyConsistent))
		must.Eq(t, 1, leader.router.reads)
		must.Eq(t, follower.name.NodeID, who(api.ConsistencyStale))
		must.Eq(t, 0, follower.router.reads)
	})
}

// A consistent read that finds out that this server leads no more goes to the
// one that does.
func TestConsistentReadMovesOn(t *testing.T) {
	n := &memNet{t, rpc.NewMemory()}
	old, next := newBox(n, "west", nil), newBox(n, "west", nil)
	old.router.index = func(context.Context) error {
		old.router.set(false, next.addr)
		return api.Errorf(api.CodeNoLeader, "not the leader")
	}
	r := new(api.VMResponse)
	must.NoError(t, old.mux.Call(as(goodToken), "VM.Get", &api.GetRequest{QueryOptions: api.QueryOptions{Consistency: api.ConsistencyConsistent}}, r))
	must.Eq(t, next.name.NodeID, vmID(r))
}

func TestRegions(t *testing.T) {
	onBoth(t, func(t *testing.T, n network) {
		west := newBox(n, "west", nil)
		east, eastLeader := newBox(n, "east", nil), newBox(n, "east", nil)
		east.router.set(false, eastLeader.addr)
		west.router.regions["east"] = []string{east.addr}
		ctx := func(region string) context.Context {
			return api.WithCall(t.Context(), api.Call{Token: goodToken, Region: region, RequestID: "r", IdempotencyKey: "k"})
		}
		t.Run("the caller's own token goes along, through both hops", func(t *testing.T) {
			r := new(api.WriteMeta)
			must.NoError(t, west.mux.Call(ctx("east"), "VM.Delete", &api.DeleteRequest{Key: "vm"}, r))
			must.Eq(t, 7, r.Index)
			got := eastLeader.calls()[0]
			must.Eq(t, api.Call{Token: goodToken, Region: "east", RequestID: "r", IdempotencyKey: "k"}, got.call)
			must.Eq(t, east.name.NodeID, got.peer.NodeID)
			must.Len(t, 0, west.calls())
			must.Len(t, 0, east.calls())
		})
		t.Run("the other region checks it", func(t *testing.T) {
			c := api.WithCall(t.Context(), api.Call{Token: "bad", Region: "east"})
			must.Eq(t, api.CodeUnauthenticated, api.CodeOf(west.mux.Call(c, "VM.Delete", &api.DeleteRequest{}, new(api.WriteMeta))))
			c = api.WithCall(t.Context(), api.Call{Region: "east"})
			must.Eq(t, api.CodeUnauthenticated, api.CodeOf(west.mux.Call(c, "VM.Delete", &api.DeleteRequest{}, new(api.WriteMeta))))
		})
		t.Run("its own region is here", func(t *testing.T) {
			must.NoError(t, west.mux.Call(ctx("west"), "VM.Get", &api.GetRequest{}, new(api.VMResponse)))
		})
		t.Run("streams", func(t *testing.T) {
			s, err := west.mux.Open(ctx("east"), "VM.Console", &api.GetRequest{Key: "vm"})
			must.NoError(t, err)
			sendAll(t, s, "over there")
			must.Eq(t, "over there", recv(t, s))
			must.NoError(t, s.CloseSend())
			must.Eq(t, "1 chunks", recv(t, s))
		})
		t.Run("no path", func(t *testing.T) {
			must.Eq(t, api.CodeNoRegion, api.CodeOf(west.mux.Call(ctx("south"), "VM.Get", &api.GetRequest{}, new(api.VMResponse))))
		})
		t.Run("a server of a third region is not mistaken for it", func(t *testing.T) {
			west.router.regions["north"] = []string{east.addr}
			must.Eq(t, api.CodeUnreachable, api.CodeOf(west.mux.Call(ctx("north"), "VM.Get", &api.GetRequest{}, new(api.VMResponse))))
		})
		t.Run("a server that is down is passed over", func(t *testing.T) {
			west.router.regions["east"] = []string{"127.0.0.1:1", east.addr}
			for range 4 {
				must.NoError(t, west.mux.Call(ctx("east"), "VM.Get", &api.GetRequest{}, new(api.VMResponse)))
			}
			west.router.regions["east"] = []string{"127.0.0.1:1"}
			must.Eq(t, api.CodeUnreachable, api.CodeOf(west.mux.Call(ctx("east"), "VM.Delete", &api.DeleteRequest{}, new(api.WriteMeta))))
		})
		t.Run("a node's call stays in its region", func(t *testing.T) {
			node := n.pool(certName(api.RoleClient, "west")).Get(west.addr)
			must.Eq(t, api.CodeNoRegion, api.CodeOf(node.Call(ctx("east"), "Node.Beat", &api.NodeBeat{}, new(api.NodeBeaten))))
		})
	})
}

func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNet{t, rpc.NewMemory()}
		limit := func(o *rpc.Options) {
			o.Limit = rpc.Limit{Rate: 10, Burst: 3, NodeRate: 1, NodeBurst: 2, Entries: 2}
		}
		leader, follower := newBox(n, "west", limit), newBox(n, "west", limit)
		follower.router.set(false, leader.addr)
		get := func(token string) api.Code {
			return api.CodeOf(follower.mux.Call(as(token), "VM.Near", &api.GetRequest{QueryOptions: api.QueryOptions{Namespace: "blue"}}, new(api.VMResponse)))
		}
		for range 3 {
			must.Eq(t, 0, get(goodToken))
		}
		must.Eq(t, api.CodeRateLimited, get(goodToken))
		must.Eq(t, 0, get("ns:blue"), must.Sprint("another token has its own budget"))
		time.Sleep(100 * time.Millisecond)
		must.Eq(t, 0, get(goodToken))
		must.Eq(t, api.CodeRateLimited, get(goodToken))

		// A forwarded call is charged once, where it came in.
		time.Sleep(time.Second)
		for range 3 {
			must.NoError(t, follower.mux.Call(as(goodToken), "VM.Delete", &api.DeleteRequest{}, new(api.WriteMeta)))
		}
		must.NoError(t, leader.mux.Call(as(goodToken), "VM.Delete", &api.DeleteRequest{}, new(api.WriteMeta)))

		// Heartbeats are never limited; a node's other calls are.
		node := n.pool(certName(api.RoleClient, "west")).Get(leader.addr)
		for range 50 {
			must.NoError(t, node.Call(t.Context(), "Node.Beat", &api.NodeBeat{}, new(api.NodeBeaten)))
		}
		report := func() api.Code {
			return api.CodeOf(node.Call(t.Context(), "Node.Report", &api.NodeReport{}, new(api.WriteMeta)))
		}
		must.Eq(t, []api.Code{0, 0, api.CodeRateLimited}, []api.Code{report(), report(), report()})

		// Another region's calls are charged by their token, which only it knows.
		away := func(token string) api.Code {
			return api.CodeOf(leader.mux.Call(api.WithCall(t.Context(), api.Call{Token: token, Region: "east"}), "VM.Near", &api.GetRequest{}, new(api.VMResponse)))
		}
		for range 3 {
			must.Eq(t, api.CodeNoRegion, away("x"))
		}
		must.Eq(t, api.CodeRateLimited, away("x"))
		must.Eq(t, api.CodeNoRegion, away(""))
	})
}

func TestAlone(t *testing.T) {
	m := rpc.NewMux(rpc.Options{Router: rpc.Alone("west")})
	defer m.Close()
	rpc.Any(m, "VM.Near", acl.ReadVM, func(context.Context, *api.Empty) (*api.Empty, error) { return &api.Empty{}, nil })
	rpc.Read(m, "VM.Get", acl.None, func(context.Context, *api.GetRequest) (*api.Empty, error) { return &api.Empty{}, nil })
	must.Eq(t, api.CodeUnauthenticated, api.CodeOf(m.Call(as(goodToken), "VM.Near", &api.Empty{}, &api.Empty{})), must.Sprint("without an Authenticator"))
	must.NoError(t, m.Call(t.Context(), "VM.Get", &api.GetRequest{QueryOptions: api.QueryOptions{Consistency: api.ConsistencyConsistent}}, &api.Empty{}))
	c := api.WithCall(t.Context(), api.Call{Region: "east"})
	must.Eq(t, api.CodeNoRegion, api.CodeOf(m.Call(c, "VM.Get", &api.GetRequest{}, &api.Empty{})))
	r := rpc.Alone("west")
	_, ok := r.Leader()
	must.False(t, ok)
}

func TestMethods(t *testing.T) {
	b := newBox(nil, "west", nil)
	defer b.mux.Close()
	list := rpc.Methods(b.mux)
	must.Len(t, 13, list)
	must.Eq(t, rpc.MethodInfo{Name: "Agent.Console", Kind: rpc.KindLocal, Capability: acl.ServerSelf, Stream: true}, list[0])
	must.Eq(t, "node-any", rpc.KindNodeAny.String())
	must.Eq(t, "kind(99)", rpc.Kind(99).String())
	for i := 1; i < len(list); i++ {
		must.Less(t, list[i].Name, list[i-1].Name)
	}
}

// A mistake in a registration stops the program that makes it.
func TestRegistrationMistakes(t *testing.T) {
	m := rpc.NewMux(rpc.Options{Router: rpc.Alone("west")})
	defer m.Close()
	h := func(context.Context, *api.Empty) (*api.Empty, error) { return &api.Empty{}, nil }
	s := func(context.Context, *api.Empty, api.Stream) error { return nil }
	rpc.Any(m, "VM.Get", acl.ReadVM, h)
	for what, f := range map[string]func(){
		"twice":                        func() { rpc.Any(m, "VM.Get", acl.ReadVM, h) },
		"no verb":                      func() { rpc.Any(m, "VM", acl.ReadVM, h) },
		"a path":                       func() { rpc.Any(m, "VM.Get/x", acl.ReadVM, h) },
		"no capability":                func() { rpc.Any(m, "VM.List", "", h) },
		"a node's capability for all":  func() { rpc.Any(m, "VM.List", acl.NodeSelf, h) },
		"a user's capability for node": func() { rpc.Node(m, "VM.List", acl.ReadVM, h) },
		"an open node endpoint":        func() { rpc.Node(m, "VM.List", acl.None, h) },
		"no kind":                      func() { rpc.Stream(m, 0, "VM.List", acl.ReadVM, s) },
		"an unknown kind":              func() { rpc.Stream(m, 99, "VM.List", acl.ReadVM, s) },
		"as a user":                    func() { m.As(boss) },
	} {
		must.NotNil(t, panicOf(f), must.Sprint(what))
	}
}

func panicOf(f func()) (p any) {
	defer func() { p = recover() }()
	f()
	return nil
}

func TestIdentityInAContext(t *testing.T) {
	must.Nil(t, rpc.IdentityFrom(t.Context()))
	must.Eq(t, boss, rpc.IdentityFrom(rpc.WithIdentity(t.Context(), boss)))
}

// An error with more details than a trailer holds loses details, not its code.
func TestHugeErrors(t *testing.T) {
	onBoth(t, func(t *testing.T, n network) {
		b := newBox(n, "west", nil)
		rpc.Read(b.mux, "VM.Plan", acl.ReadVM, func(ctx context.Context, q *api.GetRequest) (*api.Empty, error) {
			e := api.Errorf(api.CodeInvalid, "%s", strings.Repeat("m", 100_000))
			if q.Key == "details" {
				e = api.Errorf(api.CodeInvalid, "short")
				for i := range 5000 {
					e.Details = append(e.Details, api.Detail{Field: fmt.Sprint(i), Message: "is wrong"})
				}
			}
			return nil, e
		})
		c := n.pool(certName(api.RoleClient, "west")).Get(b.addr)
		for _, key := range []string{"message", "details"} {
			err := c.Call(as(goodToken), "VM.Plan", &api.GetRequest{Key: key}, new(api.Empty))
			must.Eq(t, api.CodeInvalid, api.CodeOf(err))
			if key == "details" {
				must.Eq(t, "0", err.(*api.Error).Details[0].Field)
			}
		}
	})
}
