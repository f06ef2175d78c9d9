package api

// Server is one server of a region as gossip and Raft see it.
type Server struct {
	ID         ID     `json:"id" msg:"id,omitempty"`
	Name       string `json:"name" msg:"name,omitempty"`
	Region     string `json:"region" msg:"region,omitempty"`
	Datacenter string `json:"datacenter" msg:"datacenter,omitempty"`
	Address    string `json:"address" msg:"address,omitempty"` // RPC and Raft
	SerfAddr   string `json:"serf_address,omitempty" msg:"serf_address,omitempty"`
	HTTPAddr   string `json:"http_address,omitempty" msg:"http_address,omitempty"`
	Status     string `json:"status" msg:"status,omitempty"` // alive, failed, left
	Version    string `json:"version" msg:"version,omitempty"`
	Protocol   uint32 `json:"protocol" msg:"protocol,omitempty"`
	SchemaMax  uint32 `json:"schema_max,omitempty" msg:"schema_max,omitempty"`
	Leader     bool   `json:"leader,omitempty" msg:"leader,omitempty"`
	Voter      bool   `json:"voter,omitempty" msg:"voter,omitempty"`
	Healthy    bool   `json:"healthy,omitempty" msg:"healthy,omitempty"`
	LastIndex  Index  `json:"last_index,omitempty" msg:"last_index,omitempty"`
	LastTerm   uint64 `json:"last_term,omitempty" msg:"last_term,omitempty"`
	// LastContact is the time since it heard of the leader; negative: never.
	LastContact Duration `json:"last_contact,omitempty" msg:"last_contact,omitempty"`
}

// ServerListResponse lists servers (Status.Members: all regions).
type ServerListResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Items     []*Server `json:"items" msg:"items,omitempty"`
}

// RaftRemove removes a server from Raft.
type RaftRemove struct {
	ID ID `json:"id" msg:"id,omitempty"`
}

// RaftTransfer hands leadership over; a zero ID lets Raft choose.
type RaftTransfer struct {
	ID ID `json:"id,omitzero" msg:"id,omitempty"`
}

// StatusResponse says who leads (Status.Leader).
type StatusResponse struct {
	QueryMeta  `json:"meta" msg:"meta,omitempty"`
	Region     string   `json:"region" msg:"region,omitempty"`
	ClusterID  ID       `json:"cluster_id,omitzero" msg:"cluster_id,omitempty"`
	LeaderID   ID       `json:"leader_id,omitzero" msg:"leader_id,omitempty"`
	LeaderAddr string   `json:"leader_address,omitempty" msg:"leader_address,omitempty"`
	Term       uint64   `json:"term,omitempty" msg:"term,omitempty"`
	Applied    Index    `json:"applied_index" msg:"applied_index,omitempty"`
	Committed  Index    `json:"commit_index,omitempty" msg:"commit_index,omitempty"`
	Generation uint64   `json:"generation" msg:"generation,omitempty"`
	Recovery   bool     `json:"recovery,omitempty" msg:"recovery,omitempty"`
	Voters     int32    `json:"voters" msg:"voters,omitempty"`
	Expect     int32    `json:"expect,omitempty" msg:"expect,omitempty"`
	Regions    []string `json:"regions,omitempty" msg:"regions,omitempty"`
	StateHash  string   `json:"state_hash,omitempty" msg:"state_hash,omitempty"`
	HashIndex  Index    `json:"hash_index,omitempty" msg:"hash_index,omitempty"`
}

// SchemaStatus says which schema is active and which each binary knows.
type SchemaStatus struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Active    uint32         `json:"active" msg:"active,omitempty"`
	Newest    uint32         `json:"newest" msg:"newest,omitempty"` // of the leader's binary
	Finalized uint32         `json:"finalized" msg:"finalized,omitempty"`
	Steps     []SchemaStep   `json:"steps,omitempty" msg:"steps,omitempty"`
	Members   []SchemaMember `json:"members,omitempty" msg:"members,omitempty"`
	// Ready: everyone knows Newest, finalize would be accepted.
	Ready bool   `json:"ready" msg:"ready,omitempty"`
	Why   string `json:"why,omitempty" msg:"why,omitempty"`
}

