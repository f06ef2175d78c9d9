package cloudinit_test

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"gopkg.in/yaml.v3"

	"github.com/novacron/novacron/agent/cloudinit"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/hostile"
)

const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBYv8S6LhQ2mA2kM3u0Hq2v6s5mXb4bJ6JmX8o0aQ5cV me@example"

func seed() *cloudinit.Seed {
	return &cloudinit.Seed{InstanceID: api.ID{1, 2, 3}, Hostname: "web-1", UserData: []byte("#cloud-config\n"), SSHKeys: []string{key}}
}

func TestMetaData(t *testing.T) {
	f, err := seed().Files()
	must.NoError(t, err)
	want := map[string]any{"instance-id": "01020300-0000-0000-0000-000000000000", "local-hostname": "web-1", "public-keys": []any{key}}
	var got map[string]any
	must.NoError(t, json.Unmarshal(f.MetaData, &got))
	must.Eq(t, want, got)
	must.NoError(t, yaml.Unmarshal(f.MetaData, &got)) // what cloud-init does
	must.Eq(t, want, got)
	must.Nil(t, f.NetworkConfig)
}

func TestNetworkConfigFromAddresses(t *testing.T) {
	s := seed()
	s.NICs = []cloudinit.NIC{{MAC: "52:54:00:00:00:01"}, {MAC: "52:54:00:00:00:02"}}
	f, err := s.Files()
	must.NoError(t, err)
	must.Nil(t, f.NetworkConfig, must.Sprint("DHCP everywhere needs none"))

	s.NICs[1].Address = netip.MustParsePrefix("10.0.0.5/24")
	s.NICs[1].Gateway = netip.MustParseAddr("10.0.0.1")
	s.NICs[1].DNS = []netip.Addr{netip.MustParseAddr("10.0.0.2")}
	f, err = s.Files()
	must.NoError(t, err)
	must.Eq(t, `{
  "version": 2,
  "ethernets": {
    "nica": {
      "match": {
        "macaddress": "52:54:00:00:00:01"
      },
      "dhcp4": true
    },
    "nicb": {
      "match": {
        "macaddress": "52:54:00:00:00:02"
      },
      "dhcp4": false,
      "addresses": [
        "10.0.0.5/24"
      ],
      "routes": [
        {
          "to": "0.0.0.0/0",
          "via": "10.0.0.1"
        }
      ],
      "nameservers": {
        "addresses": [
          "10.0.0.2"
        ]
      }
    }
  }
}
`, string(f.NetworkConfig))
	s.NICs[1].Gateway = netip.MustParseAddr("fe80::1")
	f, err = s.Files()
	must.NoError(t, err)
	must.StrContains(t, string(f.NetworkConfig), `"::/0"`)
	s.NICs[0].MAC = "x"
	_, err = s.Files()
	must.Eq(t, api.CodeInvalid, api.CodeOf(err))
}

