package api

// Power is a power state that a user can want.
type Power string

// The power states.
const (
	PowerRunning Power = "running"
	PowerStopped Power = "stopped"
	PowerPaused  Power = "paused"
)

// VM is what the user wants: a spec with a version, a desired power state and
// policies. Where it is and what it does is in its Placement.
type VM struct {
	ID        ID     `json:"id" msg:"id,omitempty"`
	Namespace string `json:"namespace" msg:"namespace,omitempty"`
	Name      string `json:"name" msg:"name,omitempty"`
	Spec      VMSpec `json:"spec" msg:"spec,omitempty"`
	// SpecVersion rises with each accepted change of the spec.
	SpecVersion uint64 `json:"spec_version" msg:"spec_version,omitempty"`
	Power       Power  `json:"power" msg:"power,omitempty"`
	// Reboots and Resets count the orders given; a node executes each once.
	Reboots uint64 `json:"reboots,omitempty" msg:"reboots,omitempty"`
	Resets  uint64 `json:"resets,omitempty" msg:"resets,omitempty"`
	// Starts counts the start orders given: a VM whose guest ended by itself is
	// wanted running already, and is started again only by a new order.
	Starts uint64 `json:"starts,omitempty" msg:"starts,omitempty"`
	// ForceStop: the stop that is under way skips ACPI.
	ForceStop bool `json:"force_stop,omitempty" msg:"force_stop,omitempty"`
	// Epoch is the highest epoch ever granted for this VM.
	Epoch    Epoch `json:"epoch,omitempty" msg:"epoch,omitempty"`
	Deleting bool  `json:"deleting,omitempty" msg:"deleting,omitempty"`
	// SpecTime and SpecIndex say when SpecVersion was accepted.
	SpecTime    Time  `json:"spec_time,omitempty" msg:"spec_time,omitempty"`
	SpecIndex   Index `json:"spec_index,omitempty" msg:"spec_index,omitempty"`
	CreateTime  Time  `json:"create_time,omitempty" msg:"create_time,omitempty"`
	ModifyTime  Time  `json:"modify_time,omitempty" msg:"modify_time,omitempty"`
	CreateIndex Index `json:"create_index,omitempty" msg:"create_index,omitempty"`
	ModifyIndex Index `json:"modify_index,omitempty" msg:"modify_index,omitempty"`
	// Resumes counts the orders to resume a guest that is wanted running and
	// that something else than an order has paused.
	Resumes uint64 `json:"resumes,omitempty" msg:"resumes,omitempty"`
}

// VMSpec is the part of a VM that users write, in HCL2 or JSON.
type VMSpec struct {
	Name        string   `json:"name" msg:"name,omitempty"`
	Namespace   string   `json:"namespace,omitempty" msg:"namespace,omitempty"`
	Description string   `json:"description,omitempty" msg:"description,omitempty"`
	Labels      Pairs    `json:"labels,omitempty" msg:"labels,omitempty"`
	Datacenters []string `json:"datacenters,omitempty" msg:"datacenters,omitempty"`
	// Priority 1 to 100 (default 50): who is placed and recovered first.
	Priority int32     `json:"priority,omitempty" msg:"priority,omitempty"`
	CPU      CPUSpec   `json:"cpu" msg:"cpu,omitempty"`
	Memory   Bytes     `json:"memory" msg:"memory,omitempty"`
	Firmware Firmware  `json:"firmware,omitempty" msg:"firmware,omitempty"`
	Boot     *BootSpec `json:"boot,omitempty" msg:"boot,omitempty"`
	Disks    []Disk    `json:"disks,omitempty" msg:"disks,omitempty"`
	NICs     []NIC     `json:"networks,omitempty" msg:"networks,omitempty"`
	// CloudInit becomes a NoCloud seed disk.
	CloudInit   *CloudInit    `json:"cloud_init,omitempty" msg:"cloud_init,omitempty"`
	Console     ConsoleSpec   `json:"console,omitempty" msg:"console,omitempty"`
	Constraints []Constraint  `json:"constraints,omitempty" msg:"constraints,omitempty"`
	Affinities  []Affinity    `json:"affinities,omitempty" msg:"affinities,omitempty"`
	Spread      []Spread      `json:"spread,omitempty" msg:"spread,omitempty"`
	Restart     RestartPolicy `json:"restart,omitempty" msg:"restart,omitempty"`
	HA          HAPolicy      `json:"ha,omitempty" msg:"ha,omitempty"`
	// Protection refuses delete, and reset, until it is taken off.
	Protection bool `json:"protection,omitempty" msg:"protection,omitempty"`
	// StopTimeout is how long ACPI shutdown may take before the VM is forced
	// off (default 60s).
	StopTimeout Duration `json:"stop_timeout,omitempty" msg:"stop_timeout,omitempty"`
	// Migration is how the VM may be moved.
	Migration MigrationPolicy `json:"migration,omitzero" msg:"migration,omitzero"`
}

