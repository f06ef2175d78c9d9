package fsm

import (
	"iter"
	"slices"

	"github.com/novacron/novacron/api"
)

// State is one immutable version of everything that is replicated. It costs
// nothing to take and to hold; all reads of one answer go to one State. The
// objects that it returns are constants. Lists are in key order.
type State struct {
	index api.Index
	meta  MetaRecord
	// metaIndex is the index of the last change of meta, besides its time.
	metaIndex api.Index

	namespaces *table[string, api.Namespace, *api.Namespace]
	nodes      *table[api.ID, api.Node, *api.Node]
	sessions   *table[api.ID, SessionRecord, *SessionRecord]
	denied     *table[api.ID, DeniedRecord, *DeniedRecord]
	vms        *table[api.ID, api.VM, *api.VM]
	versions   *table[versionKey, api.VMVersion, *api.VMVersion]
	placements *table[api.ID, api.Placement, *api.Placement]
	tombstones *table[pairKey, api.Tombstone, *api.Tombstone]
	orphans    *table[pairKey, OrphanRecord, *OrphanRecord]
	volumes    *table[api.ID, api.Volume, *api.Volume]
	pools      *table[string, api.Pool, *api.Pool]
	images     *table[api.ID, api.Image, *api.Image]
	networks   *table[string, api.Network, *api.Network]
	tokens     *table[api.ID, TokenRecord, *TokenRecord]
	keys       *table[string, KeyRecord, *KeyRecord]
	schemas    *table[uint32, SchemaRecord, *SchemaRecord]
	idems      *table[string, IdemRecord, *IdemRecord]
	migrations *table[api.ID, api.Migration, *api.Migration]

	use *usage
}

// newState returns an empty state of the first schema.
func newState() *State {
	s := &State{use: newUsage(), meta: MetaRecord{Schema: 1, Finalized: 1}}
	for _, d := range defs {
		d.reset(s)
	}
	return s
}

// Index is the position in the Raft log of the newest command in this state.
func (s *State) Index() api.Index { return s.index }

// Time is the newest time that a leader has stamped.
func (s *State) Time() api.Time { return s.meta.Time }

// Generation rises with every restore of a snapshot by an operator.
func (s *State) Generation() uint64 { return s.meta.Generation }

// Schema is the active version of the schema.
func (s *State) Schema() uint32 { return s.meta.Schema }

// Finalized is the version below which the schema cannot go any more.
func (s *State) Finalized() uint32 { return s.meta.Finalized }

// ClusterID is zero before ClusterInit.
func (s *State) ClusterID() api.ID { return s.meta.ClusterID }

// RegionName is empty before ClusterInit.
func (s *State) RegionName() string { return s.meta.Region }

// RegionID is zero before ClusterInit.
func (s *State) RegionID() api.ID { return s.meta.RegionID }

// Bootstrapped reports whether the first management token was made.
func (s *State) Bootstrapped() bool { return s.meta.Bootstrapped != 0 }

// Recovery returns the recovery under way, or nil.
func (s *State) Recovery() *Recovery { return s.meta.Recovery }

// SchedulerConfig returns how the region schedules.
func (s *State) SchedulerConfig() api.SchedulerConfig { return s.meta.Scheduler }

// HAConfig returns how the region restarts VMs elsewhere.
func (s *State) HAConfig() api.HAConfig { return s.meta.HA }

// TableIndex returns the index of the newest change of any of the tables; after
// a restore it is the index of the snapshot. It is what a blocking list answers.
func (s *State) TableIndex(tables ...string) api.Index {
	var max api.Index
	for _, t := range tables {
		if i := s.tableIndex(t); i > max {
			max = i
		}
	}
	return max
}

