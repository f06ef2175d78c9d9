package scheduler

import (
	"fmt"
	"slices"
	"strings"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm"
)

// The names of the checks, as they stand in api.NodeVerdict.Failed.
const (
	FailEligibility = "eligibility" // cordoned, not ready or out of reach
	FailDatacenter  = "datacenter"
	FailDriver      = "driver" // no healthy hypervisor that can do it
	FailCPUModel    = "cpu-model"
	FailNetwork     = "network"
	FailPool        = "pool"
	FailConstraint  = "constraint"
	FailGuard       = "guard"  // ha = restart, and no guard that it could rely on
	FailVolume      = "volume" // an existing volume is on another node
	FailAffinity    = "affinity"
	FailSpec        = "spec" // no node can ever be right
	FailNode        = "node" // the VM stays on its node, and this is not it
	FailCPU         = "cpu"
	FailMemory      = "memory"
	FailDisk        = "disk"
)

// filter is the part of a request that does not depend on what is free: it is
// compiled once, evaluated for each node when the node changes, and shared by
// all VMs that ask the same.
type filter struct {
	any         bool // every node passes
	datacenters []string
	rules       []rule
	firmware    api.Firmware
	model       string // of the CPU; empty when any will do
	guard       bool   // ha = restart: only nodes whose guard can be relied on
	leaseOnly   bool   // one without a watchdog can
	networks    []needNetwork
	pools       []needPool
	impossible  string // the reason why no node can pass, or empty
	pass        bitset
	live        bool   // in the cache, so that pass is kept current
	used        uint64 // tick of the last use, for eviction
}

type needNetwork struct{ name, bridge string } // bridge is empty for nat

type needPool struct {
	name   string
	shared bool
}

// networkLookup finds a network; it is fsm.State.Network.
type networkLookup func(name string) *api.Network

// newFilter compiles what a VM's spec and volumes ask of any node.
func newFilter(spec *api.VMSpec, pools []needPool, lookup networkLookup) *filter {
	f := &filter{datacenters: spec.Datacenters, firmware: spec.Firmware, pools: pools}
	if m := spec.CPU.Model; m != "" && m != api.ModelBaseline && m != api.ModelHost {
		f.model = m
	}
	for _, c := range spec.Constraints {
		r, err := compile(c)
		if err != nil {
			f.impossible = err.Message
			continue
		}
		f.rules = append(f.rules, r)
	}
	for i := range spec.NICs {
		name := spec.NICs[i].Network
		n := lookup(name)
		if n == nil {
			f.impossible = fmt.Sprintf("network %q does not exist", name)
			continue
		}
		need := needNetwork{name: name}
		if n.Type == "bridge" {
			need.bridge = n.Bridge
			if need.bridge == "" {
				need.bridge = n.Name
			}
		}
		f.networks = append(f.networks, need)
	}
	return f
}

// check returns the name of the first check that the node fails and the reason
// in words, or two empty texts.
func (f *filter) check(n *api.Node) (failed, reason string) {
	if f.any {
		return "", ""
	}
	if f.impossible != "" {
		return FailSpec, f.impossible
	}
	if len(f.datacenters) > 0 && !slices.Contains(f.datacenters, n.Datacenter) {
		return FailDatacenter, fmt.Sprintf("is in datacenter %q, wanted is %s", n.Datacenter, strings.Join(f.datacenters, " or "))
	}
	if reason := f.checkDriver(n); reason != "" {
		return FailDriver, reason
	}
	if f.model != "" && !fsm.GivesModel(n, f.model) {
		return FailCPUModel, fmt.Sprintf("cannot give the CPU model %q", f.model)
	}
	for _, w := range f.networks {
		if w.bridge != "" && !slices.Contains(n.Networks, w.bridge) && !slices.Contains(n.Networks, w.name) {
			return FailNetwork, fmt.Sprintf("has no bridge %q for network %q", w.bridge, w.name)
		}
	}
	for _, w := range f.pools {
		i := slices.IndexFunc(n.Pools, func(p api.NodePool) bool { return p.Name == w.name })
		switch {
		case i < 0:
			return FailPool, fmt.Sprintf("has no pool %q", w.name)
		case n.Pools[i].Error != "":
			return FailPool, fmt.Sprintf("pool %q: %s", w.name, n.Pools[i].Error)
		case w.shared && !n.Pools[i].Shared:
			return FailPool, fmt.Sprintf("pool %q is not shared there", w.name)
		}
	}
	if reason := f.checkGuard(n); reason != "" {
		return FailGuard, reason
	}
	for _, r := range f.rules {
		v, ok := attribute(n, r.attribute)
		if !r.test(v, ok) {
			if !ok {
				return FailConstraint, fmt.Sprintf("has no %s, wanted is %s", r.attribute, r.text)
			}
			return FailConstraint, fmt.Sprintf("has %s = %q, wanted is %s", r.attribute, v, r.text)
		}
	}
	return "", ""
}

// checkGuard wants a guard that kills the VM in time when the lease is over.
func (f *filter) checkGuard(n *api.Node) string {
	switch {
	case !f.guard || n.Guard == api.GuardWatchdog || n.Guard == api.GuardLeaseOnly && f.leaseOnly:
		return ""
	case n.Guard == api.GuardLeaseOnly:
		return "has a guard without a watchdog, which ha = restart may rely on only with fencing = lease-only"
	}
	return "has no guard, which ha = restart needs"
}

// checkDriver wants one healthy driver that has the firmware.
// A driver that publishes no list is taken to have everything of that kind.
func (f *filter) checkDriver(n *api.Node) string {
	reason := "has no hypervisor driver"
	for i := range n.Drivers {
		d := &n.Drivers[i]
		switch {
		case !d.Healthy:
			reason = fmt.Sprintf("driver %s is not healthy: %s", d.Name, d.Error)
		case f.firmware == api.FirmwareUEFI && len(d.Firmware) > 0 && !slices.Contains(d.Firmware, string(f.firmware)):
			reason = fmt.Sprintf("driver %s has no %s firmware", d.Name, f.firmware)
		default:
			return ""
		}
	}
	return reason
}

// usable says whether any VM may be placed on a node now, and why not.
func usable(n *api.Node) string {
	if reason := inReach(n); reason != "" {
		return reason
	}
	if n.Eligibility != api.Eligible {
		return "is not eligible: it was cordoned"
	}
	return ""
}

// inReach says whether a VM that is on a node may start again there now.
func inReach(n *api.Node) string {
	switch {
	case n.Status != api.NodeReady:
		if n.StatusNote != "" {
			return fmt.Sprintf("is %s: %s", n.Status, n.StatusNote)
		}
		return fmt.Sprintf("is %s", n.Status)
	case n.Unreachable != "":
		return "cannot be reached by the servers: " + n.Unreachable
	}
	return ""
}
