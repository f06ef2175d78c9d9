package rpc_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/keyring"
	"github.com/novacron/novacron/cluster/rpc"
)

// host is a server that lets machines join.
type host struct {
	*gate
	secret string
	asked  atomic.Int32
	// answer changes what is answered.
	answer func(*api.JoinRequest, *api.JoinResponse)
	errs   chan error
}

func newHost(t *testing.T) *host {
	h := &host{errs: make(chan error, 100)}
	h.gate = newGate(t, func(o *rpc.PortOptions) {
		o.Join = func(ctx context.Context, c net.Conn) {
			h.errs <- rpc.ServeJoin(ctx, c, h.join)
		}
	})
	h.secret = keyring.NewJoinSecret(h.a.ca.Fingerprint(), api.NewID())
	return h
}

func (h *host) join(ctx context.Context, remote string, req *api.JoinRequest) *api.JoinResponse {
	h.asked.Add(1)
	if req.Secret != h.secret {
		return &api.JoinResponse{Error: api.Errorf(api.CodeJoinRefused, "join refused")}
	}
	cert, err := h.a.ca.Sign(req.CSR, api.CertName{Region: "west", Role: req.Role, NodeID: req.NodeID}, time.Now())
	if err != nil {
		return nil
	}
	r := &api.JoinResponse{Region: "west", CA: h.a.ca.CertPEM(), Cert: cert, Servers: []string{h.addr}}
	if h.answer != nil {
		h.answer(req, r)
	}
	return r
}

func request(t *testing.T) (api.JoinRequest, []byte) {
	key, csr, err := keyring.NewRequest()
	must.NoError(t, err)
	return api.JoinRequest{Role: api.RoleClient, NodeID: api.NewID(), Name: "n1", CSR: csr}, key
}

// A machine that knows an address and a join secret, and nothing else, becomes
// a member.
func TestJoin(t *testing.T) {
	h := newHost(t)
	req, key := request(t)
	resp, err := rpc.Join(t.Context(), h.addr, h.secret, req)
	must.NoError(t, err)
	mine, err := rpc.NewTLS(resp.CA, resp.Cert, key)
	must.NoError(t, err)
	must.Eq(t, api.CertName{Region: "west", Role: api.RoleClient, NodeID: req.NodeID}, mine.Self().CertName)
	p := rpc.NewPool(rpc.NewTransport(mine))
	defer p.Close()
	must.NoError(t, p.Get(resp.Servers[0]).Call(t.Context(), "Node.Beat", &api.NodeBeat{}, new(api.NodeBeaten)))
	must.Eq(t, req.NodeID, h.box.calls()[0].id.NodeID)
}

func TestJoinTrustsOnlyTheAuthorityOfTheSecret(t *testing.T) {
	h, impostor := newHost(t), newHost(t)
	req, _ := request(t)
	_, err := rpc.Join(t.Context(), impostor.addr, h.secret, req)
	must.Eq(t, api.CodeJoinRefused, api.CodeOf(err))
	must.Eq(t, 0, int(impostor.asked.Load()), must.Sprint("the secret was sent to a stranger"))

	// A member that is no server cannot pose as one.
	var asked atomic.Int32
	p, err := rpc.Listen(t.Context(), "127.0.0.1:0", h.a.tls(certName(api.RoleClient, "west")), rpc.PortOptions{
		Mux: h.box.mux, Join: func(context.Context, net.Conn) { asked.Add(1) },
	})
	must.NoError(t, err)
	defer p.Close()
	_, err = rpc.Join(t.Context(), p.Addr().String(), h.secret, req)
	must.Eq(t, api.CodeJoinRefused, api.CodeOf(err))

	// The authority's certificate shown beside a leaf that it did not sign.
	cert, key := impostor.a.issue(certName(api.RoleServer, "west"), time.Now())
	pair, err := tls.X509KeyPair(append(cert, h.a.ca.CertPEM()...), key)
	must.NoError(t, err)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{rpc.ProtoJoin}})
	must.NoError(t, err)
	defer ln.Close()
	got := make(chan int, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			got <- -1
			return
		}
		b, _ := io.ReadAll(c)
		c.Close()
		got <- len(b)
	}()
	_, err = rpc.Join(t.Context(), ln.Addr().String(), h.secret, req)
	must.Eq(t, api.CodeJoinRefused, api.CodeOf(err))
	must.Eq(t, 0, <-got)
	must.Eq(t, 0, int(asked.Load()))
}

