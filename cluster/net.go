package cluster

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
	"github.com/novacron/novacron/fsm"
)

// network is the one port with what hangs on it: sockets with TLS, or memory.
type network struct {
	address string
	pool    *rpc.Pool
	raft    rpc.Layer
	port    *rpc.Port // nil in memory
	tls     *rpc.TLS  // nil in memory
	shut    func()
}

// openNetwork opens the port. Calls that arrive before the server is up are
// refused as unreachable.
func (s *Server) openNetwork(ctx context.Context) (*network, error) {
	if s.cfg.Network != nil {
		return s.openMemory()
	}
	t, err := rpc.NewTLS(s.id.CA, s.id.Cert, s.id.Key)
	if err != nil {
		return nil, api.Errorf(api.CodeConfig, "the server's certificate: %v", err)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", s.cfg.Bind)
	if err != nil {
		return nil, api.Errorf(api.CodeConfig, "listen on %s: %v", s.cfg.Bind, err)
	}
	addr, err := advertised(s.cfg.Advertise, ln.Addr().String())
	if err != nil {
		ln.Close()
		return nil, err
	}
	n := &network{address: addr, tls: t, pool: rpc.NewPool(rpc.NewTransport(t))}
	s.newMux(n.pool)
	t.SetDenied(func(id api.ID) bool { return s.fsm.State().Denied(id) != nil })
	n.port = rpc.Serve(ln, t, rpc.PortOptions{
		Mux: s.mux, Raft: true, Logger: s.log, MaxPerIP: s.cfg.MaxPerIP, Tunnel: s.cfg.Tunnel,
		Join: func(ctx context.Context, c net.Conn) {
			err := rpc.ServeJoin(ctx, c, func(ctx context.Context, remote string, req *api.JoinRequest) *api.JoinResponse {
				return s.join(ctx, req)
			})
			if err != nil {
				s.log.Debug("join", "error", err)
			}
		},
	})
	n.raft = n.port.RaftLayer()
	n.shut = sync.OnceFunc(n.port.Close)
	return n, nil
}

// DialTunnel connects to the tunnel of a node of the own region.
func (s *Server) DialTunnel(ctx context.Context, addr string, id api.ID) (net.Conn, error) {
	if s.net.tls == nil {
		return nil, api.Errorf(api.CodeUnsupported, "an in-memory network has no tunnels")
	}
	return s.net.tls.DialTunnel(ctx, addr, id)
}

func (s *Server) openMemory() (*network, error) {
	host := s.cfg.Advertise
	if host == "" {
		host = fmt.Sprintf("server-%s:%d", s.id.NodeID.Short(), PortRPC)
	}
	name := api.CertName{Region: s.id.Region, Role: api.RoleServer, NodeID: s.id.NodeID}
	n := &network{address: host, pool: rpc.NewPool(s.cfg.Network.Transport(host, name))}
	s.newMux(n.pool)
	p, err := s.cfg.Network.Listen(host, name, s.mux)
	if err != nil {
		n.pool.Close()
		return nil, err
	}
	n.raft = p.RaftLayer()
	n.shut = sync.OnceFunc(p.Close)
	return n, nil
}

// newMux makes the endpoints; it comes before the port, which needs them.
func (s *Server) newMux(pool *rpc.Pool) {
	s.mux = rpc.NewMux(rpc.Options{
		Router: s.cfg.router(s), Auth: rpc.AuthFunc(s.authenticate), Pool: pool, Logger: s.log, Limit: s.cfg.Limit, Hold: s.cfg.Hold,
	})
	s.endpoints()
}

// recheck closes the connections of nodes that were denied; it waits for the
// commit hook's word.
func (s *Server) recheck(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.deniedChanged:
			if s.net.port != nil {
				s.net.port.Recheck()
			}
		}
	}
}

// movedNodes are the addresses at which nodes were and are no more. The commit
// hook only marks them.
type movedNodes struct {
	mu    sync.Mutex
	addrs []string
	wake  chan struct{} // buffered by one
}

func (m *movedNodes) commit(changes []fsm.Change) {
	for i := range changes {
		old, _ := changes[i].Old.(*api.Node)
		now, _ := changes[i].New.(*api.Node)
		if old == nil || now != nil && now.Address == old.Address {
			continue
		}
		m.mu.Lock()
		m.addrs = append(m.addrs, old.Address)
		m.mu.Unlock()
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}

// forgetMoved closes the connections to where no node is any more. Those to
// servers stay: a machine may be both.
func (s *Server) forgetMoved(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.moved.wake:
		}
		s.moved.mu.Lock()
		addrs := s.moved.addrs
		s.moved.addrs = nil
		s.moved.mu.Unlock()
		for _, a := range addrs {
			if !slices.Contains(s.serverAddrs(), a) {
				s.pool.Forget(a)
			}
		}
	}
}

// TLS is the port's certificate and rules, for other listeners of the process;
// nil when the network is in memory.
func (s *Server) TLS() *rpc.TLS { return s.net.tls }
