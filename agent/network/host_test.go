package network_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/agent/network"
	"github.com/novacron/novacron/api"
)

func mustRE(s string) *regexp.Regexp { return regexp.MustCompile(s) }

// enter gives the test a network namespace of its own: it, and what it starts,
// see nothing of the machine's interfaces and firewall.
func enter(t *testing.T) {
	t.Helper()
	if os.Getenv("NOVA_LIBVIRT") == "" {
		t.Skip("set NOVA_LIBVIRT=1 to make real networks, in a namespace")
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	must.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
	sh(t, "ip", "link", "set", "lo", "up")
}

func sh(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	must.NoError(t, err, must.Sprintf("%s: %s", strings.Join(args, " "), out))
	return string(out)
}

func host(t *testing.T, dir string) *network.Host {
	t.Helper()
	h, err := network.New(network.Config{Dir: dir})
	must.NoError(t, err)
	return h
}

func TestRealNetwork(t *testing.T) {
	enter(t)
	ctx, dir := t.Context(), t.TempDir()
	must.NoError(t, os.Chmod(dir, 0o755))
	h := host(t, dir)
	n := &api.Network{Name: "dev", Type: "nat", CIDR: "10.77.0.0/24", MTU: 1400}
	defer func() { must.NoError(t, h.Remove(context.Background(), n)) }()
	br, err := h.Ensure(ctx, n)
	must.NoError(t, err)
	must.Eq(t, network.BridgeName("dev"), br)
	link := sh(t, "ip", "addr", "show", br)
	must.StrContains(t, link, "10.77.0.1/24")
	must.StrContains(t, link, "mtu 1400")
	pid, err := os.ReadFile(filepath.Join(dir, br+".pid"))
	must.NoError(t, err)
	rules := func() string { return sh(t, "iptables-save") }
	before := rules()
	must.StrContains(t, before, "-s 10.77.0.0/24 ! -d 10.77.0.0/24 -j MASQUERADE")

	// A restart of the agent finds everything and changes nothing.
	h = host(t, dir)
	_, err = h.Ensure(ctx, n)
	must.NoError(t, err)
	again, err := os.ReadFile(filepath.Join(dir, br+".pid"))
	must.NoError(t, err)
	must.Eq(t, string(pid), string(again))
	must.Eq(t, counters(before), counters(rules()))
	list, err := h.Bridges(ctx)
	must.NoError(t, err)
	must.Eq(t, []string{br}, list)

	// A guest gets an address.
	mac := network.MAC(api.ID{1}, 0)
	guest := exec.Command("unshare", "--net", "cat")
	in, err := guest.StdinPipe()
	must.NoError(t, err)
	must.NoError(t, guest.Start())
	defer func() { must.NoError(t, errors.Join(in.Close(), guest.Wait())) }()
	inside := []string{"nsenter", "--net=/proc/" + fmt.Sprint(guest.Process.Pid) + "/ns/net", "--"}
	other(t, guest.Process.Pid)
	sh(t, "ip", "link", "add", "tap0", "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(guest.Process.Pid))
	sh(t, "ip", "link", "set", "tap0", "master", br, "up")
	sh(t, append(inside, "ip", "link", "set", "eth0", "address", mac, "up")...)
	out := sh(t, append(inside, "busybox", "udhcpc", "-n", "-q", "-f", "-i", "eth0", "-t", "60", "-T", "1", "-s", "/bin/true")...)
	must.StrContains(t, out, "lease of 10.77.0.")
	addrs, err := h.Addresses(ctx, n, strings.ToUpper(mac))
	must.NoError(t, err)
	must.Eq(t, 1, len(addrs))
	must.True(t, net.ParseIP(addrs[0]) != nil)
	must.Eq(t, api.CodeInUse, api.CodeOf(h.Remove(ctx, n)))
	must.Eq(t, api.CodeInUse, api.CodeOf(h.Prune(ctx, nil)), must.Sprint("with a guest attached it is never removed"))
	sh(t, "ip", "link", "show", br)

	// Of the host it reaches DHCP, DNS and an echo, and nothing by IPv6.
	if b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + br + "/disable_ipv6"); err == nil {
		must.Eq(t, "1\n", string(b))
	}
	must.Eq(t, "", sh(t, "ip", "-6", "address", "show", "dev", br))
	sh(t, append(inside, "ip", "address", "add", addrs[0]+"/24", "dev", "eth0")...)
	sh(t, append(inside, "busybox", "ping", "-c", "1", "-W", "30", "10.77.0.1")...)
	ask := append(inside, "busybox", "nslookup", "-type=a", "localhost", "10.77.0.1")
	said, _ := exec.Command(ask[0], ask[1:]...).CombinedOutput() // whatever it answers, it is heard
	must.StrNotContains(t, string(said), "timed out")
	must.StrNotContains(t, string(said), "no servers could be reached")
	ln, err := net.Listen("tcp", "10.77.0.1:0")
	must.NoError(t, err)
	var greeter sync.WaitGroup
	defer greeter.Wait()
	defer ln.Close()
	greeter.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	})
	_, port, err := net.SplitHostPort(ln.Addr().String())
	must.NoError(t, err)
	reach := append(inside, "busybox", "nc", "-w", "2", "10.77.0.1", port)
	must.Error(t, exec.Command(reach[0], reach[1:]...).Run(), must.Sprint("a service of the host"))
	sh(t, "iptables", "-I", br+"-in", "-p", "tcp", "-j", "ACCEPT")
	sh(t, reach...) // it is the firewall that keeps it out
	sh(t, "iptables", "-D", br+"-in", "-p", "tcp", "-j", "ACCEPT")
	sh(t, "ip", "link", "del", "tap0")

	// What is missing is repaired; what changed is changed.
	sh(t, "iptables", "-t", "nat", "-D", "POSTROUTING", "-j", br+"-nat")
	sh(t, "ip", "addr", "flush", "dev", br)
	n.Isolated = true
	_, err = h.Ensure(ctx, n)
	must.NoError(t, err)
	must.StrContains(t, sh(t, "ip", "addr", "show", br), "10.77.0.1/24")
	must.StrNotContains(t, rules(), "MASQUERADE")
	must.StrContains(t, rules(), "-A "+br+"-fwd -i "+br+" -j DROP")
	changed, err := os.ReadFile(filepath.Join(dir, br+".pid"))
	must.NoError(t, err)
	must.NotEq(t, string(pid), string(changed))

	must.NoError(t, host(t, t.TempDir()).Prune(ctx, nil), must.Sprint("what another agent made is left alone"))
	must.NoError(t, h.Prune(ctx, []string{br}))
	sh(t, "ip", "link", "show", br)
	must.NoError(t, h.Prune(ctx, nil))
	must.StrNotContains(t, rules(), "nova-")
	_, err = h.Ensure(ctx, n)
	must.NoError(t, err)
	must.NoError(t, h.Remove(ctx, n))
	must.NoError(t, h.Remove(ctx, n), must.Sprint("twice is no error"))
	must.StrNotContains(t, rules(), "nova-")
	list, err = h.Bridges(ctx)
	must.NoError(t, err)
	must.SliceEmpty(t, list)
	left, err := os.ReadDir(dir)
	must.NoError(t, err)
	must.SliceEmpty(t, left)

	// Bridges of the host are used and left alone.
	lan := &api.Network{Name: "lan", Type: "bridge", Bridge: "br0"}
	_, err = h.Ensure(ctx, lan)
	must.Eq(t, api.CodeNetwork, api.CodeOf(err))
	sh(t, "ip", "link", "add", "br0", "type", "bridge")
	b, err := h.Ensure(ctx, lan)
	must.NoError(t, err)
	must.Eq(t, "br0", b)
	must.NoError(t, h.Remove(ctx, lan))
	sh(t, "ip", "link", "show", "br0")
	sh(t, "ip", "link", "add", br, "type", "bridge") // by somebody else
	_, err = h.Ensure(ctx, n)
	must.Eq(t, api.CodeNetwork, api.CodeOf(err))
	must.NoError(t, h.Remove(ctx, n))
	sh(t, "ip", "link", "show", br)
	sh(t, "ip", "link", "del", br)
	must.NoError(t, h.Close())
}

