package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"pgregory.net/rapid"
)

func good() *VMSpec {
	s := &VMSpec{Name: "web", CPU: CPUSpec{Cores: 2}, Memory: 512 * MiB}
	s.Canonicalize()
	return s
}

func TestCanonicalizeFillsDefaults(t *testing.T) {
	t.Parallel()
	s := &VMSpec{
		Name: "web-", CPU: CPUSpec{Cores: 2}, Memory: GiB,
		Labels:      Pairs{{K: "b", V: "1"}, {K: "a", V: "2"}},
		Datacenters: []string{"dc2", "dc1", "dc2"},
		Disks:       []Disk{{Size: GiB}, {Volume: "data"}},
		NICs:        []NIC{{Network: "lan", MAC: "52-54-00-AB-CD-EF"}},
		CloudInit:   &CloudInit{},
		Constraints: []Constraint{{Attribute: "label.rack", Value: "r1"}},
		Affinities:  []Affinity{{Selector: Pairs{{K: "app", V: "db"}}}},
		Spread:      []Spread{{Attribute: "label.rack"}},
	}
	s.Canonicalize()
	must.NoError(t, s.Validate())
	must.Eq(t, "default", s.Namespace)
	must.Eq(t, 50, s.Priority)
	must.Eq(t, Cores(2), s.CPU.Reserve)
	must.Eq(t, "baseline", s.CPU.Model)
	must.Eq(t, FirmwareBIOS, s.Firmware)
	must.Eq(t, []string{"dc1", "dc2"}, s.Datacenters)
	must.Eq(t, Pairs{{K: "a", V: "2"}, {K: "b", V: "1"}}, s.Labels)
	must.Eq(t, Disk{Name: "disk0", Size: GiB, Pool: "default", Format: "qcow2", Bus: "virtio"}, s.Disks[0])
	must.Eq(t, Disk{Name: "disk1", Volume: "data", Bus: "virtio"}, s.Disks[1])
	must.Eq(t, NIC{Network: "lan", MAC: "52:54:00:ab:cd:ef", Model: "virtio"}, s.NICs[0])
	must.Eq(t, "web", s.CloudInit.Hostname)
	must.Eq(t, "=", s.Constraints[0].Operator)
	must.Eq(t, "node.id", s.Affinities[0].Domain)
	must.Eq(t, 50, s.Spread[0].Weight)
	must.Eq(t, RestartPolicy{Policy: "on-failure", Attempts: 3, Interval: Duration(10 * time.Minute), Delay: Duration(5 * time.Second)}, s.Restart)
	must.Eq(t, HAKeep, s.HA.Policy)
	must.Eq(t, Duration(time.Minute), s.StopTimeout)
}

// Whatever a spec holds, Canonicalize is idempotent, and Validate answers
// without a panic.
func TestCanonicalizeIsIdempotent(t *testing.T) {
	t.Parallel()
	word := rapid.SampledFrom([]string{"", "a", "b-", "Ä", "a b", "x.y", "52:54:00:00:00:01", "01:00:00:00:00:00"})
	num := rapid.SampledFrom([]int32{-1, 0, 1, 2, 50, 1 << 30})
	rapid.Check(t, func(t *rapid.T) {
		pairs := rapid.Custom(func(t *rapid.T) Pair { return Pair{K: word.Draw(t, "k"), V: word.Draw(t, "v")} })
		s := VMSpec{
			Name: word.Draw(t, "name"), Namespace: word.Draw(t, "ns"), Priority: num.Draw(t, "prio"),
			Labels:      rapid.SliceOfN(pairs, 0, 4).Draw(t, "labels"),
			Datacenters: rapid.SliceOfN(word, 0, 4).Draw(t, "dcs"),
			CPU:         CPUSpec{Cores: num.Draw(t, "cores"), Model: word.Draw(t, "model")},
			Memory:      Bytes(num.Draw(t, "memory")),
			CloudInit:   &CloudInit{Hostname: word.Draw(t, "host"), SSHKeys: rapid.SliceOfN(word, 0, 2).Draw(t, "keys")},
			NICs: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) NIC {
				return NIC{Network: word.Draw(t, "net"), MAC: word.Draw(t, "mac")}
			}), 0, 3).Draw(t, "nics"),
			Disks: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Disk {
				return Disk{Name: word.Draw(t, "disk"), Volume: word.Draw(t, "vol"), Size: Bytes(num.Draw(t, "size"))}
			}), 0, 3).Draw(t, "disks"),
		}
		s.Canonicalize()
		first, err := s.MarshalMsg(nil)
		must.NoError(t, err)
		s.Canonicalize()
		second, err := s.MarshalMsg(nil)
		must.NoError(t, err)
		must.Eq(t, first, second)
		_ = s.Validate()
	})
}

