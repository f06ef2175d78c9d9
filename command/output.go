package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// formats are the values of -o.
var formats = []string{"table", "json", "yaml"}

// outFlags are the flags that every command has for its output.
type outFlags struct {
	format  string
	noColor bool
}

func (o *outFlags) declare(f *flags) {
	f.StringVar(&o.format, "o", "table", "output `format`: table, json or yaml")
	f.BoolVar(&o.noColor, "no-color", false, "no colours (also NO_COLOR in the environment)")
}

func (o *outFlags) output(env *Env) (*output, error) {
	if !slices.Contains(formats, o.format) {
		return nil, fmt.Errorf("-o %q: want one of %s", o.format, strings.Join(formats, ", "))
	}
	_, off := env.LookupEnv("NO_COLOR")
	return &output{Writer: env.Stdout, format: o.format, color: env.Terminal && !o.noColor && !off}, nil
}

// output writes results in the format that was asked for.
type output struct {
	io.Writer
	format string
	color  bool
}

// people reports whether the output is meant for a person.
func (o *output) people() bool { return o.format == "table" }

func (o *output) errorWord() string { return o.paint("31;1", "Error:") }

// show writes v as JSON or YAML, or calls people.
func (o *output) show(v any, people func() error) error {
	switch o.format {
	case "json":
		b, err := marshal(v)
		if err != nil {
			return err
		}
		_, err = o.Write(b)
		return err
	case "yaml":
		b, err := marshal(v)
		if err != nil {
			return err
		}
		var n yaml.Node
		if err := yaml.Unmarshal(b, &n); err != nil {
			return err
		}
		plain(&n)
		enc := yaml.NewEncoder(o)
		enc.SetIndent(2)
		if err := enc.Encode(&n); err != nil {
			return err
		}
		return enc.Close()
	}
	return people()
}

// marshal writes indented JSON that does not escape <, > and &.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(v)
	return b.Bytes(), err
}

// plain takes JSON's style (braces, quotes) off a tree; the order of keys stays.
func plain(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		plain(c)
	}
}

// lines writes the rows of a stream: in the machine formats one JSON document on
// each line.
func (o *output) line(v any, people string) error {
	if o.people() {
		_, err := fmt.Fprintln(o, people)
		return err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(o, "%s\n", b)
	return err
}

// say writes a line for people only.
func (o *output) say(format string, args ...any) {
	if o.people() {
		fmt.Fprintf(o, format+"\n", args...)
	}
}

// paint colours text where colours are wanted.
func (o *output) paint(code, s string) string {
	if o == nil || !o.color || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (o *output) bold(s string) string { return o.paint("1", s) }
func (o *output) dim(s string) string  { return o.paint("2", s) }

// state colours the word for a state: green is as it should be, yellow is on
// its way, red needs a person.
func (o *output) state(s string) string {
	switch s {
	case "running", "ready", "alive", "eligible", "active", "leader", "healthy":
		return o.paint("32", s)
	case "failed", "lost", "unknown", "unreachable", "crashed":
		return o.paint("31", s)
	case "pending", "preparing", "starting", "stopping", "suspect", "init", "deleting", "paused", "ineligible", "recovery", "held", "disarmed":
		return o.paint("33", s)
	}
	return s
}

// table collects rows and writes them aligned.
type table struct {
	out  *output
	head []string
	rows [][]string
}

// table begins a table.
func (o *output) table(head ...string) *table { return &table{out: o, head: head} }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// write writes the table; an empty one is one line that says so.
func (t *table) write(empty string) error {
	if len(t.rows) == 0 {
		_, err := fmt.Fprintln(t.out, empty)
		return err
	}
	widths := make([]int, len(t.head))
	for _, r := range append([][]string{t.head}, t.rows...) {
		for i, c := range r {
			widths[i] = max(widths[i], width(c))
		}
	}
	head := make([]string, len(t.head))
	for i, h := range t.head {
		head[i] = t.out.bold(h)
	}
	for _, r := range append([][]string{head}, t.rows...) {
		var b strings.Builder
		for i, c := range r {
			b.WriteString(c)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-width(c)+2))
			}
		}
		if _, err := fmt.Fprintln(t.out, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// width counts the characters that a terminal shows: colours take no room.
func width(s string) int {
	n := utf8.RuneCountInString(s)
	for rest := s; ; {
		i := strings.Index(rest, "\x1b[")
		if i < 0 {
			return n
		}
		j := strings.IndexByte(rest[i:], 'm')
		if j < 0 {
			return n
		}
		n -= j + 1
		rest = rest[i+j+1:]
	}
}

// fields collects "name  value" lines and writes them aligned.
type fields struct {
	out   *output
	pairs [][2]string
}

func (o *output) fields() *fields { return &fields{out: o} }

// add adds a line; an empty value is left out.
func (f *fields) add(name, value string) {
	if value != "" {
		f.pairs = append(f.pairs, [2]string{name, value})
	}
}

func (f *fields) write() {
	w := 0
	for _, p := range f.pairs {
		w = max(w, width(p[0]))
	}
	for _, p := range f.pairs {
		fmt.Fprintf(f.out, "%s%s  %s\n", f.out.bold(p[0]), strings.Repeat(" ", w-width(p[0])), p[1])
	}
}

// section writes a heading with an empty line before it.
func (o *output) section(title string) { fmt.Fprintf(o, "\n%s\n", o.bold(title)) }
