package api

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Limits of the other nouns.
const (
	MaxImageSize  = 16 * TiB
	MaxTokenTTL   = Duration(10 * 365 * 24 * time.Hour)
	MaxWait       = Duration(10 * time.Minute)
	DefaultWait   = Duration(5 * time.Minute)
	MaxPerPage    = 1000
	MaxFilter     = 1024
	MaxFilterNest = 5
	MaxNextToken  = 512
	MaxTopics     = 64
)

// Canonicalize fills in what a namespace may leave out.
func (r *NamespaceApply) Canonicalize() { r.Namespace.Labels = sortPairs(r.Namespace.Labels) }

// Validate checks the namespace.
func (r *NamespaceApply) Validate() error {
	var c checks
	c.name("name", r.Namespace.Name)
	c.text("description", r.Namespace.Description, MaxDescription)
	c.labels("labels", r.Namespace.Labels)
	return c.err("the namespace")
}

// Canonicalize fills in the default ratio.
func (r *PoolApply) Canonicalize() {
	or(&r.Pool.Ratio, 1)
	r.Pool.Labels = sortPairs(r.Pool.Labels)
}

// Validate checks what an operator may set of a pool. Type may be empty: nodes
// bring it.
func (r *PoolApply) Validate() error {
	var c checks
	p := &r.Pool
	c.name("name", p.Name)
	if p.Type != "" {
		c.oneOf("type", p.Type, "dir", "sim")
	}
	c.text("description", p.Description, MaxDescription)
	c.ratio("ratio", p.Ratio, 0.1, 100)
	c.labels("labels", p.Labels)
	return c.err("the pool")
}

// The types of networks.
const (
	NetworkBridge = "bridge"
	NetworkNAT    = "nat"
)

// Canonicalize fills in the type and masks the CIDR.
func (r *NetworkApply) Canonicalize() {
	n := &r.Network
	if n.Bridge != "" {
		or(&n.Type, NetworkBridge)
	} else if n.CIDR != "" {
		or(&n.Type, NetworkNAT)
	}
	if p, err := netip.ParsePrefix(n.CIDR); err == nil {
		n.CIDR = p.Masked().String()
	}
	n.Labels = sortPairs(n.Labels)
}

// Validate checks the network.
func (r *NetworkApply) Validate() error {
	var c checks
	n := &r.Network
	c.name("name", n.Name)
	c.text("description", n.Description, MaxDescription)
	c.labels("labels", n.Labels)
	if n.MTU != 0 {
		between(&c, "mtu", n.MTU, 576, 65535)
	}
	switch n.Type {
	case NetworkBridge:
		if !ValidInterface(n.Bridge) {
			c.add("bridge", "%s is not the name of a bridge: want at most 15 letters, digits, '.', '_' and '-', beginning with a letter or digit", quote(n.Bridge))
		}
		if n.CIDR != "" {
			c.add("cidr", "has no meaning for a bridge")
		}
		if n.Isolated {
			c.add("isolated", "has no meaning for a bridge")
		}
	case NetworkNAT:
		if n.Bridge != "" {
			c.add("bridge", "has no meaning for a nat network")
		}
		checkCIDR(&c, n.CIDR)
	default:
		c.oneOf("type", n.Type, NetworkBridge, NetworkNAT)
	}
	return c.err("the network")
}

// ValidInterface reports whether s can name a bridge of a host:
// ^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$.
func ValidInterface(s string) bool {
	return s != "" && len(s) <= 15 && onlyOf(s, "._-") && onlyOf(s[:1], "")
}

func checkCIDR(c *checks, s string) {
	p, err := ParseSubnet(s)
	if err != nil {
		c.add("cidr", "%v", err)
	} else if m, err := netip.ParsePrefix(s); err == nil && m != p {
		c.add("cidr", "%s has host bits: want %s", m, p)
	}
}

// ParseSubnet reads the subnet of a NAT network and masks it: private IPv4, from
// /8 to /29, all of it.
func ParseSubnet(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%s is not a network: want one such as 192.168.100.0/24", quote(s))
	}
	p = p.Masked()
	switch {
	case !p.Addr().Is4():
		return p, fmt.Errorf("%s is not IPv4", p)
	case p.Bits() < 8 || p.Bits() > 29:
		return p, fmt.Errorf("%s is out of range: want /8 to /29", p)
	}
	for _, private := range privateNets {
		if private.Bits() <= p.Bits() && private.Contains(p.Addr()) {
			return p, nil
		}
	}
	return p, fmt.Errorf("%s is not private: want a part of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16", p)
}

var privateNets = [...]netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
}

// Canonicalize fills in namespace, pool and format.
func (r *VolumeCreate) Canonicalize() {
	or(&r.Namespace, DefaultNamespace)
	or(&r.Pool, DefaultPool)
	or(&r.Format, FormatQCOW2)
	r.Labels = sortPairs(r.Labels)
}

