package cluster

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/keyring"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

// onDisk starts a server from a data folder, on loopback ports.
func (r *region) onDisk(dir string, join ...string) *machine {
	r.t.Helper()
	m := &machine{cfg: Config{
		Dir: dir, Bind: "127.0.0.1:0", SerfBind: "127.0.0.1:0", Join: join, Logger: testLogger(r.t),
		Multiplier: ProfileNormal, StabilizationTime: 50 * time.Millisecond, HashEvery: -1, fastGossip: true, leaveDelay: 10 * time.Millisecond,
	}}
	m.cfg.Halt = func(err error) { m.halted.Store(&err) }
	s, err := New(r.t.Context(), m.cfg)
	must.NoError(r.t, err)
	m.Server = s
	r.servers = append(r.servers, m)
	return m
}

// admin makes the first token over the root-only socket.
func bootstrapAt(t *testing.T, dir string) (*api.TokenCreated, *api.Error) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(dir, AdminSocket))
		},
	}}
	resp, err := c.Post("http://admin/v1/tokens/bootstrap", "application/json", nil)
	must.NoError(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		e := &api.Error{}
		must.NoError(t, json.NewDecoder(resp.Body).Decode(e))
		return nil, e
	}
	out := &api.TokenCreated{}
	must.NoError(t, json.NewDecoder(resp.Body).Decode(out))
	return out, nil
}

// joined is Join, again for as long as there is no leader.
func joined(t *testing.T, dir string, o JoinOptions) (id *Identity, err error) {
	t.Helper()
	eventually(t, o.Name+" has its answer", func() bool {
		id, err = Join(t.Context(), dir, o)
		return !leaderLost(err)
	})
	return id, err
}

