package network

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/novacron/novacron/api"
)

// Config shapes a Host.
type Config struct {
	// Dir holds the leases and pid files of the DHCP servers.
	Dir     string
	Dnsmasq string // default "dnsmasq"
	// Run executes a program and returns what it writes; default: for real.
	Run    func(ctx context.Context, stdin string, name string, args ...string) ([]byte, error)
	Logger *slog.Logger
}

// Host is the Manager of a real machine. It uses ip(8), iptables(8) and
// dnsmasq(8); one network is a bridge, three chains and a DHCP server, all named
// after the bridge. The DHCP server outlives the agent and is adopted again by
// its pid file.
type Host struct {
	cfg Config
	mu  sync.Mutex
}

var _ Manager = (*Host)(nil)

// mark is the alias of bridges that this package made.
const mark = "made by novacron"

// New makes the manager.
func New(cfg Config) (*Host, error) {
	cfg.Dnsmasq = cmp.Or(cfg.Dnsmasq, "dnsmasq")
	if cfg.Run == nil {
		cfg.Run = run
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if !filepath.IsAbs(cfg.Dir) {
		return nil, api.Errorf(api.CodeNetwork, "%q is not an absolute path", cfg.Dir)
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, err
	}
	return &Host{cfg: cfg}, nil
}

// run executes a program with a clean environment and a deadline.
func run(ctx context.Context, stdin, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"}
	cmd.Dir, cmd.Stdin, cmd.WaitDelay = "/", strings.NewReader(stdin), time.Second
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return out.Bytes(), api.Errorf(api.CodeNetwork, "%s %s: %v: %.500s", name, strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return out.Bytes(), nil
}

func (h *Host) run(ctx context.Context, name string, args ...string) error {
	_, err := h.cfg.Run(ctx, "", name, args...)
	return err
}

// link is what ip(8) tells of an interface.
type link struct {
	Name  string `json:"ifname"`
	Alias string `json:"ifalias"`
	MTU   int32  `json:"mtu"`
}

// links asks ip(8); extra narrows it.
func (h *Host) links(ctx context.Context, extra ...string) ([]link, error) {
	out, err := h.cfg.Run(ctx, "", "ip", append([]string{"-j", "link", "show"}, extra...)...)
	if err != nil {
		return nil, err
	}
	var all []link
	if len(bytes.TrimSpace(out)) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(out, &all); err != nil {
		return nil, fmt.Errorf("what ip(8) says: %w", err)
	}
	return slices.DeleteFunc(all, func(l link) bool { return l.Name == "" }), nil
}

func (h *Host) bridge(ctx context.Context, name string) (link, bool, error) {
	all, err := h.links(ctx, "type", "bridge")
	if err != nil {
		return link{}, false, err
	}
	i := slices.IndexFunc(all, func(l link) bool { return l.Name == name })
	if i < 0 {
		return link{}, false, nil
	}
	return all[i], true, nil
}

// Bridges lists the bridges of the host.
func (h *Host) Bridges(ctx context.Context) ([]string, error) {
	all, err := h.links(ctx, "type", "bridge")
	out := make([]string, 0, len(all))
	for _, l := range all {
		out = append(out, l.Name)
	}
	slices.Sort(out)
	return out, err
}

// Ensure makes a network usable. It repairs what is missing, each time.
func (h *Host) Ensure(ctx context.Context, n *api.Network) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n.Type == TypeBridge {
		if !bridgeRE.MatchString(n.Bridge) {
			return "", errNoBridge(n)
		}
		_, ok, err := h.bridge(ctx, n.Bridge)
		if err == nil && !ok {
			err = errNoBridge(n)
		}
		return n.Bridge, err
	}
	p, err := PlanOf(n)
	if err != nil {
		return "", err
	}
	for _, step := range []func(context.Context, *Plan) error{h.makeBridge, h.firewall, h.serve} {
		if err := step(ctx, &p); err != nil {
			return "", err
		}
	}
	return p.Bridge, nil
}

func (h *Host) makeBridge(ctx context.Context, p *Plan) error {
	have, ok, err := h.bridge(ctx, p.Bridge)
	switch {
	case err != nil:
		return err
	case ok && have.Alias != mark:
		return api.Errorf(api.CodeNetwork, "bridge %s is there, and not made by NovaCron", p.Bridge)
	case !ok:
		if err := h.run(ctx, "ip", "link", "add", "name", p.Bridge, "type", "bridge", "stp_state", "0", "forward_delay", "0"); err != nil {
			return err
		}
		if err := h.run(ctx, "ip", "link", "set", "dev", p.Bridge, "alias", mark); err != nil {
			return errors.Join(err, h.run(ctx, "ip", "link", "del", "dev", p.Bridge))
		}
	}
	if p.MTU > 0 && p.MTU != have.MTU {
		if err := h.run(ctx, "ip", "link", "set", "dev", p.Bridge, "mtu", fmt.Sprint(p.MTU)); err != nil {
			return err
		}
	}
	// The firewall is IPv4's: the host speaks nothing else here.
	off := filepath.Join("/proc/sys/net/ipv6/conf", p.Bridge, "disable_ipv6")
	if err := os.WriteFile(off, []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("bridge %s without IPv6: %w", p.Bridge, err)
	}
	if err := h.run(ctx, "ip", "address", "replace", p.Gateway.String(), "dev", p.Bridge); err != nil {
		return err
	}
	return h.run(ctx, "ip", "link", "set", "dev", p.Bridge, "up")
}

// chains are the firewall of a network: the built-in chain that each is called
// from, and its rules.
func chains(p *Plan) []chain {
	in, subnet, gw := p.Bridge, p.Subnet.String(), p.Gateway.Addr().String()
	c := []chain{
		{"filter", "FORWARD", p.Bridge + "-fwd", nil},
		{"filter", "INPUT", p.Bridge + "-in", []string{ // of the host, guests get addresses, names and an echo
			"-i " + in + " -p udp --dport 67 -j ACCEPT",
			"-i " + in + " -d " + gw + " -p udp --dport 53 -j ACCEPT",
			"-i " + in + " -d " + gw + " -p tcp --dport 53 -j ACCEPT",
			"-i " + in + " -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
			"-i " + in + " -p icmp --icmp-type echo-request -j ACCEPT",
			"-i " + in + " -j DROP",
		}},
		{"nat", "POSTROUTING", p.Bridge + "-nat", nil},
	}
	if p.Masq {
		c[0].rules = []string{
			"-i " + in + " -s " + subnet + " -j ACCEPT",
			"-o " + in + " -d " + subnet + " -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
			"-o " + in + " -j DROP",
		}
		c[2].rules = []string{"-s " + subnet + " ! -d " + subnet + " -j MASQUERADE"}
		return c
	}
	c[0].rules = []string{"-i " + in + " -o " + in + " -j ACCEPT", "-i " + in + " -j DROP", "-o " + in + " -j DROP"}
	return c
}

type chain struct {
	table, from, name string
	rules             []string
}

// firewall writes the chains, each table in one transaction, and the calls.
func (h *Host) firewall(ctx context.Context, p *Plan) error {
	if p.Masq {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			return fmt.Errorf("ip forwarding: %w", err)
		}
	}
	for _, c := range chains(p) {
		var b strings.Builder
		fmt.Fprintf(&b, "*%s\n:%s - [0:0]\n", c.table, c.name)
		for _, r := range c.rules {
			fmt.Fprintf(&b, "-A %s %s\n", c.name, r)
		}
		b.WriteString("COMMIT\n")
		if _, err := h.cfg.Run(ctx, b.String(), "iptables-restore", "-w", "--noflush"); err != nil {
			return err
		}
		if h.run(ctx, "iptables", "-w", "-t", c.table, "-C", c.from, "-j", c.name) == nil {
			continue
		}
		if err := h.run(ctx, "iptables", "-w", "-t", c.table, "-I", c.from, "-j", c.name); err != nil {
			return err
		}
	}
	return nil
}

