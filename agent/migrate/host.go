package migrate

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	metrics "github.com/hashicorp/go-metrics/compat"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
)

// DefaultDir is where the folders of migrations are. It must be the same on both
// hosts of a migration: hypervisors are given one path for both.
const DefaultDir = "/run/novacron/migrate"

// Config is what a Host stands on. Dial is needed.
type Config struct {
	// Dir holds one folder for each migration; empty means DefaultDir. Whoever
	// shares it (two agents on one machine) must not carry the same migration.
	Dir string
	// UID and GID are the user and the group of the guest processes, which connect
	// to the source's sockets and make the destination's; -1 is this process's.
	UID, GID int
	// Dial connects to the tunnel of a node and makes sure that it is that node:
	// (*rpc.TLS).DialTunnel.
	Dial func(ctx context.Context, address string, node api.ID) (net.Conn, error)
	// Keepalive is how often each end of a stream shows that it is there; a stream
	// ends when nothing was heard for two of them. 0 means 2 s.
	Keepalive time.Duration
	// SocketWait is how long a hypervisor may take until it listens at a socket to
	// which a stream leads; 0 means 10 s.
	SocketWait time.Duration
	Logger     *slog.Logger
}

// keepalives may be missing before the other end is taken for lost.
const keepalives = 2

// Host carries this node's migrations, out and in.
type Host struct {
	cfg     Config
	log     *slog.Logger
	codec   *codec
	silence time.Duration
	refused atomic.Int64

	mu     sync.Mutex
	closed bool
	in     map[api.ID]*Incoming
	out    map[api.ID]*Outgoing
}

// New makes a Host. It starts nothing; Close ends what it carries.
func New(c Config) (*Host, error) {
	if c.Dir == "" {
		c.Dir = DefaultDir
	}
	if err := errors.Join(checkFolder(c.Dir), sweep(c.Dir)); err != nil {
		return nil, err
	}
	if c.Keepalive == 0 {
		c.Keepalive = 2 * time.Second
	}
	if c.SocketWait == 0 {
		c.SocketWait = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	code, err := newCodec()
	if err != nil {
		return nil, err
	}
	return &Host{
		cfg: c, log: c.Logger, codec: code, silence: keepalives * c.Keepalive,
		in: map[api.ID]*Incoming{}, out: map[api.ID]*Outgoing{},
	}, nil
}

// sweep removes the folders of migrations whose agent has died: their tunnels
// went with it.
func sweep(dir string) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, d := range list {
		if _, err := api.ParseID(d.Name()); err == nil {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, d.Name())))
		}
	}
	return errors.Join(append(errs, err)...)
}

// Refused is how many tunnels were refused: of migrations, nodes or tokens that
// are not expected here, or with too many streams.
func (h *Host) Refused() int64 { return h.refused.Load() }

// Close ends all sessions and waits for them. Nothing can be opened or expected
// afterwards.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	in, out := slices.Collect(maps.Values(h.in)), slices.Collect(maps.Values(h.out))
	h.mu.Unlock()
	for _, s := range in {
		s.cancel() // all at once
	}
	for _, s := range out {
		s.cancel()
	}
	return errors.Join(closeAll(in), closeAll(out))
}

// Tunnel serves one tunnel that came in, until it ends: it is the handler of
// nova-tunnel/1 (rpc.PortOptions.Tunnel). The caller closes the connection.
func (h *Host) Tunnel(ctx context.Context, c net.Conn, p rpc.Peer) {
	var hi hello
	err := guarded(ctx, c, h.silence, func() (err error) {
		in := frameReader{r: c}
		f, err := in.next()
		if err != nil {
			return err
		}
		defer f.release()
		if f.t != frameHello {
			return protocolError("no greeting")
		}
		hi, err = parseHello(f.bytes())
		return err
	})
	if err != nil {
		h.refuse(c, p, "no greeting: "+err.Error())
		return
	}
	h.mu.Lock()
	in := h.in[hi.migration]
	h.mu.Unlock()
	// Strangers are not told which of these it was.
	switch {
	case in == nil:
		h.refuse(c, p, "migration "+hi.migration.String()+" is not expected")
	case in.node != p.NodeID:
		h.refuse(c, p, "migration "+hi.migration.String()+" is expected from another node")
	case !in.is(hi.token):
		h.refuse(c, p, "migration "+hi.migration.String()+" with another token")
	default:
		in.serve(ctx, c, p, &hi)
	}
}

// refuse turns a tunnel away and counts it.
func (h *Host) refuse(c net.Conn, p rpc.Peer, why string) {
	h.refused.Add(1)
	metrics.IncrCounter([]string{"migrate", "refused"}, 1)
	h.log.Warn("a tunnel was refused", "peer", p.NodeID.String(), "remote", p.Addr, "why", why)
	c.SetWriteDeadline(time.Now().Add(farewell))
	c.Write(errorFrame("refused"))
}

// guarded runs a short exchange on a connection, which is closed if it takes too
// long or the context ends.
func guarded(ctx context.Context, c net.Conn, limit time.Duration, exchange func() error) error {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTimer(limit)
		defer t.Stop()
		select {
		case <-done:
			return
		case <-ctx.Done():
		case <-t.C:
		}
		closeNow(c)
	})
	err := exchange()
	close(done)
	wg.Wait()
	return err
}
