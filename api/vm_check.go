package api

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of a VM.
const (
	MaxCores         = 512
	MinMemory        = 16 * MiB
	MaxMemory        = 64 * TiB
	MaxDisks         = 24
	MaxDiskSize      = 1024 * TiB
	MaxNICs          = 16
	MaxUserData      = 256 << 10
	MaxNetworkConfig = 64 << 10
	MaxCmdline       = 2047 // what the x86 kernel reads
	MaxSSHKeys       = 64
	MaxSSHKey        = 4096
	MaxConstraints   = 64
	MaxAffinities    = 32
	MaxDatacenters   = 64
)

// Defaults of a VM.
const (
	DefaultPriority    = 50
	DefaultPool        = "default"
	DefaultStopTimeout = Duration(60 * time.Second)
)

// The words of a spec.
const (
	ModelBaseline = "baseline"
	ModelHost     = "host"

	FormatQCOW2 = "qcow2"
	FormatRaw   = "raw"

	BusVirtio = "virtio"
	BusSATA   = "sata"
	BusSCSI   = "scsi"

	RestartOnFailure = "on-failure"
	RestartAlways    = "always"
	RestartNever     = "never"
)

// Operators are the operators of constraints.
var Operators = []string{"=", "!=", "in", "not_in", "exists", "not_exists", "<", "<=", ">", ">=", "regexp"}

