package agent

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/novacron/novacron/agent/client"
	"github.com/novacron/novacron/agent/guard"
	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/boottime"
)

// guardEnv makes the test binary a guard that works in the folder it names.
const guardEnv = "NOVA_AGENT_TEST_GUARD"

// testGuard is what the test binary does then.
func testGuard(dir string) int {
	err := guard.Run(context.Background(), guard.Config{Dir: dir, Log: os.Stderr, Limits: guard.Limits{Lease: 15 * time.Second}})
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
	}
	return 1
}

// newHostGuard is the guard of a machine on which none runs yet; one that is
// started ends with the test.
func newHostGuard(t *testing.T) *hostGuard {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run", "guard")
	t.Setenv(guardEnv, dir)
	g := &hostGuard{
		cfg: Guard{Dir: dir, Spawn: true}, program: []string{os.Args[0], "guard", "-dir", dir},
		logFile: filepath.Join(t.TempDir(), "guard.log"), log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	t.Cleanup(func() {
		if g.child != nil {
			_ = g.child.Process.Kill()
			_, _ = g.child.Process.Wait()
		}
		must.NoError(t, g.close())
	})
	return g
}

func statusOf(t *testing.T, c client.Guard) *guard.Status {
	t.Helper()
	st, err := c.Status(t.Context())
	must.NoError(t, err)
	return st
}

// reconnected finds a guard that answers, as the client does: the socket of one that
// is dying may still take a connection and reset it, and its lock keeps the next
// one away.
func reconnected(t *testing.T, g *hostGuard) (client.Guard, *guard.Status) {
	t.Helper()
	for range 100 {
		c, err := g.connect(t.Context())
		if err != nil {
			continue
		}
		st, err := c.Status(t.Context())
		if err == nil {
			return c, st
		}
		must.NoError(t, c.Close())
	}
	t.Fatal("no guard answers")
	return nil, nil
}

func TestAGuardIsStartedWhereNoneAnswers(t *testing.T) {
	g := newHostGuard(t)
	c, err := g.connect(t.Context())
	must.NoError(t, err)
	st := statusOf(t, c)
	must.Eq(t, g.child.Process.Pid, st.PID)
	sid, err := unix.Getsid(st.PID)
	must.NoError(t, err)
	must.Eq(t, st.PID, sid, must.Sprint("a session of its own"))
	info, err := os.Stat(filepath.Dir(g.cfg.Dir))
	must.NoError(t, err)
	must.Eq(t, 0o755, info.Mode().Perm(), must.Sprint("others use the folder above"))

	now := boottime.Now()
	must.NoError(t, c.Extend(now, now+10*time.Second))
	must.Eq(t, now+10*time.Second, statusOf(t, c).Deadline)
	must.NoError(t, c.Close())

	again, err := g.connect(t.Context())
	must.NoError(t, err)
	must.Eq(t, st.PID, statusOf(t, again).PID, must.Sprint("one that is there is used"))

	victim := exec.Command("sleep", "60")
	must.NoError(t, victim.Start())
	t.Cleanup(func() { _ = victim.Process.Kill(); _ = victim.Wait() })
	p, err := guard.FindProcess(victim.Process.Pid)
	must.NoError(t, err)
	_, err = again.Arm(t.Context(), guard.ArmRequest{Target: guard.Target{VM: api.ID{1}, Epoch: 1, Process: p}})
	must.NoError(t, err)
	must.NoError(t, g.child.Process.Kill())
	<-again.Done()
	must.NoError(t, again.Close())
	next, st2 := reconnected(t, g)
	must.NotEq(t, st.PID, st2.PID)
	must.SliceLen(t, 1, st2.Armed, must.Sprint("it goes on where the one before was"))
	later := boottime.Now()
	must.NoError(t, next.Extend(later, later+10*time.Second))
	must.Eq(t, later+10*time.Second, statusOf(t, next).Deadline)
	must.NoError(t, next.Close())
}

func TestAGuardThatIsNotToBeStartedIsNotThere(t *testing.T) {
	g := newHostGuard(t)
	g.program = nil
	_, err := g.connect(t.Context())
	must.Eq(t, api.CodeUnreachable, api.CodeOf(err))
}

func TestAGuardThatEndsAtOnceSaysWhere(t *testing.T) {
	g := newHostGuard(t)
	must.NoError(t, os.MkdirAll(g.cfg.Dir, 0o755)) // others could reach it: it refuses
	_, err := g.connect(t.Context())
	must.ErrorContains(t, err, g.logFile)
	must.Nil(t, g.child)
	text, err := os.ReadFile(g.logFile)
	must.NoError(t, err)
	must.StrContains(t, string(text), "0700")
}

func TestWhoHasNoGuard(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		kind   string
	}{
		"no folder": {func(c *Config) { c.Client.Guard.Dir = "" }, kindQEMU},
		"-dev":      {func(c *Config) { c.Dev = true }, kindQEMU},
		"sim":       {func(*Config) {}, kindSim},
	} {
		cfg := Default()
		c.change(cfg)
		connect, err := (&Agent{cfg: cfg}).openGuard(&clientMode{kind: c.kind})
		must.NoError(t, err)
		must.Nil(t, connect, must.Sprint(name))
	}
}