func TestValidateNamesEveryWrongField(t *testing.T) {
	t.Parallel()
	s := good()
	s.Name, s.Memory, s.CPU.Cores = "No", 1, 0
	s.Disks = []Disk{{Name: "a", Size: GiB}, {Name: "a", Size: 1}}
	s.Canonicalize()
	err := s.Validate()
	var e *Error
	must.True(t, asError(err, &e))
	var fields []string
	for _, d := range e.Details {
		fields = append(fields, d.Field)
	}
	must.Eq(t, []string{"name", "cpu.cores", "memory", "disk[1].name", "disk[1].size"}, fields)
	must.StrContains(t, e.Message, "and 4 more")
}

func TestSpecRules(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 3000)
	for name, c := range map[string]struct {
		change func(*VMSpec)
		field  string
	}{
		"namespace star":        {func(s *VMSpec) { s.Namespace = "*" }, "namespace"},
		"priority":              {func(s *VMSpec) { s.Priority = 101 }, "priority"},
		"reserve over cores":    {func(s *VMSpec) { s.CPU.Reserve = 2001 }, "cpu.reserve"},
		"reserve negative":      {func(s *VMSpec) { s.CPU.Reserve = -1 }, "cpu.reserve"},
		"memory over the limit": {func(s *VMSpec) { s.Memory = 64*TiB + MiB }, "memory"},
		"firmware":              {func(s *VMSpec) { s.Firmware = "coreboot" }, "firmware"},
		"kernel missing":        {func(s *VMSpec) { s.Boot = &BootSpec{Cmdline: "quiet"} }, "boot.kernel"},
		"initrd path":           {func(s *VMSpec) { s.Boot = &BootSpec{Kernel: "k", Initrd: "../x"} }, "boot.initrd"},
		"cmdline control":       {func(s *VMSpec) { s.Boot = &BootSpec{Kernel: "k", Cmdline: "a\nb"} }, "boot.cmdline"},
		"cmdline long":          {func(s *VMSpec) { s.Boot = &BootSpec{Kernel: "k", Cmdline: long} }, "boot.cmdline"},
		"513 cores":             {func(s *VMSpec) { s.CPU.Cores = 513 }, "cpu.cores"},
		"CPU model of a dot":    {func(s *VMSpec) { s.CPU.Model = ".host" }, "cpu.model"},
		"25 disks":              {func(s *VMSpec) { s.Disks = slices.Repeat([]Disk{{Image: "i"}}, 25) }, "disk"},
		"read-only SATA disk":   {func(s *VMSpec) { s.Disks = []Disk{{Image: "i", Bus: "sata", ReadOnly: true}} }, "disk[0].read_only"},
		"read-only SATA volume": {func(s *VMSpec) { s.Disks = []Disk{{Volume: "v", Bus: "sata", ReadOnly: true}} }, "disk[0].read_only"},
		"17 NICs":               {func(s *VMSpec) { s.NICs = make([]NIC, 17) }, "network"},
		"65 labels":             {func(s *VMSpec) { s.Labels = make(Pairs, 65) }, "labels"},
		"65 datacenters": {func(s *VMSpec) {
			for i := range 65 {
				s.Datacenters = append(s.Datacenters, fmt.Sprintf("dc%d", i))
			}
		}, "datacenters"},
		"datacenter":            {func(s *VMSpec) { s.Datacenters = []string{"DC 1"} }, "datacenters[0]"},
		"label key":             {func(s *VMSpec) { s.Labels = Pairs{{K: "-a"}} }, `labels["-a"]`},
		"label twice":           {func(s *VMSpec) { s.Labels = Pairs{{K: "a"}, {K: "a"}} }, `labels["a"]`},
		"label value long":      {func(s *VMSpec) { s.Labels = Pairs{{K: "a", V: long}} }, `labels["a"]`},
		"label value not UTF-8": {func(s *VMSpec) { s.Labels = Pairs{{K: "a", V: "\xff"}} }, `labels["a"]`},
		"disk without a source": {func(s *VMSpec) { s.Disks = []Disk{{}} }, "disk[0].size"},
		"disk with two sources": {func(s *VMSpec) { s.Disks = []Disk{{Volume: "v", Size: GiB}} }, "disk[0].size"},
		"volume with image":     {func(s *VMSpec) { s.Disks = []Disk{{Volume: "v", Image: "i"}} }, "disk[0].image"},
		"volume twice":          {func(s *VMSpec) { s.Disks = []Disk{{Volume: "v"}, {Volume: "v"}} }, "disk[1].volume"},
		"disk size odd":         {func(s *VMSpec) { s.Disks = []Disk{{Size: MiB + 1}} }, "disk[0].size"},
		"disk size negative":    {func(s *VMSpec) { s.Disks = []Disk{{Size: -GiB, Image: "i"}} }, "disk[0].size"},
		"disk bus":              {func(s *VMSpec) { s.Disks = []Disk{{Size: GiB, Bus: "ide"}} }, "disk[0].bus"},
		"disk format":           {func(s *VMSpec) { s.Disks = []Disk{{Size: GiB, Format: "vmdk"}} }, "disk[0].format"},
		"disk pool":             {func(s *VMSpec) { s.Disks = []Disk{{Size: GiB, Pool: "a/b"}} }, "disk[0].pool"},
		"boot order twice":      {func(s *VMSpec) { s.Disks = []Disk{{Size: GiB, Boot: 1}, {Size: GiB, Boot: 1}} }, "disk[1].boot"},
		"boot order negative":   {func(s *VMSpec) { s.Disks = []Disk{{Size: GiB, Boot: -1}} }, "disk[0].boot"},
		"NIC model":             {func(s *VMSpec) { s.NICs = []NIC{{Network: "n", Model: "rtl8139"}} }, "network[0].model"},
		"NIC without network":   {func(s *VMSpec) { s.NICs = []NIC{{}} }, "network[0].network"},
		"MAC of 8 bytes":        {func(s *VMSpec) { s.NICs = []NIC{{Network: "n", MAC: "52:54:00:00:00:00:00:01"}} }, "network[0].mac"},
		"address":               {func(s *VMSpec) { s.NICs = []NIC{{Network: "n", Address: "10.0.0.300"}} }, "network[0].address"},
		"address multicast":     {func(s *VMSpec) { s.NICs = []NIC{{Network: "n", Address: "224.0.0.1"}} }, "network[0].address"},
		"address zone":          {func(s *VMSpec) { s.NICs = []NIC{{Network: "n", Address: "fe80::1%eth0"}} }, "network[0].address"},
		"address twice": {func(s *VMSpec) {
			s.NICs = []NIC{{Network: "n", Address: "10.0.0.2"}, {Network: "n", Address: "10.0.0.2/24"}}
		}, "network[1].address"},
		"65 ssh keys":             {func(s *VMSpec) { s.CloudInit = &CloudInit{SSHKeys: make([]string, 65)} }, "cloud_init.ssh_keys"},
		"network config long":     {func(s *VMSpec) { s.CloudInit = &CloudInit{NetworkConfig: make([]byte, MaxNetworkConfig+1)} }, "cloud_init.network_config"},
		"network config not text": {func(s *VMSpec) { s.CloudInit = &CloudInit{NetworkConfig: []byte{0xff}} }, "cloud_init.network_config"},
		"operator":                {func(s *VMSpec) { s.Constraints = []Constraint{{Attribute: "a", Operator: "~"}} }, "constraint[0].operator"},
		"attribute missing":       {func(s *VMSpec) { s.Constraints = []Constraint{{Value: "a"}} }, "constraint[0].attribute"},
		"attribute":               {func(s *VMSpec) { s.Constraints = []Constraint{{Attribute: "${node.id}", Value: "a"}} }, "constraint[0].attribute"},
		"regexp": {func(s *VMSpec) {
			s.Constraints = []Constraint{{Attribute: "a", Operator: "regexp", Value: "("}}
		}, "constraint[0].value"},
		"regexp bomb": {func(s *VMSpec) {
			s.Constraints = []Constraint{{Attribute: "a", Operator: "regexp", Value: "((a{1000}){1000}){1000}"}}
		}, "constraint[0].value"},
		"exists with value": {func(s *VMSpec) {
			s.Constraints = []Constraint{{Attribute: "a", Operator: "exists", Value: "x"}}
		}, "constraint[0].value"},
		"in nothing":               {func(s *VMSpec) { s.Constraints = []Constraint{{Attribute: "a", Operator: "in", Value: " , "}} }, "constraint[0].value"},
		"less than text":           {func(s *VMSpec) { s.Constraints = []Constraint{{Attribute: "a", Operator: "<", Value: "abc"}} }, "constraint[0].value"},
		"value with markup":        {func(s *VMSpec) { s.Constraints = []Constraint{{Attribute: "a", Operator: "=", Value: "<b>"}} }, "constraint[0].value"},
		"65 constraints":           {func(s *VMSpec) { s.Constraints = make([]Constraint, 65) }, "constraint"},
		"33 affinities":            {func(s *VMSpec) { s.Affinities = make([]Affinity, 33) }, "affinity"},
		"33 spreads":               {func(s *VMSpec) { s.Spread = make([]Spread, 33) }, "spread"},
		"affinity without labels":  {func(s *VMSpec) { s.Affinities = []Affinity{{}} }, "affinity[0].selector"},
		"affinity weight":          {func(s *VMSpec) { s.Affinities = []Affinity{{Selector: Pairs{{K: "a"}}, Weight: 101}} }, "affinity[0].weight"},
		"spread weight":            {func(s *VMSpec) { s.Spread = []Spread{{Attribute: "a", Weight: -1}} }, "spread[0].weight"},
		"restart policy":           {func(s *VMSpec) { s.Restart.Policy = "sometimes" }, "restart.policy"},
		"restart attempts":         {func(s *VMSpec) { s.Restart.Attempts = -1 }, "restart.attempts"},
		"restart interval":         {func(s *VMSpec) { s.Restart.Interval = 1 }, "restart.interval"},
		"restart delay":            {func(s *VMSpec) { s.Restart.Delay = -1 }, "restart.delay"},
		"HA policy":                {func(s *VMSpec) { s.HA.Policy = "always" }, "ha.policy"},
		"stop timeout":             {func(s *VMSpec) { s.StopTimeout = Duration(25 * time.Hour) }, "stop_timeout"},
		"migration mode":           {func(s *VMSpec) { s.Migration.Mode = "post-copy" }, "migration.mode"},
		"migration downtime":       {func(s *VMSpec) { s.Migration.MaxDowntime = -1 }, "migration.max_downtime"},
		"migration limit":          {func(s *VMSpec) { s.Migration.DowntimeLimit = Duration(time.Millisecond) }, "migration.downtime_limit"},
		"stop timeout under 1s":    {func(s *VMSpec) { s.StopTimeout = -1 }, "stop_timeout"},
		"description too long":     {func(s *VMSpec) { s.Description = long }, "description"},
		"description not UTF-8":    {func(s *VMSpec) { s.Description = "\xff" }, "description"},
		"description two lines":    {func(s *VMSpec) { s.Description = "a\nb" }, "description"},
		"description unreadable":   {func(s *VMSpec) { s.Description = "a\ufffdb" }, "description"},
		"ssh key too long":         {func(s *VMSpec) { s.CloudInit = &CloudInit{SSHKeys: []string{goodKey + strings.Repeat("x", 4096)}} }, "cloud_init.ssh_keys[0]"},
		"description zero width":   {func(s *VMSpec) { s.Description = "a\u200bb" }, "description"},
		"host name with underline": {func(s *VMSpec) { s.CloudInit = &CloudInit{Hostname: "a_b"} }, "cloud_init.hostname"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := good()
			c.change(s)
			s.Canonicalize()
			wantField(t, s.Validate(), c.field)
		})
	}
}

