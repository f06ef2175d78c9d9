package api

// NodeStatus is what the servers know of a node.
type NodeStatus string

// The states of a node. Restart elsewhere needs evidence, never only a status.
const (
	NodeInit    NodeStatus = "init"    // registered, not yet reported
	NodeReady   NodeStatus = "ready"   // beats and has reported
	NodeSuspect NodeStatus = "suspect" // missed beats: no new placements
	NodeLost    NodeStatus = "lost"    // with evidence
	NodeLeft    NodeStatus = "left"    // left gracefully
)

// Eligibility says whether the scheduler may use a node.
type Eligibility string

// The values of Eligibility.
const (
	Eligible   Eligibility = "eligible"
	Ineligible Eligibility = "ineligible" // cordoned by an operator
)

// Node is a machine in client mode.
type Node struct {
	ID         ID     `json:"id" msg:"id,omitempty"`
	Name       string `json:"name" msg:"name,omitempty"`
	Datacenter string `json:"datacenter" msg:"datacenter,omitempty"`
	Region     string `json:"region" msg:"region,omitempty"`
	// Address is host:port of the one port, as the servers dial it.
	Address     string `json:"address" msg:"address,omitempty"`
	HTTPAddress string `json:"http_address,omitempty" msg:"http_address,omitempty"`
	Version     string `json:"version" msg:"version,omitempty"`
	Protocol    uint32 `json:"protocol" msg:"protocol,omitempty"`
	SchemaMax   uint32 `json:"schema_max,omitempty" msg:"schema_max,omitempty"` // newest schema this binary knows
	// Labels are set in the node's configuration; Attributes are fingerprints.
	Labels     Pairs `json:"labels,omitempty" msg:"labels,omitempty"`
	Attributes Pairs `json:"attributes,omitempty" msg:"attributes,omitempty"`
	// Identity.
	BootID      string `json:"boot_id,omitempty" msg:"boot_id,omitempty"`
	MachineID   string `json:"machine_id,omitempty" msg:"machine_id,omitempty"`
	ProductUUID string `json:"product_uuid,omitempty" msg:"product_uuid,omitempty"`
	// Capacity is what the machine has less what is reserved for the host;
	// the scheduler multiplies it with the overcommit ratios.
	Capacity    Resources    `json:"capacity" msg:"capacity,omitempty"`
	CPURatio    float64      `json:"cpu_ratio,omitempty" msg:"cpu_ratio,omitempty"`       // default 4
	MemoryRatio float64      `json:"memory_ratio,omitempty" msg:"memory_ratio,omitempty"` // default 1
	Pools       []NodePool   `json:"pools,omitempty" msg:"pools,omitempty"`
	Networks    []string     `json:"networks,omitempty" msg:"networks,omitempty"` // bridges and libvirt networks that exist there
	Drivers     []DriverInfo `json:"drivers,omitempty" msg:"drivers,omitempty"`
	NUMA        []NUMACell   `json:"numa,omitempty" msg:"numa,omitempty"`
	Status      NodeStatus   `json:"status" msg:"status,omitempty"`
	StatusNote  string       `json:"status_note,omitempty" msg:"status_note,omitempty"`
	Eligibility Eligibility  `json:"eligibility" msg:"eligibility,omitempty"`
	// Drain is set while the node is to be empty, and until it is used again.
	Drain *NodeDrain `json:"drain,omitempty" msg:"drain,omitempty"`
	// Unreachable is why the servers cannot dial the node; empty when they can.
	Unreachable string `json:"unreachable,omitempty" msg:"unreachable,omitempty"`
	StatusTime  Time   `json:"status_time,omitempty" msg:"status_time,omitempty"`
	CreateTime  Time   `json:"create_time,omitempty" msg:"create_time,omitempty"`
	CreateIndex Index  `json:"create_index,omitempty" msg:"create_index,omitempty"`
	ModifyIndex Index  `json:"modify_index,omitempty" msg:"modify_index,omitempty"`
	// CPURatioSet and MemoryRatioSet are the ratios that an operator chose, which
	// stand above those of the node's configuration; 0: none.
	CPURatioSet    float64 `json:"cpu_ratio_set,omitempty" msg:"cpu_ratio_set,omitempty"`
	MemoryRatioSet float64 `json:"memory_ratio_set,omitempty" msg:"memory_ratio_set,omitempty"`
	// GossipAddress is host:port at which the node's peers reach it.
	GossipAddress string `json:"gossip_address,omitempty" msg:"gossip_address,omitempty"`
	// Guard is what the node says of its guard when it registers.
	Guard GuardClass `json:"guard,omitempty" msg:"guard,omitempty"`
	// Lost is the evidence, while the status is lost.
	Lost *Evidence `json:"lost,omitempty" msg:"lost,omitempty"`
}

