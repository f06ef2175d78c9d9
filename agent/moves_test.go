package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
)

func TestWhoRunsGuestsIsReadFromLibvirt(t *testing.T) {
	conf := func(text string) string {
		path := filepath.Join(t.TempDir(), "qemu.conf")
		must.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	for text, want := range map[string]int{
		"user = \"root\"\ngroup = \"root\"\n": -1,
		"# user = \"root\"\n  user=\"+0\"\n":  -1,
		"user = \"daemon\"\n":                 1,
		"user = \"+1\"\n":                     1,
	} {
		uid, _, err := guestOwner(&Hypervisor{}, conf(text))
		must.NoError(t, err)
		must.Eq(t, want, uid, must.Sprint(text))
	}
	uid, gid, err := guestOwner(&Hypervisor{User: "daemon"}, conf("user = \"root\"\n"))
	must.NoError(t, err)
	must.Eq(t, []int{1, 1}, []int{uid, gid}, must.Sprint("the agent's own configuration comes first"))
}
