// Package cloudinit makes the NoCloud seed: an ISO image with the label cidata
// that cloud-init reads at the first start of a guest.
//
// Promises: user data reaches the guest byte for byte; everything else is
// written by an encoder, never joined from strings; the same seed is always the
// same bytes; what cannot be right is refused before a file is made.
//
// What does not belong: what is in user data; secrets other than what is given.
package cloudinit

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/netconfig"
)

// The limits of a seed.
const (
	MaxUserData      = api.MaxUserData
	MaxNetworkConfig = api.MaxNetworkConfig
	MaxSSHKeys       = api.MaxSSHKeys
	maxSSHKey        = api.MaxSSHKey
)

// Seed is what a guest is told.
type Seed struct {
	// InstanceID tells cloud-init whether this is a new machine: the VM's ID.
	InstanceID api.ID
	Hostname   string
	// UserData is opaque.
	UserData []byte
	// NetworkConfig is version 1 or 2 as YAML or JSON; without it, one is made
	// from NICs when at least one of them has an address.
	NetworkConfig []byte
	NICs          []NIC
	SSHKeys       []string
}

// NIC is an interface of the guest, for the network config.
type NIC struct {
	MAC     string
	Address netip.Prefix // zero: DHCP
	Gateway netip.Addr
	DNS     []netip.Addr
}

// Files are the contents of a seed by name.
type Files struct {
	MetaData, UserData []byte
	NetworkConfig      []byte // nil: no such file
}

var label = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// Hostname reports whether s is a host name (RFC 1123), with a domain or without.
func Hostname(s string) bool {
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	for l := range strings.SplitSeq(s, ".") {
		if !label.MatchString(l) {
			return false
		}
	}
	return true
}

// Files makes the files of the seed. Errors are *api.Error with CodeInvalid.
func (s *Seed) Files() (*Files, error) {
	switch {
	case s.InstanceID.IsZero():
		return nil, bad("instance_id", "is missing")
	case !Hostname(s.Hostname):
		return nil, bad("hostname", "is not a host name")
	case len(s.UserData) > MaxUserData:
		return nil, bad("user_data", "has %d bytes, at most %d are allowed", len(s.UserData), MaxUserData)
	case len(s.SSHKeys) > MaxSSHKeys:
		return nil, bad("ssh_keys", "are more than %d", MaxSSHKeys)
	}
	for i, k := range s.SSHKeys {
		if !sshKey(k) {
			return nil, bad("ssh_keys", "[%d] is not a public key on one line", i)
		}
	}
	meta := struct {
		InstanceID string   `json:"instance-id"`
		Hostname   string   `json:"local-hostname"`
		Keys       []string `json:"public-keys,omitempty"`
	}{s.InstanceID.String(), s.Hostname, s.SSHKeys}
	f := &Files{UserData: s.UserData}
	var err error
	if f.MetaData, err = encode(meta); err != nil { // JSON is YAML
		return nil, err
	}
	f.NetworkConfig, err = s.network()
	return f, err
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return b.Bytes(), err
}

// keyTypes are the public keys that OpenSSH takes.
var keyTypes = []string{
	"ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
	"sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com",
}

// sshKey accepts "type base64 [comment]" on one line, whose content is of the
// type that it names. Options in front are refused.
func sshKey(k string) bool {
	if len(k) > maxSSHKey || !utf8.ValidString(k) || strings.ContainsFunc(k, unicode.IsControl) {
		return false
	}
	f := strings.Fields(k)
	if len(f) < 2 || !slices.Contains(keyTypes, f[0]) {
		return false
	}
	blob, err := base64.StdEncoding.DecodeString(f[1])
	if err != nil || len(blob) < 4 {
		return false
	}
	n := binary.BigEndian.Uint32(blob)
	return uint64(n) < uint64(len(blob)-4) && string(blob[4:4+n]) == f[0]
}

// ethernet and netConfig are the part of network config version 2 that is made.
type ethernet struct {
	Match     map[string]string `json:"match"`
	DHCP4     bool              `json:"dhcp4"`
	Addresses []string          `json:"addresses,omitempty"`
	Routes    []route           `json:"routes,omitempty"`
	DNS       *nameservers      `json:"nameservers,omitempty"`
}

type route struct {
	To  string `json:"to"`
	Via string `json:"via"`
}

type nameservers struct {
	Addresses []string `json:"addresses"`
}

func (s *Seed) network() ([]byte, error) {
	if len(s.NetworkConfig) > 0 {
		return s.NetworkConfig, netconfig.Check(s.NetworkConfig)
	}
	if !slices.ContainsFunc(s.NICs, func(n NIC) bool { return n.Address.IsValid() }) {
		return nil, nil
	}
	eths := map[string]ethernet{}
	for i, n := range s.NICs {
		hw, err := net.ParseMAC(n.MAC)
		if err != nil || len(hw) != 6 {
			return nil, bad("networks", "[%d] has no MAC address", i)
		}
		e := ethernet{Match: map[string]string{"macaddress": hw.String()}, DHCP4: !n.Address.IsValid()}
		if n.Address.IsValid() {
			e.Addresses = []string{n.Address.String()}
		}
		if n.Gateway.IsValid() {
			e.Routes = []route{{"0.0.0.0/0", n.Gateway.String()}}
			if n.Gateway.Is6() {
				e.Routes[0].To = "::/0"
			}
		}
		for _, d := range n.DNS {
			if e.DNS == nil {
				e.DNS = &nameservers{}
			}
			e.DNS.Addresses = append(e.DNS.Addresses, d.String())
		}
		eths["nic"+string(rune('a'+i))] = e
	}
	return encode(struct {
		Version   int                 `json:"version"`
		Ethernets map[string]ethernet `json:"ethernets"`
	}{2, eths})
}

func bad(field, format string, args ...any) error {
	return api.Errorf(api.CodeInvalid, "cloud-init: "+field+" "+format, args...).WithDetail(field, format, args...)
}
