package libvirt

import (
	"context"
	"fmt"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/novacron/novacron/agent/hypervisor"
)

// The pause between attempts to connect doubles from one to the other.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// watch keeps the event connection up until the driver is closed.
func (d *Driver) watch() {
	backoff := minBackoff
	for d.ctx.Err() == nil {
		began := time.Now()
		err := d.session(d.ctx)
		if d.ctx.Err() != nil {
			return
		}
		if time.Since(began) > maxBackoff {
			backoff = minBackoff
		}
		d.cfg.Logger.Warn("libvirt events interrupted", "error", err, "retry", backoff)
		// What was learned may be of another libvirtd; connections made before
		// may hang on one that is gone.
		d.mu.Lock()
		d.host = nil
		d.mu.Unlock()
		t := time.NewTimer(backoff)
		select {
		case <-t.C:
		case <-d.ctx.Done():
			t.Stop()
			return
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// session is one life of the event connection: subscribe, say that events may
// have been lost, deliver, and ask for a sign of life now and then.
func (d *Driver) session(ctx context.Context) error {
	// Nothing is unsubscribed while the connection is there: libvirt 9.0 frees what a
	// client has subscribed to without a lock when the client is gone, and ends with a
	// segmentation fault if another thread of it unsubscribes meanwhile.
	subscribed, unsubscribe := context.WithCancel(context.WithoutCancel(ctx))
	defer unsubscribe()
	open, stop := context.WithTimeout(ctx, d.cfg.Timeout)
	defer stop()
	c, err := d.connect(open)
	if err != nil {
		return err
	}
	defer c.close()
	life, err := on(open, c, func(l *golibvirt.Libvirt) (<-chan golibvirt.DomainEventLifecycleMsg, error) {
		return l.LifecycleEvents(subscribed)
	})
	if err != nil {
		return err
	}
	boot, err := on(open, c, func(l *golibvirt.Libvirt) (<-chan any, error) {
		return l.SubscribeEvents(subscribed, golibvirt.DomainEventIDReboot, nil)
	})
	// go-libvirt's goroutines end only when their channels are read to the end.
	defer func() {
		c.bye()
		unsubscribe()
		for range life {
		}
		if boot != nil {
			for range boot {
			}
		}
	}()
	if err != nil {
		return err
	}
	d.bus.Publish(hypervisor.Event{Kind: hypervisor.EventReconnect})
	tick := time.NewTicker(d.cfg.KeepAlive)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.sock.dead:
			return fmt.Errorf("%w: the connection is gone", hypervisor.ErrUnknown)
		case m, ok := <-life:
			if !ok {
				return fmt.Errorf("%w: no more events", hypervisor.ErrUnknown)
			}
			if e, ok := eventOf(m); ok {
				d.ended(e)
				d.bus.Publish(e)
			}
		case m, ok := <-boot:
			if !ok {
				return fmt.Errorf("%w: no more events", hypervisor.ErrUnknown)
			}
			if msg, ok := m.(*golibvirt.DomainEventCallbackRebootMsg); ok {
				if id, ok := idOf(msg.Msg.Dom.Name); ok {
					d.bus.Publish(hypervisor.Event{Kind: hypervisor.EventRebooted, ID: id})
				}
			}
		case <-tick.C:
			if err := d.ping(ctx, c); err != nil {
				return err
			}
		}
	}
}

// ping asks for a sign of life. Events go on to be queued meanwhile.
func (d *Driver) ping(ctx context.Context, c *conn) error {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.KeepAlive)
	defer cancel()
	_, err := on(ctx, c, (*golibvirt.Libvirt).ConnectGetLibVersion)
	return err
}

// ended closes the console of a domain that is gone.
func (d *Driver) ended(e hypervisor.Event) {
	if e.Kind != hypervisor.EventStopped {
		return
	}
	d.mu.Lock()
	c := d.consoles[e.ID]
	d.mu.Unlock()
	if c != nil {
		c.end()
	}
}
