package api

// MigrationMode is how a VM is moved.
type MigrationMode string

// The modes.
const (
	MigrateLive MigrationMode = "live" // the guest runs while memory and disks are copied
	MigrateWarm MigrationMode = "warm" // the guest stands still meanwhile and keeps its memory
	MigrateCold MigrationMode = "cold" // the VM is stopped; its disks move
)

// MigrationPhase is how far a migration has come. Until committed the source
// owns the VM, from then on the destination, at the next epoch.
type MigrationPhase string

// The phases (docs: migration).
const (
	MigrationQueued    MigrationPhase = "queued"    // waits for a destination and for its turn
	MigrationProposed  MigrationPhase = "proposed"  // both ends prepare; room is reserved at the destination
	MigrationPrepared  MigrationPhase = "prepared"  // both ends are ready
	MigrationCopying   MigrationPhase = "copying"   // the source sends
	MigrationSwitched  MigrationPhase = "switched"  // nothing runs: one end has attested its part of the cutover
	MigrationCommitted MigrationPhase = "committed" // the destination owns the VM
	MigrationDone      MigrationPhase = "done"
	MigrationAborting  MigrationPhase = "aborting" // the destination's copy is to go
	MigrationAborted   MigrationPhase = "aborted"
)

// Active reports whether a migration in this phase still decides who may run.
func (p MigrationPhase) Active() bool { return p != MigrationDone && p != MigrationAborted }

// Open reports whether a migration in this phase may still be ended so that the
// source goes on.
func (p MigrationPhase) Open() bool {
	switch p {
	case MigrationQueued, MigrationProposed, MigrationPrepared, MigrationCopying, MigrationSwitched:
		return true
	}
	return false
}

// EndState is what one end of a migration says of its side.
type EndState string

// The states of an end.
const (
	EndUnheard  EndState = ""         // nothing was heard yet
	EndReady    EndState = "ready"    // destination: prepared, waits for the copy
	EndPresent  EndState = "present"  // source: the guest is here and no copy is under way
	EndCopying  EndState = "copying"  // source: sends; destination: receives
	EndSwitched EndState = "switched" // source: stopped for the switch-over, and cannot tell what became of it
	EndComplete EndState = "complete" // destination: all is here, and stands still
	EndRunning  EndState = "running"  // destination: runs
	EndAbsent   EndState = "absent"   // attested: nothing that could run is here
	EndDied     EndState = "died"     // source: absent, and the guest ended here by itself: it may have run on since it was copied
	EndUnknown  EndState = "unknown"  // cannot tell; never means absent
)

// MigrationEnd is what is known of one end.
type MigrationEnd struct {
	State EndState `json:"state,omitempty" msg:"state,omitempty"`
	// BootID of the machine that said it.
	BootID string `json:"boot_id,omitempty" msg:"boot_id,omitempty"`
	// Attempt that it speaks of.
	Attempt int32 `json:"attempt,omitempty" msg:"attempt,omitempty"`
	// Failed: the attempt has failed; Message says why.
	Failed  bool   `json:"failed,omitempty" msg:"failed,omitempty"`
	Message string `json:"message,omitempty" msg:"message,omitempty"`
	// Clean: nothing of the migration is left on this end.
	Clean bool `json:"clean,omitempty" msg:"clean,omitempty"`
	Time  Time `json:"time,omitempty" msg:"time,omitempty"`
	// Session and Seq of the last report taken; older ones are ignored.
	Session ID     `json:"-" msg:"session,omitempty"`
	Seq     uint64 `json:"-" msg:"seq,omitempty"`
}

// MigrationOptions shape a move.
type MigrationOptions struct {
	// Bandwidth caps memory and disks together, in bytes for each second; 0: none.
	Bandwidth Bytes `json:"bandwidth,omitempty" msg:"bandwidth,omitempty"`
	// MaxDowntime is how long the guest may stand still at the switch-over
	// (default 300ms); the ladder may raise it up to DowntimeLimit (default 10
	// times as much).
	MaxDowntime   Duration `json:"max_downtime,omitempty" msg:"max_downtime,omitempty"`
	DowntimeLimit Duration `json:"downtime_limit,omitempty" msg:"downtime_limit,omitempty"`
	// Timeout ends a move that has not switched over by then (default 30m).
	Timeout Duration `json:"timeout,omitempty" msg:"timeout,omitempty"`
	// AutoConverge lets the hypervisor take CPU time from a guest that writes
	// faster than can be sent.
	AutoConverge bool `json:"auto_converge,omitempty" msg:"auto_converge,omitempty"`
	// Compress: auto (default), zstd or none.
	Compress string `json:"compress,omitempty" msg:"compress,omitempty"`
	// WarmFallback goes on warm when a live move does not converge.
	WarmFallback bool `json:"warm_fallback,omitempty" msg:"warm_fallback,omitempty"`
}

