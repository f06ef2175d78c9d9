package fsm

import (
	"bytes"

	"github.com/novacron/novacron/api"
)

// The names of the tables, as they stand in changes, watches and snapshots.
const (
	TableNamespace = "namespace"
	TableNode      = "node"
	TableSession   = "session"
	TableDenied    = "denied"
	TableVM        = "vm"
	TableVersion   = "vm_version"
	TablePlacement = "placement"
	TableTombstone = "tombstone"
	TableOrphan    = "orphan"
	TableVolume    = "volume"
	TablePool      = "pool"
	TableImage     = "image"
	TableNetwork   = "network"
	TableToken     = "token"
	TableKey       = "key"
	TableSchema    = "schema"
	TableIdem      = "idempotency"
	TableMeta      = "meta"
	TableMigration = "migration"
)

// The names of the secondary indexes, for watches.
const (
	byName  = "name"
	byNode  = "node"
	byVM    = "vm"
	byHash  = "hash"
	byTime  = "time"
	primary = "id"
)

// defs lists the tables in the order of snapshots and hashes. It is appended to.
var defs = []anyDef{
	metaDef, namespaceDef, nodeDef, sessionDef, deniedDef, vmDef, versionDef, placementDef, tombstoneDef, orphanDef,
	volumeDef, poolDef, imageDef, networkDef, tokenDef, keyDef, schemaDef, idemDef, migrationDef,
}

func name(ns, n string) string { return ns + "\x00" + n }

var namespaceDef = &tableDef[string, api.Namespace, *api.Namespace]{
	name:  TableNamespace,
	key:   func(v *api.Namespace) string { return v.Name },
	less:  stringLess[api.Namespace],
	of:    func(s *State) **table[string, api.Namespace, *api.Namespace] { return &s.namespaces },
	watch: func(v *api.Namespace, emit func(i, p string)) { emit(primary, v.Name) },
}

// nodeKey is a node by its name.
type nodeKey struct {
	name string
	id   api.ID
}

var nodeDef = &tableDef[api.ID, api.Node, *api.Node]{
	name: TableNode,
	key:  func(v *api.Node) api.ID { return v.ID },
	less: idLess[api.Node],
	// A name may stand twice while an old node of that name is lost or has left.
	secs: func() []secondary[api.ID, api.Node] {
		return []secondary[api.ID, api.Node]{newIndex[nodeKey, api.ID](
			func(v *api.Node) (nodeKey, bool) { return nodeKey{v.Name, v.ID}, true },
			func(a, b nodeKey) bool {
				if a.name != b.name {
					return a.name < b.name
				}
				return cmpID(a.id, b.id) < 0
			})}
	},
	of: func(s *State) **table[api.ID, api.Node, *api.Node] { return &s.nodes },
	watch: func(v *api.Node, emit func(i, p string)) {
		emit(primary, bytesOf(v.ID))
		emit(byName, v.Name)
	},
}

var sessionDef = &tableDef[api.ID, SessionRecord, *SessionRecord]{
	name: TableSession,
	key:  func(v *SessionRecord) api.ID { return v.NodeID },
	less: idLess[SessionRecord],
	of:   func(s *State) **table[api.ID, SessionRecord, *SessionRecord] { return &s.sessions },
}

var deniedDef = &tableDef[api.ID, DeniedRecord, *DeniedRecord]{
	name: TableDenied,
	key:  func(v *DeniedRecord) api.ID { return v.NodeID },
	less: idLess[DeniedRecord],
	of:   func(s *State) **table[api.ID, DeniedRecord, *DeniedRecord] { return &s.denied },
}

var vmDef = &tableDef[api.ID, api.VM, *api.VM]{
	name: TableVM,
	key:  func(v *api.VM) api.ID { return v.ID },
	less: idLess[api.VM],
	secs: func() []secondary[api.ID, api.VM] {
		return []secondary[api.ID, api.VM]{newIndex[nameKey, api.ID](
			func(v *api.VM) (nameKey, bool) { return nameKeyOf(v.Namespace, v.Name), true }, nameLess)}
	},
	of: func(s *State) **table[api.ID, api.VM, *api.VM] { return &s.vms },
	watch: func(v *api.VM, emit func(i, p string)) {
		emit(primary, bytesOf(v.ID))
		emit(byName, v.Namespace)
		emit(byName, name(v.Namespace, v.Name))
	},
}

// versionKey is a version of a VM's spec.
type versionKey struct {
	vm      api.ID
	version uint64
}

var versionDef = &tableDef[versionKey, api.VMVersion, *api.VMVersion]{
	name: TableVersion,
	key:  func(v *api.VMVersion) versionKey { return versionKey{v.VMID, v.Version} },
	less: func(a, b entry[versionKey, api.VMVersion]) bool {
		if c := cmpID(a.key.vm, b.key.vm); c != 0 {
			return c < 0
		}
		return a.key.version < b.key.version
	},
	of:    func(s *State) **table[versionKey, api.VMVersion, *api.VMVersion] { return &s.versions },
	watch: func(v *api.VMVersion, emit func(i, p string)) { emit(byVM, bytesOf(v.VMID)) },
}