// Validate checks the volume.
func (r *VolumeCreate) Validate() error {
	var c checks
	c.namespace("namespace", r.Namespace)
	c.name("name", r.Name)
	c.name("pool", r.Pool)
	if r.Node != "" {
		c.key("node", r.Node)
	}
	c.oneOf("format", r.Format, FormatQCOW2, FormatRaw)
	c.optName("image", r.Image)
	if r.Size == 0 && r.Image == "" {
		c.add("size", "is missing: give size or image")
	} else {
		checkDiskSize(&c, "size", r.Size, r.Image != "")
	}
	c.labels("labels", r.Labels)
	return c.err("the volume")
}

// The kinds of images.
const (
	ImageDisk   = "disk"
	ImageKernel = "kernel"
	ImageInitrd = "initrd"
)

// Canonicalize fills in namespace, kind and format.
func (r *ImageUpload) Canonicalize() {
	or(&r.Namespace, DefaultNamespace)
	or(&r.Kind, ImageDisk)
	if r.Kind == ImageDisk {
		or(&r.Format, FormatQCOW2)
	}
	or(&r.Format, FormatRaw)
	r.SHA256 = strings.ToLower(r.SHA256)
	r.Labels = sortPairs(r.Labels)
}

// Validate checks what is said of the content before it is sent.
func (r *ImageUpload) Validate() error {
	var c checks
	c.namespace("namespace", r.Namespace)
	c.name("name", r.Name)
	c.oneOf("kind", r.Kind, ImageDisk, ImageKernel, ImageInitrd)
	c.oneOf("format", r.Format, FormatQCOW2, FormatRaw)
	if r.Kind != ImageDisk && r.Format != FormatRaw {
		c.add("format", "must be raw for a %s", r.Kind)
	}
	between(&c, "size", r.Size, 1, MaxImageSize)
	c.sha256("sha256", r.SHA256)
	c.labels("labels", r.Labels)
	return c.err("the image")
}

// Validate checks the request of one node to another.
func (r *ImageFetch) Validate() error {
	var c checks
	if r.ID.IsZero() {
		c.add("id", "is missing")
	}
	c.sha256("sha256", r.SHA256)
	between(&c, "offset", r.Offset, 0, int64(MaxImageSize))
	return c.err("the request for an image")
}

// Canonicalize does nothing: a token leaves nothing to fill in.
func (r *TokenCreate) Canonicalize() {}

// Validate checks the token.
func (r *TokenCreate) Validate() error {
	var c checks
	c.text("name", r.Name, 128)
	c.oneOf("type", string(r.Type), string(TokenManagement), string(TokenNode), string(TokenJoin))
	if r.Type == TokenJoin {
		c.oneOf("role", r.Role, "server", "client")
	} else {
		if r.Role != "" {
			c.add("role", "is for join tokens only")
		}
		if r.Uses != 0 {
			c.add("uses", "is for join tokens only")
		}
	}
	if (r.Type == TokenNode) == r.NodeID.IsZero() {
		c.add("node_id", "belongs to node tokens, and they need it")
	}
	between(&c, "uses", r.Uses, 0, 100000)
	c.lasts("ttl", r.TTL, 0, MaxTokenTTL)
	return c.err("the token")
}

// Validate checks what an operator wants of a node.
func (r *NodeUpdate) Validate() error {
	var c checks
	c.key("key", r.Key)
	if r.Eligibility != "" {
		c.oneOf("eligibility", string(r.Eligibility), string(Eligible), string(Ineligible))
	}
	if r.CPURatio != 0 {
		c.ratio("cpu_ratio", r.CPURatio, 0.1, 100)
	}
	if r.MemoryRatio != 0 {
		c.ratio("memory_ratio", r.MemoryRatio, 0.1, 10)
	}
	if r.Eligibility == "" && r.CPURatio == 0 && r.MemoryRatio == 0 {
		c.add("", "nothing to change: give eligibility, cpu_ratio or memory_ratio")
	}
	return c.err("the change of the node")
}

// Canonicalize fills in consistency and wait.
func (q *QueryOptions) Canonicalize() {
	or(&q.Consistency, ConsistencyDefault)
	if q.MinIndex > 0 {
		or(&q.Wait, DefaultWait)
	}
}

// Validate checks what accompanies a read.
func (q *QueryOptions) Validate() error {
	var c checks
	q.check(&c)
	return c.err("the query")
}

func (q *QueryOptions) check(c *checks) {
	if q.Namespace != "*" {
		c.optName("namespace", q.Namespace)
	}
	if q.Consistency != "" {
		c.oneOf("consistency", string(q.Consistency), string(ConsistencyDefault), string(ConsistencyConsistent), string(ConsistencyStale))
	}
	c.lasts("wait", q.Wait, 0, MaxWait)
	between(c, "per_page", q.PerPage, 0, MaxPerPage)
	c.ascii("next_token", q.NextToken, MaxNextToken)
	if len(q.Prefix) > 253 || !onlyOf(q.Prefix, "._-") {
		c.add("prefix", "%s is not the beginning of a name or an id", quote(q.Prefix))
	}
	c.filter(q.Filter)
}

