package fsm

import (
	"bytes"
	"io"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/novacron/novacron/api"
	"github.com/shoenig/test/must"
)

// Version 2 of the schema exists only here. It keeps the description of a
// namespace as the label "description", and brings a command that gives a
// namespace an owner, which version 1 has no place for.

const cmdNamespaceOwner = 60100

// namespaceOwner is a command of schema 2; with a note it needs schema 3.
type namespaceOwner struct{ NamespaceApply }

func (c *namespaceOwner) CommandID() uint16 { return cmdNamespaceOwner }

func (c *namespaceOwner) schema() uint32 {
	if c.Namespace.Description != "" {
		return 3
	}
	return 2
}

func (c *namespaceOwner) apply(tx *Txn) (any, error) {
	n := *tx.s.Namespace(c.Namespace.Name)
	owner, _ := c.Namespace.Labels.Get("owner")
	n.Labels = n.Labels.Set("owner", owner)
	namespaceDef.put(tx, &n)
	return nil, nil
}

func version2() *Registry {
	r := DefaultRegistry()
	r.add("namespaceOwner", 2, func() Command { return new(namespaceOwner) })
	each := func(tx *Txn, fn func(n *api.Namespace) error) error {
		var all []*api.Namespace
		for n := range tx.s.Namespaces() {
			all = append(all, n)
		}
		for _, n := range all {
			m := *n
			if err := fn(&m); err != nil {
				return err
			}
			namespaceDef.put(tx, &m)
		}
		return nil
	}
	r.AddStep(Step{Version: 2, Name: "descriptions are labels",
		Up: func(tx *Txn) error {
			return each(tx, func(n *api.Namespace) error {
				if n.Description != "" {
					n.Labels, n.Description = n.Labels.Set("description", n.Description), ""
				}
				return nil
			})
		},
		Down: func(tx *Txn) error {
			return each(tx, func(n *api.Namespace) error {
				if _, ok := n.Labels.Get("owner"); ok {
					return api.Errorf(api.CodeSchema, "namespace %q has an owner, which schema 1 cannot hold", n.Name)
				}
				n.Description, _ = n.Labels.Get("description")
				var rest api.Pairs
				for _, p := range n.Labels {
					if p.K != "description" {
						rest = append(rest, p)
					}
				}
				n.Labels = rest
				return nil
			})
		},
	})
	return r
}

func TestSchemaGoesUpAndDownUntilFinalized(t *testing.T) {
	w := newWorld(t, version2())
	w.ok(&ClusterInit{ClusterID: id('c', 1), Region: "r1", RegionID: id('c', 2)})
	w.ok(&NamespaceApply{Namespace: api.Namespace{Name: "dev", Description: "for trying things"}})
	before := w.s().Namespace("dev")
	must.Eq(t, 2, w.f.Registry().Newest())
	must.Len(t, 1, w.f.Registry().Steps())

	owner := &namespaceOwner{NamespaceApply{Namespace: api.Namespace{Name: "dev", Labels: api.Pairs{{K: "owner", V: "ann"}}}}}
	w.refused(api.CodeSchema, owner)
	w.refused(api.CodeSchema, &SchemaStep{Version: 3})
	w.refused(api.CodeInvalid, &SchemaStep{})

	w.ok(&SchemaStep{Version: 2})
	w.ok(&SchemaStep{Version: 2})
	must.Eq(t, 2, w.s().Schema())
	must.Eq(t, 1, w.s().Finalized())
	must.Eq(t, "", w.s().Namespace("dev").Description)
	note, _ := w.s().Namespace("dev").Labels.Get("description")
	must.Eq(t, "for trying things", note)
	var names []string
	for r := range w.s().Schemas() {
		names = append(names, r.Name)
	}
	must.Eq(t, []string{"first", "descriptions are labels"}, names)

	w.ok(&SchemaStep{Version: 1})
	must.Eq(t, 1, w.s().Schema())
	must.Eq(t, before, w.s().Namespace("dev"), must.Sprint("down is the way back"))

	// What the old schema cannot hold stops the way back.
	w.ok(&SchemaStep{Version: 2})
	w.ok(owner)
	newer := &namespaceOwner{NamespaceApply{Namespace: api.Namespace{Name: "dev", Description: "x"}}}
	w.refused(api.CodeSchema, newer)
	e := w.refused(api.CodeSchema, &SchemaStep{Version: 1})
	must.StrContains(t, e.Message, "owner")
	must.Eq(t, 2, w.s().Schema())

	w.refused(api.CodeSchema, &SchemaFinalize{Version: 1})
	w.refused(api.CodeInvalid, &SchemaFinalize{})
	w.ok(&SchemaFinalize{Version: 2})
	w.ok(&SchemaFinalize{Version: 2})
	must.Eq(t, 2, w.s().Finalized())
	w.refused(api.CodeSchema, &SchemaStep{Version: 1})
}

func TestSchemaOfOldAndNewBinaries(t *testing.T) {
	now := newWorld(t, version2())
	now.ok(&ClusterInit{ClusterID: id('c', 1), Region: "r1", RegionID: id('c', 2)})
	now.ok(ns("dev"))

	// The new binary runs the old schema: an old one follows its log.
	old := newWorld(t, nil)
	for _, l := range now.log {
		old.f.Apply(l)
	}
	must.Eq(t, now.s().Hash(), old.s().Hash())

	// An old binary does not know the step: it must not go on.
	now.ok(&SchemaStep{Version: 2})
	other := newWorld(t, nil)
	for _, l := range now.log {
		other.f.Apply(l)
	}
	must.StrContains(t, other.halt.Error(), "schema 2 is not known to this binary")
	// Nor a command of the new schema.
	now.ok(&namespaceOwner{NamespaceApply{Namespace: api.Namespace{Name: "dev"}}})
	old.f.Apply(now.log[len(now.log)-1])
	must.StrContains(t, old.halt.Error(), "not known to this binary")

	// Nor does it take the new schema's snapshot.
	var b bytes.Buffer
	must.NoError(t, now.s().Persist(&b))
	fresh := New(Config{})
	err := fresh.Restore(io.NopCloser(bytes.NewReader(b.Bytes())))
	must.Eq(t, api.CodeSchema, api.CodeOf(err))
	newer := New(Config{Registry: version2()})
	must.NoError(t, newer.Restore(io.NopCloser(bytes.NewReader(b.Bytes()))))
	must.Eq(t, now.s().Hash(), newer.State().Hash())
}

// An entry runs under the schema that is active at its index, whatever was
// active when it was proposed.
func TestSchemaAtApplyCounts(t *testing.T) {
	w := newWorld(t, version2())
	w.ok(ns("dev"))
	w.ok(&SchemaStep{Version: 2})
	data, err := Encode(&namespaceOwner{NamespaceApply{Namespace: api.Namespace{Name: "dev"}}}, Meta{Time: 1, Schema: 2, Registry: w.f.reg})
	must.NoError(t, err)
	w.ok(&SchemaStep{Version: 1})
	r := w.f.Apply(&raft.Log{Index: w.index + 1, Type: raft.LogCommand, Data: data}).(*Result)
	must.Eq(t, api.CodeSchema, r.Err.Code)
	must.Nil(t, w.halt)
}

func TestRegistryRefusesMistakes(t *testing.T) {
	must.Panic(t, func() { r := DefaultRegistry(); r.add("again", 1, func() Command { return new(Hash) }) })
	must.Panic(t, func() { r := DefaultRegistry(); r.AddStep(Step{Version: 3}) })
}
