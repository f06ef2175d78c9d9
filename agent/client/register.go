package client

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/novacron/novacron/api"
)

const (
	defaultHeartbeat = 3 * time.Second
	// doubtBeats missed beats put the node in doubt: every server is then tried
	// on a new connection.
	doubtBeats   = 2
	callTimeout  = 10 * time.Second
	maxCallDelay = 10 * time.Second
	// unhealthyAgain is when a driver that is not healthy is asked again: nothing
	// is placed on its node meanwhile.
	unhealthyAgain = 10 * time.Second
)

// keepRegistered registers, then keeps beating, following orders and looking at
// the machine; it registers again when told to or when the facts change.
func (c *Client) keepRegistered() {
	var node *api.Node
	var delay time.Duration
	for node == nil {
		n, err := c.describe(c.ctx)
		if err == nil {
			err = c.register(c.ctx, n)
		}
		if err == nil {
			node = n
			break
		}
		if c.ctx.Err() != nil {
			return
		}
		c.log.Warn("not registered", "error", err)
		delay = backoffDelay(delay)
		if !c.sleep(jitter(delay)) {
			return
		}
	}
	c.spawn(c.beats)
	c.spawn(c.followOrders)
	ticker := time.NewTicker(c.cfg.FactsInterval)
	defer ticker.Stop()
	delay = 0
	var retry <-chan time.Time
	told := false
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.reregister:
			told = true
		case <-c.refresh:
		case <-ticker.C:
		case <-retry:
		}
		retry = nil
		n, err := c.describe(c.ctx)
		if err == nil && (told || !sameNode(node, n)) {
			err = c.register(c.ctx, n)
			if err == nil {
				if told {
					poke(c.reopen)
				}
				node, told = n, false
			}
		}
		if err == nil {
			delay = 0
			if !n.Drivers[0].Healthy {
				retry = time.After(jitter(unhealthyAgain))
			}
		} else if c.ctx.Err() == nil {
			c.log.Warn("not registered again", "error", err)
			delay = backoffDelay(delay)
			retry = time.After(jitter(delay))
		}
	}
}

func backoffDelay(d time.Duration) time.Duration {
	return min(max(2*d, 250*time.Millisecond), maxCallDelay)
}

