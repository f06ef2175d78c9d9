package libvirt

import (
	"context"
	"errors"
	"fmt"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/novacron/novacron/agent/hypervisor"
	"github.com/novacron/novacron/api"
)

// create makes a transient domain. Libvirtd executes what it was asked for also
// when nobody waits any more: until it has answered, or its connection is gone,
// the domain is due, and not finding it proves nothing.
func (d *Driver) create(ctx context.Context, id api.ID, text string, flags golibvirt.DomainCreateFlags) error {
	ctx, cancel := within(ctx, d.cfg.JobTimeout)
	defer cancel()
	c, err := d.jobs.get(ctx)
	if err != nil {
		return err
	}
	d.mu.Lock()
	_, due := d.due[id]
	if !due {
		d.due[id] = c
	}
	d.mu.Unlock()
	if due {
		return errDue
	}
	_, err = onKept(ctx, c, func() {
		d.mu.Lock()
		delete(d.due, id)
		d.mu.Unlock()
	}, func(l *golibvirt.Libvirt) (golibvirt.Domain, error) {
		return l.DomainCreateXML(text, flags)
	})
	if err == nil || errors.Is(err, hypervisor.ErrUnknown) {
		return err
	}
	switch _, e := d.lookup(ctx, id); {
	case e == nil: // somebody was faster
		return hypervisor.ErrExists
	case errors.Is(e, hypervisor.ErrNotFound):
		return err
	default: // refused, but is it here?
		return fmt.Errorf("%w: %w, after: %w", hypervisor.ErrUnknown, e, err)
	}
}

var errDue = fmt.Errorf("%w: a start is still under way", hypervisor.ErrUnknown)

// isDue reports whether a start of a domain was not answered yet. To be asked
// before one looks for the domain.
func (d *Driver) isDue(id api.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, due := d.due[id]
	return due
}

// cutDue closes the connections on which starts are due.
func (d *Driver) cutDue() {
	d.mu.Lock()
	conns := make([]*conn, 0, len(d.due))
	for _, c := range d.due {
		conns = append(conns, c)
	}
	d.mu.Unlock()
	for _, c := range conns {
		c.close()
	}
}