// SchemaStep is one step between two versions.
type SchemaStep struct {
	Version uint32 `json:"version" msg:"version,omitempty"`
	Name    string `json:"name" msg:"name,omitempty"`
	Applied Time   `json:"applied,omitempty" msg:"applied,omitempty"`
}

// SchemaMember is what one binary of the cluster knows.
type SchemaMember struct {
	Name string `json:"name" msg:"name,omitempty"`
	Role string `json:"role" msg:"role,omitempty"` // voter, non-voter, client
	Max  uint32 `json:"max" msg:"max,omitempty"`
}

// SchemaChange moves the schema: up to, or down to, Version; Finalize forbids
// going back below it.
type SchemaChange struct {
	Version  uint32 `json:"version" msg:"version,omitempty"`
	Finalize bool   `json:"finalize,omitempty" msg:"finalize,omitempty"`
}

// SnapshotMeta describes an archive (Operator.SnapshotSave, then Chunks).
type SnapshotMeta struct {
	Region     string `json:"region" msg:"region,omitempty"`
	ClusterID  ID     `json:"cluster_id" msg:"cluster_id,omitempty"`
	Index      Index  `json:"index" msg:"index,omitempty"`
	Term       uint64 `json:"term" msg:"term,omitempty"`
	Schema     uint32 `json:"schema" msg:"schema,omitempty"`
	Generation uint64 `json:"generation" msg:"generation,omitempty"`
	Time       Time   `json:"time" msg:"time,omitempty"`
	Version    string `json:"version" msg:"version,omitempty"`
	Size       int64  `json:"size" msg:"size,omitempty"`
	SHA256     string `json:"sha256,omitempty" msg:"sha256,omitempty"`
	// Counts of the records of each table.
	Tables []TableCount `json:"tables,omitempty" msg:"tables,omitempty"`
}

// TableCount counts the records of a table.
type TableCount struct {
	Table string `json:"table" msg:"table,omitempty"`
	Count int64  `json:"count" msg:"count,omitempty"`
}

// SchedulerConfig is how the region schedules; replicated.
type SchedulerConfig struct {
	Algorithm   string  `json:"algorithm" msg:"algorithm,omitempty"` // binpack (default) or spread
	CPURatio    float64 `json:"cpu_ratio,omitempty" msg:"cpu_ratio,omitempty"`
	MemoryRatio float64 `json:"memory_ratio,omitempty" msg:"memory_ratio,omitempty"`
	// Expect holds scheduling back until so many servers are voters.
	Expect      int32 `json:"expect,omitempty" msg:"expect,omitempty"`
	ModifyIndex Index `json:"modify_index,omitempty" msg:"modify_index,omitempty"`
	// Migrations under way at once: in the region (default 8) and for each node,
	// both ends counted (default 2).
	Migrations     int32 `json:"migrations,omitempty" msg:"migrations,omitempty"`
	NodeMigrations int32 `json:"node_migrations,omitempty" msg:"node_migrations,omitempty"`
}

// SchedulerConfigApply changes the configuration.
type SchedulerConfigApply struct {
	Config     SchedulerConfig `json:"config" msg:"config,omitempty"`
	CheckIndex *uint64         `json:"check_index,omitempty" msg:"check_index,omitempty"`
}

// SchedulerConfigResponse is the configuration.
type SchedulerConfigResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Config    SchedulerConfig `json:"config" msg:"config,omitempty"`
	// CPUBaselines are the CPU models that "baseline" means for what is started
	// now, by architecture: the newest that every node of it can give.
	CPUBaselines Pairs `json:"cpu_baselines,omitempty" msg:"cpu_baselines,omitempty"`
}

// Recovery is the state of a region after a restore.
type Recovery struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Active    bool `json:"active" msg:"active,omitempty"`
	// Waiting for these nodes to report.
	Waiting []string `json:"waiting,omitempty" msg:"waiting,omitempty"`
}

// RecoveryEnd ends recovery without the nodes named (an operator's word that
// they are off).
type RecoveryEnd struct {
	Fenced []string `json:"fenced,omitempty" msg:"fenced,omitempty"`
}

// NodeFence is an operator's word that a node is off for certain. It is taken as
// evidence: the node counts as lost.
type NodeFence struct {
	Key string `json:"key" msg:"key,omitempty"`
}

