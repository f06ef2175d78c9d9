package fsm

import "github.com/novacron/novacron/api"

// The records of this file are replicated but never leave the servers: that is
// why they are not nouns of package api.

// TokenRecord is a token with the hash of its secret.
type TokenRecord struct {
	Token api.Token `msg:"token,omitempty"`
	// Hash is the SHA-256 of the secret, 32 bytes.
	Hash []byte `msg:"hash,omitempty"`
}

// KeyRecord is a key of the region: the CA, the gossip key. Secret parts are
// sealed with the root key, which is in no snapshot.
type KeyRecord struct {
	Name   string `msg:"name,omitempty"` // "ca", "gossip", ...
	Kind   string `msg:"kind,omitempty"`
	Public []byte `msg:"public,omitempty"` // PEM of the CA's certificate
	Sealed []byte `msg:"sealed,omitempty"` // AES-256-GCM under the root key
	// Version rises with each rotation.
	Version     uint64   `msg:"version,omitempty"`
	CreateTime  api.Time `msg:"create_time,omitempty"`
	ModifyIndex uint64   `msg:"modify_index,omitempty"`
}

// KeyCA is the name of the record of the certificate authority.
const KeyCA = "ca"

// SessionRecord is the session of a node's agent that may report.
type SessionRecord struct {
	NodeID    api.ID `msg:"node_id,omitempty"`
	SessionID api.ID `msg:"session_id,omitempty"`
	// Index at which it registered.
	Index uint64 `msg:"index,omitempty"`
}

// DeniedRecord is a node that must not connect any more.
type DeniedRecord struct {
	NodeID api.ID   `msg:"node_id,omitempty"`
	Reason string   `msg:"reason,omitempty"`
	Time   api.Time `msg:"time,omitempty"`
	Index  uint64   `msg:"index,omitempty"`
}

// OrphanRecord is a domain that a node holds and that Raft does not know. It is
// shown to people and never killed.
type OrphanRecord struct {
	NodeID      api.ID      `msg:"node_id,omitempty"`
	VMID        api.ID      `msg:"vm_id,omitempty"`
	Epoch       api.Epoch   `msg:"epoch,omitempty"`
	State       api.VMState `msg:"state,omitempty"`
	Reason      string      `msg:"reason,omitempty"`
	Time        api.Time    `msg:"time,omitempty"`
	CreateIndex uint64      `msg:"create_index,omitempty"`
}

// SchemaRecord is a step of the schema that was taken.
type SchemaRecord struct {
	Version uint32   `msg:"version,omitempty"`
	Name    string   `msg:"name,omitempty"`
	Applied api.Time `msg:"applied,omitempty"`
	Index   uint64   `msg:"index,omitempty"`
}

// IdemRecord remembers the answer to a write for as long as it may be repeated.
type IdemRecord struct {
	// Key is the SHA-256 of the caller's accessor and key, 32 bytes.
	Key      []byte   `msg:"key,omitempty"`
	Accessor api.ID   `msg:"accessor,omitempty"`
	Body     []byte   `msg:"body,omitempty"` // hash of the request's body
	Index    uint64   `msg:"index,omitempty"`
	Time     api.Time `msg:"time,omitempty"`
	Cmd      uint16   `msg:"cmd,omitempty"`
	// Noun is the key of the noun that the command made or changed.
	NounID   api.ID     `msg:"noun_id,omitempty"`
	NounName string     `msg:"noun_name,omitempty"`
	Err      *api.Error `msg:"err,omitempty"`
}

// MetaRecord is what a state knows of itself. There is exactly one.
type MetaRecord struct {
	ClusterID api.ID `msg:"cluster_id,omitempty"`
	Region    string `msg:"region,omitempty"`
	RegionID  api.ID `msg:"region_id,omitempty"`
	// Generation rises with every restore of a snapshot by an operator.
	Generation uint64 `msg:"generation,omitempty"`
	// Schema is the active version, Finalized the one below which no step leads.
	Schema    uint32 `msg:"schema,omitempty"`
	Finalized uint32 `msg:"finalized,omitempty"`
	// Time is the newest time stamped by a leader; it never falls.
	Time api.Time `msg:"time,omitempty"`
	// Bootstrapped is the index at which the first token was made.
	Bootstrapped uint64              `msg:"bootstrapped,omitempty"`
	Recovery     *Recovery           `msg:"recovery,omitempty"`
	Scheduler    api.SchedulerConfig `msg:"scheduler,omitempty"`
	HA           api.HAConfig        `msg:"ha,omitzero"`
	// CPUBaselines are what "baseline" means for a CPU, by architecture.
	CPUBaselines []api.Pair `msg:"cpu_baselines,omitempty"`
}

// Recovery is the state of a region after a restore: nothing is started,
// stopped or moved until each node has reported or is fenced.
type Recovery struct {
	// Waiting are the nodes that have neither reported nor been fenced.
	Waiting []api.ID `msg:"waiting,omitempty"`
	Begin   uint64   `msg:"begin,omitempty"`
	Since   api.Time `msg:"since,omitempty"`
	// Adopted are the VMs that a node was found to run, in order of their ids.
	Adopted []Adoption `msg:"adopted,omitempty"`
}

// Adoption is the ownership of a VM as a node reported it during recovery.
type Adoption struct {
	VMID   api.ID      `msg:"vm_id,omitempty"`
	NodeID api.ID      `msg:"node_id,omitempty"`
	Epoch  api.Epoch   `msg:"epoch,omitempty"` // as reported
	State  api.VMState `msg:"state,omitempty"`
}
