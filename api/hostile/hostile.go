// Package hostile is the reference's list of hostile inputs, rows X (fields that
// end in domain XML) and C (cloud-init), as far as a specification can carry them,
// for the tests of whoever takes specifications in.
//
// Promises: each row is refused with a code by every entrance, in JSON and in HCL;
// what Opaque returns passes every entrance byte for byte.
//
// What does not belong: hostile requests around a specification (each room has its
// own), code that is not for tests.
package hostile

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/novacron/novacron/api"
)

// Row is one specification that nobody must take.
type Row struct {
	Name string
	// JSON is the specification; HCL says the same, empty where HCL cannot.
	JSON, HCL string
	// Code and Field are what is said of the JSON form; HCL may say it otherwise.
	Code  api.Code
	Field string
}

// Key is a public key that is good.
const Key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@host"

const (
	size     = "\ncpu = 1\nmemory = \"64MiB\"\n"
	doctype  = `<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>`
	entities = `<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>&b;`
	metadata = `</metadata><qemu:commandline>`
	network  = "cloud_init.network_config"
	bomb     = "version: 2\na: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]\n"
)

func js(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// The forms of JSON: a valid specification with something more, or otherwise.
func with(extra string) string {
	return `{"name":"web","cpu":{"cores":1},"memory":"64MiB"` + extra + `}`
}
func ciJSON(member string) string { return with(`,"cloud_init":{` + member + `}`) }
func userData(s string) string    { return ciJSON(`"user_data":"` + b64(s) + `"`) }
func netJSON(s string) string     { return ciJSON(`"network_config":"` + b64(s) + `"`) }
func namedJSON(n string) string   { return `{"name":` + js(n) + `,"cpu":{"cores":1},"memory":"64MiB"}` }
func coresJSON(n string) string   { return `{"name":"web","cpu":{"cores":` + n + `},"memory":"64MiB"}` }
func memoryJSON(n string) string  { return `{"name":"web","cpu":{"cores":1},"memory":` + n + `}` }

// The same in HCL.
func vm(body string) string      { return `vm "web" {` + size + body + "\n}" }
func named(n string) string      { return `vm ` + js(n) + ` {` + size + `}` }
func cores(n string) string      { return "vm \"web\" {\ncpu = " + n + "\nmemory = \"64MiB\"\n}" }
func memory(n string) string     { return "vm \"web\" {\ncpu = 1\nmemory = " + n + "\n}" }
func ciHCL(body string) string   { return vm("cloud_init {\n" + body + "\n}") }
func netHCL(s string) string     { return ciHCL("network_config = " + js(s)) }
func bootHCL(line string) string { return vm("boot {\nkernel = \"k\"\ncmdline = " + line + "\n}") }

// Rows returns the list.
func Rows() []Row {
	const invalid, unknown, dup, syntax = api.CodeInvalid, api.CodeUnknownField, api.CodeDuplicateKey, api.CodeSyntax
	return []Row{
		{"X1 name closes its element", namedJSON("a</name><devices>"), named("a</name><devices>"), invalid, "name"},
		{"X2 name with NUL", `{"name":"a\u0000b","cpu":{"cores":1},"memory":"64MiB"}`, `vm "a\u0000b" {` + size + `}`, invalid, "name"},
		{"X3 name with U+202E", namedJSON("abc\u202egnp"), named("abc\u202egnp"), invalid, "name"},
		{"X3 label value with U+202E", with(`,"labels":{"a":"x\u202ey"}`), vm(`labels = { a = "x\u202ey" }`), invalid, `labels["a"]`},
		{"X4 name of 10 MB", namedJSON(strings.Repeat("a", 10<<20)), named(strings.Repeat("a", 10<<20)), api.CodeTooLarge, ""},
		{"X4 name of 64", namedJSON(strings.Repeat("a", 64)), named(strings.Repeat("a", 64)), invalid, "name"},
		{"X5 description ends CDATA", with(`,"description":"x ]]> y"`), vm(`description = "x ]]> y"`), invalid, "description"},
		{"X6 description with DOCTYPE", with(`,"description":` + js(doctype)), vm(`description = ` + js(doctype)), invalid, "description"},
		{"X7 entity bomb", with(`,"description":` + js(entities)), vm(`description = ` + js(entities)), invalid, "description"},
		{"X8 metadata closes", with(`,"description":` + js(metadata)), vm(`description = ` + js(metadata)), invalid, "description"},
		{"X8 in a label", with(`,"labels":{"a":` + js(metadata) + `}`), vm(`labels = { a = ` + js(metadata) + ` }`), invalid, `labels["a"]`},
		{"X9 disk of the host", with(`,"disks":[{"volume":"/dev/sda"}]`), vm(`disk "root" { volume = "/dev/sda" }`), invalid, "disk[0].volume"},
		{"X9 disk source", with(`,"disks":[{"source":"/dev/sda"}]`), vm(`disk "root" { source = "/dev/sda" }`), unknown, "disks[0].source"},
		{"X10 option by comma", with(`,"disks":[{"volume":"a,file.driver=nbd"}]`), vm(`disk "root" { volume = "a,file.driver=nbd" }`), invalid, "disk[0].volume"},
		{"X10 option by comma in image", with(`,"disks":[{"image":"a,file.driver=nbd"}]`), vm(`disk "root" { image = "a,file.driver=nbd" }`), invalid, "disk[0].image"},
		{"X11 network as path", with(`,"networks":[{"network":"../default"}]`), vm(`network "../default" {}`), invalid, "network[0].network"},
		{"X12 bridge as shell", with(`,"networks":[{"network":"eth0; rm"}]`), vm(`network "eth0; rm" {}`), invalid, "network[0].network"},
		{"X13 MAC multicast", with(`,"networks":[{"network":"n","mac":"01:00:5e:00:00:01"}]`), vm(`network "n" { mac = "01:00:5e:00:00:01" }`), invalid, "network[0].mac"},
		{"X13 MAC all zero", with(`,"networks":[{"network":"n","mac":"00:00:00:00:00:00"}]`), vm(`network "n" { mac = "00:00:00:00:00:00" }`), invalid, "network[0].mac"},
		{"X13 MAC twice", with(`,"networks":[{"network":"n","mac":"52:54:00:00:00:01"},{"network":"n","mac":"52-54-00-00-00-01"}]`), vm("network \"n\" { mac = \"52:54:00:00:00:01\" }\nnetwork \"n\" { mac = \"52-54-00-00-00-01\" }"), invalid, "network[1].mac"},
		{"X14 no cores", coresJSON("0"), cores("0"), invalid, "cpu.cores"},
		{"X14 minus one core", coresJSON("-1"), cores("-1"), invalid, "cpu.cores"},
		{"X14 2^31 cores", coresJSON("2147483648"), cores("2147483648"), invalid, "cpu.cores"},
		{"X14 1e9 cores", coresJSON("1000000000"), cores("1000000000"), invalid, "cpu.cores"},
		{"X14 1e9 cores, exponent", coresJSON("1e9"), cores("1e9"), invalid, "cpu.cores"},
		{"X15 no memory", memoryJSON("0"), memory("0"), invalid, "memory"},
		{"X15 2^63 bytes", memoryJSON("9223372036854775808"), memory("9223372036854775808"), invalid, "memory"},
		{"X15 1 KiB", memoryJSON("1024"), memory("1024"), invalid, "memory"},
		{"X15 NaN", memoryJSON("NaN"), memory("NaN"), syntax, ""},
		{"X15 NaN as text", memoryJSON(`"NaN"`), memory(`"NaN"`), invalid, "memory"},
		{"X15 infinite", memoryJSON(`"InfTiB"`), memory(`"InfTiB"`), invalid, "memory"},
		{"X15 odd bytes", memoryJSON("67108865"), memory("67108865"), invalid, "memory"},
		{"X16 CPU features by comma", `{"name":"web","cpu":{"cores":1,"model":"host,+vmx,l3-cache=on"},"memory":"64MiB"}`, "vm \"web\" {\nmemory = \"64MiB\"\ncpu {\ncores = 1\nmodel = \"host,+vmx,l3-cache=on\"\n}\n}", invalid, "cpu.model"},
		{"X17 hostdev", with(`,"hostdevs":[{"pci":"0000:00:1f.2"}]`), vm(`hostdev { pci = "0000:00:1f.2" }`), unknown, "hostdevs"},
		{"X18 file system", with(`,"filesystems":[{"source":"/"}]`), vm(`filesystem { source = "/" }`), unknown, "filesystems"},
		{"X19 foreign UUID", with(`,"id":"6ba7b810-9dad-41d1-80b4-00c04fd430c8"`), vm(`id = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"`), unknown, "id"},
		{"X20 character reference", namedJSON("a&#0;"), named("a&#0;"), invalid, "name"},
		{"X20 control character", with(`,"description":"a\u001b[2J"`), vm(`description = "a\u001b[2J"`), invalid, "description"},
		{"X20 lone surrogate", with(`,"description":"\ud800"`), "", syntax, ""},
		{"X20 lone low surrogate", with(`,"description":"\udc00x"`), "", syntax, ""},
		{"X20 surrogate in a key", with(`,"labels":{"\ud800":"x"}`), "", syntax, ""},
		{"X20 invalid UTF-8", with(",\"description\":\"\xff\xfe\""), vm("description = \"\xff\xfe\""), syntax, ""},

		{"C1 host name with YAML", ciJSON(`"hostname":"a\nruncmd: [..]"`), ciHCL(`hostname = "a\nruncmd: [..]"`), invalid, "cloud_init.hostname"},
		{"C2 ssh key with a second line", ciJSON(`"ssh_keys":[` + js(Key+"\nruncmd: [reboot]") + `]`), ciHCL(`ssh_keys = [` + js(Key+"\nruncmd: [reboot]") + `]`), invalid, "cloud_init.ssh_keys[0]"},
		{"C2 ssh key that is none", ciJSON(`"ssh_keys":["ssh-ed25519 AAAA"]`), ciHCL(`ssh_keys = ["ssh-ed25519 AAAA"]`), invalid, "cloud_init.ssh_keys[0]"},
		{"C2 ssh key of another type", ciJSON(`"ssh_keys":[` + js(strings.Replace(Key, "ssh-ed25519", "ssh-rsa", 1)) + `]`), ciHCL(`ssh_keys = [` + js(strings.Replace(Key, "ssh-ed25519", "ssh-rsa", 1)) + `]`), invalid, "cloud_init.ssh_keys[0]"},
		{"C2 ssh key with options", ciJSON(`"ssh_keys":[` + js(`command="rm" `+Key) + `]`), ciHCL(`ssh_keys = [` + js(`command="rm" `+Key) + `]`), invalid, "cloud_init.ssh_keys[0]"},
		{"C3 user", ciJSON(`"user":"root: x"`), ciHCL(`user = "root: x"`), unknown, "cloud_init.user"},
		{"C4 password", ciJSON(`"password":"\"'#: "`), ciHCL(`password = "\"'#: "`), unknown, "cloud_init.password"},
		{"C6 user data one byte too long", userData(strings.Repeat("x", api.MaxUserData+1)), ciHCL(`user_data = "` + strings.Repeat("x", api.MaxUserData+1) + `"`), invalid, "cloud_init.user_data"},
		{"C9 vendor data", ciJSON(`"vendor_data":"## template: jinja"`), ciHCL(`vendor_data = "## template: jinja"`), unknown, "cloud_init.vendor_data"},
		{"C10 object in network config", ciJSON(`"network_config":"` + b64("version: 2\nx: !!python/object:os.system {}") + `"`), netHCL("version: 2\nx: !!python/object:os.system {}"), invalid, "cloud_init.network_config"},
		{"C10 verbatim tag", ciJSON(`"network_config":"` + b64("x: !<tag:yaml.org,2002:python/name:os.system> {}") + `"`), netHCL("x: !<tag:yaml.org,2002:python/name:os.system> {}"), invalid, "cloud_init.network_config"},
		{"C11 instance id", ciJSON(`"instance_id":"/../"`), ciHCL(`instance_id = "/../"`), unknown, "cloud_init.instance_id"},
		{"C12 duplicate keys", ciJSON(`"hostname":"a","hostname":"b"`), ciHCL("hostname = \"a\"\nhostname = \"b\""), dup, "cloud_init.hostname"},
		{"C12 duplicate keys by escape", ciJSON(`"hostname":"a","host\u006eame":"b"`), "", dup, "cloud_init.hostname"},
		{"C12 same key in another case", ciJSON(`"hostname":"a","Hostname":"b"`), ciHCL("hostname = \"a\"\nHostname = \"b\""), unknown, "cloud_init.Hostname"},
		{"C12 duplicate label", with(`,"labels":{"a":"1","a":"2"}`), "", dup, "labels.a"},
		{"C14 seedfrom", ciJSON(`"seedfrom":"http://evil/"`), ciHCL(`seedfrom = "http://evil/"`), unknown, "cloud_init.seedfrom"},
		{"C15 file name", ciJSON(`"files":[{"path":"` + strings.Repeat("a", 100) + `"}]`), ciHCL(`file { path = "` + strings.Repeat("a", 100) + `" }`), unknown, "cloud_init.files"},
		{"C17 secret of another namespace", ciJSON(`"user_data":{"secret":"other/key"}`), ciHCL(`user_data = { secret = "other/key" }`), invalid, "cloud_init.user_data"},
		{"C18 secret loop", with(`,"secrets":{"a":"secret:a"}`), vm(`secrets = { a = "secret:a" }`), unknown, "secrets"},
		{"X17 device by option", with(`,"qemu_args":["-device","vfio-pci,host=00:1f.2"]`), vm(`qemu_args = ["-device", "vfio-pci,host=00:1f.2"]`), unknown, "qemu_args"},
		{"X17 hostdev in a disk", with(`,"disks":[{"size":"1GiB","hostdev":"0000:00:1f.2"}]`), vm("disk \"root\" {\nsize = \"1GiB\"\nhostdev = \"0000:00:1f.2\"\n}"), unknown, "disks[0].hostdev"},
		{"X18 shared folder", with(`,"shares":[{"driver":"virtiofs","source":"/etc","target":"etc"}]`), vm(`share "etc" { source = "/etc" }`), unknown, "shares"},
		{"X18 folder as a disk", with(`,"disks":[{"volume":"fat:/etc"}]`), vm(`disk "root" { volume = "fat:/etc" }`), invalid, "disk[0].volume"},
		{"X20 bell in the command line", with(`,"boot":{"kernel":"k","cmdline":"quiet\u0007"}`), bootHCL(`"quiet\u0007"`), invalid, "boot.cmdline"},
		{"X20 escape in the command line", with(`,"boot":{"kernel":"k","cmdline":"\u001b[2J"}`), bootHCL(`"\u001b[2J"`), invalid, "boot.cmdline"},
		{"X20 NUL in the command line", with(`,"boot":{"kernel":"k","cmdline":"a\u0000b"}`), bootHCL(`"a\u0000b"`), invalid, "boot.cmdline"},
		{"X20 second line in the command line", with(`,"boot":{"kernel":"k","cmdline":"a\nb"}`), bootHCL(`"a\nb"`), invalid, "boot.cmdline"},
		{"X20 DEL in the command line", with(`,"boot":{"kernel":"k","cmdline":"a\u007fb"}`), bootHCL(`"a\u007fb"`), invalid, "boot.cmdline"},
		{"X20 turned text in the command line", with(`,"boot":{"kernel":"k","cmdline":"a\u202eb"}`), bootHCL(`"a\u202eb"`), invalid, "boot.cmdline"},

		{"C10 anchor", netJSON("version: 2\na: &a [x]\n"), netHCL("version: 2\na: &a [x]\n"), invalid, network},
		{"C10 aliases bomb", netJSON(bomb), netHCL(bomb), invalid, network},
		{"C10 alias of itself", netJSON("version: 2\na: &a [*a]\n"), netHCL("version: 2\na: &a [*a]\n"), invalid, network},
		{"C10 merge key", netJSON("version: 2\nx: {<<: {a: b}}\n"), netHCL("version: 2\nx: {<<: {a: b}}\n"), invalid, network},
		{"C10 own tag", netJSON("version: 2\nx: !exec rm\n"), netHCL("version: 2\nx: !exec rm\n"), invalid, network},
		{"C10 binary", netJSON("version: 2\nx: !!binary aGk=\n"), netHCL("version: 2\nx: !!binary aGk=\n"), invalid, network},
		{"C10 second document", netJSON("version: 2\n---\nversion: 2\n"), netHCL("version: 2\n---\nversion: 2\n"), invalid, network},
		{"C10 no version", netJSON("ethernets: {}\n"), netHCL("ethernets: {}\n"), invalid, network},
		{"C10 not YAML", netJSON("version: [\n"), netHCL("version: [\n"), invalid, network},
	}
}

// Opaque are user data that are the guest's own business: they arrive as they are.
func Opaque() map[string][]byte {
	return map[string][]byte{
		"C5 anchors bomb":         []byte("#cloud-config\na: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n"),
		"C7 MIME boundary":        []byte("Content-Type: multipart/mixed; boundary=\"B\"\n\n--B\n--B--\n"),
		"C8 include":              []byte("#include http://169.254.169.254/\n"),
		"C13 gzip":                {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3},
		"C13 gzip bomb":           gzipBomb(),
		"C16 not UTF-8":           {0xff, 0xfe, 0x00, 0x80, 0xc3},
		"C19 template characters": []byte("#!/bin/sh\necho ${env:HOME} {{secret}} %{if x} $(id)\n"),
		"C20 CRLF":                []byte("#!/bin/sh\r\ntrue\r\n"),
		"C20 LF":                  []byte("#!/bin/sh\ntrue\n"),
		"C6 at the cap":           bytes.Repeat([]byte{'x'}, api.MaxUserData),
	}
}

// gzipBomb is 100 MiB of nothing, which must stay packed.
func gzipBomb() []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	zeros := make([]byte, 1<<20)
	for range 100 {
		_, _ = w.Write(zeros)
	}
	_ = w.Close()
	return b.Bytes()
}

// JSONOf and HCLOf are specifications with user data.
func JSONOf(data []byte) string { return userData(string(data)) }

// HCLOf is JSONOf in HCL.
func HCLOf(data []byte) string { return ciHCL(`user_data_base64 = "` + b64(string(data)) + `"`) }
