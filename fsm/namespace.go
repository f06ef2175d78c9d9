package fsm

import "github.com/novacron/novacron/api"

// NamespaceApply creates or changes a namespace. It answers *api.Namespace.
type NamespaceApply struct {
	Namespace  api.Namespace `msg:"namespace,omitempty"`
	CheckIndex *uint64       `msg:"check_index,omitempty"`
}

// CommandID is 2.
func (c *NamespaceApply) CommandID() uint16 { return cmdNamespaceApply }

// Validate checks the fields.
func (c *NamespaceApply) Validate() error {
	var k checker
	k.name("name", c.Namespace.Name)
	k.text("description", c.Namespace.Description)
	k.pairs("labels", c.Namespace.Labels)
	return k.done()
}

func (c *NamespaceApply) apply(tx *Txn) (any, error) {
	old := tx.s.Namespace(c.Namespace.Name)
	n := c.Namespace
	n.CreateTime, n.CreateIndex, n.ModifyIndex = tx.now, tx.index, tx.index
	var now api.Index
	if old != nil {
		now, n.CreateTime, n.CreateIndex = old.ModifyIndex, old.CreateTime, old.CreateIndex
	}
	if err := checkIndex(c.CheckIndex, now, "namespace "+n.Name); err != nil {
		return nil, err
	}
	namespaceDef.put(tx, &n)
	tx.made(api.ID{}, n.Name)
	return &n, nil
}

// NamespaceDelete deletes an empty namespace. It answers nothing.
type NamespaceDelete struct {
	Name       string `msg:"name,omitempty"`
	CheckIndex uint64 `msg:"check_index,omitempty"`
}

// CommandID is 3.
func (c *NamespaceDelete) CommandID() uint16 { return cmdNamespaceDel }

// Validate protects the default namespace.
func (c *NamespaceDelete) Validate() error {
	if c.Name == api.DefaultNamespace {
		return api.Errorf(api.CodeProtected, "the namespace %q cannot be deleted", c.Name)
	}
	return nil
}

func (c *NamespaceDelete) apply(tx *Txn) (any, error) {
	if err := tx.settled(); err != nil {
		return nil, err
	}
	n := tx.s.Namespace(c.Name)
	if n == nil {
		return nil, api.Errorf(api.CodeNotFound, "namespace %q not found", c.Name)
	}
	if err := sameIndex(c.CheckIndex, n.ModifyIndex, "namespace "+c.Name); err != nil {
		return nil, err
	}
	for v := range tx.s.VMsIn(c.Name) {
		return nil, inUse("namespace", c.Name, "VM "+v.Name)
	}
	for v := range tx.s.VolumesIn(c.Name) {
		return nil, inUse("namespace", c.Name, "volume "+v.Name)
	}
	for v := range tx.s.ImagesIn(c.Name) {
		return nil, inUse("namespace", c.Name, "image "+v.Name)
	}
	namespaceDef.del(tx, c.Name)
	return nil, nil
}

func inUse(noun, name, by string) *api.Error {
	return api.Errorf(api.CodeInUse, "%s %q is in use by %s", noun, name, by)
}

// needNamespace refuses nouns of a namespace that does not exist.
func (tx *Txn) needNamespace(ns string) error {
	if tx.s.Namespace(ns) == nil {
		return api.Errorf(api.CodeNotFound, "namespace %q not found", ns)
	}
	return nil
}
