package command

import (
	"time"

	"github.com/novacron/novacron/api"
)

func namespaceSpecs() []*spec {
	return []*spec{
		{
			name: "namespace list", synopsis: "list namespaces",
			examples: []string{"novacron namespace list"},
			build: func(f *flags) func(*call) error {
				l := f.listFlags()
				return with(func(c *call, cl *api.Client) error {
					list, err := paged(l.q, func(q *api.QueryOptions) ([]*api.Namespace, string, error) {
						r, err := cl.Namespaces().List(c, q)
						if err != nil {
							return nil, "", err
						}
						return r.Items, r.NextToken, nil
					})
					if err != nil {
						return err
					}
					return c.out.show(list, func() error {
						t := c.out.table("NAME", "CREATED", "LABELS", "DESCRIPTION")
						for _, n := range list {
							t.row(n.Name, age(n.CreateTime, time.Now()), labels(n.Labels), clip(n.Description, 60))
						}
						return t.write("No namespaces.")
					})
				})
			},
		},
		{
			name: "namespace status", args: "NAMESPACE", min: 1, max: 1, synopsis: "show a namespace",
			examples: []string{"novacron namespace status default"},
			build: simple(with(func(c *call, cl *api.Client) error {
				r, err := cl.Namespaces().Get(c, c.args[0], nil)
				if err != nil {
					return err
				}
				return showNamespace(c, r.Namespace)
			})),
		},
		{
			name: "namespace create", args: "NAMESPACE", min: 1, max: 1, synopsis: "create or change a namespace",
			examples: []string{"novacron namespace create shop -description 'the web shop'"},
			build: func(f *flags) func(*call) error {
				desc := f.String("description", "", "`text` for people")
				lb := f.pairs("label", "a label `key=value`; may be repeated")
				check := f.check("namespace")
				return with(func(c *call, cl *api.Client) error {
					req := &api.NamespaceApply{Namespace: api.Namespace{Name: c.args[0], Description: *desc, Labels: *lb}, CheckIndex: *check}
					r, err := write(c, func(o *api.WriteOptions) (*api.NamespaceResponse, error) { return cl.Namespaces().Apply(c, req, o) })
					if err != nil {
						return err
					}
					return showNamespace(c, r.Namespace)
				})
			},
		},
		deleteSpec("namespace", "delete empty namespaces", func(cl *api.Client) deleter { return cl.Namespaces() }),
	}
}

func showNamespace(c *call, n *api.Namespace) error {
	return c.out.show(n, func() error {
		f := c.out.fields()
		f.add("Name", n.Name)
		f.add("Description", n.Description)
		f.add("Labels", labels(n.Labels))
		f.add("Created", age(n.CreateTime, time.Now()))
		f.add("Index", uintText(n.ModifyIndex))
		f.write()
		return nil
	})
}
