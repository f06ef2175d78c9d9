package command

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
)

// vmFile writes a small specification.
func vmFile(t *testing.T, name string) string {
	return file(t, name+".hcl", `
variable "memory" {
  default = "64MiB"
}
vm "`+name+`" {
  memory = var.memory
  cpu {
    cores = 1
  }
  disk "root" {
    size = "1GiB"
  }
  network "default" {}
}
`)
}

func TestAVMFromPlanToDelete(t *testing.T) {
	c := atDev(t)
	spec := vmFile(t, "life")
	must.StrContains(t, c.ok("vm", "validate", spec), "life: valid")
	out, _, code := c.exec("vm", "plan", spec)
	must.Eq(t, exitChanges, code)
	must.StrContains(t, out, "+ VM default/life will be created")
	must.StrContains(t, out, "Node: dev")
	_, _, code = c.exec("vm", "run", "-plan", spec)
	must.Eq(t, exitChanges, code)

	out, errs, code := c.exec("vm", "run", spec)
	must.Eq(t, exitOK, code, must.Sprint(errs))
	must.StrContains(t, out, "VM life is created and running")
	must.StrContains(t, errs, "life: running on dev")
	must.StrContains(t, c.ok("vm", "plan", spec), "no changes")
	must.StrContains(t, c.ok("vm", "run", spec), "is up to date")

	must.StrContains(t, c.ok("vm", "list"), "life")
	out = c.ok("vm", "status", "life")
	for _, want := range []string{"running", "Disks", "root", "Networks", "default", "Recent events", "placed"} {
		must.StrContains(t, out, want)
	}
	var s api.VMStatusResponse
	must.NoError(t, json.Unmarshal([]byte(c.ok("vm", "inspect", "life")), &s))
	must.Eq(t, "life", s.VM.Name)
	must.StrContains(t, c.ok("vm", "status", s.VM.ID.Short()), "life", must.Sprint("the beginning of an id will do"))
	must.StrContains(t, c.ok("placement", "status", "life"), "running")
	must.StrContains(t, c.ok("placement", "list", "-node", "dev"), "default/life")
	must.StrContains(t, c.ok("node", "status", "dev"), "default/life")
	must.StrContains(t, c.ok("volume", "list"), "life")

	must.StrContains(t, c.ok("vm", "pause", "life"), "pause is done")
	must.StrContains(t, c.ok("vm", "list"), "paused")
	must.StrContains(t, c.ok("vm", "resume", "life"), "resume is done")
	must.StrContains(t, c.ok("vm", "reboot", "life"), "reboot is done")
	must.StrContains(t, c.ok("vm", "reset", "life"), "reset is done")
	must.StrContains(t, c.ok("vm", "stop", "life"), "stop is done")
	must.StrContains(t, c.ok("vm", "start", "life"), "start is done")

	out, _, code = c.exec("vm", "plan", spec, "-var", "memory=128MiB")
	must.Eq(t, exitChanges, code)
	must.StrContains(t, out, "memory: 64 MiB -> 128 MiB")
	must.StrContains(t, c.ok("vm", "run", spec, "-var", "memory=128MiB", "-detach"), "is changed")
	must.StrContains(t, c.ok("vm", "history", "life"), "memory: 67108864 -> 134217728")
	must.StrContains(t, c.ok("vm", "revert", "life", "1", "-detach"), "specification of version 1 again, as version 3")
	must.StrContains(t, c.fails(exitError, "vm", "run", spec, "-check-index", "0"), "NOVA-300")

	must.StrContains(t, c.ok("vm", "events", "life"), "created")
	must.StrContains(t, c.ok("vm", "stats", "life"), "Memory")
	must.StrContains(t, c.ok("vm", "delete", "life", "-force"), "life is deleted")
	must.StrContains(t, c.fails(exitError, "vm", "status", "life"), "NOVA-3000")
	must.StrContains(t, c.ok("events", "-topic", "vm", "-limit", "500"), "deleted")
}

func TestConsoleEchoesWhatIsTyped(t *testing.T) {
	c := atDev(t)
	c.ok("vm", "run", vmFile(t, "echo"))
	defer c.ok("vm", "delete", "echo", "-force")
	c.stdin = "are you there\r"
	con := c.start(t.Context(), "vm", "console", "echo", "-for", patience.String())
	con.shows(t, "login:", 1)
	con.shows(t, "are you there", 1)
	con.interrupt()
	<-con.code
	c.ok("vm", "console", "echo", "-for", "100ms")
	must.StrContains(t, c.fails(exitError, "vm", "console", "nobody"), "NOVA-3000")

	// Watching ends when the person interrupts, without an error.
	stats := c.start(t.Context(), "vm", "stats", "echo", "-watch", "-every", "10ms")
	stats.shows(t, "CPU", 3)
	stats.ends(t)
}

