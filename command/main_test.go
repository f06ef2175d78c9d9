package command

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
)

// dev is an agent in this process on the simulated hypervisor, shared by the
// tests of the verbs. Starting it is the first integration of all rooms.
var dev struct {
	address, token string
	stderr         *buffer
	stop           context.CancelFunc
	done           chan int
}

func TestMain(m *testing.M) {
	code := 1
	if err := startDev(); err != nil {
		fmt.Fprintln(os.Stderr, "agent -dev did not start:", err)
		fmt.Fprintln(os.Stderr, dev.stderr)
	} else {
		code = m.Run()
		dev.stop()
		if end := <-dev.done; end != exitOK && code == 0 {
			fmt.Fprintln(os.Stderr, "agent -dev ended with", end, dev.stderr)
			code = 1
		}
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func startDev() error {
	ctx, stop := context.WithCancel(context.Background())
	dev.stop, dev.done, dev.stderr = stop, make(chan int, 1), &buffer{}
	started := make(chan struct{})
	env := &Env{
		Stdin: strings.NewReader(""), Stdout: &buffer{}, Stderr: dev.stderr,
		LookupEnv: func(string) (string, bool) { return "", false },
		Started: func(address, token string) {
			dev.address, dev.token = address, token
			close(started)
		},
	}
	dir, err := os.MkdirTemp("", "novacron-test-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	conf := dir + "/dev.hcl" // what the examples ask of a node
	if err := os.WriteFile(conf, []byte("client {\n  labels = { rack = \"r1\" }\n}\n"), 0o600); err != nil {
		return err
	}
	go func() {
		dev.done <- Run(ctx, []string{"agent", "-dev", "-hypervisor", "sim", "-http-addr", "127.0.0.1:0", "-config", conf}, env)
	}()
	select {
	case <-started:
		return nil
	case code := <-dev.done:
		return fmt.Errorf("exit code %d", code)
	case <-time.After(patience):
		return fmt.Errorf("nothing after %v", patience)
	}
}

// patience is how long what must come may take on a machine with much to do.
const patience = 90 * time.Second

// until waits for something that must come.
func until(t *testing.T, come func() bool, context ...any) {
	t.Helper()
	end := time.Now().Add(patience)
	for !come() {
		if time.Now().After(end) {
			t.Fatal(append([]any{"it did not come:"}, context...)...)
		}
		sleep(t.Context(), 20*time.Millisecond)
	}
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// person is a person at a command line.
type person struct {
	t        *testing.T
	env      map[string]string
	home     string
	stdin    string
	terminal bool
}

// atDev is a person who talks to the shared agent.
func atDev(t *testing.T) *person {
	return &person{t: t, home: t.TempDir(), env: map[string]string{"NOVACRON_ADDR": dev.address, "NOVACRON_TOKEN": dev.token}}
}

// alone is a person without a cluster.
func alone(t *testing.T) *person { return &person{t: t, home: t.TempDir(), env: map[string]string{}} }

// exec runs a command line and returns what it wrote and its exit code.
func (c *person) exec(args ...string) (stdout, stderr string, code int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*patience)
	defer cancel()
	p := c.start(ctx, args...)
	code = <-p.code
	return p.out.String(), p.errs.String(), code
}

// process is a command line that runs.
type process struct {
	out, errs *buffer
	code      chan int
	interrupt context.CancelFunc
}

// start runs a command line until it ends or the person interrupts.
func (c *person) start(ctx context.Context, args ...string) *process {
	return c.startWith(ctx, strings.NewReader(c.stdin), args...)
}

// startWith is start with a standard input.
func (c *person) startWith(ctx context.Context, stdin io.Reader, args ...string) *process {
	ctx, cancel := context.WithCancel(ctx)
	p := &process{out: &buffer{}, errs: &buffer{}, code: make(chan int, 1), interrupt: cancel}
	env := &Env{
		Stdin: stdin, Stdout: p.out, Stderr: p.errs, ConfigDir: c.home, Terminal: c.terminal, Width: 80,
		LookupEnv: func(k string) (string, bool) { v, ok := c.env[k]; return v, ok },
	}
	go func() {
		defer cancel()
		p.code <- Run(ctx, args, env)
	}()
	return p
}

// shows waits until the command line has written something.
func (p *process) shows(t *testing.T, want string, times int) {
	t.Helper()
	until(t, func() bool { return strings.Count(p.out.String(), want) >= times }, want, p.out, p.errs)
}

// ends interrupts a command line, which must end well.
func (p *process) ends(t *testing.T) {
	t.Helper()
	p.interrupt()
	must.Eq(t, exitOK, <-p.code, must.Sprint(p.errs))
}

// ok runs a command line that must succeed and returns its stdout.
func (c *person) ok(args ...string) string {
	c.t.Helper()
	out, errs, code := c.exec(args...)
	must.Eq(c.t, exitOK, code, must.Sprintf("novacron %s\n%s\n%s", strings.Join(args, " "), out, errs))
	return out
}

// fails runs a command line that must fail with a code and returns its stderr.
func (c *person) fails(want int, args ...string) string {
	c.t.Helper()
	out, errs, code := c.exec(args...)
	must.Eq(c.t, want, code, must.Sprintf("novacron %s\n%s\n%s", strings.Join(args, " "), out, errs))
	return errs
}

// file writes a file into a new folder and returns its path.
func file(t *testing.T, name, content string) string {
	t.Helper()
	path := t.TempDir() + "/" + name
	must.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}
