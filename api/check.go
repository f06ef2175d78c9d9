package api

import (
	"crypto/sha256"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

//msgp:ignore checks Canonicalizer Validator

// Canonicalizer fills in what a user may leave out. It is idempotent, accepts
// any value, and comes before Validate.
type Canonicalizer interface{ Canonicalize() }

// Validator reports every wrong field as one *Error with CodeInvalid and a
// Detail for each. It needs no state: what depends on the cluster is checked
// there.
type Validator interface{ Validate() error }

// Limits of what users may write.
const (
	MaxName        = 63
	MaxDescription = 1024
	MaxLabels      = 64
	MaxLabelKey    = 128
	MaxLabelValue  = 256
	MaxDetails     = 100 // findings in one error; the rest is counted
)

// checks collects findings under a path.
type checks struct {
	found []Detail
	more  int
}

func (c *checks) add(field, format string, args ...any) {
	if len(c.found) == MaxDetails {
		c.more++
		return
	}
	c.found = append(c.found, Detail{Field: field, Message: fmt.Sprintf(format, args...)})
}

// err returns nil or the error that lists the findings; what names the thing
// that was checked.
func (c *checks) err(what string) error {
	if len(c.found) == 0 {
		return nil
	}
	first := c.found[0]
	msg := first.Message
	if first.Field != "" {
		msg = first.Field + ": " + msg
	}
	e := Errorf(CodeInvalid, "%s is not valid: %s", what, msg)
	if n := len(c.found) + c.more; n > 1 {
		e.Message += fmt.Sprintf(" (and %d more)", n-1)
	}
	e.Details = c.found
	return e
}

// quote shows a value in a message: escaped and never longer than a line.
func quote(s string) string {
	const most = 48
	if len(s) > most {
		cut := most
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		return strconv.QuoteToASCII(s[:cut]) + "..."
	}
	return strconv.QuoteToASCII(s)
}

const nameHint = "want lower-case letters, digits and dashes, beginning with a letter or digit, at most 63"

// ValidName reports whether s is a name: ^[a-z0-9][a-z0-9-]{0,62}$.
func ValidName(s string) bool {
	if len(s) == 0 || len(s) > MaxName || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		b := s[i]
		if (b < 'a' || b > 'z') && (b < '0' || b > '9') && b != '-' {
			return false
		}
	}
	return true
}

// name checks a name that must be there.
func (c *checks) name(field, s string) {
	switch {
	case s == "":
		c.add(field, "is missing")
	case !ValidName(s):
		c.add(field, "%s is not a name: %s", quote(s), nameHint)
	}
}

// optName checks a name that may be empty.
func (c *checks) optName(field, s string) {
	if s != "" {
		c.name(field, s)
	}
}

// token checks s against a set of ASCII letters, digits and the bytes of extra.
func onlyOf(s, extra string) bool {
	for i := range len(s) {
		b := s[i]
		alnum := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9'
		if !alnum && strings.IndexByte(extra, b) < 0 {
			return false
		}
	}
	return true
}

// key checks what names a noun in a request: a name, an ID or an ID prefix.
func (c *checks) key(field, s string) {
	switch {
	case s == "":
		c.add(field, "is missing")
	case len(s) > 253 || !onlyOf(s, "._-") || s == "." || s == "..":
		c.add(field, "%s is neither a name nor an id", quote(s))
	}
}

// namespace checks the namespace of a write, where "*" has no meaning.
func (c *checks) namespace(field, s string) {
	if s == "*" {
		c.add(field, "\"*\" is for reads only: name one namespace")
		return
	}
	c.optName(field, s)
}

// hidden reports runes that make text read other than it is: control
// characters, bidirectional controls, zero-width and other format characters,
// and the one that stands for what could not be read.
func hidden(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029' || r == 0xfffd || r == 0xfffe || r == 0xffff
}

// text checks prose: valid UTF-8, nothing hidden, nothing that opens or closes
// markup (it is shown in XML, HTML and terminals).
func (c *checks) text(field, s string, most int) {
	if len(s) > most {
		c.add(field, "is %d bytes long, at most %d are allowed", len(s), most)
		return
	}
	if !utf8.ValidString(s) {
		c.add(field, "is not valid UTF-8")
		return
	}
	for _, r := range s {
		if hidden(r) {
			c.add(field, "has the character %U, which cannot be shown", r)
			return
		}
		if r == '<' || r == '>' {
			c.add(field, "has %q: markup is not allowed here", r)
			return
		}
	}
}

