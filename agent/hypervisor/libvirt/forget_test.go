package libvirt_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/agent/hypervisor/libvirt"
	"github.com/novacron/novacron/api"
)

func TestForgetRemovesTheLogsOfOneVM(t *testing.T) {
	dir := t.TempDir()
	id, other := api.NewID(), api.NewID()
	for _, name := range []string{
		"nova-" + id.String() + ".log", "nova-" + id.String() + ".log.0", "nova-" + id.String() + "-serial0.log",
		"nova-" + id.String() + "-serial0.log.12", "nova-" + other.String() + ".log", "nova-" + id.String() + ".log.keep",
	} {
		must.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	d := libvirt.New(libvirt.Config{Socket: filepath.Join(dir, "none"), LogDir: dir})
	defer d.Close()
	must.NoError(t, d.Forget(t.Context(), id))
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	must.NoError(t, err)
	must.Len(t, 2, left)
	must.NoError(t, d.Forget(t.Context(), id))
}