// Migration is one move of one VM from a node to another.
type Migration struct {
	ID        ID             `json:"id" msg:"id,omitempty"`
	VMID      ID             `json:"vm_id" msg:"vm_id,omitempty"`
	Namespace string         `json:"namespace" msg:"namespace,omitempty"`
	VMName    string         `json:"vm_name" msg:"vm_name,omitempty"`
	Mode      MigrationMode  `json:"mode" msg:"mode,omitempty"`
	Phase     MigrationPhase `json:"phase" msg:"phase,omitempty"`
	From      ID             `json:"from" msg:"from,omitempty"`
	FromNode  string         `json:"from_node" msg:"from_node,omitempty"`
	// To is zero until a destination was chosen. Pinned: the caller named it.
	To     ID     `json:"to,omitzero" msg:"to,omitempty"`
	ToNode string `json:"to_node,omitempty" msg:"to_node,omitempty"`
	Pinned bool   `json:"pinned,omitempty" msg:"pinned,omitempty"`
	// Epoch of the source's grant; the destination is granted the next one.
	Epoch   Epoch            `json:"epoch,omitempty" msg:"epoch,omitempty"`
	Options MigrationOptions `json:"options" msg:"options,omitempty"`
	// Cause is who asked for it: operator, or drain.
	Cause    string `json:"cause,omitempty" msg:"cause,omitempty"`
	Priority int32  `json:"priority,omitempty" msg:"priority,omitempty"`
	// Reserved at the destination while the migration is active.
	Reserved Resources `json:"reserved,omitempty" msg:"reserved,omitempty"`
	// Disk is what Volumes take of the destination's pools, in order of their names.
	Disk []PoolAmount `json:"disk,omitempty" msg:"disk,omitempty"`
	// Volumes are the local disks that move, in the order of their ids.
	Volumes []ID `json:"volumes,omitempty" msg:"volumes,omitempty"`
	// Attempts counts how often the copy was begun.
	Attempts int32        `json:"attempts,omitempty" msg:"attempts,omitempty"`
	Source   MigrationEnd `json:"source" msg:"source,omitempty"`
	Dest     MigrationEnd `json:"destination" msg:"dest,omitempty"`
	// KillSource orders the source to end its guest, which stands still and was
	// superseded; KillDest orders the destination to remove what it has.
	KillSource bool `json:"kill_source,omitempty" msg:"kill_source,omitempty"`
	KillDest   bool `json:"kill_destination,omitempty" msg:"kill_dest,omitempty"`
	// GiveUp orders the destination to end what came in, unless all of it is there:
	// the source has ended, and what was on its way has had its time.
	GiveUp bool `json:"give_up,omitempty" msg:"give_up,omitempty"`
	// Restart: the VM was stopped for this move and is started again after it.
	Restart bool `json:"restart,omitempty" msg:"restart,omitempty"`
	// Lost: the guest was on neither end any more; it is started anew.
	Lost bool `json:"lost,omitempty" msg:"lost,omitempty"`
	// Code and Message say why it was aborted or what went wrong.
	Code    Code   `json:"code,omitempty" msg:"code,omitempty"`
	Message string `json:"message,omitempty" msg:"message,omitempty"`
	// Deadline of the whole move, while it may still be aborted.
	Deadline   Time `json:"deadline,omitempty" msg:"deadline,omitempty"`
	CreateTime Time `json:"create_time,omitempty" msg:"create_time,omitempty"`
	PhaseTime  Time `json:"phase_time,omitempty" msg:"phase_time,omitempty"`
	CommitTime Time `json:"commit_time,omitempty" msg:"commit_time,omitempty"`
	EndTime    Time `json:"end_time,omitempty" msg:"end_time,omitempty"`
	// AskTime is when the destination was asked what it has, since its source had ended.
	AskTime Time `json:"ask_time,omitempty" msg:"ask_time,omitempty"`
	// Cutover is what the guest waited for while it stood still.
	Cutover     *MigrationCutover `json:"cutover,omitempty" msg:"cutover,omitempty"`
	CreateIndex Index             `json:"create_index,omitempty" msg:"create_index,omitempty"`
	ModifyIndex Index             `json:"modify_index,omitempty" msg:"modify_index,omitempty"`
	// Secret of the tunnel between the two ends.
	Secret ID `json:"-" msg:"secret,omitempty"`
}