// NodePool is a pool as one node sees it.
type NodePool struct {
	Name     string `json:"name" msg:"name,omitempty"`
	Type     string `json:"type" msg:"type,omitempty"`
	UUID     ID     `json:"uuid" msg:"uuid,omitempty"`
	Shared   bool   `json:"shared,omitempty" msg:"shared,omitempty"`
	Capacity Bytes  `json:"capacity" msg:"capacity,omitempty"`
	Free     Bytes  `json:"free" msg:"free,omitempty"`
	Error    string `json:"error,omitempty" msg:"error,omitempty"`
}

// NUMACell is one memory node of a machine.
type NUMACell struct {
	ID     int32   `json:"id" msg:"id,omitempty"`
	CPUs   []int32 `json:"cpus" msg:"cpus,omitempty"`
	Memory Bytes   `json:"memory" msg:"memory,omitempty"`
}

// DriverInfo says what a hypervisor driver of a node can do.
type DriverInfo struct {
	Name         string   `json:"name" msg:"name,omitempty"` // qemu, sim
	Version      string   `json:"version,omitempty" msg:"version,omitempty"`
	Healthy      bool     `json:"healthy" msg:"healthy,omitempty"`
	Error        string   `json:"error,omitempty" msg:"error,omitempty"`
	Acceleration string   `json:"acceleration,omitempty" msg:"acceleration,omitempty"` // kvm or tcg
	Machines     []string `json:"machines,omitempty" msg:"machines,omitempty"`
	Firmware     []string `json:"firmware,omitempty" msg:"firmware,omitempty"`
	CPUModels    []string `json:"cpu_models,omitempty" msg:"cpu_models,omitempty"`
	// Can lists the optional verbs: pause, console, migrate, snapshot, start-paused.
	Can []string `json:"can,omitempty" msg:"can,omitempty"`
}

// NodeResponse is one node with what is used of it.
type NodeResponse struct {
	QueryMeta  `json:"meta" msg:"meta,omitempty"`
	Node       *Node        `json:"node" msg:"node,omitempty"`
	Used       Resources    `json:"used" msg:"used,omitempty"`
	Placements []*Placement `json:"placements,omitempty" msg:"placements,omitempty"`
	// Drain tells of each VM how far its drain is, while the node has one.
	Drain []DrainItem `json:"drain,omitempty" msg:"drain,omitempty"`
}

// NodeListResponse is a page of nodes.
type NodeListResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Items     []*NodeStub `json:"items" msg:"items,omitempty"`
}

// NodeStub is a node in a list.
type NodeStub struct {
	ID          ID          `json:"id" msg:"id,omitempty"`
	Name        string      `json:"name" msg:"name,omitempty"`
	Datacenter  string      `json:"datacenter" msg:"datacenter,omitempty"`
	Address     string      `json:"address" msg:"address,omitempty"`
	Version     string      `json:"version" msg:"version,omitempty"`
	Status      NodeStatus  `json:"status" msg:"status,omitempty"`
	Eligibility Eligibility `json:"eligibility" msg:"eligibility,omitempty"`
	Drain       *NodeDrain  `json:"drain,omitempty" msg:"drain,omitempty"`
	Unreachable string      `json:"unreachable,omitempty" msg:"unreachable,omitempty"`
	Capacity    Resources   `json:"capacity" msg:"capacity,omitempty"`
	Used        Resources   `json:"used" msg:"used,omitempty"`
	VMs         int32       `json:"vms" msg:"vms,omitempty"`
	Drivers     []string    `json:"drivers,omitempty" msg:"drivers,omitempty"`
	// Note says what is wrong with it: not to be reached, why it is lost, a driver
	// that is not healthy.
	Note        string `json:"note,omitempty" msg:"note,omitempty"`
	ModifyIndex Index  `json:"modify_index,omitempty" msg:"modify_index,omitempty"`
}