// MigrationPolicy is how a VM may be moved, by a drain above all.
type MigrationPolicy struct {
	// Mode is live (default), warm, cold, or stop: a drain stops the VM and leaves
	// it where it is.
	Mode string `json:"mode,omitempty" msg:"mode,omitempty"`
	// MaxDowntime, DowntimeLimit, AutoConverge and WarmFallback: see
	// MigrationOptions.
	MaxDowntime   Duration `json:"max_downtime,omitempty" msg:"max_downtime,omitempty"`
	DowntimeLimit Duration `json:"downtime_limit,omitempty" msg:"downtime_limit,omitempty"`
	AutoConverge  bool     `json:"auto_converge,omitempty" msg:"auto_converge,omitempty"`
	WarmFallback  bool     `json:"warm_fallback,omitempty" msg:"warm_fallback,omitempty"`
}

// CPUSpec is the virtual CPU.
type CPUSpec struct {
	Cores int32 `json:"cores" msg:"cores,omitempty"`
	// Reserve is the share of a host's CPU to reserve; default: all the cores.
	Reserve MilliCPU `json:"reserve,omitempty" msg:"reserve,omitempty"`
	// Model is the CPU that the guest sees. "baseline" (default): the newest model
	// that every node of the architecture can give when the guest is started.
	// "host": all of the host's CPU; the guest is moved live only between nodes with
	// the same CPU and features. Else a model by libvirt's name: only nodes whose
	// hypervisor can give it. A guest that runs keeps what it was started with.
	Model string `json:"model,omitempty" msg:"model,omitempty"`
}

// Firmware is how the machine boots.
type Firmware string

// The kinds of firmware.
const (
	FirmwareBIOS Firmware = "bios"
	FirmwareUEFI Firmware = "uefi"
)

// BootSpec boots a kernel directly, without a boot loader.
type BootSpec struct {
	Kernel  string `json:"kernel" msg:"kernel,omitempty"`           // name of an image
	Initrd  string `json:"initrd,omitempty" msg:"initrd,omitempty"` // name of an image
	Cmdline string `json:"cmdline,omitempty" msg:"cmdline,omitempty"`
}

// Disk is one disk of a VM. Exactly one of Volume (an existing volume) or Size
// or Image (a new volume) says where it comes from.
type Disk struct {
	Name string `json:"name" msg:"name,omitempty"`
	// Image is the name of the image that a new volume is cloned from.
	Image string `json:"image,omitempty" msg:"image,omitempty"`
	// Size of the new volume; not smaller than the image.
	Size Bytes `json:"size,omitempty" msg:"size,omitempty"`
	// Volume is the name of an existing volume, which is kept when the VM goes.
	Volume string `json:"volume,omitempty" msg:"volume,omitempty"`
	Pool   string `json:"pool,omitempty" msg:"pool,omitempty"`     // default "default"
	Format string `json:"format,omitempty" msg:"format,omitempty"` // qcow2 (default) or raw
	Bus    string `json:"bus,omitempty" msg:"bus,omitempty"`       // virtio (default), sata or scsi
	// Keep the volume when the VM is deleted.
	Keep     bool  `json:"keep,omitempty" msg:"keep,omitempty"`
	ReadOnly bool  `json:"read_only,omitempty" msg:"read_only,omitempty"`
	Boot     int32 `json:"boot,omitempty" msg:"boot,omitempty"` // boot order, 1 first
}

// NIC is one network interface of a VM.
type NIC struct {
	Network string `json:"network" msg:"network,omitempty"`
	// MAC is made from the VM's ID and the position when it is empty.
	MAC   string `json:"mac,omitempty" msg:"mac,omitempty"`
	Model string `json:"model,omitempty" msg:"model,omitempty"` // virtio (default), e1000 or e1000e
	// Address is a fixed address for the guest (cloud-init network config).
	Address string `json:"address,omitempty" msg:"address,omitempty"`
}

// CloudInit is the content of the NoCloud seed.
type CloudInit struct {
	// UserData is opaque: it reaches the guest byte for byte (at most 256 KiB).
	UserData []byte `json:"user_data,omitempty" msg:"user_data,omitempty"`
	// NetworkConfig is cloud-init network config version 2, opaque.
	NetworkConfig []byte   `json:"network_config,omitempty" msg:"network_config,omitempty"`
	Hostname      string   `json:"hostname,omitempty" msg:"hostname,omitempty"` // default: the VM's name
	SSHKeys       []string `json:"ssh_keys,omitempty" msg:"ssh_keys,omitempty"`
}

