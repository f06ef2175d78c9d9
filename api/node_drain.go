package api

import "time"

// The modes of a NodeDrain. Both move what runs to other nodes, each VM by its
// own policy. A drain leaves nothing on the node; in maintenance, VMs that are
// stopped stay with their disks.
const (
	DrainMode       = "drain"
	MaintenanceMode = "maintenance"
)

// NodeDrain is the wish that a node be empty. The node takes nothing new until
// it is eligible again.
type NodeDrain struct {
	Mode string `json:"mode" msg:"mode,omitempty"`
	// Deadline: no move is begun after it. With Force the VMs that are left are
	// stopped then.
	Deadline  Time `json:"deadline,omitempty" msg:"deadline,omitempty"`
	Force     bool `json:"force,omitempty" msg:"force,omitempty"`
	StartTime Time `json:"start_time,omitempty" msg:"start_time,omitempty"`
	// DoneTime: the node has said itself that nothing is left.
	DoneTime Time   `json:"done_time,omitempty" msg:"done_time,omitempty"`
	By       string `json:"by,omitempty" msg:"by,omitempty"` // who asked for it
}

// Active reports whether a drain is under way.
func (d *NodeDrain) Active() bool { return d != nil && d.DoneTime == 0 }

// The states of a DrainItem.
const (
	DrainWaits    = "waits"    // nothing can be done about it now; Why says
	DrainQueued   = "queued"   // its move waits for a node and for its turn
	DrainMoving   = "moving"   // its move is under way
	DrainStopping = "stopping" // it is being stopped
	DrainMoved    = "moved"    // it is on another node
	DrainStays    = "stays"    // it is stopped and stays, as it is meant to
	DrainFailed   = "failed"   // it is not tried again; a person has to look
)

// DrainItem is what a drain does about one VM.
type DrainItem struct {
	VMID      ID     `json:"vm_id" msg:"vm_id,omitempty"`
	Namespace string `json:"namespace,omitempty" msg:"namespace,omitempty"`
	VM        string `json:"vm,omitempty" msg:"vm,omitempty"`
	State     string `json:"state" msg:"state,omitempty"`
	// Migration is its newest move; To is where it goes or went.
	Migration ID     `json:"migration,omitzero" msg:"migration,omitempty"`
	To        string `json:"to,omitempty" msg:"to,omitempty"`
	Why       string `json:"why,omitempty" msg:"why,omitempty"`
}

// Left reports whether the VM keeps the drain from being done.
func (i *DrainItem) Left() bool { return i.State != DrainMoved && i.State != DrainStays }

// NodeDrainRequest begins to empty a node, or cancels that.
type NodeDrainRequest struct {
	Key string `json:"key" msg:"key,omitempty"`
	// Mode is drain (default) or maintenance.
	Mode string `json:"mode,omitempty" msg:"mode,omitempty"`
	// Deadline from now; zero: none.
	Deadline Duration `json:"deadline,omitempty" msg:"deadline,omitempty"`
	// Force stops what is left at the deadline, and the guest does not shut down.
	Force bool `json:"force,omitempty" msg:"force,omitempty"`
	// Cancel ends a drain: the scheduler may use the node again. Moves in the queue
	// are ended, those under way go on.
	Cancel     bool    `json:"cancel,omitempty" msg:"cancel,omitempty"`
	CheckIndex *uint64 `json:"check_index,omitempty" msg:"check_index,omitempty"`
}

// Canonicalize fills in the mode.
func (r *NodeDrainRequest) Canonicalize() {
	if !r.Cancel {
		or(&r.Mode, DrainMode)
	}
}

// Validate checks the request.
func (r *NodeDrainRequest) Validate() error {
	var c checks
	c.key("key", r.Key)
	if r.Cancel {
		if r.Mode != "" || r.Deadline != 0 || r.Force {
			c.add("cancel", "stands alone: mode, deadline and force mean nothing then")
		}
		return c.err("the drain")
	}
	c.oneOf("mode", r.Mode, DrainMode, MaintenanceMode)
	if r.Deadline != 0 {
		c.lasts("deadline", r.Deadline, Duration(time.Second), Duration(30*24*time.Hour))
	}
	if r.Force && r.Deadline == 0 {
		c.add("force", "means nothing without a deadline: it stops what is left then")
	}
	return c.err("the drain")
}
