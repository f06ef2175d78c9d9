package rpc

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/shoenig/test/must"
	"github.com/tinylib/msgp/msgp"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/acl"
)

var cmpHeader = cmp.AllowUnexported(header{})

// A header that is sent is the header that arrives.
func TestHeaderRoundTrip(t *testing.T) {
	h := header{Call: api.Call{Token: "t", RequestID: "r", Region: "west", IdempotencyKey: "\x00ключ"}, hops: hopRegion | hopLeader, origin: "o"}
	must.Eq(t, h, headerFrom(h.metadata()), must.Cmp(cmpHeader))
	must.Eq(t, header{}, headerFrom(nil), must.Cmp(cmpHeader))
	for hops, want := range map[string]hop{"": 0, "x": 0, "-1": 0, "999": 0, "255": hopRegion | hopLeader, "1": hopRegion} {
		must.Eq(t, want, headerFrom(metadata.MD{mdHops: {hops}}).hops, must.Sprint(hops))
	}
}

// What a machine may claim in a header: only a server of the region may name
// the node whose call it passes on, and only as a forward to the leader.
func TestForgedHeaders(t *testing.T) {
	net := NewMemory()
	mux := NewMux(Options{Router: Alone("west"), Limit: Limit{Rate: 1e-9, Burst: 1}})
	defer mux.Close()
	var got *acl.Identity
	Node(mux, "Node.Beat", acl.NodeSelf, func(ctx context.Context, q *api.NodeBeat) (*api.NodeBeaten, error) {
		got = IdentityFrom(ctx)
		return &api.NodeBeaten{}, nil
	})
	Any(mux, "Status.Leader", acl.None, func(ctx context.Context, q *api.Empty) (*api.Empty, error) { return &api.Empty{}, nil })
	port, err := net.Listen("s", api.CertName{Region: "west", Role: api.RoleServer, NodeID: api.NewID()}, mux)
	must.NoError(t, err)
	defer port.Close()

	call := func(role, region, method string, h header) api.Code {
		c := net.Transport("me", api.CertName{Region: region, Role: role, NodeID: api.NewID()}).dial(target{addr: "s", region: "west"})
		return api.CodeOf(c.call(t.Context(), method, &h, &api.Empty{}, &api.Empty{}))
	}
	victim := api.NewID()
	for _, row := range []struct {
		what, role, region string
		h                  header
		want               api.Code
	}{
		{"a node names another", api.RoleClient, "west", header{origin: victim.String()}, api.CodeWrongRole},
		{"and says that it forwards", api.RoleClient, "west", header{origin: victim.String(), hops: hopLeader}, api.CodeWrongRole},
		{"a server of another region names a node", api.RoleServer, "east", header{origin: victim.String(), hops: hopLeader}, api.CodeWrongRole},
		{"a server names a node without forwarding", api.RoleServer, "west", header{origin: victim.String()}, api.CodeWrongRole},
		{"a server names nobody", api.RoleServer, "west", header{hops: hopLeader}, api.CodeWrongRole},
		{"a server names nonsense", api.RoleServer, "west", header{origin: "root", hops: hopLeader}, api.CodeWrongRole},
		{"a server passes a call on", api.RoleServer, "west", header{origin: victim.String(), hops: hopLeader}, 0},
	} {
		got = nil
		must.Eq(t, row.want, call(row.role, row.region, "Node.Beat", row.h), must.Sprint(row.what))
		if row.want == 0 {
			must.Eq(t, victim, got.NodeID)
		} else {
			must.Nil(t, got, must.Sprint(row.what))
		}
	}

	// A node that claims to have been forwarded is not spared the rate limit;
	// each machine has its own budget here, so the same one calls twice.
	c := net.Transport("me", api.CertName{Region: "west", Role: api.RoleClient, NodeID: api.NewID()}).dial(target{addr: "s"})
	h := header{hops: hopLeader}
	must.NoError(t, c.call(t.Context(), "Status.Leader", &h, &api.Empty{}, &api.Empty{}))
	must.Eq(t, api.CodeRateLimited, api.CodeOf(c.call(t.Context(), "Status.Leader", &h, &api.Empty{}, &api.Empty{})))

	// A call that was sent round in a circle between regions ends.
	h = header{Call: api.Call{Region: "north"}, hops: hopRegion}
	c = net.Transport("me", api.CertName{Region: "east", Role: api.RoleServer, NodeID: api.NewID()}).dial(target{addr: "s", region: "west"})
	must.Eq(t, api.CodeNoRegion, api.CodeOf(c.call(t.Context(), "Status.Leader", &h, &api.Empty{}, &api.Empty{})))

	// Another region's node is not let in at all.
	must.Eq(t, api.CodeWrongRole, call(api.RoleClient, "east", "Status.Leader", header{}))
}

// A server checks again at each call what it checked at the handshake.
func TestCurrent(t *testing.T) {
	var tl TLS
	id := api.NewID()
	p := Peer{CertName: api.CertName{NodeID: id}, Expires: time.Now().Add(time.Hour)}
	must.NoError(t, tl.current(p))
	p.Expires = time.Now().Add(-time.Second)
	must.Eq(t, api.CodeWrongRole, api.CodeOf(tl.current(p)))
	p.Expires = time.Time{}
	tl.SetDenied(func(x api.ID) bool { return x == id })
	must.Eq(t, api.CodeNodeDenied, api.CodeOf(tl.current(p)))
}

