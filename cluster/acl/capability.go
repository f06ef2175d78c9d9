package acl

import "slices"

// Capability is one thing that may be allowed. Every endpoint names the one it
// needs when it is registered.
type Capability string

// The capabilities.
const (
	// None needs no token: what anyone who reached the port may know.
	None Capability = "none"

	ReadVM    Capability = "vm:read"
	WriteVM   Capability = "vm:write"
	PowerVM   Capability = "vm:power"
	ConsoleVM Capability = "vm:console"

	ReadPlacement Capability = "placement:read"

	ReadVolume  Capability = "volume:read"
	WriteVolume Capability = "volume:write"

	ReadImage  Capability = "image:read"
	WriteImage Capability = "image:write"

	ReadEvent Capability = "event:read"

	ReadNamespace  Capability = "namespace:read"
	WriteNamespace Capability = "namespace:write"

	ReadNode  Capability = "node:read"
	WriteNode Capability = "node:write"

	ReadPool  Capability = "pool:read"
	WritePool Capability = "pool:write"

	ReadNetwork  Capability = "network:read"
	WriteNetwork Capability = "network:write"

	ReadToken  Capability = "token:read"
	WriteToken Capability = "token:write"

	OperatorRead  Capability = "operator:read"
	OperatorWrite Capability = "operator:write"

	// NodeSelf is held by a node's certificate, for its own id only: the
	// handler compares the id in the request with Identity.NodeID.
	NodeSelf Capability = "node:self"
	// ServerSelf is held by a server's certificate.
	ServerSelf Capability = "server:self"
	// Member is held by every certificate of the region.
	Member Capability = "member"
)

// Scope says what a capability is granted for.
type Scope string

// The scopes.
const (
	ScopeNone      Scope = "none"      // nothing is protected
	ScopeNamespace Scope = "namespace" // granted for each namespace
	ScopeCluster   Scope = "cluster"   // granted for the region
	ScopeCert      Scope = "cert"      // comes from a certificate, never from a token
)

// Info is what is fixed for a capability.
type Info struct {
	Capability Capability
	Scope      Scope
	Title      string
}

var table = []Info{
	{None, ScopeNone, "needs no token"},
	{ReadVM, ScopeNamespace, "read virtual machines"},
	{WriteVM, ScopeNamespace, "create, change and delete virtual machines"},
	{PowerVM, ScopeNamespace, "start, stop and reboot virtual machines"},
	{ConsoleVM, ScopeNamespace, "open consoles"},
	{ReadPlacement, ScopeNamespace, "see where virtual machines run"},
	{ReadVolume, ScopeNamespace, "read volumes"},
	{WriteVolume, ScopeNamespace, "create and delete volumes"},
	{ReadImage, ScopeNamespace, "read and download images"},
	{WriteImage, ScopeNamespace, "upload and delete images"},
	{ReadEvent, ScopeNamespace, "follow events"},
	{ReadNamespace, ScopeCluster, "read namespaces"},
	{WriteNamespace, ScopeCluster, "create, change and delete namespaces"},
	{ReadNode, ScopeCluster, "read nodes"},
	{WriteNode, ScopeCluster, "cordon, change and remove nodes"},
	{ReadPool, ScopeCluster, "read pools"},
	{WritePool, ScopeCluster, "change pools"},
	{ReadNetwork, ScopeCluster, "read networks"},
	{WriteNetwork, ScopeCluster, "create, change and delete networks"},
	{ReadToken, ScopeCluster, "list tokens"},
	{WriteToken, ScopeCluster, "create and delete tokens"},
	{OperatorRead, ScopeCluster, "see Raft, schema and scheduler"},
	{OperatorWrite, ScopeCluster, "change Raft, schema, scheduler; snapshots"},
	{NodeSelf, ScopeCert, "act as this node"},
	{ServerSelf, ScopeCert, "act as a server of the region"},
	{Member, ScopeCert, "be a machine of the region"},
}

// All returns the table of all capabilities, in a fixed order.
func All() []Info { return slices.Clone(table) }

// Lookup returns what is fixed for a capability, and whether it exists.
func Lookup(c Capability) (Info, bool) {
	i := slices.IndexFunc(table, func(i Info) bool { return i.Capability == c })
	if i < 0 {
		return Info{}, false
	}
	return table[i], true
}
