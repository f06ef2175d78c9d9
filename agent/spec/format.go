package spec

import (
	"encoding/base64"
	"math/big"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/novacron/novacron/api"
)

// Format writes a spec as HCL that Parse reads back to the same spec, once the
// defaults are filled in again: what is a default is left out.
func Format(s *api.VMSpec) []byte {
	def := api.VMSpec{Name: s.Name, CPU: api.CPUSpec{Cores: s.CPU.Cores}}
	def.Canonicalize()
	file := hclwrite.NewEmptyFile()
	w := writer{file.Body().AppendNewBlock("vm", []string{s.Name}).Body()}
	w.text("namespace", string(s.Namespace), def.Namespace)
	w.text("description", s.Description, "")
	w.pairs("labels", s.Labels)
	w.texts("datacenters", s.Datacenters)
	w.num("priority", int64(s.Priority), int64(def.Priority))
	if s.CPU.Model == def.CPU.Model && s.CPU.Reserve == def.CPU.Reserve || s.CPU == (api.CPUSpec{Cores: s.CPU.Cores}) {
		w.num("cpu", int64(s.CPU.Cores), 0)
	}
	w.size("memory", s.Memory)
	w.text("firmware", string(s.Firmware), string(def.Firmware))
	w.text("ha", s.HA.Policy, def.HA.Policy)
	w.bool("protection", s.Protection)
	w.text("stop_timeout", durationText(s.StopTimeout), durationText(def.StopTimeout))
	if _, short := w.b.Attributes()["cpu"]; !short {
		c := w.block("cpu")
		c.num("cores", int64(s.CPU.Cores), 0)
		if s.CPU.Reserve != def.CPU.Reserve && s.CPU.Reserve != 0 {
			c.b.SetAttributeValue("reserve", cty.NumberVal(new(big.Float).Quo(big.NewFloat(float64(s.CPU.Reserve)), big.NewFloat(1000))))
		}
		c.text("model", s.CPU.Model, def.CPU.Model)
	}
	if s.Boot != nil {
		c := w.block("boot")
		c.text("kernel", s.Boot.Kernel, "")
		c.text("initrd", s.Boot.Initrd, "")
		c.text("cmdline", s.Boot.Cmdline, "")
	}
	for _, k := range s.Disks {
		w.disk(k)
	}
	for _, n := range s.NICs {
		c := w.block("network", n.Network)
		c.text("mac", n.MAC, "")
		c.text("model", n.Model, "virtio")
		c.text("address", n.Address, "")
	}
	if s.CloudInit != nil {
		w.cloudInit(s)
	}
	if s.Console != (api.ConsoleSpec{}) {
		c := w.block("console")
		if s.Console.NoSerial {
			c.b.SetAttributeValue("serial", cty.False)
		}
		c.bool("vnc", s.Console.VNC)
	}
	w.rules(s)
	if s.Restart != def.Restart && s.Restart != (api.RestartPolicy{}) {
		c := w.block("restart")
		c.text("policy", s.Restart.Policy, def.Restart.Policy)
		c.num("attempts", int64(s.Restart.Attempts), int64(def.Restart.Attempts))
		c.text("interval", durationText(s.Restart.Interval), durationText(def.Restart.Interval))
		c.text("delay", durationText(s.Restart.Delay), durationText(def.Restart.Delay))
	}
	if m := s.Migration; !m.IsZero() {
		c := w.block("migration")
		c.text("mode", m.Mode, "")
		c.text("max_downtime", durationText(m.MaxDowntime), "")
		c.text("downtime_limit", durationText(m.DowntimeLimit), "")
		c.bool("auto_converge", m.AutoConverge)
		c.bool("warm_fallback", m.WarmFallback)
	}
	return hclwrite.Format(file.Bytes())
}

// writer appends to one block.
type writer struct{ b *hclwrite.Body }

func (w writer) block(kind string, labels ...string) writer {
	if len(w.b.Attributes()) > 0 || len(w.b.Blocks()) > 0 {
		w.b.AppendNewline()
	}
	return writer{w.b.AppendNewBlock(kind, labels).Body()}
}

func (w writer) text(name, v, def string) {
	if v != def && v != "" {
		w.b.SetAttributeValue(name, cty.StringVal(v))
	}
}

func (w writer) num(name string, v, def int64) {
	if v != def && v != 0 {
		w.b.SetAttributeValue(name, cty.NumberIntVal(v))
	}
}

func (w writer) bool(name string, v bool) {
	if v {
		w.b.SetAttributeValue(name, cty.True)
	}
}

