package agent

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Source is where a value of the configuration came from.
type Source struct {
	Name         string // file, "environment NOVACRON_X", "flag -x"
	Line, Column int    // zero but for files
}

// String writes file:line:column, or what there is of it.
func (s Source) String() string {
	switch {
	case s.Name == "":
		return "configuration"
	case s.Line == 0:
		return s.Name
	}
	return fmt.Sprintf("%s:%d:%d", s.Name, s.Line, s.Column)
}

// record notes where each attribute and block of a file stands, under its path
// ("client.pool.fast.path").
func (c *Config) record(file string, prefix string, b *hclsyntax.Body) {
	for name, a := range b.Attributes {
		r := a.Expr.Range()
		c.source[prefix+name] = Source{file, r.Start.Line, r.Start.Column}
	}
	for _, bl := range b.Blocks {
		path := prefix + strings.Join(append([]string{bl.Type}, bl.Labels...), ".")
		r := bl.DefRange()
		c.source[path] = Source{file, r.Start.Line, r.Start.Column}
		c.record(file, path+".", bl.Body)
	}
}

// from returns where the value at a path, or the nearest block around it, stands.
func (c *Config) from(path string) Source {
	for {
		if s, ok := c.source[path]; ok {
			return s
		}
		i := strings.LastIndexByte(path, '.')
		if i < 0 {
			return Source{}
		}
		path = path[:i]
	}
}

// leaf is one value of the configuration.
type leaf struct{ v reflect.Value }

func (l leaf) text() string {
	switch l.v.Kind() {
	case reflect.Slice:
		return strings.Join(l.v.Interface().([]string), ",")
	case reflect.Map:
		var out []string
		for k, v := range l.v.Interface().(map[string]string) {
			out = append(out, k+"="+v)
		}
		slices.Sort(out)
		return strings.Join(out, ",")
	}
	return fmt.Sprint(l.v.Interface())
}

// set reads the value from text, as flags and environment have it: lists are
// separated by commas, maps are "k=v,k=v".
func (l leaf) set(s string) error {
	switch l.v.Kind() {
	case reflect.String:
		l.v.SetString(s)
	case reflect.Bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return fmt.Errorf("%q is not true or false", s)
		}
		l.v.SetBool(b)
	case reflect.Int:
		n, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", s)
		}
		l.v.SetInt(int64(n))
	case reflect.Float64:
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return fmt.Errorf("%q is not a number", s)
		}
		l.v.SetFloat(f)
	case reflect.Slice:
		l.v.Set(reflect.ValueOf(splitList(s)))
	case reflect.Map:
		m := map[string]string{}
		for _, kv := range splitList(s) {
			k, v, ok := strings.Cut(kv, "=")
			if !ok {
				return fmt.Errorf("%q is not of the form key=value", kv)
			}
			m[k] = v
		}
		l.v.Set(reflect.ValueOf(m))
	default:
		return fmt.Errorf("cannot be set from text")
	}
	return nil
}

func splitList(s string) []string {
	var out []string
	for _, p := range strings.Split(s, ",") {
		if p = strings.TrimSpace(p); p != "" {
			out = append(out, p)
		}
	}
	return out
}

// each calls f with every value of the configuration but those of pools, which
// only files can hold.
func each(c *Config, f func(path string, v leaf)) { eachIn("", reflect.ValueOf(c).Elem(), f) }

func eachIn(prefix string, v reflect.Value, f func(string, leaf)) {
	for i := range v.NumField() {
		tag, kind, _ := strings.Cut(v.Type().Field(i).Tag.Get("hcl"), ",")
		fv := v.Field(i)
		switch {
		case tag == "" || kind == "label":
		case kind == "block" && fv.Kind() == reflect.Pointer:
			eachIn(prefix+tag+".", fv.Elem(), f)
		case kind == "optional":
			f(prefix+tag, leaf{fv})
		}
	}
}

// EnvName is the environment variable that sets the value at a path:
// "client.hypervisor.kind" is NOVACRON_CLIENT_HYPERVISOR_KIND.
func EnvName(path string) string {
	return "NOVACRON_" + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// Set lays one value over the configuration; from says where it came from. An
// unknown path is an error.
func (c *Config) Set(path, value string, from Source) error {
	found, err := false, error(nil)
	each(c, func(p string, l leaf) {
		if p == path {
			found, err = true, l.set(value)
		}
	})
	if !found {
		return fmt.Errorf("there is no setting %q", path)
	}
	if err != nil {
		return &ConfigError{[]Finding{{Source: from, Field: path, Message: err.Error()}}}
	}
	c.source[path] = from
	return nil
}

// SetEnv lays the environment over the configuration.
func (c *Config) SetEnv(lookup func(string) (string, bool)) error {
	var bad ConfigError
	each(c, func(path string, l leaf) {
		name := EnvName(path)
		v, ok := lookup(name)
		if !ok || v == "" {
			return
		}
		from := Source{Name: "environment " + name}
		if err := l.set(v); err != nil {
			bad.Findings = append(bad.Findings, Finding{Source: from, Field: path, Message: err.Error()})
			return
		}
		c.source[path] = from
	})
	return bad.orNil()
}
