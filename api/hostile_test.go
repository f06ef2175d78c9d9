package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// spec returns a whole, valid specification as JSON, with one change: a member
// put at the front of the object (which wins over none of the others).
func specWith(extra string) string {
	base := `"name":"web","cpu":{"cores":1},"memory":"64MiB"`
	return `{` + base + extra + `}`
}

const goodKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@host"

// TestHostileSpecs is the reference's list of hostile inputs, rows X (fields
// that end in domain XML) and C (cloud-init), as far as a specification can
// carry them. Each is refused with a code, or passes byte for byte where the
// row says that it is the guest's own business.
func TestHostileSpecs(t *testing.T) {
	t.Parallel()
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	ci := func(member string) string { return specWith(`,"cloud_init":{` + member + `}`) }
	userData := func(s string) string { return ci(`"user_data":"` + b64(s) + `"`) }
	js := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	named := func(n string) string { return `{"name":` + js(n) + `,"cpu":{"cores":1},"memory":"64MiB"}` }
	cores := func(n string) string { return `{"name":"web","cpu":{"cores":` + n + `},"memory":"64MiB"}` }
	memory := func(n string) string { return `{"name":"web","cpu":{"cores":1},"memory":` + n + `}` }

	const invalid, unknown, dup, syntax = CodeInvalid, CodeUnknownField, CodeDuplicateKey, CodeSyntax
	rows := []struct {
		row   string
		text  string
		code  Code
		field string
	}{
		{"X1 name closes its element", named("a</name><devices>"), invalid, "name"},
		{"X2 name with NUL", `{"name":"a\u0000b","cpu":{"cores":1},"memory":"64MiB"}`, invalid, "name"},
		{"X3 name with U+202E", named("abc\u202egnp"), invalid, "name"},
		{"X3 label value with U+202E", specWith(`,"labels":{"a":"x\u202ey"}`), invalid, `labels["a"]`},
		{"X4 name of 10 MB", named(strings.Repeat("a", 10<<20)), CodeTooLarge, ""},
		{"X4 name of 64", named(strings.Repeat("a", 64)), invalid, "name"},
		{"X5 description ends CDATA", specWith(`,"description":"x ]]> y"`), invalid, "description"},
		{"X6 description with DOCTYPE", specWith(`,"description":` + js(`<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>`)), invalid, "description"},
		{"X7 entity bomb", specWith(`,"description":` + js(`<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>&b;`)), invalid, "description"},
		{"X8 metadata closes", specWith(`,"description":` + js(`</metadata><qemu:commandline>`)), invalid, "description"},
		{"X8 in a label", specWith(`,"labels":{"a":` + js(`</metadata><qemu:commandline>`) + `}`), invalid, `labels["a"]`},
		{"X9 disk of the host", specWith(`,"disks":[{"volume":"/dev/sda"}]`), invalid, "disk[0].volume"},
		{"X9 disk source", specWith(`,"disks":[{"source":"/dev/sda"}]`), unknown, "disks[0].source"},
		{"X10 option by comma", specWith(`,"disks":[{"volume":"a,file.driver=nbd"}]`), invalid, "disk[0].volume"},
		{"X10 option by comma in image", specWith(`,"disks":[{"image":"a,file.driver=nbd"}]`), invalid, "disk[0].image"},
		{"X11 network as path", specWith(`,"networks":[{"network":"../default"}]`), invalid, "network[0].network"},
		{"X12 bridge as shell", specWith(`,"networks":[{"network":"eth0; rm"}]`), invalid, "network[0].network"},
		{"X13 MAC multicast", specWith(`,"networks":[{"network":"n","mac":"01:00:5e:00:00:01"}]`), invalid, "network[0].mac"},
		{"X13 MAC all zero", specWith(`,"networks":[{"network":"n","mac":"00:00:00:00:00:00"}]`), invalid, "network[0].mac"},
		{"X13 MAC twice", specWith(`,"networks":[{"network":"n","mac":"52:54:00:00:00:01"},{"network":"n","mac":"52-54-00-00-00-01"}]`), invalid, "network[1].mac"},
		{"X14 no cores", cores("0"), invalid, "cpu.cores"},
		{"X14 minus one core", cores("-1"), invalid, "cpu.cores"},
		{"X14 2^31 cores", cores("2147483648"), invalid, "cpu.cores"},
		{"X14 1e9 cores", cores("1000000000"), invalid, "cpu.cores"},
		{"X14 1e9 cores, exponent", cores("1e9"), invalid, "cpu.cores"},
		{"X15 no memory", memory("0"), invalid, "memory"},
		{"X15 2^63 bytes", memory("9223372036854775808"), invalid, "memory"},
		{"X15 1 KiB", memory("1024"), invalid, "memory"},
		{"X15 NaN", memory("NaN"), syntax, ""},
		{"X15 NaN as text", memory(`"NaN"`), invalid, "memory"},
		{"X15 infinite", memory(`"InfTiB"`), invalid, "memory"},
		{"X15 odd bytes", memory("67108865"), invalid, "memory"},
		{"X16 CPU features by comma", `{"name":"web","cpu":{"cores":1,"model":"host,+vmx,l3-cache=on"},"memory":"64MiB"}`, invalid, "cpu.model"},
		{"X17 hostdev", specWith(`,"hostdevs":[{"pci":"0000:00:1f.2"}]`), unknown, "hostdevs"},
		{"X18 file system", specWith(`,"filesystems":[{"source":"/"}]`), unknown, "filesystems"},
		{"X19 foreign UUID", specWith(`,"id":"6ba7b810-9dad-41d1-80b4-00c04fd430c8"`), unknown, "id"},
		{"X20 character reference", named("a&#0;"), invalid, "name"},
		{"X20 control character", specWith(`,"description":"a\u001b[2J"`), invalid, "description"},
		{"X20 lone surrogate", specWith(`,"description":"\ud800"`), syntax, ""},
		{"X20 lone low surrogate", specWith(`,"description":"\udc00x"`), syntax, ""},
		{"X20 surrogate in a key", specWith(`,"labels":{"\ud800":"x"}`), syntax, ""},
		{"X20 invalid UTF-8", specWith(",\"description\":\"\xff\xfe\""), syntax, ""},

		{"C1 host name with YAML", ci(`"hostname":"a\nruncmd: [..]"`), invalid, "cloud_init.hostname"},
		{"C2 ssh key with a second line", ci(`"ssh_keys":[` + js(goodKey+"\nruncmd: [reboot]") + `]`), invalid, "cloud_init.ssh_keys[0]"},
		{"C2 ssh key that is none", ci(`"ssh_keys":["ssh-ed25519 AAAA"]`), invalid, "cloud_init.ssh_keys[0]"},
		{"C2 ssh key of another type", ci(`"ssh_keys":[` + js(strings.Replace(goodKey, "ssh-ed25519", "ssh-rsa", 1)) + `]`), invalid, "cloud_init.ssh_keys[0]"},
		{"C2 ssh key with options", ci(`"ssh_keys":[` + js(`command="rm" `+goodKey) + `]`), invalid, "cloud_init.ssh_keys[0]"},
		{"C3 user", ci(`"user":"root: x"`), unknown, "cloud_init.user"},
		{"C4 password", ci(`"password":"\"'#: "`), unknown, "cloud_init.password"},
		{"C6 user data one byte too long", userData(strings.Repeat("x", MaxUserData+1)), invalid, "cloud_init.user_data"},
		{"C9 vendor data", ci(`"vendor_data":"## template: jinja"`), unknown, "cloud_init.vendor_data"},
		{"C10 object in network config", ci(`"network_config":"` + b64("version: 2\nx: !!python/object:os.system {}") + `"`), invalid, "cloud_init.network_config"},
		{"C10 verbatim tag", ci(`"network_config":"` + b64("x: !<tag:yaml.org,2002:python/name:os.system> {}") + `"`), invalid, "cloud_init.network_config"},
		{"C11 instance id", ci(`"instance_id":"/../"`), unknown, "cloud_init.instance_id"},
		{"C12 duplicate keys", ci(`"hostname":"a","hostname":"b"`), dup, "cloud_init.hostname"},
		{"C12 duplicate keys by escape", ci(`"hostname":"a","host\u006eame":"b"`), dup, "cloud_init.hostname"},
		{"C12 same key in another case", ci(`"hostname":"a","Hostname":"b"`), unknown, "cloud_init.Hostname"},
		{"C12 duplicate label", specWith(`,"labels":{"a":"1","a":"2"}`), dup, "labels.a"},
		{"C14 seedfrom", ci(`"seedfrom":"http://evil/"`), unknown, "cloud_init.seedfrom"},
		{"C15 file name", ci(`"files":[{"path":"` + strings.Repeat("a", 100) + `"}]`), unknown, "cloud_init.files"},
		{"C17 secret of another namespace", ci(`"user_data":{"secret":"other/key"}`), invalid, "cloud_init.user_data"},
		{"C18 secret loop", specWith(`,"secrets":{"a":"secret:a"}`), unknown, "secrets"},
	}
	for _, r := range rows {
		t.Run(r.row, func(t *testing.T) {
			t.Parallel()
			err := decodeSpec(r.text, new(VMSpec))
			must.Error(t, err)
			var e *Error
			must.True(t, asError(err, &e), must.Sprintf("%T: %v", err, err))
			must.Eq(t, r.code, e.Code, must.Sprint(err))
			must.Less(t, 500, e.Status())
			must.Less(t, 600, len(e.Message), must.Sprint("a message must not carry the input back"))
			if r.field != "" {
				must.SliceContainsFunc(t, e.Details, r.field, func(d Detail, f string) bool { return d.Field == f }, must.Sprint(e.Details))
			}
		})
	}

	// What the guest is told is the guest's own business: it arrives as it is.
	for row, data := range map[string][]byte{
		"C5 anchors bomb":         []byte("#cloud-config\na: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n"),
		"C7 MIME boundary":        []byte("Content-Type: multipart/mixed; boundary=\"B\"\n\n--B\n--B--\n"),
		"C8 include":              []byte("#include http://169.254.169.254/\n"),
		"C13 gzip":                {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3},
		"C16 not UTF-8":           {0xff, 0xfe, 0x00, 0x80, 0xc3},
		"C19 template characters": []byte("#!/bin/sh\necho ${env:HOME} {{secret}} %{if x} $(id)\n"),
		"C20 CRLF":                []byte("#!/bin/sh\r\ntrue\r\n"),
		"C20 LF":                  []byte("#!/bin/sh\ntrue\n"),
		"C6 at the cap":           bytes.Repeat([]byte{'x'}, MaxUserData),
	} {
		t.Run(row, func(t *testing.T) {
			t.Parallel()
			var s VMSpec
			must.NoError(t, decodeSpec(userData(string(data)), &s))
			must.Eq(t, data, s.CloudInit.UserData)
		})
	}
}

func decodeSpec(text string, s *VMSpec) error {
	if err := DecodeJSON(strings.NewReader(text), 0, s); err != nil {
		return err
	}
	s.Canonicalize()
	return s.Validate()
}

func asError(err error, target **Error) bool {
	e, ok := err.(*Error)
	*target = e
	return ok
}
