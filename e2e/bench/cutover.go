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
	"github.com/novacron/novacron/e2e/truth"
)

// The goals for what the commit adds to a move's downtime.
const (
	cutoverP50 = 60 * time.Millisecond
	cutoverP99 = 250 * time.Millisecond
)

// benchCutover moves a small guest there and back. The share of the commit is the
// time from the end of the source's process to the run at the destination, of which the
// last part is the hypervisor's own: it lets the guest go on after any move. The parts
// are what the servers keep of the cutover. Before each pair another server
// leads, so that a destination hears of the commit from a leader and from a
// follower. Beside it, in the same run: a write to Raft through the API, which the
// cutover needs one of, and the resume of a paused guest by virsh.
func benchCutover(ctx context.Context, b *bench) (err error) {
	if b.guest == "" {
		return errors.New("-guest is not given")
	}
	n := pick(b, 2, 9)
	fmt.Printf("   3 servers (Raft multiplier 2) and 2 clients with libvirtd and QEMU (TCG) on 5 hosts of this machine; moves %d\n", 2*n)
	m := &cutoverBench{c: lab.Standard("bcut", "10.76.0", filepath.Join(b.dir, "cutover"), b.binary), parts: map[string][]time.Duration{}}
	defer func() { err = errors.Join(err, m.down(ctx)) }()
	if err := errors.Join(m.c.Up(ctx), m.form(ctx, b.guest)); err != nil {
		return err
	}
	if err := m.start(ctx); err != nil {
		return err
	}
	for i := range n {
		if err := m.lead(ctx, i); err != nil {
			return err
		}
		for range 2 {
			if err := m.move(ctx); err != nil {
				return err
			}
			if err := m.floors(ctx); err != nil {
				return err
			}
		}
	}
	m.print()
	return nil
}

type cutoverBench struct {
	c     *lab.Cluster
	sdk   *api.Client
	truth *truth.Recorder
	vm    *api.VM
	parts map[string][]time.Duration
}

// The rows, in the order in which they are shown.
const (
	rowDowntime = "guest stands still"
	rowShare    = "commit share: source's process ended to run"
	rowEnd      = "  guest stopped to source's process ended"
	rowGone     = "  process ended to source's attestation"
	rowDecided  = "  attestation to the entry proposed"
	rowTold     = "  proposed to the destination told"
	rowReady    = "  told to the hypervisor told to resume"
	rowResumed  = "  (told to resume to run: the hypervisor's own)"
	rowAdded    = "added by the commit: the share without that"
	rowComplete = "  (destination complete before the attestation)"
	rowCommit   = "floor: a write to Raft through the API"
	rowResume   = "floor: virsh resume"
)

var cutoverRows = []string{rowDowntime, rowShare, rowEnd, rowGone, rowDecided, rowTold, rowReady, rowResumed, rowAdded, rowComplete, rowCommit, rowResume}

func (m *cutoverBench) add(row string, d time.Duration) { m.parts[row] = append(m.parts[row], d) }

func (m *cutoverBench) down(ctx context.Context) error {
	var errs []error
	if m.truth != nil {
		errs = append(errs, m.truth.Close())
	}
	if m.sdk != nil {
		m.sdk.Close()
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return errors.Join(append(errs, m.c.Down(clean))...)
}

func (m *cutoverBench) form(ctx context.Context, guest string) error {
	if err := m.c.Form(ctx); err != nil {
		return err
	}
	if _, err := m.c.CLI(ctx, "image", "upload", "-name", "tick", filepath.Join(guest, "tick.qcow2")); err != nil {
		return err
	}
	ca, err := os.ReadFile(m.c.CA)
	if err != nil {
		return err
	}
	if m.sdk, err = api.NewClient(api.ClientConfig{Address: "https://" + m.c.Servers[0].Address + ":7646", Token: m.c.Token, CACert: ca}); err != nil {
		return err
	}
	m.truth, err = truth.Start(filepath.Join(m.c.Dir, "truth.log"), m.c.Clients...)
	return err
}

// start runs the guest. Its disk is on the shared pool: copying it is no matter of
// the cutover.
func (m *cutoverBench) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	made, err := m.sdk.VMs().Apply(ctx, &api.VMApply{Spec: api.VMSpec{
		Name: "cut", CPU: api.CPUSpec{Cores: 1}, Memory: 128 * api.MiB,
		Disks: []api.Disk{{Name: "root", Image: "tick", Pool: "shared", Size: 64 * api.MiB}},
	}}, nil)
	if err != nil {
		return err
	}
	m.vm = made.VM
	return m.running(ctx)
}

func (m *cutoverBench) running(ctx context.Context) error { return m.await(ctx, api.StateRunning) }

func (m *cutoverBench) await(ctx context.Context, want api.VMState) error {
	return lab.Until(ctx, func() error {
		st, err := m.sdk.VMs().Status(ctx, m.vm.Name, nil)
		if err == nil && st.State != string(want) {
			err = fmt.Errorf("it is %s: %s", st.State, strings.Join(st.Why, "; "))
		}
		return err
	})
}

