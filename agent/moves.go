package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"io"
	"net"
	"os"
	"os/user"
	"regexp"
	"strconv"
	"sync/atomic"

	"github.com/novacron/novacron/agent/client"
	"github.com/novacron/novacron/agent/migrate"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
)

// gate is the door of the one port for tunnels. The port opens before client
// mode begins: until then nobody is let in.
type gate struct{ host atomic.Pointer[migrate.Host] }

func (g *gate) serve(ctx context.Context, c net.Conn, p rpc.Peer) {
	if h := g.host.Load(); h != nil {
		h.Tunnel(ctx, c, p)
		return
	}
	_ = c.Close() // the other end tells why it matters
}

// guestUsers are the users as which distributions run guests.
var guestUsers = []string{"libvirt-qemu", "qemu"}

// qemuConf is libvirt's configuration of QEMU.
const qemuConf = "/etc/libvirt/qemu.conf"

// confUser is the line of qemuConf that says who runs guests.
var confUser = regexp.MustCompile(`(?m)^\s*user\s*=\s*"\+?([^"]+)"`)

// guestOwner is who makes and opens the sockets of a move: the configured user,
// else the one of libvirt's configuration, else of this distribution's libvirt;
// -1 for root.
func guestOwner(h *Hypervisor, conf string) (uid, gid int, err error) {
	if h.User != "" {
		return owner(h)
	}
	names := guestUsers
	if b, err := os.ReadFile(conf); err == nil {
		if m := confUser.FindSubmatch(b); m != nil {
			names = []string{string(m[1])}
			if names[0] == "root" || names[0] == "0" {
				return -1, -1, nil
			}
		}
	}
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			if u, err = user.LookupId(name); err != nil {
				continue
			}
		}
		uid, err := strconv.Atoi(u.Uid)
		if err != nil {
			return 0, 0, err
		}
		gid, err := strconv.Atoi(u.Gid)
		return uid, gid, err
	}
	return -1, -1, nil
}

// openMoves makes this node's end of the tunnels; nil with -dev.
func (a *Agent) openMoves(m *clientMode) (client.Tunnels, error) {
	if a.cfg.Dev {
		return nil, nil // there is nobody to move guests to
	}
	uid, gid, err := guestOwner(a.cfg.Client.Hypervisor, qemuConf)
	if err != nil {
		return nil, err
	}
	c := migrate.Config{Dir: cmp.Or(a.cfg.Client.MigrateDir, migrate.DefaultDir), UID: uid, GID: gid, Logger: a.log.Logger}
	if a.server != nil {
		c.Dial = a.server.DialTunnel
	} else {
		c.Dial = a.peer.tls.DialTunnel
	}
	host, err := migrate.New(c)
	if err != nil {
		return nil, err
	}
	a.gate.host.Store(host)
	m.close = append(m.close, func() error {
		a.gate.host.Store(nil)
		return host.Close()
	})
	return tunnels{host}, nil
}

// tunnels is the data plane as client mode uses it.
type tunnels struct{ host *migrate.Host }

var _ client.Tunnels = tunnels{}

// token makes the tunnel's secret of the migration's.
func token(secret api.ID) migrate.Token { return sha256.Sum256(secret[:]) }

func (t tunnels) Expect(migration, from, secret api.ID, control string) (io.Closer, error) {
	return t.host.Expect(migrate.ExpectOptions{Migration: migration, From: from, Token: token(secret), Control: control})
}

func (t tunnels) Open(ctx context.Context, migration, to api.ID, address string, secret api.ID, o api.MigrationOptions) (client.Tunnel, error) {
	out, err := t.host.Open(ctx, migrate.OpenOptions{
		Migration: migration, To: to, Address: address, Token: token(secret), Compression: migrate.Compression(o.Compress), Bandwidth: o.Bandwidth,
	})
	if err != nil {
		return nil, err
	}
	return outgoing{out}, nil
}

type outgoing struct{ *migrate.Outgoing }

// Sent returns what memory and disks took of the wire.
func (o outgoing) Sent() api.Bytes {
	s := o.Stats()
	return s.Memory.WireSent + s.Disks.WireSent
}
