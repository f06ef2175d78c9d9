package api

// Pool is a place for volumes. Nodes bring their pools when they register; what
// an operator sets (ratio, description) stays.
type Pool struct {
	Name        string `json:"name" msg:"name,omitempty"`
	Type        string `json:"type" msg:"type,omitempty"` // dir, sim
	Shared      bool   `json:"shared,omitempty" msg:"shared,omitempty"`
	Description string `json:"description,omitempty" msg:"description,omitempty"`
	// Ratio is the thin overcommit of disk, default 1.
	Ratio       float64 `json:"ratio,omitempty" msg:"ratio,omitempty"`
	Labels      Pairs   `json:"labels,omitempty" msg:"labels,omitempty"`
	CreateIndex Index   `json:"create_index,omitempty" msg:"create_index,omitempty"`
	ModifyIndex Index   `json:"modify_index,omitempty" msg:"modify_index,omitempty"`
}

// PoolApply creates or changes what an operator may set of a pool.
type PoolApply struct {
	Pool       Pool    `json:"pool" msg:"pool,omitempty"`
	CheckIndex *uint64 `json:"check_index,omitempty" msg:"check_index,omitempty"`
}

// PoolUse is a pool on one node, with what is promised to volumes there.
type PoolUse struct {
	NodeID   ID     `json:"node_id,omitzero" msg:"node_id,omitempty"`
	Node     string `json:"node,omitempty" msg:"node,omitempty"`
	Capacity Bytes  `json:"capacity" msg:"capacity,omitempty"`
	Free     Bytes  `json:"free" msg:"free,omitempty"`
	Promised Bytes  `json:"promised" msg:"promised,omitempty"`
	Volumes  int32  `json:"volumes" msg:"volumes,omitempty"`
	Error    string `json:"error,omitempty" msg:"error,omitempty"`
}

// PoolResponse is one pool with its use on each node.
type PoolResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Pool      *Pool     `json:"pool" msg:"pool,omitempty"`
	Nodes     []PoolUse `json:"nodes,omitempty" msg:"nodes,omitempty"`
}

// PoolListResponse is a page of pools.
type PoolListResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Items     []*Pool `json:"items" msg:"items,omitempty"`
}