func TestAClusterIsMadeAndJoinedOverTLS(t *testing.T) {
	r := &region{name: "eu", t: t}
	t.Cleanup(r.stop)
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	first, err := Init(dirs[0], InitOptions{Region: "eu", Name: "a"})
	must.NoError(t, err)
	_, err = Init(dirs[0], InitOptions{Region: "eu", Name: "a"})
	must.ErrorIs(t, err, code(api.CodeConfig), must.Sprint("a data folder serves one cluster"))
	a := r.onDisk(dirs[0])
	r.leader()
	st, err := os.Stat(filepath.Join(dirs[0], "root.key"))
	must.NoError(t, err)
	must.Eq(t, os.FileMode(0o600), st.Mode().Perm())
	eventually(t, "the CA's key is in Raft only", func() bool {
		_, err := os.Stat(filepath.Join(dirs[0], "ca.sealed"))
		return os.IsNotExist(err)
	})

	made, fail := bootstrapAt(t, dirs[0])
	must.Nil(t, fail)
	r.token = made.Secret
	_, fail = bootstrapAt(t, dirs[0])
	must.Eq(t, api.CodeBootstrapped, fail.Code)

	token := func(role string, uses int32) string {
		t.Helper()
		return mustCall[api.TokenCreated](r, "Token.Create", &api.TokenCreate{Type: api.TokenJoin, Role: role, Uses: uses, TTL: api.Duration(time.Hour)}).Secret
	}
	servers, clients := token("server", 1), token("client", 0)
	opts := func(secret, role, name string) JoinOptions {
		return JoinOptions{Addresses: []string{"127.0.0.1:1", a.self.Address}, Secret: secret, Role: role, Name: name, MachineID: "m-" + name}
	}
	b, err := joined(t, dirs[1], opts(servers, "server", "b"))
	must.NoError(t, err)
	must.Eq(t, first.ClusterID, b.ClusterID)
	must.Eq(t, first.RegionID, b.RegionID)
	_, err = Join(t.Context(), dirs[1], opts(clients, "client", "b"))
	must.ErrorIs(t, err, code(api.CodeConfig), must.Sprint("a stamped folder cannot join again"))
	for _, bad := range []JoinOptions{
		opts(servers, "server", "c"), // used up
		opts(clients, "server", "c"), // another role
		opts("nova-join.00", "client", "c"),
	} {
		_, err = Join(t.Context(), t.TempDir(), bad)
		must.ErrorIs(t, err, code(api.CodeJoinRefused))
	}
	_, err = Join(t.Context(), t.TempDir(), JoinOptions{Secret: clients, Role: "client", Name: "c"})
	must.ErrorIs(t, err, code(api.CodeConfig))
	other := opts(clients, "client", "c")
	other.Region = "us"
	_, err = Join(t.Context(), t.TempDir(), other)
	must.ErrorIs(t, err, code(api.CodeConfig))
	same := opts(token("server", 0), "server", "a2")
	same.NodeID = first.NodeID
	_, err = Join(t.Context(), t.TempDir(), same)
	must.ErrorIs(t, err, code(api.CodeNodeDuplicate), must.Sprint("the id of a server is taken"))

	second := r.onDisk(dirs[1])
	r.voters(2)
	// A follower passes a join on to the leader.
	third := opts(token("server", 0), "server", "c")
	third.Addresses = []string{second.self.Address}
	_, err = joined(t, dirs[2], third)
	must.NoError(t, err)
	r.onDisk(dirs[2])
	r.voters(3)
	r.converge()
	_, err = call[api.NamespaceResponse](r, second, "Namespace.Apply", &api.NamespaceApply{Namespace: api.Namespace{Name: "x"}})
	must.NoError(t, err)

	// A client joins, and its certificate is good for what a node may do.
	cdir := t.TempDir()
	c, err := joined(t, cdir, opts(clients, "client", "node1"))
	must.NoError(t, err)
	must.SliceNotEmpty(t, c.Servers)
	_, err = New(t.Context(), Config{Dir: cdir})
	must.ErrorIs(t, err, code(api.CodeConfig), must.Sprint("a client is no server"))
	ctls, err := rpc.NewTLS(c.CA, c.Cert, c.Key)
	must.NoError(t, err)
	pool := rpc.NewPool(rpc.NewTransport(ctls))
	defer pool.Close()
	reg := &api.NodeRegistered{}
	node := &api.Node{ID: c.NodeID, Name: "node1", Region: "eu", Datacenter: "dc1", Address: "127.0.0.1:1", Version: "t", MachineID: "m-node1", BootID: "b", Capacity: api.Resources{CPU: 1000, Memory: api.GiB}}
	session := api.NewID()
	eventually(t, "the node registers", func() bool {
		err := pool.Get(second.self.Address).Call(t.Context(), "Node.Register", &api.NodeRegister{Node: node, SessionID: session}, reg)
		if !leaderLost(err) {
			must.NoError(t, err)
		}
		return err == nil
	})
	must.Len(t, 3, reg.Servers)
	err = pool.Get(a.self.Address).Call(t.Context(), "Server.Stats", &api.Empty{}, &api.Server{})
	must.ErrorIs(t, err, code(api.CodeWrongRole))

	// Certificates are renewed, with a new key.
	for _, m := range r.servers {
		old := m.net.tls.Self().Expires
		eventually(t, "a new certificate", func() bool {
			err := m.renewNow(t.Context())
			if !leaderLost(err) {
				must.NoError(t, err)
			}
			return err == nil
		})
		must.False(t, m.net.tls.Self().Expires.Before(old))
		id, err := LoadIdentity(m.cfg.Dir)
		must.NoError(t, err)
		must.NotEq(t, string(m.id.Key), string(id.Key))
	}

	// All stop at once and come back with everything, even at other addresses:
	// gossip tells Raft where they are.
	for _, m := range r.servers {
		must.NoError(t, m.Close())
	}
	r.servers = nil
	back := r.onDisk(dirs[0])
	r.onDisk(dirs[1], back.GossipAddr())
	r.onDisk(dirs[2], back.GossipAddr())
	must.NotNil(t, r.leader().fsm.State().Namespace("x"))
	_, err = New(t.Context(), Config{Dir: dirs[0], Bind: "127.0.0.1:0", SerfBind: "127.0.0.1:0", Logger: testLogger(t)})
	must.ErrorIs(t, err, code(api.CodeConfig), must.Sprint("a folder has one process"))
}

