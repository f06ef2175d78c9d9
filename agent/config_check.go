package agent

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/novacron/novacron/agent/telemetry"
	"github.com/novacron/novacron/api"
)

// nodeName is what names of nodes, regions and datacenters look like: they are
// parts of certificate names.
var nodeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Validate finds everything wrong with the configuration at once; the error is
// a *ConfigError.
func (c *Config) Validate() error {
	e := &ConfigError{}
	for _, n := range []struct{ path, value string }{{"name", c.Name}, {"region", c.Region}, {"datacenter", c.Datacenter}} {
		if !nodeName.MatchString(n.value) {
			e.add(c, n.path, fmt.Sprintf("%q is not a name", n.value), "use up to 63 of a-z, 0-9 and -, with a letter or digit at both ends")
		}
	}
	if !filepath.IsAbs(c.DataDir) {
		e.add(c, "data_dir", fmt.Sprintf("%q is not an absolute path", c.DataDir), "")
	}
	c.checkAddresses(e)
	c.checkOneOf(e, "log.level", c.Log.Level, telemetry.Levels)
	c.checkOneOf(e, "log.format", c.Log.Format, telemetry.Formats)
	if !c.Server.Enabled && !c.Client.Enabled {
		e.add(c, "server.enabled", "the agent is neither server nor client", "set enabled = true in the server block, the client block, or both")
	}
	c.checkServer(e)
	c.checkClient(e)
	c.checkJoin(e)
	if (c.HTTP.CertFile == "") != (c.HTTP.KeyFile == "") {
		e.add(c, "http", "cert_file and key_file belong together", "set both or none")
	}
	for _, f := range []struct{ path, value string }{{"http.cert_file", c.HTTP.CertFile}, {"http.key_file", c.HTTP.KeyFile}, {"join.token_file", c.Join.TokenFile}} {
		c.checkFile(e, f.path, f.value)
	}
	return e.orNil()
}

// checkOneOf wants one of a few words, and guesses which was meant.
func (c *Config) checkOneOf(e *ConfigError, path, value string, want []string) {
	if slices.Contains(want, value) {
		return
	}
	hint := "want one of " + strings.Join(want, ", ")
	if g := api.Suggest(value, want); g != "" {
		hint = fmt.Sprintf("did you mean %q?", g)
	}
	e.add(c, path, fmt.Sprintf("%q is not known", value), hint)
}

func (c *Config) checkAddresses(e *ConfigError) {
	if _, err := netip.ParseAddr(c.BindAddr); err != nil {
		e.add(c, "bind_addr", fmt.Sprintf("%q is not an IP address", c.BindAddr), `such as "0.0.0.0" or "10.0.0.5"`)
	}
	if a, err := netip.ParseAddr(c.Advertise); c.Advertise != "" && (err == nil && a.IsUnspecified() || strings.Contains(c.Advertise, "/")) {
		e.add(c, "advertise", fmt.Sprintf("nobody can dial %q", c.Advertise), "an address of this machine that the others reach")
	} else if _, _, err := net.SplitHostPort(c.Advertise); err == nil {
		e.add(c, "advertise", fmt.Sprintf("%q has a port", c.Advertise), "only the address; the ports are in the ports block")
	}
	if a := c.HTTP.Addr; a != "" {
		if _, err := netip.ParseAddr(a); err != nil {
			e.add(c, "http.addr", fmt.Sprintf("%q is not an IP address", a), "")
		}
	}
	seen := map[int]string{}
	for _, p := range []struct {
		path string
		port int
	}{{"ports.http", c.Ports.HTTP}, {"ports.rpc", c.Ports.RPC}, {"ports.serf", c.Ports.Serf}} {
		switch other := seen[p.port]; {
		case p.port < 0 || p.port > 65535 || p.port == 0 && !c.Dev:
			e.add(c, p.path, fmt.Sprintf("%d is not a port", p.port), "1 to 65535")
		case other != "" && p.port != 0:
			e.add(c, p.path, fmt.Sprintf("port %d is also %s", p.port, other), "")
		}
		seen[p.port] = p.path
	}
}

func (c *Config) checkServer(e *ConfigError) {
	s := c.Server
	if s.Expect < 0 || s.Expect > 9 {
		e.add(c, "server.expect", fmt.Sprintf("%d is out of range", s.Expect), "0 to 9 servers; 3 or 5 survive the loss of 1 or 2")
	}
	if s.Profile != "" {
		var names []string
		for _, p := range profiles {
			names = append(names, p.name)
		}
		c.checkOneOf(e, "server.profile", s.Profile, names)
	}
	if m := s.RaftMultiplier; m != 0 && (m < 0.1 || m > 10) {
		e.add(c, "server.raft_multiplier", fmt.Sprintf("%v is out of range", m), "0.1 to 10; the default is 0.5")
	}
	if s.Profile != "" && s.RaftMultiplier != 0 {
		e.add(c, "server.raft_multiplier", "profile is set as well", "set one of the two")
	}
	c.checkHosts(e, "server.join", s.Join)
}