// NodeDeny forbids a node to connect, or allows it again. A node that never
// registered is named by its id.
type NodeDeny struct {
	Key    string `json:"key" msg:"key,omitempty"`
	Allow  bool   `json:"allow,omitempty" msg:"allow,omitempty"`
	Reason string `json:"reason,omitempty" msg:"reason,omitempty"`
}

// RootKeyExport is what a backup needs besides snapshots: the key that seals what
// is secret in them. Only over the root-only socket.
type RootKeyExport struct {
	ClusterID ID     `json:"cluster_id"`
	Region    string `json:"region"`
	RootKey   string `json:"root_key"` // as root.key in the data folder holds it
}

// Bootstrap makes the first management token; only over the root-only socket.
type Bootstrap struct{}

// JoinRequest is what a machine sends on nova-join/1.
type JoinRequest struct {
	Secret      string `json:"secret" msg:"secret,omitempty"`
	Role        string `json:"role" msg:"role,omitempty"` // server or client
	NodeID      ID     `json:"node_id" msg:"node_id,omitempty"`
	Name        string `json:"name" msg:"name,omitempty"`
	MachineID   string `json:"machine_id,omitempty" msg:"machine_id,omitempty"`
	ProductUUID string `json:"product_uuid,omitempty" msg:"product_uuid,omitempty"`
	CSR         []byte `json:"csr" msg:"csr,omitempty"` // DER, PKCS #10
	// SchemaMax is the newest schema that the machine's binary knows.
	SchemaMax uint32 `json:"schema_max,omitempty" msg:"schema_max,omitempty"`
}

// JoinResponse answers JoinRequest; Error is set when it was refused.
type JoinResponse struct {
	Error     *Error   `json:"error,omitempty" msg:"error,omitempty"`
	Region    string   `json:"region,omitempty" msg:"region,omitempty"`
	ClusterID ID       `json:"cluster_id,omitzero" msg:"cluster_id,omitempty"`
	RegionID  ID       `json:"region_id,omitzero" msg:"region_id,omitempty"`
	CA        []byte   `json:"ca,omitempty" msg:"ca,omitempty"`                 // PEM
	Cert      []byte   `json:"cert,omitempty" msg:"cert,omitempty"`             // PEM
	GossipKey []byte   `json:"gossip_key,omitempty" msg:"gossip_key,omitempty"` // 32 bytes
	RootKey   []byte   `json:"root_key,omitempty" msg:"root_key,omitempty"`     // servers only
	Servers   []string `json:"servers,omitempty" msg:"servers,omitempty"`       // RPC addresses
	Serf      []string `json:"serf,omitempty" msg:"serf,omitempty"`             // servers' gossip addresses
}

// CertRenew asks for a fresh certificate over the authenticated port.
type CertRenew struct {
	CSR []byte `json:"csr" msg:"csr,omitempty"`
}

// CertRenewed answers CertRenew.
type CertRenewed struct {
	Cert []byte `json:"cert" msg:"cert,omitempty"`
	CA   []byte `json:"ca" msg:"ca,omitempty"`
}

// AgentHealth answers /v1/agent/health.
type AgentHealth struct {
	OK     bool          `json:"ok" msg:"ok,omitempty"`
	Server *HealthDetail `json:"server,omitempty" msg:"server,omitempty"`
	Client *HealthDetail `json:"client,omitempty" msg:"client,omitempty"`
}

// HealthDetail is the health of one half of an agent.
type HealthDetail struct {
	OK      bool   `json:"ok" msg:"ok,omitempty"`
	Message string `json:"message" msg:"message,omitempty"`
}

// AgentSelf answers /v1/agent/self.
type AgentSelf struct {
	ID         ID     `json:"id" msg:"id,omitempty"`
	Name       string `json:"name" msg:"name,omitempty"`
	Region     string `json:"region" msg:"region,omitempty"`
	Datacenter string `json:"datacenter" msg:"datacenter,omitempty"`
	Version    string `json:"version" msg:"version,omitempty"`
	Server     bool   `json:"server" msg:"server,omitempty"`
	Client     bool   `json:"client" msg:"client,omitempty"`
	Config     Pairs  `json:"config,omitempty" msg:"config,omitempty"`
	Stats      Pairs  `json:"stats,omitempty" msg:"stats,omitempty"`
}
