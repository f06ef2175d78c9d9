package command

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"

	"github.com/novacron/novacron/api"
)

// flags is a flag set whose flags may stand before, between and after the
// arguments.
type flags struct {
	*flag.FlagSet
	own []string // declared by the command itself
}

// names lists the flags declared so far.
func (f *flags) names() []string {
	var out []string
	f.VisitAll(func(fl *flag.Flag) { out = append(out, fl.Name) })
	return out
}

// parse returns the arguments that are not flags. After "--" all are arguments.
func (f *flags) parse(args []string) ([]string, error) {
	var pos, after []string
	if i := slices.Index(args, "--"); i >= 0 {
		args, after = args[:i], args[i+1:]
	}
	for {
		if err := f.FlagSet.Parse(args); err != nil {
			return nil, f.explain(err)
		}
		args = f.Args()
		if len(args) == 0 {
			return append(pos, after...), nil
		}
		pos, args = append(pos, args[0]), args[1:]
	}
}

// explain turns the flag package's texts into ours, with a guess.
func (f *flags) explain(err error) error {
	if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
		if g := api.Suggest(name, f.names()); g != "" {
			return fmt.Errorf("there is no option -%s; did you mean -%s?", name, g)
		}
		return fmt.Errorf("there is no option -%s", name)
	}
	return errors.New(strings.Replace(err.Error(), "flag needs an argument: ", "a value is missing after ", 1))
}

// describe writes the named flags as a section of the help.
func (f *flags) describe(b *strings.Builder, title string, names []string) {
	if len(names) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s:\n\n", title)
	for _, n := range names {
		fl := f.Lookup(n)
		value, text := flag.UnquoteUsage(fl)
		head := "-" + fl.Name
		if value != "" && !isBool(fl) {
			head += "=" + strings.ToUpper(value)
		}
		if d := fl.DefValue; d != "" && d != "false" && d != "0" && d != "0s" && d != "-1" { // -1 stands for "not given"
			text += " (default " + d + ")"
		}
		fmt.Fprintf(b, "  %-24s %s\n", head, text)
	}
}

func isBool(fl *flag.Flag) bool {
	b, ok := fl.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// list declares a flag that may be given several times.
func (f *flags) list(name, usage string) *list {
	l := new(list)
	f.Var(l, name, usage)
	return l
}

// pairs is a flag "key=value" that may be given several times.
type pairs struct{ p *api.Pairs }

func (p pairs) String() string { return "" }

func (p pairs) Set(s string) error {
	k, v, ok := strings.Cut(s, "=")
	if !ok || k == "" {
		return fmt.Errorf("%q is not of the form key=value", s)
	}
	*p.p = p.p.Set(k, v)
	return nil
}

// pairs declares a flag "key=value" that may be given several times.
func (f *flags) pairs(name, usage string) *api.Pairs {
	v := new(api.Pairs)
	f.Var(pairs{v}, name, usage)
	return v
}

// size is an amount of bytes, "10GiB".
type size struct{ b *api.Bytes }

func (s size) String() string { return "" }

func (s size) Set(text string) error {
	b, err := api.ParseBytes(text)
	*s.b = b
	return err
}

// size declares a flag for an amount of bytes.
func (f *flags) size(name, usage string) *api.Bytes {
	v := new(api.Bytes)
	f.Var(size{v}, name, usage)
	return v
}

// check is an optional index: not given, it means no check.
type check struct{ at **uint64 }

func (c check) String() string { return "" }

func (c check) Set(s string) error {
	var n uint64
	if _, err := fmt.Sscanf(s, "%d", &n); err != nil || fmt.Sprint(n) != s {
		return fmt.Errorf("%q is not an index", s)
	}
	*c.at = &n
	return nil
}

// check declares -check-index.
func (f *flags) check(what string) **uint64 {
	at := new(*uint64)
	f.Var(check{at}, "check-index", "change the "+what+" only if its modify `index` is still this one (0: only if it does not exist)")
	return at
}
