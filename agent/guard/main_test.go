package guard

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/novacron/novacron/api"
	"github.com/novacron/novacron/api/boottime"
)

// childEnv makes the test binary a guard or an agent: its value is a childConfig.
const childEnv = "NOVA_GUARD_TEST_CHILD"

// childConfig is what a child is to do.
type childConfig struct {
	Agent    *ArmRequest // be an agent that arms this and renews; nil: be a guard
	Dir      string
	Kill     time.Duration
	Watchdog bool // over file descriptor 3
	Lease    time.Duration
	// Harden is for the one test of it: tests share their machine.
	Harden bool
}

func TestMain(m *testing.M) {
	if c := os.Getenv(childEnv); c != "" {
		go func() { // it does not outlive the test, however that ends
			_, _ = os.Stdin.Read(make([]byte, 1))
			os.Exit(3)
		}()
		var cfg childConfig
		err := json.Unmarshal([]byte(c), &cfg)
		if err == nil && cfg.Agent != nil {
			err = childAgent(cfg)
		} else if err == nil {
			err = childGuard(cfg)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// childGuard is what `novacron guard` does.
func childGuard(c childConfig) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	cfg := Config{Dir: c.Dir, Limits: Limits{Lease: c.Lease, Kill: c.Kill}, Log: os.Stderr, Stop: stop, Harden: c.Harden}
	if c.Watchdog {
		cfg.Watchdog = &pipeWatchdog{f: os.NewFile(3, "watchdog")}
	}
	return Run(context.Background(), cfg)
}

// childAgent arms one VM and renews the lease until it is killed.
func childAgent(c childConfig) error {
	l, err := OpenLease(c.Dir)
	if err != nil {
		return err
	}
	g, err := Dial(context.Background(), c.Dir)
	if err != nil {
		return err
	}
	beats := time.NewTicker(50 * time.Millisecond)
	for first := true; ; first = false {
		sent := boottime.Now()
		if err := l.Write(sent, sent+c.Lease); err != nil {
			return err
		}
		if first {
			if _, err := g.Arm(context.Background(), *c.Agent); err != nil {
				return err
			}
			fmt.Fprintln(os.Stderr, "armed and renewing")
		}
		<-beats.C
	}
}

// child is a process of the test binary, and what it says.
type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed and replaced at each line
	ended chan struct{}
}

func start(t *testing.T, c childConfig, files ...*os.File) *child {
	t.Helper()
	b, err := json.Marshal(c)
	must.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(b))
	cmd.ExtraFiles = files
	out, err := cmd.StderrPipe()
	must.NoError(t, err)
	_, err = cmd.StdinPipe() // open as long as this process lives
	must.NoError(t, err)
	must.NoError(t, cmd.Start())
	k := &child{t: t, cmd: cmd, more: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(k.ended)
		in := bufio.NewScanner(out)
		for in.Scan() {
			k.mu.Lock()
			k.lines = append(k.lines, in.Text())
			close(k.more)
			k.more = make(chan struct{})
			k.mu.Unlock()
		}
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-k.ended
		if t.Failed() {
			t.Logf("child %d said:\n%s", cmd.Process.Pid, strings.Join(k.lines, "\n"))
		}
	})
	return k
}

// patience bounds what must happen; no test asserts that it happens sooner.
const patience = 60 * time.Second

// says waits until a line with a text was written.
func (k *child) says(text string) {
	k.t.Helper()
	limit := time.After(patience)
	for {
		k.mu.Lock()
		more := k.more
		for _, l := range k.lines {
			if strings.Contains(l, text) {
				k.mu.Unlock()
				return
			}
		}
		k.mu.Unlock()
		select {
		case <-more:
		case <-k.ended:
			select {
			case <-more:
				continue
			default:
			}
			k.t.Fatalf("it ended and never said %q", text)
		case <-limit:
			k.t.Fatalf("it never said %q", text)
		}
	}
}

func (k *child) signal(s syscall.Signal) {
	k.t.Helper()
	must.NoError(k.t, k.cmd.Process.Signal(s))
}

// freeze stops all its threads.
func (k *child) freeze() {
	k.t.Helper()
	k.signal(syscall.SIGSTOP)
	eventually(k.t, "it is stopped", func() bool {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", k.cmd.Process.Pid))
		must.NoError(k.t, err)
		return !slices.ContainsFunc(tasks, func(stat string) bool {
			b, err := os.ReadFile(stat)
			return err == nil && !bytes.Contains(b, []byte(") T "))
		})
	})
}

// end waits for its end and returns its exit code.
func (k *child) end() int {
	k.t.Helper()
	wait(k.t, k.ended, "the end of the child")
	return k.cmd.ProcessState.ExitCode()
}

func wait(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("still waiting for %s", what)
	}
}

// eventually is for what sends no event.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("never: %s", what)
		}
	}
}

// guest is a process that plays a VM.
type guest struct {
	cmd  *exec.Cmd
	proc Process
	dead chan struct{}
	died time.Duration // boot time by which it was seen dead
}

// newGuest runs a command, by default one that sleeps for longer than any test.
func newGuest(t *testing.T, args ...string) *guest {
	t.Helper()
	if len(args) == 0 {
		args = []string{"sleep", "600"}
	}
	return runGuest(t, exec.Command(args[0], args[1:]...))
}

func runGuest(t *testing.T, cmd *exec.Cmd) *guest {
	t.Helper()
	must.NoError(t, cmd.Start())
	g := &guest{cmd: cmd, dead: make(chan struct{})}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-g.dead
	})
	p, err := FindProcess(cmd.Process.Pid) // before anybody waits for it
	go func() {
		_ = cmd.Wait()
		g.died = boottime.Now()
		close(g.dead)
	}()
	must.NoError(t, err)
	g.proc = p
	return g
}

func (g *guest) alive() bool {
	select {
	case <-g.dead:
		return false
	default:
		return true
	}
}

// killed waits for its death by SIGKILL.
func (g *guest) killed(t *testing.T) {
	t.Helper()
	wait(t, g.dead, "the death of the guest")
	must.Eq(t, syscall.SIGKILL, g.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal())
}

func (g *guest) target(vm api.ID, epoch api.Epoch) ArmRequest {
	return ArmRequest{Target: Target{VM: vm, Epoch: epoch, Process: g.proc}}
}

// guardDir is a short path, as a socket wants it.
func guardDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "guard")
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func dial(t *testing.T, dir string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), dir)
	must.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func openLease(t *testing.T, dir string) *LeaseFile {
	t.Helper()
	l, err := OpenLease(dir)
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, l.Close()) })
	return l
}

// code is the code of an *api.Error, or 0.
func code(err error) api.Code {
	if err == nil {
		return 0
	}
	return asError(err).Code
}
