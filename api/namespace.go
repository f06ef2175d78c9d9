package api

// DefaultNamespace always exists and cannot be deleted.
const DefaultNamespace = "default"

// Namespace separates the names of tenants.
type Namespace struct {
	Name        string `json:"name" msg:"name,omitempty"`
	Description string `json:"description,omitempty" msg:"description,omitempty"`
	Labels      Pairs  `json:"labels,omitempty" msg:"labels,omitempty"`
	CreateTime  Time   `json:"create_time,omitempty" msg:"create_time,omitempty"`
	CreateIndex Index  `json:"create_index,omitempty" msg:"create_index,omitempty"`
	ModifyIndex Index  `json:"modify_index,omitempty" msg:"modify_index,omitempty"`
}

// NamespaceApply creates or changes a namespace.
type NamespaceApply struct {
	Namespace  Namespace `json:"namespace" msg:"namespace,omitempty"`
	CheckIndex *uint64   `json:"check_index,omitempty" msg:"check_index,omitempty"`
}

// NamespaceResponse is one namespace.
type NamespaceResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Namespace *Namespace `json:"namespace" msg:"namespace,omitempty"`
}

// NamespaceListResponse is a page of namespaces.
type NamespaceListResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Items     []*Namespace `json:"items" msg:"items,omitempty"`
}