// sleep waits; false when the client ends.
func (c *Client) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// describe looks at the machine, its hypervisor and its pools.
func (c *Client) describe(ctx context.Context) (*api.Node, error) {
	facts, err := c.cfg.Facts(ctx)
	if err != nil {
		return nil, err
	}
	n := c.cfg.Node
	n.Attributes, n.Drivers, n.Pools = slices.Clone(n.Attributes), nil, nil
	facts.Merge(&n)
	if c.cfg.Labels != nil {
		n.Labels = c.cfg.Labels()
	}
	if facts.BootID == "" { // not read this time; it cannot have changed
		n.BootID = c.env().boot
	}
	info, err := c.fingerprint(ctx)
	if info.Name == "" {
		info.Name = c.cfg.Driver.Name()
	}
	if err != nil {
		info.Healthy, info.Error = false, err.Error()
	}
	n.Drivers = []api.DriverInfo{info}
	n.Guard = c.guardClass()
	n.Attributes = n.Attributes.Set("driver."+info.Name+".version", info.Version).Set("driver."+info.Name+".acceleration", info.Acceleration)
	for name, p := range c.cfg.Pools {
		i, err := p.Info(ctx)
		i.Name = name
		if strange := c.recognize(name, i.UUID); strange != nil {
			err = strange
		}
		if err != nil {
			i.Error = err.Error()
		}
		n.Pools = append(n.Pools, i)
	}
	slices.SortFunc(n.Pools, func(a, b api.NodePool) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	// Not what the facts found: which of them may be used is known here only.
	if n.Networks, err = c.cfg.Networks.Bridges(ctx); err != nil && ctx.Err() == nil {
		c.log.Warn("the bridges are not known: none is offered", "error", err)
		n.Networks = nil
	}
	return &n, ctx.Err()
}

// sameNode reports whether nothing changed that the servers plan with. The free
// space of a pool moves all the time: a twentieth of its capacity counts.
func sameNode(a, b *api.Node) bool {
	x, y := *a, *b
	x.Pools, y.Pools = slices.Clone(x.Pools), slices.Clone(y.Pools)
	for i := range min(len(x.Pools), len(y.Pools)) {
		p, q := &x.Pools[i], &y.Pools[i]
		if d := p.Free - q.Free; max(d, -d) < max(p.Capacity/20, 1) {
			p.Free = q.Free
		}
	}
	bx, errx := x.MarshalMsg(nil)
	by, erry := y.MarshalMsg(nil)
	return errx == nil && erry == nil && bytes.Equal(bx, by)
}

// register tells a server who this is and everything that is here.
func (c *Client) register(ctx context.Context, n *api.Node) error {
	select {
	case c.registering <- struct{}{}:
		defer func() { <-c.registering }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	m := c.meta
	c.mu.Unlock()
	req := &api.NodeRegister{
		Node: n, SessionID: c.session, MaxGeneration: m.Generation, MaxIndex: m.Index, Found: c.found(),
	}
	resp := &api.NodeRegistered{}
	term := c.leaseTerm()
	if err := c.servers.call(ctx, callTimeout, "Node.Register", req, resp); err != nil {
		return err
	}
	c.servers.learn(resp.Servers)
	c.registeredIn(term, resp)
	c.joinPeers(resp.Pool)
	now := c.cfg.Boottime()
	c.health.set(func(h *healthState) {
		h.registered, h.known, h.lastAck = true, true, now
		h.heartbeat = heartbeat(resp.Heartbeat)
	})
	c.log.Info("registered", "generation", resp.Generation, "heartbeat", resp.Heartbeat, "found", len(req.Found))
	c.resend()
	return nil
}

func heartbeat(d api.Duration) time.Duration {
	if d <= 0 {
		return defaultHeartbeat
	}
	return d.D()
}

// found lists every VM that the journal or the hypervisor knows.
func (c *Client) found() []api.VMReport {
	var out []api.VMReport
	for _, v := range c.all() {
		if r, ok := v.report(); ok {
			out = append(out, r)
		}
	}
	c.mu.Lock()
	for _, d := range c.orphans {
		out = append(out, c.reports.stamp(orphanReport(d)))
	}
	c.mu.Unlock()
	slices.SortFunc(out, func(a, b api.VMReport) int { return bytes.Compare(a.VMID[:], b.VMID[:]) })
	return out
}

// resend reports everything anew: the servers may have lost it.
func (c *Client) resend() {
	for _, v := range c.all() {
		v.resend()
	}
	c.mu.Lock()
	for _, d := range c.orphans {
		c.reports.vm(orphanReport(d))
	}
	c.mu.Unlock()
	c.resendMoves()
	c.resendImages()
	c.resendVolumes()
}

// beats sends a heartbeat each period, whatever else goes on.
func (c *Client) beats() {
	for first := true; ; first = false {
		c.health.mu.Lock()
		period := c.health.heartbeat
		c.health.mu.Unlock()
		// The first beat goes out at once: it is what makes the node ready.
		if !first && !c.sleep(jitter(period)) {
			return
		}
		if c.leaving.Load() {
			continue
		}
		if err := c.beat(c.ctx); err != nil && c.ctx.Err() == nil {
			c.log.Warn("a beat was not acknowledged", "error", err)
		}
	}
}

// beat sends one heartbeat. Each server gets one period to answer.
func (c *Client) beat(ctx context.Context) error {
	c.health.mu.Lock()
	period := c.health.heartbeat
	c.health.mu.Unlock()
	if period == 0 {
		period = defaultHeartbeat
	}
	stats := c.cfg.Sample()
	if stats != nil {
		stats.NodeID, stats.VMs = c.cfg.Node.ID, c.running()
	}
	sent := c.cfg.Boottime()
	req := &api.NodeBeat{
		NodeID: c.cfg.Node.ID, SessionID: c.session, BootID: c.env().boot, Seq: c.reports.nextSeq(), Stats: stats,
		Leaving: c.leaving.Load(), Peers: c.peers.news(c.cfg.Peers),
	}
	resp := &api.NodeBeaten{}
	if err := c.servers.call(ctx, period, "Node.Beat", req, resp); err != nil {
		return err
	}
	c.peers.told(req.Peers)
	c.servers.learn(resp.Servers)
	doubted := c.doubts()
	c.health.set(func(h *healthState) { h.lastAck, h.heartbeat = sent, heartbeat(resp.Heartbeat) })
	if resp.Register {
		c.health.set(func(h *healthState) { h.known = false })
		poke(c.reregister)
	}
	c.beaten(sent, resp, doubted)
	if c.cfg.OnBeat != nil {
		c.cfg.OnBeat(sent, resp)
	}
	return nil
}

// running counts the guests that are here.
func (c *Client) running() (n int32) {
	for _, v := range c.all() {
		v.mu.Lock()
		if v.m.Alive {
			n++
		}
		v.mu.Unlock()
	}
	return n
}
