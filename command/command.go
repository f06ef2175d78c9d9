package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/hashicorp/cli"
	"github.com/posener/complete"

	"github.com/novacron/novacron/api"
)

// spec is one command: what it is called, what it says about itself, and what
// it does.
type spec struct {
	name     string // "vm run"
	args     string // "FILE", shown in the usage line
	synopsis string // one line, no full stop
	long     string // paragraphs below the usage line
	examples []string
	min, max int // number of arguments; max -1 is any
	// local commands call no API and have no connection flags.
	local bool
	// build declares the flags and returns what runs after they are parsed.
	build func(f *flags) func(*call) error
}

// call is one run of a command.
type call struct {
	context.Context
	env  *Env
	args []string
	out  *output
	conn *connFlags
}

// simple is a spec's build without flags.
func simple(run func(*call) error) func(*flags) func(*call) error {
	return func(*flags) func(*call) error { return run }
}

// exitCode ends a command with a code and, if it is not empty, a text on stderr.
type exitCode struct {
	code int
	text string
}

func (e *exitCode) Error() string { return e.text }

// usagef is an error of whoever typed the command.
func usagef(format string, args ...any) error {
	return &exitCode{exitUsage, fmt.Sprintf(format, args...)}
}

// command runs a spec; it is the cli library's view of it.
type command struct {
	*spec
	ctx context.Context
	env *Env
}

var (
	_ cli.Command             = (*command)(nil)
	_ cli.CommandAutocomplete = (*command)(nil)
)

// Synopsis is the one line of the overview.
func (c *command) Synopsis() string { return c.synopsis }

// newFlags declares the flags of the command.
func (c *command) newFlags() (*flags, func(*call) error, *outFlags, *connFlags) {
	f := &flags{FlagSet: flag.NewFlagSet(c.name, flag.ContinueOnError)}
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	run := c.build(f)
	f.own = f.names()
	out := &outFlags{}
	out.declare(f)
	var conn *connFlags
	if !c.local {
		conn = &connFlags{}
		conn.declare(f)
	}
	return f, run, out, conn
}

// Run parses the arguments and runs the command.
func (c *command) Run(args []string) int {
	f, run, outF, conn := c.newFlags()
	pos, err := f.parse(args)
	if err == nil && (len(pos) < c.min || c.max >= 0 && len(pos) > c.max) {
		err = fmt.Errorf("it takes %s, not %d", countWords(c.min, c.max), len(pos))
	}
	var out *output
	if err == nil {
		out, err = outF.output(c.env)
	}
	if err != nil {
		fmt.Fprintf(c.env.Stderr, "Error: %s: %v\n  Usage: %s\n  Hint: `novacron %s -help` shows the options and examples\n", c.name, err, c.usage(), c.name)
		return exitUsage
	}
	return c.exit(run(&call{Context: c.ctx, env: c.env, args: pos, out: out, conn: conn}), out)
}

// exit writes an error and chooses the exit code.
func (c *command) exit(err error, out *output) int {
	var ec *exitCode
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &ec):
		if ec.text != "" {
			fmt.Fprintf(c.env.Stderr, "%s %s\n", out.errorWord(), ec.text)
			if ec.code == exitUsage {
				fmt.Fprintf(c.env.Stderr, "  Usage: %s\n", c.usage())
			}
		}
		return ec.code
	case c.ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(c.env.Stderr, "interrupted")
		return exitError
	}
	writeError(c.env.Stderr, out.errorWord(), err)
	return exitError
}

// writeError writes an error for people: message and code, findings, hint and
// request id on lines of their own.
func writeError(w io.Writer, word string, err error) {
	var e *api.Error
	if !errors.As(err, &e) {
		fmt.Fprintf(w, "%s %v\n", word, err)
		return
	}
	fmt.Fprintf(w, "%s %s (%s)\n", word, e.Message, e.Code)
	for _, d := range e.Details {
		where := ""
		if d.Line > 0 {
			where = fmt.Sprintf("line %d, column %d: ", d.Line, d.Column)
		}
		if d.Field != "" {
			where += d.Field + ": "
		}
		fmt.Fprintf(w, "  - %s%s\n", where, d.Message)
	}
	if e.Hint != "" {
		fmt.Fprintf(w, "  Hint: %s\n", e.Hint)
	}
	if e.RequestID != "" {
		fmt.Fprintf(w, "  Request: %s\n", e.RequestID)
	}
}