// The hostile inputs C1 to C20. User data is opaque: what is in it passes
// unchanged; everything else that could break out is refused.
func TestHostileInputs(t *testing.T) {
	yes, no := true, false
	set := func(f func(*cloudinit.Seed)) func(*cloudinit.Seed) { return f }
	user := func(s string) func(*cloudinit.Seed) {
		return func(x *cloudinit.Seed) { x.UserData = []byte(s) }
	}
	bomb := "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n"
	for name, c := range map[string]struct {
		change func(*cloudinit.Seed)
		ok     bool
	}{
		"C1 host name with a second key": {set(func(s *cloudinit.Seed) { s.Hostname = "a\nruncmd: [reboot]" }), no},
		"C1b host name with quotes":      {set(func(s *cloudinit.Seed) { s.Hostname = `a","x":"y` }), no},
		"C1c host name too long":         {set(func(s *cloudinit.Seed) { s.Hostname = strings.Repeat("a.", 127) + "a" }), no},
		"C1d empty host name":            {set(func(s *cloudinit.Seed) { s.Hostname = "" }), no},
		"C2 ssh key with a newline":      {set(func(s *cloudinit.Seed) { s.SSHKeys = []string{key + "\nruncmd: [reboot]"} }), no},
		"C2b ssh key that is none":       {set(func(s *cloudinit.Seed) { s.SSHKeys = []string{"ssh-rsa AAAA"} }), no},
		"C2c ssh key of another type":    {set(func(s *cloudinit.Seed) { s.SSHKeys = []string{strings.Replace(key, "ssh-ed25519", "ssh-rsa", 1)} }), no},
		"C2d ssh key with options":       {set(func(s *cloudinit.Seed) { s.SSHKeys = []string{`command="x" ` + key} }), no},
		"C2e too many ssh keys":          {set(func(s *cloudinit.Seed) { s.SSHKeys = make([]string, 65) }), no},
		"C3 user with a mapping":         {user("users:\n- 'root: x'\n"), yes},
		"C4 password with quotes":        {user("password: \"a'#: \n"), yes},
		"C5 YAML bomb in user data":      {user(bomb), yes},
		"C6 user data over the cap":      {set(func(s *cloudinit.Seed) { s.UserData = make([]byte, cloudinit.MaxUserData+1) }), no},
		"C7 MIME boundary":               {user("Content-Type: multipart/mixed; boundary=\"==\"\r\n\r\n--==--\r\n--==\r\n"), yes},
		"C8 include":                     {user("#include http://169.254.169.254/\n"), yes},
		"C9 jinja":                       {user("## template: jinja\n{{ v1.x }}\n"), yes},
		"C10 python object":              {set(func(s *cloudinit.Seed) { s.NetworkConfig = []byte("version: !!python/object:os.system x\n") }), no},
		"C10b alias bomb":                {set(func(s *cloudinit.Seed) { s.NetworkConfig = []byte("version: 2\n" + bomb) }), no},
		"C10c not YAML":                  {set(func(s *cloudinit.Seed) { s.NetworkConfig = []byte("a: [") }), no},
		"C10d no mapping":                {set(func(s *cloudinit.Seed) { s.NetworkConfig = []byte("- 1\n") }), no},
		"C10e no version":                {set(func(s *cloudinit.Seed) { s.NetworkConfig = []byte("ethernets: {}\n") }), no},
		"C10f too large": {set(func(s *cloudinit.Seed) {
			s.NetworkConfig = bytes.Repeat([]byte("#"), cloudinit.MaxNetworkConfig+1)
		}), no},
		"C10g nested":             {set(func(s *cloudinit.Seed) { s.NetworkConfig = []byte("network: {version: 1, config: []}\n") }), yes},
		"C11 instance id":         {set(func(s *cloudinit.Seed) { s.InstanceID = api.ID{} }), no}, // an api.ID cannot hold a path
		"C12 duplicate keys":      {user(`{"a":1,"a":2}`), yes},                                   // meta-data is made here, from one struct
		"C13 gzip bomb":           {user("\x1f\x8b\x08\x00\x00\x00\x00\x00"), yes},
		"C14 seedfrom":            {user("seedfrom: http://evil/\n"), yes},
		"C16 not UTF-8":           {user("\xff\xfe\x80"), yes},
		"C19 references":          {user("${env:HOME} {{secret}}"), yes},
		"C20 CRLF":                {user("#!/bin/sh\r\necho\r\n"), yes},
		"C21 host name of a path": {set(func(s *cloudinit.Seed) { s.Hostname = "../../etc" }), no},
	} {
		t.Run(name, func(t *testing.T) {
			s := seed()
			c.change(s)
			want := bytes.Clone(s.UserData)
			f, err := s.Files()
			if !c.ok {
				must.Eq(t, api.CodeInvalid, api.CodeOf(err))
				return
			}
			must.NoError(t, err)
			must.Eq(t, want, f.UserData)
			var meta map[string]any
			must.NoError(t, json.Unmarshal(f.MetaData, &meta))
			must.MapLen(t, 3, meta)
		})
	}
}

func FuzzMetaData(f *testing.F) {
	f.Add("web-1", key)
	f.Add("a\nb", "ssh-rsa x")
	f.Fuzz(func(t *testing.T, host, k string) {
		s := seed()
		s.Hostname, s.SSHKeys = host, []string{k}
		files, err := s.Files()
		if err != nil {
			return
		}
		var got struct {
			Host string   `yaml:"local-hostname"`
			Keys []string `yaml:"public-keys"`
			ID   string   `yaml:"instance-id"`
		}
		d := yaml.NewDecoder(bytes.NewReader(files.MetaData))
		d.KnownFields(true)
		must.NoError(t, d.Decode(&got))
		must.Eq(t, host, got.Host)
		must.Eq(t, []string{k}, got.Keys)
	})
}

// What the guest is told is not looked into: a bomb stays packed.
func TestUserDataOfAnyKindIsPassedOn(t *testing.T) {
	for row, data := range hostile.Opaque() {
		s := cloudinit.Seed{InstanceID: api.ID{1}, Hostname: "web", UserData: data}
		f, err := s.Files()
		must.NoError(t, err, must.Sprint(row))
		must.True(t, string(data) == string(f.UserData), must.Sprint(row))
	}
}
