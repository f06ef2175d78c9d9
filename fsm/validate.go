package fsm

import (
	"math"
	"slices"
	"strings"

	"github.com/novacron/novacron/api"
)

// The limits on what is replicated. What is refused here is refused on every
// path: these checks are the last ones before the log.
const (
	maxName  = 63
	maxText  = 4096
	maxPairs = 64
	maxDisks = 24
	maxNICs  = 16
	maxCores = 4096
	maxList  = 64
	maxData  = 256 << 10
	maxSize  = 1 << 60
	// What one message of a node may hold, and how many domains that Raft does
	// not know are recorded of one node.
	maxReports = 1 << 14
	maxOrphans = 4096
	// Generations, indexes and epochs that a node claims to have seen are believed
	// up to maxNumber, and no further above what is known than maxJump: they must
	// never wrap around, nor be used up.
	maxNumber = 1 << 62
	maxJump   = 1 << 32
)

// checker collects what is wrong with a request.
type checker struct{ err *api.Error }

func (c *checker) fail(field, format string, args ...any) {
	if c.err == nil {
		c.err = api.Errorf(api.CodeInvalid, "the request is not valid")
	}
	if len(c.err.Details) < 16 {
		c.err = c.err.WithDetail(field, format, args...)
	}
}

func (c *checker) done() error {
	if c.err == nil {
		return nil
	}
	d := c.err.Details[0]
	c.err.Message = d.Field + ": " + d.Message
	return c.err
}

func (c *checker) id(field string, id api.ID) {
	if id.IsZero() {
		c.fail(field, "is missing")
	}
}

// name checks a name: letters, digits, '-', '_' and '.', beginning with a letter
// or a digit, at most 63 characters.
func (c *checker) name(field, s string) {
	if s == "" {
		c.fail(field, "is missing")
		return
	}
	if !ValidName(s) {
		c.fail(field, "%.80q is not a name: want 1 to %d letters, digits, '-', '_' or '.', beginning with a letter or digit", s, maxName)
	}
}

func (c *checker) optName(field, s string) {
	if s != "" {
		c.name(field, s)
	}
}

// ValidName reports whether s may be the name of a noun.
func ValidName(s string) bool {
	return len(s) <= maxName && plainName(s)
}

// validInterface reports whether s may name a bridge of a host: like
// api.ValidInterface, but for ever.
func validInterface(s string) bool {
	return len(s) <= 15 && plainName(s)
}

func plainName(s string) bool {
	if s == "" || !alnum(s[0]) {
		return false
	}
	for i := range len(s) {
		if b := s[i]; !alnum(b) && b != '-' && b != '_' && b != '.' {
			return false
		}
	}
	return true
}

func alnum(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
}

// plainASCII reports whether s is printable ASCII on one or more lines.
func plainASCII(s string) bool {
	for i := range len(s) {
		if b := s[i]; b >= 0x7f || b < ' ' && b != '\n' && b != '\t' {
			return false
		}
	}
	return true
}

// text checks free text: no control characters besides line feed and tab.
func (c *checker) text(field, s string) {
	if len(s) > maxText {
		c.fail(field, "is longer than %d bytes", maxText)
		return
	}
	if plainASCII(s) {
		return // the common case, at a fraction of the cost of decoding runes
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r == 0xfffd }); i >= 0 {
		c.fail(field, "has a control character at byte %d", i)
	}
}

// length checks the length of text that comes from elsewhere: from a hypervisor,
// for example.
func (c *checker) length(field, s string) {
	if len(s) > maxText {
		c.fail(field, "is longer than %d bytes", maxText)
	}
}

func (c *checker) number(field string, n uint64) {
	if n > maxNumber {
		c.fail(field, "%d is out of range", n)
	}
}

func (c *checker) line(field, s string) {
	c.text(field, s)
	if strings.ContainsAny(s, "\n\t") {
		c.fail(field, "has more than one line")
	}
}

func (c *checker) pairs(field string, p api.Pairs) {
	c.pairsUpTo(field, p, maxPairs)
}

func (c *checker) pairsUpTo(field string, p api.Pairs, n int) {
	if len(p) > n {
		c.fail(field, "has more than %d entries", n)
	}
	for i, e := range p {
		if e.K == "" {
			c.fail(field, "has an empty key")
		}
		if i > 0 && p[i-1].K >= e.K {
			c.fail(field, "is not sorted, or %q stands twice", e.K)
		}
		c.line(field, e.K)
		c.text(field, e.V)
	}
}

func (c *checker) oneOf(field, s string, allowed ...string) {
	if !slices.Contains(allowed, s) {
		c.fail(field, "%.80q is not one of: %s", s, strings.TrimPrefix(strings.Join(allowed, ", "), ", "))
	}
}

func (c *checker) size(field string, b api.Bytes, least api.Bytes) {
	if b < least || b > maxSize {
		c.fail(field, "%d bytes is out of range", int64(b))
	}
}

func (c *checker) ratio(field string, r float64) {
	if math.IsNaN(r) || r < 0 || r > 100 {
		c.fail(field, "is not between 0 and 100")
	}
}

func (c *checker) count(field string, n, most int) {
	if n > most {
		c.fail(field, "has %d entries, %d are allowed", n, most)
	}
}