// ConsoleSpec says which consoles the VM has.
type ConsoleSpec struct {
	NoSerial bool `json:"no_serial,omitempty" msg:"no_serial,omitempty"`
	VNC      bool `json:"vnc,omitempty" msg:"vnc,omitempty"`
}

// Constraint is a hard rule on the node. Operators: =, !=, in, not_in, exists,
// not_exists, <, <=, >, >= (numeric or version order), regexp.
type Constraint struct {
	Attribute string `json:"attribute" msg:"attribute,omitempty"` // "kernel.name", "label.rack", "node.name", "node.datacenter"
	Operator  string `json:"operator,omitempty" msg:"operator,omitempty"`
	Value     string `json:"value,omitempty" msg:"value,omitempty"`
}

// Affinity is a rule between VMs. Weight 0 makes it hard; otherwise -100 to 100.
type Affinity struct {
	// Selector matches the labels of other VMs of the same namespace.
	Selector Pairs `json:"selector" msg:"selector,omitempty"`
	// Anti: keep apart instead of together.
	Anti bool `json:"anti,omitempty" msg:"anti,omitempty"`
	// Domain is the node attribute that counts as one place; default "node.id".
	Domain string `json:"domain,omitempty" msg:"domain,omitempty"`
	Weight int32  `json:"weight,omitempty" msg:"weight,omitempty"`
}

// Spread asks that the VMs with equal labels be spread over an attribute.
type Spread struct {
	Attribute string `json:"attribute" msg:"attribute,omitempty"`
	Selector  Pairs  `json:"selector,omitempty" msg:"selector,omitempty"`
	Weight    int32  `json:"weight,omitempty" msg:"weight,omitempty"`
}

// RestartPolicy says what happens on its node when a guest ends by itself.
type RestartPolicy struct {
	Policy   string   `json:"policy,omitempty" msg:"policy,omitempty"`     // on-failure (default), always, never
	Attempts int32    `json:"attempts,omitempty" msg:"attempts,omitempty"` // in Interval, default 3
	Interval Duration `json:"interval,omitempty" msg:"interval,omitempty"` // default 10m
	Delay    Duration `json:"delay,omitempty" msg:"delay,omitempty"`       // default 5s, doubled each time
}

// HAPolicy says what happens to a VM when its node is lost.
type HAPolicy struct {
	Policy string `json:"policy,omitempty" msg:"policy,omitempty"` // keep (default), restart, none
}

// The HA policies.
const (
	HAKeep    = "keep"
	HARestart = "restart"
	HANone    = "none"
)

// VMVersion is one version of a VM's spec, kept for history and revert.
type VMVersion struct {
	VMID        ID     `json:"vm_id" msg:"vm_id,omitempty"`
	Version     uint64 `json:"version" msg:"version,omitempty"`
	Spec        VMSpec `json:"spec" msg:"spec,omitempty"`
	CreateTime  Time   `json:"create_time,omitempty" msg:"create_time,omitempty"`
	CreateIndex Index  `json:"create_index,omitempty" msg:"create_index,omitempty"`
}

// VMApply creates a VM or changes its spec ("run").
type VMApply struct {
	Spec VMSpec `json:"spec" msg:"spec,omitempty"`
	// CheckIndex: nil means no check; 0 means must not exist; otherwise it must
	// equal the VM's modify index.
	CheckIndex *uint64 `json:"check_index,omitempty" msg:"check_index,omitempty"`
	// Power to set; empty keeps what is (running for a new VM).
	Power Power `json:"power,omitempty" msg:"power,omitempty"`
}

// VMApplied answers VMApply.
type VMApplied struct {
	WriteMeta `json:"meta" msg:"meta,omitempty"`
	VM        *VM `json:"vm" msg:"vm,omitempty"`
	// Created, or changed, or neither.
	Created bool `json:"created,omitempty" msg:"created,omitempty"`
	Changed bool `json:"changed,omitempty" msg:"changed,omitempty"`
	// Warnings do not stop the write.
	Warnings []string `json:"warnings,omitempty" msg:"warnings,omitempty"`
}

// VMPlan asks what VMApply would do; it changes nothing.
type VMPlan struct {
	Spec VMSpec `json:"spec" msg:"spec,omitempty"`
}

