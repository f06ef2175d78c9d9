// Package fingerprint finds out what the machine is: one file per fact.
//
// Promises: it only reads; what cannot be read is left out and named in
// Warnings, never guessed. All files are read under a root folder, so that tests
// bring their own machine.
//
// What does not belong: what hypervisors and pools can do (their drivers say
// that); what the operator configures.
package fingerprint

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/novacron/novacron/api"
)

// Options shape a look at the machine.
type Options struct {
	// Root is the folder that holds proc, sys, etc and dev; default "/".
	Root string
	// What is kept for the host and not given to VMs.
	ReserveCPU    api.MilliCPU
	ReserveMemory api.Bytes
}

// Facts are what was found.
type Facts struct {
	Attributes  api.Pairs
	Capacity    api.Resources
	NUMA        []api.NUMACell
	BootID      string
	MachineID   string
	ProductUUID string
	Bridges     []string
	// KVM says whether hardware virtualisation really works here.
	KVM bool
	// Warnings name the facts that could not be found out.
	Warnings []string
}

// facts is the registry, in the order in which they are looked at.
var facts = []struct {
	name string
	find func(m machine, f *Facts) error
}{
	{"boot id", bootID}, {"machine id", machineID}, {"product uuid", productUUID},
	{"kernel", kernel}, {"os", osRelease}, {"cpu", cpu}, {"memory", memory},
	{"numa", numa}, {"kvm", kvm}, {"bridges", bridges}, {"hostname", hostname},
}

// Find looks at the machine. The error is only the context's.
func Find(ctx context.Context, o Options) (*Facts, error) {
	if o.Root == "" {
		o.Root = "/"
	}
	f := &Facts{}
	for _, fact := range facts {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := fact.find(machine(o.Root), f); err != nil {
			f.Warnings = append(f.Warnings, fmt.Sprintf("%s: %v", fact.name, err))
		}
	}
	f.Capacity.CPU = max(0, f.Capacity.CPU-o.ReserveCPU)
	f.Capacity.Memory = max(0, f.Capacity.Memory-o.ReserveMemory)
	return f, nil
}

// Merge puts the facts into a node. Attributes that other places have set stay,
// unless a fact has the same name.
func (f *Facts) Merge(n *api.Node) {
	for _, p := range f.Attributes {
		n.Attributes = n.Attributes.Set(p.K, p.V)
	}
	n.Capacity, n.NUMA = f.Capacity, f.NUMA
	n.BootID, n.MachineID, n.ProductUUID = f.BootID, f.MachineID, f.ProductUUID
	n.Networks = f.Bridges
}

func (f *Facts) set(k, v string) {
	if v != "" {
		f.Attributes = f.Attributes.Set(k, v)
	}
}

// machine is the root folder.
type machine string

func (m machine) path(p string) string { return filepath.Join(string(m), p) }

// line reads a file of one line, without what a shell would trim.
func (m machine) line(p string) (string, error) {
	b, err := os.ReadFile(m.path(p))
	return strings.TrimSpace(string(b)), err
}

// lines reads a file of "key<sep>value" lines.
func (m machine) lines(p, sep string, f func(k, v string)) error {
	b, err := os.ReadFile(m.path(p))
	if err != nil {
		return err
	}
	for l := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(l, sep); ok {
			f(strings.TrimSpace(k), strings.TrimSpace(v))
		}
	}
	return nil
}
