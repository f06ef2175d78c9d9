package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/lab"
)

// startGoal is how much longer than virsh a start may take.
const startGoal = 1.10

// benchStart measures a new VM, from its POST to the API's word that the domain
// runs, beside "virsh create" of the same XML on the same libvirtd. Ours makes
// the disk, places the VM and commits all that to Raft; virsh finds its disk
// ready.
func benchStart(ctx context.Context, b *bench) (err error) {
	if b.guest == "" {
		return errors.New("-guest is not given")
	}
	n := pick(b, 2, 5)
	fmt.Printf("   1 server and 1 client with libvirtd and QEMU (TCG) on 2 hosts of this machine; alternating pairs, n %d\n", n)
	s := &startBench{c: &lab.Cluster{Lab: lab.New("bstart", "10.79.0", filepath.Join(b.dir, "start"), b.binary)}}
	s.c.Servers = append(s.c.Servers, s.c.Add("s1", 11, false))
	s.c.Clients = append(s.c.Clients, s.c.Add("c1", 21, true))
	defer func() { err = errors.Join(err, s.down(ctx)) }()
	if err := errors.Join(s.c.Up(ctx), s.form(ctx, b.guest)); err != nil {
		return err
	}
	// The first start of either is warm-up, and gives virsh its XML.
	if _, err := s.novacron(ctx, "warm-up"); err != nil {
		return err
	}
	if _, err := s.virsh(ctx); err != nil {
		return err
	}
	var own, virsh []time.Duration
	for i := range n {
		name := fmt.Sprintf("vm-%d", i)
		pair := []func() error{
			func() error { d, err := s.novacron(ctx, name); own = append(own, d); return err },
			func() error { d, err := s.virsh(ctx); virsh = append(virsh, d); return err },
		}
		if i%2 == 1 {
			slices.Reverse(pair)
		}
		for _, one := range pair {
			if err := one(); err != nil {
				return err
			}
		}
	}
	fmt.Printf("   %-36s %s\n   %-36s %s\n   %-36s %.2f (goal <= %.2f)\n", "POST to running (disk made, placed)", spread(own),
		"virsh create (disk ready)", spread(virsh), "ratio of p50", middleOf(own)/middleOf(virsh), startGoal)
	return nil
}

type startBench struct {
	c   *lab.Cluster
	sdk *api.Client
	xml string // of a domain that we made
}

// down ends the guests with their host and removes everything, even after ctx
// has ended.
func (s *startBench) down(ctx context.Context) error {
	if s.sdk != nil {
		s.sdk.Close()
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return s.c.Down(clean)
}

func (s *startBench) form(ctx context.Context, guest string) error {
	if err := s.c.Form(ctx); err != nil {
		return err
	}
	if _, err := s.c.CLI(ctx, "image", "upload", "-name", "tick", filepath.Join(guest, "tick.qcow2")); err != nil {
		return err
	}
	ca, err := os.ReadFile(s.c.CA)
	if err != nil {
		return err
	}
	s.sdk, err = api.NewClient(api.ClientConfig{Address: "https://" + s.c.Servers[0].Address + ":7646", Token: s.c.Token, CACert: ca})
	return err
}

// novacron runs a new VM and removes it again; the first one leaves its XML and
// a copy of its disk for virsh.
func (s *startBench) novacron(ctx context.Context, name string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	spec := api.VMSpec{
		Name: name, CPU: api.CPUSpec{Cores: 1}, Memory: 128 * api.MiB,
		Disks: []api.Disk{{Name: "root", Image: "tick", Size: 64 * api.MiB}},
	}
	begin := time.Now()
	made, err := s.sdk.VMs().Apply(ctx, &api.VMApply{Spec: spec}, nil)
	if err != nil {
		return 0, err
	}
	if err := s.running(ctx, name); err != nil {
		return 0, err
	}
	took := time.Since(begin)
	if s.xml == "" {
		if err := s.keepXML(ctx, made.VM.ID); err != nil {
			return 0, err
		}
	}
	if _, err := s.sdk.VMs().Delete(ctx, &api.DeleteRequest{Key: name, Force: true}, nil); err != nil {
		return 0, err
	}
	return took, lab.Until(ctx, func() error {
		_, err := s.sdk.VMs().Get(ctx, name, nil)
		switch api.CodeOf(err) {
		case api.CodeNotFound:
			return nil
		case 0:
			return errors.New("still there")
		}
		return err
	})
}

// running waits by blocking queries until the API says that the VM runs.
func (s *startBench) running(ctx context.Context, name string) error {
	q := &api.QueryOptions{}
	for {
		st, err := s.sdk.VMs().Status(ctx, name, q)
		if err != nil {
			return err
		}
		if st.State == string(api.StateRunning) {
			return nil
		}
		if st.State == string(api.StateFailed) {
			return fmt.Errorf("VM %s has failed: %s", name, strings.Join(st.Why, "; "))
		}
		q.MinIndex = st.Index
	}
}

var (
	// volatile is whose the domain is, and what libvirt adds to a running one.
	volatile   = regexp.MustCompile(`(?s)\s*(<metadata>.*?</metadata>|<seclabel.*?</seclabel>|<alias [^>]*/>)`)
	sourceFile = regexp.MustCompile(`<source file=['"]([^'"]+)['"]`)
)

// benchDisk is virsh's copy of the disk.
const benchDisk = "/var/lib/novacron/bench.qcow2"

// keepXML keeps the domain of a running VM, without what says whose it is, and
// copies its disk.
func (s *startBench) keepXML(ctx context.Context, id api.ID) error {
	host := s.c.Clients[0]
	text, err := host.Run(ctx, "virsh", "-q", "-c", "qemu:///system", "dumpxml", "--inactive", "nova-"+id.String())
	if err != nil {
		return err
	}
	disk := sourceFile.FindStringSubmatch(text) // the image that it is a clone of comes after it
	if disk == nil {
		return fmt.Errorf("domain nova-%s has no disk", id)
	}
	if _, err := host.Run(ctx, "cp", disk[1], benchDisk); err != nil {
		return err
	}
	text = volatile.ReplaceAllString(text, "")
	text = strings.ReplaceAll(text, disk[1], benchDisk)
	text = strings.ReplaceAll(text, "nova-"+id.String(), "bench")
	s.xml = strings.ReplaceAll(text, id.String(), api.NewID().String())
	return nil
}

// virsh creates the same domain under another name and ends it again.
func (s *startBench) virsh(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	host := s.c.Clients[0]
	if err := host.Configure("bench.xml", s.xml); err != nil {
		return 0, err
	}
	begin := time.Now()
	if _, err := host.Run(ctx, "virsh", "-q", "-c", "qemu:///system", "create", "/etc/novacron/bench.xml"); err != nil {
		return 0, err
	}
	took := time.Since(begin)
	_, err := host.Run(ctx, "virsh", "-q", "-c", "qemu:///system", "destroy", "bench")
	return took, err
}
