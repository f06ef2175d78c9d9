package migrate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
)

// maxPath is the longest path of a UNIX socket: sun_path less its final zero.
const maxPath = 107

// folder is where the sockets of a migration are.
func (h *Host) folder(migration api.ID) string {
	return filepath.Join(h.cfg.Dir, migration.String())
}

// checkFolder refuses a run folder whose sockets would have too long a path.
func checkFolder(dir string) error {
	longest := filepath.Join(dir, api.ID{1}.String(), Control.socket())
	if !filepath.IsAbs(dir) || len(longest) > maxPath {
		return api.Errorf(api.CodeConfig, "the folder of migrations must be an absolute path of at most %d bytes, not %q", maxPath-len(longest)+len(dir), dir)
	}
	return nil
}

// makeFolder makes the folder of a migration, instead of what an earlier process
// may have left there.
func (h *Host) makeFolder(dir string, mode os.FileMode) error {
	// Others must be able to pass through.
	if err := os.MkdirAll(h.cfg.Dir, 0o711); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}

// guest returns the mode of what the guest processes must be able to write: their
// user, and their group if there is one.
func (h *Host) guest(user, group os.FileMode) os.FileMode {
	if h.cfg.GID >= 0 {
		return user | group
	}
	return user
}

// give makes a file the guest processes'.
func (h *Host) give(path string, mode os.FileMode) error {
	if h.cfg.UID >= 0 || h.cfg.GID >= 0 {
		if err := os.Chown(path, h.cfg.UID, h.cfg.GID); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

// listen opens a socket in the folder of a migration. Control is for the
// hypervisor's own process (root) only: who writes to it commands the other
// node's hypervisor.
func (h *Host) listen(dir string, k Kind) (*net.UnixListener, error) {
	path := filepath.Join(dir, k.socket())
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if k == Control {
		err = os.Chmod(path, 0o600)
	} else {
		err = h.give(path, h.guest(0o600, 0o060))
	}
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// socketGap is how long to wait between looks at a socket that is not there yet.
const socketGap = 20 * time.Millisecond

// connect connects to a socket at which somebody listens within the Host's
// SocketWait.
func (h *Host) connect(ctx context.Context, path string) (*net.UnixConn, error) {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.SocketWait)
	defer cancel()
	var d net.Dialer
	for {
		c, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			return c.(*net.UnixConn), nil
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EAGAIN) {
			return nil, hypervisorError(err)
		}
		t := time.NewTimer(socketGap)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, hypervisorError(err)
		}
	}
}

// connectGuest connects to a socket of a guest process, and makes sure that it is
// one: whoever may write to the folder could lay a link to another socket there.
func (h *Host) connectGuest(ctx context.Context, path string) (*net.UnixConn, error) {
	c, err := h.connect(ctx, path)
	if err != nil || h.cfg.UID < 0 {
		return c, err
	}
	uid, err := listenerOf(c)
	if err == nil && uid != h.cfg.UID {
		err = fmt.Errorf("user %d listens there, not %d", uid, h.cfg.UID)
	}
	if err != nil {
		return nil, errors.Join(hypervisorError(err), c.Close())
	}
	return c, nil
}

// listenerOf returns the user of the process that began to listen at the other
// end.
func listenerOf(c *net.UnixConn) (uid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); e != nil {
		return 0, e
	}
	if err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}