func TestGoodSpecsPass(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*VMSpec){
		"plain": func(*VMSpec) {},
		"uefi":  func(s *VMSpec) { s.Firmware = FirmwareUEFI },
		"direct boot": func(s *VMSpec) {
			s.Boot = &BootSpec{Kernel: "vmlinuz", Initrd: "initrd", Cmdline: "console=ttyS0,115200 x=<y>"}
		},
		"unicode": func(s *VMSpec) { s.Description = "Größe — 日本語 & mehr" },
		"all operators": func(s *VMSpec) {
			for _, op := range Operators {
				v := "1.2"
				if strings.HasSuffix(op, "exists") {
					v = ""
				}
				s.Constraints = append(s.Constraints, Constraint{Attribute: "label.a/b", Operator: op, Value: v})
			}
			s.Constraints = append(s.Constraints, Constraint{Attribute: "x", Operator: "regexp", Value: "^(?P<n>a|b)$"})
		},
		"24 disks": func(s *VMSpec) { s.Disks = slices.Repeat([]Disk{{Image: "i", ReadOnly: true}}, 24) },
		"ssh key": func(s *VMSpec) {
			s.CloudInit = &CloudInit{SSHKeys: []string{goodKey}, Hostname: "web.example.org"}
		},
		"addresses": func(s *VMSpec) {
			s.NICs = []NIC{{Network: "n", Address: "10.0.0.2/24"}, {Network: "n", Address: "fd00::2"}}
		},
		"anti-affinity": func(s *VMSpec) {
			s.Affinities = []Affinity{{Selector: Pairs{{K: "a", V: "b"}}, Anti: true, Weight: -5}}
		},
		"biggest memory": func(s *VMSpec) { s.Memory = 64 * TiB },
		"least memory":   func(s *VMSpec) { s.Memory = 16 * MiB },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := good()
			change(s)
			s.Canonicalize()
			must.NoError(t, s.Validate())
		})
	}
}