// size writes the largest unit that says it exactly.
func (w writer) size(name string, v api.Bytes) {
	for _, u := range []struct {
		unit api.Bytes
		name string
	}{{api.TiB, "TiB"}, {api.GiB, "GiB"}, {api.MiB, "MiB"}, {api.KiB, "KiB"}} {
		if v >= u.unit && v%u.unit == 0 {
			w.b.SetAttributeValue(name, cty.StringVal(big.NewInt(int64(v/u.unit)).String()+u.name))
			return
		}
	}
	w.num(name, int64(v), 0)
}

func (w writer) texts(name string, list []string) {
	var vals []cty.Value
	for _, s := range list {
		vals = append(vals, cty.StringVal(s))
	}
	if len(vals) > 0 {
		w.b.SetAttributeValue(name, cty.TupleVal(vals))
	}
}

// pairs writes an object whose keys are quoted where they are not words.
func (w writer) pairs(name string, p api.Pairs) {
	if len(p) == 0 {
		return
	}
	var items []hclwrite.ObjectAttrTokens
	for _, e := range p {
		key := hclwrite.TokensForValue(cty.StringVal(e.K))
		if hclsyntax.ValidIdentifier(e.K) {
			key = hclwrite.TokensForIdentifier(e.K)
		}
		items = append(items, hclwrite.ObjectAttrTokens{Name: key, Value: hclwrite.TokensForValue(cty.StringVal(e.V))})
	}
	w.b.SetAttributeRaw(name, hclwrite.TokensForObject(items))
}

func (w writer) disk(k api.Disk) {
	c := w.block("disk", k.Name)
	c.text("image", k.Image, "")
	if k.Size != 0 {
		c.size("size", k.Size)
	}
	c.text("volume", k.Volume, "")
	c.text("pool", k.Pool, api.DefaultPool)
	c.text("format", k.Format, api.FormatQCOW2)
	c.text("bus", k.Bus, api.BusVirtio)
	c.bool("keep", k.Keep)
	c.bool("read_only", k.ReadOnly)
	c.num("boot", int64(k.Boot), 0)
}

func (w writer) cloudInit(s *api.VMSpec) {
	ci, c := s.CloudInit, w.block("cloud_init")
	c.text("hostname", ci.Hostname, strings.TrimRight(s.Name, "-"))
	c.texts("ssh_keys", ci.SSHKeys)
	if len(ci.UserData) > 0 && !c.prose("user_data", ci.UserData) {
		c.text("user_data_base64", base64.StdEncoding.EncodeToString(ci.UserData), "")
	}
	if len(ci.NetworkConfig) > 0 && !c.prose("network_config", ci.NetworkConfig) {
		c.text("network_config", string(ci.NetworkConfig), "")
	}
}

// prose writes lines of text as a heredoc, if a heredoc brings them back byte
// for byte.
func (w writer) prose(name string, data []byte) bool {
	s := string(data)
	if !utf8.ValidString(s) || cty.StringVal(s).AsString() != s || !strings.HasSuffix(s, "\n") {
		return false
	}
	for _, r := range s {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			return false
		}
	}
	for line := range strings.Lines(s) {
		if strings.TrimSpace(line) == "EOT" {
			return false
		}
	}
	s = strings.NewReplacer("${", "$${", "%{", "%%{").Replace(s)
	w.b.SetAttributeRaw(name, hclwrite.Tokens{
		{Type: hclsyntax.TokenOHeredoc, Bytes: []byte("<<EOT\n")},
		{Type: hclsyntax.TokenStringLit, Bytes: []byte(s)},
		{Type: hclsyntax.TokenCHeredoc, Bytes: []byte("EOT")},
	})
	return true
}

func (w writer) rules(s *api.VMSpec) {
	for _, k := range s.Constraints {
		c := w.block("constraint")
		c.text("attribute", k.Attribute, "")
		c.text("operator", k.Operator, "=")
		c.text("value", k.Value, "")
	}
	for _, anti := range []bool{false, true} {
		for _, a := range s.Affinities {
			if a.Anti != anti {
				continue
			}
			c := w.block(map[bool]string{false: "affinity", true: "anti_affinity"}[anti])
			c.pairs("selector", a.Selector)
			c.text("domain", a.Domain, "node.id")
			c.num("weight", int64(a.Weight), 0)
		}
	}
	for _, p := range s.Spread {
		c := w.block("spread")
		c.text("attribute", p.Attribute, "")
		c.pairs("selector", p.Selector)
		c.num("weight", int64(p.Weight), 50)
	}
}

func durationText(d api.Duration) string {
	if d == 0 {
		return ""
	}
	s := d.String() // 10m0s
	if t, ok := strings.CutSuffix(s, "m0s"); ok {
		s = t + "m"
	}
	if t, ok := strings.CutSuffix(s, "h0m"); ok {
		s = t + "h"
	}
	return s
}
