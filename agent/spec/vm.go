package spec

import (
	"encoding/base64"
	"fmt"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/novacron/novacron/api"
)

// vm reads a vm block.
func (d *decoder) vm(b *hclsyntax.Block) api.VMSpec {
	s := api.VMSpec{Name: b.Labels[0]}
	d.prefix = "vm." + clip(s.Name, 64) + "."
	defer func() { d.prefix = "" }()
	f := d.fields(b.Body)
	f.attr("namespace", text(&s.Namespace))
	f.attr("description", text(&s.Description))
	f.attr("labels", pairs(&s.Labels))
	f.attr("datacenters", texts(&s.Datacenters))
	f.attr("priority", integer(&s.Priority))
	f.attr("cpu", integer(&s.CPU.Cores))
	f.block("cpu", 0, 1, func(b *hclsyntax.Block) {
		g := d.fields(b.Body)
		g.attr("cores", integer(&s.CPU.Cores))
		g.attr("reserve", cores(&s.CPU.Reserve))
		g.attr("model", text(&s.CPU.Model))
		g.done()
	})
	if a := b.Body.Attributes["cpu"]; a != nil {
		for _, blk := range b.Body.Blocks {
			if blk.Type == "cpu" {
				d.add(a.NameRange, "cpu", "cpu is there as an attribute and as a block")
			}
		}
	}
	f.attr("memory", size(&s.Memory))
	f.attr("firmware", text(&s.Firmware))
	f.block("boot", 0, 1, func(b *hclsyntax.Block) {
		s.Boot = &api.BootSpec{}
		g := d.fields(b.Body)
		g.attr("kernel", text(&s.Boot.Kernel))
		g.attr("initrd", text(&s.Boot.Initrd))
		g.attr("cmdline", text(&s.Boot.Cmdline))
		g.done()
	})
	f.block("disk", 1, 2*api.MaxDisks, func(b *hclsyntax.Block) { s.Disks = append(s.Disks, d.disk(b)) })
	f.block("network", 1, 2*api.MaxNICs, func(b *hclsyntax.Block) {
		n := api.NIC{Network: b.Labels[0]}
		g := d.fields(b.Body)
		g.attr("mac", text(&n.MAC))
		g.attr("model", text(&n.Model))
		g.attr("address", text(&n.Address))
		g.done()
		s.NICs = append(s.NICs, n)
	})
	f.block("cloud_init", 0, 1, func(b *hclsyntax.Block) { s.CloudInit = d.cloudInit(b) })
	f.block("console", 0, 1, func(b *hclsyntax.Block) {
		serial := true
		g := d.fields(b.Body)
		g.attr("serial", boolean(&serial))
		g.attr("vnc", boolean(&s.Console.VNC))
		g.done()
		s.Console.NoSerial = !serial
	})
	f.block("constraint", 0, 2*api.MaxConstraints, func(b *hclsyntax.Block) {
		var c api.Constraint
		g := d.fields(b.Body)
		g.attr("attribute", text(&c.Attribute))
		g.attr("operator", text(&c.Operator))
		g.attr("value", scalar(&c.Value))
		g.done()
		s.Constraints = append(s.Constraints, c)
	})
	for _, kind := range []string{"affinity", "anti_affinity"} {
		f.block(kind, 0, 2*api.MaxAffinities, func(b *hclsyntax.Block) {
			a := api.Affinity{Anti: kind == "anti_affinity"}
			g := d.fields(b.Body)
			g.attr("selector", pairs(&a.Selector))
			g.attr("domain", text(&a.Domain))
			g.attr("weight", integer(&a.Weight))
			g.done()
			s.Affinities = append(s.Affinities, a)
		})
	}
	f.block("spread", 0, 2*api.MaxAffinities, func(b *hclsyntax.Block) {
		var sp api.Spread
		g := d.fields(b.Body)
		g.attr("attribute", text(&sp.Attribute))
		g.attr("selector", pairs(&sp.Selector))
		g.attr("weight", integer(&sp.Weight))
		g.done()
		s.Spread = append(s.Spread, sp)
	})
	f.block("restart", 0, 1, func(b *hclsyntax.Block) {
		g := d.fields(b.Body)
		g.attr("policy", text(&s.Restart.Policy))
		g.attr("attempts", integer(&s.Restart.Attempts))
		g.attr("interval", duration(&s.Restart.Interval))
		g.attr("delay", duration(&s.Restart.Delay))
		g.done()
	})
	f.attr("ha", text(&s.HA.Policy))
	f.block("ha", 0, 1, func(b *hclsyntax.Block) {
		g := d.fields(b.Body)
		g.attr("policy", text(&s.HA.Policy))
		g.done()
	})
	f.block("migration", 0, 1, func(b *hclsyntax.Block) {
		g := d.fields(b.Body)
		g.attr("mode", text(&s.Migration.Mode))
		g.attr("max_downtime", duration(&s.Migration.MaxDowntime))
		g.attr("downtime_limit", duration(&s.Migration.DowntimeLimit))
		g.attr("auto_converge", boolean(&s.Migration.AutoConverge))
		g.attr("warm_fallback", boolean(&s.Migration.WarmFallback))
		g.done()
	})
	f.attr("protection", boolean(&s.Protection))
	f.attr("stop_timeout", duration(&s.StopTimeout))
	f.done()
	return s
}

func (d *decoder) disk(b *hclsyntax.Block) api.Disk {
	k := api.Disk{Name: b.Labels[0]}
	g := d.fields(b.Body)
	g.attr("image", text(&k.Image))
	g.attr("size", size(&k.Size))
	g.attr("volume", text(&k.Volume))
	g.attr("pool", text(&k.Pool))
	g.attr("format", text(&k.Format))
	g.attr("bus", text(&k.Bus))
	g.attr("keep", boolean(&k.Keep))
	g.attr("read_only", boolean(&k.ReadOnly))
	g.attr("boot", integer(&k.Boot))
	g.done()
	return k
}

func (d *decoder) cloudInit(b *hclsyntax.Block) *api.CloudInit {
	ci := &api.CloudInit{}
	raw := func(v cty.Value) error {
		var s string
		if err := text(&s)(v); err != nil {
			return err
		}
		ci.UserData = []byte(s)
		return nil
	}
	encoded := func(v cty.Value) error {
		var s string
		if err := text(&s)(v); err != nil {
			return err
		}
		if ci.UserData != nil {
			return fmt.Errorf("user_data and user_data_base64 exclude each other")
		}
		data, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return fmt.Errorf("is not base64")
		}
		ci.UserData = data
		return nil
	}
	g := d.fields(b.Body)
	g.attr("user_data", raw)
	g.attr("user_data_base64", encoded)
	g.attr("network_config", func(v cty.Value) error {
		var s string
		err := text(&s)(v)
		ci.NetworkConfig = []byte(s)
		return err
	})
	g.attr("hostname", text(&ci.Hostname))
	g.attr("ssh_keys", texts(&ci.SSHKeys))
	g.done()
	return ci
}
