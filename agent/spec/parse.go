package spec

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/novacron/novacron/api"
)

// MaxVMs is how many VMs one text may hold.
const MaxVMs = 100

// slots are the texts that may be read at the same time: reading them must not
// take the whole machine from what else the agent does.
var slots = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))

// Parse reads every VM of a text. Its errors are *api.Error: CodeSyntax with
// the places, or what api.UnmarshalJSON says of JSON.
func Parse(ctx context.Context, r *api.ParseRequest) ([]api.VMSpec, error) {
	if len(r.Text) > api.MaxSpecText {
		return nil, api.Errorf(api.CodeTooLarge, "the specification is %d bytes long, at most %d are allowed", len(r.Text), api.MaxSpecText)
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !utf8.ValidString(r.Text) {
		return nil, api.Errorf(api.CodeSyntax, "the specification is not valid UTF-8")
	}
	var (
		specs []api.VMSpec
		err   error
	)
	if r.Format == "json" {
		specs, err = parseJSON(r)
	} else {
		specs, err = parseHCL(r)
	}
	if err != nil {
		return nil, err
	}
	if len(specs) == 0 {
		return nil, api.Errorf(api.CodeSyntax, "the specification has no VM").WithHint("write: vm \"name\" { ... }")
	}
	if len(specs) > MaxVMs {
		return nil, api.Errorf(api.CodeTooLarge, "the specification has %d VMs, at most %d are allowed", len(specs), MaxVMs)
	}
	seen := map[[2]string]bool{}
	for _, s := range specs {
		k := [2]string{s.Namespace, s.Name}
		if seen[k] {
			return nil, api.Errorf(api.CodeSyntax, "the VM %.64q is there twice", s.Name)
		}
		seen[k] = true
	}
	return specs, nil
}

// parseJSON reads one VM, a list of VMs, or one under "spec".
func parseJSON(r *api.ParseRequest) ([]api.VMSpec, error) {
	if len(r.Variables) > 0 {
		return nil, api.Errorf(api.CodeInvalid, "variables have no meaning in JSON")
	}
	text := []byte(r.Text)
	if t := bytes.TrimSpace(text); len(t) > 0 && t[0] == '[' {
		var list []api.VMSpec
		err := api.UnmarshalJSON(text, &list)
		return list, err
	}
	var top map[string]json.RawMessage
	if json.Unmarshal(text, &top) == nil && top["spec"] != nil {
		var apply api.VMApply
		err := api.UnmarshalJSON(text, &apply)
		return []api.VMSpec{apply.Spec}, err
	}
	var one api.VMSpec
	err := api.UnmarshalJSON(text, &one)
	return []api.VMSpec{one}, err
}

func parseHCL(r *api.ParseRequest) ([]api.VMSpec, error) {
	d := &decoder{file: r.File}
	if d.file == "" {
		d.file = "specification"
	}
	text := []byte(r.Text)
	if !d.bounded(text) {
		return nil, d.err()
	}
	f, diags := hclsyntax.ParseConfig(text, d.file, hcl.InitialPos)
	if d.syntax(diags); len(d.found) > 0 {
		return nil, d.err()
	}
	body := f.Body.(*hclsyntax.Body)
	for _, a := range sorted(body) {
		d.add(a.NameRange, a.Name, "%q does not belong here", a.Name)
		d.hint("at the top there are only vm and variable blocks")
	}
	d.variables(body, r.Variables)
	if len(d.found) > 0 {
		return nil, d.err()
	}
	var specs []api.VMSpec
	for _, b := range body.Blocks {
		switch b.Type {
		case "variable":
		case "vm":
			if len(b.Labels) != 1 {
				d.add(b.DefRange(), "vm", "a VM has one name: vm \"name\" { ... }")
				continue
			}
			specs = append(specs, d.vm(b))
		default:
			d.add(b.TypeRange, b.Type, "unknown block %q", b.Type)
			d.suggest(b.Type, []string{"vm", "variable"})
		}
	}
	return specs, d.err()
}

// finding is one thing that is wrong, and where.
type finding struct {
	api.Detail
	hint string
}

// decoder collects what is wrong while it reads.
type decoder struct {
	file   string
	eval   *hcl.EvalContext
	sizes  map[string]int // of the variables' values
	spent  int            // of the budget for what expressions make
	found  []finding
	more   int
	prefix string // path of the block that is being read
}

func (d *decoder) add(at hcl.Range, field, format string, args ...any) {
	if len(d.found) == api.MaxDetails {
		d.more++
		return
	}
	d.found = append(d.found, finding{Detail: api.Detail{
		Field: d.prefix + field, Message: clip(fmt.Sprintf(format, args...), 400), Line: int32(at.Start.Line), Column: int32(at.Start.Column),
	}})
}

func clip(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "..."
	}
	return s
}

// hint belongs to what was added last.
func (d *decoder) hint(format string, args ...any) {
	if n := len(d.found); n > 0 && d.more == 0 {
		d.found[n-1].hint = clip(fmt.Sprintf(format, args...), 200)
	}
}

func (d *decoder) suggest(word string, candidates []string) {
	if s := api.Suggest(word, candidates); s != "" {
		d.hint("did you mean %q?", s)
	}
}

// syntax takes over what the HCL parser found.
func (d *decoder) syntax(diags hcl.Diagnostics) {
	for _, g := range diags {
		if g.Severity != hcl.DiagError {
			continue
		}
		at := hcl.Range{Start: hcl.InitialPos}
		if g.Subject != nil {
			at = *g.Subject
		}
		d.add(at, "", "%s: %s", g.Summary, g.Detail)
	}
}

func (d *decoder) err() error {
	if len(d.found) == 0 {
		return nil
	}
	slices.SortStableFunc(d.found, func(a, b finding) int {
		if a.Line != b.Line {
			return int(a.Line - b.Line)
		}
		return int(a.Column - b.Column)
	})
	f := d.found[0]
	e := api.Errorf(api.CodeSyntax, "%s:%d:%d: %s", clip(d.file, 100), f.Line, f.Column, f.Message)
	if n := len(d.found) + d.more; n > 1 {
		e.Message += fmt.Sprintf(" (and %d more)", n-1)
	}
	e.Hint = f.hint
	for _, f := range d.found {
		if f.hint != "" {
			f.Message += " (" + f.hint + ")"
		}
		e.Details = append(e.Details, f.Detail)
	}
	return e
}

func sorted(b *hclsyntax.Body) []*hclsyntax.Attribute {
	out := make([]*hclsyntax.Attribute, 0, len(b.Attributes))
	for _, a := range b.Attributes {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b *hclsyntax.Attribute) int { return a.SrcRange.Start.Byte - b.SrcRange.Start.Byte })
	return out
}