// other waits until a child is in a network namespace of its own.
func other(t *testing.T, pid int) {
	t.Helper()
	home, err := os.Readlink("/proc/thread-self/ns/net")
	must.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil && ns != home {
			tick.Stop()
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the child did not get its namespace")
		}
	}
}

// counters takes comments and packet counts out of iptables-save.
func counters(s string) string {
	return mustRE(`(?m)^#.*$|\[\d+:\d+\]`).ReplaceAllString(s, "")
}

// fake is a machine of which only the answers of ip(8) exist.
type fake struct {
	bridges string
	fail    string // a command that contains it fails
	ran     []string
}

func (f *fake) run(_ context.Context, stdin, name string, args ...string) ([]byte, error) {
	line := name + " " + strings.Join(args, " ")
	f.ran = append(f.ran, line+stdin)
	if f.fail != "" && strings.Contains(line, f.fail) {
		return nil, errors.New("boom")
	}
	if strings.Contains(line, "show type bridge") {
		return []byte(f.bridges), nil
	}
	return nil, nil
}

func TestFailuresAreTold(t *testing.T) {
	n := &api.Network{Name: "dev", Type: "nat", Isolated: true}
	br := network.BridgeName("dev")
	for fail, bridges := range map[string]string{
		"type bridge stp": `[]`, "alias": `[{}]`, "replace": `[]`, "up": `[]`, "show type": ``, "mtu": ``,
		"iptables-restore": `[]`, "-I FORWARD": `[]`, "dnsmasq": ``, "link show": `{`,
	} {
		f := &fake{bridges: bridges, fail: fail}
		h, err := network.New(network.Config{Dir: t.TempDir(), Run: f.run})
		must.NoError(t, err)
		m := *n
		m.MTU = 1400
		if fail == "-I FORWARD" {
			f.fail = "FORWARD" // -C says no, -I fails
		}
		_, err = h.Ensure(t.Context(), &m)
		must.Error(t, err, must.Sprint(fail))
	}
	ours := fmt.Sprintf(`[{"ifname":%q,"ifalias":"made by novacron"}]`, br)
	for fail, bridges := range map[string]string{"show type": ours, "show master": ours, "link del": ours} {
		f := &fake{bridges: bridges, fail: fail}
		h, err := network.New(network.Config{Dir: t.TempDir(), Run: func(ctx context.Context, in, name string, args ...string) ([]byte, error) {
			if name == "iptables" {
				return nil, errors.New("no such chain")
			}
			return f.run(ctx, in, name, args...)
		}})
		must.NoError(t, err)
		must.Error(t, h.Remove(t.Context(), n), must.Sprint(fail))
	}
	f := &fake{bridges: ours} // chains that do not go away
	h, err := network.New(network.Config{Dir: t.TempDir(), Run: f.run})
	must.NoError(t, err)
	must.Eq(t, api.CodeNetwork, api.CodeOf(h.Remove(t.Context(), n)))
	_, err = network.New(network.Config{Dir: "relative"})
	must.Eq(t, api.CodeNetwork, api.CodeOf(err))
}

