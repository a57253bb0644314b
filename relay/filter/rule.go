package filter

import (
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// ForTopics makes one rule of those of several topics; nil where a topic has
// none. It is nil if none has one.
func ForTopics(topics []string, rules []*Rule) *Rule {
	var conjuncts []ast.Expr
	for i, r := range rules {
		if r == nil || slices.Index(rules, r) < i {
			continue
		}
		var of []string
		for j, other := range rules {
			if other == r {
				of = append(of, topics[j])
			}
		}
		if len(of) == len(topics) {
			return r
		}
		elsewhere := exprs.NewCall(0, operators.LogicalNot, in(exprs.NewIdent(0, "topic"), textList(of)))
		conjuncts = append(conjuncts, exprs.NewCall(0, operators.LogicalOr, elsewhere, r.expr))
	}
	if len(conjuncts) == 0 {
		return nil
	}
	all := conjuncts[0]
	for _, c := range conjuncts[1:] {
		all = exprs.NewCall(0, operators.LogicalAnd, all, c)
	}
	return &Rule{all}
}

// Reads returns what the rule looks at of a variable: wherever it names it, the
// names of members that follow, as far as the rule says them. No names mean all
// of it.
func (r *Rule) Reads(variable string) (paths [][]string) {
	inner := make(map[int64]bool) // expressions that are part of a path
	ast.PreOrderVisit(r.expr, ast.NewExprVisitor(func(e ast.Expr) {
		if inner[e.ID()] {
			return
		}
		if names, _, ok := membersOf(e, variable, inner); ok {
			paths = append(paths, names)
		}
	}))
	return paths
}

// membersOf reads value.a["b"]. known says that all of it was.
func membersOf(e ast.Expr, variable string, inner map[int64]bool) (names []string, known, ok bool) {
	var of, name ast.Expr
	switch {
	case e.Kind() == ast.IdentKind:
		return nil, true, strings.TrimPrefix(e.AsIdent(), ".") == variable
	case e.Kind() == ast.SelectKind:
		of = e.AsSelect().Operand()
	case isCall(e, operators.Index):
		of, name = e.AsCall().Args()[0], e.AsCall().Args()[1]
	default:
		return nil, false, false
	}
	if names, known, ok = membersOf(of, variable, inner); !ok {
		return nil, false, false
	}
	inner[of.ID()] = true
	switch {
	case !known:
	case name == nil:
		return append(names, e.AsSelect().FieldName()), true, true
	case name.Kind() == ast.LiteralKind:
		if text, isText := name.AsLiteral().(types.String); isText {
			return append(names, string(text)), true, true
		}
	}
	return names, false, true
}
