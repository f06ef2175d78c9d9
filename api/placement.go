package api

// VMState is what a node observes of a VM.
type VMState string

// The observed states.
const (
	StatePending   VMState = "pending"   // placed, the node has not begun
	StatePreparing VMState = "preparing" // images, volumes, seed
	StateStarting  VMState = "starting"
	StateRunning   VMState = "running"
	StatePaused    VMState = "paused"
	StateStopping  VMState = "stopping"
	StateStopped   VMState = "stopped" // ended as ordered, or shut down by the guest
	StateFailed    VMState = "failed"  // could not be started or crashed; Reason says
	StateUnknown   VMState = "unknown" // the node cannot tell; never means absent
	StateAbsent    VMState = "absent"  // attested: no domain, no process
)

// Holds reports whether a VM in this state may own CPU and memory of its node.
func (s VMState) Holds() bool { return s != StateStopped && s != StateAbsent && s != StateFailed }

// Resources is an amount of the dimensions that a node has.
type Resources struct {
	CPU    MilliCPU `json:"cpu" msg:"cpu,omitempty"`
	Memory Bytes    `json:"memory" msg:"memory,omitempty"`
}

// Placement says that a VM is owned by a node at an epoch. There is at most one
// for each VM; superseded ones live on as Tombstones.
type Placement struct {
	VMID      ID     `json:"vm_id" msg:"vm_id,omitempty"`
	Namespace string `json:"namespace" msg:"namespace,omitempty"`
	VMName    string `json:"vm_name" msg:"vm_name,omitempty"`
	NodeID    ID     `json:"node_id" msg:"node_id,omitempty"`
	Epoch     Epoch  `json:"epoch" msg:"epoch,omitempty"`
	// Desired is what the node is ordered to do.
	Desired Power `json:"desired" msg:"desired,omitempty"`
	// Reserved is what the placement takes of the node's CPU and memory; zero
	// once the VM is stopped.
	Reserved Resources `json:"reserved" msg:"reserved,omitempty"`
	// Observed, from the node's reports.
	State   VMState `json:"state" msg:"state,omitempty"`
	Reason  string  `json:"reason,omitempty" msg:"reason,omitempty"`
	Message string  `json:"message,omitempty" msg:"message,omitempty"`
	// RunningVersion is the spec version of the domain that runs.
	RunningVersion uint64   `json:"running_version,omitempty" msg:"running_version,omitempty"`
	DoneReboots    uint64   `json:"done_reboots,omitempty" msg:"done_reboots,omitempty"`
	DoneResets     uint64   `json:"done_resets,omitempty" msg:"done_resets,omitempty"`
	Restarts       uint32   `json:"restarts,omitempty" msg:"restarts,omitempty"`
	Addresses      []string `json:"addresses,omitempty" msg:"addresses,omitempty"`
	StartTime      Time     `json:"start_time,omitempty" msg:"start_time,omitempty"`
	StateTime      Time     `json:"state_time,omitempty" msg:"state_time,omitempty"`
	CreateTime     Time     `json:"create_time,omitempty" msg:"create_time,omitempty"`
	CreateIndex    Index    `json:"create_index,omitempty" msg:"create_index,omitempty"`
	ModifyIndex    Index    `json:"modify_index,omitempty" msg:"modify_index,omitempty"`
	// Session and Seq of the last report taken; older ones are ignored.
	Session ID     `json:"-" msg:"session,omitempty"`
	Seq     uint64 `json:"-" msg:"seq,omitempty"`
	// Halted: the node has said that the VM has stopped, and knew the order to stop
	// it, which is of StopIndex. A word from before that order may be overtaken: the
	// node may have been ordered to run the VM in between.
	Halted    bool  `json:"-" msg:"halted,omitempty"`
	StopIndex Index `json:"-" msg:"stop_index,omitempty"`
	// Armed: the node's own word that the VM is armed at its guard at this epoch.
	Armed bool `json:"armed,omitempty" msg:"armed,omitempty"`
	// Fenced is the evidence that the VM runs no more where it was, at this epoch;
	// empty for none.
	Fenced EvidenceKind `json:"fenced,omitempty" msg:"fenced,omitempty"`
	// CPUModel is the CPU that the guest was started with, or is started with next:
	// "host" or a model by name. It goes along when a guest is moved. Empty: the
	// node has chosen.
	CPUModel string `json:"cpu_model,omitempty" msg:"cpu_model,omitempty"`
}

// Tombstone orders a node to stop a VM that it holds at Epoch or lower, and
// stands until the node attests that the VM is absent there.
type Tombstone struct {
	NodeID      ID     `json:"node_id" msg:"node_id,omitempty"`
	VMID        ID     `json:"vm_id" msg:"vm_id,omitempty"`
	Epoch       Epoch  `json:"epoch" msg:"epoch,omitempty"`
	Reason      string `json:"reason" msg:"reason,omitempty"` // deleted, moved, unplaced
	Force       bool   `json:"force,omitempty" msg:"force,omitempty"`
	CreateTime  Time   `json:"create_time,omitempty" msg:"create_time,omitempty"`
	CreateIndex Index  `json:"create_index,omitempty" msg:"create_index,omitempty"`
	// Namespace and VMName for messages.
	Namespace string `json:"namespace,omitempty" msg:"namespace,omitempty"`
	VMName    string `json:"vm_name,omitempty" msg:"vm_name,omitempty"`
}

// PlacementResponse is one placement.
type PlacementResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Placement *Placement `json:"placement" msg:"placement,omitempty"`
}

// PlacementListRequest lists placements, all or of one node.
type PlacementListRequest struct {
	QueryOptions `json:"query" msg:"query,omitempty"`
	NodeID       ID `json:"node_id,omitzero" msg:"node_id,omitempty"`
}

// PlacementListResponse is a page of placements.
type PlacementListResponse struct {
	QueryMeta  `json:"meta" msg:"meta,omitempty"`
	Items      []*Placement `json:"items" msg:"items,omitempty"`
	Tombstones []*Tombstone `json:"tombstones,omitempty" msg:"tombstones,omitempty"`
}