func TestJoinIsRefused(t *testing.T) {
	h := newHost(t)
	req, _ := request(t)
	_, err := rpc.Join(t.Context(), h.addr, keyring.NewJoinSecret(h.a.ca.Fingerprint(), api.NewID()), req)
	must.Eq(t, api.CodeJoinRefused, api.CodeOf(err), must.Sprint("another secret"))
	for _, bad := range []string{"", "nova-join.x.y.z", keyring.NewToken(api.NewID()), "nova-join." + strings.Repeat("zz", 32) + ".a.b"} {
		_, err := rpc.Join(t.Context(), h.addr, bad, req)
		must.Eq(t, api.CodeJoinRefused, api.CodeOf(err), must.Sprint(bad))
	}
	broken := req
	broken.CSR = []byte("x")
	_, err = rpc.Join(t.Context(), h.addr, h.secret, broken)
	must.Eq(t, api.CodeInternal, api.CodeOf(err))
	huge := req
	huge.Name = strings.Repeat("n", rpc.MaxJoin)
	_, err = rpc.Join(t.Context(), h.addr, h.secret, huge)
	must.Error(t, err)
	must.Eq(t, 2, int(h.asked.Load()))

	_, err = rpc.Join(t.Context(), "127.0.0.1:1", h.secret, req)
	must.Eq(t, api.CodeUnreachable, api.CodeOf(err))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = rpc.Join(ctx, h.addr, h.secret, req)
	must.Eq(t, api.CodeCanceled, api.CodeOf(err))
}

// The answer of a server is checked as well.
func TestJoinChecksTheAnswer(t *testing.T) {
	h, other := newHost(t), newAuthority(t)
	req, _ := request(t)
	sign := func(a *authority, csr []byte, role string, id api.ID) []byte {
		b, err := a.ca.Sign(csr, api.CertName{Region: "west", Role: role, NodeID: id}, time.Now())
		must.NoError(t, err)
		return b
	}
	_, otherCSR, err := keyring.NewRequest()
	must.NoError(t, err)
	for what, f := range map[string]func(*api.JoinRequest, *api.JoinResponse){
		"another authority": func(_ *api.JoinRequest, r *api.JoinResponse) { r.CA = other.ca.CertPEM() },
		"no authority":      func(_ *api.JoinRequest, r *api.JoinResponse) { r.CA = nil },
		"no certificate":    func(_ *api.JoinRequest, r *api.JoinResponse) { r.Cert = nil },
		"a certificate of another authority": func(q *api.JoinRequest, r *api.JoinResponse) {
			r.Cert = sign(other, q.CSR, q.Role, q.NodeID)
		},
		"a certificate for another key": func(q *api.JoinRequest, r *api.JoinResponse) {
			r.Cert = sign(h.a, otherCSR, q.Role, q.NodeID)
		},
		"another role":   func(q *api.JoinRequest, r *api.JoinResponse) { r.Cert = sign(h.a, q.CSR, api.RoleServer, q.NodeID) },
		"another node":   func(q *api.JoinRequest, r *api.JoinResponse) { r.Cert = sign(h.a, q.CSR, q.Role, api.NewID()) },
		"another region": func(q *api.JoinRequest, r *api.JoinResponse) { r.Region = "east" },
	} {
		h.answer = f
		_, err := rpc.Join(t.Context(), h.addr, h.secret, req)
		must.Eq(t, api.CodeJoinRefused, api.CodeOf(err), must.Sprint(what))
	}
}