var placementDef = &tableDef[api.ID, api.Placement, *api.Placement]{
	name: TablePlacement,
	key:  func(v *api.Placement) api.ID { return v.VMID },
	less: idLess[api.Placement],
	secs: func() []secondary[api.ID, api.Placement] {
		return []secondary[api.ID, api.Placement]{newIndex[pairKey, api.ID](
			func(v *api.Placement) (pairKey, bool) { return pairKey{v.NodeID, v.VMID}, true }, pairLess)}
	},
	of: func(s *State) **table[api.ID, api.Placement, *api.Placement] { return &s.placements },
	watch: func(v *api.Placement, emit func(i, p string)) {
		emit(primary, bytesOf(v.VMID))
		emit(byNode, bytesOf(v.NodeID))
		emit(byName, v.Namespace)
	},
	derive: countPlacement,
}

var tombstoneDef = &tableDef[pairKey, api.Tombstone, *api.Tombstone]{
	name: TableTombstone,
	key:  func(v *api.Tombstone) pairKey { return pairKey{v.NodeID, v.VMID} },
	less: func(a, b entry[pairKey, api.Tombstone]) bool { return pairLess(a.key, b.key) },
	secs: func() []secondary[pairKey, api.Tombstone] {
		return []secondary[pairKey, api.Tombstone]{newIndex[pairKey, pairKey](
			func(v *api.Tombstone) (pairKey, bool) { return pairKey{v.VMID, v.NodeID}, true }, pairLess)}
	},
	of: func(s *State) **table[pairKey, api.Tombstone, *api.Tombstone] { return &s.tombstones },
	watch: func(v *api.Tombstone, emit func(i, p string)) {
		emit(byNode, bytesOf(v.NodeID))
		emit(byVM, bytesOf(v.VMID))
	},
}

var orphanDef = &tableDef[pairKey, OrphanRecord, *OrphanRecord]{
	name:  TableOrphan,
	key:   func(v *OrphanRecord) pairKey { return pairKey{v.NodeID, v.VMID} },
	less:  func(a, b entry[pairKey, OrphanRecord]) bool { return pairLess(a.key, b.key) },
	of:    func(s *State) **table[pairKey, OrphanRecord, *OrphanRecord] { return &s.orphans },
	watch: func(v *OrphanRecord, emit func(i, p string)) { emit(byNode, bytesOf(v.NodeID)) },
}

var volumeDef = &tableDef[api.ID, api.Volume, *api.Volume]{
	name: TableVolume,
	key:  func(v *api.Volume) api.ID { return v.ID },
	less: idLess[api.Volume],
	secs: func() []secondary[api.ID, api.Volume] {
		return []secondary[api.ID, api.Volume]{
			newIndex[nameKey, api.ID](func(v *api.Volume) (nameKey, bool) { return nameKeyOf(v.Namespace, v.Name), true }, nameLess),
			newIndex[pairKey, api.ID](func(v *api.Volume) (pairKey, bool) { return pairKey{v.NodeID, v.ID}, !v.NodeID.IsZero() }, pairLess),
			newIndex[pairKey, api.ID](func(v *api.Volume) (pairKey, bool) { return pairKey{v.VMID, v.ID}, !v.VMID.IsZero() }, pairLess),
			newIndex[pairKey, api.ID](func(v *api.Volume) (pairKey, bool) { return pairKey{v.Image, v.ID}, !v.Image.IsZero() }, pairLess),
		}
	},
	of: func(s *State) **table[api.ID, api.Volume, *api.Volume] { return &s.volumes },
	watch: func(v *api.Volume, emit func(i, p string)) {
		emit(primary, bytesOf(v.ID))
		emit(byName, v.Namespace)
		emit(byName, name(v.Namespace, v.Name))
		emit(byNode, bytesOf(v.NodeID))
		emit(byVM, bytesOf(v.VMID))
	},
	derive: countVolume,
}

var poolDef = &tableDef[string, api.Pool, *api.Pool]{
	name:  TablePool,
	key:   func(v *api.Pool) string { return v.Name },
	less:  stringLess[api.Pool],
	of:    func(s *State) **table[string, api.Pool, *api.Pool] { return &s.pools },
	watch: func(v *api.Pool, emit func(i, p string)) { emit(primary, v.Name) },
}

var imageDef = &tableDef[api.ID, api.Image, *api.Image]{
	name: TableImage,
	key:  func(v *api.Image) api.ID { return v.ID },
	less: idLess[api.Image],
	secs: func() []secondary[api.ID, api.Image] {
		return []secondary[api.ID, api.Image]{newIndex[nameKey, api.ID](
			func(v *api.Image) (nameKey, bool) { return nameKeyOf(v.Namespace, v.Name), true }, nameLess)}
	},
	of: func(s *State) **table[api.ID, api.Image, *api.Image] { return &s.images },
	watch: func(v *api.Image, emit func(i, p string)) {
		emit(primary, bytesOf(v.ID))
		emit(byName, v.Namespace)
		emit(byName, name(v.Namespace, v.Name))
	},
}