func or[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Canonicalize fills in the defaults and brings sets into one order, so that
// equal wishes are equal specs.
func (s *VMSpec) Canonicalize() {
	or(&s.Namespace, DefaultNamespace)
	or(&s.Priority, DefaultPriority)
	or(&s.Firmware, FirmwareBIOS)
	or(&s.HA.Policy, HAKeep)
	or(&s.StopTimeout, DefaultStopTimeout)
	s.Labels = sortPairs(s.Labels)
	slices.Sort(s.Datacenters)
	s.Datacenters = emptyNil(slices.Compact(s.Datacenters))
	or(&s.CPU.Model, ModelBaseline)
	if s.CPU.Cores > 0 {
		or(&s.CPU.Reserve, Cores(int(s.CPU.Cores)))
	}
	for i := range s.Disks {
		s.Disks[i].canonicalize(i)
	}
	for i := range s.NICs {
		n := &s.NICs[i]
		or(&n.Model, BusVirtio)
		if m, err := ParseMAC(n.MAC); err == nil {
			n.MAC = m
		}
	}
	if ci := s.CloudInit; ci != nil {
		or(&ci.Hostname, strings.TrimRight(s.Name, "-"))
		ci.SSHKeys = emptyNil(ci.SSHKeys)
	}
	for i := range s.Constraints {
		or(&s.Constraints[i].Operator, "=")
	}
	for i := range s.Affinities {
		a := &s.Affinities[i]
		or(&a.Domain, "node.id")
		a.Selector = sortPairs(a.Selector)
	}
	for i := range s.Spread {
		or(&s.Spread[i].Weight, 50)
		s.Spread[i].Selector = sortPairs(s.Spread[i].Selector)
	}
	or(&s.Restart.Policy, RestartOnFailure)
	or(&s.Restart.Attempts, 3)
	or(&s.Restart.Interval, Duration(10*time.Minute))
	or(&s.Restart.Delay, Duration(5*time.Second))
	s.Disks, s.NICs = emptyNil(s.Disks), emptyNil(s.NICs)
	s.Constraints, s.Affinities, s.Spread = emptyNil(s.Constraints), emptyNil(s.Affinities), emptyNil(s.Spread)
}

func emptyNil[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return s
}

func (d *Disk) canonicalize(i int) {
	or(&d.Name, fmt.Sprintf("disk%d", i))
	or(&d.Bus, BusVirtio)
	if d.Volume == "" { // an existing volume knows its pool and format
		or(&d.Pool, DefaultPool)
		or(&d.Format, FormatQCOW2)
	}
}

// Validate checks a canonical spec.
func (s *VMSpec) Validate() error {
	var c checks
	s.check(&c)
	return c.err("the VM specification")
}

func (s *VMSpec) check(c *checks) {
	c.name("name", s.Name)
	c.namespace("namespace", s.Namespace)
	c.text("description", s.Description, MaxDescription)
	c.labels("labels", s.Labels)
	if len(s.Datacenters) > MaxDatacenters {
		c.add("datacenters", "has %d entries, at most %d are allowed", len(s.Datacenters), MaxDatacenters)
	} else {
		for i, dc := range s.Datacenters {
			c.name(fmt.Sprintf("datacenters[%d]", i), dc)
		}
	}
	between(c, "priority", s.Priority, 1, 100)
	s.CPU.check(c)
	switch {
	case s.Memory < MinMemory || s.Memory > MaxMemory:
		c.add("memory", "%d bytes is out of range: want %s to %s", int64(s.Memory), MinMemory, MaxMemory)
	case s.Memory%MiB != 0:
		c.add("memory", "%d bytes is not a multiple of 1 MiB", int64(s.Memory))
	}
	c.oneOf("firmware", string(s.Firmware), string(FirmwareBIOS), string(FirmwareUEFI))
	if b := s.Boot; b != nil {
		c.name("boot.kernel", b.Kernel)
		c.optName("boot.initrd", b.Initrd)
		c.ascii("boot.cmdline", b.Cmdline, MaxCmdline)
	}
	s.checkDisks(c)
	s.checkNICs(c)
	if s.CloudInit != nil {
		s.CloudInit.check(c)
	}
	s.checkRules(c)
	c.oneOf("restart.policy", s.Restart.Policy, RestartOnFailure, RestartAlways, RestartNever)
	between(c, "restart.attempts", s.Restart.Attempts, 1, 1000)
	c.lasts("restart.interval", s.Restart.Interval, Duration(time.Second), Duration(7*24*time.Hour))
	c.lasts("restart.delay", s.Restart.Delay, Duration(time.Millisecond), Duration(time.Hour))
	c.oneOf("ha.policy", s.HA.Policy, HAKeep, HARestart, HANone)
	c.lasts("stop_timeout", s.StopTimeout, Duration(time.Second), Duration(24*time.Hour))
	s.Migration.check(c)
}

func (p *CPUSpec) check(c *checks) {
	between(c, "cpu.cores", p.Cores, 1, MaxCores)
	if p.Cores >= 1 && p.Cores <= MaxCores {
		between(c, "cpu.reserve", p.Reserve, 1, Cores(int(p.Cores)))
	}
	if p.Model == "" || len(p.Model) > 64 || !onlyOf(p.Model, "._-") || !onlyOf(p.Model[:1], "") {
		c.add("cpu.model", "%s is not a CPU model: want letters, digits, '.', '_' and '-', beginning with a letter or digit", quote(p.Model))
	}
}

func (s *VMSpec) checkDisks(c *checks) {
	if len(s.Disks) > MaxDisks {
		c.add("disk", "has %d entries, at most %d are allowed", len(s.Disks), MaxDisks)
		return
	}
	names, volumes, orders := map[string]bool{}, map[string]bool{}, map[int32]bool{}
	for i := range s.Disks {
		d := &s.Disks[i]
		at := fmt.Sprintf("disk[%d].", i)
		c.name(at+"name", d.Name)
		if names[d.Name] {
			c.add(at+"name", "%s is used twice", quote(d.Name))
		}
		names[d.Name] = true
		d.check(c, at)
		if d.Volume != "" {
			if volumes[d.Volume] {
				c.add(at+"volume", "%s is attached twice", quote(d.Volume))
			}
			volumes[d.Volume] = true
		}
		if d.Boot != 0 {
			between(c, at+"boot", d.Boot, 1, MaxDisks)
			if orders[d.Boot] {
				c.add(at+"boot", "%d is used twice", d.Boot)
			}
			orders[d.Boot] = true
		}
	}
}

func (d *Disk) check(c *checks, at string) {
	c.oneOf(at+"bus", d.Bus, BusVirtio, BusSATA, BusSCSI)
	if d.ReadOnly && d.Bus == BusSATA {
		c.add(at+"read_only", "is not possible on the bus sata: use virtio or scsi")
	}
	if d.Volume != "" {
		c.name(at+"volume", d.Volume)
		for _, f := range []struct {
			name string
			set  bool
		}{{"image", d.Image != ""}, {"size", d.Size != 0}, {"pool", d.Pool != ""}, {"format", d.Format != ""}} {
			if f.set {
				c.add(at+f.name, "cannot be set together with volume: an existing volume has its own")
			}
		}
		return
	}
	c.optName(at+"image", d.Image)
	c.name(at+"pool", d.Pool)
	c.oneOf(at+"format", d.Format, FormatQCOW2, FormatRaw)
	if d.Size == 0 && d.Image == "" {
		c.add(at+"size", "is missing: give size, image or volume")
	} else {
		checkDiskSize(c, at+"size", d.Size, d.Image != "")
	}
}

// checkDiskSize checks the size of a new volume; zero is allowed where an
// image gives it.
func checkDiskSize(c *checks, field string, b Bytes, image bool) {
	switch {
	case b == 0 && image:
	case b < MiB || b > MaxDiskSize:
		c.add(field, "%d bytes is out of range: want %s to %s", int64(b), MiB, MaxDiskSize)
	case b%512 != 0:
		c.add(field, "%d bytes is not a multiple of 512", int64(b))
	}
}

func (s *VMSpec) checkNICs(c *checks) {
	if len(s.NICs) > MaxNICs {
		c.add("network", "has %d entries, at most %d are allowed", len(s.NICs), MaxNICs)
		return
	}
	macs, addrs := map[string]bool{}, map[netip.Addr]bool{}
	for i, n := range s.NICs {
		at := fmt.Sprintf("network[%d].", i)
		c.name(at+"network", n.Network)
		c.oneOf(at+"model", n.Model, "virtio", "e1000", "e1000e")
		if n.MAC != "" {
			m, err := ParseMAC(n.MAC)
			if err != nil {
				c.add(at+"mac", "%v", err)
			} else if macs[m] {
				c.add(at+"mac", "%s is used twice", m)
			}
			macs[m] = true
		}
		if n.Address != "" {
			a, err := parseAddress(n.Address)
			if err != nil {
				c.add(at+"address", "%v", err)
			} else if addrs[a] {
				c.add(at+"address", "%s is used twice", a)
			}
			addrs[a] = true
		}
	}
}

// parseAddress reads the address of a guest, with or without a prefix length.
func parseAddress(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		p, perr := netip.ParsePrefix(s)
		if perr != nil {
			return a, fmt.Errorf("%s is not an address: want 192.0.2.10 or 192.0.2.10/24", quote(s))
		}
		a = p.Addr()
	}
	if a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Is4In6() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return a, fmt.Errorf("%s cannot be the address of a guest", quote(s))
	}
	return a, nil
}

