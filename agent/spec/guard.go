package spec

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// Limits of a text, beside its size.
const (
	maxTokens  = 200_000
	maxNesting = 32      // brackets, blocks and templates in each other
	maxRun     = 16      // of unary operators
	maxTernary = 64      // in the whole text
	maxOps     = 512     // operators in the whole text
	budget     = 8 << 20 // bytes that all expressions together may make
	// maxMeld bounds, for all quoted texts and heredocs together, pieces times
	// bytes: the parser joins the pieces (lines, mostly) one by one, copying
	// what it has each time. It is enough for 256 KiB in 7,500 lines.
	maxMeld = 2_000_000_000
)

// bounded looks at the tokens of a text before the parser does: the parser
// recurses, and a stack that is full ends the process.
func (d *decoder) bounded(text []byte) bool {
	tokens, diags := hclsyntax.LexConfig(text, d.file, hcl.InitialPos)
	if len(tokens) > maxTokens {
		d.add(tokens[maxTokens].Range, "", "there are more than %d tokens", maxTokens)
		return false
	}
	depth, run, ternary, ops := 0, 0, 0, 0
	pieces, bytes, meld := 0, 0, 0
	for _, t := range tokens {
		unary := false
		switch t.Type {
		case hclsyntax.TokenOParen, hclsyntax.TokenOBrack, hclsyntax.TokenOBrace, hclsyntax.TokenTemplateInterp, hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc:
			depth++
		case hclsyntax.TokenCParen, hclsyntax.TokenCBrack, hclsyntax.TokenCBrace, hclsyntax.TokenTemplateSeqEnd, hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc:
			depth--
		case hclsyntax.TokenQuotedLit, hclsyntax.TokenStringLit:
			pieces, bytes = pieces+1, bytes+len(t.Bytes)
		case hclsyntax.TokenTemplateControl:
			d.add(t.Range, "", "template directives such as %%{if} are not allowed")
			d.hint("write %%%%{ for a literal %%{")
			return false
		case hclsyntax.TokenBang, hclsyntax.TokenMinus:
			unary = true
			ops++
		case hclsyntax.TokenPlus, hclsyntax.TokenStar, hclsyntax.TokenSlash, hclsyntax.TokenPercent, hclsyntax.TokenAnd, hclsyntax.TokenOr,
			hclsyntax.TokenEqualOp, hclsyntax.TokenNotEqual, hclsyntax.TokenLessThan, hclsyntax.TokenLessThanEq, hclsyntax.TokenGreaterThan, hclsyntax.TokenGreaterThanEq:
			ops++
		case hclsyntax.TokenQuestion:
			ternary++
		}
		if t.Type == hclsyntax.TokenCQuote || t.Type == hclsyntax.TokenCHeredoc || t.Type == hclsyntax.TokenEOF {
			meld += pieces * bytes
			pieces, bytes = 0, 0
		}
		if meld > maxMeld {
			d.add(t.Range, "", "the quoted texts have too many lines or pieces")
			d.hint("long user data can stand in user_data_base64")
			return false
		}
		if run++; !unary {
			run = 0
		}
		if depth > maxNesting || run > maxRun || ternary > maxTernary || ops > maxOps {
			d.add(t.Range, "", "the text is nested too deeply")
			return false
		}
	}
	d.syntax(diags)
	return len(d.found) == 0
}

// value checks what an expression is made of and how much it can make, and
// then evaluates it.
func (d *decoder) value(field string, e hclsyntax.Expression) (cty.Value, bool) {
	n, ok := d.size(field, e)
	if !ok {
		return cty.NilVal, false
	}
	if d.spent += n; d.spent > budget {
		d.add(e.Range(), field, "the expressions make more than %d bytes", budget)
		return cty.NilVal, false
	}
	v, diags := e.Value(d.eval)
	if diags.HasErrors() {
		for _, g := range diags {
			at := e.Range()
			if g.Subject != nil {
				at = *g.Subject
			}
			d.add(at, field, "%s: %s", g.Summary, g.Detail)
		}
		return cty.NilVal, false
	}
	if !v.IsWhollyKnown() || v.ContainsMarked() {
		d.add(e.Range(), field, "the value is not known")
		return cty.NilVal, false
	}
	return v, true
}

