package client

import "github.com/novacron/novacron/api"

// record is what the journal keeps of one VM: the newest grant and what was
// done about it. It holds no pointers, so two records can be compared.
type record struct {
	ID        api.ID `msg:"id,omitempty"`
	Namespace string `msg:"ns,omitempty"`
	Name      string `msg:"name,omitempty"`

	// The grant: the newest order that was accepted.
	Epoch      api.Epoch `msg:"epoch,omitempty"`
	Generation uint64    `msg:"gen,omitempty"`
	Index      uint64    `msg:"idx,omitempty"`
	// Revoked: a tombstone took the grant away; only a higher epoch brings it back.
	Revoked bool `msg:"revoked,omitempty"`
	// Tomb is the epoch of a tombstone that is not yet attested, 0 for none.
	Tomb      api.Epoch `msg:"tomb,omitempty"`
	TombForce bool      `msg:"tomb_force,omitempty"`

	Desired     api.Power         `msg:"desired,omitempty"`
	Force       bool              `msg:"force,omitempty"`
	Reboots     uint64            `msg:"reboots,omitempty"`
	Resets      uint64            `msg:"resets,omitempty"`
	Starts      uint64            `msg:"starts,omitempty"`
	SpecVersion uint64            `msg:"spec_version,omitempty"`
	Restart     api.RestartPolicy `msg:"restart,omitempty"`
	StopTimeout api.Duration      `msg:"stop_timeout,omitempty"`
	HA          string            `msg:"ha,omitempty"`

	// What was done. Counters that are journaled here are never executed again.
	DoneReboots uint64 `msg:"done_reboots,omitempty"`
	DoneResets  uint64 `msg:"done_resets,omitempty"`
	// Phase is the intent whose outcome is not yet known: "", start or stop.
	Phase  string   `msg:"phase,omitempty"`
	StopBy api.Time `msg:"stop_by,omitempty"` // when an ACPI shutdown has had its time
	// Alive: a domain was started or adopted, and its end was not yet seen.
	Alive      bool      `msg:"alive,omitempty"`
	RunEpoch   api.Epoch `msg:"run_epoch,omitempty"`
	RunVersion uint64    `msg:"run_version,omitempty"`
	BootID     string    `msg:"boot,omitempty"` // of the host, when last seen alive
	StartTime  api.Time  `msg:"start_time,omitempty"`
	// Unpause: an order wants a paused guest to run on, whatever paused it.
	Unpause bool `msg:"unpause,omitempty"`
	// Ended: it ended by itself, and the policy leaves it so until a new order.
	Ended   bool        `msg:"ended,omitempty"`
	State   api.VMState `msg:"state,omitempty"`
	Reason  string      `msg:"reason,omitempty"`
	Message string      `msg:"message,omitempty"`

	// The restart policy's memory.
	Restarts    uint32   `msg:"restarts,omitempty"`
	WindowStart api.Time `msg:"window,omitempty"`
	WindowCount int32    `msg:"count,omitempty"`
	NextStart   api.Time `msg:"next,omitempty"`

	Resumes uint64 `msg:"resumes,omitempty"`
	// Move is the VM's part in a migration, zero for none.
	Move moveRecord `msg:"move,omitzero"`
	// Told: the servers may believe that the VM is armed at the guard.
	Told bool `msg:"told,omitempty"`
	// LastMove is a migration that is over: what is still said of it is late.
	LastMove api.ID `msg:"last_move,omitempty"`
}

// moveRecord is what the journal keeps of a migration of which this node is an
// end. It stays until the servers know that nothing of it is left here.
type moveRecord struct {
	ID    api.ID             `msg:"id,omitempty"`
	In    bool               `msg:"in,omitempty"` // this node is the destination
	Mode  api.MigrationMode  `msg:"mode,omitempty"`
	Phase api.MigrationPhase `msg:"phase,omitempty"` // newest that was ordered
	Epoch api.Epoch          `msg:"epoch,omitempty"` // of the source's grant
	// Attempt that was ordered, and the one that was begun here: none is begun
	// twice. Over: what was begun has ended.
	Attempt int32 `msg:"attempt,omitempty"`
	Begun   int32 `msg:"begun,omitempty"`
	Over    bool  `msg:"over,omitempty"`
	Kill    bool  `msg:"kill,omitempty"` // the servers order the end of what is here
	// Failed and Message: how the attempt ended, or why there will be none.
	Failed  bool   `msg:"failed,omitempty"`
	Message string `msg:"message,omitempty"`
	// Made: volumes of this migration may have been made here. Seen: a domain came
	// in. Whole: the disks of a cold move are here.
	Made  bool `msg:"made,omitempty"`
	Seen  bool `msg:"seen,omitempty"`
	Whole bool `msg:"whole,omitempty"`
	// Paused: the guest stands still for the sake of the move.
	Paused bool `msg:"paused,omitempty"`
	// Died: source: the guest ended here by itself, and was not sent away.
	Died bool `msg:"died,omitempty"`
	// Attested: it was proved that nothing of the VM runs here.
	Attested bool `msg:"attested,omitempty"`
	Clean    bool `msg:"clean,omitempty"`
	// GiveUp: destination: the servers order the end of what is not whole.
	GiveUp bool `msg:"give_up,omitempty"`
	// Left: source: it was proved that the guest has left and that its process has
	// ended, before the call that sent it came back.
	Left bool `msg:"left,omitempty"`
}

// IsZero reports whether the VM has no part in a migration.
func (r moveRecord) IsZero() bool { return r == moveRecord{} }

// The intents.
const (
	phaseStart = "start"
	phaseStop  = "stop"
	phaseFence = "fence" // the agent ends it in the guard's place
)

// The reasons that this package gives; others are the hypervisor's words.
const (
	reasonOrdered    = "ordered"
	reasonGuest      = "guest-shutdown"
	reasonHostReboot = "host-reboot"
	reasonStart      = "start-failed"
	reasonStartLost  = "start-lost"
	reasonPrepare    = "prepare-failed"
	reasonRestarting = "restarting"
	reasonLimit      = "restart-limit"
	reasonUnknownEnd = "unknown-exit"
	reasonHypervisor = "hypervisor-unknown"
	reasonProcess    = "process-without-domain"
	reasonSwitch     = "switch-over"
	reasonArming     = "arming"
	reasonFenced     = "fenced"
)

// durable is the part of a record that is worth a write: how far an idempotent
// preparation has come is not.
func (r record) durable() record {
	if r.State == api.StatePreparing || r.State == api.StatePending {
		r.State, r.Message = api.StatePending, ""
		if r.Reason == reasonPrepare {
			r.Reason = ""
		}
	}
	return r
}

// meta is what the journal keeps of the node.
type meta struct {
	Format     uint32 `msg:"format,omitempty"`
	NodeID     api.ID `msg:"node,omitempty"`
	Generation uint64 `msg:"gen,omitempty"`
	Index      uint64 `msg:"idx,omitempty"`
	Sessions   uint64 `msg:"sessions,omitempty"`
}

// madeVolume is what the journal keeps of a volume that was here: that it is not
// there later is a loss.
type madeVolume struct {
	Pool   string `msg:"pool,omitempty"`
	Shared bool   `msg:"shared,omitempty"`
}

// poolMark is which pool had a name.
type poolMark struct {
	UUID api.ID `msg:"uuid,omitempty"`
}