func TestWatchingEndsAlsoWhileItAsks(t *testing.T) {
	asked := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}))
	defer srv.Close()
	c := alone(t)
	c.env["NOVACRON_ADDR"] = srv.URL
	stats := c.start(t.Context(), "vm", "stats", "web", "-watch")
	<-asked
	stats.ends(t)
}

func TestStreamsOfEventsAreFollowed(t *testing.T) {
	c := atDev(t)
	c.ok("vm", "run", vmFile(t, "seen"))
	var list []api.Event
	must.NoError(t, json.Unmarshal([]byte(c.ok("events", "-o", "json", "-limit", "1000")), &list))
	from := list[len(list)-1].Index
	one := c.start(t.Context(), "vm", "events", "seen", "-follow")
	one.shows(t, "created", 1)
	all := c.start(t.Context(), "events", "-follow", "-topic", "vm", "-o", "json", "-index", uintText(from))
	c.ok("vm", "delete", "seen", "-force")
	all.shows(t, `"type":"deleted"`, 1)
	one.shows(t, "deleted", 1)
	all.ends(t)
	one.ends(t)
	must.StrContains(t, c.ok("events", "-index", uintText(from)), "deleted")
}

func TestEventsAreFiltered(t *testing.T) {
	c := atDev(t)
	c.ok("vm", "run", vmFile(t, "picked"))
	defer c.ok("vm", "delete", "picked", "-force")
	out := c.ok("vm", "events", "picked", "-filter", `topic == "vm" and type == "created"`, "-limit", "1")
	must.StrContains(t, out, "created")
	must.Eq(t, 2, strings.Count(out, "\n"), must.Sprint(out))
	must.StrContains(t, c.ok("events", "-filter", `type == "created"`, "-topic", "vm", "-limit", "1"), "picked")
	must.StrContains(t, c.fails(exitError, "events", "-filter", "type =="), "NOVA-")
	for _, args := range [][]string{{"events"}, {"vm", "events", "picked"}} {
		c.fails(exitUsage, append(args, "-follow", "-filter", "x == y")...)
	}
}

func TestAVMThatFitsNowhereSaysWhy(t *testing.T) {
	c := atDev(t)
	spec := file(t, "huge.hcl", "vm \"huge\" {\n  memory = \"60TiB\"\n  cpu {\n    cores = 1\n  }\n}\n")
	out, errs, code := c.exec("vm", "run", spec, "-timeout", "5s")
	must.Eq(t, exitError, code, must.Sprint(out, errs))
	must.StrContains(t, errs, "huge: pending")
	must.StrContains(t, errs, "memory")
	must.StrContains(t, c.ok("vm", "status", "huge"), "Why no node fits")
	c.ok("vm", "delete", "huge")
}

// A namespace that a specification names is its own; one that names none is of
// the namespace in use.
func TestSpecificationsKeepTheirNamespace(t *testing.T) {
	c := atDev(t)
	c.ok("namespace", "create", "spaces")
	own := file(t, "own.hcl", "vm \"own\" {\n  namespace = \"default\"\n  memory = \"64MiB\"\n  cpu = 1\n  network \"default\" {}\n}\n")
	none := vmFile(t, "none")
	for _, way := range []string{"flag", "environment"} {
		args := []string{"-namespace", "spaces"}
		if way == "environment" {
			args, c.env["NOVACRON_NAMESPACE"] = nil, "spaces"
		}
		for file, want := range map[string]string{own: "+ VM default/own", none: "+ VM spaces/none"} {
			out, _, code := c.exec(append([]string{"vm", "plan", file}, args...)...)
			must.Eq(t, exitChanges, code)
			must.StrContains(t, out, want)
		}
	}
	c.env["NOVACRON_NAMESPACE"] = "*"
	out, _, _ := c.exec("vm", "plan", none)
	must.StrContains(t, out, "+ VM default/none")

	// What was made is found there, and shows the address that its card has.
	c.env["NOVACRON_NAMESPACE"] = "spaces"
	c.ok("vm", "run", own)
	c.env["NOVACRON_NAMESPACE"] = ""
	var s api.VMStatusResponse
	must.NoError(t, json.Unmarshal([]byte(c.ok("vm", "inspect", "own")), &s))
	must.Eq(t, "default", s.VM.Namespace)
	must.StrContains(t, c.ok("vm", "status", "own"), api.MAC(s.VM.ID, 0))
	c.ok("vm", "delete", "own", "-force")
	c.ok("namespace", "delete", "spaces")
}