func wantField(t *testing.T, err error, field string) {
	t.Helper()
	var e *Error
	must.True(t, asError(err, &e), must.Sprintf("no error for %s", field))
	must.Eq(t, CodeInvalid, e.Code)
	must.SliceContainsFunc(t, e.Details, field, func(d Detail, f string) bool { return d.Field == f }, must.Sprint(e.Details))
}

func TestFindingsAreBounded(t *testing.T) {
	t.Parallel()
	r := &RecoveryEnd{Fenced: slices.Repeat([]string{"/"}, 1000)}
	var e *Error
	must.True(t, asError(r.Validate(), &e))
	must.Len(t, MaxDetails, e.Details)
	must.StrContains(t, e.Message, "999 more")
}

// Guests keep the address that they were given: what makes it never changes.
func TestMACIsPinned(t *testing.T) {
	t.Parallel()
	id, err := ParseID("6ba7b810-9dad-41d1-80b4-00c04fd430c8")
	must.NoError(t, err)
	must.Eq(t, "52:54:00:37:72:4e", MAC(id, 0))
	must.Eq(t, "52:54:00:5b:f9:6c", MAC(id, 1))
}

const goodKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@host"

func asError(err error, target **Error) bool {
	e, ok := err.(*Error)
	*target = e
	return ok
}