func countWords(low, high int) string {
	switch {
	case high == 0:
		return "no arguments"
	case high < 0 && low == 1:
		return "at least 1 argument"
	case high < 0:
		return fmt.Sprintf("at least %d arguments", low)
	case low == high && low == 1:
		return "1 argument"
	case low == high:
		return fmt.Sprintf("%d arguments", low)
	}
	return fmt.Sprintf("%d to %d arguments", low, high)
}

func (c *command) usage() string {
	return strings.TrimRight("novacron "+c.name+" [options] "+c.args, " ")
}

// Help is the long help.
func (c *command) Help() string {
	f, _, _, _ := c.newFlags()
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s\n\n  %s.\n", c.usage(), strings.ToUpper(c.synopsis[:1])+c.synopsis[1:])
	if c.long != "" {
		b.WriteString("\n" + indent(strings.TrimSpace(c.long), "  ") + "\n")
	}
	if len(c.examples) > 0 {
		b.WriteString("\nExamples:\n\n")
		for _, e := range c.examples {
			b.WriteString(indent(e, "  ") + "\n")
		}
	}
	f.describe(&b, "Options", f.own)
	f.describe(&b, "Output options", []string{"o", "no-color"})
	if !c.local {
		f.describe(&b, "Connection options", connNames)
	}
	return strings.TrimRight(b.String(), "\n")
}

func indent(s, by string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if l != "" {
			lines[i] = by + l
		}
	}
	return strings.Join(lines, "\n")
}

// AutocompleteArgs completes files where the command takes one.
func (c *command) AutocompleteArgs() complete.Predictor {
	if strings.Contains(c.args, "FILE") || strings.Contains(c.args, "PATH") {
		return complete.PredictFiles("*")
	}
	return complete.PredictNothing
}

// AutocompleteFlags completes the flags.
func (c *command) AutocompleteFlags() complete.Flags {
	f, _, _, _ := c.newFlags()
	out := complete.Flags{}
	f.VisitAll(func(fl *flag.Flag) {
		switch {
		case isBool(fl):
			out["-"+fl.Name] = complete.PredictNothing
		case fl.Name == "o":
			out["-o"] = complete.PredictSet(formats...)
		default:
			out["-"+fl.Name] = complete.PredictFiles("*")
		}
	})
	return out
}

// noun is `novacron vm` without a verb: it lists the verbs.
type noun struct {
	nounSpec
	env *Env
}

// Synopsis is the one line of the overview.
func (n *noun) Synopsis() string { return n.synopsis }

// Help lists the verbs.
func (n *noun) Help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: novacron %s <verb> [options]\n\n  %s.\n\nVerbs:\n\n", n.name, strings.ToUpper(n.synopsis[:1])+n.synopsis[1:])
	listSpecs(&b, n.name+" ")
	fmt.Fprintf(&b, "\n`novacron %s <verb> -help` shows the options and examples of a verb.", n.name)
	return b.String()
}

// Run answers a noun without a verb, or with one that does not exist.
func (n *noun) Run(args []string) int {
	if len(args) == 0 {
		fmt.Fprintln(n.env.Stderr, n.Help())
		return exitUsage
	}
	var verbs []string
	for _, s := range specs() {
		if v, ok := strings.CutPrefix(s.name, n.name+" "); ok {
			verbs = append(verbs, v)
		}
	}
	fmt.Fprintf(n.env.Stderr, "Error: there is no `novacron %s %s`\n", n.name, args[0])
	if g := api.Suggest(args[0], verbs); g != "" {
		fmt.Fprintf(n.env.Stderr, "  Hint: did you mean \"novacron %s %s\"?\n", n.name, g)
	} else {
		fmt.Fprintf(n.env.Stderr, "  Hint: the verbs are %s\n", strings.Join(verbs, ", "))
	}
	return exitUsage
}