func TestAddressesThatNobodyTellsTheGuestAreWarnedOf(t *testing.T) {
	c := atDev(t)
	spec := file(t, "mute.hcl", "vm \"mute\" {\n  memory = \"64MiB\"\n  cpu = 1\n  network \"default\" {\n    address = \"10.76.0.9/24\"\n  }\n}\n")
	out, _, _ := c.exec("vm", "plan", spec)
	must.StrContains(t, out, "Warning: the address 10.76.0.9/24 has no effect without a cloud_init block")
	must.StrContains(t, c.ok("vm", "run", spec), "Warning: the address")
	c.ok("vm", "delete", "mute", "-force")
}

func TestSpecificationsFromStandardInputAndErrorsWithPlaces(t *testing.T) {
	c := atDev(t)
	c.stdin = `{"name": "fromjson", "memory": "64MiB", "cpu": {"cores": 1}}`
	must.StrContains(t, c.ok("vm", "validate", "-"), "fromjson: valid")
	bad := file(t, "bad.hcl", "vm \"x\" {\n  memroy = \"1GiB\"\n}\n")
	errs := c.fails(exitError, "vm", "run", bad)
	must.StrContains(t, errs, "line 2")
	must.StrContains(t, errs, "memory")
	c.fails(exitError, "vm", "run", "/nonexistent.hcl")
	t.Chdir(t.TempDir())
	must.StrContains(t, c.ok("vm", "init"), "Wrote vm.hcl")
	must.StrContains(t, c.ok("vm", "validate", "vm.hcl"), "web: valid")
	must.StrContains(t, c.fails(exitError, "vm", "init"), "there already")
}

func TestNamespacesNetworksPoolsAndVolumes(t *testing.T) {
	c := atDev(t)
	must.StrContains(t, c.ok("namespace", "create", "shop", "-description", "the shop", "-label", "a=b"), "the shop")
	must.StrContains(t, c.ok("namespace", "status", "shop"), "a=b")
	must.StrContains(t, c.ok("namespace", "list", "-prefix", "sh"), "shop")

	must.StrContains(t, c.ok("network", "create", "lan", "-type", "bridge", "-bridge", "br0", "-mtu", "9000"), "br0")
	must.StrContains(t, c.ok("network", "status", "lan"), "9000")
	must.StrContains(t, c.ok("network", "list"), "lan")
	must.StrContains(t, c.ok("network", "delete", "lan"), "network lan is deleted")

	must.StrContains(t, c.ok("pool", "list"), "default")
	must.StrContains(t, c.ok("pool", "update", "default", "-ratio", "2", "-description", "sim", "-label", "x=y"), "x=y")
	must.StrContains(t, c.ok("pool", "status", "default"), "dev")

	must.StrContains(t, c.ok("volume", "create", "data", "-size", "2GiB", "-namespace", "shop"), "2 GiB")
	must.StrContains(t, c.ok("volume", "list", "-namespace", "shop"), "data")
	must.StrContains(t, c.ok("volume", "status", "data", "-namespace", "shop"), "default")
	must.StrContains(t, c.ok("volume", "delete", "data", "-namespace", "shop"), "volume data is deleted")

	until(t, func() bool { // the volume goes when its node says so
		_, _, code := c.exec("namespace", "delete", "shop")
		return code == exitOK
	})
	must.StrContains(t, c.fails(exitError, "pool", "delete", "default"), "NOVA-3003")
}

func TestNodesAndTheScheduler(t *testing.T) {
	c := atDev(t)
	must.StrContains(t, c.ok("node", "cordon", "dev"), "dev takes nothing new")
	must.StrContains(t, c.ok("node", "list"), "no")
	must.StrContains(t, c.ok("node", "uncordon", "-self"), "dev is used again")
	must.StrContains(t, c.ok("node", "update", "dev", "-cpu-ratio", "8"), "CPU x 8")
	must.StrContains(t, c.ok("node", "status"), "dev")
	must.StrContains(t, c.ok("node", "stats", "dev"), "Load")
	must.StrContains(t, c.fails(exitError, "node", "delete", "dev"), "NOVA-300")
	must.StrContains(t, c.ok("operator", "scheduler", "set", "-algorithm", "spread", "-cpu-ratio", "3", "-memory-ratio", "1", "-expect", "1"), "spread")
	must.StrContains(t, c.ok("operator", "scheduler", "set", "-algorithm", "binpack"), "binpack")
	must.StrContains(t, c.ok("status"), "1 ready")
}

