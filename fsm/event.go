package fsm

import (
	"fmt"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/fsm/event"
)

// EventsOf derives the events of changes, in their order. The state gives names
// for the messages: that of the commit, or a later one. Secrets, hashes and
// what stays on the servers are in no event. The nouns of the changes are
// constants, so that a payload may be encoded later, or never.
func EventsOf(changes []Change, s *State) []*event.Event {
	var out []*event.Event
	for i := range changes {
		if e := eventOf(&changes[i], s); e != nil {
			e.Index, e.Time = changes[i].Index, changes[i].Time
			out = append(out, e)
		}
	}
	return out
}

// EventSnapshot yields one event of type "exists" for each noun of a state, and
// returns its index. Orders to stop, orphans, denials and what the state knows of
// itself are no nouns: of them only changes are events.
func EventSnapshot(s *State, yield func(*api.Event) bool) api.Index {
	for _, d := range defs {
		switch d.tableName() {
		case TableTombstone, TableOrphan, TableDenied, TableMeta:
			continue
		}
		stop := errStop
		err := d.each(s, func(m api.Message) error {
			c := Change{Table: d.tableName(), New: m}
			e := eventOf(&c, s)
			if e == nil {
				return nil
			}
			e.Index, e.Time, e.Type, e.Message = s.index, s.Time(), "exists", ""
			if !yield(e.Whole()) {
				return stop
			}
			return nil
		})
		if err != nil {
			break
		}
	}
	return s.index
}

var errStop = fmt.Errorf("stop")

func eventOf(c *Change, s *State) *event.Event {
	switch c.Table {
	case TableVM:
		return both(c, vmEvent, s)
	case TablePlacement:
		return both(c, placementEvent, s)
	case TableNode:
		return both(c, nodeEvent, s)
	case TableVolume:
		return both(c, volumeEvent, s)
	case TablePool:
		return both(c, func(e *api.Event, old, v *api.Pool, _ *State) any {
			plain(e, api.TopicPool, "", v.Name, "pool "+v.Name)
			return v
		}, s)
	case TableImage:
		return both(c, imageEvent, s)
	case TableNetwork:
		return both(c, func(e *api.Event, old, v *api.Network, _ *State) any {
			plain(e, api.TopicNetwork, "", v.Name, "network "+v.Name)
			return v
		}, s)
	case TableNamespace:
		return both(c, func(e *api.Event, old, v *api.Namespace, _ *State) any {
			plain(e, api.TopicNamespace, "", v.Name, "namespace "+v.Name)
			return v
		}, s)
	case TableToken:
		return both(c, func(e *api.Event, old, v *TokenRecord, _ *State) any {
			plain(e, api.TopicToken, "", v.Token.Accessor.String(), fmt.Sprintf("%s token %s", v.Token.Type, v.Token.Accessor.Short()))
			return &v.Token // never the hash
		}, s)
	case TableMigration:
		return both(c, migrationEvent, s)
	case TableTombstone:
		return both(c, tombstoneEvent, s)
	case TableOrphan:
		return both(c, orphanEvent, s)
	case TableMeta:
		return both(c, metaEvent, s)
	case TableDenied:
		return both(c, func(e *api.Event, old, v *DeniedRecord, _ *State) any {
			plain(e, api.TopicOperator, "", v.NodeID.String(), "denial of node "+v.NodeID.String())
			e.Related = []string{v.NodeID.String()}
			return nil
		}, s)
	case TableAlarm:
		a := c.New.(*Alarm)
		return event.Lazy(&api.Event{Topic: api.TopicOperator, Type: "alarm", Key: a.Command,
			Message: a.Command + " failed inside the state machine; nothing was changed"}, a)
	}
	return nil
}

// both fills an event from a change: create, update and delete alike.
func both[T any](c *Change, fill func(e *api.Event, old, v *T, s *State) any, s *State) *event.Event {
	old, _ := c.Old.(*T)
	v, _ := c.New.(*T)
	e := &api.Event{}
	switch {
	case old == nil:
		e.Type = "created"
	case v == nil:
		e.Type, v = "deleted", old
	default:
		e.Type = "updated"
	}
	body := fill(e, old, v, s)
	if e.Type == "" {
		return nil
	}
	return event.Lazy(e, body)
}

func plain(e *api.Event, topic, ns, key, what string) {
	e.Topic, e.Namespace, e.Key = topic, ns, key
	e.Message = what + " " + e.Type
}

