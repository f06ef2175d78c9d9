package fsm

import "github.com/novacron/novacron/api"

// ClusterInit makes the region: its identity, its keys and the default
// namespace. It answers nothing, and is refused the second time.
type ClusterInit struct {
	ClusterID api.ID      `msg:"cluster_id,omitempty"`
	Region    string      `msg:"region,omitempty"`
	RegionID  api.ID      `msg:"region_id,omitempty"`
	Keys      []KeyRecord `msg:"keys,omitempty"`
	// Expect holds scheduling back until so many servers are voters.
	Expect int32 `msg:"expect,omitempty"`
}

// CommandID is 1.
func (c *ClusterInit) CommandID() uint16 { return cmdClusterInit }

// Validate checks the identity and the keys.
func (c *ClusterInit) Validate() error {
	var k checker
	k.id("cluster_id", c.ClusterID)
	k.id("region_id", c.RegionID)
	k.name("region", c.Region)
	k.count("keys", len(c.Keys), maxList)
	for i := range c.Keys {
		k.key(&c.Keys[i])
	}
	k.scheduler(&api.SchedulerConfig{Expect: c.Expect})
	return k.done()
}

func (c *ClusterInit) apply(tx *Txn) (any, error) {
	if m := &tx.s.meta; !m.ClusterID.IsZero() {
		if m.ClusterID == c.ClusterID {
			return nil, nil
		}
		return nil, api.Errorf(api.CodeExists, "the region %q is initialised already", m.Region)
	}
	tx.setMeta(func(m *MetaRecord) {
		m.ClusterID, m.Region, m.RegionID = c.ClusterID, c.Region, c.RegionID
		m.Scheduler = api.SchedulerConfig{Algorithm: "binpack", CPURatio: DefaultCPURatio, MemoryRatio: DefaultMemoryRatio, Expect: c.Expect, ModifyIndex: tx.index}
		m.Generation = max(m.Generation, 1)
	})
	for i := range c.Keys {
		tx.putKey(c.Keys[i])
	}
	if tx.s.Namespace(api.DefaultNamespace) == nil {
		namespaceDef.put(tx, &api.Namespace{Name: api.DefaultNamespace, CreateTime: tx.now, CreateIndex: tx.index, ModifyIndex: tx.index})
	}
	schemaDef.put(tx, &SchemaRecord{Version: 1, Name: "first", Applied: tx.now, Index: tx.index})
	return nil, nil
}

// KeyringPut stores a key, sealed. It answers nothing.
type KeyringPut struct {
	Key KeyRecord `msg:"key,omitempty"`
}

// CommandID is 31.
func (c *KeyringPut) CommandID() uint16 { return cmdKeyringPut }

// Validate checks the key.
func (c *KeyringPut) Validate() error {
	var k checker
	k.key(&c.Key)
	return k.done()
}

func (c *KeyringPut) apply(tx *Txn) (any, error) {
	if old := tx.s.Key(c.Key.Name); old != nil && c.Key.Version < old.Version {
		return nil, api.Errorf(api.CodeConflict, "key %q has version %d already", old.Name, old.Version)
	}
	tx.putKey(c.Key)
	return nil, nil
}

func (k *checker) key(r *KeyRecord) {
	k.name("keys.name", r.Name)
	k.line("keys.kind", r.Kind)
	if len(r.Sealed) > maxData || len(r.Public) > maxData {
		k.fail("keys", "%q is larger than %d bytes", r.Name, maxData)
	}
}

func (tx *Txn) putKey(r KeyRecord) {
	if r.CreateTime == 0 {
		r.CreateTime = tx.now
	}
	r.ModifyIndex = tx.index
	keyDef.put(tx, &r)
}

// SchedulerSet changes how the region schedules. It answers
// *api.SchedulerConfig.
type SchedulerSet struct {
	Config     api.SchedulerConfig `msg:"config,omitempty"`
	CheckIndex *uint64             `msg:"check_index,omitempty"`
}

// CommandID is 26.
func (c *SchedulerSet) CommandID() uint16 { return cmdSchedulerSet }

// Validate checks the configuration.
func (c *SchedulerSet) Validate() error {
	var k checker
	k.scheduler(&c.Config)
	return k.done()
}

func (k *checker) scheduler(s *api.SchedulerConfig) {
	k.oneOf("algorithm", s.Algorithm, "", "binpack", "spread")
	k.ratio("cpu_ratio", s.CPURatio)
	k.ratio("memory_ratio", s.MemoryRatio)
	if s.Expect < 0 || s.Expect > 99 {
		k.fail("expect", "is out of range")
	}
	if s.Migrations < 0 || s.NodeMigrations < 0 {
		k.fail("migrations", "is out of range")
	}
}

func (c *SchedulerSet) apply(tx *Txn) (any, error) {
	if err := checkIndex(c.CheckIndex, tx.s.meta.Scheduler.ModifyIndex, "the scheduler's configuration"); err != nil {
		return nil, err
	}
	cfg := c.Config
	cfg.ModifyIndex = tx.index
	tx.setMeta(func(m *MetaRecord) { m.Scheduler = cfg })
	return &cfg, nil
}

// checkIndex is the check of a write: nil means none, zero that the noun must
// not exist, anything else must be its modify index.
func checkIndex(check *uint64, now api.Index, what string) error {
	switch {
	case check == nil || *check == now:
		return nil
	case *check == 0:
		return api.Errorf(api.CodeExists, "%s exists already", what)
	case now == 0:
		return api.Errorf(api.CodeConflict, "%s does not exist any more", what)
	}
	return api.Errorf(api.CodeConflict, "%s was changed at index %d, after %d", what, now, *check)
}

// sameIndex is the check of a delete: zero means none.
func sameIndex(check, now api.Index, what string) error {
	if check == 0 {
		return nil
	}
	return checkIndex(&check, now, what)
}

// settled refuses what must not happen during recovery.
func (tx *Txn) settled() error {
	if tx.s.meta.Recovery != nil {
		return api.Errorf(api.CodeRecovery, "the region was restored from a snapshot and waits for %d nodes to report", len(tx.s.meta.Recovery.Waiting)).
			WithHint("see: novacron operator recovery")
	}
	return nil
}