// VMPlanned answers VMPlan: the difference, where it would go and why.
type VMPlanned struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Create    bool        `json:"create,omitempty" msg:"create,omitempty"`
	Diff      []FieldDiff `json:"diff,omitempty" msg:"diff,omitempty"`
	// RestartNeeded: the change takes effect at the next stop and start.
	RestartNeeded bool         `json:"restart_needed,omitempty" msg:"restart_needed,omitempty"`
	Explanation   *Explanation `json:"explanation,omitempty" msg:"explanation,omitempty"`
	Warnings      []string     `json:"warnings,omitempty" msg:"warnings,omitempty"`
	// CheckIndex to give to VMApply so that exactly this plan is applied.
	CheckIndex uint64 `json:"check_index" msg:"check_index,omitempty"`
}

// FieldDiff is one changed field of a spec.
type FieldDiff struct {
	Field         string `json:"field" msg:"field,omitempty"`
	Old           string `json:"old,omitempty" msg:"old,omitempty"`
	New           string `json:"new,omitempty" msg:"new,omitempty"`
	RestartNeeded bool   `json:"restart_needed,omitempty" msg:"restart_needed,omitempty"`
}

// VMPower changes the desired power state, or counts a reboot or reset.
type VMPower struct {
	Namespace string  `json:"namespace,omitempty" msg:"namespace,omitempty"`
	Key       string  `json:"key" msg:"key,omitempty"`
	Action    string  `json:"action" msg:"action,omitempty"` // start, stop, reboot, reset, pause, resume
	Force     bool    `json:"force,omitempty" msg:"force,omitempty"`
	Check     *uint64 `json:"check_index,omitempty" msg:"check_index,omitempty"`
}

// VMRevert makes an old version of the spec the newest.
type VMRevert struct {
	Namespace string  `json:"namespace,omitempty" msg:"namespace,omitempty"`
	Key       string  `json:"key" msg:"key,omitempty"`
	Version   uint64  `json:"version" msg:"version,omitempty"`
	Check     *uint64 `json:"check_index,omitempty" msg:"check_index,omitempty"`
}

// VMResponse is one VM.
type VMResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	VM        *VM `json:"vm" msg:"vm,omitempty"`
}

// VMListResponse is a page of VMs with what lists show of them.
type VMListResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Items     []*VMStub `json:"items" msg:"items,omitempty"`
}

// VMStub is a VM in a list.
type VMStub struct {
	ID          ID       `json:"id" msg:"id,omitempty"`
	Namespace   string   `json:"namespace" msg:"namespace,omitempty"`
	Name        string   `json:"name" msg:"name,omitempty"`
	Labels      Pairs    `json:"labels,omitempty" msg:"labels,omitempty"`
	Power       Power    `json:"power" msg:"power,omitempty"`
	State       string   `json:"state" msg:"state,omitempty"`             // the observed state, or "pending"
	Reason      string   `json:"reason,omitempty" msg:"reason,omitempty"` // one line
	NodeID      ID       `json:"node_id,omitzero" msg:"node_id,omitempty"`
	Node        string   `json:"node,omitempty" msg:"node,omitempty"`
	Epoch       Epoch    `json:"epoch,omitempty" msg:"epoch,omitempty"`
	CPU         MilliCPU `json:"cpu" msg:"cpu,omitempty"`
	Memory      Bytes    `json:"memory" msg:"memory,omitempty"`
	Addresses   []string `json:"addresses,omitempty" msg:"addresses,omitempty"`
	CreateTime  Time     `json:"create_time,omitempty" msg:"create_time,omitempty"`
	ModifyIndex Index    `json:"modify_index,omitempty" msg:"modify_index,omitempty"`
}

// VMStatusResponse is everything a person asks about one VM.
type VMStatusResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	VM        *VM        `json:"vm" msg:"vm,omitempty"`
	Placement *Placement `json:"placement,omitempty" msg:"placement,omitempty"`
	Node      string     `json:"node,omitempty" msg:"node,omitempty"`
	State     string     `json:"state" msg:"state,omitempty"`
	// Why says in words why the VM is not (yet) as desired; empty when it is.
	Why []string `json:"why,omitempty" msg:"why,omitempty"`
	// Pending explains each node when no node fits.
	Pending *Explanation `json:"pending,omitempty" msg:"pending,omitempty"`
	Volumes []*Volume    `json:"volumes,omitempty" msg:"volumes,omitempty"`
	// RestartNeeded: the running guest has an older spec than the newest.
	RestartNeeded bool     `json:"restart_needed,omitempty" msg:"restart_needed,omitempty"`
	Events        []*Event `json:"events,omitempty" msg:"events,omitempty"`
}

