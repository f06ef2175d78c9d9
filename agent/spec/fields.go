package spec

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/novacron/novacron/api"
)

// fields reads one block: each attribute and each kind of block is named once,
// and done reports what is left over.
type fields struct {
	d      *decoder
	body   *hclsyntax.Body
	attrs  []string
	blocks []string
}

func (d *decoder) fields(b *hclsyntax.Body) *fields { return &fields{d: d, body: b} }

// attr reads an attribute when it is there and not null.
func (f *fields) attr(name string, set func(cty.Value) error) {
	f.attrs = append(f.attrs, name)
	a, ok := f.body.Attributes[name]
	if !ok {
		return
	}
	v, ok := f.d.value(name, a.Expr)
	if !ok || v.IsNull() {
		return
	}
	if err := set(v); err != nil {
		f.d.add(a.Expr.Range(), name, "%v", err)
	}
}

// block reads every block of a kind. labels is how many labels it has.
func (f *fields) block(kind string, labels, most int, read func(*hclsyntax.Block)) {
	f.blocks = append(f.blocks, kind)
	n := 0
	for _, b := range f.body.Blocks {
		if b.Type != kind {
			continue
		}
		if n++; n > most {
			f.d.add(b.DefRange(), kind, "there are more than %d %s blocks", most, kind)
			return
		}
		if len(b.Labels) != labels {
			want := kind + " { ... }"
			if labels == 1 {
				want = kind + " \"name\" { ... }"
			}
			f.d.add(b.DefRange(), kind, "want %s", want)
			continue
		}
		before := f.d.prefix
		f.d.prefix += kind
		if labels == 1 {
			f.d.prefix += "." + clip(b.Labels[0], 64)
		}
		f.d.prefix += "."
		read(b)
		f.d.prefix = before
	}
}

// done reports what no one asked for.
func (f *fields) done() {
	known := append(slices.Clone(f.attrs), f.blocks...)
	for _, a := range sorted(f.body) {
		if slices.Contains(f.attrs, a.Name) {
			continue
		}
		if slices.Contains(f.blocks, a.Name) {
			f.d.add(a.NameRange, a.Name, "%q is a block: write %s { ... } without \"=\"", a.Name, a.Name)
			continue
		}
		f.d.add(a.NameRange, clip(a.Name, 64), "unknown attribute %q", clip(a.Name, 64))
		f.d.suggest(a.Name, known)
	}
	for _, b := range f.body.Blocks {
		if slices.Contains(f.blocks, b.Type) {
			continue
		}
		if slices.Contains(f.attrs, b.Type) {
			f.d.add(b.TypeRange, b.Type, "%q is an attribute: write %s = ...", b.Type, b.Type)
			continue
		}
		f.d.add(b.TypeRange, clip(b.Type, 64), "unknown block %q", clip(b.Type, 64))
		f.d.suggest(b.Type, known)
	}
}

// The readers of values.

func text[T ~string](p *T) func(cty.Value) error {
	return func(v cty.Value) error {
		if v.Type() != cty.String {
			return fmt.Errorf("want text in quotes, got %s", kindOf(v))
		}
		*p = T(v.AsString())
		return nil
	}
}

// scalar is text that may be written as a number or as true or false.
func scalar(p *string) func(cty.Value) error {
	return func(v cty.Value) error {
		switch v.Type() {
		case cty.Number:
			*p = v.AsBigFloat().Text('f', -1)
		case cty.Bool:
			*p = fmt.Sprint(v.True())
		default:
			return text(p)(v)
		}
		return nil
	}
}

func boolean(p *bool) func(cty.Value) error {
	return func(v cty.Value) error {
		if v.Type() != cty.Bool {
			return fmt.Errorf("want true or false, got %s", kindOf(v))
		}
		*p = v.True()
		return nil
	}
}

func whole(v cty.Value, low, high int64) (int64, error) {
	if v.Type() != cty.Number {
		return 0, fmt.Errorf("want a whole number, got %s", kindOf(v))
	}
	n, acc := v.AsBigFloat().Int64()
	if acc != big.Exact || n < low || n > high {
		return 0, fmt.Errorf("want a whole number from %d to %d", low, high)
	}
	return n, nil
}

func integer(p *int32) func(cty.Value) error {
	return func(v cty.Value) error {
		n, err := whole(v, math.MinInt32, math.MaxInt32)
		*p = int32(n)
		return err
	}
}

// size reads 1073741824 or "512MiB".
func size(p *api.Bytes) func(cty.Value) error {
	return func(v cty.Value) (err error) {
		if v.Type() == cty.String {
			*p, err = api.ParseBytes(v.AsString())
			return err
		}
		n, err := whole(v, 0, math.MaxInt64)
		if err != nil {
			return fmt.Errorf("want a size such as \"512MiB\", or a number of bytes")
		}
		*p = api.Bytes(n)
		return nil
	}
}

// cores reads cores and parts of cores: 1.5.
func cores(p *api.MilliCPU) func(cty.Value) error {
	return func(v cty.Value) error {
		if v.Type() != cty.Number {
			return fmt.Errorf("want a number of cores such as 1.5, got %s", kindOf(v))
		}
		f, _ := new(big.Float).Mul(v.AsBigFloat(), big.NewFloat(1000)).Float64()
		n := math.Round(f)
		if math.Abs(f-n) > 1e-6 || n < 0 || n > math.MaxInt32 {
			return fmt.Errorf("want a number of cores with at most three decimals")
		}
		*p = api.MilliCPU(n)
		return nil
	}
}

func duration(p *api.Duration) func(cty.Value) error {
	return func(v cty.Value) error {
		var s string
		if err := text(&s)(v); err != nil {
			return fmt.Errorf("want a duration such as \"30s\", got %s", kindOf(v))
		}
		x, err := time.ParseDuration(s)
		if err != nil {
			return fmt.Errorf("%q is not a duration such as \"30s\" or \"5m\"", clip(s, 32))
		}
		*p = api.Duration(x)
		return nil
	}
}

func texts(p *[]string) func(cty.Value) error {
	return func(v cty.Value) error {
		if !v.Type().IsTupleType() && !v.Type().IsListType() {
			return fmt.Errorf("want a list of texts, got %s", kindOf(v))
		}
		for _, e := range v.Elements() {
			var s string
			if e.IsNull() {
				return fmt.Errorf("want a list of texts, got null in it")
			}
			if err := text(&s)(e); err != nil {
				return fmt.Errorf("in the list: %w", err)
			}
			*p = append(*p, s)
		}
		return nil
	}
}

func pairs(p *api.Pairs) func(cty.Value) error {
	return func(v cty.Value) error {
		if !v.Type().IsObjectType() && !v.Type().IsMapType() {
			return fmt.Errorf("want { key = \"value\" }, got %s", kindOf(v))
		}
		for k, e := range v.Elements() {
			var s string
			if e.IsNull() {
				return fmt.Errorf("%q has no value", clip(k.AsString(), 64))
			}
			if err := scalar(&s)(e); err != nil {
				return fmt.Errorf("%q: %w", clip(k.AsString(), 64), err)
			}
			*p = p.Set(k.AsString(), s)
		}
		return nil
	}
}

func kindOf(v cty.Value) string {
	switch t := v.Type(); {
	case t == cty.String:
		return "text"
	case t == cty.Number:
		return "a number"
	case t == cty.Bool:
		return "true or false"
	case t.IsTupleType() || t.IsListType():
		return "a list"
	default:
		return "an object"
	}
}
