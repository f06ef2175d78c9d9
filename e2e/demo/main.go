// Command demo brings up 3 servers and 2 clients as separate hosts on this
// machine, runs a VM on real libvirt and QEMU, says what it did step by step and
// how to look at it, and leaves the cluster up until Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/novacron/novacron/e2e/lab"
)

func main() {
	binary := flag.String("binary", "build/novacron", "the novacron binary")
	guest := flag.String("guest", "", "folder with tick.qcow2")
	down := flag.Bool("down", false, "end a demo that was left behind")
	once := flag.Bool("once", false, "end after the last step instead of waiting for Ctrl-C")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := demo(ctx, *binary, *guest, *down, *once); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context, binary, guest string, down, once bool) (err error) {
	binary, err = filepath.Abs(binary)
	if err != nil {
		return err
	}
	c := lab.Standard("demo", "10.76.0", filepath.Join(os.TempDir(), "novacron-demo"), binary)
	c.Log = os.Stdout
	if down {
		return c.Down(context.WithoutCancel(ctx))
	}
	defer func() {
		fmt.Println("\ncleaning up: guests, hosts, networks, files")
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, c.Down(clean))
	}()
	s := &steps{ctx: ctx, c: c}
	s.say("five hosts on this machine: s1 s2 s3 (servers), c1 c2 (clients, each with its own libvirtd)")
	if err := c.Up(ctx); err != nil {
		return err
	}
	s.say("a cluster: the first server makes it, the others join with tokens")
	if err := c.Form(ctx); err != nil {
		return err
	}
	s.run("server", "members")
	s.run("node", "list")
	s.say("an image of a small Linux guest, kept on both clients, found by its checksum")
	s.run("image", "upload", "-name", "tick", filepath.Join(guest, "tick.qcow2"))
	s.say("a VM specification, planned and then run")
	spec, err := s.spec()
	if err != nil {
		return err
	}
	s.run("vm", "plan", spec) // exits with 3: there are changes
	s.run("vm", "run", spec)
	s.run("vm", "status", "hello")
	s.say("what its serial console says")
	s.run("vm", "console", "-for", "6s", "hello")
	s.run("vm", "events", "hello")
	if s.err != nil {
		return s.err
	}
	s.howToLook()
	if once {
		return nil
	}
	fmt.Println("\nThe cluster stays up until Ctrl-C.")
	<-ctx.Done()
	return nil
}

// steps runs commands as a person would type them and stops at the first error.
type steps struct {
	ctx context.Context
	c   *lab.Cluster
	n   int
	err error
}

func (s *steps) say(text string) {
	if s.err == nil {
		s.n++
		fmt.Printf("\n[%d] %s\n", s.n, text)
	}
}

func (s *steps) run(args ...string) {
	if s.err != nil {
		return
	}
	fmt.Printf("\n$ novacron %s\n", strings.Join(args, " "))
	out, err := s.c.CLI(s.ctx, args...)
	fmt.Print(out)
	var exit *exec.ExitError
	if planned := errors.As(err, &exit) && exit.ExitCode() == 3; !planned {
		s.err = err
	}
}

const helloSpec = `vm "hello" {
  cpu    = 1
  memory = "128MiB"

  disk "root" {
    image = "tick"
    size  = "64MiB"
  }

  labels = { app = "demo" }
}
`

func (s *steps) spec() (string, error) {
	path := filepath.Join(s.c.Dir, "hello.hcl")
	fmt.Printf("\n%s:\n%s", path, helloSpec)
	return path, os.WriteFile(path, []byte(helloSpec), 0o644)
}

func (s *steps) howToLook() {
	fmt.Printf(`
How to look at it, from another terminal on this machine:

  export %s
  %s status
  %s vm status hello
  %s vm console hello        (Ctrl-] ends it)
  curl --cacert $NOVACRON_CACERT --resolve server.global.novacron:7646:%s \
    -H "X-Nova-Token: $NOVACRON_TOKEN" https://server.global.novacron:7646/v1/vms
`, strings.Join(s.c.Environment(), " "), s.c.Binary, s.c.Binary, s.c.Binary, s.c.Servers[0].Address)
}
