package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/lab"
)

// benchFailover measures the gap in writes when the leader is killed, beside the
// gap when it hands over in good order: real agents on three hosts, writes
// through the API of the servers that are left. The clock runs from before the
// kill (or the request to hand over) to the acknowledgement.
func benchFailover(ctx context.Context, b *bench) error {
	n := pick(b, 3, 10)
	fmt.Printf("   3 agents on 3 hosts of this machine, HTTPS; kill -9 of the leader (what starts kill is counted); n %d\n", n)
	fmt.Printf("   %10s   %-40s %-40s %s\n", "multiplier", "leader killed: to the first write", "handed over: to the first write", "ratio of p50")
	for _, multiplier := range []float64{0.5, 0.2} {
		if err := failoverAt(ctx, b, n, multiplier); err != nil {
			return fmt.Errorf("multiplier %v: %w", multiplier, err)
		}
	}
	return nil
}

func failoverAt(ctx context.Context, b *bench, n int, multiplier float64) (err error) {
	c := &failoverRegion{Cluster: &lab.Cluster{Lab: lab.New("bfail", "10.78.0", filepath.Join(b.dir, "failover"), b.binary)}}
	c.Env = []string{fmt.Sprintf("NOVACRON_SERVER_RAFT_MULTIPLIER=%v", multiplier)}
	for i := range 3 {
		c.Servers = append(c.Servers, c.Add(fmt.Sprintf("s%d", i+1), 11+i, false))
	}
	defer func() { err = errors.Join(err, c.down(ctx)) }()
	if err := errors.Join(c.Up(ctx), c.form(ctx)); err != nil {
		return err
	}
	var killed, handed []time.Duration
	for i := range n {
		pair := []func() error{
			func() error { return c.measure(ctx, &killed, true) },
			func() error { return c.measure(ctx, &handed, false) },
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
	fmt.Printf("   %10v   %-40s %-40s %.1f\n", multiplier, spread(killed), spread(handed), middleOf(killed)/middleOf(handed))
	return nil
}

// failoverRegion is a region of three servers with a client of the SDK for each.
type failoverRegion struct {
	*lab.Cluster
	sdk map[*lab.Host]*api.Client
}

// down removes the region. It is done even after ctx has ended.
func (c *failoverRegion) down(ctx context.Context) error {
	for _, s := range c.sdk {
		s.Close()
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return c.Down(clean)
}

func (c *failoverRegion) form(ctx context.Context) error {
	if err := c.Form(ctx); err != nil {
		return err
	}
	ca, err := os.ReadFile(c.CA)
	if err != nil {
		return err
	}
	c.sdk = map[*lab.Host]*api.Client{}
	for _, h := range c.Servers {
		if c.sdk[h], err = api.NewClient(api.ClientConfig{Address: "https://" + h.Address + ":7646", Token: c.Token, CACert: ca}); err != nil {
			return err
		}
	}
	return nil
}

// measure takes one time: the leader is killed and started again afterwards, or
// hands over.
func (c *failoverRegion) measure(ctx context.Context, into *[]time.Duration, kill bool) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	old, err := c.settle(ctx)
	if err != nil {
		return err
	}
	var left []*api.Client
	for h, s := range c.sdk {
		if h != old {
			left = append(left, s)
			if _, err := s.Status().Leader(ctx, nil); err != nil { // the connection is open
				return err
			}
		}
	}
	begin := time.Now()
	if kill {
		err = old.KillAgent(ctx)
	} else {
		err = left[0].Operator().RaftTransfer(ctx, api.ID{})
	}
	if err == nil {
		err = firstWrite(ctx, left)
	}
	*into = append(*into, time.Since(begin))
	if err != nil || !kill {
		return err
	}
	return old.StartAgent()
}

// firstWrite writes through every server at once, again and again, until one of
// them acknowledges.
func firstWrite(ctx context.Context, servers []*api.Client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	acked := make(chan struct{}, len(servers))
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, s := range servers {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, err := s.Namespaces().Apply(ctx, &api.NamespaceApply{Namespace: api.Namespace{Name: "bench"}}, nil)
				if err == nil {
					acked <- struct{}{}
					return
				}
				pause(ctx, 2*time.Millisecond)
			}
		})
	}
	select {
	case <-acked:
		cancel()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// settle waits until three healthy servers vote and returns the leader's host.
func (c *failoverRegion) settle(ctx context.Context) (leader *lab.Host, err error) {
	return leader, lab.Until(ctx, func() error {
		leader = nil
		healthy := 0
		for _, s := range c.sdk {
			list, err := s.Operator().RaftList(ctx, nil)
			if err != nil {
				return err
			}
			for _, m := range list.Items {
				name, _, _ := strings.Cut(m.Name, ".")
				if m.Leader {
					leader = c.Host(name)
				}
				if m.Voter && m.Healthy {
					healthy++
				}
			}
		}
		if want := len(c.sdk) * len(c.sdk); leader == nil || healthy != want {
			return fmt.Errorf("%d of %d answers say that a server is healthy", healthy, want)
		}
		return nil
	})
}

func middleOf(ds []time.Duration) float64 {
	v := make([]float64, len(ds))
	for i, d := range ds {
		v[i] = float64(d)
	}
	return median(v)
}

// spread shows the median with the least and the most.
func spread(ds []time.Duration) string {
	ms := func(d time.Duration) string {
		return fmt.Sprintf("%.0f", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("p50 %s ms, min %s, max %s", ms(time.Duration(middleOf(ds))), ms(slices.Min(ds)), ms(slices.Max(ds)))
}
