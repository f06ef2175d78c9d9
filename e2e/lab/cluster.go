package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Cluster is NovaCron running on the hosts of a lab.
type Cluster struct {
	*Lab
	Servers, Clients []*Host
	// Token is the management token; CA the path of the CA's certificate.
	Token, CA string
}

// Standard describes 3 servers and 2 clients. The clients keep Debian's settings
// for QEMU's user, since that is what real hosts have, and since who shares a pool
// has to agree on it.
func Standard(name, subnet, dir, binary string) *Cluster {
	c := &Cluster{Lab: New(name, subnet, dir, binary)}
	for i := range 3 {
		c.Servers = append(c.Servers, c.Add(fmt.Sprintf("s%d", i+1), 11+i, false))
	}
	for i := range 2 {
		c.Clients = append(c.Clients, c.Add(fmt.Sprintf("c%d", i+1), 21+i, true))
	}
	for _, h := range c.Clients {
		h.DebianQEMU = true
	}
	return c
}

const serverConfig = `name = %q
bind_addr = %q
region = "global"
log { level = "info" }
server {
  enabled = true
  # The lab's servers share their cores with emulated guests.
  raft_multiplier = 2
}
`

const clientConfig = `name = %q
bind_addr = %q
region = "global"
client {
  enabled = true
  labels = { rack = "r-%s" }
  hypervisor {
    kind = "qemu"
    acceleration = "tcg"
    own_netns    = true
  }
  guard { spawn = %t }
  pool "default" { path = "/var/lib/novacron/pools/default" }
  pool "shared" {
    path   = "/var/lib/novacron/shared/pool"
    shared = true
  }
}
`

const joinConfig = `join {
  addresses = ["%s:7647"]
  token_file = "/etc/novacron/join.token"
}
`

// Form starts the agents: the first server makes the cluster, the others join.
func (c *Cluster) Form(ctx context.Context) error {
	first := c.Servers[0]
	if err := first.Configure("novacron.hcl", fmt.Sprintf(serverConfig, first.Name, first.Address)); err != nil {
		return err
	}
	c.logf("%s: novacron cluster init", first.Name)
	if out, err := first.Novacron(ctx, "cluster", "init", "-config", "/etc/novacron"); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if err := first.StartAgent(); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	if err := Until(wait, func() error { return c.bootstrap(wait) }); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	c.logf("%s: novacron acl bootstrap: a management token", first.Name)
	for _, h := range c.Servers[1:] {
		if err := c.joinHost(ctx, h, "server", fmt.Sprintf(serverConfig, h.Name, h.Address)); err != nil {
			return err
		}
	}
	for _, h := range c.Clients {
		if err := c.joinHost(ctx, h, "client", fmt.Sprintf(clientConfig, h.Name, h.Address, h.Name, !h.guarded())); err != nil {
			return err
		}
	}
	return c.AwaitReady(ctx, 90*time.Second)
}

// bootstrap asks the first server's root-only socket for the management token.
func (c *Cluster) bootstrap(ctx context.Context) error {
	out, err := c.Servers[0].Novacron(ctx, "acl", "bootstrap", "-config", "/etc/novacron", "-o", "json")
	if err != nil {
		return err
	}
	var made struct{ Secret string }
	if err := json.Unmarshal([]byte(out[max(strings.Index(out, "{"), 0):]), &made); err != nil {
		return fmt.Errorf("%w in %q", err, out)
	}
	c.Token = made.Secret
	c.CA = filepath.Join(c.Servers[0].Dir(), "var/lib/novacron/tls/ca.pem")
	_, err = os.Stat(c.CA)
	return err
}

func (c *Cluster) joinHost(ctx context.Context, h *Host, role, config string) error {
	secret, err := c.CLI(ctx, "token", "join", "-role", role, "-quiet")
	if err != nil {
		return err
	}
	if err := h.Configure("join.token", strings.TrimSpace(secret)+"\n"); err != nil {
		return err
	}
	if err := h.Configure("novacron.hcl", config+fmt.Sprintf(joinConfig, c.Servers[0].Address)); err != nil {
		return err
	}
	c.logf("%s: novacron agent, joins as %s", h.Name, role)
	return h.StartAgent()
}

// AwaitReady waits until every server votes and every client is ready.
func (c *Cluster) AwaitReady(ctx context.Context, limit time.Duration) error {
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return Until(wait, func() error {
		var servers []struct {
			Name  string
			Voter bool
		}
		if err := c.JSON(wait, &servers, "operator", "raft", "list"); err != nil {
			return err
		}
		voters := 0
		for _, s := range servers {
			if s.Voter {
				voters++
			}
		}
		var nodes []struct{ Name, Status string }
		if err := c.JSON(wait, &nodes, "node", "list"); err != nil {
			return err
		}
		ready := 0
		for _, n := range nodes {
			if n.Status == "ready" {
				ready++
			}
		}
		if voters != len(c.Servers) || ready != len(c.Clients) {
			return fmt.Errorf("%d of %d servers vote, %d of %d clients are ready", voters, len(c.Servers), ready, len(c.Clients))
		}
		return nil
	})
}

// Environment is what the CLI needs to talk to the cluster from this machine.
func (c *Cluster) Environment() []string { return c.EnvironmentOf(c.Servers[0]) }

// EnvironmentOf is the same through the agent of one host.
func (c *Cluster) EnvironmentOf(h *Host) []string {
	return []string{"NOVACRON_ADDR=https://" + h.Address + ":7646", "NOVACRON_TOKEN=" + c.Token, "NOVACRON_CACERT=" + c.CA}
}

// CLI runs the novacron command on this machine and returns its standard output.
func (c *Cluster) CLI(ctx context.Context, args ...string) (string, error) {
	return c.cli(ctx, c.Environment(), args...)
}

// CLIVia is CLI through the agent of one host.
func (c *Cluster) CLIVia(ctx context.Context, h *Host, args ...string) (string, error) {
	return c.cli(ctx, c.EnvironmentOf(h), args...)
}

func (c *Cluster) cli(ctx context.Context, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.Binary, args...)
	cmd.Env = append(append(os.Environ(), c.Env...), env...)
	cmd.WaitDelay = 2 * time.Second
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("novacron %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// JSON runs the command with -o json and decodes what it prints.
func (c *Cluster) JSON(ctx context.Context, into any, args ...string) error {
	out, err := c.CLI(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("novacron %s: %w in %q", strings.Join(args, " "), err, out)
	}
	return nil
}