func TestAFolderOfAnotherRegionIsRefused(t *testing.T) {
	dir := t.TempDir()
	id, err := Init(dir, InitOptions{Region: "eu", Name: "a"})
	must.NoError(t, err)
	_, err = New(t.Context(), Config{Dir: dir, Region: "us", Logger: testLogger(t)})
	must.ErrorIs(t, err, code(api.CodeConfig))
	must.StrContains(t, err.Error(), "belongs to region eu")
	must.ErrorIs(t, id.Belongs(dir, "", api.NewID(), api.ID{}), code(api.CodeConfig))
	must.ErrorIs(t, id.Belongs(dir, "", api.ID{}, api.NewID()), code(api.CodeConfig))
	must.NoError(t, id.Belongs(dir, "eu", id.NodeID, id.ClusterID))
	_, err = New(t.Context(), Config{Dir: t.TempDir(), Logger: testLogger(t)})
	must.ErrorIs(t, err, code(api.CodeConfig))
	must.StrContains(t, err.Error(), "cluster init")
	_, err = Init(t.TempDir(), InitOptions{Region: "Not A Region", Name: "a"})
	must.ErrorIs(t, err, code(api.CodeInvalid))
}

// A folder whose stamp was exchanged does not get past what Raft says.
func TestRaftOfAnotherClusterIsRefused(t *testing.T) {
	r := &region{name: "eu", t: t}
	t.Cleanup(r.stop)
	dir := t.TempDir()
	_, err := Init(dir, InitOptions{Region: "eu", Name: "a"})
	must.NoError(t, err)
	m := r.onDisk(dir)
	r.leader()
	must.NoError(t, m.raft.Snapshot().Error())
	must.NoError(t, m.Close())
	r.servers = nil
	id, err := LoadIdentity(dir)
	must.NoError(t, err)
	id.ClusterID = api.NewID()
	must.NoError(t, id.Save(dir))
	_, err = New(t.Context(), m.cfg)
	must.ErrorIs(t, err, code(api.CodeConfig))
	must.StrContains(t, err.Error(), "belongs to cluster")
}

// A crash while a certificate is renewed leaves the old pair or the new one.
func TestACertificateAndItsKeyAreOneFile(t *testing.T) {
	dir := t.TempDir()
	id, err := Init(dir, InitOptions{Region: "eu", Name: "a"})
	must.NoError(t, err)
	other, err := NewIdentity(InitOptions{Region: "eu", Name: "a"})
	must.NoError(t, err)
	next := *id
	next.Cert, next.Key = other.Cert, other.Key
	// The write of a key of its own would fail now.
	must.NoError(t, os.RemoveAll(filepath.Join(dir, "tls/key.pem")))
	must.NoError(t, os.MkdirAll(filepath.Join(dir, "tls/key.pem/x"), 0o700))
	must.Error(t, next.Save(dir))
	got, err := LoadIdentity(dir)
	must.NoError(t, err)
	_, err = tls.X509KeyPair(got.Cert, got.Key)
	must.NoError(t, err)

	// What an earlier version wrote is read, and becomes one file.
	old := t.TempDir()
	must.NoError(t, id.Save(old))
	must.NoError(t, os.Remove(filepath.Join(old, pairFile)))
	for i, b := range [][]byte{id.Cert, id.Key} {
		must.NoError(t, os.WriteFile(filepath.Join(old, pairFiles[i]), b, 0o600))
	}
	got, err = LoadIdentity(old)
	must.NoError(t, err)
	must.Eq(t, string(id.Key), string(got.Key))
	must.NoError(t, got.Save(old))
	got, err = LoadIdentity(old)
	must.NoError(t, err)
	must.Eq(t, string(id.Cert), string(got.Cert))
	must.Eq(t, string(id.Key), string(got.Key))
	_, err = os.Stat(filepath.Join(old, pairFiles[1]))
	must.ErrorIs(t, err, os.ErrNotExist)
}