// What strangers send to a server's join protocol.
func TestHostileJoins(t *testing.T) {
	h := newHost(t)
	for what, b := range map[string][]byte{
		"nothing":               {},
		"half a length":         {0, 0},
		"a length over limit":   {0x00, 0x01, 0x00, 0x01, 0x80},
		"four billion":          {0xff, 0xff, 0xff, 0xff, 0x80},
		"less than its length":  {0, 0, 0, 9, 0x80},
		"not a map":             {0, 0, 0, 1, 0x01},
		"a bomb":                {0, 0, 0, 10, 0x81, 0xa3, 'c', 's', 'r', 0xc6, 0xff, 0xff, 0xff, 0xff},
		"text":                  []byte("GET / HTTP/1.1\r\n\r\n"),
		"a length without data": {0, 0, 1, 0},
	} {
		c, err := h.knock(t, &tls.Config{NextProtos: []string{rpc.ProtoJoin}})
		must.NoError(t, err, must.Sprint(what))
		c.Write(b)
		c.CloseWrite()
		got, _ := io.ReadAll(c)
		must.Len(t, 0, got, must.Sprint(what))
		must.Error(t, <-h.errs, must.Sprint(what))
		c.Close()
	}
	must.Eq(t, 0, int(h.asked.Load()))

	t.Run("too many attempts", func(t *testing.T) {
		g := newGate(t, func(o *rpc.PortOptions) { o.MaxJoins = 1e-9 })
		n := 0
		for range 3 {
			c, err := g.knock(t, &tls.Config{NextProtos: []string{rpc.ProtoJoin}})
			must.NoError(t, err)
			c.Write([]byte("x")) // the gate's join protocol says it back
			if !refused(c, nil) {
				n++
			}
		}
		must.Eq(t, 1, n)
	})
}

// A joiner that says nothing is let go after a while.
func TestSlowJoin(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	b.Close()
	err := rpc.ServeJoin(t.Context(), b, nil)
	must.Error(t, err)

	c := &deadlines{Conn: a}
	go io.Copy(io.Discard, b)
	_ = rpc.ServeJoin(t.Context(), c, nil)
	must.True(t, c.read > 0 && c.read <= 5*time.Second, must.Sprint(c.read))
	must.True(t, c.write > 0 && c.write <= 30*time.Second, must.Sprint(c.write))
}

// deadlines notes the deadlines that are set and ends at the first read.
type deadlines struct {
	net.Conn
	read, write time.Duration
}

func (d *deadlines) SetReadDeadline(t time.Time) error  { d.read = time.Until(t); return nil }
func (d *deadlines) SetWriteDeadline(t time.Time) error { d.write = time.Until(t); return nil }
func (d *deadlines) Read([]byte) (int, error)           { return 0, errors.New("deadline") }

// FuzzFrame: whatever arrives, reading allocates no more than the limit, never
// panics, and what is accepted is written back and read as the same.
func FuzzFrame(f *testing.F) {
	var good bytes.Buffer
	if err := rpc.WriteFrame(&good, &api.JoinRequest{Secret: "s", Role: "client", NodeID: api.NewID(), CSR: []byte{1}}); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add([]byte{0, 0, 0, 1, 0x80})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		req := new(api.JoinRequest)
		if rpc.ReadFrame(bytes.NewReader(b), req) != nil {
			return
		}
		must.GreaterEq(t, uint32(binary.BigEndian.Uint32(b)), uint32(len(b)-4))
		var out bytes.Buffer
		if err := rpc.WriteFrame(&out, req); err != nil {
			t.Skip() // grew over the limit
		}
		again := new(api.JoinRequest)
		must.NoError(t, rpc.ReadFrame(&out, again))
		must.Eq(t, req, again)
	})
}
