package api

// GuardClass says what stands behind the leases of a node's guarded VMs.
type GuardClass string

// The guard classes. Without a guard no lease of the node is evidence.
const (
	GuardNone      GuardClass = ""
	GuardWatchdog  GuardClass = "watchdog"   // the guard, and a watchdog that resets the machine when the guard fails
	GuardLeaseOnly GuardClass = "lease-only" // the guard alone
)

// EvidenceKind is why the servers may believe that a VM does not run where it
// was. Silence, gossip and errors of a hypervisor are none.
type EvidenceKind string

// The kinds of evidence.
const (
	// EvidenceLease: the node's lease has expired, and the wait W after it is
	// over. It counts for VMs only of which the node has said that they are armed.
	EvidenceLease EvidenceKind = "lease-expired"
	// EvidenceOperator: somebody with the right to do so says that the node is off.
	EvidenceOperator EvidenceKind = "operator"
)

// Evidence is the proof that a node is lost, as it stands in the log.
type Evidence struct {
	Kind   EvidenceKind `json:"kind" msg:"kind,omitempty"`
	BootID string       `json:"boot_id,omitempty" msg:"boot_id,omitempty"` // of the boot that is lost
	Term   uint64       `json:"term,omitempty" msg:"term,omitempty"`       // of the leader that gathered it
	// By names who gave their word (operator).
	By string `json:"by,omitempty" msg:"by,omitempty"`
	// Silent is how long no beat was acknowledged, Wait what had to pass (lease-expired).
	Silent Duration `json:"silent,omitempty" msg:"silent,omitempty"`
	Wait   Duration `json:"wait,omitempty" msg:"wait,omitempty"`
	Time   Time     `json:"time,omitempty" msg:"time,omitempty"`
	Index  Index    `json:"index,omitempty" msg:"index,omitempty"`
}

// The values of HAConfig.Fencing.
const (
	FencingWatchdog  = "watchdog"   // VMs with ha = restart only on nodes with a watchdog
	FencingLeaseOnly = "lease-only" // also on nodes that have only the guard
)

// HAConfig is how the region restarts VMs elsewhere; replicated.
type HAConfig struct {
	Fencing string `json:"fencing" msg:"fencing,omitempty"` // watchdog (default) or lease-only
	// Wait, if not 0, is the wait W after the last acknowledged beat; less than
	// what the leases ask for is refused.
	Wait Duration `json:"wait,omitempty" msg:"wait,omitempty"`
	// Hold stops automatic restarts elsewhere, nil for none.
	Hold *HAHold `json:"hold,omitempty" msg:"hold,omitempty"`
	// Disarmed: no VM is stopped by a lease, and so none restarted elsewhere by one.
	Disarmed    bool  `json:"disarmed,omitempty" msg:"disarmed,omitempty"`
	ModifyIndex Index `json:"modify_index,omitempty" msg:"modify_index,omitempty"`
}

// IsZero reports whether nothing was ever set.
func (c HAConfig) IsZero() bool { return c == HAConfig{} }

// HAHold is why nothing is restarted elsewhere.
type HAHold struct {
	// Storm: the leader set it because too many nodes fell silent together. It
	// goes when they are back; one that an operator set stays.
	Storm  bool   `json:"storm,omitempty" msg:"storm,omitempty"`
	Reason string `json:"reason" msg:"reason,omitempty"`
	By     string `json:"by,omitempty" msg:"by,omitempty"`
	Since  Time   `json:"since,omitempty" msg:"since,omitempty"`
}

// The actions of HAControl.
const (
	HAHoldAction   = "hold"   // restart nothing elsewhere until resume
	HAResumeAction = "resume" // undo hold and disarm
	HADisarmAction = "disarm" // nodes take their VMs from the guards
)

// HAControl is an operator's order about HA (Operator.HAControl), answered with
// HAStatus. Empty fields of the configuration keep what is.
type HAControl struct {
	Action  string   `json:"action,omitempty" msg:"action,omitempty"`
	Reason  string   `json:"reason,omitempty" msg:"reason,omitempty"`
	Fencing string   `json:"fencing,omitempty" msg:"fencing,omitempty"`
	Wait    Duration `json:"wait,omitempty" msg:"wait,omitempty"`
}

// HAStatus is the state of HA in a region (Operator.HAStatus).
type HAStatus struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Config    HAConfig `json:"config" msg:"config,omitempty"`
	// Active: leases count now. Why says what keeps them from it.
	Active bool   `json:"active" msg:"active,omitempty"`
	Why    string `json:"why,omitempty" msg:"why,omitempty"`
	// Lease, Kill, Watchdog and Heartbeat are T, K, T_wd and h.
	Lease     Duration `json:"lease" msg:"lease,omitempty"`
	Kill      Duration `json:"kill" msg:"kill,omitempty"`
	Watchdog  Duration `json:"watchdog" msg:"watchdog,omitempty"`
	Heartbeat Duration `json:"heartbeat" msg:"heartbeat,omitempty"`
	Nodes     []HANode `json:"nodes,omitempty" msg:"nodes,omitempty"`
	VMs       []HAVM   `json:"vms,omitempty" msg:"vms,omitempty"`
}

// HANode is a node in HAStatus.
type HANode struct {
	ID     ID         `json:"id" msg:"id,omitempty"`
	Name   string     `json:"name" msg:"name,omitempty"`
	Status NodeStatus `json:"status" msg:"status,omitempty"`
	Guard  GuardClass `json:"guard" msg:"guard,omitempty"`
	// Usable: VMs with ha = restart may be placed there.
	Usable bool `json:"usable" msg:"usable,omitempty"`
	// Silent is the time since the last acknowledged beat, Wait the W of this node.
	Silent Duration  `json:"silent" msg:"silent,omitempty"`
	Wait   Duration  `json:"wait,omitempty" msg:"wait,omitempty"`
	Lost   *Evidence `json:"lost,omitempty" msg:"lost,omitempty"`
	VMs    int32     `json:"vms" msg:"vms,omitempty"`     // with ha = restart
	Armed  int32     `json:"armed" msg:"armed,omitempty"` // of those, armed at the guard
	// Stranded are the VMs with ha = restart that would fit nowhere if this node
	// were lost now (N+1), with the dimension that is short.
	Stranded []HAStranded `json:"stranded,omitempty" msg:"stranded,omitempty"`
}

// HAStranded is a VM that would fit nowhere.
type HAStranded struct {
	Namespace string `json:"namespace" msg:"namespace,omitempty"`
	Name      string `json:"name" msg:"name,omitempty"`
	Short     string `json:"short" msg:"short,omitempty"`
}

// HAVM is a VM that is to run and does not, because of its node.
type HAVM struct {
	ID        ID     `json:"id" msg:"id,omitempty"`
	Namespace string `json:"namespace" msg:"namespace,omitempty"`
	Name      string `json:"name" msg:"name,omitempty"`
	Node      string `json:"node" msg:"node,omitempty"`
	Policy    string `json:"policy" msg:"policy,omitempty"`
	Priority  int32  `json:"priority" msg:"priority,omitempty"`
	Armed     bool   `json:"armed" msg:"armed,omitempty"`
	// Why says in words why it is not restarted yet, and when it will be.
	Why string `json:"why" msg:"why,omitempty"`
	// In is how long until it may be restarted elsewhere; negative: not by itself.
	In Duration `json:"in,omitempty" msg:"in,omitempty"`
}