func (s *State) tableIndex(t string) api.Index {
	switch t {
	case TableMeta:
		return s.metaIndex
	case TableNamespace:
		return s.namespaces.index
	case TableNode:
		return s.nodes.index
	case TableSession:
		return s.sessions.index
	case TableDenied:
		return s.denied.index
	case TableVM:
		return s.vms.index
	case TableVersion:
		return s.versions.index
	case TablePlacement:
		return s.placements.index
	case TableTombstone:
		return s.tombstones.index
	case TableOrphan:
		return s.orphans.index
	case TableVolume:
		return s.volumes.index
	case TablePool:
		return s.pools.index
	case TableImage:
		return s.images.index
	case TableNetwork:
		return s.networks.index
	case TableToken:
		return s.tokens.index
	case TableKey:
		return s.keys.index
	case TableSchema:
		return s.schemas.index
	case TableIdem:
		return s.idems.index
	}
	return s.index
}

// Counts returns the number of records of each table, in a fixed order.
func (s *State) Counts() []api.TableCount {
	out := make([]api.TableCount, 0, len(defs))
	for _, d := range defs {
		out = append(out, api.TableCount{Table: d.tableName(), Count: int64(d.count(s))})
	}
	return out
}

// filled returns the counts of the tables that hold records: only those stand in
// a snapshot, so that one without records of a newer table is as it always was.
func (s *State) filled() []api.TableCount {
	return slices.DeleteFunc(s.Counts(), func(c api.TableCount) bool { return c.Count == 0 })
}

// Namespaces.

// Namespace returns a namespace or nil.
func (s *State) Namespace(name string) *api.Namespace { return s.namespaces.get(name) }

// Namespaces lists all namespaces.
func (s *State) Namespaces() iter.Seq[*api.Namespace] { return s.namespaces.all() }

// Nodes.

// Node returns a node or nil.
func (s *State) Node(id api.ID) *api.Node { return s.nodes.get(id) }

// NodeByName returns the node of that name or nil; when an old one is lost or
// has left, the one that has not is preferred.
func (s *State) NodeByName(name string) *api.Node {
	var found *api.Node
	for n := range walk(s.nodes, 0, nodeKey{name: name}, func(k nodeKey) bool { return k.name == name }) {
		if found == nil || !gone(n) && gone(found) {
			found = n
		}
	}
	return found
}

func gone(n *api.Node) bool { return n.Status == api.NodeLost || n.Status == api.NodeLeft }

// Nodes lists all nodes.
func (s *State) Nodes() iter.Seq[*api.Node] { return s.nodes.all() }

// Session returns the session of a node's agent that may report; zero if none.
func (s *State) Session(node api.ID) api.ID {
	if r := s.sessions.get(node); r != nil {
		return r.SessionID
	}
	return api.ID{}
}

// Registration returns a node's last registration; a zero one if there is none.
func (s *State) Registration(node api.ID) SessionRecord {
	if r := s.sessions.get(node); r != nil {
		return *r
	}
	return SessionRecord{}
}

// Denied returns why a node must not connect, or nil.
func (s *State) Denied(node api.ID) *DeniedRecord { return s.denied.get(node) }

// DeniedNodes lists the nodes that must not connect.
func (s *State) DeniedNodes() iter.Seq[*DeniedRecord] { return s.denied.all() }

// VMs.

// VM returns a VM or nil.
func (s *State) VM(id api.ID) *api.VM { return s.vms.get(id) }

// VMByName returns a VM or nil.
func (s *State) VMByName(ns, name string) *api.VM { return byNameIn(s.vms, ns, name) }

// VMs lists all VMs in the order of their ids.
func (s *State) VMs() iter.Seq[*api.VM] { return s.vms.all() }

// VMsFrom lists the VMs from an id on.
func (s *State) VMsFrom(id api.ID) iter.Seq[*api.VM] { return s.vms.from(id) }

// VMsIn lists the VMs of a namespace by name.
func (s *State) VMsIn(ns string) iter.Seq[*api.VM] { return s.VMsInFrom(ns, "") }

// VMsInFrom lists the VMs of a namespace by name, from a name on.
func (s *State) VMsInFrom(ns, name string) iter.Seq[*api.VM] { return inNamespace(s.vms, ns, name) }

// VMCount counts all VMs.
func (s *State) VMCount() int { return s.vms.len() }

