package command

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

// Every example runs, with the images, networks and volumes that it names.
func TestTheExamples(t *testing.T) {
	c := atDev(t)
	disk := file(t, "debian-12.raw", strings.Repeat("a disk ", 1<<16))
	kernel, initrd := file(t, "vmlinuz", strings.Repeat("a kernel ", 1000)), file(t, "initrd", strings.Repeat("a root ", 1000))
	for _, u := range [][]string{{disk, "-name", "debian-12", "-kind", "disk"}, {kernel, "-name", "vmlinuz", "-kind", "kernel"}, {initrd, "-name", "initrd", "-kind", "initrd"}} {
		c.ok(append([]string{"image", "upload"}, u...)...)
	}
	c.ok("network", "create", "lan", "-type", "nat", "-cidr", "192.168.100.0/24")
	c.ok("network", "create", "backup", "-type", "nat", "-cidr", "192.168.101.0/24", "-isolated")
	c.ok("volume", "create", "archive", "-size", "50GiB")

	files, err := filepath.Glob("../examples/*.*")
	must.NoError(t, err)
	ran := 0
	for _, f := range files {
		if ext := filepath.Ext(f); ext != ".hcl" && ext != ".json" {
			continue
		}
		var specs []*api.VMSpec
		must.NoError(t, json.Unmarshal([]byte(c.ok("vm", "validate", f, "-o", "json")), &specs), must.Sprint(f))
		must.SliceNotEmpty(t, specs)
		out := c.ok("vm", "run", f, "-timeout", patience.String())
		must.Eq(t, len(specs), strings.Count(out, "and running"), must.Sprint(f, out))
		must.StrNotContains(t, out, "Warning:", must.Sprint(f))
		for _, s := range specs {
			if s.Protection {
				c.ok("vm", "run", unprotected(t, f))
			}
			c.ok("vm", "delete", s.Name, "-force")
			ran++
		}
	}
	must.Greater(t, 5, ran)

	until(t, func() bool { // what was kept can go now
		for _, v := range []string{"two-disks-data", "archive"} {
			if _, _, code := c.exec("volume", "status", v); code == exitOK {
				_, _, _ = c.exec("volume", "delete", v)
				return false
			}
		}
		return true
	})
	for _, args := range [][]string{{"network", "lan"}, {"network", "backup"}, {"image", "debian-12"}, {"image", "vmlinuz"}, {"image", "initrd"}} {
		c.ok(args[0], "delete", args[1])
	}
}

// unprotected is an example that may be deleted.
func unprotected(t *testing.T, example string) string {
	t.Helper()
	text, err := os.ReadFile(example)
	must.NoError(t, err)
	return file(t, filepath.Base(example), strings.Replace(string(text), "protection = true", "protection = false", 1))
}