// VMHistoryRequest asks for the versions of a VM, page by page.
type VMHistoryRequest struct {
	QueryOptions `json:"query" msg:"query,omitempty"`
	Key          string `json:"key,omitempty" msg:"key,omitempty"`
}

// VMHistoryResponse lists the versions, newest first.
type VMHistoryResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Items     []*VMVersion `json:"items" msg:"items,omitempty"`
}

// VMStats is a sample of what a guest uses. Counters rise from its start.
type VMStats struct {
	VMID        ID        `json:"vm_id" msg:"vm_id,omitempty"`
	Time        Time      `json:"time" msg:"time,omitempty"`
	CPUTime     Duration  `json:"cpu_time" msg:"cpu_time,omitempty"`
	VCPUs       int32     `json:"vcpus" msg:"vcpus,omitempty"`
	Memory      Bytes     `json:"memory" msg:"memory,omitempty"`
	MemoryRSS   Bytes     `json:"memory_rss" msg:"memory_rss,omitempty"`
	Disks       []IOStats `json:"disks,omitempty" msg:"disks,omitempty"`
	NICs        []IOStats `json:"nics,omitempty" msg:"nics,omitempty"`
	CPUPercent  float64   `json:"cpu_percent,omitempty" msg:"cpu_percent,omitempty"` // of one core, since the last sample
	GuestUptime Duration  `json:"uptime,omitempty" msg:"uptime,omitempty"`
}

// IOStats counts the traffic of a disk or a NIC.
type IOStats struct {
	Name       string `json:"name" msg:"name,omitempty"`
	ReadBytes  Bytes  `json:"read_bytes" msg:"read_bytes,omitempty"`
	WriteBytes Bytes  `json:"write_bytes" msg:"write_bytes,omitempty"`
	ReadOps    int64  `json:"read_ops" msg:"read_ops,omitempty"`
	WriteOps   int64  `json:"write_ops" msg:"write_ops,omitempty"`
	Errors     int64  `json:"errors,omitempty" msg:"errors,omitempty"`
}

// VMStatsResponse answers VM.Stats.
type VMStatsResponse struct {
	QueryMeta `json:"meta" msg:"meta,omitempty"`
	Stats     *VMStats `json:"stats" msg:"stats,omitempty"`
}

// Explanation says where a VM would go and why, node by node.
type Explanation struct {
	// Chosen is the node, zero when none fits.
	Chosen ID              `json:"chosen,omitzero" msg:"chosen,omitempty"`
	Node   string          `json:"node,omitempty" msg:"node,omitempty"`
	Score  float64         `json:"score,omitempty" msg:"score,omitempty"`
	Nodes  []NodeVerdict   `json:"nodes,omitempty" msg:"nodes,omitempty"` // at most 50, best first
	Counts []VerdictCount  `json:"counts,omitempty" msg:"counts,omitempty"`
	Algo   string          `json:"algorithm,omitempty" msg:"algorithm,omitempty"`
	Needs  []DimensionNeed `json:"needs,omitempty" msg:"needs,omitempty"`
}

// NodeVerdict is the verdict on one node.
type NodeVerdict struct {
	NodeID ID      `json:"node_id" msg:"node_id,omitempty"`
	Node   string  `json:"node" msg:"node,omitempty"`
	Fits   bool    `json:"fits" msg:"fits,omitempty"`
	Score  float64 `json:"score,omitempty" msg:"score,omitempty"`
	// Failed is the first check or dimension that removed the node:
	// "datacenter", "eligibility", "constraint", "cpu", "memory", "disk", ...
	Failed string `json:"failed,omitempty" msg:"failed,omitempty"`
	Reason string `json:"reason,omitempty" msg:"reason,omitempty"`
}

// VerdictCount counts the nodes removed by one check.
type VerdictCount struct {
	Failed string `json:"failed" msg:"failed,omitempty"`
	Nodes  int32  `json:"nodes" msg:"nodes,omitempty"`
}

// DimensionNeed is one dimension of what the VM asks.
type DimensionNeed struct {
	Dimension string `json:"dimension" msg:"dimension,omitempty"`
	Need      int64  `json:"need" msg:"need,omitempty"`
}

// ParseRequest asks the server to parse a spec from text.
type ParseRequest struct {
	Text   string `json:"text" msg:"text,omitempty"`
	Format string `json:"format,omitempty" msg:"format,omitempty"` // hcl (default) or json
	File   string `json:"file,omitempty" msg:"file,omitempty"`     // for messages only
	// Variables for the spec's variable blocks.
	Variables Pairs `json:"variables,omitempty" msg:"variables,omitempty"`
}
