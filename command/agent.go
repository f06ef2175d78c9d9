package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/novacron/novacron/agent"
	"github.com/novacron/novacron/api"
)

// agentFlags lays flags over configuration files.
type agentFlags struct {
	*flags
	config    *list
	dev       *bool
	httpAddr  *string
	settings  map[string]string // flag name to path in the configuration
	joinAddrs *list
}

func newAgentFlags(f *flags) *agentFlags {
	a := &agentFlags{flags: f, settings: map[string]string{}}
	a.config = f.list("config", "`path` of a configuration file or folder; may be repeated, later ones win")
	set := func(name, path, usage string) {
		f.String(name, "", usage)
		a.settings[name] = path
	}
	set("name", "name", "`name` of this node")
	set("region", "region", "`name` of the region")
	set("datacenter", "datacenter", "`name` of the datacenter")
	set("data-dir", "data_dir", "`folder` of the state")
	set("bind", "bind_addr", "`address` to listen on")
	set("advertise", "advertise", "`address` that others dial")
	return a
}

// forAgent declares what only a running agent needs.
func (a *agentFlags) forAgent() {
	set := func(name, path, usage string) {
		a.String(name, "", usage)
		a.settings[name] = path
	}
	a.dev = a.Bool("dev", false, "one node on loopback, server and client, in a temporary folder")
	a.httpAddr = a.String("http-addr", "", "`host:port` of the API")
	a.Bool("server", false, "run in server mode")
	a.Bool("client", false, "run in client mode")
	a.settings["server"], a.settings["client"] = "server.enabled", "client.enabled"
	a.joinAddrs = a.list("join", "`host:port` of a server to join at the first start; may be repeated")
	set("token", "join.token", "`secret` of a join token (better: -token-file)")
	set("token-file", "join.token_file", "`file` with a join token")
	set("servers", "client.servers", "`list` of servers, host:port, for client mode")
	set("hypervisor", "client.hypervisor.kind", "`kind` of hypervisor: qemu or sim")
	set("log-level", "log.level", "`level`: trace, debug, info, warn, error")
	set("log-format", "log.format", "`format`: text or json")
}