func vmEvent(e *api.Event, old, v *api.VM, _ *State) any {
	plain(e, api.TopicVM, v.Namespace, v.ID.String(), "VM "+v.Name)
	e.Related = []string{v.Name}
	if e.Type != "updated" {
		return v
	}
	say := func(kind, format string, args ...any) {
		e.Type, e.Message = kind, "VM "+v.Name+" "+fmt.Sprintf(format, args...)
	}
	switch {
	case v.Deleting != old.Deleting:
		say("deleting", "is being deleted")
	case v.SpecVersion != old.SpecVersion:
		say("updated", "has a new spec, version %d", v.SpecVersion)
	case v.Reboots != old.Reboots:
		say("reboot", "is to be rebooted")
	case v.Resumes != old.Resumes:
		say("resume", "is to be resumed")
	case v.Resets != old.Resets:
		say("reset", "is to be reset")
	case v.Power != old.Power:
		say("power", "is wanted %s", v.Power)
	case v.Starts != old.Starts:
		say("start", "is to be started")
	case v.ModifyIndex == old.ModifyIndex:
		e.Type = "" // only its epoch rose: the placement tells
	}
	return v
}

func nodeName(s *State, id api.ID) string {
	if s != nil {
		if n := s.Node(id); n != nil {
			return n.Name
		}
	}
	return id.Short()
}

func placementEvent(e *api.Event, old, v *api.Placement, s *State) any {
	node := nodeName(s, v.NodeID)
	e.Topic, e.Namespace, e.Key = api.TopicPlacement, v.Namespace, v.VMID.String()
	e.Related = []string{v.VMID.String(), v.NodeID.String(), v.VMName}
	switch {
	case e.Type == "created":
		e.Type, e.Message = "placed", fmt.Sprintf("VM %s placed on %s at epoch %d", v.VMName, node, v.Epoch)
	case e.Type == "deleted":
		e.Type, e.Message = "unplaced", fmt.Sprintf("VM %s taken from %s", v.VMName, node)
	case old.NodeID != v.NodeID || old.Epoch != v.Epoch:
		e.Type, e.Message = "placed", fmt.Sprintf("VM %s is owned by %s at epoch %d", v.VMName, node, v.Epoch)
	case old.State != v.State:
		e.Type, e.Message = stateVerb(v.State), fmt.Sprintf("VM %s %s on %s", v.VMName, v.State, node)
		if v.Reason != "" {
			e.Message += ": " + v.Reason
		}
		if v.Message != "" && v.State == api.StateFailed {
			e.Message += " (" + v.Message + ")"
		}
	case old.Restarts != v.Restarts:
		e.Type, e.Message = "restarted", fmt.Sprintf("VM %s restarted in place on %s", v.VMName, node)
	case old.DoneReboots != v.DoneReboots || old.DoneResets != v.DoneResets:
		e.Type, e.Message = "rebooted", fmt.Sprintf("VM %s rebooted on %s", v.VMName, node)
	case old.Desired != v.Desired:
		e.Type, e.Message = "ordered", fmt.Sprintf("%s ordered to have VM %s %s", node, v.VMName, v.Desired)
	default:
		e.Message = fmt.Sprintf("VM %s on %s: report", v.VMName, node)
	}
	return v
}

// stateVerb is the type of the event of an observed state.
func stateVerb(s api.VMState) string {
	switch s {
	case api.StateRunning:
		return "started"
	case api.StateAbsent:
		return "gone"
	}
	return string(s) // pending, preparing, starting, paused, stopping, stopped, failed, unknown
}

func nodeEvent(e *api.Event, old, v *api.Node, _ *State) any {
	what := "node " + v.Name
	if e.Type == "updated" {
		switch {
		case old.Status != v.Status:
			e.Type = string(v.Status)
			what += " is"
		case !old.Drain.Active() && v.Drain.Active():
			e.Type = "draining"
			what += " is"
		case old.Drain.Active() && v.Drain != nil && !v.Drain.Active():
			e.Type = "drained"
			what += " is"
		case old.Eligibility != v.Eligibility:
			e.Type = string(v.Eligibility)
			what += " is"
		case old.Unreachable != v.Unreachable && v.Unreachable != "":
			e.Type = "unreachable"
			what += " is"
		}
	}
	plain(e, api.TopicNode, "", v.ID.String(), what)
	if v.StatusNote != "" && e.Type == string(v.Status) {
		e.Message += ": " + v.StatusNote
	}
	e.Related = []string{v.Name}
	return v
}

func volumeEvent(e *api.Event, old, v *api.Volume, _ *State) any {
	what := "volume " + v.Name
	if e.Type == "updated" && old.State != v.State {
		e.Type = string(v.State)
		what += " is"
	}
	plain(e, api.TopicVolume, v.Namespace, v.ID.String(), what)
	if v.Error != "" {
		e.Message += ": " + v.Error
	}
	e.Related = []string{v.Name}
	for _, id := range []api.ID{v.VMID, v.NodeID} {
		if !id.IsZero() {
			e.Related = append(e.Related, id.String())
		}
	}
	return v
}

