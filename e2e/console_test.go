//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
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
