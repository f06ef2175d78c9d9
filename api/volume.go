package api

// VolumeState is the state of a volume.
type VolumeState string

// The states of a volume.
const (
	VolumePending  VolumeState = "pending"  // recorded, not yet made
	VolumeReady    VolumeState = "ready"    // exists
	VolumeFailed   VolumeState = "failed"   // could not be made; Error says
	VolumeDeleting VolumeState = "deleting" // the node is ordered to remove it
	VolumeAbsent   VolumeState = "absent"   // only in reports: it is gone
)

// Volume is a disk and where it lives. Its format is recorded, never probed.
type Volume struct {
	ID        ID     `json:"id" msg:"id,omitempty"`
	Namespace string `json:"namespace" msg:"namespace,omitempty"`
	Name      string `json:"name" msg:"name,omitempty"`
	Pool      string `json:"pool" msg:"pool,omitempty"`
	// NodeID is the node of a volume in a local pool; zero in a shared one, and
	// for a standalone volume that the scheduler has not placed yet.
	NodeID ID          `json:"node_id,omitzero" msg:"node_id,omitempty"`
	Size   Bytes       `json:"size" msg:"size,omitempty"`
	Used   Bytes       `json:"used,omitempty" msg:"used,omitempty"`
	Format string      `json:"format" msg:"format,omitempty"`              // qcow2 or raw
	Image  ID          `json:"image_id,omitzero" msg:"image_id,omitempty"` // cloned from
	State  VolumeState `json:"state" msg:"state,omitempty"`
	Error  string      `json:"error,omitempty" msg:"error,omitempty"`
	// VMID is the VM it is attached to; Owned volumes go with their VM.
	VMID        ID    `json:"vm_id,omitzero" msg:"vm_id,omitempty"`
	Owned       bool  `json:"owned,omitempty" msg:"owned,omitempty"`
	Labels      Pairs `json:"labels,omitempty" msg:"labels,omitempty"`
	CreateTime  Time  `json:"create_time,omitempty" msg:"create_time,omitempty"`
	CreateIndex Index `json:"create_index,omitempty" msg:"create_index,omitempty"`
	ModifyIndex Index `json:"modify_index,omitempty" msg:"modify_index,omitempty"`
}

// VolumeCreate makes a standalone volume.
type VolumeCreate struct {
	Namespace string `json:"namespace,omitempty" msg:"namespace,omitempty"`
	Name      string `json:"name" msg:"name,omitempty"`
	Pool      string `json:"pool,omitempty" msg:"pool,omitempty"`
	Node      string `json:"node,omitempty" msg:"node,omitempty"` // default: the scheduler chooses
	Size      Bytes  `json:"size,omitempty" msg:"size,omitempty"`
	Format    string `json:"format,omitempty" msg:"format,omitempty"`
	Image     string `json:"image,omitempty" msg:"image,omitempty"`
	Labels    Pairs  `json:"labels,omitempty" msg:"labels,omitempty"`
}

// VolumeResponse is one volume.
type VolumeResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Volume    *Volume `json:"volume" msg:"volume,omitempty"`
}

// VolumeListResponse is a page of volumes.
type VolumeListResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Items     []*Volume `json:"items" msg:"items,omitempty"`
}