func imageEvent(e *api.Event, old, v *api.Image, _ *State) any {
	what := "image " + v.Name
	if e.Type == "updated" && old.State != v.State {
		e.Type = string(v.State)
		what += " is"
	}
	plain(e, api.TopicImage, v.Namespace, v.ID.String(), what)
	e.Related = []string{v.Name}
	return v
}

func tombstoneEvent(e *api.Event, _, v *api.Tombstone, s *State) any {
	node := nodeName(s, v.NodeID)
	e.Topic, e.Namespace, e.Key = api.TopicPlacement, v.Namespace, v.VMID.String()
	e.Related = []string{v.VMID.String(), v.NodeID.String(), v.VMName}
	if e.Type == "deleted" {
		e.Type, e.Message = "absent", fmt.Sprintf("%s confirmed that VM %s is absent there", node, v.VMName)
	} else {
		e.Type, e.Message = "stop", fmt.Sprintf("%s ordered to stop VM %s at epoch %d or lower (%s)", node, v.VMName, v.Epoch, v.Reason)
	}
	return v
}

func orphanEvent(e *api.Event, _, v *OrphanRecord, s *State) any {
	node := nodeName(s, v.NodeID)
	e.Topic, e.Key = api.TopicNode, v.NodeID.String()
	e.Related = []string{v.VMID.String()}
	if e.Type == "deleted" {
		e.Type, e.Message = "orphan-gone", fmt.Sprintf("orphan %s is gone from %s", v.VMID.Short(), node)
		return nil
	}
	e.Type, e.Message = "orphan", fmt.Sprintf("%s holds domain %s, which is left alone: %s", node, v.VMID.Short(), v.Reason)
	return nil
}

func metaEvent(e *api.Event, old, v *MetaRecord, _ *State) any {
	e.Topic, e.Key = api.TopicOperator, "region"
	if old == nil {
		e.Message = "region " + v.Region
		return nil
	}
	switch {
	case (old.Recovery == nil) != (v.Recovery == nil):
		e.Type, e.Message = "recovery", "recovery has begun: waiting for the nodes to report"
		if v.Recovery == nil {
			e.Message = "recovery has ended"
		}
	case old.Schema != v.Schema:
		e.Type, e.Message = "schema", fmt.Sprintf("schema %d is active", v.Schema)
	case old.Finalized != v.Finalized:
		e.Type, e.Message = "schema", fmt.Sprintf("schema %d is finalized", v.Finalized)
	case old.ClusterID != v.ClusterID:
		e.Type, e.Message = "initialised", "region "+v.Region+" initialised"
	case old.Scheduler != v.Scheduler:
		e.Type, e.Message = "scheduler", "the scheduler's configuration was changed"
		return &v.Scheduler
	case old.Bootstrapped != v.Bootstrapped:
		e.Type, e.Message = "bootstrapped", "the first management token was made"
	case old.Generation != v.Generation:
		e.Type, e.Message = "generation", fmt.Sprintf("generation %d", v.Generation)
	default:
		e.Type, e.Message = "recovery", "a node has reported"
	}
	return nil
}

func migrationEvent(e *api.Event, old, v *api.Migration, _ *State) any {
	to := orUnchosen(v.ToNode)
	e.Topic, e.Namespace, e.Key = api.TopicMigration, v.Namespace, v.ID.String()
	e.Related = []string{v.VMID.String(), v.VMName, v.From.String()}
	if !v.To.IsZero() {
		e.Related = append(e.Related, v.To.String())
	}
	what := fmt.Sprintf("%s migration of VM %s from %s to %s", v.Mode, v.VMName, v.FromNode, to)
	switch {
	case e.Type == "deleted":
		e.Message = what + " forgotten"
	case old != nil && old.ModifyIndex == v.ModifyIndex:
		e.Type = ""
	case old == nil || old.Phase != v.Phase:
		e.Type, e.Message = string(v.Phase), what+" is "+string(v.Phase)
		if v.Message != "" {
			e.Message += ": " + v.Message
		}
	case old.Options != v.Options:
		e.Message = what + ": " + limitsText(&v.Options)
	case v.Phase == api.MigrationCommitted && v.Dest.Message != "" && v.Dest.Message != old.Dest.Message:
		e.Type, e.Message = "unresumed", fmt.Sprintf("%s: the guest does not go on on %s yet: %s", what, to, v.Dest.Message)
	default:
		e.Message = fmt.Sprintf("%s: the source is %s, the destination %s", what, v.Source.State, v.Dest.State)
	}
	return v
}

// MigrationEvent is what an event says of a migration, without type and message.
func MigrationEvent(m *api.Migration) *api.Event {
	e := &api.Event{Type: "updated"}
	migrationEvent(e, nil, m, nil)
	e.Type, e.Message = "", ""
	return e
}

func orUnchosen(node string) string {
	if node == "" {
		return "a node to be chosen"
	}
	return node
}
