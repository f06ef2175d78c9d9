package fsm

import (
	"fmt"

	"github.com/novacron/novacron/api"
)

// MigrationUpdate changes the limits of a migration while its guest is still at
// the source. It answers *api.Migration.
type MigrationUpdate struct {
	ID          api.ID        `msg:"id,omitempty"`
	Bandwidth   *api.Bytes    `msg:"bandwidth,omitempty"`    // nil: as it is; 0: no cap
	MaxDowntime *api.Duration `msg:"max_downtime,omitempty"` // nil: as it is
}

// CommandID is 41.
func (c *MigrationUpdate) CommandID() uint16 { return cmdMigrationUpdate }

// Validate checks the fields.
func (c *MigrationUpdate) Validate() error {
	var k checker
	k.id("id", c.ID)
	if c.Bandwidth == nil && c.MaxDowntime == nil {
		k.fail("bandwidth", "neither this nor max_downtime is given")
	}
	if c.Bandwidth != nil {
		k.size("bandwidth", *c.Bandwidth, 0)
	}
	if c.MaxDowntime != nil && *c.MaxDowntime <= 0 {
		k.fail("max_downtime", "is not positive")
	}
	return k.done()
}

func (c *MigrationUpdate) apply(tx *Txn) (any, error) {
	if err := tx.settled(); err != nil {
		return nil, err
	}
	m := tx.s.Migration(c.ID)
	if m == nil {
		return nil, api.Errorf(api.CodeNotFound, "migration %s not found", c.ID)
	}
	if err := c.limitable(m); err != nil {
		return nil, err
	}
	next := *m
	o := &next.Options
	if c.Bandwidth != nil {
		o.Bandwidth = *c.Bandwidth
	}
	if c.MaxDowntime != nil {
		o.MaxDowntime = *c.MaxDowntime
		o.DowntimeLimit = max(o.DowntimeLimit, o.MaxDowntime)
	}
	tx.made(m.ID, "")
	if *o == m.Options {
		return m, nil
	}
	return tx.putMigration(m, &next), nil
}

// limitable checks that the limits can still change anything about a move.
func (c *MigrationUpdate) limitable(m *api.Migration) error {
	cold := m.Mode == api.MigrateCold
	switch {
	case m.Phase == api.MigrationAborting || m.Phase == api.MigrationAborted:
		return api.Errorf(api.CodeState, "migration %s is %s: nothing is sent any more", m.ID.Short(), m.Phase).
			WithHint("begin a new one: novacron vm migrate %s", m.VMName)
	case !m.Phase.Open():
		return api.Errorf(api.CodeState, "migration %s is %s: node %s owns the VM", m.ID.Short(), m.Phase, m.ToNode).
			WithHint("limits are changed while a move is under way: novacron migration list -active")
	case cold && c.MaxDowntime != nil:
		return api.Errorf(api.CodeState, "migration %s is cold: the guest does not run, so that it has no downtime", m.ID.Short()).
			WithHint("its bandwidth can be changed")
	case !cold && (m.Source.State == api.EndAbsent || m.KillSource):
		return api.Errorf(api.CodeState, "the guest has left %s already: migration %s is about to be over", m.FromNode, m.ID.Short()).
			WithHint("watch it: novacron migration watch %s", m.ID.Short())
	}
	return nil
}

// limitsText says in words what a move may use.
func limitsText(o *api.MigrationOptions) string {
	if o.Bandwidth == 0 {
		return fmt.Sprintf("it may send as fast as it can, and stand still for %s", o.MaxDowntime)
	}
	return fmt.Sprintf("it may send %s in a second, and stand still for %s", o.Bandwidth, o.MaxDowntime)
}
