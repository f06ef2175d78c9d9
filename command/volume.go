package command

import (
	"time"

	"github.com/novacron/novacron/api"
)

func volumeSpecs() []*spec {
	return []*spec{
		{
			name: "volume list", synopsis: "list volumes",
			examples: []string{"novacron volume list", "novacron volume list -filter 'pool == \"default\"'"},
			build: func(f *flags) func(*call) error {
				l := f.listFlags()
				return with(func(c *call, cl *api.Client) error {
					list, err := all(cl.Volumes().All(c, &l.q))
					if err != nil {
						return err
					}
					names := nodeNames(c, cl)
					return c.out.show(list, func() error {
						t := c.out.table("NAME", "ID", "STATE", "POOL", "NODE", "SIZE", "USED", "FORMAT", "VM", "CREATED")
						for _, v := range list {
							t.row(v.Name, v.ID.Short(), c.out.state(string(v.State)), v.Pool, names(v.NodeID), v.Size.String(), v.Used.String(), v.Format, shortID(v.VMID), age(v.CreateTime, time.Now()))
						}
						return t.write("No volumes.")
					})
				})
			},
		},
		{
			name: "volume status", args: "VOLUME", min: 1, max: 1, synopsis: "show a volume",
			examples: []string{"novacron volume status data"},
			build: simple(with(func(c *call, cl *api.Client) error {
				r, err := cl.Volumes().Get(c, c.args[0], nil)
				if err != nil {
					return err
				}
				return showVolume(c, cl, r.Volume)
			})),
		},
		{
			name: "volume create", args: "NAME", min: 1, max: 1, synopsis: "make a volume that outlives its VM",
			long:     "Without -node the scheduler chooses where it lives.",
			examples: []string{"novacron volume create data -size 20GiB", "novacron volume create root -image debian-12 -size 10GiB -node n1"},
			build:    volumeCreate,
		},
		deleteSpec("volume", "delete volumes that no VM uses, with their content", func(cl *api.Client) deleter { return cl.Volumes() }),
	}
}

func volumeCreate(f *flags) func(*call) error {
	req := &api.VolumeCreate{}
	amount := f.size("size", "`size`, such as 20GiB; with -image at least the image's")
	f.StringVar(&req.Pool, "pool", "", "`name` of the pool (default \"default\")")
	f.StringVar(&req.Node, "node", "", "`name` of the node")
	f.StringVar(&req.Format, "format", "", "`format`: qcow2 (default) or raw")
	f.StringVar(&req.Image, "image", "", "`name` of the image to clone")
	lb := f.pairs("label", "a label `key=value`; may be repeated")
	return with(func(c *call, cl *api.Client) error {
		req.Name, req.Size, req.Labels = c.args[0], *amount, *lb
		r, err := write(c, func(o *api.WriteOptions) (*api.VolumeResponse, error) { return cl.Volumes().Create(c, req, o) })
		if err != nil {
			return err
		}
		return showVolume(c, cl, r.Volume)
	})
}

func showVolume(c *call, cl *api.Client, v *api.Volume) error {
	return c.out.show(v, func() error {
		names := nodeNames(c, cl)
		f := c.out.fields()
		f.add("Name", v.Name)
		f.add("ID", v.ID.String())
		f.add("Namespace", v.Namespace)
		f.add("State", c.out.state(string(v.State)))
		f.add("Error", v.Error)
		f.add("Pool", v.Pool)
		f.add("Node", names(v.NodeID))
		f.add("Size", v.Size.String())
		f.add("Used", bar(float64(v.Used), float64(v.Size), 24)+"  "+v.Used.String())
		f.add("Format", v.Format)
		f.add("Image", shortID(v.Image))
		f.add("VM", shortID(v.VMID))
		f.add("Goes with its VM", yes(v.Owned))
		f.add("Labels", labels(v.Labels))
		f.add("Created", age(v.CreateTime, time.Now()))
		f.write()
		return nil
	})
}
