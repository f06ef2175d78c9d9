package peer

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/novacron/novacron/api"
)

// The names of the tags. They are short because gossip limits their sum to 512
// bytes.
const (
	TagRole     = "role" // always "nova-server"
	TagRegion   = "region"
	TagDC       = "dc"
	TagID       = "id"
	TagVersion  = "version"
	TagProtocol = "protocol"
	TagSchema   = "schema"
	TagRPC      = "rpc"  // host:port of the one port
	TagHTTP     = "http" // host:port, may be absent
)

// RoleTag is the value of TagRole for servers; other members of a pool are not
// ours.
const RoleTag = "nova-server"

// The states of api.Server.Status.
const (
	StatusAlive  = "alive"
	StatusFailed = "failed"
	StatusLeft   = "left"
)

// Tags writes the tags of a server.
func Tags(s *api.Server) map[string]string {
	t := map[string]string{
		TagRole:     RoleTag,
		TagRegion:   s.Region,
		TagDC:       s.Datacenter,
		TagID:       s.ID.String(),
		TagVersion:  s.Version,
		TagProtocol: strconv.FormatUint(uint64(s.Protocol), 10),
		TagSchema:   strconv.FormatUint(uint64(s.SchemaMax), 10),
		TagRPC:      s.Address,
	}
	if s.HTTPAddr != "" {
		t[TagHTTP] = s.HTTPAddr
	}
	return t
}

// IsServer reports whether tags are meant to be a server's at all.
func IsServer(tags map[string]string) bool { return tags[TagRole] == RoleTag }

// Parse reads the tags of a gossip member. name and serfAddr are the member's.
func Parse(name, serfAddr string, tags map[string]string) (*api.Server, error) {
	if !IsServer(tags) {
		return nil, fmt.Errorf("member %q: role %q is not a server's", name, tags[TagRole])
	}
	s := &api.Server{
		Name:       name,
		Region:     tags[TagRegion],
		Datacenter: tags[TagDC],
		Version:    tags[TagVersion],
		Address:    tags[TagRPC],
		HTTPAddr:   tags[TagHTTP],
		SerfAddr:   serfAddr,
		Status:     StatusAlive,
	}
	var err error
	if s.ID, err = api.ParseID(tags[TagID]); err != nil || s.ID.IsZero() {
		return nil, fmt.Errorf("member %q: tag %s: %q is not an id", name, TagID, tags[TagID])
	}
	if !api.ValidRegion(s.Region) {
		return nil, fmt.Errorf("member %q: tag %s: %q is not a region", name, TagRegion, s.Region)
	}
	if len(s.Datacenter) > 128 || len(s.Version) > 128 || len(name) > 255 {
		return nil, fmt.Errorf("member %q: a tag is too long", name)
	}
	if s.Protocol, err = number(tags[TagProtocol]); err != nil {
		return nil, fmt.Errorf("member %q: tag %s: %w", name, TagProtocol, err)
	}
	if s.SchemaMax, err = number(tags[TagSchema]); err != nil {
		return nil, fmt.Errorf("member %q: tag %s: %w", name, TagSchema, err)
	}
	if err := hostPort(s.Address); err != nil {
		return nil, fmt.Errorf("member %q: tag %s: %w", name, TagRPC, err)
	}
	if s.HTTPAddr != "" {
		if err := hostPort(s.HTTPAddr); err != nil {
			return nil, fmt.Errorf("member %q: tag %s: %w", name, TagHTTP, err)
		}
	}
	return s, nil
}

func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	return uint32(n), nil
}

// hostPort accepts what can be dialed: an address that is not "any", or a name,
// with a port from 1 to 65535.
func hostPort(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || len(s) > 300 {
		return fmt.Errorf("%q is not host:port", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q has no port", s)
	}
	if ip, err := netip.ParseAddr(host); err == nil && (ip.IsUnspecified() || ip.IsMulticast()) {
		return fmt.Errorf("%q cannot be dialed", s)
	}
	return nil
}