// lead makes one server after the other the leader.
func (m *cutoverBench) lead(ctx context.Context, i int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	want := m.c.Servers[i%len(m.c.Servers)].Name
	return lab.Until(ctx, func() error {
		list, err := m.sdk.Operator().RaftList(ctx, nil)
		if err != nil {
			return err
		}
		for _, s := range list.Items {
			if name, _, _ := strings.Cut(s.Name, "."); name != want {
				continue
			}
			if s.Leader {
				return nil
			}
			return errors.Join(m.sdk.Operator().RaftTransfer(ctx, s.ID), errors.New("handed over"))
		}
		return fmt.Errorf("there is no server %s", want)
	})
}

// move moves the guest to the other host, and takes the times.
func (m *cutoverBench) move(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	began := truth.Now()
	made, err := m.sdk.Migrations().Create(ctx, &api.MigrationCreate{VM: m.vm.Name}, nil)
	if err != nil {
		return err
	}
	var g *api.Migration
	if err := lab.Until(ctx, func() error {
		r, err := m.sdk.Migrations().Get(ctx, made.Migration.ID.String(), nil)
		if err != nil {
			return err
		}
		if g = r.Migration; g.Phase.Active() {
			return fmt.Errorf("it is %s", g.Phase)
		}
		return nil
	}); err != nil {
		return err
	}
	if g.Phase != api.MigrationDone {
		return fmt.Errorf("the move is %s: %s", g.Phase, g.Message)
	}
	seen := func(host string, state truth.State) (int64, error) {
		r, err := m.truth.Await(ctx, began, func(r truth.Record) bool { return r.Host == host && r.State == state && r.VM == m.vm.ID.String() })
		return r.Time, err
	}
	ended, err1 := seen(g.FromNode, truth.Stop)
	ran, err2 := seen(g.ToNode, truth.Run)
	stopped, err3 := seen(g.FromNode, truth.Pause)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	c := g.Cutover
	if c == nil || c.Gone == 0 || c.Complete == 0 || c.Told == 0 || c.Resuming == 0 {
		return fmt.Errorf("the servers do not know all of the cutover: %+v", c)
	}
	at := func(t api.Time) int64 { return truth.At(t.Time()) }
	m.add(rowDowntime, time.Duration(ran-stopped))
	m.add(rowShare, time.Duration(ran-ended))
	m.add(rowEnd, time.Duration(ended-stopped))
	m.add(rowGone, time.Duration(at(c.Gone)-ended))
	m.add(rowDecided, g.CommitTime.Time().Sub(c.Gone.Time()))
	m.add(rowTold, c.Told.Time().Sub(g.CommitTime.Time()))
	m.add(rowReady, c.Resuming.Time().Sub(c.Told.Time()))
	m.add(rowResumed, time.Duration(ran-at(c.Resuming)))
	m.add(rowAdded, time.Duration(at(c.Resuming)-ended))
	m.add(rowComplete, c.Gone.Time().Sub(c.Complete.Time()))
	return nil
}

var virshTime = regexp.MustCompile(`\(Time: ([0-9.]+) ms\)`)

// floors measures what a cutover cannot do without.
func (m *cutoverBench) floors(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := m.running(ctx); err != nil {
		return err
	}
	for range 3 {
		begin := time.Now()
		if _, err := m.sdk.Namespaces().Apply(ctx, &api.NamespaceApply{Namespace: api.Namespace{Name: "bench", Description: begin.String()}}, nil); err != nil {
			return err
		}
		m.add(rowCommit, time.Since(begin))
	}
	st, err := m.sdk.VMs().Status(ctx, m.vm.Name, nil)
	if err != nil {
		return err
	}
	// An agent would resume what virsh has paused before virsh does.
	power := func(action string, want api.VMState) error {
		if _, err := m.sdk.VMs().Power(ctx, &api.VMPower{Key: m.vm.Name, Action: action}, nil); err != nil {
			return err
		}
		return m.await(ctx, want)
	}
	if err := power("pause", api.StatePaused); err != nil {
		return err
	}
	out, err := m.c.Host(st.Node).Run(ctx, "virsh", "-q", "-t", "-c", "qemu:///system", "resume", "nova-"+m.vm.ID.String())
	if err != nil {
		return err
	}
	found := virshTime.FindStringSubmatch(out)
	if found == nil {
		return fmt.Errorf("virsh says no time: %q", out)
	}
	took, err := time.ParseDuration(found[1] + "ms")
	if err != nil {
		return err
	}
	m.add(rowResume, took)
	return power("resume", api.StateRunning)
}

func (m *cutoverBench) print() {
	fmt.Printf("   %-50s %9s %9s %9s %9s   n\n", "milliseconds", "p50", "p99", "least", "most")
	for _, row := range cutoverRows {
		d := m.parts[row]
		slices.Sort(d)
		ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
		goal := ""
		if row == rowAdded {
			goal = fmt.Sprintf(" (goal: p50 <= %s, p99 <= %s)", cutoverP50, cutoverP99)
		}
		fmt.Printf("   %-50s %9.1f %9.1f %9.1f %9.1f   %d%s\n", row, ms(percentile(d, 50)), ms(percentile(d, 99)), ms(d[0]), ms(d[len(d)-1]), len(d), goal)
	}
}
