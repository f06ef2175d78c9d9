package api

import (
	"encoding/json"
	"slices"
	"strings"
)

// Pair is one key and its value.
type Pair struct {
	K string `json:"k" msg:"k,omitempty"`
	V string `json:"v" msg:"v,omitempty"`
}

// Pairs is a small map of strings kept as a slice sorted by key, because what
// is replicated must encode to equal bytes on every server. In JSON it is an
// object.
type Pairs []Pair

// PairsOf builds Pairs from a map.
func PairsOf(m map[string]string) Pairs {
	p := make(Pairs, 0, len(m))
	for k, v := range m {
		p = append(p, Pair{k, v})
	}
	slices.SortFunc(p, func(a, b Pair) int { return strings.Compare(a.K, b.K) })
	return p
}

// Get returns the value of a key and whether it is there.
func (p Pairs) Get(k string) (string, bool) {
	i, ok := slices.BinarySearchFunc(p, k, func(e Pair, k string) int { return strings.Compare(e.K, k) })
	if !ok {
		return "", false
	}
	return p[i].V, true
}

// Set returns Pairs with the key set; the receiver is not changed.
func (p Pairs) Set(k, v string) Pairs {
	i, ok := slices.BinarySearchFunc(p, k, func(e Pair, k string) int { return strings.Compare(e.K, k) })
	out := slices.Clone(p)
	if ok {
		out[i].V = v
		return out
	}
	return slices.Insert(out, i, Pair{k, v})
}

// Map returns a Go map, for display only.
func (p Pairs) Map() map[string]string {
	m := make(map[string]string, len(p))
	for _, e := range p {
		m[e.K] = e.V
	}
	return m
}

// MarshalJSON writes an object; encoding/json sorts its keys.
func (p Pairs) MarshalJSON() ([]byte, error) { return json.Marshal(p.Map()) }

// UnmarshalJSON reads an object of strings.
func (p *Pairs) UnmarshalJSON(data []byte) error {
	var m map[string]string
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	if m == nil {
		*p = nil
		return nil
	}
	*p = PairsOf(m)
	return nil
}
