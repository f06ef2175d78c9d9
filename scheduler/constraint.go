package scheduler

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/novacron/novacron/api"
)

// Operators of a constraint. An empty operator means OpEqual.
const (
	OpEqual        = "="
	OpNotEqual     = "!="
	OpIn           = "in"
	OpNotIn        = "not_in"
	OpExists       = "exists"
	OpNotExists    = "not_exists"
	OpLess         = "<"
	OpLessEqual    = "<="
	OpGreater      = ">"
	OpGreaterEqual = ">="
	OpRegexp       = "regexp"
)

// maxPattern bounds the regular expressions of a spec, in bytes.
const maxPattern = 512

// rule is a compiled constraint.
type rule struct {
	attribute string
	text      string // for people
	test      func(value string, ok bool) bool
}

// CheckConstraint says whether a constraint can be compiled; the error is an
// *api.Error with CodeInvalid. The cluster calls it before it proposes a spec.
func CheckConstraint(c api.Constraint) error {
	if _, err := compile(c); err != nil {
		return err
	}
	return nil
}

// compile turns a constraint into a rule.
func compile(c api.Constraint) (rule, *api.Error) {
	op := c.Operator
	if op == "" {
		op = OpEqual
	}
	r := rule{attribute: c.Attribute, text: strings.TrimSpace(c.Attribute + " " + op + " " + c.Value)}
	if c.Attribute == "" {
		return r, api.Errorf(api.CodeInvalid, "a constraint has no attribute")
	}
	switch op {
	case OpEqual:
		r.test = func(v string, ok bool) bool { return ok && v == c.Value }
	case OpNotEqual:
		r.test = func(v string, ok bool) bool { return !ok || v != c.Value }
	case OpIn, OpNotIn:
		set := strings.Split(c.Value, ",")
		for i := range set {
			set[i] = strings.TrimSpace(set[i])
		}
		in := op == OpIn
		r.test = func(v string, ok bool) bool { return (ok && slices.Contains(set, v)) == in }
	case OpExists:
		r.test = func(_ string, ok bool) bool { return ok }
	case OpNotExists:
		r.test = func(_ string, ok bool) bool { return !ok }
	case OpLess:
		r.test = ordered(c.Value, func(n int) bool { return n < 0 })
	case OpLessEqual:
		r.test = ordered(c.Value, func(n int) bool { return n <= 0 })
	case OpGreater:
		r.test = ordered(c.Value, func(n int) bool { return n > 0 })
	case OpGreaterEqual:
		r.test = ordered(c.Value, func(n int) bool { return n >= 0 })
	case OpRegexp:
		if len(c.Value) > maxPattern {
			return r, api.Errorf(api.CodeInvalid, "the pattern of constraint %q is longer than %d bytes", c.Attribute, maxPattern)
		}
		re, err := regexp.Compile(c.Value)
		if err != nil {
			return r, api.Errorf(api.CodeInvalid, "the pattern of constraint %q does not compile: %s", c.Attribute, err)
		}
		r.test = func(v string, ok bool) bool { return ok && re.MatchString(v) }
	default:
		return r, api.Errorf(api.CodeInvalid, "constraint %q has the unknown operator %q", c.Attribute, op).
			WithHint("use one of =, !=, in, not_in, exists, not_exists, <, <=, >, >=, regexp")
	}
	return r, nil
}

// ordered compares with a value in numeric or version order. A value with a
// unit, such as 8GiB, is compared as a number of bytes.
func ordered(want string, accept func(int) bool) func(string, bool) bool {
	size, err := strconv.ParseInt(want, 10, 64)
	if err != nil {
		var b api.Bytes
		b, err = api.ParseBytes(want)
		size = int64(b)
	}
	sized := err == nil
	return func(v string, ok bool) bool {
		if !ok {
			return false
		}
		if sized {
			if n, err := strconv.ParseInt(v, 10, 64); err == nil {
				return accept(compareInt(n, size))
			}
		}
		return accept(compareVersions(v, want))
	}
}

func compareInt(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// compareVersions orders versions: runs of digits by number, other runs by
// text, a missing part before any other ("6.1" < "6.1.2"), except that a part
// that begins with a letter marks what comes before a release ("2.0-rc1" < "2.0").
func compareVersions(a, b string) int {
	a, b = strings.TrimPrefix(a, "v"), strings.TrimPrefix(b, "v")
	for a != "" || b != "" {
		var x, y string
		x, a = part(a)
		y, b = part(b)
		if x == y {
			continue
		}
		dx, dy := rank(x), rank(y)
		if dx != dy {
			return compareInt(int64(dx), int64(dy))
		}
		if dx == 2 {
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if len(x) != len(y) {
				return compareInt(int64(len(x)), int64(len(y)))
			}
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// rank orders kinds of parts: letters, nothing, digits.
func rank(p string) int {
	switch {
	case p == "":
		return 1
	case digit(p[0]):
		return 2
	}
	return 0
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// part cuts the next run of digits or of letters, skipping separators.
func part(s string) (string, string) {
	i := 0
	for i < len(s) && strings.IndexByte(".-_+~: ", s[i]) >= 0 {
		i++
	}
	s = s[i:]
	if s == "" {
		return "", ""
	}
	d := digit(s[0])
	i = 1
	for i < len(s) && digit(s[i]) == d && strings.IndexByte(".-_+~: ", s[i]) < 0 {
		i++
	}
	return s[:i], s[i:]
}

// attribute reads what a constraint, a spread or an affinity domain names:
// "node.id", "node.name", "node.datacenter", "node.class" (the label "class"),
// "label.X", or a fingerprint by its name.
func attribute(n *api.Node, name string) (string, bool) {
	switch name {
	case "node.id":
		return n.ID.String(), true
	case "node.name":
		return n.Name, true
	case "node.datacenter":
		return n.Datacenter, n.Datacenter != ""
	case "node.class":
		return n.Labels.Get("class")
	}
	if l, ok := strings.CutPrefix(name, "label."); ok {
		return n.Labels.Get(l)
	}
	return n.Attributes.Get(name)
}