var networkDef = &tableDef[string, api.Network, *api.Network]{
	name:  TableNetwork,
	key:   func(v *api.Network) string { return v.Name },
	less:  stringLess[api.Network],
	of:    func(s *State) **table[string, api.Network, *api.Network] { return &s.networks },
	watch: func(v *api.Network, emit func(i, p string)) { emit(primary, v.Name) },
}

var tokenDef = &tableDef[api.ID, TokenRecord, *TokenRecord]{
	name: TableToken,
	key:  func(v *TokenRecord) api.ID { return v.Token.Accessor },
	less: idLess[TokenRecord],
	secs: func() []secondary[api.ID, TokenRecord] {
		return []secondary[api.ID, TokenRecord]{newIndex[string, api.ID](
			func(v *TokenRecord) (string, bool) { return string(v.Hash), true },
			func(a, b string) bool { return a < b })}
	},
	of:    func(s *State) **table[api.ID, TokenRecord, *TokenRecord] { return &s.tokens },
	watch: func(v *TokenRecord, emit func(i, p string)) { emit(primary, bytesOf(v.Token.Accessor)) },
}

var keyDef = &tableDef[string, KeyRecord, *KeyRecord]{
	name:  TableKey,
	key:   func(v *KeyRecord) string { return v.Name },
	less:  stringLess[KeyRecord],
	of:    func(s *State) **table[string, KeyRecord, *KeyRecord] { return &s.keys },
	watch: func(v *KeyRecord, emit func(i, p string)) { emit(primary, v.Name) },
}

var schemaDef = &tableDef[uint32, SchemaRecord, *SchemaRecord]{
	name: TableSchema,
	key:  func(v *SchemaRecord) uint32 { return v.Version },
	less: func(a, b entry[uint32, SchemaRecord]) bool { return a.key < b.key },
	of:   func(s *State) **table[uint32, SchemaRecord, *SchemaRecord] { return &s.schemas },
}

// timeKey orders idempotency records by age.
type timeKey struct {
	time api.Time
	key  string
}

// callerKey orders them by caller, then by age.
type callerKey struct {
	accessor api.ID
	index    api.Index
	key      string
}

var idemDef = &tableDef[string, IdemRecord, *IdemRecord]{
	name: TableIdem,
	key:  func(v *IdemRecord) string { return string(v.Key) },
	less: stringLess[IdemRecord],
	secs: func() []secondary[string, IdemRecord] {
		return []secondary[string, IdemRecord]{
			newIndex[timeKey, string](func(v *IdemRecord) (timeKey, bool) { return timeKey{v.Time, string(v.Key)}, true },
				func(a, b timeKey) bool {
					if a.time != b.time {
						return a.time < b.time
					}
					return a.key < b.key
				}),
			newIndex[callerKey, string](func(v *IdemRecord) (callerKey, bool) { return callerKey{v.Accessor, v.Index, string(v.Key)}, true },
				func(a, b callerKey) bool {
					if c := bytes.Compare(a.accessor[:], b.accessor[:]); c != 0 {
						return c < 0
					}
					if a.index != b.index {
						return a.index < b.index
					}
					return a.key < b.key
				}),
		}
	},
	of:     func(s *State) **table[string, IdemRecord, *IdemRecord] { return &s.idems },
	derive: countIdem,
}

var migrationDef = &tableDef[api.ID, api.Migration, *api.Migration]{
	name: TableMigration,
	key:  func(v *api.Migration) api.ID { return v.ID },
	less: idLess[api.Migration],
	secs: func() []secondary[api.ID, api.Migration] {
		return []secondary[api.ID, api.Migration]{
			newIndex[pairKey, api.ID](func(v *api.Migration) (pairKey, bool) { return pairKey{v.VMID, v.ID}, true }, pairLess),
			newIndex[pairKey, api.ID](func(v *api.Migration) (pairKey, bool) { return pairKey{v.From, v.ID}, true }, pairLess),
			newIndex[pairKey, api.ID](func(v *api.Migration) (pairKey, bool) { return pairKey{v.To, v.ID}, !v.To.IsZero() }, pairLess),
		}
	},
	of: func(s *State) **table[api.ID, api.Migration, *api.Migration] { return &s.migrations },
	watch: func(v *api.Migration, emit func(i, p string)) {
		emit(primary, bytesOf(v.ID))
		emit(byVM, bytesOf(v.VMID))
		emit(byName, v.Namespace)
		emit(byNode, bytesOf(v.From))
		if !v.To.IsZero() {
			emit(byNode, bytesOf(v.To))
		}
	},
	derive: countMigration,
}
