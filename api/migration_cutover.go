package api

import (
	"cmp"
	"time"
)

// MigrationCutover is when a guest stood still for its move, and what it waited
// for. Each end tells its own times, by its own clock; a time that is not known is
// zero, and so is what an agent forgot because it was restarted.
type MigrationCutover struct {
	// Stopped is when the guest stood still at the source, Gone when nothing of it
	// was left there.
	Stopped Time `json:"stopped,omitempty" msg:"stopped,omitempty"`
	Gone    Time `json:"gone,omitempty" msg:"gone,omitempty"`
	// Complete is when all of it was at the destination, Told when that node read
	// that it owns the VM, Resuming when it told the hypervisor to let the guest go on,
	// Resumed when that had done so.
	Complete Time `json:"complete,omitempty" msg:"complete,omitempty"`
	Told     Time `json:"told,omitempty" msg:"told,omitempty"`
	Resuming Time `json:"resuming,omitempty" msg:"resuming,omitempty"`
	Resumed  Time `json:"resumed,omitempty" msg:"resumed,omitempty"`
}

// Merge returns what both know, where both do the other one's word; either may be
// nil. Neither is changed.
func (c *MigrationCutover) Merge(o *MigrationCutover) *MigrationCutover {
	switch {
	case o == nil:
		return c
	case c == nil:
		return o
	}
	return &MigrationCutover{
		Stopped: cmp.Or(o.Stopped, c.Stopped), Gone: cmp.Or(o.Gone, c.Gone), Complete: cmp.Or(o.Complete, c.Complete),
		Told: cmp.Or(o.Told, c.Told), Resuming: cmp.Or(o.Resuming, c.Resuming), Resumed: cmp.Or(o.Resumed, c.Resumed),
	}
}

// CutoverPart is one of the times that a guest stood still for.
type CutoverPart struct {
	What string        `json:"what"`
	Took time.Duration `json:"took"`
}

// Downtime is how long the guest of a migration stood still, in parts that follow
// each other; false when that is not known. It compares clocks of up to three
// machines: where they differ by more than a part took, that part is negative.
func (m *Migration) Downtime() (all time.Duration, parts []CutoverPart, ok bool) {
	c := m.Cutover
	if c == nil || c.Stopped == 0 || c.Resumed == 0 {
		return 0, nil, false
	}
	at := c.Stopped
	for _, p := range []struct {
		what string
		at   Time
	}{{"gone", c.Gone}, {"decided", m.CommitTime}, {"told", c.Told}, {"resuming", c.Resuming}, {"resumed", c.Resumed}} {
		if p.at != 0 {
			parts = append(parts, CutoverPart{p.what, p.at.Time().Sub(at.Time())})
			at = p.at
		}
	}
	return c.Resumed.Time().Sub(c.Stopped.Time()), parts, true
}
