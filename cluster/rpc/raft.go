package rpc

import (
	"context"
	"net"
	"time"

	"github.com/novacron/novacron/api"
)

// Layer is what Raft needs of a network: raft.StreamLayer, but for the type of
// the address that it dials.
type Layer interface {
	net.Listener
	Dial(addr string, timeout time.Duration) (net.Conn, error)
}

// RaftLayer returns the port's Raft connections. Closing it closes only them.
func (p *Port) RaftLayer() Layer { return &raftLayer{feed: p.raft, tls: p.tls} }

type raftLayer struct {
	*feed
	tls *TLS
}

var _ Layer = (*raftLayer)(nil)

// Dial connects to a server of the own region.
func (l *raftLayer) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	ctx := context.Background()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return l.tls.dial(ctx, addr, ProtoRaft, target{addr: addr, role: api.RoleServer})
}

// DialTunnel connects to the tunnel of one node of the own region.
func (t *TLS) DialTunnel(ctx context.Context, addr string, id api.ID) (net.Conn, error) {
	return t.dial(ctx, addr, ProtoTunnel, target{addr: addr, id: id})
}
