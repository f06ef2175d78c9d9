package migrate

import (
	"context"
	"net"
	"path/filepath"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/cluster/rpc"
)

// ExpectOptions are those of Expect; all are needed.
type ExpectOptions struct {
	Migration api.ID
	From      api.ID // the source's node
	Token     Token
	// Control is the path of this host's hypervisor socket
	// (hypervisor.Migrator.ControlSocket).
	Control string
}

// Incoming is the destination's end of a migration.
type Incoming struct {
	*session
	control string
}

// Expect opens the gate for a migration: from now on its tunnels are let in. It
// makes the migration's folder, in which the guest process listens for memory
// and disks. NOVA-3001 if the migration is expected already, NOVA-3007 after
// Close of the Host.
func (h *Host) Expect(o ExpectOptions) (*Incoming, error) {
	if err := checkSession(o.Migration, o.From, o.Token); err != nil {
		return nil, err
	}
	in := &Incoming{session: h.newSession(context.Background(), o.Migration, o.From, o.Token, 0), control: o.Control}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return nil, errClosed
	case h.in[o.Migration] != nil:
		return nil, api.Errorf(api.CodeExists, "migration %s is expected already", o.Migration)
	}
	// The guest process makes its sockets there itself.
	err := h.makeFolder(in.dir, 0o700)
	if err == nil {
		err = h.give(in.dir, h.guest(0o700, 0o070))
	}
	if err != nil {
		in.session.close(func() {})
		return nil, api.Errorf(api.CodeConfig, "the folder of migration %s: %v", o.Migration, err)
	}
	h.in[o.Migration] = in
	return in, nil
}

// Memory is the path at which the guest process listens for memory.
func (in *Incoming) Memory() string { return filepath.Join(in.dir, Memory.socket()) }

// Disks is the path at which the guest process listens for disks (NBD).
func (in *Incoming) Disks() string { return filepath.Join(in.dir, Disks.socket()) }

// Close shuts the gate, ends the streams within a second, and removes the folder.
func (in *Incoming) Close() error {
	return in.close(func() {
		in.host.mu.Lock()
		delete(in.host.in, in.migration)
		in.host.mu.Unlock()
	})
}

// serve carries a tunnel of this migration.
func (in *Incoming) serve(ctx context.Context, c net.Conn, p rpc.Peer, hi *hello) {
	window, ok := in.enter(hi.kind)
	if !ok {
		in.host.refuse(c, p, "migration "+hi.migration.String()+" has ended, or has too many streams")
		return
	}
	defer in.leave(window)
	// The stream ends with the session and with the port.
	sub, cancel := context.WithCancel(in.ctx)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	err := guarded(sub, c, in.host.silence, func() error {
		_, err := c.Write(smallFrame(frameAccept, window))
		return err
	})
	if err == nil {
		err = in.stream(hi.kind, hi.mode, window, hi.window).run(sub, c, func(ctx context.Context) (duplex, error) {
			switch hi.kind {
			case Control:
				return in.host.connect(ctx, in.control)
			case Memory:
				return in.host.connectGuest(ctx, in.Memory())
			default:
				return in.host.connectGuest(ctx, in.Disks())
			}
		})
	}
	in.ended(hi.kind, err)
}
