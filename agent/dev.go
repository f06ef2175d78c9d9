package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/agent/network"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// devMode is what -dev adds: a folder that goes with it, a token, a network, and
// the end of the VMs that it made.
type devMode struct {
	temp    string // removed in the end; empty with -data-dir
	token   string
	bridges []string // of the host before this agent: left alone
}

// DefaultDev lays the settings of -dev over a configuration: one node, server
// and client, on loopback, with free ports for everything but the API.
func (c *Config) DefaultDev() {
	c.Dev = true
	c.BindAddr, c.Advertise, c.HTTP.Addr = "127.0.0.1", "", ""
	c.Server.Enabled, c.Client.Enabled = true, true
	c.Ports.RPC, c.Ports.Serf = 0, 0
	c.DataDir = ""
	c.Name = "dev"
	c.Log.Level = "warn"
}

// ValidateDev is Validate for -dev, which makes its own data folder.
func (c *Config) ValidateDev() error {
	if c.DataDir != "" {
		return c.Validate()
	}
	probe := *c
	probe.DataDir = "/"
	return probe.Validate()
}

// prepareDev makes the data folder.
func prepareDev(c *Config) (*devMode, error) {
	d := &devMode{}
	if !loopback(c.httpBind()) {
		return nil, api.Errorf(api.CodeConfig, "-dev serves on loopback only, not on %s", c.httpBind()).WithHint("it has no TLS; use `novacron cluster init` for more")
	}
	if c.DataDir == "" {
		dir, err := os.MkdirTemp("", "novacron-dev-")
		if err != nil {
			return nil, err
		}
		if err := os.Chmod(dir, 0o711); err != nil {
			return nil, err
		}
		c.DataDir, d.temp = dir, dir
	}
	return d, nil
}

// poolDir is where a pool lives that the configuration gives no path.
func (c *Config) poolDir(name string) string { return filepath.Join(c.DataDir, "pools", name) }

// networkDir holds what NAT networks need: leases and pid files.
func (c *Config) networkDir() string { return filepath.Join(c.DataDir, "networks") }

// finishDev waits for the server to lead, makes the token (or takes the one of
// the last time in this folder) and the network "default", and waits for the node.
func (a *Agent) finishDev(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	var err error
	if a.dev.bridges, err = a.client.networks.Bridges(ctx); err != nil {
		return err
	}
	for changed := a.server.LeaderChanged(); !a.server.IsLeader(); changed = a.server.LeaderChanged() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the server of -dev does not lead: %w", ctx.Err())
		case <-changed:
		case <-time.After(100 * time.Millisecond):
		}
	}
	file := filepath.Join(a.cfg.DataDir, "dev.token")
	b, err := os.ReadFile(file)
	switch {
	case err == nil:
		a.dev.token = strings.TrimSpace(string(b))
	case errors.Is(err, fs.ErrNotExist):
		t, err := a.server.BootstrapToken(ctx)
		if err != nil {
			return err
		}
		a.dev.token = t.Secret
		if err := os.WriteFile(file, []byte(t.Secret+"\n"), 0o600); err != nil {
			return err
		}
	default:
		return err
	}
	call := api.WithCall(ctx, api.Call{Token: a.dev.token})
	n := api.Network{Name: "default", Type: network.TypeNAT, CIDR: network.DefaultCIDR, Description: "made by -dev"}
	err = a.server.Mux().Call(call, "Network.Apply", &api.NetworkApply{Network: n, CheckIndex: new(uint64)}, &api.NetworkResponse{})
	if err != nil && !errors.Is(err, &api.Error{Code: api.CodeExists}) && !errors.Is(err, &api.Error{Code: api.CodeConflict}) {
		return err
	}
	return a.nodeReady(ctx)
}

// nodeReady waits until this node may be given VMs, so that what is said to be
// started can be used.
func (a *Agent) nodeReady(ctx context.Context) error {
	status := api.NodeStatus("not registered")
	q := &api.QueryOptions{MinIndex: 1, Wait: api.Duration(startLimit)}
	err := a.server.FSM().Query(ctx, q, nil, func(s *fsm.State, w *fsm.WatchSet) (api.Index, error) {
		w.ID(fsm.TableNode, a.id.NodeID)
		if n := s.Node(a.id.NodeID); n != nil {
			if status = n.Status; status == api.NodeReady {
				return 2, nil
			}
		}
		return 0, nil
	})
	if status != api.NodeReady {
		return errors.Join(fmt.Errorf("the node of -dev is %s", status), err)
	}
	return nil
}

// madeVMs lists the VMs of this agent's own cluster, since none but -dev made
// them: those that are there, those that are to go, and those that only the
// journal of the client half knows.
func (a *Agent) madeVMs() []api.ID {
	out := a.client.Known()
	if a.server != nil {
		st := a.server.FSM().State()
		for v := range st.VMs() {
			out = append(out, v.ID)
		}
		for t := range st.Tombstones() {
			out = append(out, t.VMID)
		}
	}
	slices.SortFunc(out, func(x, y api.ID) int { return bytes.Compare(x[:], y[:]) })
	return slices.Compact(out)
}

// cleanVMs ends the domains of these VMs and takes away the networks. The driver
// touches only domains with NovaCron's metadata.
func (a *Agent) cleanVMs(ctx context.Context, ids []api.ID) error {
	var errs []error
	for _, id := range ids {
		if err := a.client.driver.Destroy(ctx, id); err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
			errs = append(errs, fmt.Errorf("vm %s may still run: %w", id, err))
		}
	}
	for n := range a.server.FSM().State().Networks() {
		if n.Type == network.TypeNAT && !slices.Contains(a.dev.bridges, network.BridgeName(n.Name)) {
			if err := a.client.networks.Remove(ctx, n); err != nil {
				errs = append(errs, fmt.Errorf("network %s: %w", n.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// remove deletes the temporary folder.
func (d *devMode) remove() error {
	if d.temp == "" {
		return nil
	}
	return os.RemoveAll(d.temp)
}
