//go:build e2e

package e2e

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

func TestUEFIFirmwareAndABridge(t *testing.T) {
	ctx := limit(t, 4*time.Minute)
	t.Cleanup(func() { remove(t, "uefi") })
	cli(t, ctx, "vm", "run", spec(t, `vm "uefi" {
  cpu      = 1
  memory   = "192MiB"
  firmware = "uefi"
  boot {
    kernel  = "tick-kernel"
    initrd  = "tick-initrd"
    cmdline = "console=ttyS0 quiet"
  }
  disk "data" { size = "8MiB" }
  network "lan" {}
}
`))
	s := await(t, ctx, "uefi", api.StateRunning)
	converse(t, ctx, "uefi", "", "ready nonce")
	out, err := host(t, s.Node).Run(ctx, "ip", "-br", "link", "show", "master", "br0")
	must.NoError(t, err)
	must.StrContains(t, out, "vnet", must.Sprint("the guest's interface is plugged into the host's bridge"))
}