// NodeUpdate changes what an operator may change of a node.
type NodeUpdate struct {
	Key         string      `json:"key" msg:"key,omitempty"`
	Eligibility Eligibility `json:"eligibility,omitempty" msg:"eligibility,omitempty"`
	CPURatio    float64     `json:"cpu_ratio,omitempty" msg:"cpu_ratio,omitempty"`
	MemoryRatio float64     `json:"memory_ratio,omitempty" msg:"memory_ratio,omitempty"`
	CheckIndex  *uint64     `json:"check_index,omitempty" msg:"check_index,omitempty"`
}

// NodeRegister is sent by a node when it starts and when its facts change. The
// certificate proves the node's ID.
type NodeRegister struct {
	Node *Node `json:"node" msg:"node,omitempty"`
	// SessionID is made anew at each start of the agent.
	SessionID ID `json:"session_id" msg:"session_id,omitempty"`
	// MaxGeneration and MaxIndex are the highest ever seen by the node; a server
	// that is behind must not give orders.
	MaxGeneration uint64 `json:"max_generation,omitempty" msg:"max_generation,omitempty"`
	MaxIndex      Index  `json:"max_index,omitempty" msg:"max_index,omitempty"`
	// Found is everything the node found in its hypervisors at this start.
	Found []VMReport `json:"found,omitempty" msg:"found,omitempty"`
}

// NodeRegistered answers NodeRegister.
type NodeRegistered struct {
	WriteMeta  `json:"meta" msg:"meta,omitempty"`
	Generation uint64   `json:"generation" msg:"generation,omitempty"`
	Heartbeat  Duration `json:"heartbeat" msg:"heartbeat,omitempty"` // how often to beat
	Servers    []string `json:"servers" msg:"servers,omitempty"`     // RPC addresses of the region's servers
	// Pool is how to enter the pool of the region's nodes.
	Pool *PeerPool `json:"pool,omitempty" msg:"pool,omitempty"`
}

// PeerView is what a node's pool of peers shows. It is a hint, never evidence.
type PeerView struct {
	// Failed are the nodes that the pool has seen fail, in order.
	Failed []ID `json:"failed,omitempty" msg:"failed,omitempty"`
	// Alive is how many other nodes are members.
	Alive int32 `json:"alive,omitempty" msg:"alive,omitempty"`
}

// PeerPool is how a node enters the pool of its region's nodes.
type PeerPool struct {
	Key     []byte   `json:"key" msg:"key,omitempty"`         // 32 bytes
	Members []string `json:"members" msg:"members,omitempty"` // host:port of some
}

// NodeBeat is a heartbeat. It never enters Raft.
type NodeBeat struct {
	NodeID    ID     `json:"node_id" msg:"node_id,omitempty"`
	SessionID ID     `json:"session_id" msg:"session_id,omitempty"`
	BootID    string `json:"boot_id" msg:"boot_id,omitempty"`
	Seq       uint64 `json:"seq" msg:"seq,omitempty"`
	// Leaving: the last beat of an agent that leaves; its guests run on.
	Leaving bool `json:"leaving,omitempty" msg:"leaving,omitempty"`
	// Stats of the machine, kept in the leader's memory.
	Stats *NodeStats `json:"stats,omitempty" msg:"stats,omitempty"`
	// Peers is set when it has changed, and now and then: a new leader knows none.
	Peers *PeerView `json:"peers,omitempty" msg:"peers,omitempty"`
}