func TestLimiterForgetsTheOldest(t *testing.T) {
	l := newLimiter(Limit{Rate: 1e-9, Burst: 1, Entries: 2})
	use := func(i byte) error {
		return l.allow(&call{md: &method{MethodInfo: MethodInfo{Kind: KindAny}}, id: &acl.Identity{Accessor: api.ID{i}}})
	}
	must.NoError(t, use(1))
	must.NoError(t, use(2))
	must.Error(t, use(1))
	must.NoError(t, use(3)) // takes the place of 2
	must.Error(t, use(1))
	must.NoError(t, use(2))
	must.MapLen(t, 2, l.m)
	must.Eq(t, 2, l.lru.Len())
}

func TestCodec(t *testing.T) {
	var c codec
	must.Eq(t, "nova-msgp", c.Name())
	_, err := c.Marshal("text")
	must.Error(t, err)
	must.Error(t, c.Unmarshal(nil, new(string)))
	b, err := c.Marshal(&api.GetRequest{Key: "k"})
	must.NoError(t, err)
	f := &frame{msg: new(api.GetRequest), keep: true}
	must.NoError(t, c.Unmarshal(b, f))
	must.Eq(t, b.Materialize(), []byte(f.raw))
	must.Eq(t, "k", f.msg.(*api.GetRequest).Key)
	again, err := c.Marshal(f)
	must.NoError(t, err)
	must.Eq(t, b.Materialize(), again.Materialize())
	var r raw
	must.NoError(t, c.Unmarshal(b, &r))
	must.Eq(t, b.Materialize(), []byte(r))
	must.Error(t, c.Unmarshal(mem.BufferSlice{mem.SliceBuffer([]byte{0xc1})}, new(api.GetRequest)))
	big, err := encode(&api.Chunk{Data: make([]byte, MaxChunk+1)})
	must.NoError(t, err)
	must.Error(t, decode(big, new(api.Chunk)))
	must.NoError(t, decode(nil, &frame{msg: new(api.Chunk)}))
	_, err = f.UnmarshalMsg(nil)
	must.NoError(t, err)
}

// CheckBytes accepts what encoders write, in all their forms.
func TestCheckBytesAcceptsAllForms(t *testing.T) {
	long := strings.Repeat("x", 70000)
	for i, b := range [][]byte{
		msgp.AppendNil(nil), msgp.AppendBool(nil, true), msgp.AppendInt64(nil, -1), msgp.AppendInt64(nil, -1<<60), msgp.AppendInt16(nil, -300), msgp.AppendInt8(nil, -100),
		msgp.AppendInt32(nil, -100000), msgp.AppendUint64(nil, 1<<63), msgp.AppendUint16(nil, 300), msgp.AppendUint8(nil, 200), msgp.AppendUint32(nil, 1<<31),
		msgp.AppendFloat32(nil, 1), msgp.AppendFloat64(nil, 1), msgp.AppendString(nil, "x"), msgp.AppendString(nil, long[:200]), msgp.AppendString(nil, long[:300]), msgp.AppendString(nil, long),
		msgp.AppendBytes(nil, []byte(long[:3])), msgp.AppendBytes(nil, []byte(long[:300])), msgp.AppendBytes(nil, []byte(long)),
		msgp.AppendTime(nil, time.Now()), append(msgp.AppendMapHeader(nil, 0), 0), append(msgp.AppendArrayHeader(nil, 70000), make([]byte, 70000)...),
		append(msgp.AppendArrayHeader(nil, 300), make([]byte, 300)...), append(msgp.AppendMapHeader(nil, 300), make([]byte, 600)...), append(msgp.AppendMapHeader(nil, 70000), make([]byte, 140000)...),
		{0xc7, 3, 1, 0, 0, 0}, {0xc8, 0, 1, 1, 0}, {0xc9, 0, 0, 0, 1, 1, 0}, {0xd4, 1, 0}, append([]byte{0xd8, 1}, make([]byte, 16)...),
	} {
		must.NoError(t, CheckBytes(b), must.Sprint(i))
		want, err := msgp.Skip(b)
		must.NoError(t, err)
		if len(want) == 0 && len(b) > 1 { // one byte less is refused
			must.ErrorIs(t, CheckBytes(b[:len(b)-1]), ErrBomb, must.Sprint(i))
		}
	}
	must.ErrorIs(t, CheckBytes(nil), ErrBomb)
	must.ErrorIs(t, CheckBytes(bytes.Repeat([]byte{0x91}, 100)), ErrBomb)
	must.ErrorIs(t, CheckBytes([]byte{0xdf, 0xff, 0xff, 0xff, 0xff}), ErrBomb)
	must.ErrorIs(t, CheckBytes([]byte{0xdd, 0xff, 0xff}), ErrBomb)
}

// FuzzCheckBytes: what passes can be walked over by the library too, and what
// the walk refuses for being cut short does not pass.
func FuzzCheckBytes(f *testing.F) {
	b, _ := (&api.NodeBeat{NodeID: api.NewID(), BootID: "b", Stats: &api.NodeStats{CPUPercent: 1}}).MarshalMsg(nil)
	f.Add(b)
	f.Add([]byte{0xc9, 0, 0, 0, 1, 1, 0})
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if CheckBytes(b) != nil {
			return
		}
		_, err := msgp.Skip(b)
		must.NoError(t, err)
		_ = decode(b, new(api.NodeReport))
		_ = decode(b, new(api.VMApply))
	})
}

// FuzzError: an error in a trailer always decodes to one with a code.
func FuzzError(f *testing.F) {
	f.Add(packError(api.Errorf(api.CodeConflict, "x").WithDetail("a", "b")))
	f.Fuzz(func(t *testing.T, b []byte) { must.NotEq(t, 0, unpackError(b).Code) })
}
