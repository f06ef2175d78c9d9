//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
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

// announcements receives the frames by which QEMU announces a guest that has come in,
// from the guests of one host: broadcasts (RARP) from the guest's address, which every
// switch on the way learns from.
func announcements(t *testing.T, from *lab.Host) <-chan net.HardwareAddr {
	t.Helper()
	device, err := net.InterfaceByName(from.GuestPort())
	must.NoError(t, err)
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order; a port of a bridge shows its frames to those who ask for all
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	must.NoError(t, err)
	must.NoError(t, unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}))
	must.NoError(t, unix.Bind(s, &unix.SockaddrLinklayer{Protocol: all, Ifindex: device.Index}))
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
			n, at, err := unix.Recvfrom(s, frame, 0)
			if err != nil || n < 14 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_RARP {
				continue
			}
			if at.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING {
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
		heard := announcements(t, host(t, to))
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
