package migrate

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/faultpoint"
)

// OpenOptions are those of Open. Migration, To, Address and Token are needed.
type OpenOptions struct {
	Migration api.ID
	To        api.ID // the destination's node
	Address   string // of its port, host:port
	Token     Token
	// Compression of memory and disks, in both directions; empty means Auto.
	Compression Compression
	// Bandwidth caps what memory and disks send together, as it goes over the
	// wire, in bytes in a second; 0 is no cap.
	Bandwidth api.Bytes
}

// Outgoing is the source's end of a migration.
type Outgoing struct {
	*session
	address string
	mode    Compression
}

// Open makes the migration's folder with its listening sockets. Nothing is sent
// before a hypervisor connects to one. The session ends when the context does;
// Close must be called in any case. NOVA-3001 if the migration is open already,
// NOVA-3007 after Close of the Host.
func (h *Host) Open(ctx context.Context, o OpenOptions) (*Outgoing, error) {
	if err := checkSession(o.Migration, o.To, o.Token); err != nil {
		return nil, err
	}
	if _, err := o.Compression.number(); err != nil {
		return nil, err
	}
	if o.Compression == "" {
		o.Compression = Auto
	}
	if o.Bandwidth < 0 {
		return nil, api.Errorf(api.CodeInvalid, "a negative bandwidth")
	}
	out := &Outgoing{session: h.newSession(ctx, o.Migration, o.To, o.Token, o.Bandwidth), address: o.Address, mode: o.Compression}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return nil, errClosed
	case h.out[o.Migration] != nil:
		return nil, api.Errorf(api.CodeExists, "migration %s is open already", o.Migration)
	}
	if err := out.listen(); err != nil {
		out.session.close(func() {})
		return nil, api.Errorf(api.CodeConfig, "the sockets of migration %s: %v", o.Migration, err)
	}
	h.out[o.Migration] = out
	return out, nil
}

// listen opens the sockets and begins to serve them.
func (out *Outgoing) listen() error {
	// Guest processes pass through, but may change nothing: one that could would
	// lay a control socket of its own.
	if err := out.host.makeFolder(out.dir, 0o711); err != nil {
		return err
	}
	for k := Control; k < kinds; k++ {
		ln, err := out.host.listen(out.dir, k)
		if err != nil {
			return err
		}
		out.wg.Go(func() {
			<-out.ctx.Done()
			ln.Close()
		})
		out.wg.Go(func() { out.accept(k, ln) })
	}
	return nil
}

// Control is the path of the socket that leads to the destination's hypervisor.
func (out *Outgoing) Control() string { return filepath.Join(out.dir, Control.socket()) }

// Memory is the path of the socket that leads to the socket of the same name at
// the destination.
func (out *Outgoing) Memory() string { return filepath.Join(out.dir, Memory.socket()) }

// Disks is the path of the socket that leads to the socket of the same name at
// the destination, for NBD.
func (out *Outgoing) Disks() string { return filepath.Join(out.dir, Disks.socket()) }

// SetBandwidth changes the cap, in bytes in a second, at once; 0 or less is none.
func (out *Outgoing) SetBandwidth(b api.Bytes) { out.limit.set(max(0, int64(b))) }

// Close ends the streams within a second and removes the folder.
func (out *Outgoing) Close() error {
	return out.close(func() {
		out.host.mu.Lock()
		delete(out.host.out, out.migration)
		out.host.mu.Unlock()
	})
}

// accept makes a tunnel of each connection.
func (out *Outgoing) accept(k Kind, ln *net.UnixListener) {
	for {
		c, err := ln.AcceptUnix()
		if err != nil {
			if out.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			out.log.Warn("accept", "kind", k.String(), "error", err) // too many open files, for one
			t := time.NewTimer(100 * time.Millisecond)
			select {
			case <-t.C:
				continue
			case <-out.ctx.Done():
				t.Stop()
				return
			}
		}
		window, ok := out.enter(k)
		if !ok {
			out.log.Warn("a connection of the hypervisor was refused: too many", "kind", k.String())
			c.Close()
			continue
		}
		out.wg.Go(func() {
			defer out.leave(window)
			out.ended(k, out.carry(k, c, window))
		})
	}
}

// carry connects a hypervisor's connection to the destination and serves it.
func (out *Outgoing) carry(k Kind, local *net.UnixConn, window int) error {
	faultpoint.Reach(k.String())
	conn, err := out.host.cfg.Dial(out.ctx, out.address, out.node)
	if err != nil {
		local.Close()
		return api.Errorf(api.CodeUnreachable, "node %s at %s: %v", out.node, out.address, err)
	}
	other, err := out.greet(conn, k, window)
	if err != nil {
		closeNow(conn)
		local.Close()
		return err
	}
	st := out.stream(k, out.mode, window, other)
	st.dialer = true
	return st.run(out.ctx, conn, func(context.Context) (duplex, error) { return local, nil })
}

// greet says who this is and returns the window that the destination grants.
func (out *Outgoing) greet(conn net.Conn, k Kind, window int) (other int, err error) {
	hi := hello{kind: k, mode: out.mode, window: window, migration: out.migration, token: out.token}
	b, err := hi.frame()
	if err != nil {
		return 0, err
	}
	err = guarded(out.ctx, conn, out.host.silence, func() error {
		if _, err := conn.Write(b); err != nil {
			return err
		}
		in := frameReader{r: conn}
		f, err := in.next()
		if err != nil {
			return err
		}
		defer f.release()
		switch f.t {
		case frameAccept:
			other, err = checkWindow(uint32(f.number(0)))
			return err
		case frameError:
			return api.Errorf(api.CodeForbidden, "node %s does not let migration %s in: %q", out.node, out.migration, f.bytes())
		}
		return protocolError("an answer that is none")
	})
	if err != nil && api.CodeOf(err) != api.CodeForbidden {
		err = api.Errorf(api.CodeUnreachable, "node %s at %s: %v", out.node, out.address, err)
	}
	return other, err
}