// PoolAmount is an amount of space in a pool.
type PoolAmount struct {
	Pool  string `json:"pool" msg:"pool,omitempty"`
	Bytes Bytes  `json:"bytes" msg:"bytes,omitempty"`
}

// The causes of a migration.
const (
	CauseOperator = "operator"
	CauseDrain    = "drain"
)

// The defaults of MigrationOptions.
const (
	DefaultMaxDowntime      = Duration(300e6)
	DefaultMigrationTimeout = Duration(30 * 60e9)
)

// MigrationProgress is a sample of a move, as its source sees it. It is never
// in Raft.
type MigrationProgress struct {
	ID        ID       `json:"id" msg:"id,omitempty"`
	Time      Time     `json:"time" msg:"time,omitempty"`
	Total     Bytes    `json:"total" msg:"total,omitempty"`
	Done      Bytes    `json:"done" msg:"done,omitempty"`
	Remaining Bytes    `json:"remaining" msg:"remaining,omitempty"`
	Percent   float64  `json:"percent" msg:"percent,omitempty"`
	Rate      Bytes    `json:"rate" msg:"rate,omitempty"`             // in a second
	DirtyRate Bytes    `json:"dirty_rate" msg:"dirty_rate,omitempty"` // of memory, in a second
	Downtime  Duration `json:"downtime" msg:"downtime,omitempty"`     // expected; after the switch-over as it was
	Throttle  int32    `json:"throttle,omitempty" msg:"throttle,omitempty"`
	Passes    int32    `json:"passes,omitempty" msg:"passes,omitempty"`
	Elapsed   Duration `json:"elapsed" msg:"elapsed,omitempty"`
	// Wire is what went through the tunnel, after compression.
	Wire Bytes `json:"wire,omitempty" msg:"wire,omitempty"`
	// Rung of the ladder that the move stands on: "", throttle, downtime, warm.
	Rung string `json:"rung,omitempty" msg:"rung,omitempty"`
}

// MigrationCreate asks for a move.
type MigrationCreate struct {
	Namespace string        `json:"namespace,omitempty" msg:"namespace,omitempty"`
	VM        string        `json:"vm" msg:"vm,omitempty"`
	To        string        `json:"to,omitempty" msg:"to,omitempty"`     // name or id of a node; empty: the scheduler chooses
	Mode      MigrationMode `json:"mode,omitempty" msg:"mode,omitempty"` // default: live, or cold for a stopped VM
	// DryRun forecasts and changes nothing.
	DryRun   bool             `json:"dry_run,omitempty" msg:"dry_run,omitempty"`
	Priority int32            `json:"priority,omitempty" msg:"priority,omitempty"` // default: the VM's
	Options  MigrationOptions `json:"options,omitempty" msg:"options,omitempty"`
}

// MigrationCreated answers MigrationCreate.
type MigrationCreated struct {
	WriteMeta `json:"meta" msg:"meta,omitempty"`
	// Migration as it was queued; of a dry run it has no id.
	Migration   *Migration         `json:"migration" msg:"migration,omitempty"`
	Explanation *Explanation       `json:"explanation,omitempty" msg:"explanation,omitempty"`
	Forecast    *MigrationForecast `json:"forecast,omitempty" msg:"forecast,omitempty"`
}

// MigrationForecast is what a dry run expects.
type MigrationForecast struct {
	Memory    Bytes    `json:"memory" msg:"memory,omitempty"`
	Disk      Bytes    `json:"disk" msg:"disk,omitempty"`
	DirtyRate Bytes    `json:"dirty_rate" msg:"dirty_rate,omitempty"` // measured, in a second
	Link      Bytes    `json:"link" msg:"link,omitempty"`             // measured, in a second
	Duration  Duration `json:"duration" msg:"duration,omitempty"`
	Downtime  Duration `json:"downtime" msg:"downtime,omitempty"`
	Converges bool     `json:"converges" msg:"converges,omitempty"`
	Notes     []string `json:"notes,omitempty" msg:"notes,omitempty"`
	// RoundTrip between the two nodes, measured.
	RoundTrip Duration `json:"round_trip,omitempty" msg:"round_trip,omitempty"`
}

// LinkMeasure asks a node how fast its link to another is.
type LinkMeasure struct {
	To      ID     `json:"to" msg:"to,omitempty"`
	Address string `json:"address" msg:"address,omitempty"` // of its port, host:port
}

// LinkMeasured answers LinkMeasure: what a burst of at most a second and 64 MiB
// between the two agents gave.
type LinkMeasured struct {
	Rate      Bytes    `json:"rate" msg:"rate,omitempty"` // in a second
	RoundTrip Duration `json:"round_trip" msg:"round_trip,omitempty"`
	Sent      Bytes    `json:"sent" msg:"sent,omitempty"`
	// Age of the measurement: one of the last half minute is not repeated.
	Age Duration `json:"age,omitempty" msg:"age,omitempty"`
}