// VMVersions lists the versions of a VM's spec that are kept, oldest first; the
// last is the present one.
func (s *State) VMVersions(id api.ID) iter.Seq[*api.VMVersion] {
	return func(yield func(*api.VMVersion) bool) {
		for v := range s.versions.from(versionKey{vm: id}) {
			if v.VMID != id {
				break
			}
			if !yield(v) {
				return
			}
		}
		if vm := s.VM(id); vm != nil {
			yield(versionOf(vm))
		}
	}
}

// VMVersion returns one version of a VM's spec, or nil when it is not kept.
func (s *State) VMVersion(id api.ID, version uint64) *api.VMVersion {
	if vm := s.VM(id); vm != nil && vm.SpecVersion == version {
		return versionOf(vm)
	}
	return s.versions.get(versionKey{id, version})
}

// Placements.

// Placement returns the placement of a VM or nil.
func (s *State) Placement(vm api.ID) *api.Placement { return s.placements.get(vm) }

// Placements lists all placements in the order of their VMs' ids.
func (s *State) Placements() iter.Seq[*api.Placement] { return s.placements.all() }

// PlacementsOn lists the placements on a node.
func (s *State) PlacementsOn(node api.ID) iter.Seq[*api.Placement] {
	return walk(s.placements, 0, pairKey{a: node}, func(k pairKey) bool { return k.a == node })
}

// Tombstone returns the order that a node stop a VM, or nil.
func (s *State) Tombstone(node, vm api.ID) *api.Tombstone {
	return s.tombstones.get(pairKey{node, vm})
}

// Tombstones lists all tombstones by node.
func (s *State) Tombstones() iter.Seq[*api.Tombstone] { return s.tombstones.all() }

// TombstonesOn lists the tombstones of a node.
func (s *State) TombstonesOn(node api.ID) iter.Seq[*api.Tombstone] {
	return whileSeq(s.tombstones.from(pairKey{a: node}), func(t *api.Tombstone) bool { return t.NodeID == node })
}

// TombstonesOf lists the tombstones of a VM.
func (s *State) TombstonesOf(vm api.ID) iter.Seq[*api.Tombstone] {
	return walk(s.tombstones, 0, pairKey{a: vm}, func(k pairKey) bool { return k.a == vm })
}

// Orphans lists the domains that nodes hold and Raft does not know.
func (s *State) Orphans() iter.Seq[*OrphanRecord] { return s.orphans.all() }

// OrphansOn lists the orphans of a node.
func (s *State) OrphansOn(node api.ID) iter.Seq[*OrphanRecord] {
	return whileSeq(s.orphans.from(pairKey{a: node}), func(o *OrphanRecord) bool { return o.NodeID == node })
}

// Volumes.

// Volume returns a volume or nil.
func (s *State) Volume(id api.ID) *api.Volume { return s.volumes.get(id) }

// VolumeByName returns a volume or nil.
func (s *State) VolumeByName(ns, name string) *api.Volume { return byNameIn(s.volumes, ns, name) }

// Volumes lists all volumes in the order of their ids.
func (s *State) Volumes() iter.Seq[*api.Volume] { return s.volumes.all() }

// VolumesIn lists the volumes of a namespace by name.
func (s *State) VolumesIn(ns string) iter.Seq[*api.Volume] { return inNamespace(s.volumes, ns, "") }

// VolumesOn lists the volumes on a node.
func (s *State) VolumesOn(node api.ID) iter.Seq[*api.Volume] { return paired(s.volumes, 1, node) }

// VolumesOf lists the volumes attached to a VM in the order of their ids.
func (s *State) VolumesOf(vm api.ID) iter.Seq[*api.Volume] { return paired(s.volumes, 2, vm) }

// VolumesFrom lists the volumes cloned from an image.
func (s *State) VolumesFrom(image api.ID) iter.Seq[*api.Volume] { return paired(s.volumes, 3, image) }

// Pools.

// Pool returns a pool or nil.
func (s *State) Pool(name string) *api.Pool { return s.pools.get(name) }

// Pools lists all pools.
func (s *State) Pools() iter.Seq[*api.Pool] { return s.pools.all() }

// Images.