// What a user writes reaches no command line.
func TestHostileNamesStayOut(t *testing.T) {
	f := &fake{bridges: "[]"}
	h, err := network.New(network.Config{Dir: t.TempDir(), Run: f.run})
	must.NoError(t, err)
	for _, bridge := range []string{"eth0; rm", "../default", "-x", "", "a b", "0123456789abcdef"} {
		_, err := h.Ensure(t.Context(), &api.Network{Name: "x", Type: "bridge", Bridge: bridge})
		must.Eq(t, api.CodeNetwork, api.CodeOf(err))
	}
	must.SliceEmpty(t, f.ran)
	_, err = h.Ensure(t.Context(), &api.Network{Name: "$(reboot)", Type: "nat", Isolated: true})
	must.NoError(t, err)
	must.StrNotContains(t, strings.Join(f.ran, "\n"), "reboot")
}

func TestStalePidFileIsNobody(t *testing.T) {
	dir := t.TempDir()
	br := network.BridgeName("dev")
	n := &api.Network{Name: "dev", Type: "nat", Isolated: true}
	for _, text := range []string{"", "x", "1", "-5", fmt.Sprint(os.Getpid()), "999999999"} {
		must.NoError(t, os.WriteFile(filepath.Join(dir, br+".pid"), []byte(text), 0o644))
		f := &fake{bridges: "[]"}
		h, err := network.New(network.Config{Dir: dir, Run: f.run})
		must.NoError(t, err)
		_, err = h.Ensure(t.Context(), n)
		must.NoError(t, err)
		must.StrContains(t, f.ran[len(f.ran)-1], "dnsmasq", must.Sprint(text))
	}
}

func TestAddressesWithoutLeases(t *testing.T) {
	h := host(t, t.TempDir())
	for _, kind := range []string{"nat", "bridge"} {
		a, err := h.Addresses(t.Context(), &api.Network{Name: "n", Type: kind}, "52:54:00:00:00:01")
		must.NoError(t, err)
		must.SliceEmpty(t, a)
	}
}
