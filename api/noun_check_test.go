package api

import (
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func TestRequestsAreChecked(t *testing.T) {
	t.Parallel()
	id := NewID()
	sum := strings.Repeat("ab", 32)
	rate := func(b Bytes) *Bytes { return &b }
	atMost := func(d time.Duration) *Duration { return (*Duration)(&d) }
	node := func(change func(*Node)) *NodeRegister {
		n := &Node{ID: id, Name: "host1.example.org", Datacenter: "dc1", Region: "eu", Address: "10.0.0.1:7647"}
		change(n)
		return &NodeRegister{Node: n, SessionID: id}
	}
	join := func(change func(*JoinRequest)) *JoinRequest {
		r := &JoinRequest{Secret: "nova-join.x", Role: "client", NodeID: id, Name: "h1", CSR: []byte{1}}
		change(r)
		return r
	}
	for _, c := range []struct {
		name  string
		req   Validator
		field string // "" means that it is good
	}{
		{"namespace", &NamespaceApply{Namespace: Namespace{Name: "team-a"}}, ""},
		{"namespace name", &NamespaceApply{Namespace: Namespace{Name: "*"}}, "name"},
		{"namespace description", &NamespaceApply{Namespace: Namespace{Name: "a", Description: "<b>"}}, "description"},
		{"pool", &PoolApply{Pool: Pool{Name: "ssd"}}, ""},
		{"pool type", &PoolApply{Pool: Pool{Name: "ssd", Type: "ceph"}}, "type"},
		{"pool ratio", &PoolApply{Pool: Pool{Name: "ssd", Ratio: -1}}, "ratio"},
		{"network bridge", &NetworkApply{Network: Network{Name: "lan", Bridge: "br0"}}, ""},
		{"network nat", &NetworkApply{Network: Network{Name: "lan", CIDR: "192.168.7.9/24"}}, ""},
		{"network type", &NetworkApply{Network: Network{Name: "lan", Type: "vxlan"}}, "type"},
		{"network without anything", &NetworkApply{Network: Network{Name: "lan"}}, "type"},
		{"X12 bridge as shell", &NetworkApply{Network: Network{Name: "lan", Bridge: "eth0; rm"}}, "bridge"},
		{"bridge too long", &NetworkApply{Network: Network{Name: "lan", Bridge: "abcdefghijklmnop"}}, "bridge"},
		{"bridge dots", &NetworkApply{Network: Network{Name: "lan", Bridge: ".."}}, "bridge"},
		{"bridge with cidr", &NetworkApply{Network: Network{Name: "lan", Bridge: "br0", CIDR: "10.0.0.0/24"}}, "cidr"},
		{"bridge isolated", &NetworkApply{Network: Network{Name: "lan", Bridge: "br0", Isolated: true}}, "isolated"},
		{"nat with bridge", &NetworkApply{Network: Network{Name: "lan", Type: "nat", Bridge: "br0", CIDR: "10.0.0.0/24"}}, "bridge"},
		{"nat without cidr", &NetworkApply{Network: Network{Name: "lan", Type: "nat"}}, "cidr"},
		{"nat ipv6", &NetworkApply{Network: Network{Name: "lan", CIDR: "fd00::/64"}}, "cidr"},
		{"nat too small", &NetworkApply{Network: Network{Name: "lan", CIDR: "10.0.0.0/30"}}, "cidr"},
		{"nat loopback", &NetworkApply{Network: Network{Name: "lan", CIDR: "127.0.0.0/24"}}, "cidr"},
		{"nat public", &NetworkApply{Network: Network{Name: "lan", CIDR: "8.8.8.0/24"}}, "cidr"},
		{"nat half public", &NetworkApply{Network: Network{Name: "lan", CIDR: "192.168.0.0/15"}}, "cidr"},
		{"nat shared address space", &NetworkApply{Network: Network{Name: "lan", CIDR: "100.64.0.0/24"}}, "cidr"},
		{"nat all of 10", &NetworkApply{Network: Network{Name: "lan", CIDR: "10.0.0.0/8"}}, ""},
		{"nat of 172", &NetworkApply{Network: Network{Name: "lan", CIDR: "172.31.255.0/24"}}, ""},
		{"bridge with an end", &NetworkApply{Network: Network{Name: "lan", Bridge: "br-"}}, ""},
		{"bridge with a beginning", &NetworkApply{Network: Network{Name: "lan", Bridge: "_br"}}, "bridge"},
		{"network mtu", &NetworkApply{Network: Network{Name: "lan", Bridge: "br0", MTU: 100}}, "mtu"},
		{"volume", &VolumeCreate{Name: "data", Size: GiB}, ""},
		{"volume from image", &VolumeCreate{Name: "data", Image: "debian", Node: "host1.example.org"}, ""},
		{"volume of nothing", &VolumeCreate{Name: "data"}, "size"},
		{"volume star", &VolumeCreate{Namespace: "*", Name: "data", Size: GiB}, "namespace"},
		{"volume node", &VolumeCreate{Name: "data", Size: GiB, Node: "../x"}, "node"},
		{"volume format", &VolumeCreate{Name: "data", Size: GiB, Format: "vdi"}, "format"},
		{"image", &ImageUpload{Name: "debian-12", Size: 1, SHA256: strings.ToUpper(sum)}, ""},
		{"image kernel", &ImageUpload{Name: "vmlinuz", Kind: "kernel", Size: 1, SHA256: sum}, ""},
		{"image sum", &ImageUpload{Name: "debian-12", Size: 1, SHA256: sum[1:]}, "sha256"},
		{"image sum not hex", &ImageUpload{Name: "debian-12", Size: 1, SHA256: strings.Repeat("xy", 32)}, "sha256"},
		{"image size", &ImageUpload{Name: "debian-12", SHA256: sum}, "size"},
		{"image kind", &ImageUpload{Name: "d", Kind: "iso", Size: 1, SHA256: sum}, "kind"},
		{"image kernel in qcow2", &ImageUpload{Name: "d", Kind: "kernel", Format: "qcow2", Size: 1, SHA256: sum}, "format"},
		{"P1 image as path", &ImageUpload{Name: "../../etc/passwd", Size: 1, SHA256: sum}, "name"},
		{"image fetch", &ImageFetch{ID: id, SHA256: sum}, ""},
		{"image fetch nothing", &ImageFetch{SHA256: sum, Offset: -1}, "offset"},
		{"image fetch no id", &ImageFetch{SHA256: sum}, "id"},
		{"token", &TokenCreate{Type: TokenManagement, Name: "Ann's laptop"}, ""},
		{"token join", &TokenCreate{Type: TokenJoin, Role: "client", Uses: 3}, ""},
		{"token node", &TokenCreate{Type: TokenNode, NodeID: id}, ""},
		{"token type", &TokenCreate{Type: "root"}, "type"},
		{"token join role", &TokenCreate{Type: TokenJoin, Role: "admin"}, "role"},
		{"token management role", &TokenCreate{Type: TokenManagement, Role: "server"}, "role"},
		{"token management uses", &TokenCreate{Type: TokenManagement, Uses: 1}, "uses"},
		{"token node without id", &TokenCreate{Type: TokenNode}, "node_id"},
		{"token ttl", &TokenCreate{Type: TokenManagement, TTL: -1}, "ttl"},
		{"A1 token name with CR LF", &TokenCreate{Type: TokenManagement, Name: "a\r\nb"}, "name"},
		{"node update", &NodeUpdate{Key: "n1", Eligibility: Ineligible}, ""},
		{"node update nothing", &NodeUpdate{Key: "n1"}, ""},
		{"node update word", &NodeUpdate{Key: "n1", Eligibility: "maybe"}, "eligibility"},
		{"node update ratios", &NodeUpdate{Key: "n1", CPURatio: 1000, MemoryRatio: 1}, "cpu_ratio"},
		{"node update memory", &NodeUpdate{Key: "n1", MemoryRatio: -2}, "memory_ratio"},
		{"drain", &NodeDrainRequest{Key: "n1", Mode: MaintenanceMode, Deadline: 3600e9, Force: true}, ""},
		{"drain cancel", &NodeDrainRequest{Key: "n1", Cancel: true}, ""},
		{"drain cancel and more", &NodeDrainRequest{Key: "n1", Cancel: true, Force: true}, "cancel"},
		{"drain word", &NodeDrainRequest{Key: "n1", Mode: "gently"}, "mode"},
		{"drain force", &NodeDrainRequest{Key: "n1", Mode: DrainMode, Force: true}, "force"},
		{"drain deadline", &NodeDrainRequest{Key: "n1", Mode: DrainMode, Deadline: -1}, "deadline"},
		{"migration", &MigrationCreate{Namespace: "default", VM: "web", To: "n1", Mode: MigrateCold, Priority: 3}, ""},
		{"migration priority", &MigrationCreate{Namespace: "default", VM: "web", Priority: -3}, "priority"},
		{"migration list", &MigrationListRequest{VM: "a b"}, "vm"},
		{"migration cancel", &MigrationCancel{Namespace: "default"}, "key"},
		{"migration update", &MigrationUpdate{Namespace: "default", Key: "web", Bandwidth: new(Bytes), MaxDowntime: atMost(time.Second)}, ""},
		{"migration update key", &MigrationUpdate{Namespace: "default", Bandwidth: new(Bytes)}, "key"},
		{"migration update nothing", &MigrationUpdate{Namespace: "default", Key: "web"}, "bandwidth"},
		{"migration update bandwidth", &MigrationUpdate{Namespace: "default", Key: "web", Bandwidth: rate(KiB)}, "bandwidth"},
		{"migration update negative", &MigrationUpdate{Namespace: "default", Key: "web", Bandwidth: rate(-1)}, "bandwidth"},
		{"migration update downtime", &MigrationUpdate{Namespace: "default", Key: "web", MaxDowntime: new(Duration)}, "max_downtime"},
		{"migration update long", &MigrationUpdate{Namespace: "default", Key: "web", MaxDowntime: atMost(2 * time.Hour)}, "max_downtime"},
		{"get", &GetRequest{Key: "web"}, ""},
		{"get without key", &GetRequest{}, "key"},
		{"get path", &GetRequest{Key: ".."}, "key"},
		{"query", &QueryOptions{Namespace: "*", Consistency: "stale", PerPage: 1000, Filter: `(Name == "a") and (not Name == "b")`}, ""},
		{"query consistency", &QueryOptions{Consistency: "maybe"}, "consistency"},
		{"query wait", &QueryOptions{Wait: MaxWait + 1}, "wait"},
		{"query per page", &QueryOptions{PerPage: -1}, "per_page"},
		{"query prefix", &QueryOptions{Prefix: "%"}, "prefix"},
		{"query next token", &QueryOptions{NextToken: "\n"}, "next_token"},
		{"H filter long", &QueryOptions{Filter: strings.Repeat("a", MaxFilter+1)}, "filter"},
		{"H filter bomb", &QueryOptions{Filter: strings.Repeat("(", 6) + "a==b" + strings.Repeat(")", 6)}, "filter"},
		{"H filter of nots", &QueryOptions{Filter: strings.Repeat("not ", 33) + "a==b"}, "filter"},
		{"H filter NUL", &QueryOptions{Filter: "a==\x00"}, "filter"},
		{"events", &EventRequest{Namespace: "*", Topics: []string{"vm", "vm:web", "node:*"}}, ""},
		{"events topic", &EventRequest{Topics: []string{"cat"}}, "topic[0]"},
		{"events key", &EventRequest{Topics: []string{"vm:a/b"}}, "topic[0]"},
		{"events namespace", &EventRequest{Namespace: "/"}, "namespace"},
		{"events 65 topics", &EventRequest{Topics: make([]string, 65)}, "topic"},
		{"event list", &EventListRequest{Topics: []string{"vm"}, Related: id.String()}, ""},
		{"event list limit", &EventListRequest{Limit: -1}, "limit"},
		{"event list related", &EventListRequest{Related: "a b"}, "related"},
		{"delete", &DeleteRequest{Key: "web"}, ""},
		{"H delete star", &DeleteRequest{Namespace: "*", Key: "web"}, "namespace"},
		{"power", &VMPower{Key: "web", Action: "stop", Force: true}, ""},
		{"power action", &VMPower{Key: "web", Action: "explode"}, "action"},
		{"power forced start", &VMPower{Key: "web", Action: "start", Force: true}, "force"},
		{"revert", &VMRevert{Key: "web", Version: 2}, ""},
		{"revert no version", &VMRevert{Key: "web"}, "version"},
		{"apply", &VMApply{Spec: *good(), Power: PowerStopped}, ""},
		{"apply power", &VMApply{Spec: *good(), Power: "off"}, "power"},
		{"plan", &VMPlan{Spec: *good()}, ""},
		{"parse", &ParseRequest{Text: `vm "a" {}`}, ""},
		{"parse format", &ParseRequest{Format: "yaml"}, "format"},
		{"parse variables", &ParseRequest{Variables: make(Pairs, 257)}, "variables"},
		{"raft remove", &RaftRemove{ID: id}, ""},
		{"raft remove nobody", &RaftRemove{}, "id"},
		{"schema", &SchemaChange{Version: 2}, ""},
		{"schema zero", &SchemaChange{}, "version"},
		{"scheduler", &SchedulerConfigApply{}, ""},
		{"scheduler algorithm", &SchedulerConfigApply{Config: SchedulerConfig{Algorithm: "random"}}, "algorithm"},
		{"recovery", &RecoveryEnd{Fenced: []string{"n1"}}, ""},
		{"recovery key", &RecoveryEnd{Fenced: []string{"a b"}}, "fenced[0]"},
		{"recovery many", &RecoveryEnd{Fenced: make([]string, 100001)}, "fenced"},
		{"register", node(func(n *Node) { n.Attributes = Pairs{{K: "cpu.model", V: "Intel(R) <x>"}} }), ""},
		{"register nobody", &NodeRegister{}, "node"},
		{"register name", node(func(n *Node) { n.Name = "a b" }), "node.name"},
		{"register address", node(func(n *Node) { n.Address = "host" }), "node.address"},
		{"register capacity", node(func(n *Node) { n.Capacity.CPU = -1 }), "node.capacity.cpu"},
		{"register pool twice", node(func(n *Node) { n.Pools = []NodePool{{Name: "a"}, {Name: "a"}} }), "node.pools[1].name"},
		{"register pools", node(func(n *Node) { n.Pools = make([]NodePool, 257) }), "node.pools"},
		{"register networks", node(func(n *Node) { n.Networks = make([]string, 4097) }), "node.networks"},
		{"register attribute", node(func(n *Node) { n.Attributes = Pairs{{K: "a", V: strings.Repeat("x", 5000)}} }), `node.attributes["a"]`},
		{"register attributes unsorted", node(func(n *Node) { n.Attributes = Pairs{{K: "b"}, {K: "a"}} }), `node.attributes["a"]`},
		{"register attributes", node(func(n *Node) { n.Attributes = make(Pairs, 1025) }), "node.attributes"},
		{"register ratios", node(func(n *Node) { n.CPURatio, n.MemoryRatio = 1000, 1000 }), "node.cpu_ratio"},
		{"join", join(func(*JoinRequest) {}), ""},
		{"join role", join(func(r *JoinRequest) { r.Role = "root" }), "role"},
		{"join no request", join(func(r *JoinRequest) { r.CSR = nil }), "csr"},
		{"join nobody", join(func(r *JoinRequest) { r.NodeID = ID{} }), "node_id"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if r, ok := c.req.(Canonicalizer); ok {
				r.Canonicalize()
			}
			err := c.req.Validate()
			switch {
			case c.field != "":
				wantField(t, err, c.field)
			case c.name == "node update nothing":
				must.Eq(t, CodeInvalid, CodeOf(err))
			default:
				must.NoError(t, err)
			}
		})
	}
}

func TestParseRequestTooLong(t *testing.T) {
	t.Parallel()
	r := &ParseRequest{Text: strings.Repeat(" ", MaxSpecText+1)}
	r.Canonicalize()
	must.Eq(t, CodeTooLarge, CodeOf(r.Validate()))
}