// size returns an upper bound of the bytes that an expression makes, counting
// also what it makes on the way. Only kinds of expressions that have such a
// bound are allowed: no loops, no splats.
func (d *decoder) size(field string, e hclsyntax.Expression) (int, bool) {
	sum := func(parts ...hclsyntax.Expression) (int, bool) {
		n, ok := 16, true
		for _, p := range parts {
			m, good := d.size(field, p)
			n, ok = min(n+m, 2*budget), ok && good
		}
		return n, ok
	}
	switch x := e.(type) {
	case *hclsyntax.LiteralValueExpr:
		return sizeOf(x.Val), true
	case *hclsyntax.TemplateExpr:
		n, ok := sum(x.Parts...)
		return n, ok
	case *hclsyntax.TemplateWrapExpr:
		return d.size(field, x.Wrapped)
	case *hclsyntax.ParenthesesExpr:
		return d.size(field, x.Expression)
	case *hclsyntax.ObjectConsKeyExpr:
		if hcl.ExprAsKeyword(x.Wrapped) != "" && !x.ForceNonLiteral {
			return len(hcl.ExprAsKeyword(x.Wrapped)), true
		}
		return d.size(field, x.Wrapped)
	case *hclsyntax.TupleConsExpr:
		return sum(x.Exprs...)
	case *hclsyntax.ObjectConsExpr:
		var parts []hclsyntax.Expression
		for _, it := range x.Items {
			parts = append(parts, it.KeyExpr, it.ValueExpr)
		}
		return sum(parts...)
	case *hclsyntax.ConditionalExpr:
		return sum(x.Condition, x.TrueResult, x.FalseResult)
	case *hclsyntax.UnaryOpExpr:
		return d.size(field, x.Val)
	case *hclsyntax.BinaryOpExpr:
		return sum(x.LHS, x.RHS)
	case *hclsyntax.ScopeTraversalExpr:
		return d.variable(field, x)
	case *hclsyntax.FunctionCallExpr:
		n, ok := sum(x.Args...)
		f, known := functions[x.Name]
		if !known {
			d.add(x.NameRange, field, "there is no function %q", x.Name)
			d.hint("there are %s", functionNames)
			return 0, false
		}
		if x.ExpandFinal {
			d.add(x.NameRange, field, "arguments are not expanded here")
			return 0, false
		}
		return min(n*f.grows, 2*budget), ok
	}
	d.add(e.Range(), field, "this kind of expression is not allowed")
	d.hint("allowed are values, templates, var.x, operators, conditions and the functions %s", functionNames)
	return 0, false
}

// variable checks a reference: var.name.
func (d *decoder) variable(field string, x *hclsyntax.ScopeTraversalExpr) (int, bool) {
	t := x.Traversal
	if len(t) == 2 && t.RootName() == "var" {
		if a, ok := t[1].(hcl.TraverseAttr); ok {
			n, known := d.sizes[a.Name]
			if !known {
				d.add(x.SrcRange, field, "there is no variable %q", a.Name)
				d.suggest(a.Name, keys(d.sizes))
			}
			return n, known
		}
	}
	d.add(x.SrcRange, field, "%q is not defined", clip(t.RootName(), 64))
	if len(t) == 1 {
		d.hint("texts stand in quotes")
	} else {
		d.hint("only variables can be used: var.name")
	}
	return 0, false
}

// sizeOf is a bound of what a value takes when it becomes text.
func sizeOf(v cty.Value) int {
	switch {
	case v.IsNull() || !v.IsKnown():
		return 16
	case v.Type() == cty.String:
		return len(v.AsString()) + 16
	case v.Type() == cty.Number:
		if exp := v.AsBigFloat().MantExp(nil); exp > 4096 || exp < -4096 {
			return 2 * budget // as text it would be thousands of digits
		}
		return 1500
	case v.CanIterateElements():
		n := 16
		for k, e := range v.Elements() {
			n = min(n+sizeOf(k)+sizeOf(e), 2*budget)
		}
		return n
	}
	return 16
}
