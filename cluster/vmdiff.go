package cluster

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/novacron/novacron/api"
)

// liveFields are the parts of a spec that take effect without a restart of the
// guest: they are about placing and keeping it, not about its hardware.
var liveFields = map[string]bool{
	"description": true, "labels": true, "datacenters": true, "priority": true, "constraints": true,
	"affinities": true, "spread": true, "restart": true, "ha": true, "protection": true, "stop_timeout": true,
	"migration": true,
}

// restartNeeded reports whether a field, as diffSpec names it, is part of the
// machine that runs.
func restartNeeded(field string) bool {
	top, _, _ := strings.Cut(field, ".")
	top, _, _ = strings.Cut(top, "[")
	return !liveFields[top]
}

// diffSpec lists the fields that differ, in order of their names. Opaque bytes
// are shown by size and checksum only.
func diffSpec(old, new *api.VMSpec) ([]api.FieldDiff, error) {
	a, err := flatSpec(old)
	if err != nil {
		return nil, err
	}
	b, err := flatSpec(new)
	if err != nil {
		return nil, err
	}
	var out []api.FieldDiff
	for f, v := range a {
		if w := b[f]; w != v {
			out = append(out, api.FieldDiff{Field: f, Old: v, New: w, RestartNeeded: restartNeeded(f)})
		}
	}
	for f, w := range b {
		if _, had := a[f]; !had && w != "" {
			out = append(out, api.FieldDiff{Field: f, New: w, RestartNeeded: restartNeeded(f)})
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Field < out[j].Field })
	return out, nil
}

// flatSpec turns a spec into "disks[root].size" → "10 GiB".
func flatSpec(s *api.VMSpec) (map[string]string, error) {
	out := map[string]string{}
	if s == nil {
		return out, nil
	}
	c := *s
	if c.CloudInit != nil {
		ci := *c.CloudInit
		for _, f := range []struct {
			name string
			data *[]byte
		}{{"user_data", &ci.UserData}, {"network_config", &ci.NetworkConfig}} {
			if len(*f.data) > 0 {
				sum := sha256.Sum256(*f.data)
				out["cloud_init."+f.name] = fmt.Sprintf("%d bytes (sha256 %x)", len(*f.data), sum[:6])
				*f.data = nil
			}
		}
		c.CloudInit = &ci
	}
	b, err := json.Marshal(&c)
	if err != nil {
		return nil, err
	}
	var tree map[string]any
	if err := json.Unmarshal(b, &tree); err != nil {
		return nil, err
	}
	flatten(out, "", tree)
	return out, nil
}

func flatten(out map[string]string, path string, v any) {
	switch v := v.(type) {
	case nil:
	case map[string]any:
		for k, e := range v {
			if path != "" {
				k = path + "." + k
			}
			flatten(out, k, e)
		}
	case []any:
		for i, e := range v {
			flatten(out, path+"["+labelOf(e, i)+"]", e)
		}
	case string:
		if v != "" {
			out[path] = v
		}
	case bool:
		if v {
			out[path] = "true"
		}
	case float64:
		if v != 0 {
			out[path] = numberOf(path, v)
		}
	default:
		out[path] = fmt.Sprint(v)
	}
}

// labelOf names an element of a list by its own name, if it has one.
func labelOf(e any, i int) string {
	if m, ok := e.(map[string]any); ok {
		for _, k := range []string{"name", "attribute"} {
			if s, ok := m[k].(string); ok && s != "" {
				return s
			}
		}
	}
	return strconv.Itoa(i)
}

func numberOf(path string, v float64) string {
	switch path[strings.LastIndexByte(path, '.')+1:] {
	case "memory", "size":
		return api.Bytes(v).String()
	case "reserve":
		return api.MilliCPU(v).String()
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}
