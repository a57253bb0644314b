package filter

import (
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// How tightly operators bind, from the loosest.
const (
	bindsChoice = iota
	bindsOr
	bindsAnd
	bindsRelation
	bindsSum
	bindsProduct
	bindsUnary
	bindsTightest
)

var binary = map[string]struct {
	sign  string
	binds int
}{
	operators.LogicalOr:  {" || ", bindsOr},
	operators.LogicalAnd: {" && ", bindsAnd},
	operators.Equals:     {" == ", bindsRelation},
	operators.NotEquals:  {" != ", bindsRelation},
	operators.Less:       {" < ", bindsRelation},
	operators.LessEquals: {" <= ", bindsRelation},
	operators.In:         {" in ", bindsRelation},
	operators.Add:        {" + ", bindsSum},
	operators.Subtract:   {" - ", bindsSum},
	operators.Multiply:   {" * ", bindsProduct},
	operators.Divide:     {" / ", bindsProduct},
	operators.Modulo:     {" % ", bindsProduct},
}

// text writes an expression of canonical form, with no parentheses but those
// without which it would be read as another.
func text(e ast.Expr) string { return string(appendText(nil, e, bindsChoice)) }

func appendText(dst []byte, e ast.Expr, within int) []byte {
	if binding(e) < within {
		dst = append(dst, '(')
		return append(appendText(dst, e, bindsChoice), ')')
	}
	switch e.Kind() {
	case ast.LiteralKind:
		return appendLiteral(dst, e.AsLiteral())
	case ast.IdentKind:
		return append(dst, e.AsIdent()...)
	case ast.SelectKind:
		s := e.AsSelect()
		dst = append(appendText(dst, s.Operand(), bindsTightest), '.')
		if isIdentifier(s.FieldName()) {
			return append(dst, s.FieldName()...)
		}
		dst = append(dst, '`')
		dst = append(dst, s.FieldName()...)
		return append(dst, '`')
	case ast.ListKind:
		dst = append(dst, '[')
		return append(appendTexts(dst, e.AsList().Elements()), ']')
	case ast.MapKind:
		dst = append(dst, '{')
		for i, entry := range e.AsMap().Entries() {
			if i > 0 {
				dst = append(dst, ", "...)
			}
			m := entry.AsMapEntry()
			dst = append(appendText(dst, m.Key(), bindsChoice), ": "...)
			dst = appendText(dst, m.Value(), bindsChoice)
		}
		return append(dst, '}')
	}
	return appendCall(dst, e.AsCall())
}

func appendTexts(dst []byte, list []ast.Expr) []byte {
	for i, e := range list {
		if i > 0 {
			dst = append(dst, ", "...)
		}
		dst = appendText(dst, e, bindsChoice)
	}
	return dst
}

func appendCall(dst []byte, call ast.CallExpr) []byte {
	name, args := call.FunctionName(), call.Args()
	if call.IsMemberFunction() {
		dst = append(appendText(dst, call.Target(), bindsTightest), '.')
		dst = append(append(dst, name...), '(')
		return append(appendTexts(dst, args), ')')
	}
	if op, ok := binary[name]; ok {
		dst = append(appendText(dst, args[0], op.binds), op.sign...)
		return appendText(dst, args[1], op.binds+1)
	}
	switch name {
	case operators.LogicalNot:
		return appendText(append(dst, '!'), args[0], bindsTightest)
	case operators.Negate:
		return appendText(append(dst, '-'), args[0], bindsTightest)
	case operators.Index:
		dst = append(appendText(dst, args[0], bindsTightest), '[')
		return append(appendText(dst, args[1], bindsChoice), ']')
	case operators.Conditional:
		dst = append(appendText(dst, args[0], bindsOr), " ? "...)
		dst = append(appendText(dst, args[1], bindsOr), " : "...)
		return appendText(dst, args[2], bindsChoice)
	}
	dst = append(append(dst, name...), '(')
	return append(appendTexts(dst, args), ')')
}

func binding(e ast.Expr) int {
	switch e.Kind() {
	case ast.LiteralKind:
		// A number would swallow the dot or the sign beside it.
		switch e.AsLiteral().(type) {
		case types.Int, types.Uint, types.Double:
			return bindsUnary
		}
	case ast.CallKind:
		call := e.AsCall()
		if call.IsMemberFunction() {
			break
		}
		if op, ok := binary[call.FunctionName()]; ok {
			return op.binds
		}
		switch call.FunctionName() {
		case operators.Conditional:
			return bindsChoice
		case operators.LogicalNot, operators.Negate:
			return bindsUnary
		}
	}
	return bindsTightest
}
