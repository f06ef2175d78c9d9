package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/detector"
	"github.com/novacron/novacron/e2e/lab"
	"github.com/novacron/novacron/e2e/truth"
)

// image is the name of the detector's image.
const image = "detector"

// diskSize is small: it is copied in each run of a migration with local disks.
const diskSize = 8 << 20

// Bed is a cluster on a lab, on which faults are tried.
type Bed struct {
	*lab.Cluster
	// Truth records what QEMU does.
	Truth *truth.Recorder
	// Points: the binary was built with the tag faultpoints, so that agents can be
	// held at a named point.
	Points bool

	out     string                    // folder of what is kept
	at      map[*lab.Host]*api.Client // by way of each host's agent
	clients []*api.Client             // those of servers
	serial  int                       // of the last VM
}

// PointsEnv is the environment for agents of a lab whose binary has faultpoints.
const PointsEnv = "NOVACRON_FAULTPOINTS=/var/lib/novacron/faultpoints"

// Prepare makes a bed of a cluster that is up: records to log, uploads the image.
// QEMU's own logs of what went wrong are kept beside log.
func Prepare(ctx context.Context, c *lab.Cluster, log string, points bool) (*Bed, error) {
	b := &Bed{Cluster: c, Points: points, out: filepath.Dir(log), at: map[*lab.Host]*api.Client{}}
	ca, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, err
	}
	for _, h := range c.Hosts {
		cl, err := api.NewClient(api.ClientConfig{Address: "https://" + h.Address + ":7646", Token: c.Token, CACert: ca})
		if err != nil {
			return nil, err
		}
		b.at[h] = cl
		if !h.Libvirt {
			b.clients = append(b.clients, cl)
		}
	}
	for _, h := range c.Clients {
		if err := os.MkdirAll(b.pointsOf(h), 0o755); err != nil {
			return nil, err
		}
	}
	disk := filepath.Join(c.Dir, "detector.raw")
	if err := os.WriteFile(disk, detector.Image(diskSize), 0o644); err != nil {
		return nil, err
	}
	if _, err := c.CLI(ctx, "image", "upload", "-name", image, disk); err != nil {
		return nil, err
	}
	if b.Truth, err = truth.Start(log, c.Hosts...); err != nil {
		return nil, err
	}
	if _, err := b.take(ctx); err != nil { // without a census every run is void
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Close ends what Prepare began; the cluster stays.
func (b *Bed) Close() error {
	for _, c := range b.at {
		c.Close()
	}
	return b.Truth.Close()
}

func (b *Bed) logf(format string, args ...any) {
	fmt.Fprintf(b.Log, "%s "+format+"\n", append([]any{time.Now().Format("15:04:05.000")}, args...)...)
}

// ask asks one server after the other until one answers.
func (b *Bed) ask(ctx context.Context, f func(ctx context.Context, c *api.Client) error) error {
	var errs []error
	for _, c := range b.clients {
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := f(one, c)
		cancel()
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (b *Bed) status(ctx context.Context, name string) (s *api.VMStatusResponse, err error) {
	err = b.ask(ctx, func(ctx context.Context, c *api.Client) error {
		s, err = c.VMs().Status(ctx, name, nil)
		return err
	})
	return s, err
}

func (b *Bed) migration(ctx context.Context, key string) (m *api.MigrationResponse, err error) {
	err = b.ask(ctx, func(ctx context.Context, c *api.Client) error {
		m, err = c.Migrations().Get(ctx, key, nil)
		return err
	})
	return m, err
}

// leader is the host that leads.
func (b *Bed) leader(ctx context.Context) (h *lab.Host, err error) {
	err = b.ask(ctx, func(ctx context.Context, c *api.Client) error {
		list, err := c.Operator().RaftList(ctx, nil)
		if err != nil {
			return err
		}
		for _, s := range list.Items {
			for _, of := range b.Servers {
				if s.Leader && (s.Name == of.Name || len(s.Name) > len(of.Name) && s.Name[:len(of.Name)+1] == of.Name+".") {
					h = of
					return nil
				}
			}
		}
		return errors.New("there is no leader")
	})
	return h, err
}

// sees demands that a server sees all servers vote, and all clients ready with their
// hypervisors.
func (b *Bed) sees(ctx context.Context, server *lab.Host) error {
	list, err := b.at[server].Operator().RaftList(ctx, nil)
	if err != nil {
		return err
	}
	voters, leaders := 0, 0
	for _, s := range list.Items {
		if s.Voter {
			voters++
		}
		if s.Leader {
			leaders++
		}
	}
	nodes, err := b.at[server].Nodes().List(ctx, nil)
	if err != nil {
		return err
	}
	for _, n := range nodes.Items {
		if n.Status != api.NodeReady {
			return fmt.Errorf("node %s is %s", n.Name, n.Status)
		}
		whole, err := b.at[server].Nodes().Get(ctx, n.Name, nil)
		if err != nil {
			return err
		}
		for _, d := range whole.Node.Drivers {
			if !d.Healthy {
				return fmt.Errorf("%s of node %s is not healthy: %s", d.Name, n.Name, d.Error)
			}
		}
	}
	if voters != len(b.Servers) || leaders != 1 || len(nodes.Items) != len(b.Clients) {
		return fmt.Errorf("%d servers vote, %d lead, there are %d nodes", voters, leaders, len(nodes.Items))
	}
	return nil
}

// other is the client beside h.
func (b *Bed) other(h *lab.Host) *lab.Host {
	for _, c := range b.Clients {
		if c != h {
			return c
		}
	}
	return nil
}

// until polls five times a second; the error says what was last.
func until(ctx context.Context, limit time.Duration, check func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return lab.Until(ctx, func() error { return check(ctx) })
}

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