// ascii checks printable ASCII.
func (c *checks) ascii(field, s string, most int) {
	if len(s) > most {
		c.add(field, "is %d bytes long, at most %d are allowed", len(s), most)
		return
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			c.add(field, "has the byte %#02x at %d: want printable ASCII", s[i], i)
			return
		}
	}
}

// oneOf checks a word against those allowed.
func (c *checks) oneOf(field, s string, allowed ...string) {
	if !slices.Contains(allowed, s) {
		c.add(field, "%s is not one of %s", quote(s), strings.Join(allowed, ", "))
	}
}

// between checks a number.
func between[T ~int32 | ~int64](c *checks, field string, v, low, high T) {
	if v < low || v > high {
		c.add(field, "%d is out of range: want %d to %d", v, low, high)
	}
}

// lasts checks a duration.
func (c *checks) lasts(field string, d, low, high Duration) {
	if d < low || d > high {
		c.add(field, "%s is out of range: want %s to %s", d, low, high)
	}
}

// ratio checks an overcommit ratio.
func (c *checks) ratio(field string, f, low, high float64) {
	if math.IsNaN(f) || f < low || f > high {
		c.add(field, "%v is out of range: want %v to %v", f, low, high)
	}
}

// labelKey checks the key of a label.
func (c *checks) labelKey(field, k string) {
	ok := k != "" && len(k) <= MaxLabelKey && onlyOf(k, "._/-")
	if ok {
		ok = onlyOf(k[:1], "") && onlyOf(k[len(k)-1:], "")
	}
	if !ok {
		c.add(field, "%s is not a label: want letters, digits, '.', '_', '/' and '-' between letters or digits, at most %d", quote(k), MaxLabelKey)
	}
}

// labels checks Pairs that hold labels; sorted and without duplicates.
func (c *checks) labels(field string, p Pairs) {
	if len(p) > MaxLabels {
		c.add(field, "has %d entries, at most %d are allowed", len(p), MaxLabels)
		return
	}
	for i, e := range p {
		at := field + "[" + quote(e.K) + "]"
		c.labelKey(at, e.K)
		c.text(at, e.V, MaxLabelValue)
		if i > 0 && e.K <= p[i-1].K {
			c.add(at, "is there twice or out of order")
		}
	}
}

// sortPairs sorts in place, keeping the order of equal keys so that Validate
// still sees the duplicate; empty becomes nil.
func sortPairs(p Pairs) Pairs {
	if len(p) == 0 {
		return nil
	}
	slices.SortStableFunc(p, func(a, b Pair) int { return strings.Compare(a.K, b.K) })
	return p
}

// ParseMAC reads a 48-bit unicast address in any form of net.ParseMAC and
// returns it as lower-case text with colons.
func ParseMAC(s string) (string, error) {
	m, err := net.ParseMAC(s)
	switch {
	case err != nil || len(m) != 6:
		return "", fmt.Errorf("%s is not a MAC address: want six bytes such as 52:54:00:12:34:56", quote(s))
	case m[0]&1 == 1:
		return "", fmt.Errorf("%s is a multicast address", quote(s))
	case slices.Equal(m, net.HardwareAddr{0, 0, 0, 0, 0, 0}):
		return "", fmt.Errorf("%s is all zero", quote(s))
	}
	return m.String(), nil
}

// MAC makes the address of the index-th NIC of a VM whose spec names none: always
// the same, locally administered, unicast, under QEMU's 52:54:00.
func MAC(vm ID, index int) string {
	sum := sha256.Sum256(fmt.Appendf(vm[:], "/%d", index))
	return net.HardwareAddr{0x52, 0x54, 0x00, sum[0], sum[1], sum[2]}.String()
}

// hostName checks an RFC 1123 host name.
func (c *checks) hostName(field, s string) {
	bad := len(s) == 0 || len(s) > 253
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || len(part) > 63 || !onlyOf(part, "-") || part[0] == '-' || part[len(part)-1] == '-' {
			bad = true
		}
	}
	if bad {
		c.add(field, "%s is not a host name", quote(s))
	}
}

// sha256 checks 64 lower-case hex digits.
func (c *checks) sha256(field, s string) {
	ok := len(s) == 64
	for i := range len(s) {
		if b := s[i]; (b < '0' || b > '9') && (b < 'a' || b > 'f') {
			ok = false
			break
		}
	}
	if !ok {
		c.add(field, "%s is not a SHA-256 sum: want 64 lower-case hex digits", quote(s))
	}
}