// NodeBeaten answers NodeBeat, after a quorum check begun after it arrived.
type NodeBeaten struct {
	Seq        uint64   `json:"seq" msg:"seq,omitempty"`
	Generation uint64   `json:"generation" msg:"generation,omitempty"`
	Heartbeat  Duration `json:"heartbeat" msg:"heartbeat,omitempty"`
	// Register: the server does not know this session; register again.
	Register bool     `json:"register,omitempty" msg:"register,omitempty"`
	Servers  []string `json:"servers,omitempty" msg:"servers,omitempty"`
	// Denied are the nodes whose certificates count no more.
	Denied []ID `json:"denied,omitempty" msg:"denied,omitempty"`
	// Lease, if not 0, is the life T of the node's lease, from just before the
	// beat was sent. An answer without it extends nothing.
	Lease Duration `json:"lease,omitempty" msg:"lease,omitempty"`
	// Disarm: VMs are not to be armed at the guard; those that are, are to be
	// taken back (said first, and done when that is acknowledged).
	Disarm bool `json:"disarm,omitempty" msg:"disarm,omitempty"`
}

// NodeStats is a sample of a machine's load.
type NodeStats struct {
	NodeID     ID       `json:"node_id" msg:"node_id,omitempty"`
	Time       Time     `json:"time" msg:"time,omitempty"`
	CPUPercent float64  `json:"cpu_percent" msg:"cpu_percent,omitempty"`
	Load1      float64  `json:"load1" msg:"load1,omitempty"`
	Memory     Bytes    `json:"memory" msg:"memory,omitempty"`
	MemoryUsed Bytes    `json:"memory_used" msg:"memory_used,omitempty"`
	VMs        int32    `json:"vms" msg:"vms,omitempty"`
	Uptime     Duration `json:"uptime" msg:"uptime,omitempty"`
}

// NodeStatsResponse answers Node.Stats.
type NodeStatsResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Stats     *NodeStats `json:"stats" msg:"stats,omitempty"`
}

// Order is one VM that a node must hold, or must not.
type Order struct {
	VMID      ID     `json:"vm_id" msg:"vm_id,omitempty"`
	Namespace string `json:"namespace" msg:"namespace,omitempty"`
	Name      string `json:"name" msg:"name,omitempty"`
	Epoch     Epoch  `json:"epoch" msg:"epoch,omitempty"`
	Index     Index  `json:"index" msg:"index,omitempty"` // of the last change of this order
	// Stop is a tombstone: the VM must become absent if held at Epoch or lower.
	Stop bool `json:"stop,omitempty" msg:"stop,omitempty"`
	// Force skips the ACPI shutdown.
	Force       bool       `json:"force,omitempty" msg:"force,omitempty"`
	Desired     Power      `json:"desired,omitempty" msg:"desired,omitempty"`
	Reboots     uint64     `json:"reboots,omitempty" msg:"reboots,omitempty"`
	Resets      uint64     `json:"resets,omitempty" msg:"resets,omitempty"`
	Starts      uint64     `json:"starts,omitempty" msg:"starts,omitempty"` // rises: start a guest that ended by itself
	SpecVersion uint64     `json:"spec_version,omitempty" msg:"spec_version,omitempty"`
	Spec        *VMSpec    `json:"spec,omitempty" msg:"spec,omitempty"`
	Volumes     []*Volume  `json:"volumes,omitempty" msg:"volumes,omitempty"` // in the order of Spec.Disks
	Networks    []*Network `json:"networks,omitempty" msg:"networks,omitempty"`
	Images      []*Image   `json:"images,omitempty" msg:"images,omitempty"`
	Resumes     uint64     `json:"resumes,omitempty" msg:"resumes,omitempty"` // rises: resume a guest, whatever paused it
}

// OrdersRequest opens the stream of orders (Node.Orders).
type OrdersRequest struct {
	NodeID    ID    `json:"node_id" msg:"node_id,omitempty"`
	SessionID ID    `json:"session_id" msg:"session_id,omitempty"`
	MinIndex  Index `json:"min_index,omitempty" msg:"min_index,omitempty"`
}

