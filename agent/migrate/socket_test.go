package migrate

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

// A guest process that lays a link to another's socket does not lead a tunnel
// there.
func TestOnlyTheGuestsUserMayListen(t *testing.T) {
	dir, err := os.MkdirTemp("", "nova")
	must.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	h, err := New(Config{Dir: filepath.Join(dir, "m"), UID: os.Getuid(), GID: -1})
	must.NoError(t, err)
	in, err := h.Expect(ExpectOptions{Migration: api.NewID(), From: api.NewID(), Token: Token{1}})
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, h.Close()) })
	other := filepath.Join(dir, "libvirt-sock")
	ln, err := net.Listen("unix", other)
	must.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	must.NoError(t, os.Symlink(other, in.Memory()))

	c, err := h.connectGuest(t.Context(), in.Memory())
	must.NoError(t, err)
	c.Close()
	h.cfg.UID++ // as if the guests were of another user
	_, err = h.connectGuest(t.Context(), in.Memory())
	must.Eq(t, api.CodeHypervisor, api.CodeOf(err))
}

func TestWhatAnAgentThatDiedHasLeftIsRemoved(t *testing.T) {
	dir, err := os.MkdirTemp("", "nova")
	must.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	stale, other := filepath.Join(dir, api.NewID().String()), filepath.Join(dir, "other")
	for _, d := range []string{stale, other} {
		must.NoError(t, os.Mkdir(d, 0o700))
		must.NoError(t, os.WriteFile(filepath.Join(d, "control.sock"), nil, 0o600))
	}
	h, err := New(Config{Dir: dir})
	must.NoError(t, err)
	must.NoError(t, h.Close())
	must.DirNotExists(t, stale)
	must.DirExists(t, other)
}
