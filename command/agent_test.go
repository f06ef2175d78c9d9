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

// freePort finds a port that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
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
	case <-time.After(20 * time.Second):
		t.Fatalf("the agent did not start: %s", errs)
	}
	return address, errs
}

func TestFromClusterInitToAClientThatJoined(t *testing.T) {
	dir := t.TempDir()
	rpc := freePort(t)
	conf := func(name string, port int, rest string) string {
		path := filepath.Join(dir, name+".hcl")
		text := fmt.Sprintf("name = %q\nregion = \"eu\"\ndata_dir = %q\nbind_addr = \"127.0.0.1\"\nports {\n  http = %d\n  rpc = %d\n  serf = %d\n}\n%s",
			name, filepath.Join(dir, name), freePort(t), port, freePort(t), rest)
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
	for i := 0; secret == ""; i++ {
		out, errs, code := c.exec("acl", "bootstrap", "-config", server, "-quiet")
		if code == exitOK {
			secret = strings.TrimSpace(out)
			break
		}
		must.Less(t, 100, i, must.Sprint(errs))
		sleep(t.Context(), 100*time.Millisecond)
	}
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
	running(t, "-config", client, "-join", fmt.Sprintf("127.0.0.1:%d", rpc), "-token-file", token, "-hypervisor", "sim")
	for i := 0; !strings.Contains(c.ok("node", "list"), "ready"); i++ {
		must.Less(t, 100, i)
		sleep(t.Context(), 100*time.Millisecond)
	}

	// A hangup reads the configuration again and says what needs a restart.
	text, err := os.ReadFile(server)
	must.NoError(t, err)
	must.NoError(t, os.WriteFile(server, append(text, "datacenter = \"dc7\"\nlog {\n  level = \"debug\"\n}\n"...), 0o600))
	must.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	for i := 0; !strings.Contains(log.String(), `needs_restart=datacenter`); i++ {
		must.Less(t, 100, i, must.Sprint(log))
		sleep(t.Context(), 50*time.Millisecond)
	}
	must.NoError(t, os.WriteFile(server, []byte("nonsense ="), 0o600))
	must.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	for i := 0; !strings.Contains(log.String(), "the configuration was not reloaded"); i++ {
		must.Less(t, 100, i, must.Sprint(log))
		sleep(t.Context(), 50*time.Millisecond)
	}
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
