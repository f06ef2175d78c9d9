package fsm

import "github.com/novacron/novacron/api"

// PoolApply creates or changes what an operator may set of a pool. It answers
// *api.Pool.
type PoolApply struct {
	Pool       api.Pool `msg:"pool,omitempty"`
	CheckIndex *uint64  `msg:"check_index,omitempty"`
}

// CommandID is 16.
func (c *PoolApply) CommandID() uint16 { return cmdPoolApply }

// Validate checks the fields.
func (c *PoolApply) Validate() error {
	var k checker
	k.name("name", c.Pool.Name)
	k.optName("type", c.Pool.Type)
	k.text("description", c.Pool.Description)
	k.ratio("ratio", c.Pool.Ratio)
	k.pairs("labels", c.Pool.Labels)
	return k.done()
}

func (c *PoolApply) apply(tx *Txn) (any, error) {
	p := c.Pool
	old := tx.s.Pool(p.Name)
	p.CreateIndex, p.ModifyIndex = tx.index, tx.index
	var now api.Index
	if old != nil {
		now, p.CreateIndex = old.ModifyIndex, old.CreateIndex
		if p.Type == "" {
			p.Type, p.Shared = old.Type, old.Shared
		}
		if (p.Type != old.Type || p.Shared != old.Shared) && tx.poolUsed(p.Name) != "" {
			return nil, api.Errorf(api.CodeInUse, "the type of pool %q cannot change: it is in use by %s", p.Name, tx.poolUsed(p.Name))
		}
	}
	if err := checkIndex(c.CheckIndex, now, "pool "+p.Name); err != nil {
		return nil, err
	}
	if p.Type == "" {
		p.Type = "dir"
	}
	poolDef.put(tx, &p)
	tx.made(api.ID{}, p.Name)
	return &p, nil
}

// poolUsed names something that uses a pool, or returns "".
func (tx *Txn) poolUsed(pool string) string {
	for d := range scan(tx.s.use.disks) {
		if d.pool == pool && d.volumes > 0 {
			return "volumes"
		}
	}
	for n := range tx.s.Nodes() {
		if NodePoolOf(n, pool) != nil {
			return "node " + n.Name
		}
	}
	return ""
}

// PoolDelete deletes a pool that no volume and no node has. It answers nothing.
type PoolDelete struct {
	Name       string `msg:"name,omitempty"`
	CheckIndex uint64 `msg:"check_index,omitempty"`
}

// CommandID is 17.
func (c *PoolDelete) CommandID() uint16 { return cmdPoolDelete }

// Validate checks nothing: the name is looked up.
func (c *PoolDelete) Validate() error { return nil }

func (c *PoolDelete) apply(tx *Txn) (any, error) {
	if err := tx.settled(); err != nil {
		return nil, err
	}
	p := tx.s.Pool(c.Name)
	if p == nil {
		return nil, api.Errorf(api.CodeNotFound, "pool %q not found", c.Name)
	}
	if err := sameIndex(c.CheckIndex, p.ModifyIndex, "pool "+c.Name); err != nil {
		return nil, err
	}
	if by := tx.poolUsed(c.Name); by != "" {
		return nil, inUse("pool", c.Name, by)
	}
	poolDef.del(tx, c.Name)
	return nil, nil
}