func (ci *CloudInit) check(c *checks) {
	if len(ci.UserData) > MaxUserData {
		c.add("cloud_init.user_data", "is %d bytes long, at most %d are allowed", len(ci.UserData), MaxUserData)
	}
	nc := ci.NetworkConfig
	switch {
	case len(nc) > MaxNetworkConfig:
		c.add("cloud_init.network_config", "is %d bytes long, at most %d are allowed", len(nc), MaxNetworkConfig)
	case !utf8.Valid(nc) || bytes.IndexByte(nc, 0) >= 0:
		c.add("cloud_init.network_config", "is not text in UTF-8")
	case bytes.Contains(nc, []byte("!!python")) || bytes.Contains(nc, []byte("tag:yaml.org,2002:python")):
		c.add("cloud_init.network_config", "has a YAML tag that makes objects")
	}
	c.hostName("cloud_init.hostname", ci.Hostname)
	if len(ci.SSHKeys) > MaxSSHKeys {
		c.add("cloud_init.ssh_keys", "has %d entries, at most %d are allowed", len(ci.SSHKeys), MaxSSHKeys)
		return
	}
	for i, k := range ci.SSHKeys {
		at := fmt.Sprintf("cloud_init.ssh_keys[%d]", i)
		if !validSSHKey(k) {
			c.add(at, "is not a public key: want one line \"type base64 comment\" with a known type")
			continue
		}
		c.text(at, k, MaxSSHKey)
	}
}