// joinToken makes a join token with one use.
func (r *region) joinToken(role string) string {
	r.t.Helper()
	return mustCall[api.TokenCreated](r, "Token.Create", &api.TokenCreate{Type: api.TokenJoin, Role: role, Uses: 1, TTL: api.Duration(time.Hour)}).Secret
}

// join asks the leader as a client with a new key would; change may change that.
func (r *region) join(secret string, change func(*api.JoinRequest)) (*api.JoinResponse, error) {
	r.t.Helper()
	_, csr, err := keyring.NewRequest()
	must.NoError(r.t, err)
	req := &api.JoinRequest{Secret: secret, Role: "client", NodeID: api.NewID(), Name: "n1", MachineID: "machine-n1", ProductUUID: "product-n1", CSR: csr}
	change(req)
	return r.leader().joinLeader(r.t.Context(), req)
}

func TestAJoinCostsOneUseHoweverOftenItIsAsked(t *testing.T) {
	var ahead atomic.Int64
	r := newWorld(t).region("eu", 1, func(c *Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	secret, id := r.joinToken("client"), api.NewID()
	_, err := r.join(secret, func(q *api.JoinRequest) { q.CSR = []byte("nonsense") })
	must.ErrorIs(t, err, code(api.CodeInvalid), must.Sprint("a bad request costs nothing"))

	key, csr, err := keyring.NewRequest()
	must.NoError(t, err)
	own := func(q *api.JoinRequest) { q.NodeID, q.CSR = id, csr }
	_, err = r.join(secret, own)
	must.NoError(t, err)
	again, err := keyring.RequestFor(key)
	must.NoError(t, err)
	_, err = r.join(secret, func(q *api.JoinRequest) { q.NodeID, q.CSR = id, again })
	must.NoError(t, err, must.Sprint("the answer may have been lost"))

	for _, other := range []func(*api.JoinRequest){
		func(q *api.JoinRequest) { q.NodeID = id },
		func(q *api.JoinRequest) { q.CSR = csr },
		func(q *api.JoinRequest) { own(q); q.MachineID = "another" },
		func(q *api.JoinRequest) { own(q); q.Role = "server" },
		func(q *api.JoinRequest) { own(q); q.Secret = q.Secret[:len(q.Secret)-2] + "xx" },
	} {
		_, err = r.join(secret, other)
		must.ErrorIs(t, err, code(api.CodeJoinRefused))
	}
	r.apply(deny(id))
	_, err = r.join(secret, own)
	must.Error(t, err, must.Sprint("denied in the meantime"))
	r.apply(&fsm.NodeDeny{NodeID: id, Allow: true})
	ahead.Store(int64(11 * time.Minute))
	r.apply(noop())
	_, err = r.join(secret, own)
	must.ErrorIs(t, err, code(api.CodeJoinRefused), must.Sprint("too late"))
}

func TestANodeIDIsBoundToItsMachineAndProduct(t *testing.T) {
	r := newWorld(t).region("eu", 1)
	n := r.newNode("n1").ready()
	for _, other := range []func(*api.JoinRequest){
		func(q *api.JoinRequest) { q.MachineID = "another" },
		func(q *api.JoinRequest) { q.ProductUUID = "another" },
	} {
		_, err := r.join(r.joinToken("client"), func(q *api.JoinRequest) { q.NodeID = n.node.ID; other(q) })
		must.ErrorIs(t, err, code(api.CodeNodeDuplicate))
	}
	_, err := r.join(r.joinToken("client"), func(q *api.JoinRequest) { q.NodeID = n.node.ID })
	must.NoError(t, err)
}