// Remove takes a network away, unless something is attached to it.
func (h *Host) Remove(ctx context.Context, n *api.Network) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n.Type != TypeNAT {
		return nil
	}
	have, ok, err := h.bridge(ctx, BridgeName(n.Name))
	if err != nil || ok && have.Alias != mark {
		return err
	}
	if err := h.remove(ctx, BridgeName(n.Name), ok); err != nil {
		return fmt.Errorf("network %q: %w", n.Name, err)
	}
	return nil
}

// Prune removes the networks of this agent that are not to be kept: those whose
// DHCP server has its files in the agent's folder.
func (h *Host) Prune(ctx context.Context, keep []string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	all, err := h.links(ctx, "type", "bridge")
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range all {
		if l.Alias != mark || slices.Contains(keep, l.Name) {
			continue
		}
		if _, err := os.Stat(h.file(l.Name, "pid")); err != nil {
			continue // another agent's
		}
		err := h.remove(ctx, l.Name, true)
		if err == nil {
			h.cfg.Logger.Info("removed a network that nothing uses", "bridge", l.Name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// remove takes away the bridge, if it is there, and what is named after it.
func (h *Host) remove(ctx context.Context, bridge string, there bool) error {
	p := Plan{Bridge: bridge}
	if there {
		ports, err := h.links(ctx, "master", bridge)
		if err != nil {
			return err
		}
		if len(ports) > 0 {
			return api.Errorf(api.CodeInUse, "bridge %s has %d interfaces attached", bridge, len(ports))
		}
	}
	if err := h.unserve(ctx, p.Bridge); err != nil {
		return err
	}
	for _, c := range chains(&p) {
		// Each may be gone already, which only their absence below can tell.
		_ = h.run(ctx, "iptables", "-w", "-t", c.table, "-D", c.from, "-j", c.name)
		_ = h.run(ctx, "iptables", "-w", "-t", c.table, "-F", c.name)
		_ = h.run(ctx, "iptables", "-w", "-t", c.table, "-X", c.name)
		if h.run(ctx, "iptables", "-w", "-t", c.table, "-S", c.name) == nil {
			return api.Errorf(api.CodeNetwork, "firewall chain %s cannot be removed", c.name)
		}
	}
	if there {
		return h.run(ctx, "ip", "link", "del", "dev", p.Bridge)
	}
	return nil
}

// Addresses reads the leases of a NAT network.
func (h *Host) Addresses(ctx context.Context, n *api.Network, mac string) ([]string, error) {
	if err := ctx.Err(); err != nil || n.Type != TypeNAT {
		return nil, err
	}
	b, err := os.ReadFile(h.file(BridgeName(n.Name), "leases"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return leases(string(b), mac), nil
}

// leases reads dnsmasq's file: expiry, MAC, address, name, client id.
func leases(text, mac string) (out []string) {
	for l := range strings.Lines(text) {
		if f := strings.Fields(l); len(f) >= 3 && strings.EqualFold(f[1], mac) {
			out = append(out, f[2])
		}
	}
	return out
}

// Close does nothing: the networks stay for the next start of the agent.
func (h *Host) Close() error { return nil }

func (h *Host) file(bridge, ext string) string { return filepath.Join(h.cfg.Dir, bridge+"."+ext) }