// MigrationCancel ends a migration that is not committed.
type MigrationCancel struct {
	Namespace string `json:"namespace,omitempty" msg:"namespace,omitempty"`
	// Key is the migration's id or a prefix of it, or the name or id of a VM that
	// is being moved.
	Key string `json:"key" msg:"key,omitempty"`
}

// MigrationCanceled answers MigrationCancel. The source goes on; the migration is
// over once the destination has removed its copy.
type MigrationCanceled struct {
	WriteMeta `json:"meta" msg:"meta,omitempty"`
	Migration *Migration `json:"migration" msg:"migration,omitempty"`
}

// MigrationUpdate changes the limits of a migration that is not committed; at
// least one of them is given.
type MigrationUpdate struct {
	Namespace string `json:"namespace,omitempty" msg:"namespace,omitempty"`
	// Key is the migration's id or a prefix of it, or the name or id of a VM that
	// is being moved.
	Key string `json:"key,omitempty" msg:"key,omitempty"`
	// Bandwidth caps memory and disks together from now on, in bytes for each
	// second; 0: no cap. Absent: as it is.
	Bandwidth *Bytes `json:"bandwidth,omitempty" msg:"bandwidth,omitempty"`
	// MaxDowntime is how long the guest may stand still from now on; where it is
	// more than the DowntimeLimit, that rises with it. Absent: as it is.
	MaxDowntime *Duration `json:"max_downtime,omitempty" msg:"max_downtime,omitempty"`
}

// MigrationUpdated answers MigrationUpdate, with the migration as it is then. The
// source follows within a second.
type MigrationUpdated struct {
	WriteMeta `json:"meta" msg:"meta,omitempty"`
	Migration *Migration `json:"migration" msg:"migration,omitempty"`
}

// MigrationResponse is one migration with its newest progress.
type MigrationResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Migration *Migration         `json:"migration" msg:"migration,omitempty"`
	Progress  *MigrationProgress `json:"progress,omitempty" msg:"progress,omitempty"`
	// Why says in words what it waits for.
	Why []string `json:"why,omitempty" msg:"why,omitempty"`
}

// MigrationListRequest lists migrations, newest first.
type MigrationListRequest struct {
	QueryOptions `json:"query" msg:"query,omitempty"`
	VM           string `json:"vm,omitempty" msg:"vm,omitempty"`
	Node         string `json:"node,omitempty" msg:"node,omitempty"`
	Active       bool   `json:"active,omitempty" msg:"active,omitempty"`
}

// MigrationListResponse is a page of migrations.
type MigrationListResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Items     []*Migration `json:"items" msg:"items,omitempty"`
}

// MoveOrder tells a node its part in a migration.
type MoveOrder struct {
	Migration *Migration `json:"migration" msg:"migration,omitempty"`
	// Address of the other end's one port.
	Peer string `json:"peer,omitempty" msg:"peer,omitempty"`
	// VM is what the destination prepares: spec, volumes, networks, images, at the
	// epoch that it would be granted. Nil for the source, and after the end.
	VM *Order `json:"vm,omitempty" msg:"vm,omitempty"`
}

// VolumeFetch asks a node for a volume of a stopped VM that moves.
type VolumeFetch struct {
	VM     ID `json:"vm" msg:"vm,omitempty"`
	Volume ID `json:"volume" msg:"volume,omitempty"`
}

// MoveReport is what one end of a migration says.
type MoveReport struct {
	Migration ID       `json:"migration" msg:"migration,omitempty"`
	State     EndState `json:"state" msg:"state,omitempty"`
	Attempt   int32    `json:"attempt,omitempty" msg:"attempt,omitempty"`
	Failed    bool     `json:"failed,omitempty" msg:"failed,omitempty"`
	Message   string   `json:"message,omitempty" msg:"message,omitempty"`
	Clean     bool     `json:"clean,omitempty" msg:"clean,omitempty"`
	BootID    string   `json:"boot_id,omitempty" msg:"boot_id,omitempty"`
	Time      Time     `json:"time" msg:"time,omitempty"`
	Seq       uint64   `json:"seq" msg:"seq,omitempty"`
	// Cutover is what this end knows of it.
	Cutover *MigrationCutover `json:"cutover,omitempty" msg:"cutover,omitempty"`
}

// IsZero reports whether nothing is set.
func (p MigrationPolicy) IsZero() bool { return p == MigrationPolicy{} }
