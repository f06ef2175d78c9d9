//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/lab"
)

// etherRARP is the type of the frames by which QEMU announces a guest that has come
// in: broadcasts from the guest's address, which every switch on the way learns from.
const etherRARP = 0x8035

// announcements receives the frames of that type which cross the lab's bridge.
func announcements(t *testing.T) <-chan net.HardwareAddr {
	t.Helper()
	device, err := net.InterfaceByName(cluster.Bridge())
	must.NoError(t, err)
	swapped := uint16(etherRARP>>8 | etherRARP&0xff<<8)
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(swapped))
	must.NoError(t, err)
	must.NoError(t, unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}))
	must.NoError(t, unix.Bind(s, &unix.SockaddrLinklayer{Protocol: swapped, Ifindex: device.Index}))
	out, stop, done := make(chan net.HardwareAddr, 1000), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		frame := make([]byte, 1600)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if n, _, err := unix.Recvfrom(s, frame, 0); err == nil && n >= 14 {
				out <- bytes.Clone(frame[6:12])
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done; must.NoError(t, unix.Close(s)) })
	return out
}

// port is the port of the lab's bridge behind which it has learned an address to be.
func port(ctx context.Context, address string) (string, error) {
	out, err := exec.CommandContext(ctx, "bridge", "-j", "fdb", "show", "br", cluster.Bridge()).Output()
	if err != nil {
		return "", err
	}
	var known []struct{ MAC, Ifname string }
	if err := json.Unmarshal(out, &known); err != nil {
		return "", err
	}
	for _, k := range known {
		if k.MAC == address {
			return k.Ifname, nil
		}
	}
	return "", fmt.Errorf("the switch knows no %s", address)
}

func TestTheNetworkLearnsWhereAGuestHasGone(t *testing.T) {
	ctx := limit(t, 6*time.Minute)
	s := run(t, ctx, "nomad", `network "lan" {}`)
	address := api.MAC(s.VM.ID, 0)
	behind := func(node string) {
		t.Helper()
		must.NoError(t, lab.Until(ctx, func() error {
			have, err := port(ctx, address)
			if want := host(t, node).GuestPort(); err == nil && have != want {
				err = fmt.Errorf("the switch has %s behind %s, not %s", address, have, want)
			}
			return err
		}))
	}
	behind(s.Node) // it has asked for an address
	for _, to := range []string{elsewhere(s.Node), s.Node} {
		heard := announcements(t)
		cli(t, ctx, "vm", "migrate", "-to", to, "nomad")
		var seen []string
		must.NoError(t, lab.Until(ctx, func() error {
			for {
				select {
				case a := <-heard:
					seen = append(seen, a.String())
				default:
					if !slices.Contains(seen, address) {
						return fmt.Errorf("%s was not announced, only %v", address, seen)
					}
					return nil
				}
			}
		}))
		behind(to)
		t.Logf("on %s: announced %d times", to, len(seen))
	}
}
