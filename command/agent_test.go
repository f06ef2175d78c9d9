package command

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// loopback is an address of this process alone, so that a port found free is free
// still when it is used.
var loopback = fmt.Sprintf("127.%d.%d.%d", 1+os.Getpid()>>16&0x7f, os.Getpid()>>8&0xff, os.Getpid()&0xff)

// freePort finds a port of that address that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	must.NoError(t, err)
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// running starts `novacron agent` and stops it with the test.
func running(t *testing.T, args ...string) (address string, errs *buffer) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	errs = &buffer{}
	started, done := make(chan string, 1), make(chan int, 1)
	env := &Env{
		Stdin: strings.NewReader(""), Stdout: &buffer{}, Stderr: errs,
		LookupEnv: func(string) (string, bool) { return "", false },
		Started:   func(address, _ string) { started <- address },
	}
	go func() { done <- Run(ctx, append([]string{"agent"}, args...), env) }()
	t.Cleanup(func() {
		stop()
		must.Eq(t, exitOK, <-done, must.Sprint(errs))
	})
	select {
	case address = <-started:
	case code := <-done:
		t.Fatalf("the agent ended with %d: %s", code, errs)
	case <-time.After(patience):
		t.Fatalf("the agent did not start: %s", errs)
	}
	return address, errs
}

func TestFromClusterInitToAClientThatJoined(t *testing.T) {
	dir := t.TempDir()
	rpc := freePort(t)
	conf := func(name string, port int, rest string) string {
		path := filepath.Join(dir, name+".hcl")
		text := fmt.Sprintf("name = %q\nregion = \"eu\"\ndata_dir = %q\nbind_addr = %q\nports {\n  http = %d\n  rpc = %d\n  serf = %d\n}\n%s",
			name, filepath.Join(dir, name), loopback, freePort(t), port, freePort(t), rest)
		must.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	server := conf("s1", rpc, "server {\n  enabled = true\n}\n")
	c := alone(t)
	must.StrContains(t, c.ok("cluster", "init", "-config", server), "s1")
	must.StrContains(t, c.fails(exitError, "cluster", "init", "-config", server), "already")
	address, log := running(t, "-config", server)
	must.StrHasPrefix(t, "https://", address)

	var secret string
	until(t, func() bool {
		out, _, code := c.exec("acl", "bootstrap", "-config", server, "-quiet")
		secret = strings.TrimSpace(out)
		return code == exitOK
	}, log)
	must.StrContains(t, c.fails(exitError, "acl", "bootstrap", "-socket", filepath.Join(dir, "s1", "novacron.sock")), "NOVA-2004")

	// A backup needs the root key; it is what the data folder holds.
	held, err := os.ReadFile(filepath.Join(dir, "s1", "root.key"))
	must.NoError(t, err)
	must.Eq(t, string(held), c.ok("operator", "keyring", "export", "-config", server))
	saved := filepath.Join(dir, "backup.key")
	c.ok("operator", "keyring", "export", "-config", server, "-out", saved)
	got, err := os.ReadFile(saved)
	must.NoError(t, err)
	must.Eq(t, string(held), string(got))
	c.fails(exitError, "operator", "keyring", "export", "-config", server, "-out", saved)

	c.env["NOVACRON_ADDR"], c.env["NOVACRON_TOKEN"] = address, secret
	c.env["NOVACRON_CACERT"] = filepath.Join(dir, "s1", "tls", "ca.pem")
	must.StrContains(t, c.ok("status"), "s1.eu")
	token := filepath.Join(dir, "token")
	must.NoError(t, os.WriteFile(token, []byte(c.ok("token", "join", "-role", "client", "-quiet")), 0o600))
	client := conf("c1", freePort(t), "")
	running(t, "-config", client, "-join", fmt.Sprintf("%s:%d", loopback, rpc), "-token-file", token, "-hypervisor", "sim")
	until(t, func() bool { return strings.Contains(c.ok("node", "list"), "ready") })

	// A hangup reads the configuration again and says what needs a restart.
	text, err := os.ReadFile(server)
	must.NoError(t, err)
	must.NoError(t, os.WriteFile(server, append(text, "datacenter = \"dc7\"\nlog {\n  level = \"debug\"\n}\n"...), 0o600))
	must.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	until(t, func() bool { return strings.Contains(log.String(), `needs_restart=datacenter`) }, log)
	must.NoError(t, os.WriteFile(server, []byte("nonsense ="), 0o600))
	must.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	until(t, func() bool { return strings.Contains(log.String(), "the configuration was not reloaded") }, log)
}

func TestAgentsThatCannotStartSayWhy(t *testing.T) {
	c := alone(t)
	errs := c.fails(exitError, "agent")
	must.StrContains(t, errs, "NOVA-6010")
	must.StrContains(t, errs, "neither server nor client")
	must.StrContains(t, c.fails(exitError, "agent", "-dev", "-http-addr", "0.0.0.0:0"), "loopback only")
	must.StrContains(t, c.fails(exitError, "agent", "-dev", "-hypervisor", "xen"), "want one of qemu, sim")
	must.StrContains(t, c.fails(exitError, "agent", "-dev", "-http-addr", "x"), "flag -http-addr")
	c.env["NOVACRON_SERVER_ENABLED"] = "perhaps"
	must.StrContains(t, c.fails(exitError, "agent", "-dev"), "environment NOVACRON_SERVER_ENABLED")
	must.StrContains(t, c.fails(exitError, "acl", "bootstrap", "-config", "/nonexistent"), "NOVA-6010")
}
