// Package netconfig checks the network configuration that a VM's spec brings for
// cloud-init: YAML or JSON, version 1 or 2.
//
// Promises: what passes is one mapping of plain values, with nothing in it that
// a reader could run or blow up; the same check is made where a spec comes in and
// where the seed is written, so that no node refuses what the API accepted.
//
// What does not belong: what the configuration says; other parts of a spec
// (package api, which needs no YAML).
package netconfig

import (
	"bytes"
	"errors"
	"io"
	"slices"

	"gopkg.in/yaml.v3"

	"github.com/novacron/novacron/api"
)

// Field is where a spec holds the configuration.
const Field = "cloud_init.network_config"

// CheckSpec checks the network configuration of a spec, if it has one.
func CheckSpec(s *api.VMSpec) error {
	if s.CloudInit == nil || len(s.CloudInit.NetworkConfig) == 0 {
		return nil
	}
	return Check(s.CloudInit.NetworkConfig)
}

// Check accepts one YAML document that is a mapping with a version and holds no
// tags of its own, no anchors, aliases or merge keys. The error is an *api.Error.
func Check(b []byte) error {
	if len(b) > api.MaxNetworkConfig {
		return bad("is %d bytes long, at most %d are allowed", len(b), api.MaxNetworkConfig)
	}
	var doc, more yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&doc); err != nil || len(doc.Content) != 1 {
		return bad("is not YAML")
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return bad("is more than one YAML document")
	}
	top := doc.Content[0]
	if !plain(top) {
		return bad("has tags, anchors or aliases")
	}
	if inner := child(top, "network"); inner != nil {
		top = inner
	}
	if v := child(top, "version"); v == nil || v.Value != "1" && v.Value != "2" {
		return bad("must be a mapping with version 1 or 2")
	}
	return nil
}

var coreTags = []string{"!!str", "!!int", "!!float", "!!bool", "!!null", "!!map", "!!seq", "!!timestamp"}

func plain(n *yaml.Node) bool {
	if n.Kind == yaml.AliasNode || n.Anchor != "" || !slices.Contains(coreTags, n.ShortTag()) {
		return false
	}
	return !slices.ContainsFunc(n.Content, func(c *yaml.Node) bool { return !plain(c) })
}

func child(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func bad(format string, args ...any) error {
	return api.Errorf(api.CodeInvalid, "the VM specification is not valid: "+Field+": "+format, args...).WithDetail(Field, format, args...)
}