// OrderBatch is one message of the stream. The first is full; what is absent
// from it, or from any later one, means nothing.
type OrderBatch struct {
	Generation uint64 `json:"generation" msg:"generation,omitempty"`
	Index      Index  `json:"index" msg:"index,omitempty"`
	Full       bool   `json:"full,omitempty" msg:"full,omitempty"`
	// Recovery: the region was restored from a snapshot; start and stop nothing.
	Recovery bool      `json:"recovery,omitempty" msg:"recovery,omitempty"`
	Orders   []*Order  `json:"orders,omitempty" msg:"orders,omitempty"`
	Volumes  []*Volume `json:"volumes,omitempty" msg:"volumes,omitempty"` // volumes of this node that are not ready or are to go
	// Images that Volumes are cloned from, and those in state deleting, whose
	// copies on this node are to go.
	Images []*Image `json:"images,omitempty" msg:"images,omitempty"`
	// Moves are this node's parts in migrations that are active, or of which
	// something is left here.
	Moves []*MoveOrder `json:"moves,omitempty" msg:"moves,omitempty"`
}

// VMReport is what a node says of one VM.
type VMReport struct {
	VMID      ID      `json:"vm_id" msg:"vm_id,omitempty"`
	Epoch     Epoch   `json:"epoch" msg:"epoch,omitempty"`
	State     VMState `json:"state" msg:"state,omitempty"`
	Reason    string  `json:"reason,omitempty" msg:"reason,omitempty"`
	Message   string  `json:"message,omitempty" msg:"message,omitempty"`
	Version   uint64  `json:"version,omitempty" msg:"version,omitempty"` // spec version of the domain
	Reboots   uint64  `json:"reboots,omitempty" msg:"reboots,omitempty"`
	Resets    uint64  `json:"resets,omitempty" msg:"resets,omitempty"`
	Restarts  uint32  `json:"restarts,omitempty" msg:"restarts,omitempty"`
	StartTime Time    `json:"start_time,omitempty" msg:"start_time,omitempty"`
	Time      Time    `json:"time" msg:"time,omitempty"`
	// Seq rises with each report of this VM in one session; older ones are ignored.
	Seq       uint64   `json:"seq" msg:"seq,omitempty"`
	Addresses []string `json:"addresses,omitempty" msg:"addresses,omitempty"`
	// Orphan: a domain with our name and no journal entry and no order.
	Orphan bool `json:"orphan,omitempty" msg:"orphan,omitempty"`
	// Order is the index of the newest order for the VM that the node had taken in,
	// of that Generation.
	Order      Index  `json:"order,omitempty" msg:"order,omitempty"`
	Generation uint64 `json:"generation,omitempty" msg:"generation,omitempty"`
	// Armed: the VM is armed at the guard at Epoch, and the node takes it back only
	// after a report without this was acknowledged.
	Armed bool `json:"armed,omitempty" msg:"armed,omitempty"`
}

// VolumeReport is what a node says of one volume.
type VolumeReport struct {
	ID    ID          `json:"id" msg:"id,omitempty"`
	State VolumeState `json:"state" msg:"state,omitempty"` // ready, failed, absent
	Used  Bytes       `json:"used,omitempty" msg:"used,omitempty"`
	Error string      `json:"error,omitempty" msg:"error,omitempty"`
}

// NodeReport is a batch of reports (Node.Report).
type NodeReport struct {
	NodeID    ID             `json:"node_id" msg:"node_id,omitempty"`
	SessionID ID             `json:"session_id" msg:"session_id,omitempty"`
	VMs       []VMReport     `json:"vms,omitempty" msg:"vms,omitempty"`
	Volumes   []VolumeReport `json:"volumes,omitempty" msg:"volumes,omitempty"`
	// Images that the node holds and has checked since the last report.
	Images []ImageReport `json:"images,omitempty" msg:"images,omitempty"`
	// Moves is what the node says of its parts in migrations.
	Moves []MoveReport `json:"moves,omitempty" msg:"moves,omitempty"`
}

// ImageReport says that a node holds an image.
type ImageReport struct {
	ID     ID    `json:"id" msg:"id,omitempty"`
	Absent bool  `json:"absent,omitempty" msg:"absent,omitempty"`
	Size   Bytes `json:"size,omitempty" msg:"size,omitempty"`
}
