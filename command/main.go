package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/hashicorp/cli"
	"golang.org/x/term"

	"github.com/novacron/novacron/api"
)

// Version is the version of this binary; the linker sets it for releases.
var Version = "0.1.0-dev"

// The exit codes.
const (
	exitOK      = 0
	exitError   = 1
	exitUsage   = 2
	exitChanges = 3 // vm plan: applying would change something
)

// Env is what a command may touch of the process around it.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	LookupEnv      func(string) (string, bool)
	ConfigDir      string // holds contexts.json
	// Terminal says whether a person sits in front of Stdout; Width is its width.
	Terminal bool
	Width    int
	// Started, if set, is called by agent with its address once it serves.
	Started func(address, token string)
}

// getenv returns a variable, or "".
func (e *Env) getenv(name string) string {
	v, _ := e.LookupEnv(name)
	return v
}

// Main runs the command line of this process and does not return.
func Main(args []string) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := Run(ctx, args[1:], processEnv())
	stop()
	os.Exit(code)
}

// processEnv is the Env of this process.
func processEnv() *Env {
	e := &Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, LookupEnv: os.LookupEnv, Width: 80}
	if dir, err := os.UserConfigDir(); err == nil {
		e.ConfigDir = filepath.Join(dir, "novacron")
	}
	if fd := int(os.Stdout.Fd()); term.IsTerminal(fd) {
		e.Terminal = true
		if w, _, err := term.GetSize(fd); err == nil && w > 0 {
			e.Width = w
		}
	}
	return e
}

// Run runs one command line and returns its exit code. The context ends when
// the person interrupts.
func Run(ctx context.Context, args []string, env *Env) int {
	commands := map[string]cli.CommandFactory{}
	for _, s := range specs() {
		commands[s.name] = func() (cli.Command, error) { return &command{spec: s, ctx: ctx, env: env}, nil }
	}
	for _, n := range nouns {
		commands[n.name] = func() (cli.Command, error) { return &noun{n, env}, nil }
	}
	if len(args) == 1 && (args[0] == "-v" || args[0] == "-version" || args[0] == "--version") {
		args = []string{"version"}
	}
	c := &cli.CLI{
		Name: "novacron", Args: args, Commands: commands, HelpFunc: func(map[string]cli.CommandFactory) string { return overview() },
		HelpWriter: env.Stdout, ErrorWriter: env.Stderr,
		Autocomplete: os.Getenv("COMP_LINE") != "", AutocompleteNoDefaultFlags: true,
	}
	if name, ok := unknown(args, commands); ok {
		fmt.Fprintf(env.Stderr, "Error: there is no command %q\n", name)
		var names []string
		for n := range commands {
			names = append(names, n)
		}
		if g := api.Suggest(name, names); g != "" {
			fmt.Fprintf(env.Stderr, "  Hint: did you mean %q?\n", "novacron "+g)
		} else {
			fmt.Fprintln(env.Stderr, "  Hint: `novacron -help` lists all commands")
		}
		return exitUsage
	}
	code, err := c.Run()
	switch {
	case err != nil:
		fmt.Fprintln(env.Stderr, "Error:", err)
		return exitError
	case code == 127:
		return exitUsage
	}
	return code
}

// unknown reports whether the first word is no command at all.
func unknown(args []string, commands map[string]cli.CommandFactory) (string, bool) {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") || os.Getenv("COMP_LINE") != "" {
		return "", false
	}
	_, ok := commands[args[0]]
	return args[0], !ok
}
