package client

import (
	"context"
	"sync"
	"time"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// firstAnswer is how long the hypervisor has to answer before the node goes on
// without: it registers, with a driver that is not healthy.
const firstAnswer = 5 * time.Second

// driverState is what the driver says it can do.
type driverState struct {
	mu  sync.Mutex
	ask *asked // under way, or answered and not yet told
	was *api.DriverInfo
}

type asked struct {
	done chan struct{}
	late bool // nobody waits any more
	info api.DriverInfo
	err  error
}

// fingerprint asks the driver what it can do. One that takes its time is not
// waited for: what it said before stands as long as it lists its domains, and
// when it answers the machine is looked at again.
func (c *Client) fingerprint(ctx context.Context) (api.DriverInfo, error) {
	s := &c.driver
	s.mu.Lock()
	a := s.ask
	if a == nil {
		a = &asked{done: make(chan struct{})}
		if !c.spawn(func() { c.askDriver(a) }) {
			s.mu.Unlock()
			return api.DriverInfo{}, context.Canceled
		}
		s.ask = a
	}
	a.late = false
	s.mu.Unlock()
	t := time.NewTimer(firstAnswer)
	defer t.Stop()
	select {
	case <-a.done:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ask, s.was = nil, nil
		if a.err == nil {
			s.was = &a.info
		}
		return a.info, a.err
	case <-t.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.late = true
	if s.was != nil && c.driverAnswers() {
		return *s.was, nil
	}
	return api.DriverInfo{}, hypervisor.ErrUnknown
}

func (c *Client) askDriver(a *asked) {
	err := c.op(func(ctx context.Context) (err error) {
		a.info, err = c.cfg.Driver.Fingerprint(ctx)
		return err
	})
	c.driver.mu.Lock()
	defer c.driver.mu.Unlock()
	a.err = err
	close(a.done)
	if a.late {
		poke(c.refresh)
	}
}

// driverAnswers reports whether the last list came.
func (c *Client) driverAnswers() bool {
	c.health.mu.Lock()
	defer c.health.mu.Unlock()
	return c.health.driver == nil
}
