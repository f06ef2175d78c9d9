//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/e2e/lab"
)

// sdk is the Go SDK against one host.
func sdk(t *testing.T, h *lab.Host) *api.Client {
	t.Helper()
	ca, err := os.ReadFile(cluster.CA)
	must.NoError(t, err)
	c, err := api.NewClient(api.ClientConfig{Address: "https://" + h.Address + ":7646", Token: cluster.Token, CACert: ca})
	must.NoError(t, err)
	return c
}

// converse opens the console, sends text and reads until want has come.
func converse(t *testing.T, ctx context.Context, name, send, want string) string {
	t.Helper()
	return converseVia(t, ctx, cluster.Servers[0], name, send, want)
}

func converseVia(t *testing.T, ctx context.Context, via *lab.Host, name, send, want string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	text, err := exchange(ctx, sdk(t, via), name, send, want)
	must.NoError(t, err, must.Sprintf("console of %s, seen so far: %q", name, text))
	return text
}

// exchange opens the console, sends text once the guest ticks, and reads until
// want has come after it; the boot's banner is kept in what it returns.
func exchange(ctx context.Context, c *api.Client, name, send, want string) (string, error) {
	con, err := c.VMs().Console(ctx, name, nil)
	if err != nil {
		return "", err
	}
	defer con.Close()
	var seen strings.Builder
	buf := make([]byte, 4096)
	sent := send == ""
	for {
		n, err := con.Read(buf)
		seen.Write(buf[:n])
		text := seen.String()
		switch {
		case !sent && strings.Contains(text, "tick "):
			if _, err := con.Write([]byte(send)); err != nil {
				return text, err
			}
			sent = true
			seen.Reset()
			if banner, _, ok := strings.Cut(text, "tick "); ok && strings.Contains(banner, "ready nonce") {
				seen.WriteString(strings.ReplaceAll(banner, want, ""))
			}
		case sent && strings.Contains(text, want):
			return text, nil
		case err != nil:
			return text, err
		}
	}
}

// nonce returns what the guest made up at its boot. What is sent while it boots
// is lost, so it asks again.
func nonce(t *testing.T, ctx context.Context, name string) string {
	t.Helper()
	var out string
	must.NoError(t, lab.Until(ctx, func() error {
		try, cancel := context.WithTimeout(ctx, 8*time.Second)
		defer cancel()
		mark := fmt.Sprintf("mark-%d", time.Now().UnixNano())
		text, err := exchange(try, sdk(t, cluster.Servers[0]), name, "nonce "+mark+"\n", "end of "+mark)
		if err != nil {
			return err
		}
		_, text, _ = strings.Cut(text, mark+" is ")
		out, _, _ = strings.Cut(text, " ")
		return nil
	}))
	return out
}

func TestConsoleWorksInBothDirectionsThroughAnyAgent(t *testing.T) {
	ctx := limit(t, 3*time.Minute)
	run(t, ctx, "console", "")
	for _, h := range cluster.Hosts {
		out := converseVia(t, ctx, h, "console", "hello from "+h.Name+"\n", "echo: hello from "+h.Name)
		must.StrContains(t, out, "echo:")
	}
}

// A person's console goes on at the node to which the VM is moved.
func TestAConsoleGoesOnAfterAMove(t *testing.T) {
	ctx := limit(t, 5*time.Minute)
	s := run(t, ctx, "talker", "")
	cmd := exec.CommandContext(ctx, cluster.Binary, "vm", "console", "talker")
	cmd.Env = append(append(os.Environ(), cluster.Env...), cluster.Environment()...)
	keys, err := cmd.StdinPipe()
	must.NoError(t, err)
	out, err := cmd.StdoutPipe()
	must.NoError(t, err)
	var notices strings.Builder
	cmd.Stderr = &notices
	must.NoError(t, cmd.Start())
	var seen strings.Builder
	until := func(want string) {
		t.Helper()
		buf := make([]byte, 4096)
		for !strings.Contains(seen.String(), want) {
			n, err := out.Read(buf)
			seen.Write(buf[:n])
			must.NoError(t, err, must.Sprintf("seen so far: %q", seen.String()))
		}
	}
	say := func(text string) {
		t.Helper()
		_, err := keys.Write([]byte(text + "\n"))
		must.NoError(t, err)
		until("echo: " + text)
	}
	until("tick ")
	say("before the move")
	forecast := cli(t, ctx, "vm", "migrate", "-dry-run", "talker")
	must.StrContains(t, forecast, "The link gives")
	must.StrContains(t, forecast, "round trip")
	t.Log(forecast)
	watch := exec.CommandContext(ctx, cluster.Binary, "events", "-follow", "-topic", "migration", "-o", "json")
	watch.Env = cmd.Env
	var progress strings.Builder
	watch.Stdout = &progress
	must.NoError(t, watch.Start())
	cli(t, ctx, "vm", "migrate", "-to", elsewhere(s.Node), "-bandwidth", "24MiB", "talker")
	say("after the move")
	_ = watch.Process.Kill()
	_ = watch.Wait()
	must.StrContains(t, progress.String(), `"type":"progress"`)
	must.StrContains(t, progress.String(), `"transient":true`)

	cli(t, ctx, "vm", "stop", "-force", "talker")
	_, _ = io.Copy(&seen, out)
	must.NoError(t, cmd.Wait(), must.Sprint("the end of the guest is the end of its console"))
	must.Eq(t, 1, strings.Count(notices.String(), "moved to "+elsewhere(s.Node)+": connecting again"), must.Sprint(notices.String()))
}
