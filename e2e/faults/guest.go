package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/detector"
	"github.com/novacron/novacron/e2e/lab"
	"github.com/novacron/novacron/e2e/truth"
)

// The pools of the lab.
const (
	local  = "default"
	shared = "shared"
)

// guest is a VM with a detector in it.
type guest struct {
	b    *Bed
	name string
	pool string
	id   string
	disk *api.Volume
}

// start makes a VM on a host and waits until it has counted a little.
func (b *Bed) start(ctx context.Context, on *lab.Host, pool, ha string) (*guest, error) {
	b.serial++
	g := &guest{b: b, name: fmt.Sprintf("fault-%d", b.serial), pool: pool}
	format := "qcow2"
	if pool == shared {
		format = "raw"
	}
	spec := fmt.Sprintf(`vm %q {
  cpu    = 1
  memory = "48MiB"
  disk "root" {
    image  = %q
    pool   = %q
    format = %q
  }
  restart {
    delay    = "1s"
    attempts = 10
  }
  ha { policy = %q }
}
`, g.name, image, pool, format, ha)
	path := filepath.Join(b.Dir, g.name+".hcl")
	if err := os.WriteFile(path, []byte(spec), 0o644); err != nil {
		return nil, err
	}
	// A constraint would forbid the move.
	off := b.other(on)
	if _, err := b.CLI(ctx, "node", "cordon", off.Name); err != nil {
		return nil, err
	}
	_, err := b.CLI(ctx, "vm", "run", "-detach", path)
	if err == nil {
		err = until(ctx, 60*time.Second, func(ctx context.Context) error {
			s, err := b.status(ctx, g.name)
			if err != nil {
				return err
			}
			if s.State != string(api.StateRunning) || s.Node != on.Name {
				return fmt.Errorf("%s is %s on %q: %v", g.name, s.State, s.Node, s.Why)
			}
			if len(s.Volumes) != 1 {
				return fmt.Errorf("it has %d volumes", len(s.Volumes))
			}
			g.id, g.disk = s.VM.ID.String(), s.Volumes[0]
			return nil
		})
	}
	if _, back := b.CLI(ctx, "node", "uncordon", off.Name); back != nil || err != nil {
		return g, errors.Join(err, back)
	}
	_, err = g.counted(ctx, on, 30*time.Second, 3)
	return g, err
}

// shown is what the guest has shown on a host.
func (g *guest) shown(on *lab.Host) (detector.State, bool, bool) {
	text, err := os.ReadFile(filepath.Join(on.Dir(), "var/log/libvirt/qemu/nova-"+g.id+"-serial0.log"))
	if err != nil {
		return detector.State{}, false, false
	}
	return detector.Serial(text)
}

// counted waits until the guest has counted n times more on a host.
func (g *guest) counted(ctx context.Context, on *lab.Host, limit time.Duration, n uint32) (now detector.State, err error) {
	first, _, _ := g.shown(on)
	err = until(ctx, limit, func(context.Context) error {
		s, double, ok := g.shown(on)
		switch {
		case double:
			return fmt.Errorf("%s on %s has seen another: %s", g.name, on.Name, s)
		case !ok:
			return fmt.Errorf("%s has shown nothing on %s", g.name, on.Name)
		case s.Nonce == first.Nonce && s.Counter < first.Counter+n || s.Nonce != first.Nonce && s.Counter < n:
			return fmt.Errorf("%s stands still on %s at %s", g.name, on.Name, s)
		}
		now = s
		return nil
	})
	return now, err
}

// processes are those of the guest that are there now.
func (g *guest) processes() (out []truth.Process) {
	for _, p := range g.b.Truth.Processes() {
		if p.VM == g.id {
			out = append(out, p)
		}
	}
	return out
}

// records are what the truth has of the guest.
func (g *guest) records() (out []truth.Record) {
	for _, r := range g.b.Truth.Records() {
		if r.VM == g.id {
			out = append(out, r)
		}
	}
	return out
}

// settled waits until the guest runs where the servers say, and only there, and
// no migration of it is under way.
func (g *guest) settled(ctx context.Context, limit time.Duration) (on *lab.Host, m *api.Migration, err error) {
	err = until(ctx, limit, func(ctx context.Context) error {
		r, err := g.b.migration(ctx, g.name)
		switch {
		case err == nil && r.Migration.Phase.Active():
			return fmt.Errorf("the migration is %s (source %s, destination %s): %v", r.Migration.Phase, r.Migration.Source.State, r.Migration.Dest.State, r.Why)
		case err == nil:
			m = r.Migration
		case !strings.Contains(err.Error(), api.CodeNotFound.String()):
			return err
		}
		s, err := g.b.status(ctx, g.name)
		if err != nil {
			return err
		}
		if s.State != string(api.StateRunning) {
			return fmt.Errorf("it is %s on %s: %v", s.State, s.Node, s.Why)
		}
		on = g.b.Host(s.Node)
		ps := g.processes()
		if len(ps) != 1 || ps[0].Host != s.Node || ps[0].State != truth.Run {
			return fmt.Errorf("it should run on %s, and there are %v", s.Node, ps)
		}
		return nil
	})
	return on, m, err
}

// keep copies what libvirt and QEMU have said of the guest to the folder of the
// report.
func (g *guest) keep(n int) error {
	var errs []error
	for _, h := range g.b.Clients {
		text, err := os.ReadFile(filepath.Join(h.Dir(), "var/log/libvirt/qemu/nova-"+g.id+".log"))
		if errors.Is(err, os.ErrNotExist) {
			continue // it was never there
		}
		errs = append(errs, err, os.WriteFile(filepath.Join(g.b.out, fmt.Sprintf("%d-%s-qemu.log", n, h.Name)), text, 0o644))
	}
	return errors.Join(errs...)
}

// end stops the guest, reads its disk, and deletes it.
func (g *guest) end(ctx context.Context) (v detector.Verdict, err error) {
	var on string
	if _, err := g.b.CLI(ctx, "vm", "stop", "-force", g.name); err != nil {
		return v, err
	}
	if err := until(ctx, 60*time.Second, func(ctx context.Context) error {
		s, err := g.b.status(ctx, g.name)
		if err == nil && s.State != string(api.StateStopped) {
			err = fmt.Errorf("it is %s: %v", s.State, s.Why)
		}
		if err == nil && s.Node != "" {
			on = s.Node
		}
		return err
	}); err != nil {
		return v, fmt.Errorf("stop of %s: %w", g.name, err)
	}
	h, path := g.b.Host(on), "/var/lib/novacron/pools/default/"
	if g.pool == shared {
		h, path = g.b.Clients[0], "/var/lib/novacron/shared/pool/"
	}
	if h == nil {
		return v, fmt.Errorf("%s is stopped on no node", g.name)
	}
	v, err = detector.Read(ctx, h.Run, path+g.disk.ID.String()+"."+g.disk.Format, g.disk.Format)
	return v, errors.Join(err, g.remove(ctx))
}

// remove deletes the VM, whatever it is doing, and waits until it is gone.
func (g *guest) remove(ctx context.Context) error {
	if _, err := g.b.CLI(ctx, "vm", "delete", "-force", g.name); err != nil && !strings.Contains(err.Error(), api.CodeNotFound.String()) {
		return err
	}
	return until(ctx, 90*time.Second, func(ctx context.Context) error {
		_, err := g.b.status(ctx, g.name)
		switch {
		case err == nil:
			return fmt.Errorf("%s is still there", g.name)
		case strings.Contains(err.Error(), api.CodeNotFound.String()):
			return nil
		}
		return err
	})
}