var sshTypes = []string{
	"ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
	"sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com",
}

// validSSHKey accepts an authorized_keys line without options whose blob names
// the same type as its first word.
func validSSHKey(k string) bool {
	if len(k) > MaxSSHKey || strings.ContainsAny(k, "\r\n\x00") {
		return false
	}
	f := strings.SplitN(k, " ", 3)
	if len(f) < 2 || !slices.Contains(sshTypes, f[0]) {
		return false
	}
	blob, err := base64.StdEncoding.DecodeString(f[1])
	if err != nil || len(blob) < 4 {
		return false
	}
	n := int64(binary.BigEndian.Uint32(blob))
	return n < int64(len(blob)-4) && string(blob[4:4+n]) == f[0]
}

// attribute checks the name of a node attribute.
func (c *checks) attribute(field, s string) {
	if s == "" {
		c.add(field, "is missing")
	} else if len(s) > MaxLabelKey+8 || !onlyOf(s, "._/-") {
		c.add(field, "%s is not an attribute: want a name such as node.datacenter, label.rack or kernel.name", quote(s))
	}
}

func (s *VMSpec) checkRules(c *checks) {
	if len(s.Constraints) > MaxConstraints {
		c.add("constraint", "has %d entries, at most %d are allowed", len(s.Constraints), MaxConstraints)
	} else {
		for i := range s.Constraints {
			s.Constraints[i].check(c, fmt.Sprintf("constraint[%d].", i))
		}
	}
	if len(s.Affinities) > MaxAffinities {
		c.add("affinity", "has %d entries, at most %d are allowed", len(s.Affinities), MaxAffinities)
	} else {
		for i, a := range s.Affinities {
			at := fmt.Sprintf("affinity[%d].", i)
			if len(a.Selector) == 0 {
				c.add(at+"selector", "is missing: name the labels of the other VMs")
			}
			c.labels(at+"selector", a.Selector)
			c.attribute(at+"domain", a.Domain)
			between(c, at+"weight", a.Weight, -100, 100)
		}
	}
	if len(s.Spread) > MaxAffinities {
		c.add("spread", "has %d entries, at most %d are allowed", len(s.Spread), MaxAffinities)
		return
	}
	for i, sp := range s.Spread {
		at := fmt.Sprintf("spread[%d].", i)
		c.attribute(at+"attribute", sp.Attribute)
		c.labels(at+"selector", sp.Selector)
		between(c, at+"weight", sp.Weight, 1, 100)
	}
}

func (k *Constraint) check(c *checks, at string) {
	c.attribute(at+"attribute", k.Attribute)
	c.oneOf(at+"operator", k.Operator, Operators...)
	c.text1(at+"value", k.Value, 512, k.Operator)
	switch k.Operator {
	case "exists", "not_exists":
		if k.Value != "" {
			c.add(at+"value", "has no meaning with the operator %s", k.Operator)
		}
	case "regexp":
		if _, err := regexp.Compile(k.Value); err != nil || k.Value == "" {
			c.add(at+"value", "%s is not a regular expression", quote(k.Value))
		}
	case "in", "not_in":
		if strings.Trim(k.Value, ", ") == "" {
			c.add(at+"value", "is missing: want a list such as \"a,b\"")
		}
	case "<", "<=", ">", ">=":
		if k.Value == "" || k.Value[0] < '0' && k.Value[0] != '-' && k.Value[0] != '+' && k.Value[0] != '.' || k.Value[0] > '9' && k.Value[0] != 'v' {
			c.add(at+"value", "%s is neither a number nor a version", quote(k.Value))
		}
	}
}

// text1 is text, except that a regular expression may hold < and >.
func (c *checks) text1(field, s string, most int, operator string) {
	if operator == "regexp" {
		s = strings.NewReplacer("<", "", ">", "").Replace(s)
	}
	c.text(field, s, most)
}
