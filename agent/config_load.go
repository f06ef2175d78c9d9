package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/novacron/novacron/api"
)

// maxConfigFile bounds a configuration file, bytes.
const maxConfigFile = 1 << 20

// Finding is one thing wrong with a configuration, and where.
type Finding struct {
	Source
	Field   string
	Message string
	Hint    string
}

// ConfigError is everything wrong with a configuration.
type ConfigError struct{ Findings []Finding }

// Error writes a line for each finding, "file:line:column: message", and its
// hint below it.
func (e *ConfigError) Error() string {
	var b strings.Builder
	for i, f := range e.Findings {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(f.Source.String() + ": ")
		if f.Field != "" {
			b.WriteString(f.Field + ": ")
		}
		b.WriteString(f.Message)
		if f.Hint != "" {
			b.WriteString("\n  hint: " + f.Hint)
		}
	}
	return b.String()
}

// API returns the error as those who call the API know errors.
func (e *ConfigError) API() *api.Error {
	out := api.Errorf(api.CodeConfig, "the configuration is not valid: %d findings", len(e.Findings))
	if len(e.Findings) == 1 {
		out.Message = "the configuration is not valid"
	}
	for _, f := range e.Findings {
		msg := f.Message
		if f.Hint != "" {
			msg += " (" + f.Hint + ")"
		}
		out.Details = append(out.Details, api.Detail{Field: f.Field, Message: f.Source.Name + ": " + msg, Line: int32(f.Line), Column: int32(f.Column)})
	}
	return out
}

func (e *ConfigError) orNil() error {
	if len(e.Findings) == 0 {
		return nil
	}
	return e
}

// add notes a finding about the value at a path.
func (e *ConfigError) add(c *Config, path, message, hint string) {
	e.Findings = append(e.Findings, Finding{c.from(path), path, message, hint})
}

// Load reads files and folders (their *.hcl, in the order of their names) one
// over the other, over the defaults. It does not validate.
func Load(paths ...string) (*Config, error) {
	c := Default()
	for _, p := range paths {
		files, err := configFiles(p)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if err := c.loadFile(f); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// configFiles lists the files behind a path.
func configFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		hint := ""
		if errors.Is(err, fs.ErrNotExist) {
			hint = "the file or folder of -config must exist"
		}
		return nil, &ConfigError{[]Finding{{Source: Source{Name: path}, Message: reason(err), Hint: hint}}}
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	files, err := filepath.Glob(filepath.Join(path, "*.hcl"))
	if err != nil {
		return nil, &ConfigError{[]Finding{{Source: Source{Name: path}, Message: err.Error()}}}
	}
	if len(files) == 0 {
		return nil, &ConfigError{[]Finding{{Source: Source{Name: path}, Message: "the folder holds no .hcl file"}}}
	}
	slices.Sort(files)
	return files, nil
}

// reason is an error of the file system without the path, which is shown beside it.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// loadFile lays one file over the configuration.
func (c *Config) loadFile(path string) error {
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxConfigFile {
		return &ConfigError{[]Finding{{Source: Source{Name: path}, Message: "the file is larger than 1 MiB"}}}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return &ConfigError{[]Finding{{Source: Source{Name: path}, Message: reason(err)}}}
	}
	return c.parse(path, text)
}

// parse lays the text of one file over the configuration.
func (c *Config) parse(path string, text []byte) error {
	f, diags := hclparse.NewParser().ParseHCL(text, path)
	if diags.HasErrors() {
		return findings(diags)
	}
	pools := c.Client.Pools
	c.Client.Pools = nil
	if diags := gohcl.DecodeBody(f.Body, nil, c); diags.HasErrors() {
		return findings(diags)
	}
	if body, ok := f.Body.(*hclsyntax.Body); ok {
		c.record(path, "", body)
	}
	return c.mergePools(path, pools)
}

// mergePools puts the pools of earlier files in front of those of this one; a
// pool of the same name replaces the earlier one, but not within one file.
func (c *Config) mergePools(path string, earlier []Pool) error {
	var bad ConfigError
	byName := func(list []Pool, name string) int {
		return slices.IndexFunc(list, func(p Pool) bool { return p.Name == name })
	}
	out := slices.Clone(earlier)
	for i, p := range c.Client.Pools {
		if byName(c.Client.Pools[:i], p.Name) >= 0 {
			bad.add(c, "client.pool."+p.Name, "the file "+filepath.Base(path)+" has two pools of this name", "")
			continue
		}
		if at := byName(out, p.Name); at >= 0 {
			out[at] = p
			continue
		}
		out = append(out, p)
	}
	c.Client.Pools = out
	return bad.orNil()
}

// didYouMean finds the suggestion that hcl puts at the end of its texts.
var didYouMean = regexp.MustCompile(`^(.*?)\s*(Did you mean .*\?.*)$`)

// findings turns diagnostics into our own form, in the order of the file.
func findings(diags hcl.Diagnostics) error {
	e := &ConfigError{}
	for _, d := range diags {
		f := Finding{Message: d.Detail}
		if f.Message == "" {
			f.Message = d.Summary
		}
		if m := didYouMean.FindStringSubmatch(f.Message); m != nil {
			f.Message, f.Hint = m[1], m[2]
		}
		if d.Subject != nil {
			f.Source = Source{d.Subject.Filename, d.Subject.Start.Line, d.Subject.Start.Column}
		}
		e.Findings = append(e.Findings, f)
	}
	slices.SortStableFunc(e.Findings, func(a, b Finding) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return e
}