// Image returns an image or nil.
func (s *State) Image(id api.ID) *api.Image { return s.images.get(id) }

// ImageByName returns an image or nil.
func (s *State) ImageByName(ns, name string) *api.Image { return byNameIn(s.images, ns, name) }

// ImageFor returns the image that a spec of a namespace means by a name: its
// own, else that of the default namespace; nil if there is none.
func (s *State) ImageFor(ns, name string) *api.Image {
	if im := s.ImageByName(ns, name); im != nil {
		return im
	}
	return s.ImageByName(api.DefaultNamespace, name)
}

// Images lists all images in the order of their ids.
func (s *State) Images() iter.Seq[*api.Image] { return s.images.all() }

// ImagesIn lists the images of a namespace by name.
func (s *State) ImagesIn(ns string) iter.Seq[*api.Image] { return inNamespace(s.images, ns, "") }

// Networks.

// Network returns a network or nil.
func (s *State) Network(name string) *api.Network { return s.networks.get(name) }

// Networks lists all networks.
func (s *State) Networks() iter.Seq[*api.Network] { return s.networks.all() }

// Tokens and keys.

// Token returns a token or nil.
func (s *State) Token(accessor api.ID) *TokenRecord { return s.tokens.get(accessor) }

// TokenByHash returns the token whose secret has this SHA-256, or nil.
func (s *State) TokenByHash(sum []byte) *TokenRecord {
	return find(s.tokens, 0, string(sum))
}

// Tokens lists all tokens.
func (s *State) Tokens() iter.Seq[*TokenRecord] { return s.tokens.all() }

// Key returns a key of the region or nil.
func (s *State) Key(name string) *KeyRecord { return s.keys.get(name) }

// CA returns the record of the certificate authority or nil.
func (s *State) CA() *KeyRecord { return s.keys.get(KeyCA) }

// Keys lists the keys of the region.
func (s *State) Keys() iter.Seq[*KeyRecord] { return s.keys.all() }

// Schemas lists the steps of the schema that were taken.
func (s *State) Schemas() iter.Seq[*SchemaRecord] { return s.schemas.all() }

// Helpers over tables whose first index is the name.

func byNameIn[T any, P record[T]](t *table[api.ID, T, P], ns, name string) *T {
	return find(t, 0, nameKeyOf(ns, name))
}

func inNamespace[T any, P record[T]](t *table[api.ID, T, P], ns, name string) iter.Seq[*T] {
	return walk(t, 0, nameKeyOf(ns, name), func(k nameKey) bool { return k.ns == ns })
}

func paired[T any, P record[T]](t *table[api.ID, T, P], i int, a api.ID) iter.Seq[*T] {
	return walk(t, i, pairKey{a: a}, func(k pairKey) bool { return k.a == a })
}

func whileSeq[T any](seq iter.Seq[T], in func(T) bool) iter.Seq[T] {
	return func(yield func(T) bool) {
		for v := range seq {
			if !in(v) || !yield(v) {
				return
			}
		}
	}
}

// Migration returns a migration, or nil.
func (s *State) Migration(id api.ID) *api.Migration { return s.migrations.get(id) }

// Migrations lists all migrations.
func (s *State) Migrations() iter.Seq[*api.Migration] { return s.migrations.all() }

// MigrationsOf lists the migrations of a VM.
func (s *State) MigrationsOf(vm api.ID) iter.Seq[*api.Migration] { return paired(s.migrations, 0, vm) }

// MigrationOf returns the active migration of a VM, or nil. There is at most one.
func (s *State) MigrationOf(vm api.ID) *api.Migration {
	for m := range s.MigrationsOf(vm) {
		if m.Phase.Active() {
			return m
		}
	}
	return nil
}

// MigrationsFrom and MigrationsTo list the migrations of which a node is an end.
func (s *State) MigrationsFrom(node api.ID) iter.Seq[*api.Migration] {
	return paired(s.migrations, 1, node)
}

// MigrationsTo: see MigrationsFrom.
func (s *State) MigrationsTo(node api.ID) iter.Seq[*api.Migration] {
	return paired(s.migrations, 2, node)
}
