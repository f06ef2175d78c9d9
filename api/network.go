package api

// Network is what NICs attach to.
type Network struct {
	Name        string `json:"name" msg:"name,omitempty"`
	Description string `json:"description,omitempty" msg:"description,omitempty"`
	// Type is bridge (an existing bridge of the host) or nat (an isolated
	// network with DHCP and NAT that the node makes).
	Type   string `json:"type" msg:"type,omitempty"`
	Bridge string `json:"bridge,omitempty" msg:"bridge,omitempty"` // name of the host's bridge
	CIDR   string `json:"cidr,omitempty" msg:"cidr,omitempty"`     // of a nat network
	// Isolated: a nat network without a way out.
	Isolated    bool  `json:"isolated,omitempty" msg:"isolated,omitempty"`
	MTU         int32 `json:"mtu,omitempty" msg:"mtu,omitempty"`
	Labels      Pairs `json:"labels,omitempty" msg:"labels,omitempty"`
	CreateTime  Time  `json:"create_time,omitempty" msg:"create_time,omitempty"`
	CreateIndex Index `json:"create_index,omitempty" msg:"create_index,omitempty"`
	ModifyIndex Index `json:"modify_index,omitempty" msg:"modify_index,omitempty"`
}

// NetworkApply creates or changes a network.
type NetworkApply struct {
	Network    Network `json:"network" msg:"network,omitempty"`
	CheckIndex *uint64 `json:"check_index,omitempty" msg:"check_index,omitempty"`
}

// NetworkResponse is one network.
type NetworkResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Network   *Network `json:"network" msg:"network,omitempty"`
	// Nodes that have it.
	Nodes []string `json:"nodes,omitempty" msg:"nodes,omitempty"`
}

// NetworkListResponse is a page of networks.
type NetworkListResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Items     []*Network `json:"items" msg:"items,omitempty"`
}