// filter bounds an expression before anything parses it: the parser
// backtracks, so depth costs more than length.
func (c *checks) filter(s string) {
	if len(s) > MaxFilter {
		c.add("filter", "is %d bytes long, at most %d are allowed", len(s), MaxFilter)
		return
	}
	depth, deepest, nots := 0, 0, 0
	for i := range len(s) {
		switch s[i] {
		case '(':
			depth++
			deepest = max(deepest, depth)
		case ')':
			depth--
		case 0:
			c.add("filter", "has a NUL byte")
			return
		}
	}
	for w := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ' ' || r == '(' || r == ')' }) {
		if w == "not" {
			nots++
		}
	}
	if deepest > MaxFilterNest || nots > 32 {
		c.add("filter", "is nested too deeply: at most %d parentheses in each other", MaxFilterNest)
	}
}

// Validate checks key and query.
func (r *GetRequest) Validate() error {
	var c checks
	r.QueryOptions.check(&c)
	r.refuse(&c, NotOne...)
	c.key("key", r.Key)
	return c.err("the query")
}

// Validate checks the query.
func (r *VMHistoryRequest) Validate() error {
	var c checks
	r.QueryOptions.check(&c)
	r.refuse(&c, NotHistory...)
	c.key("key", r.Key)
	return c.err("the query")
}

// Validate checks the query.
func (r *EventListRequest) Validate() error {
	var c checks
	r.QueryOptions.check(&c)
	r.refuse(&c, NotEvents...)
	c.topics(r.Topics)
	if r.Related != "" {
		c.key("related", r.Related)
	}
	between(&c, "limit", r.Limit, 0, 10000)
	return c.err("the query")
}

// Canonicalize fills in the limit.
func (r *EventListRequest) Canonicalize() {
	r.QueryOptions.Canonicalize()
	or(&r.Limit, 100)
}

// Validate checks the subscription.
func (r *EventRequest) Validate() error {
	var c checks
	if r.Namespace != "*" {
		c.optName("namespace", r.Namespace)
	}
	c.topics(r.Topics)
	return c.err("the subscription")
}

// Topics are all topics of events.
var Topics = []string{
	TopicNode, TopicVM, TopicPlacement, TopicVolume, TopicPool, TopicImage,
	TopicNetwork, TopicNamespace, TopicToken, TopicOperator, TopicMigration,
}

func (c *checks) topics(list []string) {
	if len(list) > MaxTopics {
		c.add("topic", "has %d entries, at most %d are allowed", len(list), MaxTopics)
		return
	}
	for i, t := range list {
		at := fmt.Sprintf("topic[%d]", i)
		topic, key, with := strings.Cut(t, ":")
		c.oneOf(at, topic, Topics...)
		if with && key != "*" {
			c.key(at, key)
		}
	}
}

// Canonicalize fills in the namespace.
func (r *DeleteRequest) Canonicalize() { or(&r.Namespace, DefaultNamespace) }

// Validate checks key and namespace.
func (r *DeleteRequest) Validate() error {
	var c checks
	c.namespace("namespace", r.Namespace)
	c.key("key", r.Key)
	return c.err("the delete request")
}

// Validate checks that a server is named.
func (r *RaftRemove) Validate() error {
	var c checks
	if r.ID.IsZero() {
		c.add("id", "is missing: name the server")
	}
	return c.err("the request")
}

// Validate checks that a version is named.
func (r *SchemaChange) Validate() error {
	var c checks
	if r.Version == 0 {
		c.add("version", "is missing: want the schema version to move to")
	}
	return c.err("the schema change")
}

// Canonicalize fills in algorithm and ratios.
func (r *SchedulerConfigApply) Canonicalize() {
	or(&r.Config.Algorithm, "binpack")
	or(&r.Config.CPURatio, 4)
	or(&r.Config.MemoryRatio, 1)
}

// Validate checks the configuration.
func (r *SchedulerConfigApply) Validate() error {
	var c checks
	c.oneOf("algorithm", r.Config.Algorithm, "binpack", "spread")
	c.ratio("cpu_ratio", r.Config.CPURatio, 0.1, 100)
	c.ratio("memory_ratio", r.Config.MemoryRatio, 0.1, 10)
	between(&c, "expect", r.Config.Expect, 0, 99)
	between(&c, "migrations", r.Config.Migrations, 0, 10000)
	between(&c, "node_migrations", r.Config.NodeMigrations, 0, 1000)
	return c.err("the scheduler's configuration")
}

// Validate checks the nodes that are said to be off.
func (r *RecoveryEnd) Validate() error {
	var c checks
	if len(r.Fenced) > 100000 {
		c.add("fenced", "has %d entries", len(r.Fenced))
	} else {
		for i, k := range r.Fenced {
			c.key(fmt.Sprintf("fenced[%d]", i), k)
		}
	}
	return c.err("the end of recovery")
}