// load makes the configuration: defaults, files, environment, flags.
func (a *agentFlags) load(env *Env) (*agent.Config, error) {
	c, err := agent.Load(*a.config...)
	if err != nil {
		return nil, err
	}
	if a.dev != nil && *a.dev {
		c.DefaultDev()
	}
	if err := c.SetEnv(env.LookupEnv); err != nil {
		return nil, err
	}
	var bad error
	a.Visit(func(fl *flag.Flag) {
		if path, ok := a.settings[fl.Name]; ok && bad == nil {
			bad = c.Set(path, fl.Value.String(), agent.Source{Name: "flag -" + fl.Name})
		}
	})
	if bad != nil {
		return nil, bad
	}
	if a.joinAddrs != nil && len(*a.joinAddrs) > 0 {
		if err := c.Set("join.addresses", a.joinAddrs.String(), agent.Source{Name: "flag -join"}); err != nil {
			return nil, err
		}
		if !c.Server.Enabled && !c.Client.Enabled {
			c.Client.Enabled = true
		}
	}
	if a.httpAddr != nil && *a.httpAddr != "" {
		if err := c.SetHTTPAddr(*a.httpAddr, agent.Source{Name: "flag -http-addr"}); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func agentSpecs() []*spec {
	return []*spec{
		{
			name: "agent", synopsis: "run this node: server, client, or both", local: true,
			long: `Configuration is laid over defaults in this order: files and folders of -config,
NOVACRON_* variables (NOVACRON_LOG_LEVEL is log.level), flags.

SIGHUP reads the configuration again and says what needs a restart. SIGTERM and
SIGINT stop the agent; guests keep running, except those that -dev made.

-dev prints the address and a management token on one line each.`,
			examples: []string{"novacron agent -dev", "novacron agent -dev -hypervisor sim -http-addr 127.0.0.1:9000", "novacron agent -config /etc/novacron", "novacron agent -client -join 10.0.0.1:7647 -token-file join.token -data-dir /var/lib/novacron"},
			build: func(f *flags) func(*call) error {
				a := newAgentFlags(f)
				a.forAgent()
				return func(c *call) error { return runAgent(c, a) }
			},
		},
		{
			name: "cluster init", synopsis: "make a new cluster with this machine as its first server", local: true,
			long: `Makes the cluster's id, its certificate authority, its keys and a data folder, and
starts nothing. Then run the agent, make the first token (novacron acl bootstrap)
and tokens for others to join (novacron token join).`,
			examples: []string{"novacron cluster init -config /etc/novacron", "novacron cluster init -data-dir /var/lib/novacron -region eu -name s1"},
			build: func(f *flags) func(*call) error {
				a := newAgentFlags(f)
				return func(c *call) error { return clusterInit(c, a) }
			},
		},
		{
			name: "config validate", args: "FILE...", min: 1, max: -1, synopsis: "check configuration files of an agent", local: true,
			examples: []string{"novacron config validate /etc/novacron"},
			build: simple(func(c *call) error {
				cfg, err := agent.Load(c.args...)
				if err == nil {
					err = cfg.Validate()
				}
				if err != nil {
					return configError(err)
				}
				c.out.say("valid")
				return nil
			}),
		},
	}
}

// configError shows every finding on a line of its own.
func configError(err error) error {
	var ce *agent.ConfigError
	if !errors.As(err, &ce) {
		return err
	}
	return &exitCode{exitError, "the configuration is not valid (" + api.CodeConfig.String() + ")\n  " + strings.ReplaceAll(ce.Error(), "\n", "\n  ")}
}

func clusterInit(c *call, a *agentFlags) error {
	cfg, err := a.load(c.env)
	if err != nil {
		return configError(err)
	}
	cfg.Server.Enabled = true
	if err := cfg.Validate(); err != nil {
		return configError(err)
	}
	id, err := agent.InitCluster(cfg)
	if err != nil {
		return err
	}
	return c.out.show(id, func() error {
		f := c.out.fields()
		f.add("Cluster", id.ClusterID.String())
		f.add("Region", id.Region)
		f.add("Server", id.Name+" ("+id.NodeID.String()+")")
		f.add("Data", cfg.DataDir)
		f.write()
		c.out.say("\nNext: novacron agent -config …, then novacron acl bootstrap")
		return nil
	})
}

func runAgent(c *call, a *agentFlags) error {
	cfg, err := a.load(c.env)
	if err == nil && !cfg.Dev {
		err = cfg.Validate()
	} else if err == nil {
		err = cfg.ValidateDev()
	}
	if err != nil {
		return configError(err)
	}
	// Signals are caught before anything starts, so that none is lost.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	ag, err := agent.New(c, cfg, agent.Options{Log: c.env.Stderr, Version: Version})
	if err != nil {
		return err
	}
	if cfg.Dev {
		fmt.Fprintf(c.env.Stdout, "hypervisor: %s\n", ag.Hypervisor())
		fmt.Fprintf(c.env.Stdout, "data: %s\n", ag.DataDir())
		fmt.Fprintf(c.env.Stdout, "address: %s\n", ag.Address())
		fmt.Fprintf(c.env.Stdout, "token: %s\n", ag.Token())
	}
	if c.env.Started != nil {
		c.env.Started(ag.Address(), ag.Token())
	}
	reloads, stop := context.WithCancel(c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-reloads.Done():
				return
			case <-hup:
				reload(c, a, ag)
			}
		}
	}()
	err = ag.Run(c)
	stop()
	<-done
	if errors.Is(err, context.Canceled) && c.Err() != nil {
		return nil
	}
	return err
}

// reload reads the configuration again; one that is not valid changes nothing.
func reload(c *call, a *agentFlags, ag *agent.Agent) {
	next, err := a.load(c.env)
	if err == nil && !next.Dev {
		err = next.Validate()
	}
	if err != nil {
		ag.Log().Error("the configuration was not reloaded", "error", err)
		return
	}
	if _, _, err := ag.Reload(next); err != nil {
		ag.Log().Error("the configuration was reloaded in part", "error", err)
	}
}

// socketPath finds the socket of the server on this machine.
func socketPath(env *Env, config []string) (string, error) {
	cfg, err := agent.Load(config...)
	if err != nil {
		return "", configError(err)
	}
	if err := cfg.SetEnv(env.LookupEnv); err != nil {
		return "", configError(err)
	}
	return cfg.SocketPath(), nil
}
