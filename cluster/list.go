package cluster

import (
	"cmp"
	"encoding/json"
	"iter"
	"slices"
	"strings"

	"github.com/hashicorp/go-bexpr"

	"github.com/novacron/novacron/api"
)

const (
	maxFilter      = 4 << 10 // characters
	maxFilterSteps = 1 << 20 // of the parser
)

// kindOf says how nouns of one kind are named, for lists and look-ups.
type kindOf[T any] struct {
	noun string
	id   func(T) api.ID // nil when the noun has only a name
	name func(T) string
	ns   func(T) string // nil when the noun is in no namespace
	// order is what lists are ordered by; nil: by namespace and name.
	order func(T) string
}

func (k *kindOf[T]) namespace(v T) string {
	if k.ns == nil {
		return ""
	}
	return k.ns(v)
}

// key orders lists and is the token of the next page.
func (k *kindOf[T]) key(v T) listKey {
	key := listKey{ns: k.namespace(v), name: k.name(v)}
	if k.order != nil {
		key = listKey{name: k.order(v)}
	}
	if k.id != nil {
		key.id = k.id(v).String() // names of nodes and tokens need not be unique
	}
	return key
}

type listKey struct{ ns, name, id string }

func (a listKey) compare(b listKey) int {
	return cmp.Or(strings.Compare(a.ns, b.ns), strings.Compare(a.name, b.name), strings.Compare(a.id, b.id))
}

func (a listKey) token() string { return a.ns + "/" + a.id + "/" + a.name }

func parseListKey(s string) (listKey, bool) {
	p := strings.SplitN(s, "/", 3)
	if len(p) != 3 {
		return listKey{}, false
	}
	return listKey{ns: p[0], id: p[1], name: p[2]}, true
}

// matches reports whether a name or ID begins with the prefix.
func (k *kindOf[T]) matches(v T, prefix string) bool {
	return strings.HasPrefix(k.name(v), prefix) || (k.id != nil && strings.HasPrefix(k.id(v).String(), strings.ToLower(prefix)))
}

// pageOf makes one page of a list: namespace, permission, prefix, filter over the
// JSON form of what is shown, order by namespace and name.
func pageOf[T, O any](q *api.QueryOptions, meta *api.QueryMeta, k *kindOf[T], all iter.Seq[T], allow func(ns string) bool, show func(T) O) ([]O, error) {
	keep, err := filterOf(q.Filter)
	if err != nil {
		return nil, err
	}
	var from listKey
	if q.NextToken != "" {
		var ok bool
		if from, ok = parseListKey(q.NextToken); !ok {
			return nil, api.Errorf(api.CodeInvalid, "next_token %q is not one that a list returned", q.NextToken)
		}
	}
	type row struct {
		key listKey
		val T
	}
	var rows []row
	for v := range all {
		ns := k.namespace(v)
		if k.ns != nil && q.Namespace != "*" && ns != namespaceOf(q.Namespace) {
			continue
		}
		if (allow != nil && !allow(ns)) || (q.Prefix != "" && !k.matches(v, q.Prefix)) {
			continue
		}
		if r := (row{k.key(v), v}); r.key.compare(from) >= 0 {
			rows = append(rows, r)
		}
	}
	byKey := func(a, b row) int { return a.key.compare(b.key) }
	if !slices.IsSortedFunc(rows, byKey) {
		slices.SortStableFunc(rows, byKey)
	}
	out := make([]O, 0, min(len(rows), 1024))
	for _, r := range rows {
		o := show(r.val)
		ok, err := keep(o)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if q.PerPage > 0 && len(out) == int(q.PerPage) {
			meta.NextToken = r.key.token()
			break
		}
		out = append(out, o)
	}
	return out, nil
}

func namespaceOf(ns string) string {
	if ns == "" {
		return api.DefaultNamespace
	}
	return ns
}

// filterOf compiles a go-bexpr expression over the JSON form of a value. A field
// that is not there counts as empty.
func filterOf(expr string) (func(any) (bool, error), error) {
	if strings.TrimSpace(expr) == "" {
		return func(any) (bool, error) { return true, nil }, nil
	}
	bad := func(err error) error { return api.Errorf(api.CodeFilter, "filter: %v", err) }
	if len(expr) > maxFilter {
		return nil, api.Errorf(api.CodeFilter, "filter: %d characters are too many (at most %d)", len(expr), maxFilter)
	}
	ev, err := bexpr.CreateEvaluator(expr, bexpr.WithUnknownValue(""), bexpr.WithMaxExpressions(maxFilterSteps))
	if err != nil {
		return nil, bad(err)
	}
	return func(v any) (bool, error) {
		b, err := json.Marshal(v)
		if err != nil {
			return false, err
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			return false, err
		}
		ok, err := ev.Evaluate(m)
		if err != nil {
			return false, bad(err)
		}
		return ok, nil
	}, nil
}

// findOf looks a noun up by name, by ID, or by an ID prefix of at least four
// characters that only one has. An ID finds a noun in any namespace, so allow says
// which the caller may see (nil: all): what it may not see is not there. byName
// and byID are direct look-ups.
func findOf[T comparable](k *kindOf[T], ns, key string, allow func(ns string) bool, byName func(ns, name string) T, byID func(api.ID) T, all iter.Seq[T]) (T, error) {
	var none T
	if key == "" {
		return none, api.Errorf(api.CodeInvalid, "name or ID of the %s is missing", k.noun)
	}
	visible := func(v T) bool {
		return k.ns == nil || (ns == "" || ns == "*" || k.ns(v) == ns) && (allow == nil || allow(k.ns(v)))
	}
	if v := byName(namespaceOf(ns), key); v != none && visible(v) {
		return v, nil
	}
	missing := api.Errorf(api.CodeNotFound, "%s %q not found", k.noun, key)
	if k.ns != nil {
		missing = api.Errorf(api.CodeNotFound, "%s %q not found in namespace %q", k.noun, key, namespaceOf(ns))
	}
	if byID == nil {
		return none, missing
	}
	if id, err := api.ParseID(key); err == nil {
		if v := byID(id); v != none && visible(v) {
			return v, nil
		}
		return none, missing
	}
	prefix := strings.ToLower(key)
	if len(prefix) < 4 || strings.Trim(prefix, "0123456789abcdef-") != "" {
		return none, missing
	}
	var found []T
	for v := range all {
		if visible(v) && strings.HasPrefix(k.id(v).String(), prefix) {
			found = append(found, v)
		}
	}
	switch len(found) {
	case 0:
		return none, missing
	case 1:
		return found[0], nil
	}
	e := api.Errorf(api.CodeAmbiguous, "%q is the beginning of %d IDs", key, len(found))
	for _, v := range found[:min(len(found), 10)] {
		e = e.WithDetail(k.name(v), "%s", k.id(v))
	}
	return none, e
}
