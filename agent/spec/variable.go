package spec

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"

	"github.com/novacron/novacron/api"
)

// pure is a function that a text may call, and how much longer its result can
// be than its arguments.
type pure struct {
	fn    function.Function
	grows int
}

// functions have no side effect and read nothing but their arguments.
var functions = map[string]pure{
	"upper":        {stdlib.UpperFunc, 3}, // some letters have longer capitals
	"lower":        {stdlib.LowerFunc, 3},
	"trimspace":    {stdlib.TrimSpaceFunc, 1},
	"format":       {formatFunc, 80},
	"join":         {joinFunc, 1},
	"base64encode": {base64Func, 2},
}

var functionNames = func() string {
	return strings.Join(keys(functions), ", ")
}()

func keys[T any](m map[string]T) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// formatFunc is like printf with %s, %d, %v, %q, %x, %t and %%; a width has at
// most two digits, so that a short text cannot make a long one.
var formatFunc = function.New(&function.Spec{
	Params:   []function.Parameter{{Name: "format", Type: cty.String}},
	VarParam: &function.Parameter{Name: "args", Type: cty.DynamicPseudoType, AllowNull: true},
	Type: func(args []cty.Value) (cty.Type, error) {
		if args[0].IsKnown() && !args[0].IsNull() {
			if err := checkFormat(args[0].AsString()); err != nil {
				return cty.NilType, function.NewArgError(0, err)
			}
		}
		return cty.String, nil
	},
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) { return stdlib.Format(args[0], args[1:]...) },
})

func checkFormat(s string) error {
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			continue
		}
		digits := 0
		for i++; i < len(s) && strings.IndexByte("-+# 0123456789", s[i]) >= 0; i++ {
			if s[i] >= '0' && s[i] <= '9' {
				digits++
			}
		}
		if i == len(s) || digits > 2 || strings.IndexByte("sdvqxt%", s[i]) < 0 {
			return errors.New("want the verbs s, d, v, q, x and t, with a width of at most two digits")
		}
	}
	return nil
}

// joinFunc joins the texts of one list.
var joinFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "separator", Type: cty.String}, {Name: "list", Type: cty.DynamicPseudoType}},
	Type: func(args []cty.Value) (cty.Type, error) {
		if t := args[1].Type(); !t.IsTupleType() && !t.IsListType() && t != cty.DynamicPseudoType {
			return cty.NilType, function.NewArgErrorf(1, "want a list")
		}
		// The bound of the result counts the separator once, so it is short.
		if args[0].IsKnown() && !args[0].IsNull() && len(args[0].AsString()) > 16 {
			return cty.NilType, function.NewArgErrorf(0, "want at most 16 bytes")
		}
		return cty.String, nil
	},
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		var parts []string
		for _, v := range args[1].Elements() {
			s, err := convert.Convert(v, cty.String)
			if err != nil || s.IsNull() {
				return cty.NilVal, function.NewArgErrorf(1, "want a list of texts")
			}
			parts = append(parts, s.AsString())
		}
		return cty.StringVal(strings.Join(parts, args[0].AsString())), nil
	},
})

var base64Func = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "text", Type: cty.String}},
	Type:   function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		return cty.StringVal(base64.StdEncoding.EncodeToString([]byte(args[0].AsString()))), nil
	},
})

// variables reads the variable blocks and what the caller gives for them.
func (d *decoder) variables(body *hclsyntax.Body, given api.Pairs) {
	d.eval = &hcl.EvalContext{Functions: map[string]function.Function{}}
	for name, f := range functions {
		d.eval.Functions[name] = f.fn
	}
	d.sizes = map[string]int{}
	values := map[string]cty.Value{}
	var names []string
	for _, b := range body.Blocks {
		if b.Type != "variable" {
			continue
		}
		if len(b.Labels) != 1 || !hclsyntax.ValidIdentifier(b.Labels[0]) {
			d.add(b.DefRange(), "variable", "a variable has one name: variable \"name\" { default = \"\" }")
			continue
		}
		name := b.Labels[0]
		if slices.Contains(names, name) {
			d.add(b.DefRange(), "variable."+name, "the variable is there twice")
			continue
		}
		names = append(names, name)
		d.prefix = "variable." + name + "."
		var def cty.Value
		before := len(d.found)
		f := d.fields(b.Body)
		f.attr("description", func(v cty.Value) error { return nil })
		f.attr("default", func(v cty.Value) error { def = v; return nil })
		f.done()
		d.prefix = ""
		text, ok := given.Get(name)
		switch {
		case ok:
			v, err := override(def, text)
			if err != nil {
				d.add(b.DefRange(), "variable."+name, "the value given is wrong: %v", err)
			}
			def = v
		case def == cty.NilVal && len(d.found) > before:
			def = cty.StringVal("") // what is wrong was said
		case def == cty.NilVal:
			d.add(b.DefRange(), "variable."+name, "the variable has neither a default nor a value")
			d.hint("give it with -var %s=...", name)
			def = cty.StringVal("")
		}
		values[name] = def
	}
	for name, v := range values {
		d.sizes[name] = sizeOf(v)
	}
	d.eval.Variables = map[string]cty.Value{"var": cty.ObjectVal(values)}
	for _, p := range given {
		if !slices.Contains(names, p.K) {
			d.add(hcl.Range{Start: hcl.InitialPos}, "variable."+clip(p.K, 64), "the text has no variable %q", clip(p.K, 64))
			d.suggest(p.K, names)
		}
	}
}

// override brings a text that was given into the type of the default.
func override(def cty.Value, text string) (cty.Value, error) {
	v := cty.StringVal(text)
	if def == cty.NilVal || def.IsNull() || def.Type() == cty.String {
		return v, nil
	}
	if !def.Type().IsPrimitiveType() {
		return v, fmt.Errorf("only texts, numbers and true or false can be given")
	}
	return convert.Convert(v, def.Type())
}