func TestTokens(t *testing.T) {
	c := atDev(t)
	secret := strings.TrimSpace(c.ok("token", "create", "alice", "-ttl", "1h", "-quiet"))
	must.StrHasPrefix(t, "nova.", secret)
	as := atDev(t)
	as.env["NOVACRON_TOKEN"] = secret
	as.ok("vm", "list")
	accessor := strings.Split(secret, ".")[1]
	out := c.ok("token", "status", accessor)
	must.StrContains(t, out, "alice")
	must.StrNotContains(t, out, secret)
	c.ok("token", "delete", accessor)
	must.StrContains(t, as.fails(exitError, "vm", "list"), "NOVA-2000")

	join := c.ok("token", "join", "-role", "client", "-uses", "2")
	must.StrContains(t, join, "nova-join.")
	must.StrContains(t, join, "not shown again")
	must.StrContains(t, c.ok("token", "list"), "client")
	must.StrContains(t, c.fails(exitError, "token", "join", "-role", "king"), "NOVA-1000")
}

func TestImagesUpAndDown(t *testing.T) {
	c := atDev(t)
	content := strings.Repeat("initramfs ", 100_000)
	path := file(t, "initrd.img", content)
	out, errs, code := c.exec("image", "upload", path, "-name", "tick", "-label", "os=none")
	must.Eq(t, exitOK, code, must.Sprint(errs))
	must.StrContains(t, errs, "uploading")
	must.StrContains(t, out, "os=none")
	must.StrContains(t, c.ok("image", "list"), "tick")
	must.StrContains(t, c.ok("image", "status", "tick"), "initrd (raw)")
	back := filepath.Join(t.TempDir(), "back")
	must.StrContains(t, c.ok("image", "download", "tick", back), "SHA-256 checked")
	got, err := os.ReadFile(back)
	must.NoError(t, err)
	must.Eq(t, content, string(got))
	must.StrContains(t, c.fails(exitError, "image", "upload", path, "-sha256", "00"), "the file's SHA-256 is")
	must.StrContains(t, c.fails(exitError, "image", "upload", t.TempDir()), "is not a file with content")
	must.StrContains(t, c.ok("image", "delete", "tick"), "image tick is deleted")
}

func TestOperatorsSeeRaftSchemaAndSnapshots(t *testing.T) {
	c := atDev(t)
	must.StrContains(t, c.ok("operator", "raft", "list"), "leader")
	must.StrContains(t, c.fails(exitError, "operator", "raft", "remove", "nobody"), "there is no server")
	must.StrContains(t, c.fails(exitError, "operator", "raft", "transfer"), "NOVA-")
	must.StrContains(t, c.ok("operator", "schema", "status"), "Active")
	must.StrContains(t, c.fails(exitError, "operator", "schema", "up", "99"), "NOVA-6006")
	must.StrContains(t, c.ok("operator", "recovery", "status"), "not in recovery")
	must.StrContains(t, c.ok("server", "members"), "dev")

	snap := filepath.Join(t.TempDir(), "state.snap")
	must.StrContains(t, c.ok("operator", "snapshot", "save", snap), "TABLE")
	info, err := os.Stat(snap)
	must.NoError(t, err)
	must.Eq(t, 0o600, info.Mode().Perm())
	var m api.SnapshotMeta
	must.NoError(t, json.Unmarshal([]byte(alone(t).ok("operator", "snapshot", "inspect", snap, "-o", "json")), &m))
	must.Eq(t, "global", m.Region)
	must.StrContains(t, c.fails(exitError, "operator", "snapshot", "restore", snap), "nothing was changed")

	b, err := os.ReadFile(snap)
	must.NoError(t, err)
	b[len(b)/2] ^= 1
	must.NoError(t, os.WriteFile(snap, b, 0o600))
	must.StrContains(t, alone(t).fails(exitError, "operator", "snapshot", "inspect", snap), "NOVA-6008")
}

func TestNodesAreGivenUpDeniedAndAllowed(t *testing.T) {
	c := atDev(t)
	must.StrContains(t, c.fails(exitError, "operator", "node", "fence-confirm", "dev"), "nothing was changed")
	must.StrContains(t, c.fails(exitError, "operator", "node", "fence-confirm", "dev", "-yes"), "it is not off")
	must.StrContains(t, c.fails(exitError, "operator", "node", "fence-confirm", "nobody", "-yes"), "NOVA-3000")
	id := "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
	must.StrContains(t, c.ok("node", "deny", id, "-reason", "stolen"), "is denied")
	must.StrContains(t, c.ok("node", "allow", id), "may connect again")
	must.StrContains(t, c.fails(exitError, "node", "deny", "nobody"), "NOVA-3000")
	must.StrContains(t, c.fails(exitError, "node", "delete", "-force", "dev"), "only a node that has left or is lost")
}