// spec checks a VM's spec as far as it can be without a state.
func (c *checker) spec(s *api.VMSpec) {
	c.name("name", s.Name)
	c.name("namespace", s.Namespace)
	c.text("description", s.Description)
	c.pairs("labels", s.Labels)
	c.count("datacenters", len(s.Datacenters), maxList)
	for _, d := range s.Datacenters {
		c.line("datacenters", d)
	}
	if s.Priority < 0 || s.Priority > 100 {
		c.fail("priority", "%d is not between 1 and 100", s.Priority)
	}
	if s.CPU.Cores < 1 || s.CPU.Cores > maxCores {
		c.fail("cpu.cores", "%d is not between 1 and %d", s.CPU.Cores, maxCores)
	}
	if s.CPU.Reserve < 0 || s.CPU.Reserve > api.Cores(maxCores) {
		c.fail("cpu.reserve", "is out of range")
	}
	c.line("cpu.model", s.CPU.Model)
	c.size("memory", s.Memory, api.MiB)
	c.oneOf("firmware", string(s.Firmware), "", string(api.FirmwareBIOS), string(api.FirmwareUEFI))
	if b := s.Boot; b != nil {
		c.name("boot.kernel", b.Kernel)
		c.optName("boot.initrd", b.Initrd)
		c.line("boot.cmdline", b.Cmdline)
	}
	c.disks(s.Disks)
	c.count("networks", len(s.NICs), maxNICs)
	for i := range s.NICs {
		n := &s.NICs[i]
		c.name("networks.network", n.Network)
		c.line("networks.mac", n.MAC)
		c.line("networks.address", n.Address)
		c.oneOf("networks.model", n.Model, "", "virtio", "e1000", "e1000e")
	}
	if ci := s.CloudInit; ci != nil {
		if len(ci.UserData) > maxData || len(ci.NetworkConfig) > maxData {
			c.fail("cloud_init", "is larger than %d bytes", maxData)
		}
		c.line("cloud_init.hostname", ci.Hostname)
		c.count("cloud_init.ssh_keys", len(ci.SSHKeys), maxList)
		for _, k := range ci.SSHKeys {
			c.line("cloud_init.ssh_keys", k)
		}
	}
	c.rules(s)
	if s.StopTimeout < 0 {
		c.fail("stop_timeout", "is negative")
	}
}

func (c *checker) disks(disks []api.Disk) {
	c.count("disks", len(disks), maxDisks)
	for i := range disks {
		d := &disks[i]
		c.name("disks.name", d.Name)
		for j := range i {
			if disks[j].Name == d.Name {
				c.fail("disks.name", "%q stands twice", d.Name)
			}
			if d.Volume != "" && disks[j].Volume == d.Volume {
				c.fail("disks.volume", "%q stands twice", d.Volume)
			}
		}
		c.optName("disks.image", d.Image)
		c.optName("disks.volume", d.Volume)
		c.optName("disks.pool", d.Pool)
		switch {
		case d.Volume != "" && (d.Image != "" || d.Size != 0):
			c.fail("disks.volume", "disk %q has an existing volume and the size or image of a new one", d.Name)
		case d.Volume == "" && d.Image == "" && d.Size == 0:
			c.fail("disks.size", "disk %q has neither volume, image nor size", d.Name)
		}
		c.size("disks.size", d.Size, 0)
		c.oneOf("disks.format", d.Format, "", "qcow2", "raw")
		c.oneOf("disks.bus", d.Bus, "", "virtio", "sata", "scsi")
		if d.Boot < 0 || d.Boot > maxDisks {
			c.fail("disks.boot", "is out of range")
		}
	}
}

func (c *checker) rules(s *api.VMSpec) {
	c.count("constraints", len(s.Constraints), maxList)
	for i := range s.Constraints {
		k := &s.Constraints[i]
		c.line("constraints.attribute", k.Attribute)
		if k.Attribute == "" {
			c.fail("constraints.attribute", "is missing")
		}
		c.oneOf("constraints.operator", k.Operator, "", "=", "!=", "in", "not_in", "exists", "not_exists", "<", "<=", ">", ">=", "regexp")
		c.line("constraints.value", k.Value)
	}
	c.count("affinities", len(s.Affinities), maxList)
	for i := range s.Affinities {
		a := &s.Affinities[i]
		c.pairs("affinities.selector", a.Selector)
		c.line("affinities.domain", a.Domain)
		if a.Weight < -100 || a.Weight > 100 {
			c.fail("affinities.weight", "%d is not between -100 and 100", a.Weight)
		}
	}
	c.count("spread", len(s.Spread), maxList)
	for i := range s.Spread {
		c.line("spread.attribute", s.Spread[i].Attribute)
		c.pairs("spread.selector", s.Spread[i].Selector)
	}
	c.oneOf("restart.policy", s.Restart.Policy, "", "on-failure", "always", "never")
	if s.Restart.Attempts < 0 || s.Restart.Interval < 0 || s.Restart.Delay < 0 {
		c.fail("restart", "is negative")
	}
	c.oneOf("ha.policy", s.HA.Policy, "", api.HAKeep, api.HARestart, api.HANone)
}
