package fsm

import "github.com/novacron/novacron/api"

// NodeDrain begins to empty a node, which takes nothing new from then on; or ends
// that; or records that the node is empty. It answers *api.Node.
type NodeDrain struct {
	ID api.ID `msg:"id,omitempty"`
	// Drain is what is asked for; nil takes it back and lets the scheduler use the
	// node again.
	Drain *api.NodeDrain `msg:"drain,omitempty"`
	// Done says of the drain that began at Start that nothing is left to do.
	Done       bool     `msg:"done,omitempty"`
	Start      api.Time `msg:"start,omitempty"`
	CheckIndex *uint64  `msg:"check_index,omitempty"`
}

// CommandID is 38.
func (c *NodeDrain) CommandID() uint16 { return cmdNodeDrain }

// Validate checks the fields.
func (c *NodeDrain) Validate() error {
	var k checker
	if d := c.Drain; d != nil {
		k.oneOf("mode", d.Mode, api.DrainMode, api.MaintenanceMode)
		k.line("by", d.By)
		if c.Done {
			k.fail("done", "cannot be said of a drain that begins")
		}
	}
	return k.done()
}

func (c *NodeDrain) apply(tx *Txn) (any, error) {
	old := tx.s.Node(c.ID)
	if old == nil {
		return nil, api.Errorf(api.CodeNotFound, "node %s not found", c.ID)
	}
	if err := checkIndex(c.CheckIndex, old.ModifyIndex, "node "+old.Name); err != nil {
		return nil, err
	}
	n := *old
	switch {
	case c.Done:
		if n.Drain == nil || n.Drain.StartTime != c.Start {
			return nil, raced("node %s has another drain by now, or none", n.Name)
		}
		d := *n.Drain
		d.DoneTime = tx.now
		n.Drain = &d
	case c.Drain != nil:
		d := *c.Drain
		d.StartTime, d.DoneTime = tx.now, 0
		n.Drain, n.Eligibility = &d, api.Ineligible
	case n.Drain == nil:
		return nil, api.Errorf(api.CodeState, "node %q is not being drained", n.Name)
	default:
		n.Drain, n.Eligibility = nil, api.Eligible
	}
	n.ModifyIndex = tx.index
	nodeDef.put(tx, &n)
	tx.made(n.ID, "")
	return &n, nil
}