func (c *Config) checkClient(e *ConfigError) {
	cl := c.Client
	if cl.Enabled && !c.Server.Enabled && len(cl.Servers) == 0 && len(c.Join.Addresses) == 0 {
		e.add(c, "client", "a client needs to know a server", `set servers = ["10.0.0.1:7647"] here, or addresses in the join block`)
	}
	c.checkHosts(e, "client.servers", cl.Servers)
	for _, r := range []struct {
		path  string
		value float64
	}{{"client.cpu_ratio", cl.CPURatio}, {"client.memory_ratio", cl.MemoryRatio}} {
		if r.value < 0 || r.value > 100 {
			e.add(c, r.path, fmt.Sprintf("%v is out of range", r.value), "0 (default) to 100")
		}
	}
	if d, err := time.ParseDuration(cl.ImageIdle); cl.ImageIdle != "" && (err != nil || d < 0) {
		e.add(c, "client.image_idle", fmt.Sprintf("%q is not a duration", cl.ImageIdle), `such as "24h"; "0s" keeps every image`)
	}
	if cl.Reserved.Cores < 0 {
		e.add(c, "client.reserved.cores", fmt.Sprintf("%v is negative", cl.Reserved.Cores), "")
	}
	c.checkSize(e, "client.reserved.memory", cl.Reserved.Memory)
	if k := cl.Hypervisor.Kind; k != "" {
		c.checkOneOf(e, "client.hypervisor.kind", k, []string{"qemu", "sim"})
	}
	if a := cl.Hypervisor.Acceleration; a != "" {
		c.checkOneOf(e, "client.hypervisor.acceleration", a, []string{"kvm", "tcg"})
	}
	if p := cl.Gossip.Port; !cl.Gossip.Disabled && (p < 1 || p > 65535) {
		e.add(c, "client.gossip.port", fmt.Sprintf("%d is not a port", p), "1 to 65535; disabled = true leaves it out")
	}
	g := cl.Guard
	for _, f := range []struct{ path, value string }{{"client.guard.dir", g.Dir}, {"client.guard.watchdog", g.Watchdog}} {
		if f.value != "" && (!filepath.IsAbs(f.value) || filepath.Clean(f.value) != f.value) {
			e.add(c, f.path, fmt.Sprintf("%q is not a clean absolute path", f.value), "")
		}
	}
	switch {
	case g.Watchdog != "" && g.Dir == "":
		e.add(c, "client.guard.watchdog", "there is no guard that could use it", "set dir, or leave watchdog out")
	case g.Watchdog != "" && !g.Spawn:
		e.add(c, "client.guard.watchdog", "it is for a guard that the agent starts, and spawn is false", "give -watchdog to the guard's own service")
	}
	for i, p := range cl.Pools {
		path := "client.pool." + p.Name
		if !nodeName.MatchString(p.Name) {
			e.add(c, path, fmt.Sprintf("%q is not a name of a pool", p.Name), "use a-z, 0-9 and -")
		}
		if p.Type == "" {
			cl.Pools[i].Type = "dir"
		} else {
			c.checkOneOf(e, path+".type", p.Type, []string{"dir", "sim"})
		}
		if p.Type != "sim" && !filepath.IsAbs(p.Path) {
			e.add(c, path+".path", fmt.Sprintf("%q is not an absolute path", p.Path), "the folder that holds the volumes")
		}
		c.checkSize(e, path+".capacity", p.Capacity)
	}
}

func (c *Config) checkJoin(e *ConfigError) {
	j := c.Join
	c.checkHosts(e, "join.addresses", j.Addresses)
	switch {
	case j.Token != "" && j.TokenFile != "":
		e.add(c, "join.token", "token_file is set as well", "set one of the two")
	case len(j.Addresses) > 0 && j.Token == "" && j.TokenFile == "" && !c.joined():
		e.add(c, "join.addresses", "joining needs a token", "make one with `novacron token join -role client` and put it into the file of token_file")
	}
}

// joined reports whether the data folder already holds this node's certificate.
func (c *Config) joined() bool {
	_, err := os.Stat(filepath.Join(c.DataDir, "identity.json"))
	return err == nil
}

func (c *Config) checkSize(e *ConfigError, path, value string) {
	if value == "" {
		return
	}
	if _, err := api.ParseBytes(value); err != nil {
		e.add(c, path, err.Error(), "")
	}
}

// checkHosts wants host:port.
func (c *Config) checkHosts(e *ConfigError, path string, list []string) {
	for _, a := range list {
		host, port, err := net.SplitHostPort(a)
		n, perr := strconv.Atoi(port)
		if err != nil || host == "" || perr != nil || n < 1 || n > 65535 {
			e.add(c, path, fmt.Sprintf("%q is not an address", a), `want host:port, such as "10.0.0.1:7647"`)
		}
	}
}

// checkFile wants a file that can be read.
func (c *Config) checkFile(e *ConfigError, path, name string) {
	if name == "" || path == "join.token_file" && c.joined() {
		return
	}
	f, err := os.Open(name)
	if err != nil {
		e.add(c, path, name+": "+reason(err), "")
		return
	}
	f.Close()
}
